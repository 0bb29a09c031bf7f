"""Convolution gates, for any number of spatial axes; channels stand last.

Image x (N, *spatial, C), weights w (*kernel, C, F) and output y (N, *size, F) are bound by one sum of
products ``x[n, o*stride + k*dilation - low, c] * w[k, c, f] * y[n, o, f]``, linear in each of the three.
Each gate takes two of them to the third, so the gates are each other's derivatives, of any order:
`conv` gives y, `conv_transpose` x, and `conv_weight` w. The sums themselves are in `windows`.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import Aval, Shape
from chainrule.core.errors import ArgumentError, DtypeError, ShapeError
from chainrule.core.nest import Array, Nest
from chainrule.core.primitive import Primitive, Refusal, Rule, Sample
from chainrule.ops.gate import describe, gate, operands
from chainrule.ops.movement import permute_dims, reshape
from chainrule.ops.sliding import Windows
from chainrule.ops.windows import Layout, Padding, correlate, correlate_weight, extents, output_size, pad_pairs, per_axis, scatter
from chainrule.tape import bind
from chainrule.tensor import Tensor

__all__ = ["conv", "conv_transpose"]

if TYPE_CHECKING:
    import numpy.typing as npt

_INDICES = {"x": "nc", "w": "cf", "y": "nf"}


def _conv_aval(x: Aval, w: Aval, groups: int, size: Shape, **layout: Any) -> Aval:
    _require_pair("conv", x, w, groups)
    if x.shape[-1] != w.shape[-2] * groups:
        raise ShapeError(
            f"conv: images {describe(x)} have {x.shape[-1]} channels, weights {describe(w)} with groups={groups} take {w.shape[-2] * groups}",
            mend="shapes are (N, *spatial, C) and (*kernel, C / groups, F); channels stand last",
        )
    return Aval((x.shape[0], *size, w.shape[-1]), x.dtype)


def _transpose_aval(x: Aval, w: Aval, groups: int, size: Shape, **layout: Any) -> Aval:
    _require_pair("conv_transpose", x, w, groups)
    if x.shape[-1] != w.shape[-1]:
        raise ShapeError(
            f"conv_transpose: images {describe(x)} have {x.shape[-1]} channels, weights {describe(w)} take {w.shape[-1]}",
            mend="shapes are (N, *spatial, F) and (*kernel, C / groups, F); channels stand last",
        )
    return Aval((x.shape[0], *size, w.shape[-2] * groups), x.dtype)


def _weight_aval(x: Aval, y: Aval, groups: int, size: Shape, **layout: Any) -> Aval:
    if len(x.shape) != len(y.shape) or len(x.shape) < 3 or x.shape[0] != y.shape[0] or x.shape[-1] % groups or y.shape[-1] % groups:
        raise ShapeError(
            f"conv_weight: images {describe(x)} and outputs {describe(y)} with groups={groups}",
            mend="shapes are (N, *spatial, C) and (N, *size, F), groups divide C and F",
        )
    return Aval((*size, x.shape[-1] // groups, y.shape[-1]), x.dtype)


def _require_pair(name: str, x: Aval, w: Aval, groups: int) -> None:
    if len(x.shape) != len(w.shape) or len(x.shape) < 3:
        raise ShapeError(
            f"{name}: images {describe(x)} and weights {describe(w)}",
            mend="shapes are (N, *spatial, C) and (*kernel, C / groups, F)",
        )
    if groups < 1 or w.shape[-1] % groups or 0 in w.shape[:-2]:
        raise ShapeError(
            f"{name}: weights {describe(w)} with groups={groups}",
            mend="groups must divide the last axis; a kernel has taps on each axis",
        )


def _merge(array: Any, role: str, index: str, groups: int) -> Any:
    """The batch axis in front of ``array`` made part of one of its indices (n, c, f, or g for the group)."""
    count, *sizes = array.shape
    rank = len(sizes)
    if index == "n":
        return reshape(array, (count * sizes[0], *sizes[1:]))
    if role == "w" and index == "c":
        moved = permute_dims(array, (*range(1, rank - 1), 0, rank - 1, rank))
        return reshape(moved, (*sizes[:-2], count * sizes[-2], sizes[-1]))
    outer = groups if index != "g" else 1
    split = reshape(array, (count, *sizes[:-1], outer, sizes[-1] // outer))
    moved = permute_dims(split, (*range(1, rank + 1), 0, rank + 1))
    return reshape(moved, (*sizes[:-1], count * sizes[-1]))


def _split(array: Any, role: str, index: str, groups: int, count: int) -> Any:
    """The inverse of `_merge`."""
    sizes = array.shape
    rank = len(sizes)
    if index == "n":
        return reshape(array, (count, sizes[0] // count, *sizes[1:]))
    if role == "w" and index == "c":
        split = reshape(array, (*sizes[:-2], count, sizes[-2] // count, sizes[-1]))
        return permute_dims(split, (rank - 2, *range(rank - 2), rank - 1, rank))
    outer = groups if index != "g" else 1
    split = reshape(array, (*sizes[:-1], outer, count, sizes[-1] // count // outer))
    return reshape(permute_dims(split, (rank, *range(rank), rank + 1)), (count, *sizes[:-1], sizes[-1] // count))


def _batch(first: str, second: str, result: str) -> Rule:
    """A batch axis joins the index that its one operand shares with the result; if both have it, the groups."""

    def batch(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
        roles, groups = (first, second), params["groups"]
        count = next(x.shape[0] for x, b in zip(inputs, batched, strict=True) if b)
        alone = _INDICES[roles[batched.index(True)]]
        index = "g" if all(batched) else next(i for i in alone if i in _INDICES[result])
        merged = [_merge(x, role, index, groups) if b else x for x, role, b in zip(inputs, roles, batched, strict=True)]
        out = bind(primitive, merged, {**params, "groups": groups * (count if index == "g" else 1)})
        return _split(out, result, index, groups, count)

    return batch


def _to_y(x: Any, w: Any, stride: Shape, dilation: Shape, low: Shape, groups: int, size: Shape) -> Any:
    return bind(CONV, (x, w), {"stride": stride, "dilation": dilation, "low": low, "groups": groups, "size": size})


def _to_x(y: Any, w: Any, stride: Shape, dilation: Shape, low: Shape, groups: int, size: Shape) -> Any:
    return bind(CONV_TRANSPOSE, (y, w), {"stride": stride, "dilation": dilation, "low": low, "groups": groups, "size": size})


def _to_w(x: Any, y: Any, stride: Shape, dilation: Shape, low: Shape, groups: int, size: Shape) -> Any:
    return bind(CONV_WEIGHT, (x, y), {"stride": stride, "dilation": dilation, "low": low, "groups": groups, "size": size})


def _conv_samples(rng: np.random.Generator) -> list[Sample]:
    cases: list[tuple[Shape, Shape, dict[str, Any]]] = [
        ((2, 5, 2), (3, 2, 3), {}),
        ((2, 4, 5, 2), (3, 2, 2, 3), {"padding": "same", "stride": (1, 2)}),
        ((1, 5, 4, 4), (2, 2, 2, 4), {"groups": 2, "dilation": 2, "padding": 1}),
        ((1, 4, 4, 3), (3, 3, 1, 6), {"groups": 3, "padding": "same"}),
        ((1, 3, 3, 3, 1), (2, 2, 2, 1, 2), {"stride": 2, "padding": ((1, 0), (0, 1), (1, 1))}),
        ((1, 3, 3, 9), (2, 2, 9, 1), {"padding": "valid"}),
        ((2, 3, 3, 2), (1, 1, 2, 3), {}),
        ((0, 3, 2), (2, 2, 1), {}),
        ((1, 3, 0), (2, 0, 2), {}),
    ]
    return [Sample((rng.normal(size=x), rng.normal(size=w)), options) for x, w, options in cases]


class _Terms:
    """The terms ``x[n, o*stride + k*dilation - low, c] * kernel[k, c, f] * y[n, o, f]``, of which each of the three gates gets two factors."""

    def __init__(self, w: Nest, x: Array, kernel: Array, y: Array, groups: int, stride: Shape, dilation: Shape, low: Shape, size: Shape) -> None:
        self.w, self.x, self.kernel, self.y = w, x, kernel, y
        self.taps, self.outputs = kernel.shape[:-2], y.shape[1:-1]
        self.channels, self.features, self.groups = kernel.shape[-2], kernel.shape[-1] // groups, groups
        self.windows = Windows(w, x.shape[1:-1], self.outputs, self.taps, stride=stride, dilation=dilation, low=low)

    @contextmanager
    def outer(self) -> Generator[tuple[Any, Sequence[Any], Any, Any]]:
        """For every element of ``y``: example, position, group, and feature of the group."""
        with self.w.each((self.x.shape[0], *self.outputs, self.groups, self.features)) as (n, *o, g, f):
            yield n, o, g, f

    @contextmanager
    def inner(self) -> Generator[tuple[Sequence[Any], Any]]:
        """For every tap and channel of a group."""
        with self.w.each((*self.taps, self.channels)) as (*k, c):
            yield k, c

    @contextmanager
    def places(self, n: Any, o: Sequence[Any], k: Sequence[Any], g: Any, c: Any, f: Any) -> Generator[tuple[Any, Any, Any]]:
        """Where the three stand, if the tap lies inside of the image."""
        with self.windows.inside(o, k) as place:
            feature = g * self.features + f
            yield (n, *place, g * self.channels + c), (*k, c, feature), (n, *o, feature)


def _conv_loops(w: Nest, y: Array, x: Array, kernel: Array, **layout: Any) -> None:
    terms = _Terms(w, x, kernel, y, **layout)
    with terms.outer() as (n, o, g, f):
        total = w.variable(0, y.dtype)
        with terms.inner() as (k, c), terms.places(n, o, k, g, c, f) as (at_x, at_kernel, _):
            w.assign(total, total + w.load(x, at_x) * w.load(kernel, at_kernel))
        w.store(y, (n, *o, g * terms.features + f), total)


CONV = Primitive(
    name="conv",
    inputs=("x", "w"),
    aval=_conv_aval,
    cost=lambda x, w, size, **layout: x.shape[0] * math.prod(size) * math.prod(w.shape),
    eval=lambda x, w, stride, dilation, low, groups, size: correlate(x, w, Layout(stride, dilation, low, groups), size),
    multilinear=True,
    vjp=(
        lambda ct, w, to, stride, dilation, low, groups: _to_x(ct, w, stride, dilation, low, groups, to.shape[1:-1]),
        lambda ct, x, to, stride, dilation, low, groups: _to_w(x, ct, stride, dilation, low, groups, to.shape[:-2]),
    ),
    batch=_batch("x", "w", "y"),
    loops=_conv_loops,
    kernel="conv",
    onnx="Conv",
    samples=_conv_samples,
    refuses=lambda: [
        Refusal((np.ones((1, 5, 2)), np.ones((3, 3, 1))), ShapeError, "have 2 channels"),
        Refusal((np.ones((1, 5, 5, 2)), np.ones((3, 2, 1))), ShapeError, "images"),
        Refusal((np.ones((1, 2)), np.ones((2, 1))), ShapeError, "images"),
        Refusal((np.ones((1, 5, 4)), np.ones((3, 2, 3))), ShapeError, "groups=2", {"groups": 2}),
        Refusal((np.ones((1, 2, 1)), np.ones((3, 1, 1))), ShapeError, "does not fit"),
        Refusal((np.ones((1, 5, 1)), np.ones((3, 1, 1))), ArgumentError, "stride", {"stride": 0}),
        Refusal((np.ones((1, 5, 1)), np.ones((3, 1, 1))), ArgumentError, "dilation", {"dilation": (1, 2)}),
        Refusal((np.ones((1, 5, 1)), np.ones((3, 1, 1))), ArgumentError, "padding", {"padding": "full"}),
        Refusal((np.ones((1, 5, 1)), np.ones((3, 1, 1))), ArgumentError, "padding", {"padding": -1}),
        Refusal((np.ones((1, 5, 1)) + 1j, np.ones((3, 1, 1))), DtypeError, "takes"),
    ],
)


@gate(CONV)
def conv(
    x: Tensor | npt.ArrayLike,
    w: Tensor | npt.ArrayLike,
    /,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution of images with a kernel, which is not reversed: cross-correlation, as networks have it.

    Parameters
    ----------
    x : Tensor or array_like, shape (N, ..., C)
        Images with channels last, and any number of spatial axes; real values.
    w : Tensor or array_like, shape (..., C / groups, F)
        Weights.
    stride : int or tuple of int
        Steps between neighbouring outputs.
    padding : int, tuple or str
        Zeros around the image: for all sides, per spatial axis, or as (front, back) pairs; "valid" for none;
        "same" for as many that the output has ``ceil(size / stride)`` positions.
    dilation : int or tuple of int
        Steps between neighbouring taps of the kernel.
    groups : int
        Channels and features fall into this many groups that do not see each other.

    Returns
    -------
    Tensor, shape (N, ..., F)

    Raises
    ------
    ShapeError
        If ranks or channels do not fit, or the kernel does not fit into the image.
    ArgumentError
        For a stride, padding or dilation that is none.
    DtypeError
        For complex values.

    Notes
    -----
    ``y[n, o, f] = sum over k, c of x[n, o*stride + k*dilation - front, c] * w[k, c, f]``. The gradient with
    respect to x is `conv_transpose` of the cotangent with the same weights (Dumoulin & Visin, "A guide
    to convolution arithmetic for deep learning", 2016).

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.reshape(cr.tensor([1.0, 2.0, 4.0, 8.0]), (1, 4, 1))
    >>> w = cr.tensor([[[-1.0]], [[1.0]]], requires_grad=True)
    >>> y = cr.conv(x, w); y.detach().flatten()
    tensor([1., 2., 4.])
    >>> y.sum().backward(); w.grad.flatten()
    tensor([ 7., 14.])
    """
    image, weights = operands("conv", "real floating", x, w)
    _conv_aval(image, weights, groups, ())
    spatial, kernel = image.shape[1:-1], weights.shape[:-2]
    rank = len(spatial)
    stride, dilation = per_axis("conv", "stride", stride, rank), per_axis("conv", "dilation", dilation, rank)
    extent = extents(kernel, dilation)
    pads = pad_pairs("conv", padding, spatial, extent, stride)
    size = output_size("conv", spatial, extent, stride, pads)
    return _to_y(image, weights, stride, dilation, tuple(front for front, _ in pads), groups, size)


def _transpose_samples(rng: np.random.Generator) -> list[Sample]:
    cases: list[tuple[Shape, Shape, dict[str, Any]]] = [
        ((2, 3, 3), (3, 2, 3), {}),
        ((2, 2, 3, 2), (3, 2, 2, 2), {"stride": 2, "padding": "same"}),
        ((1, 3, 2, 2), (2, 3, 3, 2), {"stride": (2, 3), "padding": 1, "output_padding": 1}),
        ((1, 2, 2, 4), (3, 2, 1, 4), {"stride": (2, 1), "dilation": (1, 2), "groups": 2}),
        ((1, 2, 3, 2), (2, 2, 1, 2), {"stride": 3, "padding": "valid"}),
        ((1, 2, 2, 2, 1), (2, 1, 2, 2, 1), {"stride": 2}),
        ((0, 3, 2), (2, 1, 2), {}),
    ]
    return [Sample((rng.normal(size=x), rng.normal(size=w)), options) for x, w, options in cases]


def _transpose_loops(w: Nest, x: Array, y: Array, kernel: Array, **layout: Any) -> None:
    terms = _Terms(w, x, kernel, y, **layout)
    w.fill(x, 0)
    with terms.outer() as (n, o, g, f), terms.inner() as (k, c), terms.places(n, o, k, g, c, f) as (at_x, at_kernel, at_y):
        w.store(x, at_x, w.load(x, at_x) + w.load(y, at_y) * w.load(kernel, at_kernel))


CONV_TRANSPOSE = Primitive(
    name="conv_transpose",
    inputs=("x", "w"),
    aval=_transpose_aval,
    cost=lambda x, w, **layout: x.size // x.shape[-1] * math.prod(w.shape),
    eval=lambda x, w, stride, dilation, low, groups, size: scatter(x, w, Layout(stride, dilation, low, groups), size),
    multilinear=True,
    vjp=(
        lambda ct, w, to, stride, dilation, low, groups: _to_y(ct, w, stride, dilation, low, groups, to.shape[1:-1]),
        lambda ct, x, to, stride, dilation, low, groups: _to_w(ct, x, stride, dilation, low, groups, to.shape[:-2]),
    ),
    batch=_batch("y", "w", "x"),
    loops=_transpose_loops,
    kernel="conv",
    onnx="ConvTranspose",
    samples=_transpose_samples,
    refuses=lambda: [
        Refusal((np.ones((1, 5, 2)), np.ones((3, 2, 1))), ShapeError, "have 2 channels"),
        Refusal((np.ones((1, 5, 2)), np.ones((3, 3, 2, 1))), ShapeError, "images"),
        Refusal((np.ones((1, 5, 3)), np.ones((3, 1, 3))), ShapeError, "groups=2", {"groups": 2}),
        Refusal((np.ones((1, 1, 1)), np.ones((3, 1, 1))), ShapeError, "no output", {"padding": 2}),
        Refusal((np.ones((1, 5, 1)), np.ones((3, 1, 1))), ArgumentError, "output_padding", {"output_padding": 1}),
    ],
)


@gate(CONV_TRANSPOSE)
def conv_transpose(
    x: Tensor | npt.ArrayLike,
    w: Tensor | npt.ArrayLike,
    /,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    output_padding: int | Sequence[int] | None = None,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Transposed convolution: every input position spreads a kernel over the output, ``stride`` apart.

    Parameters
    ----------
    x : Tensor or array_like, shape (N, ..., F)
        Images with channels last; real values.
    w : Tensor or array_like, shape (..., C / groups, F)
        Weights, laid out as for the `conv` from C to F channels that this transposes.
    stride : int or tuple of int
        Steps in the output between neighbouring inputs.
    padding : int, tuple or str
        What the transposed convolution had as padding: so much is cut off the output's sides. "same":
        the output has ``size * stride`` positions; "valid": nothing is cut off, and it has at least as many.
    output_padding : int or tuple of int, optional
        Positions added behind, to choose among the sizes that the convolution takes to the same size.
    dilation : int or tuple of int
        Steps between neighbouring taps of the kernel.
    groups : int
        Channels and features fall into this many groups that do not see each other.

    Returns
    -------
    Tensor, shape (N, ..., C)
        With ``(spatial - 1)*stride - front - back + (kernel - 1)*dilation + 1 + output_padding`` positions.

    Raises
    ------
    ShapeError
        If ranks or channels do not fit, or nothing is left of the output.
    ArgumentError
        For a stride, padding, output_padding or dilation that is none.

    Notes
    -----
    The linear map that `conv` applies to cotangents of its input. Explicit padding and ``output_padding``
    are PyTorch's; "same" and "valid" give Keras's sizes.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.reshape(cr.tensor([1.0, 2.0]), (1, 2, 1))
    >>> cr.conv_transpose(x, [[[1.0]], [[10.0]], [[100.0]]], stride=2).flatten()
    tensor([  1.,  10., 102.,  20., 200.])
    """
    name = "conv_transpose"
    image, weights = operands(name, "real floating", x, w)
    _transpose_aval(image, weights, groups, ())
    spatial, kernel = image.shape[1:-1], weights.shape[:-2]
    rank = len(spatial)
    stride, dilation = per_axis(name, "stride", stride, rank), per_axis(name, "dilation", dilation, rank)
    extra = None if output_padding is None else per_axis(name, "output_padding", output_padding, rank, least=0)
    if extra is not None and any(more >= max(step, gap) for more, step, gap in zip(extra, stride, dilation)):
        raise ArgumentError(
            f"{name}: output_padding={output_padding} with stride={stride}", mend="it must be smaller than the stride or the dilation"
        )
    extent = extents(kernel, dilation)
    full = tuple((n - 1) * step + span for n, step, span in zip(spatial, stride, extent))
    if isinstance(padding, str) and padding in ("same", "valid"):
        size = _named_size(padding, full, stride, extent, spatial, extra)
        low = tuple(max(whole - n, 0) // 2 for whole, n in zip(full, size))
    else:
        pads = pad_pairs(name, padding, spatial, extent, stride)
        size = tuple(whole - front - back + more for whole, (front, back), more in zip(full, pads, extra or (0,) * rank))
        low = tuple(front for front, _ in pads)
    if any(n < 1 for n in size):
        raise ShapeError(f"{name}: padding={padding} leaves no output of {full}", mend="use a smaller padding")
    return _to_x(image, weights, stride, dilation, low, groups, size)


def _named_size(padding: str, full: Shape, stride: Shape, extent: Shape, spatial: Shape, extra: Shape | None) -> Shape:
    if extra is not None:
        cut = tuple(2 * (span // 2) if padding == "same" else 0 for span in extent)
        return tuple(whole - less + more for whole, less, more in zip(full, cut, extra))
    if padding == "same":
        return tuple(n * step for n, step in zip(spatial, stride))
    return tuple(n * step + max(span - step, 0) for n, step, span in zip(spatial, stride, extent))


def _weight_loops(w: Nest, kernel: Array, x: Array, y: Array, **layout: Any) -> None:
    terms = _Terms(w, x, kernel, y, **layout)
    with terms.inner() as (k, c), w.each((terms.groups, terms.features)) as (g, f):
        total = w.variable(0, kernel.dtype)
        with w.each((x.shape[0], *terms.outputs)) as (n, *o), terms.places(n, o, k, g, c, f) as (at_x, _, at_y):
            w.assign(total, total + w.load(x, at_x) * w.load(y, at_y))
        w.store(kernel, (*k, c, g * terms.features + f), total)


CONV_WEIGHT = Primitive(
    name="conv_weight",
    inputs=("x", "y"),
    aval=_weight_aval,
    cost=lambda x, y, size, groups, **layout: y.size * math.prod(size) * (x.shape[-1] // groups),
    eval=lambda x, y, stride, dilation, low, groups, size: correlate_weight(x, y, Layout(stride, dilation, low, groups), size),
    multilinear=True,
    vjp=(
        lambda ct, y, to, stride, dilation, low, groups: _to_x(y, ct, stride, dilation, low, groups, to.shape[1:-1]),
        lambda ct, x, to, stride, dilation, low, groups: _to_y(x, ct, stride, dilation, low, groups, to.shape[1:-1]),
    ),
    batch=_batch("x", "y", "w"),
    loops=_weight_loops,
    kernel="conv",
    samples=lambda rng: [
        Sample((rng.normal(size=(2, 5, 2)), rng.normal(size=(2, 3, 3)), 3)),
        Sample((rng.normal(size=(2, 5, 4, 4)), rng.normal(size=(2, 3, 3, 2)), (3, 2)), {"groups": 2, "padding": 1, "stride": (2, 1)}),
        Sample((rng.normal(size=(1, 4, 3, 3)), rng.normal(size=(1, 2, 3, 6)), (2, 1)), {"groups": 3, "dilation": 2}),
        Sample((rng.normal(size=(0, 4, 2)), rng.normal(size=(0, 3, 1)), 2)),
    ],
    refuses=lambda: [
        Refusal((np.ones((1, 5, 2)), np.ones((2, 3, 1)), 3), ShapeError, "conv_weight"),
        Refusal((np.ones((1, 5, 3)), np.ones((1, 3, 2)), 3), ShapeError, "groups=2", {"groups": 2}),
    ],
)


@gate(CONV_WEIGHT)
def conv_weight(
    x: Tensor | npt.ArrayLike,
    y: Tensor | npt.ArrayLike,
    kernel: int | Sequence[int],
    /,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """The gradient of `conv` with respect to its weights: images x (N, ..., C) with cotangents y (N, ..., F)."""
    image, cotangent = operands("conv_weight", "real floating", x, y)
    _weight_aval(image, cotangent, groups, ())
    spatial = image.shape[1:-1]
    rank = len(spatial)
    stride, dilation = per_axis("conv_weight", "stride", stride, rank), per_axis("conv_weight", "dilation", dilation, rank)
    taps = per_axis("conv_weight", "kernel", kernel, rank)
    pads = pad_pairs("conv_weight", padding, spatial, extents(taps, dilation), stride)
    return _to_w(image, cotangent, stride, dilation, tuple(front for front, _ in pads), groups, taps)
