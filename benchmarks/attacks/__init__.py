"""Attacks on a server of this service on the loopback interface: `python -m benchmarks.attacks` runs them all."""
