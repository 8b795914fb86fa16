"""What becomes of the patches of a stack on another build."""

from dataclasses import dataclass
from pathlib import Path

from deployer.llama.build.trees import (
    Source,
    SourceRequest,
    Surroundings,
    check_patches,
    number_of as tag_to_number,
)
from deployer.llama.patches.patch_file import Patch, load_patches
from deployer.llama.patches.verdicts import Outcome, PatchVerdict
from deployer.planning.progress import Watch
from deployer.stack.load import Loaded
from deployer.stack.yaml.edits import Remove
from deployer.usecases.context.settings import Settings, patches_folder

_NEEDLESS = (Outcome.UPSTREAM, Outcome.APPLIED, Outcome.NOT_APPLICABLE)


@dataclass(frozen=True, slots=True)
class Move:
    """One patch on the other build."""

    sign: str
    text: str
    hint: str = ""
    edit: Remove | None = None
    """Where it is no longer wanted."""


def patch_moves(
    loaded: Loaded,
    stack_file: Path,
    settings: Settings,
    tag: str,
    watch: Watch | None,
) -> tuple[Move, ...]:
    """Each patch of a stack: by the source of the build, else by the range it states.

    ``watch`` sees the source being fetched; None judges without one.
    """
    names = loaded.stack.llama_cpp.patches or ()
    if not names:
        return ()
    patches = load_patches(patches_folder(stack_file), names)
    if watch is None:
        return tuple(_by_range(i, p, tag) for i, p in enumerate(patches))
    wanted = loaded.stack.llama_cpp
    source: Source = "pypi" if wanted.source == "pypi" else "git"
    around = Surroundings(settings.store.downloads, settings.environment, watch)
    request = SourceRequest(source, tag, repo=wanted.repo)
    verdicts = check_patches(request, patches, around)
    return tuple(_by_tree(index, found) for index, found in enumerate(verdicts))


def _by_tree(index: int, found: PatchVerdict) -> Move:
    text = f"{found.patch}: {found.outcome}, {found.evidence} (by the source)"
    if found.outcome in _NEEDLESS:
        return Move("-", text, edit=Remove(("llama_cpp", "patches", index)))
    sign = "✖" if found.outcome is Outcome.CONFLICT else "✔"
    return Move(sign, text, found.advice)


def _by_range(index: int, patch: Patch, tag: str) -> Move:
    """Without a source: what `patch.yaml` says of the last build that wants it."""
    last, new = tag_to_number(patch.until or ""), tag_to_number(tag)
    look = "`--tree` judges it by the source of the build"
    if last is None or new is None:
        return Move("?", f"{patch.name}: no range of builds to judge it by", look)
    if new > last:
        text = (
            f"{patch.name}: upstream has it since b{last + 1}"
            " (by `until` of its patch.yaml)"
        )
        return Move("-", text, edit=Remove(("llama_cpp", "patches", index)))
    text = f"{patch.name}: still wanted up to b{last} (by `until` of its patch.yaml)"
    return Move("✔", text, look)
