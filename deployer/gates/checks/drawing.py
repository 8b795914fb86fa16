"""The gates sampling, speculative and lora: how tokens are drawn."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import Field, RootModel, ValidationError

from deployer.gates.harness.answers import (
    CHAT,
    Answer,
    Body,
    Broken,
    Completion,
    Judgement,
    Shape,
    Timings,
    chat_body,
    failed,
    inapplicable,
    passed,
    read,
    refused,
    unclear,
    within,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.gate import Gate, Subject
from deployer.stack.fields import gate_options as asked
from deployer.stack.fields.values import JsonValue

COMPLETION: Final = "/completion"
_CANDIDATES: Final = 40
_FLAT: Final = (
    "My favourite thing in the world is the",
    "1. One of many random words:",
    "The",
)
"""Beginnings after which many tokens are likely."""
_NEAR: Final = 0.08
"""How far a measured temperature may be off, as a share."""
_DRAWN: Final = 32
_LEAST_DRAWN: Final = 8
_SURE: Final = 0.999
"""Confidence of what draws show: a sound server is to fail by chance once in 1,000."""


class Candidate(Shape):
    """One token that could have been drawn."""

    id: int
    logprob: float | None = None
    prob: float | None = None


class Drawn(Shape):
    """One token, and those that could have been drawn instead."""

    id: int
    top_logprobs: tuple[Candidate, ...] = ()
    top_probs: tuple[Candidate, ...] = ()


class Probabilities(Shape):
    """The answer of /completion with `n_probs`."""

    content: str = ""
    completion_probabilities: tuple[Drawn, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Draws:
    """Candidates before and after the samplers, and what is drawn of them."""

    raw: tuple[Answer, ...]
    sampled: tuple[Answer, ...]
    drawn: tuple[Answer, ...]
    """The same request, twice where a seed is stated."""


_STATED: Final = ("temperature", "top_k", "top_p", "min_p", "seed")


class Sampling(Gate[asked.Sampling, Draws | None]):
    """The samplers that a stack states show in which tokens can be drawn.

    llama-server gives the candidates of a token before its samplers and after them, so
    what a request without options gets is compared with what the stack states.
    Then tokens are drawn, and the likeliest has to come as often as its probabilities
    say.
    """

    subject, limit = Subject.ANSWERS, 120

    async def measure(self, client: Client) -> Draws | None:
        """Ask each beginning twice, as a client does that states nothing, and draw."""
        if not any(self._number(name) is not None for name in _STATED):
            return None
        ask: Body = {"n_predict": 1, "n_probs": _CANDIDATES}
        raw, sampled = [], []
        for prompt in _FLAT:
            body = {**ask, "prompt": prompt}
            raw.append(await client.post(COMPLETION, body))
            after = {**body, "post_sampling_probs": True}
            sampled.append(await client.post(COMPLETION, after))
        story: Body = {
            "prompt": _FLAT[0],
            "n_predict": self.options.times or _DRAWN,
            "n_probs": _CANDIDATES,
            "post_sampling_probs": True,
            "ignore_eos": True,
        }
        seed = self._number("seed")
        again = 1 if seed is None or seed < 0 else 2
        drawn = [await client.post(COMPLETION, story) for _ in range(again)]
        return Draws(tuple(raw), tuple(sampled), tuple(drawn))

    def judge(self, measured: Draws | None) -> Judgement:
        """Compare the candidates that are left with those that should be."""
        if measured is None:
            return inapplicable("the stack states no sampler")
        temperatures: list[float] = []
        most = 0
        for before, after in zip(measured.raw, measured.sampled, strict=True):
            raw = _logprobs(before)
            left = _probs(after)
            most = max(most, len(left))
            if problem := self._problem(raw, left):
                return failed(problem)
            temperatures += _temperatures(raw, left)
        if problem := self._heat_problem(temperatures, most):
            return failed(problem)
        drawn = [read(it, Probabilities) for it in measured.drawn]
        if len({it.content for it in drawn}) > 1:
            seed = self._number("seed")
            return failed(f"`server.seed: {seed:g}` does not repeat an answer")
        came, (low, high), times = _likeliest(drawn[0])
        of_times = f"the likeliest token was drawn {came} of {times} times"
        expected = f"by its probabilities {low} to {high} at {_SURE:.1%} confidence"
        if most < 2 and self._number("temperature"):
            return unclear("one token alone could be drawn: nothing shows the samplers")
        if not low <= came <= high:
            return failed(f"{of_times}, {expected}")
        if times < _LEAST_DRAWN:
            return unclear(f"an answer ends after {times} tokens: too few draws")
        stated = [n for n in _STATED if self._number(n) is not None]
        figures = {"candidates": float(most), "drawn": float(times)}
        if temperatures:
            figures["temperature"] = sorted(temperatures)[len(temperatures) // 2]
        effect = f"as the stack states, by effect: {', '.join(stated)}"
        return passed(f"{effect}; {of_times}, {expected}", **figures)

    def _number(self, name: str) -> float | None:
        value = self.target.expects.get(f"server.{name}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        return None

    def _problem(self, raw: Mapping[int, float], left: Mapping[int, float]) -> str:
        """Return what could be drawn and should not, or the other way round."""
        top_k, min_p = self._number("top_k"), self._number("min_p")
        if top_k and len(left) > top_k:
            return f"{len(left)} tokens can be drawn, `server.top_k: {top_k:g}`"
        best = max(raw.values())
        lowest = min((raw[one] for one in left if one in raw), default=best)
        if min_p and math.exp(lowest - best) < min_p * (1 - _NEAR):
            share = math.exp(lowest - best)
            return (
                f"a token of {share:.3f} of the likeliest can be drawn, "
                f"`server.min_p: {min_p:g}`"
            )
        return ""

    def _heat_problem(self, measured: Sequence[float], most: int) -> str:
        wanted = self._number("temperature")
        if wanted is None:
            return ""
        if wanted == 0:
            many = f"{most} tokens can be drawn, `server.temperature: 0`"
            return many if most > 1 else ""
        if not measured:
            return ""
        found = sorted(measured)[len(measured) // 2]
        if abs(found - wanted) > _NEAR * wanted:
            return f"tokens are drawn at {found:.2f}, `server.temperature: {wanted:g}`"
        return ""


def _logprobs(answer: Answer) -> dict[int, float]:
    (first, *_) = read(answer, Probabilities).completion_probabilities
    found = {it.id: it.logprob for it in first.top_logprobs if it.logprob is not None}
    if not found:
        raise Broken(unclear("the server gives no probabilities of tokens"))
    return found


def _probs(answer: Answer) -> dict[int, float]:
    (first, *_) = read(answer, Probabilities).completion_probabilities
    return {it.id: it.prob for it in first.top_probs if it.prob}


def _likeliest(drawn: Probabilities) -> tuple[int, tuple[int, int], int]:
    """Return how often the likeliest token came, its bounds, and the tokens drawn."""
    steps = drawn.completion_probabilities
    if not all(one.top_probs for one in steps):
        raise Broken(unclear("the server gives no probabilities of what it draws"))
    best = [max(one.top_probs, key=lambda it: it.prob or 0) for one in steps]
    came = sum(top.id == one.id for top, one in zip(best, steps, strict=True))
    return came, bounds([min(1, top.prob or 0) for top in best]), len(steps)


def bounds(shares: Sequence[float]) -> tuple[int, int]:
    """Return the least and most events of independent ones with these chances.

    Each side is left with half of what `_SURE` leaves (Poisson binomial).
    """
    chances = [1.0]
    for share in shares:
        up, down = [0.0, *chances], [*chances, 0.0]
        chances = [u * share + d * (1 - share) for u, d in zip(up, down, strict=True)]
    rare = (1 - _SURE) / 2
    below, above = (
        sum(total <= rare for total in itertools.accumulate(side))
        for side in (chances, reversed(chances))
    )
    return below, len(shares) - above


def _temperatures(raw: Mapping[int, float], left: Mapping[int, float]) -> list[float]:
    """Return the temperature that each pair of neighbouring candidates shows."""
    both = sorted((one for one in left if one in raw), key=lambda it: -left[it])
    found = []
    for one, other in itertools.pairwise(both):
        before = raw[one] - raw[other]
        after = math.log(left[one]) - math.log(left[other])
        if before > 0.2 and after > 0:
            found.append(before / after)
    return found


_STORY: Final = (
    "Repeat this sentence five times, word for word: the quick brown fox jumps over the"
    " lazy dog and runs back into the dark green forest."
)
_STORY_TOKENS: Final = 48
_RUNS: Final = 2
"""Answers measured each way; the faster one counts, for what slows it is chance."""
_SLOWER: Final = 0.9


class DraftTimings(Timings):
    """llama-server's clock, with the tokens of a draft."""

    draft_n: int = 0
    draft_n_accepted: int = 0


class DraftedCompletion(Completion):
    """A chat answer that counts drafts."""

    timings: DraftTimings | None = None


@dataclass(frozen=True, slots=True)
class Drafted:
    """Answers with a draft, and without one where a request can leave it out."""

    drafted: tuple[Answer, ...]
    plain: tuple[Answer, ...]


class Speculative(Gate[asked.Speculative, Drafted]):
    """Drafts have to be made, accepted, and no slower than none."""

    subject, limit, alone = Subject.QUALITY, 300, True

    async def measure(self, client: Client) -> Drafted:
        """Ask for a text that repeats itself, with drafts and without."""
        body = chat_body(_STORY, _STORY_TOKENS, ignore_eos=True)
        none = {**body, "speculative.n_max": 0, "speculative.types": "none"}
        drafted = [await client.post(CHAT, body) for _ in range(_RUNS)]
        plain = [await client.post(CHAT, none) for _ in range(_RUNS)]
        return Drafted(tuple(drafted), tuple(plain))

    def judge(self, measured: Drafted) -> Judgement:
        """Count what was accepted, and compare the speeds where both are known."""
        drafted = [_draft_timings(it) for it in measured.drafted]
        made = sum(it.draft_n for it in drafted)
        accepted = sum(it.draft_n_accepted for it in drafted)
        if made < 1:
            return failed("no token was drafted: the draft is never used")
        share = accepted / made
        rate = max(it.predicted_n / max(it.predicted_ms, 0.001) for it in drafted)
        figures = {
            "drafted_tokens": float(made),
            "acceptance": share,
            "tokens_per_second": 1000 * rate,
        }
        said = f"{accepted} of {made} drafted tokens were accepted"
        if not 0 <= accepted <= made:
            return failed(f"{said}, which cannot be", **figures)
        if share < self.options.acceptance:
            least = f"`acceptance: {self.options.acceptance:g}`"
            return failed(f"{said}, less than {least}", **figures)
        plain = [_draft_timings(it) for it in measured.plain]
        if any(it.draft_n for it in plain):
            return passed(f"{said}; this build drafts for every request", **figures)
        other = max(it.predicted_n / max(it.predicted_ms, 0.001) for it in plain)
        figures["tokens_per_second_without"] = 1000 * other
        speeds = (
            f"{1000 * rate:.1f} tokens a second, {1000 * other:.1f} without a draft"
        )
        if rate < _SLOWER * other:
            return failed(f"{said}, and it is slower: {speeds}", **figures)
        return passed(f"{said}; {speeds}", **figures)


def _draft_timings(answer: Answer) -> DraftTimings:
    timings = read(answer, DraftedCompletion).timings
    if timings is None:
        raise Broken(unclear("answers carry no timings, which count drafts"))
    return timings


class Adapter(Shape):
    """One LoRA adapter of /lora-adapters."""

    id: int
    path: str
    scale: float


class Adapters(RootModel[tuple[Adapter, ...]]):
    """The answer of /lora-adapters."""


@dataclass(frozen=True, slots=True)
class Adapted:
    """The adapters, and what the server says with them, without them, and again."""

    listed: Answer
    stated: Answer | None = None
    without: Answer | None = None
    again: Answer | None = None


class Lora(Gate[asked.Lora, Adapted]):
    """An adapter changes what the model says, and one at scale 0 does not."""

    subject, limit = Subject.ANSWERS, 120

    async def measure(self, client: Client) -> Adapted:
        """Ask with the scales of the server, with all at 0, and with those again."""
        listed = await client.get("/lora-adapters")
        adapters = _adapters(listed)
        if not adapters:
            return Adapted(listed)
        zero: JsonValue = [{"id": one.id, "scale": 0.0} for one in adapters]
        body: Body = {
            "prompt": self.options.prompt or _FLAT[0],
            "n_predict": 1,
            "n_probs": _CANDIDATES,
            "temperature": 0,
            "cache_prompt": False,
        }
        return Adapted(
            listed,
            await client.post(COMPLETION, body),
            await client.post(COMPLETION, {**body, "lora": zero}),
            await client.post(COMPLETION, {**body, "lora": zero}),
        )

    def judge(self, measured: Adapted) -> Judgement:
        """Compare the probabilities of the first token."""
        adapters = _adapters(measured.listed)
        stated, without, again = measured.stated, measured.without, measured.again
        if not adapters or stated is None or without is None or again is None:
            return failed("no adapter is loaded: /lora-adapters is empty")
        names = ", ".join(f"`{it.path.rpartition('/')[2]}`" for it in adapters)
        if all(it.scale == 0 for it in adapters):
            return failed(f"{names}: every scale is 0, so nothing is adapted")
        figures = {"adapters": float(len(adapters))}
        with within("with its adapters", **figures):
            adapted = _logprobs(stated)
        with within("at scale 0", **figures):
            plain, twice = _logprobs(without), _logprobs(again)
        if _distance(plain, twice) > _REPEATS:
            return unclear("the same request is answered differently twice", **figures)
        moved = _distance(adapted, plain)
        figures["moved_logprob"] = moved
        if moved <= _REPEATS:
            return failed(
                f"{names} change nothing: at scale 0 it says the same", **figures
            )
        return passed(
            f"{names} change what the model says, by {moved:.3f} in log probability",
            **figures,
        )


_REPEATS: Final = 1e-3
"""By how much log probabilities may differ for rounding."""


def _adapters(answer: Answer) -> tuple[Adapter, ...]:
    if answer.status != 200:
        raise Broken(refused(answer))
    try:
        return Adapters.model_validate_json(answer.body, strict=True).root
    except ValidationError as error:
        raise Broken(failed(f"/lora-adapters does not fit: {error.title}")) from error


def _distance(one: Mapping[int, float], other: Mapping[int, float]) -> float:
    """Return the largest difference of a log probability; 1 for other tokens."""
    if next(iter(one)) != next(iter(other)):
        return 1.0
    return max((abs(one[it] - other[it]) for it in one if it in other), default=1.0)
