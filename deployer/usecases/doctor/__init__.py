"""Runbook checks of a stack, a machine, a server, a log."""
