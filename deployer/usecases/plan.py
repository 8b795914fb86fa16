"""From a stack file to its plan, and what carrying that out takes."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from os import sched_getaffinity, urandom
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, assert_never

from deployer.diagnostics import Diagnostic, Place, Severity
from deployer.engines.place import Look, costs_of, look_at
from deployer.engines.registry import ENGINES
from deployer.errors import DeployerError, PendingError, StackError, UsageError
from deployer.planning.plan import (
    Action,
    Change,
    Drift,
    Plan,
    make_plan,
    rolled_back,
)
from deployer.planning.resources import VARIABLES, Graph, Kind, Node
from deployer.planning.state import Record, State, decided, moved, node_of
from deployer.spelling import harmless
from deployer.stack.fields.values import JsonValue, keys_of, show_bytes, show_seconds
from deployer.stack.project_root import project_file, root_of
from deployer.system.files import read_regular
from deployer.usecases.context.hosts import elsewhere, placed, reconciled
from deployer.usecases.context.settings import Options, Pending, Settings, utc_now
from deployer.usecases.reading.prepared import Cache, Prepared

if TYPE_CHECKING:
    from deployer.artefacts.store import Store
    from deployer.planning.facts import Facts
    from deployer.planning.plan import Fit
    from deployer.planning.progress import Watch

UNSEEN_STATE = "the state was not read (--without-state)"
"""Said of plans that were made without asking what is deployed."""


class Planned(NamedTuple):
    """A plan with what is needed to show it and to carry it out."""

    plan: Plan
    prepared: Prepared
    state: State
    facts: "Facts | None"
    """To be written to the lock file before anything is made; None: it stands."""
    notes: tuple[str, ...] = ()
    """Notes for the user that are no problem."""
    without_state: bool = False
    """Nobody was asked what is deployed."""
    refreshed: bool = True
    """False: the plan compares with the state alone, no server was asked."""

    @property
    def places(self) -> Mapping[str, Place]:
        """Where each field was written."""
        return self.prepared.places

    @property
    def fit(self) -> "Fit | None":
        """The memory that the server needs; None where nobody knows yet."""
        return self.prepared.fit


def plan(
    stack_file: Path,
    settings: Settings,
    options: Options,
    watch: "Watch | None" = None,
) -> Planned:
    """Compare a stack with what was deployed; changes nothing but caches.

    Raises StackError with every problem of the files, UsageError for a lock file
    that does not fit under ``locked``, and errors of the sources.
    """
    prepared, facts = prepare(stack_file, settings, options, watch)
    if not options.cached and not ENGINES[prepared.engine].abilities.remote:
        verify_artefacts(prepared.graph, settings, watch)
    read = _new_state if options.without_state else partial(state_of, settings)
    state = read(stack_file, prepared)
    state, left = moved(state, options.workspace)
    prepared = replace(prepared, graph=decided(prepared.graph, state))
    drift: tuple[Drift, ...] = ()
    seen: tuple[str, ...]
    refreshed = False
    if options.without_state:
        seen = (f"{UNSEEN_STATE}: all counts as new",)
    elif host := elsewhere(state, settings, stack_file):
        seen = (f"`{prepared.name}` runs on host `{host}`: apply it there",)
    else:
        state, drift, seen, refreshed = _observed(
            stack_file, settings, state, prepared, options
        )
    made = make_plan(prepared.graph, state, drift=drift)
    made = replace(made, rolled_back=rolled_back(prepared.graph, state))
    prepared = _judged(stack_file, settings, made, prepared)
    move = () if not left else (_move_note(prepared.name, left, options.workspace),)
    held = () if made.is_empty else held_by(stack_file, state)
    notes = (*prepared.notes, *build_notes(made.change(Kind.BUILD)), *seen, *move)
    notes = (*held, *notes)
    unseen = options.without_state
    return Planned(made, prepared, state, facts, notes, unseen, refreshed)


def _judged(
    stack_file: Path, settings: Settings, made: Plan, prepared: Prepared
) -> Prepared:
    """Return what was read with the warnings of policies; raises StackError."""
    values = of_plan(made, prepared.notices)
    found = policy_findings(
        stack_file, settings, made.stack, values, prepared.places, planned=True
    )
    return replace(prepared, notices=(*prepared.notices, *found)) if found else prepared


def _move_note(name: str, left: str, workspace: str) -> str:
    return (
        f"`{name}` moves from workspace `{left}` to `{workspace}`: what runs in"
        f" `{left}` is left there, serves on and is billed until it is stopped with a"
        f" token of `{left}` (`modal app stop {name}`)"
    )


def _observed(
    stack_file: Path,
    settings: Settings,
    state: State,
    prepared: Prepared,
    options: Options,
) -> tuple[State, tuple[Drift, ...], tuple[str, ...], bool]:
    """Return the state with what runs beside it, drift, notes, and what `_looked` does.

    Where nothing new is to begin, what clients reach is what there is.
    """
    graph = {} if options.pending is Pending.CLEAR else prepared.graph
    thoroughly = bool(options.refresh or options.observe)
    state, drift = reconciled(state, settings, stack_file, graph, thoroughly=thoroughly)
    state = placed(state, settings)
    found, seen, refreshed = _looked(stack_file, settings, state, prepared, options)
    drift += found
    if refreshed:
        drift += lost_artefacts(state, settings.home, {it.address for it in drift})
    return state, drift, seen, refreshed


def _looked(
    stack_file: Path,
    settings: Settings,
    state: State,
    prepared: Prepared,
    options: Options,
) -> tuple[tuple[Drift, ...], tuple[str, ...], bool]:
    """Return drift, a note on what was looked at, and True where all of it was."""
    server, here = state.server, not ENGINES[state.engine].abilities.remote
    if options.refresh or (options.observe and here):
        return drift_of(stack_file, settings, state, prepared.graph), (), True
    if server is None:
        return (), (), True
    if options.refresh is False:
        return (), (f"{server.address} was not refreshed (--no-refresh)",), False
    match look_at(state.engine, server, settings.place(stack_file)):
        case Look.ANSWERS:
            return (), (f"{server.address} was asked, and answers",), True
        case Look.SILENT as silent:
            return (Drift(server.address, silent.value),), (), True
        case Look.GONE:
            return drift_of(stack_file, settings, state, prepared.graph), (), True
        case Look.UNSEEN:
            why = "`--refresh` looks at it"
            return (), (f"{server.address} was not refreshed: {why}",), False
        case never:
            assert_never(never)


def verify_artefacts(graph: Graph, settings: Settings, watch: "Watch | None") -> None:
    """Read every byte of the artefacts of a stack that are in the store.

    What differs counts as damaged from then on: for drift, and for what makes it.
    """
    from deployer.artefacts.store import STORED  # noqa: PLC0415 - plan rarely needs it
    from deployer.planning.progress import unwatched  # noqa: PLC0415 - as above

    store = settings.store
    for node in graph.values():
        if (kind := STORED.get(node.kind)) is not None:
            entry = store.look(kind, node.key)
            if entry is not None:
                store.verify(entry, watch or unwatched)


def build_notes(build: Change | None) -> tuple[str, ...]:
    """Return the effect of another build: verdicts of patches, changed options."""
    if build is None or build.action is Action.KEEP:
        return ()
    return (*_patches(build), *_options(build))


_ADVICE = {
    "upstream": "it is in this build: the patch can be deleted from the stack",
    "applied": "it is in the source already: the patch can be deleted from the stack",
    "not-applicable": "this build has nothing to patch",
}


def _patches(build: Change) -> Iterator[str]:
    about = build.after.spec.get("about") if build.after is not None else None
    verdicts = about.get("patches") if isinstance(about, dict) else None
    for name, verdict in verdicts.items() if isinstance(verdicts, dict) else ():
        advice = _ADVICE.get(str(verdict))
        yield f"patch {name}: {verdict}" + (f", {advice}" if advice else "")


def _options(build: Change) -> Iterator[str]:
    before, after = map(_number, (build.before, build.after))
    if before is None or after is None or before == after:
        return
    from deployer.llama.explain import diff  # noqa: PLC0415 - only for another build

    found = diff(before, after)
    counts = (
        (len(found.added), "added"),
        (len(found.renamed), "renamed"),
        (len(found.removed), "removed"),
        (len(found.changed), "changed"),
    )
    parts = [f"{number} {word}" for number, word in counts if number]
    if parts:
        yield (
            f"options of llama-server, b{before} → b{after}: {', '.join(parts)}"
            f" (deployer explain flag --diff b{before} b{after})"
        )


def _number(build: Record | Node | None) -> int | None:
    text = str(build.fields.get("llama_cpp.tag")) if build is not None else ""
    return int(text[1:]) if text.startswith("b") and text[1:].isdigit() else None


def state_of(settings: Settings, stack_file: Path, prepared: Prepared) -> State:
    """The recorded state of a stack, or a new one; raises UsageError on a mix-up."""
    found = settings.state(stack_file, prepared.name)
    if found is None:
        return _new_state(stack_file, prepared)
    refuse_other_file(found, stack_file)
    if found.engine != prepared.engine and (found.live or found.loose):
        raise UsageError(
            f"stack `{prepared.name}` is deployed on engine `{found.engine}`, and is"
            f" now asked for on `{prepared.engine}`",
            hint=f"destroy it there first (`deployer destroy {stack_file} --engine"
            f" {found.engine}`), or give this one another name",
        )
    return replace(found, engine=prepared.engine, file=stack_file.name)


def _new_state(stack_file: Path, prepared: Prepared) -> State:
    lineage = urandom(16).hex()
    file = stack_file.name
    return State(prepared.name, prepared.engine, lineage=lineage, file=file)


def refuse_other_file(state: State, stack_file: Path) -> None:
    """Raise UsageError where the state belongs to another file that is still there.

    Two stacks of one name in one folder would take each other's server for their own;
    a file that was renamed takes its state along.
    """
    other = stack_file.with_name(Path(state.file or stack_file.name).name)
    if other.name != stack_file.name and other.exists():
        raise UsageError(
            f"`{stack_file}` and `{other}` both have the name `{state.stack}`, and what"
            f" is deployed under it is `{other}`'s",
            hint=f"give `{stack_file}` another `name`",
        )


def drift_of(
    stack_file: Path, settings: Settings, state: State, graph: Graph
) -> tuple[Drift, ...]:
    """Return what runs or lies there otherwise than the state says."""
    if not state.live:
        return ()
    engine = settings.engine(state.engine, stack_file)
    found = []
    if (server := state.server) is not None:
        seen = engine.observe(server)
        if not (seen.running and seen.healthy):
            found.append(Drift(server.address, seen.detail))
    asked = next((n for n in graph.values() if n.kind is Kind.SERVER), server)
    if asked is not None:
        found += [
            Drift(record.address, flaw)
            for record in state.live.values()
            if record.kind is not Kind.SERVER and (flaw := engine.flaw(record, asked))
        ]
    return tuple(found)


def lost_artefacts(
    state: State, home: Path, known: Collection[str] = ()
) -> tuple[Drift, ...]:
    """Return artefacts of this machine that are gone, which one look at each shows.

    Those at ``known`` addresses are reported already.
    """
    taken = [
        it
        for it in state.live.values()
        if it.kind is not Kind.SERVER
        and it.address not in known
        and str(it.outputs.get("path")).startswith(str(home / it.kind / it.key))
    ]
    if not taken or not home.is_dir():  # a job of CI plans for another machine
        return ()
    # As `Store.has`, whose module a plan without changes does not import.
    places = ((it, home / it.kind / it.key / "manifest.json") for it in taken)
    lost = (it for it, manifest in places if not manifest.is_file())
    return tuple(Drift(it.address, "it is gone from the store") for it in lost)


def settled(planned: Planned, pending: Pending) -> Planned:
    """The plan, once it is decided about what an earlier run left.

    Raises PendingError where there is any and it is to fail.
    """
    state = planned.state
    left = [f"{it.record.address} was left {it.begun}" for it in state.loose]
    if state.promoting is not None:
        left.append(f"promoting release {state.promoting.number} did not end")
    if pending is Pending.FAIL and left:
        raise PendingError(
            f"an earlier run of `{state.stack}` did not end: {'; '.join(left)}",
            hint="`--pending adopt` settles it and goes on, `--pending clear` settles"
            " it alone",
        )
    if pending is not Pending.CLEAR:
        return planned
    graph = {a: node_of(record) for a, record in live_once_settled(state).items()}
    prepared = replace(planned.prepared, graph=graph)
    made = make_plan(graph, state, drift=planned.plan.drift)
    return Planned(made, prepared, state, None)


def live_once_settled(state: State) -> Mapping[str, Record]:
    """Return what is live when a promotion that began has ended."""
    return state.live if state.promoting is None else state.promoting.records


def prepare(
    stack_file: Path,
    settings: Settings,
    options: Options,
    watch: "Watch | None" = None,
) -> "tuple[Prepared, Facts | None]":
    """Read, check, resolve and expand a stack; facts are given where they are new."""
    cache = Cache(settings.home, settings.environment)
    cached = options.cached and not settings.advisories
    known = cache.find(stack_file, options.engine) if cached else None
    if known is not None:
        return known, None
    from deployer.usecases.reading.read_stack import read  # noqa: PLC0415 - the model is slow to import

    found = read(stack_file, settings, options, watch)
    if found.facts is None:
        cache.keep(stack_file, options.engine, found.prepared)
    return found.prepared, found.facts


_CORE_SECONDS = 14 * 60
"""One core compiles llama-server for processors so long; measured on two of them."""


def prospects(planned: Planned, settings: Settings) -> Mapping[str, str]:
    """Return what making each artefact of a plan means on this machine, by address."""
    from deployer.artefacts.store import STORED  # noqa: PLC0415 - only with changes

    if ENGINES[planned.plan.engine].abilities.remote:
        return {}
    drifted = {it.address for it in planned.plan.drift}
    made = (c for c in planned.plan.changes if c.kind in STORED and _is_made(c))
    made = (c for c in made if c.address not in drifted)
    return {it.address: _of(it.after, settings.store) for it in made if it.after}


def _is_made(change: Change) -> bool:
    return change.action in (Action.CREATE, Action.REPLACE) and not change.ready


def _of(node: Node, store: "Store") -> str:
    from deployer.artefacts.store import STORED  # noqa: PLC0415 - only with changes
    from deployer.show.text import IN_STORE  # noqa: PLC0415 - as above

    kind = STORED[node.kind]
    if store.has(kind, node.key):
        return IN_STORE
    if node.kind is Kind.SNAPSHOT:
        return "captured on this machine"
    source = str(node.spec.get("source", ""))
    match node.spec.get("about"):
        case {"size": int(size)}:
            fetching = "copy" if source == "path" else "download"
            parts = [f"{fetching} {show_bytes(size)}"]
        case _:
            parts = [] if source in ("path", "source-path") else ["download"]
    if node.kind is Kind.BUILD and source.startswith("source-"):
        parts.append(f"compile, {_compiling(node, store)}")
    said = ", ".join(parts) or "made from files of this machine"
    match node.spec.get("about"):
        case {"skipped": dict(skipped)} if skipped:
            why = "; ".join(f"`{it}` not: {text}" for it, text in skipped.items())
            return f"{said}, from `{source.removeprefix('source-')}` ({why})"
        case _:
            return said


def _compiling(node: Node, store: "Store") -> str:
    """Return how long a build takes: measured last time, else estimated from cores."""
    if node.fields.get("llama_cpp.cuda"):
        return "which takes long for CUDA"
    measured = [
        entry.about["seconds"]
        for entry in store.entries()
        if entry.kind == "build" and "seconds" in entry.about
    ]
    match measured:
        case [*_, int(seconds)]:
            return f"about {show_seconds(seconds)} as last time"
        case _:
            cores = len(sched_getaffinity(0))
            minutes = max(1, round(_CORE_SECONDS / cores / 60))
            return f"about {minutes} min on {cores} cores (estimated)"


def needed(planned: Planned, settings: Settings, file: Path) -> Iterator[str]:
    """Yield what an apply of this plan lacks, or writes beside the state."""
    if planned.facts is not None:
        from deployer.artefacts.lock_file import lock_path  # noqa: PLC0415 - imports the model

        yield f"apply writes the lock file {lock_path(file)}"
    server = planned.plan.change(Kind.SERVER)
    if server is None or server.after is None or not _is_made(server):
        return
    if ENGINES[planned.plan.engine].abilities.remote:
        return
    for name in dict.fromkeys(_variables(server.after)):
        try:
            key = settings.keys(file.parent.absolute()).get(name)
        except DeployerError as error:
            yield f"apply needs environment variable `{name}`: {error.message}"
            return
        if not key:
            yield f"environment variable `{name}` is not set: apply needs it"


def _variables(server: Node) -> Iterator[str]:
    """Yield the variables with the keys of a server, and with secrets it is given."""
    for reference in keys_of(server.fields).values():
        if "env" in reference:
            yield reference["env"]
    given = server.spec.get(VARIABLES)
    for value in given.values() if isinstance(given, dict) else ():
        if isinstance(value, dict):
            yield str(value["env"])


def held_by(stack_file: Path, state: State) -> tuple[str, ...]:
    """Return why nothing is applied to a stack now: its hold, and frozen days."""
    found = []
    if (hold := state.hold) is not None:
        since = hold.at[:16].replace("T", " ")
        said = f"`{state.stack}` is on hold since {since} UTC, by {hold.by}: {hold.why}"
        found.append(harmless(said))
    if (file := project_file(stack_file)) is not None:
        from deployer.stack.load import load_project  # noqa: PLC0415 - slow, and rare

        today = utc_now()[:10]
        found += [
            harmless(f"nothing is applied until {it.last} ({file.name}): {it.why}")
            for it in load_project(file).freeze
            if it.first <= today <= it.last
        ]
    return tuple(found)


POLICIES = "policies"
"""Folder of the project with the rules of `stack.load`."""
_OF_A_PLAN = ("plan.", "lock.")
_ADVISORY = ("CVE-", "GHSA-")


def policy_findings(
    stack_file: Path,
    settings: Settings,
    name: str,
    values: Mapping[str, JsonValue],
    places: Mapping[str, Place],
    *,
    planned: bool,
) -> tuple[Diagnostic, ...]:
    """Return the warnings of the policies of a project; raises StackError for errors.

    Where the work is compared with a revision, the policies of that revision count.
    A rule about a plan or a fact is left for `planned` values.
    """
    written = _policies(stack_file, settings)
    if not written:
        return ()
    from deployer.stack.load import broken, rules_in  # noqa: PLC0415 - few have policies

    rules = [rule for file, text in written for rule in rules_in(text, file)]
    found = tuple(
        broken(
            rules,
            name,
            dict(_flat(values)),
            places,
            str(stack_file),
            utc_now()[:10],
            knows=lambda path: planned or not path.startswith(_OF_A_PLAN),
        )
    )
    if errors := [it for it in found if it.severity is Severity.ERROR]:
        raise StackError(errors)
    return found


def of_plan(plan: Plan, notices: Sequence[Diagnostic]) -> dict[str, JsonValue]:
    """Return what rules may say of a plan, by path."""
    values: dict[str, JsonValue] = {"name": plan.stack, "engine": plan.engine}
    for change in plan.changes:
        values |= {} if change.after is None else change.after.fields
    values["plan.gates"] = [*plan.gates]
    values["plan.unproven"] = [*plan.unproven]
    codes = {it.code for it in notices if it.code.startswith(_ADVISORY)}
    values["plan.advisories"] = [*sorted(codes)]
    if (bill := costs_of(plan)) is not None:
        values["plan.dollars_per_hour"] = round(bill.awake, 4)
        values["plan.dollars_once"] = round(bill.apply, 4)
    return values


def _policies(stack_file: Path, settings: Settings) -> list[tuple[str, str]]:
    """Return name and text of each file of policies, in order."""
    root = root_of(stack_file)
    if settings.base:
        found = _files_at(root, settings.base)
    else:
        folder = root / POLICIES
        found = {it.name: read_regular(it) for it in sorted(folder.glob("*.yaml"))}
    return [
        (f"{POLICIES}/{name}", content.decode("utf-8", "replace"))
        for name, content in sorted(found.items())
        if name.endswith(".yaml")
    ]


@cache
def _files_at(root: Path, revision: str) -> Mapping[str, bytes]:
    from deployer.usecases.context.git import files_at  # noqa: PLC0415 - asks git

    return files_at(root, revision, POLICIES)


def _flat(
    values: Mapping[str, JsonValue], above: str = ""
) -> Iterator[tuple[str, JsonValue]]:
    """Yield every value by its dotted path; an empty mapping is one, too."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
