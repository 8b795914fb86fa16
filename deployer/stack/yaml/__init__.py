"""YAML read with the place of every value, laid over bases, edited by span."""
