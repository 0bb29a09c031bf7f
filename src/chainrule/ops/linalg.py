"""The namespace ``chainrule.linalg``: the array API standard's linear algebra extension, and the adjugate."""

from chainrule.ops.contraction import outer, tensordot
from chainrule.ops.decomposition import EighResult, QRResult, cholesky, eigh, eigvalsh, qr
from chainrule.ops.determinant import SlogdetResult, adjugate, det, slogdet
from chainrule.ops.inverse import inv, matrix_power, solve
from chainrule.ops.movement import matrix_transpose
from chainrule.ops.norms import vector_norm
from chainrule.ops.product import cross, matmul, vecdot
from chainrule.ops.singular import SVDResult, matrix_norm, matrix_rank, pinv, svd, svdvals
from chainrule.ops.structure import diagonal, trace

__all__ = [
    "EighResult",
    "QRResult",
    "SVDResult",
    "SlogdetResult",
    "adjugate",
    "cholesky",
    "cross",
    "det",
    "diagonal",
    "eigh",
    "eigvalsh",
    "inv",
    "matmul",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "matrix_transpose",
    "outer",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "svd",
    "svdvals",
    "tensordot",
    "trace",
    "vecdot",
    "vector_norm",
]


def __dir__() -> list[str]:
    return __all__
