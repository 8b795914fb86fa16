"""Validating without the plugins of pydantic."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLE = "PYDANTIC_DISABLE_PLUGINS"
"""A variable of pydantic, read in its plugin/_loader.py."""


@contextmanager
def no_plugins() -> Iterator[None]:
    """Build the model without looking for plugins of pydantic.

    The first validation would read the metadata of everything that is installed, and
    run what calls itself a plugin.  Programs that are started inherit nothing of this.
    """
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = "__all__"
    try:
        yield
    finally:
        del os.environ[_VARIABLE]
        if before is not None:
            os.environ[_VARIABLE] = before
