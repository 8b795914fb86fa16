"""What took the place of an option of llama-server that was renamed or removed."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from deployer.llama.known.tables import read


@dataclass(frozen=True, slots=True)
class Rename:
    """Two ways to say the same, on older and on newer builds."""

    old: str
    new: str
    """Words; empty where nothing takes its place."""
    pull: int
    """Number of the pull request at ggml-org/llama.cpp; 0 where it is not known."""


@cache
def renames() -> tuple[Rename, ...]:
    """Return every known rename."""
    return tuple(
        Rename(old, new, int(pull))
        for pull, options in read("renames.toml")["pull"].items()
        for old, new in options.items()
    )


def newer(spelling: str) -> Iterator[str]:
    """Yield the words that newer builds want instead of this option."""
    return (r.new for r in renames() if r.old == spelling and r.new)


def older(spelling: str, value: str = "") -> Iterator[str]:
    """Yield the options of older builds that say the same, with this value if given."""
    wanted = (spelling, f"{spelling} {value}")
    for rename in renames():
        same = rename.new.partition(" ")[0] == spelling
        if same and (not value or rename.new in wanted):
            yield rename.old
