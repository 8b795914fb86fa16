"""Artefacts apart from a deployment: fetching them, and listing the store."""

import shlex
import shutil
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from deployer.artefacts import lock_file
from deployer.artefacts.store import Entry
from deployer.artefacts.store import Kind as StoredKind
from deployer.engines.contract import Left, RemoteStore
from deployer.engines.local.artefacts import build_of, version_of
from deployer.engines.local.supervise.process import run_server
from deployer.engines.local.supervise.survivors import (
    holder_of,
    holders,
    remove_runs,
    unused_runs,
)
from deployer.errors import SourceError, StateError, UsageError
from deployer.llama.build.compile import forget_work
from deployer.llama.build.trees import (
    Source,
    SourceRequest,
    Surroundings,
    check_patches,
    describe_pin,
    pin_first,
    pin_tree,
    pulls_named,
    requests_for,
)
from deployer.llama.description import (
    Description,
    describe_help,
    describe_tree,
)
from deployer.llama.git import PullRequest, pulls_between
from deployer.llama.patches import PatchVerdict, load_patches, names_in
from deployer.planning.events import Say
from deployer.planning.facts import PYDIST, UPSTREAM, Facts, Pin, pinned_images
from deployer.planning.progress import Watch, unwatched
from deployer.planning.resources import Kind
from deployer.show.text import show
from deployer.stack.fields.model import Stack
from deployer.stack.fields.values import Flat
from deployer.stack.load import load
from deployer.usecases.context.gc_roots import Unreachable, Users, users
from deployer.usecases.context.settings import Options, Settings
from deployer.usecases.plan import prepare
from deployer.usecases.reading.pins import image_notes, resolved


@dataclass(frozen=True, slots=True)
class Stored:
    """One artefact of the store."""

    kind: StoredKind
    key: str
    size: int
    """Bytes."""
    created: str
    """UTC, ISO 8601."""
    what: str
    sound: bool
    """Every file is there with the recorded size."""
    used_by: tuple[str, ...]
    """Stacks that have it live, retain it for a rollback, or are making it; else a
    process that holds a file of it."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """Artefacts that no state needs and no living process uses."""

    entries: tuple[Stored, ...]
    runs: tuple[Path, ...]
    """Run folders: logs, and what ended servers left."""


def fetch(
    stack_file: Path,
    settings: Settings,
    options: Options,
    say: Say,
    wanted: Collection[Kind],
    *,
    force: bool,
) -> Mapping[str, Flat]:
    """Put what is wanted of build and weights into the store, side by side.

    With ``force`` the build is made again.  Returns the outputs by role: where each
    lies, and of a build its version.
    """
    prepared, facts = prepare(stack_file, settings, options, say)
    if facts is not None:
        lock_file.write(lock_file.lock_path(stack_file), facts, prepared.name)
    made_by = settings.engine(prepared.engine, stack_file)
    nodes = [node for node in prepared.graph.values() if node.kind in wanted]
    for node in nodes if force else ():
        if node.kind is Kind.BUILD:
            settings.store.remove("build", node.key)
            forget_work(settings.home / "work")
    made_by.preflight(nodes)
    with ThreadPoolExecutor(max_workers=len(nodes)) as pool:
        outputs = pool.map(lambda node: made_by.stage(node, {}, say), nodes)
        return {node.role: found for node, found in zip(nodes, outputs, strict=True)}


def stored(settings: Settings) -> tuple[tuple[Stored, ...], tuple[Unreachable, ...]]:
    """Everything in the store, oldest first, and the states whose needs are unknown."""
    needed = users(settings)
    return _stored(settings, needed, holders(settings.home)), needed.unreachable


def _stored(
    settings: Settings, needed: Users, held: Mapping[Path, int]
) -> tuple[Stored, ...]:
    def used_by(entry: Entry) -> tuple[str, ...]:
        if stacks := needed.of.get(entry.key):
            return stacks
        pid = holder_of(entry.folder, held)
        return () if pid is None else (f"pid {pid}",)

    return tuple(
        Stored(
            entry.kind,
            entry.key,
            entry.size,
            entry.created.isoformat(timespec="seconds"),
            show(entry.about.get("name")),
            sound=not entry.problems(),
            used_by=used_by(entry),
        )
        for entry in settings.store.entries()
    )


def verified(settings: Settings) -> Mapping[str, tuple[str, ...]]:
    """Return what reading every byte of every artefact finds wrong, by kind and key."""
    store = settings.store
    return {
        f"{entry.kind} {entry.key[:12]}": tuple(store.verify(entry))
        for entry in store.entries()
    }


def garbage(settings: Settings) -> Garbage:
    """Return what no live and no retained release needs, and no living process holds.

    Raises StateError where a state cannot be read: what it needs is unknown.
    """
    needed = _known_users(settings)
    held = holders(settings.home)
    entries = _stored(settings, needed, held)
    return Garbage(
        tuple(entry for entry in entries if not entry.used_by),
        unused_runs(settings.home, needed.of, held),
    )


def collect(settings: Settings, found: Garbage) -> Garbage:
    """Remove garbage that still is some; a file of the user stays.

    Returns what was removed.  Raises StateError as `garbage` does.
    """

    def unused() -> Collection[tuple[StoredKind, str]]:
        return {(entry.kind, entry.key) for entry in garbage(settings).entries}

    asked = [(entry.kind, entry.key) for entry in found.entries]
    gone = settings.store.remove_all(asked, unused)
    runs = tuple(run for run in found.runs if run in garbage(settings).runs)
    remove_runs(runs)
    entries = tuple(it for it in found.entries if (it.kind, it.key) in gone)
    _forget_leftovers(settings)
    return Garbage(entries, runs)


def _known_users(settings: Settings) -> Users:
    """Who needs what; raises StateError where that is not known of every state."""
    found = users(settings)
    if found.unreachable:
        count = len(found.unreachable)
        states = "1 state cannot" if count == 1 else f"{count} states cannot"
        told = "; ".join(
            f"{f'`{it.stack}` ' if it.stack else ''}in `{it.place}`: {it.why}"
            for it in found.unreachable
        )
        raise StateError(
            f"{states} be read, so what is needed is unknown and nothing was removed:"
            f" {told}",
            hint="make it readable, or for a state that is gone for good:"
            f" `deployer store gc --forget {shlex.quote(found.unreachable[0].place)}`",
        )
    return found


def unused_elsewhere(settings: Settings, store: RemoteStore) -> Sequence[Left]:
    """Return what the store of an engine holds, and no release needs."""
    return store.unused(_known_users(settings).of)


def _forget_leftovers(settings: Settings) -> None:
    """Remove what builds and downloads left to save the next one some work."""
    forget_work(settings.home / "work")
    downloads = settings.store.downloads
    if holder_of(downloads, holders(settings.home)) is None:
        shutil.rmtree(downloads, ignore_errors=True)


def patches_over_tags(
    folder: Path,
    names: Sequence[str],
    tags: Sequence[str],
    source: Source,
    settings: Settings,
    say: Say,
) -> Mapping[str, Sequence[PatchVerdict]]:
    """Return what each patch means for the source of each tag.

    Raises StackError for patches that are wrong in themselves.
    """
    every = tuple(names) or tuple(names_in(folder))
    if not every:
        raise UsageError(
            f"there is no patch in `{folder}`",
            hint="a patch is a folder with `patch.yaml` and `<name>.patch`",
        )
    patches = load_patches(folder, every)
    around = Surroundings(settings.store.downloads, settings.environment, say)
    return {
        tag: check_patches(
            pin_tree(SourceRequest(source, tag), (), around), patches, around
        )
        for tag in tags
    }


def pulls_of(
    stack: Stack,
    tags: tuple[str, str],
    builds: tuple[int | None, int | None],
    settings: Settings,
) -> tuple[Sequence[PullRequest], str]:
    """The pull requests from an older build to a newer one, newest first.

    And where they come from, if the repository of the stack does not answer: then the
    index does, with gaps.  Raises SourceError where neither knows them.
    """
    repo = stack.llama_cpp.repo or UPSTREAM
    downloads, environment = settings.store.downloads, settings.environment
    try:
        return pulls_between(repo, *tags, downloads, environment), ""
    except SourceError as error:
        first, last = builds
        if first is None or last is None:
            raise
        try:
            pulls, known = pulls_named(first, last, environment)
        except SourceError:
            raise error from None
        end = f", none after b{known}" if known < last else ""
        note = f"as `{PYDIST}` lists them, which has gaps{end}: {error.message}"
        return pulls, note


@dataclass(frozen=True, slots=True)
class Described:
    """A build, and what it states about itself."""

    build: int | None
    description: Description


def describe(named: str, settings: Settings, watch: Watch) -> Described:
    """Read a source tree, a llama-server binary, or the source of a tag.

    The binary is started with `--help`.  Raises UsageError for a folder that is no
    source tree, EngineError for a program that is no llama-server, and SourceError
    where no source has the tag.
    """
    path = Path(named)
    if path.is_dir():
        if (found := describe_tree(path)) is None:
            raise UsageError(
                f"`{named}` has no `common/arg.cpp` with options of llama-server",
                hint="name the root of a llama.cpp checkout",
            )
        return Described(None, found)
    if path.is_file():
        program = str(path.absolute())
        build = build_of(version_of(path.absolute()))
        said = run_server((program, "--help"), {}).stdout
        return Described(build, describe_help(said, build))
    around = Surroundings(settings.store.downloads, settings.environment, watch)
    pin = pin_first(requests_for(named), around)
    found = describe_pin(pin, (), around)
    if found is None:
        raise SourceError(f"the source of `{named}` states no options of llama-server")
    number = pin.about.get("number")
    return Described(number if isinstance(number, int) else None, found)


@dataclass(frozen=True, slots=True)
class Locked:
    """The result of `lock`."""

    file: Path
    changed: bool
    changes: tuple[str, ...]
    """One line for each fact that moved."""


def lock(
    stack_file: Path,
    settings: Settings,
    engine: str | None,
    *,
    upgrade: bool,
    watch: Watch | None = None,
) -> Locked:
    """Resolve what is not pinned (all of it with ``upgrade``), and write the file."""
    loaded = load(stack_file, engine=engine, allowed=settings.allowed(stack_file))
    file = lock_file.lock_path(stack_file)
    before = _before(file) if upgrade else lock_file.read(file)
    known = None if upgrade else before
    told = watch or unwatched
    facts = resolved(loaded, stack_file, settings, known, told, asks_registries=True)
    if facts != before:
        lock_file.write(file, facts, loaded.stack.name)
    left = tuple(image_notes(loaded.stack, facts))
    return Locked(file, facts != before, (*_changes(before, facts), *left))


def _before(file: Path) -> Facts | None:
    """Return what a lock file pins that is about to be replaced, whatever it is now."""
    try:
        return lock_file.read(file)
    except UsageError:
        return None


def _changes(before: Facts | None, after: Facts) -> list[str]:
    found = []
    old, new = {} if before is None else before.by_role, after.by_role
    for role in dict.fromkeys((*new, *old)):
        if old.get(role) != new.get(role):
            shown = f"{_shown(old.get(role))} → {_shown(new.get(role))}"
            found.append(f"{role}: {shown}")
    had = {} if before is None else pinned_images(before.build)
    for role, image in pinned_images(after.build).items():
        if had.get(role) != image:
            found.append(f"image of {role}: {had.get(role, 'nothing')} → {image}")
    return found


def _shown(pin: Pin | None) -> str:
    return "nothing" if pin is None else show(dict(pin.identity))
