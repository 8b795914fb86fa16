"""Knowledge about llama.cpp beyond its source: TOML tables and their loader."""
