"""Builds and patches apart from a deployment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deployer.artefacts import lock_file
from deployer.errors import UsageError
from deployer.llama.build.compile import forget_work
from deployer.llama.build.trees import (
    Source,
    SourceRequest,
    Surroundings,
    check_patches,
)
from deployer.llama.patches.patch_file import load_patches, names_in
from deployer.llama.patches.verdicts import PatchVerdict
from deployer.planning.events import Say
from deployer.planning.resources import Kind
from deployer.usecases.context.options import Options
from deployer.usecases.context.settings import Settings
from deployer.usecases.plan import prepare


@dataclass(frozen=True, slots=True)
class Built:
    """A build in the store."""

    path: str
    """Of llama-server."""
    version: str
    """What it says of itself."""


def build(
    stack_file: Path, settings: Settings, options: Options, say: Say, *, force: bool
) -> Built:
    """Put the llama-server of a stack into the store; with ``force`` make it anew."""
    prepared, facts = prepare(stack_file, settings, options, say)
    if facts is not None:
        lock_file.write(lock_file.lock_path(stack_file), facts, prepared.name)
    node = next(n for n in prepared.graph.values() if n.kind is Kind.BUILD)
    if force:
        settings.store.remove("build", node.key)
        forget_work(settings.home / "work")
    engine = settings.engine(prepared.engine, stack_file)
    engine.preflight([node])
    made = engine.stage(node, {}, say)
    return Built(str(made["path"]), str(made["version"]))


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
        tag: check_patches(SourceRequest(source, tag), patches, around) for tag in tags
    }
