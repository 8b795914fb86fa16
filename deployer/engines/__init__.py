"""What an engine is, and which ones there are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from deployer.core.abilities import Abilities
from deployer.core.events import Say
from deployer.core.resources import Node
from deployer.core.state import Record
from deployer.core.values import Flat


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How to reach a server."""

    url: str
    api_key_env: str | None = None
    """Variable that holds the key; the key itself is never kept."""
    source_address: str | None = None
    """Local address to connect from, where that decides who answers."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What is found of a server."""

    running: bool
    healthy: bool
    detail: str
    """One sentence: how it is, and since when."""
    facts: Flat
    """pid, memory, version …, as far as the engine knows them."""


class Engine(Protocol):
    """Makes resources real.  Decides nothing: the plan already has.

    Every method finds things by address and key, and may be called again after a
    crash: what is already so is fine.
    """

    def preflight(self, nodes: Sequence[Node]) -> None:
        """Raise what can be known to fail before anything is made."""
        ...

    def stage(self, node: Node, needs: Mapping[str, Flat], say: Say) -> Flat:
        """Make an artefact, or bring a server up beside the live one.

        ``needs`` holds the outputs of what the node is made from, by kind.
        Returns the outputs: flat values that other methods and nodes need.
        """
        ...

    def update(self, node: Node, record: Record, say: Say) -> None:
        """Change a live server in place, in its update fields only."""
        ...

    def promote(self, record: Record, before: Record | None, say: Say) -> None:
        """Hand the traffic over to a staged server; being live already is fine."""
        ...

    def retire(self, record: Record, say: Say) -> None:
        """Let a server finish what it answers, then stop it; gone already is fine.

        An artefact that an earlier run began stays: the store looks after itself.
        """
        ...

    def start(self, record: Record, needs: Mapping[str, Flat], say: Say) -> None:
        """Start a live server that does not run; running already is fine.

        Where no other server has the traffic, it has it from here on.
        """
        ...

    def stop(self, record: Record, say: Say) -> None:
        """Stop a live server; it stays the live release, and `start` brings it back."""
        ...

    def observe(self, record: Record) -> Observation:
        """How a server is now."""
        ...

    def endpoint(self, record: Record, *, candidate: bool) -> Endpoint:
        """Where a server answers; for a candidate, where only it answers."""
        ...

    def logs(self, record: Record, *, lines: int, follow: bool) -> Iterator[str]:
        """The last lines of the server's log, and those that follow."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where an engine keeps and finds things; picked by the app alone."""

    home: Path
    """The artefact store and the run directories."""
    folder: Path
    """Folder of the stack file; relative paths in it start here."""
    environment: Mapping[str, str]
    patches: Path
    """Folder of the patches that a build from source may name."""


ENGINES: Mapping[str, str] = {
    "local": "deployer.engines.local.engine:LocalEngine",
}

ABILITIES: Mapping[str, Abilities] = {
    "local": Abilities(snapshots=False),
    "modal": Abilities(snapshots=True, restart_drops_snapshot=True),
}


def engine_of(name: str, place: Place) -> Engine:
    """The engine of this name; what it needs is imported here and not before."""
    module, _, attribute = ENGINES[name].partition(":")
    return cast("Engine", getattr(import_module(module), attribute)(place))
