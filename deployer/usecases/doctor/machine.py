"""What builds, fetches and deploys need of a machine; its store, and the port."""

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from deployer.errors import DeployerError
from deployer.stack.fields.model import Stack
from deployer.stack.fields.units import show_bytes
from deployer.system.children import find_program
from deployer.usecases.context.settings import Settings
from deployer.usecases.doctor.finding import Finding, Grade, Remedy, fine, wrong

CONFIG = Path("/etc/llama.cpp/config.ini")
_CONFIG_SINCE = 10241
"""First build that may read it (b10240 does not, b10435 does)."""

_LOW = 5 * 10**9
_EMPTY = 10**9
_OLD = 3600.0
"""Seconds after which a download that nothing is written to was interrupted."""


def programs(stack: Stack | None, settings: Settings) -> Iterator[Finding]:
    """Yield what a build from source needs; without a stack, what any would."""
    from deployer.llama.build.toolchain import find_toolchain  # noqa: PLC0415 - only here

    wanted = stack.llama_cpp if stack is not None else None
    ready = wanted is not None and (
        wanted.package or wanted.binary or wanted.source == "release"
    )
    if ready or (stack is not None and stack.engine != "local"):
        return
    grade = Grade.WARNING if stack is None else Grade.ERROR
    try:
        cuda = wanted.cuda if wanted is not None else None
        found = find_toolchain(settings.environment, cuda=cuda)
    except DeployerError as error:
        yield Finding("machine", grade, error.message, error.hint)
    else:
        parts = f"cmake, a compiler, {found.generator}"
        yield fine("machine", f"{parts}{', ccache' if found.ccache else ''}")
        for note in found.notes:
            yield Finding("machine", Grade.NOTE, note)
    if find_program("git", settings.environment) is None:
        what = "there is no `git`: sources cannot be cloned, patches not applied"
        hint = "apt install git, or brew install git"
        yield Finding("machine", grade, what, hint)
    else:
        yield fine("machine", "git")


def extras(stack: Stack, settings: Settings) -> Iterator[Finding]:
    """Optional parts of deployer that the stack needs, and their tokens."""
    if stack.model.repo is not None:
        yield _extra("huggingface_hub", "hub", "fetching from the hub")
    if stack.engine == "modal":
        yield _extra("modal", "modal", "deploying on Modal")
        yield _modal_token(settings)


def _extra(module: str, extra: str, what_for: str) -> Finding:
    if find_spec(module) is not None:
        return fine("machine", module)
    what = f"`{module}` is not installed: {what_for} needs it"
    return Finding("machine", Grade.ERROR, what, f"pip install 'deployer[{extra}]'")


def _modal_token(settings: Settings) -> Finding:
    environment = settings.environment
    named = environment.get("MODAL_CONFIG_PATH")
    home = Path(environment.get("HOME") or Path.home())
    file = Path(named) if named else home / ".modal.toml"
    token = [environment.get(f"MODAL_TOKEN_{half}") for half in ("ID", "SECRET")]
    if all(token):
        return fine("machine", "Modal token, from the environment")
    if any(token):
        what = "only one of `MODAL_TOKEN_ID` and `MODAL_TOKEN_SECRET` is set"
        return Finding("machine", Grade.ERROR, what, "set both, or none of them")
    if file.is_file() and "token_id" in file.read_text(encoding="utf-8"):
        return fine("machine", f"Modal token, from {file}")
    what = "there is no Modal token"
    hint = "modal token new, or set `MODAL_TOKEN_ID` and `MODAL_TOKEN_SECRET`"
    return Finding("machine", Grade.ERROR, what, hint)


def freezing(stack: Stack | None, settings: Settings) -> Iterator[Finding]:
    """Whether this machine takes snapshots; an error where a stack insists on them."""
    from deployer.engines.local.snapshot import criu  # noqa: PLC0415 - only here

    wanted = stack.snapshot if stack is not None else None
    if stack is not None and (stack.engine != "local" or wanted is None):
        return
    enabled = "auto" if wanted is None else wanted.enabled
    if enabled is False:
        return
    found = criu.capability(settings.environment, settings.home)
    if found.works:
        yield fine("machine", f"CRIU {found.version}: snapshots work here")
        return
    grade = Grade.ERROR if enabled is True else Grade.NOTE
    yield Finding("machine", grade, f"no snapshots: {found.why}", found.hint)


def server_program(stack: Stack, file: Path) -> Iterator[Finding]:
    """Whether a llama-server that the stack names by path is one for this machine.

    It is not started: it may have come with a pull request.
    """
    from deployer.artefacts.sources.paths import check_binary, this_platform  # noqa: PLC0415 - only here

    if stack.llama_cpp.binary is None or stack.engine != "local":
        return
    path = file.parent / stack.llama_cpp.binary
    try:
        check_binary(path, here=this_platform())
        yield fine("machine", f"{path} is a program for this machine")
    except DeployerError as error:
        yield wrong("machine", error)


def surroundings(
    stack: Stack | None, build: int | None, settings: Settings, config: Path = CONFIG
) -> Iterator[Finding]:
    """Yield what changes a llama-server from outside of its stack."""
    reads = build is None or build >= _CONFIG_SINCE
    if config.exists() and reads and (stack is None or stack.engine == "local"):
        what = f"`{config}` is read by llama-server, and no stack shows what it sets"
        hint = f"move its lines into `server` of the stack, and remove {config}"
        yield Finding("machine", Grade.WARNING, what, hint)
    names = [n for n in settings.environment if n.startswith("LLAMA_ARG_")]
    if names:
        what = f"`{'`, `'.join(sorted(names))}` set options of llama-server"
        hint = "deployer starts servers without them: write them into the stack"
        yield Finding("machine", Grade.NOTE, what, hint)


def store(settings: Settings, *, now: float) -> Iterator[Finding]:
    """The artefact store: its entries, its room, what interrupted downloads left."""
    home = settings.home
    folder = next(f for f in (home, *home.parents) if f.is_dir())
    free = shutil.disk_usage(folder).free
    if free < _LOW:
        grade = Grade.ERROR if free < _EMPTY else Grade.WARNING
        what = f"{show_bytes(free)} are free for the store in `{home}`"
        hint = "`deployer store gc`, or set `DEPLOYER_HOME` to another disk"
        yield Finding("store", grade, what, hint)
    entries = settings.store.entries()
    broken = False
    for entry in entries:
        for problem in entry.problems():
            broken = True
            hint = "`deployer apply` makes it anew; `deployer store verify` reads all"
            what = f"{entry.kind} {entry.key[:12]}: {problem}"
            yield Finding("store", Grade.ERROR, what, hint)
    if not broken:
        what = f"{len(entries)} artefacts in {home}, {show_bytes(free)} free"
        yield fine("store", what)
    yield from _leftovers(settings, now)


def _leftovers(settings: Settings, now: float) -> Iterator[Finding]:
    downloads = settings.store.downloads
    found = [
        path
        for pattern in ("*.part", "*.new")
        for path in downloads.glob(pattern)
        if path.is_file() and now - path.stat().st_mtime > _OLD
    ]
    if not found:
        return
    total = show_bytes(sum(path.stat().st_size for path in found))

    def remove() -> None:
        for path in found:
            path.unlink(missing_ok=True)

    yield Finding(
        "store",
        Grade.NOTE,
        f"{len(found)} interrupted downloads hold {total} in {downloads}",
        "a fetch carries on with them where it can",
        remedy=Remedy(f"remove {len(found)} files ({total}) in {downloads}", remove),
    )


def port(stack: Stack, own: int | None) -> Iterator[Finding]:
    """Whether the port of a local stack is free, or its own server's (``own``)."""
    from deployer.engines.local import ports  # noqa: PLC0415 - only of local stacks

    if stack.engine != "local":
        return
    number, host = stack.local.port, stack.local.host
    others = [it for it in ports.listeners(number) if it.pid != own or own is None]
    if others:
        what = ports.in_use(number, others)
        hint = f"end it, or set `local.port` ({ports.free_port('127.0.0.1')} is free)"
        yield Finding("port", Grade.ERROR, what, hint)
    elif own is None and (reason := ports.refused(host, number)):
        yield Finding("port", Grade.ERROR, reason, "set `local.host` or `local.port`")
    else:
        whose = "free" if own is None else f"the stack's own server's, pid {own}"
        yield fine("port", f"port {number} is {whose}")
