"""Overviews as one HTML page: nothing from elsewhere, and it works without a script.

The policy of the page allows its own style and script by their digests and nothing
else; every text of a stack is escaped, and written out where it cannot be seen.
"""

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Final

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from deployer import __version__
from deployer.gates.harness.answers import show_time
from deployer.gates.harness.report import paired
from deployer.planning.verdict import Outcome, Verdict, sign, word
from deployer.show.overview import RATE, TTFT, Cost, Overview, Run
from deployer.show.words import price
from deployer.spelling import harmless
from deployer.usecases.history.latency import over_time, per_release, spreads

SHOWN: Final = 20
"""Runs of a stack that are told in full; older ones are a line each."""
_NEW: Final = " not there yet"


def page(overviews: Sequence[Overview], at: str) -> str:
    """The whole page; ``at`` is the time, UTC and ISO 8601."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters |= {
        "minute": _minute,
        "seconds": lambda value: None if value is None else show_time(value),
        "rate": lambda value: None if value is None else f"{value:,.1f}",
        "sign": sign,
        "word": word,
        "shade": _shade,
        "hourly": _hourly,
        "literals": _literals,
    }
    here = files("deployer.usecases.history")
    look = files("deployer").joinpath("templates", "page.css").read_text("utf-8")
    style = f"{look}{here.joinpath('page.css').read_text('utf-8')}"
    script = here.joinpath("page.js").read_text("utf-8")
    source = here.joinpath("page.html.j2").read_text("utf-8")
    return environment.from_string(source).render(
        at=at,
        version=__version__,
        style=Markup(style),  # noqa: S704 - a file of ours
        script=Markup(script),  # noqa: S704 - a file of ours
        policy=_policy(style, script),
        counts=_counts(overviews),
        stacks=[_stack(f"s{n}", one) for n, one in enumerate(overviews, start=1)],
    )


def _stack(anchor: str, overview: Overview) -> dict[str, object]:
    """A stack with what the template would have to work out."""
    told = [run for run in overview.runs if run.number is not None or run.held_back]
    charts = [
        per_release(f"{anchor}-ttft", told, TTFT, SHOWN),
        per_release(f"{anchor}-rate", told, RATE, SHOWN),
    ]
    latency = over_time(f"{anchor}-watch", overview)
    return {
        "anchor": anchor,
        "it": overview,
        "live": overview.live_run,
        "latency": latency and Markup(latency),  # noqa: S704 - escapes all it holds
        "charts": [Markup(one) for one in charts if one],  # noqa: S704 - as above
        "spreads": spreads(overview.probes),
        "latest": {path: known.last for path, _, known in spreads(overview.probes)},
        "runs": [_run(run, overview.gates) for run in overview.runs[:SHOWN]],
        "older": [_run(run, ()) for run in overview.runs[SHOWN:]],
        "billed": any(run.used for run in overview.runs),
    }


def _run(run: Run, gates: Sequence[str]) -> dict[str, object]:
    by_gate = {one.gate: one for one in run.verdicts}
    return {
        "it": run,
        "cells": [by_gate.get(gate) for gate in gates],
        "changes": _changes(run.changes),
        "amiss": [one for one in run.verdicts if _is_amiss(one, run)],
        "ttft": run.figure(TTFT),
        "rate": run.figure(RATE),
    }


def _is_amiss(verdict: Verdict, run: Run) -> bool:
    """Return what held a run back; of what is live also what did not pass."""
    failed = verdict.outcome is not Outcome.PASS
    return verdict.holds_back or (run.live and failed)


def _changes(changes: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return what changed; of a first release that everything is new."""
    if changes and all(change.endswith(_NEW) for change in changes):
        new = ", ".join(change.removesuffix(_NEW) for change in changes)
        return (f"everything is new: {new}",)
    return changes


def _counts(overviews: Sequence[Overview]) -> list[tuple[str, int]]:
    runs = [run for one in overviews for run in one.runs]
    return [
        ("stacks", len(overviews)),
        ("live", sum(one.live is not None for one in overviews)),
        ("releases recorded", sum(run.number is not None for run in runs)),
        ("held back by gates", sum(run.held_back for run in runs)),
        ("not readable", sum(bool(one.error) for one in overviews)),
    ]


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src '{_digest(style)}';"
        f" script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    """As a policy names what it allows."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _visible(value: object) -> object:
    """Texts of stacks without what would not be seen; nothing where nothing is."""
    if value is None:
        return ""
    return harmless(value) if type(value) is str else value


def _literals(text: str) -> Markup:
    """Return what stands in backticks, as code."""
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else part
        for number, part in enumerate(paired(harmless(text)))
    )


def _minute(at: str) -> str:
    """A time as people read it, from one as the state keeps it."""
    return at[:16].replace("T", " ")


def _shade(verdict: Verdict) -> str:
    return verdict.outcome.value if verdict.applicable else "inapplicable"


def _hourly(cost: Cost) -> str:
    times = f"{cost.always} times " if cost.always > 1 else ""
    when = "always" if cost.always else "while awake"
    return f"{times}{price(cost.awake_hour)}/h {when}"
