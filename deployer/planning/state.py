"""The deployed resources, as data.  Never parsed back into the model of today.

The state names everything that may exist, and is written before and after every
effect:

    make     loose: staging   (then the engine works)  -> made
    stage    loose: staging   (then the engine works)  -> loose: staged
    promote  promoting        (then the engine works)  -> live, and a release
    retire   loose: retiring  (then the engine works)  -> gone
    stop     loose: stopped   (then the engine works); gone when it is started again
    update   live, with the fields that change in doubt (then the engine works) -> live
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Final, NamedTuple

from deployer.planning.resources import (
    Address,
    EngineName,
    Graph,
    Key,
    Kind,
    Needs,
    Node,
    StackFile,
    StackName,
    key_of,
)
from deployer.stack.fields.values import KEY, Flat, JsonValue, show_seconds

VERSION = 4
"""Version of the state's form; a newer one is refused."""

IN_DOUBT: JsonValue = {"in doubt": True}
"""Stands for the value of a field while the engine changes it: like no other value,
so that a run that dies here is repaired whatever the stack says next."""


@dataclass(frozen=True, slots=True)
class Record:
    """The thing that an engine made for one address."""

    address: Address
    kind: Kind
    key: Key
    fields: Flat
    needs: Needs
    spec: Flat
    outputs: Flat = field(default_factory=dict)

    @property
    def role(self) -> str:
        """See `Node.role`."""
        return self.address.partition("/")[2]

    def is_same_thing(self, other: "Record | Node") -> bool:
        """An engine finds a thing by its address and its key alone."""
        return (self.address, self.key) == (other.address, other.key)


HANDED_OVER: Final = "handed_over"
"""Output of a record whose promotion began: it may have the traffic."""


WORKSPACE: Final = "workspace"
"""Output of a server: the account of the engine that it was deployed to."""
PLAIN, CAPTURE = "plain", "capture"
"""Outputs of a snapshot: seconds of a start without one, and of one that takes it."""
MEASURED: Final = "measured"
"""Output of a server with a snapshot: seconds by kind of start, as far as measured."""
UNUSED: Final = "unused"
"""Output of a snapshot that `enabled: auto` decided against, and of its server: why."""
FAILED_RESTORES: Final = "failed_restores"
"""Output of a candidate: how many restores failed while it was staged."""
WITHOUT: Final = "without"
"""Where the spec of a server names the snapshot that it was decided against."""
_ENABLED: Final = "snapshot.enabled"
_WORTH: Final = 0.8
"""Share of a plain start that a restore takes at most to be worth a capture: both are
measured once, and starts differ by more than a few per cent."""


class Measured(NamedTuple):
    """Seconds that starts of one kind take; None: not measured."""

    plain: float | None = None
    capture: float | None = None
    """A start that takes a snapshot."""
    restore: float | None = None

    @property
    def line(self) -> str:
        """All three for people."""
        parts = zip(("plain start", "capture", "restore"), self, strict=True)
        return " · ".join(
            f"{name} {'not measured' if took is None else show_seconds(took)}"
            for name, took in parts
        )

    @property
    def why_not(self) -> str:
        """Why a snapshot is not worth it; empty where a restore is clearly faster."""
        if self.restore is None or self.plain is None:
            what = "restore" if self.restore is None else "plain start"
            return f"no {what} was measured"
        if self.restore <= _WORTH * self.plain:
            return ""
        return (
            f"a restore takes {show_seconds(self.restore)}, a plain start"
            f" {show_seconds(self.plain)}"
        )


def starts_of(server: "Record | None") -> str:
    """Return what starts of a recorded server took; empty where none was measured."""
    found = None if server is None else server.outputs.get(MEASURED)
    if server is None or not isinstance(found, dict):
        return ""
    known = ((name, found.get(name)) for name in Measured._fields)
    seconds = {name: float(v) for name, v in known if isinstance(v, int | float)}
    why = server.outputs.get(UNUSED)
    unused = f"; the snapshot is not used: {why}" if why else ""
    return f"{Measured(**seconds).line}{unused}"


def is_automatic(node: Node) -> bool:
    """Return whether measurements decide about the snapshot of a server."""
    return node.fields.get(_ENABLED) == "auto"


def without_snapshot(server: Node, snapshot: Node) -> Node:
    """Return the server that starts plainly, with all that the snapshot stands for."""
    needs = {role: key for role, key in server.needs.items() if role != Kind.SNAPSHOT}
    content: dict[str, JsonValue] = {WITHOUT: snapshot.key, "server": server.key}
    return replace(
        server,
        key=key_of(Kind.SERVER, 1, content, needs),
        fields={**snapshot.fields, **server.fields},
        needs=needs,
        spec={**server.spec, WITHOUT: snapshot.key},
    )


class Begun(StrEnum):
    """Where a thing that is not live stands."""

    STAGING = "staging"
    STAGED = "staged"
    RETIRING = "retiring"
    STOPPED = "stopped"
    """It is live, and was stopped to make room for a candidate."""


@dataclass(frozen=True, slots=True)
class Loose:
    """A thing on its way in or out."""

    begun: Begun
    record: Record


ROLLBACK = "rollback to "
"""Begins the cause of a release that a rollback promoted again; a reason may follow
the number, behind a colon."""


@dataclass(frozen=True, slots=True)
class Release:
    """One promotion: all that is needed to promote it again."""

    number: int
    at: str
    """UTC, ISO 8601."""
    cause: str
    """The command that led to it: ``apply``, or ``rollback to 3``."""
    records: Mapping[str, Record]
    gates: tuple[Mapping[str, JsonValue], ...] = ()
    """Summaries of the verdicts of its candidate."""

    @property
    def starts(self) -> str:
        """The seconds that its candidate took to start; empty: not measured."""
        servers = (r for r in self.records.values() if r.kind is Kind.SERVER)
        return starts_of(next(servers, None))

    @property
    def rolled_back_to(self) -> int | None:
        """The release that it promoted again; None where it is no rollback."""
        _, is_rollback, rest = self.cause.rpartition(ROLLBACK)
        target = rest.partition(":")[0]
        if not is_rollback or not target.isdecimal() or len(target) > 9:
            return None
        return int(target) if int(target) < self.number else None


@dataclass(frozen=True, slots=True)
class Hold:
    """Why nothing is applied to a stack for a while."""

    why: str
    by: str
    """Who said so: an account of CI, or a user and a host."""
    at: str
    """UTC, ISO 8601."""


@dataclass(frozen=True, slots=True)
class State:
    """Everything of one stack that exists, or may exist."""

    stack: StackName
    engine: EngineName
    lineage: Annotated[str, KEY, "letters and digits"]
    """Random, given once; never changes."""
    serial: int = 0
    """Grows by one with every change."""
    live: Mapping[str, Record] = field(default_factory=dict)
    """Live records, by address."""
    made: Mapping[str, Record] = field(default_factory=dict)
    """Artefacts that are ready, and not live yet."""
    loose: tuple[Loose, ...] = ()
    promoting: Release | None = None
    """The promotion that began and has not ended."""
    releases: tuple[Release, ...] = ()
    """Kept for a rollback, oldest first; the last one is live unless destroyed."""
    released: int = 0
    """Number of the newest release there ever was."""
    file: StackFile = ""
    """Name of the stack file it belongs to; two files of one name share no state."""
    host: str = ""
    """Name of the machine that its servers run on; empty: not known, or none."""
    machine: str = ""
    """Digest that identifies that machine, whatever its name is."""
    hold: Hold | None = None
    """Nothing is applied while there is one."""

    @property
    def server(self) -> Record | None:
        """The live server, if there is one."""
        return next((r for r in self.live.values() if r.kind is Kind.SERVER), None)

    @property
    def serving(self) -> tuple[Record, ...]:
        """All that may have the traffic: live, or being promoted."""
        promoting = self.promoting.records.values() if self.promoting else ()
        return (*self.live.values(), *promoting)

    @property
    def live_release(self) -> Release | None:
        """The newest release with the live server; none where it is not in the state.

        A server that was found running, and not in the state, has none.
        """
        server = self.server
        found = (
            release
            for release in reversed(self.releases)
            if server is not None
            and any(r.is_same_thing(server) for r in release.records.values())
        )
        return next(found, None)

    def outputs_of(self, needs: Mapping[str, str]) -> Mapping[str, Flat]:
        """The outputs of what is needed, by role, as far as the state knows them."""
        made = (*self.made.values(), *self.live.values())
        return {
            record.role: record.outputs
            for record in reversed(made)
            if needs.get(record.role) == record.key
        }

    def begin(self, begun: Begun, record: Record) -> "State":
        """Before the engine makes, stages or retires."""
        live = self.live
        if begun is Begun.RETIRING:
            live = {a: r for a, r in live.items() if not r.is_same_thing(record)}
        return self._next(
            live=live, loose=(*self._others(record), Loose(begun, record))
        )

    def ready(self, record: Record) -> "State":
        """After an artefact was made; it waits for the promotion."""
        made = {**self.made, record.address: record}
        return self._next(made=made, loose=self._others(record))

    def staged(self, record: Record) -> "State":
        """After a candidate came up beside the live one."""
        return self._next(loose=(*self._others(record), Loose(Begun.STAGED, record)))

    def promote(self, release: Release) -> "State":
        """Before traffic is handed over."""
        return self._next(promoting=release)

    def promoted(
        self, *, keep: int, outputs: Mapping[str, Flat] | None = None
    ) -> "State":
        """After the hand-over: the release is live, what it replaced has to go.

        ``outputs`` holds what is known of its records only now, by address.
        """
        if self.promoting is None:
            raise ValueError("a promotion ends only after it began")
        release = _settled(self.promoting, outputs or {})
        new = tuple(release.records.values())
        replaced = tuple(
            old
            for old in self.live.values()
            if old.kind is Kind.SERVER and not any(old.is_same_thing(r) for r in new)
        )
        loose = tuple(
            it
            for it in self.loose
            if not any(it.record.is_same_thing(r) for r in (*new, *replaced))
        )
        return self._next(
            live=release.records,
            made={},
            loose=(*loose, *(Loose(Begun.RETIRING, old) for old in replaced)),
            promoting=None,
            releases=(*self.releases, release)[-keep:],
            released=release.number,
        )

    def updating(self, record: Record, paths: Collection[str]) -> "State":
        """Before a live thing changes in place; its release stays as it was."""
        fields = {**record.fields, **dict.fromkeys(paths, IN_DOUBT)}
        doubted = replace(record, fields=fields)
        return self._next(live={**self.live, record.address: doubted})

    def dropped(self) -> "State":
        """After a release whose promotion did not end was given up."""
        release = self.promoting
        gone = () if release is None else tuple(release.records.values())
        loose = tuple(
            it for it in self.loose if not any(it.record.is_same_thing(r) for r in gone)
        )
        return self._next(promoting=None, loose=loose)

    def noted(self, *records: Record) -> "State":
        """After live things changed in place; the live release is changed with them."""
        live = {**self.live, **{r.address: r for r in records}}
        made = {
            a: r
            for a, r in self.made.items()
            if not any(r.is_same_thing(noted) for noted in records)
        }
        releases = self.releases
        if releases:
            releases = (*releases[:-1], replace(releases[-1], records=live))
        return self._next(live=live, made=made, releases=releases)

    def retired(self, record: Record) -> "State":
        """After a thing is gone."""
        return self._next(loose=self._others(record))

    def started(self, record: Record) -> "State":
        """After a live thing was started again."""
        return self._next(loose=self._others(record))

    def forgotten(self) -> "State":
        """After the server of a destroyed stack is gone: nothing is live any more."""
        return self._next(live={}, made={}, promoting=None)

    def held(self, hold: Hold | None) -> "State":
        """After somebody put the stack on hold, or ended that."""
        return self._next(hold=hold)

    def release(self, number: int) -> Release | None:
        """A kept release by its number."""
        return next((r for r in self.releases if r.number == number), None)

    def _others(self, record: Record) -> tuple[Loose, ...]:
        return tuple(it for it in self.loose if not it.record.is_same_thing(record))

    def _next(self, **changes: object) -> "State":
        return replace(self, serial=self.serial + 1, **changes)  # type: ignore[arg-type]


def _settled(release: Release, outputs: Mapping[str, Flat]) -> Release:
    records = {
        address: replace(record, outputs={**record.outputs, **outputs.get(address, {})})
        for address, record in release.records.items()
    }
    return replace(release, records=records)


def record_of(node: Node, outputs: Flat) -> Record:
    """A record of this node in its present form."""
    return Record(
        node.address,
        node.kind,
        node.key,
        dict(node.fields),
        dict(node.needs),
        dict(node.spec),
        dict(outputs),
    )


def decided(graph: Graph, state: State) -> Graph:
    """Return the graph with the decision that the state has about its snapshot.

    The snapshot stays a resource, since its record is where the decision is written.
    """
    nodes = {node.kind: node for node in graph.values()}
    snapshot, server = nodes.get(Kind.SNAPSHOT), nodes.get(Kind.SERVER)
    if snapshot is None or server is None or not is_automatic(server):
        return graph
    known = (*state.made.values(), *state.live.values())
    if not any(it.is_same_thing(snapshot) and UNUSED in it.outputs for it in known):
        return graph
    return {**graph, server.address: without_snapshot(server, snapshot)}


def moved(state: State, workspace: str) -> tuple[State, str]:
    """Return the state with nothing in it that runs in another workspace, and which.

    Its releases stay: a rollback makes them again where the stack is now.
    """
    others = {it.outputs.get(WORKSPACE) for it in state.serving} - {None, "", workspace}
    if not (workspace and others):
        return state, ""
    gone = replace(state, live={}, made={}, loose=(), promoting=None)
    return gone, str(next(iter(others)))


def node_of(record: Record) -> Node:
    """The node that was recorded; what a rollback asks for."""
    return Node(
        record.address,
        record.kind,
        record.key,
        record.fields,
        record.needs,
        record.spec,
    )


def updated(record: Record, fields: Flat, paths: Collection[str]) -> Record:
    """The record with the fields at ``paths`` as given, and all others as they were."""
    others = {k: v for k, v in record.fields.items() if k not in paths}
    return replace(
        record, fields={**others, **{k: fields[k] for k in paths if k in fields}}
    )
