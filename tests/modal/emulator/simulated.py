"""Containers without a process: what a server of ours says and answers, in no time.

They are for stories by the thousand.  What the entrypoint does and what llama-server
answers is emulated here and tested with the real ones elsewhere; how the platform
starts, replaces and ends containers is the same code for both.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from modal._serialization import deserialize, serialize_data_format
from modal_proto import api_pb2 as pb

from tests.modal.emulator.cloud import Cloud, first_of
from tests.modal.emulator.containers import (
    CRASHED,
    CREATED,
    CREATING,
    RESTORE_FAILED,
    RESTORING,
    SEGFAULT,
    Container,
    say_too_slow,
    start_limit,
)

if TYPE_CHECKING:
    from tests.modal.emulator.pools import Pools

_ASGI = pb.DATA_FORMAT_ASGI
_STDOUT, _STDERR = pb.FILE_DESCRIPTOR_STDOUT, pb.FILE_DESCRIPTOR_STDERR
VERSION_HEADER = "x-emulated-server"
"""Of every answer: the key of the server that gave it, for clients of the tests."""
_LAST_WORDS = (
    "llama_model_load: error loading model: cudaMalloc failed: out of memory\n",
    "Traceback (most recent call last):\n",
    "RuntimeError: llama-server ended with 1 before it was healthy\n",
)
KEY_TAG, RUN_TAG = "deployer-server", "deployer-run"


async def start(cloud: Cloud, container: Container, how: str) -> int | None:
    """Start in one of three ways; the exit code of a start that failed."""
    faults, chance = cloud.faults, cloud.chance
    function_id, task_id = container.function_id, container.task_id
    if how == "restore":
        await cloud.log(function_id, task_id, RESTORING)
        if not await _takes(cloud, container, faults.restore_seconds):
            return 1
        if chance.random() < faults.restore_failure:
            return await _failed_restore(cloud, container)
    else:
        if how == "capture":
            await cloud.log(function_id, task_id, CREATING)
        seconds = {"capture": faults.capture_seconds, "plain": faults.start_seconds}
        if not await _takes(cloud, container, seconds[how]):
            return 1
        key, app = container.tags.get(KEY_TAG), cloud.app_of(function_id).name
        if {key, f"{app}:{key}"}.intersection(faults.broken):
            for text in _LAST_WORDS:
                await cloud.log(function_id, task_id, text, _STDERR)
            return 1
        if how == "capture":
            # A creating start says both: seen in logs of others (modal-client#4132).
            await cloud.log(function_id, task_id, CREATED)
            await cloud.log(function_id, task_id, RESTORING)
            if chance.random() < faults.capture_failure:
                await cloud.log(function_id, task_id, CRASHED)
                return SEGFAULT
    await _say_ready(cloud, container, how)
    return None


async def _failed_restore(cloud: Cloud, container: Container) -> int:
    """All kinds but the crash are seen by the server itself, which ends with 222."""
    kind = cloud.faults.restore_kind
    if kind == "any":
        kind = cloud.chance.choice(("139", "222", "never", "garbled"))
    function_id, task_id = container.function_id, container.task_id
    if kind == "139":
        await cloud.log(function_id, task_id, CRASHED)
        return SEGFAULT
    text = f"the restored server is not usable: {kind}\n"
    await cloud.log(function_id, task_id, text, _STDOUT)
    return RESTORE_FAILED


async def _say_ready(cloud: Cloud, container: Container, how: str) -> None:
    """The line that the rendered app prints once its server has proven itself."""
    ready = {
        "server": container.tags.get(KEY_TAG, ""),
        "run": container.tags.get(RUN_TAG, ""),
        "task": container.task_id,
        "restored": how == "restore",
    }
    text = f"deployer: ready {json.dumps(ready)}\n"
    await cloud.log(container.function_id, container.task_id, text, _STDOUT)


async def _takes(cloud: Cloud, container: Container, seconds: float) -> bool:
    """Whether it was let start for so long."""
    most = start_limit(container)
    await first_of(container.draining, within=min(seconds, most or seconds))
    if container.draining.is_set():
        return False
    if most and seconds > most:
        await say_too_slow(cloud, container)
        return False
    return True


async def serve(pools: "Pools", container: Container) -> None:
    """Answer inputs until there are none and it is told to go."""
    if container.definition.is_server:
        await container.draining.wait()
        container.ended.set()
        return
    most = max(1, container.definition.max_concurrent_inputs)
    room = asyncio.Semaphore(most)
    while True:
        await room.acquire()
        item = await pools.take(container)
        if item.kill_switch:
            break
        asyncio.ensure_future(_work(pools, container, item)).add_done_callback(
            lambda _task: room.release()
        )
    for _ in range(most - 1):
        await room.acquire()  # what it works on is ended
    container.ended.set()


async def _work(pools: "Pools", container: Container, item: Any) -> None:
    call = pools.calls[item.function_call_id]
    async for message in _answer(container, item.input):
        chunk = serialize_data_format(message, _ASGI)
        await call.data_out.put(pb.DataChunk(data_format=_ASGI, data=chunk))
    with suppress(KeyError):  # it was put back meanwhile
        pools.put_back(item.input_id)
    status = pb.GenericResult.GENERIC_STATUS_SUCCESS
    await call.finish(pb.GenericResult(status=status), task_id=container.task_id)


async def _answer(
    container: Container, item: pb.FunctionInput
) -> AsyncIterator[dict[str, object]]:
    ((scope,), _) = deserialize(item.args, None)
    await take_time(scope["query_string"].decode())
    body = answer_to(container, scope["path"])
    headers = [(VERSION_HEADER.encode(), container.tags.get(KEY_TAG, "").encode())]
    yield {"type": "http.response.start", "status": 200, "headers": headers}
    yield {"type": "http.response.body", "body": body, "more_body": False}


async def take_time(query: str) -> None:
    """Take as long as the request says: while a file is there (`?while=PATH`)."""
    held = dict(parse_qsl(query)).get("while")
    if held is not None:
        await asyncio.to_thread(_outlast, Path(held))


def _outlast(file: Path) -> None:
    while file.exists():
        time.sleep(0.02)


def answer_to(container: Container, path: str) -> bytes:
    """What llama-server says, as far as gates and clients of the tests look."""
    key = container.tags.get(KEY_TAG, "")
    return json.dumps(
        {"status": "ok", "path": path, "at": time.time(), "key": key}
    ).encode()
