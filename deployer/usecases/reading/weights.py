"""What the headers of the weights say about a stack: does it fit, is it known."""

from dataclasses import dataclass
from pathlib import Path

from deployer.artefacts import lock_file
from deployer.diagnostics import Problem
from deployer.errors import StackError
from deployer.gguf.facts import from_json
from deployer.planning.facts import HEADER, Facts as Locked
from deployer.planning.resources import Graph, Kind
from deployer.stack.load import Loaded
from deployer.usecases.context.settings import Settings
from deployer.usecases.reading.memory_fit import Sized, does_not_fit, doubts, sized
from deployer.usecases.reading.model_support import judged
from deployer.usecases.reading.weight_headers import weights_facts


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
    loaded: Loaded, stack_file: Path, settings: Settings, facts: Locked, graph: Graph
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
    locked = lock_file.read(lock_file.lock_path(stack_file))
    weights = from_json(locked.weights.about.get(HEADER)) if locked else None
    if locked is None or weights is None:
        return ()
    moved = lock_file.moved(locked, lock_file.inputs_of(loaded.stack, {}))
    if any(it.artefact is Kind.WEIGHTS for it in moved):
        return ()
    known = judged(loaded.stack, stack_file.parent, locked, weights, loaded.places)
    if known.problems:
        raise StackError(sorted(known.problems))
    return tuple(known.notes)
