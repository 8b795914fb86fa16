"""Where the `deployer` command begins."""

import gc
import os
import sys

from deployer.system import interrupts

# Importing makes many objects and no garbage: looking for it takes a tenth of the time.
gc.set_threshold(150_000, 10, 10)


# pydantic would read the metadata of everything that is installed and run what calls
# itself a plugin, which would see every stack (pydantic/plugin/_loader.py).
os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"


def run() -> None:
    """Run the command line, then exit."""
    interrupts.end_at_once()
    from deployer.cli.main import run as run_all  # noqa: PLC0415 - Ctrl-C is heard now

    code = run_all()
    interrupts.ignore()
    gc.freeze()  # what is left ends with the process, and needs no collection
    sys.exit(code)
