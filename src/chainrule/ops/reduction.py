"""Reductions: gates that summarise an array along axes.

The derivative of most of them is one weight per element: the output changes by the sum of
weight times tangent, and the cotangent, spread over the reduced axes, is multiplied by the weight.
`weigh` and `weighted_sum` are these two directions. Weights are computed in gates, so they have derivatives of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import DEFAULT_INT, Aval, Shape, normalize_axes, reduced
from chainrule.core.errors import AxisError, DtypeError, ShapeError
from chainrule.core.primitive import Primitive, Refusal, Rule, Sample, functions
from chainrule.ops.gate import as_dtype, gate, gate_of, lift, operands, to_dtype
from chainrule.ops.groups import reduced_loops
from chainrule.ops.movement import inverse, permute_dims, repeated_to, reshape, to_shape
from chainrule.ops.shifting import batch_axes, flip
from chainrule.ops.short import short
from chainrule.ops.summation import LARGE, few_rows, ones, total
from chainrule.tensor import Axis, Tensor

__all__ = ["max", "min", "prod", "sum"]

if TYPE_CHECKING:
    import numpy.typing as npt

Axes = tuple[int, ...]

# Called with all arguments by position, which is quicker: array, axis, dtype, out, keepdims, initial.
add: Callable[..., Any] = np.add.reduce
multiply: Callable[..., Any] = np.multiply.reduce
maximum: Callable[..., Any] = np.maximum.reduce
minimum: Callable[..., Any] = np.minimum.reduce


def spread(out: Any, axis: Axes, keepdims: bool, shape: Shape) -> Any:
    """A reduction's output (or cotangent) in the shape of its input, by repetition."""
    # Where the reduced axes stand in front, repetition puts them back by itself.
    if not keepdims and axis != _EVERY[len(axis)]:
        out = to_shape(out, {"shape": tuple(1 if i in axis else size for i, size in enumerate(shape))})
    return repeated_to(out, {"shape": shape})


def weigh(ct: Any, weights: Any, axis: Axes, keepdims: bool) -> Any:
    """The cotangent of a reduction's input, given each element's weight."""
    return spread(ct, axis, keepdims, weights.shape) * weights


def weighted_sum(t: Any, weights: Any, axis: Axes, keepdims: bool) -> Any:
    """The tangent of a reduction's output, given each element's weight."""
    return sum(t * weights, axis=axis, keepdims=keepdims)


_EVERY = tuple(tuple(range(rank)) for rank in range(65))
_WHOLE = tuple({"axis": axes, "keepdims": False} for axes in _EVERY)


def count_over(shape: Shape, axis: Axes) -> int:
    """How many elements are summarised in one."""
    return math.prod(shape[i] for i in axis)


def reduction_aval(name: str, kinds: str = "biufc", *, empty: bool = True) -> Rule:
    """The shape and dtype rule of reductions that keep the dtype; ``empty``: whether they take no elements."""

    def aval(x: Aval, axis: Axes, keepdims: bool, **options: Any) -> Aval:
        if x.dtype.kind not in kinds:
            raise DtypeError(f"{name} takes other values than {x}", mend="convert it with astype")
        if not empty and not count_over(x.shape, axis):
            raise ShapeError(f"{name} of no elements: {x} along {axis}", mend="reduce axes that are not empty")
        return Aval(reduced(x.shape, axis, keepdims), x.dtype)

    return aval


def reduction_samples(rng: np.random.Generator, **options: Any) -> list[Sample]:
    """Arrays without ties or zeros, reduced along every kind of axis."""

    def draw(*shape: int) -> Any:
        return rng.permutation(np.linspace(0.3, 2.3, math.prod(shape))).reshape(shape) * rng.choice((-1.0, 1.0), shape)

    some = [Sample((draw(2, 3, 2),), {"axis": axis, **options}) for axis in (1, (0, -1), ())]
    more = [Sample((draw(2, 3),), {"keepdims": True, **options}), Sample((draw(),), options), Sample((draw(0, 3),), {"axis": 1, **options})]
    return [*some, *more]


def refusals(**options: Any) -> list[Refusal]:
    """Axes that no reduction takes."""
    return [
        Refusal((np.ones((2, 3)),), AxisError, "out of range", {"axis": 2, **options}),
        Refusal((np.ones((2, 3)),), AxisError, "twice", {"axis": (1, -1), **options}),
    ]


def reducer(primitive: Primitive) -> Callable[..., Any]:
    """``f(x, axis, keepdims, **options)``: a reduction with its axes brought to normal form."""
    name = primitive.name
    apply = short(primitive)

    def reduce(x: Any, axis: Axis, keepdims: bool, **options: Any) -> Any:
        rank = len(x.shape)
        if axis is None:
            if keepdims is False and not options:
                return apply(x, _WHOLE[rank])
            axes = _EVERY[rank]
        elif isinstance(axis, int) and -rank <= axis < rank:
            axes = (axis % rank,)
        else:
            axes = normalize_axes(axis, rank, name)
        return apply(x, {"axis": axes, "keepdims": keepdims is True or bool(keepdims), **options})

    return reduce


def own_dtype(x: Any) -> Any:
    """What to tell NumPy so that sums and products keep the dtype: it widens small integers by itself."""
    return x.dtype if x.dtype.kind in "biu" else None


def accumulated(x: Any, dtype: Any, operation: str) -> Any:
    """``x`` in the dtype that sums and products of it have by default, or in the given one."""
    values = lift(x)
    if dtype is None and values.dtype.kind == "f":
        return values
    if dtype is not None:
        return to_dtype(values, as_dtype(dtype, operation))
    if values.dtype.kind in "bi":
        return to_dtype(values, DEFAULT_INT)
    return to_dtype(values, np.dtype("uint64")) if values.dtype.kind == "u" else values


def _sum_eval(x: Any, axis: Axes, keepdims: bool) -> Any:
    return total(x, axis, keepdims) if x.dtype.kind == "f" else add(x, axis, own_dtype(x), None, keepdims)


def reduced_source(function: str, x: Any, axis: Axes, keepdims: bool) -> str:
    """A reduction by a NumPy function that keeps the dtype, as source."""
    along = "None" if len(axis) == x.ndim else str(axis[0] if len(axis) == 1 else axis)
    return f"{function}({x}, {along}, None, None, True)" if keepdims else f"{function}({x}, {along})"


def sum_source(x: Any, axis: Axes, keepdims: bool) -> str | None:
    """What `total` does with small arrays, and where rows are few, as source."""
    if x.dtype.itemsize < 4 or x.dtype.kind == "c" or not axis or (x.size >= LARGE and not few_rows(x.shape, axis)):
        return None
    if x.dtype.kind == "f" and len(axis) == x.ndim and not keepdims:
        flat = f"{x}.reshape(-1)" if x.ndim > 1 else x
        return f"{flat}.dot({x.array(f'ones_{x.size}', ones(x.size, x.dtype))})"
    return reduced_source("np.add.reduce", x, axis, keepdims) if x.dtype.itemsize == 8 or x.dtype.kind == "f" else None


SUM = Primitive(
    name="sum",
    inputs=("x",),
    aval=reduction_aval("sum"),
    eval=_sum_eval,
    transpose=lambda ct, to, axis, keepdims: spread(ct, axis, keepdims, to.shape),
    batch=batch_axes,
    loops=reduced_loops(lambda w, group: group.sum()),
    kernel="reduce",
    numpy=sum_source,
    onnx="ReduceSum",
    sign="Σ",
    samples=lambda rng: [*reduction_samples(rng), Sample((rng.normal(size=(0, 3)),), {"axis": 0}), Sample((np.array([2, 3]),), {"dtype": "int8"})],
    refuses=refusals,
)


_sum = reducer(SUM)
_whole_sum = short(SUM)


@gate(SUM)
def sum(x: Tensor | npt.ArrayLike, /, *, axis: Axis = None, dtype: npt.DTypeLike | None = None, keepdims: bool = False) -> Tensor:
    """Sum along axes; booleans and integers are summed as int64 (uint64 if unsigned).

    Parameters
    ----------
    x : Tensor or array_like
        Of any shape.
    axis : int or tuple of int, optional
        Axes to sum away; all of them if not given.
    dtype : dtype, optional
        Convert to it before summing.
    keepdims : bool
        Keep summed axes with size 1.

    Returns
    -------
    Tensor
        Without the summed axes, or with size 1 there; 0 for no elements.

    Raises
    ------
    AxisError
        If an axis is out of range or stands twice.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    >>> total = cr.sum(x, axis=0); total
    tensor([4., 6.], from=sum)
    >>> total.backward([1.0, 10.0]); x.grad
    tensor([[ 1., 10.],
            [ 1., 10.]])
    """
    if axis is None and dtype is None and keepdims is False and isinstance(x, Tensor) and x._value.dtype.kind == "f":
        return _whole_sum(x, _WHOLE[x._value.ndim])
    return _sum(accumulated(x, dtype, "sum"), axis, keepdims)


def _others(x: Any, axis: Axes) -> Any:
    """For every element the product of all others that are multiplied with it."""
    order = (*(i for i in range(len(x.shape)) if i not in axis), *axis)
    moved = permute_dims(x, order)
    kept = len(order) - len(axis)
    lanes = reshape(moved, (*moved.shape[:kept], count_over(x.shape, axis)))
    if not lanes.shape[-1]:
        return x
    # Products from the left and from the right: right where elements are zero, and so are their derivatives.
    before = functions.cumulative_prod(lanes[..., :-1], axis=-1, include_initial=True)
    after = flip(functions.cumulative_prod(flip(lanes, axis=-1)[..., :-1], axis=-1, include_initial=True), axis=-1)
    return permute_dims(reshape(before * after, moved.shape), inverse(order))


PROD = Primitive(
    name="prod",
    inputs=("x",),
    aval=reduction_aval("prod"),
    eval=lambda x, axis, keepdims: multiply(x, axis, own_dtype(x), None, keepdims),
    vjp=(lambda ct, x, axis, keepdims: weigh(ct, _others(x, axis), axis, keepdims),),
    jvp=(lambda t, x, axis, keepdims: weighted_sum(t, _others(x, axis), axis, keepdims),),
    batch=batch_axes,
    loops=reduced_loops(lambda w, group: group.fold(1, lambda total, e: total * e, wanted="product")),
    kernel="reduce",
    onnx="ReduceProd",
    samples=lambda rng: [
        *reduction_samples(rng),
        Sample((np.array([[0.0, 1.5, -2.0], [0.0, 0.0, 3.0]]),), {"axis": 1}),
        Sample((np.array([0.0, 0.0, 0.0]),)),
        Sample((rng.integers(0, 5, (3,)),), {"dtype": "int8"}),
        Sample((rng.normal(size=(0, 3)),), {"axis": 0}),
    ],
    refuses=refusals,
)


_prod = reducer(PROD)


@gate(PROD)
def prod(x: Tensor | npt.ArrayLike, /, *, axis: Axis = None, dtype: npt.DTypeLike | None = None, keepdims: bool = False) -> Tensor:
    """Product along axes; booleans and integers are multiplied as int64 (uint64 if unsigned).

    Parameters
    ----------
    x : Tensor or array_like
        Of any shape.
    axis : int or tuple of int, optional
        Axes to multiply away; all of them if not given.
    dtype : dtype, optional
        Convert to it before multiplying.
    keepdims : bool
        Keep reduced axes with size 1.

    Returns
    -------
    Tensor
        Without the reduced axes, or with size 1 there; 1 for no elements.

    Raises
    ------
    AxisError
        If an axis is out of range or stands twice.

    Notes
    -----
    The derivative with respect to one element is the product of all others. It is computed without a division, so
    it is right with any number of zeros, in every order of differentiation.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([2.0, 0.0, 3.0], requires_grad=True)
    >>> cr.prod(x).backward(); x.grad
    tensor([0., 6., 0.])
    """
    return _prod(accumulated(x, dtype, "prod"), axis, keepdims)


def shares(x: Any, out: Any, axis: Axes, keepdims: bool) -> Any:
    """1 over the number of elements that tie for the extremum, at these elements."""
    ties = functions.astype(x == spread(out, axis, keepdims, x.shape), x.dtype)
    return ties / sum(ties, axis=axis, keepdims=True)


def _extremum(name: str, extreme: Callable[..., Any], onnx: str, which: str, prints: str):
    primitive = Primitive(
        name=name,
        inputs=("x",),
        aval=reduction_aval(name, "iuf", empty=False),
        eval=lambda x, axis, keepdims: extreme(x, axis, None, None, keepdims),
        numpy=lambda x, axis, keepdims: reduced_source(f"np.{name}imum.reduce", x, axis, keepdims) if axis else None,
        vjp=(lambda ct, x, out, axis, keepdims: weigh(ct, shares(x, out, axis, keepdims), axis, keepdims),),
        jvp=(lambda t, x, out, axis, keepdims: weighted_sum(t, shares(x, out, axis, keepdims), axis, keepdims),),
        batch=batch_axes,
        loops=reduced_loops(lambda w, group: group.top() if name == "max" else group.least()),
        kernel="reduce",
        onnx=onnx,
        samples=reduction_samples,
        refuses=lambda: [
            *refusals(),
            Refusal((np.ones((0, 3)),), ShapeError, "no elements", {"axis": 0}),
            Refusal((np.array(1j),), DtypeError, "complex"),
            Refusal((np.array([True]),), DtypeError, "takes"),
        ],
    )
    reduce = reducer(primitive)

    def extremum(x: Tensor | npt.ArrayLike, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The {which} element along axes; NaN if there is one.

        Elements that tie share the gradient equally.

        Parameters
        ----------
        x : Tensor or array_like
            Real numbers.
        axis : int or tuple of int, optional
            Axes to reduce; all of them if not given.
        keepdims : bool
            Keep reduced axes with size 1.

        Returns
        -------
        Tensor
            Without the reduced axes, or with size 1 there.

        Raises
        ------
        AxisError
            If an axis is out of range or stands twice.
        DtypeError
            For complex or boolean values.
        ShapeError
            If there are no elements to choose from.

        Examples
        --------
        >>> import chainrule as cr
        >>> x = cr.tensor([1.0, 3.0, 3.0], requires_grad=True)
        >>> cr.{name}(x).backward(); x.grad
        tensor({prints})
        """
        return reduce(operands(name, "real", x)[0], axis, keepdims)

    return gate_of(primitive, extremum, which=which, prints=prints)


max = _extremum("max", maximum, "ReduceMax", "largest", "[0. , 0.5, 0.5]")
min = _extremum("min", minimum, "ReduceMin", "smallest", "[1., 0., 0.]")
