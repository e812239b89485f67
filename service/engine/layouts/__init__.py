"""Other programs' ways to lay out the parameters of a network: their names, axes and order of gates."""
