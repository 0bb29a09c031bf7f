"""Square brackets: reading ``x[index]`` in every form that NumPy knows, and writing as a new array.

A static index stands in the gate's parameters, and reading it copies nothing. Integer arrays and masks are inputs of
a gather or scatter behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import Aval, Shape
from chainrule.core.errors import AxisError, DtypeError, ShapeError
from chainrule.core.nest import Array, Nest, numbered
from chainrule.core.primitive import Primitive, Refusal, Sample, functions, public
from chainrule.ops.gate import gate, lift, operands
from chainrule.ops.gathering import GATHER, gathered
from chainrule.ops.indices import Basic, Plan, basic_of, plan_of
from chainrule.ops.joining import zeros
from chainrule.ops.movement import broadcast_to, moveaxis, reshape, sizes_of
from chainrule.ops.scattering import batched_value, check_fits, count_of, scatter_add, scatter_update, written_values
from chainrule.ops.short import short
from chainrule.tape import bind
from chainrule.tensor import Tensor

__all__ = ["getitem", "index_add", "index_update", "place"]

if TYPE_CHECKING:
    import numpy.typing as npt


def _batch_getitem(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    return bind(GETITEM, inputs, {"index": params["index"].behind_batch()})


GETITEM = Primitive(
    name="getitem",
    inputs=("x",),
    aval=lambda x, index: Aval(index.shape(x.shape), x.dtype),
    eval=lambda x, index: x[index.native],
    numpy=lambda x, index: f"{x}{index}" if index.native else f"{x}[()]",
    transpose=lambda ct, to, index: bind(PLACE, (ct,), {"index": index, "shape": to.shape}),
    batch=_batch_getitem,
    kernel="move",
    onnx="Slice",
    samples=lambda rng: (
        [
            Sample((rng.normal(size=(4, 3)), index))
            for index in (
                0,
                (-1, 2),
                slice(None, None, -2),
                (None, ..., 1),
                (slice(1, 1), slice(None)),
                [0, -1, 0],
                (slice(1, None), np.array([[2, 0]])),
                (np.array([0, 1]), np.array([2, 2])),
                np.array([True, False, True, True]),
                (slice(None, 3), None, [True, False, True]),
                np.eye(4, 3, dtype=bool),
            )
        ]
        + [
            Sample((rng.normal(size=(2, 3, 2)), (1, slice(None), [1, 0]))),
            Sample((rng.normal(), ())),
            Sample((rng.normal(size=(0, 2)), slice(None, None, -1))),
        ]
    ),
    refuses=lambda: [
        Refusal((np.ones((2, 3)), 2), AxisError, "index 2 is out of range for axis 0"),
        Refusal((np.ones((2, 3)), (0, 0, 0)), AxisError, "too long"),
        Refusal((np.ones((2, 3)), (..., ...)), AxisError, "one ellipsis"),
        Refusal((np.ones((2, 3)), [0, 2]), AxisError, "index 2 is out of range for axis 0"),
        Refusal((np.ones((2, 3)), [0.5]), DtypeError, "not an index"),
        Refusal((np.ones((2, 3)), "a"), DtypeError, "not an index"),
        Refusal((np.ones((2, 3)), np.ones(3, bool)), AxisError, "mask of shape (3,)"),
        Refusal((np.ones((2, 3)), ([0, 1], [0, 1, 2])), ShapeError, "do not broadcast"),
    ],
)


_read = short(GETITEM)


@gate(GETITEM)
def getitem(x: Tensor | npt.ArrayLike, index: Any, /) -> Tensor:
    """``x[index]``, with every form of index that NumPy has.

    Parameters
    ----------
    x : Tensor or array_like
    index : int, slice, None, ..., integer array, boolean mask, or a tuple of these
        Arrays may be Tensors, NumPy arrays or lists. Values of masks must be known: they decide the shape.

    Returns
    -------
    Tensor

    Raises
    ------
    AxisError
        If a position is out of range, a mask does not have the shape of what it selects from, or the index is for more
        axes than there are.
    DtypeError
        If an entry is no index.
    ShapeError
        If arrays of positions do not broadcast.

    Notes
    -----
    Slices out of range are cut short, as everywhere in Python. Where the same element is read several times, its
    gradient is the sum.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> y = x[[0, 2, 2]]; y
    tensor([1., 3., 3.], from=gather)
    >>> y.sum().backward(); x.grad
    tensor([1., 0., 2.])
    """
    values = lift(x)
    basic = basic_of(index, values.shape)
    if basic is not None:
        return _read(values, {"index": basic})
    plan = plan_of(index, values.shape)
    if plan.index is None:
        return _read(values, {"index": plan.basic})
    out = bind(GATHER, (_selected(values, plan), plan.index), {"axes": plan.axes})
    return _moved_block(out, plan.front, plan.axes[0], 0)


def _selected(x: Any, plan: Plan) -> Any:
    """What the gather reads from."""
    if plan.basic.native:
        x = _read(x, {"index": plan.basic})
    return x if plan.merged is None else reshape(x, plan.merged)


def _moved_block(x: Any, length: int, source: int, target: int) -> Any:
    return moveaxis(x, tuple(range(source, source + length)), tuple(range(target, target + length))) if length else x


def _place_eval(value: Any, index: Basic, shape: Shape) -> Any:
    out = np.zeros(shape, value.dtype)
    out[index.native] = value
    return out


def _place_aval(value: Aval, index: Basic, shape: Shape) -> Aval:
    check_fits("place", value, index.shape(shape))
    return Aval(shape, value.dtype)


def _batch_place(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    (value,), index, shape = inputs, params["index"], params["shape"]
    count = value.shape[0]
    value = batched_value(value, True, count, len(index.shape(shape)))
    return bind(PLACE, (value,), {"index": index.behind_batch(), "shape": (count, *shape)})


def _write_loops(w: Nest, out: Array, value: Array, index: Basic) -> None:
    """A value, which broadcasts, at an index."""
    into = np.asarray(numbered(out.shape)[index.native])
    w.copy(out, value, into=into, source=np.broadcast_to(numbered(value.shape), into.shape))


def _place_loops(w: Nest, out: Array, value: Array, index: Basic, shape: Shape) -> None:
    if shape:
        w.fill(out, 0)
    _write_loops(w, out, value, index)


PLACE = Primitive(
    name="place",
    inputs=("value",),
    aval=_place_aval,
    eval=_place_eval,
    transpose=lambda ct, index: bind(GETITEM, (ct,), {"index": index}),
    batch=_batch_place,
    loops=_place_loops,
    kernel="move",
    onnx="Pad",
    samples=lambda rng: [
        Sample((rng.normal(size=(3,)), 1), {"shape": (2, 3)}),
        Sample((rng.normal(size=(2,)), (slice(None, None, -2), 0)), {"shape": (4, 3)}),
        Sample((rng.normal(), (slice(1, None), None)), {"shape": (3, 2)}),
        Sample((rng.normal(size=(3, 2)), [0, 1, 0]), {"shape": (4, 2)}),
        Sample((rng.normal(size=(2, 3)), (1, slice(None), [1, 0])), {"shape": (2, 3, 2)}),
        Sample((rng.normal(size=(2,)), np.array([True, False, True])), {"shape": (3,)}),
    ],
    refuses=lambda: [
        Refusal((np.ones(2), 0), ShapeError, "does not fit", {"shape": (2, 3)}),
        Refusal((np.ones(3), 2), AxisError, "out of range", {"shape": (2, 3)}),
    ],
)


@gate(PLACE)
def place(value: Tensor | npt.ArrayLike, index: Any, /, *, shape: int | Sequence[int]) -> Tensor:
    """Zeros with a value at ``index``: the transpose of reading ``x[index]``.

    Parameters
    ----------
    value : Tensor or array_like
        Numbers of the shape that reading at the index gives, or one that broadcasts to it. Where the index names an
        element several times, its values are summed.
    index : int, slice, None, ..., integer array, boolean mask, or a tuple of these
    shape : tuple of int
        Of the result.

    Returns
    -------
    Tensor

    Raises
    ------
    AxisError
        If a position is out of range, or the index is for more axes than there are.
    ShapeError
        If the value does not fit.
    DtypeError
        If an entry is no index, or the value is not numeric.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.place([1.0, 2.0], slice(1, 3), shape=4)
    tensor([0., 1., 2., 0.])
    """
    (values,) = operands("place", "numeric", value)
    whole = sizes_of(shape, "place")
    plan = plan_of(index, whole)
    part = plan.basic.shape(whole)
    if plan.index is not None:
        inner = plan.merged or part
        values = scatter_add(plan.index, _fitted("place", values, plan, inner), shape=inner, axes=plan.axes)
        values = values if inner == part else reshape(values, part)
        if not plan.basic.native:
            return values
    return bind(PLACE, (_trimmed(values, len(part)),), {"index": plan.basic, "shape": whole})


def _trimmed(value: Any, rank: int) -> Any:
    """Without axes of size 1 in front that are too many, which NumPy allows in an assignment."""
    extra = len(value.shape) - rank
    return reshape(value, value.shape[extra:]) if extra > 0 and set(value.shape[:extra]) == {1} else value


def _fitted(name: str, value: Any, plan: Plan, inner: Shape) -> Any:
    """A value as the scatter takes it, whose index's axes stand in the place of the first indexed axis."""
    target = gathered(inner, plan.index, plan.axes)
    value = _trimmed(value, len(target))
    if not plan.front:
        return value
    first = plan.axes[0]
    numpys = (*target[first : first + plan.front], *target[:first], *target[first + plan.front :])
    check_fits(name, Aval(value.shape, value.dtype), numpys)
    return _moved_block(broadcast_to(value, numpys), plan.front, 0, first)


def _index_update_eval(x: Any, value: Any, index: Basic) -> Any:
    out = np.array(x)
    out[index.native] = value
    return out


def _index_update_aval(x: Aval, value: Aval, index: Basic) -> Aval:
    check_fits("index_update", value, index.shape(x.shape))
    return x


def _batch_index_update(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    (x, value), index = inputs, params["index"]
    count = count_of(batched, inputs)
    x = x if batched[0] else broadcast_to(x, (count, *x.shape))
    value = batched_value(value, batched[1], count, len(index.shape(x.shape[1:])))
    return bind(INDEX_UPDATE, (x, value), {"index": index.behind_batch()})


def _index_update_loops(w: Nest, out: Array, x: Array, value: Array, index: Basic) -> None:
    if out.shape:
        w.copy(out, x)
    _write_loops(w, out, value, index)


INDEX_UPDATE = Primitive(
    name="index_update",
    inputs=("x", "value"),
    aval=_index_update_aval,
    eval=_index_update_eval,
    transpose=(
        lambda ct, index: bind(INDEX_UPDATE, (ct, zeros((), ct.dtype)), {"index": index}),
        lambda ct, index: bind(GETITEM, (ct,), {"index": index}),
    ),
    batch=_batch_index_update,
    loops=_index_update_loops,
    kernel="move",
    onnx="ScatterND",
    samples=lambda rng: [
        Sample((rng.normal(size=(2, 3)), 1, rng.normal(size=(3,)))),
        Sample((rng.normal(size=(4, 3)), (slice(None, None, -2), 0), rng.normal(size=(2,)))),
        Sample((rng.normal(size=(3, 2)), (slice(1, None), None), rng.normal())),
        Sample((rng.normal(size=(4, 2)), [0, 1, 0], rng.normal(size=(3, 2)))),
        Sample((rng.normal(size=(2, 3, 2)), (1, slice(None), [1, 0]), rng.normal(size=(2, 3)))),
        Sample((rng.normal(size=(3, 2)), np.array([True, False, True]), rng.normal(size=(2, 1)))),
        Sample((rng.normal(size=(3, 2)), np.array([True, False, True]), rng.normal())),
        Sample((rng.normal(), (), rng.normal())),
    ],
    refuses=lambda: [
        Refusal((np.ones((2, 3)), 0, np.ones(2)), ShapeError, "does not fit"),
        Refusal((np.ones((2, 3)), 2, 1.0), AxisError, "out of range"),
        Refusal((np.ones((2, 3), int), 0, 0.5), DtypeError, "without loss"),
    ],
)


@gate(INDEX_UPDATE)
def index_update(x: Tensor | npt.ArrayLike, index: Any, value: Tensor | npt.ArrayLike, /) -> Tensor:
    """A copy of ``x`` in which ``x[index] = value``; gradients flow to both.

    Parameters
    ----------
    x : Tensor or array_like
    index : int, slice, None, ..., integer array, boolean mask, or a tuple of these
    value : Tensor or array_like
        Of the shape of ``x[index]``, or one that broadcasts to it. Where the index names an element several times, the
        last of its values stays.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``x``.

    Raises
    ------
    AxisError
        If a position is out of range, or the index is for more axes than there are.
    ShapeError
        If the value does not fit.
    DtypeError
        If an entry is no index, or the value is of a higher kind than ``x``.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> y = cr.index_update(x, slice(1, None), 0.0); y
    tensor([1., 0., 0.], from=index_update)
    >>> y.sum().backward(); x.grad
    tensor([1., 0., 0.])
    """
    old, new = written_values("index_update", x, value)
    mask = _mask(index, old.shape)
    if mask is not None and len(mask.shape) + len(new.shape) <= len(old.shape):
        # A value that is the same for all selected elements needs no positions, so the mask may be traced.
        return functions.where(reshape(mask, (*mask.shape, *(1,) * (len(old.shape) - len(mask.shape)))), new, old)
    plan = plan_of(index, old.shape)
    part = plan.basic.shape(old.shape)
    if plan.index is not None:
        inner = _selected(old, plan)
        new = scatter_update(inner, plan.index, _fitted("index_update", new, plan, inner.shape), axes=plan.axes)
        new = new if plan.merged is None else reshape(new, part)
        if not plan.basic.native:
            return new
    return bind(INDEX_UPDATE, (old, _trimmed(new, len(part))), {"index": plan.basic})


def _mask(index: Any, shape: Shape) -> Any:
    """The index as a mask over the first axes of ``shape``, if it is one."""
    if not isinstance(index, (Tensor, np.ndarray)) or index.dtype.kind != "b" or not index.shape:
        return None
    return lift(index) if index.shape == shape[: len(index.shape)] else None


@public
def index_add(x: Tensor | npt.ArrayLike, index: Any, value: Tensor | npt.ArrayLike, /) -> Tensor:
    """A copy of ``x`` in which ``x[index] += value``, once for every time that the index names an element.

    Parameters
    ----------
    x : Tensor or array_like
    index : int, slice, None, ..., integer array, boolean mask, or a tuple of these
    value : Tensor or array_like
        Of the shape of ``x[index]``, or one that broadcasts to it.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``x``.

    Raises
    ------
    AxisError
        If a position is out of range, or the index is for more axes than there are.
    ShapeError
        If the value does not fit.
    DtypeError
        If an entry is no index, or the value is of a higher kind than ``x``.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.index_add([1.0, 2.0], [0, 0, 1], 10.0)
    tensor([21., 12.])
    """
    old, change = written_values("index_add", x, value)
    return old + place(change, index, shape=old.shape)
