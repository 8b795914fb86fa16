"""From a stack and its facts to the resources it asks for, with their keys."""

from collections.abc import Iterator, Mapping

from deployer.core.abilities import Abilities
from deployer.core.argv import is_word, words_of
from deployer.core.effects import Effect
from deployer.core.facts import HEADER, Facts, Pin
from deployer.core.gpus import architecture_of
from deployer.core.keys import key_of
from deployer.core.marks import Leaf, leaves
from deployer.core.model import Stack
from deployer.core.resources import LOCK, Graph, Kind, Node
from deployer.core.units import canonical
from deployer.core.values import Flat, JsonValue

TEMPLATE_DIGEST = "server.chat_template.sha256"
"""Input of the lock file: the content of a chat template of the user's."""

RECIPES: Mapping[Kind, int] = {
    Kind.BUILD: 1,
    Kind.WEIGHTS: 1,
    Kind.SNAPSHOT: 1,
    Kind.SERVER: 1,
}
"""Raised when the code behind a kind makes something else of the same content."""


def expand(stack: Stack, facts: Facts, abilities: Abilities) -> Graph:
    """The resources that a stack asks for.

    The key of the build and of the weights holds what the lock file found, so that
    another tag of the same commit, or a mirror with the same file, changes nothing.
    The key of what runs holds the argument list, so that an option that a build
    spells differently is seen.
    """
    captured = takes_snapshot(stack, abilities)
    every = tuple(_used(stack, captured=captured))
    homes: dict[Kind, list[Leaf]] = {kind: [] for kind in Kind}
    for leaf in every:
        homes[_home(leaf, abilities, captured=captured)].append(leaf)
    argv = list(words_of(every, build=build_number(stack, facts)))

    for_gpu = architectures_of(stack)
    build = _artefact(
        stack,
        Kind.BUILD,
        homes[Kind.BUILD],
        facts.build,
        {"gpu.architectures": list(for_gpu)} if for_gpu else {},
    )
    weights = _artefact(stack, Kind.WEIGHTS, homes[Kind.WEIGHTS], facts.weights, {})
    template = facts.inputs.get(TEMPLATE_DIGEST)
    files: Flat = {} if template is None else {TEMPLATE_DIGEST: template}
    made_from = {build.kind.value: build.key, weights.kind.value: weights.key}
    if not captured:
        server = _runs(stack, Kind.SERVER, homes[Kind.SERVER], made_from, argv, files)
        return {node.address: node for node in (build, weights, server)}
    mine = homes[Kind.SNAPSHOT]
    snapshot = _runs(stack, Kind.SNAPSHOT, mine, made_from, argv, files)
    needs = {**made_from, snapshot.kind.value: snapshot.key}
    server = _runs(stack, Kind.SERVER, homes[Kind.SERVER], needs, argv, {})
    return {node.address: node for node in (build, weights, snapshot, server)}


def takes_snapshot(stack: Stack, abilities: Abilities) -> bool:
    """Whether the stack gets a snapshot resource on this engine."""
    wanted = stack.snapshot is not None and stack.snapshot.enabled is not False
    return wanted and abilities.snapshots


def build_number(stack: Stack, facts: Facts) -> int | None:
    """Upstream's number of the build, from the tag or the lock file."""
    if (number := tag_number(stack)) is not None:
        return number
    match facts.build.about.get("number"):
        case int(number):
            return number
        case _:
            return None


def architectures_of(stack: Stack) -> tuple[str, ...]:
    """What a CUDA build is compiled for: two GPUs of one architecture share a build."""
    wanted = stack.llama_cpp
    if wanted.cuda is None or stack.gpu is None:
        return ()
    names = (stack.gpu,) if isinstance(stack.gpu, str) else stack.gpu
    return tuple(sorted({architecture_of(name) for name in names}))


def tag_number(stack: Stack) -> int | None:
    """Upstream's number of the build, where the tag is one (`b10434`)."""
    tag = stack.llama_cpp.tag
    return int(tag[1:]) if tag.startswith("b") and tag[1:].isdigit() else None


def _used(stack: Stack, *, captured: bool) -> Iterator[Leaf]:
    """The set fields that mean something on the engine of the stack."""
    for leaf in leaves(stack):
        section = leaf.path.partition(".")[0]
        idle = section == Kind.SNAPSHOT and not captured
        if leaf.marks.only in (None, stack.engine) and not idle:
            yield leaf


def _home(leaf: Leaf, abilities: Abilities, *, captured: bool) -> Kind:
    match leaf.marks.effect:
        case Effect.BUILD:
            return Kind.BUILD
        case Effect.FETCH:
            return Kind.WEIGHTS
        case Effect.SNAPSHOT if captured:
            return Kind.SNAPSHOT
        case Effect.REDEPLOY if captured and abilities.restart_drops_snapshot:
            return Kind.SNAPSHOT
        case _:
            return Kind.SERVER


def _artefact(
    stack: Stack, kind: Kind, mine: list[Leaf], pin: Pin, derived: Flat
) -> Node:
    """A build or weights: keyed by what the lock file found."""
    content: dict[str, JsonValue] = {
        leaf.path: canonical(leaf.marks.unit, leaf.value)
        for leaf in mine
        if not leaf.marks.locked
    }
    content |= derived
    locked = {f"{LOCK}{name}": value for name, value in pin.identity.items()}
    return Node(
        address=f"{stack.name}/{kind}",
        kind=kind,
        key=key_of(kind, RECIPES[kind], {**content, "lock": dict(pin.identity)}, {}),
        fields={**{leaf.path: leaf.value for leaf in mine}, **derived, **locked},
        needs={},
        spec={
            "source": pin.source,
            "identity": dict(pin.identity),
            "where": dict(pin.where),
            "about": {k: v for k, v in pin.about.items() if k != HEADER},
        },
    )


def _runs(
    stack: Stack,
    kind: Kind,
    mine: list[Leaf],
    needs: Mapping[str, str],
    argv: list[str],
    files: Flat,
) -> Node:
    """A snapshot or a server: keyed by what it is made from and how it is started."""
    content: dict[str, JsonValue] = {
        leaf.path: canonical(leaf.marks.unit, leaf.value)
        for leaf in mine
        if leaf.marks.effect >= Effect.REDEPLOY and not is_word(leaf)
    }
    content |= files
    if Kind.SNAPSHOT not in needs:
        content["argv"] = list(argv)
    return Node(
        address=f"{stack.name}/{kind}",
        kind=kind,
        key=key_of(kind, RECIPES[kind], content, needs),
        fields={**{leaf.path: leaf.value for leaf in mine}, **files},
        needs=needs,
        spec={"argv": list(argv)},
    )
