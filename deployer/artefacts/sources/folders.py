"""Paths in pins: relative to the stack in the lock file, absolute for whoever reads.

A lock file is committed, so it must not name the folders of one machine.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from deployer.planning.facts import Pin
from deployer.stack.fields.values import JsonValue


def relative(pin: Pin, folder: Path) -> Pin:
    """The pin with its paths relative to ``folder``."""
    return _mapped(pin, lambda path: Path(os.path.relpath(path, folder)).as_posix())


def absolute(pin: Pin, folder: Path) -> Pin:
    """The pin with its paths below ``folder``; absolute ones stay."""
    return _mapped(pin, lambda path: str((folder / path).absolute()))


def _mapped(pin: Pin, change: Callable[[str], str]) -> Pin:
    def each(value: JsonValue) -> JsonValue:
        match value:
            case str():
                return change(value)
            case list():
                return [each(item) for item in value]
            case _:
                return value

    return replace(pin, where={name: each(value) for name, value in pin.where.items()})
