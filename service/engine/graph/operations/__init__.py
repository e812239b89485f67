# ruff: noqa: F403
"""The one table of primitive operations, and the functions that build nodes of them.

A row describes an operation: its shape rule, the NumPy calls that compute it, the pullback of each input *in the same
primitives* (so every derivative can be differentiated again), its batch rule, its LaTeX and its NumPy expression. The
interpreter, the plan, `differentiate` and `vectorize` read this table and know no operation by name.

A pullback receives `(cotangent, output, *inputs)` and reuses the output where that is cheaper.
Conventions at kinks are those of PyTorch: |x|' = 0 at 0, ties of maximum and minimum split
evenly, sqrt' is infinite at 0.

A module holds one family; all rules of an operation stand above its row. `__all__` of a family names the functions
that build nodes, which this package exports.

A continuation is the value of an operation near real numbers. The complex step reads a derivative off it:
f(x + ih) = f(x) + ih f'(x) up to h², so the imaginary part over h has all digits, because nothing is subtracted
(Squire, Trapp 1998). It needs no pullback, so it can judge pullbacks. A function with branches is continued
along the branch that its real part takes; exactly between two branches, by the conventions above. A function that a
rational approximation computes is continued by its definition, to first order in h. A branch is an odd whole number
for each element, and an even one exactly between two branches: at a kink or a jump.
"""

from service.engine.graph.ir import OPERATIONS
from service.engine.graph.operations import leaves, matrices  # noqa: F401 (they declare rows, and `Node` builds theirs)
from service.engine.graph.operations.angles import *
from service.engine.graph.operations.arithmetic import *
from service.engine.graph.operations.comparisons import *
from service.engine.graph.operations.declared import *
from service.engine.graph.operations.indexing import *
from service.engine.graph.operations.lengths import *
from service.engine.graph.operations.normal import *
from service.engine.graph.operations.parts import *
from service.engine.graph.operations.powers import *
from service.engine.graph.operations.probabilities import *
from service.engine.graph.operations.rounding import *
from service.engine.graph.operations.selecting import *
from service.engine.graph.operations.shapes import *
from service.engine.graph.operations.sigmoids import *
from service.engine.graph.operations.sliding import *

_LISTED = """
    input constant vector add subtract multiply divide negate square exp expm1 log log1p sqrt tanh tanh_slope
    sigmoid logistic_slope softplus erfc gaussian absolute sign greater greater_equal maximum minimum gate
    row_maximum row_excess balanced sum matmul concatenate pad one_hot reshape transpose broadcast slice
    stop_gradient mark with_slope extreme softmax log_softmax logsumexp sin cos tan asin acos atan atan2 sinh cosh
    asinh acosh atanh hypot mod log2 log10 cbrt power xlogy erf normal_cdf normal_density tanh_shrink floor ceil
    round
"""
# Answers of /v1/graph list operations in the order of the table, which must not change. Operations that are not named
# here come last, in the order of their declaration.
for _name in [*_LISTED.split(), *[_name for _name in OPERATIONS if _name not in _LISTED.split()]]:
    OPERATIONS[_name] = OPERATIONS.pop(_name)
