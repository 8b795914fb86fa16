"""Commands, a family per module."""
