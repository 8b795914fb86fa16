"""An app of a few lines, to see that the emulated platform does as Modal does."""

import os
import subprocess
import time

import modal

app = modal.App("small")
image = modal.Image.debian_slim(python_version="3.11").env({"FROM_IMAGE": "yes"})
volume = modal.Volume.from_name("small-volume", create_if_missing=True)
secret = modal.Secret.from_name("llama-api-key")


@app.function(image=image, volumes={"/data": volume}, secrets=[secret])
def look(count: int) -> dict[str, str]:
    """What a container sees."""
    with open("/data/count", "w") as stream:  # noqa: PTH123 - as short as can be
        stream.write(str(count))
    volume.commit()
    if count < 0:
        raise ValueError("less than nothing")
    return {"image": os.environ["FROM_IMAGE"], "key": os.environ["LLAMA_API_KEY"]}


@app.function(image=image, volumes={"/data": volume}, timeout=60)
def write_later(name: str, *, commit: bool) -> None:
    """Write a file, and publish it only where that is asked for."""
    with open(f"/data/{name}", "w") as stream:  # noqa: PTH123 - as short as can be
        stream.write("later")
    if commit:
        volume.commit()
    os.kill(os.getpid(), 9)  # nothing is committed on the way out


@app.function(image=image, volumes={"/data": volume})
def reload(name: str, *, hold: str = "") -> tuple[bool, bool]:
    """Whether a file is there before and after a reload, maybe with one open."""
    before = os.path.exists(f"/data/{name}")  # noqa: PTH110
    held = open(f"/data/{hold}") if hold else None  # noqa: PTH123, SIM115
    volume.reload()
    if held is not None:
        held.close()
    return before, os.path.exists(f"/data/{name}")  # noqa: PTH110


part = volume.with_mount_options(read_only=True, sub_path="/part")


@app.function(image=image, volumes={"/data": part})
def look_at_part() -> tuple[list[str], bool]:
    """What is seen of one folder, and whether it can be written."""
    try:
        open("/data/mine", "w").close()  # noqa: PTH123 - as short as can be
    except OSError:
        return sorted(os.listdir("/data")), False  # noqa: PTH208
    return sorted(os.listdir("/data")), True  # noqa: PTH208


@app.cls(image=image)
class Silent:
    """Never opens its port."""

    @modal.web_server(8080, startup_timeout=1)
    def serve(self) -> None:
        """Start something that does not listen."""
        subprocess.Popen(["sleep", "60"])


@app.cls(image=image, secrets=[secret], enable_memory_snapshot=True, scaledown_window=2)
class Asleep:
    """Compares what it sees with what it saw before its capture."""

    @modal.enter(snap=True)
    def capture(self) -> None:
        """What goes into the snapshot."""
        self.key = os.environ["LLAMA_API_KEY"]
        self.clocks = (time.time(), time.monotonic())

    @modal.method()
    def look(self) -> tuple[str, str, list[float]]:
        """The key of then and of now, and how far each clock went."""
        now = (time.time(), time.monotonic())
        gone = [after - before for before, after in zip(self.clocks, now, strict=True)]
        return self.key, os.environ["LLAMA_API_KEY"], gone


@app.function(image=image, timeout=1, startup_timeout=60)
def work(seconds: float) -> str:
    """Take so long."""
    time.sleep(seconds)
    return str(os.getpid())


@app.cls(image=image, startup_timeout=1, timeout=60)
class Slow:
    """Takes longer to start than it may."""

    @modal.enter()
    def start(self) -> None:
        """Start, as it were."""
        time.sleep(60)

    @modal.method()
    def look(self) -> None:
        """What is asked for."""
