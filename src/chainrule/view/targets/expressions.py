"""Scalar expressions as trees, for every language: `Expr` is written with Python's operators, and `Lowering` is the scalar builder that makes them.

Dtypes are settled here, so that a printer only has to say what it is told: operands of an operator have one dtype, and conversions stand where they
happen. What is known beforehand (positions, conditions) is worked out. Nothing here knows a syntax.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from chainrule.core.scalar import Builder

INDEX = np.dtype(np.int32)
"""What counts elements and positions."""
_BOOL = np.dtype(bool)
_DOUBLE = np.dtype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Expr:
    """A scalar expression.

    Attributes
    ----------
    op : str
        An operator ("+", "<", "neg", "not", ...), "select", "convert", "const", "name", "load" or a function of mathematics.
    args : tuple
        Of Expr; for "const" the number, for "name" the name, for "load" the array's name and the offset.
    dtype : dtype
    """

    op: str
    args: tuple[Any, ...]
    dtype: np.dtype[Any]

    def __add__(self, other: Any) -> Expr:
        return binary("+", self, other)

    def __radd__(self, other: Any) -> Expr:
        return binary("+", other, self)

    def __sub__(self, other: Any) -> Expr:
        return binary("-", self, other)

    def __rsub__(self, other: Any) -> Expr:
        return binary("-", other, self)

    def __mul__(self, other: Any) -> Expr:
        return binary("*", self, other)

    def __rmul__(self, other: Any) -> Expr:
        return binary("*", other, self)

    def __truediv__(self, other: Any) -> Expr:
        return binary("/", *_real(self, other))

    def __rtruediv__(self, other: Any) -> Expr:
        return binary("/", *_real(other, self))

    def __and__(self, other: Any) -> Expr:
        return binary("&", self, other)

    def __rand__(self, other: Any) -> Expr:
        return binary("&", other, self)

    def __or__(self, other: Any) -> Expr:
        return binary("|", self, other)

    def __xor__(self, other: Any) -> Expr:
        return binary("^", self, other)

    def __lshift__(self, other: Any) -> Expr:
        return binary("<<", self, other)

    def __rshift__(self, other: Any) -> Expr:
        return binary(">>", self, other)

    def __neg__(self) -> Expr:
        return Expr("neg", (self,), self.dtype)

    def __invert__(self) -> Expr:
        return Expr("not" if self.dtype == _BOOL else "~", (self,), self.dtype)

    def __eq__(self, other: object) -> Any:
        return compare("==", self, other)

    def __ne__(self, other: object) -> Any:
        return compare("!=", self, other)

    def __lt__(self, other: Any) -> Expr:
        return compare("<", self, other)

    def __le__(self, other: Any) -> Expr:
        return compare("<=", self, other)

    def __gt__(self, other: Any) -> Expr:
        return compare(">", self, other)

    def __ge__(self, other: Any) -> Expr:
        return compare(">=", self, other)

    __hash__ = object.__hash__


def const(value: Any, dtype: Any = INDEX) -> Expr:
    """A number; one that a whole-number dtype cannot hold is a double."""
    kind = np.dtype(dtype)
    if kind.kind in "iub" and isinstance(value, (float, np.floating)) and not float(value).is_integer():
        kind = _DOUBLE
    return Expr("const", (value,), kind)


def _pair(a: Any, b: Any) -> tuple[Expr, Expr]:
    """Two operands of one dtype; Python numbers take the other's."""
    a = a if isinstance(a, Expr) else const(a, b.dtype)
    b = b if isinstance(b, Expr) else const(b, a.dtype)
    common = np.result_type(a.dtype, b.dtype)
    return converted(a, common), converted(b, common)


def _real(a: Any, b: Any) -> tuple[Expr, Expr]:
    a, b = _pair(a, b)
    return (a, b) if a.dtype.kind == "f" else (converted(a, _DOUBLE), converted(b, _DOUBLE))


def converted(x: Expr, dtype: Any) -> Expr:
    """In another dtype."""
    if x.dtype == dtype:
        return x
    return Expr("const", x.args, np.dtype(dtype)) if x.op == "const" and np.dtype(dtype).kind != "b" else Expr("convert", (x,), np.dtype(dtype))


def as_expr(value: Any, dtype: Any) -> Expr:
    """A value or Python number in a dtype."""
    return converted(value, dtype) if isinstance(value, Expr) else const(value, dtype)


def number(x: Expr) -> Any:
    """The number that an expression is, if it is known."""
    return x.args[0] if x.op == "const" else None


def binary(op: str, a: Any, b: Any) -> Expr:
    """An operator's result; for positions and conditions worked out as far as it is known."""
    a, b = _pair(a, b)
    if a.dtype == INDEX:
        folded = _folded(op, a, b)
        if folded is not None:
            return folded
    elif a.dtype == _BOOL:
        if op in "+*":
            op = "|" if op == "+" else "&"
        for x, other in ((a, b), (b, a)):
            if x.op == "const" and op in "&|":
                return other if bool(x.args[0]) == (op == "&") else x
    return Expr(op, (a, b), a.dtype)


def _folded(op: str, a: Expr, b: Expr) -> Expr | None:
    m, n = number(a), number(b)
    if m is not None and n is not None and op in "+-*":
        return const({"+": m + n, "-": m - n, "*": m * n}[op])
    if (n == 0 and op in "+-") or (n == 1 and op == "*"):
        return a
    if (m == 0 and op == "+") or (m == 1 and op == "*"):
        return b
    return const(0) if op == "*" and 0 in (m, n) else None


def compare(op: str, a: Any, b: Any) -> Expr:
    """A condition; that nothing unsigned lies below 0 is known."""
    a, b = _pair(a, b)
    if a.dtype.kind in "ub" and number(b) == 0 and op in ("<", ">="):
        return const(op == ">=", _BOOL)
    if a.dtype.kind == "b" and op not in ("==", "!="):
        a, b = converted(a, INDEX), converted(b, INDEX)
    return Expr(op, (a, b), _BOOL)


def call(name: str, *args: Any) -> Expr:
    """A function of real numbers; whole ones become doubles."""
    dtypes = [x.dtype for x in args if isinstance(x, Expr)]
    dtype = np.result_type(*dtypes) if dtypes else _DOUBLE
    dtype = dtype if dtype.kind == "f" else _DOUBLE
    return Expr(name, tuple(converted(x, dtype) if isinstance(x, Expr) else const(x, dtype) for x in args), dtype)


def select(condition: Any, a: Any, b: Any) -> Any:
    """``a`` where the condition holds, else ``b``."""
    if not isinstance(condition, Expr):
        return a if condition else b
    if condition.op == "const":
        return a if condition.args[0] else b
    if not isinstance(a, Expr) and not isinstance(b, Expr):
        dtype = np.result_type(a, b)
        a, b = const(a, dtype), const(b, dtype)
    a, b = _pair(a, b)
    return Expr("select", (condition, a, b), a.dtype)


def remainder(x: Any, y: Any) -> Expr:
    """What C's ``%`` gives for whole numbers, with the sign of ``x``."""
    x, y = _pair(x, y)
    return Expr("%", (x, y), x.dtype)


def quotient(x: Any, y: Any) -> Expr:
    """The quotient of whole numbers, rounded towards 0."""
    x, y = _pair(x, y)
    return Expr("div", (x, y), x.dtype)


class Lowering(Builder):
    """The scalar builder that writes `Expr`.

    Parameters
    ----------
    natives : iterable of str
        The functions that the language has; the others are written in terms of those, as `Builder` does it.
    """

    def __init__(self, natives: Iterable[str]) -> None:
        for name in natives:
            setattr(self, name, _native(name, getattr(self, name)))

    def select(self, condition: Any, a: Any, b: Any) -> Any:
        return select(condition, a, b)

    def abs(self, x: Any) -> Any:
        if x.dtype.kind in "ub":
            return x
        return call("abs", x) if x.dtype.kind == "f" else select(x < 0, -x, x)

    def floor(self, x: Any) -> Any:
        return call("floor", x) if x.dtype.kind == "f" else x

    def ceil(self, x: Any) -> Any:
        return super().ceil(x) if x.dtype.kind == "f" else x

    def trunc(self, x: Any) -> Any:
        return super().trunc(x) if x.dtype.kind == "f" else x

    def round(self, x: Any) -> Any:
        return super().round(x) if x.dtype.kind == "f" else x

    def sqrt(self, x: Any) -> Any:
        return call("sqrt", x)

    def exp(self, x: Any) -> Any:
        return call("exp", x)

    def expm1(self, x: Any) -> Any:
        return call("expm1", x)

    def log(self, x: Any) -> Any:
        return call("log", x)

    def log1p(self, x: Any) -> Any:
        return call("log1p", x)

    def sin(self, x: Any) -> Any:
        return call("sin", x)

    def cos(self, x: Any) -> Any:
        return call("cos", x)

    def tanh(self, x: Any) -> Any:
        return call("tanh", x)

    def atan(self, x: Any) -> Any:
        return call("atan", x)

    def pow(self, x: Any, y: Any) -> Any:
        kinds = [v.dtype for v in (x, y) if isinstance(v, Expr)]
        whole = all(dtype.kind in "iu" for dtype in kinds) and not isinstance(y, float)
        power = call("pow", x, y)
        return converted(power, np.result_type(*kinds)) if whole else power

    def fmod(self, x: Any, y: Any) -> Any:
        return call("fmod", x, y)

    def nextafter(self, x: Any, y: Any) -> Any:
        return call("nextafter", x, y)

    def convert(self, x: Any, dtype: Any) -> Any:
        return converted(x, np.dtype(dtype))

    def real(self, x: Any) -> Any:
        return x

    def isnan(self, x: Any) -> Any:
        return Expr("isnan", (x,), _BOOL) if x.dtype.kind == "f" else const(False, _BOOL)

    def isinf(self, x: Any) -> Any:
        return Expr("isinf", (x,), _BOOL) if x.dtype.kind == "f" else const(False, _BOOL)

    def isfinite(self, x: Any) -> Any:
        return Expr("isfinite", (x,), _BOOL) if x.dtype.kind == "f" else const(True, _BOOL)

    def signbit(self, x: Any) -> Any:
        return super().signbit(x) if x.dtype.kind == "f" else x < 0

    def remainder(self, x: Any, y: Any) -> Any:
        x, y = _pair(x, y)
        if x.dtype.kind == "f":
            return super().remainder(x, y)
        rest = remainder(x, select(y == 0, 1, y))
        return select(y == 0, 0, select((rest != 0) & ((rest < 0) ^ (y < 0)), rest + y, rest))

    def floor_divide(self, x: Any, y: Any) -> Any:
        x, y = _pair(x, y)
        if x.dtype.kind == "f":
            return super().floor_divide(x, y)
        return select(y == 0, 0, quotient(x - self.remainder(x, y), select(y == 0, 1, y)))


def _native(name: str, written: Callable[..., Any]) -> Callable[..., Any]:
    def apply(*args: Any) -> Any:
        exprs = [x for x in args if isinstance(x, Expr)]
        if any(x.dtype.kind != "f" for x in exprs):
            return written(*args)
        out = call(name, *args)
        return Expr(name, out.args, _BOOL) if name == "signbit" else out

    return apply
