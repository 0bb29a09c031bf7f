"""Loop nests of gates whose windows slide over images, channels last (see `ops.windows`): where windows lie, and the loops of pooling.

Nothing is computed here, and no gate is defined.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from chainrule.core.aval import Shape
from chainrule.core.nest import Array, Nest
from chainrule.core.scalar import Value

Place = tuple[Value, ...]


class Windows:
    """Where windows lie: tap ``k`` of output ``o`` reads input ``o*stride + k*dilation - low``.

    Parameters
    ----------
    w : Nest
    spatial, size, taps : tuple of int
        Of the image, of the output, and of a window.
    """

    def __init__(self, w: Nest, spatial: Shape, size: Shape, taps: Shape, *, stride: Shape, low: Shape, dilation: Shape | None = None) -> None:
        self.w, self.spatial, self.size, self.taps = w, spatial, size, taps
        self.stride, self.low, self.dilation = stride, low, dilation or (1,) * len(taps)

    @contextmanager
    def inside(self, o: Sequence[Value], k: Sequence[Value]) -> Generator[Place]:
        """Do what is written inside, with what a tap reads, if that lies inside of the image."""
        place: list[Value] = []
        conditions: list[Value] = []
        for axis, (at, tap) in enumerate(zip(o, k, strict=True)):
            stride, dilation, low, wide = self.stride[axis], self.dilation[axis], self.low[axis], self.spatial[axis]
            reads = at * stride + tap * dilation - low
            if low > 0:
                conditions.append(reads >= 0)
            if (self.size[axis] - 1) * stride + (self.taps[axis] - 1) * dilation - low >= wide:
                conditions.append(reads < wide)
            place.append(reads)
        with self.w.when(*conditions):
            yield tuple(place)

    @contextmanager
    def reads(self, at: Place) -> Generator[Place]:
        """Do what is written inside for every place of the image (with its example and channel) that the window of an output reads."""
        with self.w.each(self.taps) as k, self.inside(at[1:-1], k) as place:
            yield (at[0], *place, at[-1])


def _pooled(w: Nest, image: Array, out: Array, window: Shape, stride: Shape, low: Shape) -> Windows:
    return Windows(w, image.shape[1:-1], out.shape[1:-1], window, stride=stride, low=low)


def max_pool_loops(w: Nest, out: Array, x: Array, window: Shape, stride: Shape, low: Shape, size: Shape) -> None:
    """The largest element of every window."""
    windows = _pooled(w, x, out, window, stride, low)
    with w.share(out.shape) as at:
        top = w.variable(-math.inf, x.dtype, "top")
        with windows.reads(at) as here:
            w.assign(top, w.k.maximum(top, w.load(x, here)))
        w.store(out, at, top)


def max_spread_loops(w: Nest, out: Array, ct: Array, x: Array, top: Array, window: Shape, **layout: Shape) -> None:
    """Every window's cotangent goes to its maxima; those that tie share it."""
    windows = _pooled(w, x, top, window, layout["stride"], layout["low"])
    w.fill(out, 0)
    with w.each(top.shape) as at:
        ties = w.variable(0, out.dtype, "ties")
        with windows.reads(at) as here, w.when(w.load(x, here) == w.load(top, at)):
            w.assign(ties, ties + 1)
        share = w.let(w.load(ct, at) / w.k.maximum(ties, 1), "share")
        with windows.reads(at) as here, w.when(w.load(x, here) == w.load(top, at)):
            w.store(out, here, w.load(out, here) + share)


def max_gather_loops(w: Nest, out: Array, t: Array, x: Array, top: Array, window: Shape, **layout: Shape) -> None:
    """Every window's tangent is that of its maxima; of those that tie the mean."""
    windows = _pooled(w, x, top, window, layout["stride"], layout["low"])
    with w.share(top.shape) as at:
        ties, total = w.variable(0, out.dtype, "ties"), w.variable(0, out.dtype)
        with windows.reads(at) as here, w.when(w.load(x, here) == w.load(top, at)):
            w.assign(ties, ties + 1)
            w.assign(total, total + w.load(t, here))
        w.store(out, at, total / w.k.maximum(ties, 1))


@contextmanager
def _counted(w: Nest, windows: Windows, at: Place, dtype: Any, include_pad: bool) -> Generator[tuple[Any, Place]]:
    """For every place that a window reads: a variable that has counted the window's places when all are gone through, or their number."""
    count = float(math.prod(windows.taps)) if include_pad else w.variable(0, dtype, "count")
    with windows.reads(at) as here:
        if not include_pad:
            w.assign(count, count + 1)
        yield count, here


def avg_pool_loops(w: Nest, out: Array, x: Array, window: Shape, stride: Shape, low: Shape, size: Shape, include_pad: bool) -> None:
    """The mean of every window."""
    windows = _pooled(w, x, out, window, stride, low)
    with w.share(out.shape) as at:
        total = w.variable(0, out.dtype)
        with _counted(w, windows, at, out.dtype, include_pad) as (count, here):
            w.assign(total, total + w.load(x, here))
        w.store(out, at, total / count)


def avg_spread_loops(w: Nest, out: Array, y: Array, window: Shape, stride: Shape, low: Shape, size: Shape, include_pad: bool) -> None:
    """Every window's cotangent, in equal shares."""
    windows = _pooled(w, out, y, window, stride, low)
    w.fill(out, 0)
    with w.each(y.shape) as at:
        with _counted(w, windows, at, out.dtype, include_pad) as (count, _):
            pass
        share = w.let(w.load(y, at) / count, "share")
        with windows.reads(at) as here:
            w.store(out, here, w.load(out, here) + share)
