"""What a person writes: fields, YAML, checks, the project around it."""
