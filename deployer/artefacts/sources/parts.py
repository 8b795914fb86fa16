"""Parts of a file over several connections, handed on in the order of the file.

What arrives early waits in memory, at most `CONNECTIONS` parts of it; so a file is
written, and hashed, from its first byte to its last, and what an interrupted run leaves
is the beginning of it, without a gap.
"""

import re
from collections import deque
from queue import SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from deployer.artefacts.sources.client import (
    CutOffError,
    other_size,
    reason_of,
    refuse_content,
)

if TYPE_CHECKING:
    import httpx2

    from deployer.artefacts.sources.download import Transfer

PART = 8 * 1024 * 1024
CONNECTIONS = 6
_STATED = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")

_Arriving: TypeAlias = "SimpleQueue[bytes | Exception | None]"
"""The blocks of a part; None behind the last one, an error where it broke off."""


def are_worth_it(transfer: "Transfer") -> bool:
    """Whether there is enough left to ask for, and a digest to judge the whole by."""
    left = 0 if transfer.size is None else transfer.size - transfer.done
    return transfer.pinned and not transfer.alone and left >= 2 * PART


def receive(client: "httpx2.Client", transfer: "Transfer", stream: BinaryIO) -> None:
    """Ask for the rest in parts, and append them; raises CutOffError where one ends.

    What came before the break is appended.
    """
    stop = Event()
    waiting: deque[_Arriving] = deque()
    try:
        for at in range(transfer.done, transfer.size or 0, PART):
            waiting.append(_begun(client, transfer, at, stop))
            if len(waiting) == CONNECTIONS:
                _append(waiting.popleft(), transfer, stream)
        while waiting:
            _append(waiting.popleft(), transfer, stream)
    finally:
        stop.set()


def _begun(
    client: "httpx2.Client", transfer: "Transfer", at: int, stop: Event
) -> _Arriving:
    arriving: _Arriving = SimpleQueue()

    def work() -> None:
        try:
            _fetch(client, transfer, at, stop, arriving)
        except Exception as error:  # noqa: BLE001 - raised where the part is awaited
            arriving.put(error)

    # Whoever stops waiting need not wait for a server that has gone silent.
    Thread(target=work, daemon=True).start()
    return arriving


def _append(arriving: _Arriving, transfer: "Transfer", stream: BinaryIO) -> None:
    while (block := arriving.get()) is not None:
        if isinstance(block, Exception):
            raise block
        transfer.write(stream, block)


def _fetch(
    client: "httpx2.Client",
    transfer: "Transfer",
    at: int,
    stop: Event,
    arriving: _Arriving,
) -> None:
    """Put the blocks of one part where they are waited for."""
    import httpx2  # noqa: PLC0415 - only a download pays for it

    size = transfer.size or 0
    end = min(at + PART, size)
    place = transfer.place
    headers = {**transfer.headers(place), "Range": f"bytes={at}-{end - 1}"}
    done = at
    try:
        with client.stream("GET", place, headers=headers) as answer:
            transfer.settle(answer, place)
            _refuse_other_part(answer, transfer, at)
            for block in answer.iter_raw():
                if stop.is_set():
                    return
                if done == 0:
                    refuse_content(answer, transfer.url, block)
                done += len(block)
                arriving.put(block)
    except httpx2.RemoteProtocolError as error:
        raise CutOffError("the server closed the connection") from error
    except (httpx2.NetworkError, httpx2.TimeoutException) as error:
        raise CutOffError(reason_of(error)) from error
    if done != end:
        raise CutOffError(f"the connection ended after {done} of {end} bytes")
    arriving.put(None)


def _refuse_other_part(
    answer: "httpx2.Response", transfer: "Transfer", at: int
) -> None:
    """Raise where the server sends no part, another one, or one of another file."""
    stated = _STATED.fullmatch(answer.headers.get("content-range", ""))
    if answer.status_code != 206 or stated is None or int(stated[1]) != at:
        raise CutOffError("the server sent another part than asked for")
    if stated[3] != "*" and transfer.size and int(stated[3]) != transfer.size:
        raise other_size(transfer.url, int(stated[3]), transfer.size)
