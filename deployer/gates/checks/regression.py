"""Gate regression: the candidate answers as the live release does.

Greedy answers of one model agree until rounding of another build or device decides a
close call, so they are compared word by word and need not be equal.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final

from deployer.gates.checks.thinking import first_choice
from deployer.gates.harness.answers import (
    Answer,
    Judgement,
    excerpt,
    failed,
    passed,
    unclear,
    unmeasured,
)
from deployer.gates.harness.client import Client, Unanswered, connected
from deployer.gates.harness.prompts import read_prompts
from deployer.gates.harness.requests import Body, chat_body
from deployer.gates.harness.target import Target
from deployer.stack.fields.gate_options import Regression

_PATH: Final = "/v1/chat/completions"
_MAX_TOKENS: Final = 64
_PROMPTS: Final = (
    "Say in one short sentence what the capital of France is.",
    "Name three primary colours.",
    "Translate to German: The house is small.",
    "What is 17 times 3?",
    "Write one sentence about the sea.",
)


@dataclass(frozen=True, slots=True)
class Pair:
    """The answers of both to one prompt."""

    prompt: str
    live: Answer
    candidate: Answer


@dataclass(frozen=True, slots=True)
class Measurement:
    """A pair for each prompt, or why there is none."""

    pairs: tuple[Pair, ...] = ()
    problem: str = ""


async def measure(
    client: Client, parameters: Regression, target: Target
) -> Measurement:
    """Ask the live release and the candidate the same, one after the other."""
    if target.live is None:
        return Measurement()
    most = parameters.max_tokens or _MAX_TOKENS
    bodies = {prompt: chat_body(prompt, most) for prompt in _PROMPTS}
    if parameters.file is not None:
        prompts = read_prompts(target.folder, parameters.file, expecting=False)
        if isinstance(prompts, str):
            return Measurement(problem=prompts)
        client.keep(prompts.evidence)
        bodies = {f"line {p.line}": p.prompt.body(most) for p in prompts.lines}
    try:
        live = await _asked_live(client, target.live, bodies.values())
    except Unanswered as error:
        return Measurement(problem=f"the live release: {error}")
    pairs = [
        Pair(prompt, before, await client.post(_PATH, body))
        for (prompt, body), before in zip(bodies.items(), live, strict=True)
    ]
    return Measurement(tuple(pairs))


def judge(
    measurement: Measurement, parameters: Regression, target: Target
) -> Judgement:
    """The answers have to agree in enough of their words."""
    if target.live is None:
        return passed("no live release to compare with")
    if measurement.problem or not measurement.pairs:
        return unmeasured(measurement.problem or "nothing was asked")
    agreements: list[tuple[float, str]] = []
    for pair in measurement.pairs:
        live, candidate = first_choice(pair.live), first_choice(pair.candidate)
        if isinstance(candidate, Judgement):
            return Judgement(candidate.outcome, f"{pair.prompt}: {candidate.because}")
        if isinstance(live, Judgement):
            return unclear(f"the live release, {pair.prompt}: {live.because}")
        old = (live.message.content or "").split()
        new = (candidate.message.content or "").split()
        if old or new:
            told = f"{pair.prompt}: {_shown(old)} became {_shown(new)}"
            agreements.append((_agreement(old, new), told))
    if not agreements:
        return unclear("all answers are empty; raise `gates.regression.max_tokens`")
    mean = sum(share for share, _ in agreements) / len(agreements)
    equal = sum(share == 1 for share, _ in agreements)
    figures = {
        "agreement": mean,
        "equal_answers": float(equal),
        "prompts": float(len(measurement.pairs)),
    }
    said = (
        f"the answers agree with the live release in {100 * mean:.0f} % of their "
        f"words, {equal} of {len(agreements)} are equal"
    )
    if mean < parameters.agreement:
        worst = min(agreements)[1]
        limit = f"`agreement: {parameters.agreement:g}`"
        return failed(f"{said}, less than {limit}; {worst}", **figures)
    return passed(said, **figures)


def _agreement(old: list[str], new: list[str]) -> float:
    """The share of words that two answers have in common, in their order."""
    return SequenceMatcher(None, old, new, autojunk=False).ratio()


def _shown(words: list[str]) -> str:
    return f"`{excerpt(' '.join(words), 60) or 'nothing'}`"


async def _asked_live(
    client: Client, live: Target, bodies: Iterable[Body]
) -> list[Answer]:
    """The answers of the live release; its requests become evidence too."""
    async with connected(live) as http:
        other = Client(http, live, gate=client.gate, clock=client.clock)
        try:
            return [await other.post(_PATH, body) for body in bodies]
        finally:
            for exchange in other.evidence:
                client.keep(exchange)
