"""Files that gates name: what they prove depends on what these files say."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from deployer.planning.resources import Graph, Kind
from deployer.stack.fields.gate_options import Gates
from deployer.stack.fields.values import Flat


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


def judged_by(graph: Graph, digests: Flat) -> Graph:
    """The graph whose server also has the digests of these files among its fields.

    They are no part of its key: another content is a reason to judge it again.
    """
    return {
        address: replace(node, fields={**node.fields, **digests})
        if node.kind is Kind.SERVER
        else node
        for address, node in graph.items()
    }
