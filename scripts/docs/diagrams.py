"""Diagrams of the explanations: who says what to whom, from top to bottom."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Final

_COLUMN, _ROW, _TOP, _MARGIN = 190, 46, 74, 24
_STYLE: Final = (
    "text{font:13px system-ui,sans-serif;fill:#1f2328}"
    ".actor{font-weight:600}"
    ".box{fill:#eef2f7;stroke:#8c959f}"
    ".note{fill:#fff8c5;stroke:#d4a72c}"
    ".line{stroke:#afb8c1;stroke-dasharray:4 4}"
    ".arrow{stroke:#0969da;stroke-width:1.6;fill:none}"
    ".head{fill:#0969da}"
    ".page{fill:#fff}"
    "@media (prefers-color-scheme:dark){"
    "text{fill:#e6edf3}.box{fill:#21262d}.note{fill:#3b2f0b}.page{fill:#0d1117}"
    ".arrow{stroke:#58a6ff}.head{fill:#58a6ff}.line{stroke:#484f58}}"
)


@dataclass(frozen=True, slots=True)
class Step:
    """A message from one actor to another, or to itself: then it is a note."""

    sender: str
    receiver: str
    text: str


def says(sender: str, receiver: str, text: str) -> Step:
    """Return a message."""
    return Step(sender, receiver, text)


def does(actor: str, text: str) -> Step:
    """Return what an actor does by itself."""
    return Step(actor, actor, text)


def svg(title: str, actors: Sequence[str], steps: Sequence[Step]) -> str:
    """Return the diagram as one SVG file."""
    width = _COLUMN * len(actors) + 2 * _MARGIN
    height = _TOP + _ROW * len(steps) + _MARGIN
    at = {name: _MARGIN + _COLUMN * n + _COLUMN // 2 for n, name in enumerate(actors)}
    body = "\n".join(
        (
            *(_actor(name, at[name], height) for name in actors),
            *(_step(step, at, _TOP + _ROW * n) for n, step in enumerate(steps)),
        )
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'role="img">\n<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n'
        f'<rect class="page" width="{width}" height="{height}" rx="8"/>\n'
        f"{body}\n</svg>\n"
    )


def _actor(name: str, x: int, height: int) -> str:
    wide = _COLUMN - 26
    return (
        f'<line class="line" x1="{x}" x2="{x}" y1="48" y2="{height - 12}"/>'
        f'<rect class="box" x="{x - wide // 2}" y="16" width="{wide}" height="32" '
        f'rx="5"/><text class="actor" x="{x}" y="37" text-anchor="middle">'
        f"{escape(name)}</text>"
    )


def _step(step: Step, at: Mapping[str, int], y: int) -> str:
    x, end = at[step.sender], at[step.receiver]
    if x == end:
        return _note(step.text, x, y)
    side = 1 if end > x else -1
    tip = end - 2 * side
    return (
        f'<path class="arrow" d="M{x} {y + 20}H{tip - 7 * side}"/>'
        f'<path class="head" d="M{tip} {y + 20}l{-9 * side} -5v10z"/>'
        f'<text x="{(x + end) // 2}" y="{y + 12}" text-anchor="middle">'
        f"{escape(step.text)}</text>"
    )


def _note(text: str, x: int, y: int) -> str:
    wide = max(90, round(6.9 * len(text)) + 16)
    left = max(_MARGIN // 2, x - wide // 2)
    return (
        f'<rect class="note" x="{left}" y="{y}" width="{wide}" height="28" rx="4"/>'
        f'<text x="{left + wide // 2}" y="{y + 18}" text-anchor="middle">'
        f"{escape(text)}</text>"
    )


def _promotion() -> Iterator[Step]:
    yield does("deployer", "plan: old → new, a reason for each action")
    yield says("deployer", "candidate", "starts it")
    yield says("deployer", "candidate", "asks the gates")
    yield says("candidate", "deployer", "answers, as evidence")
    yield does("deployer", "a gate fails: it ends, the live one stays")
    yield says("deployer", "live release", "takes new requests off it")
    yield says("clients", "candidate", "new requests")
    yield does("deployer", "the state names the release, and how to go back")


def _port() -> Iterator[Step]:
    yield says("clients", "old server", "requests")
    yield says("deployer", "new server", "starts it on the same port")
    yield says("deployer", "new server", "gates, from 127.0.0.2")
    yield says("deployer", "old server", "takes it out of the port")
    yield says("clients", "new server", "new connections")
    yield does("old server", "finishes its answers")
    yield says("deployer", "old server", "ends it")


def _snapshot() -> Iterator[Step]:
    yield says("deployer", "server", "starts it on a private port")
    yield says("deployer", "server", "warm-up, then greedy answers to repeat")
    yield says("deployer", "image", "freezes the server: it ends here")
    yield says("image", "restored server", "restores")
    yield says("deployer", "restored server", "asks for the same answers")
    yield does("deployer", "others, or none: a cold start, the image is condemned")
    yield says("deployer", "restored server", "gates, promotion")


def _pull_request() -> Iterator[Step]:
    yield says("developer", "pull request", "edits one line of YAML")
    yield says("CI job", "pull request", "comments the plan, with reasons")
    yield says("reviewer", "pull request", "approves what is shown")
    yield says("pull request", "CI job", "merge")
    yield does("CI job", "plans again: no more than what was shown")
    yield says("CI job", "release", "apply: make, prove, promote")
    yield does("CI job", "a failed gate: exit 6, the old release serves")


def _effects() -> Iterator[Step]:
    yield says("changed line", "build", "llama_cpp.*")
    yield says("changed line", "weights", "model.*")
    yield says("changed line", "snapshot", "server.*, gpu, snapshot.*")
    yield says("changed line", "server", "auth.*, local.*, modal.*")
    yield says("changed line", "gates", "gates.*: asked on what is live")
    yield does("snapshot", "what stands to the right of it is made again")


def _modal() -> Iterator[Step]:
    yield says("deployer", "builder", "build and fetch, side by side")
    yield says("builder", "Volume", "folders named by content")
    yield says("deployer", "candidate", "deploys the twin app")
    yield says("Volume", "candidate", "starts, warms up, is captured")
    yield says("deployer", "candidate", "gates; to zero, and restored")
    yield says("deployer", "production", "the same files, rolling")
    yield says("production", "deployer", "ready, by a line of its log")
    yield does("candidate", "stopped")


def _trust() -> Iterator[Step]:
    yield says("stranger", "pull request", "writes any file")
    yield says("pull request", "CI: plan", "is read as data")
    yield does("CI: plan", "starts nothing, reads nothing outside")
    yield says("CI: plan", "pull request", "the plan, as a comment")
    yield says("reviewer", "pull request", "approves and merges")
    yield says("pull request", "apply", "runs what the stack says")
    yield does("apply", "applying is trusting")


DIAGRAMS: Final[Mapping[str, Callable[[], str]]] = {
    "diagrams/promotion.svg": partial(
        svg,
        "From a plan to a promoted release",
        ("deployer", "candidate", "live release", "clients"),
        tuple(_promotion()),
    ),
    "diagrams/port.svg": partial(
        svg,
        "A port is handed over",
        ("clients", "old server", "new server", "deployer"),
        tuple(_port()),
    ),
    "diagrams/snapshot.svg": partial(
        svg,
        "The life of a snapshot",
        ("deployer", "server", "image", "restored server"),
        tuple(_snapshot()),
    ),
    "diagrams/pull-request.svg": partial(
        svg,
        "From a pull request to a release",
        ("developer", "reviewer", "pull request", "CI job", "release"),
        tuple(_pull_request()),
    ),
    "diagrams/effects.svg": partial(
        svg,
        "What a changed line makes again",
        ("changed line", "build", "weights", "snapshot", "server", "gates"),
        tuple(_effects()),
    ),
    "diagrams/modal.svg": partial(
        svg,
        "From a stack to a server on Modal",
        ("deployer", "builder", "Volume", "candidate", "production"),
        tuple(_modal()),
    ),
    "diagrams/trust.svg": partial(
        svg,
        "What a pull request can do",
        ("stranger", "reviewer", "pull request", "CI: plan", "apply"),
        tuple(_trust()),
    ),
}
"""Every diagram, by name below `docs/`."""
