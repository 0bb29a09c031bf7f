"""Vectors with Python's operators, which write exactly the instructions they stand for; and what is exact: signs, bits, whole parts.

Nothing is moved, nothing is contracted (but in polynomials), nothing here is an approximation, and nothing knows a dtype: there are floats, doubles
and whole numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chainrule.compiler.native.formats import FORMATS, Format, Poly
from chainrule.compiler.native.ir import Function, Kind, Value, literal

_NUMBERS = {"i32": "float", "i64": "double"}


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
        """Of numbers, and of whole numbers as wide."""
        return FORMATS[_NUMBERS.get(self.kind.element, self.kind.element)]

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
        return self.cast("bitcast", _NUMBERS[self.kind.element])

    def poly(self, coefficients: Poly) -> Lanes:
        """A polynomial, by Horner's rule; each step is rounded once where the processor can, as calling the C library for that takes long."""
        total: Any = coefficients[0]
        for coefficient in coefficients[1:]:
            total = self.intrinsic("fmuladd", total, coefficient)
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
    return (k + k.format.bits(k.format.magic)).number() - k.format.magic


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


def unless(rare: Lanes, usual: Lanes, name: str, *xs: Lanes) -> Lanes:
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
