"""The words for the steps of an apply; a plan alone needs none of them."""

from typing import assert_never

from deployer.planning.resources import Kind, Node
from deployer.planning.steps import (
    Check,
    Forget,
    Make,
    Note,
    Promote,
    Resume,
    Retire,
    Stage,
    Start,
    Step,
    Stop,
    Update,
    Validate,
)
from deployer.show.words import VERBS


def step_text(step: Step) -> str:
    """One step, in the words that both plan and apply use."""
    match step:
        case Make(nodes):
            made = [f"{VERBS[n.kind][0]} {n.address} {n.key[:8]}" for n in nodes]
            return ", ".join(made)
        case Stage(node):
            return f"stage {node.address} {node.key[:8]}"
        case Check(node, gates):
            return f"check {node.address}: {', '.join(gates)}"
        case Promote(nodes):
            return f"promote {_server_of(nodes)}"
        case Resume(release):
            return f"finish promoting release {release.number}"
        case Validate(nodes, gates):
            return f"validate {_server_of(nodes)}: {', '.join(gates)}"
        case Update(node, paths):
            return f"update {node.address} in place: {', '.join(paths)}"
        case Note(nodes):
            return f"note {', '.join(n.address for n in nodes)}"
        case Start(record):
            return f"start {record.address} {record.key[:8]}"
        case Stop(record):
            return f"stop {record.address} {record.key[:8]} to make room"
        case Retire(record):
            return f"retire {record.address} {record.key[:8]}"
        case Forget():
            return "forget what was live"
        case _:
            assert_never(step)


def _server_of(nodes: tuple[Node, ...]) -> str:
    return next(f"{n.address} {n.key[:8]}" for n in nodes if n.kind is Kind.SERVER)
