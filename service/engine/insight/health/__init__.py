"""What is wrong with a network: its gradient's health, that of many starts, and what went wrong in a training."""
