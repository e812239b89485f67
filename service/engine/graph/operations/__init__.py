# ruff: noqa: F403
"""The one table of primitive operations, and the functions that build nodes of them.

A row says what an operation is: the shape of its answer, the NumPy calls that compute it, the
pullback of each input *in the same primitives* (so every derivative can be differentiated
again), how it looks over a new batch axis, its LaTeX and its NumPy expression. The interpreter, the
plan, `differentiate` and `vectorize` all read this table and know no operation by name.

A pullback receives `(cotangent, output, *inputs)` and reuses the output where that is cheaper.
Conventions at kinks are those of PyTorch: |x|' = 0 at 0, ties of maximum and minimum split
evenly, sqrt' is infinite at 0.

A module holds one family; all rules of an operation stand above its row. `__all__` of a family has the builders
that the rest of the engine may use; they are exported here.

A continuation is the value of an operation near real numbers. The complex step reads a derivative off it:
f(x + ih) = f(x) + ih f'(x) up to h², so that its imaginary part over h has all digits, for nothing is subtracted
(Squire, Trapp 1998). It needs no pullback, which makes it a judge of them. A function with branches is continued
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
# Answers of /v1/graph list operations in the order of the table. It is the order in which they once were declared, so
# that answers do not change; operations that are not named here come after these, as they are declared.
for _name in [*_LISTED.split(), *[_name for _name in OPERATIONS if _name not in _LISTED.split()]]:
    OPERATIONS[_name] = OPERATIONS.pop(_name)
