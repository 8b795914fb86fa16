"""Start llama-server in a container: from folders of a volume to a warm server."""

import hashlib
import http
import http.client
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import KEY_FORM
from .volume import is_complete
from .warmup import Request, warm_up

READY = "deployer: ready "
"""How the line begins that a container writes once its server has proven itself.

Whoever deployed reads it in the log of the platform: it says which version is up, which
an answer at an address that several versions share does not.
"""
_TASK = "MODAL_TASK_ID"
"""Variable with the id of the container; another one in a restored copy of it."""
_QUESTION = {
    "prompt": "The capital of France is",
    "n_predict": 12,
    "temperature": 0,
    "seed": 1,
    "cache_prompt": False,
}
"""Asked before a capture and after each restore: a GPU that came back wrong answers
otherwise, while /health touches none."""
_QUESTION_SECONDS = 60
_IDLE_GPU = 256
"""MiB; a llama-server that uses the GPU takes more."""
_REQUEST_SECONDS = 5
_RESTORE_SECONDS = 30
_WITHOUT_SNAPSHOT = 222
_GRACE = 10


@dataclass(frozen=True)
class Program:
    """A llama-server: where its files are, and how it is started."""

    build: Path
    """Folder with `bin/`, `templates/` and the file that makes it count."""
    weights: Path
    """The same of the model; the command names the file in it."""
    home: Path
    """Folder on local disk for binary, libraries, templates and key."""
    command: Sequence[str]
    """The whole command line; program and key file are in `home`."""
    port: int
    seconds: float
    """From the start to the end of the warm-up."""
    key_variables: Sequence[str] = ()
    """Environment variables with the keys that clients send."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables that the stack gives it."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Further ones, by the variables of the container with their values."""
    warmup: Sequence[Request] = ()
    files: Path = Path()
    """Folder of the files that requests name."""
    gpu: bool = False
    """An idle GPU is an error."""
    captures: bool = False
    """The memory is captured after the start, and `check` comes after a restore."""
    beside: Sequence[Path] = ()
    """Folders of the weights beside the model, such as a draft."""
    server: str = ""
    """The beginning of the key of the server."""
    run: str = ""
    """The same of what was proven together."""


@dataclass(frozen=True)
class Running:
    """A llama-server that was started, and what it has to be like after a restore."""

    process: "subprocess.Popen[bytes]"
    task: str
    """The container that it was started in."""
    answer: str | None = None
    """Its answer to the question; None where it was not asked, or does not say."""
    key: str = ""
    """Digest of the API keys and secrets that it was started with."""


@dataclass(frozen=True)
class Ready:
    """One container whose server is ready."""

    server: str
    """The beginning of the key of the server."""
    run: str
    """The same of what the gates prove."""
    task: str
    restored: bool
    """It came from a snapshot that another container had taken."""


def start(program: Program) -> Running:
    """Start llama-server, and return it once it is healthy and warm."""
    place(program)
    argv = with_template(program.command, program.home / "templates")
    print("starting", shlex.join(redacted(argv)), flush=True)
    process = subprocess.Popen(
        argv, env=environment(os.environ, program), stdin=subprocess.DEVNULL
    )
    try:
        wait_healthy(process, program.port, program.seconds)
        # It was read; what is not there cannot leak.
        key_file(program).unlink(missing_ok=True)
        begun = time.monotonic()
        warm_up(lambda *asked: post(program, *asked), program.warmup, program.files)
        if program.warmup:
            print(f"the warm-up took {time.monotonic() - begun:.2f} s", flush=True)
        report_memory(process.pid, gpu=program.gpu)
        answer = greedy(program, _QUESTION_SECONDS) if program.captures else None
    except BaseException:
        process.kill()
        raise
    if not program.captures:
        say_ready(program, restored=False)
    return Running(process, os.environ.get(_TASK, ""), answer, digest_of_key(program))


def check(server: Running, program: Program) -> None:
    """After a capture or a restore: be sure that the server is the one it was.

    Where it is not, the process ends with the code that tells Modal to start again
    without the snapshot.
    """
    try:
        prove(server, program)
    except (RuntimeError, OSError) as error:
        print(f"the restored server is not usable: {error}", flush=True)
        sys.stderr.flush()
        os._exit(_WITHOUT_SNAPSHOT)
    print("llama-server is ready", flush=True)
    say_ready(program, restored=os.environ.get(_TASK, "") != server.task)


def prove(server: Running, program: Program) -> None:
    """Ask the server what it was asked before its memory was captured.

    Raises RuntimeError where it is another one, OSError where no whole answer comes.
    """
    wait_healthy(server.process, program.port, _RESTORE_SECONDS)
    if digest_of_key(program) != server.key:
        raise RuntimeError(
            "the API key or a secret was changed since the memory was captured"
        )
    if server.answer is None:
        return
    if greedy(program, _RESTORE_SECONDS) != server.answer:
        raise RuntimeError("its answer differs from the one before the capture")


def greedy(program: Program, seconds: float) -> str | None:
    """Return a short answer in which nothing is left to chance.

    None where this server does not answer such questions, as one for embeddings.
    Raises OSError where no whole answer comes in time.
    """
    status, said = post(program, "/completion", _QUESTION, seconds)
    text = said.get("content") if isinstance(said, dict) else None
    if status != http.HTTPStatus.OK or not isinstance(text, str):
        print(f"no answer to compare after a restore: HTTP {status}", flush=True)
        return None
    return text


def say_ready(program: Program, *, restored: bool) -> None:
    """Print the line that says which server is ready, and where."""
    task = os.environ.get(_TASK, "")
    said = asdict(Ready(program.server, program.run, task, restored))
    print(f"{READY}{json.dumps(said)}", flush=True)


def ready_of(line: str) -> Ready | None:
    """Return what a line says; None where it is another one."""
    if not line.startswith(READY):
        return None
    try:
        said = json.loads(line.removeprefix(READY))
        return Ready(
            str(said["server"]),
            str(said["run"]),
            str(said["task"]),
            said["restored"] is True,
        )
    except (ValueError, KeyError, TypeError):
        return None


def digest_of_key(program: Program) -> str:
    """Return a digest of the API keys and secrets as the environment has them now."""
    if not (names := (*program.key_variables, *program.secrets.values())):
        return ""
    keys = "\n".join(os.environ[name] for name in names)
    return hashlib.sha256(keys.encode()).hexdigest()


def try_options(program: Program) -> None:
    """Let llama-server read its options without loading a model.

    With ``--version`` last it reads them from left to right and names the first that
    it does not take.
    """
    place(program)
    argv = with_template(program.command, program.home / "templates")
    seen = environment(os.environ, program)
    subprocess.run([*argv, "--version"], env=seen, check=True)


def stop(server: Running) -> None:
    """End the server; it may be in the middle of an answer nobody waits for."""
    server.process.terminate()
    try:
        server.process.wait(timeout=_GRACE)
    except subprocess.TimeoutExpired:
        server.process.kill()


def place(program: Program) -> None:
    """Put binary, libraries, templates and key on local disk.

    No file of the volume may be open when the memory is captured: a restore fails
    when it does not find such a file as it was.
    """
    for artefact in (program.build, program.weights, *program.beside):
        if not is_complete(artefact):
            raise FileNotFoundError(
                f"{artefact} is not on its Volume, or not complete: "
                "run `deployer apply --refresh`, which makes what is missing"
            )
    shutil.copytree(program.build, program.home, dirs_exist_ok=True)
    for name in program.key_variables:
        if not re.fullmatch(KEY_FORM, os.environ[name]):
            raise ValueError(
                f"the API key in {name} cannot be used: it is empty, begins with `#`,"
                " or contains a comma, a blank or what is not printable ASCII"
            )
    if program.key_variables:
        # A file that only we can read: command lines are seen in logs and by `ps`.
        file = key_file(program)
        file.unlink(missing_ok=True)
        file.touch(mode=0o600)
        file.write_text("".join(f"{os.environ[it]}\n" for it in program.key_variables))


def key_file(program: Program) -> Path:
    """Return the file that llama-server reads its keys from; gone once it has."""
    return program.home / "api-key"


def with_template(argv: Sequence[str], templates: Path) -> list[str]:
    """Return the command line with a template kept beside the build as a file.

    A name that is not among them is one that is built into llama-server.
    """
    words = list(argv)
    if "--chat-template" in words:
        at = words.index("--chat-template")
        name = words[at + 1]
        file = templates / f"{name}.jinja"
        if "/" not in name and file.is_file():
            words[at : at + 2] = ["--chat-template-file", str(file)]
    return words


def environment(given: Mapping[str, str], program: Program) -> dict[str, str]:
    """Return what llama-server may see: no LLAMA_* options, no secret but its own."""
    kept = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
    found = {
        name: value
        for name, value in given.items()
        if name in kept or name.startswith("NVIDIA_")
    }
    # Newer builds read a configuration file; the stack is all that decides.
    config = str(program.home / "config")
    secrets = {name: given[it] for name, it in program.secrets.items()}
    return {**found, **program.variables, **secrets, "XDG_CONFIG_HOME": config}


def redacted(argv: Sequence[str]) -> list[str]:
    """Return the command line without the values of options for keys and tokens."""
    shown = []
    hide = False
    for word in argv:
        shown.append("***" if hide else word)
        parts = word.strip("-").split("-") if word.startswith("--") else []
        hide = any(it in parts for it in ("key", "token", "password"))
        hide = hide and "file" not in parts
    return shown


def wait_healthy(server: "subprocess.Popen[bytes]", port: int, seconds: float) -> None:
    """Wait until /health is 200: the port is open long before the model is loaded.

    Raises TimeoutError after so many seconds, RuntimeError where the server ended.
    """
    deadline = time.monotonic() + seconds
    while not is_healthy(port):
        try:
            # A pause that ends at once when the process does.
            code = server.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"llama-server is not healthy after {seconds:g} s"
                ) from None
        else:
            raise RuntimeError(
                f"llama-server ended with {code} before it was healthy; "
                "its last words are above"
            )


def is_healthy(port: int) -> bool:
    """Return whether llama-server answers that it is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_REQUEST_SECONDS)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def post(
    program: Program, path: str, body: Mapping[str, Any], seconds: float
) -> tuple[int, Any]:
    """Send a request with the key; return its status and what it answered.

    Raises OSError where no whole answer comes in time.
    """
    headers = {"Content-Type": "application/json"}
    if program.key_variables:
        headers["Authorization"] = f"Bearer {os.environ[program.key_variables[0]]}"
    connection = http.client.HTTPConnection("127.0.0.1", program.port, timeout=seconds)
    try:
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except (http.client.HTTPException, ValueError) as error:
        raise ConnectionError(f"no whole answer: {error}") from error
    finally:
        connection.close()


def report_memory(pid: int, *, gpu: bool) -> None:
    """Print how much memory is used; raises RuntimeError for a GPU that is idle."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(("VmRSS", "VmHWM")):
            print("llama-server", " ".join(line.split()), flush=True)
    if not gpu:
        return
    program = shutil.which("nvidia-smi")
    if program is None:
        print("there is no nvidia-smi: GPU memory is not checked", flush=True)
        return
    query = [program, "--query-gpu=name,memory.used,memory.total"]
    query += ["--format=csv,noheader,nounits"]
    said = subprocess.run(query, capture_output=True, text=True, check=True)
    used = 0
    for line in said.stdout.splitlines():
        name, taken, total = line.rsplit(",", 2)
        used += int(taken)
        print(f"{name}: {int(taken)} of {int(total)} MiB used", flush=True)
    # llama-server falls back to the CPU without an error when CUDA does not load.
    if used < _IDLE_GPU:
        raise RuntimeError(f"llama-server does not use the GPU: {used} MiB are taken")
