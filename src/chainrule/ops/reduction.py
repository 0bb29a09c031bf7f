"""Reductions: gates that summarise an array along axes.

The derivative of most of them is one weight per element: the output changes by the sum of
weight times tangent, and the cotangent, spread over the reduced axes, is multiplied by the weight.
`weigh` and `weighted_sum` are these two directions. Weights are computed in gates, so they have derivatives of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import DEFAULT_INT, Aval, Shape, normalize_axes, reduced
from chainrule.core.errors import AxisError, DtypeError, ShapeError
from chainrule.core.primitive import Primitive, Refusal, Rule, Sample, functions
from chainrule.ops.gate import as_dtype, gate, lift, operands, to_dtype
from chainrule.ops.movement import broadcast_to, flip, inverse, permute_dims, reshape
from chainrule.tape import bind
from chainrule.tensor import Axis, Tensor

__all__ = ["logsumexp", "max", "min", "prod", "sum"]

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
    if not keepdims and axis:
        out = reshape(out, tuple(1 if i in axis else size for i, size in enumerate(shape)))
    return broadcast_to(out, shape)


def weigh(ct: Any, weights: Any, axis: Axes, keepdims: bool) -> Any:
    """The cotangent of a reduction's input, given each element's weight."""
    return spread(ct, axis, keepdims, weights.shape) * weights


def weighted_sum(t: Any, weights: Any, axis: Axes, keepdims: bool) -> Any:
    """The tangent of a reduction's output, given each element's weight."""
    return sum(t * weights, axis=axis, keepdims=keepdims)


def batch_reduction(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    """Reduce the same axes, each one place further back."""
    return bind(primitive, inputs, {**params, "axis": tuple(axis + 1 for axis in params["axis"])})


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


def reduce(primitive: Primitive, x: Any, axis: Axis, keepdims: bool, **options: Any) -> Any:
    """Apply a reduction gate with its axes in normal form."""
    return bind(primitive, (x,), {"axis": normalize_axes(axis, len(x.shape), primitive.name), "keepdims": bool(keepdims), **options})


def own_dtype(x: Any) -> Any:
    """What to tell NumPy so that sums and products keep the dtype: it widens small integers by itself."""
    return x.dtype if x.dtype.kind in "biu" else None


def accumulated(x: Any, dtype: Any, operation: str) -> Any:
    """``x`` in the dtype that sums and products of it have by default, or in the given one."""
    values = lift(x)
    if dtype is not None:
        return to_dtype(values, as_dtype(dtype, operation))
    if values.dtype.kind in "bi":
        return to_dtype(values, DEFAULT_INT)
    return to_dtype(values, np.dtype("uint64")) if values.dtype.kind == "u" else values


SUM = Primitive(
    name="sum",
    inputs=("x",),
    aval=reduction_aval("sum"),
    eval=lambda x, axis, keepdims: add(x, axis, own_dtype(x), None, keepdims),
    transpose=lambda ct, to, axis, keepdims: spread(ct, axis, keepdims, to.shape),
    batch=batch_reduction,
    kernel="reduce",
    onnx="ReduceSum",
    samples=lambda rng: [*reduction_samples(rng), Sample((rng.normal(size=(0, 3)),), {"axis": 0}), Sample((np.array([2, 3]),), {"dtype": "int8"})],
    refuses=refusals,
)


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
    return reduce(SUM, accumulated(x, dtype, "sum"), axis, keepdims)


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
    batch=batch_reduction,
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
    return reduce(PROD, accumulated(x, dtype, "prod"), axis, keepdims)


def _shares(x: Any, out: Any, axis: Axes, keepdims: bool) -> Any:
    """1 over the number of elements that tie for the extremum, at these elements."""
    ties = functions.astype(x == spread(out, axis, keepdims, x.shape), x.dtype)
    return ties / sum(ties, axis=axis, keepdims=True)


def _extremum(name: str, extreme: Callable[..., Any], onnx: str) -> Primitive:
    return Primitive(
        name=name,
        inputs=("x",),
        aval=reduction_aval(name, "iuf", empty=False),
        eval=lambda x, axis, keepdims: extreme(x, axis, None, None, keepdims),
        vjp=(lambda ct, x, out, axis, keepdims: weigh(ct, _shares(x, out, axis, keepdims), axis, keepdims),),
        jvp=(lambda t, x, out, axis, keepdims: weighted_sum(t, _shares(x, out, axis, keepdims), axis, keepdims),),
        batch=batch_reduction,
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


MAX = _extremum("max", maximum, "ReduceMax")
MIN = _extremum("min", minimum, "ReduceMin")


@gate(MAX)
def max(x: Tensor | npt.ArrayLike, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The largest element along axes; NaN if there is one.

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
    >>> cr.max(x).backward(); x.grad
    tensor([0. , 0.5, 0.5])
    """
    return reduce(MAX, operands("max", "real", x)[0], axis, keepdims)


@gate(MIN)
def min(x: Tensor | npt.ArrayLike, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The smallest element along axes; NaN if there is one.

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
    >>> cr.min([[3, 1], [2, 4]], axis=1)
    tensor([1, 2])
    """
    return reduce(MIN, operands("min", "real", x)[0], axis, keepdims)


def _logsumexp_eval(x: Any, axis: Axes, keepdims: bool) -> Any:
    with np.errstate(over="ignore", divide="ignore"):
        top = maximum(x, axis, None, None, True, -np.inf)
        top = np.where(np.isfinite(top), top, x.dtype.type(0))
        out = np.log(add(np.exp(x - top), axis, None, None, True)) + top
    return out if keepdims else out.reshape(reduced(x.shape, axis, False))


def _softmax(x: Any, out: Any, axis: Axes, keepdims: bool) -> Any:
    # Where everything is -inf, so is the sum's logarithm; subtracting 0 there instead leaves weights of 0, not NaN.
    safe = functions.where(out == -math.inf, 0.0, out)
    return functions.exp(x - spread(safe, axis, keepdims, x.shape))


LOGSUMEXP = Primitive(
    name="logsumexp",
    inputs=("x",),
    aval=reduction_aval("logsumexp", "f"),
    eval=_logsumexp_eval,
    vjp=(lambda ct, x, out, axis, keepdims: weigh(ct, _softmax(x, out, axis, keepdims), axis, keepdims),),
    jvp=(lambda t, x, out, axis, keepdims: weighted_sum(t, _softmax(x, out, axis, keepdims), axis, keepdims),),
    batch=batch_reduction,
    kernel="reduce",
    onnx="ReduceLogSumExp",
    samples=lambda rng: [*reduction_samples(rng), Sample((np.array([0.5, 1000.0, 1001.0]),))],
    refuses=lambda: [*refusals(), Refusal((np.array([1j]),), DtypeError, "takes")],
)


@gate(LOGSUMEXP)
def logsumexp(x: Tensor | npt.ArrayLike, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Logarithm of the sum of exponentials along axes, without overflow.

    Parameters
    ----------
    x : Tensor or array_like
        Real numbers; integers are converted to float32.
    axis : int or tuple of int, optional
        Axes to reduce; all of them if not given.
    keepdims : bool
        Keep reduced axes with size 1.

    Returns
    -------
    Tensor
        Without the reduced axes, or with size 1 there; -inf for no elements or only -inf, whose gradient is 0.

    Raises
    ------
    AxisError
        If an axis is out of range or stands twice.
    DtypeError
        For complex values.

    Notes
    -----
    ``m + log(sum(exp(x - m)))`` with ``m = max(x)``; the gradient is the softmax of ``x``.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([1000.0, 1000.0], requires_grad=True)
    >>> cr.logsumexp(x).backward(); x.grad
    tensor([0.5, 0.5])
    """
    return reduce(LOGSUMEXP, operands("logsumexp", "real floating", x)[0], axis, keepdims)


def _norm_eval(x: Any, axis: Axes, keepdims: bool, ord: float) -> Any:
    size = np.abs(x)
    if math.isinf(ord):
        return maximum(size, axis, None, None, keepdims, 0) if ord > 0 else minimum(size, axis, None, None, keepdims)
    if ord == 0:
        return add(size != 0, axis, size.dtype, None, keepdims)
    if ord == 1:
        return add(size, axis, None, None, keepdims)
    if ord == 2:
        return np.sqrt(add(size * size, axis, None, None, keepdims))
    with np.errstate(divide="ignore"):
        return add(size**ord, axis, None, None, keepdims) ** (1 / ord)


def _norm_weights(x: Any, out: Any, axis: Axes, keepdims: bool, ord: float) -> Any:
    if ord == 0:
        return functions.zeros_like(x)
    if ord == 1:
        return functions.sign(x)
    if math.isinf(ord):
        return functions.sign(x) * _shares(functions.abs(x), out, axis, keepdims)
    # At a norm of 0 all elements are 0, and so is by convention the derivative.
    size = spread(functions.where(out == 0, 1.0, out), axis, keepdims, x.shape)
    if ord == 2:
        return x / size
    zero = x == 0
    return functions.where(zero, 0.0, functions.sign(x) * (functions.where(zero, 1.0, functions.abs(x)) / size) ** (ord - 1))


def _norm_aval(x: Aval, axis: Axes, keepdims: bool, ord: float) -> Aval:
    out = reduction_aval("vector_norm", "fc", empty=ord != -math.inf)(x, axis, keepdims)
    return Aval(out.shape, np.finfo(out.dtype).dtype)


def _norm_vjp(ct: Any, x: Any, out: Any, axis: Axes, keepdims: bool, ord: float) -> Any:
    return weigh(ct, _norm_weights(x, out, axis, keepdims, ord), axis, keepdims)


def _norm_jvp(t: Any, x: Any, out: Any, axis: Axes, keepdims: bool, ord: float) -> Any:
    return weighted_sum(t, _norm_weights(x, out, axis, keepdims, ord), axis, keepdims)


VECTOR_NORM = Primitive(
    name="vector_norm",
    inputs=("x",),
    aval=_norm_aval,
    eval=_norm_eval,
    vjp=(_norm_vjp,),
    jvp=(_norm_jvp,),
    batch=batch_reduction,
    kernel="reduce",
    onnx="ReduceL2",
    samples=lambda rng: [*reduction_samples(rng), *(reduction_samples(rng, ord=ord)[1] for ord in (0, 1, 3, 0.5, -1.5, math.inf, -math.inf))],
    refuses=lambda: [
        *refusals(),
        Refusal((np.ones(2),), DtypeError, "ord", {"ord": "fro"}),
        Refusal((np.ones(0),), ShapeError, "no elements", {"ord": -math.inf}),
    ],
)


@gate(VECTOR_NORM)
def vector_norm(x: Tensor | npt.ArrayLike, /, *, axis: Axis = None, keepdims: bool = False, ord: float = 2) -> Tensor:
    """Norm of all elements along axes, taken as one vector.

    Parameters
    ----------
    x : Tensor or array_like
        Numbers; integers are converted to float32.
    axis : int or tuple of int, optional
        Axes over which the vector runs; all of them if not given.
    keepdims : bool
        Keep reduced axes with size 1.
    ord : float
        Which norm: 2 the Euclidean length, 1 the sum of sizes, inf the largest and -inf the smallest size, 0 the number of
        elements that are not 0, any other p the p-th root of the sum of p-th powers.

    Returns
    -------
    Tensor
        Real, without the reduced axes, or with size 1 there.

    Raises
    ------
    AxisError
        If an axis is out of range or stands twice.
    DtypeError
        If ``ord`` is not a number.
    ShapeError
        For the smallest size of no elements.

    Notes
    -----
    The derivative at 0, where there is none, is 0 by convention; elements that tie for inf or -inf share it.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([3.0, -4.0], requires_grad=True)
    >>> cr.linalg.vector_norm(x).backward(); x.grad
    tensor([ 0.6, -0.8])
    """
    try:
        power = float(ord)
    except (TypeError, ValueError):
        raise DtypeError(f"vector_norm: ord is a number, not {ord!r}", mend="use linalg.matrix_norm for norms of matrices") from None
    return reduce(VECTOR_NORM, operands("vector_norm", "floating", x)[0], axis, keepdims, ord=power)
