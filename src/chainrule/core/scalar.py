"""The neutral scalar builder: what an elementwise gate's lowering is written with.

A gate says ``scalar=lambda k, x: 1.0 / (1.0 + k.exp(-x))``; whoever prints or runs that (NumPy
source, C, JavaScript, machine code, a formula) derives from `Builder` and decides what a value is.
Nothing here knows any target.

Values carry Python's operators, among each other and with Python numbers: ``+ - * /`` and unary ``-``;
the comparisons, which give conditions; ``& | ^ ~`` on conditions and integers, ``<< >>`` on integers.
The abstract operations every target has; the others are written here in terms of them, to a
few units in the last place of double precision, and a target overrides those it does better.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

# A value is the target's own business: an array, a register, a piece of source text.
Value = Any

_LN2 = math.log(2.0)
_HALF_PI = math.pi / 2
# Above this the low-order terms of the inverse hyperbolic functions vanish and squares could overflow.
_LARGE = 1e8
# Doubles of this magnitude have no fraction.
_WHOLE = 2.0**52


class Builder(ABC):
    """Base of the targets; arguments are values, or Python numbers where at least one is a value."""

    @abstractmethod
    def select(self, condition: Value, a: Value, b: Value) -> Value:
        """``a`` where the condition holds, else ``b``; bits of the other one never matter."""

    @abstractmethod
    def abs(self, x: Value) -> Value:
        """The absolute value."""

    @abstractmethod
    def floor(self, x: Value) -> Value:
        """The largest whole number not above ``x``."""

    @abstractmethod
    def sqrt(self, x: Value) -> Value:
        """The square root."""

    @abstractmethod
    def exp(self, x: Value) -> Value:
        """The exponential."""

    @abstractmethod
    def expm1(self, x: Value) -> Value:
        """``exp(x) - 1``, exact near 0."""

    @abstractmethod
    def log(self, x: Value) -> Value:
        """The natural logarithm."""

    @abstractmethod
    def log1p(self, x: Value) -> Value:
        """``log(1 + x)``, exact near 0."""

    @abstractmethod
    def sin(self, x: Value) -> Value:
        """The sine."""

    @abstractmethod
    def cos(self, x: Value) -> Value:
        """The cosine."""

    @abstractmethod
    def tanh(self, x: Value) -> Value:
        """The hyperbolic tangent."""

    @abstractmethod
    def atan(self, x: Value) -> Value:
        """The arc tangent."""

    @abstractmethod
    def pow(self, x: Value, y: Value) -> Value:
        """``x`` to the power of ``y``."""

    @abstractmethod
    def fmod(self, x: Value, y: Value) -> Value:
        """The exact remainder with the sign of ``x``, as C's fmod."""

    @abstractmethod
    def nextafter(self, x: Value, y: Value) -> Value:
        """The next number after ``x`` towards ``y``."""

    @abstractmethod
    def convert(self, x: Value, dtype: Any) -> Value:
        """``x`` in another dtype."""

    def real(self, x: Value) -> Value:
        """The real part; of real values themselves."""
        return x

    def imag(self, x: Value) -> Value:
        """The imaginary part; of real values 0."""
        return 0.0 * x

    def conj(self, x: Value) -> Value:
        """The complex conjugate; of real values themselves."""
        return x

    def isnan(self, x: Value) -> Value:
        return x != x

    def isinf(self, x: Value) -> Value:
        return self.abs(x) == math.inf

    def isfinite(self, x: Value) -> Value:
        return self.abs(x) < math.inf

    def signbit(self, x: Value) -> Value:
        return self.select(x == 0.0, 1.0 / x, x) < 0.0

    def copysign(self, x: Value, y: Value) -> Value:
        size = self.abs(x)
        return self.select(self.signbit(y), -size, size)

    def sign(self, x: Value) -> Value:
        return self.select(x > 0, 1, self.select(x < 0, -1, x))

    def maximum(self, x: Value, y: Value) -> Value:
        """The larger one; NaN if either is."""
        return self.select((x > y) | self.isnan(x), x, y)

    def minimum(self, x: Value, y: Value) -> Value:
        """The smaller one; NaN if either is."""
        return self.select((x < y) | self.isnan(x), x, y)

    def ceil(self, x: Value) -> Value:
        return -self.floor(-x)

    def trunc(self, x: Value) -> Value:
        return self.select(x < 0, self.ceil(x), self.floor(x))

    def round(self, x: Value) -> Value:
        """To the nearest integer, halves to even."""
        below = self.floor(x)
        rest = x - below
        odd = below - 2.0 * self.floor(below * 0.5)
        near = self.select(rest > 0.5, below + 1.0, self.select(rest < 0.5, below, below + odd))
        return self.select(self.abs(x) < _WHOLE, self.copysign(near, x), x)

    def remainder(self, x: Value, y: Value) -> Value:
        """The remainder with the sign of ``y``; for integers a target's own."""
        rest = self.fmod(x, y)
        shifted = self.select((rest < 0.0) ^ (y < 0.0), rest + y, rest)
        return self.select(rest == 0.0, self.copysign(rest, y), shifted)

    def floor_divide(self, x: Value, y: Value) -> Value:
        """The quotient rounded down, exactly; for integers a target's own."""
        quotient = x / y
        near = self.round((x - self.remainder(x, y)) / y)
        whole = self.select(near == 0.0, self.copysign(near, quotient), near)
        return self.select(self.isfinite(quotient) & self.isfinite(y), whole, self.floor(quotient))

    def product_high(self, x: Value, y: Value) -> Value:
        """The upper half of the product of two numbers of 32 bits without sign."""
        a, b, c, d = x >> 16, x & 0xFFFF, y >> 16, y & 0xFFFF
        middle = a * d + (b * d >> 16)
        return a * c + (middle >> 16) + ((middle & 0xFFFF) + b * c >> 16)

    def exp2(self, x: Value) -> Value:
        return self.pow(2.0, x)

    def log2(self, x: Value) -> Value:
        return self.log(x) / _LN2

    def log10(self, x: Value) -> Value:
        return self.log(x) / math.log(10.0)

    def tan(self, x: Value) -> Value:
        return self.sin(x) / self.cos(x)

    def sigmoid(self, x: Value) -> Value:
        return 1.0 / (1.0 + self.exp(-x))

    def atan2(self, y: Value, x: Value) -> Value:
        endless = self.isinf(x) & self.isinf(y)
        ratio = self.select(endless, 1.0, self.abs(y) / self.abs(x))
        angle = self.select(self.abs(y) == 0.0, 0.0, self.atan(ratio))
        angle = self.select(self.signbit(x), math.pi - angle, angle)
        return self.select(self.isnan(x) | self.isnan(y), x + y, self.copysign(angle, y))

    def asin(self, x: Value) -> Value:
        return self.atan(x / self.sqrt((1.0 - x) * (1.0 + x)))

    def acos(self, x: Value) -> Value:
        return 2.0 * self.atan(self.sqrt((1.0 - x) / (1.0 + x)))

    def sinh(self, x: Value) -> Value:
        size = self.abs(x)
        small = self.expm1(size)
        half = self.exp(0.5 * size)
        grown = self.select(size < 1.0, 0.5 * (small + small / (small + 1.0)), (0.5 * half) * half - (0.5 / half) / half)
        return self.copysign(grown, x)

    def cosh(self, x: Value) -> Value:
        half = self.exp(0.5 * self.abs(x))
        return (0.5 * half) * half + (0.5 / half) / half

    def asinh(self, x: Value) -> Value:
        size = self.abs(x)
        square = size * size
        near = self.log1p(size + square / (1.0 + self.sqrt(1.0 + square)))
        return self.copysign(self.select(size < _LARGE, near, self.log(size) + _LN2), x)

    def acosh(self, x: Value) -> Value:
        above = x - 1.0
        near = self.log1p(above + self.sqrt(2.0 * above + above * above))
        return self.select(x < 1.0, math.nan, self.select(x < _LARGE, near, self.log(x) + _LN2))

    def atanh(self, x: Value) -> Value:
        size = self.abs(x)
        # Where what is added is small beside what is exact, its rounding counts less.
        near = 2.0 * size + 2.0 * size * size / (1.0 - size)
        return self.copysign(0.5 * self.log1p(self.select(size < 0.5, near, 2.0 * size / (1.0 - size))), x)

    def hypot(self, x: Value, y: Value) -> Value:
        x, y = self.abs(x), self.abs(y)
        large, small = self.maximum(x, y), self.minimum(x, y)
        ratio = small / self.select(large == 0.0, 1.0, large)
        length = large * self.sqrt(1.0 + ratio * ratio)
        return self.select(self.isinf(x) | self.isinf(y), math.inf, length)

    def erf(self, x: Value) -> Value:
        size = self.abs(x)
        tail = 1.0 - erfc_tail(self, self.maximum(size, 0.46875))
        return self.select(size < 0.46875, x * _centre(x * x), self.copysign(tail, x))

    def erfc(self, x: Value) -> Value:
        size = self.abs(x)
        tail = erfc_tail(self, self.maximum(size, 0.46875))
        outer = self.select(x < 0.0, 2.0 - tail, tail)
        return self.select(size < 0.46875, 1.0 - x * _centre(x * x), outer)


# W. J. Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23 (1969): coefficients from the highest power down.
ERF_CENTRE = (
    (1.85777706184603153e-1, 3.16112374387056560, 1.13864154151050156e2, 3.77485237685302021e2, 3.20937758913846947e3),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)
"""erf(x) / x as a quotient of polynomials in x**2, for abs(x) up to 0.46875."""
ERF_MIDDLE = (
    (
        2.15311535474403846e-8,
        5.64188496988670089e-1,
        8.88314979438837594,
        6.61191906371416295e1,
        2.98635138197400131e2,
        8.81952221241769090e2,
        1.71204761263407058e3,
        2.05107837782607147e3,
        1.23033935479799725e3,
    ),
    (
        1.0,
        1.57449261107098347e1,
        1.17693950891312499e2,
        5.37181101862009858e2,
        1.62138957456669019e3,
        3.29079923573345963e3,
        4.36261909014324716e3,
        3.43936767414372164e3,
        1.23033935480374942e3,
    ),
)
"""exp(x**2) erfc(x) as a quotient of polynomials in x, for x from 0.46875 to 4."""
ERF_TAIL = (
    (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1, 1.60837851487422766e-2, 6.58749161529837803e-4),
    (1.0, 2.56852019228982242, 1.87295284992346725, 5.27905102951428412e-1, 6.05183413124413191e-2, 2.33520497626869185e-3),
)
"""x**2 (1/sqrt(pi) - x exp(x**2) erfc(x)) as a quotient of polynomials in 1/x**2, for x above 4."""


def polynomial(x: Value, coefficients: tuple[float, ...]) -> Value:
    """The value at ``x``, by Horner's rule, of coefficients from the highest power down."""
    total: Value = coefficients[0] * x + coefficients[1]
    for coefficient in coefficients[2:]:
        total = total * x + coefficient
    return total


def _ratio(x: Value, tops: tuple[tuple[float, ...], tuple[float, ...]]) -> Value:
    return polynomial(x, tops[0]) / polynomial(x, tops[1])


def _centre(square: Value) -> Value:
    return _ratio(square, ERF_CENTRE)


def erfc_tail(k: Builder, x: Value) -> Value:
    """erfc(x) for x from 0.46875 on."""
    x = k.minimum(x, 30.0)
    # exp(-x**2) with the square split, since its relative error is the absolute error of the square.
    near = k.floor(x * 16.0) / 16.0
    decay = k.exp(-near * near) * k.exp(-(x - near) * (x + near))
    inverse = 1.0 / (x * x)
    far = (1.0 / math.sqrt(math.pi) - inverse * _ratio(inverse, ERF_TAIL)) / x
    return decay * k.select(x > 4.0, far, _ratio(k.minimum(x, 4.0), ERF_MIDDLE))
