"""The known issues of llama.cpp and of what it runs on, and which a stack is in."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from functools import cache
from typing import Final, NamedTuple

from deployer.diagnostics import Diagnostic, Severity
from deployer.engines.registry import ENGINES
from deployer.llama.catalogue import TABLE, Catalogue
from deployer.llama.known.tables import rows
from deployer.planning.costs import SPARE
from deployer.planning.graph import architectures_of
from deployer.spelling import did_you_mean, shown
from deployer.stack.checks import asked as asked_by
from deployer.stack.checks import works_for_callers
from deployer.stack.fields.gate_options import Gates
from deployer.stack.fields.model import Stack
from deployer.stack.fields.server import Server
from deployer.stack.fields.values import size_in_bytes
from deployer.stack.files import FLAGS

_DEFAULTS: Final = {
    "--batch-size": 2048,
    "--ubatch-size": 512,
    "--parallel": 4,
    "--ctx-checkpoints": 32,
    "--cache-ram": 8192,
}
"""Defaults of llama-server on all builds from b8646 to b11434, which it may state."""

_QUANTISED: Final = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
_SLIDING: Final = ("gemma", "gptoss", "commandr7b", "commanda")


class Case(NamedTuple):
    """A stack on a build."""

    stack: Stack
    known: Catalogue
    """The build."""

    @property
    def build(self) -> int | None:
        """Upstream's number; None where only a release or a commit is named."""
        return self.known.build

    def default(self, option: str) -> int:
        """The value of an option that is left out; 0 where the build has none."""
        if self.known.states(f"option {option}") is False:
            return 0
        found = self.known.find(option)
        stated = found.default if found is not None else ""
        # Below zero the server chooses by itself, as it did when the table was made.
        return int(stated) if stated.isdecimal() else _DEFAULTS[option]

    @property
    def server(self) -> Server:
        """Its options; all unset where there are none."""
        return self.stack.server or Server()

    @property
    def gates(self) -> Gates:
        """The section of the stack about its gates."""
        return asked_by(self.stack)

    @property
    def names(self) -> str:
        """All that says which model it is, without signs between the words."""
        model = self.stack.model
        known = (
            *(model.repo, model.file, model.path, model.url, model.pypi),
            model.alias,
        )
        text = " ".join(name for name in known if name).lower()
        return text.translate({ord(sign): None for sign in "-_."})

    @property
    def is_gemma4(self) -> bool:
        """Return whether the model is a Gemma 4, by its name."""
        return "gemma4" in self.names

    @property
    def slides(self) -> bool:
        """Return whether some layers use a sliding window, by the model's name."""
        return any(name in self.names for name in _SLIDING)

    @property
    def is_patched(self) -> bool:
        """Return whether the stack names the patch for Gemma 4's thinking tags."""
        patches = self.stack.llama_cpp.patches or ()
        return any(name.startswith("gemma4-thinking") for name in patches)

    @property
    def is_remote(self) -> bool:
        """True where its servers run elsewhere."""
        return ENGINES[self.stack.engine].abilities.remote

    @property
    def is_built(self) -> bool:
        """Return whether llama-server is compiled from source."""
        return self.stack.llama_cpp.may_be_built

    @property
    def quantised(self) -> str:
        """The field that makes the KV cache quantised; empty where none does."""
        for name in ("cache_type_k", "cache_type_v"):
            if getattr(self.server, name) in _QUANTISED:
                return f"server.{name}"
        return ""

    def has_definition(self, name: str) -> bool:
        """Return whether the cmake definitions of the stack set this one."""
        defined = self.stack.llama_cpp.cmake or ()
        return any(one.partition("=")[0].partition(":")[0] == name for one in defined)


_LOOPBACK: Final = ("127.", "localhost")
_MANY_CHECKPOINTS: Final = 4
_SMALL_HOST: Final = 24 << 30
_COMPILED_PAIRS: Final = (
    ("f16", "f16"),
    ("bf16", "bf16"),
    ("q8_0", "q8_0"),
    ("q4_0", "q4_0"),
)


def _broken_toolkit(case: Case) -> str:
    if (cuda := case.stack.llama_cpp.cuda) is None:
        return ""
    from deployer.llama.build.recipe import BROKEN_TOOLKITS, toolkit  # noqa: PLC0415 - only for CUDA

    return "llama_cpp.cuda" if toolkit(cuda) in BROKEN_TOOLKITS else ""


def _other_architecture(case: Case) -> str:
    """Where the toolkit and the GPU do not know each other, for the recipe."""
    if (cuda := case.stack.llama_cpp.cuda) is None:
        return ""
    from deployer.llama.build.recipe import (  # noqa: PLC0415 - as above
        FIRST_UNKNOWN_TOOLKIT,
        Target,
        refusals,
        toolkit,
    )

    if toolkit(cuda) >= FIRST_UNKNOWN_TOOLKIT:
        return ""
    try:
        wanted = architectures_of(case.stack)
    except KeyError:  # an unknown type of GPU is a problem of its own
        return ""
    target = Target(case.build, cuda=cuda, architectures=wanted)
    refused = refusals(target) if wanted and not _broken_toolkit(case) else []
    return refused[0].path if refused else ""


def _gemma4(case: Case) -> str:
    return "llama_cpp.tag" if case.is_gemma4 else ""


def _pinned_template(case: Case) -> str:
    own = case.server.chat_template is not None
    pinned = case.stack.model.revision not in (None, "main")
    return "model.revision" if case.is_gemma4 and pinned and not own else ""


def _draft(case: Case) -> str:
    if not case.is_gemma4:
        return ""
    if case.stack.model.draft is not None:
        return "model.draft"
    typed = case.server.speculative is not None
    flagged = FLAGS + "spec-type" if "spec-type" in (case.server.flags or {}) else ""
    return "server.speculative" if typed else flagged


def _client_tools(case: Case) -> str:
    flags = case.server.flags or {}
    found = (f"{FLAGS}{n}" for n, value in flags.items() if works_for_callers(n, value))
    return next(found, "")


def _router(case: Case) -> str:
    flags = case.server.flags or {}
    return next((f"{FLAGS}{n}" for n in flags if n.startswith("models-")), "")


def _downloads_ui(case: Case) -> str:
    wanted = {
        *("LLAMA_USE_PREBUILT_UI=ON", "LLAMA_BUILD_UI=ON"),
        *("LLAMA_USE_PREBUILT_UI=1", "LLAMA_BUILD_UI=1"),
    }
    stated = wanted & {*(case.stack.llama_cpp.cmake or ())}
    return "llama_cpp.cmake" if stated else ""


def _has_no_ui(case: Case) -> str:
    wanted = case.server.ui is True and case.is_built
    return "server.ui" if wanted and not _downloads_ui(case) else ""


def _uncounted(case: Case) -> str:
    wanted = case.stack.llama_cpp
    ready = wanted.package is not None or wanted.binary is not None
    by_commit = wanted.commit or re.fullmatch("[0-9a-f]{7,40}", wanted.tag)
    return "gates.build" if case.gates.build and ready and not by_commit else ""


def _guarded_models(case: Case) -> str:
    alone = str(case.stack.of_engine("host")).startswith(_LOOPBACK)
    return "auth" if case.stack.api_keys and not alone else ""


def _redirects(case: Case) -> str:
    scaling = case.stack.scaling
    direct = case.stack.of_engine("endpoint") == "server"
    warm = scaling is not None and (scaling.min_containers or 0) > 0
    return "engine" if case.is_remote and not direct and not warm else ""


def _quants(case: Case) -> str:
    return "llama_cpp.cmake" if case.has_definition("GGML_CUDA_FA_QUANTS") else ""


def _checkpoints(case: Case) -> str:
    wanted = case.server.ctx_checkpoints
    taken = case.default("--ctx-checkpoints") if wanted is None else wanted
    if not (case.is_gemma4 and taken > _MANY_CHECKPOINTS):
        return ""
    return "server.ctx_checkpoints" if wanted is not None else "server"


def _prompt_cache(case: Case) -> str:
    match case.stack.of_engine("memory"):
        case str() | int() as memory if size_in_bytes(memory) < _SMALL_HOST:
            grows = case.server.cache_ram is None and case.default("--cache-ram") > 0
            return "modal.memory" if grows else ""
        case _:
            return ""


def _concurrent(case: Case) -> str:
    scaling = case.stack.scaling
    if scaling is None:
        return ""
    slots = case.server.parallel or case.default("--parallel")
    if (scaling.target_concurrency or 0) > slots:
        return "scaling.target_concurrency"
    above = (scaling.max_concurrent or 0) > slots + SPARE
    return "scaling.max_concurrent" if above else ""


def _captures(case: Case) -> bool:
    snapshot = case.stack.snapshot
    return case.is_remote and snapshot is not None and snapshot.enabled is not False


def _mapped(case: Case) -> str:
    return "snapshot" if _captures(case) and case.server.mmap is None else ""


def _capture_memory(case: Case) -> str:
    snapshot = case.stack.snapshot
    of_gpu = snapshot is not None and snapshot.gpu is True and _captures(case)
    unset = case.stack.of_engine("memory") is None
    return "snapshot.gpu" if of_gpu and unset else ""


def _picture(most: int, case: Case) -> str:
    """Where one picture may become more tokens than a physical batch holds.

    A batch that is no larger than a physical one cuts the picture instead.
    """
    server = case.server
    if not case.is_gemma4 or case.stack.model.mmproj is None:
        return ""
    least = server.image_min_tokens or 0
    tokens = server.image_max_tokens or max(most, least)
    batch = server.batch_size or case.default("--batch-size")
    held = server.ubatch_size or case.default("--ubatch-size")
    if min(tokens, batch) <= held:
        return ""
    if server.image_max_tokens or least > most:
        name = "max" if server.image_max_tokens else "min"
        return f"server.image_{name}_tokens"
    return "server.ubatch_size" if server.ubatch_size else "model.mmproj"


def _several_pictures(case: Case) -> str:
    seeing = case.is_gemma4 and case.stack.model.mmproj is not None
    return "model.mmproj" if seeing else ""


def _quantised_value(case: Case) -> str:
    server = case.server
    off = server.flash_attn == "off"
    plain = server.cache_type_v in (None, "f32", "f16", "bf16")
    return "server.cache_type_v" if off and not plain else ""


def _mixed_cache(case: Case) -> str:
    server = case.server
    pair = (server.cache_type_k or "f16", server.cache_type_v or "f16")
    compiled = pair in _COMPILED_PAIRS or any(
        case.has_definition(f"GGML_CUDA_FA_{name}") for name in ("ALL_QUANTS", "QUANTS")
    )
    if compiled or server.flash_attn == "off" or case.stack.llama_cpp.cuda is None:
        return ""
    return "server.cache_type_v" if server.cache_type_v else "server.cache_type_k"


def _quantised_window(case: Case) -> str:
    return case.quantised if case.slides else ""


def _not_offloaded(case: Case) -> str:
    return "server.kv_offload" if case.server.kv_offload is False else ""


def _full_window(case: Case) -> str:
    return "server.swa_full" if case.server.swa_full else ""


def _locked_unmapped(case: Case) -> str:
    alone = case.server.mlock is True and case.server.mmap is None
    return "server.mlock" if alone else ""


def _asks_for_budget(case: Case) -> str:
    if case.gates.thinking_budget is not None:
        return "gates.thinking_budget"
    budget = case.server.reasoning_budget
    limited = budget is not None and budget >= 0
    return "server.reasoning_budget" if limited else ""


def _ignored_budget(case: Case) -> str:
    read = case.known.states("sign gemma4-thinking-tags") is not None
    patched = case.is_patched and not read  # else the source shows what came of it
    return _asks_for_budget(case) if case.is_gemma4 and not patched else ""


def _unbounded(case: Case) -> str:
    stated = case.known.states("sign gemma4-thinking-tags")
    by_number = case.is_patched or (case.build or 0) >= 8744
    knows_tags = by_number if stated is None else stated
    free = case.server.reasoning_budget in (None, -1)
    thinks = case.server.reasoning != "off"
    return "llama_cpp.tag" if case.is_gemma4 and knows_tags and free and thinks else ""


def _budget_of_31b(case: Case) -> str:
    large = case.is_gemma4 and "31b" in case.names
    return _asks_for_budget(case) if large else ""


def _server_wins(case: Case) -> str:
    budget = case.server.reasoning_budget
    asked = case.gates.thinking_budget is not None
    stated = budget is not None and budget >= 0
    return "server.reasoning_budget" if asked and stated else ""


def _message(case: Case) -> str:
    said = case.server.reasoning_budget_message
    return "server.reasoning_budget_message" if said is not None else ""


def _zero(case: Case) -> str:
    asked = (case.server.chat_template_kwargs or {}).get("enable_thinking", True)
    if case.server.reasoning == "off" or asked is False:
        return ""  # as advised
    return "server.reasoning_budget" if case.server.reasoning_budget == 0 else ""


_ACCELERATED: Final = ("CUDA", "HIP", "VULKAN", "SYCL", "METAL", "MUSA", "OPENCL")


def _asks_for_gpu(case: Case) -> str:
    """A GPU option of a build that is known to be for the CPU."""
    wanted, server = case.stack.llama_cpp, case.server
    if wanted.package or wanted.binary or wanted.cuda or sys.platform == "darwin":
        return ""
    if any(case.has_definition(f"GGML_{name}") for name in _ACCELERATED):
        return ""
    if "release" in wanted.sources and (wanted.backend or "cpu") != "cpu":
        return ""
    asked = {
        "n_gpu_layers": server.n_gpu_layers not in (None, 0, "auto"),
        "tensor_split": server.tensor_split is not None,
        "main_gpu": server.main_gpu is not None,
        "split_mode": server.split_mode not in (None, "none"),
        "device": server.device is not None and server.device != ("none",),
    }
    return next((f"server.{name}" for name, is_ in asked.items() if is_), "")


def _short_batch(case: Case) -> str:
    """Embeddings and rankings of inputs that do not fit in one physical batch."""
    server = case.server
    if not (server.embeddings or server.reranking):
        return ""
    batch = server.ubatch_size or case.default("--ubatch-size")
    slots = 1 if server.kv_unified else server.parallel or 1
    if server.ctx_size is not None and server.ctx_size // slots <= batch:
        return ""
    names = ("ubatch_size", "ctx_size", "embeddings", "reranking")
    return f"server.{next(name for name in names if getattr(server, name))}"


def _qwen_cut(case: Case) -> str:
    return _asks_for_budget(case) if "qwen" in case.names else ""


def _strict_mode(mode: str, case: Case) -> str:
    tools = case.gates.tools
    strict = tools is not None and tools.expect == "strict" and not tools.advisory
    return "gates.tools" if strict and tools and mode in (tools.modes or ()) else ""


def _gemma4_tools(case: Case) -> str:
    asked = case.gates.tools is not None
    return "gates.tools" if asked and case.is_gemma4 else ""


def _grammar(case: Case) -> str:
    asked = case.gates.json_schema is not None
    return "gates.json_schema" if asked and case.is_gemma4 else ""


def _drafts(case: Case) -> bool:
    return any("draft" in name for name in case.server.flags or {})


def _default_picture(case: Case) -> bool:
    sees = case.is_gemma4 and case.stack.model.mmproj is not None
    return sees and case.server.image_max_tokens is None


BLAMES: Final[Mapping[str, Callable[[Case], str]]] = {
    "cuda-miscompiles": _broken_toolkit,
    "cuda-architecture": _other_architecture,
    "gemma4-early": _gemma4,
    "gemma4-unsettled": _gemma4,
    "gemma4-pinned-template": _pinned_template,
    "gemma4-draft": _draft,
    "client-tools": _client_tools,
    "router-options": _router,
    "ui-download": _downloads_ui,
    "no-ui": _has_no_ui,
    "shallow-build": _uncounted,
    "guarded-models": _guarded_models,
    "redirect-after-150s": _redirects,
    "attention-kernels-unknown": _quants,
    "attention-kernels-renamed": lambda case: (
        "llama_cpp.cmake" if case.has_definition("GGML_CUDA_FA_ALL_QUANTS") else ""
    ),
    "context-checkpoints": _checkpoints,
    "prompt-cache": _prompt_cache,
    "concurrent-above-slots": _concurrent,
    "mapped-snapshot": _mapped,
    "capture-memory": _capture_memory,
    "picture-above-batch": lambda case: _picture(280, case),
    "large-picture-above-batch": lambda case: _picture(1120, case),
    "several-pictures": _several_pictures,
    "value-cache": _quantised_value,
    "mixed-cache": _mixed_cache,
    "quantised-window": _quantised_window,
    "cache-in-host-memory": _not_offloaded,
    "full-window": _full_window,
    "locked-unmapped": _locked_unmapped,
    "budget-ignored": _ignored_budget,
    "thinking-unbounded": _unbounded,
    "budget-at-once": _budget_of_31b,
    "budget-of-server-wins": _server_wins,
    "budget-message": _message,
    "budget-zero": _zero,
    "gpu-options-on-cpu": _asks_for_gpu,
    "embeddings-above-batch": _short_batch,
    "budget-cut": _qwen_cut,
    "tool-choice-named": lambda case: _strict_mode("named", case),
    "tool-choice-none": lambda case: _strict_mode("none", case),
    "tool-choice-required": lambda case: _strict_mode("required", case),
    "gemma4-tool-calls": _gemma4_tools,
    "grammar-unused-token": _grammar,
}
"""The field to blame, by the id of the trap; empty where the stack is not in it."""

CONCERNS: Final[Mapping[str, Callable[[Case], bool]]] = {
    "default-timeout": lambda case: case.server.timeout is None,
    "drafts": _drafts,
    "default-picture": _default_picture,
    "mlock-alone": lambda case: case.server.mlock is True and case.server.mmap is None,
    "default-verbosity": lambda case: case.server.verbosity is None,
    "a-key": lambda case: bool(case.stack.api_keys),
    "reasoning-budget": lambda case: case.server.reasoning_budget is not None,
    "metrics": lambda case: bool(case.server.metrics),
    "ui": lambda case: case.server.ui is True,
}
"""Stacks that would notice a change, by the name that the change gives."""


NEWEST: Final = 10**9
ADVISORY: Final = ("CVE-", "GHSA-")
"""Beginnings of names of advisories, which are ignored in the same list."""


class Trap(NamedTuple):
    """A range of builds and a condition under which something bites."""

    id: str
    theme: str
    severity: Severity
    when: str
    """The condition, in words."""
    what: str
    """The effect."""
    write: str
    """The text to write instead."""
    reference: str
    since: int = 0
    until: int = NEWEST
    """Last build that is known to have it."""
    engine: str = ""
    """The engine that has it; empty for all."""
    has: str = ""
    """Fact of a build (see `Catalogue.states`) that decides instead of the range."""
    lacks: str = ""
    """Fact whose absence decides."""

    @property
    def evidence(self) -> str:
        """The thing that decides which builds have it, in words."""
        facts = (*([f"has {self.has}"] if self.has else []), f"lacks {self.lacks}")
        if self.has or self.lacks:
            shown = " and ".join(facts if self.lacks else facts[:1])
            return f"a source that {shown}; the number until one was read"
        if (self.since, self.until) == (0, NEWEST):
            return ""
        return "the number of the build: no source shows this behaviour"

    def is_open(self, known: Catalogue) -> bool:
        """Return whether a source would decide, and was not read."""
        facts = (it for it in (self.has, self.lacks) if it)
        return any(known.states(it) is None for it in facts)

    def is_in(self, known: Catalogue) -> bool:
        """Return whether a build has it: by what it states, else by its number.

        Of a build that is not known, only what all builds have is certain.
        """
        facts = {self.has: True, self.lacks: False}
        wanted = {fact: there for fact, there in facts.items() if fact}
        if wanted and not self.is_open(known):
            return {fact: known.states(fact) for fact in wanted} == wanted
        if known.build is None:
            return (self.since, self.until) == (0, NEWEST)
        return self.since <= known.build <= self.until

    @property
    def builds(self) -> str:
        """The range, in words."""
        match self.since, self.until:
            case 0, until if until == NEWEST:
                return "all builds"
            case 0, until:
                return f"up to b{until}"
            case since, until if until == NEWEST:
                return f"b{since} and later"
            case since, until if since == until:
                return f"b{since}"
            case since, until:
                return f"b{since} to b{until}"


@cache
def traps() -> Mapping[str, Trap]:
    """Return every trap by its id, in the order of the table."""
    return {t.id: t for t in rows("traps.toml", "trap", Trap, severity=Severity)}


def themes() -> Mapping[str, tuple[Trap, ...]]:
    """Return the traps by theme."""
    names = dict.fromkeys(trap.theme for trap in traps().values())
    return {n: tuple(t for t in traps().values() if t.theme == n) for n in names}


BY_NUMBER: Final = "known by the number of the build only"


def traps_of(stack: Stack, known: Catalogue) -> tuple[Diagnostic, ...]:
    """Return what a stack runs into on this build, and is not told to ignore.

    What only the number of a build says, of which nothing was read, is marked so.
    """
    caught = _caught(stack, known)
    ignored = {one.trap for one in stack.ignore or ()}
    return (*(c for c in caught if c.code not in ignored), *_ignores(stack, caught))


def _caught(stack: Stack, known: Catalogue) -> tuple[Diagnostic, ...]:
    case = Case(stack, known)
    blamed = {name: blame(case) for name, blame in BLAMES.items()}
    if not any(blamed.values()):  # most stacks: the table need not be read
        return ()
    return tuple(
        Diagnostic(path, _what(trap, known), _hint(trap), trap.severity, trap.id)
        for trap in traps().values()
        if (path := blamed[trap.id])
        and trap.is_in(known)
        and trap.engine in ("", stack.engine)
    )


def _what(trap: Trap, known: Catalogue) -> str:
    ranged = (trap.since, trap.until) != (0, NEWEST)
    unread = known.origin == TABLE and not known.exact
    return f"{trap.what} ({BY_NUMBER})" if ranged and unread else trap.what


def _hint(trap: Trap) -> str:
    return f"write {trap.write}" if trap.write.startswith("`") else trap.write


def _ignores(stack: Stack, caught: tuple[Diagnostic, ...]) -> Iterator[Diagnostic]:
    """Names that are no trap, and those that nothing came of."""
    here = {one.code for one in caught}
    for index, ignored in enumerate(stack.ignore or ()):
        path = f"ignore.{index}.trap"
        name = ignored.trap
        if name.startswith(ADVISORY):
            continue
        if name not in traps():
            what = f"there is no known issue `{shown(name)}`"
            hint = did_you_mean(name, traps()) or "`deployer explain trap` lists them"
            yield Diagnostic(path, what, hint, Severity.ERROR, name)
        elif name not in here:
            what = f"`{name}` is ignored, and the stack is not in this trap"
            hint = "leave it out of `ignore`"
            yield Diagnostic(path, what, hint, Severity.NOTE, name)


class Area(StrEnum):
    """The kind of a change."""

    DEFAULT = "defaults"
    API = "server API"


class Change(NamedTuple):
    """One thing that two builds do differently."""

    area: Area
    what: str
    old: str
    new: str
    after: int
    by: int
    concerns: str = ""
    """The stacks that would notice, by a name of `CONCERNS`; empty for all."""


class Crossed(NamedTuple):
    """A change that lies between two builds, in the direction that is gone."""

    change: Change
    forward: bool
    sure: bool
    """One of the builds may lie where the change is only known to be near."""

    @property
    def text(self) -> str:
        """Describe the change: old value, new value, build."""
        change = self.change
        before, after = change.old, change.new
        if not self.forward:
            before, after = after, before
        near = f"between b{change.after} and b{change.by}"
        when = near if change.by - change.after > 1 else f"b{change.by}"
        return f"{change.what}: {before} → {after} ({when})"


def changes_between(
    stack: Stack, old: int, new: int, known: Catalogue
) -> Iterator[Crossed]:
    """Yield what a stack would notice, or may, between two builds."""
    case = Case(stack, known)
    low, high = min(old, new), max(old, new)
    for change in changes():
        crossed = low < change.by and change.after < high
        if crossed and low != high and _notices(case, change):
            sure = low <= change.after and change.by <= high
            yield Crossed(change, forward=old < new, sure=sure)


@cache
def changes() -> tuple[Change, ...]:
    """Return every known change, defaults first."""
    return rows("changes.toml", "change", Change, area=Area)


def _notices(case: Case, change: Change) -> bool:
    return not change.concerns or CONCERNS[change.concerns](case)


def markdown() -> str:
    """Every trap as a page of the docs."""
    return "\n".join(_page()) + "\n"


def _page() -> Iterator[str]:
    yield "# Known issues"
    yield ""
    yield "<!-- Written by `python -m scripts.docs.write`. -->"
    yield ""
    yield "Issues of llama.cpp, the builds that have them, and what to write instead."
    yield "`deployer validate` and `deployer plan` show those that a stack runs into."
    yield "Errors are refused, warnings and notes are shown."
    yield "`deployer explain trap ID` explains one."
    yield ""
    yield "A known issue can be ignored, with a reason:"
    yield ""
    yield "```yaml"
    yield "ignore:"
    yield "  - trap: context-checkpoints"
    yield "    reason: the host has 256 GiB"
    yield "```"
    for theme, group in themes().items():
        yield from ("", f"## {theme}")
        for trap in group:
            yield from _entry(trap)


def _entry(trap: Trap) -> Iterator[str]:
    yield from ("", f"### {trap.id}", "")
    by = f" · known by {trap.evidence}" if trap.evidence else ""
    yield f"**{trap.severity.value.capitalize()}** · {trap.builds}{by}"
    yield ""
    yield f"- When: {trap.when}."
    yield f"- What happens: {trap.what}."
    yield f"- Write: {trap.write}."
    yield f"- Reference: <{trap.reference}>"
