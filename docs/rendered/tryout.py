"""One try of the server of gemma4-prod.

A class whose start fails is started again as long as a request waits for it, and
every start is billed.  So the very same start is tried here first, in a plain function
without retries, in a run that leaves nothing behind: `modal run tryout.py`.

Rendered from a stack by deployer; a change made here is lost.
"""

import os
import time
from pathlib import Path

import modal
from runtime import serve as llama
from runtime.serve import Program
from runtime.warmup import Request

APP = "gemma4-prod-tryout"
# What is served.  Builds and weights lie on the Volume under the hash of what they
# are made from: a path never gets another content, so a captured server finds what it
# was captured with, and a rollback needs no rebuild.
STACK = "gemma4-prod"
BUILD_KEY = "e8ea23c03c3e72dc98e22092227c5bbd94c3f8ebd195f24e0c4f949c6df31888"
WEIGHTS_KEY = "98a9defc1a19cededc35332302407f6f6c1618c80be652f26f394f8dea0b19c1"
# Stands for everything that was proven together: build, weights, options, GPU, image.
RUN_KEY = "e9236a3f4b53cdc8cef77f06ae782ed2613e642edf4de320364cb70bf8edd880"

STORE = Path("/store")
PORT = 8080
# The Modal secret of each key that clients may send, by the variable in it.
KEYS = {
    "LLAMA_API_KEY": "llama-api-key",
}
# From the start of the container to the end of the warm-up.  It is bounded because
# Modal starts a container that failed again as long as a request waits for one.
START_SECONDS = 360
HERE = Path(__file__).parent

# The command line, spelled as this build of llama.cpp understands it.
# Without memory mapping: a mapped file of the Volume would not survive a restore.
COMMAND = [
    "/opt/llama/bin/llama-server",
    *("--alias", "gemma-4-26b-a4b"),
    *("--ctx-size", "32768"),
    *("--parallel", "2"),
    *("--flash-attn", "on"),
    *("--load-mode", "none"),
    *("--cache-type-k", "q8_0"),
    *("--cache-type-v", "q8_0"),
    *("--ctx-checkpoints", "1"),
    "--metrics",
    *("--slot-prompt-similarity", "0.5"),
    *(
        "--model",
        "/store/weights/98a9defc1a19cededc35332302407f6f6c1618c80be652f26f394f8dea0b19c1/gemma-4-26B-A4B-it-UD-Q4_K_XL.gguf",
    ),
    *(
        "--mmproj",
        "/store/weights/98a9defc1a19cededc35332302407f6f6c1618c80be652f26f394f8dea0b19c1/mmproj-F16.gguf",
    ),
    *("--host", "0.0.0.0"),  # noqa: S104 - Modal connects from outside
    *("--port", "8080"),
    *("--api-key-file", "/opt/llama/api-key"),
]
PROGRAM = Program(
    build=STORE / "build" / BUILD_KEY,
    weights=STORE / "weights" / WEIGHTS_KEY,
    # On local disk: no file of the Volume is open when the memory is captured.
    home=Path("/opt/llama"),
    command=COMMAND,
    port=PORT,
    seconds=START_SECONDS,
    key_variables=list(KEYS),
    warmup=[
        Request(prompt="Hello"),
        Request(prompt="What colour?", image="cca5ae88e320259c.png"),
    ],
    files=Path("/opt/stack"),
    gpu=True,
    # Its containers say in the log that they are ready, and of which version they are.
    server="8707d3ad8ea0135d",
    run=RUN_KEY[:16],
)

# The recipe of Modal's own layers.  Another version makes another image of the same
# lines, and another image makes every snapshot obsolete.
os.environ["MODAL_IMAGE_BUILDER_VERSION"] = "2025.06"

# The runtime libraries of CUDA; the driver comes from Modal's host.
IMAGE = "nvidia/cuda:12.8.1-runtime-ubuntu24.04"
image = (
    modal.Image.from_registry(IMAGE, add_python="3.12")
    .entrypoint([])
    .add_local_dir(HERE / "runtime", "/root/runtime", ignore=["**/*.pyc"])
    .add_local_file(HERE / "cca5ae88e320259c.png", "/opt/stack/cca5ae88e320259c.png")
)
# Read-only, as a server cannot change what another one was captured with; and of each
# Volume the one folder that it needs.
build = modal.Volume.from_name("deployer-builds").with_mount_options(
    read_only=True, sub_path=f"/build/{BUILD_KEY}"
)
weights = modal.Volume.from_name("deployer-store").with_mount_options(
    read_only=True, sub_path=f"/weights/{WEIGHTS_KEY}"
)
# By name and never by value: a key is in no file, no state and no command line.
secrets = [
    modal.Secret.from_name(name, required_keys=[variable])
    for variable, name in KEYS.items()
]

app = modal.App(APP, tags={"deployer-stack": STACK, "deployer-run": RUN_KEY[:16]})


@app.function(
    image=image,
    gpu="L40S",
    cpu=4.0,
    memory=22528,
    volumes={str(PROGRAM.build): build, str(PROGRAM.weights): weights},
    secrets=secrets,
    # A little more than the start gives itself, so that its message is what is read.
    timeout=START_SECONDS + 60,
    startup_timeout=START_SECONDS + 60,
    retries=0,
    max_containers=1,
)
def tryout() -> dict[str, float]:
    """Start llama-server as the class will, stop it, and say how long it took."""
    called = time.monotonic()
    llama.try_options(PROGRAM)
    begun = time.monotonic()
    server = llama.start(PROGRAM)
    ready = time.monotonic()
    llama.stop(server)
    # What a start of the class does not do counts apart.
    beside = begun - called + time.monotonic() - ready
    return {"seconds": round(ready - begun, 1), "beside": round(beside, 1)}
