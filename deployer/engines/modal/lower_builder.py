"""From the build and the weights of a stack to the app that makes them.  Pure."""

import math
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final

from deployer.engines.modal import apps
from deployer.engines.modal.apps import Build, Builder, Fetch
from deployer.engines.node_pins import pin_of
from deployer.errors import EngineError
from deployer.llama.build import recipe
from deployer.llama.build.build import Settings, target_of
from deployer.llama.build.trees import pinned_patches
from deployer.llama.patches.patch_file import Patch
from deployer.planning.facts import Pin
from deployer.planning.machine_modal import (
    BUILD_CORES,
    BUILD_MEMORY,
    FETCH_CORES,
    FETCH_MEMORY,
)
from deployer.planning.resources import Node
from deployer.stack.fields.values import Flat, JsonValue

BUILD_TIMEOUT: Final = 2 * 3600
CPU_IMAGE: Final = "ubuntu:24.04"

_FETCH_START: Final = 600
_FETCH_SPEED: Final = 10e6
"""Bytes a second, on a bad day."""
_LONGEST: Final = 24 * 3600
"""Seconds; Modal's own limit for a function."""
_OLD_UBUNTU_BEFORE: Final = (12, 6)
"""Images of older toolkits exist for Ubuntu 22.04 alone."""


def lower_builder(
    build: Node | None, weights: Node | None, patches: Sequence[Patch]
) -> Builder:
    """The app that builds and fetches; a node that is None is not wanted.

    Raises EngineError for artefacts that Modal cannot make.
    """
    named = build or weights
    if named is None:
        raise EngineError("there is nothing to build or to fetch")
    stack = named.address.partition("/")[0]
    return Builder(
        app=apps.builder_app(stack),
        stack=stack,
        build=None if build is None else _build(build, patches),
        fetch=None if weights is None else _fetch(weights),
    )


def image_of(cuda: str | None, kind: str) -> str:
    """The image to build in (``devel``) or to run in (``runtime``)."""
    if cuda is None:
        return CPU_IMAGE
    full = cuda if cuda.count(".") == 2 else f"{cuda}.0"
    system = "22.04" if recipe.toolkit(cuda) < _OLD_UBUNTU_BEFORE else "24.04"
    return f"nvidia/cuda:{full}-{kind}-ubuntu{system}"


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
        image=image_of(settings.cuda, "devel"),
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
        architectures=_texts(fields.get("gpu.architectures")),
        cmake=_texts(fields.get("llama_cpp.cmake")),
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
        case "url", {"url": str(url)}, {"model": [digest]}, {"model": [str(name)]}:
            return None, None, (apps.WeightsFile(url, name, str(digest)),)
        case _:
            raise EngineError(
                f"`{node.address}` cannot be fetched on modal from `{pin.source}`",
                hint="there weights come from the hub or an address: write"
                " `model.repo` or `model.url`",
            )


def _file(path: str, sha256: str) -> apps.WeightsFile:
    return apps.WeightsFile(path, PurePosixPath(path).name, sha256)


def _texts(value: JsonValue) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else ()
