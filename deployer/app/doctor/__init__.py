"""What is wrong with a stack, this machine, a server or its log; and what to do."""
