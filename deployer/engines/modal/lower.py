"""From resources to what a template prints.  Pure: knows Modal's words, not its client.

Rules and numbers: modal.com/docs (guides on images, GPUs, memory snapshots, servers;
September 2026) and the client 1.6.4.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Final

from deployer.artefacts.sources.transfer import file_name, parts_of_url
from deployer.engines.contract import pin_of
from deployer.engines.modal import apps
from deployer.engines.modal.apps import Apps, Build, Builder, Fetch, Server
from deployer.engines.modal.section import image_of
from deployer.errors import EngineError
from deployer.llama.build import recipe
from deployer.llama.build.compile import Settings, target_of
from deployer.llama.build.trees import pinned_patches
from deployer.llama.known.tables import prices
from deployer.llama.patches import Patch
from deployer.planning import costs
from deployer.planning.argv import request_of, scales_of
from deployer.planning.costs import (
    BUILD_CORES,
    BUILD_MEMORY,
    CANDIDATE_WINDOW,
    FETCH_CORES,
    FETCH_MEMORY,
    concurrency_of,
    cores_of,
    disk_of,
    gpus_of,
    limit_of,
    memory_of,
    regions_of,
)
from deployer.planning.facts import Pin, pinned_images
from deployer.planning.graph import IMAGE
from deployer.planning.resources import MODEL_ROLE, VARIABLES, Graph, Kind, Node
from deployer.planning.state import WITHOUT, Record
from deployer.runtime.warmup import Request
from deployer.stack.fields.values import (
    PROXY_TOKEN,
    Flat,
    JsonValue,
    keys_of,
    seconds,
    size_in_bytes,
    usual_variable,
)
from deployer.stack.files import named_in, nested

BUILD_TIMEOUT: Final = 2 * 3600

_FETCH_START: Final = 600
_FETCH_SPEED: Final = 10e6
"""Bytes a second, on a bad day."""
_LONGEST: Final = 24 * 3600
"""Seconds; Modal's own limit for a function."""


def lower_builder(
    build: Node | None, weights: Sequence[Node], patches: Sequence[Patch]
) -> Builder:
    """The app that builds and fetches; a build that is None is not wanted.

    Weights of two roles that are the same are fetched once.  Raises EngineError for
    artefacts that Modal cannot make.
    """
    stack = next(node for node in (build, *weights) if node).address.partition("/")[0]
    once = {node.key: node for node in reversed(weights)}
    return Builder(
        app=apps.builder_app(stack),
        stack=stack,
        build=None if build is None else _build(build, patches),
        fetches=tuple(_fetch(it) for it in weights if once[it.key] is it),
    )


def _build(node: Node, patches: Sequence[Patch]) -> Build:
    pin = pin_of(node)
    settings = _settings(node.fields)
    target = target_of(pin, settings)
    if refused := recipe.refusals(target):
        raise EngineError(refused[0].what, hint=refused[0].hint)
    number = "" if target.number is None else f" b{target.number}"
    words = [f"llama-server{number}"]
    words += [f"CUDA {settings.cuda}"] if settings.cuda else ["CPU"]
    words += [f"sm_{name}" for name in settings.architectures if settings.cuda]
    return Build(
        key=node.key,
        title=", ".join(words),
        image=pinned_images(pin).get("build") or image_of(settings.cuda, "devel"),
        source=_source(node, pin),
        patches=tuple(_patch(digest, patches) for digest in pinned_patches(pin)),
        definitions=recipe.options(target, ccache=True),
        cores=BUILD_CORES,
        memory=BUILD_MEMORY,
        timeout=BUILD_TIMEOUT,
    )


def _settings(fields: Flat) -> Settings:
    cuda = fields.get("llama_cpp.cuda")
    return Settings(
        cuda=None if cuda is None else str(cuda),
        architectures=_texts_of_build(fields.get("gpu.architectures")),
        cmake=_texts_of_build(fields.get("llama_cpp.cmake")),
        system="Linux",
    )


def _source(node: Node, pin: Pin) -> apps.GitSource | apps.IndexSource:
    match pin.source, dict(pin.where), dict(pin.identity):
        case "source-git", {"repo": str(repo), "tag": str(tag)}, {"commit": str(found)}:
            return apps.GitSource(repo, tag, found)
        case (
            "source-pypi",
            {"requirement": str(requirement), "archive": str(archive)},
            {"archive": str(sha256)},
        ):
            name, _, version = requirement.partition("==")
            return apps.IndexSource(name, version, archive, sha256)
        case _:
            raise EngineError(
                f"`{node.address}` cannot be built on modal from `{pin.source}`",
                hint="there llama-server is built from source: leave"
                " `llama_cpp.source` out, or write `source: pypi`",
            )


def _patch(digest: str, patches: Sequence[Patch]) -> apps.PatchText:
    patch = next((patch for patch in patches if patch.digest == digest), None)
    if patch is None:
        raise EngineError(
            "a patch changed since it was locked",
            hint="run `deployer lock` to take the patches as they are now",
        )
    marker = patch.upstream
    return apps.PatchText(
        name=patch.name,
        digest=digest,
        text=patch.text,
        files=patch.diff.files,
        marker=None if marker is None else (marker.files, marker.pattern.pattern),
    )


def _fetch(node: Node) -> Fetch:
    pin = pin_of(node)
    size = pin.about.get("size")
    known = size if isinstance(size, int) else None
    secret = node.fields.get("model.hub_secret")
    repo, revision, files = _files(node, pin)
    return Fetch(
        role=node.role,
        key=node.key,
        repo=repo,
        revision=revision,
        files=files,
        size=known,
        secret=None if secret is None else str(secret),
        cores=FETCH_CORES,
        memory=FETCH_MEMORY,
        timeout=min(_LONGEST, _FETCH_START + math.ceil((known or 50e9) / _FETCH_SPEED)),
    )


def _files(
    node: Node, pin: Pin
) -> tuple[str | None, str | None, tuple[apps.WeightsFile, ...]]:
    """Repository, revision and files; the model's first, then its projector."""
    match pin.source, dict(pin.where), dict(pin.identity), dict(pin.about):
        case (
            "hub",
            {"repo": str(repo), "revision": str(revision), "model": list(paths)} as at,
            {"model": list(digests)} as has,
            _,
        ):
            pairs = list(zip(paths, digests, strict=True))
            if "mmproj" in at:
                pairs.append((at["mmproj"], has.get("mmproj")))
            return repo, revision, tuple(_file(str(p), str(d)) for p, d in pairs)
        case "url", _, _, _:
            return None, None, tuple(_file(url, sha) for url, sha in parts_of_url(pin))
        case _:
            raise EngineError(
                f"`{node.address}` cannot be fetched on modal from `{pin.source}`",
                hint="there weights come from the hub or an address: write"
                " `model.repo` or `model.url`",
            )


def _file(path: str, sha256: str) -> apps.WeightsFile:
    name = file_name(path) if "://" in path else PurePosixPath(path).name
    return apps.WeightsFile(path, name, sha256)


def _texts_of_build(value: JsonValue) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


CANDIDATE_SCALING: Final = apps.Scaling(0, 1, None, CANDIDATE_WINDOW)
REQUEST_TIMEOUT: Final = 3600
"""Longest time for one request; llama-server's own `--timeout` is shorter."""
_LIMITED: Final = ("cpu", "memory")
_START: Final = 180
"""Seconds that a start may take beside reading the weights."""
_READ: Final = 150e6
"""Bytes a second that the weights are read with at least, from a cold host."""
_LONGEST_START: Final = 1500
"""Modal ends a start that captures after 1800 s, whatever is asked for."""
_LONGEST_LABEL: Final = 63
"""Characters of one part of a host name."""
_ROUTING: Final[Mapping[str, str]] = {
    "us-west": "us-west",
    "eu": "eu-west",
    "uk": "eu-west",
    "ap": "ap-south",
}
"""Where the proxy of `endpoint: server` stands, by the region of the containers."""


def lower(graph: Graph, patches: Sequence[Patch], files: Mapping[str, bytes]) -> Apps:
    """Everything that a stack is on Modal.

    ``files`` holds the content of `files_of`.  Raises EngineError for what Modal
    cannot make.
    """
    nodes = {node.role: node for node in graph.values()}
    server = nodes[Kind.SERVER]
    needs = {role: outputs_of(node) for role, node in nodes.items()}
    weights = [node for node in nodes.values() if node.kind is Kind.WEIGHTS]
    lowered = lower_server(server, needs, files)
    return Apps(
        builder=lower_builder(nodes[Kind.BUILD], weights, patches),
        server=lowered,
        candidate=candidate_of(lowered),
        tryout=tryout_of(lowered),
        assets=assets_of(server, needs, files),
    )


def outputs_of(node: Node) -> Flat:
    """Return the outputs of a resource, once it is made, for those that need it.

    Known before: what lies on a Volume is named by its content.
    """
    match node.kind:
        case Kind.BUILD:
            folder = f"{apps.MOUNT}{apps.build_folder(node.key)}"
            return {
                "path": f"{folder}/bin/llama-server",
                "key": node.key,
                "cuda": node.fields.get("llama_cpp.cuda"),
            }
        case Kind.WEIGHTS:
            return _outputs_of_weights(node)
        case Kind.SNAPSHOT | Kind.SERVER:
            return {"key": node.key, "fields": dict(node.fields)}


def files_of(node: Node, needs: Mapping[str, Flat]) -> tuple[str, ...]:
    """Return the files beside the stack that a server needs, such as images."""
    named = named_in(nested(_fields(node, needs)))
    return tuple(dict.fromkeys(it.name for it in named if it.served))


def assets_of(
    node: Node, needs: Mapping[str, Flat], files: Mapping[str, bytes]
) -> Mapping[str, bytes]:
    """The same files by the names that the rendered apps know them by."""
    names = files_of(node, needs)
    return {_asset(name, files): _content(name, files) for name in names}


def lower_server(
    node: Node, needs: Mapping[str, Flat], files: Mapping[str, bytes]
) -> Server:
    """The serving app of a server; of a snapshot, what is captured and proven.

    ``needs`` holds the outputs of what the node is made from, as `outputs_of` gives
    them.  A server and the snapshot it is made from differ in their scaling alone.
    """
    fields = _fields(node, needs)
    build, weights = needs[Kind.BUILD], needs[Kind.WEIGHTS]
    stack = node.address.partition("/")[0]
    captured = needs.get(Kind.SNAPSHOT) if Kind.SNAPSHOT in node.needs else None
    return Server(
        app=apps.server_app(stack),
        stack=stack,
        build_key=str(build["key"]),
        weights_key=str(weights["key"]),
        keys_beside={role: str(it["key"]) for role, it in _beside(needs).items()},
        key=node.key,
        run_key=str(node.spec.get(WITHOUT) or node.key)
        if captured is None
        else str(captured["key"]),
        captures=node.kind is Kind.SNAPSHOT or captured is not None,
        machine=_machine(node, fields, build, size_of(needs)),
        front=_front(fields),
        program=_program(node, fields, needs, files),
        scaling=scaling_of(node.fields),
        tags=tags_of(node.fields),
        assets=tuple(assets_of(node, needs, files)),
    )


def candidate_of(server: Server) -> Server:
    """The twin that the gates look at: another name, and one container at most."""
    app, front = apps.candidate_app(server.stack), replace(server.front, domains=())
    return replace(server, app=app, front=front, scaling=CANDIDATE_SCALING)


def tryout_of(server: Server) -> Server:
    """The same command line, to be run once in a plain function."""
    return replace(server, app=apps.tryout_app(server.stack), scaling=apps.Scaling())


def hub_secret_of(fields: Flat) -> str | None:
    """The secret that holds a token of the hub, from the fields of weights."""
    name = fields.get("model.hub_secret")
    return None if name is None else str(name)


def registry_secret_of(fields: Flat) -> str | None:
    """The secret for the registry of the image, from the fields of a server."""
    name = fields.get("modal.registry_secret")
    return None if name is None else str(name)


def primes_of(fields: Flat) -> int:
    """Cold starts that are to capture, from the fields of a server."""
    return _whole(fields.get("snapshot.prime"))


def rate_of(needs: Mapping[str, Flat], node: Node) -> float:
    """Dollars for a second of one container of a server or a snapshot."""
    return costs.rate_of(_fields(node, needs), size_of(needs), prices())


def size_of(needs: Mapping[str, Flat]) -> int:
    """The bytes of all weights of a server, as far as they are known."""
    sizes = [needs[MODEL_ROLE], *_beside(needs).values()]
    return sum(_whole(it.get("size")) for it in sizes)


def _beside(needs: Mapping[str, Flat]) -> dict[str, Flat]:
    """The outputs of the weights beside the model, by role."""
    others = (*Kind, MODEL_ROLE)
    return {role: it for role, it in needs.items() if role not in others}


def scaling_of(fields: Flat) -> apps.Scaling:
    """Return what the client changes in place, from the fields of a server."""
    window = fields.get("scaling.scaledown_window")
    return apps.Scaling(
        min_containers=_optional(fields.get("scaling.min_containers")),
        max_containers=_optional(fields.get("scaling.max_containers")),
        buffer_containers=_optional(fields.get("scaling.buffer_containers")),
        scaledown_window=None if window is None else math.ceil(seconds(window)),
    )


def url_label(workspace: str, environment: str, label: str) -> str:
    """The first part of a URL on modal.run, as Modal makes and cuts it."""
    prefix = f"{workspace}-{environment}" if environment else workspace
    whole = f"{prefix}--{label}"
    if len(whole) <= _LONGEST_LABEL:
        return whole
    mark = hashlib.sha256(whole.encode()).hexdigest()[:6]
    return f"{whole[:56]}-{mark}"


def _fields(node: Node, needs: Mapping[str, Flat]) -> Flat:
    """The fields of a server with those of the snapshot it is made from."""
    match needs.get(Kind.SNAPSHOT):
        case {"fields": dict(captured)} if Kind.SNAPSHOT in node.needs:
            return {**captured, **node.fields}
        case _:
            return node.fields


def _outputs_of_weights(node: Node) -> Flat:
    about = node.spec.get("about")
    known = about if isinstance(about, dict) else {}
    names = _texts(known.get("model"))
    if not names:
        raise EngineError(
            f"`{node.address}` does not come from the hub or an address",
            hint="on modal, weights are fetched there: write `model.repo` or"
            " `model.url`",
        )
    folder = f"{apps.MOUNT}{apps.weights_folder(node.key)}"
    found: dict[str, JsonValue] = {
        "path": f"{folder}/{names[0]}",
        "key": node.key,
        "size": _optional(known.get("size")),
    }
    if "mmproj" in known:
        found["mmproj"] = f"{folder}/{known['mmproj']}"
    return found


def _machine(node: Node, fields: Flat, build: Flat, size: int) -> apps.Machine:
    cuda, cpu, memory = build.get("cuda"), cores_of(fields), memory_of(fields, size)
    cpu_limit, memory_limit = (fields.get(f"modal.{it}_limit") for it in _LIMITED)
    cloud = fields.get("modal.cloud")
    stated = node.spec.get(IMAGE) or fields.get("modal.image")
    default = image_of(None if cuda is None else str(cuda), "runtime")
    return apps.Machine(
        image=default if stated is None else str(stated),
        registry_secret=registry_secret_of(fields),
        gpus=gpus_of(fields),
        cpu=cpu if cpu_limit is None else (cpu, max(cpu, float(str(cpu_limit)))),
        memory=memory
        if memory_limit is None
        else (memory, max(memory, math.ceil(size_in_bytes(memory_limit) / 2**20))),
        disk=disk_of(fields),
        regions=regions_of(fields),
        cloud=None if cloud is None else str(cloud),
        nonpreemptible=fields.get("modal.nonpreemptible") is True,
        mounts=mounts_of(fields),
    )


def mounts_of(fields: Flat) -> tuple[apps.Mount, ...]:
    """Return what a server mounts beside its build and its weights."""
    return tuple(_mount(it) for it in _sections(fields.get("modal.mounts")))


def _mount(mount: Flat) -> apps.Mount:
    names = ("volume", "bucket", "folder", "endpoint", "secret")
    rest = (None if (it := mount.get(name)) is None else str(it) for name in names)
    return apps.Mount(str(mount["at"]), *rest)


def _front(fields: Flat) -> apps.Front:
    direct = fields.get("modal.endpoint") == "server"
    limit: int | None = limit_of(fields)
    stated = fields.get("modal.request_timeout")
    window = fields.get("scaling.scaleup_window")
    if direct and "scaling.max_concurrent" not in fields:
        limit = None  # what is above it would be refused, and not wait
    return apps.Front(
        endpoint="server" if direct else "web_server",
        routing_region=_routing_region(fields, direct=direct),
        domains=tuple(_texts(fields.get("modal.custom_domains"))),
        secrets=secrets_of(fields),
        closed=fields.get("auth.proxy") is True,
        target=concurrency_of(fields),
        limit=limit,
        scaleup=None if window is None else max(1, math.ceil(seconds(window))),
        timeout=REQUEST_TIMEOUT if stated is None else math.ceil(seconds(stated)),
    )


def tags_of(fields: Flat) -> dict[str, str]:
    """Return the tags of the app that a stack states."""
    begins = "modal.tags."
    found = {it.removeprefix(begins): it for it in fields if it.startswith(begins)}
    return {name: str(fields[path]) for name, path in sorted(found.items())}


CLOSED: Final = "proxy"
"""Output of a server whose clients Modal's proxy asks for a token."""


def token_of(thing: Node | Record, needs: Mapping[str, Flat] | None = None) -> str:
    """Return the variable of the token that Modal's proxy asks for; empty: for none."""
    if isinstance(thing, Node):
        closed = _fields(thing, needs or {}).get("auth.proxy") is True
    else:
        closed = thing.outputs.get(CLOSED) is True
    return PROXY_TOKEN if closed else ""


def strategy_of(fields: Flat) -> apps.Strategy:
    """Return how a new version of the app takes over."""
    recreate = fields.get("modal.strategy") == "recreate"
    return "recreate" if recreate else "rolling"


def _program(
    node: Node, fields: Flat, needs: Mapping[str, Flat], files: Mapping[str, bytes]
) -> apps.Program:
    words, weights = _texts(node.spec.get("argv")), needs[MODEL_ROLE]
    size = size_of(needs)
    beside = {role: it["path"] for role, it in _beside(needs).items()}
    if "mmproj" in weights:
        beside["mmproj"] = weights["mmproj"]
    return apps.Program(
        options=tuple(words),
        model=_name(weights["path"]),
        beside={it: str(file).removeprefix(apps.MOUNT) for it, file in beside.items()},
        scales=scales_of(fields, {}),
        variables=_variables(node.spec),
        secrets=env_secrets_of(node.spec),
        files={name: _asset(name, files) for name in files},
        warmup=tuple(
            _warmup(it, files) for it in _sections(fields.get("snapshot.warmup"))
        ),
        start_timeout=_start_timeout(fields, size),
    )


def _start_timeout(fields: Flat, size: int) -> int:
    stated = fields.get("modal.startup_timeout")
    if stated is not None:
        return math.ceil(seconds(stated))
    return min(_LONGEST_START, _START + math.ceil(size / _READ / 60) * 60)


def _variables(spec: Flat) -> Mapping[str, str]:
    stated = spec.get(VARIABLES)
    known = stated.items() if isinstance(stated, dict) else ()
    return {name: str(it) for name, it in known if not isinstance(it, dict)}


def env_secrets_of(spec: Flat) -> Mapping[str, apps.Secret]:
    """The secrets that a server is given in its environment, by its variables."""
    stated = spec.get(VARIABLES)
    known = stated.items() if isinstance(stated, dict) else ()
    return {
        name: apps.Secret(str(it["secret"]), str(it["env"]))
        for name, it in known
        if isinstance(it, dict)
    }


def secrets_of(fields: Flat) -> tuple[apps.Secret, ...]:
    """The secrets that hold the API keys, from the fields of a server."""
    return tuple(
        apps.Secret(it["secret"], it.get("env", usual_variable(path)))
        for path, it in keys_of(fields).items()
        if "secret" in it
    )


def secrets_in(outputs: Flat) -> tuple[apps.Secret, ...]:
    """The same, as the record of a server that was deployed names them."""
    match outputs:
        case {"secret": str(name), "api_key_env": str(variable)}:  # deployer 0.1
            return (apps.Secret(name, variable),)
        case {"secrets": {**known}}:
            found = {str(variable): str(name) for variable, name in known.items()}
            return tuple(apps.Secret(found[it], it) for it in sorted(found))
        case _:
            return ()


def _routing_region(fields: Flat, *, direct: bool) -> str | None:
    stated = fields.get("modal.routing_region")
    if stated is not None or not direct:
        return None if stated is None else str(stated)
    first = next(iter(regions_of(fields)), "")
    return next((r for p, r in _ROUTING.items() if first.startswith(p)), "us-east")


def _sections(value: JsonValue) -> list[Flat]:
    items = value if isinstance(value, list) else []
    return [it for it in items if isinstance(it, dict)]


def _warmup(request: Flat, files: Mapping[str, bytes]) -> Request:
    found = request_of(request)

    def asset(name: str | None) -> str | None:
        return None if name is None else _asset(name, files)

    return replace(
        found,
        image=asset(found.image),
        file=asset(found.file),
        tools=asset(found.tools),
    )


def _asset(name: str, files: Mapping[str, bytes]) -> str:
    """A name that follows the content, so that another picture is another app."""
    digest = hashlib.sha256(_content(name, files)).hexdigest()[:16]
    ending = PurePosixPath(name).suffix.lower()
    plain = ending if ending[1:].isascii() and ending[1:].isalnum() else ""
    return f"{digest}{plain}"


def _content(name: str, files: Mapping[str, bytes]) -> bytes:
    if name not in files:
        raise EngineError(f"the file `{name}` of the stack was not given")
    return files[name]


def _name(path: JsonValue) -> str:
    return PurePosixPath(str(path)).name


def _texts(value: JsonValue) -> list[str]:
    match value:
        case list(items):
            return [str(item) for item in items]
        case str():
            return [value]
        case _:
            return []


def _optional(value: JsonValue) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _whole(value: JsonValue) -> int:
    return _optional(value) or 0
