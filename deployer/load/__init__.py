"""Stack files: read, laid over each other, checked, with the place of every key."""
