"""Servers of other makers to compare the service with, each run in a process of its own on the loopback interface."""
