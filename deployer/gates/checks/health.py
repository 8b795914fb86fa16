"""Gate health: /health answers 200 with `{"status": "ok"}`."""

from dataclasses import dataclass

from deployer.gates.harness.answers import (
    Answer,
    Judgement,
    Shape,
    excerpt,
    failed,
    is_web_page,
    passed,
    read,
    refused,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.target import Target
from deployer.stack.fields.gate_options import Health


@dataclass(frozen=True, slots=True)
class Measurement:
    """What /health said, after 503 had passed."""

    answer: Answer


class Status(Shape):
    """The answer of /health."""

    status: str


async def measure(client: Client, _parameters: Health, _target: Target) -> Measurement:
    """Ask once; the client waits while the model is loading."""
    return Measurement(await client.get("/health"))


def judge(measurement: Measurement, _parameters: Health, _target: Target) -> Judgement:
    """Only llama-server's own word counts: any web server can answer 200."""
    answer = measurement.answer
    if answer.status != 200:
        return refused(answer)
    if is_web_page(answer):
        return failed(
            f"not a llama-server: /health is a web page, `{excerpt(answer.body)}`"
        )
    match read(answer, Status):
        case Judgement():
            said = excerpt(answer.body) or "nothing"
            return failed(f"not a llama-server: /health answered `{said}`")
        case Status(status="ok"):
            return passed("the server is healthy", health_seconds=answer.seconds)
        case Status(status=other):
            return failed(f"/health says `{excerpt(other)}` instead of `ok`")
