"""Gate quality: enough prompts of a file are answered as the file expects."""

from dataclasses import dataclass

from deployer.gates.checks.thinking import first_choice
from deployer.gates.harness.answers import Answer, Judgement, failed, passed, unmeasured
from deployer.gates.harness.client import Client
from deployer.gates.harness.prompts import Numbered, read_prompts
from deployer.gates.harness.target import Target
from deployer.planning.verdict import Outcome
from deployer.stack.fields.gate_options import Quality

_MAX_TOKENS = 256
_TOLD = 3
"""Unexpected answers that are told; the report holds all of them."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Every prompt with its answer, or what is wrong with the file."""

    answered: tuple[tuple[Numbered, Answer], ...] = ()
    problem: str = ""


async def measure(client: Client, parameters: Quality, target: Target) -> Measurement:
    """Ask every prompt once, greedily."""
    if parameters.file is None:
        return Measurement(problem="no prompts: state `gates.quality.file`")
    prompts = read_prompts(target.folder, parameters.file, expecting=True)
    if isinstance(prompts, str):
        return Measurement(problem=prompts)
    client.keep(prompts.evidence)
    most = parameters.max_tokens or _MAX_TOKENS
    answered = [
        (one, await client.post("/v1/chat/completions", one.prompt.body(most)))
        for one in prompts.lines
    ]
    return Measurement(tuple(answered))


def judge(measurement: Measurement, parameters: Quality, _target: Target) -> Judgement:
    """The share of answers as expected has to be large enough."""
    if measurement.problem or not measurement.answered:
        return unmeasured(measurement.problem or "nothing was asked")
    complaints = []
    for one, answer in measurement.answered:
        choice = first_choice(answer)
        if isinstance(choice, Judgement):
            if choice.outcome is Outcome.ERROR:
                return unmeasured(f"line {one.line}: {choice.because}")
            problem = choice.because
        else:
            problem = one.prompt.complaint(choice.message.content or "")
        if problem:
            complaints.append(f"line {one.line}: {problem}")
    count = len(measurement.answered)
    good = count - len(complaints)
    figures = {
        "prompts": float(count),
        "pass_rate": good / count,
        "answer_seconds": sum(a.seconds for _, a in measurement.answered) / count,
    }
    said = f"{good} of {count} prompts are answered as expected"
    told = "; ".join([said, *complaints[:_TOLD]])
    if good < parameters.pass_rate * count:
        return failed(f"{told}; `pass_rate: {parameters.pass_rate:g}`", **figures)
    return passed(told, **figures)
