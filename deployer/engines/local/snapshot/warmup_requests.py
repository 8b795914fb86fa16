"""Requests to a server that is to be frozen, or was just brought back."""

import http.client
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from deployer.errors import EngineError
from deployer.planning.warmup import request_of
from deployer.runtime import warmup as runtime
from deployer.stack.fields.units import show_seconds
from deployer.stack.fields.values import JsonValue

IDLE: Final = "--sleep-idle-seconds"
"""Option with which llama-server frees its memory when nobody asks."""
_PROPS_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Door:
    """Where a server is asked, and with which key."""

    host: str
    port: int
    api_key: str | None = field(default=None, repr=False)
    source_address: str = ""

    def get(self, path: str, limit: float) -> tuple[int, JsonValue]:
        """Status and content of a page; raises OSError where none comes in time."""
        return self._ask("GET", path, None, limit)

    def post(
        self, path: str, body: Mapping[str, JsonValue], limit: float
    ) -> tuple[int, JsonValue]:
        """Status and content of an answer; raises OSError where none comes in time."""
        return self._ask("POST", path, json.dumps(body), limit)

    def _ask(
        self, method: str, path: str, body: str | None, limit: float
    ) -> tuple[int, JsonValue]:
        connection = http.client.HTTPConnection(
            self.host,
            self.port,
            timeout=limit,
            source_address=(self.source_address, 0) if self.source_address else None,
        )
        headers = {"Content-Type": "application/json"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (http.client.HTTPException, ValueError) as error:
            raise ConnectionError(f"no whole answer: {error}") from error
        finally:
            connection.close()


def asleep(door: Door) -> bool:
    """Return whether a server says that it sleeps; asking does not wake it."""
    try:
        _, content = door.get("/props", _PROPS_SECONDS)
    except OSError:
        return False
    return isinstance(content, dict) and content.get("is_sleeping") is True


def warm_up(door: Door, requests: Sequence[JsonValue], folder: Path) -> None:
    """Make every request; raises EngineError at the first that is not answered."""
    stated = [request_of(it) for it in requests if isinstance(it, dict)]
    try:
        runtime.warm_up(door.post, stated, folder)
    except runtime.WarmupError as error:
        raise EngineError(
            str(error),
            hint="nothing was captured and what is live was left alone; mend"
            " that request in `snapshot.warmup`",
        ) from None


def why_no_answer(error: OSError, limit: float) -> str:
    """Say in words why a request came to nothing."""
    if isinstance(error, TimeoutError):
        return f"no answer within {show_seconds(limit)}"
    return str(error) or type(error).__name__
