"""The fingerprint of numerics differs where products of matrices do, and is the same in equal processes."""

import os
import subprocess
import sys

import numpy as np

from service import __version__
from service.engine.fingerprint import describe, fingerprint, numerics
from tests.support import ROOT

PROBE = """
import hashlib
import numpy as np
from service.engine.fingerprint import fingerprint, numerics
random = np.random.default_rng(3)
product = random.random((57, 431)) @ random.random((431, 29))
print(fingerprint(), numerics().kernel or "none", hashlib.sha256(product.tobytes()).hexdigest())
"""


def probes(*environments: dict[str, str]) -> list[tuple[str, str, str]]:
    """Run the probe in a process for each environment, all at once; return fingerprint, kernel and product's hash."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROBE],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        for environment in environments
    ]
    found = []
    for process in processes:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        mark, kernel, product = output.split()
        found.append((mark, kernel, product))
    return found


def test_processes_whose_products_differ_have_different_fingerprints() -> None:
    types = ({}, {}, {"OPENBLAS_CORETYPE": "Haswell"}, {"OPENBLAS_CORETYPE": "Prescott"})
    own, again, *others = probes(*types)
    assert own == again
    for mark, kernel, product in others:
        assert product == own[2] or mark != own[0]  # the type is unknown to OpenBLAS on other processors
        assert (mark == own[0]) == (kernel == own[1])


def test_the_threads_of_blas_count() -> None:
    one, two = probes({"OPENBLAS_NUM_THREADS": "1"}, {"OPENBLAS_NUM_THREADS": "2"})
    if one[1] != "none":
        assert one[0] != two[0]


def test_the_description_names_what_decides() -> None:
    assert fingerprint() == fingerprint() and len(fingerprint()) == 12
    text = describe()
    assert fingerprint() in text and np.__version__ in text and __version__ in text and numerics().kernel in text
