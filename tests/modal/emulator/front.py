"""What the internet sees: web functions, servers, and the files of transfers.

A web request becomes messages that a container reads and answers over its socket, as
on Modal; one that takes too long is answered with 303, and goes on.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress

import aiohttp
from aiohttp import web
from modal._serialization import deserialize_data_format, serialize_data_format
from modal_proto import api_pb2 as pb

from tests.modal.emulator import simulated
from tests.modal.emulator.calls import Call
from tests.modal.emulator.cloud import HOST, Address, Cloud
from tests.modal.emulator.containers import Container
from tests.modal.emulator.pools import Pools

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_ASGI, _PICKLE = pb.DATA_FORMAT_ASGI, pb.DATA_FORMAT_PICKLE
_HOP = frozenset({"transfer-encoding", "connection", "content-length", "host"})
_STOPPED = "modal-http: app for invoked web endpoint is stopped"
RESUME = "__modal_function_call_id"
TOKEN = "wk-of-the-tests.ws-of-the-tests"
"""The one that the proxy lets in."""


class Front:
    """Web addresses of functions."""

    def __init__(self, cloud: Cloud, pools: Pools) -> None:
        self._cloud = cloud
        self._pools = pools

    async def web_function(self, address: Address) -> str:
        """The address of a web function; its requests wait while one starts."""

        async def handle(request: web.Request) -> web.StreamResponse:
            if (known := request.query.get(RESUME)) is not None:
                if request.method != "GET":
                    return web.Response(
                        status=400, text="modal-http: bad redirect method"
                    )
                call = self._pools.calls[known]
            else:
                function_id = self._cloud.behind(address)
                if function_id is None:
                    return web.Response(status=404, text=_STOPPED)
                method = self._cloud.definition(function_id).method_definitions
                config = method[address.method].webhook_config
                if config.requires_proxy_auth and not _let_in(request):
                    return _refused()
                call = await self._call(request, function_id, address.method)
            return await self._answer(call, request)

        return await listen([web.route("*", "/{tail:.*}", handle)])

    async def server(self, address: Address) -> str:
        """The address of a server: 503 while none is ready, and no queue."""

        async def handle(request: web.Request) -> web.StreamResponse:
            function_id = self._cloud.behind(address)
            if function_id is None:
                return web.Response(status=404, text=_STOPPED)
            http = self._cloud.definition(function_id).http_config
            if not (http.unauthenticated or _let_in(request)):
                return _refused()
            ready = [
                container
                for container in self._pools.of(function_id)
                if container.ready.is_set() and not container.draining.is_set()
            ]
            if not ready:
                self._cloud.spawn(self._pools.ensure(function_id, at_least=1))
                return web.Response(status=503, text="modal: no containers available")
            session = request.headers.get("Modal-Session-ID", "")
            chosen = max(
                ready,
                key=lambda c: hashlib.sha256((session + c.task_id).encode()).digest(),
            )
            most = chosen.definition.max_concurrent_inputs
            if most and chosen.active >= most:
                # "Requests above this limit receive a 429" (`App.server`, 1.6.4)
                return web.Response(status=429, text="modal: too many requests")
            self._pools.work(chosen, 1)
            try:
                return await self._relay(request, chosen)
            finally:
                self._pools.work(chosen, -1)

        return await listen([web.route("*", "/{tail:.*}", handle)])

    async def _call(self, request: web.Request, function_id: str, method: str) -> Call:
        call = Call(self._cloud.new("fc"), function_id, self._cloud.new("in"))
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": request.path,
            "query_string": request.query_string.encode(),
            "headers": [(k.lower(), v) for k, v in request.raw_headers],
            "client": (HOST, 0),
        }
        body = {
            "type": "http.request",
            "body": await request.read(),
            "more_body": False,
        }
        chunk = serialize_data_format(body, _ASGI)
        await call.data_in.put(pb.DataChunk(index=1, data_format=_ASGI, data=chunk))
        arguments = serialize_data_format(((scope,), {}), _PICKLE)
        item = pb.FunctionInput(args=arguments, data_format=_PICKLE, method_name=method)
        await self._pools.offer(call, item)
        return call

    async def _answer(self, call: Call, request: web.Request) -> web.StreamResponse:
        chunks = call.data_out.read(0)
        response: web.StreamResponse | None = None
        first = asyncio.ensure_future(anext(chunks, None))
        with suppress(TimeoutError):
            await asyncio.wait_for(
                asyncio.shield(first), self._cloud.faults.longest_wait
            )
        if not first.done():
            first.cancel()
            self._cloud.redirects += 1
            raise web.HTTPSeeOther(f"{request.path}?{RESUME}={call.id}")
        chunk = first.result()
        while chunk is not None:
            message = deserialize_data_format(chunk.data, chunk.data_format, None)
            if message["type"] == "http.response.start":
                response = web.StreamResponse(status=message["status"])
                for name, value in message.get("headers", []):
                    if name.decode().lower() not in _HOP:
                        response.headers.add(name.decode(), value.decode())
                await response.prepare(request)
            elif response is not None:
                if message.get("body"):
                    await response.write(message["body"])
                if not message.get("more_body"):
                    break
            chunk = await anext(chunks, None)
        if response is None:
            why = "" if call.output is None else call.output.result.exception
            return web.Response(status=500, text=f"modal-http: {why}")
        await response.write_eof()
        return response

    async def _relay(
        self, request: web.Request, container: Container
    ) -> web.StreamResponse:
        if container.process is None:
            await simulated.take_time(request.query_string)
            body = simulated.answer_to(container, request.path)
            headers = {
                simulated.VERSION_HEADER: container.tags.get(simulated.KEY_TAG, "")
            }
            return web.Response(body=body, headers=headers)
        way_in = aiohttp.UnixConnector(str(container.way_in))
        url = f"http://{HOST}{request.path_qs}"
        kept = {k: v for k, v in request.headers.items() if k.lower() not in _HOP}
        body = await request.read()
        async with (
            aiohttp.ClientSession(auto_decompress=False, connector=way_in) as client,
            client.request(request.method, url, data=body, headers=kept) as found,
        ):
            headers = {k: v for k, v in found.headers.items() if k.lower() not in _HOP}
            response = web.StreamResponse(status=found.status, headers=headers)
            await response.prepare(request)
            async for piece in found.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response


def _let_in(request: web.Request) -> bool:
    """Whether a request has a token: in two headers, or in one (both documented in
    guide/webhook-proxy-auth)."""
    headers = request.headers
    halves = headers.get("Modal-Key", ""), headers.get("Modal-Secret", "")
    one = headers.get("Authorization", "").removeprefix("Bearer ")
    return TOKEN in (".".join(halves), one)


def _refused() -> web.Response:
    """No container is started: the edge answers (guide/webhook-proxy-auth; seen by
    others in 110 ms, with no container before and after)."""
    text = "modal-http: missing credentials for proxy authorization"
    return web.Response(status=401, text=text)


async def listen(routes: list[web.RouteDef]) -> str:
    """The address of a new server with these routes."""
    application = web.Application(client_max_size=2**32)
    application.add_routes(routes)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0)
    await site.start()
    return f"http://{HOST}:{runner.addresses[0][1]}"
