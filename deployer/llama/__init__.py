"""llama.cpp: sources, patches, options and known issues."""
