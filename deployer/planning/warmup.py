"""Warm-up requests as a stack states them."""

from collections.abc import Mapping
from typing import Any

from deployer.runtime.warmup import Request
from deployer.stack.fields.values import JsonValue, seconds


def request_of(stated: Mapping[str, JsonValue]) -> Request:
    """Return a request of `snapshot.warmup`; what is unset is as `Request` has it."""
    given: dict[str, Any] = {k: v for k, v in stated.items() if v is not None}
    limit = given.pop("timeout", None)
    if limit is not None:
        given["seconds"] = seconds(limit)
    return Request(**given)
