"""Building, fetching, starting and warming up llama-server.

Standard library only, and no import of the rest of deployer: these files are copied
as they are beside a rendered Modal app, and run in its containers.
"""
