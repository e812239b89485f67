"""Servers to compare with, each in a process of its own on the loopback interface."""
