"""Run as ``python -m deployer``."""

from deployer.cli.main import run

if __name__ == "__main__":
    run()
