"""A stack as the command line that the local engine starts."""

from deployer.core.resources import Graph, Kind
from deployer.engines import Place, Rendering
from deployer.engines.pins import pin_of


def render_stack(graph: Graph, place: Place) -> Rendering:
    """The command line; files of the store go by their own names."""
    del place  # nothing of the stack's folder is read
    nodes = {node.kind: node for node in graph.values()}
    server = nodes[Kind.SERVER]
    words = server.spec["argv"]
    about = pin_of(nodes[Kind.WEIGHTS]).about
    stated = [str(word) for word in words] if isinstance(words, list) else []
    argv = ["llama-server", *stated]
    argv += ["--model", _model(about.get("model"), nodes[Kind.WEIGHTS].key)]
    if "mmproj" in about:
        argv += ["--mmproj", str(about["mmproj"])]
    argv += ["--host", str(server.fields["local.host"])]
    argv += ["--port", str(server.fields["local.port"])]
    if server.fields.get("auth.api_key.env") is not None:
        argv += ["--api-key-file", "api-key"]
    return Rendering(tuple(argv), {})


def _model(names: object, key: str) -> str:
    """The file of the weights; the key of those whose package is not unpacked yet."""
    match names:
        case [str(first), *_] | str(first):
            return first
        case _:
            return f"weights/{key[:16]}"
