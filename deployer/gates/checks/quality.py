"""The gates quality and regression: answers to the prompts of a file.

A file of prompts has one JSON object a line, with what is expected of its answer; every
expectation of a line has to be met.

    {"prompt": "Name the capital of France.", "contains": "Paris"}
    {"prompt": "1 + 1 =", "regex": "^2( |$)", "max_tokens": 4}
    {"prompt": "A city as JSON.", "json_schema": {"type": "object"}}
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from math import exp, log
from pathlib import Path
from typing import Final, Literal, NoReturn

import pydantic
from pydantic import ConfigDict, Field, ValidationError

from deployer.gates.harness.answers import (
    CHAT,
    Answer,
    Body,
    Broken,
    Judgement,
    Shape,
    chat_body,
    excerpt,
    failed,
    first_choice,
    first_problem,
    passed,
    read,
    unclear,
    unmeasured,
    within,
)
from deployer.gates.harness.client import Client, Unanswered, beside
from deployer.gates.harness.gate import Gate, Subject
from deployer.planning.events import Exchange, Outcome
from deployer.stack.fields import gate_options as asked
from deployer.stack.fields.gate_options import CONFIDENCE, least_share, runs_needed
from deployer.stack.fields.values import JsonValue
from deployer.system.files import read_regular

_MAX_TOKENS: Final = 512
# Nothing in it hints at JSON: only an enforced schema makes the answer valid.
_PROMPT: Final = "Tell me about Paris."


class City(Shape):
    """The answer as the schema wants it."""

    model_config = ConfigDict(extra="forbid")

    name: str
    kind: Literal["city", "river"]
    rank: int = Field(ge=1, le=99)


SCHEMA: Final[dict[str, JsonValue]] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "kind": {"enum": ["city", "river"]},
        # Bounds: a small model writes digits without an end.
        "rank": {"type": "integer", "minimum": 1, "maximum": 99},
    },
    "required": ["name", "kind", "rank"],
    "additionalProperties": False,
}


class JsonSchema(Gate[asked.JsonSchema, Answer]):
    """The whole answer has to be one JSON value that fits."""

    subject, limit = Subject.ANSWERS, 180

    async def measure(self, client: Client) -> Answer:
        """Ask once, with a schema.

        The budget is there for templates that think on with `enable_thinking` off as
        soon as a grammar forbids the answer's first words.
        """
        wanted: JsonValue = {
            "type": "json_schema",
            "json_schema": {"name": "city", "strict": True, "schema": SCHEMA},
        }
        body = chat_body(
            _PROMPT, _MAX_TOKENS, response_format=wanted, thinking_budget_tokens=0
        )
        return await client.post(CHAT, body)

    def judge(self, measured: Answer) -> Judgement:
        """Validate the answer."""
        choice = first_choice(measured)
        text = choice.message.content or ""
        shown = excerpt(text, 60) or "nothing"
        figures = {"answer_seconds": measured.seconds}
        if choice.finish_reason != "stop":
            reason = excerpt(str(choice.finish_reason))
            return failed(f"did not come to an end (`{reason}`): `{shown}`", **figures)
        try:
            City.model_validate_json(text)
        except ValidationError as error:
            problem = first_problem(error)
            return failed(f"`{shown}` does not fit the schema: {problem}", **figures)
        return passed(f"answered `{shown}`, which fits the schema", **figures)


def schema_problem(schema: dict[str, JsonValue] | bool) -> str:  # noqa: FBT001 - JSON
    """Return why a user's schema cannot be used; empty when it can.

    References lead to places of the same schema: nothing is fetched.
    """
    from jsonschema import Draft202012Validator, SchemaError  # noqa: PLC0415 - slow

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"it is no JSON schema: {excerpt(error.message, 120)}"
    for reference in _references(schema):
        if not _leads_somewhere(schema, reference):
            return f"`$ref: {excerpt(reference, 60)}` leads to no place in it"
    return ""


def misfit(text: str, schema: dict[str, JsonValue] | bool) -> str:  # noqa: FBT001
    """Return where a text departs from a user's schema; empty when it fits."""
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - slow to import

    try:
        value = json.loads(text)
        found = next(Draft202012Validator(schema).iter_errors(value), None)
    except (ValueError, RecursionError):
        return "is not JSON"
    if found is None:
        return ""
    return f"does not fit at `{found.json_path}`: {excerpt(found.message, 120)}"


def _references(schema: JsonValue) -> Iterator[str]:
    match schema:
        case dict():
            for key, value in schema.items():
                if key in {"$ref", "$dynamicRef"} and isinstance(value, str):
                    yield value
                yield from _references(value)
        case list():
            for value in schema:
                yield from _references(value)
        case _:
            return


def _leads_somewhere(schema: JsonValue, reference: str) -> bool:
    """Return whether a reference is a path that exists in the schema."""
    root, *steps = reference.split("/")
    place = schema
    for step in steps:
        name = step.replace("~1", "/").replace("~0", "~")
        match place:
            case dict() if name in place:
                place = place[name]
            case list() if name.isdigit() and int(name) < len(place):
                place = place[int(name)]
            case _:
                return False
    return root == "#"


_MOST_BYTES: Final = 16 * 2**20
_EXPECTATIONS: Final = ("exact", "regex", "contains", "json_schema")


class Prompt(Shape):
    """One line of the file."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1)
    system: str | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    exact: str | None = None
    """The whole answer, without the space around it."""
    regex: str | None = None
    """Found somewhere in the answer."""
    contains: str | None = None
    """In the answer, in any case of letters."""
    json_schema: dict[str, pydantic.JsonValue] | bool | None = None
    """The answer is JSON that fits."""

    def body(self, max_tokens: int) -> Body:
        """The request; the line's own limit comes first."""
        user: JsonValue = {"role": "user", "content": self.prompt}
        system: JsonValue = {"role": "system", "content": self.system}
        messages = [user] if self.system is None else [system, user]
        return chat_body("", self.max_tokens or max_tokens, messages=messages)

    def complaint(self, answer: str) -> str:
        """Return the first expectation that an answer fails; empty when all hold."""
        text = answer.strip()
        shown = f"`{excerpt(text, 60) or 'nothing'}`"
        if self.exact is not None and text != self.exact.strip():
            return f"{shown} is not `{excerpt(self.exact, 60)}`"
        if self.regex is not None and not re.search(self.regex, text):
            return f"{shown} does not match `{excerpt(self.regex, 60)}`"
        wanted = self.contains
        if wanted is not None and wanted.casefold() not in text.casefold():
            return f"{shown} does not contain `{excerpt(wanted, 60)}`"
        if self.json_schema is not None:
            problem = misfit(text, self.json_schema)
            return f"{shown} {problem}" if problem else ""
        return ""


@dataclass(frozen=True, slots=True)
class Numbered:
    """A prompt, and the line it stands on."""

    line: int
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class Prompts:
    """The content of a file."""

    name: str
    """As the stack names it."""
    digest: str
    """SHA-256 of the file in hexadecimal digits."""
    lines: tuple[Numbered, ...]

    @property
    def evidence(self) -> Exchange:
        """The file that was read, for the report."""
        said = f"sha256 {self.digest}, {len(self.lines)} prompts"
        return Exchange(f"read {self.name}", None, said, 0.0)


def read_prompts(folder: Path | None, name: str, *, expecting: bool) -> Prompts:
    """Return the prompts of a file beside the stack; raise Broken where it is wrong.

    `expecting` asks for at least one expectation a line.
    """
    path = Path(name) if folder is None else folder / name
    if not path.is_absolute():
        _unusable(f"`{name}` is relative to a stack, and there is none")
    try:
        content = read_regular(path, _MOST_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or "it cannot be read").lower()
        _unusable(f"`{name}`: {reason}; paths are relative to the stack")
    if len(content) > _MOST_BYTES:
        _unusable(f"`{name}` is longer than {_MOST_BYTES >> 20} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _unusable(f"`{name}` is not UTF-8 at byte {error.start}")
    lines = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        found = _read_line(line, expecting=expecting)
        if isinstance(found, str):
            _unusable(f"{name}:{number}: {found}")
        lines.append(Numbered(number, found))
    if not lines:
        _unusable(f"`{name}` contains no prompt")
    return Prompts(name, hashlib.sha256(content).hexdigest(), tuple(lines))


def _unusable(because: str) -> NoReturn:
    raise Broken(unmeasured(because))


def _read_line(line: str, *, expecting: bool) -> Prompt | str:
    try:
        prompt = Prompt.model_validate_json(line.strip())
    except ValidationError as error:
        return first_problem(error)
    if expecting and not prompt.model_fields_set & set(_EXPECTATIONS):
        return f"it expects nothing; add one of `{'`, `'.join(_EXPECTATIONS)}`"
    if prompt.regex is not None:
        try:
            re.compile(prompt.regex)
        except re.error as error:
            return f"`regex` is wrong: {error}"
    if prompt.json_schema is not None and (
        problem := schema_problem(prompt.json_schema)
    ):
        return f"`json_schema`: {problem}"
    return prompt


_GREEDY: Final = ("temperature", "seed")
"""Parts of a request without which the samplers of the server draw."""
_QUALITY_TOKENS: Final = 256
_TOLD: Final = 3
"""Unexpected answers in the sentence; the report has all of them."""


class Quality(Gate[asked.Quality, tuple[tuple[Numbered, Answer], ...]]):
    """The share of answers as expected has to be large enough.

    Answers that are drawn vary, so that the lower bound of their share has to be.
    """

    subject, limit = Subject.QUALITY, 1800

    async def measure(self, client: Client) -> tuple[tuple[Numbered, Answer], ...]:
        """Ask every prompt once, greedily, or `times` as a client does."""
        if self.options.file is None:
            _unusable("no prompts: state `gates.quality.file`")
        prompts = read_prompts(self.target.folder, self.options.file, expecting=True)
        client.keep(prompts.evidence)
        most = self.options.max_tokens or _QUALITY_TOKENS
        drawn = _GREEDY if self.options.times is not None else ()
        answered = [
            (one, await client.post(CHAT, body))
            for one in prompts.lines
            for body in [
                {n: v for n, v in one.prompt.body(most).items() if n not in drawn}
            ]
            * (self.options.times or 1)
        ]
        return tuple(answered)

    def judge(self, measured: tuple[tuple[Numbered, Answer], ...]) -> Judgement:
        """Count the answers that are as expected."""
        if not measured:
            return unmeasured("no prompt was asked")
        complaints = []
        for one, answer in measured:
            try:
                choice = first_choice(answer)
            except Broken as broken:
                if broken.judgement.outcome is Outcome.ERROR:
                    return unmeasured(f"line {one.line}: {broken}")
                problem = str(broken)
            else:
                problem = one.prompt.complaint(choice.message.content or "")
            if problem:
                complaints.append(f"line {one.line}: {problem}")
        count = len(measured)
        good = count - len(complaints)
        figures = {
            "prompts": float(count),
            "pass_rate": good / count,
            "answer_seconds": sum(answer.seconds for _, answer in measured) / count,
        }
        rate, share = self.options.pass_rate, good / count
        said = f"{good} of {count} prompts are answered as expected"
        if self.options.times is not None:
            share = figures["proven_rate"] = least_share(good, count)
            said = (
                f"{good} of {count} answers are as expected, at least {share:.0%} at "
                f"{CONFIDENCE:.0%} confidence"
            )
        told = "; ".join([said, *complaints[:_TOLD]])
        if share < rate:
            hint = ""
            if good == count:
                hint = f", for which {runs_needed(rate)} answers are needed"
            return failed(f"{told}; `pass_rate: {rate:g}`{hint}", **figures)
        return passed(told, **figures)


_REGRESSION_TOKENS: Final = 64
_LIKELIEST: Final = 20
_LEAST: Final = 1e-6
"""Share of a token that is not among the likeliest, at least."""
_DIVERGENCE: Final = 0.2
"""Nats.  Gemma 3 270M beside itself on b10434: 0.000 with other threads and batches,
0.003 with a KV cache of q8_0, 0.046 of q4_0, 3.2 with another template; in words the
two caches agreed in 83 and 84 %."""
_AGREEMENT: Final = 0.8
"""Share of words, where there are no log probabilities."""
_PROMPTS: Final = (
    "Say in one short sentence what the capital of France is.",
    "Name three primary colours.",
    "Translate to German: The house is small.",
    "What is 17 times 3?",
    "Write one sentence about the sea.",
)


@dataclass(frozen=True, slots=True)
class Pair:
    """The answers of both releases to one prompt."""

    prompt: str
    live: Answer
    candidate: Answer


class Regression(Gate[asked.Regression, tuple[Pair, ...]]):
    """Both releases have to expect the same tokens, or else say the same words.

    Greedy answers of one model agree until rounding of another build or device decides
    a close call.  So what counts is how sure they are of each token up to there; only
    where a server gives no log probabilities, words are compared.
    """

    subject, limit = Subject.QUALITY, 900

    async def measure(self, client: Client) -> tuple[Pair, ...]:
        """Ask the live release and the candidate the same, one after the other."""
        if self.target.live is None:
            return ()
        most = self.options.max_tokens or _REGRESSION_TOKENS
        bodies: dict[str, Body] = {one: chat_body(one, most) for one in _PROMPTS}
        sure: Body = {"logprobs": True, "top_logprobs": _LIKELIEST}
        if (file := self.options.file) is not None:
            prompts = read_prompts(self.target.folder, file, expecting=False)
            client.keep(prompts.evidence)
            bodies = {f"line {p.line}": p.prompt.body(most) for p in prompts.lines}
        try:
            async with beside(client, self.target.live) as other:
                live = [await other.post(CHAT, {**b, **sure}) for b in bodies.values()]
        except Unanswered as error:
            _unusable(f"the live release: {error}")
        pairs = [
            Pair(prompt, before, await client.post(CHAT, {**body, **sure}))
            for (prompt, body), before in zip(bodies.items(), live, strict=True)
        ]
        return tuple(pairs)

    def judge(self, measured: tuple[Pair, ...]) -> Judgement:
        """Compare the answers pair by pair."""
        if self.target.live is None:
            return passed("no live release to compare with")
        if not measured:
            return unmeasured("no prompt was asked")
        agreements: list[tuple[float, str]] = []
        for pair in measured:
            with within(pair.prompt):
                candidate = first_choice(pair.candidate)
            try:
                live = first_choice(pair.live)
            except Broken as broken:
                return unclear(f"the live release, {pair.prompt}: {broken}")
            old, new = ((c.message.content or "").split() for c in (live, candidate))
            if old or new:
                told = f"{pair.prompt}: {_shown(old)} became {_shown(new)}"
                share = SequenceMatcher(None, old, new, autojunk=False).ratio()
                agreements.append((share, told))
        if not agreements:
            return unclear("all answers are empty; raise `gates.regression.max_tokens`")
        mean = sum(share for share, _ in agreements) / len(agreements)
        equal = sum(share == 1 for share, _ in agreements)
        figures = {
            "agreement": mean,
            "equal_answers": float(equal),
            "prompts": float(len(measured)),
        }
        said = (
            f"the answers agree with the live release in {100 * mean:.0f} % of their "
            f"words, {equal} of {len(agreements)} are equal"
        )
        apart = [it for pair in measured for it in _divergences(pair)]
        return self._compared(said, min(agreements)[1], figures, apart)

    def _compared(
        self, said: str, worst: str, figures: dict[str, float], apart: Sequence[float]
    ) -> Judgement:
        """Judge by the divergence of tokens where it is known, and else by words."""
        least, stated = self.options.agreement, self.options.divergence
        if apart:
            mean = figures["divergence"] = sum(apart) / len(apart)
            figures["compared_tokens"] = float(len(apart))
            said = f"{mean:.3f} nats a token from the live release; {said}"
            if mean > (most := _DIVERGENCE if stated is None else stated):
                because = f"{said}; more than `divergence: {most:g}`"
                return failed(f"{because}; {worst}", **figures)
        elif stated is not None:
            return unclear("the servers give no log probabilities to compare")
        else:
            least = _AGREEMENT if least is None else least
        if least is not None and figures["agreement"] < least:
            because = f"{said}, less than `agreement: {least:g}`; {worst}"
            return failed(because, **figures)
        return passed(said, **figures)


class Chance(Shape):
    """A token, and how sure a server is of it."""

    token: str
    logprob: float


class Position(Chance):
    """The token of an answer, and those that could have been in its place."""

    top_logprobs: tuple[Chance, ...] = ()


class Positions(Shape):
    """Every token of an answer."""

    content: tuple[Position, ...] | None = None


class SureChoice(Shape):
    """One answer with its log probabilities."""

    logprobs: Positions | None = None


class SureCompletion(Shape):
    """A chat answer with its log probabilities."""

    choices: tuple[SureChoice, ...]


def _divergences(pair: Pair) -> Iterator[float]:
    """Yield the KL divergence of each token that both said in the same place.

    Up to the first that differs, which is the last after the same beginning.  What is
    beyond the likeliest tokens counts as one more.
    """
    try:
        live, candidate = (_positions(it) for it in (pair.live, pair.candidate))
    except Broken:
        return
    for old, new in zip(live, candidate, strict=False):
        if not (old.top_logprobs and new.top_logprobs):
            return
        p, q = (
            {it.token: exp(it.logprob) for it in one.top_logprobs} for one in (old, new)
        )
        rest = max(1 - sum(q.values()), 0.0)
        unseen = max(min(*q.values(), rest), _LEAST)
        shares = [(share, q.get(token, unseen)) for token, share in p.items()]
        shares.append((max(1 - sum(p.values()), 0.0), max(rest, _LEAST)))
        found = sum(a * log(a / max(b, _LEAST)) for a, b in shares if a > 0)
        yield max(found, 0.0)
        if old.token != new.token:
            return


def _positions(answer: Answer) -> tuple[Position, ...]:
    choices = read(answer, SureCompletion).choices
    found = choices[0].logprobs if choices else None
    return (found.content if found else None) or ()


def _shown(words: list[str]) -> str:
    return f"`{excerpt(' '.join(words), 60) or 'nothing'}`"
