"""Which elements of a gate's output each element of an input can reach: index pairs, per gate and input.

What a gate does is read off its record: elementwise gates line up by broadcasting, gates that only move elements are run
on numbered elements, sums of products are enumerated axis by axis, and of what is unknown every output depends on every input.
Values play no part, but for those that are fixed: positions, masks and coefficients that are constants. No
derivative is computed here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from chainrule.core.aval import Shape
from chainrule.core.errors import ArgumentError
from chainrule.core.interp import ARRAYS, using
from chainrule.core.primitive import call, functions, reads_of
from chainrule.core.variable import Variable
from chainrule.graph.ir import Operation

Index = npt.NDArray[np.intp]

LIMIT = 50_000_000
"""More dependences than this are refused: what has so many is not sparse."""


class Pattern(NamedTuple):
    """Index pairs: output element ``rows[k]`` can depend on input element ``cols[k]``; pairs may repeat."""

    rows: Index
    cols: Index


class Fixed(Protocol):
    """The values that are the same whatever the function is applied to."""

    def value(self, x: Variable) -> Any:
        """The value of ``x``, or None if it is not fixed."""
        ...


Rule = Callable[[Operation, int, Fixed], Pattern | None]
Axis = tuple[Index, ...]
"""What moving along one index adds to the element's number in each operand and, lastly, in the output."""

_NOBODY = np.zeros(0, np.intp)
SAME = Pattern(_NOBODY, _NOBODY)
"""Every output element depends on the input element in the same place."""


def local_pattern(node: Operation, place: int, fixed: Fixed) -> Pattern | None:
    """How the outputs of a node, one after another, depend on its input at ``place``; None: not at all.

    Raises
    ------
    ArgumentError
        If there are more than `LIMIT` pairs.
    """
    gate = node.primitive
    if gate.name in _RULES:
        return _RULES[gate.name](node, place, fixed)
    if gate.scalar is not None:
        return _elementwise(node, place, fixed)
    moved = _moved(node, place, fixed) if gate.transpose is not None or gate.kernel == "move" else None
    return _dense(node, place) if moved is None else moved


def check_count(node: Operation, count: int) -> None:
    """Refuse a number of dependences that no sparse matrix should have."""
    if count > LIMIT:
        total = sum(x.size for x in node.outputs)
        says = f"{node.primitive.name}, at {node.outputs[0]}, makes {total:,} elements depend on inputs in {count:,} ways: that is not sparse"
        raise ArgumentError(says, mend="take products with cr.jvp and cr.vjp, or leave out what makes everything depend on everything")


def _elementwise(node: Operation, place: int, fixed: Fixed) -> Pattern:
    gate, x, out = node.primitive, node.inputs[place], node.outputs[0]
    kept = None if gate.partials is None else _nonzero(node, gate.partials[place], fixed)
    if kept is None and x.shape == out.shape:
        return SAME
    rows = np.arange(out.size) if kept is None else np.flatnonzero(np.broadcast_to(kept, out.shape))
    return Pattern(rows, _repeated(x.shape, out.shape)[rows])


def _nonzero(node: Operation, slope: Any, fixed: Fixed) -> Any:
    """Where a local derivative that is the same for all inputs is not 0; None if it is not the same."""
    inputs = dict(zip(node.primitive.inputs, node.inputs, strict=True))
    names = (slope,) if isinstance(slope, str) else reads_of(slope) if callable(slope) else ()
    if not any(name in inputs for name in names) or "out" in names:
        return None
    given = {name: fixed.value(inputs[name]) if name in inputs else node.params[name] for name in names}
    if any(given[name] is None for name in names if name in inputs):
        return None
    with using(ARRAYS), np.errstate(all="ignore"):
        return np.asarray(given[slope] if isinstance(slope, str) else call(slope, given)) != 0


def _repeated(shape: Shape, target: Shape) -> Index:
    """For every element of a broadcast array the number of the element that it repeats."""
    return np.broadcast_to(np.arange(math.prod(shape)).reshape(shape), target).reshape(-1)


def _moved(node: Operation, place: int, fixed: Fixed) -> Pattern | None:
    """By running a linear gate on numbered elements: exact if each output element comes from one place at most, else None.

    What the gate adds is subtracted, what it multiplies by divided out; that the result is the number of one
    element, and no mean of several, is confirmed on random numbers.
    """
    values = [np.zeros(x.shape) if x.dtype.kind == "f" else fixed.value(x) for x in node.inputs]
    if any(value is None for value in values):
        return None
    x, gate = node.inputs[place], node.primitive

    def apply(numbers: Any) -> Any:
        values[place] = numbers.reshape(x.shape)
        with using(ARRAYS), np.errstate(all="ignore"):
            out = gate.evaluate(*values, **node.params)
        return np.concatenate([np.reshape(part, -1) for part in out]) if gate.outputs else np.reshape(out, -1)

    random = np.random.default_rng(0).uniform(1, 2, x.size)
    added = apply(np.zeros(x.size))
    scale, numbered, drawn = (apply(probe) - added for probe in (np.ones(x.size), np.arange(1.0, x.size + 1), random))
    found = scale != 0
    scale, source = scale[found], np.rint(numbered[found] / scale[found])
    if numbered[~found].any() or drawn[~found].any() or not np.all((source >= 1) & (source <= x.size)):
        return None
    cols = source.astype(np.intp) - 1
    return Pattern(np.flatnonzero(found), cols) if np.allclose(drawn[found], scale * random[cols], rtol=1e-9, atol=0) else None


def _dense(node: Operation, place: int) -> Pattern:
    inside, outside = np.arange(node.inputs[place].size), np.arange(sum(x.size for x in node.outputs))
    return _pairs(node, [(inside, 0 * inside), (0 * outside, outside)])


# Patterns that are put together index by index.


def _pairs(node: Operation, axes: Iterable[Axis], place: int = 0, factors: Sequence[tuple[int, Any]] = ()) -> Pattern:
    """All combinations of positions along the axes, but for those at which one of the fixed ``factors`` is 0."""
    read = (place, -1, *(which for which, _ in factors))
    # Along an axis on which nothing that is read moves, the same pairs would come again.
    axes = [axis if any(axis[which].any() for which in read) else tuple(part[:1] for part in axis) for axis in axes]
    check_count(node, math.prod(len(axis[-1]) for axis in axes))
    rows, cols = _combined(axes, -1), _combined(axes, place)
    if not factors:
        return Pattern(rows, cols)
    kept = np.logical_and.reduce([np.reshape(factor, -1)[_combined(axes, which)] != 0 for which, factor in factors])
    return Pattern(rows[kept], cols[kept])


def _combined(axes: Iterable[Axis], which: int) -> Index:
    numbers = np.zeros(1, np.intp)
    for axis in axes:
        numbers = np.add.outer(numbers, axis[which]).reshape(-1)
    return numbers


def _labelled(terms: Sequence[Sequence[Hashable]], shapes: Sequence[Shape]) -> dict[Hashable, Axis]:
    """One axis per label: operands and output move together along those of their own axes that carry it."""
    sizes: dict[Hashable, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for label, size in zip(term, shape, strict=True):
            sizes[label] = size if sizes.get(label, 1) == 1 else sizes[label]
    return {
        label: tuple(
            sum((_steps(shape, axis, size) for axis, name in enumerate(term) if name == label), np.zeros(size, np.intp))
            for term, shape in zip(terms, shapes, strict=True)
        )
        for label, size in sizes.items()
    }


def _steps(shape: Shape, axis: int, size: int) -> Index:
    """What the positions along an axis add to an element's number; an axis of size 1 repeats."""
    return np.arange(size) * (math.prod(shape[axis + 1 :]) if shape[axis] != 1 else 0)


def _shapes(node: Operation) -> list[Shape]:
    return [x.shape for x in (*node.inputs, node.outputs[0])]


def _factors(node: Operation, place: int, fixed: Fixed) -> list[tuple[int, Any]]:
    others = [(which, fixed.value(x)) for which, x in enumerate(node.inputs) if which != place]
    return [(which, value) for which, value in others if value is not None]


def _product(terms: Callable[[Operation], Sequence[Sequence[Hashable]]]) -> Rule:
    """The rule of a sum of products with these labels of the operands and the output."""

    def rule(node: Operation, place: int, fixed: Fixed) -> Pattern:
        return _pairs(node, _labelled(terms(node), _shapes(node)).values(), place, _factors(node, place, fixed))

    return rule


def _matmul_terms(node: Operation) -> list[tuple[Hashable, ...]]:
    (first, second), out = node.inputs, node.outputs[0]
    batch = tuple(range(out.ndim - (first.ndim > 1) - (second.ndim > 1)))
    left = (*batch[len(batch) - first.ndim + 2 :], "row", "inner") if first.ndim > 1 else ("inner",)
    right = (*batch[len(batch) - second.ndim + 2 :], "inner", "column") if second.ndim > 1 else ("inner",)
    return [left, right, (*batch, *left[-2:-1], *right[-1:] * (second.ndim > 1))]


def _solve(node: Operation, place: int, fixed: Fixed) -> Pattern:
    """The right-hand side goes through the inverse, which is full."""
    return _pairs(node, _labelled(_matmul_terms(node), _shapes(node)).values(), place) if place else _dense(node, place)


def _vecdot_terms(node: Operation) -> list[Sequence[Hashable]]:
    rank, axis = max(x.ndim for x in node.inputs), node.params["axis"]
    return [*(range(-x.ndim, 0) for x in node.inputs), [label for label in range(-rank, 0) if label != axis]]


def _einsum_terms(node: Operation) -> list[str]:
    left, _, out = node.params["subscripts"].partition("->")
    return [*left.split(","), out]


def _sum_terms(node: Operation) -> list[Sequence[Hashable]]:
    axes = range(node.inputs[0].ndim)
    return [axes, axes if node.params["keepdims"] else [axis for axis in axes if axis not in node.params["axis"]]]


def _cross(node: Operation, place: int, fixed: Fixed) -> Pattern:
    shapes, axis = _shapes(node), node.params["axis"]
    axes = _labelled([["part" if label == axis else label for label in range(-len(shape), 0)] for shape in shapes], shapes)
    # A part of the product depends on the other two parts of each factor.
    other, part = np.nonzero(~np.eye(3, dtype=bool))
    first, second, out = axes.pop("part")
    return _pairs(node, [*axes.values(), (first[other], second[other], out[part])], place)


def _scan(node: Operation, place: int, fixed: Fixed) -> Pattern:
    x, axis = node.outputs[0], node.params["axis"]
    size = x.shape[axis]
    check_count(node, x.size * (size + 1) // 2)
    late, early = np.tril_indices(size)
    steps = _steps(x.shape, axis, size)
    rest = [(_steps(x.shape, other, n),) * 2 for other, n in enumerate(x.shape) if other != axis]
    return _pairs(node, [*rest, (steps[early], steps[late])])


# Windows that slide over images (see `ops.windows`): images x, weights w and outputs y, of which a gate takes two to the third.


def _windows(node: Operation, image: Shape, kernel: Shape, out: Shape) -> list[Axis]:
    """Per spatial axis, and for the batch: the steps in images, weights and outputs that belong together."""
    params = node.params
    axes: list[Axis] = [(_steps(image, 0, image[0]), np.zeros(image[0], np.intp), _steps(out, 0, image[0]))]
    for a, (stride, low, taps) in enumerate(zip(params["stride"], params["low"], kernel), 1):
        dilation = params["dilation"][a - 1] if "dilation" in params else 1
        o, k = (grid.reshape(-1) for grid in np.indices((out[a], taps)))
        p = o * stride + k * dilation - low
        inside = (p >= 0) & (p < image[a])
        steps = [math.prod(image[a + 1 :]), math.prod(kernel[a:]), math.prod(out[a + 1 :])]
        axes.append(tuple(step * position[inside] for step, position in zip(steps, (p, k, o), strict=True)))
    return axes


def _convolution(roles: str) -> Rule:
    """``roles`` says which of x, w and y the two inputs and the output are."""

    def rule(node: Operation, place: int, fixed: Fixed) -> Pattern:
        image, weights, out = (_shapes(node)[roles.index(role)] for role in "xwy")
        groups, (channels, features) = node.params["groups"], weights[-2:]
        share, zeros = features // groups, np.zeros
        group, channel, feature = np.arange(groups), np.arange(channels), np.arange(share)
        # Steps in the weights are counted in kernels' taps by `_windows`, which are blocks of channels times features here.
        axes = [(x, w * (channels * features), y) for x, w, y in _windows(node, image, weights[:-2], out)]
        axes.append((group * channels, group * share, group * share))
        axes.append((channel, channel * features, zeros(channels, np.intp)))
        axes.append((zeros(share, np.intp), feature, feature))
        order = ["xwy".index(role) for role in roles]
        return _pairs(node, [tuple(axis[which] for which in order) for axis in axes], place, _factors(node, place, fixed))

    return rule


def _pooling(*, spread: bool) -> Rule:
    def rule(node: Operation, place: int, fixed: Fixed) -> Pattern:
        image, out = node.inputs[0].shape, node.outputs[0].shape
        image, out = (out, image) if spread else (image, out)
        channels = np.arange(image[-1])
        axes = [(x, y) for x, _, y in _windows(node, image, node.params["window"], out)]
        return _pairs(node, [axis[::-1] if spread else axis for axis in (*axes, (channels, channels))])

    return rule


# Gathers and scatters: exact where the positions are fixed, else any position along the axes that they mean.


def _gathered_terms(whole: Shape, index: Shape, axes: tuple[int, ...]) -> tuple[Sequence[Hashable], Sequence[Hashable]]:
    block = [f"block {i}" for i in range(len(index) - (len(axes) > 1))]
    rest: list[Hashable] = [axis for axis in range(len(whole)) if axis not in axes]
    return range(len(whole)), [*rest[: axes[0]], *block, *rest[axes[0] :]]


def _gather(node: Operation, place: int, fixed: Fixed) -> Pattern | None:
    x, index = node.inputs
    if fixed.value(index) is not None:
        return _moved(node, place, fixed)
    return _pairs(node, _labelled(_gathered_terms(x.shape, index.shape, node.params["axes"]), (x.shape, node.outputs[0].shape)).values())


def _scatter_add(node: Operation, place: int, fixed: Fixed) -> Pattern:
    index, values = node.inputs
    return _scattered(node, index, values, fixed)


def _scattered(node: Operation, index: Variable, values: Variable, fixed: Fixed) -> Pattern:
    out, axes, positions = node.outputs[0].shape, node.params["axes"], fixed.value(index)
    if positions is None:
        whole, part = _gathered_terms(out, index.shape, axes)
        return _pairs(node, _labelled((part[len(part) - values.ndim :], whole), (values.shape, out)).values())
    with using(ARRAYS):
        rows = functions.gather(np.arange(math.prod(out)).reshape(out), positions, axes=axes)
    return Pattern(np.reshape(rows, -1), _repeated(values.shape, np.shape(rows)))


def _scatter_update(node: Operation, place: int, fixed: Fixed) -> Pattern | None:
    _, index, values = node.inputs
    if fixed.value(index) is not None:
        return _moved(node, place, fixed)
    return SAME if place == 0 else _scattered(node, index, values, fixed)


def _take_along(node: Operation, place: int, fixed: Fixed) -> Pattern | None:
    if fixed.value(node.inputs[1]) is not None:
        return _moved(node, place, fixed)
    x, out = node.inputs[0].shape, node.outputs[0].shape
    return _pairs(node, _labelled(_along_terms(len(x), node.params["axis"]), (x, out)).values())


def _scatter_along(node: Operation, place: int, fixed: Fixed) -> Pattern:
    (index, values), out, axis = node.inputs, node.outputs[0].shape, node.params["axis"]
    positions = fixed.value(index)
    if positions is None:
        return _pairs(node, _labelled(_along_terms(len(out), axis), (values.shape, out)).values())
    with using(ARRAYS):
        rows = functions.take_along_axis(np.arange(math.prod(out)).reshape(out), positions, axis=axis)
    return Pattern(np.reshape(rows, -1), np.arange(values.size))


def _along_terms(rank: int, axis: int) -> tuple[Sequence[Hashable], Sequence[Hashable]]:
    return range(rank), ["along" if label == axis else label for label in range(rank)]


def _where(node: Operation, place: int, fixed: Fixed) -> Pattern | None:
    if place and fixed.value(node.inputs[0]) is not None:
        return _moved(node, place, fixed)
    return _elementwise(node, place, fixed)


_RULES: dict[str, Rule] = {
    "where": _where,
    "matmul": _product(_matmul_terms),
    "solve": _solve,
    "vecdot": _product(_vecdot_terms),
    "einsum": _product(_einsum_terms),
    "cross": _cross,
    "sum": _product(_sum_terms),
    "mean": _product(_sum_terms),
    "cumulative_sum": _scan,
    "linear_recurrence": _scan,
    "conv": _convolution("xwy"),
    "conv_transpose": _convolution("ywx"),
    "conv_weight": _convolution("xyw"),
    "avg_pool": _pooling(spread=False),
    "avg_pool_spread": _pooling(spread=True),
    "max_pool_gather": _pooling(spread=False),
    "max_pool_spread": _pooling(spread=True),
    "gather": _gather,
    "take_along_axis": _take_along,
    "scatter_add": _scatter_add,
    "scatter_along_axis": _scatter_along,
    "scatter_update": _scatter_update,
}
"""Gates of which every output comes from several inputs, and those that read positions."""
