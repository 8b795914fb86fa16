"""The headers of the weights against a stack: does the build know it, does it fit.

Which architectures and projectors a build knows, its description says, where its source
was read; else a binary that is here, which is searched; else the shipped table.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from deployer.artefacts import lock_file
from deployer.diagnostics import (
    Diagnostic,
    Place,
    Severity,
    place_of,
    placed,
)
from deployer.errors import StackError
from deployer.gguf.facts import (
    Adapter,
    Facts,
    Projector,
    Template,
    draft_types,
    from_json,
    part_from_json,
    template_of,
)
from deployer.llama.catalogue import Catalogue, Known
from deployer.planning.facts import HEADER
from deployer.planning.facts import Facts as Locked
from deployer.planning.graph import needing, proven_by
from deployer.planning.resources import MODEL_ROLE, Graph
from deployer.stack.checks import (
    NEEDED,
    UNREAD,
    automatic_fields,
    gates_in,
    offered,
    unproven,
)
from deployer.stack.checks import Abilities as Offers
from deployer.stack.checks import asked as asked_by
from deployer.stack.fields.model import Stack
from deployer.stack.fields.values import path_of
from deployer.stack.files import named_by
from deployer.stack.load import Loaded
from deployer.system.files import read_regular
from deployer.usecases.context.settings import Settings
from deployer.usecases.reading.headers import all_facts, refused_models
from deployer.usecases.reading.memory import Sized, does_not_fit, doubts, sized

if TYPE_CHECKING:
    pass


_SAME_WIDTH = ("gemma",)
"""Projector types whose stated width was seen to be that of the model."""
_HEARS = re.compile(r"ultravox|voxtral|musicflamingo|meralion|glma|.*\da")
"""Projector types of upstream's tools/mtmd/clip-impl.h that take sound."""
_ASKS_THINKING = ("thinking", "thinking_budget")
_ASKS_TOOLS = ("tools", "responses_api")
_NO_TEMPLATE = (
    "the weights hold no chat template, so llama-server takes `chatml`: a base model"
    " follows no instructions, another needs `server.chat_template`"
)


@dataclass(slots=True)
class Judged:
    """Problems, certain and possible."""

    problems: list[Diagnostic] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def judged(
    stack: Stack,
    folder: Path,
    locked: Locked,
    weights: Facts,
    places: Mapping[str, Place],
    known: Catalogue,
) -> Judged:
    """Hold the model against the build and the gates of a stack."""
    found = Judged()
    names = tuple(_names(stack, folder, known, weights))
    wrong = (
        *(it for it in names if it.severity is Severity.ERROR),
        *_projection(weights),
        *_made_for_another(locked, weights),
        *_drafted(stack, weights),
    )
    found.problems += placed(wrong, places)
    unsure = ((it.path, it.what) for it in names if it.severity is Severity.NOTE)
    notes = (
        *unsure,
        *_above_training(stack, weights),
        *_template(stack, folder, weights),
    )
    for path, what in notes:
        written = place_of(places, path)
        where = f"{written.file}:{written.line}: " if written else ""
        found.notes.append(f"{where}{what}")
    return found


def _names(
    stack: Stack, folder: Path, on: Catalogue, weights: Facts
) -> Iterator[Diagnostic]:
    """Names that the build does not know, and those of which that is not known."""
    from deployer.llama.description import (  # noqa: PLC0415 - not for a known stack
        ARCHITECTURE,
        PROJECTOR,
        known_by,
        newest_read,
    )

    architecture = weights.model.architecture
    wanted = [(ARCHITECTURE, architecture, "llama_cpp.tag", "architecture")]
    kinds = weights.projector.kinds if weights.projector else ()
    wanted += [(PROJECTOR, it, "model.mmproj", "projector type") for it in kinds]
    if weights.draft is not None:
        name = weights.draft.architecture
        wanted.append((ARCHITECTURE, name, "model.draft", "architecture"))
    tag, number = stack.llama_cpp.tag, on.build
    binary = stack.llama_cpp.binary
    program = None if binary is None else folder / binary
    for kind, name, path, word in wanted:
        answer, last = known_by(kind, name, number), newest_read(kind)
        known, source = _at_hand(kind, name, on, program)
        if known is Known.UNCERTAIN:
            known, source = answer.known, f"the table up to b{last}"
        if known is Known.NO:
            what = f"`{tag}` does not know the {word} `{name}` (by {source})"
            yield Diagnostic(path, what, _newer(answer.since, answer.gone, last))
        elif known is Known.UNCERTAIN:
            why = (
                f"it is in no build that was read, and the last is b{last}"
                if answer.since is None
                else f"b{answer.since} does, and this one was not read"
            )
            what = f"whether `{tag}` knows the {word} `{name}` is not known: {why}"
            yield Diagnostic(path, what, "", Severity.NOTE)


def _above_training(stack: Stack, weights: Facts) -> Iterator[tuple[str, str]]:
    """Yield a context of a slot that llama-server caps, and what it caps it to."""
    server, trained = stack.server, weights.model.context_length
    if server is None or not server.ctx_size or not trained:
        return
    slots = 1 if server.kv_unified or not server.parallel else server.parallel
    if (wanted := server.ctx_size // slots) > trained:
        yield (
            "server.ctx_size",
            (
                f"a slot is to have {wanted} tokens, and the model was trained for"
                f" {trained}: llama-server gives it no more; write"
                f" `ctx_size: {trained * slots}`"
            ),
        )


def _newer(since: int | None, gone: int | None, last: int) -> str:
    if since is None:
        return f"no build up to b{last} does: take a newer one, or other weights"
    until = f", below `b{gone}`" if gone is not None else ""
    return f"write `tag: b{since}` or later{until}"


def _at_hand(
    kind: str, name: str, on: Catalogue, program: Path | None
) -> tuple[Known, str]:
    """Return what the build itself says, and which part of it."""
    stated = on.states(f"{kind} {name}")
    if stated is not None:
        return (Known.YES if stated else Known.NO), f"its {on.origin}"
    if program is None:
        return Known.UNCERTAIN, ""
    from deployer.llama.description import known_in_binary  # noqa: PLC0415 - as above

    return known_in_binary(kind, name, program), "its binary"


def _projection(weights: Facts) -> Iterator[Diagnostic]:
    """A projector that was made for another model."""
    projector, width = weights.projector, weights.model.embedding_length
    if projector is None or not _is_told(projector) or projector.projection == width:
        return
    what = (
        f"the projector makes embeddings of {projector.projection} numbers, and the"
        f" model takes {width}"
    )
    yield Diagnostic("model.mmproj", what, "take the projector of this model")


def _made_for_another(locked: Locked, weights: Facts) -> Iterator[Diagnostic]:
    """LoRA adapters and control vectors that were made for another architecture."""
    architecture = weights.model.architecture
    for role, pin in locked.beside.items():
        match part_from_json(pin.about.get(HEADER)):
            case Adapter(architecture=other) if other not in ("", architecture):
                what = f"made for `{other}`, and the model is `{architecture}`"
                yield Diagnostic(path_of(role), what, "take one made for this model")
            case _:
                pass


_MOST_APART = 128
"""Tokens that the vocabularies of model and draft may differ by, in llama.cpp."""


def _drafted(stack: Stack, weights: Facts) -> Iterator[Diagnostic]:
    """A draft that is not of the stated type, or that speaks other tokens."""
    stated = stack.server.speculative if stack.server else None
    if weights.draft is None or stated is None:
        return
    model, draft = weights.model, weights.draft
    made_for = draft_types(draft)
    if made_for and stated.type not in made_for:
        what = (
            f"`{stated.type}` cannot use a draft of architecture `{draft.architecture}`"
        )
        hint = f"write `type: {made_for[0]}`"
        yield Diagnostic("server.speculative.type", what, hint)
    apart = abs(model.vocabulary - draft.vocabulary)
    if stated.type == "draft-simple" and not made_for and apart > _MOST_APART:
        what = (
            f"the draft knows {draft.vocabulary} tokens, and the model"
            f" {model.vocabulary}: llama-server could not use it"
        )
        yield Diagnostic("model.draft", what, "take a draft of the same family")


def _is_told(projector: Projector) -> bool:
    first = projector.kinds[0] if projector.kinds else ""
    return projector.projection > 0 and first.startswith(_SAME_WIDTH)


def _template(stack: Stack, folder: Path, weights: Facts) -> Iterator[tuple[str, str]]:
    """Yield what the chat template lacks, and where to say so."""
    stated = asked_by(stack)
    asked = (*gates_in(stated), *(["chat"] if stated.auto else []))
    own = stack.server.chat_template if stack.server else None
    is_file = any(it.path == "server.chat_template" for it in named_by(stack))
    if own is not None and not is_file:
        return  # a template of llama.cpp's own
    if own is not None:
        path, template = "server.chat_template", _read(folder / own)
    elif not weights.model.whole:
        return
    else:
        path, template = "model", weights.model.template
    answers = "chat" in offered(stack)
    if template is None and answers and ("chat" in asked or len(asked) > 1):
        yield path, _NO_TEMPLATE
    if template is None:
        return
    if template.outdated and own is None:
        hint = "fetch the file again, or set `server.chat_template`"
        yield path, f"the weights hold {template.outdated}: {hint}"
    for gate in asked:
        lacks = _lacks(gate, template)
        if lacks:
            yield f"gates.{gate}", f"gate `{gate}` will fail: {lacks}"


def _lacks(gate: str, template: Template) -> str:
    if gate in _ASKS_THINKING and not template.thinking:
        return "the chat template knows no thinking"
    if gate in _ASKS_TOOLS and not template.tools:
        return "the chat template shows no tools to the model"
    return ""


def abilities_seen(
    stack: Stack, folder: Path, weights: Facts | None, on: Catalogue
) -> Offers:
    """Return the abilities of a model, by its headers and the template it is given.

    What its build states that it does not offer is left out.
    """
    named = stack.server.chat_template if stack.server else None
    is_file = any(it.path == "server.chat_template" for it in named_by(stack))
    template = weights.model.template if weights else None
    if is_file and named is not None:
        template = _read(folder / named)
    unknown = named is not None or weights is None or not weights.model.whole
    kinds = weights.projector.kinds if weights and weights.projector else ()
    return Offers(
        chat=None if template is None and unknown else template is not None,
        thinking=template is not None and template.thinking,
        tools=template is not None and template.tools,
        audio=any(_HEARS.fullmatch(kind) for kind in kinds),
        lacks=frozenset(it for it, fact in NEEDED.items() if on.states(fact) is False),
    )


def _read(file: Path) -> Template | None:
    return template_of(read_regular(file).decode("utf-8", errors="replace"))


_UNREAD_HEADER = (
    "the header of the weights is not read yet: whether they are a model that the build"
    " serves, and whether it fits, is not known"
)


class Weighed(NamedTuple):
    """Judge a stack by the headers of the weights."""

    size: Sized | None
    """None where they were not read yet."""
    problems: tuple[Diagnostic, ...] = ()
    """Why the build cannot serve the model."""
    notes: tuple[str, ...] = ()
    too_large: tuple[Diagnostic, ...] = ()
    """Why it does not fit."""
    abilities: Offers = UNREAD


def weighed(
    loaded: Loaded,
    stack_file: Path,
    settings: Settings,
    facts: Locked,
    graph: Graph,
    on: Catalogue,
) -> Weighed:
    """Hold the model of a stack against its build, its gates and its machine."""
    stack = loaded.stack
    with refused_models(loaded):
        weights = all_facts(facts, graph, settings.store)
    if weights is None:
        seen = abilities_seen(stack, stack_file.parent, None, on)
        return Weighed(None, notes=(_UNREAD_HEADER,), abilities=seen)
    known = judged(stack, stack_file.parent, facts, weights, loaded.places, on)
    size = sized(stack, facts, weights)
    notes = (*known.notes, *doubts(stack, size))
    large = tuple(does_not_fit(size, loaded.places))
    seen = abilities_seen(stack, stack_file.parent, weights, on)
    return Weighed(size, tuple(known.problems), notes, large, seen)


def with_gates(
    graph: Graph, stack: Stack, known: Weighed
) -> tuple[Graph, tuple[str, ...]]:
    """Return the graph with implied gates and needed memory, and what is not proven.

    Raises StackError for a model that the build cannot serve, or nothing can hold.
    """
    refuse_model(known)
    left = unproven(stack, known.abilities)
    graph = needing(graph, known.size.fits[0] if known.size else None)
    return proven_by(graph, automatic_fields(stack, known.abilities), left), left


def refuse_model(known: Weighed) -> None:
    """Raise StackError for a model that the build cannot serve, or nothing can hold."""
    if found := (*known.problems, *known.too_large):
        raise StackError(found)


def known_offline(loaded: Loaded, stack_file: Path, on: Catalogue) -> tuple[str, ...]:
    """Judge the model by the lock file alone; raises StackError for problems.

    Nothing is told where the stack asks for other weights than it was locked with.
    """
    locked = lock_file.read(lock_file.lock_path(stack_file))
    weights = from_json(locked.weights.about.get(HEADER)) if locked else None
    if locked is None or weights is None:
        return ()
    moved = lock_file.moved(locked, lock_file.inputs_of(loaded.stack, {}))
    if any(it.artefact == MODEL_ROLE for it in moved):
        return ()
    folder = stack_file.parent
    known = judged(loaded.stack, folder, locked, weights, loaded.places, on)
    if known.problems:
        raise StackError(known.problems)
    return tuple(known.notes)
