"""What commands that only read start, import and print in a checkout full of traps."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployer.engines.place import Keys
from tests.security.harness import (
    STACK,
    Deployer,
    Listener,
    World,
    assert_harmless,
)
from tests.security.hostile import LOCK

pytestmark = pytest.mark.trust
STATES = Path(__file__).parents[1] / "state" / "forms"
PROGRAMS = (
    *("git", "cmake", "cc", "ninja", "ccache", "criu", "nvidia-smi", "unshare"),
    *("python", "python3", "pip", "modal", "sh", "uname", "ldd", "less", "ssh"),
)
MODULES = (
    *("sitecustomize.py", "usercustomize.py", "pip.py", "yaml/__init__.py"),
    *("dotenv.py", "click.py", "pydantic.py", "json.py", "hashlib.py", "modal.py"),
    *(".pythonrc", "conftest.py", "setup.py", "obstore.py", "llama_cpp.py"),
)
DOTENV = """\
DEPLOYER_CRIU=stacks/criu
DEPLOYER_STATE_URL=URL
DEPLOYER_ALLOW_OUTSIDE=/
DEPLOYER_HOME=stacks/home
PATH=stacks:.
LD_PRELOAD=stacks/evil.so
PYTHONPATH=stacks
PYTHONSTARTUP=.pythonrc
HF_ENDPOINT=URL
AWS_ENDPOINT=URL
AWS_ENDPOINT_URL=URL
PIP_INDEX_URL=URL
MODAL_SERVER_URL=URL
MODAL_CONFIG_PATH=stacks/modal.toml
http_proxy=URL
https_proxy=URL
GIT_SSH_COMMAND=stacks/ssh
GIT_EXTERNAL_DIFF=stacks/git
"""
GIT_CONFIG = """\
[core]
    repositoryformatversion = 0
    fsmonitor = TRAP
    hooksPath = TRAPS
    sshCommand = TRAP
    pager = TRAP
    askPass = TRAP
[diff]
    external = TRAP
[diff "evil"]
    command = TRAP
    textconv = TRAP
[filter "evil"]
    clean = TRAP
    smudge = TRAP
    process = TRAP
    required = true
[credential]
    helper = TRAP
[remote "origin"]
    url = ext::TRAP
    uploadpack = TRAP
[alias]
    diff = !TRAP
"""
COMMANDS = [
    line.split()
    for line in """\
validate
validate stacks --json
validate stacks/demo.yaml --no-cache
lock stacks/demo.yaml
plan stacks/demo.yaml
plan stacks/demo.yaml --locked --json
plan stacks/snap.yaml --no-cache
plan stacks --refresh --format markdown
plan stacks --changed-since HEAD
plan stacks --changed-since HEAD --format markdown --annotate
plan stacks/demo.yaml --out demo.plan
show demo.plan
show demo.plan --json
refresh stacks
render stacks/demo.yaml
render stacks/snap.yaml --json
render stacks/cloud.yaml
status stacks/old.yaml
history stacks/old.yaml
diff stacks/old.yaml 1 2
render stacks/old.yaml --client curl
logs stacks/old.yaml
metrics stacks/old.yaml
monitor dashboard stacks/old.yaml
flags b11434
flags b11434 ctx-size
fit stacks/demo.yaml
gguf stacks/tiny.gguf
gguf stacks/demo.yaml
state list stacks
state show stacks/old.yaml
state versions stacks/old.yaml
traps
doctor
doctor stacks/demo.yaml
doctor stacks/snap.yaml
doctor --logs stacks/server.log
schema
report --out page.html
report --json
patches check --tag b11434 --source pypi
store ls
store verify
upgrade stacks/demo.yaml
version
version --check
completion bash
--help
""".splitlines()
]


def full_of_traps(world: World) -> None:
    """Programs, modules and settings where a careless command would find them."""
    world.stack()
    world.stack(f"{STACK.replace('name: demo', 'name: snap')}snapshot: {{}}\n", "snap")
    world.stack(STACK.replace("name: demo", "name: old"), "old")
    cloud = STACK.replace("local: {port: 18080}", "modal: {}\ngpu: L4")
    cloud = cloud.replace("engine: local", "engine: modal")
    world.stack(cloud.replace("name: demo", "name: cloud"), "cloud")
    state = (STATES / "state-2.json").read_text().replace("demo", "old")
    world.write("stacks/.deployer/state/old.state.json", state)
    world.write("stacks/server.log", "srv  llama_server: security: \x1b[2J\u202e\n")
    for folder in ("", "stacks/", "patches/"):
        for program in PROGRAMS:
            world.trap(f"{folder}{program}")
        for module in MODULES:
            world.module(f"{folder}{module}")
        for name in (".env", "pip.conf", "modal.toml", "setup.cfg", ".gitconfig"):
            text = DOTENV.replace("URL", world.listener.url)
            world.write(f"{folder}{name}", text)
    repository(world)


def repository(world: World) -> None:
    """A commit of all, then settings and attributes that name programs."""
    shutil.rmtree(world.checkout / ".git")
    clean = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull}
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    git = shutil.which("git")
    assert git is not None
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "all")):
        command = [git, *who, *words]
        subprocess.run(command, cwd=world.checkout, env=clean, check=True)
    hook = world.trap(".git/hooks/post-index-change")
    text = GIT_CONFIG.replace("TRAPS", str(hook.parent)).replace("TRAP", str(hook))
    world.write(".git/config", text)
    world.write(".gitattributes", "* filter=evil diff=evil\n")
    world.stack(f"{STACK}# changed\n")


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trace") / "execve"


@pytest.fixture(scope="module")
def traced(trace: Path) -> Iterator[Deployer]:
    """The command line under a trace of the programs that start, where there is one."""
    strace = shutil.which("strace")
    words = ("-f", "-qq", "-e", "trace=execve,execveat", "-o", str(trace))
    deployer = Deployer() if strace is None else Deployer(strace, *words)
    yield deployer
    deployer.close()


def programs(trace: Path) -> list[str]:
    """The programs that really started."""
    if not trace.exists():
        return []
    text = trace.read_text(errors="replace")
    return re.findall(r'execve(?:at)?\((?:\d+, )?"([^"]*)".*\) = 0', text)


def test_no_read_command_starts_a_program_of_a_checkout(
    tmp_path: Path, traced: Deployer, trace: Path, shared: tuple[Deployer, Listener]
) -> None:
    world = World(tmp_path / "world", traced, shared[1])
    # As shells are often set up: an empty entry is the working directory.
    world.changes["PATH"] = f".:{os.environ['PATH']}::stacks:{world.checkout}"
    full_of_traps(world)
    codes = {}
    for words in COMMANDS:
        outcome = world.run(*words)
        assert_harmless(outcome)
        codes[" ".join(words)] = outcome.code
    started = programs(trace)
    inside = [name for name in started if Path(name).is_relative_to(tmp_path)]
    assert inside == []
    assert all(Path(name).is_absolute() for name in started), started
    worked = [words for words, code in codes.items() if code == 0]
    assert len(worked) > len(codes) / 2, codes
    assert codes["plan stacks --changed-since HEAD"] == 0


@pytest.mark.parametrize("words", [["--version"], ["plan", "stacks/snap.yaml"]])
@pytest.mark.parametrize(
    "command", [[sys.executable, "-m", "deployer"], [str(Path(sys.executable).parent)]]
)
def test_starting_deployer_in_a_checkout_imports_nothing_of_it(
    world: World, command: list[str], words: list[str]
) -> None:
    if len(command) == 1:
        command = [f"{command[0]}/deployer"]
    full_of_traps(world)
    done = subprocess.run(
        [*command, *words],
        cwd=world.checkout,
        env=world.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not world.ran.exists(), world.ran.read_text()


def test_no_variable_beside_a_stack_names_a_program(world: World) -> None:
    world.stack()
    world.trap("stacks/evil.sh")
    world.write("stacks/.env", "DEPLOYER_CRIU=stacks/evil.sh\n")
    for command in ("validate", "lock", "plan", "render"):
        outcome = world.run(command, "stacks/demo.yaml")
        assert_harmless(outcome)
        assert outcome.code == 0, outcome.said


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_no_rendering_moves_the_cursor(world: World, form: tuple[str, ...]) -> None:
    name = "ti\u202eny\u0085\u2028.gguf"
    world.write(f"stacks/{name}", b"GGUF\x03\0\0\0" + bytes(100))
    world.stack(STACK.replace("tiny.gguf", r'"ti\u202eny\u0085\u2028.gguf"'))
    outcome = world.run("render", "stacks/demo.yaml", *form)
    assert_harmless(outcome)
    assert outcome.code == 0
    assert r"ti\u202eny" in outcome.out


@pytest.mark.parametrize(
    ("tag", "layers", "code"),
    [("9" * 5000, 2, 3), ("11434", "x", 0), ("11434", 10**12, 0), ("11434", None, 0)],
)
def test_a_bad_stack_ends_no_other(
    world: World, tag: str, layers: object, code: int
) -> None:
    """What the lock file says of a header is not believed where it cannot be true."""
    world.stack(STACK.replace("b11434", f"b{tag}"), "a-bad")
    world.stack(STACK.replace("name: demo", "name: good"), "good")
    assert world.run("lock", "stacks/good.yaml").code == 0
    lock = json.loads((world.checkout / "stacks/good.lock.json").read_text())
    model = json.loads(LOCK)["weights"]["about"]["gguf"]["model"]
    lock["weights"]["about"]["gguf"] = {"model": {**model, "block_count": layers}}
    lock["stack"] = "a-bad"
    world.write("stacks/a-bad.lock.json", json.dumps(lock))
    for words in (("plan", "stacks"), ("plan", "stacks", "--format", "markdown")):
        outcome = world.run(*words)
        assert_harmless(outcome)
        assert outcome.code == code
        assert "good on local" in outcome.out or "good" in outcome.out
        assert ("stacks/a-bad.yaml:4:13: error: " in outcome.err) == bool(code)


@pytest.mark.parametrize("place", ["stacks/demo.yaml", "stacks/demo.lock.json", ".env"])
def test_a_fifo_is_refused_and_not_waited_for(world: World, place: str) -> None:
    file = world.checkout / place
    world.stack()
    file.unlink(missing_ok=True)
    os.mkfifo(file)
    outcome = world.run("plan", "stacks/demo.yaml")
    assert_harmless(outcome)
    assert outcome.code == (0 if place == ".env" else 3)
    assert place == ".env" or "not a regular file" in outcome.err


def test_a_dotenv_names_no_other_variable(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=${OF_THE_JOB}\nB=b\nPATH=stacks\n")
    keys = Keys({"OF_THE_JOB": "secret", "B": ""}, tmp_path / ".env")
    assert keys.get("A") == "${OF_THE_JOB}"
    assert keys.get("B") == ""
    assert keys.get("C") is None
