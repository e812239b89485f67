"""Layouts of a network's parameters in other programs: their names, axes and order of gates."""
