"""Comparisons that anyone can run: ratios to peers, measured in one run.

Importing the package limits every BLAS to one thread and lets OpenBLAS choose its own kernel, which only works before
NumPy is imported: a benchmark imports this package first.
"""

import os

for _library in ("OPENBLAS", "OMP", "MKL"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"
os.environ.pop("OPENBLAS_CORETYPE", None)
