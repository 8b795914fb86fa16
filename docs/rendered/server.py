"""App gemma4-prod: llama-server.

Rendered from a stack by deployer, and deployed by it; a change made here is lost.
Top to bottom: what is served, where it runs, how it starts.
"""

import base64
import http.client
import json
import mimetypes
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import modal

APP = "gemma4-prod"
# What is served.  Builds and weights lie on the Volume under the hash of what they
# are made from: a path never gets another content, so a captured server finds what it
# was captured with, and a rollback needs no rebuild.
STACK = "gemma4-prod"
BUILD_KEY = "66880e7ba6fc991f68d67414dab3b9ea4cc2fa1eb7263386973a4221032848e2"
WEIGHTS_KEY = "98a9defc1a19cededc35332302407f6f6c1618c80be652f26f394f8dea0b19c1"
# Stands for everything that was proven together: build, weights, options, GPU, image.
RUN_KEY = "0e3bafa774ce90eea7618d9e45fd035f3d5558fc63c04ba35bbd7769e598fccd"

STORE = Path("/store")
BUILD = STORE / "build" / BUILD_KEY
WEIGHTS = STORE / "weights" / WEIGHTS_KEY
MODEL = WEIGHTS / "gemma-4-26B-A4B-it-UD-Q4_K_XL.gguf"
MMPROJ = WEIGHTS / "mmproj-F16.gguf"

# The options of the stack, spelled as this build of llama.cpp understands them.
# Without memory mapping: a mapped file of the Volume would not survive a restore.
OPTIONS = [
    *("--alias", "gemma-4-26b-a4b"),
    *("--ctx-size", "32768"),
    *("--parallel", "2"),
    *("--flash-attn", "on"),
    "--no-mmap",
    *("--cache-type-k", "q8_0"),
    *("--cache-type-v", "q8_0"),
    *("--ctx-checkpoints", "1"),
    "--metrics",
    *("--slot-prompt-similarity", "0.5"),
]

PORT = 8080
# The variable of the Modal secret that holds the key clients send.
KEY_VARIABLE = "LLAMA_API_KEY"
# Another key would leave the server open: llama-server skips empty lines of its file
# and lines that begin with `#`.
KEY_FORM = "(?!#)[!-+\\--~]+"
# From the start of the container to the end of the warm-up.  It is bounded because
# Modal starts a container that failed again as long as a request waits for one.
START_SECONDS = 360

HERE = Path(__file__).parent
ASSETS = Path("/opt/stack")
# The recipe of Modal's own layers.  Another version makes another image of the same
# lines, and another image makes every snapshot obsolete.
os.environ["MODAL_IMAGE_BUILDER_VERSION"] = "2025.06"

# The runtime libraries of CUDA; the driver comes from Modal's host.
IMAGE = "nvidia/cuda:12.8.1-runtime-ubuntu24.04"
image = (
    modal.Image.from_registry(IMAGE, add_python="3.12")
    .entrypoint([])
    .apt_install("libgomp1")
    .add_local_file(HERE / "cca5ae88e320259c.png", "/opt/stack/cca5ae88e320259c.png")
)
# Read-only: a server cannot change what another one was captured with.
store = modal.Volume.from_name("deployer-store").with_mount_options(read_only=True)
# By name and never by value: the key is in no file, no state and no command line.
secret = modal.Secret.from_name(
    "llama-api-key",
    required_keys=[KEY_VARIABLE],
)

app = modal.App(
    APP,
    tags={
        "deployer-stack": STACK,
        "deployer-build": BUILD_KEY[:16],
        "deployer-weights": WEIGHTS_KEY[:16],
        "deployer-run": RUN_KEY[:16],
        "deployer-server": "b39c9aa4164976a5",
    },
)


@app.cls(
    image=image,
    gpu="L40S",
    cpu=4.0,
    memory=22528,
    volumes={str(STORE): store},
    secrets=[secret],
    min_containers=0,
    max_containers=4,
    scaledown_window=300,
    timeout=3600,
    # A little more than `start` gives itself, so that its message is what is read.
    startup_timeout=START_SECONDS + 60,
    enable_memory_snapshot=True,
    experimental_options={"enable_gpu_snapshot": True},
)
# As many requests at a time as llama-server has slots: more would wait in it without
# being served any sooner, while another container could be started for them.
@modal.concurrent(max_inputs=2)
class LlamaServer:
    """llama-server itself answers the port; there is no proxy of ours in between."""

    @modal.enter(snap=True)
    def start(self) -> None:
        """Start and warm the server; the memory is captured when this returns."""
        self.server = start_llama()

    @modal.enter(snap=False)
    def check(self) -> None:
        """After a restore: be sure that the server is there and answers."""
        try:
            wait_healthy(self.server, 30)
        except (RuntimeError, TimeoutError) as error:
            print(f"the restored server is not usable: {error}", flush=True)
            sys.stderr.flush()
            # The code that tells Modal to start anew without the snapshot.
            os._exit(222)
        print("llama-server is ready", flush=True)

    @modal.exit()
    def stop(self) -> None:
        """End the server; it may be in the middle of an answer nobody waits for."""
        self.server.terminate()
        try:
            self.server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.server.kill()

    @modal.web_server(
        PORT,
        # The port is open long before: `start` has waited until it is healthy.
        startup_timeout=30,
        label=APP,
    )
    def serve(self) -> None:
        """Modal forwards every request to the port; nothing to do here."""


def start_llama() -> subprocess.Popen[bytes]:
    """Start llama-server and return once it is healthy and warm."""
    home = Path(tempfile.mkdtemp(prefix="llama-"))
    argv = command(home)
    print("starting", shlex.join(redacted(argv)), flush=True)
    server = subprocess.Popen(  # noqa: S603 - a list, and no shell
        argv, env=environment(home), stdin=subprocess.DEVNULL
    )
    try:
        wait_healthy(server, START_SECONDS)
        # It was read; what is not there cannot leak.
        (home / "api-key").unlink()
        ask(
            "Hello",
            max_tokens=8,
        )
        ask(
            "What colour?",
            max_tokens=16,
            image=ASSETS / "cca5ae88e320259c.png",
        )
        report_memory(server)
    except BaseException:
        server.kill()
        raise
    return server


def command(home: Path) -> list[str]:
    """The command line; binary and key are put on local disk for it."""
    for artefact in (BUILD, WEIGHTS):
        if not (artefact / "complete.json").is_file():
            raise FileNotFoundError(
                f"{artefact} is not on the Volume, or not complete: "
                "run `deployer apply`, which makes what is missing"
            )
    # Copied, so that no file of the Volume is open when the memory is captured: a
    # restore fails when it does not find such a file as it was.
    binaries = home / "bin"
    shutil.copytree(BUILD / "bin", binaries)
    argv = [str(binaries / "llama-server"), *OPTIONS]
    argv += ["--model", str(MODEL)]
    argv += ["--mmproj", str(MMPROJ)]
    # Modal connects to the address of the container, not to the loopback.
    argv += ["--host", "0.0.0.0", "--port", str(PORT)]  # noqa: S104 - see above
    # A file that only we can read: command lines are seen in logs and by `ps`.
    key = os.environ[KEY_VARIABLE]
    if not re.fullmatch(KEY_FORM, key):
        raise ValueError(
            f"the API key in {KEY_VARIABLE} cannot be used: it is empty, begins with"
            " `#`, or holds a comma, a blank or what is not printable ASCII"
        )
    key_file = home / "api-key"
    key_file.touch(mode=0o600)
    key_file.write_text(key + "\n")
    argv += ["--api-key-file", str(key_file)]
    return argv


def environment(home: Path) -> dict[str, str]:
    """What llama-server may see: no LLAMA_* options, no token, no secret."""
    kept = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
    found = {
        name: value
        for name, value in os.environ.items()
        if name in kept or name.startswith("NVIDIA_")
    }
    # Newer builds read a configuration file; this stack is all that decides.
    return {**found, "XDG_CONFIG_HOME": str(home / "config")}


def redacted(argv: list[str]) -> list[str]:
    """The command line without the values of options for keys and tokens."""
    told = []
    hide = False
    for word in argv:
        told.append("***" if hide else word)
        parts = word.strip("-").split("-") if word.startswith("--") else []
        hide = any(it in parts for it in ("key", "token", "password"))
        hide = hide and "file" not in parts
    return told


def wait_healthy(server: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait until /health is 200: the port is open long before the model is loaded."""
    deadline = time.monotonic() + seconds
    while not healthy():
        try:
            # A pause that ends at once when the process does.
            code = server.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"llama-server is not healthy after {seconds} s"
                ) from None
        else:
            raise RuntimeError(
                f"llama-server ended with {code} before it was healthy; "
                "its last words are above"
            )


def healthy() -> bool:
    """Whether llama-server answers that it is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def ask(
    prompt: str,
    *,
    max_tokens: int,
    image: Path | None = None,
    seconds: float = 120,
) -> None:
    """Ask something, so that kernels and buffers are there when clients come."""
    content: list[dict[str, object]] = [{"type": "text", "text": prompt}]
    if image is not None:
        data = base64.b64encode(image.read_bytes()).decode()
        kind = mimetypes.guess_type(image.name)[0] or "image/png"
        url = f"data:{kind};base64,{data}"
        content.append({"type": "image_url", "image_url": {"url": url}})
    body = {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": max_tokens,
    }
    headers = {"Content-Type": "application/json"}
    headers["Authorization"] = f"Bearer {os.environ[KEY_VARIABLE]}"
    begun = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=seconds)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise RuntimeError(f"a warm-up request got {answer.status}: {text[:300]}")
    print(f"warm-up request took {time.monotonic() - begun:.2f} s", flush=True)


def report_memory(server: subprocess.Popen[bytes]) -> None:
    """Say how much memory is used; a GPU that is idle is an error."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    for line in status.splitlines():
        if line.startswith(("VmRSS", "VmHWM")):
            print("llama-server", " ".join(line.split()), flush=True)
    program = shutil.which("nvidia-smi")
    if program is None:
        print("there is no nvidia-smi: GPU memory is not checked", flush=True)
        return
    query = [program, "--query-gpu=name,memory.used,memory.total"]
    query += ["--format=csv,noheader,nounits"]
    said = subprocess.run(query, capture_output=True, text=True, check=True)  # noqa: S603
    used = 0
    for line in said.stdout.splitlines():
        name, taken, total = line.rsplit(",", 2)
        used += int(taken)
        print(f"{name}: {int(taken)} of {int(total)} MiB used", flush=True)
    # llama-server falls back to the CPU without an error when CUDA does not load.
    if used < 256:
        raise RuntimeError(f"llama-server does not use the GPU: {used} MiB are taken")
