"""Gates as loops, continued: what reads or writes at computed positions, orders elements, or runs along an axis.

A position is not checked: one outside of the array is the caller's mistake.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from chainrule.core.variable import Variable
from chainrule.graph.ir import Operation
from chainrule.view.targets.expressions import INDEX, Expr, const, converted, select
from chainrule.view.targets.kernels import copied, numbered, writes
from chainrule.view.targets.loops import Writer, offset, strides


def _position(w: Writer, index: Variable, at: Sequence[Expr], size: int) -> Expr:
    """A position along an axis; negative ones count from its end."""
    place = w.let(converted(w.load(index, at), INDEX), "p")
    return place if index.dtype.kind == "u" else w.let(select(place < 0, place + size, place), "p")


def _indexed(w: Writer, index: Variable, axes: Sequence[int], shape: Sequence[int], at: Sequence[Expr]) -> tuple[Expr, ...]:
    """Where the element ``at`` of what is gathered stands in the array of the given shape."""
    many = len(axes) > 1
    block, first = len(index.shape) - many, axes[0]
    own, rest = at[first : first + block], iter((*at[:first], *at[first + block :]))
    rows = iter(range(len(axes)))
    place: list[Expr] = []
    for axis, size in enumerate(shape):
        if axis in axes:
            row = next(rows)
            place.append(_position(w, index, (const(row), *own) if many else own, size))
        else:
            place.append(next(rest))
    return tuple(place)


@writes("gather")
def _gather(w: Writer, node: Operation) -> None:
    (x, index), out = node.inputs, node.output
    with w.each(out.shape) as at:
        w.store(out, at, w.at(x, offset(_indexed(w, index, node.params["axes"], x.shape, at), strides(x.shape))))


@writes("scatter_add", "scatter_update")
def _scatter(w: Writer, node: Operation) -> None:
    *given, index, values = node.inputs
    out, axes = node.output, node.params["axes"]
    adds = node.primitive.name == "scatter_add"
    if adds:
        w.fill(out, 0)
    else:
        copied(w, out, numbered(out.shape), given[0], numbered(out.shape))
    rest = [size for axis, size in enumerate(out.shape) if axis not in axes]
    block = index.shape[1:] if len(axes) > 1 else index.shape
    with w.each((*rest[: axes[0]], *block, *rest[axes[0] :])) as at:
        place = w.let(offset(_indexed(w, index, axes, out.shape, at), strides(out.shape)), "at")
        value = w.load(values, at)
        w.put(out, place, w.at(out, place) + value if adds else value)


@writes("take_along_axis")
def _take_along_axis(w: Writer, node: Operation) -> None:
    (x, indices), out, axis = node.inputs, node.output, node.params["axis"]
    with w.each(out.shape) as at:
        place = (*at[:axis], _position(w, indices, at, x.shape[axis]), *at[axis + 1 :])
        w.store(out, at, w.at(x, offset(place, strides(x.shape))))


@writes("scatter_along_axis")
def _scatter_along_axis(w: Writer, node: Operation) -> None:
    (indices, values), out, axis = node.inputs, node.output, node.params["axis"]
    w.fill(out, 0)
    with w.each(values.shape) as at:
        place = (*at[:axis], _position(w, indices, at, out.shape[axis]), *at[axis + 1 :])
        here = w.let(offset(place, strides(out.shape)), "at")
        w.put(out, here, w.at(out, here) + w.load(values, at))


@writes("one_hot")
def _one_hot(w: Writer, node: Operation) -> None:
    (indices,), out = node.inputs, node.output
    with w.each(out.shape) as at:
        w.store(out, at, converted(w.load(indices, at[:-1]) == at[-1], out.dtype))


@writes("cumulative_sum", "cumulative_prod")
def _cumulative(w: Writer, node: Operation) -> None:
    (x,), out, axis = node.inputs, node.output, node.params["axis"]
    adds = node.primitive.name == "cumulative_sum"
    with w.each([*x.shape[:axis], *x.shape[axis + 1 :]]) as at:
        total = w.variable(0 if adds else 1, out.dtype)
        with w.loop(x.shape[axis]) as i:
            here = (*at[:axis], i, *at[axis:])
            w.assign(total, total + w.load(x, here) if adds else total * w.load(x, here))
            w.store(out, here, total)


@writes("linear_recurrence")
def _linear_recurrence(w: Writer, node: Operation) -> None:
    (decay, drive), out, axis = node.inputs, node.output, node.params["axis"]
    with w.each([*out.shape[:axis], *out.shape[axis + 1 :]]) as at:
        state = w.variable(0, out.dtype, "state")
        with w.loop(out.shape[axis]) as i:
            here = (*at[:axis], i, *at[axis:])
            w.assign(state, w.load(decay, here) * state + w.load(drive, here))
            w.store(out, here, state)


def _before(w: Writer, a: Expr, b: Expr, *, ascending: bool) -> Expr:
    """Whether one element comes before another: NaN is the largest."""
    one, two = (a, b) if ascending else (b, a)
    return (one < two) | (w.k.isnan(two) & ~w.k.isnan(one))


@writes("sort", "argsort", "top_k")
def _sort(w: Writer, node: Operation) -> None:
    # An element's place is the number of those before it: no memory, and a stable order.
    (x,), axis, name = node.inputs, node.params["axis"], node.primitive.name
    ascending = not node.params["largest"] if name == "top_k" else not node.params["descending"]
    kept = node.params["k"] if name == "top_k" else x.shape[axis]
    last = name == "sort" and not ascending
    with w.each([*x.shape[:axis], *x.shape[axis + 1 :]]) as at, w.loop(x.shape[axis]) as i:
        element, rank = w.let(w.load(x, (*at[:axis], i, *at[axis:]))), w.variable(0, INDEX, "rank")
        with w.loop(x.shape[axis]) as j:
            other = w.let(w.load(x, (*at[:axis], j, *at[axis:])))
            tied = ~_before(w, element, other, ascending=ascending) & (j > i if last else j < i)
            with w.when(_before(w, other, element, ascending=ascending) | tied):
                w.assign(rank, rank + 1)
        with w.when(rank < kept):
            place = (*at[:axis], rank, *at[axis:])
            values = {"sort": (element,), "argsort": (i,), "top_k": (element, i)}[name]
            for out, value in zip(node.outputs, values, strict=True):
                w.store(out, place, value)


@writes("searchsorted")
def _searchsorted(w: Writer, node: Operation) -> None:
    (x, values), out = node.inputs, node.output
    with w.each(out.shape) as at:
        value, count = w.let(w.load(values, at)), w.variable(0, INDEX, "count")
        with w.loop(x.shape[0]) as i:
            element = w.load(x, (i,))
            before = _before(w, element, value, ascending=True)
            with w.when(before if node.params["side"] == "left" else ~_before(w, value, element, ascending=True)):
                w.assign(count, count + 1)
        w.store(out, at, count)


@writes("isin")
def _isin(w: Writer, node: Operation) -> None:
    (x, among), out = node.inputs, node.output
    with w.each(out.shape) as at:
        value, found = w.let(w.load(x, at)), w.variable(False, np.bool_, "found")
        with w.loop(math.prod(among.shape)) as i:
            w.assign(found, found | (w.at(among, i) == value))
        w.store(out, at, ~found if node.params["invert"] else found)
