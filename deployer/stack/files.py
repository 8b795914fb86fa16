"""The files that a stack names: one walk over the `File` and `Folder` marks.

Validation, the inputs of a plan, the stacks that a commit changed, the assets of an app
and the project boundary all ask here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from deployer.engines.registry import load
from deployer.stack.fields.marks import Field, Section, fields_of, plain
from deployer.stack.fields.model import Stack
from deployer.stack.fields.server import Server
from deployer.stack.fields.values import (
    Effect,
    File,
    Flat,
    Folder,
    JsonValue,
    Marks,
    Options,
)

FLAGS = "server.flags."
"""How the paths of options without a field begin."""


@dataclass(frozen=True, slots=True)
class Named:
    """A file or a folder that a field names, relative to the stack."""

    path: str
    """The field, such as `snapshot.warmup.0.image`."""
    name: str
    mark: File | Folder
    effect: Effect
    digest: str
    """Field that records the digest of the content; empty where none does."""

    @property
    def optional(self) -> bool:
        """Return whether it need not be there: a word of a command may be anything."""
        return isinstance(self.mark, File) and self.mark.optional

    @property
    def of_option(self) -> bool:
        """Return whether an option under `server.flags` names it."""
        return self.path.startswith(FLAGS)

    @property
    def served(self) -> bool:
        """Return whether its content decides what a server does, and so is locked."""
        return bool(self.digest) and self.effect is not Effect.GATE

    @property
    def judged(self) -> bool:
        """Return whether its content decides what the gates prove."""
        return bool(self.digest) and self.effect is Effect.GATE


def named_by(stack: Stack) -> Iterator[Named]:
    """Yield everything that a stack names, in the order of its fields."""
    return named_in(plain(stack))


def named_in(values: JsonValue) -> Iterator[Named]:
    """Yield the same for the values of a file, also where some of them are wrong."""
    if isinstance(values, dict):
        yield from _named(Stack, values, "", None)


def option_file(word: str) -> File | None:
    """Return the mark of an option of llama-server, with its dashes; None: no file."""
    found: File | None = None
    if word.startswith("--"):
        found = load(f"{_catalogue()}:file_of")(word[2:])
    return found


def long_name(name: str) -> str:
    """Return the long name of an option under `server.flags`, by any of its names."""
    found: str = load(f"{_catalogue()}:long_name")(name)
    return found


def sign_between(name: str) -> str | None:
    """Return the sign between several values of an option under `server.flags`.

    Empty where the option is said again for each, None where it takes one.
    """
    found: str | None = load(f"{_catalogue()}:joined")(name)
    return found


def is_pair(name: str) -> bool:
    """Return whether an option under `server.flags` takes two values."""
    found: bool = load(f"{_catalogue()}:is_pair")(name)
    return found


def _catalogue() -> str:
    marks = (field.file for field in fields_of(Server).values())
    return next(mark.catalogue for mark in marks if isinstance(mark, Options))


def nested(fields: Flat) -> JsonValue:
    """Return values by dotted path as the mapping that a file would hold."""
    made: dict[str, JsonValue] = {}
    for path, value in fields.items():
        *above, last = path.split(".")
        inside: JsonValue = made
        for step in above:
            inside = inside.setdefault(step, {}) if isinstance(inside, dict) else None
        if isinstance(inside, dict):
            inside[last] = value
    return made


def _named(
    section: type[Section],
    values: Mapping[str, JsonValue],
    above: str,
    inherited: Marks | None,
) -> Iterator[Named]:
    for name, field in fields_of(section).items():
        value, path, marks = values.get(name), f"{above}{name}", field.under(inherited)
        match field.file:
            case File(beside=str(other)) if other and values.get(other) is None:
                pass
            case File() | Folder() as mark:
                yield from _marked(path, mark, value, marks.effect)
            case Options() if isinstance(value, dict):
                for option, words in value.items():
                    if (taken := option_file(f"--{option}")) is not None:
                        yield from _marked(
                            f"{path}.{option}", taken, words, marks.effect
                        )
            case _:
                pass
        match field, value:
            case Field(section=type() as one), dict():
                yield from _named(one, value, f"{path}.", marks)
            case Field(item=type() as one), dict() | list():
                items = value.items() if isinstance(value, dict) else enumerate(value)
                for key, item in items:
                    if isinstance(item, dict):
                        yield from _named(one, item, f"{path}.{key}.", marks)
            case _:
                pass


def _marked(
    path: str, mark: File | Folder, value: JsonValue, effect: Effect
) -> Iterator[Named]:
    for text in _names(mark, value):
        digest = (mark.digest if isinstance(mark, File) else "").format(
            path=path, section=path.rpartition(".")[0], name=text
        )
        yield Named(path, text, mark, effect, digest)


def _names(mark: File | Folder, value: JsonValue) -> Iterator[str]:
    """Yield each name in a value that is a string or a list of them."""
    texts = value if isinstance(value, list) else [value]
    for text in dict.fromkeys(it for it in texts if isinstance(it, str)):
        match mark:
            case Folder(scheme=scheme) if text.lower().startswith(scheme):
                yield text[len(scheme) :]
            case File(several=True):
                yield from mark.names_in(text)
            case File(ending=ending) if text.endswith(ending):
                # A program of the system is no file of the stack.
                if not (mark.optional and text.startswith("/")):
                    yield text.rpartition(":")[0] if mark.function else text
            case _:
                pass
