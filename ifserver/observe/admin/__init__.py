"""The admin endpoint of a process: health, metrics, and what an operator sees of all processes."""
