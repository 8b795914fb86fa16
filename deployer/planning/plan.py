"""The difference between the desired resources and the recorded state, with reasons.

No import here is slow: a plan that changes nothing shows its line from the cache.

A state can be lost, aged or mixed up while the servers of its stack live on.  Each of
them is adopted (it is what the stack asks for), replaced (clients reach it, so it
stays until its successor is proven) or retired first (no client reaches it).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from re import compile as form
from typing import TYPE_CHECKING, Annotated, NamedTuple

from deployer.planning.resources import (
    LOCK,
    Address,
    EngineName,
    Graph,
    Kind,
    Node,
    StackName,
    digest,
)
from deployer.planning.state import (
    HANDED_OVER,
    Begun,
    Loose,
    Record,
    Release,
    State,
)
from deployer.stack.fields.values import (
    KEY,
    NO_GATES,
    Flat,
    JsonValue,
    canonical,
    show_bytes,
)

if TYPE_CHECKING:
    from deployer.stack.fields.values import Marks


GATES_PREFIX = "gates."
UNPROVEN = "unproven"
"""Where the spec of a server has what it offers and no gate asks for."""
ARGV = "argv"
"""Where the spec of what runs holds its command line."""


class Action(IntEnum):
    """The fate of a resource, weakest first: the largest cause decides."""

    KEEP = 0
    NOTE = 1
    """The new fields are written down; nothing is touched."""
    VALIDATE = 2
    """The gates run again on what is live."""
    UPDATE = 3
    """Changed in place, without a restart."""
    START = 4
    """It should run and does not: it is started as it was."""
    REPLACE = 5
    CREATE = 6
    DELETE = 7


class Cause(StrEnum):
    """Why something happens."""

    FIELD = "field"
    """The user changed a field."""
    LOCK = "lock"
    """The lock file has another fact."""
    NEED = "need"
    """A resource that it is made from is replaced."""
    NEW = "new"
    """It does not exist yet."""
    UNDECLARED = "undeclared"
    """The stack no longer asks for it."""
    RECIPE = "recipe"
    """This version of deployer makes it differently."""
    DRIFT = "drift"
    """Reality differs from the state."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One cause of an action; there is no action without one."""

    calls_for: Action
    cause: Cause
    path: str = ""
    """Field path, or the role of the resource that is needed."""
    before: JsonValue = None
    after: JsonValue = None
    detail: str = ""
    """The observation, for drift."""


@dataclass(frozen=True, slots=True)
class Change:
    """The fate of one resource, and the reasons."""

    address: Address
    kind: Kind
    reasons: tuple[Reason, ...]
    before: Record | None
    after: Node | None
    ready: bool = False
    """An earlier run has made it already; only the promotion is missing."""

    @property
    def role(self) -> str:
        """See `Node.role`."""
        return self.address.partition("/")[2]

    @property
    def action(self) -> Action:
        """The largest action that a reason calls for."""
        return max((r.calls_for for r in self.reasons), default=Action.KEEP)


@dataclass(frozen=True, slots=True)
class Drift:
    """One way in which the world differs from the state."""

    address: str
    detail: str


@dataclass(frozen=True, slots=True)
class Plan:
    """All changes of one stack, in the order in which they are made."""

    stack: StackName
    engine: EngineName
    lineage: Annotated[str, form(f"({KEY.pattern})?"), "letters and digits"]
    """From the state that this plan was made from; empty for a new stack."""
    serial: int
    """From the state that this plan was made from; apply refuses any other."""
    changes: tuple[Change, ...]
    gates: tuple[str, ...]
    """Run on the candidate, or on what is live where only they changed."""
    unfinished: tuple[Loose, ...] = ()
    """Left by an earlier run on its way in or out."""
    resumes: Release | None = None
    """The promotion that an earlier run began and did not end."""
    drift: tuple[Drift, ...] = ()
    """How the world was seen to differ from the state."""
    rolled_back: int = 0
    """The release that was rolled back, and that the stack still asks for; 0: none."""

    @property
    def is_empty(self) -> bool:
        """True where applying would do nothing at all."""
        unchanged = all(change.action is Action.KEEP for change in self.changes)
        return unchanged and not self.unfinished and self.resumes is None

    @property
    def unproven(self) -> tuple[str, ...]:
        """The names of what the server offers and no gate asks for."""
        change = self.change(Kind.SERVER)
        spec = change.after.spec if change is not None and change.after else {}
        match spec.get(UNPROVEN):
            case [*names]:
                return tuple(map(str, names))
            case _:
                return ()

    @property
    def id(self) -> str:
        """Short name: the same for the same changes from the same state."""
        content: list[JsonValue] = [self.stack, self.lineage, self.serial]
        content += [
            [c.address, c.action.name, _key(c.after), _fields(c.after)]
            for c in self.changes
        ]
        return digest(content)[:6]

    @property
    def destroys(self) -> bool:
        """True where nothing is to be left."""
        return all(change.after is None for change in self.changes)

    def change(self, kind: Kind) -> Change | None:
        """The change of one kind of resource."""
        return next((c for c in self.changes if c.kind is kind), None)


def make_plan(graph: Graph, state: State, *, drift: tuple[Drift, ...] = ()) -> Plan:
    """Compare; touches nothing."""
    seen = _once_resumed(state) if graph else state
    drift += (*_stopped(seen), *_half_made(seen))
    wanted = tuple(_wanted(node, seen, graph, drift) for node in graph.values())
    gone = tuple(
        Change(
            record.address,
            record.kind,
            (Reason(Action.DELETE, Cause.UNDECLARED),),
            record,
            None,
        )
        for record in reversed(tuple(seen.live.values()))
        if record.address not in graph
    )
    return Plan(
        stack=state.stack,
        engine=state.engine,
        lineage=state.lineage if state.serial else "",
        serial=state.serial,
        changes=wanted + gone,
        gates=next(
            (gates_of(n.fields) for n in graph.values() if n.kind is Kind.SERVER), ()
        ),
        unfinished=tuple(_unfinished(graph, seen)),
        resumes=state.promoting,
        drift=drift,
    )


def rolled_back(graph: Graph, state: State) -> int:
    """Return the release that was rolled back and that the graph asks for; else 0.

    It stays out until the stack says something else, be it of its gates.
    """
    live = state.live_release
    target = live.rolled_back_to if live is not None else None
    if live is None or target is None:
        return 0
    asked = next((n for n in graph.values() if n.kind is Kind.SERVER), None)
    skipped = (r for r in state.releases if target < r.number < live.number)
    return next(
        (
            release.number
            for release in skipped
            for record in release.records.values()
            if asked is not None
            and record.is_same_thing(asked)
            and record.fields == asked.fields
            and not (state.server and state.server.is_same_thing(asked))
        ),
        0,
    )


def gates_of(fields: Flat) -> tuple[str, ...]:
    """The gates that the fields of a server ask for; health always is among them."""
    asked = (p.split(".")[1] for p in fields if p.startswith(GATES_PREFIX))
    return tuple(dict.fromkeys(("health", *(it for it in asked if it not in NO_GATES))))


def _once_resumed(state: State) -> State:
    """The state once the promotion that an earlier run began is done."""
    if state.promoting is None:
        return state
    return state.promoted(keep=len(state.releases) + 1)


def _unfinished(graph: Graph, state: State) -> Iterator[Loose]:
    """Yield what has to go: all loose things but artefacts that are still wanted."""
    promoting = state.promoting.records.values() if state.promoting else ()
    for loose in state.loose:
        wanted = graph.get(loose.record.address)
        goes_on = wanted is not None and loose.record.is_same_thing(wanted)
        artefact = loose.record.kind is not Kind.SERVER
        handed_over = any(loose.record.is_same_thing(it) for it in promoting)
        if handed_over and not artefact:
            continue
        if loose.begun is not Begun.STOPPED and not (artefact and goes_on):
            yield loose
    for record in promoting:  # it may be up, or have the traffic
        if record.kind is Kind.SERVER:
            outputs = {**record.outputs, HANDED_OVER: True}
            yield Loose(Begun.STAGED, replace(record, outputs=outputs))


def _stopped(state: State) -> Iterator[Drift]:
    for loose in state.loose:
        if loose.begun is Begun.STOPPED:
            detail = "an earlier run stopped it to make room"
            yield Drift(loose.record.address, detail)


def _half_made(state: State) -> Iterator[Drift]:
    """Yield what is live, and was being made again when an earlier run died."""
    for loose in state.loose:
        live = state.live.get(loose.record.address)
        if loose.begun is Begun.STAGING and live and live.is_same_thing(loose.record):
            detail = "an earlier run died while it made it again"
            yield Drift(loose.record.address, detail)


def _wanted(node: Node, state: State, graph: Graph, drift: tuple[Drift, ...]) -> Change:
    record = state.live.get(node.address)
    made = state.made.get(node.address)
    change = Change(
        node.address,
        node.kind,
        (Reason(Action.CREATE, Cause.NEW),),
        record,
        node,
        ready=made is not None and made.is_same_thing(node),
    )
    if record is None:
        return change
    differences = tuple(_differences(node, record, graph, state.live))
    return replace(change, reasons=tuple(_reasons(node, record, differences, drift)))


def _reasons(
    node: Node,
    record: Record,
    differences: tuple[Reason, ...],
    drift: tuple[Drift, ...],
) -> Iterator[Reason]:
    if record.key == node.key:
        yield from (
            # With an equal key, what could cost more is worth no more than a note.
            replace(reason, calls_for=_calls_for(reason, Action.NOTE))
            for reason in differences
        )
        amends = Action.START if node.kind is Kind.SERVER else Action.REPLACE
        yield from (
            Reason(amends, Cause.DRIFT, detail=seen.detail)
            for seen in drift
            if seen.address == node.address
        )
        return
    needs = [
        Reason(Action.REPLACE, Cause.NEED, kind, record.needs.get(kind), key)
        for kind in dict.fromkeys((*node.needs, *record.needs))
        if record.needs.get(kind) != (key := node.needs.get(kind))
    ]
    fields = [
        replace(reason, calls_for=_calls_for(reason, Action.REPLACE))
        for reason in differences
    ]
    causes = (*needs, *map(_restarting, fields))
    if all(reason.calls_for < Action.REPLACE for reason in causes):
        yield _respelled(node, record) or Reason(Action.REPLACE, Cause.RECIPE)
    yield from causes


def _restarting(reason: Reason) -> Reason:
    """A field that changes in place elsewhere, and here with the key alone."""
    if reason.cause is Cause.FIELD and _marks(reason.path).ability:
        return replace(reason, calls_for=Action.REPLACE)
    return reason


def _respelled(node: Node, record: Record) -> Reason | None:
    """The words of the command line that another build spells differently."""
    match record.spec.get(ARGV), node.spec.get(ARGV):
        case [*old], [*new] if old != new:
            gone = [word for word in old if word not in new]
            come = [word for word in new if word not in old]
            return Reason(Action.REPLACE, Cause.RECIPE, ARGV, gone, come)
        case _:
            return None


def _differences(
    node: Node, record: Record, graph: Graph, live: Mapping[str, Record]
) -> Iterator[Reason]:
    """Fields whose meaning differs; facts only where no field explains them.

    A field that moved to another resource unchanged, as when snapshots are turned
    on, is no difference.
    """
    paths = sorted(record.fields.keys() | node.fields.keys())
    before = {**_written(live.values()), **record.fields}
    after = {**_written(graph.values()), **node.fields}
    changed = [p for p in paths if not _same(p, before, after)]
    written = [p for p in changed if not p.startswith(LOCK)]
    for path in written or changed:
        cause = Cause.LOCK if path.startswith(LOCK) else Cause.FIELD
        yield Reason(Action.NOTE, cause, path, before.get(path), after.get(path))


def _written(things: Iterable[Node | Record]) -> Flat:
    """The fields of all resources together, without the facts of each."""
    return {
        path: value
        for thing in things
        for path, value in thing.fields.items()
        if not path.startswith(LOCK)
    }


def _same(
    path: str, before: Mapping[str, JsonValue], after: Mapping[str, JsonValue]
) -> bool:
    if before.get(path) == after.get(path):
        return True
    unit = _marks(path).unit
    try:
        old, new = canonical(unit, before.get(path)), canonical(unit, after.get(path))
    except ValueError:
        return False
    return old == new


def _calls_for(reason: Reason, stronger: Action) -> Action:
    """Return the action of a field; ``stronger`` where it cannot change in place."""
    if reason.cause is Cause.LOCK:
        return stronger
    from deployer.stack.fields.values import Effect  # noqa: PLC0415 - as in _marks

    in_place = {
        Effect.NOTE: Action.NOTE,
        Effect.GATE: Action.VALIDATE,
        Effect.UPDATE: Action.UPDATE,
    }
    return in_place.get(_marks(reason.path).effect, stronger)


def _marks(path: str) -> "Marks":
    """The marks of a field; the model is imported only where something differs."""
    from deployer.stack.fields.marks import marks_at  # noqa: PLC0415 - see above
    from deployer.stack.fields.model import Stack  # noqa: PLC0415 - see above

    return marks_at(Stack, path)


def _key(node: Node | None) -> str:
    return "" if node is None else node.key


def _fields(node: Node | None) -> JsonValue:
    return None if node is None else dict(node.fields)


Parts = tuple[tuple[str, int], ...]
"""Bytes by what they are for, in the order they are told."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The memory of one kind that a server has, and what it needs of it."""

    where: str
    """``L40S 48 GB``, ``this machine``."""
    capacity: int
    """Bytes; 0 where nobody knows."""
    parts: Parts
    """Needed as soon as the server is healthy."""
    host: Parts = ()
    """Host memory beside it, where ``parts`` lie in a GPU."""
    grows: Parts = ()
    """Host memory that load can add."""
    unsure: tuple[str, ...] = ()
    """Unknown, and so not in the figures."""

    @property
    def total(self) -> int:
        """Bytes needed."""
        return sum(size for _, size in self.parts)

    @property
    def holds(self) -> bool:
        """True where it fits, or the capacity is unknown."""
        return not self.capacity or self.total <= self.capacity


EVERY_CARD = "every GPU"
"""Stands for the GPUs of a server that names none: llama-server takes all it finds."""
MEMORY = "memory"
"""Where the spec of a server has the bytes that it needs of a GPU, and those of it."""


class Share(NamedTuple):
    """The GPUs of this machine that a server uses, and how much of one."""

    cards: tuple[str, ...]
    need: int = 0
    """Bytes; 0 where that is unknown, or spread over several."""
    capacity: int = 0


def share_of(fields: Flat, memory: JsonValue) -> Share:
    """Return the share of a server, from its fields and `MEMORY` of its spec."""
    cards = tuple(_cards(fields))
    match memory:
        case [int(need), int(capacity)] if len(cards) == 1 and EVERY_CARD not in cards:
            return Share(cards, need, capacity)
        case _:
            return Share(cards)


def _cards(fields: Flat) -> Iterator[str]:
    match fields.get("server.device"), fields.get("server.env.CUDA_VISIBLE_DEVICES"):
        case [*named], _:
            yield from (str(name) for name in named if name != "none")
        case _, None:
            yield from (EVERY_CARD,) if "gpu" in fields else ()
        case _, visible:
            numbers = str(visible).split(",")
            yield from (f"CUDA{number}" for number in numbers if number)


def memory_of(fit: Fit | None) -> list[JsonValue]:
    """Return what a server needs and has of a GPU; nothing where that is unknown."""
    if fit is None or not fit.capacity or fit.unsure:
        return []
    return [fit.total, fit.capacity]


def crowded(stacks: Mapping[str, Share]) -> Iterator[tuple[str, str]]:
    """Yield what is known of each GPU that several stacks use, unless they fit in it.

    Behind one that is too small for them stands a hint; else it is unknown.
    """
    found = dict.fromkeys(card for it in stacks.values() for card in it.cards)
    for card in [it for it in found if it != EVERY_CARD] or found:
        users = {n: it for n, it in stacks.items() if {card, EVERY_CARD} & {*it.cards}}
        if len(users) < 2:
            continue
        names = " and ".join(f"`{name}`" for name in users)
        need = sum(it.need for it in users.values())
        if not all(it.need for it in users.values()):
            yield f"{names} use {card}; whether all of them fit is unknown", ""
        elif need > (has := min(it.capacity for it in users.values())):
            said = f"{names} use {card}, and need {show_bytes(need)} of its"
            hint = "name another GPU in `server.device`, or lower `server.ctx_size`"
            yield f"{said} {show_bytes(has)}", hint


def fit_data(fit: Fit) -> dict[str, JsonValue]:
    """A fit as JSON; bytes throughout."""
    return {
        "where": fit.where,
        "capacity": fit.capacity,
        "total": fit.total,
        "fits": fit.holds,
        "parts": dict(fit.parts),
        "host": dict(fit.host),
        "grows": dict(fit.grows),
        "unsure": list(fit.unsure),
    }


class RunningServer(NamedTuple):
    """A living server of a stack, in its state or not."""

    record: Record
    """As it was noted when it was started; without that only how to end it."""
    pid: int
    started: float
    """Clock ticks since this boot; only comparable on one machine."""
    port: int
    serves: bool = False
    """New connections of clients reach it."""


def reconcile(
    state: State, running: Sequence[RunningServer], wanted: Graph
) -> tuple[State, tuple[Drift, ...]]:
    """Return the state with the servers it lacks, and each of them as drift.

    The serial stays: nothing is written before the plan is carried out.
    """
    node = next((n for n in wanted.values() if n.kind is Kind.SERVER), None)
    front = _front(state, running, node)
    drift = []
    for server in running:
        known = _standing(state, server.record)
        if known == _SERVES or (known and server is not front):
            continue
        if node is not None and server.record.is_same_thing(node):
            fate = "adopted"
            state = _without(state, server.record)
        elif server is front:
            fate = "replaced" if node is not None else "taken as live"
            state = _live(state, server.record, running, node)
        else:
            fate = "retired"
            state = _loose(state, server.record)
        if server is front:
            # A promotion that a lost state began is over, or never was of this one.
            state = replace(state, promoting=None)
        drift.append(Drift(_name(server.record), _detail(server, known, fate)))
    return state, tuple(drift)


_SERVES = "live"


def _standing(state: State, server: Record) -> str:
    """How the state names a server; empty where it does not."""
    if any(record.is_same_thing(server) for record in state.serving):
        return _SERVES
    loose = (it.begun for it in state.loose if it.record.is_same_thing(server))
    return next(loose, "")


def _front(
    state: State, running: Sequence[RunningServer], node: Node | None
) -> RunningServer | None:
    """The one that counts as live: known before unknown, then by port, then by age."""
    port = None if node is None else node.fields.get("local.port")
    return max(
        (it for it in running if it.serves),
        key=lambda it: (
            _standing(state, it.record) == _SERVES,
            it.port == port,
            it.started,
        ),
        default=None,
    )


def _live(
    state: State, server: Record, running: Sequence[RunningServer], node: Node | None
) -> State:
    """The state with another live server; the one it named goes if it runs."""
    before = state.live.get(server.address)
    loose = tuple(
        it
        for it in state.loose
        if it.begun is not Begun.STOPPED and not it.record.is_same_thing(server)
    )
    live = {**state.live, server.address: server}
    state = replace(state, live=live, loose=loose)
    if before is None or not any(it.record.is_same_thing(before) for it in running):
        return state
    if node is not None and before.is_same_thing(node):
        return state  # the plan stages it, and finds it running
    return _loose(state, before)


def _loose(state: State, server: Record) -> State:
    state = _without(state, server)
    return replace(state, loose=(*state.loose, Loose(Begun.RETIRING, server)))


def _without(state: State, server: Record) -> State:
    loose = tuple(it for it in state.loose if not it.record.is_same_thing(server))
    return replace(state, loose=loose)


def _name(server: Record) -> str:
    """Not the address alone: drift there would call for a start of what is live."""
    return f"{server.address} {server.key[:8]}"


def _detail(server: RunningServer, known: str, fate: str) -> str:
    where = f"{known} in the state" if known else "not in the state"
    clients = ", and clients reach it" if server.serves else ""
    return (
        f"runs here on port {server.port}, {where}: pid {server.pid}{clients};"
        f" it is {fate}"
    )
