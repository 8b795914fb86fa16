"""What was answered before, and whether it still holds; imports next to nothing."""
