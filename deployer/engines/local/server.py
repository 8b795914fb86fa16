"""One llama-server of a release: its argument list, its run directory, its life."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psutil

from deployer.core.events import Say, Talk
from deployer.core.state import Record
from deployer.core.units import seconds
from deployer.core.values import Flat
from deployer.engines import Place
from deployer.engines.local import ports, steer
from deployer.engines.local.health import wait_healthy
from deployer.engines.local.logs import last_lines
from deployer.engines.local.process import Running, drain, find, spawn, stop
from deployer.engines.local.program import run_server
from deployer.engines.local.resident import recorded, servers_in
from deployer.engines.local.templates import with_template
from deployer.engines.local.warming import Door
from deployer.errors import AuthError, EngineError
from deployer.llama.symptoms import likely_cause

GRACE: Final = 10.0
"""Seconds that llama-server may take to end after SIGTERM; it takes 0.2."""
STOPPED: Final = "stopped"
"""File that tells a server that was stopped from one that died."""

_KEY_LENGTH = 16
"""Characters of a key in the name of a run directory."""
_MARK_LENGTH = 6
"""Characters that tell stacks of one name in several folders apart."""
LOADING: Final = "loading.json"
"""File that holds what it said first while it loaded; gates want to see that."""
_LOOPBACK = "127.0.0.1"
_API_KEY = "api-key"
"""File that llama-server reads its key from; gone once it has started."""


@dataclass(frozen=True, slots=True)
class Server:
    """A llama-server, found by the address and key of its record."""

    record: Record
    place: Place

    @property
    def host(self) -> str:
        """Address it listens on."""
        return str(self.record.fields["local.host"])

    @property
    def port(self) -> int:
        """Port it listens on."""
        return int(str(self.record.fields["local.port"]))

    @property
    def url(self) -> str:
        """Where it is reached from this machine."""
        return f"http://{steer.reachable(self.host)}:{self.port}"

    @property
    def argv(self) -> tuple[str, ...]:
        """The options that the stack leads to, less those of the engine."""
        words = self.record.spec["argv"]
        return tuple(map(str, words)) if isinstance(words, list) else ()

    @property
    def log(self) -> Path:
        """Its log file."""
        return self.run_dir / "server.log"

    @property
    def stopped(self) -> Path:
        """Exists while it is stopped on purpose."""
        return self.run_dir / STOPPED

    @property
    def api_key_env(self) -> str | None:
        """Variable that holds its key."""
        name = self.record.fields.get("auth.api_key.env")
        return None if name is None else str(name)

    def api_key(self) -> str | None:
        """Its key, from the environment; raises AuthError where it is not set."""
        name = self.api_key_env
        if name is None:
            return None
        if not (key := self.place.keys.get(name)):
            raise AuthError(
                f"the API key is to be in `{name}`, which is not set",
                hint=f"run `export {name}=…`, or write `{name}=…` into `.env` beside"
                " the stack",
            )
        return key

    def known_key(self) -> str | None:
        """Its key as far as the environment holds it."""
        name = self.api_key_env
        return None if name is None else self.place.keys.get(name)

    def door(self) -> Door:
        """Where it is asked so that it answers, and not the one it shares with.

        The key is there as far as it is known.
        """
        host, source = steer.reachable(self.host), ""
        if self.is_shared():
            source = steer.GATE_SOURCE
        return Door(host, self.port, self.known_key(), source)

    def elsewhere(self, key: str) -> "Server":
        """One more server of the same kind, on a port of its own and this machine."""
        port = ports.free_port(_LOOPBACK)
        fields = {**self.record.fields, "local.host": _LOOPBACK, "local.port": port}
        return replace(self, record=replace(self.record, key=key, fields=fields))

    def running(self) -> Running | None:
        """Its process, if there is one."""
        return find(self.run_dir, self.record.address, self.record.key)

    def bring_up(
        self, needs: Mapping[str, Flat], say: Say, *, keeper: tuple[str, ...] = ()
    ) -> None:
        """Start it unless it runs, and wait until it is healthy.

        ``keeper`` is a command that starts it in namespaces of its own.  Raises
        EngineError or TimedOutError with the likely cause and the end of the log.
        """
        self.refuse_strangers()
        running = self.running()
        if running is None:
            running = self._spawn(needs, say, keeper)
        limit = seconds(self.record.fields["local.start_timeout"])
        try:
            wait_healthy(
                running,
                self.url,
                limit=limit,
                source_address=self.door().source_address,
                say=lambda text: say(Talk(self.record.address, text)),
                heard=self._keep_first_words,
            )
        finally:
            self._remove_api_key()

    @property
    def first_words(self) -> Flat:
        """`status` and `body` of its first answer while it loaded, if it was seen."""
        try:
            said = json.loads(self._loading.read_bytes())
        except (OSError, ValueError):
            return {}
        return said if isinstance(said, dict) else {}

    def end(self, say: Say) -> None:
        """Let it finish what it answers, then stop it; gone already is fine."""
        running = self.running()
        if running is None:
            self._remove_api_key()
            return
        limit = seconds(self.record.fields.get("local.drain", 0))
        say(Talk(self.record.address, "finishing what it answers"))
        left = drain(
            running,
            limit=limit,
            say=lambda text: say(Talk(self.record.address, text)),
        )
        if left:
            connections = "connection was" if left == 1 else "connections were"
            text = f"{left} {connections} cut after {limit:g} s"
            say(Talk(self.record.address, text))
        stop(running, grace=GRACE)
        self._remove_api_key()

    def is_shared(self) -> bool:
        """Whether another server of the same stack listens on its port."""
        own = self.running()
        pids = {it.pid for it in ports.listeners(self.port)}
        return bool(pids - {None if own is None else own.pid})

    def refuse_strangers(self) -> None:
        """Raise EngineError when the port belongs to anything but this stack."""
        found = ports.listeners(self.port)
        own = self._pids_of_stack()
        strangers = tuple(it for it in found if it.pid not in own)
        if strangers:
            raise EngineError(
                ports.in_use(self.port, strangers),
                hint="end it, or set `local.port` to a free one "
                f"({ports.free_port(self.host)} is free now)",
            )
        replaces = self.record.fields.get("rollout.strategy") == "replace"
        reason = None if replaces or not found else steer.supported(self.host)
        if reason is not None:
            raise EngineError(
                f"old and new server cannot share port {self.port}: {reason}",
                hint="write `rollout: {strategy: replace}`",
            )

    def why_not(self) -> str:
        """Why it does not run, as far as its run directory tells."""
        if self.stopped.exists():
            return "stopped by `deployer stop`"
        if self._ended_with_the_machine():
            return "not running since this machine was started"
        lines = last_lines(self.log, 50)
        if not lines:
            return "not running, and it left no log"
        cause = likely_cause(lines, None)
        reason = cause.meaning if cause else f"its log ends in `{lines[-1]}`"
        return f"crashed or was killed: {reason}"

    def mark_stopped(self) -> None:
        """Remember that it was stopped on purpose."""
        self.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.stopped.touch()

    @property
    def _loading(self) -> Path:
        return self.run_dir / LOADING

    def _keep_first_words(self, status: int, body: str) -> None:
        if not self._loading.exists():
            text = json.dumps({"status": status, "body": body})
            self._loading.write_text(text, encoding="utf-8")

    @property
    def run_dir(self) -> Path:
        """Where its log lies, and what it is found again by."""
        return self._stack_dir / self.record.key[:_KEY_LENGTH]

    def clear_the_way(self) -> Door:
        """What comes before any start; on a shared port the clients stay away."""
        self.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.stopped.unlink(missing_ok=True)
        door = self.door()
        if door.source_address:
            steer.steer(self.host, self.port, clients=0, gates=1)
        return door

    @property
    def _stack_dir(self) -> Path:
        """Of this stack in this folder: names are unique in a folder only."""
        stack = self.record.address.partition("/")[0]
        folder = str(self.place.folder.resolve())
        mark = hashlib.sha256(folder.encode()).hexdigest()[:_MARK_LENGTH]
        return self.place.home / "run" / f"{stack}-{mark}"

    def _ended_with_the_machine(self) -> bool:
        """Whether it was started before the machine was."""
        known = recorded(self.run_dir)
        return known is not None and known.started < psutil.boot_time()

    def _pids_of_stack(self) -> frozenset[int]:
        """Processes of every release of this stack."""
        return servers_in(self._stack_dir)

    def _spawn(
        self, needs: Mapping[str, Flat], say: Say, keeper: tuple[str, ...]
    ) -> Running:
        self.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        argv = self._argv(needs)
        self._write_api_key()
        self._dry_run(argv)
        self.clear_the_way()
        self._loading.unlink(missing_ok=True)
        running = spawn(
            (*keeper, *argv),
            wrapped=bool(keeper),
            run_dir=self.run_dir,
            address=self.record.address,
            key=self.record.key,
            port=self.port,
            environment={},
        )
        say(Talk(self.record.address, f"started as pid {running.pid}, log {self.log}"))
        return running

    def _argv(self, needs: Mapping[str, Flat]) -> tuple[str, ...]:
        """The whole command line; what the engine owns comes last and so wins."""
        weights = needs["weights"]
        program = str(needs["build"]["path"])
        stated = list(self.argv)
        argv = [program, *with_template(stated, Path(program), self.place.folder)]
        argv += ["--model", str(weights["path"])]
        if "mmproj" in weights:
            argv += ["--mmproj", str(weights["mmproj"])]
        argv += ["--host", self.host, "--port", str(self.port)]
        if steer.supported(self.host) is None:
            argv.append("--reuse-port")
        if self.api_key_env is not None:
            argv += ["--api-key-file", str(self.run_dir / _API_KEY)]
        return tuple(argv)

    def _dry_run(self, argv: tuple[str, ...]) -> None:
        """Let llama-server read its options without starting.

        With ``--version`` last it parses from left to right and ends in 1 at the
        first option it does not take, on every build from b8672 to b11434.
        """
        done = run_server((*argv, "--version"), {})
        if done.returncode == 0:
            return
        lines = (done.stderr + done.stdout).splitlines()
        if cause := likely_cause(lines, done.returncode):
            raise EngineError(cause.meaning, hint=cause.hint)
        wrong = [line for line in lines if "error" in line]
        said = wrong[0].strip() if wrong else f"exit code {done.returncode}"
        raise EngineError(
            f"llama-server does not take its options: {said}",
            hint="compare `server` and `server.flags` of the stack with"
            " `llama-server --help` of this build",
        )

    def _remove_api_key(self) -> None:
        (self.run_dir / _API_KEY).unlink(missing_ok=True)

    def _write_api_key(self) -> None:
        key = self.api_key()
        if key is None:
            return
        file = self.run_dir / _API_KEY
        file.unlink(missing_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(f"{key}\n")
