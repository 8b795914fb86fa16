"""The files that a user writes: fields, YAML, checks, the project around it."""
