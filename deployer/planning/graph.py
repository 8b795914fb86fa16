"""From a stack and its facts to the resources it asks for, with their keys."""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from deployer.engines.registry import ENGINES, Abilities
from deployer.planning.argv import SCALE, SCALES, is_word, words_of
from deployer.planning.facts import HEADER, Facts, Pin, pinned_images
from deployer.planning.plan import (
    MEMORY,
    UNPROVEN,
    Fit,
    memory_of,
    share_of,
)
from deployer.planning.resources import (
    LOCK,
    MODEL_ROLE,
    VARIABLES,
    Graph,
    Kind,
    Node,
    key_of,
)
from deployer.stack.checks import asked, closing_words, gpu_types
from deployer.stack.fields.marks import Leaf, fields_of, leaves, marks_at
from deployer.stack.fields.model import (
    Snapshot,
    Stack,
    Warmup,
    architecture_of,
)
from deployer.stack.fields.values import (
    ENV,
    Effect,
    Flat,
    JsonValue,
    canonical,
    references_in,
    role_of,
    usual_variable,
)
from deployer.stack.files import named_by

MMAP = "server.mmap"
_AUTH = "gates.auth"
FILES = "files"
"""Where the spec of a node has digests of files by their names."""
IMAGE = "image"
"""Where the spec of what runs has the image of its container, pinned by its digest."""
PLACE = "environment"
"""Where the spec of a node says in which environment of the engine it is made."""
ASKS_FOR_KEY = "auth"
"""Marks a server that asks for a key, which is in its memory and its snapshot."""

RECIPES: Mapping[Kind, int] = {
    Kind.BUILD: 1,
    Kind.WEIGHTS: 1,
    Kind.SNAPSHOT: 1,
    Kind.SERVER: 1,
}
"""Raised when the code behind a kind makes something else of the same content."""


def expand(
    stack: Stack, facts: Facts, abilities: Abilities, known: Container[str] = ()
) -> Graph:
    """The resources that a stack asks for.

    ``known`` is every spelling of an option that the build states it takes.

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
    worded = every if not captured else tuple(_unmapped(every, abilities))
    argv = list(_argv(stack, worded, build_number(stack, facts), known))

    for_gpu = architectures_of(stack)
    derived: Flat = {"gpu.architectures": list(for_gpu)} if for_gpu else {}
    build = _artefact(stack, "build", homes[Kind.BUILD], facts.build, derived)
    weights = tuple(_weights(stack, homes[Kind.WEIGHTS], facts))
    files = _contents(stack, facts, captured=captured)
    starts = _start_of(stack, facts, tuple(argv), _variables(every), abilities)
    made_from = {node.role: node.key for node in (build, *weights)}
    mine, ends = homes[Kind.SNAPSHOT], homes[Kind.SERVER]
    if not captured:
        server = _runs(stack, Kind.SERVER, ends, made_from, starts, files)
        return _placed(stack, build, *weights, server)
    asks: Flat = {ASKS_FOR_KEY: True} if stack.api_keys else {}
    files = {**files, **asks}
    snapshot = _runs(stack, Kind.SNAPSHOT, mine, made_from, starts, files)
    served = {it.path: it.value for it in ends if _starts(it, stack)}
    snapshot = replace(snapshot, spec={**snapshot.spec, "served": served})
    needs = {**made_from, snapshot.kind.value: snapshot.key}
    server = _runs(stack, Kind.SERVER, ends, needs, starts, {})
    return _placed(stack, build, *weights, snapshot, _scaled(server, snapshot))


def _scaled(server: Node, snapshot: Node) -> Node:
    """The server, which also starts without its snapshot, with what was captured."""
    scales = {p: v for p, v in snapshot.fields.items() if p.endswith(SCALE)}
    return replace(server, spec={**server.spec, SCALES: scales}) if scales else server


def _placed(stack: Stack, *nodes: Node) -> Graph:
    """The graph; where an engine has several places, each node knows its own."""
    place = stack.of_engine(ENGINES[stack.engine].place)
    if not isinstance(place, str):
        return {node.address: node for node in nodes}
    return {
        node.address: replace(node, spec={**node.spec, PLACE: place}) for node in nodes
    }


def takes_snapshot(stack: Stack, abilities: Abilities) -> bool:
    """Return whether the stack gets a snapshot resource on this engine."""
    wanted = stack.snapshot
    if wanted is None or wanted.enabled is False or not abilities.snapshots:
        return False
    return wanted.enabled is True or _can_be_captured(stack, wanted, abilities)


def _can_be_captured(stack: Stack, wanted: Snapshot, abilities: Abilities) -> bool:
    """Return whether this stack can be captured; only `enabled: true` insists on it."""
    mapped = stack.server is not None and stack.server.mmap is True
    if mapped and not abilities.snapshot_keeps_maps:
        return False
    most = abilities.gpus_in_snapshot
    if most is None or stack.gpu is None:
        return True
    few = all(count <= most for _, count in gpu_types(stack))
    return few and wanted.gpu is not False


def _argv(
    stack: Stack, worded: tuple[Leaf, ...], build: int | None, known: Container[str]
) -> Iterator[str]:
    """The argument list, with what the stack leaves to us in front."""
    yield from closing_words(stack, build=build, known=known)
    yield from words_of(worded, build=build, known=known)


def _unmapped(every: tuple[Leaf, ...], abilities: Abilities) -> Iterator[Leaf]:
    """The fields, with a model that is read instead of mapped where it has to be."""
    yield from every
    stated = any(leaf.path == MMAP for leaf in every)
    if not abilities.snapshot_keeps_maps and not stated:
        yield Leaf(MMAP, value=False, marks=marks_at(Stack, MMAP))


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
    """Return the targets of a CUDA build: GPUs of one architecture share it."""
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
        void = section == Kind.SNAPSHOT and not captured and not is_word(leaf)
        if leaf.marks.only in (None, stack.engine) and not void:
            yield leaf
    # A key that lets everybody in is seen by this gate alone.
    if stack.api_keys and asked(stack).auth is None:
        yield Leaf(_AUTH, {}, marks_at(Stack, _AUTH))


@dataclass(frozen=True, slots=True)
class _Start:
    """How llama-server is started."""

    argv: tuple[str, ...]
    variables: Flat
    files: Flat
    """Digests of the files that options name, by their names."""
    abilities: Abilities
    image: str
    """The image of its container with its digest; empty where none is pinned."""

    @property
    def spec(self) -> dict[str, JsonValue]:
        """The part of a node that tells an engine so."""
        more: Flat = {
            VARIABLES: dict(self.variables),
            FILES: dict(self.files),
            IMAGE: self.image,
        }
        found = {name: value for name, value in more.items() if value}
        return {"argv": list(self.argv), **found}


def _start_of(
    stack: Stack,
    facts: Facts,
    argv: tuple[str, ...],
    variables: Flat,
    abilities: Abilities,
) -> _Start:
    image = pinned_images(facts.build).get(Kind.SERVER, "")
    return _Start(argv, variables, _by_name(stack, facts), abilities, image)


def _variables(every: tuple[Leaf, ...]) -> Flat:
    """The environment variables of the stack, as the strings that a program sees.

    One whose value is a secret is a mapping that says where that is found.
    """
    stated = {it.path: it.value for it in every if it.path.startswith(ENV)}
    found: dict[str, JsonValue] = {}
    for path, where in references_in(stated).items():
        found[path.removeprefix(ENV)] = {"env": usual_variable(path), **where}
    for path, value in stated.items():
        if "." not in (name := path.removeprefix(ENV)):
            found[name] = _as_text(value)
    return found


def _as_text(value: JsonValue) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _by_name(stack: Stack, facts: Facts) -> Flat:
    served = (it for it in named_by(stack) if it.served)
    named = (it for it in served if it.path.startswith("server."))
    return {it.name: d for it in named if (d := facts.inputs.get(it.digest))}


def _contents(stack: Stack, facts: Facts, *, captured: bool) -> Flat:
    """Return the digests of the files that decide what a server does."""
    return {
        it.digest: facts.inputs[it.digest]
        for it in named_by(stack)
        if it.served
        and it.digest in facts.inputs
        and (captured or not it.path.startswith(f"{Kind.SNAPSHOT}."))
    }


def judged_by(graph: Graph, digests: Flat) -> Graph:
    """Return the graph whose server also has the digests of the files of its gates.

    They are no part of its key: another content is a reason to judge it again.
    """
    return {
        address: replace(node, fields={**node.fields, **digests})
        if node.kind is Kind.SERVER
        else node
        for address, node in graph.items()
    }


def proven_by(graph: Graph, gates: Flat, left: Sequence[str]) -> Graph:
    """Return the graph whose server is also proven by gates that the stack implies.

    These are fields of the stack; what is ``left`` is offered, and no gate asks for it.
    """
    return {
        address: replace(
            node,
            fields={**node.fields, **gates},
            spec={**node.spec, UNPROVEN: list(left)} if left else node.spec,
        )
        if node.kind is Kind.SERVER
        else node
        for address, node in graph.items()
    }


def needing(graph: Graph, fit: Fit | None) -> Graph:
    """Return the graph whose server says how much of a GPU it needs, if it uses one."""
    memory = memory_of(fit)
    return {
        address: replace(node, spec={**node.spec, MEMORY: memory})
        if memory and node.kind is Kind.SERVER and share_of(node.fields, memory).cards
        else node
        for address, node in graph.items()
    }


def _starts(leaf: Leaf, stack: Stack) -> bool:
    """Return whether a field of the server says how one is started, captured or not."""
    return leaf.path.partition(".")[0] in {"auth", stack.engine}


def _home(leaf: Leaf, abilities: Abilities, *, captured: bool) -> Kind:
    match leaf.marks.effect:
        case Effect.UPDATE if captured and leaf.marks.ability:
            return Kind.SNAPSHOT  # what is set in the memory is captured with it
        case Effect.BUILD:
            return Kind.BUILD
        case Effect.FETCH:
            return Kind.WEIGHTS
        case Effect.NOTE if leaf.path.startswith("model."):
            return Kind.WEIGHTS
        case Effect.SNAPSHOT if captured:
            return Kind.SNAPSHOT
        case Effect.REDEPLOY if captured and abilities.restart_drops_snapshot:
            return Kind.SNAPSHOT
        case _:
            return Kind.SERVER


def _weights(stack: Stack, mine: list[Leaf], facts: Facts) -> Iterator[Node]:
    """Yield the model, and the weights beside it, each with the fields of its role."""
    everybodys = [it for it in mine if it.marks.effect is Effect.NOTE]
    for role in stack.model.sources:
        own = [it for it in mine if role_of(it.path) == role]
        if role != MODEL_ROLE:
            own += everybodys
        yield _artefact(stack, role, own, facts.by_role[role], {})


def _artefact(
    stack: Stack, role: str, mine: list[Leaf], pin: Pin, derived: Flat
) -> Node:
    """A build or weights: keyed by what the lock file found."""
    content: dict[str, JsonValue] = {
        leaf.path: canonical(leaf.marks.unit, leaf.value)
        for leaf in mine
        if not leaf.marks.locked and leaf.marks.effect > Effect.NOTE
    }
    content |= derived
    locked = {f"{LOCK}{name}": value for name, value in pin.identity.items()}
    kind = Kind.BUILD if role == Kind.BUILD else Kind.WEIGHTS
    return Node(
        address=f"{stack.name}/{role}",
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
    starts: "_Start",
    files: Flat,
) -> Node:
    """A snapshot or a server: keyed by what it is made from and how it is started."""
    content: dict[str, JsonValue] = {
        leaf.path: canonical(leaf.marks.unit, _without_limits(leaf))
        for leaf in mine
        if _restarts(leaf, kind, starts.abilities) and not is_word(leaf)
    }
    content |= files
    facts: Flat = {}
    if Kind.SNAPSHOT not in needs:
        content["argv"] = list(starts.argv)
        if starts.image:
            digest = starts.image.rpartition("@")[2]
            content[IMAGE], facts = digest, {f"{LOCK}{IMAGE}": digest}
    return Node(
        address=f"{stack.name}/{kind}",
        kind=kind,
        key=key_of(kind, RECIPES[kind], content, needs),
        fields={**{leaf.path: leaf.value for leaf in mine}, **files, **facts},
        needs=needs,
        spec=starts.spec,
    )


def _restarts(leaf: Leaf, kind: Kind, abilities: Abilities) -> bool:
    """Return whether a change of a field is one of the key."""
    if leaf.marks.ability:
        return kind is Kind.SNAPSHOT or not getattr(abilities, leaf.marks.ability)
    return leaf.marks.effect >= Effect.REDEPLOY


def _without_limits(leaf: Leaf) -> JsonValue:
    """A value less what says only how long something may take."""
    match leaf.value:
        case list(items) if leaf.path == f"{Kind.SNAPSHOT}.warmup":
            return [_untimed(item) for item in items]
        case value:
            return value


def _untimed(request: JsonValue) -> JsonValue:
    if not isinstance(request, dict):
        return request
    asked = fields_of(Warmup)
    return {n: v for n, v in request.items() if asked[n].effect is not Effect.NOTE}


def snapshot_notes(stack: Stack, abilities: Abilities) -> Iterator[str]:
    """Yield what the user should know though nothing is wrong, a sentence each."""
    if stack.snapshot is None or stack.snapshot.enabled is False:
        return
    if not takes_snapshot(stack, abilities):
        hint = f": {abilities.hint}" if abilities.hint else ""
        yield f"`snapshot`: starts cold, since {abilities.why_not}{hint}"
        return
    mapped = stack.server is None or stack.server.mmap is not False
    if abilities.snapshot_keeps_maps and mapped:
        yield (
            "`server.mmap`: the snapshot contains no weights; the model file is pinned"
            " in it by its hash, and has to stay where it is"
        )
