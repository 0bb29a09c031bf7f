"""Gates that choose, element by element, which of their inputs goes through.

Backward sends the cotangent to the input that was chosen and an exact 0 to the others, by choosing
again and never by multiplying: NaN and infinity of an input that was not taken reach no gradient,
here or in any gate before (see ``masks`` of `Primitive`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import Aval, broadcast, promote
from chainrule.core.errors import DtypeError, ShapeError
from chainrule.core.interp import ARRAYS, current
from chainrule.core.primitive import Primitive, Refusal, Sample
from chainrule.ops.elementwise import binary
from chainrule.ops.gate import BARE, batch_elementwise, broadcast_avals, describe, elementwise_aval, gate, lift, operands
from chainrule.tape import bind
from chainrule.tensor import Tensor

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["clip", "maximum", "minimum", "stop_gradient", "where"]

# From this size on, a choice by bits beats NumPy's, which branches on every element.
_MANY = 1024
_WORDS = {1: np.dtype("int8"), 2: np.dtype("int16"), 4: np.dtype("int32"), 8: np.dtype("int64")}


def _select(condition: Any, x1: Any, x2: Any) -> Any:
    dtype = x1.dtype
    word = _WORDS.get(dtype.itemsize)
    if word is None or (condition.size < _MANY and x1.size < _MANY and x2.size < _MANY):
        return np.where(condition, x1, x2)[()]
    # All bits set where the condition holds: x2 ^ ((x1 ^ x2) & mask) has exactly the bits of the one or the other.
    mask = np.negative(condition.view(np.int8)).astype(word)
    a, b = x1.view(word), x2.view(word)
    if not b.shape and b == 0:
        return np.bitwise_and(a, mask).view(dtype)
    if not a.shape and a == 0:
        return np.bitwise_and(b, np.invert(mask, out=mask if mask.shape else None)).view(dtype)
    differ = np.bitwise_xor(a, b)
    shape = broadcast(differ.shape, mask.shape)
    chosen = np.bitwise_and(differ, mask, out=differ if differ.shape == shape else mask if mask.shape == shape else None)
    return np.bitwise_xor(chosen, b, out=chosen).view(dtype)


def _select_source(condition: Any, x1: Any, x2: Any) -> str | None:
    if x1.dtype != x2.dtype or max(condition.size, x1.size, x2.size) >= _MANY:
        return None
    shaped = condition.shape or x1.shape or x2.shape
    return f"np.where({condition}, {x1}, {x2})" if shaped else f"{x1} if {condition} else {x2}"


def _where_aval(condition: Aval, x1: Aval, x2: Aval) -> Aval:
    if condition.dtype.kind != "b":
        raise DtypeError(f"where takes a boolean condition, not {condition}", mend="compare first: x != 0 is boolean")
    return Aval(broadcast_avals("where", (condition, x1, x2)), promote(x1.dtype, x2.dtype))


def _where_samples(rng: np.random.Generator) -> list[Sample]:
    shapes = (((2, 3), (2, 3), (2, 3)), ((3,), (2, 1), ()), ((2, 3), (), (3,)), ((), (), ()), ((0, 2), (2,), ()), ((2, 1200), (1200,), (2, 1)))
    return [Sample((rng.random(size=c) < 0.5, rng.normal(size=a), rng.normal(size=b))) for c, a, b in shapes]


WHERE = Primitive(
    name="where",
    inputs=("condition", "x1", "x2"),
    aval=_where_aval,
    eval=_select,
    transpose=(None, lambda ct, condition: where(condition, ct, 0.0), lambda ct, condition: where(condition, 0.0, ct)),
    batch=batch_elementwise,
    masks=True,
    scalar=lambda k, condition, x1, x2: k.select(condition, x1, x2),
    numpy=_select_source,
    onnx="Where",
    samples=_where_samples,
    refuses=lambda: [
        Refusal((np.ones(3), np.ones(3), np.ones(3)), DtypeError, "boolean"),
        Refusal((np.ones(3, bool), np.ones(3), np.ones(2)), ShapeError, "broadcast"),
        Refusal((np.ones(3, bool), np.array(["a"]), np.ones(3)), DtypeError, "numbers"),
    ],
)


@gate(WHERE)
def where(condition: Tensor | npt.ArrayLike, x1: Tensor | npt.ArrayLike, x2: Tensor | npt.ArrayLike, /) -> Tensor:
    """Where the condition holds ``x1``, elsewhere ``x2``, element by element.

    Parameters
    ----------
    condition : Tensor or array_like
        Boolean; all three shapes broadcast.
    x1, x2 : Tensor or array_like
        Values of any kind; Python scalars take the other's dtype.

    Returns
    -------
    Tensor
        Of the broadcast shape and the promoted dtype of ``x1`` and ``x2``.

    Raises
    ------
    DtypeError
        If the condition is not boolean.
    ShapeError
        If the shapes do not broadcast.

    Notes
    -----
    The gradient of the value not taken is exactly 0, and stays 0 on its way further back even through
    infinite or undefined local derivatives: ``where(x > 0, sqrt(x), 0)`` has the gradient 0 at 0.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([4.0, 0.0], requires_grad=True)
    >>> y = cr.where(x > 0, cr.sqrt(x), 0.0); y
    tensor([2., 0.], from=where)
    >>> y.sum().backward(); x.grad
    tensor([0.25, 0.  ])
    """
    if current() is ARRAYS and isinstance(condition, BARE) and condition.dtype.kind == "b":
        # The derivative rules' way: a cotangent and a 0.
        a: Any = x2.dtype.type(x1) if x1.__class__ is float and isinstance(x2, BARE) else x1
        b: Any = x1.dtype.type(x2) if x2.__class__ is float and isinstance(x1, BARE) else x2
        if isinstance(a, BARE) and isinstance(b, BARE) and a.dtype is b.dtype and a.dtype.kind == "f":
            return _select(condition, a, b)  # type: ignore[return-value] - bare arrays among themselves
    chosen = lift(condition)
    if chosen.dtype.kind != "b":
        raise DtypeError(f"where takes a boolean condition, not {describe(chosen)}", mend="compare first: x != 0 is boolean")
    return bind(WHERE, (chosen, *operands("where", "any", x1, x2)))


def _share(ct: Any, loses: Any, ties: Any) -> Any:
    """The part of ``ct`` that goes to an input: nothing if it loses, half if it ties."""
    return where(loses, 0.0, where(ties, 0.5 * ct, ct))


_TIES = """\
The gradient goes to the input that is chosen; where both are equal, half of it to each. If either
is NaN, so is the result."""

maximum = binary(
    "maximum",
    "The larger value, elementwise.",
    kinds="real",
    vjp=(lambda ct, x1, x2: _share(ct, x1 < x2, x1 == x2), lambda ct, x1, x2: _share(ct, x2 < x1, x1 == x2)),
    jvp=(lambda t, x1, x2: _share(t, x1 < x2, x1 == x2), lambda t, x1, x2: _share(t, x2 < x1, x1 == x2)),
    masks=True,
    scalar=lambda k, x1, x2: k.maximum(x1, x2),
    onnx="Max",
    notes=_TIES,
    example=("[1.0, 2.0, 3.0]", "[2.0, 2.0, 2.0]", "tensor([2., 2., 3.])"),
    gradients=("tensor([0. , 0.5, 1. ])", "tensor([1. , 0.5, 0. ])"),
)
minimum = binary(
    "minimum",
    "The smaller value, elementwise.",
    kinds="real",
    vjp=(lambda ct, x1, x2: _share(ct, x1 > x2, x1 == x2), lambda ct, x1, x2: _share(ct, x2 > x1, x1 == x2)),
    jvp=(lambda t, x1, x2: _share(t, x1 > x2, x1 == x2), lambda t, x1, x2: _share(t, x2 > x1, x1 == x2)),
    masks=True,
    scalar=lambda k, x1, x2: k.minimum(x1, x2),
    onnx="Min",
    notes=_TIES,
    example=("[1.0, 2.0, 3.0]", "[2.0, 2.0, 2.0]", "tensor([1., 2., 2.])"),
    gradients=("tensor([1. , 0.5, 0. ])", "tensor([0. , 0.5, 1. ])"),
)


def _inside(ct: Any, x: Any, min: Any, max: Any) -> Any:
    return where((x < min) | (x > max), 0.0, ct)


def _at_min(ct: Any, x: Any, min: Any, max: Any) -> Any:
    return where((x < min) & (min <= max), ct, 0.0)


def _at_max(ct: Any, x: Any, min: Any, max: Any) -> Any:
    return where((x > max) | (min > max), ct, 0.0)


def _many(x: Any, min: Any, max: Any) -> bool:
    """Whether NumPy's clip is quickest: with numbers as bounds. Then a zero between zeros keeps its sign, as it does in the other way."""
    return x.size > _MANY and not min.shape and not max.shape


CLIP = Primitive(
    name="clip",
    inputs=("x", "min", "max"),
    aval=elementwise_aval("clip", "real"),
    eval=lambda x, min, max: np.clip(x, min, max) if _many(x, min, max) else np.minimum(max, np.maximum(min, x)),
    vjp=(_inside, _at_min, _at_max),
    jvp=(
        lambda t, x, min, max: _inside(t, x, min, max),
        lambda t, x, min, max: _at_min(t, x, min, max),
        lambda t, x, min, max: _at_max(t, x, min, max),
    ),
    batch=batch_elementwise,
    masks=True,
    scalar=lambda k, x, min, max: k.minimum(max, k.maximum(min, x)),
    numpy=lambda x, min, max, out: None if _many(x, min, max) else f"np.minimum({max}, np.maximum({min}, {x}){out})",
    onnx="Clip",
    samples=lambda rng: [
        Sample((rng.normal(size=(3, 4)), -0.5, 0.5)),
        Sample((rng.normal(size=(3, 4)), rng.uniform(-1.0, 0.0, (4,)), rng.uniform(0.0, 1.0, (3, 1)))),
        Sample((rng.normal(size=(3,)), rng.normal())),
        Sample((rng.normal(),), {"max": 0.5}),
        Sample((rng.normal(size=(0, 2)), 0.0, 1.0)),
        Sample((np.arange(5), 1, 3)),
    ],
    refuses=lambda: [
        Refusal((np.array([1j]), 0, 1), DtypeError, "takes"),
        Refusal((np.ones(3), np.ones(2)), ShapeError, "broadcast"),
        Refusal((np.array(["a"]), 0, 1), DtypeError, "numbers"),
    ],
)


@gate(CLIP)
def clip(x: Tensor | npt.ArrayLike, /, min: Tensor | npt.ArrayLike | None = None, max: Tensor | npt.ArrayLike | None = None) -> Tensor:
    """The nearest value between the bounds, elementwise.

    Parameters
    ----------
    x : Tensor or array_like
        Real values of any shape.
    min, max : Tensor or array_like, optional
        Bounds, inclusive, of shapes that broadcast with that of ``x``; Python scalars take its dtype.

    Returns
    -------
    Tensor
        Of the broadcast shape and the promoted dtype.

    Raises
    ------
    DtypeError
        For values of another kind.
    ShapeError
        If the shapes do not broadcast.

    Notes
    -----
    The gradient goes to ``x`` between the bounds and on them, else to the bound that holds. If any of the
    three is NaN, so is the result; if ``min > max``, it is ``max``.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([-2.0, 0.5, 1.0], requires_grad=True)
    >>> y = cr.clip(x, -1.0, 1.0); y
    tensor([-1. ,  0.5,  1. ], from=clip)
    >>> y.sum().backward(); x.grad
    tensor([0., 1., 1.])
    """
    given = operands("clip", "real", x, *(bound for bound in (min, max) if bound is not None))
    low, high = (None, None) if len(given) == 3 else map(lift, _limits(given[0].dtype))
    return bind(CLIP, (given[0], low if min is None else given[1], high if max is None else given[-1]))


def _limits(dtype: Any) -> tuple[Any, Any]:
    """The bounds of nothing: every value of the dtype is between them."""
    if dtype.kind == "f":
        return dtype.type(-np.inf), dtype.type(np.inf)
    found = np.iinfo(dtype)
    return dtype.type(found.min), dtype.type(found.max)


STOP_GRADIENT = Primitive(
    name="stop_gradient",
    inputs=("x",),
    aval=lambda x: x,
    eval=lambda x: x,
    batch=batch_elementwise,
    scalar=lambda k, x: x,
    loops=lambda w, out, x: w.same(out, x),
    onnx="Identity",
    samples=lambda rng: [Sample((rng.normal(size=(2, 3)),)), Sample((rng.normal(),)), Sample((np.arange(3),))],
    refuses=lambda: [Refusal((np.array(["a"]),), DtypeError, "numbers")],
)


@gate(STOP_GRADIENT)
def stop_gradient(x: Tensor | npt.ArrayLike, /) -> Tensor:
    """The values as they are; no derivative of any order or mode passes.

    Parameters
    ----------
    x : Tensor or array_like

    Returns
    -------
    Tensor
        Without history.

    Raises
    ------
    DtypeError
        If ``x`` is not numeric.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor(3.0, requires_grad=True)
    >>> y = x * cr.stop_gradient(x); y.backward(); x.grad
    tensor(3.)
    """
    return bind(STOP_GRADIENT, (lift(x),))
