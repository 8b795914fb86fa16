"""The engines that there are, by name."""

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from deployer.engines.place import Look, Place
from deployer.planning.resources import Abilities, Graph
from deployer.planning.state import Record

if TYPE_CHECKING:
    from deployer.engines.contract import Engine, Rendering
    from deployer.planning.costs import Costs
    from deployer.planning.plan import Plan

ENGINES: Mapping[str, str] = {
    "local": "deployer.engines.local.engine:LocalEngine",
    "modal": "deployer.engines.modal.engine:ModalEngine",
}

ABILITIES: Mapping[str, Abilities] = {
    "local": Abilities(snapshots=True),
    "modal": Abilities(
        snapshots=True,
        remote=True,
        restart_drops_snapshot=True,
        snapshot_keeps_maps=False,
        gpus_in_snapshot=1,
    ),
}
"""What each engine can do where everything it needs is there."""


RENDERERS: Mapping[str, str] = {
    "local": "deployer.engines.local.rendering:render_stack",
    "modal": "deployer.engines.modal.rendering:render_stack",
}
"""What shows a stack as its engine sees it; needs no engine to be there."""


ESTIMATES: Mapping[str, str] = {"modal": "deployer.engines.modal.billing:estimate"}
"""Estimates of what a plan costs; an engine that is absent bills nothing."""


def costs_of(plan: "Plan") -> "Costs | None":
    """Estimate what a plan costs; None where nothing is billed or all is destroyed."""
    if plan.destroys or plan.engine not in ESTIMATES:
        return None
    module, _, attribute = ESTIMATES[plan.engine].partition(":")
    return cast("Costs", getattr(import_module(module), attribute)(plan))


def render(name: str, graph: Graph, place: Place) -> "Rendering":
    """Return what the engine of this name makes of a stack."""
    module, _, attribute = RENDERERS[name].partition(":")
    renderer = getattr(import_module(module), attribute)
    return cast("Rendering", renderer(graph, place))


def engine_of(name: str, place: Place) -> "Engine":
    """The engine of this name; what it needs is imported here and not before."""
    module, _, attribute = ENGINES[name].partition(":")
    return cast("Engine", getattr(import_module(module), attribute)(place))


def abilities_of(name: str, environment: Mapping[str, str], home: Path) -> Abilities:
    """Return what an engine can do here and now; this machine is asked only once."""
    if name != "local":
        return ABILITIES[name]
    from deployer.engines.local.snapshot.criu import capability  # noqa: PLC0415 - see above

    found = capability(environment, home)
    return replace(
        ABILITIES[name], snapshots=found.works, why_not=found.why, hint=found.hint
    )


def machine_inputs(name: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the files that decide what an engine can do on this machine."""
    if name != "local":
        return ()
    from deployer.engines.local.snapshot.criu import candidates  # noqa: PLC0415 - see above

    return tuple(candidates(environment))


def look_at(name: str, record: Record, place: Place) -> Look:
    """Look at a live server where that takes one request at most, on this machine."""
    if name != "local":
        return Look.UNSEEN
    from deployer.engines.local.supervise.look import look  # noqa: PLC0415 - see above

    return look(record, place)


def may_live(name: str, stack: str, place: Place) -> tuple[str, ...]:
    """Beginnings of the keys of servers that may live here; costs next to nothing."""
    if name != "local":
        return ()
    from deployer.engines.local import folders  # noqa: PLC0415 - see above

    folder = folders.stack_folder(place.home, place.folder, stack)
    return tuple(folders.may_live(folder))
