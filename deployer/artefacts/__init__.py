"""The store, the lock file, and files that are written whole."""
