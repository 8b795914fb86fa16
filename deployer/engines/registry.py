"""The engines that there are: a row each, with everything that others ask of one.

This module imports nothing of ours, so that every room may look at a row: the stack
for its section, the plan for its abilities.  A row names its parts as
``module:attribute``; each is imported where it is used and not before.
"""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, NamedTuple


class Abilities(NamedTuple):
    """The abilities of an engine, as far as they decide about a plan."""

    snapshots: bool
    """It can capture and restore memory."""
    remote: bool = False
    """Its servers run elsewhere: to look at them costs requests."""
    restart_drops_snapshot: bool = False
    """Any redeploy makes a snapshot useless, as on Modal."""
    snapshot_keeps_maps: bool = True
    """A captured process may have the model file mapped."""
    gpus_in_snapshot: int | None = None
    """Most GPUs of a container whose memory is captured; None: no limit."""
    swaps_adapters: bool = False
    """The strength of a LoRA adapter changes while the server runs."""
    why_not: str = ""
    """Why this machine takes no snapshots, where the engine as such could."""
    hint: str = ""
    """The way to change that."""


class Template(NamedTuple):
    """A stack that `deployer init` starts from."""

    purpose: str
    file: str
    """``package:path`` of the YAML; `NAME` in it becomes the name of the stack."""
    beside: str = ""
    """``package:path`` of a file that the stack names, written beside it."""
    of_files: bool = False
    """It names a model and a llama-server that the user has."""


class EngineInfo(NamedTuple):
    """One engine.  An empty part is one that it does not have."""

    engine: str
    """``Place -> Engine``: the engine itself (`deployer.engines.contract`)."""
    section: str
    """Subclass of `Section`: the fields of the stack below the name of the engine.

    Each has a default, because a stack may leave out its section.
    """
    abilities: Abilities
    """Its abilities where everything it needs is there."""
    render: str
    """``(Graph, Place) -> Rendering``; works where the engine cannot run."""
    checks: str = ""
    """``Stack -> Iterator[Diagnostic]``: rules that a stack breaks on this engine."""
    notes: str = ""
    """``Stack -> Iterator[str]``: sentences worth knowing that are no problem."""
    templates: Mapping[str, Template] = MappingProxyType({})
    """By the name that `deployer init --template` takes."""
    capability: str = ""
    """``(Abilities, environment, home) -> Abilities``: what works on this machine."""
    inputs: str = ""
    """``environment -> Iterable[str]``: files that decide what `capability` finds."""
    narrow: str = ""
    """``(Stack, Abilities) -> Abilities``: less what a stack rules out."""
    look: str = ""
    """``(Record, Place) -> Look``: one request at most, on this machine."""
    may_live: str = ""
    """``(stack name, Place) -> Iterable[str]``: beginnings of keys of servers here."""
    costs: str = ""
    """``Plan -> Costs``; an engine without it bills nothing."""
    doctor: str = ""
    """``(Stack | None, environment, home) -> Iterator[Diagnostic]``: this machine.

    Without a stack, only what any stack on the engine needs.
    """
    doctor_server: str = ""
    """``(Stack, pid | None) -> Iterator[Diagnostic]``: where the server would listen;
    the pid is that of its own live server."""
    gc: str = ""
    """``(environment, account place | None) -> RemoteStore``; empty for an engine that
    keeps its artefacts in the store of this machine."""
    images: str = ""
    """``Stack -> Mapping[str, str]``: images of its containers by role; none: ""."""
    place: str = ""
    """Field of its section that names one of several places of an account."""
    memory: str = ""
    """Field of its section that limits the memory of the host of a server."""


ENGINES: dict[str, EngineInfo] = {
    "local": EngineInfo(
        engine="deployer.engines.local.engine:LocalEngine",
        section="deployer.engines.local.section:Local",
        abilities=Abilities(snapshots=True, swaps_adapters=True),
        render="deployer.engines.local.engine:render_stack",
        checks="deployer.engines.local.section:checks",
        templates={
            "demo": Template(
                "A small model on this machine, on the CPU",
                "deployer:templates/demo.yaml",
                beside="deployer:templates/base-model.jinja",
            ),
            "local": Template(
                "A GGUF file and a llama-server of your own",
                "deployer:templates/local.yaml",
                of_files=True,
            ),
        },
        capability="deployer.engines.local.snapshot.criu:abilities_here",
        inputs="deployer.engines.local.snapshot.criu:candidates",
        narrow="deployer.engines.local.section:narrowed",
        look="deployer.engines.local.supervise.find:look",
        may_live="deployer.engines.local.supervise.find:may_live_of",
        doctor="deployer.engines.local.section:doctor",
        doctor_server="deployer.engines.local.section:doctor_server",
    ),
    "modal": EngineInfo(
        engine="deployer.engines.modal.engine:ModalEngine",
        section="deployer.engines.modal.section:Modal",
        abilities=Abilities(
            snapshots=True,
            remote=True,
            restart_drops_snapshot=True,
            snapshot_keeps_maps=False,
            gpus_in_snapshot=1,
        ),
        render="deployer.engines.modal.render:render_stack",
        checks="deployer.engines.modal.section:checks",
        notes="deployer.engines.modal.section:notes",
        images="deployer.engines.modal.section:images",
        templates={
            "modal": Template(
                "A model from the hub on Modal, with memory snapshots",
                "deployer:templates/modal.yaml",
            ),
        },
        costs="deployer.engines.modal.billing:estimate",
        doctor="deployer.engines.modal.section:doctor",
        gc="deployer.engines.modal.engine:VolumeStore",
        place="environment",
        memory="memory",
    ),
}
"""Every engine, by the name that a stack gives.  A program may add a row before it
imports the model of a stack."""

UNRECORDED = "local"
"""The engine that is asked about a stack without a state: a server that no state names
can only be found on this machine."""


def templates() -> Mapping[str, Template]:
    """Return every template, by name."""
    return {
        name: template
        for info in ENGINES.values()
        for name, template in info.templates.items()
    }


def load(part: str) -> Any:  # noqa: ANN401 - EngineInfo says what each part is
    """Import a part of a row, given as ``module:attribute``."""
    module, _, attribute = part.partition(":")
    return getattr(import_module(module), attribute)
