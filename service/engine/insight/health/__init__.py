"""The health of a network: of its gradient, of the gradients of many initializations, and of a training."""
