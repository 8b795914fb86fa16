"""What becomes of the snapshots that a stack asks for, where it is to run."""

import re
from collections.abc import Iterator
from dataclasses import replace

from deployer.planning.abilities import Abilities
from deployer.planning.graph import takes_snapshot
from deployer.stack.fields.model import Stack

_IPV4 = re.compile(r"\d+\.\d+\.\d+\.\d+")


def narrowed(stack: Stack, abilities: Abilities) -> Abilities:
    """The abilities of an engine, less snapshots that this stack rules out."""
    if stack.engine != "local" or not abilities.snapshots:
        return abilities
    if stack.gpu is not None:
        why = "the memory of a GPU is not captured by the local engine"
        return replace(abilities, snapshots=False, why_not=why)
    if not _IPV4.fullmatch(stack.local.host):
        why = "a server is restored to an IPv4 address only"
        hint = "write the address of `local.host` in digits"
        return replace(abilities, snapshots=False, why_not=why, hint=hint)
    return abilities


def snapshot_notes(stack: Stack, abilities: Abilities) -> Iterator[str]:
    """Yield what the user should know though nothing is wrong, a sentence each."""
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
