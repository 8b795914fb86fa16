"""Requests about sessions, environments, apps and their logs."""

import asyncio
import time
from collections import Counter
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
        return pb.WorkspaceNameLookupResponse(username=self.cloud.faults.workspace)

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
            self.cloud.clock(),
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
    async def AppSetTags(self, request: Any) -> Any:
        """All tags at once ("this method does not have `.update()` semantics")."""
        self._app(request.app_id).tags = dict(request.tags)

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
        """A new version; the same definitions again are a no-op.

        Staged, it is a row of the history and nothing else: client 1.6.4 sends
        `staged`, and Modal's own mock keeps the ids of the row until `AppPromote`.
        """
        app = self._app(request.app_id)
        page = f"{self.cloud.url}/apps/{app.id}"
        staged = request.staged and self.cloud.faults.staged != "ignored"
        if staged and (self.cloud.faults.staged == "refused" or not app.deployed):
            raise GRPCError(
                Status.UNIMPLEMENTED, "staged deployments are not available"
            )
        if app.serving is not None and app.deployed and not staged:
            old, new = app.serving, request
            same = all(
                dict(getattr(old, name)) == dict(getattr(new, name))
                for name in ("function_ids", "class_ids", "definition_ids", "tags")
            )
            if same:
                return pb.AppPublishResponse(url=page, deployed_at=0)
        app.state, app.name = request.app_state or app.state, request.name or app.name
        kind = pb.DEPLOYMENT_TYPE_STAGED if staged else pb.DEPLOYMENT_TYPE_STANDARD
        version = self._remember(app, request, request.deployment_tag, kind)
        if not staged:
            await self._serve(app, version)
        return pb.AppPublishResponse(url=page, deployed_at=version.at)

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
                rollback_version=version.refers_to,
                deployment_type=version.kind,
            )
            for version in reversed(app.history)
        ]
        return pb.AppDeploymentHistoryResponse(
            app_deployment_histories=entries,
            production_app_version=app.lifecycle().version,
        )

    @rpc
    async def AppRollback(self, request: Any) -> Any:
        """A new version with the functions and metadata of an earlier one.

        guide/managing-deployments, "Deployment rollbacks".
        """
        app = self._app(request.app_id)
        wanted = request.version
        if wanted <= 0 and app.serving is not None:
            wanted = app.serving.number - 1
        found = app.version(wanted) if wanted > 0 else None
        return await self._again(app, found, pb.DEPLOYMENT_TYPE_ROLLBACK, wanted)

    @rpc
    async def AppPromote(self, request: Any) -> Any:
        """A staged version becomes one that refers to it (`modal app promote`)."""
        app, wanted = self._app(request.app_id), request.version
        found = app.version(wanted)
        if found is not None and found.kind != pb.DEPLOYMENT_TYPE_STAGED:
            raise GRPCError(Status.FAILED_PRECONDITION, f"v{wanted} is not staged")
        return await self._again(app, found, pb.DEPLOYMENT_TYPE_PROMOTION, wanted)

    @rpc
    async def AppRollover(self, request: Any) -> Any:
        """The same version anew, with new containers (`modal app rollover`)."""
        app = self._app(request.app_id)
        kind = pb.DEPLOYMENT_TYPE_ROLLOVER
        return await self._again(app, app.serving, kind, 0)

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
                started_at=container.started if container.ready.is_set() else 0,
                enqueued_at=container.started,
            )
            for app_id in wanted
            for container in self.pools.of_app(app_id)
        ]
        return pb.TaskListResponse(tasks=tasks)

    @rpc
    async def TaskGetInfo(self, request: Any) -> Any:
        """What a container is; that it restored is not said.

        A field report found `snapshot_behavior` UNSPECIFIED for containers that were
        known to have captured, so nobody can rely on it.
        """
        if (container := self.pools.containers.get(request.task_id)) is None:
            raise GRPCError(Status.NOT_FOUND, f"no container {request.task_id}")
        app = self.cloud.app_of(container.function_id)
        info = pb.TaskInfo(id=container.task_id, started_at=container.started)
        if not container.runs:
            info.finished_at = self.cloud.clock()
        return pb.TaskGetInfoResponse(app_id=app.id, info=info)

    @rpc
    async def ContainerStop(self, request: Any) -> Any:
        if (container := self.pools.containers.get(request.task_id)) is None:
            raise GRPCError(Status.NOT_FOUND, f"no container {request.task_id}")
        self.pools.stop(container)
        return pb.ContainerStopResponse()

    @rpc_stream
    async def AppGetLogs(self, request: Any) -> AsyncIterator[Any]:
        app = self._app(request.app_id)
        """Lines as they arrive, after the entry that the reader has."""
        begin = request.last_entry_id.rpartition("-")[2]
        sent = {
            line.number
            for line in self.cloud.logs
            if begin and line.number <= int(begin)
        }
        ends = time.monotonic() + (request.timeout or _LOG_SECONDS)
        while time.monotonic() < ends:
            for line in self.cloud.arrived():
                if line.number not in sent and self._asked_for(request, line):
                    sent.add(line.number)
                    yield line.batch()
            if app.state == pb.APP_STATE_STOPPED or self.cloud.faults.log_ends:
                done = app.state == pb.APP_STATE_STOPPED
                yield pb.TaskLogsBatch(app_done=done, eof=True)
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
            for line in self.cloud.arrived()
            if since <= line.at <= until and self._asked_for(request, line)
        ]
        kept = found[-request.limit :] if request.limit else found
        return pb.AppFetchLogsResponse(batches=[line.batch() for line in kept])

    @rpc
    async def AppCountLogs(self, request: Any) -> Any:
        response = pb.AppCountLogsResponse(app_id=request.app_id)
        since = request.since.ToNanoseconds() / 1e9
        until = request.until.ToNanoseconds() / 1e9 or float("inf")
        width = request.bucket_secs or 1
        counted = Counter(
            int(line.at // width * width)
            for line in self.cloud.arrived()
            if since <= line.at <= until and self._asked_for(request, line)
        )
        for at, count in sorted(counted.items()):
            start = Timestamp()
            start.FromSeconds(at)
            response.buckets.add(stdout_logs=count, bucket_start_at=start)
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
        ) and getattr(request, "search_text", "") in line.text

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
        """Destructive: requests in flight end, and the app does not come back.

        guide/managing-deployments, "Stopping deployments".
        """
        app.state, app.stopped_at = pb.APP_STATE_STOPPED, self.cloud.clock()
        await self.pools.stop_app(app.id)

    async def _again(
        self,
        app: App,
        found: Version | None,
        kind: "pb.DeploymentType.ValueType",
        number: int,
    ) -> Any:
        if found is None or not app.deployed:
            raise GRPCError(Status.NOT_FOUND, f"App has no version {number}")
        version = self._remember(app, found, found.tag, kind, refers_to=number)
        again = kind == pb.DEPLOYMENT_TYPE_ROLLOVER
        await self._serve(app, version, rolled_over=again)
        answers = {
            pb.DEPLOYMENT_TYPE_ROLLBACK: pb.AppRollbackResponse,
            pb.DEPLOYMENT_TYPE_PROMOTION: pb.AppPromoteResponse,
            pb.DEPLOYMENT_TYPE_ROLLOVER: pb.AppRolloverResponse,
        }
        page = f"{self.cloud.url}/apps/{app.id}"
        return answers[kind](url=page, deployed_at=version.at)

    async def _serve(
        self, app: App, version: Version, *, rolled_over: bool = False
    ) -> None:
        """Make a version the one that new containers are of.

        "any dynamic configuration will be reset by a subsequent deployment"
        (guide/servers); "changes to any Function will cause all Functions to update"
        (guide/managing-deployments).
        """
        app.serving, app.tags = version, dict(version.tags)
        if not app.deployed:
            return
        for other in list(self.cloud.apps.values()):
            same = (other.name, other.environment) == (app.name, app.environment)
            if other.deployed and other is not app and same:
                await self._stop(other)  # two began at once: the last one stays
        for function_id in version.function_ids.values():
            settings = self.cloud.definition(function_id).autoscaler_settings
            self.cloud.autoscaling[function_id] = settings
            await self.pools.roll(function_id, every_container=rolled_over)
            self.cloud.spawn(self.pools.ensure(function_id))

    def _remember(
        self,
        app: App,
        made_of: Any,
        tag: str,
        kind: "pb.DeploymentType.ValueType",
        *,
        refers_to: int = 0,
    ) -> Version:
        version = Version(
            number=len(app.history) + 1,
            at=self.cloud.clock(),
            tag=tag,
            function_ids=dict(made_of.function_ids),
            class_ids=dict(made_of.class_ids),
            definition_ids=dict(made_of.definition_ids),
            tags=dict(made_of.tags),
            kind=kind,
            refers_to=refers_to,
        )
        app.history.append(version)
        return version


def request_descriptor(request: Any) -> int:
    """What stream a request for a stream of logs is about."""
    return int(getattr(request, "file_descriptor", 0))
