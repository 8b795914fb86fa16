"""The meaning of a stack on the build that it pins: options, recipe, advisories."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from deployer.artefacts import lock_file
from deployer.diagnostics import UNCERTAIN, Diagnostic, Place, Severity, placed
from deployer.errors import StackError
from deployer.llama.catalogue import TABLE, Catalogue, catalogue, problems_of
from deployer.llama.known.advisories import Advisory, exposures_of
from deployer.llama.known.traps import traps, traps_of
from deployer.planning.argv import weight_words, words_by_field
from deployer.planning.facts import DESCRIPTION, UPSTREAM, Facts, Pin
from deployer.planning.graph import architectures_of, build_number, tag_number
from deployer.planning.progress import Watch
from deployer.planning.resources import Kind
from deployer.stack.checks import NEEDED, flag_notes, gates_in
from deployer.stack.checks import asked as asked_by
from deployer.stack.fields.marks import leaves
from deployer.stack.fields.model import Stack
from deployer.stack.load import Loaded
from deployer.usecases.context.settings import Settings
from deployer.usecases.reading.pins import patches_of, roles_here


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
        *_without_endpoint(loaded.stack, known),
        *_recipe_problems(loaded, known.build),
        *traps_of(loaded.stack, known),
        *exposures_of(loaded.stack, known, further),
    )
    return tuple(placed(found, loaded.places, start))


def refusals_of(loaded: Loaded) -> Iterator[Diagnostic]:
    """Yield the errors among them, of a stack in which other things are wrong, too."""
    found = findings_of(loaded, catalogue(tag_number(loaded.stack)))
    yield from (it for it in found if it.severity is Severity.ERROR)


def refuse(
    loaded: Loaded,
    known: Catalogue,
    further: tuple[Advisory, ...] = (),
    *,
    early: bool = False,
) -> tuple[Diagnostic, ...]:
    """Return the warnings and notes; raises StackError with every error.

    ``early`` leaves out what the source of the build, which is read next, decides.
    """
    found = findings_of(loaded, known, further)
    waits = {it.id for it in traps().values() if it.is_open(known)} if early else set()
    fatal = [it for it in found if it.severity is Severity.ERROR]
    if sure := [it for it in fatal if it.code not in waits]:
        raise StackError(sure)
    return found


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
    for path, beside in weight_words(loaded.stack.model.sources):
        yield from problems_of([(path, beside)], known.build, known)
    yield from flag_notes(loaded.stack)


def _without_endpoint(stack: Stack, known: Catalogue) -> Iterator[Diagnostic]:
    """Yield the gates that ask for what the build states that it does not have."""
    for gate in gates_in(asked_by(stack)):
        fact = NEEDED.get(gate, "")
        if fact and known.states(fact) is False:
            kind, _, name = fact.partition(" ")
            what = f"`{stack.llama_cpp.tag}` has no {kind} `{name}`"
            hint = f"leave the gate `{gate}` out, or take another build"
            yield Diagnostic(f"gates.{gate}", f"{what} (by its {known.origin})", hint)


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
    if Kind.BUILD in roles_here(stack):
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


def described(
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


def doubts(loaded: Loaded, facts: Facts, settings: Settings) -> Iterator[str]:
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
