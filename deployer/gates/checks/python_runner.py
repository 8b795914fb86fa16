"""The program of a gate `custom` with `python:`: calls, and prints the verdict.

It runs in a process of its own, with the interpreter of deployer and nothing else of
it.  The function gets what a command gets; what it prints goes to standard error, so
that only what it returns is its verdict.
"""

import asyncio
import importlib.util
import inspect
import json
import os
import sys
from pathlib import Path


def main(file: str, name: str) -> None:
    """Print what the function of the file returns, as JSON; raises what it raises."""
    verdict_goes_to = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    path = Path(file).absolute()
    # As when the file is run: what lies beside it can be imported.
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        sys.exit(f"`{file}` is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        sys.exit(f"`{file}` has no function `{name}`")
    verdict = function()
    if inspect.iscoroutine(verdict):
        verdict = asyncio.run(verdict)
    with os.fdopen(verdict_goes_to, "w", encoding="utf-8") as stream:
        json.dump(verdict, stream)


if __name__ == "__main__":
    main(*sys.argv[1:])
