"""The sources of thresholds, and the severities of findings without a number."""

NIELSEN = "Nielsen 2015, Neural Networks and Deep Learning"
GLOROT = "Glorot, Bengio 2010, Understanding the difficulty of training deep feedforward neural networks"
HE = "He et al. 2015, arXiv:1502.01852"
LECUN = "LeCun et al. 1998, Efficient BackProp"
RATIO = "Karpathy, CS231n, Neural Networks Part 3: updates are about 0.001 of the weights"
HERE = "a convention of this service"
EXACT = "by definition"

ALWAYS_PROBLEM = {"problem": None}
ALWAYS_WARNING = {"warning": None}
ALWAYS_NOTE = {"note": None}
