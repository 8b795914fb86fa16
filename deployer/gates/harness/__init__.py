"""Shared by gates: client, runner, target, report."""
