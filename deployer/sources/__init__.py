"""Where artefacts come from: a package index, a model hub, an address, this machine.

Each module turns a reference into a `Pin` (what it is, by digest) and a pin into
files.  Nothing that is fetched is ever executed or imported here.
"""
