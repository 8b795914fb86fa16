"""How a server comes up on Modal, takes over, and goes."""

import json
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from deployer.engines.modal import apps
from deployer.engines.modal.billing import Meter, changed
from deployer.engines.modal.drive import Account
from deployer.engines.modal.lower import primes_of, rate_of, scaling_of
from deployer.engines.modal.release_files import (
    mark_promoted,
    on_disk,
    promoted_files,
    record_files,
    recorded,
    render,
)
from deployer.engines.modal.render import CANDIDATE_FILE, SERVER_FILE, TRYOUT_FILE
from deployer.engines.modal.types import Deployed
from deployer.engines.modal.wait import (
    QUEUE_SECONDS,
    Log,
    Wait,
    is_ours,
    last_words,
    no_line,
    not_started,
    result_of,
    wait_for,
    wake,
)
from deployer.errors import (
    CancelledError,
    DeployerError,
    EngineError,
    PromotionError,
    TimedOutError,
)
from deployer.planning.events import Progress, Say, Talk, Used
from deployer.planning.resources import Node
from deployer.planning.state import Record
from deployer.stack.fields.values import Flat, JsonValue

COPY: Final = "copy"
"""Output of a record that stands beside the live one it is a copy of."""
TRIED: Final = "/tried"
"""Of the Volume: a folder for each command line that was started once."""
TAG_LETTERS: Final = 32
"""Of a key, as the tag of a deployment."""
IDLE_WINDOW: Final = 2
"""Seconds: the shortest that Modal takes."""

_CANDIDATE: Final = "candidate"
_WINDOW: Final = 60
"""Seconds that Modal keeps an idle container where the stack says nothing."""
_IDLE_SECONDS: Final = 120


class Rollout:
    """Brings one server up, in one account, telling how it goes."""

    def __init__(self, account: Account, folder: Path, meter: Meter, say: Say) -> None:
        self._account = account
        self._folder = folder
        """Of the stack."""
        self._meter = meter
        self._say = say

    def try_out(self, node: Node, needs: Mapping[str, Flat]) -> None:
        """Start the command line once where nothing starts it again.

        Raises EngineError with the likely cause; a command line that was started
        before is not started again.
        """
        rendering = render(node, needs, self._folder)
        server = rendering.server
        marker = f"{TRIED}/{server.run_key}"
        if self._account.listed(apps.VOLUME, marker) is not None:
            self._tell(node.address, "this command line was tried before")
            return
        self._tell(node.address, "tries the command line once, without retries")
        limit = server.program.start_timeout + QUEUE_SECONDS
        wait = Wait(node.address, "a first start on Modal", limit, show=is_ours)
        with on_disk(rendering.files, TRYOUT_FILE) as file:
            running = self._account.running(file, apps.TRYOUT_FUNCTION)
            rate = rate_of(needs, node)
            with self._meter.running("tryout", rate), running as (call, app):
                log = Log(self._account, app)
                try:
                    result = result_of(call, log, self._say, wait)
                except EngineError as error:
                    last_words(log, self._say, node.address)
                    raise not_started(
                        log, error.message, "nothing was deployed"
                    ) from None
        self._account.write(
            apps.VOLUME, {f"{marker}/result.json": json.dumps(result).encode()}
        )

    def stage(self, node: Node, needs: Mapping[str, Flat]) -> Flat:
        """Bring the candidate up, from the files that were recorded if there are."""
        rendering = render(node, needs, self._folder)
        server, app = rendering.server, apps.candidate_app(rendering.server.stack)
        files = promoted_files(self._account, node.key)
        if files is None:
            files = rendering.files
            record_files(self._account, node.key, files)
        self._tell(node.address, f"deploys app `{app}`")
        with on_disk(files, CANDIDATE_FILE) as file:
            self._account.deploy(file, node.key[:TAG_LETTERS])
        url = self._account.url(app)
        rate = rate_of(needs, node)
        self._meter.begin(_CANDIDATE, rate)
        self._wake(node.address, app, url, server.program.start_timeout)
        outputs: dict[str, JsonValue] = {
            "candidate_url": url,
            "start_timeout": server.program.start_timeout,
            "rate": rate,
            "gpu": list(server.machine.gpus),
        }
        if server.front.secret is None:
            return outputs
        secret = server.front.secret
        return {**outputs, "secret": secret.name, "api_key_env": secret.variable}

    def promote(self, record: Record, before: Record | None) -> Flat:
        """Deploy the proven files as what clients know; returns where it answers.

        Raises PromotionError with what served before serving again.
        """
        app = apps.server_app(_stack(record))
        self._refuse_stranger(app, record, before)
        rate = _rate(record)
        try:
            with self._meter.running("production", rate):
                outputs = self._serve(record)
        except CancelledError:
            raise
        except DeployerError as error:
            self._bring_back(app, before)
            raise PromotionError(
                f"app `{app}` did not come up: {error.message}",
                hint=error.hint or "what served before serves again",
            ) from None
        mark_promoted(self._account, record.key)
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
            self._serve(record)

    def stop(self, record: Record) -> None:
        """Stop the app that serves; its files stay."""
        app = apps.server_app(_stack(record))
        self._tell(record.address, f"stops app `{app}`")
        self._account.stop(app)

    def retire(self, record: Record) -> None:
        """Stop every app that serves this record, and the builder with the last.

        A copy of what is live is served by the candidate app alone.
        """
        stack = _stack(record)
        self._stop_if(apps.candidate_app(stack), record)
        self.tell_costs(record)
        if COPY in record.outputs:
            return
        if self._stop_if(apps.server_app(stack), record):
            self._account.stop(apps.builder_app(stack))

    def idle(self, record: Record, seconds: float) -> None:
        """Let the candidate scale to zero, and then be for as long as is asked for.

        Nothing is billed from the moment at which its last container is gone.
        """
        app = apps.candidate_app(_stack(record))
        begun = time.monotonic()
        if not self._sleep(app):
            raise EngineError(f"app `{app}` did not scale to zero")
        self._tell(record.address, f"app `{app}` is scaled to zero")
        rest = seconds - (time.monotonic() - begun)
        if rest > 0:
            self._say(Progress("idle", 0, int(rest), unit="s"))
            threading.Event().wait(rest)

    def restore(self, record: Record) -> tuple[float, bool]:
        """Ask a server that sleeps; the seconds, and whether it was a restore."""
        app = app_of(record)
        url = str(record.outputs["url" if "url" in record.outputs else "candidate_url"])
        return self._wake(record.address, app, url, _start_seconds(record))

    def copy(self, record: Record) -> Record:
        """The candidate app with the files of what is live, asleep with a snapshot."""
        app = apps.candidate_app(_stack(record))
        files = recorded(self._account, record.key)
        if files is None:
            raise _no_files(record)
        self._tell(record.address, f"deploys app `{app}` as a copy")
        with on_disk(files, CANDIDATE_FILE) as file:
            self._account.deploy(file, record.key[:TAG_LETTERS])
        url = self._account.url(app)
        self._wake(record.address, app, url, _start_seconds(record))
        outputs = {**record.outputs, "candidate_url": url, COPY: True}
        del outputs["url"]
        return replace(record, outputs=outputs)

    def _sleep(self, app: str) -> bool:
        """Let an app scale to zero soon; false where clients keep it awake."""
        account = self._account
        account.scale(app, apps.Scaling(0, None, None, IDLE_WINDOW))
        try:
            wait_for(
                lambda: True if account.containers(app) == 0 else None,
                Log(account, app),
                self._say,
                Wait(app, "going idle", _IDLE_SECONDS, show=no_line),
            )
        except TimedOutError:
            return False
        return True

    def _serve(self, record: Record) -> Flat:
        app = apps.server_app(_stack(record))
        files = recorded(self._account, record.key)
        if files is None:
            raise _no_files(record)
        self._tell(record.address, f"deploys app `{app}`")
        with on_disk(files, SERVER_FILE) as file:
            self._account.deploy(file, record.key[:TAG_LETTERS])
        self._scaled_as_stated(app, record, files)
        url = self._account.url(app)
        self._prime(record, app, url)
        return {"url": url}

    def _prime(self, record: Record, app: str, url: str) -> None:
        """Provoke the cold starts that capture; each is billed."""
        seconds = _start_seconds(record)
        self._wake(record.address, app, url, seconds)
        wanted = primes_of(record.fields)
        scaling = scaling_of(record.fields)
        if scaling.min_containers:
            return
        for number in range(2, wanted + 1):
            self._tell(record.address, f"cold start {number} of {wanted}")
            idle = self._sleep(app)
            self._account.scale(app, scaling)
            if not idle:
                self._tell(record.address, "clients keep it awake: primed no further")
                return
            self._wake(record.address, app, url, seconds)

    def _wake(
        self, address: str, app: str, url: str, start_timeout: int
    ) -> tuple[float, bool]:
        """The seconds until it is healthy, and whether they were a restore."""
        limit = float(start_timeout + QUEUE_SECONDS)
        return wake(self._account, app, url, self._say, about=address, limit=limit)

    def _scaled_as_stated(
        self, app: str, record: Record, files: Mapping[str, bytes]
    ) -> None:
        """Recorded files hold the scaling of their time; it may have changed since."""
        wanted = scaling_of(record.fields)
        words = {
            name: value for name, value in asdict(wanted).items() if value is not None
        }
        text = files[SERVER_FILE].decode()
        if not all(f"    {name}={value},\n" in text for name, value in words.items()):
            self._account.scale(app, wanted)

    def _refuse_stranger(self, app: str, record: Record, before: Record | None) -> None:
        """Do not replace what somebody else deployed under the same name."""
        found = self._account.app(app)
        known = [it for it in (record, before) if it is not None]
        if found is None or any(is_of(found, it) for it in known):
            return
        by = f" by {found.deployed_by}" if found.deployed_by else ""
        raise PromotionError(
            f"app `{app}` is not what the state says: version {found.version} was"
            f" deployed{by} at {found.deployed_at}",
            hint=f"`modal app history {app}` shows who; `modal app stop {app}` makes"
            " room, and `deployer apply` then deploys this stack",
        )

    def _bring_back(self, app: str, before: Record | None) -> None:
        """What served before serves again; where nothing did, nothing is left."""
        files = None if before is None else recorded(self._account, before.key)
        with suppress(DeployerError):
            if before is None or files is None:
                self._account.stop(app)
                return
            with on_disk(files, SERVER_FILE) as file:
                self._account.deploy(file, before.key[:TAG_LETTERS])
            self._scaled_as_stated(app, before, files)

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
    return newest is not None and newest.tag != record.key[:TAG_LETTERS]


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
        hint="run `deployer apply`, which renders them anew",
    )


def _stack(record: Record) -> str:
    return record.address.partition("/")[0]
