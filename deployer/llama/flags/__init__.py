"""The options of llama-server by build."""
