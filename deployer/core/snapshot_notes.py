"""What a user should know about the snapshots of a stack, though nothing is wrong."""

from collections.abc import Iterator

from deployer.core.abilities import Abilities
from deployer.core.graph import takes_snapshot
from deployer.core.model import Stack


def snapshot_notes(stack: Stack, abilities: Abilities) -> Iterator[str]:
    """One sentence for each; none for a stack without snapshots."""
    if stack.snapshot is None or stack.snapshot.enabled is False:
        return
    if not takes_snapshot(stack, abilities):
        hint = f": {abilities.hint}" if abilities.hint else ""
        yield f"`snapshot`: starts cold, since {abilities.why_not}{hint}"
        return
    mapped = stack.server is None or stack.server.mmap is not False
    if stack.engine == "local" and mapped:
        yield (
            "`server.mmap`: the snapshot holds no weights; the model file is pinned in"
            " it by its hash, and has to stay where it is"
        )
