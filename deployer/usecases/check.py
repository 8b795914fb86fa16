"""Day to day: check."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from deployer.engines.contract import Endpoint, Engine, Observation
from deployer.engines.place import Keys
from deployer.errors import EngineError, UsageError
from deployer.gates import GATES, gate_of
from deployer.gates.checks.server import context_per_slot
from deployer.gates.harness.answers import Broken, Shape, read
from deployer.gates.harness.client import (
    Client,
    Comeback,
    Loading,
    Process,
    Target,
    Unanswered,
    connected,
)
from deployer.gates.harness.conversation import Conversation
from deployer.gates.harness.runner import (
    GateEvent,
    GateRequest,
    Tell,
    Waiting,
    run_gates,
)
from deployer.planning.events import AtWork, Event, Judged, Say, Verdict
from deployer.planning.plan import GATES_PREFIX, gates_of
from deployer.planning.resources import Kind
from deployer.planning.state import FAILED_RESTORES, UNUSED, Record
from deployer.show.client_configs import Live
from deployer.spelling import shown
from deployer.stack.fields.gate_options import Gate, Gates
from deployer.stack.fields.values import Flat, JsonValue
from deployer.usecases.context.deployed import deployed
from deployer.usecases.context.settings import Settings


class Role(Shape):
    """The part of /props by which a router is known."""

    role: str = ""


class ListedModel(Shape):
    """One model of a router."""

    id: str


class Listed(Shape):
    """The models of a router."""

    data: tuple[ListedModel, ...]


Needs = Callable[[Record], Mapping[str, Flat]]
"""The outputs of what a server is made from, by kind."""


@contextmanager
def restorable(
    target: Target,
    engine: Engine,
    record: Record,
    needs: Needs,
    say: Say,
    *,
    candidate: bool,
) -> Iterator[Target]:
    """The target with what brings its server back, where there is a snapshot.

    A candidate is put away and restored in its place.  A live server serves on: a copy
    is restored beside it, and retired in the end.
    """
    if Kind.SNAPSHOT not in record.needs:
        yield replace(target, why_no_snapshot=_why_no_snapshot(record))
        return
    copies: list[Record] = []
    staged = [record.outputs.get(FAILED_RESTORES)] if candidate else []

    def bring_back(idle: float) -> Comeback:
        if candidate:
            engine.idle(record, idle, say)
        found = engine.restore(record, needs(record), say, beside=not candidate)
        if not candidate:
            copies.append(found.record)
        there = engine.endpoint(found.record, candidate=candidate)
        told = (found.really, found.seconds, found.detail)
        where = (there.url, there.source_address)
        before = staged.pop() if staged else None
        failed = found.failed + (before if isinstance(before, int) else 0)
        return Comeback(*told, *where, captured=found.captured, failed=failed)

    try:
        yield replace(target, bring_back=bring_back)
    finally:
        for copy in copies:
            engine.retire(copy, say)


def _why_no_snapshot(record: Record) -> str:
    if (why := record.outputs.get(UNUSED)) is not None:
        return f"its snapshot is not used: {why}"
    return "this server was started without a snapshot"


_ROUTER_SECONDS: Final = 10.0
CUSTOM: Final = "custom"
_REGRESSION: Final = "regression"
_LOG_BYTES: Final = 256 * 1024
"""Bytes of the beginning of a log: a server's lines while it starts."""


@dataclass(frozen=True, slots=True)
class Judging:
    """Everything that judging needs beside the record: see `applying.steps.Judge`."""

    engine: Engine
    keys: Keys
    say: Say
    expects: Callable[[Record], Flat]
    """The fields of everything the server is made from."""
    keep: Callable[[Record, Sequence[Verdict]], None]
    """Takes the verdicts of a run, to keep a report."""
    folder: Path | None = None
    """Folder of the stack."""
    live: Record | None = None
    """The server that a candidate is to replace."""
    remote: bool = False
    """There is no process of it here."""
    needs: Needs = lambda _: {}
    """The outputs of what a server is made from, by kind."""

    def __call__(
        self, record: Record, gates: Sequence[str], *, candidate: bool
    ) -> tuple[Verdict, ...]:
        """The verdicts of the named gates."""
        requests = requests_of(gates, record.fields)
        target = self._target(record, candidate=candidate)
        if candidate and self.live is not None and _REGRESSION in gates:
            target = replace(target, live=self._target(self.live, candidate=False))
        with restorable(
            target, self.engine, record, self.needs, self.say, candidate=candidate
        ) as target:
            verdicts = run_gates(requests, target, say=self._tell)
        if candidate and not self.engine.observe(record).running:
            # On a shared port the live server answers for a candidate that died.
            raise EngineError(
                f"the candidate `{record.address}` died while its gates ran",
                hint="its log says why: nothing was promoted",
            )
        self.keep(record, verdicts)
        return verdicts

    def _target(self, record: Record, *, candidate: bool) -> Target:
        endpoint = self.engine.endpoint(record, candidate=candidate)
        target = target_of(endpoint, self.keys, self.expects(record))
        if not self.remote:
            process = process_of(self.engine.observe(record))
            target = replace(target, process=process)
        return replace(target, folder=self.folder)

    def _tell(self, event: GateEvent | Waiting) -> None:
        match event:
            case Waiting(gates, seconds):
                self.say(AtWork(gates, seconds))
            case GateEvent(verdict=Verdict() as verdict):
                self.say(Judged(verdict))
            case GateEvent():
                pass  # the others are reported soon enough


def target_of(endpoint: Endpoint, keys: Keys, expects: Flat) -> Target:
    """Where gates look; raises AuthError where a server has keys and none is set."""
    known = {name: key for name in endpoint.api_key_envs if (key := keys.get(name))}
    name = next(iter((*known, *endpoint.api_key_envs)), None)
    return Target(
        url=endpoint.url,
        api_key=None if name is None else keys.need(name, "API key"),
        api_key_name=name or "",
        other_keys={
            other: known.get(other) for other in endpoint.api_key_envs if other != name
        },
        source_address=endpoint.source_address,
        headers=keys.halves(endpoint.token_env or ""),
        expects=expects,
        build=_build_number(expects),
    )


def process_of(seen: Observation) -> Process:
    """The process of a server, as far as its engine tells."""
    pid, memory, log = (seen.facts.get(name) for name in ("pid", "memory", "log"))
    return Process(
        pid=pid if isinstance(pid, int) else None,
        memory=memory if isinstance(memory, int) else None,
        log=_beginning(Path(log)) if isinstance(log, str) else "",
        loading=_loading(seen.facts.get("loading")),
    )


def requests_of(gates: Sequence[str], fields: Flat) -> tuple[GateRequest, ...]:
    """The gates to run, with their options; `custom` stands for each of its commands.

    Raises UsageError for a gate that does not exist, and for a command that the
    stack does not name.
    """
    names = dict.fromkeys(name for gate in gates for name in _names(gate, fields))
    return tuple(GateRequest(name, parameters_of(name, fields)) for name in names)


def parameters_of(gate: str, fields: Flat) -> Gate:
    """The options of a gate, from the fields that a record keeps."""
    prefix = f"{GATES_PREFIX}{gate}."
    stated = {p.removeprefix(prefix): p for p in fields if p.startswith(prefix)}
    # Below an option stands the digest of a file that it names.
    options: JsonValue = {n: fields[p] for n, p in stated.items() if "." not in n}
    section, _, command = gate.partition(".")
    if command:
        options = {command: fields.get(f"{GATES_PREFIX}{gate}")}
    found = getattr(Gates.model_validate({section: options}, strict=False), section)
    parameters = found[command] if command else found
    if not isinstance(parameters, Gate):
        raise UsageError(f"gate `{gate}` is not one of this version of deployer")
    return parameters


def release_fields(records: Mapping[str, Record]) -> Flat:
    """The fields of all resources of a release together."""
    found: dict[str, JsonValue] = {}
    for kind in Kind:
        for record in records.values():
            if record.kind is kind:
                found |= record.fields
    return found


def _names(gate: str, fields: Flat) -> Iterator[str]:
    """The name of a gate, or those of the commands that it stands for."""
    if gate_of(gate) not in GATES or ("." in gate and gate_of(gate) != CUSTOM):
        raise UsageError(
            f"there is no gate `{gate}`", hint=f"gates are: {', '.join(GATES)}"
        )
    if gate_of(gate) != CUSTOM:
        yield gate
        return
    prefix = f"{GATES_PREFIX}{CUSTOM}."
    own = [
        p.removeprefix(prefix).partition(".")[0] for p in fields if p.startswith(prefix)
    ]
    found = [name for one in own if gate in {CUSTOM, name := f"{CUSTOM}.{one}"}]
    if not found:
        raise UsageError(
            f"the stack names no command for the gate `{gate}`",
            hint="write `gates: {custom: {smoke: {command: [./smoke.sh]}}}`",
        )
    yield from found


def _loading(seen: JsonValue) -> Loading | None:
    match seen:
        case {"status": int(status), "body": str(body)}:
            return Loading(status, body)
        case _:
            return None


def _beginning(log: Path) -> str:
    with suppress(OSError), log.open("rb") as stream:
        return stream.read(_LOG_BYTES).decode(errors="replace")
    return ""


def _build_number(expects: Flat) -> int | None:
    match expects.get("llama_cpp.tag"):
        case str(tag) if tag.startswith("b") and tag[1:].isdigit():
            return int(tag[1:])
        case _:
            return None


@dataclass(frozen=True, slots=True)
class Checking:
    """Which gates are run, and how."""

    gates: tuple[str, ...] = ()
    """None: those that the stack lists."""
    jobs: int | None = None
    """How many run at once; None: as many as the server has slots."""
    repeat: int = 1
    """How often each is run."""
    fail_fast: bool = False
    """Begin none after one that holds back."""
    options: Flat = field(default_factory=dict)
    """Options of gates by dotted path, instead of those of the stack."""
    process: bool = True
    """Look at the process first, for gates that judge its memory or its log."""
    model: str | None = None
    """The one to ask of the models of a router."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The verdicts of the gates on a running server."""

    url: str
    verdicts: tuple[Verdict, ...]


def check(
    stack_file: Path, settings: Settings, checking: Checking, tell: Tell
) -> Checked:
    """Run gates against what is live: the named ones, or all that the stack lists."""
    if checking.model is not None:
        raise UsageError(
            "a stack serves one model: `--model` belongs to `--url`",
            hint=f"deployer check {stack_file}",
        )
    found = deployed(stack_file, settings)
    server, endpoint = found.server, found.answering()
    folder = stack_file.parent.absolute()
    fields = release_fields(found.state.live)
    target = replace(target_of(endpoint, settings.keys(folder), fields), folder=folder)
    if checking.process:
        target = replace(target, process=process_of(found.engine.observe(server)))
    named = checking.gates or gates_of(server.fields)
    with restorable(
        target, found.engine, server, lambda _: found.needs, unheard, candidate=False
    ) as looked_at:
        requests = requests_of(named, {**server.fields, **checking.options})
        return _checked(requests, looked_at, checking, tell)


def check_url(
    url: str,
    api_key_env: str | None,
    settings: Settings,
    checking: Checking,
    tell: Tell,
) -> Checked:
    """Run gates against any llama-server, or one model of a router.

    Raises UsageError for a router where no model of its own is named.
    """
    endpoint = Endpoint(url, () if api_key_env is None else (api_key_env,))
    target = target_of(endpoint, settings.keys(), {})
    _refuse_router(target, asyncio.run(_models_of_router(target)), checking.model)
    target = replace(target, model=checking.model)
    requests = requests_of(checking.gates or ("health", "chat", "stream"), {})
    return _checked(requests, target, checking, tell)


async def _models_of_router(target: Target) -> tuple[str, ...] | None:
    """Return the models of a router; None for another server, or one that is silent."""
    try:
        async with asyncio.timeout(_ROUTER_SECONDS), connected(target) as http:
            client = Client(http, target, patient=False)
            props = await client.get("/props")
            if read(props, Role).role != "router":
                return None
            listed = read(await client.get("/models"), Listed)
            return tuple(it.id for it in listed.data)
    except (TimeoutError, Unanswered, Broken):
        return None


def _refuse_router(
    target: Target, models: tuple[str, ...] | None, model: str | None
) -> None:
    known = ", ".join(models or ())
    if models is None and model is not None:
        raise UsageError(
            f"`{target.url}` is not a router of models", hint="leave `--model` out"
        )
    if models is not None and model not in models:
        what = "is a router" if model is None else f"has no model `{shown(model)}`"
        raise UsageError(
            f"`{target.url}` {what}: its models are {known or 'none'}",
            hint=f"name one of them: `--model {models[0] if models else 'NAME'}`",
        )


def unheard(_event: Event) -> None:
    """Takes what a copy says; the table of the gates is all that is shown."""


def _checked(
    requests: Sequence[GateRequest], target: Target, checking: Checking, tell: Tell
) -> Checked:
    verdicts = run_gates(
        requests,
        target,
        say=tell,
        jobs=checking.jobs,
        repeat=checking.repeat,
        fail_fast=checking.fail_fast,
    )
    return Checked(target.url, verdicts)


def live_of(stack_file: Path, settings: Settings) -> Live:
    """Return what clients need to know; raises UsageError where nothing is live."""
    found = deployed(stack_file, settings)
    end = found.engine.endpoint(found.server, candidate=False)
    fields = release_fields(found.state.live)
    alias = fields.get("model.alias")
    return Live(
        stack=found.state.stack,
        url=end.url,
        # Of several names a client takes the first; the server answers to all.
        model=alias.split(",")[0] if isinstance(alias, str) else found.state.stack,
        api_key_env=end.api_key_env,
        context=_context(fields),
        token_env=end.token_env if end.api_key_envs else None,
    )


def _context(fields: Flat) -> int | None:
    """Return what one slot has: all of them share what the stack states."""
    whole, parallel = fields.get("server.ctx_size"), fields.get("server.parallel")
    if not isinstance(whole, int) or not whole:
        return None
    slots = parallel if isinstance(parallel, int) and parallel > 0 else None
    unified = fields.get("server.kv_unified") is True
    return context_per_slot(whole, slots, unified=unified)


@dataclass(frozen=True, slots=True)
class Chatting:
    """How it is talked with the server."""

    system: str = ""
    budget: int | None = None
    """Tokens to think with; None: as the server does."""
    limit: int | None = None
    """Tokens of an answer at most; None: as the server does."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A conversation, and who it is with."""

    conversation: Conversation
    name: str
    url: str


def chat_with(stack_file: Path, settings: Settings, chatting: Chatting) -> Opened:
    """A conversation with the live release; raises UsageError where there is none."""
    live = live_of(stack_file, settings)
    found = deployed(stack_file, settings)
    folder = stack_file.parent.absolute()
    conversation = Conversation(
        target_of(found.answering(), settings.keys(folder), {}),
        model=live.model,
        system=chatting.system,
        budget=chatting.budget,
        limit=chatting.limit,
        hint=f"`deployer status {stack_file}` says how it is, `deployer logs` why",
    )
    release = found.state.releases[-1].number if found.state.releases else 0
    return Opened(conversation, f"{live.stack} · release {release}", live.url)


def chat_at(
    url: str, api_key_env: str | None, settings: Settings, chatting: Chatting
) -> Opened:
    """A conversation with any llama-server."""
    endpoint = Endpoint(url, () if api_key_env is None else (api_key_env,))
    conversation = Conversation(
        target_of(endpoint, settings.keys(), {}),
        system=chatting.system,
        budget=chatting.budget,
        limit=chatting.limit,
        hint="look at the log of the server",
    )
    return Opened(conversation, "llama-server", url)
