"""Attacks on a server of this service, as short programs on the loopback interface: `python -m benchmarks.attacks`."""
