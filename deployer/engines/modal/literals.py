"""Values as Python source: what a template may print, and nothing else.

A text becomes a literal with every quote, backslash and unprintable character
escaped, so that no value of a stack can end the literal it stands in.
"""

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

Value: TypeAlias = (
    "str | int | float | bool | Sequence[Value] | Mapping[str, Value] | None"
)
"""What has a literal here; tuples and lists both become lists."""

WIDTH: Final = 88
EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - every address of a container
_INDENT: Final = 4


def literal(value: Value, *, before: int = 0, indent: int = 0) -> str:
    """The source of a value, in as many lines as the formatter would take.

    ``before`` is how much of its line is taken, ``indent`` how far that line is in.
    """
    line = _on_one_line(value)
    if before + len(line) < WIDTH or not _opens(value):
        return line
    inner = indent + _INDENT
    pad, end = " " * inner, " " * indent
    match value:
        case Mapping():
            entries = [
                (head := f"{_text(key)}: ")
                + literal(item, before=inner + len(head), indent=inner)
                for key, item in value.items()
            ]
            opening, closing = "{", "}"
        case _:
            items = value if isinstance(value, list | tuple) else ()
            entries = [literal(item, before=inner, indent=inner) for item in items]
            opening, closing = "[", "]"
    body = "".join(f"{pad}{entry},\n" for entry in entries)
    return f"{opening}\n{body}{end}{closing}"


def options(words: Sequence[str]) -> str:
    """A list of options, each on a line of its own with its value beside it."""
    if not words:
        return "[]"
    groups: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not groups:
            groups.append([word])
        else:
            groups[-1].append(word)
    return "[\n" + "".join(f"    {_group(group)}\n" for group in groups) + "]"


def call(values: Mapping[str, Value], name: str, *, indent: int) -> str:
    """A call with named arguments, on one line where it fits; a comma follows."""
    given = [f"{key}={_on_one_line(value)}" for key, value in values.items()]
    line = f"{name}({', '.join(given)})"
    if indent + len(line) < WIDTH:
        return line
    pad = " " * (indent + _INDENT)
    exact = (
        f"{pad}{key}={literal(value, before=len(pad) + len(key) + 1, indent=len(pad))}"
        for key, value in values.items()
    )
    return f"{name}(\n" + "".join(f"{it},\n" for it in exact) + f"{' ' * indent})"


def lines(text: str, *, indent: int = 0) -> str:
    """A text as a list of its lines, one below the other."""
    pad = " " * (indent + _INDENT)
    body = "".join(f"{pad}{_text(line)},\n" for line in text.splitlines(keepends=True))
    return f"[\n{body}{' ' * indent}]" if body else "[]"


def is_wide(text: str) -> bool:
    """Return whether a line of `lines` is longer than the formatter wants it."""
    texts = (_text(line) for line in text.splitlines(keepends=True))
    return any(len(text) + 3 * _INDENT >= WIDTH for text in texts)


def comment(text: str) -> str:
    """A text that may stand in a comment or a docstring: one line, no escapes."""
    kept = "".join(c if c.isprintable() and c not in '\\"' else "?" for c in text)
    return " ".join(kept.split())


def _group(words: Sequence[str]) -> str:
    if len(words) == 1:
        return f"{_text(words[0])},"
    line = f"*({', '.join(_text(word) for word in words)})"
    if EVERYWHERE in words:  # a linter asks why
        return f"{line},  # noqa: S104 - Modal connects from outside"
    if len(line) + _INDENT < WIDTH:
        return f"{line},"
    return "*(\n" + "".join(f"        {_text(word)},\n" for word in words) + "    ),"


def _opens(value: Value) -> bool:
    """Return whether there is something to put on lines of its own."""
    return isinstance(value, Mapping | list | tuple) and bool(value)


def _on_one_line(value: Value) -> str:
    match value:
        case None | bool():
            return repr(value)
        case int() | float():
            return repr(value)
        case str():
            return _text(value)
        case Mapping():
            pairs = (f"{_text(k)}: {_on_one_line(v)}" for k, v in value.items())
            return "{" + ", ".join(pairs) + "}"
        case _:
            return "[" + ", ".join(_on_one_line(item) for item in value) + "]"


def _text(text: str) -> str:
    """In double quotes, or in the others where that saves escapes."""
    quote = "'" if text.count('"') > text.count("'") else '"'
    return quote + "".join(_escaped(c, quote) for c in text) + quote


def _escaped(character: str, quote: str) -> str:
    if character in (quote, "\\"):
        return f"\\{character}"
    if character.isprintable():
        return character
    return ascii(character)[1:-1]
