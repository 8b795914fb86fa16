"""The engine that runs llama-server on this machine."""
