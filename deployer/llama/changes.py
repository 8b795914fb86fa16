"""What llama-server does otherwise from some build on: its API, and its defaults.

Each was seen on real binaries (b8672, b10434, b11434) or read in the source of the
builds between; ``after`` is the last build known to be the old way, ``by`` the first
known to be the new one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from deployer.core.model import Stack
from deployer.llama.trap import Case


class Area(StrEnum):
    """What changes."""

    DEFAULT = "defaults"
    API = "server API"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that two builds do differently."""

    area: Area
    what: str
    old: str
    new: str
    after: int
    by: int
    concerns: Callable[[Case], bool] = lambda _: True
    """Whether a stack would notice."""


@dataclass(frozen=True, slots=True)
class Crossed:
    """A change that lies between two builds, in the direction that is gone."""

    change: Change
    forward: bool
    sure: bool
    """One of the builds may lie where the change is only known to be near."""

    @property
    def text(self) -> str:
        """What changes, from what to what, and when."""
        change = self.change
        before, after = change.old, change.new
        if not self.forward:
            before, after = after, before
        near = f"between b{change.after} and b{change.by}"
        when = near if change.by - change.after > 1 else f"b{change.by}"
        return f"{change.what}: {before} → {after} ({when})"


def changes_between(stack: Stack, old: int, new: int) -> Iterator[Crossed]:
    """What a stack would notice, or may, between two builds."""
    case = Case(stack, new)
    low, high = min(old, new), max(old, new)
    for change in CHANGES:
        crossed = low < change.by and change.after < high
        if crossed and low != high and change.concerns(case):
            sure = low <= change.after and change.by <= high
            yield Crossed(change, forward=old < new, sure=sure)


def _drafts(case: Case) -> bool:
    return any("draft" in name for name in case.server.flags or {})


def _sees(case: Case) -> bool:
    return case.is_gemma4 and case.stack.model.mmproj is not None


CHANGES: Final = (
    Change(
        Area.DEFAULT,
        "`timeout`",
        "600 s",
        "3600 s",
        9246,
        9496,
        lambda case: case.server.timeout is None,
    ),
    Change(
        Area.DEFAULT,
        "a stream that is silent",
        "nothing is sent",
        "a comment every 30 s (`sse-ping-interval`)",
        9246,
        9496,
    ),
    Change(Area.DEFAULT, "`spec-draft-p-min`", "0.75", "0.0", 8929, 9093, _drafts),
    Change(
        Area.DEFAULT,
        "most tokens of a picture (Gemma 4)",
        "280",
        "1120",
        10820,
        10821,
        lambda case: _sees(case) and case.server.image_max_tokens is None,
    ),
    Change(
        Area.DEFAULT,
        "`mlock` alone",
        "maps the file as well",
        "reads a copy",
        10105,
        10156,
        lambda case: case.server.mlock is True and case.server.mmap is None,
    ),
    Change(
        Area.DEFAULT,
        "compute buffer",
        "logits of a whole `ubatch_size`",
        "logits of what is put out: less memory",
        8672,
        10434,
    ),
    Change(
        Area.DEFAULT,
        "log at the default verbosity",
        "shows the sizes of KV cache and buffers",
        "does not: `server.verbosity: 4`",
        8672,
        10434,
        lambda case: case.server.verbosity is None,
    ),
    Change(
        Area.DEFAULT,
        "/etc/llama.cpp/config.ini",
        "not read",
        "read, below variables and options",
        10240,
        10435,
    ),
    Change(
        Area.API,
        "/v1/models without a key",
        "200",
        "401",
        10435,
        10698,
        lambda case: case.stack.api_key is not None,
    ),
    Change(
        Area.API,
        "budget of a request beside `reasoning_budget`",
        "ignored",
        "wins",
        9496,
        9763,
        lambda case: case.server.reasoning_budget is not None,
    ),
    Change(
        Area.API,
        "budget of a request",
        "`thinking_budget_tokens`",
        "`reasoning_budget_tokens` as well",
        9763,
        10001,
    ),
    Change(
        Area.API,
        "`reasoning_effort: none`",
        "no effect",
        "turns thinking off",
        8672,
        11434,
    ),
    Change(
        Area.API,
        "`tool_choice: required`",
        "not forced by every parser",
        "forced",
        11003,
        11218,
    ),
    Change(
        Area.API,
        "/v1/responses with a built-in tool",
        "400",
        "200, the tool is left out",
        8672,
        10434,
    ),
    Change(
        Area.API,
        "a body that is not JSON",
        "500",
        "400 `invalid_request_error`",
        10434,
        11434,
    ),
    Change(
        Area.API,
        "/metrics",
        "without cached and drafted tokens",
        "`prompt_tokens_cached_total`, `spec_decode_num_…`",
        8672,
        10434,
        lambda case: bool(case.server.metrics),
    ),
    Change(
        Area.API,
        "token counters, /v1/audio/transcriptions, /tools",
        "404",
        "there (403 where turned off)",
        8672,
        10434,
    ),
    Change(
        Area.API,
        "GET /",
        "the web page",
        "415 unless gzip is accepted, 404 without the page",
        8672,
        10434,
        lambda case: case.server.ui is True,
    ),
)
