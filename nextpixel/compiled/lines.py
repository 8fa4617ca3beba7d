"""The lines of a program: what their columns and operations are called.

A line is a row of whole numbers: operation, sizes, and for each operand an address and two strides in elements. Element-wise
lines run over n0 x n1 runs of n2 elements that lie side by side; a product takes n0 groups of n1 rows, k deep, n2 wide.
"""

OPERANDS = ("out", "a", "b", "c")
COLUMNS = ("operation", "n0", "n1", "n2", "k", *(f"{name}{part}" for name in OPERANDS for part in ("", "_0", "_1")))
ADDRESSES = [COLUMNS.index(name) for name in OPERANDS]
ELEMENTWISE = ("copy", "neg", "relu", "elu", "sigmoid", "tanh", "add", "mul", "gate", "addcmul")
OTHERS = ("concat_elu", "product", "intensity", "embedding", "binary", "categorical", "mixture")
OPERATIONS = {name: code for code, name in enumerate((*ELEMENTWISE, *OTHERS))}
