"""Texts for people and programs: terminal, Markdown, JSON, charts."""
