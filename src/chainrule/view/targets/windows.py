"""Gates as loops, continued: windows that slide over images, channels last (see `ops.windows`)."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from chainrule.core.variable import Variable
from chainrule.graph.ir import Operation
from chainrule.view.targets.expressions import Expr, const
from chainrule.view.targets.kernels import writes
from chainrule.view.targets.loops import Writer


class _Windows:
    """Where windows lie: tap ``k`` of output ``o`` reads input ``o*stride + k*dilation - low``."""

    def __init__(self, w: Writer, spatial: Sequence[int], size: Sequence[int], taps: Sequence[int], params: Any) -> None:
        self.w, self.spatial, self.size, self.taps = w, spatial, size, taps
        self.stride, self.low = params["stride"], params["low"]
        self.dilation = params.get("dilation", (1,) * len(taps))

    @contextmanager
    def inside(self, o: Sequence[Expr], k: Sequence[Expr]) -> Generator[tuple[Expr, ...]]:
        """What is read, if it lies inside of the image."""
        place: list[Expr] = []
        conditions: Any = const(True, np.bool_)
        for axis, (at, tap) in enumerate(zip(o, k, strict=True)):
            stride, dilation, low, wide = self.stride[axis], self.dilation[axis], self.low[axis], self.spatial[axis]
            reads = at * stride + tap * dilation - low
            if low > 0:
                conditions = conditions & (reads >= 0)
            if (self.size[axis] - 1) * stride + (self.taps[axis] - 1) * dilation - low >= wide:
                conditions = conditions & (reads < wide)
            place.append(reads)
        with self.w.when(conditions):
            yield tuple(place)


class _Conv:
    """The sum of products ``x[n, o*stride + k*dilation - low, c] * kernel[k, c, f] * y[n, o, f]``, of which a gate takes two factors to the third."""

    def __init__(self, w: Writer, node: Operation, x: Variable, kernel: Variable, y: Variable) -> None:
        self.w, self.x, self.kernel, self.y, self.factors = w, x, kernel, y, node.inputs
        self.taps, self.outputs, groups = kernel.shape[:-2], y.shape[1:-1], node.params["groups"]
        self.channels, self.features, self.groups = kernel.shape[-2], kernel.shape[-1] // groups, groups
        self.rank = len(self.taps)
        self.windows = _Windows(w, x.shape[1:-1], self.outputs, self.taps, node.params)

    @contextmanager
    def term(self, n: Expr, o: Sequence[Expr], k: Sequence[Expr], g: Expr, c: Expr, f: Expr) -> Generator[tuple[dict[Variable, Any], Expr]]:
        """Where the three stand, and the product of the two factors."""
        with self.windows.inside(o, k) as place:
            channel, feature = g * self.channels + c, g * self.features + f
            at: dict[Variable, Any] = {self.x: (n, *place, channel), self.kernel: (*k, c, feature), self.y: (n, *o, feature)}
            first, second = self.factors
            yield at, self.w.load(first, at[first]) * self.w.load(second, at[second])


@writes("conv")
def _conv(w: Writer, node: Operation) -> None:
    (x, kernel), y = node.inputs, node.output
    conv = _Conv(w, node, x, kernel, y)
    with w.each((x.shape[0], *conv.outputs, conv.groups, conv.features)) as (n, *o, g, f):
        total = w.variable(0, y.dtype)
        with w.each((*conv.taps, conv.channels)) as (*k, c), conv.term(n, o, k, g, c, f) as (_, product):
            w.assign(total, total + product)
        w.store(y, (n, *o, g * conv.features + f), total)


@writes("conv_transpose")
def _conv_transpose(w: Writer, node: Operation) -> None:
    (y, kernel), x = node.inputs, node.output
    conv = _Conv(w, node, x, kernel, y)
    w.fill(x, 0)
    with (
        w.each((x.shape[0], *conv.outputs, conv.groups, conv.features)) as (n, *o, g, f),
        w.each((*conv.taps, conv.channels)) as (*k, c),
        conv.term(n, o, k, g, c, f) as (at, product),
    ):
        w.store(x, at[x], w.load(x, at[x]) + product)


@writes("conv_weight")
def _conv_weight(w: Writer, node: Operation) -> None:
    (x, y), kernel = node.inputs, node.output
    conv = _Conv(w, node, x, kernel, y)
    with w.each((*conv.taps, conv.channels, conv.groups, conv.features)) as (*k, c, g, f):
        total = w.variable(0, kernel.dtype)
        with w.each((x.shape[0], *conv.outputs)) as (n, *o), conv.term(n, o, k, g, c, f) as (_, product):
            w.assign(total, total + product)
        w.store(kernel, (*k, c, g * conv.features + f), total)


@writes("max_pool")
def _max_pool(w: Writer, node: Operation) -> None:
    (x,), out, taps = node.inputs, node.output, node.params["window"]
    windows = _Windows(w, x.shape[1:-1], out.shape[1:-1], taps, node.params)
    with w.each(out.shape) as at:
        top = w.variable(-math.inf, x.dtype, "top")
        with w.each(taps) as k, windows.inside(at[1:-1], k) as place:
            w.assign(top, w.k.maximum(top, w.load(x, (at[0], *place, at[-1]))))
        w.store(out, at, top)


@writes("max_pool_spread", "max_pool_gather")
def _routed(w: Writer, node: Operation) -> None:
    (moved, x, top), out, taps = node.inputs, node.output, node.params["window"]
    spread = node.primitive.name == "max_pool_spread"
    windows = _Windows(w, x.shape[1:-1], top.shape[1:-1], taps, node.params)
    if spread:
        w.fill(out, 0)
    with w.each(top.shape) as at:
        # Maxima that tie share.
        ties = w.variable(0, out.dtype, "ties")
        total = ties if spread else w.variable(0, out.dtype)
        with w.each(taps) as k, windows.inside(at[1:-1], k) as place:
            here = (at[0], *place, at[-1])
            with w.when(w.load(x, here) == w.load(top, at)):
                w.assign(ties, ties + 1)
                if not spread:
                    w.assign(total, total + w.load(moved, here))
        if not spread:
            w.store(out, at, total / w.k.maximum(ties, 1))
            return
        share = w.let(w.load(moved, at) / w.k.maximum(ties, 1), "share")
        with w.each(taps) as k, windows.inside(at[1:-1], k) as place:
            here = (at[0], *place, at[-1])
            with w.when(w.load(x, here) == w.load(top, at)):
                w.store(out, here, w.load(out, here) + share)


@writes("avg_pool", "avg_pool_spread")
def _avg_pool(w: Writer, node: Operation) -> None:
    (given,), out, taps = node.inputs, node.output, node.params["window"]
    spread, all_count = node.primitive.name == "avg_pool_spread", node.params["include_pad"]
    x, y = (out, given) if spread else (given, out)
    windows = _Windows(w, x.shape[1:-1], y.shape[1:-1], taps, node.params)
    if spread:
        w.fill(out, 0)
    with w.each(y.shape) as at:
        count = const(float(math.prod(taps)), out.dtype) if all_count else w.variable(0, out.dtype, "count")
        total = count if spread else w.variable(0, out.dtype)
        with w.each(taps) as k, windows.inside(at[1:-1], k) as place:
            if not all_count:
                w.assign(count, count + 1)
            if not spread:
                w.assign(total, total + w.load(x, (at[0], *place, at[-1])))
        if not spread:
            w.store(out, at, total / count)
            return
        share = w.let(w.load(y, at) / count, "share")
        with w.each(taps) as k, windows.inside(at[1:-1], k) as place:
            here = (at[0], *place, at[-1])
            w.store(out, here, w.load(out, here) + share)
