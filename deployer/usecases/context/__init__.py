"""Settings, stores and files around a use case."""
