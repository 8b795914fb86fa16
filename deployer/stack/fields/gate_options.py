"""The options of each gate.

A gate that is listed runs; `chat: {}` runs it with its defaults.  The docstring of a
section is the sentence of the gate wherever one is shown: schema, docs, tables.  Its
class in `deployer.gates.checks` measures and judges.
"""

from math import ceil, comb, log
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from deployer.stack.fields.marks import Section
from deployer.stack.fields.server import Duration, Text
from deployer.stack.fields.values import (
    PLAIN_TEXT,
    SIZE_PATTERN,
    TOOLS,
    File,
    Unit,
)

Headroom = Annotated[
    Annotated[str, Field(pattern=SIZE_PATTERN)] | NonNegativeInt, Unit.SIZE
]
PYTHON_PATTERN = r"^[^:\n]*[^:/\n]\.py:[A-Za-z_][A-Za-z0-9_]*$"
"""File and function, such as `evals/checks.py:smoke`."""
Share = Annotated[float, Field(ge=0, le=1)]
CONFIDENCE: Final = 0.95
"""One-sided, of the bound that `gates.restore.success` is compared with."""


class Gate(Section):
    """Options that every gate takes."""

    says_something_when_empty: ClassVar[bool] = True

    advisory: bool | None = None
    """Record the verdict without blocking the promotion; unset: `false`."""

    timeout: Duration | None = None
    """Longest time the gate may take; unset: the limit of the gate."""


class Health(Gate):
    """/health answers 200 with `{"status": "ok"}`."""


class Build(Gate):
    """The running server is the build that the stack pins."""


class Props(Gate):
    """/props says what the stack says: context, slots, alias, modalities."""


class Models(Gate):
    """/v1/models lists the alias of the stack."""


class Auth(Gate):
    """No key and a wrong key are refused with 401, the right one is let in."""


class Chat(Gate):
    """A chat completion answers with text."""

    prompt: Text | None = None
    """Prompt; unset: a question of the gate's own."""

    max_tokens: PositiveInt | None = None
    """Longest answer; unset: 64 tokens."""

    contains: Text | None = None
    """Text that the answer must contain, in any case; unset: any text."""


class Stream(Gate):
    """A streamed answer is well-formed server-sent events and ends in `[DONE]`."""

    ttft: Duration | None = None
    """Longest time to the first token; unset: no limit."""


class Metrics(Gate):
    """Prometheus counters are there, and move with a request."""


class Concurrency(Gate):
    """Every slot answers at the same time."""

    requests: PositiveInt | None = None
    """Requests at once; unset: as many as there are slots."""


class Thinking(Gate):
    """Reasoning shows with thinking on, and is absent with it off."""


class ThinkingBudget(Gate):
    """Reasoning stops near each budget, and the answer follows."""

    tokens: tuple[NonNegativeInt, ...] = (0, 64)
    """Budgets to try, in tokens."""

    slack: NonNegativeInt | None = None
    """Tokens by which reasoning may exceed a budget; unset: 16."""


class Tools(Gate):
    """Tool calls arrive as a client expects them."""

    modes: tuple[Literal["auto", "required", "named", "none"], ...] | None = None
    """Values of `tool_choice` to try; unset: `auto`, and what the build enforces."""

    roundtrip: bool = True
    """Also hand a result back, and expect an answer."""

    expect: Literal["strict", "known_limits", "whole_calls"] = "strict"
    """`known_limits` accepts what upstream does not enforce: the gate says which.

    `whole_calls` judges a call that comes, and blocks nothing where none does.
    """

    parallel: bool = False
    """Also ask for two calls at once, and expect both in one answer."""


class JsonSchema(Gate):
    """Structured output is valid against its schema."""


class ResponsesApi(Gate):
    """/v1/responses works as IDE agents use it."""


class MessagesApi(Gate):
    """/v1/messages works as Anthropic clients use it."""


class Vision(Gate):
    """An image is seen: its colour is named in the answer."""

    colour: Literal["red", "green", "blue", "yellow"] | None = None
    """Colour of the image that the gate draws; unset: red."""

    large: bool = False
    """Also send an image of 1536 by 1536 pixels, which does not fit in some batches."""


class Audio(Gate):
    """A sound is heard: a request with one has more tokens and is answered."""


class Embeddings(Gate):
    """Vectors are whole and repeatable, and near where texts are near."""

    dimension: PositiveInt | None = None
    """Numbers of a vector; unset: any."""

    longest: PositiveInt | None = None
    """Tokens of the longest text; unset: the context of a slot."""


class Rerank(Gate):
    """The text that answers a question is scored above one that does not."""

    file: Annotated[Text | None, File(digest="{path}.{name}")] = None
    """Own questions, one JSON object a line; unset: only those of the gate."""


class Sampling(Gate):
    """The samplers that the stack states decide which tokens are drawn."""

    times: Annotated[int, Field(ge=8, le=1000)] | None = None
    """Tokens to draw and to hold against their probabilities; unset: 32."""


class Speculative(Gate):
    """Drafts are made and accepted, and not slower than none."""

    acceptance: Share = 0.2
    """Least share of drafted tokens that are accepted."""


class Lora(Gate):
    """An adapter changes what the model says, and at scale 0 it does not."""

    prompt: Text | None = None
    """Prompt that the adapters answer differently; unset: one of the gate's own."""


class PromptCache(Gate):
    """A prompt that was read is not read again, and answered the same."""

    file: Annotated[Text | None, File(digest="{path}.{name}", content=PLAIN_TEXT)] = (
        None
    )
    """Prompt that the memory of a restored server contains; unset: no restore."""

    role: Literal["system", "user"] = "system"
    """Role of the message with that prompt."""

    tools: Annotated[Text | None, File(digest="{path}.{name}", content=TOOLS)] = None
    """JSON file with the tools that the warm-up offered; unset: none."""

    at_least: Share | None = None
    """Least share of the prompt that comes from the cache; unset: 0.9."""


class Slots(Gate):
    """A slot that was saved and restored holds its prompt again."""


class Limits(Gate):
    """A far too large request is refused with a reason, and the server lives."""


class Context(Gate):
    """A prompt that fills a slot is answered, and one beyond it is refused."""

    tokens: PositiveInt | None = None
    """Length of the longest prompt; unset: the whole context of a slot."""

    needle: Text | None = None
    """Word hidden in the prompt that has to be found; unset: none."""


class Errors(Gate):
    """Wrong requests are refused with the documented status and error."""

    loading: bool = False
    """Also require that the refusal while loading was seen; unseen is no pass then."""


class Device(Gate):
    """The server runs on the device that the stack asks for."""


class Memory(Gate):
    """Enough memory stays free; the memory that the server takes is recorded."""

    headroom: Headroom | None = None
    """Memory to stay free, of its GPUs or of the machine; unset: no limit."""


class Quality(Gate):
    """Enough prompts of a file are answered as the file expects."""

    file: Annotated[Text | None, File(digest="{path}.{name}")] = None
    """Prompts and expectations, one JSON object a line; unset: refused."""

    pass_rate: Share = 1.0
    """Least share of answers as expected; with `times` at 95 % confidence."""

    times: Annotated[int, Field(ge=2, le=1000)] | None = None
    """Times that each prompt is asked, sampled by the server; unset: once, greedy."""

    max_tokens: PositiveInt | None = None
    """Longest answer, where a line of the file states none; unset: 256 tokens."""


class Regression(Gate):
    """The candidate answers as the live release does."""

    file: Annotated[Text | None, File(digest="{path}.{name}")] = None
    """Prompts as the gate `quality` reads them; unset: a few of the gate's own."""

    divergence: Annotated[float, Field(ge=0)] | None = None
    """Most KL divergence a token from the live release, in nats; unset: 0.2."""

    agreement: Share | None = None
    """Least share of equal words; unset: 0.8 where there are no log probabilities."""

    max_tokens: PositiveInt | None = None
    """Longest answer; unset: 64 tokens."""


class Custom(Gate):
    """A command or a Python function of the user's own, and its verdict."""

    command: Annotated[
        Annotated[tuple[Text, ...], Field(min_length=1)] | None,
        File(optional=True, digest="{section}.{name}"),
    ] = None
    """Program and arguments, without a shell; unset: `python` says."""

    python: Annotated[
        Annotated[str, Field(pattern=PYTHON_PATTERN)] | None,
        File(function=True, digest="{section}.{name}"),
    ] = None
    """File and function, called in a process of its own; unset: `command` says."""


class Speed(Gate):
    """Time to the first token and tokens a second; always recorded."""

    ttft: Duration | None = None
    """Longest time to the first token of a short prompt; unset: no limit."""

    tokens_per_second: Annotated[float, Field(gt=0)] | None = None
    """Slowest decoding of one stream; unset: no limit."""

    times: Annotated[int, Field(ge=2, le=1000)] | None = None
    """Streams, one after the other, of which the fastest counts; unset: 3."""

    tokens: Annotated[int, Field(ge=8)] | None = None
    """Length of a stream; unset: 32 tokens."""


class Restore(Gate):
    """A restored server answers as it did before the snapshot."""

    times: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Number of restores; unset: one."""

    success: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of restores that must be proven to succeed; unset: all `times` succeed."""

    within: Duration | None = None
    """Longest time from the restore to the first token; unset: no limit."""

    idle: Duration | None = None
    """Pause without requests before each restore; unset: none."""

    @property
    def failures(self) -> int | None:
        """Failed restores of `times` with which `success` is still proven.

        None where even `times` restores without a failure prove less.
        """
        times = self.times or 1
        if self.success is None:
            return 0
        proven = (
            failed
            for failed in reversed(range(times))
            if _at_least(times - failed, times, self.success) <= 1 - CONFIDENCE
        )
        return next(proven, None)


def least_share(good: int, runs: int) -> float:
    """Return the lower Clopper-Pearson bound of a share, one-sided.

    It is exact for a binomial: with a smaller share, so many good runs have a chance
    of at most 5 %.  20 of 20 give 0.861, 19 of 20 give 0.784.
    """
    low, high = 0.0, good / runs if runs else 0.0
    for _ in range(40):
        middle = (low + high) / 2
        if _at_least(good, runs, middle) > 1 - CONFIDENCE:
            high = middle
        else:
            low = middle
    return low


def runs_needed(share: float) -> int:
    """Return the least number of runs that prove a share, where none fails."""
    return ceil(log(1 - CONFIDENCE) / log(share))


def _at_least(good: int, runs: int, share: float) -> float:
    """Return the chance of so many good runs, or more, by the binomial."""
    return sum(
        comb(runs, n) * share**n * (1 - share) ** (runs - n)
        for n in range(good, runs + 1)
    )


class Gates(Section):
    """The gates a candidate must pass before it is promoted."""

    health: Health | None = None
    build: Build | None = None
    props: Props | None = None
    models: Models | None = None
    auth: Auth | None = None
    chat: Chat | None = None
    stream: Stream | None = None
    metrics: Metrics | None = None
    concurrency: Concurrency | None = None
    thinking: Thinking | None = None
    thinking_budget: ThinkingBudget | None = None
    tools: Tools | None = None
    json_schema: JsonSchema | None = None
    responses_api: ResponsesApi | None = None
    messages_api: MessagesApi | None = None
    vision: Vision | None = None
    audio: Audio | None = None
    embeddings: Embeddings | None = None
    rerank: Rerank | None = None
    sampling: Sampling | None = None
    speculative: Speculative | None = None
    lora: Lora | None = None
    prompt_cache: PromptCache | None = None
    slots: Slots | None = None
    limits: Limits | None = None
    context: Context | None = None
    errors: Errors | None = None
    device: Device | None = None
    memory: Memory | None = None
    quality: Quality | None = None
    regression: Regression | None = None
    custom: dict[str, Custom] | None = None
    """Commands and Python functions of the user's own, by a name for each."""
    speed: Speed | None = None
    restore: Restore | None = None
    auto: bool | None = None
    """Also run the cheap gates of everything the server offers; unset: `false`."""

    without: dict[Text, Text] | None = None
    """Gates to leave out of `auto`, by name, each with a reason; unset: none."""
