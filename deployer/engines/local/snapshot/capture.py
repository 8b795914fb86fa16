"""Snapshots of warmed servers in the store: taken, looked at, given up.

A snapshot is taken of a server of its own, on a private port, that no client ever
reached; it is warmed, asked for answers that a restored one must repeat, frozen to
disk, and gone.
"""

import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psutil

from deployer.artefacts.sources.files import DigestCache, ensure_room
from deployer.artefacts.store import Entry, Store
from deployer.engines.local.server import Server
from deployer.engines.local.snapshot import image
from deployer.engines.local.snapshot.criu import OWN_CLOCK, capability, dump
from deployer.engines.local.snapshot.image import (
    OTHER_KEY,
    environment_digest,
    flaw_of,
    machine,
    mapped_files,
    sealed,
)
from deployer.engines.local.snapshot.proof import answers_of, warm_up
from deployer.engines.local.supervise.find import boot_id
from deployer.engines.local.supervise.process import (
    Running,
    end_keepers,
    keepers_of,
    scrubbed,
    stop,
)
from deployer.engines.local.supervise.survivors import memory_of
from deployer.engines.place import Place
from deployer.errors import EngineError, UsageError
from deployer.planning.events import Say, Talk
from deployer.planning.resources import Node
from deployer.planning.state import CAPTURE, PLAIN, Record, record_of
from deployer.stack.fields.values import Flat, JsonValue, show_bytes, show_seconds
from deployer.system.files import contained

_KIND: Final = "snapshot"
VARIABLE: Final = "DEPLOYER_VERIFY_IMAGES"
"""Says when every byte of an image is read and compared before it is restored."""
_ALWAYS, _AFTER_BOOT, _NEVER = _POLICIES = ("always", "after-boot", "never")


@dataclass(frozen=True, slots=True)
class Snapshots:
    """The snapshots that the local engine takes and restores."""

    place: Place

    @property
    def store(self) -> Store:
        """The artefact store of this machine."""
        return Store(self.place.home)

    def make(self, node: Node, needs: Mapping[str, Flat], say: Say) -> Flat:
        """The outputs of a snapshot, taken unless there is one that can be used.

        Raises EngineError for a warm-up that fails or a process that cannot be
        frozen, and StoreError for a full disk; nothing is left behind then.
        """
        flaw = self.flaw(node.key, self._private(node))
        if self.store.find(_KIND, node.key) is None:
            self.store.remove(_KIND, node.key)
        # One that is whole is replaced only once there is a new one: others share it.
        entry = self.store.publish(
            _KIND,
            node.key,
            lambda into: self._capture(node, needs, into, say),
            now=lambda: datetime.now(tz=UTC),
            say=lambda text: say(Talk(node.address, text)),
            again=bool(flaw),
        )
        if flaw == OTHER_KEY:
            text = (
                "a server that runs keeps the API key and secrets that it was started"
                " with: `deployer server restart` gives it the new ones"
            )
            say(Talk(node.address, text))
        self._condemned(node.key).unlink(missing_ok=True)
        took = {name: entry.about.get(name) for name in (PLAIN, CAPTURE)}
        return {"path": str(entry.folder), "size": entry.size, **took}

    def flaw(self, key: str, server: Server) -> str:
        """Why the snapshot cannot be used for this server; empty where it can."""
        entry = self.store.look(_KIND, key)
        if entry is None:
            with suppress(OSError):
                return self._condemned(key).read_text(encoding="utf-8")
            return "the image is gone"
        found = capability(self.place.environment, self.place.home)
        if not found.works:
            return ""
        return flaw_of(
            entry,
            variables=scrubbed(os.environ),
            known=server.known_secrets(),
            every=len(server.secret_envs),
            program=found.program,
            digests=DigestCache(self.store.digests),
        )

    def read_once(self, entry: Entry) -> str:
        """The damage that reading every byte finds, where that is due.

        Since the machine was started, what lies on the disk may be other than what was
        written; from then on it is the memory of the system that is read.
        """
        note = self._notes / "read" / entry.key
        stamp = f"{boot_id()} {entry.created.isoformat()}"
        policy = self.place.environment.get(VARIABLE, _AFTER_BOOT)
        if policy not in _POLICIES:
            raise UsageError(
                f"environment variable `{VARIABLE}` is `{policy}`",
                hint=f"set it to one of {', '.join(f'`{it}`' for it in _POLICIES)}",
            )
        taken_now = entry.about.get("boot") == boot_id()
        with suppress(OSError):
            taken_now |= note.read_text(encoding="utf-8") == stamp
        if policy == _NEVER or (policy == _AFTER_BOOT and taken_now):
            return ""
        damage = self.damage_of(entry)
        if not damage:
            with suppress(OSError):  # it is read once more then
                note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                note.write_text(stamp, encoding="utf-8")
        return damage

    def damage_of(self, entry: Entry) -> str:
        """The damage that reading every byte of an image finds now."""
        known = entry.about.get("crc32")
        for name, number in known.items() if isinstance(known, dict) else ():
            try:
                if image.checksum(entry.folder / name) == number:
                    continue
                why = "has other content than when it was captured"
            except OSError as error:
                why = f"cannot be read: {error.strerror}"
            return f"the image is damaged: `{entry.folder / name}` {why}"
        return ""

    def condemn(self, key: str, why: str) -> None:
        """Never use an image again: what it was taken for is taken anew."""
        self.store.remove(_KIND, key)
        note = self._condemned(key)
        note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        note.write_text(why, encoding="utf-8")

    def retire(self, record: Record) -> None:
        """End the server that a run which died was about to capture."""
        server = Server(record, self.place)
        if (running := server.running()) is not None:
            stop(running, grace=0)

    def _private(self, node: Node) -> Server:
        """The server that is captured; it listens where nobody looks."""
        record = record_of(node, {})
        served = record.spec.get("served")
        fields = {**record.fields, **(served if isinstance(served, dict) else {})}
        server = Server(replace(record, fields=fields), self.place)
        return server.elsewhere(node.key)

    def _condemned(self, key: str) -> Path:
        notes = self._notes
        return contained(notes, notes / key)

    @property
    def _notes(self) -> Path:
        return self.place.home / "cache" / "snapshots"

    def _capture(
        self, node: Node, needs: Mapping[str, Flat], into: Path, say: Say
    ) -> Flat:
        """Start, warm, freeze; returns what a restore needs to know."""
        found = capability(self.place.environment, self.place.home)
        if not found.works:
            raise EngineError(f"no snapshot can be taken: {found.why}", found.hint)
        record, server = record_of(node, {}), self._private(node)
        self.retire(record)
        keepers: list[psutil.Process] = []
        begun = time.monotonic()
        try:
            server.bring_up(needs, say, keeper=("unshare", *OWN_CLOCK, "setsid"))
            plain = time.monotonic() - begun
            running = server.running()
            if running is None:
                raise EngineError("the server to be captured ended at once")
            keepers = keepers_of(running.pid)
            about = self._warmed(node, server, say)
            about |= self._frozen(node, server, running, into, found.program, say)
        finally:
            # Nobody is connected, and frozen half-way it would hear no SIGTERM.
            self.retire(record)
            end_keepers(keepers)
        took = {PLAIN: plain, CAPTURE: time.monotonic() - begun}
        seconds = {name: round(value, 3) for name, value in took.items()}
        return {**about, "criu": found.version, **seconds}

    def _warmed(self, node: Node, server: Server, say: Say) -> dict[str, JsonValue]:
        """Make the warm-up requests, and keep the answers a restored one must give."""
        door = server.door()
        match node.fields.get("snapshot.warmup"):
            case [*requests]:
                plural = "s" if len(requests) > 1 else ""
                say(Talk(node.address, f"{len(requests)} warm-up request{plural}"))
                warm_up(door, requests, self.place.folder)
            case _:
                pass
        try:
            proof = answers_of(door)
        except EngineError as error:
            raise EngineError(
                f"no snapshot can be taken of this server: {error.message}, so a"
                " restored one could not be proven",
                hint="write `snapshot: {enabled: false}` to do without",
            ) from error
        return {"proof": proof, "api_key": sealed(server.secrets())}

    def _frozen(
        self,
        node: Node,
        server: Server,
        running: Running,
        into: Path,
        program: str,
        say: Say,
    ) -> dict[str, JsonValue]:
        """Write the image; raises EngineError with what CRIU says."""
        memory = memory_of(running)
        ensure_room(into, memory, purpose=f"the snapshot {node.key[:12]}")
        about = self._surroundings(node, server, running) | {"memory": memory}
        if problem := dump(program, running.pid, into):
            free = shutil.disk_usage(into).free
            raise EngineError(
                f"the server could not be frozen: {problem}"
                f" ({show_bytes(free)} are free in `{self.place.home}`)",
                hint="what is live was not changed; `snapshot: {enabled: false}` starts"
                " without a snapshot",
            )
        frozen = image.frozen_seconds(into)
        if whole := image.leave_out_zeros(into):
            say(Talk(node.address, f"zeros stay in the image: {whole}"))
        (into / "dump.log").unlink(missing_ok=True)
        size = sum(file.stat().st_size for file in into.iterdir())
        stood = "" if frozen is None else f", frozen within {show_seconds(frozen)}"
        say(Talk(node.address, f"captured {show_bytes(size)}{stood}"))
        checksums: Flat = {it.name: image.checksum(it) for it in into.iterdir()}
        return {**about, "frozen_seconds": frozen, "crc32": dict(checksums)}

    def _surroundings(
        self, node: Node, server: Server, running: Running
    ) -> dict[str, JsonValue]:
        """Return what a restore finds as it was, or moves."""
        return {
            "name": f"{node.address}, a warmed server",
            "port": server.port,
            "log": str(server.log),
            "folder": str(server.run_dir),
            "machine": dict(machine()),
            "boot": boot_id(),
            "environment": environment_digest(scrubbed(os.environ)),
            "depends": mapped_files(running.pid, DigestCache(self.store.digests)),
        }
