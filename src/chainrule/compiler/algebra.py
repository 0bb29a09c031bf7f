"""Algebra that changes no bits: how one gate is said in fewer, by the gates that made its inputs.

A rule looks at one gate about to be written and returns the value that stands for its result, or None. What IEEE
arithmetic does not promise (reordering sums, x + 0 for x = -0, 0 * x for an infinite x) is not done here. Two liberties
are taken, and named where they are: factors that are powers of two are merged, so that what overflowed or underflowed
between them no longer does; and a NaN's sign means nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from chainrule.core.aval import Aval, Shape
from chainrule.core.primitive import TABLE, Primitive
from chainrule.core.variable import Variable
from chainrule.graph.ir import Operation

# A gate's inputs, parameters, and the shape and dtype of its only output.
Inputs = tuple[Variable, ...]
Params = Mapping[str, Any]


class Builder(Protocol):
    """The graph being written, as the rules see it."""

    def source(self, x: Variable) -> Operation | None:
        """The operation that makes ``x``, if there is one."""
        ...

    def number(self, x: Variable) -> Any:
        """The one value that all elements of ``x`` have, a NumPy scalar, if that is known; else None."""
        ...

    def alone(self, x: Variable) -> bool:
        """Whether ``x`` has no other use than the one that is looked at."""
        ...

    def constant(self, value: Any) -> Variable:
        """A fixed value."""
        ...

    def apply(self, primitive: Primitive, inputs: Inputs, params: Params) -> Variable:
        """The value of a gate with one output, simplified like any other."""
        ...


Rule = Callable[[Builder, Inputs, Params, Aval], "Variable | None"]

RULES: dict[str, Rule] = {}
"""By the gate's name."""


def _for(*names: str) -> Callable[[Rule], Rule]:
    def enter(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return enter


def gate(b: Builder, name: str, *inputs: Variable, **params: Any) -> Variable:
    """Write a gate of the table."""
    return b.apply(TABLE[name], inputs, params)


def made_by(b: Builder, x: Variable, *names: str) -> Operation | None:
    """The operation that makes ``x``, if its gate has one of these names."""
    source = b.source(x)
    return source if source is not None and source.primitive.name in names else None


def spread(b: Builder, x: Variable, out: Aval) -> Variable | None:
    """``x`` in the shape of a result, if it has its dtype."""
    if x.dtype != out.dtype:
        return None
    return x if x.shape == out.shape else gate(b, "broadcast_to", x, shape=out.shape)


# Signs and factors.


@_for("positive", "stop_gradient", "conj", "real")
def _same(b: Builder, xs: Inputs, params: Params, out: Aval) -> Variable | None:
    # conj and real leave real values as they are.
    return xs[0] if xs[0].dtype == out.dtype and out.dtype.kind != "c" else None


@_for("negative")
def _negative(b: Builder, xs: Inputs, params: Params, out: Aval) -> Variable | None:
    return _negated(b, xs[0], 4) if out.dtype.kind == "f" else None


def _negated(b: Builder, x: Variable, depth: int) -> Variable | None:
    """Minus ``x``, if that takes no further gate: a sign in a product or quotient used nowhere else goes."""
    source = made_by(b, x, "negative", "multiply", "divide")
    if source is None or not depth:
        return None
    if source.primitive.name == "negative":
        return source.inputs[0]
    if not b.alone(x):
        return None
    for place, factor in enumerate(source.inputs):
        number = None if factor.shape else b.number(factor)
        other = b.constant(-number) if number is not None else _negated(b, factor, depth - 1)
        if other is not None:
            return b.apply(source.primitive, (*source.inputs[:place], other, *source.inputs[place + 1 :]), source.params)
    return None


@_for("multiply")
def _multiply(b: Builder, xs: Inputs, params: Params, out: Aval) -> Variable | None:
    for x, other in ((xs[0], xs[1]), (xs[1], xs[0])):
        number = b.number(other)
        if number is None:
            continue
        if number == 1:
            return spread(b, x, out)
        if out.dtype.kind != "f":
            continue
        source = made_by(b, x, "negative", "multiply")
        if number == -1:
            return gate(b, "negative", x) if x.shape == out.shape else None
        if source is None or x.shape != out.shape:
            continue
        if source.primitive.name == "negative":
            return gate(b, "multiply", source.inputs[0], b.constant(-number))
        for inner, factor in (source.inputs, source.inputs[::-1]):
            first = b.number(factor)
            if first is not None and inner.shape == out.shape and (power_of_two(first) or power_of_two(number)) and _is_normal(first * number):
                return gate(b, "multiply", inner, b.constant(first * number))
    return None


@_for("divide")
def _divide(b: Builder, xs: Inputs, params: Params, out: Aval) -> Variable | None:
    number = b.number(xs[1])
    if number is None or out.dtype.kind != "f":
        return None
    if number == 1:
        return spread(b, xs[0], out)
    if xs[0].shape == out.shape and power_of_two(number) and power_of_two(1 / number):
        return gate(b, "multiply", xs[0], b.constant(out.dtype.type(1) / number))
    return None


@_for("masked_multiply")
def _masked_multiply(b: Builder, xs: Inputs, params: Params, out: Aval) -> Variable | None:
    first, second = b.number(xs[0]), b.number(xs[1])
    # An x1 that is nowhere 0 masks nothing; times a finite x2 there is nothing to mask.
    if (first is not None and first != 0 and first == first) or (second is not None and np.isfinite(second)):
        return gate(b, "multiply", *xs)
    return None


def power_of_two(number: Any) -> bool:
    """Whether multiplying by it is exact, as long as nothing overflows or underflows."""
    return bool(np.isfinite(number)) and math.frexp(float(number))[0] in (0.5, -0.5)


def _is_normal(number: Any) -> bool:
    """Whether it neither overflowed nor lost digits to underflow."""
    return bool(np.isfinite(number)) and abs(number) >= np.finfo(number.dtype).smallest_normal


@_for("add")
def _add(b: Builder, xs: Inputs, params: Params, out: Aval) -> Variable | None:
    for x, other in ((xs[0], xs[1]), (xs[1], xs[0])):
        number = b.number(other)
        # Adding +0 turns -0 into +0.
        if number is not None and number == 0 and (out.dtype.kind in "iu" or (out.dtype.kind == "f" and np.signbit(number))):
            return spread(b, x, out)
        source = made_by(b, other, "negative")
        if source is not None and out.dtype.kind == "f":
            return gate(b, "subtract", x, source.inputs[0])
    return None


@_for("subtract")
def _subtract(b: Builder, xs: Inputs, params: Params, out: Aval) -> Variable | None:
    number = b.number(xs[1])
    if number is not None and number == 0 and (out.dtype.kind in "iu" or (out.dtype.kind == "f" and not np.signbit(number))):
        return spread(b, xs[0], out)
    source = made_by(b, xs[1], "negative")
    return gate(b, "add", xs[0], source.inputs[0]) if source is not None and out.dtype.kind == "f" else None


@_for("pow_constant")
def _power(b: Builder, xs: Inputs, params: Params, out: Aval) -> Variable | None:
    return xs[0] if params["exponent"] == 1 and xs[0].dtype == out.dtype else None


# Choices.


@_for("where")
def _where(b: Builder, xs: Inputs, params: Params, out: Aval) -> Variable | None:
    condition, x1, x2 = xs
    chosen = b.number(condition)
    if chosen is not None:
        return spread(b, x1 if chosen else x2, out)
    if x1 is x2:
        return spread(b, x1, out)
    first, second = made_by(b, x1, "where"), made_by(b, x2, "where")
    if first is not None and first.inputs[0] is condition:
        return spread(b, gate(b, "where", condition, first.inputs[1], x2), out)
    if second is not None and second.inputs[0] is condition:
        return spread(b, gate(b, "where", condition, x1, second.inputs[2]), out)
    return None


# Movement.


@_for("reshape")
def _reshape(b: Builder, xs: Inputs, params: Params, out: Aval) -> Variable | None:
    (x,) = xs
    if x.shape == out.shape:
        return x
    source = b.source(x)
    if source is None:
        return None
    name = source.primitive.name
    if name == "reshape":
        return gate(b, "reshape", source.inputs[0], shape=out.shape)
    if name == "broadcast_to" and b.number(x) is not None:
        return gate(b, "broadcast_to", source.inputs[0] if not source.inputs[0].shape else b.constant(b.number(x)), shape=out.shape)
    if name in _REDUCTIONS and source.params["keepdims"] and b.alone(x):
        (whole,) = source.inputs
        axes = source.params["axis"]
        # A sum of everything is added up in another order where the axes go.
        if out.shape == tuple(size for i, size in enumerate(whole.shape) if i not in axes) and (len(axes) < whole.ndim or name in ("max", "min")):
            return b.apply(source.primitive, source.inputs, {**source.params, "keepdims": False})
    return None


@_for("permute_dims")
def _permute(b: Builder, xs: Inputs, params: Params, out: Aval) -> Variable | None:
    (x,), axes = xs, params["axes"]
    if axes == tuple(range(x.ndim)):
        return x
    source = made_by(b, x, "permute_dims")
    if source is None:
        return None
    before = source.params["axes"]
    return gate(b, "permute_dims", source.inputs[0], axes=tuple(before[axis] for axis in axes))


@_for("concat")
def _concat(b: Builder, xs: Inputs, params: Params, out: Aval) -> Variable | None:
    return xs[0] if len(xs) == 1 and xs[0].dtype == out.dtype else None


@_for("roll")
def _roll(b: Builder, xs: Inputs, params: Params, out: Aval) -> Variable | None:
    (x,) = xs
    return x if all(x.shape[axis] in (0, 1) or by % x.shape[axis] == 0 for by, axis in zip(params["shift"], params["axis"], strict=True)) else None


@_for("broadcast_to")
def _broadcast(b: Builder, xs: Inputs, params: Params, out: Aval) -> Variable | None:
    (x,) = xs
    if x.shape == out.shape:
        return x
    inner = unspread(b, x)
    return gate(b, "broadcast_to", inner, shape=out.shape) if inner is not x else None


@_for("astype")
def _astype(b: Builder, xs: Inputs, params: Params, out: Aval) -> Variable | None:
    return xs[0] if xs[0].dtype == out.dtype else None


def unspread(b: Builder, x: Variable) -> Variable:
    """The value that broadcasting repeats to ``x``, axes of size 1 in front left out."""
    while True:
        source = made_by(b, x, "broadcast_to", "reshape")
        if source is None:
            return x
        (inner,) = source.inputs
        if source.primitive.name == "reshape" and not _adds_axes_in_front(inner.shape, x.shape):
            return x
        x = inner


def _adds_axes_in_front(before: Shape, after: Shape) -> bool:
    extra = len(after) - len(before)
    return extra >= 0 and after[extra:] == before and after[:extra] == (1,) * extra


# Reductions.

_REDUCTIONS = frozenset(("sum", "mean", "prod", "max", "min"))


@_for(*_REDUCTIONS)
def _reduction(b: Builder, xs: Inputs, params: Params, out: Aval) -> Variable | None:
    (x,), axes = xs, params["axis"]
    if x.dtype != out.dtype or any(x.shape[axis] != 1 for axis in axes):
        return None
    return gate(b, "reshape", x, shape=out.shape)
