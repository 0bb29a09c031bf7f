"""Gates as loops: one function per family of kernels writes what a node computes, element by element.

Elementwise gates are read from their scalar lowering, and movement from where the gate's own evaluation takes every element. The
others stand here under their names. No language is known here, and memory is the printers' affair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from chainrule.core.variable import Variable
from chainrule.graph.ir import Operation
from chainrule.view.targets.expressions import INDEX, Expr, const, converted, select
from chainrule.view.targets.loops import Writer, merged, offset, strides

Kernel = Callable[[Writer, Operation], None]

KERNELS: dict[str, Kernel] = {}
"""By gate, what writes it; elementwise gates and plain movement need no entry."""


def kernel_of(node: Operation) -> Kernel | None:
    """What writes a node; None if nothing does."""
    gate = node.primitive
    if gate.name in KERNELS:
        return KERNELS[gate.name]
    if gate.scalar is not None and not gate.outputs:
        return elementwise
    return taken if gate.kernel == "move" and len(node.inputs) == 1 else None


def writes(*gates: str) -> Callable[[Kernel], Kernel]:
    """Enter a function as what writes these gates."""

    def enter(kernel: Kernel) -> Kernel:
        KERNELS.update(dict.fromkeys(gates, kernel))
        return kernel

    return enter


def broadcast_strides(x: Variable, rank: int) -> tuple[int, ...]:
    """Steps through ``x`` for each of ``rank`` axes, 0 along which it is repeated."""
    own = [0 if size == 1 else step for size, step in zip(x.shape, strides(x.shape), strict=True)]
    return (*(0,) * (rank - len(own)), *own)


def elementwise(w: Writer, node: Operation) -> None:
    out = node.output
    if node.primitive.name in ("positive", "stop_gradient") and w.shared(out, node.inputs[0]):
        return
    rank = len(out.shape)
    sizes, steps = merged(out.shape, [*(broadcast_strides(x, rank) for x in node.inputs), strides(out.shape)])
    rule = node.primitive.scalar
    assert rule is not None
    with w.each(sizes) as at:
        values = [w.at(x, offset(at, own)) for x, own in zip(node.inputs, steps, strict=False)]
        w.put(out, offset(at, steps[-1]), rule(w.k, *values, **node.params))


# Movement.


def affine(positions: Any) -> tuple[int, list[int]] | None:
    """First position and step along each axis, if there are such."""
    if not positions.size:
        return 0, [0] * positions.ndim
    first = int(positions.flat[0])
    steps = [
        int(positions[tuple(int(i == axis) for i in range(positions.ndim))]) - first if size > 1 else 0 for axis, size in enumerate(positions.shape)
    ]
    expected = first + sum(
        (np.arange(size) * step).reshape(-1, *(1,) * (positions.ndim - axis - 1))
        for axis, (size, step) in enumerate(zip(positions.shape, steps, strict=True))
    )
    return (first, steps) if np.array_equal(positions, np.broadcast_to(expected, positions.shape)) else None


def numbered(shape: Sequence[int]) -> Any:
    """The position of every element of an array."""
    return np.arange(math.prod(shape)).reshape(shape)


def copied(w: Writer, out: Variable, into: Any, x: Variable, source: Any) -> None:
    """Let the elements of ``out`` at some positions be those of ``x`` at others."""
    targets, sources = affine(into), affine(source)
    assert targets is not None
    if sources is None:
        table = w.table(source.reshape(-1).astype(INDEX))
        sizes, steps = merged(into.shape, [targets[1], strides(into.shape)])
        with w.each(sizes) as at:
            w.put(out, offset(at, steps[0], targets[0]), w.at(x, Expr("load", (table, offset(at, steps[1])), INDEX)))
        return
    sizes, steps = merged(into.shape, [targets[1], sources[1]])
    with w.each(sizes) as at:
        w.put(out, offset(at, steps[0], targets[0]), w.at(x, offset(at, steps[1], sources[0])))


@writes("diagonal")
def taken(w: Writer, node: Operation) -> None:
    """What only moves elements: where each comes from is what the gate makes of their numbers."""
    (x,) = node.inputs
    result = node.primitive.evaluate(numbered(x.shape), **node.params)
    for out, source in zip(node.outputs, result if node.primitive.outputs else (result,), strict=True):
        source = np.asarray(source)
        if out.size == x.size and np.array_equal(source.reshape(-1), np.arange(x.size)) and w.shared(out, x):
            continue
        copied(w, out, numbered(out.shape), x, source)


@writes("barrier")
def _barrier(w: Writer, node: Operation) -> None:
    for x, out in zip(node.inputs, node.outputs, strict=True):
        if not w.shared(out, x):
            copied(w, out, numbered(out.shape), x, numbered(x.shape))


@writes("concat", "stack")
def _joined(w: Writer, node: Operation) -> None:
    out, axis, start = node.output, node.params["axis"], 0
    for x in node.inputs:
        places = np.moveaxis(numbered(out.shape), axis, 0)
        if node.primitive.name == "stack":
            into, start = places[start], start + 1
        else:
            into, start = np.moveaxis(places[start : start + x.shape[axis]], 0, axis), start + x.shape[axis]
        copied(w, out, into, x, numbered(x.shape))


def _spread(w: Writer, out: Variable, into: Any, x: Variable) -> None:
    copied(w, out, into, x, np.broadcast_to(numbered(x.shape), into.shape))


@writes("pad")
def _pad(w: Writer, node: Operation) -> None:
    (x,), out = node.inputs, node.output
    if out.size > x.size:
        w.fill(out, node.params["value"])
    inside = tuple(slice(before, before + size) for size, (before, _) in zip(x.shape, node.params["widths"], strict=True))
    _spread(w, out, numbered(out.shape)[inside], x)


@writes("place", "index_update")
def _written(w: Writer, node: Operation) -> None:
    out, value = node.output, node.inputs[-1]
    if not out.shape:
        w.put(out, const(0), w.load(value))
        return
    if len(node.inputs) == 2:
        copied(w, out, numbered(out.shape), node.inputs[0], numbered(out.shape))
    else:
        w.fill(out, 0)
    _spread(w, out, np.asarray(numbered(out.shape)[node.params["index"].native]), value)


@writes("diag_embed")
def _diag_embed(w: Writer, node: Operation) -> None:
    out = node.output
    w.fill(out, 0)
    _spread(w, out, numbered(out.shape).diagonal(node.params["offset"], -2, -1), node.inputs[0])


@writes("tril", "triu")
def _triangle(w: Writer, node: Operation) -> None:
    out, k = node.output, node.params["k"]
    with w.each(out.shape) as at:
        behind = at[-1] - at[-2]
        w.store(out, at, select(behind <= k if node.primitive.name == "tril" else behind >= k, w.load(node.inputs[0], at), 0))


# Reductions.


class _Groups:
    """The loops of a reduction: over what is kept, and inside of that over what is combined."""

    def __init__(self, w: Writer, x: Variable, axes: Sequence[int]) -> None:
        kept = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
        spread = [0 if axis in axes else step for axis, step in enumerate(strides(kept))]
        sizes, (steps, outer) = merged(x.shape, [strides(x.shape), spread])
        alone = [axis for axis in range(len(sizes)) if outer[axis]]
        inside = [axis for axis in range(len(sizes)) if not outer[axis]]
        self.w, self.x = w, x
        self.sizes, self.steps, self.outer = [sizes[i] for i in alone], [steps[i] for i in alone], [outer[i] for i in alone]
        self.inner, self.inner_steps = [sizes[i] for i in inside], [steps[i] for i in inside]
        self.count = math.prod(x.shape[axis] for axis in axes)
        self.empty = 0 in [x.shape[axis] for axis in axes]
        self.at: Expr = const(0)
        self.out: Expr = const(0)

    @contextmanager
    def groups(self) -> Generator[_Groups]:
        """For every group."""
        with self.w.each(self.sizes) as at:
            self.at, self.out = offset(at, self.steps), offset(at, self.outer)
            yield self

    @contextmanager
    def elements(self) -> Generator[Expr]:
        """For every element of the group: its position."""
        with self.w.each([0] if self.empty else self.inner) as at:
            yield self.at + offset(at, self.inner_steps)

    def fold(self, start: Any, combine: Callable[[Expr, Expr], Any], *, dtype: Any = None, wanted: str = "total") -> Expr:
        """All elements combined one after the other."""
        total = self.w.variable(start, self.x.dtype if dtype is None else dtype, wanted)
        with self.elements() as place:
            self.w.assign(total, combine(total, self.w.at(self.x, place)))
        return total

    def top(self) -> Expr:
        """The largest element."""
        return self.fold(_least(self.x.dtype), self.w.k.maximum, wanted="top")


def _least(dtype: Any) -> Any:
    return -math.inf if dtype.kind == "f" else False if dtype.kind == "b" else int(np.iinfo(dtype).min)


def _greatest(dtype: Any) -> Any:
    return math.inf if dtype.kind == "f" else True if dtype.kind == "b" else int(np.iinfo(dtype).max)


def _finite(w: Writer, top: Expr) -> Expr:
    return w.let(select(w.k.isfinite(top), top, 0.0), "shift")


def _logsumexp(w: Writer, group: _Groups) -> Expr:
    shift = _finite(w, group.top())
    return w.k.log(group.fold(0, lambda t, e: t + w.k.exp(e - shift))) + shift


def _variance(w: Writer, group: _Groups, correction: float) -> Expr:
    mean = w.let(group.fold(0, lambda t, e: t + e) / float(group.count or math.nan), "mean")
    freedom = group.count - correction
    return group.fold(0, lambda t, e: t + (e - mean) * (e - mean)) / (freedom if freedom > 0 else math.nan)


def _norm(w: Writer, group: _Groups, ord: float) -> Expr:
    k = w.k
    if math.isinf(ord):
        return group.fold(0, lambda t, e: k.maximum(t, k.abs(e))) if ord > 0 else group.fold(math.inf, lambda t, e: k.minimum(t, k.abs(e)))
    if ord == 0:
        return group.fold(0, lambda t, e: t + select(e != 0, 1.0, 0.0))
    if ord == 1:
        return group.fold(0, lambda t, e: t + k.abs(e))
    if ord == 2:
        return k.sqrt(group.fold(0, lambda t, e: t + e * e))
    return k.pow(group.fold(0, lambda t, e: t + k.pow(k.abs(e), ord)), 1 / ord)


REDUCTIONS: dict[str, Callable[..., Expr]] = {
    "sum": lambda w, g, out: g.fold(0, lambda t, e: t + e, dtype=out),
    "prod": lambda w, g, out: g.fold(1, lambda t, e: t * e, dtype=out, wanted="product"),
    "mean": lambda w, g, out: g.fold(0, lambda t, e: t + e) / float(g.count or math.nan),
    "max": lambda w, g, out: g.top(),
    "min": lambda w, g, out: g.fold(_greatest(g.x.dtype), w.k.minimum, wanted="least"),
    "any": lambda w, g, out: g.fold(False, lambda t, e: t | (e != 0), dtype=out, wanted="found"),
    "all": lambda w, g, out: g.fold(True, lambda t, e: t & (e != 0), dtype=out, wanted="found"),
    "count_nonzero": lambda w, g, out: g.fold(0, lambda t, e: t + converted(e != 0, out), dtype=out, wanted="count"),
    "logsumexp": lambda w, g, out: _logsumexp(w, g),
    "vector_norm": lambda w, g, out, ord: _norm(w, g, ord),
    "var": lambda w, g, out, correction: _variance(w, g, correction),
    "std": lambda w, g, out, correction: w.k.sqrt(_variance(w, g, correction)),
}
"""What a reduction makes of one group of elements."""


@writes(*REDUCTIONS)
def _reduce(w: Writer, node: Operation) -> None:
    out = node.output
    options = {key: value for key, value in node.params.items() if key not in ("axis", "keepdims")}
    with _Groups(w, node.inputs[0], node.params["axis"]).groups() as group:
        w.put(out, group.out, REDUCTIONS[node.primitive.name](w, group, out.dtype, **options))


@writes("argmax", "argmin")
def _argument(w: Writer, node: Operation) -> None:
    (x,), axis, out = node.inputs, node.params["axis"], node.output
    more = node.primitive.name == "argmax"
    step = strides(x.shape)[axis]
    with _Groups(w, x, (axis,)).groups() as group:
        best, where = w.variable(w.at(x, group.at), x.dtype, "best"), w.variable(0, INDEX, "where")
        with w.loop(x.shape[axis], 1) as i:
            element = w.let(w.at(x, group.at + i * step))
            with w.when((element > best if more else element < best) | (w.k.isnan(element) & ~w.k.isnan(best))):
                w.assign(best, element)
                w.assign(where, i)
        w.put(out, group.out, where)


@writes("softmax", "log_softmax")
def _softmax(w: Writer, node: Operation) -> None:
    (x,), out = node.inputs, node.output
    with _Groups(w, x, node.params["axis"]).groups() as group:
        top = group.top()
        if node.primitive.name == "log_softmax":
            log_total = w.let(w.k.log(group.fold(0, lambda t, e: t + w.k.exp(e - top))), "log_total")
            with group.elements() as place:
                w.put(out, place, w.at(x, place) - top - log_total)
            return
        total = w.variable(0, x.dtype)
        with group.elements() as place:
            part = w.let(w.k.exp(w.at(x, place) - top), "e")
            w.put(out, place, part)
            w.assign(total, total + part)
        with group.elements() as place:
            w.put(out, place, w.at(out, place) / total)


@writes("standardize")
def _standardize(w: Writer, node: Operation) -> None:
    (x,), (out, mean, var) = node.inputs, node.outputs
    with _Groups(w, x, node.params["axis"]).groups() as group:
        weight = 1.0 / group.count
        middle = w.let(group.fold(0, lambda t, e: t + e) * weight, "middle")
        spread = w.let(group.fold(0, lambda t, e: t + (e - middle) * (e - middle)) * weight, "spread")
        w.put(mean, group.out, middle)
        w.put(var, group.out, spread)
        scale = w.let(1.0 / w.k.sqrt(spread + node.params["epsilon"]), "scale")
        with group.elements() as place:
            w.put(out, place, (w.at(x, place) - middle) * scale)


# Cross-entropy.


@contextmanager
def _rows(w: Writer, logits: Variable) -> Generator[tuple[Expr, _Groups]]:
    with _Groups(w, logits, (len(logits.shape) - 1,)).groups() as group:
        yield group.out, group


@writes("softmax_cross_entropy")
def _cross_entropy(w: Writer, node: Operation) -> None:
    (logits, labels), out, smoothing = node.inputs, node.output, node.params["smoothing"]
    with _rows(w, logits) as (row, group):
        top = group.top()
        total = group.fold(0, lambda t, e: t + w.k.exp(e - top))
        label = converted(w.at(labels, row), INDEX)
        expected = w.at(logits, group.at + label) - top
        if smoothing:
            mean = group.fold(0, lambda t, e: t + (e - top), wanted="sum") / float(group.count)
            expected = (1.0 - smoothing) * expected + smoothing * mean
        w.put(out, row, w.k.log(total) - expected)


@writes("softmax_minus_labels")
def _minus_labels(w: Writer, node: Operation) -> None:
    (logits, labels), out, smoothing = node.inputs, node.output, node.params["smoothing"]
    with _rows(w, logits) as (row, group):
        top = group.top()
        total = group.fold(0, lambda t, e: t + w.k.exp(e - top))
        with w.loop(group.count) as c:
            place = group.at + c
            share = w.k.exp(w.at(logits, place) - top) / total
            w.put(out, place, share - smoothing / group.count if smoothing else share)
        chosen = group.at + converted(w.at(labels, row), INDEX)
        w.put(out, chosen, w.at(out, chosen) - (1.0 - smoothing))


@writes("soft_cross_entropy")
def _soft_cross_entropy(w: Writer, node: Operation) -> None:
    (logits, probabilities), out = node.inputs, node.output
    with _rows(w, logits) as (row, group):
        top = group.top()
        log_total = w.let(w.k.log(group.fold(0, lambda t, e: t + w.k.exp(e - top))), "log_total")
        loss = w.variable(0, logits.dtype, "sum")
        with group.elements() as place:
            weight = w.at(probabilities, place)
            w.assign(loss, loss - select(weight == 0, 0.0, weight * (w.at(logits, place) - top - log_total)))
        w.put(out, row, loss)


# Products.


@writes("matmul")
def _matmul(w: Writer, node: Operation) -> None:
    (a, b), out = node.inputs, node.output
    rows, columns = len(a.shape) > 1, len(b.shape) > 1
    with w.each(out.shape) as at:
        stack = at[: len(at) - rows - columns]
        row, column = at[len(stack) : len(stack) + rows], at[len(at) - columns :] if columns else ()
        total = w.variable(0, out.dtype)
        with w.loop(a.shape[-1]) as k:
            left = w.load(a, (*stack[len(stack) - max(len(a.shape) - 2, 0) :], *row, k))
            right = w.load(b, (*stack[len(stack) - max(len(b.shape) - 2, 0) :], k, *column))
            w.assign(total, total + left * right)
        w.store(out, at, total)


@writes("einsum")
def _einsum(w: Writer, node: Operation) -> None:
    terms, result = node.params["subscripts"].split("->")
    labels = terms.split(",")
    sizes = {label: size for term, x in zip(labels, node.inputs, strict=True) for label, size in zip(term, x.shape, strict=True)}
    with w.each([sizes[label] for label in result]) as at:
        where = dict(zip(result, at, strict=True))
        summed = [label for label in sizes if label not in where]
        total = w.variable(0, node.output.dtype)
        with w.each([sizes[label] for label in summed]) as inner:
            where.update(zip(summed, inner, strict=True))
            factors = [w.load(x, [where[label] for label in term]) for term, x in zip(labels, node.inputs, strict=True)]
            w.assign(total, total + math.prod(factors[1:], start=factors[0]))
        w.store(node.output, at, total)


@writes("vecdot")
def _vecdot(w: Writer, node: Operation) -> None:
    (a, b), out = node.inputs, node.output
    axis = node.params["axis"]
    with w.each(out.shape) as at:
        total = w.variable(0, out.dtype)
        before = len(at) + 1 + axis if axis < 0 else axis
        with w.loop(np.broadcast_shapes(a.shape, b.shape)[before]) as i:
            place = (*at[:before], i, *at[before:])
            w.assign(total, total + w.load(a, place) * w.load(b, place))
        w.store(out, at, total)


@writes("cross")
def _cross(w: Writer, node: Operation) -> None:
    (a, b), out = node.inputs, node.output
    axis = len(out.shape) + node.params["axis"]
    with w.each([*out.shape[:axis], *out.shape[axis + 1 :]]) as at:
        for i in range(3):
            here, one, two = ((*at[:axis], const((i + j) % 3), *at[axis:]) for j in range(3))
            w.store(out, here, w.load(a, one) * w.load(b, two) - w.load(a, two) * w.load(b, one))
