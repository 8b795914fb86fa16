"""Stacks and facts from a few words."""

import json
from collections.abc import Mapping

from deployer.errors import (
    StackError,
)
from deployer.planning.facts import Facts, Pin
from deployer.planning.keys import digest
from deployer.planning.resources import Kind
from deployer.stack.fields.effects import Effect
from deployer.stack.fields.marks import leaves
from deployer.stack.fields.model import Stack
from deployer.stack.fields.values import JsonValue
from deployer.stack.yaml.tree import plain
from deployer.stack.yaml.yaml12 import parse


def stack(content: str | Mapping[str, JsonValue]) -> Stack:
    """A stack from YAML text or from its content; cross-field rules are not looked at.

    Raises StackError for text that is no YAML of ours, and pydantic's ValidationError.
    """
    return Stack.model_validate_json(json.dumps(_content(content)))


def facts(*, build: str = "build", weights: str = "weights") -> Facts:
    """Facts whose identity is made of two words: other words, other artefacts."""
    return Facts(
        build=_pin(build, about={"size": 11_000_000}),
        weights=_pin(weights, about={"size": 253_000_000, "model": ["tiny.gguf"]}),
        inputs={},
    )


def resolved(stack: Stack) -> Facts:
    """Facts as from a world where every other way to name something is another."""
    named: dict[Kind, list[JsonValue]] = {Kind.BUILD: [], Kind.WEIGHTS: []}
    for leaf in leaves(stack):
        if leaf.marks.locked:
            built = leaf.marks.effect is Effect.BUILD
            kind = Kind.BUILD if built else Kind.WEIGHTS
            named[kind].append([leaf.path, leaf.value])
    return facts(build=digest(named[Kind.BUILD]), weights=digest(named[Kind.WEIGHTS]))


def _content(content: str | Mapping[str, JsonValue]) -> JsonValue:
    if not isinstance(content, str):
        return dict(content)
    table, problems = parse(content, "stack.yaml")
    if problems:
        raise StackError(problems)
    return plain(table)


def _pin(word: str, *, about: Mapping[str, JsonValue]) -> Pin:
    return Pin("path", {"sha256": digest(word)}, {"path": word}, about)
