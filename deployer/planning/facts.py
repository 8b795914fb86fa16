"""What resolving found: the content of the lock file."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from deployer.stack.fields.values import JsonValue

HEADER = "gguf"
"""What `Pin.about` keeps of the headers of weights: no part of any resource."""


@dataclass(frozen=True, slots=True)
class Pin:
    """One artefact, pinned: what it is, and how to get it again."""

    source: str
    """``pypi``, ``hub``, ``url``, ``path``; later ``git``."""
    identity: Mapping[str, JsonValue]
    """Hashes that make two artefacts interchangeable; part of the content key."""
    where: Mapping[str, JsonValue]
    """Repository, revision, requirement, URL, path: not part of the key."""
    about: Mapping[str, JsonValue] = field(default_factory=dict)
    """For people: size in bytes, file names, version."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of one stack."""

    build: Pin
    weights: Pin
    inputs: Mapping[str, JsonValue]
    """The fields (by path) that these facts were resolved from."""
