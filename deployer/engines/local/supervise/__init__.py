"""Server processes: start, find, identify, watch, stop."""
