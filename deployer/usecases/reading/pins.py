"""The facts of a stack: from its lock file where it fits, else from the sources."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from deployer.artefacts import lock_file
from deployer.artefacts.sources.files import DigestCache, content_digest
from deployer.diagnostics import Diagnostic, placed
from deployer.engines.place import images_of
from deployer.errors import StackError, UsageError
from deployer.planning.facts import IMAGES, Facts, Pin, is_pinned, pinned_images
from deployer.planning.progress import Watch, unwatched
from deployer.planning.resources import Kind
from deployer.stack import project_root
from deployer.stack.fields.model import Stack
from deployer.stack.fields.values import Flat
from deployer.stack.files import named_by
from deployer.stack.load import Loaded
from deployer.usecases.context.settings import Options, Settings, patches_folder
from deployer.usecases.reading.headers import refused_models

if TYPE_CHECKING:
    from deployer.llama.patches import Patch


_ASKING = Options()
"""Sources are asked for what the lock file does not pin."""


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
    here = roles_here(stack)
    if options.locked and not all(role in kept or role in here for role in roles):
        raise stale(stack_file, locked, inputs)
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
    stale = {it.artefact for it in lock_file.moved(locked, inputs)} | roles_here(stack)
    asked = {Kind.BUILD.value, *stack.model.sources} - stale
    return {role: pin for role, pin in locked.by_role.items() if role in asked}


def roles_here(stack: Stack) -> set[str]:
    """The roles of what lies on this machine, and so is looked at each time."""
    found = {role for role, it in stack.model.sources.items() if it.path is not None}
    if stack.llama_cpp.binary is not None or "path" in stack.llama_cpp.sources:
        found.add(Kind.BUILD.value)
    return found


def stale(
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
