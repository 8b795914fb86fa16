"""Files that gates name: what they prove depends on what these files say."""

from collections.abc import Iterator
from dataclasses import dataclass

from deployer.core.gate_options import Gates


@dataclass(frozen=True, slots=True)
class Named:
    """A file that a gate names, relative to the stack."""

    path: str
    """The field that names it."""
    name: str
    certain: bool = True
    """Whether it has to be there; a word of a command may be anything."""

    @property
    def field(self) -> str:
        """Where the digest of its content stands among the fields of the server."""
        return f"{self.path}.{self.name}"


def files_of(gates: Gates | None) -> Iterator[Named]:
    """Every file that gates name, and every word that may be one."""
    if gates is None:
        return
    if gates.quality is not None and gates.quality.file is not None:
        yield Named("gates.quality.file", gates.quality.file)
    if gates.regression is not None and gates.regression.file is not None:
        yield Named("gates.regression.file", gates.regression.file)
    for name, custom in (gates.custom or {}).items():
        path = f"gates.custom.{name}"
        if custom.python is not None:
            yield Named(path, custom.python.rpartition(":")[0])
        for word in dict.fromkeys(custom.command or ()):
            yield Named(path, word, certain=False)
