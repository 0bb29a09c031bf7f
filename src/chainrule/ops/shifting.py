"""Elements in another order along an axis: backwards, or moved round it; and the batch rules of gates that work along axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import normalize_axes, normalize_axis
from chainrule.core.errors import ArgumentError, AxisError, DtypeError
from chainrule.core.primitive import Primitive, Refusal, Sample
from chainrule.ops.gate import gate, lift
from chainrule.ops.movement import integers, to_shape
from chainrule.ops.short import short
from chainrule.tape import bind
from chainrule.tensor import Axis, Tensor

__all__ = ["flip", "roll"]

if TYPE_CHECKING:
    import numpy.typing as npt

_FORWARD, _BACKWARD = slice(None), slice(None, None, -1)


def batch_axes(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    """The same axes, each one place further back."""
    return bind(primitive, inputs, {**params, "axis": tuple(axis + 1 for axis in params["axis"])})


def batch_axis(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    """The same axis, one place further back."""
    return bind(primitive, inputs, {**params, "axis": params["axis"] + 1})


def _flip_eval(x: Any, axis: tuple[int, ...]) -> Any:
    return x[tuple(_BACKWARD if i in axis else _FORWARD for i in range(x.ndim))]


FLIP = Primitive(
    name="flip",
    inputs=("x",),
    aval=lambda x, axis: x,
    eval=_flip_eval,
    transpose=lambda ct, axis: flip(ct, axis=axis),
    batch=batch_axes,
    kernel="move",
    samples=lambda rng: (
        [Sample((rng.normal(size=(2, 3)),), {"axis": axis}) for axis in (None, 0, (-1, 0))]
        + [Sample((rng.normal(),)), Sample((rng.normal(size=(0, 2)),))]
    ),
    refuses=lambda: [Refusal((np.ones((2, 3)),), AxisError, "out of range", {"axis": 2})],
)


_flipped = short(FLIP)


@gate(FLIP)
def flip(x: Tensor | npt.ArrayLike, /, *, axis: Axis = None) -> Tensor:
    """The elements in reverse order along axes.

    Parameters
    ----------
    x : Tensor or array_like
    axis : int or tuple of int, optional
        All axes if not given.

    Returns
    -------
    Tensor
        Of the same shape.

    Raises
    ------
    AxisError
        If an axis is out of range or named twice.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.flip([1, 2, 3])
    tensor([3, 2, 1])
    """
    values = lift(x)
    return _flipped(values, {"axis": normalize_axes(axis, len(values.shape), "flip")})


def _roll_eval(x: Any, shift: tuple[int, ...], axis: tuple[int, ...]) -> Any:
    for by, place in zip(shift, axis, strict=True):
        size = x.shape[place]
        cut = -by % size if size else 0
        before = (slice(None),) * place
        x = np.concatenate((x[(*before, slice(cut, None))], x[(*before, slice(None, cut))]), place)
    return x


ROLL = Primitive(
    name="roll",
    inputs=("x",),
    aval=lambda x, shift, axis: x,
    eval=_roll_eval,
    transpose=lambda ct, shift, axis: roll(ct, tuple(-s for s in shift), axis=axis),
    batch=batch_axes,
    kernel="move",
    samples=lambda rng: [
        Sample((rng.normal(size=(2, 3)), 1)),
        Sample((rng.normal(size=(2, 3)), -1), {"axis": 1}),
        Sample((rng.normal(size=(4, 3)), (1, 5)), {"axis": (0, -1)}),
        Sample((rng.normal(size=(0, 2)), 1), {"axis": 0}),
    ],
    refuses=lambda: [
        Refusal((np.ones((2, 3)), 1), AxisError, "out of range", {"axis": 2}),
        Refusal((np.ones((2, 3)), (1, 2, 3)), ArgumentError, "3 shifts", {"axis": (0, 1)}),
        Refusal((np.ones(3), 0.5), DtypeError, "integers"),
    ],
)


@gate(ROLL)
def roll(x: Tensor | npt.ArrayLike, /, shift: int | Sequence[int], *, axis: Axis = None) -> Tensor:
    """The elements moved along axes; those that fall off the end come back at the start.

    Parameters
    ----------
    x : Tensor or array_like
    shift : int or tuple of int
        By how many places, per axis; one int serves all axes.
    axis : int or tuple of int, optional
        If not given, the elements are moved in row-major order. An axis named twice is moved by both shifts.

    Returns
    -------
    Tensor
        Of the same shape.

    Raises
    ------
    AxisError
        If an axis is out of range.
    ArgumentError
        If shifts and axes differ in number.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.roll([1, 2, 3], 1)
    tensor([3, 1, 2])
    """
    values = lift(x)
    shifts = integers(shift, "roll")
    if axis is None:
        if len(shifts) != 1:
            raise ArgumentError(f"roll: {len(shifts)} shifts without axes", mend="name as many axes as shifts")
        flat = to_shape(values, {"shape": (math.prod(values.shape),)})
        return to_shape(bind(ROLL, (flat,), {"shift": shifts, "axis": (0,)}), {"shape": values.shape})
    axes = tuple(normalize_axis(a, len(values.shape), "roll") for a in integers(axis, "roll"))
    if len(shifts) == 1:
        shifts *= len(axes)
    if len(shifts) != len(axes):
        raise ArgumentError(f"roll: {len(shifts)} shifts for {len(axes)} axes", mend="give one shift, or as many as axes")
    return bind(ROLL, (values,), {"shift": shifts, "axis": axes})
