"""From a stack and a state to a plan and its steps: values only."""
