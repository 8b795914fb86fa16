"""The slow way to a prepared stack: model, lock file, sources.

Absence counts: a repository, a project file or a lock that appears may mean another
plan, and so may a program that a gate names and that was not there before.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, takewhile
from pathlib import Path
from stat import S_ISLNK
from typing import TYPE_CHECKING

from deployer.artefacts import lock_file
from deployer.artefacts.sources.files import DigestCache, content_digest, sha256_of
from deployer.diagnostics import UNCERTAIN, Diagnostic, Place, Severity, placed
from deployer.engines.place import abilities_of, images_of, machine_inputs, narrowed
from deployer.engines.registry import ENGINES, Abilities
from deployer.errors import StackError, UsageError
from deployer.llama.catalogue import TABLE, Catalogue, catalogue, problems_of
from deployer.llama.known.advisories import Advisory, advisories_of, exposures_of
from deployer.llama.known.traps import traps_of
from deployer.planning.argv import words_by_field
from deployer.planning.facts import (
    DESCRIPTION,
    HEADER,
    IMAGES,
    UPSTREAM,
    Facts,
    Pin,
    is_pinned,
    pinned_images,
)
from deployer.planning.graph import (
    architectures_of,
    build_number,
    expand,
    judged_by,
    snapshot_notes,
    tag_number,
)
from deployer.planning.progress import Watch, unwatched
from deployer.planning.resources import Graph, Kind
from deployer.stack import project_root
from deployer.stack.addresses import places_of
from deployer.stack.checks import asked as asked_by
from deployer.stack.checks import flag_notes
from deployer.stack.fields.marks import leaves
from deployer.stack.fields.model import Stack
from deployer.stack.fields.values import DECIDING, HERE, Flat, Folder
from deployer.stack.files import named_by
from deployer.stack.load import Loaded, load
from deployer.usecases.context.settings import Options, Settings, patches_folder
from deployer.usecases.reading.prepared import Prepared, look
from deployer.usecases.reading.weights import (
    refused_models,
    weighed,
    with_gates,
)

if TYPE_CHECKING:
    from deployer.llama.patches import Patch


def number_of(stack: Stack, locked: Facts | None) -> int | None:
    """The build that a stack pins, from its tag or from the lock file."""
    return tag_number(stack) if locked is None else build_number(stack, locked)


def findings_of(
    loaded: Loaded, known: Catalogue, further: tuple[Advisory, ...] = ()
) -> tuple[Diagnostic, ...]:
    """Return what a stack means on a build: options, recipe, issues and advisories.

    Errors, warnings and notes, each at its place and sorted by it.
    """
    start = Place(str(loaded.sources[-1] if loaded.sources else "stack"))
    found = (
        *_option_findings(loaded, known),
        *_recipe_problems(loaded, known.build),
        *traps_of(loaded.stack, known.build),
        *exposures_of(loaded.stack, known.build, further),
    )
    return tuple(placed(found, loaded.places, start))


def refusals_of(loaded: Loaded) -> Iterator[Diagnostic]:
    """Yield the errors among them, of a stack in which other things are wrong, too."""
    found = findings_of(loaded, catalogue(tag_number(loaded.stack)))
    yield from (it for it in found if it.severity is Severity.ERROR)


def refuse(
    loaded: Loaded, known: Catalogue, further: tuple[Advisory, ...] = ()
) -> tuple[Diagnostic, ...]:
    """Return the warnings and notes; raises StackError with every error."""
    found = findings_of(loaded, known, further)
    if fatal := [it for it in found if it.severity is Severity.ERROR]:
        raise StackError(fatal)
    return found


_TICK = 20_000_000
"""Nanoseconds that the clock of a file system may be behind."""
_MEMORY_LIMIT = "/sys/fs/cgroup/memory.max"


def look_around(stack_file: Path) -> Mapping[str, str] | None:
    """Look, before a stack is read, at what decides where its project is.

    None where not all of it may be looked at.
    """
    return _look_at(_around(stack_file))


def look_at_all(
    around: Mapping[str, str] | None,
    loaded: Loaded,
    stack_file: Path,
    settings: Settings,
    facts: Facts,
    graph: Graph,
) -> Mapping[str, str] | None:
    """Look, beside what is ``around``, at every path that a stack was prepared from.

    None where one changed since this run began: what is there now may not be what was
    read.  None, too, for a source tree, which has too many files.
    """
    from deployer.llama import description  # noqa: PLC0415 - not for a known stack

    stack, folder = loaded.stack, stack_file.parent
    if around is None or "path" in stack.llama_cpp.sources:
        return None
    paths = (
        *map(str, (*loaded.sources, lock_file.lock_path(stack_file))),
        *map(str, patch_files(stack_file, stack.llama_cpp.patches or ())),
        *map(str, _named_paths(stack, folder)),
        *map(str, _weights_in_store(facts, graph, settings)),
        str(description.place(settings.home, facts.build)),
        *_programs(stack, settings),
    )
    seen = _look_at(path for path in paths if path not in around)
    latest = settings.begun - _TICK
    if seen is None or any(_changed(Path(path)) >= latest for path in seen):
        return None
    return {**around, **seen}


def _look_at(paths: Iterable[str]) -> Mapping[str, str] | None:
    try:
        return {path: look(path) for path in paths}
    except OSError:
        return None


def _changed(path: Path) -> int:
    """When it changed last, or a link to it; if it is gone, its folder."""
    try:
        link = path.lstat()
        of_link = link.st_ctime_ns if S_ISLNK(link.st_mode) else 0
        return max(path.stat().st_ctime_ns, of_link)
    except (FileNotFoundError, NotADirectoryError):
        return path.parent.stat().st_ctime_ns if path.parent.is_dir() else 0
    except OSError:
        return sys.maxsize


def _around(stack_file: Path) -> Iterator[str]:
    root = project_root.root_of(stack_file)
    for folder in Path(os.path.realpath(stack_file)).parents:
        yield str(folder / ".git")
        yield str(folder / project_root.PROJECT_FILE)
        if folder == root and (root / ".git").exists():
            break
    for folder in stack_file.absolute().parents:
        yield str(folder / "patches")
    yield str(stack_file)
    yield _MEMORY_LIMIT


def patch_files(stack_file: Path, names: Iterable[str]) -> Iterator[Path]:
    """Yield every file of the patches of a stack."""
    folder = patches_folder(stack_file)
    for name in names:
        yield folder / name / "patch.yaml"
        yield folder / name / f"{name}.patch"


def _named_paths(stack: Stack, folder: Path) -> Iterator[Path]:
    """Yield every path that a stack names, there or not, and what belongs to it."""
    for it in named_by(stack):
        repository = it.mark == Folder(scheme=HERE)
        yield from places_of(it.name) if repository else (folder / it.name,)
        if it.served and (folder / it.name).is_dir():
            yield from (folder / it.name).rglob("*")
    if stack.llama_cpp.binary is not None:
        # Beside a llama-server of the user lie the libraries that it loads.
        beside = Path(os.path.realpath(folder / stack.llama_cpp.binary)).parent
        yield beside
        yield from sorted(beside.glob("lib*"))
    if stack.model.path is not None:
        from deployer.artefacts.sources.paths import parts_of  # noqa: PLC0415 - few lie here

        yield from parts_of(folder / stack.model.path)


def _weights_in_store(facts: Facts, graph: Graph, settings: Settings) -> Iterator[Path]:
    """Weights whose header the lock file lacks are read once they have arrived."""
    for node in graph.values():
        pin = facts.by_role.get(node.role)
        if node.kind is Kind.WEIGHTS and pin and pin.about.get(HEADER) is None:
            entry = settings.home / "weights" / node.key
            yield entry / "manifest.json"
            yield from sorted(entry.iterdir()) if entry.is_dir() else ()


def _programs(stack: Stack, settings: Settings) -> Iterator[str]:
    """Programs of this machine that decide whether it takes snapshots."""
    if stack.snapshot is not None:
        yield from machine_inputs(stack.engine, settings.environment)


_COLD = "write `snapshot: {enabled: auto}` to start cold where there is none"
_ASKING = Options()
"""Sources are asked for what the lock file does not pin."""


@dataclass(frozen=True, slots=True)
class Read:
    """A stack that was read."""

    prepared: Prepared
    facts: Facts | None
    """New facts, to be written to the lock file."""


def read(
    stack_file: Path, settings: Settings, options: Options, watch: Watch | None = None
) -> Read:
    """Everything a plan needs of the files; see `deployer.usecases.plan.prepare`."""
    allowed = settings.allowed(stack_file)
    # What leads out is refused below, and not opened.
    out = project_root.leads_out(stack_file, allowed)
    seen = None if out else look_around(stack_file)
    loaded = load(
        stack_file, engine=options.engine, allowed=allowed, further=refusals_of
    )
    stack = loaded.stack
    abilities = narrowed(
        stack, abilities_of(stack.engine, settings.environment, settings.home)
    )
    _refuse_snapshot(stack, abilities)
    locked = lock_file.read(lock_file.lock_path(stack_file))
    further = advisories_of(settings.advisories)
    refuse(loaded, stated_options(loaded, stack_file, settings, locked), further)
    facts = resolved(loaded, stack_file, settings, locked, watch or unwatched, options)
    if not (same := lock_file.pins_same(locked, facts)) and options.locked:
        raise _stale(stack_file, locked, facts.inputs, facts)
    takes = _described(loaded, stack_file, settings, facts, watch or unwatched)
    notices = refuse(loaded, takes, further)
    graph = expand(stack, facts, abilities, takes.spellings)
    graph = judged_by(graph, _digests(gate_files(stack, stack_file, settings)))
    known = weighed(loaded, stack_file, settings, facts, graph)
    graph, left = with_gates(graph, stack, known)
    prepared = Prepared(
        stack.name,
        stack.engine,
        graph,
        loaded.places,
        (*_notes(loaded, settings, abilities, facts), *_left(left), *known.notes),
        known.size.fits[0] if known.size else None,
        notices,
        look_at_all(seen, loaded, stack_file, settings, facts, graph),
    )
    return Read(prepared, None if same else facts)


def _notes(
    loaded: Loaded, settings: Settings, abilities: Abilities, facts: Facts
) -> Iterator[str]:
    """Yield what the user should know though it is not wrong."""
    yield from loaded.notes
    yield from snapshot_notes(loaded.stack, abilities)
    yield from image_notes(loaded.stack, facts)
    yield from _doubts(loaded, facts, settings)
    yield from _not_passed_on(loaded.stack, settings.environment)


def _left(unproven: Sequence[str]) -> Iterator[str]:
    """Yield a note about what is offered and not asked for."""
    if unproven:
        hint = "" if all("(" in it for it in unproven) else "; add it to `gates`"
        yield f"not proven: {', '.join(unproven)}{hint}"


def _doubts(loaded: Loaded, facts: Facts, settings: Settings) -> Iterator[str]:
    """Yield a note where a ready llama-server may be another build than the tag says.

    Raises StackError where it states another one.
    """
    from deployer.llama import description  # noqa: PLC0415 - not for a known stack

    stack, wanted = loaded.stack, loaded.stack.llama_cpp
    named = wanted.binary or wanted.package
    if named is None:
        return
    stated = description.find(settings.home, facts.build)
    number = build_number(stack, facts)
    if stated is None:
        yield (
            f"`{named}` was not asked yet which build it is: {wanted.tag} is what the"
            " stack says"
        )
    elif stated.build is None:
        if wanted.commit is None or asked_by(stack).build is None:
            yield (
                f"`{named}` does not say which build it is: {wanted.tag} is what the"
                " stack says; `llama_cpp.commit` and the gate `build` prove it"
            )
    elif number is not None and stated.build != number:
        what, hint = description.other_build(named, stated.build, number)
        problem = Diagnostic("llama_cpp.tag", what, hint)
        raise StackError(placed([problem], loaded.places))


def _not_passed_on(stack: Stack, environment: Mapping[str, str]) -> Iterator[str]:
    """Yield the variables of the shell that would decide, and that no server sees."""
    if ENGINES[stack.engine].abilities.remote:
        return
    stated = {*((stack.server.env if stack.server else None) or {})}
    found = sorted(n for n in environment if n.startswith(DECIDING) and n not in stated)
    if found:
        names = ", ".join(f"`{name}`" for name in found)
        yield (
            f"set in this shell, and not passed on to llama-server: {names}; write"
            " `server.env` for what the stack needs"
        )


def _digests(files: Mapping[str, Path]) -> Flat:
    return {path: sha256_of(file, unwatched) for path, file in files.items()}


def _option_findings(loaded: Loaded, known: Catalogue) -> Iterator[Diagnostic]:
    """Yield what is wrong with the options of a stack on a build, or uncertain."""
    if known.beyond:
        what = f"{known.beyond}: options are checked once the source is here"
        yield Diagnostic("llama_cpp.tag", what, "", Severity.NOTE, UNCERTAIN)
    words = words_by_field(
        leaves(loaded.stack), build=known.build, known=known.spellings
    )
    own, wanted = ("binary", "package", "repo", "source_path"), loaded.stack.llama_cpp
    named = (it for it in own if getattr(wanted, it) is not None)
    fork = next((f"`llama_cpp.{it}` may be a fork" for it in named), "")
    unread = fork if known.origin == TABLE else ""
    yield from problems_of(words, known.build, known, may_differ=unread)
    yield from flag_notes(loaded.stack)


def stated_options(
    loaded: Loaded, stack_file: Path, settings: Settings, locked: Facts | None
) -> Catalogue:
    """The options of the build that a stack pins, as far as they are known offline.

    Those that the locked build states itself where its description is in the store,
    else those of the table; a source that may have others than upstream's is beyond.
    """
    stack = loaded.stack
    build = number_of(stack, locked)
    pin = None if locked is None else _pinned(loaded, stack_file, locked)
    return options_known(stack, stack_file, settings, pin, build)


def _pinned(loaded: Loaded, stack_file: Path, locked: Facts) -> Pin | None:
    """The locked build, where it still answers what the stack asks for."""
    stack = loaded.stack
    if Kind.BUILD in _here(stack):
        return locked.build
    try:
        patches = patches_of(stack, stack_file)
    except StackError:  # reported where the patches are wanted
        return None
    own = {f"llama_cpp.patches.{patch.name}": patch.digest for patch in patches}
    inputs = lock_file.inputs_of(stack, own)
    moved = lock_file.moved(locked, inputs)
    return None if any(it.artefact == "build" for it in moved) else locked.build


def options_known(
    stack: Stack,
    stack_file: Path,
    settings: Settings,
    pin: Pin | None,
    build: int | None,
) -> Catalogue:
    """The options of a build: as it states them, else as the table has them."""
    from deployer.llama import description  # noqa: PLC0415 - not for a known stack

    found = None if pin is None else description.find(settings.home, pin)
    if found is not None:
        return found.catalogue(build)
    known = catalogue(build)
    if known.beyond or not (other := _other_source(stack, stack_file)):
        return known
    return replace(known, exact=False, beyond=f"{other} may add options to b{build}")


def _other_source(stack: Stack, stack_file: Path) -> str:
    """The part of a source that is not upstream's and may have options of its own."""
    wanted = stack.llama_cpp
    if wanted.repo is not None and wanted.repo != UPSTREAM:
        return "a fork"
    try:
        patches = patches_of(stack, stack_file)
    except StackError:
        return ""
    touched = (it.name for it in patches if "common/arg.cpp" in it.diff.files)
    return next((f"patch {name}" for name in touched), "")


def _described(
    loaded: Loaded, stack_file: Path, settings: Settings, facts: Facts, watch: Watch
) -> Catalogue:
    """The options of a resolved build; one that is beyond the table is read."""
    stack, build = loaded.stack, build_number(loaded.stack, facts)
    known = options_known(stack, stack_file, settings, facts.build, build)
    if not known.beyond or facts.build.about.get(DESCRIPTION) is None:
        return known
    from deployer.llama.build import trees  # noqa: PLC0415 - only far from the table

    around = trees.Surroundings(settings.store.downloads, settings.environment, watch)
    patches = patches_of(stack, stack_file)
    found = trees.describe_pin(facts.build, patches, around)
    return known if found is None else found.catalogue(build)


def _recipe_problems(loaded: Loaded, build: int | None) -> Iterator[Diagnostic]:
    """Yield what the recipe of a build from source refuses."""
    wanted = loaded.stack.llama_cpp
    if not wanted.may_be_built:
        return
    from deployer.llama.build.recipe import Target, refusals  # noqa: PLC0415 - for sources

    try:
        architectures = architectures_of(loaded.stack)
    except KeyError:  # an unknown type of GPU is a problem of its own
        return
    yield from refusals(
        Target(
            number=build,
            cuda=wanted.cuda,
            architectures=architectures,
            cmake=wanted.cmake or (),
        )
    )


def resolved(
    loaded: Loaded,
    stack_file: Path,
    settings: Settings,
    locked: Facts | None,
    watch: Watch,
    options: Options = _ASKING,
    *,
    asks_registries: bool = False,
) -> Facts:
    """The facts of a stack: from the lock file where it fits, else from the sources.

    Registries are asked for the images of a build that is not locked, and of every
    build where ``asks_registries`` says so.  Raises UsageError where sources would have
    to be asked and the ``options`` are not to, and where the lock file pins what the
    stack does not ask for.
    """
    facts = _pinned_by(loaded, stack_file, settings, locked, watch, options)
    fresh = locked is None or facts.build != locked.build
    return with_images(
        loaded.stack,
        facts,
        settings.environment,
        asks=asks_registries or fresh,
        may_ask=not options.locked,
    )


def _pinned_by(
    loaded: Loaded,
    stack_file: Path,
    settings: Settings,
    locked: Facts | None,
    watch: Watch,
    options: Options,
) -> Facts:
    """The same without images."""
    stack = loaded.stack
    _refuse_beside(stack, stack_file, settings)
    patches = patches_of(stack, stack_file)
    cache = DigestCache(settings.store.digests, trusts=options.cached)
    inputs = lock_file.inputs_of(stack, _digests_of(loaded, stack_file, patches, cache))
    kept = _kept(stack, locked, inputs)
    for role, pin in kept.items():
        lock_file.refuse_other(lock_file.lock_path(stack_file), stack, role, pin)
    roles = [Kind.BUILD.value, *stack.model.sources]
    if all(role in kept for role in roles):
        return Facts.of(kept, inputs)
    here = _here(stack)
    if options.locked and not all(role in kept or role in here for role in roles):
        raise _stale(stack_file, locked, inputs)
    from deployer.usecases.reading.resolve import Resolver  # noqa: PLC0415 - knows every source

    resolver = Resolver(
        stack_file.parent,
        settings.store,
        settings.environment,
        watch,
        patches,
        locked.by_role if locked else {},
        cached=options.cached,
    )
    with refused_models(loaded):
        return resolver.facts(stack, inputs, kept)


def with_images(
    stack: Stack,
    facts: Facts,
    environment: Mapping[str, str],
    *,
    asks: bool,
    may_ask: bool = True,
) -> Facts:
    """The facts with the images of containers as far as their digests are known.

    What the lock file pins is kept where it is what the stack asks for.
    """
    before, wanted = pinned_images(facts.build), images_of(stack)
    if not wanted:
        return facts
    known = {
        role: pinned
        for role, image in wanted.items()
        if (pinned := before.get(role, "")).partition("@")[0] == image.partition("@")[0]
        and pinned.endswith(image.partition("@")[2])
    }
    missing = {role: image for role, image in wanted.items() if role not in known}
    # Another image than the one that was pinned is a change like that of a tag.
    if missing and may_ask and (asks or before.keys() & missing.keys()):
        from deployer.usecases.reading.resolve import pinned_image  # noqa: PLC0415 - knows every source

        asked = {it: pinned_image(it, environment) for it in missing.values()}
        known |= {role: it for role, image in missing.items() if (it := asked[image])}
    if known == before:
        return facts
    about = {name: it for name, it in facts.build.about.items() if name != IMAGES}
    about |= {IMAGES: dict(known)} if known else {}
    return replace(facts, build=replace(facts.build, about=about))


def image_notes(stack: Stack, facts: Facts | None) -> Iterator[str]:
    """Yield the images that no digest is known of."""
    pinned = {} if facts is None else pinned_images(facts.build)
    wanted = images_of(stack)
    loose = {
        image
        for role, image in wanted.items()
        if not is_pinned(image) and pinned.get(role, "").partition("@")[0] != image
    }
    if loose:
        names = ", ".join(f"`{it}`" for it in sorted(loose))
        yield f"not pinned: image {names}; `deployer lock` asks the registry"


def _digests_of(
    loaded: Loaded,
    stack_file: Path,
    patches: "tuple[Patch, ...]",
    cache: DigestCache,
) -> dict[str, str]:
    """Digests of the files that a stack names and the lock file pins."""
    digests = {f"llama_cpp.patches.{patch.name}": patch.digest for patch in patches}
    for it in named_by(loaded.stack):
        if not it.served:
            continue
        file = stack_file.parent / it.name
        try:
            digests[it.digest] = content_digest(
                file, lambda one: cache.sha256_of(one, unwatched)
            )
        except OSError as error:
            what = f"`{it.name}` cannot be read: {error.strerror}"
            problem = Diagnostic(it.path, what)
            raise StackError(placed([problem], loaded.places)) from error
    return digests


def gate_files(
    stack: Stack, stack_file: Path, settings: Settings
) -> Mapping[str, Path]:
    """The files that gates name and that are there, by the field of their digest.

    A word of a command is one only where the stack may read it.
    """
    folder, root = stack_file.parent, project_root.root_of(stack_file)
    found = {it.digest: folder / it.name for it in named_by(stack) if it.judged}
    return {
        field: file
        for field, file in found.items()
        if _is_file(file, root, settings.allowed(stack_file))
    }


def _is_file(file: Path, root: Path, allowed: tuple[Path, ...]) -> bool:
    try:
        return project_root.may_read(file, root, allowed) and file.is_file()
    except (OSError, ValueError, RuntimeError):  # a word may be no name of a file
        return False


def _refuse_beside(stack: Stack, stack_file: Path, settings: Settings) -> None:
    """Raise UsageError where what lies beside a named file leads out of the project."""
    program = stack.llama_cpp.binary
    models = [it.path for it in stack.model.sources.values() if it.path is not None]
    if program is None and not models:
        return
    from deployer.artefacts.sources import paths  # noqa: PLC0415 - few name files of their own

    folder, root = stack_file.parent, project_root.root_of(stack_file)
    parts = [takewhile(Path.exists, paths.named_parts(folder / it)) for it in models]
    beside = () if program is None else paths.libraries_of(folder / program)
    for file in (*chain(*parts), *beside):
        if not project_root.may_read(file, root, settings.allowed(stack_file)):
            raise UsageError(
                f"`{file}` is outside the project of the stack",
                hint=project_root.how_to_allow(file),
            )


def patches_of(stack: Stack, stack_file: Path) -> "tuple[Patch, ...]":
    """The patches that a stack names; raises StackError with all that is wrong."""
    names = stack.llama_cpp.patches or ()
    if not names:
        return ()
    from deployer.llama.patches import load_patches  # noqa: PLC0415 - few have any

    return load_patches(patches_folder(stack_file), names)


def _kept(stack: Stack, locked: Facts | None, inputs: Flat) -> dict[str, Pin]:
    """The pins of the lock file that still answer what the stack asks, by role."""
    if locked is None:
        return {}
    stale = {it.artefact for it in lock_file.moved(locked, inputs)} | _here(stack)
    asked = {Kind.BUILD.value, *stack.model.sources} - stale
    return {role: pin for role, pin in locked.by_role.items() if role in asked}


def _here(stack: Stack) -> set[str]:
    """The roles of what lies on this machine, and so is looked at each time."""
    found = {role for role, it in stack.model.sources.items() if it.path is not None}
    if stack.llama_cpp.binary is not None or "path" in stack.llama_cpp.sources:
        found.add(Kind.BUILD.value)
    return found


def _stale(
    stack_file: Path, locked: Facts | None, inputs: Flat, facts: Facts | None = None
) -> UsageError:
    """Which field or file the lock file is behind in."""
    lock = lock_file.lock_path(stack_file)
    hint = f"run `deployer lock {stack_file}`"
    if locked is None:
        return UsageError(
            f"`{lock}` does not exist, and `--locked` does not write it", hint
        )
    every = sorted(locked.inputs.keys() | inputs.keys())
    fields = [p for p in every if locked.inputs.get(p) != inputs.get(p)]
    if fields:
        changes = ", ".join(
            f"`{p}` ({locked.inputs.get(p, 'unset')} → {inputs.get(p, 'unset')})"
            for p in fields
        )
        return UsageError(f"`{lock}` was made for another stack: {changes}", hint)
    pins = {} if facts is None else facts.by_role
    if facts and pinned_images(facts.build) != pinned_images(locked.build):
        return UsageError(f"`{lock}` pins other images than the stack names", hint)
    other = (role for role, pin in pins.items() if locked.by_role.get(role) != pin)
    role = next(other, Kind.WEIGHTS.value)
    which = "llama-server" if role == Kind.BUILD else role
    what = f"`{lock}` pins other {which} than the file that is there now"
    return UsageError(what, hint)


def _refuse_snapshot(stack: Stack, abilities: Abilities) -> None:
    wanted = stack.snapshot is not None and stack.snapshot.enabled is True
    if wanted and not abilities.snapshots:
        raise UsageError(
            f"snapshots do not work here: {abilities.why_not}",
            hint="; or ".join(filter(None, (abilities.hint, _COLD))),
        )
