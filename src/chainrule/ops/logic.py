"""Elementwise gates that answer with booleans, and those on booleans and bits.

None has a derivative.
"""

from __future__ import annotations

import operator

from chainrule.ops.elementwise import binary, unary

__all__ = [
    "bitwise_and",
    "bitwise_invert",
    "bitwise_left_shift",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "equal",
    "greater",
    "greater_equal",
    "isfinite",
    "isinf",
    "isnan",
    "less",
    "less_equal",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "not_equal",
]

equal = binary(
    "equal",
    "Whether values are equal, elementwise: x1 == x2. NaN equals nothing.",
    kinds="any",
    result="boolean",
    eval=operator.eq,
    operator="==",
    scalar=lambda k, x1, x2: x1 == x2,
    onnx="Equal",
    example=("[1, 2]", "2", "tensor([False,  True])"),
)
not_equal = binary(
    "not_equal",
    "Whether values differ, elementwise: x1 != x2.",
    kinds="any",
    result="boolean",
    eval=operator.ne,
    operator="!=",
    scalar=lambda k, x1, x2: x1 != x2,
    example=("[1, 2]", "2", "tensor([ True, False])"),
)
less = binary(
    "less",
    "Whether x1 < x2, elementwise.",
    kinds="real",
    result="boolean",
    eval=operator.lt,
    operator="<",
    scalar=lambda k, x1, x2: x1 < x2,
    onnx="Less",
    example=("[1, 2, 3]", "2", "tensor([ True, False, False])"),
)
less_equal = binary(
    "less_equal",
    "Whether x1 <= x2, elementwise.",
    kinds="real",
    result="boolean",
    eval=operator.le,
    operator="<=",
    scalar=lambda k, x1, x2: x1 <= x2,
    onnx="LessOrEqual",
    example=("[1, 2, 3]", "2", "tensor([ True,  True, False])"),
)
greater = binary(
    "greater",
    "Whether x1 > x2, elementwise.",
    kinds="real",
    result="boolean",
    eval=operator.gt,
    operator=">",
    scalar=lambda k, x1, x2: x1 > x2,
    onnx="Greater",
    example=("[1, 2, 3]", "2", "tensor([False, False,  True])"),
)
greater_equal = binary(
    "greater_equal",
    "Whether x1 >= x2, elementwise.",
    kinds="real",
    result="boolean",
    eval=operator.ge,
    operator=">=",
    scalar=lambda k, x1, x2: x1 >= x2,
    onnx="GreaterOrEqual",
    example=("[1, 2, 3]", "2", "tensor([False,  True,  True])"),
)
isfinite = unary(
    "isfinite",
    "Whether values are neither infinite nor NaN, elementwise.",
    kinds="numeric",
    result="boolean",
    scalar=lambda k, x: k.isfinite(x),
    example=("[1.0, cr.inf, cr.nan]", "tensor([ True, False, False])"),
)
isinf = unary(
    "isinf",
    "Whether values are infinite, elementwise.",
    kinds="numeric",
    result="boolean",
    scalar=lambda k, x: k.isinf(x),
    onnx="IsInf",
    example=("[1.0, cr.inf, cr.nan]", "tensor([False,  True, False])"),
)
isnan = unary(
    "isnan",
    "Whether values are NaN, elementwise.",
    kinds="numeric",
    result="boolean",
    scalar=lambda k, x: k.isnan(x),
    onnx="IsNaN",
    example=("[1.0, cr.inf, cr.nan]", "tensor([False, False,  True])"),
)
logical_and = binary(
    "logical_and",
    "Whether both hold, elementwise.",
    kinds="boolean",
    result="boolean",
    eval=operator.and_,
    operator="&",
    scalar=lambda k, x1, x2: x1 & x2,
    onnx="And",
    example=("[True, False]", "True", "tensor([ True, False])"),
)
logical_or = binary(
    "logical_or",
    "Whether one or both hold, elementwise.",
    kinds="boolean",
    result="boolean",
    eval=operator.or_,
    operator="|",
    scalar=lambda k, x1, x2: x1 | x2,
    onnx="Or",
    example=("[True, False]", "False", "tensor([ True, False])"),
)
logical_xor = binary(
    "logical_xor",
    "Whether exactly one holds, elementwise.",
    kinds="boolean",
    result="boolean",
    eval=operator.xor,
    operator="^",
    scalar=lambda k, x1, x2: x1 ^ x2,
    onnx="Xor",
    example=("[True, False]", "True", "tensor([False,  True])"),
)
logical_not = unary(
    "logical_not",
    "Whether it does not hold, elementwise.",
    kinds="boolean",
    result="boolean",
    eval=operator.invert,
    operator="~",
    scalar=lambda k, x: ~x,
    onnx="Not",
    example=("[True, False]", "tensor([False,  True])"),
)
bitwise_and = binary(
    "bitwise_and",
    "Bits set in both, elementwise: x1 & x2.",
    kinds="integral",
    eval=operator.and_,
    operator="&",
    scalar=lambda k, x1, x2: x1 & x2,
    onnx="BitwiseAnd",
    example=("[1, 6]", "3", "tensor([1, 2])"),
)
bitwise_or = binary(
    "bitwise_or",
    "Bits set in one or both, elementwise: x1 | x2.",
    kinds="integral",
    eval=operator.or_,
    operator="|",
    scalar=lambda k, x1, x2: x1 | x2,
    onnx="BitwiseOr",
    example=("[1, 6]", "3", "tensor([3, 7])"),
)
bitwise_xor = binary(
    "bitwise_xor",
    "Bits set in exactly one, elementwise: x1 ^ x2.",
    kinds="integral",
    eval=operator.xor,
    operator="^",
    scalar=lambda k, x1, x2: x1 ^ x2,
    onnx="BitwiseXor",
    example=("[1, 6]", "3", "tensor([2, 5])"),
)
bitwise_invert = unary(
    "bitwise_invert",
    "The other bits, elementwise: ~x.",
    kinds="integral",
    eval=operator.invert,
    operator="~",
    scalar=lambda k, x: ~x,
    onnx="BitwiseNot",
    example=("[0, 6]", "tensor([-1, -7])"),
)
bitwise_left_shift = binary(
    "bitwise_left_shift",
    "Bits moved up, zeros following, elementwise: x1 << x2.",
    kinds="integer",
    eval=operator.lshift,
    operator="<<",
    scalar=lambda k, x1, x2: x1 << x2,
    example=("[1, 6]", "2", "tensor([ 4, 24])"),
)
bitwise_right_shift = binary(
    "bitwise_right_shift",
    "Bits moved down, the sign's following, elementwise: x1 >> x2.",
    kinds="integer",
    eval=operator.rshift,
    operator=">>",
    scalar=lambda k, x1, x2: x1 >> x2,
    example=("[1, -6]", "1", "tensor([ 0, -3])"),
)
