"""Rules between the fields of a stack; every broken one is reported.

llama-server asks for no key unless it is given one, and tells browsers to let pages of
any site in (`--cors-origins`).  So a stack without a key may listen on this machine
only, may not offer what runs programs or changes the server, and answers pages of this
machine alone.
"""

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import floor
from typing import Final

from deployer.diagnostics import Diagnostic, Severity
from deployer.engines.registry import ENGINES, load
from deployer.runtime import KEY_FORM
from deployer.spelling import did_you_mean, one_of, shown
from deployer.stack.addresses import host_of, is_loopback, is_metadata
from deployer.stack.fields.gate_options import (
    CONFIDENCE,
    Custom,
    Gates,
    Restore,
    least_share,
    runs_needed,
)
from deployer.stack.fields.marks import fields_of
from deployer.stack.fields.model import (
    GPUS,
    LlamaCpp,
    Model,
    Scaling,
    Stack,
    Warmup,
    Weights,
)
from deployer.stack.fields.schema import OTHER_NAMES
from deployer.stack.fields.server import DRAFTING, Drafting, Reference, Server
from deployer.stack.fields.values import (
    DECIDING,
    DEFAULT_KEY,
    ENV,
    NO_GATES,
    JsonValue,
    seconds,
)
from deployer.stack.files import FLAGS, long_name

NEW_KEY = (
    "take a key of printable ASCII without commas and blanks, such as that of"
    " `openssl rand -hex 32`"
)
"""The hint where a key cannot be used."""

_KEY_PATH = re.compile(r"auth\.api_key(s\.[a-z0-9-]+)?")
_CORS = "cors-origins"
_CORS_SINCE = 10103
"""First build that is known to have the option."""
_THIS_MACHINE = "localhost"
"""Value of the option: pages of loopback addresses."""
_WORKS_FOR_CALLERS = frozenset({"agent", "mcp", "tools"})
"""Parts of the names of options that run programs or ask servers for a client."""


def works_for_callers(name: str, value: object) -> bool:
    """Return whether an option lets clients run programs or reach other servers."""
    words = {*name.strip("-").replace("_", "-").split("-")}
    return bool(words & _WORKS_FOR_CALLERS) and value is not False


_HINT = (
    "add `auth: {api_key: …}`, or say why it is open: `auth: {open: behind our VPN}`"
)


def access_checks(stack: Stack) -> Iterator[Diagnostic]:
    """Every rule about who may use the server that a stack breaks."""
    keys, auth = stack.api_keys, stack.auth
    closed = auth is not None and auth.proxy is True
    if auth is not None and not keys and not closed and auth.open is None:
        what = "expected `api_key`, `api_keys`, or `open` with a reason"
        yield Diagnostic("auth", what, "add `api_key: {env: LLAMA_API_KEY}`")
    if auth is not None and (keys or closed) and auth.open is not None:
        name = "api_key" if auth.api_key else "api_keys" if keys else "proxy"
        what = f"`open` and `{name}` contradict each other"
        yield Diagnostic("auth.open", what, "keep one of them")
    yield from _key_checks(stack)
    if not (keys or closed):
        for path, what in _needs_a_key(stack):
            if auth is None:
                yield without_key(path, what)
            elif auth.open is not None and is_public(stack):
                hint = "add `auth: {api_key: …}` in place of `open`, or leave it out"
                yield Diagnostic(path, f"{what} without an API key", hint, needs="auth")


def _key_checks(stack: Stack) -> Iterator[Diagnostic]:
    """Two names for one variable would be one key, and no rotation."""
    if stack.auth is not None and stack.auth.api_key and stack.auth.api_keys:
        what = "`api_key` and `api_keys` are two ways to say one thing"
        yield Diagnostic("auth.api_key", what, "give it a name under `api_keys`")
    seen: dict[str, str] = {}
    for path, key in stack.api_keys.items():
        if not _KEY_PATH.fullmatch(path):
            what = "the name of a key is of lower-case letters, digits and dashes"
            yield Diagnostic("auth.api_keys", what, "such as `team-a` or `2026-12`")
        name = key.env or DEFAULT_KEY
        if name in seen:
            what = f"`{name}` is the variable of `{seen[name]}` already"
            yield Diagnostic(path, what, "name a variable of its own with `env`")
        seen.setdefault(name, path)


def without_key(path: str, what: str) -> Diagnostic:
    """Return the diagnostic for a setting of a stack that needs an API key."""
    return Diagnostic(path, f"{what} without an API key", _HINT, needs="auth")


def is_public(stack: Stack) -> bool:
    """Return whether other machines reach the server."""
    host = stack.of_engine("host")
    remote = ENGINES[stack.engine].abilities.remote
    return remote or (isinstance(host, str) and not is_loopback(host))


def closing_words(
    stack: Stack, *, build: int | None, known: Container[str] = ()
) -> tuple[str, ...]:
    """The options that keep pages of other sites from a server without a key.

    Nothing where the stack states them, or the build is not known to have them: by the
    spellings that it states, where they were read, else by its number.
    """
    stated = stack.server is not None and _CORS in (stack.server.flags or {})
    has = f"--{_CORS}" in known if known else (build or 0) >= _CORS_SINCE
    return () if stack.api_keys or stated or not has else (f"--{_CORS}", _THIS_MACHINE)


def key_problem(key: str) -> str:
    """Return why llama-server cannot take a key; empty where it can.

    The reason contains nothing of the key.
    """
    if re.fullmatch(KEY_FORM, key):
        return ""
    if not key.strip():
        return "it is empty"
    if key.startswith("#"):
        return "it begins with `#`: llama-server would take the line for a comment"
    if "," in key:
        return (
            "it contains a comma: llama-server reads a list of keys as several; name"
            " each of them under `auth.api_keys`"
        )
    if not key.isascii():
        return "it contains characters that are not ASCII"
    return "it contains blanks, line breaks or control characters"


def _needs_a_key(stack: Stack) -> Iterator[tuple[str, str]]:
    """Path and words of what a stack does that needs a key."""
    server = stack.server
    if server is None:
        return
    if server.props:
        yield "server.props", "`props` lets every client change the server"
    for name, value in (server.flags or {}).items():
        if works_for_callers(name, value):
            yield f"server.flags.{name}", f"`{name}` lets every client use its tools"
        elif name == _CORS and value != _THIS_MACHINE:
            what = f"`{name}` lets pages of other sites use the server"
            yield f"server.flags.{name}", what


_LOOPBACK = re.compile(r"http://(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?/")
_GPU = re.compile(r"(?P<type>[^:]+)(:(?P<count>[0-9]{1,3}))?")
_OPTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,47}")
_METADATA = "this is an address at which clouds give machines their credentials"
SOURCES = ("repo", "path", "url", "pypi")
"""Fields of the model that say where it comes from."""

_OWNED: Mapping[str, str] = {
    "host": "write `local.host`",
    "port": "write `local.port`",
    "reuse-port": "the engine sets it for the hand-over",
    "model": "write one of `model.repo`, `model.path`, `model.url`, `model.pypi`",
    "model-url": "write `model.url`",
    "hf-repo": "write `model.repo`",
    "hf-file": "write `model.file`",
    "hf-token": "the token is taken from the environment variable `HF_TOKEN`",
    "docker-repo": "write one of `model.repo`, `model.path`, `model.url`, `model.pypi`",
    "mmproj": "write `model.mmproj`",
    "mmproj-url": "write `model.mmproj`",
    **dict.fromkeys(
        ("model-draft", "spec-draft-model"),
        "write `model.draft`, which is pinned, and `server.speculative.type`",
    ),
    **dict.fromkeys(
        ("hf-repo-draft", "spec-draft-hf"),
        "write `model.draft: {repo: …, quant: …}`: it is fetched and pinned",
    ),
    **dict.fromkeys(
        ("lora", "lora-scaled"), "write `model.lora: [{path: …, scale: …}]`"
    ),
    **dict.fromkeys(
        ("control-vector", "control-vector-scaled"),
        "write `model.control_vectors: [{path: …, scale: …}]`",
    ),
    **dict.fromkeys(
        ("model-vocoder", "hf-repo-v", "hf-file-v"), "write `model.vocoder`"
    ),
    "api-key": "write `auth.api_key`, which names where the key is found",
    "api-key-file": "write `auth.api_key`; the engine writes the file",
    "alias": "write `model.alias`",
    "chat-template-file": "write `server.chat_template`",
    "log-file": "the engine keeps the log: `deployer logs`",
}
"""Options that are set by the engine, or by another section -> what to do."""

_PROXY = "let a reverse proxy in front of the server do that"
_REFUSED: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(
        (
            *("cache-list", "completion-bash", "help", "license", "list-devices"),
            *("usage", "version"),
        ),
        ("prints and ends: llama-server would not start", "leave it out"),
    ),
    "api-prefix": ("moves /health away from where engine and gates ask", _PROXY),
    **dict.fromkeys(
        ("ssl-cert-file", "ssl-key-file"),
        ("needs a build with TLS, and engine and gates ask over plain HTTP", _PROXY),
    ),
}
"""Options that cannot work here -> why, and what to do."""


def checks(stack: Stack) -> Iterator[Diagnostic]:
    """Every rule between fields that a stack breaks, for the engine it names."""
    yield from _model(stack.model)
    yield from _speculative(stack)
    yield from _llama_cpp(stack.llama_cpp)
    yield from _gpu(stack)
    yield from _snapshot(stack)
    yield from access_checks(stack)
    yield from _gates(stack)
    if stack.scaling:
        yield from _scaling(stack.scaling)
    if part := ENGINES[stack.engine].checks:
        yield from load(part)(stack)
    for name, value in ((stack.server.env if stack.server else None) or {}).items():
        yield from _variable(name, stack.engine, secret=isinstance(value, Reference))
    if stack.server and stack.server.flags:
        for key in stack.server.flags:
            sectioned = stack.server.speculative is not None
            yield from _flag(key, sectioned=sectioned)
        if "rpc" in stack.server.flags:
            yield from _rpc(stack.llama_cpp)


def gpu_types(stack: Stack) -> tuple[tuple[str, int], ...]:
    """Type and count of each GPU that is named; a form that is not known counts 0."""
    named = (stack.gpu,) if isinstance(stack.gpu, str) else stack.gpu or ()
    found = [(text, _GPU.fullmatch(text)) for text in named]
    return tuple((m["type"], int(m["count"] or 1)) if m else (t, 0) for t, m in found)


def _model(model: Model) -> Iterator[Diagnostic]:
    yield from _weights("model", model)
    for path, part in model.parts.items():
        yield from _weights(path, part)
    other = model.url or model.pypi
    if isinstance(model.mmproj, str) and other is not None:
        what = f"`{shown(model.mmproj)}` names no file of `{shown(other)}`"
        hint = "say where the projector comes from: `mmproj: {url: https://…}`"
        yield Diagnostic("model.mmproj", what, hint)


def _weights(path: str, model: Weights) -> Iterator[Diagnostic]:
    sources = [name for name in SOURCES if getattr(model, name) is not None]
    if not sources:
        hint = f"add {one_of(SOURCES)}"
        yield Diagnostic(path, "nothing says where the weights come from", hint)
    for name in sources[1:]:
        what = f"`{name}` and `{sources[0]}` are two sources of weights"
        yield Diagnostic(f"{path}.{name}", what, "keep one of them")
    if model.repo is not None:
        yield from _picked(path, model)
    else:
        for name in ("revision", "quant", "file"):
            if sources and getattr(model, name) is not None:
                what = f"`{name}` picks from a `repo`, and there is none"
                hint = f"leave it out, or write `repo` instead of `{sources[0]}`"
                yield Diagnostic(f"{path}.{name}", what, hint)
    if model.sha256 and sources and not {"path", "url"} & set(sources):
        what = "`sha256` belongs to `path` or `url`"
        hint = f"leave it out: the lock file pins the digests of a `{sources[0]}`"
        yield Diagnostic(f"{path}.sha256", what, hint)
    if model.url and model.url.startswith("http:") and not _LOOPBACK.match(model.url):
        what = "weights come over https, except from this machine"
        yield Diagnostic(f"{path}.url", what, "write `https://`")
    if model.url and is_metadata(host_of(model.url)):
        yield Diagnostic(f"{path}.url", _METADATA)


def _picked(path: str, model: Weights) -> Iterator[Diagnostic]:
    """One file of a repository is picked in one way; the only one needs none."""
    if model.quant is not None and model.file is not None:
        what = "`file` and `quant` both pick a file"
        yield Diagnostic(f"{path}.file", what, "keep one of them")


def _llama_cpp(llama: LlamaCpp) -> Iterator[Diagnostic]:
    ready = [name for name in ("package", "binary") if getattr(llama, name) is not None]
    if len(ready) == 2:
        what = "`binary` and `package` are two ready-made servers"
        yield Diagnostic("llama_cpp.binary", what, "keep one of them")
    if "release" in llama.sources:
        ready.append("source: release")
    for name in ("patches", "cuda", "cmake"):
        if ready and getattr(llama, name) is not None:
            what = f"`{name}` needs a build from source, and `{ready[0]}` is ready-made"
            hint = f"leave `{name}` out, or `{ready[0]}`"
            yield Diagnostic(f"llama_cpp.{name}", what, hint)
    yield from _source(llama, ready)


def _source(llama: LlamaCpp, ready: list[str]) -> Iterator[Diagnostic]:
    """Yield what belongs to one kind of source alone."""
    if llama.source is not None and ready and ready[0] != "source: release":
        what = f"`source` and `{ready[0]}` both say where llama-server comes from"
        yield Diagnostic("llama_cpp.source", what, "keep one of them")
    if llama.repo and is_metadata(host_of(llama.repo)):
        yield Diagnostic("llama_cpp.repo", _METADATA)
    for name, owner in (
        ("source_path", "path"),
        ("repo", "git"),
        ("backend", "release"),
    ):
        if getattr(llama, name) is not None and owner not in llama.sources:
            what = f"`{name}` means something for `source: {owner}` alone"
            yield Diagnostic(f"llama_cpp.{name}", what, f"leave `{name}` out")
    if len({*llama.sources}) < len(llama.sources):
        what = "`source` names one source twice"
        yield Diagnostic("llama_cpp.source", what, "keep the first")
    if "path" in llama.sources and llama.source_path is None:
        what = "nothing says which folder the source is in"
        hint = "add `source_path: ../llama.cpp`"
        yield Diagnostic("llama_cpp.source", what, hint)


def _gpu(stack: Stack) -> Iterator[Diagnostic]:
    if stack.gpu == ():
        hint = "leave `gpu` out to run on the CPU"
        yield Diagnostic("gpu", "expected at least one GPU type", hint)
    for index, (name, count) in enumerate(gpu_types(stack)):
        path = "gpu" if isinstance(stack.gpu, str) else f"gpu.{index}"
        if name not in GPUS:
            known = did_you_mean(name, GPUS) or f"known: {', '.join(GPUS)}"
            yield Diagnostic(path, f"no GPU type `{shown(name)}`", known)
        elif not 1 <= count <= GPUS[name].most:
            what = f"expected 1 to {GPUS[name].most} GPUs, got {count}"
            yield Diagnostic(path, what, f"write `{name}:2` for two")


def _snapshot(stack: Stack) -> Iterator[Diagnostic]:
    snapshot = stack.snapshot
    if snapshot is None:
        return
    if snapshot.gpu and any(count > 1 for _, count in gpu_types(stack)):
        what = "the memory of several GPUs cannot be captured"
        hint = "set `snapshot.gpu: false`, or name one GPU"
        yield Diagnostic("snapshot.gpu", what, hint)
    if snapshot.idle is not None and seconds(snapshot.idle) < 1:
        what = "expected at least one second"
        yield Diagnostic("snapshot.idle", what, "write `idle: 10m`, or leave it out")
    pictured = [one for one in snapshot.warmup or () if one.image is not None]
    if pictured and stack.model.mmproj is None:
        what = "a warm-up sends an image, and the model has no projector"
        yield Diagnostic("snapshot.warmup", what, "add `model.mmproj`", needs="model")
    for number, one in enumerate(snapshot.warmup or ()):
        yield from _warmup(f"snapshot.warmup.{number}", one)


def _warmup(path: str, request: Warmup) -> Iterator[Diagnostic]:
    if request.prompt is None and request.file is None:
        hint = "add `prompt: Hello`, or `file: prompts/agent.md`"
        yield Diagnostic(path, "nothing says what to send", hint)
    if request.role is not None and request.file is None:
        what = "`role` is that of the message with `file`, and there is none"
        yield Diagnostic(f"{path}.role", what, "add `file: prompts/agent.md`")
    if request.tool is not None and request.tools is not None:
        what = "`tool` and `tools` both say what to offer"
        yield Diagnostic(f"{path}.tool", what, "keep `tools`")


_OF_CHAT = (
    *("chat", "stream", "json_schema", "thinking", "thinking_budget", "tools"),
    *("responses_api", "messages_api", "vision", "audio"),
)
"""Gates that ask for an answer, which a server for vectors or ranks does not give."""
_SAMPLERS = ("temperature", "top_k", "top_p", "min_p", "seed")


def _vectors(server: Server | None) -> str:
    """Return the gate of a server for vectors or ranks; empty for another server."""
    if server is None:
        return ""
    if server.reranking or server.pooling == "rank":
        return "rerank"
    return "embeddings" if server.embeddings else ""


_NEEDED = ("health", "auth")
"""Gates that run wherever there is something to ask."""
_ALWAYS = ("health", "props", "models")
"""Gates of what every server offers; they generate nothing."""
_CHEAP = frozenset(
    {
        *("auth", "chat", "stream", "metrics", "concurrency"),
        *("embeddings", "rerank", "lora", "tools"),
    }
)
"""Gates that a server that works passes whatever its model is, in a few answers."""
_OPTIONS: Final[Mapping[str, Mapping[str, str]]] = {"tools": {"expect": "whole_calls"}}
"""Options of these gates: what depends on the model blocks nothing.

b11434 lets a model write before the call that `required` demands, and a base model with
the template of Qwen 2.5 wrote all the tokens that it was given.
"""


@dataclass(frozen=True, slots=True)
class Abilities:
    """Abilities of a model by its template and projector; None: they were not read."""

    chat: bool | None = None
    """There is a template, of the model or of the stack."""
    thinking: bool = False
    tools: bool = False
    audio: bool = False
    """The projector takes sound."""
    lacks: frozenset[str] = frozenset()
    """Gates whose endpoint or field the build states that it does not have."""


UNREAD = Abilities()

NEEDED: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("chat", "stream", "json_schema", "thinking", "tools", "vision", "audio"),
        "route POST /v1/chat/completions",
    ),
    "thinking_budget": "field thinking_budget_tokens",
    "responses_api": "route POST /v1/responses",
    "messages_api": "route POST /v1/messages",
    "embeddings": "route POST /v1/embeddings",
    "rerank": "route POST /v1/rerank",
    "lora": "route GET /lora-adapters",
    "metrics": "route GET /metrics",
    "slots": "route POST /slots/:id_slot",
}
"""The fact of a build (`Catalogue.states`) without which a gate has nothing to ask."""


def offered(stack: Stack, model: Abilities = UNREAD) -> tuple[str, ...]:
    """Return the gates that ask for what a server offers, as far as it is known.

    By the options of the stack, and by the headers of its weights.
    """
    server = stack.server
    stated = (server.flags if server else None) or {}
    snapshot = stack.snapshot
    taken = snapshot is not None and snapshot.enabled is not False
    warm = any(it.file for it in (snapshot.warmup if snapshot else None) or ())
    kind = _vectors(server)
    talks = not kind and model.chat is not False
    offers = {
        kind: True,
        "auth": bool(stack.api_keys),
        "chat": talks,
        "stream": talks,
        "vision": not kind and stack.model.mmproj is not None,
        "audio": not kind and model.audio,
        "thinking": talks
        and model.thinking
        and (server is None or server.reasoning != "off"),
        "tools": talks
        and model.tools
        and (server is None or server.jinja is not False),
        "sampling": server is not None
        and any(getattr(server, name) is not None for name in _SAMPLERS),
        "lora": any(it.scale != 0 for it in stack.model.lora or ()),
        "speculative": server is not None and server.speculative is not None,
        "prompt_cache": taken and warm,
        "slots": "slot-save-path" in stated,
        "metrics": server is not None and server.metrics is True,
        "concurrency": talks and server is not None and (server.parallel or 1) > 1,
        "restore": taken,
    }
    here = (gate for gate, there in offers.items() if gate and there)
    return tuple(gate for gate in here if gate not in model.lacks)


def asked(stack: Stack) -> Gates:
    """Return the section of a stack about its gates; one with `auto` where it is."""
    if isinstance(stack.gates, Gates):
        return stack.gates
    return Gates.model_construct(auto=True)  # without the class being built


def automatic(stack: Stack, model: Abilities = UNREAD) -> tuple[str, ...]:
    """Return the gates that run though the stack does not name them."""
    stated = asked(stack)
    if not stated.auto:
        return ()
    cheap = (*_ALWAYS, *(it for it in offered(stack, model) if it in _CHEAP))
    left_out = stated.without or {}
    return tuple(
        it for it in cheap if getattr(stated, it) is None and it not in left_out
    )


def automatic_fields(stack: Stack, model: Abilities = UNREAD) -> dict[str, JsonValue]:
    """Return the fields of these gates, as if the stack had stated them."""
    found: dict[str, JsonValue] = {}
    for gate in automatic(stack, model):
        stated = _OPTIONS.get(gate, {})
        found |= {f"gates.{gate}.{name}": value for name, value in stated.items()}
        if not stated:
            found[f"gates.{gate}"] = {}
    return found


def unproven(stack: Stack, model: Abilities = UNREAD) -> tuple[str, ...]:
    """Return what a server offers and no gate asks for, with the reason if stated."""
    stated, runs = asked(stack), automatic(stack, model)
    left = (it for it in offered(stack, model) if it not in (*runs, "stream", "auth"))
    why = stated.without or {}
    return tuple(
        f"{it} ({why[it]})" if it in why else it
        for it in left
        if getattr(stated, it) is None
    )


def _inapplicable(stack: Stack, gates: Gates) -> Iterator[Diagnostic]:
    """Yield the gates that ask for what the server does not do."""
    kind = _vectors(stack.server)
    for gate in gates_in(gates):
        if kind and gate in _OF_CHAT:
            what = f"the gate `{gate}` asks for an answer, and the server is for {kind}"
            yield Diagnostic(f"gates.{gate}", what, f"write `gates: {{{kind}: {{}}}}`")
        if gate in {"embeddings", "rerank"} and kind != gate:
            option = "reranking" if gate == "rerank" else "embeddings"
            what = f"the gate `{gate}` needs a server that offers it"
            hint = f"set `server.{option}: true`"
            yield Diagnostic(f"gates.{gate}", what, hint, needs="server")
        if gate in {"sampling", "slots"} and gate not in offered(stack):
            lacks = "`slot-save-path`" if gate == "slots" else "sampler such as `top_k`"
            what = f"the gate `{gate}` proves nothing: the stack states no {lacks}"
            hint = "leave the gate out"
            yield Diagnostic(f"gates.{gate}", what, hint, needs="server")


def gates_in(gates: Gates) -> tuple[str, ...]:
    """Return the gates that a section names."""
    names = (it for it in type(gates).model_fields if it not in NO_GATES)
    return tuple(it for it in names if getattr(gates, it) is not None)


def _without(gates: Gates) -> Iterator[Diagnostic]:
    """Yield what cannot be left out."""
    known = [it for it in Gates.model_fields if it not in {*NO_GATES, *_NEEDED}]
    for name in gates.without or {}:
        path = f"gates.without.{name}"
        if name in _NEEDED:
            what = f"the gate `{name}` always runs"
            yield Diagnostic(path, what, "leave it out of `without`")
        elif name not in known:
            what = f"there is no gate `{shown(name)}`"
            yield Diagnostic(path, what, did_you_mean(name, known))
        elif getattr(gates, name) is not None:
            what = f"the section also asks for `{name}`"
            yield Diagnostic(path, what, "keep one of them")


def _gates(stack: Stack) -> Iterator[Diagnostic]:
    gates = asked(stack)
    yield from _inapplicable(stack, gates)
    yield from _without(gates)
    if gates.auth is not None and not stack.api_keys:
        what = "the gate `auth` needs a key to try"
        yield Diagnostic("gates.auth", what, "add `auth.api_key`", needs="auth")
    if gates.metrics is not None and not (stack.server and stack.server.metrics):
        what = "the gate `metrics` needs the counters served"
        hint = "set `server.metrics: true`"
        yield Diagnostic("gates.metrics", what, hint, needs="server.metrics")
    without = stack.snapshot is None or stack.snapshot.enabled is False
    if gates.restore is not None and without:
        what = "the gate `restore` needs a snapshot to restore from"
        yield Diagnostic(
            "gates.restore", what, "add `snapshot: {enabled: true}`", needs="snapshot"
        )
    if gates.restore is not None:
        yield from _restores(gates.restore)
    if gates.quality is not None and gates.quality.file is None:
        hint = "add `file: prompts.jsonl`, one prompt and what to expect a line"
        yield Diagnostic("gates.quality", "nothing says what to ask", hint)
    replaces = stack.rollout and stack.rollout.strategy == "replace"
    if gates.regression is not None and replaces:
        what = "the gate `regression` asks the live server, which `replace` stops first"
        hint = "write `rollout: {strategy: handover}`"
        yield Diagnostic("gates.regression", what, hint, needs="rollout")
    for name, custom in (gates.custom or {}).items():
        yield from _custom(name, custom)


def _restores(gate: Restore) -> Iterator[Diagnostic]:
    """A share that so many restores cannot prove would never be promoted."""
    if gate.success is None or gate.failures is not None:
        return
    times = gate.times or 1
    most = least_share(times, times)
    runs = f"{times} restores" if times > 1 else "one restore"
    what = (
        f"{runs} cannot prove `success: {gate.success:g}`: without a failure the lower"
        f" bound is {most:.2f} at {CONFIDENCE:.0%} confidence"
    )
    hint = f"write `times: {runs_needed(gate.success)}`"
    if times > 1:
        hint += f", or `success: {floor(most * 100) / 100:g}`"
    yield Diagnostic("gates.restore.success", what, hint)


def _custom(name: str, custom: Custom) -> Iterator[Diagnostic]:
    if not _NAME.fullmatch(name):
        what = f"expected a name such as `smoke-test`, got `{shown(name)}`"
        hint = "lower-case letters, digits, `-` and `_`, a letter first"
        yield Diagnostic("gates.custom", what, hint)
        return
    if custom.command is None and custom.python is None:
        hint = "add `command: [./smoke.sh]` or `python: checks.py:smoke`"
        yield Diagnostic(f"gates.custom.{name}", "nothing says what to run", hint)
    if custom.command is not None and custom.python is not None:
        what = "`command` and `python` both say what to run"
        yield Diagnostic(f"gates.custom.{name}.python", what, "keep one of them")


def _scaling(scaling: Scaling) -> Iterator[Diagnostic]:
    low, high = scaling.min_containers, scaling.max_containers
    if low is not None and high is not None and high < low:
        what = f"`max_containers` is below `min_containers` ({high} < {low})"
        hint = f"raise `max_containers` to {low}"
        yield Diagnostic("scaling.max_containers", what, hint)


def _flag(key: str, *, sectioned: bool) -> Iterator[Diagnostic]:
    path = f"server.flags.{key}"
    bare = key.lstrip("-")
    given, name = bare.replace("_", "-"), long_name(key)
    if not _OPTION.fullmatch(name):
        what = "expected the long name of an option"
        yield Diagnostic("server.flags", what, "write it as `llama-server --help` does")
    elif hint := _OWNED.get(name):
        yield Diagnostic(path, f"`{given}` is not set under `flags`", hint)
    elif refused := _REFUSED.get(name):
        yield Diagnostic(path, f"`{given}` {refused[0]}", refused[1])
    elif (field := _fields().get(name)) and (sectioned or _SPECULATIVE not in field):
        hint = f"write `{field}` instead"
        yield Diagnostic(path, f"`{given}` has a field", hint, about_key=True)
    elif key != name:
        what = f"options are written without dashes in front: `{key}`"
        if bare == key and "_" not in key:
            what = f"options are written by their long names: `{key}`"
        elif bare == key:
            what = f"options are written with dashes, not underscores: `{key}`"
        yield Diagnostic(path, what, f"write `{name}`")


_OTHERS_VARIABLES = re.compile(
    r"(?P<option>LLAMA_ARG_.+)"
    r"|(?P<key>LLAMA_API_KEY)"
    r"|(?P<secret>\w*(?:TOKEN|SECRET|PASSWORD|CREDENTIALS?)\w*|\w+_KEY)"
    r"|(?P<owned>DEPLOYER_.+|MODAL_.+|XDG_CONFIG_HOME|LD_.+|DYLD_.+|PATH|HOME)"
)


def _variable(name: str, engine: str, *, secret: bool) -> Iterator[Diagnostic]:
    path, found = f"{ENV}{name}", _OTHERS_VARIABLES.fullmatch(name.upper())
    if found is None:
        if secret and name.startswith(DECIDING):
            what = f"`{name}` decides how the server works: a reference pins no value"
            yield Diagnostic(path, what, "write the value itself")
    elif found["option"]:
        what = f"`{name}` is an option of llama-server in other words"
        yield Diagnostic(path, what, "write it under `server`")
    elif found["key"]:
        what = f"`{name}` is the API key of the server"
        yield Diagnostic(path, what, "write `auth: {api_key: …}`")
    elif found["secret"] and not secret:
        remote = ENGINES[engine].abilities.remote
        where = f"secret: SECRET, env: {name}" if remote else f"env: {name}"
        what = f"`{name}` names a secret, which is stated by reference"
        yield Diagnostic(path, what, f"write `{name}: {{{where}}}`")
    elif found["owned"]:
        what = f"`{name}` decides which code runs, or is set by the engine"
        yield Diagnostic(path, what, "leave it out")


def _rpc(llama: LlamaCpp) -> Iterator[Diagnostic]:
    on = {"GGML_RPC=ON", "GGML_RPC=1"} & {*(llama.cmake or ())}
    if llama.may_be_built and not on:
        what = "`rpc` needs a build with `GGML_RPC`"
        hint = "write `llama_cpp.cmake: [GGML_RPC=ON]`"
        yield Diagnostic(f"{FLAGS}rpc", what, hint, needs="llama_cpp.cmake")


_SPECULATIVE = "server.speculative."
_MORE_NAMES: Mapping[str, str] = {
    "draft": "n_max",
    "draft-n": "n_max",
    "draft-n-min": "n_min",
    "n-gpu-layers-draft": "n_gpu_layers",
    "spec-draft-ncmoe": "n_cpu_moe",
}
"""Further names of options that have a field in `server.speculative`."""


def _speculative(stack: Stack) -> Iterator[Diagnostic]:
    """A draft, what it is used by, and what that reads belong together."""
    stated = stack.server.speculative if stack.server else None
    flags = (stack.server.flags if stack.server else None) or {}
    draft, path = stack.model.draft, "server.speculative.type"
    if draft is not None and stated is None and "spec-type" not in flags:
        what = "nothing says how the draft is used: llama-server would only load it"
        hint = (
            "write `server.speculative: {type: draft-simple}`, or the type of its head"
        )
        yield Diagnostic("model.draft", what, hint, needs="server")
    if stated is None:
        return
    if draft is not None and stated.type not in DRAFTING:
        what = f"`{stated.type}` reads the text so far, and no draft"
        yield Diagnostic("model.draft", what, "leave it out, or write another type")
    if draft is None and stated.type in set(DRAFTING) - {"draft-mtp"}:
        what = f"`{stated.type}` needs a draft model"
        yield Diagnostic(path, what, "add `model.draft: {repo: …}`", needs="model")
    yield from _ignored(stated)


def _ignored(stated: Drafting) -> Iterator[Diagnostic]:
    """Options that the type does not read."""
    read = [
        name
        for name, field in fields_of(Drafting).items()
        if any(stated.type in flag.types for flag in field.flags)
    ]
    for name in Drafting.model_fields:
        if getattr(stated, name) is not None and name not in read:
            others = ", ".join(f"`{it}`" for it in read if it != "type")
            hint = f"it reads {others}" if others else "it reads no options"
            what = f"`{stated.type}` ignores `{name}`"
            yield Diagnostic(f"server.speculative.{name}", what, hint)


def flag_notes(stack: Stack) -> Iterator[Diagnostic]:
    """Options of speculative decoding under `flags`, where their field is better."""
    for key in (stack.server.flags if stack.server else None) or {}:
        field = _fields().get(long_name(key), "")
        if field.startswith(_SPECULATIVE):
            what = f"`{key}` has a field, which knows what each type reads"
            hint = f"write `{field}` instead"
            severity = Severity.WARNING
            yield Diagnostic(f"{FLAGS}{key}", what, hint, severity=severity)


@cache
def _fields() -> dict[str, str]:
    """Every option of a typed field, by long, negated and other names -> its path."""
    found: dict[str, str] = {}
    for name, path in _options():
        found.setdefault(name, path)
    for other, field in OTHER_NAMES.items():
        if field in Server.model_fields:
            found.setdefault(other.replace("_", "-"), f"server.{field}")
    for other, field in _MORE_NAMES.items():
        found.setdefault(other, f"{_SPECULATIVE}{field}")
    return found


def _options() -> Iterator[tuple[str, str]]:
    for section, above in ((Server, "server."), (Drafting, _SPECULATIVE)):
        for name, field in fields_of(section).items():
            for mark in field.flags:
                for words in filter(None, (mark.name, mark.off)):
                    yield words.split()[0].removeprefix("--"), f"{above}{name}"
