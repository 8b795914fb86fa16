"""Files and processes of this machine: standard library only, below all rooms."""
