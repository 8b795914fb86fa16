"""A judge whose verdicts are chosen, and ears that hear nothing."""

from collections.abc import Collection, Sequence

from deployer.planning.events import Event
from deployer.planning.state import Record
from deployer.planning.verdict import Outcome, Verdict


class FakeJudge:
    """A `Judge` that fails the gates it is told to."""

    def __init__(self, fails: Collection[str] = ()) -> None:
        self.fails = fails
        self.asked: list[tuple[str, bool]] = []
        """Address, and whether it was a candidate."""

    def __call__(
        self, record: Record, gates: Sequence[str], *, candidate: bool
    ) -> tuple[Verdict, ...]:
        """A verdict for every gate."""
        self.asked.append((record.address, candidate))
        return tuple(self._verdict(gate) for gate in gates)

    def _verdict(self, gate: str) -> Verdict:
        if gate in self.fails:
            return Verdict(gate, Outcome.FAIL, "told to fail")
        return Verdict(gate, Outcome.PASS, "told to pass")


def unheard(_event: Event) -> None:
    """Takes what a run says, and shows it to nobody."""
