"""A download on its way: over any number of connections, hashed while it arrives."""

import hashlib
import os
import re
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from deployer.artefacts.sources import parts
from deployer.artefacts.sources.client import (
    CutOffError,
    new_client,
    other_size,
    reason_of,
    refuse_content,
    translated,
)
from deployer.artefacts.sources.download import Transfer
from deployer.artefacts.sources.space import ensure_room

if TYPE_CHECKING:
    import httpx2

_BLOCK = 1024 * 1024
_ATTEMPTS = 5


def transferred(start: "partial[Transfer]", sha256: str | None) -> str:
    """The digest of the part file once everything is in it."""
    transfer = start()
    resumed = _resume(transfer)
    _run(transfer)
    if resumed and transfer.digest.hexdigest() != sha256:
        transfer.part.unlink()  # what was there before belonged to another file
        transfer = start()
        _run(transfer)
    return transfer.digest.hexdigest()


def _resume(transfer: Transfer) -> bool:
    """Take what an earlier run left; whether there was anything."""
    if not transfer.part.is_file():
        return False
    with transfer.part.open("rb") as stream:
        while block := stream.read(_BLOCK):
            transfer.digest.update(block)
            transfer.done += len(block)
    if transfer.size is not None and transfer.done > transfer.size:
        transfer.part.unlink()
        transfer.done, transfer.digest = 0, hashlib.sha256()
    return transfer.done > 0


def _run(transfer: Transfer) -> None:
    """Connect until everything is there; patience starts anew with each megabyte."""
    import stamina  # noqa: PLC0415 - only a download pays for it

    stamina.instrumentation.set_on_retry_hooks([])  # else it logs over the progress

    if transfer.size is not None and transfer.done == transfer.size:
        return
    with new_client() as client, translated(transfer.url):
        attempts = stamina.retry_context(
            on=CutOffError, attempts=_ATTEMPTS, timeout=None, wait_initial=0.5
        )
        for attempt in attempts:
            with attempt:
                _connect_while_it_moves(client, transfer)


def _connect_while_it_moves(client: "httpx2.Client", transfer: Transfer) -> None:
    while True:
        before, alone = transfer.done, transfer.alone
        try:
            if parts.are_worth_it(transfer):
                return _receive_parts(client, transfer)
            return _receive(client, transfer)
        except CutOffError:
            moved = transfer.done - before >= _BLOCK
            if not moved and transfer.alone is alone:
                raise


def _receive_parts(client: "httpx2.Client", transfer: Transfer) -> None:
    """The rest over several connections; one at a time where that does not move."""
    before = transfer.done
    ensure_room(
        transfer.part.parent, (transfer.size or 0) - before, purpose=transfer.name
    )
    with transfer.part.open("ab") as stream:
        try:
            parts.receive(client, transfer, stream)
        except CutOffError:
            transfer.alone = transfer.done == before
            raise
        finally:
            stream.flush()
        os.fsync(stream.fileno())


def _receive(client: "httpx2.Client", transfer: Transfer) -> None:
    """One connection: ask for the rest, and append it."""
    import httpx2  # noqa: PLC0415 - only a download pays for it

    place = transfer.place
    headers = transfer.headers(place)
    if transfer.done and (transfer.pinned or transfer.validator):
        headers["Range"] = f"bytes={transfer.done}-"
        if transfer.validator:
            headers["If-Range"] = transfer.validator
    try:
        with (
            client.stream("GET", place, headers=headers) as answer,
            transfer.part.open("ab") as stream,
        ):
            _append(answer, transfer, stream, place)
    except (httpx2.NetworkError, httpx2.TimeoutException) as error:
        raise CutOffError(reason_of(error)) from error
    except httpx2.RemoteProtocolError as error:
        raise CutOffError("the server closed the connection") from error


def _append(
    answer: "httpx2.Response", transfer: Transfer, stream: BinaryIO, asked: str
) -> None:
    if answer.status_code == 416:
        if answer.headers.get("content-range") == f"bytes */{transfer.done}":
            return  # all of it was here already; the digest has the last word
        transfer.restart(stream)
        raise CutOffError("the server has no more than what is already here")
    transfer.settle(answer, asked)
    whole = answer.status_code == 200
    if not whole and not _continues(answer, transfer):
        transfer.restart(stream)
        raise CutOffError("the server sent another part than asked for")
    if whole:
        transfer.restart(stream)
        _learn(answer, transfer)
    for block in answer.iter_raw():
        if transfer.done == 0:
            refuse_content(answer, transfer.url, block)
        transfer.write(stream, block)
    stream.flush()
    os.fsync(stream.fileno())
    if transfer.size is not None and transfer.done < transfer.size:
        raise CutOffError(
            f"the connection ended after {transfer.done} of {transfer.size} bytes"
        )


def _learn(answer: "httpx2.Response", transfer: Transfer) -> None:
    """Take size and validator from the first answer; check that there is room."""
    etag = answer.headers.get("etag", "")
    transfer.validator = "" if etag.startswith("W/") else etag
    stated = answer.headers.get("content-length", "")
    if not stated.isdigit():
        return
    size = int(stated)
    if transfer.size is not None and size != transfer.size:
        raise other_size(transfer.url, size, transfer.size)
    ensure_room(transfer.part.parent, size, purpose=transfer.name)
    transfer.size = size


def _continues(answer: "httpx2.Response", transfer: Transfer) -> bool:
    stated = answer.headers.get("content-range", "")
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", stated)
    if found is None or int(found[1]) != transfer.done:
        return False
    if transfer.size is None and found[2] != "*":
        transfer.size = int(found[2])
    return True
