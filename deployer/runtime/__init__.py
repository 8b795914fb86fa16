"""Building, fetching, starting and warming up llama-server.

Standard library only, and no import of the rest of deployer: these files are copied
as they are beside a rendered Modal app, and run in its containers.
"""

KEY_FORM = r"(?!#)[!-+\--~]+"
"""A key that a line of a key file, a header and a list of keys carry alike.

Another one would leave a server open: llama-server skips empty lines of its file and
lines that begin with `#`.
"""
