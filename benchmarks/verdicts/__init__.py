"""Gradients by hand, right and with the mistakes that people make, to judge `/v1/gradients/verify` by."""
