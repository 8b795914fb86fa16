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
from deployer.stack.fields.server import Duration, Size, Text
from deployer.stack.fields.values import (
    IMAGE,
    Effect,
    seconds,
    size_in_bytes,
    usual_variable,
)

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
LONGEST_TIMEOUT = 24 * 3600
"""Seconds; Modal's own limit for a function (guide/timeouts)."""
LARGEST_DISK = 3 * 2**40
"""Bytes (guide/resources)."""
OURS = "deployer-"
"""Begins the names of Volumes and tags that deployer makes."""
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


Cores = Annotated[float, Field(gt=0)]
Domain = Annotated[
    str, Field(pattern=r"^([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,63}$")
]
TagName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,63}$")]
TagText = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,63}$")]
"""Names and texts of tags that billing reports take without quoting."""


_FOLDERS = r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*"


class Mount(Section):
    """A folder of a Volume or of a bucket, read-only: `volume` or `bucket`."""

    at: Annotated[str, Field(pattern=rf"^/mnt/{_FOLDERS}$")]
    """Path below `/mnt`, where the server sees it (`server.flags.media-path`)."""

    volume: Text | None = None
    """Name of a Volume; unset: `bucket` says."""

    bucket: Text | None = None
    """Name of a bucket with the protocol of S3; unset: `volume` says."""

    folder: Annotated[str, Field(pattern=rf"^{_FOLDERS}$")] | None = None
    """Folder of it; unset: all of it."""

    endpoint: Annotated[str | None, Field(pattern=r"^https://[A-Za-z0-9.-]+$")] = None
    """Server of the bucket, where that is not S3; unset: S3."""

    secret: Text | None = None
    """Modal secret with `AWS_ACCESS_KEY_ID` and its other half; unset: it is public."""


class Modal(Section):
    """Where and how the server runs on Modal."""

    environment: Text | None = None
    """Modal environment; unset: the profile's."""

    workspace: Annotated[Text | None, Effect.NOTE] = None
    """Workspace that the token must be of; unset: any."""

    region: Text | Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    """Where containers run, one region or several; unset: anywhere."""

    routing_region: Literal["us-east", "us-west", "eu-west", "ap-south"] | None = None
    """Where requests enter Modal; unset: near `region` for `server`, else `us-east`."""

    cloud: Literal["aws", "gcp", "oci", "auto"] | None = None
    """Cloud that containers run on; unset: any."""

    endpoint: Literal["web_server", "server"] | None = None
    """`web_server` queues while it starts, `server` is faster; unset: `web_server`."""

    custom_domains: Annotated[tuple[Domain, ...], Field(min_length=1)] | None = None
    """Domains of the workspace that lead to `web_server`; unset: Modal's address."""

    cpu: Cores | None = None
    """CPU cores; unset: 4 beside a GPU, else `server.threads`, else 8."""

    cpu_limit: Cores | None = None
    """Most CPU cores before they are throttled; unset: Modal's, 16 more than `cpu`."""

    memory: Size | None = None
    """Memory; unset: the weights and 5 %, 4 GiB, and `server.cache_ram`."""

    memory_limit: Size | None = None
    """Memory above which Modal ends the container; unset: that of its host."""

    ephemeral_disk: Size | None = None
    """Local disk, of which each 20 GiB bill one of memory; unset: Modal's 512 GiB."""

    nonpreemptible: bool | None = None
    """Keep a container without a GPU for 3 times its price; unset: `false`."""

    request_timeout: Duration | None = None
    """Longest time for one request to `web_server`; unset: an hour."""

    startup_timeout: Duration | None = None
    """Longest start, warm-up included; unset: 3 minutes and 150 MB of weights/s."""

    strategy: Annotated[Literal["rolling", "recreate"] | None, Effect.NOTE] = None
    """`recreate` ends old containers at once; unset: `rolling`, which does not."""

    mounts: Annotated[tuple[Mount, ...], Field(min_length=1)] | None = None
    """Volumes and buckets that the server may read; unset: none."""

    tags: Annotated[dict[TagName, TagText] | None, Effect.UPDATE] = None
    """Tags of the app for billing reports, changed in place; unset: deployer's own."""

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
        yield from _scaling(stack.scaling, stack.section(Modal))
    yield from _machine(stack)
    yield from _endpoint(stack.section(Modal))
    yield from _mounts(stack.section(Modal))
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
    yield from _routing(settings)
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


def _scaling(scaling: "Scaling", settings: Modal) -> Iterator[Diagnostic]:
    most, target = scaling.max_concurrent, scaling.target_concurrency
    if most is not None and target is not None and most < target:
        what = f"`max_concurrent` is below `target_concurrency` ({most} < {target})"
        hint = f"raise `max_concurrent` to {target}"
        yield Diagnostic("scaling.max_concurrent", what, hint)
    if scaling.scaleup_window is not None and settings.endpoint != "server":
        what = "`scaleup_window` is an option of `endpoint: server` alone"
        hint = "leave it out: `web_server` adds a container when no slot is free"
        yield Diagnostic("scaling.scaleup_window", what, hint)
    window = scaling.scaledown_window
    if window is not None and not SHORTEST_WINDOW <= seconds(window) <= LONGEST_WINDOW:
        given = shown(window) if isinstance(window, str) else f"{window:g} s"
        what = f"expected {SHORTEST_WINDOW} s to 1 h, got {given}"
        hint = "`scaling.min_containers: 1` keeps a container for good"
        yield Diagnostic("scaling.scaledown_window", what, hint)


def regions_of(settings: Modal) -> tuple[str, ...]:
    """Return the regions that containers may run in; none: anywhere."""
    region = settings.region or ()
    return (region,) if isinstance(region, str) else region


def _machine(stack: "Stack") -> Iterator[Diagnostic]:
    settings = stack.section(Modal)
    for number, region in enumerate(regions_of(settings)):
        if region not in REGIONS and not _OF_A_CLOUD.fullmatch(region):
            path = "modal.region"
            path += "" if isinstance(settings.region, str) else f".{number}"
            known = did_you_mean(region, REGIONS) or f"known: {', '.join(REGIONS)}"
            yield Diagnostic(path, f"no region `{shown(region)}`", known)
    for name, unit in (("cpu", float), ("memory", size_in_bytes)):
        asked, limit = getattr(settings, name), getattr(settings, f"{name}_limit")
        if None not in (asked, limit) and unit(limit) < unit(asked):
            least, most = (str(it).removesuffix(".0") for it in (asked, limit))
            what = f"`{name}_limit` is below `{name}` ({most} < {least})"
            yield Diagnostic(f"modal.{name}_limit", what, f"raise it to {least}")
    disk = settings.ephemeral_disk
    if disk is not None and size_in_bytes(disk) > LARGEST_DISK:
        what = f"expected at most 3TiB, got {disk}"
        yield Diagnostic("modal.ephemeral_disk", what, "write `3TiB` or less")
    if settings.nonpreemptible and stack.gpu:
        what = "Modal may preempt any container with a GPU"
        hint = "leave it out; `scaling.buffer_containers: 1` has another one ready"
        yield Diagnostic("modal.nonpreemptible", what, hint)


def _endpoint(settings: Modal) -> Iterator[Diagnostic]:
    direct = settings.endpoint == "server"
    if direct and settings.custom_domains is not None:
        what = "`endpoint: server` has no domains of your own"
        hint = "leave it out, or write `endpoint: web_server`"
        yield Diagnostic("modal.custom_domains", what, hint)
    if direct and settings.request_timeout is not None:
        what = "`endpoint: server` ends no request by time"
        hint = "leave it out, or write `endpoint: web_server`"
        yield Diagnostic("modal.request_timeout", what, hint)
    for name in ("request_timeout", "startup_timeout"):
        given = getattr(settings, name)
        if given is not None and not 1 <= seconds(given) <= LONGEST_TIMEOUT:
            what = f"expected 1 s to 24 h, got {shown(str(given))}"
            yield Diagnostic(f"modal.{name}", what, "write `1h`, for example")


def _mounts(settings: Modal) -> Iterator[Diagnostic]:
    seen: set[str] = set()
    for number, mount in enumerate(settings.mounts or ()):
        path = f"modal.mounts.{number}"
        if (mount.volume is None) == (mount.bucket is None):
            what = "expected one of `volume` and `bucket`"
            yield Diagnostic(path, what, "name what is mounted, once")
        stray = [it for it in ("endpoint", "secret") if getattr(mount, it) is not None]
        if mount.volume is not None and stray:
            what = f"`{stray[0]}` is about a bucket"
            yield Diagnostic(f"{path}.{stray[0]}", what, "leave it out")
        for what in filter(None, (mount.at, mount.volume)):
            if what in seen or what.startswith(OURS):
                said = f"`{what}` is mounted already, and a container mounts it once"
                yield Diagnostic(path, said, "leave it out, or name another one")
            seen.add(what)
    for name in settings.tags or {}:
        if name.startswith(OURS):
            what = f"tags that begin with `{OURS}` are deployer's own"
            yield Diagnostic(f"modal.tags.{name}", what, "give it another name")


def _routing(settings: Modal) -> Iterator[str]:
    """Containers far from where requests enter answer later."""
    far = [it for it in regions_of(settings) if not it.startswith(("us", "ca", "mx"))]
    if settings.endpoint != "server" and settings.routing_region is None and far:
        yield (
            f"containers are in {', '.join(far)}, and requests enter Modal in `us-east`"
            " and go there through the US: `modal.routing_region` moves that"
        )


def _types(stack: "Stack") -> tuple[str, ...]:
    """The types of GPU that are named, known or not."""
    named = (stack.gpu,) if isinstance(stack.gpu, str) else stack.gpu or ()
    return tuple(text.partition(":")[0] for text in named)


def _version(cuda: str) -> tuple[int, ...]:
    return tuple(int(part) for part in cuda.split(".")[:2])
