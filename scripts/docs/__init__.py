"""Writes the pages and pictures of the docs that come from the product itself."""
