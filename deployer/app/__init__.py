"""The use cases, wired: the only place that picks store, engine, clock, environment."""
