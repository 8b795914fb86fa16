"""Steps, gates and saved plans of an apply."""
