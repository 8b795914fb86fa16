"""Prices and usage on Modal."""
