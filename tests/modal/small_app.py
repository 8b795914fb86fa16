"""An app of a few lines, to see that the emulated platform does as Modal does."""

import os
import subprocess

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


@app.cls(image=image)
class Silent:
    """Never opens its port."""

    @modal.web_server(8080, startup_timeout=1)
    def serve(self) -> None:
        """Start something that does not listen."""
        subprocess.Popen(["sleep", "60"])
