"""What is recorded of stacks, collected, and as a page to look at."""
