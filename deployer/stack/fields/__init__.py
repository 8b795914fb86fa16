"""The vocabulary of a stack: each field once, with its consequences."""
