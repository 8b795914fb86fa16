"""The slow way to a prepared stack: model, lock file, sources."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deployer import lockfile
from deployer.app.inputs import stack_inputs
from deployer.app.planning import Options
from deployer.app.prepared import Prepared
from deployer.app.settings import Settings, patches_folder
from deployer.app.trapped import number_of, refuse_traps
from deployer.app.weighing import refuse_model, weighed
from deployer.core.abilities import Abilities
from deployer.core.argv import words_by_field
from deployer.core.facts import Facts, Pin
from deployer.core.gate_files import files_of, judged_by
from deployer.core.graph import (
    TEMPLATE_DIGEST,
    WARMUP_DIGESTS,
    architectures_of,
    expand,
    tag_number,
)
from deployer.core.marks import leaves
from deployer.core.model import Stack
from deployer.core.problems import Place, Problem
from deployer.core.progress import Watch, unwatched
from deployer.core.snapshots import narrowed, snapshot_notes
from deployer.core.values import Flat
from deployer.engines import abilities_of, machine_stamp
from deployer.errors import StackError, UsageError
from deployer.llama.flags import problems_of
from deployer.load.roots import may_read, root_of
from deployer.load.stack import Loaded, load
from deployer.load.tree import place_of
from deployer.sources.digests import sha256_of

if TYPE_CHECKING:
    from deployer.llama.patch_file import Patch

_COLD = "write `snapshot: {enabled: auto}` to start cold where there is none"
_START = Place("stack")
"""For an option that no field was written for."""


@dataclass(frozen=True, slots=True)
class Read:
    """A stack that was read."""

    prepared: Prepared
    facts: Facts | None
    """New facts, to be written to the lock file."""
    machine: str
    """What the abilities of this machine were found out for, where they matter."""


def read(stack_file: Path, settings: Settings, options: Options, watch: Watch) -> Read:
    """Everything a plan needs of the files; see `deployer.app.planning.prepare`."""
    loaded = load(stack_file, engine=options.engine, allowed=settings.allowed)
    stack = loaded.stack
    found = abilities_of(stack.engine, settings.environment, settings.home)
    abilities = narrowed(stack, found)
    _refuse_snapshot(stack, abilities)
    refuse_options(loaded)
    refuse_build(loaded)
    lock = lockfile.lock_path(stack_file)
    locked = lockfile.read(lock)
    notices = refuse_traps(loaded, number_of(stack, locked))
    offline = options.offline
    facts = resolved(loaded, stack_file, settings, locked, watch, offline=offline)
    same = lockfile.pins_same(locked, facts)
    if not same and options.locked:
        raise UsageError(
            _moved(lock, locked, facts), hint=f"run `deployer lock {stack_file}`"
        )
    asked = gate_files(stack, stack_file.parent)
    graph = judged_by(expand(stack, facts, abilities), _digests(asked))
    known = weighed(loaded, stack_file, settings, facts, graph)
    refuse_model(known)
    prepared = Prepared(
        stack.name,
        stack.engine,
        graph,
        loaded.places,
        (*loaded.notes, *snapshot_notes(stack, abilities), *known.notes),
        known.size.fits[0] if known.size else None,
        notices,
        stack_inputs(loaded, stack_file, settings, facts, graph),
    )
    return Read(
        prepared,
        None if same else facts,
        machine=_machine(stack, settings.environment),
    )


def _digests(files: Mapping[str, Path]) -> Flat:
    return {path: sha256_of(file, unwatched) for path, file in files.items()}


def _machine(stack: Stack, variables: Mapping[str, str]) -> str:
    """What the plan of a stack depends on of this machine; nothing for most."""
    return "" if stack.snapshot is None else machine_stamp(stack.engine, variables)


def refuse_options(loaded: Loaded) -> None:
    """Raise StackError for options that the build of the tag does not take."""
    stack = loaded.stack
    words = words_by_field(leaves(stack), build=tag_number(stack))
    found = [
        Problem(place_of(loaded.places, it.path) or _START, it.path, it.what, it.hint)
        for it in problems_of(words, tag_number(stack))
    ]
    if found:
        raise StackError(sorted(found))


def refuse_build(loaded: Loaded) -> None:
    """Raise StackError for what the recipe of a build from source refuses."""
    wanted = loaded.stack.llama_cpp
    if wanted.package or wanted.binary or wanted.source == "release":
        return
    from deployer.llama.recipe import Target, refusals  # noqa: PLC0415 - for sources

    target = Target(
        number=tag_number(loaded.stack),
        cuda=wanted.cuda,
        architectures=architectures_of(loaded.stack),
        cmake=wanted.cmake or (),
    )
    found = [
        Problem(place_of(loaded.places, it.path) or _START, it.path, it.what, it.hint)
        for it in refusals(target)
    ]
    if found:
        raise StackError(sorted(found))


def resolved(
    loaded: Loaded,
    stack_file: Path,
    settings: Settings,
    locked: Facts | None,
    watch: Watch,
    *,
    offline: bool = False,
) -> Facts:
    """The facts of a stack: from the lock file where it fits, else from the sources.

    Raises UsageError where sources would have to be asked and it is ``offline``.
    """
    stack = loaded.stack
    patches = patches_of(stack, stack_file)
    digests = {f"llama_cpp.patches.{patch.name}": patch.digest for patch in patches}
    for name in _pictures(stack):
        picture = stack_file.parent / name
        digests[f"{WARMUP_DIGESTS}{name}"] = sha256_of(picture, unwatched)
    if (template := template_of(stack, stack_file.parent)) is not None:
        digests[TEMPLATE_DIGEST] = sha256_of(template, unwatched)
    inputs = lockfile.inputs_of(stack, digests)
    build, weights = _kept(stack, locked, inputs)
    if build is not None and weights is not None:
        return Facts(build=build, weights=weights, inputs=inputs)
    if offline:
        _refuse_asking(stack, stack_file, build, weights)
    from deployer.resolve import Resolver  # noqa: PLC0415 - knows every source

    resolver = Resolver(
        stack_file.parent,
        settings.store,
        settings.environment,
        watch,
        patches,
        locked.weights if locked else None,
    )
    return resolver.facts(stack, inputs, build=build, weights=weights)


def gate_files(stack: Stack, folder: Path) -> Mapping[str, Path]:
    """The files that gates name and that are there, by the field of their digest."""
    found = {
        it.field: folder / it.name
        for it in files_of(stack.gates)
        if it.certain or not Path(it.name).is_absolute()  # programs of the system
    }
    return {field: file for field, file in found.items() if _is_file(file)}


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except (OSError, ValueError):  # a word of a command may be no name of a file
        return False


def template_of(stack: Stack, folder: Path) -> Path | None:
    """The chat template of the user's that a stack names; raises UsageError."""
    name = stack.server.chat_template if stack.server is not None else None
    if name is None or not name.endswith(".jinja"):
        return None
    if not (folder / name).is_file():
        raise UsageError(
            f"there is no chat template `{folder / name}`",
            hint="`server.chat_template` names a file relative to the stack",
        )
    return folder / name


def patches_of(stack: Stack, stack_file: Path) -> "tuple[Patch, ...]":
    """The patches that a stack names; raises StackError with all that is wrong."""
    names = stack.llama_cpp.patches or ()
    if not names:
        return ()
    folder = patches_folder(stack_file)
    root = root_of(stack_file)
    led_out = [name for name in names if not may_read(folder / name, root, ())]
    if led_out:
        raise UsageError(
            f"the patch `{led_out[0]}` lies outside the project of the stack",
            hint=f"`{folder / led_out[0]}` is a link: put the folder there",
        )
    from deployer.llama.patch_file import load_patches  # noqa: PLC0415 - few have any

    return load_patches(folder, names)


def _kept(
    stack: Stack, locked: Facts | None, inputs: Flat
) -> tuple[Pin | None, Pin | None]:
    """The pins of the lock file that still answer what the stack asks."""
    if locked is None:
        return None, None
    moved = lockfile.moved(locked, inputs)
    stale = {difference.artefact for difference in moved}
    build = None if "build" in stale or _builds_here(stack) else locked.build
    here = stack.model.path is not None
    weights = None if "weights" in stale or here else locked.weights
    return build, weights


def _refuse_asking(
    stack: Stack, stack_file: Path, build: Pin | None, weights: Pin | None
) -> None:
    """Raise UsageError where what no pin is given for lies elsewhere than here."""
    remote_weights = weights is None and stack.model.path is None
    if remote_weights or (build is None and not _builds_here(stack)):
        raise UsageError(
            f"the lock file of `{stack_file}` does not pin all that it names",
            hint=f"run `deployer lock {stack_file}`",
        )


def _builds_here(stack: Stack) -> bool:
    """Whether llama-server is of this machine, and so looked at each time."""
    return stack.llama_cpp.binary is not None or stack.llama_cpp.source == "path"


def _moved(lock: Path, locked: Facts | None, facts: Facts) -> str:
    """Which field or file the lock file is behind in."""
    if locked is None:
        return f"`{lock}` is not there, and `--locked` may not write it"
    every = sorted(locked.inputs.keys() | facts.inputs.keys())
    fields = [p for p in every if locked.inputs.get(p) != facts.inputs.get(p)]
    if fields:
        changes = ", ".join(
            f"`{p}` ({locked.inputs.get(p, 'unset')} → {facts.inputs.get(p, 'unset')})"
            for p in fields
        )
        return f"`{lock}` was made for another stack: {changes}"
    which = "llama-server" if locked.build != facts.build else "weights"
    return f"`{lock}` pins other {which} than the file that is there now"


def _refuse_snapshot(stack: Stack, abilities: Abilities) -> None:
    wanted = stack.snapshot is not None and stack.snapshot.enabled is True
    if wanted and not abilities.snapshots:
        raise UsageError(
            f"no snapshot can be taken here: {abilities.why_not}",
            hint="; or ".join(filter(None, (abilities.hint, _COLD))),
        )


def _pictures(stack: Stack) -> Iterator[str]:
    """The pictures of the warm-up, relative to the stack."""
    for warmup in (stack.snapshot and stack.snapshot.warmup) or ():
        if warmup.image is not None:
            yield warmup.image
