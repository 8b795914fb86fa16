"""How a server on Modal is, and what it says."""

import threading
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from deployer.engines.contract import Observation
from deployer.engines.modal import apps
from deployer.engines.modal.artefacts import folder_of
from deployer.engines.modal.drive import Account
from deployer.engines.modal.rollout import app_of, is_of, moved
from deployer.engines.modal.types import SYSTEM, Deployed
from deployer.engines.modal.wait import RESTORED, Log, any_line
from deployer.errors import AuthError, EngineError
from deployer.planning.resources import Kind
from deployer.planning.state import Record
from deployer.stack.fields.values import JsonValue
from deployer.system.children import growing

_SEARCHED_LINES: Final = 200
_PAUSES: Final = (0.1, 1.0)
"""The first and the longest between two looks at a log."""


class Seeing:
    """Looks; changes nothing."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def observe(self, record: Record) -> Observation:
        """Whether the app that serves a record is there, and all that it needs."""
        app = app_of(record)
        found = self._account.app(app)
        if found is None:
            detail = f"app `{app}` is stopped, or was never deployed"
            return Observation(running=False, healthy=False, detail=detail, facts={})
        if not is_of(found, record) or moved(self._account, app, record):
            by = f" by {found.deployed_by}" if found.deployed_by else ""
            detail = (
                f"app `{app}` was deployed by hand: version {found.version}{by}"
                f" at {found.since}"
            )
            return Observation(running=False, healthy=False, detail=detail, facts={})
        missing = (*self._missing_folders(record), *self._missing_secret(record))
        return self._seen(record, app, found, missing)

    def logs(self, record: Record, *, lines: int, follow: bool) -> Iterator[str]:
        """The last lines of the app that serves, and those that follow."""
        app = app_of(record)
        if self._account.app(app) is None:
            raise EngineError(
                f"app `{app}` does not run, so Modal shows no log of it",
                hint="`modal app list` has its id; `modal app logs ID` its last words",
            )
        return self._lines(app, lines, follow=follow)

    def _lines(self, app: str, lines: int, *, follow: bool) -> Iterator[str]:
        if lines:
            yield from (line.text for line in self._account.log(app).last(lines))
        if not follow:
            return
        log = Log(self._account, app)
        pauses = growing(*_PAUSES)
        while True:
            if arrived := log.arrived(any_line):
                yield from (line.text for line in arrived)
                pauses = growing(*_PAUSES)
            threading.Event().wait(next(pauses))

    def _seen(
        self, record: Record, app: str, found: Deployed, missing: tuple[str, ...]
    ) -> Observation:
        containers = self._account.containers(app)
        what = "scaled to zero" if not containers else _plural(containers, "container")
        facts: dict[str, JsonValue] = {
            "app": app,
            "version": found.version,
            "containers": containers,
            "deployed_at": found.since,
        }
        words = [f"app `{app}` version {found.version}", what]
        match record.outputs.get("gpu"):
            case [*gpus] if gpus:
                facts["gpu"] = gpus
                words.append(f"on {' or '.join(str(gpu) for gpu in gpus)}")
        if (restored := self._last_restore(app)) is not None:
            facts["last_restore"] = restored
            words.append(f"last restored {restored}")
        words += missing
        return Observation(
            running=True, healthy=not missing, detail=", ".join(words), facts=facts
        )

    def _last_restore(self, app: str) -> str | None:
        """When the last container came from a snapshot, as far as the log reaches."""
        for line in reversed(self._account.log(app).last(_SEARCHED_LINES)):
            if line.source == SYSTEM and line.text == RESTORED:
                return line.at.isoformat(timespec="seconds")
        return None

    def _missing_folders(self, record: Record) -> Iterator[str]:
        for role, key in record.needs.items():
            if role == Kind.SNAPSHOT:
                continue
            kind = Kind.BUILD if role == Kind.BUILD else Kind.WEIGHTS
            path = folder_of(kind, key)
            entries = self._account.listed(apps.VOLUME, path) or ()
            if not any(PurePosixPath(e.path).name == apps.COMPLETE for e in entries):
                yield f"`{path}` is gone from Volume `{apps.VOLUME}`"

    def _missing_secret(self, record: Record) -> Iterator[str]:
        match record.outputs:
            case {"secret": str(name), "api_key_env": str(variable)}:
                try:
                    self._account.require_secret(name, variable)
                except AuthError as error:
                    yield error.message
            case _:
                return


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
