"""Plan and apply for llama.cpp servers, from YAML stacks kept in git."""

import sys

__version__ = "0.1.0"

DISTRIBUTION = "gguf-deployer"
"""The name to install: `deployer` on the package index belongs to another project."""


def install_command(extra: str) -> str:
    """Return the command that adds an extra to this deployer, however it was got."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def version_line() -> str:
    """The version of deployer and of Python."""
    return f"deployer {__version__} (Python {sys.version.split()[0]})"
