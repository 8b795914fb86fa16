"""From a plan to the steps of applying it: what is shown is what is run."""

from collections.abc import Iterator
from dataclasses import dataclass

from deployer.planning.plan import Action, Plan
from deployer.planning.resources import Kind, Node
from deployer.planning.state import Record, Release


@dataclass(frozen=True, slots=True)
class Make:
    """Make artefacts, side by side."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """Bring a candidate up beside the live server."""

    node: Node


@dataclass(frozen=True, slots=True)
class Check:
    """Let the gates look at the candidate."""

    node: Node
    gates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Promote:
    """Hand the traffic over to the candidate; every node of the release is live."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Resume:
    """Finish the promotion in which an earlier run stopped."""

    release: Release


@dataclass(frozen=True, slots=True)
class Validate:
    """Let the gates look at what is live."""

    nodes: tuple[Node, ...]
    gates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Update:
    """Change what is live in place."""

    node: Node
    paths: tuple[str, ...]
    """The fields that change."""


@dataclass(frozen=True, slots=True)
class Note:
    """Write the new fields down; touch nothing."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Start:
    """Start what should be running."""

    record: Record


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the live server to make room for the candidate."""

    record: Record


@dataclass(frozen=True, slots=True)
class Retire:
    """Stop and remove what is no longer wanted."""

    record: Record


@dataclass(frozen=True, slots=True)
class Forget:
    """Write down that nothing of the stack is live any more."""


Step = (
    Make
    | Stage
    | Check
    | Promote
    | Resume
    | Validate
    | Update
    | Note
    | Start
    | Stop
    | Retire
    | Forget
)


def steps_of(plan: Plan) -> tuple[Step, ...]:
    """First what an earlier run left, then what is new, then what is old goes."""
    return (*_leftovers(plan), *_forward(plan), *_removed(plan))


def _leftovers(plan: Plan) -> Iterator[Step]:
    """An unfinished promotion ends before anything else may be retired.

    Where all is to go, its candidate is one more thing to retire.
    """
    if plan.resumes is not None and not plan.destroys:
        yield Resume(plan.resumes)
    for loose in plan.unfinished:
        yield Retire(loose.record)


def _forward(plan: Plan) -> Iterator[Step]:
    nodes = tuple(c.after for c in plan.changes if c.after is not None)
    made = [
        c.after
        for c in plan.changes
        if c.after is not None and c.action in (Action.CREATE, Action.REPLACE)
    ]
    new = {node.kind: node for node in made}
    artefacts = tuple(it for it in made if it.kind in (Kind.BUILD, Kind.WEIGHTS))
    if artefacts:
        yield Make(artefacts)
    server, snapshot = new.get(Kind.SERVER), new.get(Kind.SNAPSHOT)
    stopped = _makes_room(plan) if server or snapshot else None
    if stopped is not None:
        yield Stop(stopped)
    if snapshot is not None:
        yield Make((snapshot,))
    if server is not None:
        yield from _rollout(plan, nodes, server)
        return
    if stopped is not None:
        yield Start(stopped)
    yield from _in_place(plan, nodes)


def _makes_room(plan: Plan) -> Record | None:
    """The live server, where memory does not hold another one beside it."""
    change = plan.change(Kind.SERVER)
    if change is None or change.after is None:
        return None
    replaces = change.after.fields.get("rollout.strategy") == "replace"
    return change.before if replaces else None


def _rollout(plan: Plan, nodes: tuple[Node, ...], server: Node) -> Iterator[Step]:
    """A candidate is proven before it takes over, and the old one goes last."""
    change = plan.change(Kind.SERVER)
    before = None if change is None else change.before
    yield Stage(server)
    yield Check(server, plan.gates)
    yield Promote(nodes)
    if before is not None:
        yield Retire(before)


def _in_place(plan: Plan, nodes: tuple[Node, ...]) -> Iterator[Step]:
    """Yield what needs no candidate."""
    called_for = {r.calls_for for c in plan.changes for r in c.reasons}
    server = plan.change(Kind.SERVER)
    if server is None or server.after is None or server.before is None:
        return
    remade = {
        change.kind
        for change in plan.changes
        if change.action in {Action.CREATE, Action.REPLACE}
    }
    made_room = Kind.SNAPSHOT in remade and _makes_room(plan)
    if Action.START in called_for and not made_room:
        yield Start(server.before)
    if Action.UPDATE in called_for:
        updates = (r for r in server.reasons if r.calls_for is Action.UPDATE)
        yield Update(server.after, tuple(r.path for r in updates))
    if Action.VALIDATE in called_for:
        yield Validate(nodes, plan.gates)
    elif remade or called_for & {Action.NOTE, Action.UPDATE}:
        yield Note(nodes)


def _removed(plan: Plan) -> Iterator[Step]:
    """The server goes; artefacts stay in the store until nothing kept needs them."""
    gone = [c.before for c in plan.changes if c.after is None and c.before is not None]
    for record in gone:
        if record.kind is Kind.SERVER:
            yield Retire(record)
    if plan.destroys and (gone or plan.resumes is not None):
        yield Forget()
