"""Engines: what makes resources real."""
