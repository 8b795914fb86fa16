"""The contract of an engine, and the values that it takes and gives."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from deployer.errors import EngineError
from deployer.planning.facts import Pin, flaw_of
from deployer.planning.plan import RunningServer
from deployer.planning.resources import Node
from deployer.planning.state import Record
from deployer.stack.fields.values import Flat
from deployer.system.files import contained

if TYPE_CHECKING:
    from deployer.planning.events import Say


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How to reach a server."""

    url: str
    api_key_envs: tuple[str, ...] = ()
    """Variables of the keys that it accepts; none for one that asks for none."""
    """Variables of the keys that it accepts; the keys themselves are never kept."""
    source_address: str | None = None
    """Local address to connect from, where that decides who answers."""
    token_env: str | None = None
    """Variable of the token (`ID.SECRET`) that a proxy in front of it asks for."""

    @property
    def api_key_env(self) -> str | None:
        """The variable that clients are told; None where no key is needed.

        The proxy takes its token as a key as well, where the server asks for none.
        """
        return next(iter(self.api_key_envs), self.token_env)


STRANGE: Final = "strange"
"""Condition, among the facts of a server, where another process has its address."""


CONTAINERS: Final = "platform:containers"
"""Figure of `Engine.usage`: how many there are now; 0 where the server sleeps."""


@dataclass(frozen=True, slots=True)
class Observation:
    """An observed server."""

    running: bool
    healthy: bool
    detail: str
    """One sentence: how it is, and since when."""
    facts: Flat
    """pid, memory, version …, as far as the engine knows them."""

    @property
    def has_address(self) -> bool:
        """True unless requests to its address reach nobody, or another process."""
        return self.running and self.facts.get("condition") != STRANGE


@dataclass(frozen=True, slots=True)
class Restored:
    """The result of restoring a server from its snapshot."""

    really: bool
    """It was a restore; false for a cold start."""
    seconds: float
    """From the call until the server was healthy."""
    detail: str
    """One sentence: what was restored, or why it was not."""
    record: Record
    """The server that is there now; for a copy beside the live one, that copy."""
    captured: bool = False
    """It was a cold start that captured, as there was no snapshot to restore."""
    failed: int = 0
    """Restores that failed before it came up."""


class Engine(Protocol):
    """Makes resources real.  Decides nothing: the plan already has.

    Every method finds things by address and key, and may be called again after a
    crash: what is already so is fine.
    """

    def preflight(
        self, nodes: Sequence[Node], live: Collection[Record] = (), workspace: str = ""
    ) -> None:
        """Raise what can be known to fail before anything is made.

        ``live`` is what the state names as serving, which has to be where the new
        things are going to be: in ``workspace``, where one is named.
        """
        ...

    def stage(self, node: Node, needs: Mapping[str, Flat], say: "Say") -> Flat:
        """Make an artefact, or bring a server up beside the live one.

        ``needs`` holds the outputs of what the node is made from, by kind.
        Returns the outputs: flat values that other methods and nodes need.  Where those
        of a server say that its snapshot is `UNUSED`, it is retired, and staged again
        without.
        """
        ...

    def update(self, node: Node, record: Record, say: "Say") -> None:
        """Change a live server in place, in its update fields only."""
        ...

    def promote(self, record: Record, before: Record | None, say: "Say") -> Flat:
        """Hand the traffic over to a staged server; being live already is fine.

        Returns the outputs that are known only now.  Raises PromotionError where the
        traffic is still with what had it ``before``; after any other error nobody
        knows, and the next run carries on.
        """
        ...

    def retire(self, record: Record, say: "Say") -> None:
        """Let a server finish what it answers, then stop it; gone already is fine.

        An artefact that an earlier run began stays: the store looks after itself.
        """
        ...

    def start(self, record: Record, needs: Mapping[str, Flat], say: "Say") -> None:
        """Start a live server that does not run; running already is fine.

        Where no other server has the traffic, it has it from here on.
        """
        ...

    def stop(self, record: Record, say: "Say") -> None:
        """Stop a live server; it stays the live release, and `start` brings it back."""
        ...

    def failure(self, record: Record, seconds: float, *, ask: bool) -> str:
        """Wait while a live server serves, for ``seconds``; return why it does not.

        That is why it has to be started again: it ended, or with ``ask`` it is proven
        to hang.  Empty where it serves, and where it was stopped on purpose.
        """
        ...

    def renew(self, record: Record, say: "Say") -> bool:
        """Give a live server fresh processes, which see the secrets of today.

        No request fails meanwhile.  False where that takes a `stop` and a `start`;
        raises EngineError where the fresh ones do not come up: what served serves on.
        """
        ...

    def idle(self, record: Record, seconds: float, say: "Say") -> None:
        """Let nobody ask a candidate for a while, so that a restore is what follows.

        Returns once its memory is free.
        """
        ...

    def restore(
        self, record: Record, needs: Mapping[str, Flat], say: "Say", *, beside: bool
    ) -> Restored:
        """Bring a server back from its snapshot; a cold start is told as one.

        With ``beside`` what runs is left alone, and the copy answers at an address of
        its own until it is retired.  Raises EngineError where there is no server in
        the end.
        """
        ...

    def woken(
        self, record: Record, ask: Callable[[], object], say: "Say"
    ) -> Restored | None:
        """Ask a live server once, by ``ask``, and report how it came up for that.

        None where it was awake, or where the engine lets no server sleep.
        """
        ...

    def flaw(self, record: Record, server: Record | Node) -> str:
        """Why an artefact must be made again for this server; empty where it is fine.

        No file is read whose stamp is the one that it was verified with.
        """
        ...

    def observe(self, record: Record) -> Observation:
        """How a server is now."""
        ...

    def servers(
        self, stack: str, known: Collection[str], *, thoroughly: bool
    ) -> tuple[RunningServer, ...]:
        """Living servers of a stack on this machine, in its state or not.

        ``known`` are the keys that the state names: only where another lives is each
        asked whether clients reach it.  ``thoroughly`` also finds a server that left
        no trace but its process.  None where the engine runs servers elsewhere.
        """
        ...

    def endpoint(self, record: Record, *, candidate: bool) -> Endpoint:
        """Where a server answers; for a candidate, where only it answers."""
        ...

    def discard(self, record: Record, say: "Say") -> None:
        """Remove an artefact that nothing needs any more; gone already is fine."""
        ...

    def versions(self, record: Record) -> Mapping[str, str]:
        """The engine's own names of its deployments, by the beginning of a key."""
        ...

    def usage(self, record: Record) -> Mapping[str, float] | None:
        """Return what the platform itself counted of a live server, without asking it.

        Figures by name, those of which nothing is known left out; None where only the
        server counts.
        """
        ...

    def logs(self, record: Record, *, lines: int, follow: bool) -> Iterator[str]:
        """The last lines of the server's log, and those that follow."""
        ...


@dataclass(frozen=True, slots=True)
class Left:
    """A folder in the store of an engine that nothing needs."""

    path: str
    size: int
    """Bytes."""


class RemoteStore(Protocol):
    """Where an engine keeps its artefacts, if not in the store of this machine."""

    def unused(self, needed: Collection[str]) -> Sequence[Left]:
        """Return what is not named by one of the ``needed`` keys, nor in use."""
        ...

    def remove(self, left: Sequence[Left]) -> None:
        """Remove it; gone already is fine."""
        ...


@dataclass(frozen=True, slots=True)
class Rendering:
    """A stack as the engine renders it, for people to read."""

    argv: tuple[str, ...]
    """The command line of llama-server."""
    files: Mapping[str, bytes]
    """By name; they belong into one folder."""
    unpinned: tuple[str, ...] = ()
    """Parts that no lock file pins yet: their digests here are zeros."""


def pin_of(node: Node) -> Pin:
    """The pin that a node was made from; raises EngineError for none of ours.

    A rollback reads it from the state, so it is judged by its form here too.
    """
    match node.spec:
        case {
            "source": str(source),
            "identity": dict(identity),
            "where": dict(where),
            "about": dict(about),
        }:
            pin = Pin(source, identity, where, about)
            if flaw := flaw_of(node.role, pin):
                raise EngineError(
                    f"the pin of `{node.address}` is not one of ours: {flaw}",
                    hint="run `deployer lock STACK --upgrade`, then plan again",
                )
            return pin
        case _:
            raise EngineError(f"`{node.address}` has no pin")


def write_files(files: Mapping[str, bytes], folder: Path) -> tuple[Path, ...]:
    """Write files below a folder by their names; what they replace is overwritten."""
    written = []
    for name, content in files.items():
        place = contained(folder, folder / name)
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(content)
        written.append(place)
    return tuple(written)
