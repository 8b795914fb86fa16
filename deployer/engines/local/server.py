"""One llama-server of a release: its argument list, its run directory, its life.

llama-server listens long before its model is loaded and answers 503 until then
(all builds from b8672 to b11434).  On a shared port an answer proves nothing by
itself: until the candidate listens, the kernel gives its requests to the live
server.  So an answer counts only from the process that is waited for.

A server whose threads all wait for slow clients, or that computes on every core, may
leave ``/health`` unanswered for a while, and ending it would cut its clients.  So
silence alone proves nothing: a server counts as hung when it leaves every question
unanswered for `PROOF_SECONDS` and uses next to no processor time meanwhile.
llama-server closes an idle connection after 5 s, which the proof outlasts.
"""

import http.client
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psutil

from deployer.artefacts.sources.files import content_digest, copy, sync_folder
from deployer.engines.contract import STRANGE
from deployer.engines.local import ports, reuseport
from deployer.engines.local.logs import last_lines
from deployer.engines.local.ports import (
    accepted_by,
    in_use,
    listeners,
    listens,
    refused,
)
from deployer.engines.local.reuseport import lead, reached
from deployer.engines.local.snapshot.proof import Door
from deployer.engines.local.supervise.find import (
    FILES,
    is_of_this_boot,
    lent,
    remove_left,
    run_folder,
    stack_folder,
)
from deployer.engines.local.supervise.find import KEY_FILE as NAME
from deployer.engines.local.supervise.process import (
    Ended,
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
from deployer.errors import AuthError, EngineError, TimedOutError
from deployer.llama.known.symptoms import Symptom, likely_cause
from deployer.planning.argv import command_line, scales_of
from deployer.planning.events import Say, Talk
from deployer.planning.graph import FILES as FILE_DIGESTS
from deployer.planning.resources import MODEL_ROLE, VARIABLES, Kind
from deployer.planning.state import Record
from deployer.stack.checks import NEW_KEY, key_problem
from deployer.stack.fields.values import Flat, JsonValue, http_address, keys_of, seconds
from deployer.system.children import growing
from deployer.system.files import contained

_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.1
_GROWTH: Final = 1.05
"""A server is found healthy at most a twentieth of its start late."""
_REQUEST_SECONDS: Final = 5.0
_SAY_SECONDS: Final = 2.0
_EXCERPT_LINES: Final = 15
_SEARCHED_LINES: Final = 200
_BODY_BYTES: Final = 400

# The kernel's table of sockets is read in pieces while it changes: one look may
# miss a connection.
_LOOKS: Final = 3


class Answer(Enum):
    """The answer to a request for /health; STRANGE: from another process."""

    HEALTHY = auto()
    UNHEALTHY = auto()
    STRANGE = auto()
    NONE = auto()


def wait_healthy(
    running: Running,
    url: str,
    *,
    limit: float,
    source_address: str,
    say: Callable[[str], None],
    heard: Callable[[int, str], None] = lambda _status, _body: None,
) -> None:
    """Wait up to `limit` seconds until `url`/health is 200 from this very process.

    Requests come from `source_address` (empty: any).  Status and body of the first of
    its answers that is not 200 are `heard`: what it says while it loads.  Raises
    `EngineError` with the likely cause and the end of the log as soon as the process is
    gone or another one answers, `TimedOutError` when the limit runs out.
    """
    begun = said = time.monotonic()
    listening, ear = False, _Ear(heard)
    pauses = growing(_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH)
    while True:
        listening = listening or listens(running.pid, running.port)
        answer = _answer(running, url, source_address, ear) if listening else None
        if answer is Answer.HEALTHY:
            return
        if answer is Answer.STRANGE:
            _refuse_stranger(running)
        left = begun + limit - time.monotonic()
        ended = wait_for_end(running, max(0.0, min(next(pauses), left)))
        if ended is not None:
            raise _died(running, ended, url)
        now = time.monotonic()
        if now >= begun + limit:
            raise _too_slow(running, limit)
        if now - said >= _SAY_SECONDS:
            say(f"the server loads its model, {now - begun:.0f} s so far")
            said = now


def is_healthy(running: Running, url: str, source_address: str) -> bool:
    """Return whether `url`/health is 200 now, and answered by this very process.

    A request from an address that is steered to another server is a no.
    """
    return health_now(running, url, source_address) is Answer.HEALTHY


def health_now(
    running: Running, url: str, source_address: str, limit: float = _REQUEST_SECONDS
) -> Answer:
    """Ask `url`/health once, for `limit` seconds at most."""
    if not listens(running.pid, running.port):
        return Answer.NONE
    return _answer(running, url, source_address, None, limit)


def answers(running: Running, url: str, source_address: str, limit: float) -> bool:
    """Return whether /health is answered within `limit` seconds, whatever with."""
    return health_now(running, url, source_address, limit) is not Answer.NONE


@dataclass(slots=True)
class _Ear:
    """Hears what a server says first while it loads, and no more."""

    heard: Callable[[int, str], None] | None

    def hear(self, status: int, body: str) -> None:
        if self.heard is not None:
            self.heard(status, body)
            self.heard = None


def _answer(
    running: Running,
    url: str,
    source_address: str,
    ear: _Ear | None,
    limit: float = _REQUEST_SECONDS,
) -> Answer:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(
        place.hostname or "",
        place.port,
        timeout=limit,
        source_address=(source_address, 0) if source_address else None,
    )
    try:
        connection.connect()
        client = connection.sock.getsockname()[:2]
        connection.request("GET", f"{place.path.rstrip('/')}/health")
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            if ear is not None and ear.heard is not None and _accepted(running, client):
                text = answer.read(_BODY_BYTES).decode(errors="replace")
                ear.hear(answer.status, text)
            return Answer.UNHEALTHY
        own = _accepted(running, client)
    except (OSError, http.client.HTTPException):
        return Answer.NONE
    finally:
        connection.close()
    return Answer.HEALTHY if own else Answer.STRANGE


def _accepted(running: Running, client: tuple[str, int]) -> bool:
    """Tell if this very process has the connection: it keeps it open till then."""
    return any(accepted_by(running.pid, running.port, client) for _ in range(_LOOKS))


def _refuse_stranger(running: Running) -> None:
    """Raise, unless the process is just ending, which explains another's answer."""
    if not listens(running.pid, running.port):
        return
    others = [one for one in listeners(running.port) if one.pid != running.pid]
    raise EngineError(
        f"the answer on port {running.port} is not from the server that was started,"
        f" pid {running.pid}: {in_use(running.port, others)}",
        hint="stop the other server on this port, then run `deployer apply` again",
    )


def _died(running: Running, ended: Ended, url: str) -> EngineError:
    log = Path(running.log)
    cause = likely_cause(last_lines(log, _SEARCHED_LINES), ended.exit_code)
    if cause is None and (
        reason := refused(urlsplit(url).hostname or "", running.port)
    ):
        # A llama-server that ends at once may lose its last words (1 of 40 did).
        hint = "free the port, or set `local.port`"
        cause = Symptom("port-in-use", "", reason, hint)
    why = f": {cause.meaning}" if cause else ""
    return EngineError(
        f"the server ended {_how(ended)} before it was healthy{why}{_excerpt(log)}",
        hint=cause.hint if cause else f"the whole log is in `{log}`",
    )


def _too_slow(running: Running, limit: float) -> TimedOutError:
    log = Path(running.log)
    return TimedOutError(
        f"the server is not healthy after {limit:g} s{_excerpt(log)}",
        hint="a large model needs more time from a slow disk; raise the limit",
    )


def _how(ended: Ended) -> str:
    match ended.exit_code:
        case None:
            return "(exit code unknown)"
        case code if code < 0:
            return f"by signal {-code}"
        case code:
            return f"with exit code {code}"


def _excerpt(log: Path) -> str:
    lines = last_lines(log, _EXCERPT_LINES)
    if not lines:
        return ""
    return "".join(f"\n    {line}" for line in (f"last lines of {log}:", *lines))


PROOF_SECONDS: Final = 8.0
_ASK_SECONDS: Final = 2.0
_LOOK_PAUSE: Final = 0.5
_IDLE_SHARE: Final = 0.02
"""Share of a core; a server that generates uses more, also with all layers on a GPU."""


def why_hung(
    running: Running, url: str, source_address: str, *, proof: float = PROOF_SECONDS
) -> str:
    """Return how a server hangs; empty where it answers, works or has ended.

    Returns at the first answer, and after `proof` seconds at the latest.
    """
    begun, used = time.monotonic(), _processor_seconds(running)
    while (left := begun + proof - time.monotonic()) > 0:
        if answers(running, url, source_address, min(left, _ASK_SECONDS)):
            return ""
        if wait_for_end(running, max(0.0, min(left, _LOOK_PAUSE))) is not None:
            return ""
    if _processor_seconds(running) - used > _IDLE_SHARE * proof:
        return ""
    state = "stopped by a signal" if _is_stopped(running) else "without any work"
    return f"pid {running.pid} hangs: no answer on /health for {proof:g} s, {state}"


def _processor_seconds(running: Running) -> float:
    with suppress(psutil.Error):
        times = psutil.Process(running.pid).cpu_times()
        return float(times.user + times.system)
    return 0.0


def _is_stopped(running: Running) -> bool:
    with suppress(psutil.Error):
        status: str = psutil.Process(running.pid).status()
        return status == psutil.STATUS_STOPPED
    return False


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

    def end_hung(self, say: Say) -> None:
        """End a process that is proven to hang, so that it can be started again."""
        running = self.running()
        if running is None:
            return
        if why := why_hung(running, self.url, self.door().source_address):
            say(Talk(self.record.address, f"{why}; it is ended, and started again"))
            with suppress(OSError), self.log.open("a", encoding="utf-8") as log:
                log.write(f"deployer: {why}; ended, and started again\n")
            stop(running, grace=HUNG_GRACE)

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

    def why_not(self) -> str:
        """Why it does not run, as far as its run directory tells."""
        if self.stopped.exists():
            return "stopped by `deployer server stop`"
        if self._ended_with_the_machine():
            return "not running since this machine was started"
        lines = last_lines(self.log, 50)
        if not lines:
            return "not running, and it left no log"
        cause = likely_cause(lines, None)
        reason = cause.meaning if cause else f"its log ends in `{lines[-1]}`"
        return f"crashed or was killed: {reason}"

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
