"""Patches to llama.cpp, and their verdict for a tree."""
