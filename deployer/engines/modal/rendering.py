"""A stack as files for Modal: reads what the stack names, and lowers it."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from deployer.engines.contract import Rendering
from deployer.engines.modal.lower import files_of, lower, outputs_of
from deployer.engines.modal.render import render
from deployer.engines.place import Place
from deployer.errors import EngineError
from deployer.llama.patches import Patch, load_patches
from deployer.planning.resources import Graph, Kind, Node
from deployer.system.files import read_regular


def render_stack(graph: Graph, place: Place) -> Rendering:
    """The files that would be deployed, and the command line they start."""
    nodes = {node.role: node for node in graph.values()}
    needs = {role: outputs_of(node) for role, node in nodes.items()}
    files = contents(files_of(nodes[Kind.SERVER], needs), place.folder)
    apps = lower(graph, patches_of(nodes[Kind.BUILD], place.patches), files)
    return Rendering(apps.server.command, render(apps))


def patches_of(build: Node, folder: Path) -> tuple[Patch, ...]:
    """The patches that a build names; raises StackError with all that is wrong."""
    match build.fields.get("llama_cpp.patches"):
        case [*names] if names:
            return load_patches(folder, tuple(str(name) for name in names))
        case _:
            return ()


def contents(names: Iterable[str], folder: Path) -> Mapping[str, bytes]:
    """Return what the files hold; raises EngineError for one that cannot be read."""
    found = {}
    for name in names:
        try:
            found[name] = read_regular(folder / name)
        except OSError as error:
            raise EngineError(
                f"`{folder / name}` cannot be read: {error.strerror}",
                hint="paths in a stack are relative to it",
            ) from error
    return found
