"""Plan and apply for llama.cpp servers, from YAML stacks kept in git."""

__version__ = "0.1.0"
