"""What the headers of the weights say about a stack: does it fit, is it known."""

from dataclasses import dataclass
from pathlib import Path

from deployer import lockfile
from deployer.app.fitting import Sized, does_not_fit, doubts, sized
from deployer.app.headers import weights_facts
from deployer.app.knowing import judged
from deployer.app.settings import Settings
from deployer.core.facts import HEADER, Facts
from deployer.core.problems import Problem
from deployer.core.resources import Graph, Kind
from deployer.errors import StackError
from deployer.gguf.facts import from_json
from deployer.load.stack import Loaded


@dataclass(frozen=True, slots=True)
class Weighed:
    """What the headers of the weights say about a stack."""

    size: Sized | None
    """None where they were not read yet."""
    problems: tuple[Problem, ...] = ()
    """Why the build cannot serve the model."""
    notes: tuple[str, ...] = ()
    too_large: tuple[Problem, ...] = ()
    """Why it does not fit."""


def weighed(
    loaded: Loaded, stack_file: Path, settings: Settings, facts: Facts, graph: Graph
) -> Weighed:
    """Hold the model of a stack against its build, its gates and its machine."""
    stack = loaded.stack
    (node,) = (node for node in graph.values() if node.kind is Kind.WEIGHTS)
    weights = weights_facts(facts.weights, node.key, settings.store)
    if weights is None:
        return Weighed(None)
    known = judged(stack, stack_file.parent, facts, weights, loaded.places)
    size = sized(stack, facts, weights)
    notes = (*known.notes, *doubts(stack, size))
    large = tuple(does_not_fit(size, loaded.places))
    return Weighed(size, tuple(known.problems), notes, large)


def refuse_model(known: Weighed) -> None:
    """Raise StackError for a model that the build cannot serve, or nothing can hold."""
    if found := (*known.problems, *known.too_large):
        raise StackError(sorted(found))


def known_offline(loaded: Loaded, stack_file: Path) -> tuple[str, ...]:
    """What the lock file alone tells of the model; raises StackError for what is wrong.

    Nothing is told where the stack asks for other weights than it was locked with.
    """
    locked = lockfile.read(lockfile.lock_path(stack_file))
    weights = from_json(locked.weights.about.get(HEADER)) if locked else None
    if locked is None or weights is None:
        return ()
    moved = lockfile.moved(locked, lockfile.inputs_of(loaded.stack, {}))
    if any(it.artefact is Kind.WEIGHTS for it in moved):
        return ()
    known = judged(loaded.stack, stack_file.parent, locked, weights, loaded.places)
    if known.problems:
        raise StackError(sorted(known.problems))
    return tuple(known.notes)
