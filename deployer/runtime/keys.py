"""The API keys that llama-server takes as they are."""

KEY_FORM = r"(?!#)[!-+\--~]+"
"""A key that a line of a key file, a header and a list of keys carry alike.

Another one would leave a server open: llama-server skips empty lines of its file and
lines that begin with `#`.
"""
