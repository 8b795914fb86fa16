"""Base of all gates, and how the class of one is found.

`docs/extending.md` shows how to add one.
"""

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Generic, TypeVar, cast

from deployer.gates import GATES, gate_of
from deployer.gates.harness.answers import Broken, Judgement
from deployer.gates.harness.client import Client, Target
from deployer.stack.fields.gate_options import Gate as Options

O = TypeVar("O", bound=Options)  # noqa: E741 - the options of a gate
M = TypeVar("M")


class Subject(StrEnum):
    """The question that a gate answers a part of; a heading of the docs."""

    IDENTITY = "Is it the right server"
    ANSWERS = "Does it answer"
    QUALITY = "Is it good and fast enough"


@dataclass(frozen=True, slots=True)
class Gate(ABC, Generic[O, M]):
    """One promise of a stack: how it is measured on a server, and how it is judged."""

    options: O
    """Options of the gate; the docstring of the section is the sentence of the gate."""
    target: Target

    subject: ClassVar[Subject]
    limit: ClassVar[float]
    """Seconds it may take when the stack states no `timeout`."""
    alone: ClassVar[bool] = False
    """Measures what other gates would disturb: nothing runs beside it."""

    @abstractmethod
    async def measure(self, client: Client) -> M:
        """Ask the server; raises `Unanswered` when no whole answer comes."""

    @abstractmethod
    def judge(self, measured: M) -> Judgement:
        """Judge what was measured, without asking again; may raise `Broken`."""

    @property
    def longest(self) -> float:
        """Seconds that these options may take when the stack states no `timeout`."""
        return self.limit

    def judgement(self, measured: M) -> Judgement:
        """Judge what was measured, also where an answer cannot be read."""
        try:
            return self.judge(measured)
        except Broken as broken:
            return broken.judgement


def gate_class(name: str) -> type[Gate[Any, Any]]:
    """Import the class of a gate; `custom.smoke` is one of `custom`."""
    module, _, found = GATES[gate_of(name)].partition(":")
    checks = importlib.import_module(f"deployer.gates.checks.{module}")
    return cast("type[Gate[Any, Any]]", getattr(checks, found))
