"""What a node was made from, read back from its spec."""

from deployer.errors import EngineError
from deployer.planning.facts import Pin
from deployer.planning.pins import flaw_of
from deployer.planning.resources import Node


def pin_of(node: Node) -> Pin:
    """The pin that a node was made from; raises EngineError for none of ours.

    A rollback reads it from the state, so it is judged by its form here too.
    """
    match node.spec:
        case {
            "source": str(source),
            "identity": dict(identity),
            "where": dict(where),
            "about": dict(about),
        }:
            pin = Pin(source, identity, where, about)
            if flaw := flaw_of(node.kind, pin):
                raise EngineError(
                    f"the pin of `{node.address}` is not one of ours: {flaw}",
                    hint="run `deployer lock STACK --upgrade`, then plan again",
                )
            return pin
        case _:
            raise EngineError(f"`{node.address}` has no pin")
