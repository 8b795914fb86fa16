"""The resources of a stack: what should exist, as data.

No import here is slow: a plan that changes nothing must not pay for the model.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, TypeAlias

from deployer.stack.fields.values import ADDRESS, KEY, STACK, WORD, Flat, JsonValue


class Kind(StrEnum):
    """A kind of resource; the order is the order of making."""

    BUILD = "build"
    WEIGHTS = "weights"
    SNAPSHOT = "snapshot"
    SERVER = "server"


StackName: TypeAlias = Annotated[str, STACK, "the name of a stack"]
EngineName: TypeAlias = Annotated[str, WORD, "the name of an engine"]
Address: TypeAlias = Annotated[str, ADDRESS, "the address of a resource"]
"""A stack and a role, ``gemma4-prod/build``: it names folders."""
Key: TypeAlias = Annotated[str, KEY, "the key of a resource"]
Needs: TypeAlias = Mapping[Annotated[str, WORD, "a role"], Key]
"""Keys of what a resource is made from, by role."""
StackFile: TypeAlias = Annotated[str, re.compile(r"[^\x00-\x1f\x7f]*"), "a path"]

MODEL_ROLE = Kind.WEIGHTS.value
"""The role of the model itself among the weights of a stack."""
VARIABLES = "env"
"""Where the spec of a node has environment variables, by their names."""
LOCK = "lock."
"""Prefix of the fields that come from the lock file."""


@dataclass(frozen=True, slots=True)
class Node:
    """One thing that should exist."""

    address: Address
    kind: Kind
    key: Key
    fields: Flat
    """The user's values for it, and the facts of the lock file under ``lock.``."""
    needs: Needs
    spec: Flat
    """Needed by the engine to make it, beside the fields."""

    @property
    def role(self) -> str:
        """The kind, or of weights beside the model what they are for (`draft`)."""
        return self.address.partition("/")[2]


Graph = Mapping[str, Node]
"""Nodes by address, each after what it needs."""


def key_of(
    kind: str,
    recipe: int,
    content: Mapping[str, JsonValue],
    needs: Mapping[str, str],
) -> str:
    """The key of a resource: equal keys mean interchangeable things.

    ``recipe`` is the version of the code that turns this kind into something real;
    it is raised when that code starts to make something else of the same content.
    ``needs`` holds the keys of what the resource is made from, by role.
    """
    return digest(
        {"kind": kind, "recipe": recipe, "content": dict(content), "needs": dict(needs)}
    )


def digest(value: JsonValue) -> str:
    """SHA-256 of a value as canonical JSON, in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
