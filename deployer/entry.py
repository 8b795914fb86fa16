"""Where the `deployer` command begins."""

import gc
import sys

from deployer.system import interrupts

# Importing makes many objects and no garbage: looking for it takes a tenth of the time.
gc.set_threshold(150_000, 10, 10)


def run() -> None:
    """Run the command line, then exit."""
    interrupts.end_at_once()
    from deployer.cli.main import run as run_all  # noqa: PLC0415 - Ctrl-C is heard now

    code = run_all()
    interrupts.ignore()
    gc.freeze()  # what is left ends with the process, and needs no collection
    sys.exit(code)
