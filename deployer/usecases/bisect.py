"""Bisect: which build, patch or quantisation made the gates of a stack fail.

Each step serves the stack as a candidate on this machine, under a name, a port and a
state of its own, and retires it again: the live release is neither asked nor touched.
What a step found is kept below `bisect/` in DEPLOYER_HOME with what it was resolved to,
so that a run that was interrupted carries on, and no result is asked for twice.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import ceil, log2
from pathlib import Path
from typing import Final

from deployer.artefacts import lock_file
from deployer.artefacts.sources.files import sha256_of, writing
from deployer.engines.contract import Engine
from deployer.engines.local.ports import free_port
from deployer.engines.place import abilities_of, narrowed
from deployer.engines.registry import ENGINES
from deployer.errors import (
    EngineError,
    GateError,
    SourceError,
    StackError,
    TimedOutError,
    UnreachableError,
    UsageError,
)
from deployer.gates import gate_of
from deployer.llama.build.trees import builds_named, number_of
from deployer.llama.git import PullRequest, builds_tagged
from deployer.planning import steps as planned
from deployer.planning.events import Event, Outcome, Say, Started, Talk, Verdict
from deployer.planning.facts import UPSTREAM
from deployer.planning.graph import expand, judged_by
from deployer.planning.plan import gates_of, make_plan
from deployer.planning.progress import unwatched
from deployer.planning.resources import Graph, Kind, Node, digest
from deployer.planning.state import Record, State
from deployer.stack.fields.model import Stack
from deployer.stack.fields.values import JsonValue
from deployer.stack.load import Loaded, load
from deployer.state import StateStore
from deployer.state.places import StatePlace, store_at
from deployer.system.files import guarded, replace_file
from deployer.usecases.artefacts import pulls_of
from deployer.usecases.check import CUSTOM, Judging, requests_of
from deployer.usecases.context.settings import Settings, utc_now
from deployer.usecases.reading.findings import described
from deployer.usecases.reading.inputs import gate_files
from deployer.usecases.reading.pins import resolved
from deployer.usecases.reading.weights import weighed, with_gates
from deployer.usecases.steps import World, apply

_HOST: Final = "127.0.0.1"
_PREFIX: Final = "bisect-"
_LONGEST_NAME: Final = 48


class Finding(StrEnum):
    """The finding of a step."""

    GOOD = "good"
    BAD = "bad"
    UNKNOWN = "unknown"
    """It could not be made, or its gates prove neither: it is skipped."""


class Over(StrEnum):
    """The things that are tried one after the other."""

    BUILDS = "builds"
    PATCHES = "patches"
    QUANTS = "quants"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A bisection as it is asked for."""

    good: str = ""
    """Tag of a build on which the gates pass."""
    bad: str = ""
    """Tag of a build on which they fail; older than the good one to find a fix."""
    gates: tuple[str, ...] = ()
    """None: those of the stack; then a server that does not start is bad, too."""
    patches: bool = False
    """Try the first patches of the stack instead, from none to all of them."""
    quants: tuple[str, ...] = ()
    """Try these quantisations instead, from good to bad."""
    again: bool = False
    """Ask what earlier runs found, too."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One step."""

    name: str
    finding: Finding
    because: str = ""
    remembered: bool = False
    """An earlier run found it."""


@dataclass(frozen=True, slots=True)
class Bisected:
    """The result of a bisection."""

    stack: str
    over: Over
    points: tuple[str, ...]
    """Everything between and with the ends, from good to bad."""
    tried: tuple[Tried, ...]
    """In the order of trying; what was remembered first."""
    last_good: str
    suspects: tuple[str, ...]
    """The first bad one is among them, in order; the last of them is bad."""
    trouble: str = ""
    """Why the ends do not prove that the first bad one is a suspect."""
    pulls: tuple[PullRequest, ...] = ()
    """Merged between the last good and the last suspect, newest first."""
    pulls_note: str = ""
    """Where they are not known, or not all of them."""
    trap: str = ""
    """A known issue as an entry of `traps.toml`; empty where nothing was found."""

    @property
    def first_bad(self) -> str:
        """The first bad one; empty where it is not known for certain."""
        found = len(self.suspects) == 1 and not self.trouble
        return self.suspects[0] if found else ""

    @property
    def backwards(self) -> bool:
        """True where the good build is the newer one, so that a fix is looked for."""
        first, last = number_of(self.points[0]), number_of(self.points[-1])
        return None not in (first, last) and (first or 0) > (last or 0)

    @property
    def because(self) -> str:
        """The reason why the last suspect is bad."""
        bad = self.suspects[-1] if self.suspects else ""
        return next((it.because for it in self.tried if it.name == bad), "")


def bounds(count: int, known: Mapping[int, Finding]) -> tuple[int, int]:
    """The last point known to be good before the first one known to be bad.

    Points count from the good end, 0, to the bad one; the ends are believed until they
    were tried.
    """
    bad = [at for at, it in known.items() if it is Finding.BAD]
    high = min(bad, default=count - 1)
    good = [at for at, it in known.items() if it is Finding.GOOD and at < high]
    return max(good, default=0), high


def next_point(count: int, known: Mapping[int, Finding]) -> int | None:
    """The point to try next; None where nothing is left that would say more.

    The middle of what is left, or the nearest to it that was not skipped.  An end is
    tried only once its neighbour is settled: without skips that makes no more than
    the binary logarithm and one.
    """
    low, high = bounds(count, known)
    left = [at for at in range(low + 1, high) if at not in known]
    if left:
        return min(left, key=lambda at: (abs(2 * at - low - high), at))
    return next((at for at in (low, high) if at not in known), None)


def most_steps(count: int) -> int:
    """Steps that a bisection of so many points takes at most where none is skipped."""
    return max(2, ceil(log2(count - 1)) + 1)


def bisect(stack_file: Path, settings: Settings, wanted: Wanted, say: Say) -> Bisected:
    """Find the first point at which the gates of a stack fail; nothing of it changes.

    Raises UsageError where there is nothing to bisect, UnreachableError where no source
    answers, and what serving raises that says nothing of a build: a key that is not
    set, a full disk.  Running it again carries on.
    """
    engine = next(it for it, of in ENGINES.items() if not of.abilities.remote)
    allowed = settings.allowed(stack_file)
    loaded = load(stack_file, engine=engine, allowed=allowed)
    requests_of([it for it in wanted.gates if gate_of(it) != CUSTOM], {})  # it exists
    over, points = _points(loaded.stack, settings, wanted)
    bench = _Bench(stack_file, settings, loaded, wanted, over, points, say)
    with bench.store.lock(operation="bisect"):
        found = bench.remembered()
        name, count = loaded.stack.name, len(points)
        most = f"at most {most_steps(count)} to try, more where some are skipped"
        say(Talk(name, f"{count} {over} from {points[0]} to {points[-1]}, {most}"))
        while True:
            known = {at: it.finding for at, it in found.items()}
            if (at := next_point(count, known)) is None:
                break
            low, high = bounds(count, known)
            say(
                Talk(name, f"{high - low - 1} between {points[low]} and {points[high]}")
            )
            found[at] = tried = bench.tried(at)
            told = f"{tried.name} is {tried.finding}"
            say(Talk(name, f"{told}: {tried.because}" if tried.because else told))
    return _with_causes(_concluded(loaded.stack, over, points, found), loaded, settings)


def _points(
    stack: Stack, settings: Settings, wanted: Wanted
) -> tuple[Over, tuple[str, ...]]:
    """Return what is tried, from good to bad; raises UsageError."""
    ways = (bool(wanted.good or wanted.bad), wanted.patches, bool(wanted.quants))
    if sum(ways) != 1:
        raise UsageError(
            "what to bisect is not clear: builds, patches or quantisations",
            hint="name `--good TAG --bad TAG`, or `--patches`, or `--quants A,B,C`",
        )
    if wanted.patches:
        names = stack.llama_cpp.patches or ()
        if not names:
            raise UsageError("the stack has no patches to bisect")
        return Over.PATCHES, ("no patch", *names)
    if wanted.quants:
        if stack.model.repo is None or len({*wanted.quants}) < 2:
            raise UsageError(
                "quantisations are two or more different ones of a `model.repo`",
                hint="name them from good to bad: `--quants Q8_0,Q5_K_M,Q4_K_M`",
            )
        return Over.QUANTS, tuple(dict.fromkeys(wanted.quants))
    return Over.BUILDS, _builds(stack, settings, wanted)


def _builds(stack: Stack, settings: Settings, wanted: Wanted) -> tuple[str, ...]:
    """The tags from good to bad that sources of the stack name; raises UsageError."""
    good, bad = number_of(wanted.good), number_of(wanted.bad)
    if good is None or bad is None or good == bad:
        raise UsageError(
            f"`{wanted.good[:40]}` and `{wanted.bad[:40]}` are no range of builds",
            hint="write two different tags, `--good b9763 --bad b11434`",
        )
    source = stack.llama_cpp.sources
    if "path" in source:
        raise UsageError(
            "`llama_cpp.source: path` is one build: there is no other to try",
            hint="set `llama_cpp.source` to `git`, `pypi`, or a list of sources",
        )
    named: set[int] = set()
    errors = []
    for one in dict.fromkeys(source or ("git",)):
        try:
            named |= _named_by(one, stack, settings)
        except SourceError as error:
            errors.append(error)
    if errors and not named:
        raise errors[0]
    low, high = sorted((good, bad))
    inside = [it for it in sorted(named) if low < it < high]
    if good > bad:
        inside.reverse()
    return wanted.good, *(f"b{it}" for it in inside), wanted.bad


def _named_by(source: str, stack: Stack, settings: Settings) -> set[int]:
    """The builds that a source names; upstream's archives go by its tags."""
    if source == "pypi":
        return builds_named(settings.environment)
    repo = (stack.llama_cpp.repo if source == "git" else None) or UPSTREAM
    return builds_tagged(repo, settings.store.downloads, settings.environment)


def _variant(
    values: Mapping[str, JsonValue], over: Over, names: Sequence[str]
) -> Stack:
    """The stack at the last of the names; those before it lead there from good."""
    made: dict[str, JsonValue] = dict(values)
    build, model = made["llama_cpp"], made["model"]
    if not (isinstance(build, dict) and isinstance(model, dict)):
        raise TypeError(made)
    match over:
        case Over.BUILDS if names[-1] != build["tag"]:
            ready = ("commit", "package", "binary")
            kept = {n: it for n, it in build.items() if n not in ready}
            made["llama_cpp"] = {**kept, "tag": names[-1]}
        case Over.PATCHES:
            kept = {n: it for n, it in build.items() if n != "patches"}
            if names[1:]:
                kept["patches"] = [*names[1:]]
            made["llama_cpp"] = kept
        case Over.QUANTS:
            kept = {n: it for n, it in model.items() if n != "file"}
            made["model"] = {**kept, "quant": names[-1]}
        case _:
            pass
    return Stack.model_validate(made, strict=False)


@dataclass(slots=True)
class _Bench:
    """Serves one point after the other, and remembers what it found."""

    stack_file: Path
    settings: Settings
    loaded: Loaded
    wanted: Wanted
    over: Over
    points: tuple[str, ...]
    say: Say
    _verdicts: list[Verdict] = field(default_factory=list)
    _step: planned.Step | None = None
    """The step that began last."""

    @property
    def name(self) -> str:
        """The name that candidates go by."""
        return f"{_PREFIX}{self.loaded.stack.name}"[:_LONGEST_NAME].rstrip("-")

    @property
    def folder(self) -> Path:
        """State and memory of this very file: others may have the same name."""
        place = digest(os.path.realpath(self.stack_file))[:16]
        return self.settings.home / "bisect" / place

    @property
    def store(self) -> StateStore:
        """The state of the candidates."""
        place = StatePlace("file", str(self.folder))
        return store_at(place, self.name, stack_file=self.stack_file)

    def remembered(self) -> dict[int, Tried]:
        """Return what earlier runs found of the points, as far as it was resolved."""
        found: dict[int, Tried] = {}
        if self.wanted.again:
            return found
        for at in range(len(self.points)):
            if self._lock(at).exists():
                try:
                    graph, gates = self._graph(at)
                except (SourceError, EngineError, StackError):
                    continue
                if known := self._known(at, graph, gates):
                    found[at] = known
        return found

    def tried(self, at: int) -> Tried:
        """Serve a point and let its gates look at it."""
        name = self.points[at]
        try:
            graph, gates = self._graph(at)
        except UnreachableError:
            raise
        except (SourceError, EngineError) as error:
            why = f"cannot be had: {error.message}"
            return Tried(name, Finding.UNKNOWN, why)
        finding, because = self._served(graph, gates)
        found = Tried(name, finding, because)
        if finding is not Finding.UNKNOWN:
            self._keep(graph, gates, found)
        return found

    def _graph(self, at: int) -> tuple[Graph, tuple[str, ...]]:
        """The resources of a point and its gates; what they resolved to is kept.

        The tables of known issues refuse nothing here: the server itself is asked.
        """
        settings, file = self.settings, self.stack_file
        values = self._values()
        stack = _variant(values, self.over, self.points[: at + 1])
        loaded = replace(self.loaded, stack=stack)
        lock = self._lock(at)
        before = lock_file.read(lock)
        known = before or lock_file.read(lock_file.lock_path(file))
        facts = resolved(loaded, file, settings, known, self.say)
        if facts != before:
            lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock_file.write(lock, facts, self.name)
        takes = described(loaded, file, settings, facts, self.say)
        able = abilities_of(stack.engine, settings.environment, settings.home)
        graph = expand(stack, facts, narrowed(stack, able), takes.spellings)
        files = gate_files(stack, file, settings)
        graph = judged_by(
            graph, {p: sha256_of(it, unwatched) for p, it in files.items()}
        )
        seen = weighed(loaded, file, settings, facts, graph, takes)
        if seen.too_large:
            raise StackError(seen.too_large)
        if not seen.problems:  # the server itself says what it cannot serve
            graph, _ = with_gates(graph, stack, seen)
        return graph, self.wanted.gates or gates_of(_server(graph).fields)

    def _values(self) -> dict[str, JsonValue]:
        """The values of the stack with a name and a port of its own, started cold."""
        stack = self.loaded.stack
        values = stack.model_dump(mode="json", exclude_none=True)
        section = values.get(stack.engine) or {}
        port = free_port(_HOST)
        own = {stack.engine: {**section, "host": _HOST, "port": port}}
        values = {**values, **own, "name": self.name}
        values.pop("snapshot", None)
        return values

    def _lock(self, at: int) -> Path:
        point = digest([self.over, *self._path_to(at)])[:16]
        return self.folder / f"{point}.lock.json"

    def _path_to(self, at: int) -> tuple[str, ...]:
        """The names that make a point: of patches all that are applied."""
        return (
            self.points[1 : at + 1] if self.over is Over.PATCHES else (self.points[at],)
        )

    def _served(self, graph: Graph, gates: tuple[str, ...]) -> tuple[Finding, str]:
        """Make what is missing, bring it up, ask, and retire it again."""
        engine = self.settings.engine(self.loaded.stack.engine, self.stack_file)
        store = self.store
        state = store.read() or State(
            self.name, self.loaded.stack.engine, os.urandom(16).hex()
        )
        todo = [*_candidate_steps(graph, state, gates)]
        engine.preflight([_server(graph)])
        self._verdicts.clear()
        self._step = None
        judge = self._judge(graph, engine)
        world = World(engine=engine, judge=judge, store=store, say=self._heard)
        try:
            state = apply(todo, state, world, cause="bisect", keep=1)
        except GateError:
            pass
        except (EngineError, SourceError, TimedOutError) as error:
            if isinstance(error, UnreachableError):
                raise
            return self._failed(error.message)
        left = [it.record for it in state.loose if it.record.kind is Kind.SERVER]
        retire = [planned.Retire(it) for it in left]
        apply(retire, state, replace(world, say=self.say), cause="bisect", keep=1)
        return self._judged()

    def _failed(self, why: str) -> tuple[Finding, str]:
        """Return what an error says of a point, by the step that it ended."""
        first = why.splitlines()[0]
        match self._step:
            case planned.Check():
                return Finding.BAD, first
            case planned.Stage() if not self.wanted.gates:
                return Finding.BAD, f"does not start: {first}"
            case planned.Stage():
                why = f"does not start, no gate was asked: {first}"
                return Finding.UNKNOWN, why
            case _:
                return Finding.UNKNOWN, f"cannot be made: {first}"

    def _judged(self) -> tuple[Finding, str]:
        """Return what the verdicts say; one that does not apply counts if named."""
        held = [it for it in self._verdicts if it.blocks]
        if not self.wanted.gates:
            held = [it for it in held if it.applicable]
        failed = [it for it in held if it.outcome is Outcome.FAIL]
        if shown := "; ".join(f"{it.gate}: {it.because}" for it in failed or held):
            return (Finding.BAD if failed else Finding.UNKNOWN), shown
        return Finding.GOOD, ""

    def _judge(self, graph: Graph, engine: Engine) -> Judging:
        folder = self.stack_file.parent.absolute()
        fields = {p: v for node in graph.values() for p, v in node.fields.items()}

        def keep(_: Record, verdicts: Sequence[Verdict]) -> None:
            self._verdicts.extend(verdicts)

        return Judging(
            engine,
            self.settings.keys(folder),
            self.say,
            expects=lambda record: {**fields, **record.fields},
            keep=keep,
            folder=folder,
        )

    def _heard(self, event: Event) -> None:
        if isinstance(event, Started):
            self._step = event.step
        self.say(event)

    @property
    def _memory(self) -> Path:
        return self.folder / "results.json"

    def _results(self) -> dict[str, dict[str, str]]:
        """Return earlier findings by question; a file that is damaged says nothing."""
        try:
            found = json.loads(self._memory.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _known(self, at: int, graph: Graph, gates: tuple[str, ...]) -> Tried | None:
        match self._results().get(_question(graph, gates)):
            case {"finding": ("good" | "bad") as found, "because": str(because)}:
                return Tried(self.points[at], Finding(found), because, remembered=True)
            case _:
                return None

    def _keep(self, graph: Graph, gates: tuple[str, ...], found: Tried) -> None:
        one = {"finding": found.finding.value, "because": found.because}
        named = {"name": found.name, "at": utc_now()}
        every = {**self._results(), _question(graph, gates): {**one, **named}}
        with writing(self.folder, purpose="what bisect found"), guarded(self.folder):
            replace_file(self._memory, json.dumps(every, indent=1).encode())


def _server(graph: Graph) -> Node:
    return next(node for node in graph.values() if node.kind is Kind.SERVER)


def _question(graph: Graph, gates: tuple[str, ...]) -> str:
    """The digest of all that decides a result: what is served, how, and what is asked.

    The port is another one in each run, and decides nothing.
    """
    server = _server(graph)
    fields = {p: it for p, it in server.fields.items() if not p.startswith("local.")}
    spec = {name: it for name, it in server.spec.items() if name != "argv"}
    return digest(
        {"needs": dict(server.needs), "fields": fields, "spec": spec, "gates": [*gates]}
    )


def _candidate_steps(
    graph: Graph, state: State, gates: tuple[str, ...]
) -> Iterator[planned.Step]:
    """The steps of a first apply without its end, after what an earlier run left."""
    for step in planned.steps_of(make_plan(graph, state)):
        match step:
            case planned.Promote():
                pass
            case planned.Check(node):
                yield planned.Check(node, gates)
            case _:
                yield step


def _concluded(
    stack: Stack, over: Over, points: tuple[str, ...], found: Mapping[int, Tried]
) -> Bisected:
    """Return what the steps prove, and what keeps them from proving more."""
    known = {at: it.finding for at, it in found.items()}
    low, high = bounds(len(points), known)
    troubles = []
    if known.get(low) is not Finding.GOOD:
        said = found.get(low)
        why = f": {said.because}" if said is not None and said.because else ""
        troubles.append(
            f"`{points[low]}` is {known.get(low, 'not tried')}, not good{why}"
        )
    if known.get(high) is not Finding.BAD:
        said = found.get(high)
        why = f": {said.because}" if said is not None and said.because else ""
        troubles.append(
            f"`{points[high]}` is {known.get(high, 'not tried')}, not bad{why}"
        )
    after = [at for at, it in known.items() if it is Finding.GOOD and at > high]
    if after:
        troubles.append(
            f"`{points[min(after)]}` is good again behind the first bad one:"
            " a gate that passes by chance, or more than one cause"
        )
    return Bisected(
        stack.name,
        over,
        points,
        tuple(found.values()),
        points[low],
        points[low + 1 : high + 1],
        "; ".join(troubles),
    )


def _with_causes(found: Bisected, loaded: Loaded, settings: Settings) -> Bisected:
    """Add the pull requests and the entry of a known issue, where builds were tried."""
    if found.over is not Over.BUILDS or found.trouble or not found.suspects:
        return found
    ends = (found.last_good, found.suspects[-1])
    first, last = reversed(ends) if found.backwards else ends
    try:
        builds = (number_of(first), number_of(last))
        pulls, note = pulls_of(loaded.stack, (first, last), builds, settings)
    except SourceError as error:
        pulls, note = [], f"not known: {error.message}"
    found = replace(found, pulls=tuple(pulls), pulls_note=note)
    return (
        replace(found, trap=trap_entry(found, (first, last)))
        if found.first_bad
        else found
    )


def trap_entry(found: Bisected, tags: tuple[str, str]) -> str:
    """The known issue as an entry of `traps.toml`, for people to complete."""
    bad = number_of(found.first_bad)
    compared = f"{UPSTREAM}/compare/{tags[0]}...{tags[1]}"
    one = found.pulls[0].number if len(found.pulls) == 1 and not found.pulls_note else 0
    other = f"{found.last_good}` or {'later' if found.backwards else 'earlier'}"
    values = {
        "id": f"{found.stack}-{found.first_bad}",
        "theme": "Builds and platforms",
        "severity": "warning",
        "when": f"what the stack `{found.stack}` has: narrow this down",
        "what": found.because or "the gates of the stack fail",
        "write": f"`tag: {other}",
        "reference": f"{UPSTREAM}/pull/{one}" if one else compared,
        ("until" if found.backwards else "since"): bad,
    }
    lines = (f"{name} = {_toml(value)}" for name, value in values.items())
    return "\n".join(("[[trap]]", *lines))


def _toml(value: str | int | None) -> str:
    """A value as TOML has it: its basic strings escape as JSON does, but for DEL."""
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")
