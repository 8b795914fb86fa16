"""Plan and apply for llama.cpp servers, from YAML stacks kept in git."""

import sys

__version__ = "0.1.0"


def version_line() -> str:
    """The version of deployer and of Python."""
    return f"deployer {__version__} (Python {sys.version.split()[0]})"
