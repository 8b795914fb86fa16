"""Of each peer a small project in which nothing is left to do, and its command.

The command is the one that says so: a dry run, a check, a plan.  Whatever a peer has to
do once before is done here and not measured.
"""

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from benchmarks.peers import Installed
from benchmarks.processes import Command, MeasureError
from deployer.engines.local.ports import free_port

QUIET: Mapping[str, str] = {
    "ANSIBLE_LOCALHOST_WARNING": "0",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "CHECKPOINT_DISABLE": "1",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "SQLMESH__DISABLE_ANONYMIZED_ANALYTICS": "true",
}
"""Nothing is reported to anybody, and no log is written to a terminal."""

_STEP_SECONDS = 120
_START_SECONDS = 90
_TASKS = 5
_FILES = 20


@contextmanager
def nothing_to_do(peer: Installed, folder: Path) -> Iterator[Command]:
    """The command of a peer in its project, as long as the block lasts."""
    folder.mkdir(parents=True)
    (folder / "home").mkdir()
    with _PROJECTS[peer.peer.name](peer, folder) as command:
        yield command


def asking_for_help(peer: Installed, folder: Path) -> Command:
    """The command that says which version a peer is."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "home").mkdir(exist_ok=True)
    name = peer.peer.name
    if name == "Terraform":
        argv: tuple[str, ...] = (_terraform(peer), "-help")
    else:
        program = "ansible-playbook" if name == "Ansible" else name.lower()
        argv = (peer.program(program), "--help")
    return Command(name, argv, folder, variables(folder))


def variables(folder: Path) -> dict[str, str]:
    """The environment of a program: nothing of the user's, no proxy."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder / "home"),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        **QUIET,
    }


@contextmanager
def _pyinfra(peer: Installed, folder: Path) -> Iterator[Command]:
    (folder / "deploy.py").write_text(
        "from pyinfra.operations import files\n"
        "for number in range(6):\n"
        '    files.directory(name=f"folder {number}", path=f"made/{number}")\n'
    )
    program = peer.program("pyinfra")
    _do(folder, program, "-y", "@local", "deploy.py")
    argv = (program, "@local", "--dry", "deploy.py")
    yield _command(peer, folder, argv, note="`@local --dry`, 6 operations")


@contextmanager
def _ansible(peer: Installed, folder: Path) -> Iterator[Command]:
    tasks = "".join(
        f"    - {{name: t{n}, ansible.builtin.file: {{path: made/{n},"
        " state: directory}}\n"
        for n in range(_TASKS)
    )
    (folder / "play.yml").write_text(
        "- hosts: localhost\n  connection: local\n  gather_facts: false\n"
        f"  tasks:\n{tasks}"
    )
    (folder / "made").mkdir()
    python = f"ansible_python_interpreter={peer.program('python')}"
    argv = (
        *(peer.program("ansible-playbook"), "-i", "localhost,", "-e", python),
        "play.yml",
    )
    _do(folder, *argv)
    note = f"`ansible-playbook --check`, {_TASKS} tasks, local, no facts gathered"
    checking = (*argv, "--check")
    yield _command(peer, folder, checking, expects="changed=0", note=note)


@contextmanager
def _dvc(peer: Installed, folder: Path) -> Iterator[Command]:
    project, program = folder / "project", peer.program("dvc")
    (project / "in").mkdir(parents=True)
    for number in range(_FILES):
        (project / "in" / str(number)).write_text(f"{number}\n")
    (project / "dvc.yaml").write_text(
        "stages:\n"
        "  one: {cmd: cp -r in mid, deps: [in], outs: [mid]}\n"
        "  two: {cmd: cp -r mid end, deps: [mid], outs: [end]}\n"
    )
    _do(project, program, "init", "--no-scm", "-q", home=folder)
    _do(project, program, "repro", "-q", home=folder)
    note = f"`status`, 2 stages, {_FILES} files"
    command = _command(peer, folder, (program, "status"), note=note, below="project")
    yield command


@contextmanager
def _sqlmesh(peer: Installed, folder: Path) -> Iterator[Command]:
    program = peer.program("sqlmesh")
    _do(folder, program, "init", "duckdb")
    _do(folder, program, "plan", "--auto-apply", "--no-prompts")
    argv = (program, "plan", "--no-prompts")
    said = "No changes to plan"
    yield _command(peer, folder, argv, expects=said, note="`plan` of its example")


@contextmanager
def _chalice(peer: Installed, folder: Path) -> Iterator[Command]:
    program = peer.program("chalice")
    _do(folder, program, "new-project", "app")
    argv = (program, "package", "out")
    note = "`package`: what it would deploy, offline; it has no plan"
    yield _command(peer, folder, argv, note=note, below="app")


@contextmanager
def _terraform_plan(peer: Installed, folder: Path) -> Iterator[Command]:
    program, project = _terraform(peer), folder / "project"
    project.mkdir()
    (project / "main.tf").write_text('output "a" { value = "1" }\n')
    _do(project, program, "init", home=folder)
    _do(project, program, "apply", "-auto-approve", home=folder)
    argv = (program, "plan", "-no-color")
    note = "0.15 rc2 `plan`, one output and no provider; packed, logs a lot"
    said = "No changes"
    yield _command(peer, folder, argv, expects=said, note=note, below="project")


@contextmanager
def _modal(peer: Installed, folder: Path) -> Iterator[Command]:
    (folder / "app.py").write_text(
        "import modal\n\napp = modal.App('bench')\n\n\n"
        "@app.function()\ndef f(x: int = 1) -> int:\n    return x\n"
    )
    argv = (peer.program("modal"), "run", "app.py::f", "--help")
    note = "`run app.py::f --help`: it defines an app; it has no plan"
    yield _command(peer, folder, argv, note=note)


@contextmanager
def _dstack(peer: Installed, folder: Path) -> Iterator[Command]:
    port, program = free_port("127.0.0.1"), peer.program("dstack")
    argv = (program, "server", "-y", "--host", "127.0.0.1", "--port", str(port))
    with (
        (folder / "server.log").open("wb") as log,
        subprocess.Popen(
            argv, cwd=folder, env=variables(folder), stdout=log, stderr=log
        ) as server,
    ):
        try:
            _wait(f"http://127.0.0.1:{port}/healthcheck", server)
            note = (
                "`ps` with its server on this machine; `apply` wants a cloud account"
                " and asks an image registry"
            )
            yield _command(peer, folder, (program, "ps"), note=note)
        finally:
            server.terminate()
            with suppress(subprocess.TimeoutExpired):
                server.wait(timeout=10)
            server.kill()


_Project = Callable[[Installed, Path], AbstractContextManager[Command]]
_PROJECTS: Mapping[str, _Project] = {
    "Terraform": _terraform_plan,
    "pyinfra": _pyinfra,
    "chalice": _chalice,
    "DVC": _dvc,
    "modal": _modal,
    "dstack": _dstack,
    "SQLMesh": _sqlmesh,
    "Ansible": _ansible,
}


def _command(
    peer: Installed,
    folder: Path,
    argv: tuple[str, ...],
    *,
    note: str,
    expects: str = "",
    below: str = "",
) -> Command:
    where, env = folder / below, variables(folder)
    name = peer.peer.name
    return Command(name, argv, where, env, expects=expects, note=note)


def _terraform(peer: Installed) -> str:
    found = (peer.folder / "lib").rglob("terraform_0_15/terraform")
    program = next(found, None)
    if program is None:
        raise MeasureError("the package holds no `terraform`")
    program.chmod(0o755)
    return str(program)


def _do(folder: Path, *argv: str, home: Path | None = None) -> None:
    """A step on the way to a project in which nothing is left to do."""
    try:
        done = subprocess.run(
            argv,
            cwd=folder,
            env=variables(home or folder),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_STEP_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MeasureError(f"`{argv[1]}`: no end in {_STEP_SECONDS} s") from error
    if done.returncode:
        said = " ".join((done.stdout + done.stderr).split())[-300:]
        raise MeasureError(f"`{argv[1]}` ended with {done.returncode}: …{said}")


def _wait(url: str, server: "subprocess.Popen[bytes]") -> None:
    """Until it is healthy."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise MeasureError(f"its server ended with {server.returncode}")
        with suppress(OSError, ValueError), urllib.request.urlopen(url) as answer:  # noqa: S310 - on this machine
            if json.load(answer).get("status") == "running":
                return
        time.sleep(0.1)
    raise MeasureError(f"its server is not healthy within {_START_SECONDS} s")
