"""Bounds: between which two numbers the values of elementwise gates lie, as their lowerings tell.

Interval arithmetic: a lowering is run with intervals in the place of numbers. Where all values are made of one, its numbers are taken
in pieces, since bounds are close only where what they are made of is. Nothing is said of NaN, and no graph is changed here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple

import numpy as np

from chainrule.compiler.fusion import is_elementwise
from chainrule.core.primitive import TABLE
from chainrule.core.scalar import Builder
from chainrule.core.variable import Variable
from chainrule.graph.ir import Operation

__all__ = ["Bounding", "Condition", "Interval", "bounds", "room"]

_ROOM = 16
_NEAR = 100
"""Gates that are looked at."""


def room(dtype: np.dtype) -> float:
    """How large the values are taken to be that the others are made of: 16 binary orders of magnitude below what is infinite."""
    return 2.0 ** (np.finfo(dtype).maxexp - _ROOM)


def bounds(
    values: Collection[Variable], maker: Callable[[Variable], tuple[Any, Operation] | None], constants: Mapping[Variable, Any]
) -> dict[Variable, Interval]:
    """The intervals that values of one dtype lie in, each as many as there are pieces, or one.

    Parameters
    ----------
    values : collection of Variable
        Of float32 or float64.
    maker : callable
        Gives the gate that makes a value, behind something that tells the order in which gates run; None if there is no gate.
    constants : Mapping of Variable to array

    Returns
    -------
    dict of Variable to Interval
    """
    dtype = next(iter(values)).dtype
    gates, only = _opened(values, maker, constants, dtype)
    found: dict[Variable, Any] = {only: _pieces(dtype)} if only is not None and only.dtype == dtype else {}

    def of(x: Variable) -> Any:
        if x not in found:
            found[x] = _EITHER if x.dtype == bool else _of_constant(constants[x]) if x in constants else _anything(dtype)
        return found[x]

    builder = Bounding(dtype)
    with np.errstate(all="ignore"):
        for node in gates:
            lowering: Any = node.primitive.scalar
            found[node.output] = builder.value(lowering(builder, *map(of, node.inputs), **node.params))
    return {x: of(x) for x in values}


def _opened(
    values: Collection[Variable], maker: Callable[[Variable], tuple[Any, Operation] | None], constants: Mapping[Variable, Any], dtype: np.dtype
) -> tuple[list[Operation], Variable | None]:
    """The gates in their order, back to the latest value that all are made of, if there is one."""
    gates: list[Operation] = []
    seen, alone = {*values}, True
    # The latest first, and last what no gate makes.
    open_ = [_Open(*(maker(x) or (None, None)), x) for x in values if x not in constants]
    heapify(open_)
    while open_ and len(gates) < _NEAR:
        if alone and len(open_) == 1:
            return gates[::-1], open_[0].value
        node = heappop(open_).node
        if node is None or not is_elementwise(node) or any(x.dtype not in (dtype, bool) for x in (*node.inputs, node.output)):
            alone = False
            continue
        gates.append(node)
        for x in node.inputs:
            if x not in seen and x not in constants:
                heappush(open_, _Open(*(maker(x) or (None, None)), x))
            seen.add(x)
    return gates[::-1], None


class _Open(NamedTuple):
    """A value, and the gate that makes it."""

    place: Any
    node: Operation | None
    value: Variable

    def __lt__(self, other: Any) -> bool:
        return self.place is not None and (other.place is None or self.place > other.place)


def _of_constant(value: Any) -> Interval:
    value = np.asarray(value)
    return Interval(np.array([[value.min(initial=np.inf)], [value.max(initial=-np.inf)]], value.dtype))


@cache
def _anything(dtype: np.dtype) -> Interval:
    most = room(dtype)
    return Interval(np.array([[-most], [most]], dtype))


@cache
def _pieces(dtype: np.dtype) -> Interval:
    """Where functions bend, one per binary order of magnitude; elsewhere eight."""
    last = np.finfo(dtype).maxexp - _ROOM
    sizes = 2.0 ** np.array([*range(-16, 16), *range(16, last, 8), last])
    ends = np.array([*-sizes[::-1], 0.0, *sizes], dtype)
    return Interval(np.stack([ends[:-1], ends[1:]]))


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """Whether it may hold, and whether it may not, per piece."""

    yes: Any
    no: Any

    def __and__(self, other: Condition) -> Condition:
        return Condition(self.yes & other.yes, self.no | other.no)

    def __or__(self, other: Condition) -> Condition:
        return Condition(self.yes | other.yes, self.no & other.no)

    def __xor__(self, other: Condition) -> Condition:
        return Condition(self.yes & other.no | self.no & other.yes, self.yes & other.yes | self.no & other.no)

    def __invert__(self) -> Condition:
        return Condition(self.no, self.yes)


_EITHER = Condition(np.True_, np.True_)


@dataclass(frozen=True, slots=True, eq=False)
class Interval:
    """All numbers from one to another, which may be infinite, beside those of other pieces.

    One and the same interval twice is one number: it equals itself, and its square is not negative.

    Attributes
    ----------
    ends : array
        Of the shape (2, pieces).
    """

    ends: Any
    __hash__ = object.__hash__

    @property
    def largest(self) -> Any:
        """The largest absolute value of a number that is finite."""
        return np.abs(self.ends).max(axis=0).clip(max=np.finfo(self.ends.dtype).max)

    @property
    def least(self) -> Any:
        """The least absolute value."""
        return np.where(self.signs, 0.0, np.abs(self.ends).min(axis=0))

    @property
    def signs(self) -> Any:
        """Whether 0 is among them."""
        return (self.ends[0] <= 0.0) & (self.ends[1] >= 0.0)

    def like(self, other: Any) -> Interval:
        """A Python number as an interval, too."""
        return other if isinstance(other, Interval) else Interval(np.full((2, 1), other, self.ends.dtype))

    def __neg__(self) -> Interval:
        return Interval(-self.ends[::-1])

    def __add__(self, other: Any) -> Interval:
        ends = self.ends + self.like(other).ends
        return Interval(np.where(np.isnan(ends), _line(ends.dtype), ends))

    def __sub__(self, other: Any) -> Interval:
        return self + -self.like(other)

    def __rsub__(self, other: Any) -> Interval:
        return -self + other

    def __mul__(self, other: Any) -> Interval:
        if other is self:
            size = abs(self)
            return Interval(size.ends * size.ends)
        return _corners(self.ends[:, None] * self.like(other).ends)

    def __truediv__(self, other: Any) -> Interval:
        other = self.like(other)
        quotient = _corners(self.ends[:, None] / other.ends).ends
        return Interval(np.where(other.signs, _line(quotient.dtype), quotient))

    def __rtruediv__(self, other: Any) -> Interval:
        return self.like(other) / self

    __radd__, __rmul__ = __add__, __mul__

    def __abs__(self) -> Interval:
        return Interval(np.stack([self.least, np.abs(self.ends).max(axis=0)]).astype(self.ends.dtype))

    def __lt__(self, other: Any) -> Condition:
        other = self.like(other)
        return Condition(self.ends[0] < other.ends[1], self.ends[1] >= other.ends[0])

    def __gt__(self, other: Any) -> Condition:
        return self.like(other) < self

    def __ge__(self, other: Any) -> Condition:
        return ~(self < other)

    def __le__(self, other: Any) -> Condition:
        return ~(self > other)

    def __eq__(self, other: object) -> Any:
        if other is self:
            return Condition(np.True_, np.False_)
        mine, others = self.ends, self.like(other).ends
        return Condition((mine[0] <= others[1]) & (mine[1] >= others[0]), (mine != others).any(axis=0) | (mine[0] != mine[1]))

    def __ne__(self, other: object) -> Any:
        return ~(self == other)


@cache
def _line(dtype: np.dtype) -> Any:
    return np.array([[-np.inf], [np.inf]], dtype)


def _corners(ends: Any) -> Interval:
    """From the least to the largest; 0 times what is infinite is 0, as with any finite number, if it is one."""
    ends = np.where(np.isnan(ends), np.zeros_like(ends), ends)
    return Interval(np.stack([ends.min(axis=(0, 1)), ends.max(axis=(0, 1))]))


def _rising(function: Callable[[Any], Any], least: float = -np.inf) -> Any:
    """The bounds of a function that never falls, of numbers that are not less."""
    return lambda _self, x: Interval(function(x.ends.clip(min=least)))


class Bounding(Builder):
    """Intervals in the place of values."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype

    def value(self, x: Any) -> Any:
        """A Python number as an interval, too."""
        return x if isinstance(x, (Interval, Condition)) else Interval(np.full((2, 1), x, self.dtype))

    def between(self, low: float, high: float) -> Interval:
        return Interval(np.array([[low], [high]], self.dtype))

    def select(self, condition: Condition, a: Any, b: Any) -> Any:
        a, b = self.value(a), self.value(b)
        if isinstance(a, Condition):
            return condition & a | ~condition & b
        # A number that is NaN says nothing.
        low, high = (
            np.where(condition.yes & condition.no, both(x, y), np.where(condition.yes, x, y))
            for both, x, y in zip((np.fmin, np.fmax), a.ends, b.ends, strict=True)
        )
        return Interval(np.stack([low, high]))

    def abs(self, x: Interval) -> Interval:
        return abs(x)

    def sin(self, x: Interval) -> Interval:
        return self.between(-1.0, 1.0)

    cos = sin
    floor, exp, expm1, tanh, atan = map(_rising, (np.floor, np.exp, np.expm1, np.tanh, np.arctan))
    sqrt, log, log1p = _rising(np.sqrt, 0.0), _rising(np.log, 0.0), _rising(np.log1p, -1.0)

    def sigmoid(self, x: Interval) -> Interval:
        return Interval(TABLE["sigmoid"].evaluate(x.ends))

    def erf(self, x: Interval) -> Interval:
        return Interval(TABLE["erf"].evaluate(x.ends))

    def erfc(self, x: Interval) -> Interval:
        return Interval(TABLE["erfc"].evaluate(x.ends[::-1]))

    def maximum(self, x: Any, y: Any) -> Interval:
        return Interval(np.maximum(self.value(x).ends, self.value(y).ends))

    def minimum(self, x: Any, y: Any) -> Interval:
        return Interval(np.minimum(self.value(x).ends, self.value(y).ends))

    def pow(self, x: Any, y: Any) -> Interval:
        x = self.value(x)
        size = _corners(abs(x).ends[:, None] ** self.value(y).ends).ends
        return Interval(np.where(x.ends[0] < 0.0, np.stack([-size[1], size[1]]), size))

    def fmod(self, x: Any, y: Any) -> Interval:
        most = abs(self.value(x)).ends[1]
        return Interval(np.stack([-most, most]))

    def nextafter(self, x: Any, y: Any) -> Interval:
        return Interval(_line(self.dtype))

    def convert(self, x: Any, dtype: Any) -> Any:
        if np.dtype(dtype).kind == "b":
            return _EITHER
        return x if isinstance(x, Interval) else self.between(0.0, 1.0)
