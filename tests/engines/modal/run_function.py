"""Run a function of a rendered builder here, as a container would run it there.

    python run_function.py builder.py build

Everything is real but the Volume, which is a folder, and what commits it.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path


class Folder:
    """What a function asks of its Volume."""

    def commit(self) -> None:
        """A folder needs none."""
        sys.stdout.write("committed\n")

    def reload(self) -> None:
        """A folder is always as it is."""


def main(file: str, function: str) -> None:
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{file} is no module")
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(Path(file).parent))  # as `modal deploy` does
    spec.loader.exec_module(module)
    for name in vars(module).keys() & {"builds", "store"}:
        vars(module)[name] = Folder()
    returned = json.dumps(getattr(module, function).local())
    sys.stdout.write(f"returned {returned}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
