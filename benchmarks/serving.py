"""What serving through a stack costs, compared with the same llama-server by hand.

Nothing of deployer stands between client and server, so the answer should be: nothing.
Both are the same program with the same options.  Two processes of one program differ
by a percent or so, by where their memory lies; so both are started anew again and
again, each as often first as second, and the interval is that of the starts, not of
the requests.
"""

import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from benchmarks.answering import Answer, ask, by_hand, end, watch
from benchmarks.applied import BUILD, MODEL, applied
from benchmarks.result import Bar, Bars, Result, Run, Table
from benchmarks.start import command_line
from deployer.engines.local.ports import free_port

STARTS = 4
"""Starts of both servers in a round."""
PAIRS = 4
"""Requests to each after a start."""
TOKENS = 64
PROMPT = "Once upon a time there was a server that answered every request. " * 6
_LIMIT = 0.02
# Student's t, two-sided 95 %, by degrees of freedom.
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18)
_T_MANY = 2.18  # never too narrow


@dataclass(frozen=True, slots=True)
class Pair:
    """The same request to both, one right after the other."""

    ours: Answer
    hand: Answer


@dataclass(frozen=True, slots=True)
class Interval:
    """A ratio, and where it lies with 95 % certainty."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        """As it stands in a table."""
        return f"{self.middle:.3f} ({self.low:.3f}-{self.high:.3f})"


def serving(run: Run) -> Result:
    """Some pairs of requests to fresh servers, again and again."""
    starts: list[list[Pair]] = []
    with applied(run, "bench") as stack:
        argv = command_line(stack.port)
        for number in range(run.rounds * STARTS + 1):
            of = f"{number} of {run.rounds * STARTS}"
            run.say(f"start {of}" if number else "warming up")
            port = free_port("127.0.0.1")
            stack.do("stop", stack.path)
            if number % 2:  # whoever starts first lies elsewhere in memory
                stack.do("start", stack.path)
            process = by_hand(_moved(argv, port), run.folder / "hand.log")
            try:
                watch(port, 0.0, lambda p=process: p.poll() is None)  # type: ignore[misc]
                if not number % 2:
                    stack.do("start", stack.path)
                pairs = [_pair(stack.port, port, turn) for turn in range(PAIRS + 1)][1:]
            finally:
                end(process)
            if number:
                starts.append(pairs)
    return _result(starts)


def _moved(argv: Sequence[str], port: int) -> list[str]:
    """The same command line on another port."""
    words = list(argv)
    words[words.index("--port") + 1] = str(port)
    return words


def _pair(ours: int, hand: int, turn: int) -> Pair:
    if turn % 2:
        first = ask(ours, PROMPT, tokens=TOKENS)
        return Pair(first, ask(hand, PROMPT, tokens=TOKENS))
    first = ask(hand, PROMPT, tokens=TOKENS)
    return Pair(ask(ours, PROMPT, tokens=TOKENS), first)


def interval(ratios: Sequence[float]) -> Interval:
    """Of ratios, one a start: their geometric mean with its 95 % interval."""
    logs = [math.log(ratio) for ratio in ratios]
    middle = statistics.fmean(logs)
    if len(logs) == 1:
        return Interval(math.exp(middle), 0.0, math.inf)
    free = len(logs) - 1
    t = _T[free - 1] if free <= len(_T) else _T_MANY
    half = t * statistics.stdev(logs) / math.sqrt(len(logs))
    return Interval(*(math.exp(it) for it in (middle, middle - half, middle + half)))


def _result(starts: Sequence[Sequence[Pair]]) -> Result:
    rates = [
        statistics.median(
            p.ours.tokens_per_second / p.hand.tokens_per_second for p in it
        )
        for it in starts
    ]
    firsts = [
        statistics.median(p.ours.first_token / p.hand.first_token for p in it)
        for it in starts
    ]
    rate, first = interval(rates), interval(firsts)
    pairs = [pair for it in starts for pair in it]
    table = Table(
        ("", "through the stack", "by hand", "ratio (95 % interval)"),
        (
            (
                "tokens a second",
                f"{statistics.median(p.ours.tokens_per_second for p in pairs):.1f}",
                f"{statistics.median(p.hand.tokens_per_second for p in pairs):.1f}",
                str(rate),
            ),
            (
                "time to first token, ms",
                f"{statistics.median(p.ours.first_token for p in pairs) * 1000:.1f}",
                f"{statistics.median(p.hand.first_token for p in pairs) * 1000:.1f}",
                str(first),
            ),
        ),
    )
    return Result(
        title="Serving through a stack, and by hand",
        about=(
            f"{MODEL}, {BUILD}, {os.cpu_count()} cores; the same options for both.",
            (
                f"{len(starts)} times both servers are started again and get"
                f" {PAIRS} requests each in turn, of about 80 tokens for {TOKENS}."
            ),
            (
                "A ratio is the median of the pairs of a start; the interval is that of"
                " the starts (Student's t of their logarithms)."
            ),
        ),
        tables=(table,),
        plots=(
            Bars(
                "serving",
                "Through a stack, as a multiple of by hand (1 is the same)",
                "ratio; a dot is a start",
                (
                    Bar("tokens a second", tuple(rates), ours=True),
                    Bar("time to first token", tuple(firsts), ours=True),
                ),
            ),
        ),
        notes=(
            _verdict("Tokens a second", rate),
            _verdict("Time to first token", first),
        ),
        samples=[[asdict(pair) for pair in it] for it in starts],
    )


def _verdict(name: str, found: Interval) -> str:
    """What the interval says of the limit of 2 %."""
    inside = found.low >= 1 - _LIMIT and found.high <= 1 + _LIMIT
    outside = found.high < 1 - _LIMIT or found.low > 1 + _LIMIT
    if inside:
        return f"{name}: within 2 %."
    if outside:
        return f"{name}: NOT within 2 %."
    return f"{name}: the interval is wider than 2 %, so this cannot tell."
