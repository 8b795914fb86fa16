"""Build and fetch for gemma4-prod.

Puts llama-server and its weights on a Volume.
Rendered from a stack by deployer, and deployed by it; a change made here is lost.
Both functions may be called again at any time: what is complete stays as it is, and
what was interrupted goes on where it stopped.
"""

# ruff: noqa: E501 - the lines of a patch are as long as they are

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import modal

APP = "gemma4-prod-builder"
STACK = "gemma4-prod"
STORE = Path("/store")
# The last file of a folder: without it the folder does not count.
COMPLETE = "complete.json"

# The recipe of Modal's own layers: another version makes another image.
os.environ["MODAL_IMAGE_BUILDER_VERSION"] = "2025.06"

app = modal.App(APP, tags={"deployer-stack": STACK})
store = modal.Volume.from_name("deployer-store", create_if_missing=True)


# --- llama-server ---------------------------------------------------------------------

# llama-server b9763, CUDA 12.8.1, sm_89
# The key is the hash of the source, the patches and all that follows: the folder of a
# key never gets another content.
BUILD_KEY = "66880e7ba6fc991f68d67414dab3b9ea4cc2fa1eb7263386973a4221032848e2"
REPO = "https://github.com/ggml-org/llama.cpp"
TAG = "b9763"
COMMIT = "d1d561fe4de617ecab8bbc764d153ba8d8a760e0"
# What cmake is told, the user's own last, so that they win.
DEFINITIONS = [
    "CMAKE_BUILD_TYPE=Release",
    "BUILD_SHARED_LIBS=ON",
    "CMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    "GGML_NATIVE=OFF",
    "LLAMA_BUILD_TESTS=OFF",
    "LLAMA_BUILD_EXAMPLES=OFF",
    "LLAMA_BUILD_SERVER=ON",
    "LLAMA_OPENSSL=OFF",
    "CMAKE_INSTALL_RPATH=$ORIGIN",
    "GGML_CCACHE=ON",
    "LLAMA_USE_PREBUILT_UI=OFF",
    "LLAMA_BUILD_UI=OFF",
    "GGML_CUDA=ON",
    "GGML_BACKEND_DL=ON",
    "CMAKE_EXE_LINKER_FLAGS=-Wl,--allow-shlib-undefined",
    "CMAKE_SHARED_LINKER_FLAGS=-Wl,--allow-shlib-undefined",
    "GGML_CUDA_NCCL=OFF",
    "CMAKE_CUDA_ARCHITECTURES=89",
    "LLAMA_BUILD_NUMBER=9763",
    "LLAMA_BUILD_COMMIT=d1d561fe4",
]


class Patch(NamedTuple):
    """A change to the source, as `git diff` writes it."""

    name: str
    sha256: str
    files: list[str]
    """What it must change."""
    marker: tuple[str, str] | None
    """Files, and a regular expression that one of them matches once it is in."""
    lines: list[str]


PATCHES: list[Patch] = [
    Patch(
        name="gemma4-thinking-tags",
        sha256="a50c8cb6877240891740c91632a262faf4dd6ed84f705540bcb454ac145414d9",
        files=["common/chat.cpp"],
        marker=(
            "common/**/*.cpp",
            'thinking_start_tag\\s+=\\s+"<\\|channel>thought',
        ),
        lines=[
            "--- a/common/chat.cpp\n",
            "+++ b/common/chat.cpp\n",
            "@@ -1085,4 +1085,6 @@\n",
            "     data.format            = COMMON_CHAT_FORMAT_PEG_GEMMA4;\n",
            "     data.supports_thinking = true;\n",
            '+    data.thinking_start_tag = "<|channel>thought";\n',
            '+    data.thinking_end_tag   = "<channel|>";\n',
            " \n",
            "     data.preserved_tokens = {\n",
            "@@ -1103,7 +1105,7 @@\n",
            " \n",
            "         if (extract_reasoning) {\n",
            '-            p.rule("thought", p.literal("<|channel>thought\\n") + p.reasoning(p.until("<channel|>")) + p.literal("<channel|>"));\n',
            '+            p.rule("thought", p.literal("<|channel>thought") + p.optional(p.literal("\\n")) + p.reasoning(p.until("<channel|>")) + p.literal("<channel|>"));\n',
            "         } else {\n",
            '-            p.rule("thought", p.content(p.literal("<|channel>thought\\n") + p.until("<channel|>") + p.literal("<channel|>")));\n',
            '+            p.rule("thought", p.content(p.literal("<|channel>thought") + p.optional(p.literal("\\n")) + p.until("<channel|>") + p.literal("<channel|>")));\n',
            "         }\n",
            " \n",
        ],
    ),
]

# With the CUDA toolkit; no GPU is needed to compile for one.
BUILD_IMAGE = "nvidia/cuda:12.8.1-devel-ubuntu24.04"
build_image = (
    modal.Image.from_registry(BUILD_IMAGE, add_python="3.12")
    .entrypoint([])
    .apt_install("build-essential", "ccache", "cmake", "git", "ninja-build")
)


@app.function(
    image=build_image,
    volumes={str(STORE): store},
    cpu=16,
    memory=16384,
    timeout=7200,
    retries=0,
    max_containers=1,
)
def build() -> dict[str, str]:
    """Compile llama-server, put it on the Volume, and return its version."""
    target = STORE / "build" / BUILD_KEY
    if (target / COMPLETE).is_file():
        print(f"{target} is complete already", flush=True)
        return about(target)
    # The same folder every time: ccache then knows what it compiled before.
    work = Path(tempfile.gettempdir()) / f"llama-{BUILD_KEY[:16]}"
    shutil.rmtree(work, ignore_errors=True)
    tree = work / "source"
    tree.mkdir(parents=True)
    fetch_source(tree)
    for patch in PATCHES:
        apply_patch(patch, tree)
    made = work / "build"
    definitions = [f"-D{definition}" for definition in DEFINITIONS]
    configure = ["cmake", "-S", str(tree), "-B", str(made), "-G", "Ninja"]
    run([*configure, *definitions], work)
    # As many compilers as there are cores here; the machine around has more.
    compile_all = ["cmake", "--build", str(made), "--parallel", "16"]
    run([*compile_all, "--target", "llama-server"], work)
    version = version_of(made / "bin" / "llama-server")
    with room():
        publish(made / "bin", tree / "models" / "templates", target, version)
    shutil.rmtree(work)
    return about(target)


def fetch_source(tree: Path) -> None:
    """Fill the folder with exactly the pinned source."""
    run(["git", "init", "--quiet"], tree)
    fetch_commit = ["git", "fetch", "--quiet", "--depth=1", "--no-tags", "--", REPO]
    try:
        run([*fetch_commit, COMMIT], tree)
    except RuntimeError:
        # Some servers hand out named commits only.
        run([*fetch_commit, TAG], tree)
    run(["git", "checkout", "--quiet", "--detach", "FETCH_HEAD"], tree)
    found = run(["git", "rev-parse", "HEAD"], tree).strip()
    if found != COMMIT:
        raise RuntimeError(f"{TAG} of {REPO} is {found}, and {COMMIT} was locked")


def apply_patch(patch: Patch, tree: Path) -> None:
    """Apply a patch without fuzz, and prove that it is in."""
    text = "".join(patch.lines).encode()
    if hashlib.sha256(text).hexdigest() != patch.sha256:
        raise RuntimeError(f"patch {patch.name} is not what was locked")
    file = tree.parent / f"{patch.name}.patch"
    file.write_bytes(text)
    before = [content(tree / name) for name in patch.files]
    run(["git", "apply", "--whitespace=nowarn", "-p1", str(file)], tree)
    after = [content(tree / name) for name in patch.files]
    # `git apply` may skip a file and still end well.
    for name, old, new in zip(patch.files, before, after, strict=True):
        if old == new:
            raise RuntimeError(f"patch {patch.name} left {name} unchanged")
    if patch.marker is not None:
        files, wanted = patch.marker
        found = (path for path in tree.glob(files) if path.is_file())
        texts = (path.read_text(errors="replace") for path in found)
        if not any(re.search(wanted, text, re.MULTILINE) for text in texts):
            raise RuntimeError(f"patch {patch.name} is in, and its marker is not")
    print(f"patch {patch.name} is in", flush=True)


def content(path: Path) -> bytes | None:
    """What a file holds; None where there is none."""
    return path.read_bytes() if path.is_file() else None


def publish(binaries: Path, templates: Path, target: Path, version: str) -> None:
    """Copy what was made to the Volume; the file that makes it count comes last."""
    # Another container may have finished the same build: its files are in use then.
    store.reload()
    if (target / COMPLETE).is_file():
        return
    (target / "bin").mkdir(parents=True, exist_ok=True)
    for file in [binaries / "llama-server", *sorted(binaries.glob("lib*.so*"))]:
        shutil.copy(file, target / "bin" / file.name)
    if templates.is_dir():
        (target / "templates").mkdir(exist_ok=True)
        for file in sorted(templates.glob("*.jinja")):
            shutil.copy(file, target / "templates" / file.name)
    complete(target, version)


def version_of(server: Path) -> str:
    """What llama-server says of itself; it also proves that it starts."""
    said = run([str(server), "--version"], server.parent).splitlines()
    return next(line for line in said if line.startswith("version:"))


def run(command: list[str], folder: Path) -> str:
    """Run a program; what it prints goes to the log, and is returned."""
    environment = {
        **os.environ,
        # Objects that were compiled before this container was ended are not lost.
        "CCACHE_DIR": str(STORE / "ccache"),
        "CCACHE_MAXSIZE": "5G",
        "CCACHE_MAXFILES": "20000",
        # The source alone decides: no settings of git, and no question to nobody.
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CEILING_DIRECTORIES": str(folder.parent),
    }
    print("$", " ".join(command), flush=True)
    said: deque[str] = deque(maxlen=1000)
    with subprocess.Popen(  # noqa: S603 - a list, and no shell
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            said.append(line)
    if process.returncode:
        last = "".join([*said][-40:])
        raise RuntimeError(f"`{command[0]}` ended with {process.returncode}:\n{last}")
    return "".join(said)


# --- weights --------------------------------------------------------------------------

# The key is the hash of the digests of the files.
WEIGHTS_KEY = "98a9defc1a19cededc35332302407f6f6c1618c80be652f26f394f8dea0b19c1"
HUB_REPO = "unsloth/gemma-4-26B-A4B-it-GGUF"
HUB_REVISION = "f1d7cfffac50153a41a030ae65ed00fe00cc0d7c"
SIZE = 18300000000


class File(NamedTuple):
    """A file of the weights."""

    path: str
    name: str
    """On the Volume."""
    sha256: str


FILES = [
    File(
        path="gemma-4-26B-A4B-it-UD-Q4_K_XL.gguf",
        name="gemma-4-26B-A4B-it-UD-Q4_K_XL.gguf",
        sha256="2842a06b51ed54c2e9b417354e6a528642c1968ee7f3e7bf789566f5c3c20b33",
    ),
    File(
        path="mmproj-F16.gguf",
        name="mmproj-F16.gguf",
        sha256="f1a9b381abe46dba950aa9e3fef6bda79e53f7434496a4747b07fc396f75be6c",
    ),
]

fetch_image = modal.Image.debian_slim(python_version="3.12").pip_install(
    "huggingface-hub==2.4.0"
)


@app.function(
    image=fetch_image,
    volumes={str(STORE): store},
    cpu=2,
    memory=4096,
    timeout=2430,
    retries=0,
    max_containers=1,
)
def fetch() -> dict[str, str]:
    """Put the pinned files on the Volume, each one verified."""
    target = STORE / "weights" / WEIGHTS_KEY
    if (target / COMPLETE).is_file():
        print(f"{target} is complete already", flush=True)
        return about(target)
    target.mkdir(parents=True, exist_ok=True)
    arriving = STORE / "arriving" / WEIGHTS_KEY
    arriving.mkdir(parents=True, exist_ok=True)
    with progress(target, arriving), room():
        for file in FILES:
            place = target / file.name
            if place.is_file() and sha256_of(place) == file.sha256:
                continue
            arrived = download(file, arriving)
            found = sha256_of(arrived)
            if found != file.sha256:
                arrived.unlink()
                raise RuntimeError(
                    f"{file.name} is not the pinned file: its sha256 is {found}"
                )
            arrived.replace(place)
            print(f"{file.name} is there and verified", flush=True)
            # What is there stays, also when a later file fails.
            store.commit()
    shutil.rmtree(arriving)
    complete(target, HUB_REVISION)
    return about(target)


def download(file: File, arriving: Path) -> Path:
    """Fetch a file; what an earlier run got of it is used."""
    # Bars that redraw themselves make a log unreadable; `progress` prints lines.
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    # Of this function's image alone, and it reads its settings when it is imported.
    from huggingface_hub import hf_hub_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    try:
        path = hf_hub_download(
            HUB_REPO, file.path, revision=HUB_REVISION, local_dir=arriving
        )
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 403, 404):
            raise
        raise RuntimeError(
            f"the hub does not hand out {HUB_REPO}: it is not there, private, or its "
            f"terms have to be accepted.  Accept them at https://huggingface.co/"
            f"{HUB_REPO}, then `modal secret create huggingface HF_TOKEN=…`, and write "
            "`hub_secret: huggingface` under `model:` of the stack."
        ) from error
    return Path(path)


@contextmanager
def progress(*folders: Path) -> Iterator[None]:
    """While a block runs, print every ten seconds how much has arrived."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(10):
            arrived = 0
            for path in (path for folder in folders for path in folder.rglob("*")):
                # A file may be moved to its place between the listing and the look.
                with suppress(FileNotFoundError):
                    arrived += path.stat().st_size
            print(f"{arrived / 1e9:.1f} GB of {(SIZE or 0) / 1e9:.1f} GB", flush=True)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


# --- both -----------------------------------------------------------------------------


@contextmanager
def room() -> Iterator[None]:
    """Say what to do where the Volume takes no more."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RuntimeError(
            "the Volume takes no more data, or no more files (500 000): "
            "`deployer store gc --engine modal` removes what no release needs"
        ) from error


def complete(target: Path, version: str) -> None:
    """Write down what a folder holds, and commit: from here on it counts."""
    files = {
        path.relative_to(target).as_posix(): path.stat().st_size
        for path in sorted(target.rglob("*"))
        if path.is_file()
    }
    text = json.dumps({"version": version, "files": files}, indent=2)
    (target / COMPLETE).write_text(text)
    store.commit()
    print(f"{target} is complete: {sum(files.values()) / 1e9:.2f} GB", flush=True)


def about(target: Path) -> dict[str, str]:
    """What deployer wants to know of a complete folder."""
    version = json.loads((target / COMPLETE).read_text())["version"]
    return {"path": str(target), "version": version}


def sha256_of(path: Path) -> str:
    """The digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
