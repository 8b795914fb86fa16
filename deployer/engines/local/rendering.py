"""A stack as the command line that the local engine starts."""

from deployer.engines.contract import Rendering, pin_of
from deployer.engines.local import reuseport
from deployer.engines.place import Place
from deployer.planning.argv import command_line
from deployer.planning.resources import Graph, Kind


def render_stack(graph: Graph, place: Place) -> Rendering:
    """The command line; files of the store go by their own names."""
    del place  # nothing of the stack's folder is read
    nodes = {node.kind: node for node in graph.values()}
    server = nodes[Kind.SERVER]
    words = server.spec["argv"]
    about = pin_of(nodes[Kind.WEIGHTS]).about
    stated = [str(word) for word in words] if isinstance(words, list) else []
    host = str(server.fields["local.host"])
    guarded = server.fields.get("auth.api_key.env") is not None
    argv = command_line(
        "llama-server",
        stated,
        files=lambda name: name,
        model=_model(about.get("model"), nodes[Kind.WEIGHTS].key),
        mmproj=str(about["mmproj"]) if "mmproj" in about else None,
        host=host,
        port=int(str(server.fields["local.port"])),
        reuse_port=reuseport.supported(host) is None,
        key_file="api-key" if guarded else None,
    )
    return Rendering(argv, {})


def _model(names: object, key: str) -> str:
    """The file of the weights; the key of those whose package is not unpacked yet."""
    match names:
        case [str(first), *_] | str(first):
            return first
        case _:
            return f"weights/{key[:16]}"
