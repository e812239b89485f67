"""The attacks of `benchmarks/attacks` in small, with assertions on what they must not bring about."""
