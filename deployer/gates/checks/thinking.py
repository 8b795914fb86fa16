"""Gate thinking: reasoning shows with thinking on, and is absent with it off."""

from dataclasses import dataclass

from deployer.gates.harness.answers import (
    Answer,
    Choice,
    Completion,
    Judgement,
    Shape,
    failed,
    inapplicable,
    passed,
    read,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.requests import QUESTION, chat_body, leak_in
from deployer.gates.harness.target import Target
from deployer.stack.fields.gate_options import Thinking

_ON_TOKENS = 256
_OFF_TOKENS = 128
SWITCHES = ("enable_thinking", "reasoning_effort", "<think", "thinking")
"""What a chat template that can think mentions."""
LACKING = (
    "the chat template of this model cannot think, it mentions none of "
    f"`{'`, `'.join(SWITCHES)}`; leave the gate out"
)


@dataclass(frozen=True, slots=True)
class Measurement:
    """The same question with thinking on and off, and the chat template."""

    on: Answer
    off: Answer
    props: Answer


class TemplateProps(Shape):
    """The part of /props that holds the chat template."""

    chat_template: str


async def measure(
    client: Client, _parameters: Thinking, _target: Target
) -> Measurement:
    """Ask twice; `chat_template_kwargs` of the request make the difference."""
    props = await client.get("/props")
    on = chat_body(QUESTION, _ON_TOKENS, chat_template_kwargs={"enable_thinking": True})
    off = chat_body(QUESTION, _OFF_TOKENS)
    return Measurement(
        await client.post("/v1/chat/completions", on),
        await client.post("/v1/chat/completions", off),
        props,
    )


def judge(
    measurement: Measurement, _parameters: Thinking, _target: Target
) -> Judgement:
    """Reasoning has to be there when it is on, and nowhere when it is off."""
    on = first_choice(measurement.on)
    if isinstance(on, Judgement):
        return on
    off = first_choice(measurement.off)
    if isinstance(off, Judgement):
        return off
    thought = (on.message.reasoning_content or "").strip()
    figures = {
        "on_seconds": measurement.on.seconds,
        "off_seconds": measurement.off.seconds,
    }
    if leak := leak_in(on.message.content, off.message.content):
        return failed(f"`{leak}` of the chat template stands in the answer", **figures)
    if not thought:
        return _never_thinks(measurement.props)
    if (off.message.reasoning_content or "").strip():
        return failed(
            "it thinks although `enable_thinking` is false: "
            "`chat_template_kwargs` of a request have no effect",
            **figures,
        )
    if not (off.message.content or "").strip():
        return failed("the answer without thinking is empty", **figures)
    return passed(
        f"thinks when it is on ({len(thought.split())} words), and not when it is off",
        **figures,
    )


def knows_thinking(answer: Answer) -> bool:
    """Return whether the chat template in /props mentions a way to think."""
    props = read(answer, TemplateProps)
    template = props.chat_template if isinstance(props, TemplateProps) else ""
    return any(switch in template for switch in SWITCHES)


def first_choice(answer: Answer) -> Choice | Judgement:
    """The one answer of a completion, or what is wrong with it."""
    completion = read(answer, Completion)
    if isinstance(completion, Judgement):
        return completion
    return completion.choices[0]


def _never_thinks(answer: Answer) -> Judgement:
    if knows_thinking(answer):
        return failed(
            "no reasoning came with thinking on, though the chat template can think; "
            "look at `server.reasoning` and `server.reasoning_format`"
        )
    return inapplicable(LACKING)
