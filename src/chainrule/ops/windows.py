"""Windows that slide over images: where they lie, and the sums of products over them on NumPy arrays.

An image here has any number of spatial axes: (N, *spatial, C), channels last. With stride s, dilation d and
``low`` zeros in front, tap k of output position o reads input position ``o*s + k*d - low``; what lies outside
of the input is zero, so low may be negative and nothing needs to be said of the other end.

Images become columns (im2col) a block at a time, small enough for the cache, and BLAS multiplies the
block: memory stays of the order of the operands. No gate is defined here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from chainrule.core.aval import Shape
from chainrule.core.errors import ArgumentError, ShapeError
from chainrule.ops.summation import total as sum_over

Array = Any  # NumPy's own stubs would need every dtype spelled out.
Padding = int | str | Sequence[int | Sequence[int]]
Pairs = tuple[tuple[int, int], ...]

BLOCK = 1 << 20
"""Bytes of columns at a time: they are read from the second-level cache."""

_NARROW = 8
"""With fewer channels, columns are laid out with positions along the rows: longer runs to copy."""


class Layout(NamedTuple):
    """How windows lie: everything but the shapes of the operands."""

    stride: Shape
    dilation: Shape
    low: Shape
    groups: int


def per_axis(name: str, label: str, value: int | Sequence[int], rank: int, *, least: int = 1) -> Shape:
    """One integer for each spatial axis.

    Raises
    ------
    ArgumentError
        If their number differs from ``rank`` or one is below ``least``.
    """
    sizes = tuple(size.__index__() for size in value) if isinstance(value, Sequence) else (value.__index__(),) * rank
    if len(sizes) != rank or any(size < least for size in sizes):
        raise ArgumentError(f"{name}: {label}={value} for {rank} spatial axes", mend=f"give one integer, or {rank} of them, each at least {least}")
    return sizes


def pad_pairs(name: str, padding: Padding, spatial: Shape, extent: Shape, stride: Shape) -> Pairs:
    """Zeros in front and behind for each spatial axis.

    Parameters
    ----------
    padding : int, sequence or str
        One number for all sides, one per axis, or one (front, back) per axis; "valid" for none;
        "same" for as many that there are ``ceil(size / stride)`` outputs, the odd one behind.
    extent : tuple of int
        Positions that a window spans, dilation included.
    """
    rank = len(spatial)
    if padding == "valid":
        return ((0, 0),) * rank
    if padding == "same":
        totals = [max((-(-size // step) - 1) * step + span - size, 0) for size, span, step in zip(spatial, extent, stride)]
        return tuple((total // 2, total - total // 2) for total in totals)
    each = [padding] * rank if not isinstance(padding, Sequence) else [] if isinstance(padding, str) else list(padding)
    pairs = tuple(tuple(side.__index__() for side in one) if isinstance(one, Sequence) else (one.__index__(),) * 2 for one in each)
    if len(pairs) != rank or any(len(pair) != 2 or min(pair) < 0 for pair in pairs):
        allowed = f'"same", "valid", an integer, or {rank} integers or (front, back) pairs, none negative'
        raise ArgumentError(f"{name}: padding={padding!r} for {rank} spatial axes", mend=f"give {allowed}")
    return tuple((front, back) for front, back in pairs)


def extents(kernel: Shape, dilation: Shape) -> Shape:
    """Positions that a window spans on each axis."""
    return tuple((taps - 1) * gap + 1 for taps, gap in zip(kernel, dilation))


def output_size(name: str, spatial: Shape, extent: Shape, stride: Shape, pads: Pairs) -> Shape:
    """Positions that windows can take on each axis.

    Raises
    ------
    ShapeError
        If the window does not fit even once.
    """
    sizes = tuple((size + front + back - span) // step + 1 for size, span, step, (front, back) in zip(spatial, extent, stride, pads))
    if any(size < 1 for size in sizes):
        raise ShapeError(
            f"{name}: a window of {extent} does not fit into {spatial} padded by {pads}",
            mend='pad the input (padding="same"), or take a smaller kernel or dilation',
        )
    return sizes


def cut(x: Array, starts: Shape, spans: Shape) -> Array:
    """The region of each image from ``starts`` on: a view, or where it sticks out a copy with zeros."""
    sizes = x.shape[1:-1]
    first = [min(max(start, 0), size) for start, size in zip(starts, sizes)]
    last = [max(min(start + span, size), begin) for start, span, size, begin in zip(starts, spans, sizes, first)]
    inside = x[(slice(None), *map(slice, first, last))]
    if inside.shape[1:-1] == spans:
        return inside
    padded = np.zeros((x.shape[0], *spans, x.shape[-1]), x.dtype)
    if inside.size:
        padded[(slice(None), *(slice(begin - start, end - start) for begin, end, start in zip(first, last, starts)))] = inside
    return padded


def _windows(region: Array, size: Shape, kernel: Shape, stride: Shape, dilation: Shape) -> Array:
    """A view (N, *size, *kernel, C) of all windows of a region that holds them exactly."""
    strides = region.strides
    along, steps = strides[1:-1], (*(a * s for a, s in zip(strides[1:-1], stride)), *(a * d for a, d in zip(strides[1:-1], dilation)))
    assert len(along) == len(size)
    return as_strided(region, (region.shape[0], *size, *kernel, region.shape[-1]), (strides[0], *steps, strides[-1]), writeable=False)


class _Block(NamedTuple):
    """Some images, or some first-axis positions of one image, and the region of the input that they read."""

    at: tuple[slice, slice]
    size: Shape
    region: Array


def _blocks(x: Array, size: Shape, kernel: Shape, layout: Layout, bytes_per_position: int) -> Iterator[_Block]:
    """Cut the output into blocks whose columns fill about `BLOCK` bytes."""
    count, rest = x.shape[0], math.prod(size[1:])
    plane = max(1, rest * bytes_per_position)
    images, planes = max(1, BLOCK // (plane * size[0])), max(1, min(size[0], BLOCK // plane))
    step, gap, low = layout.stride[0], layout.dilation[0], layout.low
    spans = tuple((n - 1) * s + (k - 1) * d + 1 for n, k, s, d in zip(size, kernel, layout.stride, layout.dilation))
    for n in range(0, count, images):
        some = x[n : n + images]
        for first in range(0, size[0], planes):
            height = min(planes, size[0] - first)
            span = (height - 1) * step + (kernel[0] - 1) * gap + 1
            region = cut(some, (first * step - low[0], *(-front for front in low[1:])), (span, *spans[1:]))
            yield _Block((slice(n, n + images), slice(first, first + height)), (height, *size[1:]), region)


def _columns(buffer: Array, block: _Block, kernel: Shape, layout: Layout) -> Array:
    """The block's windows as matrices (groups, positions, taps * channels), in the buffer."""
    view = _windows(block.region, block.size, kernel, layout.stride, layout.dilation)
    rank, groups = len(kernel), layout.groups
    positions = view.shape[: 1 + rank]
    channels = view.shape[-1] // groups
    view = view.reshape(*view.shape[:-1], groups, channels) if groups > 1 else view[..., None, :]
    rows, length = math.prod(positions), math.prod(kernel) * channels
    target = buffer[: groups * rows * length]
    front, taps = tuple(range(1 + rank)), tuple(range(1 + rank, 1 + 2 * rank))
    group, channel = 1 + 2 * rank, 2 + 2 * rank
    if channels < _NARROW:
        view = view.transpose(group, *taps, channel, *front)
        np.copyto(target.reshape(view.shape), view)
        return target.reshape(groups, length, rows).swapaxes(1, 2)
    view = view.transpose(group, *front, *taps, channel)
    np.copyto(target.reshape(view.shape), view)
    return target.reshape(groups, rows, length)


def _dense(x: Array) -> Array:
    """``x`` in row-major order: BLAS takes no strides of 0, which cotangents of sums have, and NumPy alone is slow."""
    return np.ascontiguousarray(x)


def _buffer(x: Array, count: int, size: Shape, length: int) -> Array:
    """Room for the columns of the largest block."""
    plane = math.prod(size[1:]) * length
    limit = max(plane, BLOCK // x.itemsize)
    return np.empty(min(limit, count * size[0] * plane), x.dtype)


def correlate(x: Array, w: Array, layout: Layout, size: Shape) -> Array:
    """``out[n, o, f] = sum over k, c of x[n, o*s + k*d - low, c] * w[k, c, f]``.

    Parameters
    ----------
    x : array (N, *spatial, C)
    w : array (*kernel, C / groups, F)
    size : tuple of int
        Positions on each axis of the output.

    Returns
    -------
    array (N, *size, F)
    """
    count, features, kernel = x.shape[0], w.shape[-1], w.shape[:-2]
    if not (x.size and w.size and math.prod(size)):
        return np.zeros((count, *size, features), x.dtype)
    taps = math.prod(kernel)
    if layout.groups == x.shape[-1] > 1:
        return _correlate_depthwise(x, w, layout, size)
    if layout.groups == 1 and taps > 1 and 8 * features <= x.shape[-1] and set(layout.stride) == {1}:
        return _correlate_to_few(x, w, layout, size)
    groups, channels = layout.groups, x.shape[-1] // layout.groups
    out = np.empty((count, *size, features), x.dtype)
    matrices = _dense(w).reshape(taps * channels, groups, -1).transpose(1, 0, 2)
    length = taps * x.shape[-1]
    buffer = None
    for block in _blocks(x, size, kernel, layout, length * x.itemsize):
        part = out[block.at].reshape(-1, groups, features // groups).transpose(1, 0, 2)
        if taps == 1 and groups == 1 and set(layout.stride) == {1}:
            np.matmul(_dense(block.region).reshape(1, -1, channels), matrices, out=part)
            continue
        buffer = _buffer(x, count, size, length) if buffer is None else buffer
        np.matmul(_columns(buffer, block, kernel, layout), matrices, out=part)
    return out


def _correlate_to_few(x: Array, w: Array, layout: Layout, size: Shape) -> Array:
    """For few features from many channels: multiply first, then add up the taps' shifted products."""
    kernel, (channels, features) = w.shape[:-2], w.shape[-2:]
    rows = _dense(np.moveaxis(w, -1, -2)).reshape(-1, channels)
    out = np.empty((x.shape[0], *size, features), x.dtype)
    for block in _blocks(x, size, kernel, layout, len(rows) * x.itemsize):
        products = np.matmul(rows, _dense(block.region).reshape(-1, channels).T).reshape(*kernel, features, *block.region.shape[:-1])
        total = None
        for tap in product(*map(range, kernel)):
            shifted = products[(*tap, ..., *(slice(k * d, k * d + n) for k, d, n in zip(tap, layout.dilation, block.size)))]
            total = shifted.copy() if total is None else np.add(total, shifted, out=total)
        assert total is not None
        out[block.at] = np.moveaxis(total, 0, -1)
    return out


def _shifts(region: Array, size: Shape, kernel: Shape, layout: Layout) -> Iterator[tuple[Shape, Array]]:
    """For every tap a view of what it reads, (N, *size, C)."""
    for tap in product(*map(range, kernel)):
        spans = (slice(k * d, k * d + (n - 1) * s + 1, s) for k, d, n, s in zip(tap, layout.dilation, size, layout.stride))
        yield tap, region[(slice(None), *spans)]


def _correlate_depthwise(x: Array, w: Array, layout: Layout, size: Shape) -> Array:
    """One channel per group: tap by tap, elementwise."""
    kernel, features = w.shape[:-2], w.shape[-1]
    out = np.empty((x.shape[0], *size, features), x.dtype)
    for block in _blocks(x, size, kernel, layout, features * x.itemsize):
        part = out[block.at]
        part = part.reshape(*part.shape[:-2], -1)
        total = term = None
        for tap, shifted in _shifts(_repeated(block.region, features), block.size, kernel, layout):
            # Whole rows at a time (a view if the stride is 1): the weights are repeated along them.
            row, weights = shifted.reshape(part.shape), np.tile(w[tap][0], block.size[-1])
            if total is None:
                total = np.multiply(row, weights, out=part)
            else:
                term = np.multiply(row, weights, out=term)
                total += term
    return out


def _repeated(region: Array, features: int) -> Array:
    """Each channel as often as its group has features."""
    times = features // region.shape[-1]
    return region if times == 1 else np.repeat(region, times, axis=-1)


def correlate_weight(x: Array, y: Array, layout: Layout, kernel: Shape) -> Array:
    """``w[k, c, f] = sum over n, o of x[n, o*s + k*d - low, c] * y[n, o, f]``: the weight's gradient.

    Parameters
    ----------
    x : array (N, *spatial, C)
    y : array (N, *size, F)
    kernel : tuple of int
        Taps on each axis.

    Returns
    -------
    array (*kernel, C / groups, F)
    """
    count, size, features, groups = x.shape[0], y.shape[1:-1], y.shape[-1], layout.groups
    channels, taps = x.shape[-1] // groups, math.prod(kernel)
    if not (x.size and y.size and taps):
        return np.zeros((*kernel, channels, features), x.dtype)
    if groups == x.shape[-1] > 1:
        return _weight_depthwise(x, y, layout, kernel)
    length = taps * x.shape[-1]
    total = buffer = None
    for block in _blocks(x, size, kernel, layout, length * x.itemsize):
        part = _dense(y[block.at]).reshape(-1, groups, features // groups).transpose(1, 0, 2)
        if taps == 1 and groups == 1 and set(layout.stride) == {1}:
            columns = _dense(block.region).reshape(1, -1, channels)
        else:
            buffer = _buffer(x, count, size, length) if buffer is None else buffer
            columns = _columns(buffer, block, kernel, layout)
        share = np.matmul(columns.swapaxes(1, 2), part)
        total = share if total is None else np.add(total, share, out=total)
    assert total is not None
    return np.ascontiguousarray(total.transpose(1, 0, 2)).reshape(*kernel, channels, features)


def _weight_depthwise(x: Array, y: Array, layout: Layout, kernel: Shape) -> Array:
    features = y.shape[-1]
    w = np.zeros((*kernel, 1, features), x.dtype)
    for block in _blocks(x, y.shape[1:-1], kernel, layout, features * x.itemsize):
        part, term = y[block.at], None
        for tap, shifted in _shifts(_repeated(block.region, features), block.size, kernel, layout):
            term = np.multiply(shifted, part, out=term)
            w[tap][0] += sum_over(term, tuple(range(term.ndim - 1)), False)
    return w


def scatter(y: Array, w: Array, layout: Layout, spatial: Shape) -> Array:
    """``x[n, o*s + k*d - low, c] += y[n, o, f] * w[k, c, f]`` over all o, k, f: `correlate` transposed.

    Parameters
    ----------
    y : array (N, *size, F)
    w : array (*kernel, C / groups, F)
    spatial : tuple of int
        Positions on each axis of the output.

    Returns
    -------
    array (N, *spatial, C)
    """
    kernel, (channels, features), groups = w.shape[:-2], w.shape[-2:], layout.groups
    shape = (y.shape[0], *spatial, groups * channels)
    if not (y.size and w.size and math.prod(shape)):
        return np.zeros(shape, y.dtype)
    if groups == 1 and max(layout.stride) > 1 and all(e <= s for e, s in zip(extents(kernel, layout.dilation), layout.stride)):
        return _scatter_apart(np.zeros(shape, y.dtype), y, w, layout)
    turned = w.reshape(*kernel, channels, groups, features // groups).swapaxes(-1, -3).reshape(*kernel, features // groups, groups * channels)
    axes = zip(layout.stride, layout.dilation, layout.low, kernel, strict=True)
    x = None
    for phases in product(*([phase(*axis, residue) for residue in range(min(axis[0], size))] for axis, size in zip(axes, spatial))):
        if not all(phase.taps for phase in phases):
            continue
        at = [slice(phase.residue, None, s) for phase, s in zip(phases, layout.stride)]
        size = tuple(len(range(n)[places]) for n, places in zip(spatial, at))
        picked = turned[tuple(phase.pick for phase in phases)]
        inner = Layout((1,) * len(kernel), tuple(phase.dilation for phase in phases), tuple(phase.low for phase in phases), groups)
        part = correlate(y, picked, inner, size)
        if size == spatial:
            return part
        x = np.zeros(shape, y.dtype) if x is None else x
        x[(slice(None), *at)] = part
    return np.zeros(shape, y.dtype) if x is None else x


class Phase(NamedTuple):
    """The outputs of a transposed convolution with one remainder modulo the stride: they share their taps."""

    residue: int
    taps: int
    pick: slice
    dilation: int
    low: int


def phase(stride: int, dilation: int, low: int, kernel: int, residue: int) -> Phase:
    """Outputs ``residue + stride*m`` are a correlation with stride 1 of those taps for which
    ``k*dilation`` leaves the remainder of ``residue + low``, in reverse order.
    """
    common = math.gcd(stride, dilation)
    every = stride // common
    first = next((k for k in range(min(every, kernel)) if (k * dilation - residue - low) % stride == 0), kernel)
    taps = len(range(first, kernel, every))
    last = first + (taps - 1) * every
    gap = dilation // common
    offset = (residue + low - first * dilation) // stride
    return Phase(residue, taps, slice(last, first - 1 if first else None, -every) if taps else slice(0), gap, (taps - 1) * gap - offset)


def _scatter_apart(x: Array, y: Array, w: Array, layout: Layout) -> Array:
    """Windows that do not overlap: each product has a place of its own."""
    kernel, (channels, features) = w.shape[:-2], w.shape[-2:]
    size = y.shape[1:-1]
    products = np.matmul(_dense(y).reshape(-1, features), _dense(w).reshape(-1, features).T).reshape(*y.shape[:-1], *kernel, channels)
    for tap in product(*map(range, kernel)):
        reads = [
            inside(n, k * d - low, s, wide) for n, k, d, low, s, wide in zip(size, tap, layout.dilation, layout.low, layout.stride, x.shape[1:-1])
        ]
        x[(slice(None), *(place for _, place in reads))] = products[(slice(None), *(o for o, _ in reads), *tap)]
    return x


def inside(count: int, offset: int, stride: int, size: int) -> tuple[slice, slice]:
    """Of the places ``offset + stride*o`` for o < count those in [0, size): a slice of o, and one of the places."""
    first = min(max(0, -(offset // stride)), count)
    last = max(first, min(count, -((offset - size) // stride)))
    return slice(first, last), slice(first * stride + offset if last > first else 0, (last - 1) * stride + offset + 1 if last > first else 0, stride)
