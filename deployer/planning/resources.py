"""The resources of a stack: what should exist, as data.

No import here is slow: a plan that changes nothing must not pay for the model.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from deployer.stack.fields.values import Flat, JsonValue


class Kind(StrEnum):
    """What a resource is; the order is the order of making."""

    BUILD = "build"
    WEIGHTS = "weights"
    SNAPSHOT = "snapshot"
    SERVER = "server"


LOCK = "lock."
"""Prefix of the fields that come from the lock file."""


@dataclass(frozen=True, slots=True)
class Node:
    """One thing that should exist."""

    address: str
    """Stack and kind: ``gemma4-prod/build``."""
    kind: Kind
    key: str
    fields: Flat
    """What the user wrote for it, and the facts of the lock file under ``lock.``."""
    needs: Mapping[str, str]
    """Keys of what it is made from, by kind."""
    spec: Flat
    """What the engine needs to make it, beside the fields."""


Graph = Mapping[str, Node]
"""Nodes by address, each after what it needs."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What an engine can do, as far as it decides about a plan."""

    snapshots: bool
    """It can capture and restore memory."""
    remote: bool = False
    """Its servers run elsewhere: to look at them costs requests."""
    restart_drops_snapshot: bool = False
    """Any redeploy makes a snapshot useless, as on Modal."""
    snapshot_keeps_maps: bool = True
    """A captured process may have the model file mapped."""
    gpus_in_snapshot: int | None = None
    """Most GPUs of a container whose memory is captured; None: no limit."""
    why_not: str = ""
    """Why this machine takes no snapshots, where the engine as such could."""
    hint: str = ""
    """What to do about it."""


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
