"""Where artefacts come from: an index, a hub, an address, a path."""
