"""A rendered app as a module, as the client deploys it."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from deployer.errors import EngineError


def load(file: Path) -> ModuleType:
    """Import a rendered file, by the name that containers import it by."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise EngineError(f"`{file}` is no Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    with _beside(file.parent):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """Import what lies in a folder, and forget it: each release has its own."""
    before = sys.path[:]
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before
        for name in [it for it in sys.modules if it.partition(".")[0] == "runtime"]:
            del sys.modules[name]
