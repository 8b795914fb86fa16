"""Gate props: /props says what the stack says.

The context of a slot, measured on b10434: `ctx_size` rounded up to 256 cells; shared
by all slots when `kv_unified` is on or `parallel` is unset; else divided by `parallel`
and rounded up again; and never more than the model was trained for.
"""

from dataclasses import dataclass

from deployer.gates.harness.answers import (
    Answer,
    Judgement,
    Shape,
    failed,
    passed,
    read,
    unclear,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.target import Target
from deployer.stack.fields.gate_options import Props

_CELLS = 256
"""The KV cache grows in steps of this many cells."""
_WEIGHTS = ("model.repo", "model.path", "model.url", "model.pypi")


@dataclass(frozen=True, slots=True)
class Measurement:
    """What /props said."""

    answer: Answer


class Generation(Shape):
    """Settings of one slot."""

    n_ctx: int


class Modalities(Shape):
    """What a prompt may hold besides text."""

    vision: bool


class ServerProps(Shape):
    """The part of /props that the stack decides."""

    total_slots: int
    default_generation_settings: Generation
    model_alias: str | None = None
    modalities: Modalities | None = None
    endpoint_slots: bool | None = None
    endpoint_metrics: bool | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One thing the stack states, and what the server says of it."""

    what: str
    stated: str
    wanted: int | str | bool
    found: int | str | bool | None

    def __str__(self) -> str:
        said = "is not reported" if self.found is None else f"is {_shown(self.found)}"
        wanted = _shown(self.wanted)
        return f"{self.what} {said}, `{self.stated}` means {wanted}"


async def measure(client: Client, _parameters: Props, _target: Target) -> Measurement:
    """Ask for /props."""
    return Measurement(await client.get("/props"))


def judge(measurement: Measurement, _parameters: Props, target: Target) -> Judgement:
    """Every stated thing has to be there; what is not stated is not judged."""
    match read(measurement.answer, ServerProps):
        case Judgement() as broken:
            return broken
        case props:
            pass
    compared = [
        *_slots(props, target),
        *_alias(props, target),
        *_vision(props, target),
        *_endpoints(props, target),
    ]
    figures = {
        "slots": float(props.total_slots),
        "context_tokens_per_slot": float(props.default_generation_settings.n_ctx),
    }
    differing = [str(one) for one in compared if one.wanted != one.found]
    if not compared:
        return unclear("nothing is stated that /props could confirm", **figures)
    if differing:
        return failed("; ".join(differing), **figures)
    confirmed = ", ".join(one.what for one in compared)
    return passed(f"as the stack says: {confirmed}", **figures)


def context_per_slot(
    ctx_size: int, parallel: int | None, *, unified: bool | None
) -> int:
    """The context of one slot in tokens; see the module for the rule."""
    whole = _rounded(ctx_size)
    if parallel is None or unified:
        return whole
    return _rounded(-(-whole // parallel)) if whole % parallel else whole // parallel


def _rounded(tokens: int) -> int:
    return -(-tokens // _CELLS) * _CELLS


def _slots(props: ServerProps, target: Target) -> list[Comparison]:
    parallel = target.whole("server.parallel")
    ctx_size = target.whole("server.ctx_size")
    found = []
    if parallel is not None:
        stated = f"server.parallel: {parallel}"
        found.append(Comparison("the slots", stated, parallel, props.total_slots))
    if ctx_size is not None:
        unified = target.truth("server.kv_unified")
        wanted = context_per_slot(ctx_size, parallel, unified=unified)
        shared = f" over {parallel} slots" if parallel and not unified else ""
        stated = f"server.ctx_size: {ctx_size}"
        found.append(
            Comparison(
                f"the context of a slot{shared}",
                stated,
                wanted,
                props.default_generation_settings.n_ctx,
            )
        )
    return found


def _alias(props: ServerProps, target: Target) -> list[Comparison]:
    alias = target.text("model.alias")
    if alias is None:
        return []
    # llama-server sorts several aliases, and answers with the first.
    first = min(part.strip() for part in alias.split(","))
    return [Comparison("the alias", f"model.alias: {alias}", first, props.model_alias)]


def _vision(props: ServerProps, target: Target) -> list[Comparison]:
    mmproj = target.text("model.mmproj")
    whole_stack = any(path in target.expects for path in _WEIGHTS)
    by_flag = "server.flags.mmproj" in target.expects
    if by_flag or (mmproj is None and not whole_stack):
        return []
    stated = f"model.mmproj: {mmproj}" if mmproj else "no model.mmproj"
    found = props.modalities.vision if props.modalities else None
    return [Comparison("vision", stated, mmproj is not None, found)]


def _endpoints(props: ServerProps, target: Target) -> list[Comparison]:
    pairs = (
        ("/slots", "server.slots", props.endpoint_slots),
        ("/metrics", "server.metrics", props.endpoint_metrics),
    )
    return [
        Comparison(what, f"{path}: {str(stated).lower()}", stated, found)
        for what, path, found in pairs
        if (stated := target.truth(path)) is not None
    ]


def _shown(value: int | str | bool) -> str:  # noqa: FBT001 - any value of JSON
    match value:
        case bool():
            return "on" if value else "off"
        case str():
            return f"`{value}`"
        case int():
            return str(value)
