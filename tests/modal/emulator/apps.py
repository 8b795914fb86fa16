"""Requests about sessions, environments, apps and their logs."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from grpclib import GRPCError, Status
from modal_proto import api_pb2 as pb

from tests.modal.emulator.cloud import App, LogLine, Version
from tests.modal.emulator.rpc import Service, rpc, rpc_stream

BUILDER_VERSION = "2025.06"
_LOG_SECONDS = 55.0


class Apps(Service):
    """Apps by name, their versions, and what they said."""

    @rpc
    async def ClientHello(self, _request: Any) -> Any:
        return pb.ClientHelloResponse()

    @rpc
    async def AuthTokenGet(self, _request: Any) -> Any:
        return pb.AuthTokenGetResponse(token="x.e30.x")

    @rpc
    async def WorkspaceNameLookup(self, _request: Any) -> Any:
        return pb.WorkspaceNameLookupResponse(username="tests")

    @rpc
    async def WorkspaceBillingRates(self, _request: Any) -> Any:
        rates = {"cpu": "0.04716", "memory": "0.007992", **self.cloud.faults.rates}
        return pb.WorkspaceBillingRatesResponse(rates=rates, formatted=str(rates))

    @rpc
    async def EnvironmentGetOrCreate(self, request: Any) -> Any:
        name = request.deployment_name or "main"
        self._environment(name)
        settings = pb.EnvironmentSettings(image_builder_version=BUILDER_VERSION)
        metadata = pb.EnvironmentMetadata(name=name, settings=settings)
        return pb.EnvironmentGetOrCreateResponse(
            environment_id=f"en-{name}", metadata=metadata
        )

    @rpc
    async def EnvironmentList(self, _request: Any) -> Any:
        items = [
            pb.EnvironmentListItem(name=name, default=name == "main")
            for name in self.cloud.environments
        ]
        return pb.EnvironmentListResponse(items=items)

    @rpc
    async def AppGetByDeploymentName(self, request: Any) -> Any:
        self._environment(request.environment_name)
        found = self.cloud.deployed(request.name, request.environment_name)
        if found is None:
            return pb.AppGetByDeploymentNameResponse()
        return pb.AppGetByDeploymentNameResponse(
            app_id=found.id,
            environment_name=found.environment,
            lifecycle=found.lifecycle(),
        )

    @rpc
    async def AppCreate(self, request: Any) -> Any:
        self._environment(request.environment_name)
        app = App(
            self.cloud.new("ap"),
            request.description,
            request.environment_name or "main",
            dict(request.tags),
            time.time(),
        )
        app.state = request.app_state or app.state
        self.cloud.apps[app.id] = app
        page = f"{self.cloud.url}/apps/{app.id}"
        return pb.AppCreateResponse(app_id=app.id, app_page_url=page)

    @rpc
    async def AppGetOrCreate(self, request: Any) -> Any:
        self._environment(request.environment_name)
        found = self.cloud.apps.get(request.app_name) or self.cloud.deployed(
            request.app_name, request.environment_name
        )
        if found is None:
            raise GRPCError(
                Status.NOT_FOUND, f"App '{request.app_name}' not found in environment"
            )
        return pb.AppGetOrCreateResponse(
            app_id=found.id, handle_metadata=self._described(found)
        )

    @rpc
    async def AppGetInfo(self, request: Any) -> Any:
        app = self._app(request.app_id)
        return pb.AppGetInfoResponse(info=self._described(app))

    @rpc
    async def AppGetTags(self, request: Any) -> Any:
        return pb.AppGetTagsResponse(tags=self._app(request.app_id).tags)

    @rpc
    async def AppGetLayout(self, request: Any) -> Any:
        layout = self.cloud.layout(self._app(request.app_id))
        return pb.AppGetLayoutResponse(app_layout=layout)

    @rpc
    async def AppGetLifecycle(self, request: Any) -> Any:
        lifecycle = self._app(request.app_id).lifecycle()
        return pb.AppGetLifecycleResponse(lifecycle=lifecycle)

    @rpc
    async def AppHeartbeat(self, _request: Any) -> Any:
        return None

    @rpc
    async def AppClientDisconnect(self, request: Any) -> Any:
        app = self._app(request.app_id)
        if app.state in (pb.APP_STATE_INITIALIZING, pb.APP_STATE_EPHEMERAL):
            await self._stop(app)

    @rpc
    async def AppPublish(self, request: Any) -> Any:
        app = self._app(request.app_id)
        page = f"{self.cloud.url}/apps/{app.id}"
        last = app.history[-1] if app.history else None
        new = (request.function_ids, request.class_ids, request.definition_ids)
        unchanged = last is not None and app.deployed
        if last is not None and unchanged:
            old = (last.function_ids, last.class_ids, last.definition_ids)
            unchanged = tuple(map(dict, old)) == tuple(map(dict, new))
            unchanged = unchanged and dict(last.tags) == dict(request.tags)
        if unchanged:
            return pb.AppPublishResponse(url=page, deployed_at=0)
        app.state, app.name = request.app_state or app.state, request.name or app.name
        app.function_ids = dict(request.function_ids)
        app.class_ids, app.tags = dict(request.class_ids), dict(request.tags)
        if app.deployed:
            for other in list(self.cloud.apps.values()):
                same = (other.name, other.environment) == (app.name, app.environment)
                if other.deployed and other is not app and same:
                    await self._stop(other)  # two began at once: the last one stays
            await self._replaced(app, last, request.definition_ids)
            self._remember(app, dict(request.definition_ids), request.deployment_tag)
            for function_id in app.function_ids.values():
                self.cloud.spawn(self.pools.ensure(function_id))
        return pb.AppPublishResponse(url=page, deployed_at=time.time())

    @rpc
    async def AppList(self, request: Any) -> Any:
        items = [
            pb.AppListResponse.AppListItem(
                app_id=app.id,
                description=app.name,
                name=app.name,
                state=app.state,
                created_at=app.created,
                stopped_at=app.stopped_at,
                n_running_tasks=sum(1 for _ in self.pools.of_app(app.id)),
            )
            for app in self.cloud.apps.values()
            if app.environment == (request.environment_name or "main")
        ]
        return pb.AppListResponse(apps=items)

    @rpc
    async def AppDeploymentHistory(self, request: Any) -> Any:
        app = self._app(request.app_id)
        entries = [
            pb.AppDeploymentHistory(
                app_id=app.id,
                version=version.number,
                deployed_at=version.at,
                tag=version.tag,
                deployed_by="tests",
                client_version="1.6.4",
                rollback_allowed=True,
                rollback_version=version.rolled_back_to,
            )
            for version in reversed(app.history)
        ]
        return pb.AppDeploymentHistoryResponse(
            app_deployment_histories=entries, production_app_version=len(app.history)
        )

    @rpc
    async def AppRollback(self, request: Any) -> Any:
        app = self._app(request.app_id)
        wanted = request.version if request.version > 0 else len(app.history) - 1
        found = next((v for v in app.history if v.number == wanted), None)
        if found is None:
            raise GRPCError(Status.NOT_FOUND, f"App has no version {wanted}")
        self.cloud.functions.update(found.definitions)
        app.function_ids = dict(found.function_ids)
        app.class_ids, app.tags = dict(found.class_ids), dict(found.tags)
        await self._replaced(app, app.history[-1], found.definition_ids)
        self._remember(app, found.definition_ids, found.tag, back_to=found.number)
        page = f"{self.cloud.url}/apps/{app.id}"
        return pb.AppRollbackResponse(url=page, deployed_at=time.time())

    @rpc
    async def AppStop(self, request: Any) -> Any:
        await self._stop(self._app(request.app_id))

    @rpc
    async def TaskList(self, request: Any) -> Any:
        wanted = [request.app_id] if request.app_id else list(self.cloud.apps)
        tasks = [
            pb.TaskStats(
                task_id=container.task_id,
                app_id=app_id,
                started_at=container.started,
                enqueued_at=container.started,
            )
            for app_id in wanted
            for container in self.pools.of_app(app_id)
        ]
        return pb.TaskListResponse(tasks=tasks)

    @rpc
    async def ContainerStop(self, request: Any) -> Any:
        if (container := self.pools.containers.get(request.task_id)) is None:
            raise GRPCError(Status.NOT_FOUND, f"no container {request.task_id}")
        self.pools.stop(container)
        return pb.ContainerStopResponse()

    @rpc_stream
    async def AppGetLogs(self, request: Any) -> AsyncIterator[Any]:
        app = self._app(request.app_id)
        after = int(request.last_entry_id.partition("-")[0] or 0)
        ends = time.monotonic() + (request.timeout or _LOG_SECONDS)
        seen = 0
        while time.monotonic() < ends:
            lines = self.cloud.logs[seen:]
            seen += len(lines)
            for line in lines:
                if line.at * 1e6 > after and self._asked_for(request, line):
                    yield line.batch()
            if app.state == pb.APP_STATE_STOPPED:
                yield pb.TaskLogsBatch(app_done=True, eof=True)
                return
            async with self.cloud.logged:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.cloud.logged.wait(), 0.2)

    @rpc
    async def AppFetchLogs(self, request: Any) -> Any:
        since = request.since.ToNanoseconds() / 1e9
        until = request.until.ToNanoseconds() / 1e9 or float("inf")
        found = [
            line
            for line in self.cloud.logs
            if since <= line.at <= until and self._asked_for(request, line)
        ]
        kept = found[-request.limit :] if request.limit else found
        return pb.AppFetchLogsResponse(batches=[line.batch() for line in kept])

    @rpc
    async def AppCountLogs(self, request: Any) -> Any:
        response = pb.AppCountLogsResponse(app_id=request.app_id)
        for line in self.cloud.logs:
            if self._asked_for(request, line):
                start = Timestamp()
                start.FromNanoseconds(int(line.at) * 10**9)
                response.buckets.add(stdout_logs=1, bucket_start_at=start)
        return response

    def _asked_for(self, request: Any, line: LogLine) -> bool:
        mine = line.app_id == request.app_id
        of_function = request.function_id in ("", line.function_id)
        of_call = request.function_call_id in ("", line.call_id)
        of_task = request.task_id in ("", line.task_id)
        sources = {0: True, 3: line.descriptor == 3, 1: line.descriptor == 1}
        source = getattr(request, "source", 0) or request_descriptor(request)
        return (
            mine and of_function and of_call and of_task and sources.get(source, True)
        )

    def _described(self, app: App) -> pb.AppHandleMetadata:
        return pb.AppHandleMetadata(
            description=app.name,
            lifecycle=app.lifecycle(),
            functions=app.function_ids,
        )

    def _environment(self, name: str) -> None:
        if name and name not in self.cloud.environments:
            raise GRPCError(Status.NOT_FOUND, f"Environment '{name}' not found")

    def _app(self, app_id: str) -> App:
        if (app := self.cloud.apps.get(app_id)) is None:
            raise GRPCError(Status.NOT_FOUND, f"App {app_id} not found")
        return app

    async def _stop(self, app: App) -> None:
        app.state, app.stopped_at = pb.APP_STATE_STOPPED, time.time()
        await self.pools.stop_app(app.id)

    async def _replaced(self, app: App, last: Version | None, new: Any) -> None:
        """What changed gets new containers; an override of the autoscaler is gone."""
        for function_id in {*app.function_ids.values()}:
            settings = self.cloud.functions[function_id].autoscaler_settings
            self.cloud.autoscaling[function_id] = settings
        for function_id, definition in (last.definition_ids if last else {}).items():
            if new.get(function_id) != definition:
                await self.pools.drain(function_id)

    def _remember(
        self, app: App, definition_ids: Any, tag: str, *, back_to: int = 0
    ) -> None:
        ids = app.function_ids.values()
        app.history.append(
            Version(
                number=len(app.history) + 1,
                at=time.time(),
                tag=tag,
                function_ids=dict(app.function_ids),
                class_ids=dict(app.class_ids),
                definition_ids=dict(definition_ids),
                definitions={name: self.cloud.functions[name] for name in ids},
                tags=dict(app.tags),
                rolled_back_to=back_to,
            )
        )


def request_descriptor(request: Any) -> int:
    """What stream a request for a stream of logs is about."""
    return int(getattr(request, "file_descriptor", 0))
