"""Run as ``python -m deployer``."""

import sys

if __name__ == "__main__":
    # `python -m` puts the working directory first: nothing of a checkout is imported.
    if not sys.flags.safe_path:
        del sys.path[0]
    from deployer.entry import run

    run()
