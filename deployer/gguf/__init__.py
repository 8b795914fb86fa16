"""GGUF files: their headers, what they say of a model, and the memory it needs."""
