"""Function calls: one input, what it came to, and the streams beside it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from modal_proto import api_pb2 as pb


@dataclass(slots=True)
class Channel:
    """Chunks in one direction, read from any index, until the call is done."""

    chunks: list[pb.DataChunk] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    closed: bool = False

    async def put(self, chunk: pb.DataChunk) -> None:
        async with self.changed:
            self.chunks.append(chunk)
            self.changed.notify_all()

    async def close(self) -> None:
        async with self.changed:
            self.closed = True
            self.changed.notify_all()

    async def read(self, last: int) -> AsyncIterator[pb.DataChunk]:
        """The chunks after number ``last``, as they come."""
        while True:
            async with self.changed:
                while len(self.chunks) <= last and not self.closed:
                    await self.changed.wait()
            if len(self.chunks) <= last:
                return
            last += 1
            yield self.chunks[last - 1]


@dataclass(slots=True)
class Call:
    """One call with one input."""

    id: str
    function_id: str
    input_id: str
    data_in: Channel = field(default_factory=Channel)
    data_out: Channel = field(default_factory=Channel)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    output: pb.FunctionGetOutputsItem | None = None

    async def finish(
        self,
        result: pb.GenericResult,
        *,
        data_format: "pb.DataFormat.ValueType" = pb.DATA_FORMAT_UNSPECIFIED,
        task_id: str = "",
    ) -> None:
        """The call is over; a second end is none."""
        if self.done.is_set():
            return
        self.output = pb.FunctionGetOutputsItem(
            result=result,
            idx=0,
            input_id=self.input_id,
            data_format=data_format,
            task_id=task_id,
        )
        self.done.set()
        await self.data_in.close()
        await self.data_out.close()

    async def fail(self, why: str) -> None:
        """The call ends in an error of the platform."""
        status = pb.GenericResult.GENERIC_STATUS_FAILURE
        await self.finish(pb.GenericResult(status=status, exception=why))
