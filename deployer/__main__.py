"""Run as ``python -m deployer``."""

from deployer.entry import run

if __name__ == "__main__":
    run()
