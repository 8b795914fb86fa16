"""Gate models: /v1/models lists the alias of the stack."""

from dataclasses import dataclass

from pydantic import Field

from deployer.gates.harness.answers import (
    Answer,
    Judgement,
    Shape,
    failed,
    passed,
    read,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.target import Target
from deployer.stack.fields.gate_options import Models


@dataclass(frozen=True, slots=True)
class Measurement:
    """What /v1/models said."""

    answer: Answer


class ListedModel(Shape):
    """One model that a client can ask for."""

    id: str = Field(min_length=1)
    aliases: tuple[str, ...] = ()


class ModelList(Shape):
    """The answer of /v1/models."""

    data: tuple[ListedModel, ...]


async def measure(client: Client, _parameters: Models, _target: Target) -> Measurement:
    """Ask with the key: builds after b10435 want one, older ones do not mind."""
    return Measurement(await client.get("/v1/models"))


def judge(measurement: Measurement, _parameters: Models, target: Target) -> Judgement:
    """The alias has to be among the names; without one, some name has to be there."""
    match read(measurement.answer, ModelList):
        case Judgement() as broken:
            return broken
        case ModelList(data=()):
            return failed("no model is listed")
        case listed:
            pass
    names = sorted({name for one in listed.data for name in (one.id, *one.aliases)})
    shown = ", ".join(f"`{name}`" for name in names)
    alias = target.text("model.alias")
    if alias is None:
        return passed(f"lists {shown}; no `model.alias` is stated")
    wanted = {part.strip() for part in alias.split(",")}
    if wanted <= set(names):
        return passed(f"lists {shown}")
    return failed(f"lists {shown}, but not `model.alias: {alias}`")
