"""How a server comes up on Modal, takes over, and goes."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from deployer.engines.modal import apps
from deployer.engines.modal.billing import Meter, changed
from deployer.engines.modal.drive import Account, Deployed
from deployer.engines.modal.lower import (
    CANDIDATE_SCALING,
    CLOSED,
    primes_of,
    rate_of,
    scaling_of,
    strategy_of,
    tags_of,
)
from deployer.engines.modal.render import (
    CANDIDATE_FILE,
    SERVER_FILE,
    TRYOUT_FILE,
    mark_promoted,
    on_disk,
    promoted_files,
    record_files,
    recorded,
    rendered_server,
)
from deployer.engines.modal.wait import (
    QUEUE_SECONDS,
    Log,
    Started,
    Target,
    Wait,
    bring_up,
    is_ours,
    last_words,
    no_line,
    not_started,
    result_of,
    seen,
    wait_for,
    woken,
)
from deployer.errors import (
    CancelledError,
    DeployerError,
    EngineError,
    PromotionError,
)
from deployer.planning.events import Say, Talk, Used
from deployer.planning.plan import gates_of
from deployer.planning.progress import Progress
from deployer.planning.resources import Kind, Node
from deployer.planning.state import (
    FAILED_RESTORES,
    HANDED_OVER,
    MEASURED,
    PLAIN,
    UNUSED,
    Measured,
    Record,
    is_automatic,
)
from deployer.runtime.serve import READY
from deployer.stack.fields.values import Flat, JsonValue

COPY: Final = "copy"
"""Output of a record that stands beside the live one it is a copy of."""
TRIED: Final = "/tried"
"""Folder of the Volume: one below it for each command line that was started once."""
TAG_LETTERS: Final = 32
"""Letters of a key, as the tag of a deployment."""
IDLE_WINDOW: Final = 2
"""Seconds: the shortest that Modal takes."""

_CANDIDATE: Final = "candidate"
_WINDOW: Final = apps.DEFAULT_WINDOW
"""Seconds that Modal keeps an idle container where the stack says nothing."""
_IDLE_SECONDS: Final = 120
_TRIES: Final = 3
"""Starts after which no restore is waited for any more that could be measured."""
_JUDGE: Final = "restore"
"""The gate that judges restores, those that failed before it included."""
_RESTORES: Final = 2
"""Restores in a row after which no more types of workers are looked for."""


class Rollout:
    """Brings one server up, in one account, telling how it goes."""

    def __init__(
        self,
        account: Account,
        folder: Path,
        meter: Meter,
        say: Say,
        headers: Callable[[], Mapping[str, str]],
    ) -> None:
        self._account = account
        self._folder = folder
        """Folder of the stack."""
        self._meter = meter
        self._say = say
        self._headers = headers
        """Headers that pass Modal's proxy."""

    def try_out(self, node: Node, needs: Mapping[str, Flat]) -> float | None:
        """Start the command line once where nothing starts it again.

        Returns the seconds that a client waits for such a start; None where they were
        not measured.  Raises EngineError with the likely cause; a command line that was
        started before is not started again.
        """
        rendering = rendered_server(node, needs, self._folder)
        server = rendering.server
        marker = f"{TRIED}/{server.run_key}/result.json"
        known = self._account.read(apps.VOLUME, marker)
        if known is not None and (waited := _waited(known)) is not None:
            self._tell(node.address, "this command line was tried before")
            return waited
        self._tell(node.address, "tries the command line once, without retries")
        limit = server.program.start_timeout + QUEUE_SECONDS
        wait = Wait(node.address, "a first start on Modal", limit, show=is_ours)
        with on_disk(rendering.files, TRYOUT_FILE) as file:
            running = self._account.running(file, apps.TRYOUT_FUNCTION)
            rate = rate_of(needs, node)
            with self._meter.running("tryout", rate), running as (call, app):
                log = Log(self._account, app)
                begun = time.monotonic()
                try:
                    result = result_of(call, log, self._say, wait)
                except EngineError as error:
                    last_words(log, self._say, node.address)
                    raise _told(
                        not_started(log, error.message), "nothing was deployed"
                    ) from None
        content = json.dumps(_with_wait(result, time.monotonic() - begun)).encode()
        self._account.write(apps.VOLUME, {marker: content})
        return _waited(content)

    def stage(self, node: Node, needs: Mapping[str, Flat]) -> Flat:
        """Bring the candidate up, from the files that were recorded if there are."""
        rendering = rendered_server(node, needs, self._folder)
        server, app = rendering.server, apps.candidate_app(rendering.server.stack)
        files = promoted_files(self._account, server.stack, node.key)
        again = files is not None
        if files is None:
            files = rendering.files
            record_files(self._account, server.stack, node.key, files)
        rate = rate_of(needs, node)
        self._meter.begin(_CANDIDATE, rate)
        target = self._deploy_candidate(node.address, app, node.key, files)
        target = replace(target, restores=server.captures)
        limit = server.program.start_timeout
        outputs: dict[str, JsonValue] = {
            "candidate_url": target.url,
            "start_timeout": limit,
            "rate": rate,
            "gpu": list(server.machine.gpus),
        }
        with self._stopped_on_failure(app):
            first = self._wake(node.address, target, limit)
            if server.captures:
                starts = self._provoked(node, target, limit, first)
                # Gates may think for longer than a candidate that sleeps soon stays.
                self._account.scale(app, CANDIDATE_SCALING)
                plain = needs[Kind.SNAPSHOT].get(PLAIN)
                outputs |= self._measured(node, starts, plain, again=again)
        if secrets := {it.variable: it.name for it in server.front.secrets}:
            outputs["secrets"] = dict(secrets)
        if server.front.closed:
            outputs[CLOSED] = True
        return outputs

    def promote(self, record: Record, before: Record | None) -> Flat:
        """Deploy the proven files as what clients know; returns where it answers.

        What served before goes on until a container of the new version has proven
        itself, and is what serves after a failure and after Ctrl-C: nothing here stops
        an app that served.  Raises PromotionError where it serves on, and another
        EngineError where that is unknown, so that the state keeps the promotion.
        """
        app = apps.server_app(_stack(record))
        served = self._account.app(app)
        self._refuse_stranger(app, served, record, before)
        rate = _rate(record)
        try:
            with self._meter.running("production", rate):
                outputs = self._serve(record, served)
        except BaseException as error:
            kind: type[EngineError] = PromotionError
            try:
                said = self._put_back(app, record, served, before)
            except DeployerError as failure:
                kind = EngineError
                said = (
                    f"{failure.message}, so which version serves is unknown;"
                    " `deployer apply` finishes the promotion"
                )
            if not isinstance(error, DeployerError) or isinstance(
                error, CancelledError
            ):
                raise
            hint = f"{error.hint}; {said}" if error.hint else said
            raise kind(
                f"app `{app}` did not come up: {error.message}", hint=hint
            ) from None
        mark_promoted(self._account, _stack(record), record.key)
        self._stop_if(apps.candidate_app(_stack(record)), record)
        window = scaling_of(record.fields).scaledown_window or _WINDOW
        self._meter.add("idling after that", window, rate)
        self.tell_costs(record)
        return outputs

    def tell_costs(self, record: Record) -> None:
        """Say what was used since the last time, and where prices are others by now."""
        if not (said := self._meter.told()):
            return
        self._say(Used(record.address, said))
        if prices := changed(self._account.program.rates(), record.fields):
            self._tell(record.address, f"Modal's prices now: {', '.join(prices)}")

    def start(self, record: Record) -> None:
        """Serve again where it does not, or where somebody deployed something else.

        A candidate whose promotion was interrupted is not started: it is deployed when
        the promotion goes on.
        """
        if "url" not in record.outputs:
            return
        app = apps.server_app(_stack(record))
        found = self._account.app(app)
        ours = found is not None and is_of(found, record)
        if not ours or moved(self._account, app, record):
            self._serve(record, found)

    def renew(self, record: Record) -> bool:
        """Roll the app over to fresh containers; false where it is not there.

        Containers of before answer until those are ready.  Where they do not come up,
        nothing is rolled back: an earlier version would see the same secrets.
        """
        app = apps.server_app(_stack(record))
        found = self._account.app(app)
        if found is None or not is_of(found, record):
            return False
        old = self._tasks(app)
        self._tell(record.address, f"gives app `{app}` fresh containers")
        self._account.program.rollover(app)
        # A deployment resets what was changed in place.
        self._account.settle(app, scaling_of(record.fields), tags_of(record.fields))
        now, url = self._account.app(app), str(record.outputs["url"])
        since = None if now is None else now.deployed_at
        target = Target(app, url, record.key, since, old, alone=False)
        try:
            self._wake(record.address, target, _start_seconds(record))
        except EngineError as error:
            kept = "containers of before serve on, until Modal ends them"
            raise _told(error, f"{kept}; correct the secret and run it again") from None
        return True

    def stop(self, record: Record) -> None:
        """Stop the app that serves; its files stay."""
        app = apps.server_app(_stack(record))
        self._tell(record.address, f"stops app `{app}`")
        self._account.stop(app)

    def retire(self, record: Record) -> None:
        """Stop every app that serves this record, and the builder with the last.

        A candidate and a copy of what is live are served by the candidate app alone:
        production may be of the same key, by another state.
        """
        stack = _stack(record)
        self._stop_if(apps.candidate_app(stack), record)
        self.tell_costs(record)
        if "url" not in record.outputs and HANDED_OVER not in record.outputs:
            return
        if self._stop_if(apps.server_app(stack), record):
            self._account.stop(apps.builder_app(stack))

    def idle(self, record: Record, seconds: float) -> None:
        """Let the candidate scale to zero, and then be for as long as is asked for.

        Nothing is billed from the moment at which its last container is gone.
        """
        app = apps.candidate_app(_stack(record))
        begun = time.monotonic()
        self._sleep(app)
        self._tell(record.address, f"app `{app}` is scaled to zero")
        rest = seconds - (time.monotonic() - begun)
        if rest > 0:
            self._say(Progress("idle", 0, int(rest), unit="s"))
            threading.Event().wait(rest)

    def restore(self, record: Record) -> Started:
        """Ask a server that sleeps; how it came up."""
        app = app_of(record)
        url = str(record.outputs["url" if "url" in record.outputs else "candidate_url"])
        found = self._account.app(app)
        since = None if found is None else found.deployed_at
        target = Target(app, url, record.key, since, restores=True)
        return self._wake(
            record.address, seen(self._account, target), _start_seconds(record)
        )

    def woken(self, record: Record, ask: Callable[[], object]) -> Started | None:
        """Ask what serves where it sleeps; how it came up, None where it was awake."""
        app = apps.server_app(_stack(record))
        found = self._account.app(app)
        if found is None or not is_of(found, record) or self._account.containers(app):
            ask()
            return None
        target = Target(
            app,
            str(record.outputs["url"]),
            record.key,
            found.deployed_at,
            restores=True,
        )
        known = seen(self._account, target)
        return woken(self._account, known, ask, self._say, record.address)

    def copy(self, record: Record) -> Record:
        """The candidate app with the files of what is live, asleep with a snapshot."""
        app = apps.candidate_app(_stack(record))
        files = recorded(self._account, _stack(record), record.key)
        if files is None:
            raise _no_files(record)
        target = self._deploy_candidate(record.address, app, record.key, files)
        with self._stopped_on_failure(app):
            self._wake(record.address, target, _start_seconds(record))
        outputs = {**record.outputs, "candidate_url": target.url, COPY: True}
        del outputs["url"]
        return replace(record, outputs=outputs)

    def _deploy_candidate(
        self, address: str, app: str, key: str, files: Mapping[str, bytes]
    ) -> Target:
        """Deploy the app that the gates look at, with nothing of before in it."""
        found = self._account.app(app)
        if (
            found is not None
            and found.tags.get(apps.KEY_TAG) != key[: apps.KEY_LETTERS]
        ):
            self._account.stop(app)  # its containers would answer for a while
        self._tell(address, f"deploys app `{app}`")
        with on_disk(files, CANDIDATE_FILE) as file:
            deployed = self._account.deploy(file, key[:TAG_LETTERS])
        url = self._account.url(app)
        return Target(app, url, key, deployed.deployed_at, tells=_tells(files))

    @contextmanager
    def _stopped_on_failure(self, app: str) -> Iterator[None]:
        """Stop the candidate where the block fails: it would be started in a loop."""
        try:
            yield
        except EngineError as error:
            self._account.stop(app)
            raise _told(error, f"app `{app}` was stopped") from None
        except BaseException:
            with suppress(DeployerError):
                self._account.stop(app)
            raise

    def _sleep(self, app: str) -> None:
        """Let a candidate scale to zero soon."""
        account = self._account
        account.scale(app, apps.Scaling(0, 1, None, IDLE_WINDOW))
        wait_for(
            lambda: True if account.containers(app) == 0 else None,
            Log(account, app),
            self._say,
            Wait(app, "going idle", _IDLE_SECONDS, show=no_line),
        )

    def _provoked(
        self, node: Node, target: Target, limit: int, first: Started
    ) -> tuple[Started, ...]:
        """Provoke cold starts of the candidate; returns all, the first one included.

        Until enough snapshots were taken and one was restored, as far as that can be
        had.  Modal takes one for each type of worker that a start lands on, so that a
        start on one that has a snapshot restores.  Production is left alone: it takes
        its own at the first cold starts that its clients cause.
        """
        wanted, taken, restored, tries = primes_of(node.fields), 1, 0, 0
        starts = [first]
        while True:
            if taken < wanted and restored < _RESTORES:
                what = f"cold start for snapshot {taken + 1} of {wanted}"
            elif tries < _TRIES and not _restored(starts):
                what, tries = "cold start to measure a restore", tries + 1
            else:
                return tuple(starts)
            self._tell(node.address, what)
            self._sleep(target.app)
            started = self._wake(node.address, seen(self._account, target), limit)
            starts.append(started)
            if started.captured:
                taken, restored = taken + 1, 0
            else:
                restored += 1

    def _measured(
        self, node: Node, starts: Sequence[Started], plain: JsonValue, *, again: bool
    ) -> Flat:
        """Return what the starts of a candidate show of its snapshots, as outputs.

        Raises EngineError where each restore failed and no gate judges that.  What was
        promoted before and is staged `again` was decided then.
        """
        captures = [it.seconds for it in starts if it.captured and not it.failed]
        restores = _restored(starts)
        measured = Measured(
            plain if isinstance(plain, float) else None,
            captures[0] if captures else None,
            restores[0] if restores else None,
        )
        failed, came = sum(it.failed for it in starts), sum(it.really for it in starts)
        self._tell(node.address, measured.line)
        outputs: dict[str, JsonValue] = {MEASURED: measured._asdict()}
        if failed:
            outputs[FAILED_RESTORES] = failed
        why = measured.why_not
        if failed and not restores:
            why = f"{failed} of {failed + came} restores failed"
        if again:
            return outputs
        if is_automatic(node):
            return {**outputs, UNUSED: why} if why else outputs
        if failed and not came and _JUDGE not in gates_of(node.fields):
            raise EngineError(
                f"its snapshot cannot be restored: {why}",
                hint="`snapshot: {enabled: auto}` serves without one where that is so",
            )
        return outputs

    def _serve(self, record: Record, served: Deployed | None) -> Flat:
        """Deploy what clients know, and wait until this very version is ready."""
        app = apps.server_app(_stack(record))
        files = recorded(self._account, _stack(record), record.key)
        if files is None:
            raise _no_files(record)
        tells = _tells(files)
        old = frozenset[str]() if tells or served is None else self._tasks(app)
        self._tell(record.address, f"deploys app `{app}`")
        with on_disk(files, SERVER_FILE) as file:
            tag, how = record.key[:TAG_LETTERS], strategy_of(record.fields)
            deployed = self._account.deploy(file, tag, how)
        # Recorded files hold the scaling of their time; it may have changed since.
        self._account.settle(app, scaling_of(record.fields), tags_of(record.fields))
        url = self._account.url(app)
        alone = served is None or served.id != deployed.id
        target = Target(app, url, record.key, deployed.deployed_at, old, alone, tells)
        self._wake(record.address, target, _start_seconds(record))
        now = self._account.app(app)
        if now is None or not is_of(now, record):
            raise EngineError(
                f"app `{app}` was deployed by hand while it came up",
                hint=f"`modal app history {app}` shows who",
            )
        return {"url": url}

    def _tasks(self, app: str) -> frozenset[str]:
        return frozenset(self._account.tasks(app))

    def _wake(self, address: str, target: Target, start_timeout: int) -> Started:
        target = replace(target, headers=self._headers())
        limit = float(start_timeout + QUEUE_SECONDS)
        return bring_up(self._account, target, self._say, about=address, limit=limit)

    def _refuse_stranger(
        self,
        app: str,
        found: Deployed | None,
        record: Record,
        before: Record | None,
    ) -> None:
        """Do not replace what somebody else deployed under the same name."""
        known = [it for it in (record, before) if it is not None]
        if found is None or any(is_of(found, it) for it in known):
            return
        by = f" by {found.deployed_by}" if found.deployed_by else ""
        raise PromotionError(
            f"app `{app}` is not what the state says: version {found.version} was"
            f" deployed{by} at {found.since}",
            hint=f"`modal app history {app}` shows who; `modal app stop {app}` makes"
            " room, and `deployer apply` then deploys this stack",
        )

    def _put_back(
        self,
        app: str,
        record: Record,
        served: Deployed | None,
        before: Record | None,
    ) -> str:
        """Make what served before the version of the app again; returns what serves.

        Raises EngineError where it could not be made so.
        """
        now = self._account.app(app)
        if now is None:
            return f"app `{app}` is not deployed"
        if not is_of(now, record):
            return f"version {now.version} of app `{app}` serves, which is not ours"
        if served is None or before is None:
            self._account.stop(app)  # nothing served; it would start in a loop
            return f"app `{app}` was stopped, as nothing served before"
        version = served.version
        if is_of(served, record):  # an earlier run had deployed it
            tag = before.key[:TAG_LETTERS]
            history = self._account.program.history(app)
            version = next((it.number for it in history if it.tag == tag), 0)
        if not version:
            raise EngineError(f"app `{app}` has no version of what served before")
        self._account.program.rollback(app, version)
        return f"version {version} of app `{app}` serves on"

    def _stop_if(self, app: str, record: Record) -> bool:
        """Stop an app that serves this record; whether it did."""
        found = self._account.app(app)
        if found is None or not is_of(found, record):
            return False
        self._tell(record.address, f"stops app `{app}`")
        if app.endswith(f"-{_CANDIDATE}"):
            self._meter.end(_CANDIDATE)
        return self._account.stop(app)

    def _tell(self, address: str, text: str) -> None:
        self._say(Talk(address, text))


def _restored(starts: Sequence[Started]) -> list[float]:
    """Seconds of the starts that were a restore at the first try."""
    return [it.seconds for it in starts if it.really and not it.failed]


def _with_wait(result: object, wall: float) -> JsonValue:
    """The answer of a tryout, with what a client would have waited for such a start."""
    if not isinstance(result, Mapping):
        return {}
    seconds, beside = float(result["seconds"]), float(result["beside"])
    return {"seconds": seconds, "waited": round(max(seconds, wall - beside), 1)}


def _waited(content: bytes) -> float | None:
    """The seconds that a recorded tryout took; None for one of an older deployer."""
    with suppress(ValueError, TypeError, KeyError):
        return float(json.loads(content)["waited"])
    return None


def is_of(found: Deployed, record: Record) -> bool:
    """Return whether an app serves this very record."""
    return found.tags.get(apps.KEY_TAG) == record.key[: apps.KEY_LETTERS]


def app_of(record: Record) -> str:
    """The app that serves a record: the candidate until it was promoted."""
    stack = _stack(record)
    live = "url" in record.outputs
    return apps.server_app(stack) if live else apps.candidate_app(stack)


def moved(account: Account, app: str, record: Record) -> bool:
    """Return whether somebody deployed the app, or rolled it back, since we did."""
    newest = next(iter(account.program.history(app)), None)
    return newest is not None and newest.tag not in ("", record.key[:TAG_LETTERS])


def _tells(files: Mapping[str, bytes]) -> bool:
    """Return whether containers of these files say in the log that they are ready."""
    return READY.encode() in files.get("runtime/serve.py", b"")


def _told(error: EngineError, aftermath: str) -> EngineError:
    """Return the same error, with what became of the app."""
    hint = f"{error.hint}; {aftermath}" if error.hint else aftermath
    return EngineError(error.message, hint=hint)


def _rate(record: Record) -> float:
    """Dollars for a second of one container of a server."""
    rate = record.outputs.get("rate")
    return rate if isinstance(rate, float) else 0.0


def _start_seconds(record: Record) -> int:
    limit = record.outputs.get("start_timeout")
    return limit if isinstance(limit, int) else QUEUE_SECONDS


def _no_files(record: Record) -> EngineError:
    return EngineError(
        f"the files of `{record.address}` are not on Volume `{apps.VOLUME}`",
        hint="run `deployer apply`, which renders them again",
    )


def _stack(record: Record) -> str:
    return record.address.partition("/")[0]
