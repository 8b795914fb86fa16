"""What is known of llama.cpp beyond its source: TOML tables, and a loader of each."""
