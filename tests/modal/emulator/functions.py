"""Requests about functions and classes, their calls, and those of their containers."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

from grpclib import GRPCError, Status
from modal_proto import api_pb2 as pb

from tests.modal.emulator.calls import Call
from tests.modal.emulator.cloud import Address, Version, digest
from tests.modal.emulator.front import Front
from tests.modal.emulator.rpc import Service, rpc, rpc_stream

_FORMATS = (pb.DATA_FORMAT_PICKLE, pb.DATA_FORMAT_CBOR)
_LARGE = 64 * 1024 * 1024
_SERVER = "@server"


class Functions(Service):
    """Functions, as they are deployed and called."""

    front: Front

    @rpc
    async def FunctionPrecreate(self, request: Any) -> Any:
        function_id = request.existing_function_id or self.cloud.new("fu")
        await self._addresses(request.app_id, request)
        handle = self._handle(function_id, request)
        return pb.FunctionPrecreateResponse(
            function_id=function_id, handle_metadata=handle
        )

    @rpc
    async def FunctionCreate(self, request: Any) -> Any:
        function, machines = request.function, (request.function.resources,)
        if request.HasField("function_data"):  # a list of GPUs
            ranked = request.function_data.ranked_functions
            machines = tuple(it.function.resources for it in ranked)
            function = _flattened(request.function_data)
        function_id = request.existing_function_id or self.cloud.new("fu")
        await self._addresses(request.app_id, function)
        self.cloud.functions[function_id] = function
        settings = function.autoscaler_settings
        self.cloud.autoscaling.setdefault(function_id, settings)
        definition = f"de-{definition_digest(function, machines)[:22]}"
        self.cloud.definitions[definition] = function
        self.cloud.machines[definition] = machines
        handle = self._handle(
            function_id, function, app_id=request.app_id, definition=definition
        )
        if function.is_server:
            handle._experimental_flash_urls.append(
                self.cloud.urls[self._address(request.app_id, function, _SERVER)]
            )
        for name, method in function.method_definitions.items():
            address = self._address(request.app_id, function, name)
            method.web_url = self.cloud.urls.get(address, "")
        return pb.FunctionCreateResponse(
            function_id=function_id,
            function=function,
            handle_metadata=handle,
            function_data=_ranked(function),
        )

    @rpc
    async def ClassCreate(self, request: Any) -> Any:
        class_id = request.existing_class_id or self.cloud.new("cs")
        handle = pb.ClassHandleMetadata()
        return pb.ClassCreateResponse(class_id=class_id, handle_metadata=handle)

    @rpc
    async def FunctionGet(self, request: Any) -> Any:
        """A function by name; with a version, as it is in that one.

        Version-pinned look-ups are public since 1.5.0 (`Function.from_name`).
        """
        version = self._version(request)
        function_id = version.function_ids.get(request.object_tag)
        if function_id is None:
            raise _nothing(request)
        definition = version.definition_ids.get(function_id, "")
        handle = pb.FunctionHandleMetadata()
        handle.CopyFrom(self.cloud.handles[function_id])
        handle.definition_id = definition
        return pb.FunctionGetResponse(
            function_id=function_id,
            handle_metadata=handle,
            function=_ranked(self.cloud.definitions[definition]),
        )

    @rpc
    async def FunctionGetById(self, request: Any) -> Any:
        function_id = request.function_id
        return pb.FunctionGetByIdResponse(
            handle_metadata=self.cloud.handles[function_id],
            function=_ranked(self.cloud.functions[function_id]),
        )

    @rpc
    async def ClassGet(self, request: Any) -> Any:
        class_id = self._version(request).class_ids.get(request.object_tag)
        if class_id is None:
            raise _nothing(request)
        handle = pb.ClassHandleMetadata()
        return pb.ClassGetResponse(class_id=class_id, handle_metadata=handle)

    @rpc
    async def FunctionBindParams(self, request: Any) -> Any:
        return pb.FunctionBindParamsResponse(
            bound_function_id=request.function_id,
            handle_metadata=self.cloud.handles[request.function_id],
        )

    @rpc
    async def FunctionGetCurrentStats(self, request: Any) -> Any:
        mine = list(self.pools.of(request.function_id))
        return pb.FunctionStats(
            backlog=self.pools.waiting(request.function_id),
            num_total_tasks=len(mine),
            num_running_inputs=sum(container.active for container in mine),
        )

    @rpc
    async def FunctionGetTimeRangeStats(self, request: Any) -> Any:
        """Figures by the names that the client prints (`cli/function.py`)."""
        mine = [
            it
            for it in self.pools.containers.values()
            if it.function_id == request.function_id
        ]
        found = pb.FunctionGetTimeRangeStatsResponse(
            since=request.since,
            until=request.until,
            input_success_count=3,
            input_failure_count=1,
            container_started_count=len(mine),
        )
        starts = found.container_percentile_stats["Startup time (s)"]
        starts.percentiles.add(percentile_basis_points=5000, value=12.5)
        starts.percentiles.add(percentile_basis_points=9900, value=41.0)
        return found

    @rpc
    async def FunctionUpdateSchedulingParams(self, request: Any) -> Any:
        settings = self.cloud.autoscaling[request.function_id]
        changed = pb.AutoscalerSettings()
        changed.CopyFrom(settings)
        changed.MergeFrom(request.settings)
        for field, value in request.settings.ListFields():
            setattr(changed, field.name, value)
        self.cloud.autoscaling[request.function_id] = changed
        self.cloud.spawn(self.pools.ensure(request.function_id))
        return pb.FunctionUpdateSchedulingParamsResponse(current_settings=changed)

    @rpc
    async def FunctionGetSchedulingParams(self, request: Any) -> Any:
        settings = self.cloud.autoscaling[request.function_id]
        configuration = pb.AutoscalerConfiguration(settings=settings)
        return pb.FunctionGetSchedulingParamsResponse(
            autoscaler_configuration=configuration
        )

    @rpc
    async def FunctionMap(self, request: Any) -> Any:
        items = request.pipelined_inputs
        call = Call(self.cloud.new("fc"), request.function_id, self.cloud.new("in"))
        self.pools.calls[call.id] = call
        for item in items:
            await self.pools.offer(call, item.input)
        return pb.FunctionMapResponse(
            function_call_id=call.id,
            pipelined_inputs=[_accepted(call, item) for item in items],
            function_call_jwt=call.id,
        )

    @rpc
    async def FunctionPutInputs(self, request: Any) -> Any:
        call = self.pools.calls[request.function_call_id]
        for item in request.inputs:
            await self.pools.offer(call, item.input)
        accepted = [_accepted(call, item) for item in request.inputs]
        return pb.FunctionPutInputsResponse(inputs=accepted)

    @rpc
    async def FunctionGetOutputs(self, request: Any) -> Any:
        call = self.pools.calls[request.function_call_id]
        with suppress(TimeoutError):
            await asyncio.wait_for(call.done.wait(), max(request.timeout, 0.01))
        return pb.FunctionGetOutputsResponse(
            outputs=[call.output] if call.output else [],
            num_unfinished_inputs=0 if call.output else 1,
            last_entry_id="1-0",
        )

    @rpc
    async def FunctionCallCancel(self, request: Any) -> Any:
        call = self.pools.calls[request.function_call_id]
        _, container, _ = self.pools.inputs.get(call.input_id, (call, None, None))
        status = pb.GenericResult.GENERIC_STATUS_TERMINATED
        result = pb.GenericResult(status=status, exception="the call was cancelled")
        await call.finish(result)
        if container is not None:
            self.pools.stop(container)

    @rpc_stream
    async def FunctionCallGetDataOut(self, request: Any) -> AsyncIterator[Any]:
        call = self.pools.calls[request.function_call_id]
        async for chunk in call.data_out.read(request.last_index):
            yield chunk

    @rpc
    async def ContainerHello(self, _request: Any) -> Any:
        return None

    @rpc
    async def ContainerHeartbeat(self, _request: Any) -> Any:
        return pb.ContainerHeartbeatResponse()

    @rpc
    async def ContainerCheckpoint(self, _request: Any) -> Any:
        self.asking().parked.set()

    @rpc
    async def ContainerServerLifecycleReady(self, _request: Any) -> Any:
        """The platform looks for the port of a server; the entrypoint does not."""
        container = self.asking()

        async def look() -> None:
            while container.runs and not container.ready.is_set():
                with suppress(OSError):
                    path = str(container.way_in)
                    reader, writer = await asyncio.open_unix_connection(path)
                    with suppress(TimeoutError):  # it ends at once where nobody listens
                        await asyncio.wait_for(reader.read(1), 0.1)
                    if not reader.at_eof():
                        container.ready.set()
                    writer.close()
                await asyncio.sleep(0.05)

        self.cloud.spawn(look())

    @rpc
    async def FunctionGetInputs(self, _request: Any) -> Any:
        container = self.asking()
        container.ready.set()
        item = await self.pools.take(container)
        return pb.FunctionGetInputsResponse(inputs=[item])

    @rpc
    async def FunctionPutOutputs(self, request: Any) -> Any:
        container = self.asking()
        for output in request.outputs:
            with suppress(KeyError):
                call = self.pools.put_back(output.input_id)
                await call.finish(
                    output.result,
                    data_format=output.data_format,
                    task_id=container.task_id,
                )

    @rpc_stream
    async def FunctionCallGetDataIn(self, request: Any) -> AsyncIterator[Any]:
        call = self.pools.calls[request.function_call_id]
        async for chunk in call.data_in.read(request.last_index):
            yield chunk

    @rpc
    async def FunctionCallPutDataOut(self, request: Any) -> Any:
        call = self.pools.calls[request.function_call_id]
        for chunk in request.data_chunks:
            await call.data_out.put(chunk)

    @rpc
    async def FunctionGetDynamicConcurrency(self, request: Any) -> Any:
        return pb.FunctionGetDynamicConcurrencyResponse(
            concurrency=request.max_concurrency
        )

    @rpc
    async def TaskResult(self, request: Any) -> Any:
        self.asking().result = request.result

    async def _addresses(self, app_id: str, function: Any) -> None:
        """Give every web function its address."""
        urls = self.cloud.urls
        methods = function.method_definitions.items()
        web = [name for name, method in methods if method.webhook_config.type]
        for name in (*([""] if function.webhook_config.type else []), *web):
            address = self._address(app_id, function, name)
            if address not in urls:
                urls[address] = await self.front.web_function(address)
        if getattr(function, "is_server", False):
            address = self._address(app_id, function, _SERVER)
            if address not in urls:
                urls[address] = await self.front.server(address)

    def _address(self, app_id: str, function: Any, method: str) -> Address:
        app = self.cloud.apps[app_id]
        return Address(app.name, app.environment, function.function_name, method)

    def _handle(
        self,
        function_id: str,
        function: Any,
        *,
        app_id: str = "",
        definition: str = "",
    ) -> pb.FunctionHandleMetadata:
        app_id = app_id or function.app_id
        handle = pb.FunctionHandleMetadata(
            function_name=function.function_name,
            function_type=function.function_type,
            app_id=app_id,
            definition_id=definition,
            max_object_size_bytes=_LARGE,
            supported_input_formats=_FORMATS,
            supported_output_formats=_FORMATS,
            web_url=self._url(app_id, function, ""),
        )
        for name, method in function.method_definitions.items():
            handle.method_handle_metadata[name].CopyFrom(
                pb.FunctionHandleMetadata(
                    function_name=method.function_name,
                    function_type=method.function_type,
                    is_method=True,
                    use_method_name=name,
                    web_url=self._url(app_id, function, name),
                    supported_input_formats=method.supported_input_formats,
                    supported_output_formats=method.supported_output_formats,
                )
            )
        self.cloud.handles[function_id] = handle
        return handle

    def _url(self, app_id: str, function: Any, method: str) -> str:
        return self.cloud.urls.get(self._address(app_id, function, method), "")

    def _version(self, request: Any) -> Version:
        app = self.cloud.deployed(request.app_name, request.environment_name)
        found = None if app is None else app.version(request.app_version)
        if found is None:
            raise _nothing(request)
        return found


def definition_digest(function: pb.Function, machines: Sequence[pb.Resources]) -> str:
    """The mounts of a function are a set that the client sends in any order."""
    made = pb.Function()
    made.CopyFrom(function)
    made.mount_ids[:] = sorted(made.mount_ids)
    return digest(made, *machines)


def _nothing(request: Any) -> GRPCError:
    name = f"{request.app_name}/{request.object_tag}"
    return GRPCError(Status.NOT_FOUND, f"{name} not found")


def _accepted(call: Call, item: Any) -> pb.FunctionPutInputsResponseItem:
    return pb.FunctionPutInputsResponseItem(
        idx=item.idx, input_id=call.input_id, input_jwt=call.input_id
    )


def _flattened(ranked: Any) -> pb.Function:
    function = pb.Function()
    function.CopyFrom(ranked.ranked_functions[0].function)
    return function


def _ranked(function: Any) -> pb.FunctionData:
    """The same, as a list of one rank, with what all ranks share beside it."""
    made = pb.FunctionData()
    fields = pb.FunctionData.DESCRIPTOR.fields_by_name
    for field, value in function.ListFields():
        shared = fields.get(field.name)
        if shared is None or shared.message_type != field.message_type:
            continue
        if field.is_repeated:
            getattr(made, field.name).MergeFrom(value)
        elif field.message_type:
            getattr(made, field.name).CopyFrom(value)
        else:
            setattr(made, field.name, value)
    made.ranked_functions.add(rank=0, function=function)
    return made
