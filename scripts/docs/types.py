"""The type of a field in words, from its JSON schema."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from deployer.spelling import one_of
from deployer.stack.fields.gate_options import PYTHON_PATTERN
from deployer.stack.fields.model import EnvironmentName, Name, Requirement, Sha256
from deployer.stack.fields.values import DURATION_PATTERN, SIZE_PATTERN

Schema = Mapping[str, Any]

_END: Final = r"(?!\n)"


def _pattern(annotated: Any) -> str:  # noqa: ANN401 - an annotation is no type
    (field,) = annotated.__metadata__
    (rule,) = (m.pattern for m in field.metadata if hasattr(m, "pattern"))
    return str(rule)


_PATTERNS: Final[Mapping[str, str]] = {
    DURATION_PATTERN: "a duration such as `90s` or `1h30m`",
    SIZE_PATTERN: "a size such as `24GiB`",
    PYTHON_PATTERN: "`FILE.py:FUNCTION`",
    _pattern(Name): "a name: a small letter, then up to 47 of `a-z`, `0-9`, `-`",
    _pattern(Sha256): "64 hexadecimal digits",
    _pattern(EnvironmentName): "the name of a variable",
    _pattern(Requirement): "`PACKAGE==VERSION`",
}


def type_words(schema: Schema, unit: str | None) -> str:
    """What may be written, for people."""
    return " or ".join(_alternatives(schema, unit))


def _alternatives(schema: Schema, unit: str | None) -> Iterator[str]:
    match schema:
        case {"anyOf": [*others]}:
            for other in others:
                yield from _alternatives(other, unit)
        case {"enum": [*values]}:
            yield f"{one_of(values)}"
        case {"const": value}:
            yield one_of([value])
        case {"type": "array", "items": items}:
            yield f"a list, each {type_words(items, None)}"
        case {"type": "object", "additionalProperties": Mapping()}:
            yield "a mapping by name"
        case {"type": "object"}:
            yield "a mapping"
        case {"$ref": str()}:
            yield "a section"
        case _:
            yield _plain(schema, unit)


def _plain(schema: Schema, unit: str | None) -> str:
    match schema.get("type"):
        case "boolean":
            return "`true` or `false`"
        case "string":
            return _text(schema)
        case "integer" | "number" if unit == "duration":
            return "a number of seconds"
        case "integer" | "number" if unit == "size":
            return "a number of bytes"
        case "integer":
            return f"a whole number{_range(schema)}"
        case "number":
            return f"a number{_range(schema)}"
        case _:
            return "anything"


def _text(schema: Schema) -> str:
    pattern = schema.get("pattern", "").removesuffix(_END)
    return _PATTERNS.get(pattern, "text")


def _range(schema: Schema) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and least == most:
        return f": {least}"
    if least is not None and most is not None:
        return f" from {least} to {most}"
    if least is not None:
        return f" from {least}"
    if "exclusiveMinimum" in schema:
        return f" above {schema['exclusiveMinimum']}"
    return ""
