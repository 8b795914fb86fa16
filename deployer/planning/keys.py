"""Content keys: one hash, of one canonical text, for every kind of resource."""

import hashlib
import json
from collections.abc import Mapping

from deployer.stack.fields.values import JsonValue


def key_of(
    kind: str,
    recipe: int,
    content: Mapping[str, JsonValue],
    needs: Mapping[str, str],
) -> str:
    """The key of a resource: equal keys mean interchangeable things.

    ``recipe`` is the version of the code that turns this kind into something real;
    it is raised when that code starts to make something else of the same content.
    ``needs`` holds the keys of what the resource is made from, by kind.
    """
    return digest(
        {"kind": kind, "recipe": recipe, "content": dict(content), "needs": dict(needs)}
    )


def digest(value: JsonValue) -> str:
    """SHA-256 of a value as canonical JSON, in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
