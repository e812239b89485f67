"""Gradients written by hand, right and with the mistakes that people make: they test `/v1/gradients/verify`."""
