"""The scalar builder over IR: what a gate's `scalar` lowering says becomes instructions for one element or a vector of them.

Arithmetic of whole numbers is NumPy's: it wraps, division by 0 gives 0, shifts by the width or more leave nothing. Half precision is
computed in float32 and rounded at the end of a gate. Products and sums of floating-point numbers may be contracted; nothing else is.
Nothing here reads memory: booleans are bits.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from chainrule.compiler.native import engine, ir, vector_math
from chainrule.compiler.native.ir import Function, Kind, Value, literal
from chainrule.compiler.native.lanes import Lanes, copysign, library
from chainrule.compiler.native.registers import Scalar
from chainrule.core import scalar
from chainrule.core.aval import Dtype
from chainrule.core.primitive import Primitive

_BOOL, _HALF, _SINGLE, _DOUBLE = (np.dtype(name) for name in ("bool", "float16", "float32", "float64"))
_REPEATED = 16
"""Powers up to this one are products where that is exact enough."""


class NotLowered(Exception):  # noqa: N818, it never leaves the backend
    """A gate, or its dtypes, that native code does not have: it is called back."""


def lower(function: Function, gate: Primitive, values: Sequence[Value], dtypes: Sequence[Dtype], params: Mapping[str, Any], out: Dtype) -> Value:
    """Write an elementwise gate.

    Parameters
    ----------
    function : Function
        That is being written.
    gate : Primitive
    values : sequence of Value
        One per input, of equal numbers of lanes or of one; booleans are i1.
    dtypes : sequence of dtype
        Of the inputs.
    params : Mapping
    out : dtype
        Of the output.

    Returns
    -------
    Value
        In as many lanes as the widest input.

    Raises
    ------
    NotLowered
        For a gate without `scalar`, for complex numbers, and for the little that has no instructions here.
    """
    if gate.scalar is None or gate.outputs:
        raise NotLowered(f"{gate.name} is not elementwise")
    for dtype in (*dtypes, out):
        if dtype.kind not in "fiub" or dtype.itemsize > 8:
            raise NotLowered(f"{gate.name} of {dtype}")
        if dtype == _HALF and not converts_halves():
            raise NotLowered(f"{gate.name} of {dtype} on this processor")
    k = Builder(function, out, half=_HALF in dtypes)
    xs = [k.value(value, dtype) for value, dtype in zip(values, dtypes, strict=True)]
    return function.splat(k.register(gate.scalar(k, *xs, **params), out), max((x.kind.lanes for x in values), default=1))


@cache
def converts_halves() -> bool:
    """Whether the processor has instructions for that; x86 has them since AVX."""
    host = engine.host()
    return platform.machine() not in ("x86_64", "AMD64") or (host.has("f16c") and host.bits > 128)


def kind_of(dtype: Dtype) -> Kind:
    """Of one lane of a register: booleans are bits."""
    return ir.I1 if dtype.kind == "b" else ir.kind_of(dtype)


_LIBRARY = ("asin", "acos", "sinh", "cosh", "erfc", "atan2")
"""Of float64, what the base class writes to more than 2 units in the last place."""


def _in_double(name: str) -> Callable[..., Scalar]:
    """A function that the base class writes with others: float32 has it computed in float64, where those errors do not show."""
    written = getattr(scalar.Builder, name)

    def apply(self: Builder, *xs: Any) -> Scalar:
        made = self._floats(*xs)
        if made[0].dtype == _DOUBLE:
            if name in _LIBRARY:
                return self._call(lambda *lanes: library(name, *lanes), *made)
            return written(self, *made)
        return self.convert(written(self, *(self.convert(x, _DOUBLE) for x in made)), _SINGLE)

    return apply


class Builder(scalar.Builder):
    """The scalar builder that writes instructions.

    Parameters
    ----------
    function : Function
        That is being written.
    out : dtype
        What is wanted in the end: functions of real numbers compute with whole ones in it, if it is real.
    half : bool
        Whether what is wanted is about numbers of half precision.
    """

    contracted = " contract"

    def __init__(self, function: Function, out: Dtype = _DOUBLE, *, half: bool = False) -> None:
        self.function = function
        self.out = out
        self.real_dtype = _held(out) if out.kind == "f" else _DOUBLE
        self.is_half = half or out == _HALF

    # Between registers, values and numbers.

    def value(self, register: Value, dtype: Dtype) -> Scalar:
        """A register of this dtype, as a value."""
        if dtype == _HALF:
            register = self.function.cast("fpext", register, register.kind.of("float"))
        return Scalar(self, register, _held(dtype))

    def register(self, x: Any, dtype: Dtype) -> Value:
        """A value in this dtype, as a register."""
        if dtype == _HALF:
            return self._halved(self._of(x, self.real_dtype))
        return self.convert(x, dtype).register

    def _of(self, x: Any, dtype: Dtype) -> Scalar:
        """A number that is to be of this dtype, unless that has only whole numbers and it is none; values as they are."""
        if isinstance(x, Scalar):
            return x
        if dtype.kind == "f":
            return Scalar(self, literal(float(x), kind_of(dtype)), dtype)
        if isinstance(x, (float, np.floating)) and not x.is_integer():
            return Scalar(self, literal(float(x), kind_of(self.real_dtype)), self.real_dtype)
        bits = kind_of(dtype).bits
        return Scalar(self, literal(bool(x) if bits == 1 else int(x) & (1 << bits) - 1, kind_of(dtype)), dtype)

    def _alike(self, *xs: Any) -> list[Scalar]:
        """Operands in one dtype and equal numbers of lanes."""
        dtypes = [x.dtype for x in xs if isinstance(x, Scalar)]
        weak = np.result_type(*dtypes) if dtypes else self.real_dtype if any(isinstance(x, float) for x in xs) else np.dtype(np.int64)
        made = [self._of(x, weak) for x in xs]
        common = np.result_type(*(x.dtype for x in made))
        lanes = max(x.lanes for x in made)
        return [Scalar(self, self.function.splat(y.register, lanes), common) for y in (self.convert(x, common) for x in made)]

    def _numbers(self, *xs: Any) -> list[Scalar]:
        """Operands of arithmetic: conditions among themselves are numbers if a number is wanted."""
        made = self._alike(*xs)
        return [self.convert(x, self.out) for x in made] if made[0].dtype == _BOOL and self.out != _BOOL else made

    def _floats(self, *xs: Any) -> list[Scalar]:
        """Operands of functions of real numbers."""
        made = [self.convert(x, self.real_dtype) if isinstance(x, Scalar) and x.dtype.kind != "f" else x for x in xs]
        made = self._alike(*made)
        return made if made[0].dtype.kind == "f" else [self.convert(x, self.real_dtype) for x in made]

    def filled(self, number: float, x: Scalar) -> Scalar:
        """A number in the dtype and the lanes of a value."""
        return self._alike(number, x)[0]

    def _made(self, register: Value, dtype: Dtype) -> Scalar:
        return Scalar(self, register, dtype)

    def _lanes(self, x: Scalar) -> Lanes:
        return Lanes(self.function, x.register)

    def _call(self, function: Callable[..., Lanes], *xs: Any) -> Scalar:
        made = self._floats(*xs)
        return self._made(function(*map(self._lanes, made)).value, made[0].dtype)

    # Operators.

    def binary(self, operation: str, a: Any, b: Any) -> Scalar:
        a, b = self._numbers(a, b)
        if a.dtype == _BOOL:
            return self.bitwise({"add": "or", "mul": "and", "sub": "xor"}[operation], a, b)
        text = f"f{operation}{self.contracted}" if a.dtype.kind == "f" else operation
        return self._made(self.function.binary(text, a.register, b.register), a.dtype)

    def divide(self, a: Any, b: Any) -> Scalar:
        a, b = self._floats(a, b)
        return self._made(self.function.binary("fdiv", a.register, b.register), a.dtype)

    def negative(self, x: Scalar) -> Scalar:
        if x.dtype.kind == "f":
            return self._made(self.function.value(x.register.kind, f"fneg {x.register}"), x.dtype)
        return self.binary("sub", 0, x)

    def bitwise(self, operation: str, a: Any, b: Any) -> Scalar:
        a, b = self._alike(a, b)
        return self._made(self.function.binary(operation, a.register, b.register), a.dtype)

    def shift(self, operation: str, a: Any, b: Any) -> Scalar:
        a, b = self._alike(a, b)
        f, width = self.function, 8 * a.dtype.itemsize
        inside = self._made(f.compare("ult", b.register, literal(width, b.register.kind)), _BOOL)
        places = self.select(inside, b, 0).register
        if operation == "shl":
            return self.select(inside, self._made(f.binary("shl", a.register, places), a.dtype), 0)
        signed = a.dtype.kind == "i"
        shifted = self._made(f.binary("ashr" if signed else "lshr", a.register, places), a.dtype)
        return self.select(inside, shifted, self.select(a < 0, -1, 0 * a) if signed else 0)

    def compare(self, predicate: str, a: Any, b: Any) -> Scalar:
        signed = {x.dtype.kind == "i" for x in (a, b) if isinstance(x, Scalar) and x.dtype.kind in "iu"}
        if len(signed) == 2:
            # What no dtype of both holds: NumPy compares the numbers themselves.
            lanes = max(a.lanes, b.lanes)
            x, y = (self._extended(v, lanes) for v in (a, b))
            return self._made(self.function.compare(predicate if predicate in ("eq", "ne") else f"s{predicate}", x, y), _BOOL)
        a, b = self._alike(a, b)
        if a.dtype.kind == "f":
            word = "une" if predicate == "ne" else f"o{predicate}"
        else:
            word = predicate if predicate in ("eq", "ne") else f"{'s' if a.dtype.kind == 'i' else 'u'}{predicate}"
        return self._made(self.function.compare(word, a.register, b.register), _BOOL)

    def _extended(self, x: Scalar, lanes: int) -> Value:
        wide = self.function.cast("sext" if x.dtype.kind == "i" else "zext", x.register, x.register.kind.of("i65"))
        return self.function.splat(wide, lanes)

    def select(self, condition: Any, a: Any, b: Any) -> Any:
        if not isinstance(condition, Scalar):
            return a if condition else b
        a, b = self._alike(a, b)
        lanes = max(condition.lanes, a.lanes)
        chosen, yes, no = (self.function.splat(x.register, lanes) for x in (self.convert(condition, _BOOL), a, b))
        return self._made(self.function.select(chosen, yes, no), a.dtype)

    # Conversions.

    def convert(self, x: Any, dtype: Any) -> Scalar:
        dtype = np.dtype(dtype)
        if dtype.kind not in "fiub" or dtype.itemsize > 8:
            raise NotLowered(f"conversion to {dtype}")
        if not isinstance(x, Scalar):
            x = self._of(x, dtype)
        if dtype == _HALF:
            if not converts_halves():
                raise NotLowered("conversion to half precision on this processor")
            return self.value(self._halved(x), _HALF)
        if x.dtype == dtype:
            return x
        if dtype == _BOOL:
            return x != 0
        f, kind = self.function, kind_of(dtype).wide(x.lanes)
        if x.dtype.kind == "f":
            if dtype.kind != "f":
                return self._made(self._truncated(x, dtype), dtype)
            return self._made(f.cast("fpext" if dtype.itemsize > x.dtype.itemsize else "fptrunc", x.register, kind), dtype)
        if dtype.kind == "f":
            return self._made(f.cast("sitofp" if x.dtype.kind == "i" else "uitofp", x.register, kind), dtype)
        have, want = x.register.kind.bits, kind.bits
        operation = "trunc" if have > want else "sext" if x.dtype.kind == "i" else "zext"
        return self._made(x.register if have == want else f.cast(operation, x.register, kind), dtype)

    def _truncated(self, x: Scalar, dtype: Dtype) -> Value:
        """As x86 converts, and NumPy there: what does not fit is the least signed number, of 32 bits if those are enough, cut to the width."""
        f = self.function
        element = "i32" if dtype.itemsize < 4 or dtype == np.int32 else "i64"
        kind, limit = Kind(element, x.lanes), 2.0 ** (int(element[1:]) - 1)
        beyond = x >= limit if dtype == np.uint64 else None
        if beyond is not None:
            x = self.select(beyond, x - limit, x)
        fits = self.abs(x) < limit
        whole = f.cast("fptosi", self.select(fits, x, 0.0).register, kind)
        whole = f.select(fits.register, whole, literal(-int(limit), kind))
        if beyond is not None:
            whole = f.binary("xor", whole, f.select(beyond.register, literal(-int(limit), kind), literal(0, kind)))
        want = kind_of(dtype).wide(x.lanes)
        return whole if want.bits == kind.bits else f.cast("trunc", whole, want)

    def _halved(self, x: Scalar) -> Value:
        """Rounded once: a double becomes a float with its last bit standing for all that is lost."""
        f = self.function
        if x.dtype != _SINGLE:
            wide = self.convert(x, _DOUBLE)
            narrow = self.convert(wide, _SINGLE)
            back = self.convert(narrow, _DOUBLE)
            bits = f.cast("bitcast", narrow.register, narrow.register.kind.of("i32"))
            whole = self._made(bits, np.dtype(np.int32))
            cut = self.select(self.abs(back) > self.abs(wide), whole - 1, whole)
            odd = self.select((back == wide) | self.isnan(wide), whole, cut | 1)
            x = self._made(f.cast("bitcast", odd.register, narrow.register.kind), _SINGLE)
        return f.cast("fptrunc", x.register, x.register.kind.of("half"))

    # Functions.

    def _unary(self, stem: str, x: Any) -> Scalar:
        x = x if isinstance(x, Scalar) else self._floats(x)[0]
        return self._made(self.function.intrinsic(stem, x.register), x.dtype) if x.dtype.kind == "f" else x

    def abs(self, x: Any) -> Scalar:
        return self.select(x < 0, -x, x) if x.dtype.kind == "i" else self._unary("fabs", x)

    def floor(self, x: Any) -> Scalar:
        return self._unary("floor", x)

    def ceil(self, x: Any) -> Scalar:
        return self._unary("ceil", x)

    def trunc(self, x: Any) -> Scalar:
        return self._unary("trunc", x)

    def round(self, x: Any) -> Scalar:
        return self._unary("roundeven", x)

    def sqrt(self, x: Any) -> Scalar:
        return self._unary("sqrt", self._floats(x)[0])

    def isnan(self, x: Any) -> Scalar:
        return x != x

    def isinf(self, x: Any) -> Scalar:
        return super().isinf(x) if x.dtype.kind == "f" else x != x

    def isfinite(self, x: Any) -> Scalar:
        return super().isfinite(x) if x.dtype.kind == "f" else x == x

    def signbit(self, x: Any) -> Scalar:
        if x.dtype.kind != "f":
            return x < 0
        bits = self._lanes(x).bits().value
        return self._made(self.function.compare("slt", bits, literal(0, bits.kind)), _BOOL)

    def copysign(self, x: Any, y: Any) -> Scalar:
        return self._call(copysign, x, y)

    def maximum(self, x: Any, y: Any) -> Any:
        return self._extreme("gt", x, y)

    def minimum(self, x: Any, y: Any) -> Any:
        return self._extreme("lt", x, y)

    def _extreme(self, predicate: str, x: Any, y: Any) -> Any:
        """One instruction beside a number; beside a value two more keep NaN."""
        if not isinstance(x, Scalar):
            x, y = y, x
        number = not isinstance(y, Scalar) and not math.isnan(y)
        x, y = self._alike(x, y)
        if number:
            # The comparison fails for NaN, and x it is.
            return self.select(self.compare(predicate, y, x), y, x)
        best = self.select(self.compare(predicate, x, y), x, y)
        return self.select(self.isnan(x), x, best) if x.dtype.kind == "f" else best

    def exp(self, x: Any) -> Scalar:
        return self._call(vector_math.exp, x)

    def exp2(self, x: Any) -> Scalar:
        return self._call(vector_math.exp2, x)

    def expm1(self, x: Any) -> Scalar:
        return self._call(vector_math.expm1, x)

    def log(self, x: Any) -> Scalar:
        return self._call(vector_math.log, x)

    def log2(self, x: Any) -> Scalar:
        return self._call(vector_math.log2, x)

    def log10(self, x: Any) -> Scalar:
        return self._call(vector_math.log10, x)

    def log1p(self, x: Any) -> Scalar:
        return self._call(vector_math.log1p, x)

    def sin(self, x: Any) -> Scalar:
        return self._call(vector_math.sin, x)

    def cos(self, x: Any) -> Scalar:
        return self._call(vector_math.cos, x)

    def tan(self, x: Any) -> Scalar:
        return self._call(vector_math.tan, x)

    def atan(self, x: Any) -> Scalar:
        return self._call(vector_math.atan, x)

    def tanh(self, x: Any) -> Scalar:
        return self._call(vector_math.tanh, x)

    def sigmoid(self, x: Any) -> Scalar:
        return self._call(vector_math.sigmoid, x)

    def erf(self, x: Any) -> Scalar:
        (x,) = self._floats(x)
        if x.dtype == _SINGLE:
            return self._call(vector_math.erf, x)
        size = self.abs(x)
        far = 1.0 - scalar.erfc_tail(self, self.maximum(size, 0.46875))
        return self.select(size > 0.8, self.copysign(far, x), self._call(vector_math.erf_near, x))

    asin, acos, sinh, cosh, asinh, acosh, atanh, atan2, hypot, erfc = map(
        _in_double, ("asin", "acos", "sinh", "cosh", "asinh", "acosh", "atanh", "atan2", "hypot", "erfc")
    )

    def nextafter(self, x: Any, y: Any) -> Scalar:
        if self.is_half:
            raise NotLowered("the next number of half precision")
        return self._call(vector_math.nextafter, x, y)

    def fmod(self, x: Any, y: Any) -> Scalar:
        x, y = self._floats(x, y)
        return self._made(library("fmod", self._lanes(x), self._lanes(y)).value, x.dtype)

    def pow(self, x: Any, y: Any) -> Scalar:
        if not isinstance(y, Scalar):
            return self._power(self._numbers(x)[0], y)
        x, y = self._numbers(x, y)
        if x.dtype.kind != "f":
            # A negative exponent is an error there.
            raise NotLowered("powers of whole numbers")
        return self._call(vector_math.pow, x, y)

    def _power(self, x: Scalar, exponent: float) -> Scalar:
        """To a power that is known."""
        if x.dtype.kind != "f" and not isinstance(exponent, float):
            return self._repeated(x, exponent)
        (x,) = self._floats(x)
        if exponent in _POWERS:
            return _POWERS[exponent](self, x)
        if abs(exponent) <= _REPEATED and float(exponent).is_integer() and x.dtype == _SINGLE:
            power = self._repeated(self.convert(x, _DOUBLE), abs(int(exponent)))
            return self.convert(power if exponent > 0 else 1.0 / power, _SINGLE)
        return self._call(vector_math.pow, x, exponent)

    def _repeated(self, x: Scalar, exponent: int) -> Scalar:
        total = None
        while exponent:
            if exponent & 1:
                total = x if total is None else total * x
            exponent >>= 1
            x = x * x if exponent else x
        return self.filled(1, x) if total is None else total

    def remainder(self, x: Any, y: Any) -> Scalar:
        x, y = self._numbers(x, y)
        return super().remainder(x, y) if x.dtype.kind == "f" else self._divided(x, y)[1]

    def floor_divide(self, x: Any, y: Any) -> Scalar:
        x, y = self._numbers(x, y)
        return super().floor_divide(x, y) if x.dtype.kind == "f" else self._divided(x, y)[0]

    def _divided(self, x: Scalar, y: Scalar) -> tuple[Scalar, Scalar]:
        """Quotient, rounded down, and remainder of whole numbers; both 0 for division by 0."""
        f, signed = self.function, x.dtype.kind == "i"
        zero = y == 0
        # The least number divided by -1 would be a fault too.
        divisor = self.select(zero | (y == -1) if signed else zero, 1, y)
        quotient = self._made(f.binary("sdiv" if signed else "udiv", x.register, divisor.register), x.dtype)
        rest = x - quotient * divisor
        if signed:
            below = (rest != 0) & ((rest ^ divisor) < 0)
            quotient, rest = self.select(below, quotient - 1, quotient), self.select(below, rest + divisor, rest)
            quotient = self.select(y == -1, -x, quotient)
        return self.select(zero, 0, quotient), self.select(zero, 0, rest)


_POWERS: dict[float, Callable[[Builder, Scalar], Scalar]] = {
    0: lambda k, x: k.filled(1.0, x),
    1: lambda k, x: x,
    2: lambda k, x: x * x,
    3: lambda k, x: x * x * x,
    4: lambda k, x: (x * x) * (x * x),
    -1: lambda k, x: 1.0 / x,
    -2: lambda k, x: (1.0 / x) * (1.0 / x),
    0.5: lambda k, x: k.sqrt(x),
    -0.5: lambda k, x: 1.0 / k.sqrt(x),
    1.5: lambda k, x: k.select(x == -math.inf, math.inf, x * k.sqrt(x)),
    -1.5: lambda k, x: k.select(x == -math.inf, 0.0, (1.0 / x) / k.sqrt(x)),
}
"""Exact to 2 units in the last place, and no sooner infinite or 0 than the power is."""


def _held(dtype: Dtype) -> Dtype:
    """What a dtype is computed in."""
    return _SINGLE if dtype == _HALF else dtype
