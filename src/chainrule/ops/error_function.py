"""The error function and its complement, without a library that has them.

In double precision they are W. J. Cody's rational approximations; in single precision `erf` is one
rational function of x**2, whose coefficients were fitted for this file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from chainrule.core.scalar import ERF_CENTRE, ERF_MIDDLE, ERF_TAIL
from chainrule.ops.elementwise import unary
from chainrule.ops.transcendental import exp

__all__ = ["erf", "erfc"]

_SLOPE = 2.0 / math.sqrt(math.pi)
_ROOT = 1.0 / math.sqrt(math.pi)
# A block and its temporaries stay in the second cache.
_BLOCK = {4: 32768, 8: 8192}
# Up to this size the C library's function, called element by element, is quicker.
_FEW = 128

# Least squares, reweighted towards the largest relative error, on [0, 3.93]: 2e-8. Beyond, erf rounds to 1.
_SINGLE = (
    (2.0421651077154234e-6, 2.84792097779403e-4, 3.7787336058539376e-3, 5.2787564841385234e-2, 0.19076295821676753, 1.128379145632096),
    (3.800524553974566e-5, 1.1650071045897926e-3, 1.4995670349666798e-2, 0.11424893204126814, 0.502391993173455, 1.0),
)
_SINGLE_LIMIT = 3.93


def _polynomial(x: Any, coefficients: tuple[Any, ...]) -> Any:
    total = coefficients[0] * x
    for coefficient in coefficients[1:-1]:
        total += coefficient
        total *= x
    total += coefficients[-1]
    return total


def _ratio(x: Any, parts: tuple[tuple[Any, ...], tuple[Any, ...]]) -> Any:
    quotient = _polynomial(x, parts[0])
    quotient /= _polynomial(x, parts[1])
    return quotient


def _erf_single(x: Any) -> Any:
    x = np.clip(x, -_SINGLE_LIMIT, _SINGLE_LIMIT)
    result = _ratio(x * x, _SINGLE)
    result *= x
    return np.clip(result, -1.0, 1.0, out=result)


def _tail(x: Any) -> Any:
    """The complement for values from 0.46875 to 30; the square is split, since its absolute error is the exponential's relative one."""
    near = np.floor(x * 16.0) / 16.0
    decay = np.exp(-near * near) * np.exp((near - x) * (near + x))
    result = np.empty_like(x)
    far = x > 4.0
    outer = x[far]
    inverse = 1.0 / (outer * outer)
    result[far] = (_ROOT - inverse * _ratio(inverse, ERF_TAIL)) / outer
    result[~far] = _ratio(x[~far], ERF_MIDDLE)
    return decay * result


def _erf_double(x: Any) -> Any:
    size = np.abs(x)
    outside = size > 0.46875
    result = np.where(outside, 0.0, x)
    result *= _ratio(result * result, ERF_CENTRE)
    if outside.any():
        # Beyond 6 the complement is below half a unit in the last place of 1.
        result[outside] = np.copysign(1.0 - _tail(np.minimum(size[outside], 6.0)), x[outside])
    return result


def _erfc_double(x: Any) -> Any:
    size = np.abs(x)
    outside = size > 0.46875
    result = np.where(outside, 0.0, x)
    result *= _ratio(result * result, ERF_CENTRE)
    np.subtract(1.0, result, out=result)
    if outside.any():
        tail = _tail(np.minimum(size[outside], 30.0))
        result[outside] = np.where(x[outside] < 0.0, 2.0 - tail, tail)
    return result


def _blocks(rule: Callable[[Any], Any], x: Any, dtype: type[np.floating[Any]]) -> Any:
    flat = np.ravel(x)
    result = np.empty(flat.shape, flat.dtype)
    step = _BLOCK[np.dtype(dtype).itemsize]
    for start in range(0, flat.size, step):
        result[start : start + step] = rule(flat[start : start + step].astype(dtype, copy=False))
    return result.reshape(x.shape)


def _one_by_one(rule: Callable[[float], float], x: Any) -> Any:
    if not x.shape:
        return x.dtype.type(rule(x))
    return np.array(list(map(rule, np.ravel(x).tolist())), x.dtype).reshape(x.shape)


def _erf(x: Any) -> Any:
    if x.size <= _FEW:
        return _one_by_one(math.erf, x)
    return _blocks(_erf_single, x, np.float32) if x.dtype.itemsize <= 4 else _blocks(_erf_double, x, np.float64)


def _erfc(x: Any) -> Any:
    return _one_by_one(math.erfc, x) if x.size <= _FEW else _blocks(_erfc_double, x, np.float64)


_SOURCE = """\
In double precision the rational approximations of W. J. Cody, "Rational Chebyshev approximations for
the error function", Mathematics of Computation 23 (1969) 631-637. The derivative is """

erf = unary(
    "erf",
    "Error function, elementwise: 2 / sqrt(pi) times the integral of exp(-t**2) from 0 to x.",
    kinds="real floating",
    eval=_erf,
    partial=lambda x: _SLOPE * exp(-(x * x)),
    scalar=lambda k, x: k.erf(x),
    onnx="Erf",
    notes=_SOURCE + "2 exp(-x**2) / sqrt(pi).",
    example=("[0.0, 1.0]", "tensor([0.       , 0.8427008])"),
    gradient="tensor([1.1283792, 0.4151075])",
)
erfc = unary(
    "erfc",
    "Complement of the error function, elementwise: 1 - erf(x), exact also where that is tiny.",
    kinds="real floating",
    eval=_erfc,
    partial=lambda x: -_SLOPE * exp(-(x * x)),
    scalar=lambda k, x: k.erfc(x),
    notes=_SOURCE + "-2 exp(-x**2) / sqrt(pi).",
    example=("[0.0, 5.0]", "tensor([1.0000000e+00, 1.5374598e-12])"),
    gradient="tensor([-1.1283792e+00, -1.5670867e-11])",
)
