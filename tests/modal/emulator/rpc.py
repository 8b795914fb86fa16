"""Requests of the client and of containers, each a coroutine of one class."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import wraps
from typing import Any

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_grpc

from tests.modal.emulator.cloud import Cloud
from tests.modal.emulator.containers import Container
from tests.modal.emulator.pools import Pools

_LOG_READS = ("AppCountLogs", "AppFetchLogs")


class Service:
    """What every group of requests is given."""

    cloud: Cloud
    pools: Pools
    container: Container | None
    """Who asks, where a container does: each has a socket of its own."""

    def asking(self) -> Container:
        if self.container is None:
            raise GRPCError(Status.PERMISSION_DENIED, "only a container may ask this")
        return self.container


def rpc(
    answer: Callable[[Any, Any], Awaitable[Any]],
) -> Callable[[Any, Any], Awaitable[None]]:
    """A request with one answer; None is the empty one."""

    @wraps(answer)
    async def serve(self: Service, stream: Any) -> None:
        request = await stream.recv_message()
        lost = await _arrived(self, answer.__name__, request)
        result = await answer(self, request)
        if lost:
            await _cut(self)
        if _ends_early(self, answer.__name__):
            await stream.cancel()
            return
        await stream.send_message(Empty() if result is None else result)

    return serve


def rpc_stream(
    answers: Callable[[Any, Any], AsyncIterator[Any]],
) -> Callable[[Any, Any], Awaitable[None]]:
    """A request with a stream of answers."""

    @wraps(answers)
    async def serve(self: Service, stream: Any) -> None:
        request = await stream.recv_message()
        await _arrived(self, answers.__name__, request)
        async for result in answers(self, request):
            await stream.send_message(result)

    return serve


async def _arrived(self: Service, name: str, request: Any) -> bool:
    """Note a request; returns whether the network is cut before its answer."""
    cloud, faults = self.cloud, self.cloud.faults
    cloud.note(name, request, container=self.container is not None)
    if self.container is not None:
        return False
    if faults.cut_at == name and faults.cut_after > 0:
        faults.cut_after -= 1
    elif faults.cut_at == name:
        faults.cut_at = ""
        if faults.cut_answer:
            return True
        await _cut(self)
    if (message := faults.refused.get(name)) is not None:
        raise GRPCError(Status.FAILED_PRECONDITION, message)
    return False


def _ends_early(self: Service, name: str) -> bool:
    cloud = self.cloud
    read = self.container is None and name in _LOG_READS
    return read and cloud.chance.random() < cloud.faults.log_cut


async def _cut(self: Service) -> None:
    """End all connections; this request ends with its own."""
    self.cloud.cut.set()
    await asyncio.sleep(60)


def complete(requests: type[Service]) -> Any:
    """A servicer in which every request that is not written says so."""
    service: Any = type("Servicer", (requests, api_grpc.ModalClientBase), {})

    def missing(name: str) -> Callable[[Any, Any], Awaitable[None]]:
        async def serve(self: Service, stream: Any) -> None:
            request = await stream.recv_message()
            self.cloud.note(f"missing:{name}", request, container=bool(self.container))
            raise GRPCError(Status.UNIMPLEMENTED, f"the emulator has no {name}")

        return serve

    for name in service.__abstractmethods__:
        setattr(service, name, missing(name))
    service.__abstractmethods__ = frozenset()
    return service
