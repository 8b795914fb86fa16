"""Whether the build of a stack knows its model, and the template what gates ask."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deployer.diagnostics import Place, Problem
from deployer.gguf.facts import Facts, Projector
from deployer.gguf.template import Template, template_of
from deployer.llama.known.models import (
    ARCHITECTURE,
    PROJECTOR,
    Known,
    known_by,
    known_in_binary,
    known_in_tree,
)
from deployer.planning.facts import Facts as Locked
from deployer.planning.graph import build_number
from deployer.stack.fields.gate_options import Gates
from deployer.stack.fields.model import Stack
from deployer.stack.yaml.tree import place_of
from deployer.system.regular_files import read_regular

_SAME_WIDTH = ("gemma",)
"""Projector types whose stated width was seen to be that of the model."""
_ASKS_THINKING = ("thinking", "thinking_budget")
_ASKS_TOOLS = ("tools", "responses_api")
_NO_TEMPLATE = (
    "the weights hold no chat template, so llama-server takes `chatml`: a base model"
    " follows no instructions, another needs `server.chat_template`"
)


@dataclass(slots=True)
class Judged:
    """What is wrong, and what may be."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def judged(
    stack: Stack,
    folder: Path,
    locked: Locked,
    weights: Facts,
    places: Mapping[str, Place],
) -> Judged:
    """Hold the model against the build and the gates of a stack."""
    found = Judged()
    build = build_number(stack, locked)
    for problem in (
        *_names(stack, folder, build, weights),
        *_projection(weights),
    ):
        place = place_of(places, problem.path) or problem.place
        found.problems.append(Problem(place, problem.path, problem.what, problem.hint))
    for path, what in _template(stack, folder, weights):
        written = place_of(places, path)
        where = f"{written.file}:{written.line}: " if written else ""
        found.notes.append(f"{where}{what}")
    return found


def _names(
    stack: Stack, folder: Path, build: int | None, weights: Facts
) -> Iterator[Problem]:
    """Names that the build does not know."""
    architecture = weights.model.architecture
    wanted = [(ARCHITECTURE, architecture, "llama_cpp.tag", "architecture")]
    kinds = weights.projector.kinds if weights.projector else ()
    wanted += [(PROJECTOR, it, "model.mmproj", "projector type") for it in kinds]
    for kind, name, path, word in wanted:
        answer = known_by(kind, name, build)
        known = _at_hand(kind, name, stack, folder)
        if known is Known.UNCERTAIN:
            known = answer.known
        if known is Known.NO:
            what = f"`{stack.llama_cpp.tag}` does not know the {word} `{name}`"
            yield Problem(_NOWHERE, path, what, _newer(answer.since, answer.gone))


_NOWHERE = Place("stack")


def _newer(since: int | None, gone: int | None) -> str:
    if since is None:
        return "no build up to b11434 does: take a newer one, or other weights"
    until = f", below `b{gone}`" if gone is not None else ""
    return f"write `tag: b{since}` or later{until}"


def _at_hand(kind: str, name: str, stack: Stack, folder: Path) -> Known:
    """Return what a binary or a source tree of the user says."""
    wanted = stack.llama_cpp
    if wanted.binary is not None:
        return known_in_binary(kind, name, folder / wanted.binary)
    if wanted.source_path is not None:
        return known_in_tree(kind, name, folder / wanted.source_path)
    return Known.UNCERTAIN


def _projection(weights: Facts) -> Iterator[Problem]:
    """A projector that was made for another model."""
    projector, width = weights.projector, weights.model.embedding_length
    if projector is None or not _is_told(projector) or projector.projection == width:
        return
    what = (
        f"the projector makes embeddings of {projector.projection} numbers, and the"
        f" model takes {width}"
    )
    yield Problem(_NOWHERE, "model.mmproj", what, "take the projector of this model")


def _is_told(projector: Projector) -> bool:
    first = projector.kinds[0] if projector.kinds else ""
    return projector.projection > 0 and first.startswith(_SAME_WIDTH)


def _template(stack: Stack, folder: Path, weights: Facts) -> Iterator[tuple[str, str]]:
    """Yield what the chat template lacks, and where to say so."""
    asked = _asked(stack.gates)
    own = stack.server.chat_template if stack.server else None
    if own is not None and not own.endswith(".jinja"):
        return  # a template of llama.cpp's own
    if own is not None:
        path, template = "server.chat_template", _read(folder / own)
    elif not weights.model.whole:
        return
    else:
        path, template = "model", weights.model.template
    if template is None and ("chat" in asked or len(asked) > 1):
        yield path, _NO_TEMPLATE
    if template is None:
        return
    if template.outdated and own is None:
        hint = "fetch the file anew, or set `server.chat_template`"
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


def _asked(gates: Gates | None) -> tuple[str, ...]:
    """The gates of a stack, by name."""
    if gates is None:
        return ()
    names = (name for name in type(gates).model_fields if name != "custom")
    return tuple(name for name in names if getattr(gates, name) is not None)


def _read(file: Path) -> Template | None:
    return template_of(read_regular(file).decode("utf-8", errors="replace"))
