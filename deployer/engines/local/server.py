"""One llama-server of a release: its argument list, its run directory, its life."""

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from deployer.artefacts.sources.files import content_digest, copy, sync_folder
from deployer.engines.contract import STRANGE
from deployer.engines.local import ports, reuseport
from deployer.engines.local.logs import last_lines
from deployer.engines.local.reuseport import lead, reached
from deployer.engines.local.snapshot.proof import IDLE, Door
from deployer.engines.local.supervise.find import (
    FILES,
    is_of_this_boot,
    lent,
    remove_left,
    run_folder,
    stack_folder,
)
from deployer.engines.local.supervise.find import KEY_FILE as NAME
from deployer.engines.local.supervise.health import (
    HEALTH,
    SLOTS,
    Answer,
    health_now,
    how_ended,
    wait_healthy,
    why_hung,
)
from deployer.engines.local.supervise.process import (
    Running,
    drain,
    find,
    known_template,
    spawn,
    stop,
    try_options,
    wait_for_end,
)
from deployer.engines.local.supervise.survivors import (
    close_port,
    end_guard,
    end_unrecorded_guards,
    guard_of,
    guards_in,
    marked_pids,
    names_in,
    open_port,
    recorded,
    servers_in,
)
from deployer.engines.place import Place
from deployer.errors import AuthError, EngineError
from deployer.llama.known.symptoms import likely_cause
from deployer.planning.argv import command_line, scales_of
from deployer.planning.events import Say, Talk
from deployer.planning.graph import FILES as FILE_DIGESTS
from deployer.planning.resources import MODEL_ROLE, VARIABLES, Kind
from deployer.planning.state import Record
from deployer.stack.checks import NEW_KEY, key_problem
from deployer.stack.fields.values import Flat, JsonValue, http_address, keys_of, seconds
from deployer.system.files import contained

GRACE: Final = 10.0
"""Seconds that llama-server may take to end after SIGTERM; it takes 0.2."""
HUNG_GRACE: Final = 1.0
"""Seconds for one that hangs; nothing it does is waited for."""
CONDITIONS: Final[Mapping[str, str]] = {
    "healthy": "healthy",
    "unhealthy": "running but not healthy",
    "silent": "running, and does not answer",
    STRANGE: "running, and another process answers on its port",
    "guarded": "running, and clients are kept away: it was not proven; `deployer"
    " apply` or `deployer server start` does that",
}
"""Conditions of a process that runs, as `status --json` names them, and in words."""
STOPPED: Final = "stopped"
"""File that tells a server that was stopped from one that died."""

_RESTARTED: Final = "restarts.json"
"""File that counts how often it was started again after an end that nobody wanted."""
_RESTARTS: Final = 20
"""Restarts of which time and reason are remembered."""
LOADING: Final = "loading.json"
"""File that holds what it said first while it loaded; gates want to see that."""
_LOOPBACK = "127.0.0.1"


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
        return http_address(reuseport.reachable(self.host), self.port)

    @property
    def argv(self) -> tuple[str, ...]:
        """The options that the stack leads to, less those of the engine."""
        words = self.record.spec.get("argv")
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
    def api_key_envs(self) -> tuple[str, ...]:
        """Variables that hold its keys."""
        found = keys_of(self.record.fields).values()
        return tuple(it["env"] for it in found if "env" in it)

    def api_keys(self) -> tuple[str, ...]:
        """Its keys, from the environment; raises AuthError for one of no use."""
        return tuple(map(self._api_key, self.api_key_envs))

    def _api_key(self, name: str) -> str:
        key = self.place.keys.need(name, "API key")
        if problem := key_problem(key):
            raise AuthError(
                f"the API key in `{name}` cannot be used: {problem}",
                hint=NEW_KEY,
            )
        return key

    @property
    def _given(self) -> Mapping[str, JsonValue]:
        """The variables that the stack gives it: a value, or where a secret is."""
        stated = self.record.spec.get(VARIABLES)
        return stated if isinstance(stated, dict) else {}

    @property
    def secret_envs(self) -> tuple[str, ...]:
        """Variables that hold its keys, and the secrets that it is given."""
        given = (str(it["env"]) for it in self._given.values() if isinstance(it, dict))
        return (*self.api_key_envs, *given)

    def secrets(self) -> tuple[str, ...]:
        """Its keys and the secrets that it is given; raises AuthError as above."""
        given, every = self._given, self.variables
        secret = (every[it] for it in given if isinstance(given[it], dict))
        return (*self.api_keys(), *secret)

    def known_secrets(self) -> tuple[str, ...]:
        """The same as far as the environment holds them."""
        found = map(self.place.keys.get, self.secret_envs)
        return tuple(secret for secret in found if secret)

    def door(self) -> Door:
        """Where it is asked so that it answers, and not the one it shares with.

        The key is there as far as it is known.
        """
        host, source = reuseport.reachable(self.host), ""
        if self.is_shared():
            source = reuseport.GATE_SOURCE
        known = map(self.place.keys.get, self.api_key_envs)
        key = next(filter(None, known), None)
        return Door(host, self.port, key, source)

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
        if running is not None:
            self._lead_gates(running)
        keys = self.api_keys() if running is None else ()
        limit = seconds(self.record.fields["local.start_timeout"])
        with lent(self.run_dir / NAME, keys):
            if running is None:
                running = self._spawn(needs, say, keeper)
            wait_healthy(
                running,
                self.url,
                limit=limit,
                source_address=self.door().source_address,
                say=lambda text: say(Talk(self.record.address, text)),
                heard=self._keep_first_words,
            )

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
        self.forget_keys()
        running = self.running()
        if running is None:
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

    def forget_keys(self) -> None:
        """Remove the key files that runs of this stack left when they were killed."""
        remove_left(self.stack_dir)

    def condition(self, running: Running) -> str:
        """Return the condition of its process as clients see it; see `CONDITIONS`."""
        if self.is_guarded:
            return "guarded"
        match health_now(running, self.url, ""):
            case Answer.HEALTHY:
                return "healthy"
            case Answer.NONE:
                return "silent"
            case Answer.STRANGE:
                return STRANGE
            case _:
                return "unhealthy"

    def end_hung(self, say: Say) -> str:
        """End a process that is proven to hang; return how it hung, else nothing."""
        running = self.running()
        if running is None or not (why := self.why_hung(running)):
            return ""
        say(Talk(self.record.address, f"{why}; it is ended, and started again"))
        with suppress(OSError), self.log.open("a", encoding="utf-8") as log:
            log.write(f"deployer: {why}; ended, and started again\n")
        stop(running, grace=HUNG_GRACE)
        return why

    def why_hung(self, running: Running) -> str:
        """Return how it hangs; empty where it answers, works or has ended."""
        door = self.door()
        pages = (HEALTH,) if IDLE in self.argv else (HEALTH, SLOTS)
        hung = (
            why_hung(running, self.url, door.source_address, ask=(page, door.api_key))
            for page in pages
        )
        return next(filter(None, hung), "")

    def failure(self, seconds: float, *, ask: bool) -> str:
        """See `Engine.failure`."""
        # Of a child of ours that ended meanwhile the exit code is still to be had.
        known = self.running() or recorded(self.run_dir)
        ended = None if known is None else wait_for_end(known, seconds)
        if known is not None and ended is None:
            return self.why_hung(known) if ask else ""
        if self.stopped.exists():
            time.sleep(seconds)
            return ""
        return self.why_not(None if ended is None else ended.exit_code)

    def note_restart(self, why: str, now: str) -> None:
        """Write down that it is started again though nobody stopped it, and why.

        Without ``why`` that is how its log ends.  One that runs, never ran or was
        stopped on purpose is not started again.
        """
        ended = self.running() is None and recorded(self.run_dir) is not None
        if not ended or self.stopped.exists():
            return
        count, last = self.restarts
        new: JsonValue = {"at": now, "why": why or self.why_not()}
        text = json.dumps({"count": count + 1, "last": [*last, new][-_RESTARTS:]})
        draft = self.run_dir / f"{_RESTARTED}.{os.getpid()}.tmp"
        draft.write_text(text, encoding="utf-8")
        draft.replace(self.run_dir / _RESTARTED)

    @property
    def restarts(self) -> tuple[int, list[JsonValue]]:
        """How often it was started again, and the last times: `at` and `why`."""
        with suppress(OSError, ValueError):
            match json.loads((self.run_dir / _RESTARTED).read_bytes()):
                case {"count": int(count), "last": list(last)}:
                    return count, last
                case _:
                    pass
        return 0, []

    def is_shared(self) -> bool:
        """Return whether another server of the same stack listens on its port."""
        own = self.running()
        pids = {it.pid for it in ports.listeners(self.port)}
        return bool(pids - {None if own is None else own.pid})

    def take_over(self, running: Running) -> None:
        """Lead clients to it, and prove that they reach it; raises EngineError."""
        pid, names = running.pid, names_in(self.stack_dir)
        lead(self.host, self.port, clients=pid, gates=pid, names=names)

    def turn_away(self) -> None:
        """Lead clients to another server of the stack on its port, where there is one.

        So a server that ends first has nobody new to finish with.
        """
        running, others = self.running(), self._others()
        if running is None or not others:
            return
        if running.pid in reached(self.host, self.port, {running.pid, *others}):
            other = max(others)
            lead(self.host, self.port, clients=other, gates=other)

    def _lead_gates(self, running: Running) -> None:
        """A candidate that an earlier run left may be out of the gates' reach."""
        if self.is_guarded:  # the clients are the guard's, as when it was started
            return
        if not (others := self._others()) or not ports.listens(running.pid, self.port):
            return
        found = reached(self.host, self.port, {running.pid, *others})
        clients = next((pid for pid in found if pid is not None), None)
        if clients is not None:
            lead(self.host, self.port, clients=clients, gates=running.pid)

    def _others(self) -> frozenset[int]:
        """Other servers of the stack that listen on its port."""
        own = self.running()
        listening = {it.pid for it in ports.listeners(self.port)}
        mine = {None if own is None else own.pid}
        return frozenset(self._pids_of_stack() & (listening - mine))

    @property
    def is_guarded(self) -> bool:
        """Return whether its clients are kept away."""
        return guard_of(self.run_dir) is not None

    def keep_clients_away(self, say: Say) -> None:
        """Guard its port until `let_clients_in`.

        Nothing is done for a server that runs, or beside another one that takes the
        clients.  Raises EngineError when the port belongs to anything but this stack.
        """
        if self.running() is not None:
            return
        self.refuse_strangers()
        if ports.listeners(self.port):
            return
        if (reason := reuseport.supported(self.host)) is not None:
            text = f"clients can reach it before it is proven: {reason}"
            say(Talk(self.record.address, text))
            return
        close_port(self.run_dir, self.host, self.port)

    def let_clients_in(self) -> bool:
        """End the guard of its port; return whether there was one."""
        if not self.is_guarded:
            return False
        open_port(self.run_dir, self.host, self.port)
        return True

    def forget_clients(self) -> None:
        """End the guard of a server that is gone."""
        end_guard(self.run_dir)

    def refuse_strangers(self) -> None:
        """Raise EngineError when the port belongs to anything but this stack."""
        found = ports.listeners(self.port)
        own = self._pids_of_stack()
        if any(it.pid not in own for it in found):  # one that left no record, perhaps
            end_unrecorded_guards(self.stack_dir, self.port)
            found = ports.listeners(self.port)
            own |= marked_pids(self.stack_dir)
        strangers = tuple(it for it in found if it.pid not in own)
        if strangers:
            raise EngineError(
                ports.in_use(self.port, strangers),
                hint="end it, or set `local.port` to a free one "
                f"({ports.free_port(self.host)} is free now)",
            )
        replaces = self.record.fields.get("rollout.strategy") == "replace"
        reason = None if replaces or not found else reuseport.supported(self.host)
        if reason is not None:
            raise EngineError(
                f"old and new server cannot share port {self.port}: {reason}",
                hint="write `rollout: {strategy: replace}`",
            )

    def why_not(self, exit_code: int | None = None) -> str:
        """Why it does not run, as far as its exit code and its run directory tell."""
        if self.stopped.exists():
            return "stopped on request"
        if self._ended_with_the_machine():
            return "not running since this machine was started"
        lines = last_lines(self.log, 50)
        if not lines:
            return "not running, and it left no log"
        cause = likely_cause(lines, exit_code)
        reason = cause.meaning if cause else f"its log ends in `{lines[-1]}`"
        how = "crashed or was killed"
        if exit_code is not None:
            how = f"ended {how_ended(exit_code)}"
        return f"{how}: {reason}"

    @property
    def unproven(self) -> Path:
        """Exists from before it is restored until it has proven itself."""
        return self.run_dir / "unproven"

    def mark_unproven(self) -> None:
        """Remember, even after a power cut, that what is restored is unproven."""
        self.unproven.touch(mode=0o600)
        sync_folder(self.run_dir)

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
        return run_folder(self.record, self.place)

    def clear_the_way(self) -> Door:
        """Prepare any start; on a shared port the clients stay away."""
        self.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.stopped.unlink(missing_ok=True)
        door = self.door()
        if door.source_address:
            # It listens last: behind a live server, and its guard where it has one.
            last = len(ports.listeners(self.port))
            reuseport.steer(self.host, self.port, clients=0, gates=last)
        return door

    @property
    def stack_dir(self) -> Path:
        """The folder of the run folders of its stack."""
        stack = self.record.address.partition("/")[0]
        return stack_folder(self.place.home, self.place.folder, stack)

    def _ended_with_the_machine(self) -> bool:
        """Return whether it was started before the machine was."""
        known = recorded(self.run_dir)
        return known is not None and not is_of_this_boot(known.began)

    def _pids_of_stack(self) -> frozenset[int]:
        """Processes of every release of this stack, and those that guard its port."""
        return servers_in(self.stack_dir) | guards_in(self.stack_dir)

    def _spawn(
        self, needs: Mapping[str, Flat], say: Say, keeper: tuple[str, ...]
    ) -> Running:
        self.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        argv = self._argv(needs)
        try_options(argv, self.variables, self.run_dir)
        self.clear_the_way()
        self._loading.unlink(missing_ok=True)
        running = spawn(
            (*keeper, *argv),
            wrapped=bool(keeper),
            run_dir=self.run_dir,
            address=self.record.address,
            key=self.record.key,
            port=self.port,
            environment=self.variables,
        )
        say(Talk(self.record.address, f"started as pid {running.pid}, log {self.log}"))
        return running

    def _argv(self, needs: Mapping[str, Flat]) -> tuple[str, ...]:
        """The whole command line; what the engine owns comes last and so wins."""
        program, model = self._made(needs, Kind.BUILD), self._made(needs, MODEL_ROLE)
        contained(self.place.home / "build", Path(program))
        beside = {
            role: self._made(needs, role)
            for role in self.record.needs
            if role not in (Kind.BUILD, Kind.SNAPSHOT, MODEL_ROLE)
        }
        if "mmproj" in needs[MODEL_ROLE]:
            beside["mmproj"] = self._made(needs, MODEL_ROLE, "mmproj")
        argv = command_line(
            program,
            self.argv,
            files=self._file_of_stack,
            model=model,
            beside=beside,
            scales=scales_of(self.record.fields, self.record.spec),
            host=self.host,
            port=self.port,
            reuse_port=reuseport.supported(self.host) is None,
            key_file=str(self.run_dir / NAME) if self.api_key_envs else None,
        )
        return known_template(argv, Path(program))

    @property
    def variables(self) -> Mapping[str, str]:
        """The environment variables that the stack gives it.

        Raises AuthError for a secret that is not set.
        """
        need = self.place.keys.need
        return {
            name: need(str(it["env"]), f"`server.env.{name}`")
            if isinstance(it, dict)
            else str(it)
            for name, it in self._given.items()
        }

    def _file_of_stack(self, name: str) -> str:
        """Return the lasting place of a file, with the content of this release.

        A file is kept by its digest: what the user makes of it later is for the next
        release.  Raises EngineError where no file has that content.
        """
        own = self.place.folder / name
        match self.record.spec.get(FILE_DIGESTS):
            case {**known}:
                digest = known.get(name)
            case _:
                digest = None
        if not isinstance(digest, str):
            return str(own.absolute())
        kept = self.stack_dir / FILES / f"{digest}{own.suffix}"
        if kept.is_file():
            return str(kept)
        try:
            found = content_digest(own)
        except OSError:
            found = ""
        if found != digest:
            state = "has other content than" if found else "cannot be read as"
            raise EngineError(
                f"`{own}` {state} when this release was planned",
                hint="bring the file back, or run `deployer apply` for a new release",
            )
        if own.is_dir():
            return str(own.absolute())
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = kept.with_name(f"{kept.name}.{os.getpid()}")
        copy(own, draft)
        draft.replace(kept)
        return str(kept)

    def _made(self, needs: Mapping[str, Flat], role: str, name: str = "path") -> str:
        """Where a file of an artefact lies; raises EngineError for a state without."""
        match needs.get(role, {}).get(name):
            case str(path) if path:
                return self._in_store(role, Path(path))
            case _:
                raise EngineError(
                    f"the state of `{self.record.address}` does not name the {role}"
                    " that it was started from",
                    hint="run `deployer apply`: it fills in what is missing",
                )

    def _in_store(self, role: str, path: Path) -> str:
        """A file of the store by its key: a state of another home names that one."""
        key, kind = self.record.needs.get(role), Kind.WEIGHTS
        if key is None or key not in path.parts:
            return str(path)  # weights of the user's own stay where they are
        inside = path.parts[path.parts.index(key) + 1 :]
        if role == Kind.BUILD:
            kind = Kind.BUILD
        return str(self.place.home.joinpath(kind, key, *inside))
