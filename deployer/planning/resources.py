"""The resources of a stack: what should exist, as data.

No import here is slow: a plan that changes nothing must not pay for the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from deployer.stack.fields.values import Flat


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
