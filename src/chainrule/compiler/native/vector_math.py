"""Elementary functions as straight-line IR, for float32 and float64 in any number of lanes, to 2 units in the last place.

Every lane is computed by the same operations, rounded as written: bits do not depend on how many lanes there are. Polynomials are
near-minimax (interpolated at Chebyshev's points in 60 digits); benchmarks/ulp.py measures what comes out. What no polynomial here
does well (large angles, float64 powers) is a call of the C library for those lanes, behind a branch where it is rare.
Nothing here knows a gate, or dtypes other than these two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chainrule.compiler.native.ir import Function, Kind, Value, literal

Poly = tuple[float, ...]
"""Coefficients from the highest power down."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """What the functions need to know of a floating-point format."""

    whole: str
    mantissa: int
    tiny: float
    """The smallest normal number."""
    ends: tuple[float, float]
    """Where exp is 0, and where it is infinite."""
    ones: float
    """Above this tanh is 1."""
    angle: float
    """Up to here sines are reduced by `half_pi`."""
    half_pi: tuple[float, float, float]
    """In three parts: products of the first with whole numbers are exact as far as they matter."""
    exp: Poly
    log: Poly
    tanh: Poly
    sin: Poly
    cos: Poly
    atan: Poly
    erf: Poly
    """Of float32 up to 0.93, of float64 up to 0.81."""
    ln2: tuple[float, float] = field(init=False)
    magic: float = field(init=False)
    """Added to a number, it leaves no fraction; the difference to its own bits is then that whole number."""

    def __post_init__(self) -> None:
        head = float(np.float32(math.log(2))) if self.whole == "i32" else math.log(2)
        rest = -1.9046542121259336e-09 if self.whole == "i32" else 2.3190468138462996e-17
        object.__setattr__(self, "ln2", (head, rest))
        object.__setattr__(self, "magic", 1.5 * 2.0**self.mantissa)

    @property
    def bias(self) -> int:
        return 127 if self.whole == "i32" else 1023

    def bits(self, x: float) -> int:
        """Of a number, as an integer."""
        return int(np.float32(x).view(np.int32)) if self.whole == "i32" else int(np.float64(x).view(np.int64))


# fmt: off
_FORMATS = {
    "float": Format(
        whole="i32", mantissa=23, tiny=2.0**-126, ends=(-104.0, 89.0), ones=10.0, angle=2.0**19,
        half_pi=(1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15),
        exp=(0.000198911803, 0.00139338209, 0.00833331048, 0.041666463, 0.166666672, 0.5),
        log=(0.0697162002, -0.11479748, 0.116854236, -0.124256857, 0.142490566, -0.166678026, 0.200007156, -0.24999997, 0.333333313),
        tanh=(0.00228962628, -0.00834118854, 0.0217680763, -0.0539591573, 0.133333027, -0.333333343),
        sin=(2.7246333e-06, -0.000198400594, 0.00833333191, -0.166666672),
        cos=(2.45449774e-05, -0.00138882897, 0.0416666642),
        atan=(-0.0645186305, 0.107437119, -0.142639533, 0.199995399, -0.333333313),
        erf=(8.33471859e-05, -0.000813470921, 0.00520036882, -0.0268591512, 0.112836912, -0.376126349, 0.128379166),
    ),
    "double": Format(
        whole="i64", mantissa=52, tiny=2.0**-1022, ends=(-746.0, 710.0), ones=20.0, angle=2.0**20,
        half_pi=(1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33),
        exp=(2.091483135138041e-09, 2.5105419192016337e-08, 2.7557273295539724e-07, 2.75572549134867e-06, 2.4801587325822283e-05,
             0.00019841269875205077, 0.001388888888888367, 0.008333333333326025, 0.04166666666666667, 0.1666666666666667, 0.5),
        log=(0.14616562422104645, 0.15331712479381301, 0.1818288939967772, 0.2222221113102852, 0.2857142862599856, 0.39999999999899455,
             0.666666666666667),
        tanh=(-2.4316497630014687e-06, 1.2193738987130529e-05, -3.706514378846229e-05, 9.603210574278365e-05, -0.00023888623778637894,
              0.000589981060857246, -0.001455828281626584, 0.0035921274954513784, -0.008863235499013071, 0.0218694885351031,
              -0.05396825396823531, 0.1333333333333332, -0.3333333333333333),
        sin=(-7.585989217686428e-13, 1.6058519539543833e-10, -2.505210615578957e-08, 2.755731921911718e-06, -0.00019841269841264778,
             0.008333333333333331, -0.16666666666666666),
        cos=(-1.1381600803648663e-11, 2.0876131865438917e-09, -2.755731720221659e-07, 2.480158729863089e-05, -0.0013888888888887309,
             0.041666666666666664),
        atan=(0.01628532732275549, -0.034570174391823104, 0.045515781496647055, -0.052304509666811966, 0.05878928549229719,
              -0.06666424846721739, 0.07692296372859808, -0.09090908753425743, 0.11111111105153937, -0.14285714285659812,
              0.19999999999999804, -0.3333333333333333),
        erf=(-9.107321067339702e-10, 1.4287366090754487e-08, -1.631575921805092e-07, 1.645902060805438e-06, -1.4925523444508197e-05,
             0.00012055329497795956, -0.000854832696036818, 0.00522397762471715, -0.026866170645082038, 0.11283791670954953,
             -0.3761263890318375, 0.1283791670955126),
    ),
}
_LOG_ERFC = (-4.79100786e-06, 4.41085198e-05, 5.55219318e-05, -0.00294241019, 0.0226875725, -0.105269679, -0.635624488, -1.12855135, 0.0)
"""log(erfc(x)), from 0.9 to 4; what is left out matters less the larger x is."""
# fmt: on


@dataclass(frozen=True, slots=True, eq=False)
class Lanes:
    """A vector of numbers or whole numbers, while it is computed with: Python's operators write exactly the instructions they stand for."""

    f: Function
    value: Value

    @property
    def kind(self) -> Kind:
        return self.value.kind

    @property
    def format(self) -> Format:
        return _FORMATS[self.kind.element]

    def of(self, x: Any) -> Value:
        """Another operand's register; a Python number is one in every lane."""
        return x.value if isinstance(x, Lanes) else literal(x, self.kind)

    def like(self, x: float) -> Lanes:
        """A number in every lane."""
        return Lanes(self.f, self.of(x))

    def _binary(self, operation: str, other: Any) -> Lanes:
        return Lanes(self.f, self.f.binary(f"f{operation}" if self.kind.floating else operation, self.value, self.of(other)))

    def _compare(self, predicate: str, other: Any) -> Lanes:
        return Lanes(self.f, self.f.compare(f"{'o' if self.kind.floating else 's'}{predicate}", self.value, self.of(other)))

    def __add__(self, other: Any) -> Lanes:
        return self._binary("add", other)

    def __sub__(self, other: Any) -> Lanes:
        return self._binary("sub", other)

    def __rsub__(self, other: float) -> Lanes:
        return self.like(other) - self

    def __mul__(self, other: Any) -> Lanes:
        return self._binary("mul", other)

    def __truediv__(self, other: Any) -> Lanes:
        return self._binary("div", other)

    def __rtruediv__(self, other: float) -> Lanes:
        return self.like(other) / self

    def __neg__(self) -> Lanes:
        return Lanes(self.f, self.f.value(self.kind, f"fneg {self.value}"))

    def __lt__(self, other: Any) -> Lanes:
        return self._compare("lt", other)

    def __le__(self, other: Any) -> Lanes:
        return self._compare("le", other)

    def __gt__(self, other: Any) -> Lanes:
        return self._compare("gt", other)

    def __and__(self, other: Any) -> Lanes:
        return self._binary("and", other)

    def __or__(self, other: Any) -> Lanes:
        return self._binary("or", other)

    def __xor__(self, other: Any) -> Lanes:
        return self._binary("xor", other)

    def __lshift__(self, places: int) -> Lanes:
        return self._binary("shl", places)

    def __rshift__(self, places: int) -> Lanes:
        return self._binary("ashr", places)

    def same(self, other: Any) -> Lanes:
        """Where two are equal."""
        return Lanes(self.f, self.f.compare("oeq" if self.kind.floating else "eq", self.value, self.of(other)))

    def fma(self, factor: Any, term: Any) -> Lanes:
        """``self * factor + term``, rounded once."""
        return Lanes(self.f, self.f.fma(self.value, self.of(factor), self.of(term)))

    def intrinsic(self, stem: str, *others: Any) -> Lanes:
        return Lanes(self.f, self.f.intrinsic(stem, self.value, *map(self.of, others)))

    def where(self, yes: Any, no: Any) -> Lanes:
        """Of a condition: one of the two."""
        kind = yes.kind if isinstance(yes, Lanes) else no.kind
        a, b = (x.value if isinstance(x, Lanes) else literal(x, kind) for x in (yes, no))
        return Lanes(self.f, self.f.select(self.value, a, b))

    def cast(self, operation: str, element: str) -> Lanes:
        return Lanes(self.f, self.f.cast(operation, self.value, self.kind.of(element)))

    def bits(self) -> Lanes:
        """As whole numbers."""
        return self.cast("bitcast", self.format.whole)

    def number(self) -> Lanes:
        """Bits as the number that they are."""
        return self.cast("bitcast", "float" if self.kind.element == "i32" else "double")

    def poly(self, coefficients: Poly) -> Lanes:
        """A polynomial, by Horner's rule."""
        total: Any = coefficients[0]
        for coefficient in coefficients[1:]:
            total = self.fma(total, coefficient)
        return total


def absolute(x: Lanes) -> Lanes:
    return x.intrinsic("fabs")


def copysign(x: Lanes, y: Lanes) -> Lanes:
    # LLVM's own is drawn through a rounding to half precision, for which there may be no instruction.
    sign = 1 << x.kind.bits - 1
    return ((x.bits() & sign - 1) | (y.bits() & -sign)).number()


def at_least(x: Lanes, low: float) -> Lanes:
    """The larger one; NaN stays NaN."""
    return (x < low).where(low, x)


def at_most(x: Lanes, high: float) -> Lanes:
    """The smaller one; NaN stays NaN."""
    return (x > high).where(high, x)


def whole(x: Lanes, factor: float) -> tuple[Lanes, Lanes]:
    """The whole number nearest to ``x * factor``: as such, and as a floating-point number."""
    magic = x.format.magic
    shifted = x.fma(factor, magic)
    return shifted.bits() - x.format.bits(magic), shifted - magic


def floating(k: Lanes) -> Lanes:
    """Small whole numbers as floating-point ones. Not every machine has an instruction for that in 64 bits."""
    form = _FORMATS["float" if k.kind.element == "i32" else "double"]
    return (k + form.bits(form.magic)).number() - form.magic


def in_double(function: Callable[..., Lanes]) -> Callable[..., Lanes]:
    """A function that float32 has computed in float64."""

    def apply(*xs: Lanes) -> Lanes:
        if xs[0].kind.element == "double":
            return function(*xs)
        return function(*(x.cast("fpext", "double") for x in xs)).cast("fptrunc", "float")

    return apply


def library(name: str, *xs: Lanes) -> Lanes:
    """A function of the C library, called for one lane after the other."""
    first = xs[0]
    one = first.kind.wide(1)
    called = name if one.element == "double" else f"{name}f"
    f = first.f
    f.module.declare(called, one, [one] * len(xs))
    if first.kind.lanes == 1:
        return Lanes(f, f.call(called, one, *(x.value for x in xs)))
    total = Value("poison", first.kind)
    for lane in range(first.kind.lanes):
        made = f.call(called, one, *(f.value(one, f"extractelement {x.value}, i64 {lane}") for x in xs))
        total = f.value(first.kind, f"insertelement {total}, {made}, i64 {lane}")
    return Lanes(f, total)


def _unless(rare: Lanes, usual: Lanes, name: str, *xs: Lanes) -> Lanes:
    """What the C library says in the lanes of a condition that is hardly ever true."""
    f = rare.f
    some = rare.value if rare.kind.lanes == 1 else f.intrinsic("vector.reduce.or", rare.value, result=rare.kind.wide(1))
    before, called, done = f.block, f.fresh("rare"), f.fresh("usual")
    f.branch(some, called, done)
    f.label(called)
    mended = rare.where(library(name, *xs), usual)
    f.jump(done)
    after = f.block
    f.label(done)
    return Lanes(f, f.value(usual.kind, f"phi {usual.kind} [ {usual.value.text}, %{before} ], [ {mended.value.text}, %{after} ]"))


# Exponentials.


def _power_of_two(k: Lanes) -> Lanes:
    form = _FORMATS["float" if k.kind.element == "i32" else "double"]
    return ((k + form.bias) << form.mantissa).number()


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
    return _unless(size > x.format.angle, y, "sin", x)


def cos(x: Lanes) -> Lanes:
    k, r, rest = _quarter(x)
    return _unless(absolute(x) > x.format.angle, _turned(k + 1, r, rest), "cos", x)


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
    return _unless(absolute(x) > x.format.angle, y, "tan", x)


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
