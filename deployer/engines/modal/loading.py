"""A rendered app as a module, as the client deploys it."""

import importlib.util
import sys
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
    spec.loader.exec_module(module)
    return module
