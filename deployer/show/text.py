"""A plan in words: the signs and phrases of every rendering, and the terminal's."""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, assert_never

from deployer.diagnostics import Place
from deployer.planning.plan import Action, Cause, Change, Fit, Parts, Plan, Reason
from deployer.planning.resources import MODEL_ROLE, Kind, Node
from deployer.planning.state import IN_DOUBT, starts_of
from deployer.stack.fields.values import (
    Flat,
    JsonValue,
    http_address,
    show_bytes,
    show_seconds,
)

if TYPE_CHECKING:
    from deployer.planning.costs import Costs
    from deployer.planning.steps import Step


SIGNS: Mapping[Action, str] = {
    Action.KEEP: "✔",
    Action.NOTE: "·",
    Action.VALIDATE: "◌",
    Action.UPDATE: "~",
    Action.START: "↻",
    Action.REPLACE: "±",
    Action.CREATE: "+",
    Action.DELETE: "-",
}

VERBS: Mapping[Kind, tuple[str, str]] = {
    Kind.BUILD: ("build", "rebuild"),
    Kind.WEIGHTS: ("fetch", "re-fetch"),
    Kind.SNAPSHOT: ("snapshot", "re-snapshot"),
    Kind.SERVER: ("deploy", "redeploy"),
}
"""The verbs of making each kind, the first time and again."""


IN_STORE = "in the store"
"""The prospect of an artefact that need not be made."""
_OTHERWISE = re.compile(r"(true|false|unset|[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?)?")
"""Text that reads as another kind of value where it stands without quotes."""


_DONE: Mapping[Action, str] = {
    Action.START: "start",
    Action.UPDATE: "update in place",
    Action.VALIDATE: "re-validate",
    Action.NOTE: "note",
    Action.DELETE: "remove",
}


STAYS = (Kind.BUILD, Kind.WEIGHTS)
"""Artefacts that a destroyed stack leaves in the store."""


def verb(change: Change) -> str:
    """Return what is done to a resource, in one word or two."""
    if change.action is Action.KEEP:
        return "unchanged"
    if change.action is Action.DELETE and change.kind in STAYS:
        return "stays in the store"
    if change.action in _DONE:
        return _DONE[change.action]
    if change.ready:
        return "promote (ready)"
    first, again = VERBS[change.kind]
    return first if change.action is Action.CREATE else again


def _sign(change: Change) -> str:
    stays = change.action is Action.DELETE and change.kind in STAYS
    return SIGNS[Action.NOTE if stays else change.action]


def describe(change: Change) -> str:
    """Return what a resource is, from its fields and its lock."""
    thing = change.after or change.before
    if thing is None:
        return ""
    fields, spec = thing.fields, thing.spec
    match change.kind:
        case Kind.BUILD:
            return _described_build(fields, spec)
        case Kind.WEIGHTS:
            return _described_weights(spec)
        case Kind.SNAPSHOT:
            return _described_snapshot(fields)
        case Kind.SERVER:
            return _described_server(fields)
        case _:
            assert_never(change.kind)


def because(reason: Reason) -> str:
    """A reason as a line; a field's line holds its old and new value."""
    match reason.cause:
        case Cause.FIELD | Cause.LOCK:
            path = printable(reason.path)
            return f"{path}   {show(reason.before)} → {show(reason.after)}"
        case Cause.NEED:
            are = "are" if reason.path == MODEL_ROLE else "is"
            return f"because {reason.path} {are} {_fate(reason)}"
        case Cause.NEW:
            return "not there yet"
        case Cause.UNDECLARED:
            return "no longer asked for"
        case Cause.RECIPE if reason.path:
            words = f"{show(reason.before)} → {show(reason.after)}"
            return f"because the command line is spelled differently: {words}"
        case Cause.RECIPE:
            return "because this version of deployer makes it differently"
        case Cause.DRIFT:
            return "because it drifted"
        case _:
            assert_never(reason.cause)


def _fate(reason: Reason) -> str:
    """Return what becomes of a thing that something is made from."""
    if reason.before is None:
        return "new"
    return "removed" if reason.after is None else "replaced"


_CENT = 0.005
"""US dollars that are shown as a cent, and not as less."""


def price(dollars: float) -> str:
    """US dollars for people."""
    return f"${dollars:.2f}" if dollars >= _CENT else "less than $0.01"


def costs_line(found: "Costs") -> str:
    """Return an estimate of costs as one line."""
    once = f"about {price(found.apply)}" if found.apply else "nothing"
    awake = f"{found.always} times " if found.always > 1 else ""
    when = "always" if found.always else "while"
    dear = found.storage >= _CENT
    stored = f" · ≤ {price(found.storage)}/month stored" if dear else ""
    spent = f"about {awake}{price(found.awake)}/h {when} awake"
    return f"{once} for this apply · {spent}{stored}"


def starts_line(plan: Plan) -> str:
    """Return what starts of the live server took; empty where none was measured."""
    server = plan.change(Kind.SERVER)
    return starts_of(None if server is None else server.before)


def leftovers(plan: Plan) -> Iterator[str]:
    """Yield what earlier runs left or took back, a line each."""
    if plan.rolled_back:
        yield (
            f"release {plan.rolled_back} was rolled back, and the stack still asks for"
            " it: change the stack, or run apply --again"
        )
    if plan.resumes is not None:
        number = plan.resumes.number
        yield f"an earlier run stopped while promoting release {number}"
    for loose in plan.unfinished:
        thing = f"{loose.record.address} {loose.record.key[:8]}"
        yield f"an earlier run left {thing} {loose.begun}; it is retired first"


def gates_line(plan: Plan, *, room: int | None = None) -> str:
    """How many gates run, and on what; empty where none does.

    ``room`` is for names, in characters; JSON and the steps name every gate.
    """
    number = len(plan.gates)
    called_for = {reason.calls_for for c in plan.changes for reason in c.reasons}
    server = plan.change(Kind.SERVER)
    if server is not None and server.action in {Action.CREATE, Action.REPLACE}:
        where = "the candidate before promotion"
    elif Action.VALIDATE in called_for:
        where = "what is live"
    else:
        return ""
    verb_ = "runs" if number == 1 else "run"
    return f"{number} {verb_} on {where}: {', '.join(_few(plan.gates, room))}"


def _few(names: Sequence[str], room: int | None) -> Iterator[str]:
    """Names, as many as there is room for."""
    for name in names:
        if room is not None and len(name) + len(", …") > room:
            yield "…"
            return
        yield name
        room = None if room is None else room - len(name) - len(", ")


def place_of(reason: Reason, places: Mapping[str, Place]) -> Place | None:
    """Where the field was written, or the nearest section around it."""
    path = reason.path if reason.cause is Cause.FIELD else ""
    while path:
        if path in places:
            return places[path]
        path = path.rpartition(".")[0]
    return None


def line_of(place: Place) -> str:
    """File and line, as editors and terminals open them."""
    return f"{printable(place.file)}:{place.line}"


def show(value: JsonValue) -> str:
    """A value on one line; hashes are cut as git cuts them."""
    match value:
        case None:
            return "unset"
        case bool():
            return "true" if value else "false"
        case str() if len(value) == 64 and set(value) <= set("0123456789abcdef"):
            return value[:12]
        case str() if _OTHERWISE.fullmatch(value):
            return f'"{value}"'
        case str():
            return printable(value)
        case float() if value.is_integer():
            return str(int(value))
        case dict() if value == IN_DOUBT:
            return "in doubt"
        case dict():
            pairs = (f"{printable(k)}: {show(v)}" for k, v in value.items())
            return "{" + ", ".join(pairs) + "}"
        case list():
            return "[" + ", ".join(show(item) for item in value) + "]"
        case _:
            return json.dumps(value)


def drifted(plan: Plan) -> Iterator[str]:
    """How the world was seen to differ from the state, a line each."""
    for drift in plan.drift:
        yield f"{printable(drift.address)}: {printable(drift.detail)}"


def printable(text: str) -> str:
    """Text that cannot move the cursor or hide what follows it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def counts(plan: Plan, *, refreshed: bool = True, stored: Collection[str] = ()) -> str:
    """Return the last line of a plan; `refreshed` where what is live was looked at.

    ``stored`` has the addresses of what need not be made: the store has it.
    """
    if plan.is_empty:
        if not refreshed:
            return "No changes; what is live was not refreshed."
        return "No changes: what is live is what the stack says."
    new = (Action.CREATE, Action.REPLACE)
    made = Counter(
        c.kind
        for c in plan.changes
        if c.action in new and not c.ready and c.address not in stored
    )
    stay = [c for c in plan.changes if c.action is Action.DELETE and c.kind in STAYS]
    done = Counter(c.action for c in plan.changes if c not in stay)
    parts = [f"{made[kind]} to {VERBS[kind][0]}" for kind in Kind if made[kind]]
    parts += [f"{len(stored)} {IN_STORE}"] if stored else []
    parts += [f"{done[a]} to {words}" for a, words in _DONE.items() if done[a]]
    parts += [f"{len(stay)} to stay in the store"] if stay else []
    return f"Plan: {', '.join(parts) or 'to finish what an earlier run left'}."


def _described_build(fields: Flat, spec: Flat) -> str:
    parts = [f"llama-server {fields.get('llama_cpp.tag', '')}".strip()]
    origins = (fields.get("llama_cpp.package"), fields.get("llama_cpp.binary"))
    parts += [show(origin) for origin in origins if origin]
    match spec.get("source"):
        case str(source) if source.startswith("source-"):
            parts.append(f"from source ({source.removeprefix('source-')})")
        case "release":
            parts.append("upstream's archive")
        case _:
            pass
    match fields.get("llama_cpp.patches"):
        case [*patches] if patches:
            parts[0] += f" + {len(patches)} patch{'es' if len(patches) > 1 else ''}"
    if cuda := fields.get("llama_cpp.cuda"):
        parts.append(f"CUDA {printable(str(cuda))}")
    return " · ".join([*parts, *_size(spec)])


def _described_weights(spec: Flat) -> str:
    match spec:
        case {"about": {"model": [str(name), *_]}} | {
            "where": {"requirement": str(name)}
        }:
            return " · ".join([show(name), *_size(spec)])
        case _:
            return " · ".join(["GGUF", *_size(spec)])


def _described_snapshot(fields: Flat) -> str:
    """Return what was asked before it was taken."""
    match fields.get("snapshot.warmup"):
        case [_]:
            return "1 warm-up request"
        case [*requests] if requests:
            return f"{len(requests)} warm-up requests"
        case _:
            return ""


def _size(spec: Flat) -> list[str]:
    match spec.get("about"):
        case {"size": int(size)}:
            return [show_bytes(size)]
        case _:
            return []


def _described_server(fields: Flat) -> str:
    host, port = str(fields.get("local.host", "")), fields.get("local.port", "")
    parts = [http_address(host, port) if "local.port" in fields else ""]
    if alias := fields.get("model.alias"):
        parts.append(show(alias))
    return " · ".join(part for part in parts if part)


_WORTH_TELLING = 1.0
"""Seconds of an apply that are worth a line."""


def step_text(step: "Step") -> str:
    """One step, in the words that both plan and apply use."""
    from deployer.planning import steps  # noqa: PLC0415 - a plan without changes has none

    match step:
        case steps.Make(nodes):
            return ", ".join(f"{VERBS[n.kind][0]} {n.address}" for n in nodes)
        case steps.Stage(node):
            return f"stage {node.address}"
        case steps.Check(node, gates):
            return f"check {node.address}: {', '.join(gates)}"
        case steps.Promote(nodes):
            return f"promote {_server_of(nodes)}"
        case steps.Resume(release):
            return f"finish promoting release {release.number}"
        case steps.Validate(nodes, gates):
            return f"validate {_server_of(nodes)}: {', '.join(gates)}"
        case steps.Update(node, paths):
            return f"update {node.address} in place: {', '.join(paths)}"
        case steps.Note(nodes):
            return f"note {', '.join(n.address for n in nodes)}"
        case steps.Start(record):
            return f"start {record.address}"
        case steps.Stop(record):
            return f"stop {record.address} {record.key[:8]} to make room"
        case steps.Retire(record):
            return f"retire {record.address} {record.key[:8]}"
        case steps.Forget():
            return "forget what was live"
        case _:
            assert_never(step)


def took_line(steps: Sequence[tuple["Step", float]]) -> str:
    """Where the time of an apply went, in seconds by step; empty where it was none."""
    words: dict[str, float] = {}
    for step, seconds in steps:
        # "build a/build, fetch a/weights" is a step: both are made side by side.
        parts = step_text(step).partition(":")[0].split(", ")
        names = (part.split()[0] for part in parts)
        word = " and ".join(dict.fromkeys(names))
        words[word] = words.get(word, 0) + seconds
    if (total := sum(words.values())) < _WORTH_TELLING:
        return ""
    told = (
        f"{word} {show_seconds(seconds)}"
        for word, seconds in words.items()
        if seconds >= total / 50
    )
    return f"took {show_seconds(total)}: {', '.join(told)}"


def _server_of(nodes: tuple[Node, ...]) -> str:
    return next(n.address for n in nodes if n.kind is Kind.SERVER)


_MIB, _GIB = 1024**2, 1024**3
_TOGETHER = {"output": "compute", "context": "compute", "process": "compute"}
"""Parts that one line adds to another."""


def fit_line(fit: Fit) -> str:
    """Return ``L40S 48 GB: weights 16.7 + … = 19.6 GiB (44 %)``."""
    joined: dict[str, int] = {}
    for name, size in fit.parts:
        name = _TOGETHER.get(name, name)  # noqa: PLW2901 - the name it is told by
        joined[name] = joined.get(name, 0) + size
    number = gib if fit.total >= _GIB else mib
    unit = "GiB" if fit.total >= _GIB else "MiB"
    parts = " + ".join(f"{name} {number(size)}" for name, size in joined.items())
    share = f" ({percent(fit)})" if fit.capacity else ""
    doubt = ", and an unknown rest" if fit.unsure else ""
    return f"{fit.where}: {parts} = {number(fit.total)} {unit}{share}{doubt}"


def fit_text(fit: Fit) -> Iterator[str]:
    """Every part on a line of its own."""
    yield f"{fit.where}: {_verdict(fit)}"
    yield from _parts(fit.parts)
    if fit.host:
        yield f"host memory beside it: {sized(_sum(fit.host))} at the start"
        yield from _parts(fit.host)
    if fit.grows:
        held = _sum(fit.host or fit.parts)
        yield (
            f"host memory under load: up to {sized(held + _sum(fit.grows))},"
            f" {sized(_sum(fit.grows))} of it for"
        )
        yield from _parts(fit.grows)
    for note in fit.unsure:
        yield f"not in the figures: {note}"


def gib(size: int) -> str:
    """A size in GiB, without the unit."""
    return f"{size / _GIB:.1f}"


def mib(size: int) -> str:
    """A size in MiB, without the unit."""
    return f"{size / _MIB:.0f}" if size >= 10 * _MIB else f"{size / _MIB:.1f}"


def sized(size: int) -> str:
    """A size in the unit that shows it."""
    return f"{gib(size)} GiB" if size >= _GIB else f"{mib(size)} MiB"


def percent(fit: Fit) -> str:
    """The share of what there is."""
    return f"{100 * fit.total / fit.capacity:.0f} %"


def _verdict(fit: Fit) -> str:
    if not fit.capacity:
        return f"needs {sized(fit.total)}"
    word = "fits" if fit.holds else "does not fit"
    return f"{word}, {sized(fit.total)} of {sized(fit.capacity)} ({percent(fit)})"


def _parts(parts: Parts) -> Iterator[str]:
    for name, size in parts:
        yield f"  {name:<16}{sized(size):>12}"


def _sum(parts: Parts) -> int:
    return sum(size for _, size in parts)


_VERB_COLUMN = 68
_PLACE_COLUMN = 58
_ROOM = 36
"""For names of gates, in a terminal of 90 columns."""


def plan_text(  # noqa: PLR0913 - one parameter a part of it
    plan: Plan,
    places: Mapping[str, Place],
    *,
    steps: bool = False,
    fit: Fit | None = None,
    costs: "Costs | None" = None,
    prospects: Mapping[str, str] | None = None,
    refreshed: bool = True,
    wide: bool = False,
) -> str:
    """Return the plan with every reason and, by `places`, where its field is.

    ``prospects`` has what making an artefact means here, by address; a ``wide`` plan
    names every gate.
    """
    seen = (places, prospects or {}, refreshed, None if wide else _ROOM)
    lines = map(printable, _lines(plan, seen, fit, costs, steps=steps))
    return "\n".join(lines) + "\n"


def _lines(
    plan: Plan,
    seen: tuple[Mapping[str, Place], Mapping[str, str], bool, int | None],
    fit: Fit | None,
    costs: "Costs | None",
    *,
    steps: bool,
) -> Iterator[str]:
    places, prospects, refreshed, room = seen
    yield f"{plan.stack} on {plan.engine} · plan {plan.id} · state serial {plan.serial}"
    yield ""
    found = [leftovers(plan), (f"drift    {line}" for line in drifted(plan))]
    for lines in ([f"  ! {line}" for line in it] for it in found):
        yield from [*lines, ""] if lines else ()
    wide = max((len(it.role) for it in plan.changes), default=0)
    heads = [
        f"  {_sign(it)} {it.role:<{max(9, wide + 1)}}{describe(it)}"
        for it in plan.changes
    ]
    column = max((len(head) for head in heads), default=0)
    stored = {address for address, said in prospects.items() if said == IN_STORE}
    for change, head in zip(plan.changes, heads, strict=True):
        there = change.address in stored
        fate = "stored" if there else verb(change)
        yield f"{head:<{max(column, _VERB_COLUMN)}}  {fate}"
        if not there and (prospect := prospects.get(change.address)):
            yield f"      {prospect}"
        yield from _reasons(change, places)
    yield from _below(plan, fit, costs, room=room)
    yield ""
    yield counts(plan, refreshed=refreshed, stored=stored)
    if steps and not plan.is_empty:
        from deployer.planning.steps import steps_of  # noqa: PLC0415 - rarely asked for

        yield from ("", "Steps:")
        for number, step in enumerate(steps_of(plan), start=1):
            yield f"  {number}. {step_text(step)}"


def _below(
    plan: Plan, fit: Fit | None, costs: "Costs | None", *, room: int | None
) -> Iterator[str]:
    if gates := gates_line(plan, room=room):
        yield f"  ◌ gates    {gates}"
    if fit is not None:
        yield f"  ≤ fits     {fit_line(fit)}"
    if costs is not None and not plan.is_empty:
        yield f"  $ costs    {costs_line(costs)}"
    if starts := starts_line(plan):
        yield f"  ↻ starts   {starts}"


def _reasons(change: Change, places: Mapping[str, Place]) -> Iterator[str]:
    for reason in change.reasons:
        if reason.cause is Cause.NEW or (
            reason.cause is Cause.UNDECLARED and change.kind in STAYS
        ):
            continue
        place = place_of(reason, places)
        line = f"      {because(reason)}"
        if place is None:
            yield line
        else:
            yield f"{line:<{_PLACE_COLUMN}}  {line_of(place)}"
