"""Several runs of one gate as one verdict: the worst counts, the figures spread."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Final

from deployer.planning.verdict import Outcome, Verdict

_WORST_LAST: Final = (
    Outcome.PASS,
    Outcome.INCONCLUSIVE,
    Outcome.ERROR,
    Outcome.FAIL,
)


def together(runs: Sequence[Verdict]) -> Verdict:
    """The verdict of all runs, of which there is at least one.

    Reason and evidence are those of the first of the worst runs.  A figure is the
    median of its values, with `lowest_…` and `highest_…` beside it.
    """
    if len(runs) == 1:
        return runs[0]
    worst = max(runs, key=lambda run: _WORST_LAST.index(run.outcome))
    alike = sum(run.outcome is worst.outcome for run in runs)
    return replace(
        worst,
        because=f"{alike} of {len(runs)} runs: {worst.because}",
        seconds=sum(run.seconds for run in runs),
        figures=_spread([run.figures for run in runs]),
    )


def _spread(figures: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for one in figures for name in one):
        values = [one[name] for one in figures if name in one]
        found[name] = median(values)
        if min(values) != max(values):
            found[f"lowest_{name}"] = min(values)
            found[f"highest_{name}"] = max(values)
    return found
