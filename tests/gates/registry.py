"""Broken answers of every gate, by gate and name; none of them may pass."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from _pytest.mark import ParameterSet

from deployer.gates import GATES

FAULTS: Final[dict[str, dict[str, Callable[[Path], object]]]] = {g: {} for g in GATES}
"""By gate and name: runs the gate against a broken answer, with a folder for files."""
OWN: Final[dict[str, set[str]]] = {g: set() for g in GATES}
"""By gate: those written for it, beside the ones that every gate is asked with."""


def broken(
    gate: str,
    names: str | tuple[str, ...] = (),
    cases: Iterable[object] = ((),),
    *,
    own: bool = True,
) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """Register what a function checks as broken answers of a gate, one for each case.

    Names and cases are those of `pytest.mark.parametrize`.
    """
    arguments = (names,) if isinstance(names, str) else names

    def register(look: Callable[..., object]) -> Callable[..., object]:
        for number, (name, values) in enumerate(_cases(arguments, cases)):
            given = dict(zip(arguments, values, strict=True))
            told = look.__name__.replace("_", " ")
            title = f"{told}, {name or number}" if arguments else told
            assert title not in FAULTS[gate], title
            FAULTS[gate][title] = partial(_looked, look, given)
            if own:
                OWN[gate].add(title)
        return look

    return register


def _cases(
    arguments: tuple[str, ...], cases: Iterable[object]
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for case in cases:
        match case:
            case ParameterSet(values=values, id=str(name)):
                yield name, tuple(values)
            case tuple() if len(arguments) != 1:
                yield "", case
            case _:
                yield "", (case,)


def _looked(look: Callable[..., object], given: dict[str, Any], folder: Path) -> object:
    wants = inspect.signature(look).parameters
    return look(**given, **({"tmp_path": folder} if "tmp_path" in wants else {}))
