"""The lock file of a stack: what its references resolved to, kept in git."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from deployer.artefacts.json_files import (
    FormError,
    NewerError,
    decoded,
    parse,
    text_of,
    versioned,
)
from deployer.errors import UsageError
from deployer.planning.facts import (
    DESCRIPTION,
    HEADER,
    SKIPPED,
    Facts,
    Pin,
    flaw_of,
    other_than,
)
from deployer.planning.resources import Kind, StackName, digest
from deployer.stack.fields.marks import leaves, marks_at
from deployer.stack.fields.model import Stack
from deployer.stack.fields.values import Effect, Flat, JsonValue, role_of
from deployer.stack.project_root import leads_out
from deployer.system.files import guarded, read_regular, replace_file, users_mode

_VERSION = 1
_SUFFIX = ".lock.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content(Facts):
    """The content of a lock file."""

    stack: StackName


@dataclass(frozen=True, slots=True)
class Moved:
    """A field that the lock file was resolved from, and that changed since."""

    path: str
    locked: JsonValue
    """None where it was not set."""
    today: JsonValue
    """None where it is not set."""
    artefact: str
    """The role of what has to be resolved again: the build, weights, or the server."""


def lock_path(stack_file: Path) -> Path:
    """``stacks/demo.lock.json`` for ``stacks/demo.yaml``."""
    return stack_file.with_name(f"{stack_file.stem}{_SUFFIX}")


def read(path: Path) -> Facts | None:
    """The facts in a lock file; None where there is no file.

    Raises UsageError where it is damaged, written by a newer deployer, or a link out
    of the project.
    """
    again = f"`{_again(path)}` resolves it again"
    if leads_out(path):
        raise UsageError(
            f"`{path}` is a link out of the project", hint=f"remove it; {again}"
        )
    try:
        return _facts(versioned(parse(read_regular(path)), _VERSION))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}") from error
    except NewerError as error:
        raise UsageError(
            f"`{path}` was written by a newer deployer "
            f"(lock version {error.version}, this one reads {_VERSION})",
            hint=f"upgrade deployer; or {again}",
        ) from error
    except FormError as error:
        raise UsageError(f"`{path}` is damaged: {error}", hint=again) from error


def write(path: Path, facts: Facts, stack_name: str) -> None:
    """Replace a lock file; equal facts give the same bytes.

    Raises UsageError where it cannot be written; the old one is still there then.
    """
    text = _text(facts, stack_name)
    try:
        with guarded(path.parent):
            replace_file(path, text.encode(), mode=users_mode())
    except OSError as error:
        raise UsageError(f"cannot write `{path}`: {error.strerror}") from error


def digest_of(facts: Facts | None) -> str:
    """The digest of facts; empty where there are none."""
    if facts is None:
        return ""
    return hashlib.sha256(_text(facts).encode()).hexdigest()


def _text(facts: Facts, stack_name: str = "") -> str:
    """Return the content of a lock file; what a stack has not is not in it."""
    beside = {"beside": facts.beside} if facts.beside else {}
    named = {"stack": stack_name} if stack_name else {}
    pins = {"build": facts.build, "weights": facts.weights, **beside}
    return text_of(_VERSION, {**pins, "inputs": facts.inputs, **named})


def inputs_of(stack: Stack, digests: Mapping[str, str]) -> Flat:
    """The fields that the lock file stands for, by path: what facts come from.

    ``digests`` are those of files that the stack names: patches, a chat template.
    """
    fields = {leaf.path: leaf.value for leaf in leaves(stack) if leaf.marks.locked}
    return {**fields, **digests}


def moved(facts: Facts, inputs: Flat) -> tuple[Moved, ...]:
    """The fields that differ between lock file and stack, by path.

    Says nothing about the content of files on this machine: who can read them
    compares their identity.
    """
    then, today = facts.inputs, inputs
    return tuple(
        Moved(path, then.get(path), today.get(path), _artefact_of(path))
        for path in sorted(then.keys() | today.keys())
        if not _same(then.get(path), today.get(path))
    )


def pins_same(one: Facts | None, other: Facts) -> bool:
    """Return whether two lock files pin the same, whatever they keep of its content."""
    return one is not None and _bare(one) == _bare(other)


def _bare(facts: Facts) -> Facts:
    bare = {role: _without_words(pin) for role, pin in facts.by_role.items()}
    return Facts.of(bare, facts.inputs)


def _without_words(pin: Pin) -> Pin:
    about = {k: v for k, v in pin.about.items() if k not in _READ_FROM_IT}
    return replace(pin, about=about)


_READ_FROM_IT = (HEADER, DESCRIPTION, SKIPPED)
"""Keys of `Pin.about` that say nothing of which artefact it is."""


def _same(one: JsonValue, other: JsonValue) -> bool:
    """Equal as JSON: 1 is neither 1.0 nor true."""
    return digest(one) == digest(other)


def _artefact_of(path: str) -> str:
    """The artefact a field decides about, by what a change of it costs."""
    match marks_at(Stack, path).effect:
        case Effect.FETCH:
            return role_of(path)
        case Effect.BUILD:
            return Kind.BUILD
        case _:
            return Kind.SERVER


def refuse_other(path: Path, stack: Stack, role: str, pin: Pin) -> None:
    """Raise UsageError where a pin of a lock file is not what the stack asks for."""
    if other := other_than(stack, role, pin):
        raise UsageError(
            f"`{path}` does not belong to the stack: in `{role}` {other}",
            hint=f"`{_again(path)}` resolves it again; compare the two files before",
        )


def _facts(content: dict[str, JsonValue]) -> Facts:
    found = decoded(_Content, {"beside": {}, **content})
    for role, pin in found.by_role.items():
        if flaw := flaw_of(role, pin):
            raise FormError(f"in `{role}` {flaw}")
    return Facts(found.build, found.weights, found.inputs, found.beside)


def _again(path: Path) -> str:
    """Return what to type to have a lock file written again, whatever it holds."""
    stack = path.with_name(f"{path.name.removesuffix(_SUFFIX)}.yaml")
    return f"deployer lock {stack} --upgrade"
