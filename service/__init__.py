"""Nabla, the gradient service: exact gradients over HTTP."""

import os

# One BLAS thread per process: parallelism comes from workers, and workers whose BLAS threads
# compete for the same cores are several times slower. OpenBLAS and MKL read these once, when NumPy
# is imported, so they are set before anything else of the service is.
for _variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

__version__ = "0.1.0"
