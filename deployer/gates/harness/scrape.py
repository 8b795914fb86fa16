"""The metrics of a running server, read once."""

import asyncio

from deployer.errors import EngineError
from deployer.gates.checks.metrics import samples_of
from deployer.gates.harness.answers import Answer
from deployer.gates.harness.client import Client, Unanswered, connected
from deployer.gates.harness.target import Target


def scrape(target: Target) -> dict[str, float]:
    """Every sample without labels; raises EngineError where there are none."""
    answer = asyncio.run(_answer(target))
    if answer.status != 200:
        raise EngineError(
            f"{target.url}/metrics answers {answer.status}",
            hint="set `server.metrics: true`" if answer.status == 501 else "",
        )
    match samples_of(answer.body):
        case str() as problem:
            raise EngineError(f"{target.url}/metrics is not Prometheus text: {problem}")
        case samples:
            return dict(samples)


async def _answer(target: Target) -> Answer:
    try:
        async with connected(target) as http, asyncio.timeout(30):
            return await Client(http, target).get("/metrics")
    except (Unanswered, TimeoutError) as error:
        raise EngineError(
            f"{target.url} gives no answer: {error}",
            hint="`deployer status` looks at it",
        ) from error
