"""Pooling gates: the maximum or mean over windows that slide over images, channels last.

The mean is linear. The maximum passes gradients to the elements that attain it; which they are is
found again from the input, and the two linear maps that carry cotangents and tangents past it are
gates themselves, so that everything differentiates again. Means and maxima over boxes are taken one axis
after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import Aval, Shape
from chainrule.core.errors import ArgumentError, DtypeError, ShapeError
from chainrule.core.primitive import Primitive, Refusal, Sample
from chainrule.ops.gate import describe, gate, operands
from chainrule.ops.movement import broadcast_to, reshape
from chainrule.ops.sliding import avg_pool_loops, avg_spread_loops, max_gather_loops, max_pool_loops, max_spread_loops
from chainrule.ops.windows import BLOCK, Padding, inside, output_size, pad_pairs, per_axis
from chainrule.tape import bind
from chainrule.tensor import Tensor

__all__ = ["avg_pool", "max_pool"]

if TYPE_CHECKING:
    import numpy.typing as npt

Array = Any  # NumPy's own stubs would need every dtype spelled out.
Places = tuple[tuple[slice, ...], tuple[slice, ...]]


def _along(x: Array, axis: int, taps: int, step: int, low: int, count: int, *, combine: Any, start: float) -> Array:
    """Combine the taps of every window along one axis."""
    out = None
    front = (slice(None),) * axis
    for tap in range(taps):
        at, reads = inside(count, tap - low, step, x.shape[axis])
        part = x[(*front, reads)]
        if out is None:
            if at == slice(0, count):
                out = part.copy()
                continue
            out = np.full((*x.shape[:axis], count, *x.shape[axis + 1 :]), start, x.dtype)
        into = out[(*front, at)]
        combine(into, part, out=into)
    return out


def _max_eval(x: Array, window: Shape, stride: Shape, low: Shape, size: Shape) -> Array:
    for axis, (taps, step, front, count) in enumerate(zip(window, stride, low, size), 1):
        x = _along(x, axis, taps, step, front, count, combine=np.maximum, start=-np.inf)
    return x


def _weights(x: Array, taps: int, step: int, low: int, count: int, size: int, include_pad: bool) -> Array:
    """One over the number of elements in each window along one axis."""
    starts = np.arange(count) * step - low
    number = np.full(count, taps) if include_pad else np.minimum(starts + taps, size) - np.maximum(starts, 0)
    return (1 / number).astype(x.dtype)


def _line(values: Array, axis: int, rank: int) -> Array:
    return values.reshape((-1,) + (1,) * (rank - axis - 1))


def _avg_eval(x: Array, window: Shape, stride: Shape, low: Shape, size: Shape, include_pad: bool) -> Array:
    for axis, (taps, step, front, count) in enumerate(zip(window, stride, low, size), 1):
        weights = _weights(x, taps, step, front, count, x.shape[axis], include_pad)
        x = _along(x, axis, taps, step, front, count, combine=np.add, start=0)
        x *= _line(weights, axis, x.ndim)
    return x


def _avg_spread_eval(y: Array, window: Shape, stride: Shape, low: Shape, size: Shape, include_pad: bool) -> Array:
    for axis, (taps, step, front, wide) in enumerate(zip(window, stride, low, size), 1):
        count = y.shape[axis]
        y = y * _line(_weights(y, taps, step, front, count, wide, include_pad), axis, y.ndim)
        x = np.zeros((*y.shape[:axis], wide, *y.shape[axis + 1 :]), y.dtype)
        for tap in range(taps):
            at, reads = inside(count, tap - front, step, wide)
            ahead = (slice(None),) * axis
            x[(*ahead, reads)] += y[(*ahead, at)]
        y = x
    return y


def _places(window: Shape, stride: Shape, low: Shape, size: Shape, spatial: Shape) -> list[Places]:
    """For every tap: the outputs whose tap lies inside of the input, and what it reads there."""
    found: list[Places] = []
    for tap in product(*map(range, window)):
        pairs = [inside(count, k - front, step, wide) for count, k, front, step, wide in zip(size, tap, low, stride, spatial)]
        found.append(((slice(None), *(at for at, _ in pairs)), (slice(None), *(reads for _, reads in pairs))))
    return found


def _chunks(x: Array) -> Iterator[slice]:
    """Some images at a time, few enough for the cache."""
    images = max(1, BLOCK * len(x) // max(1, x.nbytes))
    return (slice(n, n + images) for n in range(0, len(x), images))


def _attained(x: Array, out: Array, places: Sequence[Places]) -> tuple[list[Array], Array]:
    """Per tap where the maximum is attained, and how often it is in each window."""
    masks = [x[reads] == out[at] for at, reads in places]
    ties = np.zeros(out.shape, np.min_scalar_type(len(places)))
    for mask, (at, _) in zip(masks, places):
        ties[at] += mask
    # A NaN equals nothing, not even the maximum that it is: such a window passes no gradient.
    return masks, np.maximum(ties, 1, out=ties)


def _max_spread_eval(ct: Array, x: Array, out: Array, window: Shape, stride: Shape, low: Shape) -> Array:
    places = _places(window, stride, low, out.shape[1:-1], x.shape[1:-1])
    apart = all(step >= taps for step, taps in zip(stride, window))
    spread = np.zeros(x.shape, ct.dtype)
    for some in _chunks(x):
        masks, ties = _attained(x[some], out[some], places)
        share, into = np.divide(ct[some], ties, dtype=ct.dtype), spread[some]
        for mask, (at, reads) in zip(masks, places):
            if apart:
                np.multiply(share[at], mask, out=into[reads])
            else:
                into[reads] += share[at] * mask
    return spread


def _max_gather_eval(t: Array, x: Array, out: Array, window: Shape, stride: Shape, low: Shape) -> Array:
    places = _places(window, stride, low, out.shape[1:-1], x.shape[1:-1])
    total = np.zeros(out.shape, t.dtype)
    for some in _chunks(x):
        masks, ties = _attained(x[some], out[some], places)
        part, moved = total[some], t[some]
        for mask, (at, reads) in zip(masks, places):
            part[at] += moved[reads] * mask
        np.divide(part, ties, out=part, dtype=t.dtype)
    return total


def _max_spread(ct: Any, x: Any, out: Any, window: Shape, stride: Shape, low: Shape) -> Any:
    return bind(MAX_POOL_SPREAD, (ct, x, out), {"window": window, "stride": stride, "low": low})


def _max_gather(t: Any, x: Any, out: Any, window: Shape, stride: Shape, low: Shape) -> Any:
    return bind(MAX_POOL_GATHER, (t, x, out), {"window": window, "stride": stride, "low": low})


def _max_gather_of(ct: Any, x: Any, out: Any, window: Shape, stride: Shape, low: Shape) -> Any:
    return _max_gather(ct, x, out, window, stride, low)


def _avg(x: Any, window: Shape, stride: Shape, low: Shape, size: Shape, include_pad: bool) -> Any:
    return bind(AVG_POOL, (x,), {"window": window, "stride": stride, "low": low, "size": size, "include_pad": include_pad})


def _avg_spread(y: Any, window: Shape, stride: Shape, low: Shape, size: Shape, include_pad: bool) -> Any:
    return bind(AVG_POOL_SPREAD, (y,), {"window": window, "stride": stride, "low": low, "size": size, "include_pad": include_pad})


def _batch_images(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    """The batch axis joins that of the images."""
    count = next(x.shape[0] for x, b in zip(inputs, batched, strict=True) if b)
    full = [x if b else broadcast_to(x, (count, *x.shape)) for x, b in zip(inputs, batched, strict=True)]
    out = bind(primitive, [reshape(x, (count * x.shape[1], *x.shape[2:])) for x in full], params)
    return reshape(out, (count, out.shape[0] // count, *out.shape[1:]))


class _Geometry(dict[str, Any]):
    """Arguments of a pooling gate, worked out from those of its public function."""

    def __init__(self, name: str, x: Any, window: int | Sequence[int], stride: int | Sequence[int] | None, padding: Padding) -> None:
        rank = len(x.shape) - 2
        if rank < 1:
            raise ShapeError(f"{name}: images {describe(x)}", mend="give images with a batch axis in front and channels last: (N, ..., C)")
        spatial = x.shape[1:-1]
        taps = per_axis(name, "window", window, rank)
        steps = taps if stride is None else per_axis(name, "stride", stride, rank)
        pads = pad_pairs(name, padding, spatial, taps, steps)
        if any(side >= wide for pair, wide in zip(pads, taps) for side in pair):
            raise ArgumentError(
                f"{name}: padding={padding!r} for windows {taps}", mend="padding must be smaller than the window, which would else lie in it wholly"
            )
        size = output_size(name, spatial, taps, steps, pads)
        super().__init__(window=taps, stride=steps, low=tuple(front for front, _ in pads), size=size)


_OPTIONS: list[tuple[Shape, int | Shape, dict[str, Any]]] = [
    ((2, 6, 2), 2, {}),
    ((1, 5, 5, 2), 3, {"stride": 2, "padding": "same"}),
    ((2, 4, 5, 1), (2, 3), {"stride": (1, 2), "padding": ((1, 0), (0, 2))}),
    ((1, 4, 3, 3, 1), 2, {"stride": 1, "padding": 1}),
    ((1, 7, 2), 2, {"stride": 3}),
    ((0, 4, 2), 2, {}),
]


def _distinct(rng: np.random.Generator, shape: Shape) -> Array:
    """Values without ties, or near ones."""
    count = int(np.prod(shape))
    return rng.permutation(count).reshape(shape) / max(count, 1) - 0.5


def _max_samples(rng: np.random.Generator) -> list[Sample]:
    return [Sample((_distinct(rng, shape), window), options) for shape, window, options in _OPTIONS]


def _pool_refusals() -> list[Refusal]:
    return [
        Refusal((np.ones((2, 3)), 2), ShapeError, "images"),
        Refusal((np.ones((1, 2, 1)), 3), ShapeError, "does not fit"),
        Refusal((np.ones((1, 4, 1)), 0), ArgumentError, "window"),
        Refusal((np.ones((1, 4, 4, 1)), (2, 2, 2)), ArgumentError, "window"),
        Refusal((np.ones((1, 4, 1)), 2), ArgumentError, "padding", {"padding": 2}),
        Refusal((np.ones((1, 4, 1)), 2), ArgumentError, "stride", {"stride": 0}),
        Refusal((np.ones((1, 4, 1)) + 1j, 2), DtypeError, "takes"),
    ]


def _pool_cost(x: Aval, window: Shape, size: Shape, **layout: Any) -> int:
    """One axis after the other."""
    return x.shape[0] * x.shape[-1] * math.prod(size) * sum(window)


def _pool_aval(x: Aval, size: Shape, **layout: Any) -> Aval:
    return Aval((x.shape[0], *size, x.shape[-1]), x.dtype)


MAX_POOL = Primitive(
    name="max_pool",
    inputs=("x",),
    aval=_pool_aval,
    cost=_pool_cost,
    eval=_max_eval,
    vjp=(_max_spread,),
    jvp=(_max_gather,),
    batch=_batch_images,
    loops=max_pool_loops,
    kernel="pool",
    onnx="MaxPool",
    samples=_max_samples,
    refuses=_pool_refusals,
)


@gate(MAX_POOL)
def max_pool(x: Tensor | npt.ArrayLike, /, window: int | Sequence[int], *, stride: int | Sequence[int] | None = None, padding: Padding = 0) -> Tensor:
    """The maximum over windows of images, channel by channel.

    Parameters
    ----------
    x : Tensor or array_like, shape (N, ..., C)
        Images with channels last, and any number of spatial axes; real values.
    window : int or tuple of int
        Size of the window on each spatial axis.
    stride : int or tuple of int, optional
        Steps between neighbouring windows; the window's size if not given.
    padding : int, tuple or str
        Positions around the image that never are the maximum: for all sides, per axis, or as (front, back) pairs;
        "valid" for none; "same" for as many that the output has ``ceil(size / stride)`` positions.

    Returns
    -------
    Tensor, shape (N, ..., C)

    Raises
    ------
    ShapeError
        If the window does not fit into the image.
    ArgumentError
        For a window, stride or padding that is none.

    Notes
    -----
    Where several elements of a window attain the maximum, they share its gradient equally. A window whose
    maximum is NaN passes no gradient.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([[[1.0], [3.0], [2.0], [2.0]]], requires_grad=True)
    >>> y = cr.max_pool(x, 2); y.detach().flatten()
    tensor([3., 2.])
    >>> y.sum().backward(); x.grad.flatten()
    tensor([0. , 1. , 0.5, 0.5])
    """
    (image,) = operands("max_pool", "real floating", x)
    return bind(MAX_POOL, (image,), _Geometry("max_pool", image, window, stride, padding))


def _routed_samples(rng: np.random.Generator, *, spread: bool) -> list[Sample]:
    samples: list[Sample] = []
    for shape, window, options in _OPTIONS[:5]:
        x = _distinct(rng, shape)
        moved = rng.normal(size=max_pool(x, window, **options).shape if spread else shape)
        samples.append(Sample((moved, x, window), options))
    return samples


def _spread_aval(ct: Aval, x: Aval, out: Aval, window: Shape, stride: Shape, low: Shape) -> Aval:
    if ct.shape != out.shape:
        raise ShapeError(f"max_pool_spread: a cotangent {describe(ct)} for an output {describe(out)}", mend="give one of the shape of max_pool(x)")
    return Aval(x.shape, x.dtype)


def _gather_aval(t: Aval, x: Aval, out: Aval, window: Shape, stride: Shape, low: Shape) -> Aval:
    if t.shape != x.shape:
        raise ShapeError(f"max_pool_gather: a tangent {describe(t)} for images {describe(x)}", mend="give one of the images' shape")
    return out


def _routed(primitive: Primitive, moved: Any, x: Any, window: int | Sequence[int], stride: int | Sequence[int] | None, padding: Padding) -> Any:
    """A cotangent or tangent carried where the maxima of ``max_pool(x, window)`` are."""
    moved, image = operands(primitive.name, "real floating", moved, x)
    layout = _Geometry(primitive.name, image, window, stride, padding)
    out = bind(MAX_POOL, (image,), layout)
    placed = {name: layout[name] for name in ("window", "stride", "low")}
    primitive.aval(moved, image, out, **placed)
    return bind(primitive, (moved, image, out), placed)


MAX_POOL_SPREAD = Primitive(
    name="max_pool_spread",
    inputs=("ct", "x", "out"),
    aval=_spread_aval,
    cost=lambda ct, x, out, window, **layout: out.size * math.prod(window),
    eval=_max_spread_eval,
    transpose=(_max_gather_of, None, None),
    batch=_batch_images,
    loops=max_spread_loops,
    kernel="pool",
    samples=lambda rng: _routed_samples(rng, spread=True),
    refuses=lambda: [Refusal((np.ones((1, 3, 1)), np.ones((1, 4, 1)), 2), ShapeError, "cotangent")],
)


@gate(MAX_POOL_SPREAD)
def max_pool_spread(
    ct: Tensor | npt.ArrayLike,
    x: Tensor | npt.ArrayLike,
    window: int | Sequence[int],
    /,
    *,
    stride: int | Sequence[int] | None = None,
    padding: Padding = 0,
) -> Tensor:
    """A cotangent of ``max_pool(x, window)`` carried to the elements of x that attain the maxima, shared among ties."""
    return _routed(MAX_POOL_SPREAD, ct, x, window, stride, padding)


MAX_POOL_GATHER = Primitive(
    name="max_pool_gather",
    inputs=("t", "x", "out"),
    aval=_gather_aval,
    cost=lambda t, x, out, window, **layout: out.size * math.prod(window),
    eval=_max_gather_eval,
    transpose=(_max_spread, None, None),
    batch=_batch_images,
    loops=max_gather_loops,
    kernel="pool",
    samples=lambda rng: _routed_samples(rng, spread=False),
    refuses=lambda: [Refusal((np.ones((1, 3, 1)), np.ones((1, 4, 1)), 2), ShapeError, "tangent")],
)


@gate(MAX_POOL_GATHER)
def max_pool_gather(
    t: Tensor | npt.ArrayLike,
    x: Tensor | npt.ArrayLike,
    window: int | Sequence[int],
    /,
    *,
    stride: int | Sequence[int] | None = None,
    padding: Padding = 0,
) -> Tensor:
    """A tangent of x carried through ``max_pool(x, window)``: its mean over the elements that attain the maximum."""
    return _routed(MAX_POOL_GATHER, t, x, window, stride, padding)


AVG_POOL = Primitive(
    name="avg_pool",
    inputs=("x",),
    aval=_pool_aval,
    cost=_pool_cost,
    eval=_avg_eval,
    transpose=lambda ct, to, window, stride, low, include_pad: _avg_spread(ct, window, stride, low, to.shape[1:-1], include_pad),
    batch=_batch_images,
    loops=avg_pool_loops,
    kernel="pool",
    onnx="AveragePool",
    samples=lambda rng: [
        Sample((rng.normal(size=shape), window), {**options, "count_include_pad": include})
        for shape, window, options in _OPTIONS
        for include in (True, False)
    ],
    refuses=_pool_refusals,
)


@gate(AVG_POOL)
def avg_pool(
    x: Tensor | npt.ArrayLike,
    /,
    window: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: Padding = 0,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean over windows of images, channel by channel.

    Parameters
    ----------
    x : Tensor or array_like, shape (N, ..., C)
        Images with channels last, and any number of spatial axes; real values.
    window : int or tuple of int
        Size of the window on each spatial axis.
    stride : int or tuple of int, optional
        Steps between neighbouring windows; the window's size if not given.
    padding : int, tuple or str
        Zeros around the image: for all sides, per axis, or as (front, back) pairs; "valid" for none; "same" for
        as many that the output has ``ceil(size / stride)`` positions.
    count_include_pad : bool
        Whether the zeros of the padding count in the mean (PyTorch), or only what lies in the image (Keras).

    Returns
    -------
    Tensor, shape (N, ..., C)

    Raises
    ------
    ShapeError
        If the window does not fit into the image.
    ArgumentError
        For a window, stride or padding that is none.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([[[1.0], [3.0], [5.0]]])
    >>> cr.avg_pool(x, 2, padding=((0, 1),)).flatten()
    tensor([2. , 2.5])
    >>> cr.avg_pool(x, 2, padding=((0, 1),), count_include_pad=False).flatten()
    tensor([2., 5.])
    """
    (image,) = operands("avg_pool", "real floating", x)
    return bind(AVG_POOL, (image,), {**_Geometry("avg_pool", image, window, stride, padding), "include_pad": bool(count_include_pad)})


AVG_POOL_SPREAD = Primitive(
    name="avg_pool_spread",
    inputs=("y",),
    aval=lambda y, window, stride, low, size, include_pad: Aval((y.shape[0], *size, y.shape[-1]), y.dtype),
    cost=lambda y, window, **layout: y.size * sum(window),
    eval=_avg_spread_eval,
    transpose=lambda ct, to, window, stride, low, include_pad: _avg(ct, window, stride, low, to.shape[1:-1], include_pad),
    batch=_batch_images,
    loops=avg_spread_loops,
    kernel="pool",
    samples=lambda rng: [
        Sample((rng.normal(size=avg_pool(np.ones(shape), window, **options).shape), shape[1:-1], window), options)
        for shape, window, options in _OPTIONS
    ],
    refuses=lambda: [Refusal((np.ones((1, 3, 1)), (4,), 2), ShapeError, "cotangent")],
)


@gate(AVG_POOL_SPREAD)
def avg_pool_spread(
    y: Tensor | npt.ArrayLike,
    spatial: Sequence[int],
    window: int | Sequence[int],
    /,
    *,
    stride: int | Sequence[int] | None = None,
    padding: Padding = 0,
    count_include_pad: bool = True,
) -> Tensor:
    """A cotangent of ``avg_pool`` of images with these spatial sizes spread evenly over each window."""
    (cotangent,) = operands("avg_pool_spread", "real floating", y)
    image = Aval((cotangent.shape[0], *spatial, cotangent.shape[-1]), cotangent.dtype)
    layout = _Geometry("avg_pool_spread", image, window, stride, padding)
    if layout["size"] != cotangent.shape[1:-1]:
        raise ShapeError(
            f"avg_pool_spread: a cotangent {describe(cotangent)} for outputs of sizes {layout['size']}", mend="give one of the shape of avg_pool(x)"
        )
    return _avg_spread(cotangent, layout["window"], layout["stride"], layout["low"], tuple(spatial), bool(count_include_pad))
