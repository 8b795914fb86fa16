"""What a test asks of the emulator, and orders: counts, faults, what runs."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from typing import Any

from aiohttp import web
from modal_proto import api_pb2 as pb

from tests.modal.emulator.cloud import App, Cloud, Faults, Secret
from tests.modal.emulator.pools import Pools


def routes(
    cloud: Cloud, pools: Pools, mend: Callable[[], Awaitable[None]]
) -> list[web.RouteDef]:
    """One address for each question."""

    async def seen(_request: web.Request) -> web.Response:
        return web.json_response(_seen(cloud, pools))

    async def app(request: web.Request) -> web.Response:
        found = [
            _of_app(cloud, pools, app)
            for app in cloud.apps.values()
            if app.name == request.query["name"]
        ]
        return web.json_response(found[-1] if found else None)

    async def logs(_request: web.Request) -> web.Response:
        return web.json_response([line.text for line in cloud.logs])

    async def requests(_request: web.Request) -> web.Response:
        return web.json_response(cloud.requests)

    async def forget(_request: web.Request) -> web.Response:
        cloud.calls.clear()
        cloud.container_calls.clear()
        cloud.requests.clear()
        return web.Response()

    async def faults(request: web.Request) -> web.Response:
        cloud.faults = replace(Faults(), **await request.json())
        cloud.chance.seed(cloud.faults.seed)
        return web.json_response(asdict(cloud.faults))

    async def secret(request: web.Request) -> web.Response:
        wanted = await request.json()
        known = cloud.secret(wanted["name"])
        found = Secret(wanted["name"], wanted["values"])
        cloud.secrets[known or cloud.new("st")] = found
        return web.Response()

    async def preempt(request: web.Request) -> web.Response:
        wanted = (await request.json())["app"]
        for container in list(pools.containers.values()):
            if container.runs and cloud.app_of(container.function_id).name == wanted:
                await pools.preempt(container)
        return web.Response()

    async def environment(request: web.Request) -> web.Response:
        cloud.environments.append((await request.json())["name"])
        return web.Response()

    async def cut(_request: web.Request) -> web.Response:
        cloud.cut.set()
        return web.Response()

    async def mended(_request: web.Request) -> web.Response:
        await mend()
        return web.Response()

    return [
        web.get("/seen", seen),
        web.get("/app", app),
        web.get("/logs", logs),
        web.get("/requests", requests),
        web.post("/forget", forget),
        web.post("/faults", faults),
        web.post("/secret", secret),
        web.post("/environment", environment),
        web.post("/preempt", preempt),
        web.post("/cut", cut),
        web.post("/mend", mended),
    ]


def _seen(cloud: Cloud, pools: Pools) -> dict[str, Any]:
    return {
        "calls": dict(cloud.calls),
        "container_calls": dict(cloud.container_calls),
        "apps": [_of_app(cloud, pools, app) for app in cloud.apps.values()],
        "started": len(pools.containers),
        "containers": [
            {
                "task": container.task_id,
                "function": cloud.handles[container.function_id].function_name,
                "app": cloud.app_of(container.function_id).name,
                "runs": container.runs,
                "active": container.active,
                "key": container.tags.get("deployer-server", ""),
                "outdated": container.outdated,
                "gpu": container.worker[0],
                "started": container.started,
                "code": container.code,
                "pid": container.process.pid if container.process else None,
            }
            for container in pools.containers.values()
        ],
        "redirects": cloud.redirects,
        "snapshots": pools.snapshots(),
        "volumes": {
            volume.metadata.name: str(volume.folder)
            for volume in cloud.volumes.values()
        },
    }


def _of_app(cloud: Cloud, pools: Pools, app: App) -> dict[str, Any]:
    return {
        "id": app.id,
        "name": app.name,
        "environment": app.environment,
        "state": pb.AppState.Name(app.state),
        "version": app.lifecycle().version,
        "history": [
            pb.DeploymentType.Name(it.kind).removeprefix("DEPLOYMENT_TYPE_")
            for it in app.history
        ],
        "rows": [{"version": it.number, "tag": it.tag} for it in app.history],
        "functions": dict(app.function_ids),
        "scaling": _scaling(cloud, app),
        "tags": app.tags,
        "containers": sum(1 for _ in pools.of_app(app.id)),
    }


def _scaling(cloud: Cloud, app: App) -> dict[str, dict[str, int]]:
    """What the autoscaler of each function of an app goes by."""
    return {
        name: {
            field.name: value
            for field, value in cloud.autoscaling[function_id].ListFields()
        }
        for name, function_id in app.function_ids.items()
    }
