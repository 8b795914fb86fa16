"""A stack as the command line that the local engine starts."""

from deployer.engines.contract import Rendering, pin_of
from deployer.engines.local import reuseport
from deployer.engines.place import Place
from deployer.planning.argv import command_line, scales_of
from deployer.planning.resources import MODEL_ROLE, Graph, Kind, Node
from deployer.stack.fields.values import keys_of


def render_stack(graph: Graph, place: Place) -> Rendering:
    """The command line; files of the store go by their own names."""
    del place  # nothing of the stack's folder is read
    nodes = {node.role: node for node in graph.values()}
    server = nodes[Kind.SERVER]
    words = server.spec["argv"]
    weights = [node for node in nodes.values() if node.kind is Kind.WEIGHTS]
    files = {node.role: _file(node, "model") for node in weights}
    if "mmproj" in pin_of(nodes[MODEL_ROLE]).about:
        files["mmproj"] = _file(nodes[MODEL_ROLE], "mmproj")
    stated = [str(word) for word in words] if isinstance(words, list) else []
    host = str(server.fields["local.host"])
    argv = command_line(
        "llama-server",
        stated,
        files=lambda name: name,
        model=files.pop(MODEL_ROLE),
        beside=files,
        scales=scales_of(server.fields, server.spec),
        host=host,
        port=int(str(server.fields["local.port"])),
        reuse_port=reuseport.supported(host) is None,
        key_file="api-key" if keys_of(server.fields) else None,
    )
    return Rendering(argv, {})


def _file(node: Node, name: str) -> str:
    """The file of the weights; the key of those whose package is not unpacked yet."""
    match pin_of(node).about.get(name):
        case [str(first), *_] | str(first):
            return first
        case _:
            return f"weights/{node.key[:16]}"
