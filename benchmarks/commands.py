"""Whole commands: ours beside those of other tools, and ours beside each other."""

import itertools
import re
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks import peers
from benchmarks.applied import BUILD, MODEL, Applied, applied, ours, variables
from benchmarks.peer_projects import asking_for_help, nothing_to_do
from benchmarks.processes import (
    Command,
    Launcher,
    MeasureError,
    Turn,
    against_ours,
    floors,
    in_turn,
    median_of,
    samples_of,
)
from benchmarks.result import Bar, Bars, Result, Run, Table
from deployer.state import SEGMENT, SEGMENTS

OURS = "deployer plan"
_HEAD = (
    *("", "version", "CPU ms, median (best)", "wall ms", "peak MiB"),
    *("× `python -c pass`", "× ours"),
)
_FLOOR = "CPU time as a multiple of `python -c pass`"
_FAST, _FULL, _SHORT = 6, 16, 4
"""What a plan may cost, of a prepared stack and read in full, and what `--help` may."""


def plans(run: Run) -> Result:
    """A plan without changes beside what other tools say when nothing is to do."""
    with applied(run, "bench") as stack:
        own = _plan(stack)
        return _beside_peers(
            run,
            own,
            title="A plan without changes, beside other tools",
            plot=Bars("plans", "Nothing to do: who says so soonest", _FLOOR, ()),
            about=(
                f"A stack that is live on this machine: {MODEL}, {BUILD}.",
                "Ours plans again each time and asks the live server.",
                (
                    "The others are asked in the same way: a dry run, a check, a plan"
                    " of a small project in which nothing is left to do."
                ),
                (
                    "They do not do the same work; each number is what a user waits"
                    " before being told that nothing changes."
                ),
            ),
        )


def helps(run: Run) -> Result:
    """`--help` of everybody."""
    own = Command(
        "deployer --help", (*ours(), "--help"), run.folder, variables(run.home)
    )
    return _beside_peers(
        run,
        own,
        title="`--help`, beside other tools",
        plot=Bars(
            "helps", "--help: what a tool costs before it does anything", _FLOOR, ()
        ),
        about=("What each tool imports before it looks at what it was asked.",),
        help_only=True,
    )


def commands(run: Run) -> Result:
    """Every command of ours that only reads, on a stack that is live."""
    with applied(run, "bench") as stack, Launcher.started() as launcher:
        listed = tuple(_ours(stack))
        turns = in_turn(launcher, _plan(stack), listed, run.rounds)
    bars = tuple(Bar(c.name, floors(turns[c.name]), ours=True) for c in listed)
    limits = {f"{_FAST} ×": float(_FAST), f"{_FULL} ×": float(_FULL)}
    plot = Bars("commands", "deployer's commands", _FLOOR, bars, limits=limits)
    head = (*_HEAD[:1], *_HEAD[2:-1], "× plan")
    table = Table(head, tuple(_row(c.name, turns[c.name], short=True) for c in listed))
    return Result(
        title="Commands of deployer",
        about=(
            f"A stack that is live on this machine: {MODEL}, {BUILD}.",
            "A plan is made again each time and asks the live server.",
            *_about(run),
        ),
        tables=(table,),
        plots=(plot,),
        notes=(
            (
                f"Goals: {_FAST} × for a plan that asks the live server and reads no"
                f" model, {_FULL} × for one that reads everything, {_SHORT} × for"
                " `--help`, 30 MiB for a plan."
            ),
        ),
        samples=samples_of(turns),
    )


def _ours(stack: Applied) -> Iterator[Command]:
    yield stack.deployer("--version")
    yield stack.deployer("--help")
    yield _plan(stack, name="plan, no change")
    if "--no-cache" in stack.do("plan", "--help"):
        words = ("plan", "--no-cache", stack.path)
        yield stack.deployer(*words, name="plan --no-cache", expects="No changes")
    yield _changed(stack)
    yield stack.deployer("validate", stack.path)
    yield stack.deployer("render", stack.path)
    yield stack.deployer("status", stack.path)
    yield _history(stack)
    words = ("apply", stack.path, "--yes")
    yield stack.deployer(*words, name="apply, no change", expects="No changes")


def _history(stack: Applied) -> Command:
    """The history of a stack whose log is full, 50 entries of it."""
    folder = stack.file.parent / ".deployer" / "state" / "log" / stack.file.stem
    newest = max(folder.glob("*.jsonl")).read_text("utf-8").splitlines()[-1]
    for part in range(1, SEGMENTS + 1):
        text = f"{newest}\n" * SEGMENT
        (folder / f"{part:08}.jsonl").write_text(text, encoding="utf-8")
    name = f"history, of {SEGMENT * SEGMENTS:,} entries"
    return stack.deployer("history", stack.path, name=name)


def _changed(stack: Applied) -> Command:
    """A plan of the same stack, in another folder, with another line each time."""
    folder = stack.file.parent.parent / "changed"
    shutil.copytree(stack.file.parent, folder / "stacks")
    file = folder / "stacks" / stack.file.name
    sizes = itertools.count(4096, 256)

    def change() -> None:
        text = re.sub(
            r"ctx_size: \d+", f"ctx_size: {next(sizes)}", file.read_text("utf-8")
        )
        file.write_text(text, encoding="utf-8")

    command = stack.deployer("plan", stack.path, expects="1 to deploy")
    name = "plan, one line changed"
    return replace(command, name=name, folder=folder, before=change)


def _plan(stack: Applied, *, name: str = OURS) -> Command:
    said = "No changes: what is live is what the stack says."
    return stack.deployer("plan", stack.path, name=name, expects=said)


def _beside_peers(
    run: Run,
    own: Command,
    *,
    title: str,
    plot: Bars,
    about: tuple[str, ...],
    help_only: bool = False,
) -> Result:
    """Ours, and every peer that is there, each right after ours."""
    notes = [] if run.peers else ["The other tools were not asked for."]
    versions: dict[str, str] = {}
    with ExitStack() as stack:
        launcher = stack.enter_context(Launcher.started())
        listed = [own]
        for command, version, problem in _peers(run, stack, help_only=help_only):
            if command is None:
                notes.append(problem)
                continue
            listed.append(command)
            versions[command.name] = version
            if command.note:
                notes.append(f"{command.name}: {command.note}.")
        turns = _measured(run, launcher, own, listed, notes)
    order = sorted(turns, key=lambda name: median_of(turns[name], "cpu"))
    bars = tuple(Bar(n, floors(turns[n]), ours=n == own.name) for n in order)
    table = Table(_HEAD, tuple(_row(n, turns[n], versions.get(n, "")) for n in order))
    return Result(
        title=title,
        about=(*about, *_about(run)),
        tables=(table,),
        plots=(replace(plot, bars=bars, log=len(bars) > 1),),
        notes=tuple(notes),
        samples=samples_of(turns),
    )


def _measured(
    run: Run,
    launcher: Launcher,
    own: Command,
    listed: Sequence[Command],
    notes: list[str],
) -> Mapping[str, Sequence[Turn]]:
    """Everybody in turn; one that fails is told, and left out."""
    fine = []
    for command in listed:
        run.say(f"trying {command.name}")
        try:
            launcher.run(command)
            fine.append(command)
        except MeasureError as error:
            if command.name == own.name:
                raise
            notes.append(f"{command.name} is not measured: {error}")
    run.say(f"{run.rounds} rounds of {len(fine)} commands")
    return in_turn(launcher, own, fine, run.rounds)


def _peers(
    run: Run, stack: ExitStack, *, help_only: bool
) -> Iterator[tuple[Command | None, str, str]]:
    """Command and version of each peer, or why there is none."""
    for peer in peers.PEERS if run.peers else ():
        found = peers.look(peer, run.peers or Path())
        if found is None:
            why = peers.why_not(peer, run.peers or Path())
            yield None, "", f"{peer.name} is not measured: {why}"
            continue
        folder = run.folder / peer.package
        try:
            if help_only:
                command = asking_for_help(found, folder)
            else:
                run.say(f"a project of {peer.name}")
                command = stack.enter_context(nothing_to_do(found, folder))
        except (MeasureError, OSError) as error:
            yield None, "", f"{peer.name} is not measured: {error}"
        else:
            yield command, found.version, ""


def _row(
    name: str, turns: Sequence[Turn], version: str = "", *, short: bool = False
) -> tuple[str, ...]:
    best = min(turn.it.cpu for turn in turns)
    cells = (
        f"{median_of(turns, 'cpu') * 1000:.0f} ({best * 1000:.0f})",
        f"{median_of(turns, 'wall') * 1000:.0f}",
        f"{median_of(turns, 'peak') / 2**20:.0f}",
        f"{statistics.median(floors(turns)):.1f}",
        f"{against_ours(turns):.2f}",
    )
    return (name, *cells) if short else (name, version, *cells)


def _about(run: Run) -> tuple[str, ...]:
    network = (
        "The network was out of reach: what is in the table needs none."
        if run.offline
        else "The network was within reach, since this user may not leave it."
    )
    return (
        (
            f"{run.rounds} rounds after one that warms up; in each, a command runs"
            " right after `python -c pass` and after ours; ratios are of such pairs."
        ),
        "CPU time counts all children; bytecode is compiled.",
        network,
    )
