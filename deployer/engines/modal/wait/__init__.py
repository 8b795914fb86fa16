"""Waiting for containers on Modal."""
