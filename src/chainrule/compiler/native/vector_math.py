"""Elementary functions as straight-line IR, for float32 and float64 in any number of lanes, to 2 units in the last place.

Every lane is computed by the same operations, rounded as written: bits do not depend on how many lanes there are. Polynomials are
those of `formats`; benchmarks/ulp.py measures what comes out. What no polynomial here
does well (large angles, float64 powers) is a call of the C library for those lanes, behind a branch where it is rare.
Nothing here knows a gate, or dtypes other than these two.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from chainrule.compiler.native.lanes import Lanes, absolute, at_least, at_most, copysign, floating, in_double, library, unless, whole

_LOG_ERFC = (-4.79100786e-06, 4.41085198e-05, 5.55219318e-05, -0.00294241019, 0.0226875725, -0.105269679, -0.635624488, -1.12855135, 0.0)
"""log(erfc(x)), from 0.9 to 4; what is left out matters less the larger x is."""

# Exponentials.


def _power_of_two(k: Lanes) -> Lanes:
    return ((k + k.format.bias) << k.format.mantissa).number()


def _reduced(x: Lanes) -> tuple[Lanes, Lanes]:
    """``k`` and ``r`` with ``exp(x) = 2**k * exp(r)``."""
    head, rest = x.format.ln2
    k, n = whole(x, 1 / math.log(2))
    return k, n.fma(-rest, n.fma(-head, x))


def _grown(r: Lanes) -> Lanes:
    """``exp(r) - 1`` of at most half the logarithm of 2."""
    return r.poly(r.format.exp).fma(r * r, r)


def _scaled(x: Lanes, k: Lanes) -> Lanes:
    """``x * 2**k`` in two steps, so that what is not a normal number is rounded once."""
    half = k >> 1
    return x * _power_of_two(half) * _power_of_two(k - half)


def exp(x: Lanes) -> Lanes:
    low, high = x.format.ends
    k, r = _reduced(at_most(at_least(x, low), high))
    return _scaled(_grown(r) + 1.0, k)


def exp2(x: Lanes) -> Lanes:
    low, high = x.format.ends
    x = at_most(at_least(x, low * 1.5), high * 1.5)
    k, n = whole(x, 1.0)
    return _scaled(_grown((x - n) * math.log(2)) + 1.0, k)


def _normal_exp(x: Lanes) -> Lanes:
    """Where the result is a normal number."""
    k, r = _reduced(x)
    return ((_grown(r) + 1.0).bits() + (k << x.format.mantissa)).number()


def expm1(x: Lanes) -> Lanes:
    k, r = _reduced(at_most(at_least(x, -50.0), x.format.ends[1]))
    # 2**k itself may be too large.
    half = _power_of_two(k - 1)
    grown = _grown(r).fma(half, half - 0.5)
    return (absolute(x) < 2.0 ** -(x.format.mantissa + 3)).where(x, grown + grown)


def sigmoid(x: Lanes) -> Lanes:
    k, r = _reduced(at_most(at_least(x, x.format.ends[0]), 40.0))
    # exp with what the sum loses added: two more roundings follow.
    near = r + 1.0
    grown = _scaled(near + r.poly(r.format.exp).fma(r * r, r - (near - 1.0)), k)
    whole_sum = grown + 1.0
    lost = (grown > 1.0).where(1.0 - (whole_sum - grown), grown - (whole_sum - 1.0))
    inverse = 1.0 / whole_sum
    share = grown * inverse
    return inverse.fma(share.fma(-lost, share.fma(-whole_sum, grown)), share)


def tanh(x: Lanes) -> Lanes:
    size = absolute(x)
    square = x * x
    near = (square.poly(x.format.tanh) * square).fma(x, x)
    most = at_most(size, x.format.ones)
    far = 1.0 - 2.0 / (_normal_exp(most + most) + 1.0)
    return copysign((size > 0.625).where(far, near), x)


# Logarithms.


def _split(u: Lanes, missing: Lanes | None = None) -> tuple[Lanes, Lanes, Lanes]:
    """``k``, ``f`` and ``t`` with ``log(u + missing) = k * log(2) + f + t``, for normal numbers above 0."""
    form = u.format
    bits = u.bits()
    k = (bits - form.bits(math.sqrt(0.5))) >> form.mantissa
    shift = k << form.mantissa
    f = (bits - shift).number() - 1.0
    if missing is not None:
        # Next to numbers that are not small nothing is missing, and 2**-k would not be a normal number.
        f = missing.fma((form.bits(1.0) - shift.intrinsic("smin", 64 << form.mantissa)).number(), f)
    half = f * f * 0.5
    if form.whole == "i32":
        tail = (f * f * f).fma(f.poly(form.log), -half)
    else:
        s = f / (f + 2.0)
        z = s * s
        tail = s * z.poly(form.log).fma(z, half) - half
    return floating(k), f, tail


def _of_positive(x: Lanes, of: Callable[[Lanes, Lanes, Lanes], Lanes]) -> Lanes:
    """A logarithm put together from the parts of `_split`, right for all numbers."""
    form = x.format
    small = x < form.tiny
    k, f, tail = _split(small.where(x * 2.0 ** (form.mantissa + 2), x))
    return _ends(x, 0.0, of(k - small.where(x.like(form.mantissa + 2), 0.0), f, tail))


def _ends(x: Lanes, pole: float, y: Lanes) -> Lanes:
    """A logarithm as it is; at its pole minus infinity, below NaN, and infinity and NaN themselves."""
    y = (x <= pole).where(x.same(pole).where(x.like(-math.inf), math.nan), y)
    return (x < math.inf).where(y, x)


def _natural(k: Lanes, f: Lanes, tail: Lanes) -> Lanes:
    head, rest = k.format.ln2
    return k.fma(head, f + k.fma(rest, tail))


def log(x: Lanes) -> Lanes:
    return _of_positive(x, _natural)


def log2(x: Lanes) -> Lanes:
    return _of_positive(x, lambda k, f, tail: (f + tail).fma(1 / math.log(2), k))


@in_double
def log10(x: Lanes) -> Lanes:
    return _of_positive(x, _decimal)


def _decimal(k: Lanes, f: Lanes, tail: Lanes) -> Lanes:
    """With the constants in two parts, and what the first product lost."""
    (head, rest), (two, more) = (0.4342944819032518, 1.098319650216765e-17), (0.3010299956639812, -2.8037281277851704e-18)
    main = f * head
    lost = f.fma(head, -main) + f.fma(rest, k * more)
    return k.fma(two, main + tail.fma(head, lost))


def log1p(x: Lanes) -> Lanes:
    u = x + 1.0
    return _ends(x, -1.0, (absolute(x) < x.format.tiny).where(x, _natural(*_split(u, x - (u - 1.0)))))


# Angles.


def _quarter(x: Lanes) -> tuple[Lanes, Lanes, Lanes]:
    """How many right angles, and what is left, in two parts; right up to `Format.angle`."""
    first, second, third = x.format.half_pi
    k, n = whole(x, 2 / math.pi)
    near = n.fma(-first, x)
    much = n * second
    r = near - much
    rest = n.fma(-third, (near - r - much) - n.fma(second, -much))
    return k, r, rest


def _sine(r: Lanes, rest: Lanes) -> tuple[Lanes, Lanes]:
    """In two parts, not added yet; so is the cosine."""
    z = r * r
    return r, (z.poly(r.format.sin) * z).fma(r, rest)


def _cosine(r: Lanes, rest: Lanes) -> tuple[Lanes, Lanes]:
    z = r * r
    half = z * 0.5
    near = 1.0 - half
    return near, (z.poly(r.format.cos) * z).fma(z, r.fma(-rest, 1.0 - near - half))


def _turned(k: Lanes, r: Lanes, rest: Lanes) -> Lanes:
    """The sine of an angle and ``k`` right ones."""
    (s, s_rest), (c, c_rest) = _sine(r, rest), _cosine(r, rest)
    even = (k & 1).same(0)
    y = even.where(s, c) + even.where(s_rest, c_rest)
    sign = (k & 2) << (r.kind.bits - 2)
    return (y.bits() ^ sign).number()


def sin(x: Lanes) -> Lanes:
    size = absolute(x)
    # Not only is that as exact, it keeps the sign of 0.
    y = (size < 2.0**-30).where(x, _turned(*_quarter(x)))
    return unless(size > x.format.angle, y, "sin", x)


def cos(x: Lanes) -> Lanes:
    k, r, rest = _quarter(x)
    return unless(absolute(x) > x.format.angle, _turned(k + 1, r, rest), "cos", x)


def _summed(x: Lanes, y: Lanes) -> tuple[Lanes, Lanes]:
    """The sum of a number and a smaller one, and what was lost."""
    total = x + y
    return total, y - (total - x)


@in_double
def tan(x: Lanes) -> Lanes:
    k, r, rest = _quarter(x)
    odd = (k & 1).same(1)
    (s, s_lost), (c, c_lost) = (_summed(*parts) for parts in (_sine(r, rest), _cosine(r, rest)))
    top, bottom, lost, less = odd.where(-c, s), odd.where(s, c), odd.where(-c_lost, s_lost), odd.where(s_lost, c_lost)
    y = top / bottom
    left = y.fma(-bottom, top) + y.fma(-less, lost)
    y = (absolute(x) < 2.0**-30).where(x, y + left / bottom)
    return unless(absolute(x) > x.format.angle, y, "tan", x)


def atan(x: Lanes) -> Lanes:
    size = absolute(x)
    far, middle = size > 1 + math.sqrt(2), size > math.sqrt(2) - 1
    top = far.where(-1.0, middle.where(size - 1.0, size))
    t = top / far.where(size, middle.where(size + 1.0, 1.0))
    head, rest, _ = x.format.half_pi
    base, more = (far.where(x.like(part), middle.where(x.like(part / 2), 0.0)) for part in (head, rest))
    z = t * t
    return copysign(base + ((z.poly(x.format.atan) * z).fma(t, more) + t), x)


# The error function; of float64 what is far from 0 is a quotient of polynomials (`core.scalar`).


def erf_near(x: Lanes) -> Lanes:
    return (x * x).poly(x.format.erf).fma(x, x)


def erf(x: Lanes) -> Lanes:
    """Of float32."""
    size = absolute(x)
    far = 1.0 - _normal_exp(at_most(size, 4.0).poly(_LOG_ERFC))
    return (size > 0.92).where(copysign(far, x), erf_near(x))


# Powers.


def pow(x: Lanes, y: Lanes) -> Lanes:
    """In float64, for float32, by exp and log; in float64 itself by the C library."""
    if x.kind.element == "double":
        return library("pow", x, y)
    wide, exponent = (v.cast("fpext", "double") for v in (x, y))
    size = absolute(wide)
    power = exp(exponent * log(size)).cast("fptrunc", "float")
    half = y * 0.5
    is_whole = y.same(y.intrinsic("floor"))
    odd = is_whole & (half.intrinsic("floor") < half)
    negative = Lanes(x.f, x.f.compare("slt", x.bits().value, x.bits().of(0)))
    signed = (odd & negative).where(-power, power)
    outside = (x < 0.0) & (x > -math.inf)
    signed = (outside & (y.intrinsic("floor") < y)).where(math.nan, signed)
    # 1 to any power, anything to the power of 0, and -1 to an infinite one.
    one = x.same(1.0) | y.same(0.0) | (x.same(-1.0) & absolute(y).same(math.inf))
    return one.where(1.0, signed)


def nextafter(x: Lanes, y: Lanes) -> Lanes:
    bits = x.bits()
    away = Lanes(x.f, x.f.compare("eq", (x < y).value, (x > 0.0).value))
    stepped = bits + away.where(bits.like(1), -1)
    first = copysign(bits.like(1).number(), y).bits()
    made = x.same(0.0).where(first, stepped).number()
    unordered = Lanes(x.f, x.f.compare("uno", x.value, y.value))
    return unordered.where(x + y, x.same(y).where(y, made))
