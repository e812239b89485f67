"""The attacks of `benchmarks/attacks`, small: what they must not bring about."""
