"""Moving a stack to another build."""
