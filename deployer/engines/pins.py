"""What a node was made from, read back from its spec."""

from deployer.core.facts import Pin
from deployer.core.resources import Node
from deployer.errors import EngineError


def pin_of(node: Node) -> Pin:
    """The pin that a node was made from."""
    match node.spec:
        case {
            "source": str(source),
            "identity": dict(identity),
            "where": dict(where),
            "about": dict(about),
        }:
            return Pin(source, identity, where, about)
        case _:
            raise EngineError(f"`{node.address}` has no pin")
