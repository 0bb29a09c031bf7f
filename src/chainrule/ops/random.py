"""The namespace ``chainrule.random``: random numbers that are a function of a key.

All come from one gate, `random_bits`. Equal keys give equal bits, on any machine and in any interpreter;
distributions are made of the bits by ordinary gates, through which gradients flow to their parameters. A
`Generator` hands out one key after the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import Dtype, Shape, broadcast, float32, float64, normalize_axis
from chainrule.core.errors import ArgumentError, DtypeError, ShapeError
from chainrule.ops.arithmetic import sqrt
from chainrule.ops.creation import astype
from chainrule.ops.discrete import argmax
from chainrule.ops.gate import BARE, alias, as_dtype, describe, lift
from chainrule.ops.gathering import take
from chainrule.ops.generator import Generator, default_generator, key, manual_seed, split
from chainrule.ops.joining import concat
from chainrule.ops.movement import reshape
from chainrule.ops.philox import fold_in, middle, open_unit, random_bits, sizes_of, uint32, uint64, unit
from chainrule.ops.sorting import argsort
from chainrule.ops.transcendental import cos, log, sin
from chainrule.tensor import Tensor

__all__ = [
    "Generator",
    "bernoulli",
    "categorical",
    "default_generator",
    "dropout",
    "exponential",
    "fold_in",
    "gumbel",
    "key",
    "manual_seed",
    "normal",
    "permutation",
    "randint",
    "random_bits",
    "split",
    "uniform",
]


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    import numpy.typing as npt


def _draw(name: str, shape: Shape, dtype: Dtype, generator: Generator | None, key: Tensor | npt.ArrayLike | None) -> Any:
    """Random bits for one draw, with as many bits as the dtype has."""
    if key is not None and generator is not None:
        raise ArgumentError(f"{name}: both a key and a generator", mend="give one of them")
    words = (generator or default_generator).next() if key is None else lift(key)
    if words.shape != (2,):
        raise ShapeError(f"{name}: a key {describe(words)}", mend="give one key; vmap draws with several")
    return random_bits(words, shape, dtype=uint32 if dtype.itemsize <= 4 else uint64)


def _parameters(name: str, shape: int | Sequence[int], dtype: npt.DTypeLike | None, *parameters: Any) -> tuple[Shape, Dtype, list[Any]]:
    """The full shape, the floating-point dtype, and parameters lifted unless they are plain numbers."""
    lifted: list[Any] = [float(p) if isinstance(p, (int, float)) else lift(p) for p in parameters]
    tensors: list[Any] = [p for p in lifted if p.__class__ is not float]
    wide = any(p.dtype == float64 for p in tensors)
    kind = as_dtype(dtype or (float64 if wide else float32), name)
    if kind not in (float32, float64):
        raise DtypeError(f"{name}: no random numbers of dtype {kind}", mend="choose float32 or float64, and convert the result")
    return broadcast(sizes_of(name, shape), *(p.shape for p in tensors)), kind, lifted


def _within(name: str, parameter: str, given: Any, most: float = math.inf) -> None:
    """Refuse a parameter below 0, above ``most`` or NaN, where its values are known."""
    values: Any = given._value if isinstance(given, Tensor) else given
    known = values.__class__ is float or isinstance(values, BARE)
    if known and not np.all(np.logical_and(np.greater_equal(values, 0), np.less_equal(values, most))):
        span = "0 or more" if most == math.inf else f"between 0 and {most:g}"
        raise ArgumentError(f"{name}: {parameter}={values}", mend=f"{parameter} must be {span}")


def _wide(x: Any) -> Any:
    """In float64: rounded to float32 only in the end, numbers have the same bits, all but never others, however they are computed."""
    return astype(x, float64, copy=False)


def _affine(x: Any, scale: Any, shift: Any, kind: Dtype) -> Any:
    x = x if scale.__class__ is float and scale == 1 else _wide(x) * scale
    return astype(x if shift.__class__ is float and shift == 0 else _wide(x) + shift, kind, copy=False)


def uniform(
    shape: int | Sequence[int] = (),
    low: Tensor | npt.ArrayLike = 0.0,
    high: Tensor | npt.ArrayLike = 1.0,
    *,
    dtype: npt.DTypeLike | None = None,
    generator: Generator | None = None,
    key: Tensor | npt.ArrayLike | None = None,
) -> Tensor:
    """Numbers spread evenly over [low, high).

    Parameters
    ----------
    shape : int or tuple of int
        Of the result, which has also the axes of ``low`` and ``high``: they broadcast.
    low, high : Tensor or array_like
        Gradients flow to them.
    dtype : dtype, optional
        float32 or float64; if not given float32, or float64 where ``low`` or ``high`` is.
    generator : Generator, optional
        The default one if neither it nor a key is given.
    key : Tensor, optional
        Draw with this key.

    Returns
    -------
    Tensor

    Raises
    ------
    DtypeError
        For another dtype.
    ArgumentError
        If both a generator and a key are given.

    Notes
    -----
    ``low + u * (high - low)`` with u a multiple of 2**-24 (2**-53 for float64) below 1; rounding may give ``high`` itself.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.random.uniform((100,), -1.0, 1.0)
    >>> bool((abs(x) <= 1).all())
    True
    """
    sizes, kind, (bottom, top) = _parameters("uniform", shape, dtype, low, high)
    return _affine(unit(_draw("uniform", sizes, kind, generator, key), kind), top - bottom, bottom, kind)


def normal(
    shape: int | Sequence[int] = (),
    mean: Tensor | npt.ArrayLike = 0.0,
    std: Tensor | npt.ArrayLike = 1.0,
    *,
    dtype: npt.DTypeLike | None = None,
    generator: Generator | None = None,
    key: Tensor | npt.ArrayLike | None = None,
) -> Tensor:
    """Normally distributed numbers.

    Parameters
    ----------
    shape : int or tuple of int
        Of the result, which has also the axes of ``mean`` and ``std``: they broadcast.
    mean, std : Tensor or array_like
        Mean and standard deviation; gradients flow to them.
    dtype, generator, key
        As for `uniform`.

    Returns
    -------
    Tensor

    Raises
    ------
    ArgumentError
        If a standard deviation is negative.

    Notes
    -----
    ``mean + std * z``, with z by Box and Muller's method ("A note on the generation of random normal deviates", 1958):
    ``sqrt(-2 log u) * (cos t, sin t)`` for u uniform in (0, 1] and t in [0, 2 pi).

    Examples
    --------
    >>> import chainrule as cr
    >>> mean = cr.tensor(2.0, requires_grad=True)
    >>> cr.random.normal((10,), mean).sum().backward(); mean.grad
    tensor(10.)
    """
    sizes, kind, (center, scale) = _parameters("normal", shape, dtype, mean, std)
    _within("normal", "std", scale)
    count = math.prod(sizes)
    bits = _draw("normal", (2, (count + 1) // 2), kind, generator, key)
    radius = sqrt(log(_wide(open_unit(bits[0], kind))) * -2.0)
    angle = _wide(unit(bits[1], kind)) * (2 * math.pi)
    both = concat([radius * cos(angle), radius * sin(angle)])
    return _affine(reshape(both[:count], sizes), scale, center, kind)


def exponential(
    shape: int | Sequence[int] = (),
    scale: Tensor | npt.ArrayLike = 1.0,
    *,
    dtype: npt.DTypeLike | None = None,
    generator: Generator | None = None,
    key: Tensor | npt.ArrayLike | None = None,
) -> Tensor:
    """Exponentially distributed numbers.

    Parameters
    ----------
    shape : int or tuple of int
        Of the result, which has also the axes of the parameters: they broadcast.
    scale : Tensor or array_like
        Mean; gradients flow to it.
    dtype, generator, key
        As for `uniform`.

    Returns
    -------
    Tensor

    Notes
    -----
    ``-scale * log(u)`` for u uniform in (0, 1].

    Examples
    --------
    >>> import chainrule as cr
    >>> bool((cr.random.exponential((100,)) >= 0).all())
    True
    """
    sizes, kind, (mean,) = _parameters("exponential", shape, dtype, scale)
    _within("exponential", "scale", mean)
    return _affine(-log(_wide(open_unit(_draw("exponential", sizes, kind, generator, key), kind))), mean, 0.0, kind)


def gumbel(
    shape: int | Sequence[int] = (),
    loc: Tensor | npt.ArrayLike = 0.0,
    scale: Tensor | npt.ArrayLike = 1.0,
    *,
    dtype: npt.DTypeLike | None = None,
    generator: Generator | None = None,
    key: Tensor | npt.ArrayLike | None = None,
) -> Tensor:
    """Gumbel-distributed numbers: the greatest of many, and what `categorical` adds to logits.

    Parameters
    ----------
    shape : int or tuple of int
        Of the result, which has also the axes of the parameters: they broadcast.
    loc, scale : Tensor or array_like
        Mode and spread; gradients flow to them.
    dtype, generator, key
        As for `uniform`.

    Returns
    -------
    Tensor

    Notes
    -----
    ``loc - scale * log(-log(u))`` for u uniform in (0, 1).

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.random.gumbel((2, 3)).shape
    (2, 3)
    """
    sizes, kind, (mode, spread) = _parameters("gumbel", shape, dtype, loc, scale)
    _within("gumbel", "scale", spread)
    u = _wide(middle(_draw("gumbel", sizes, kind, generator, key), kind))
    return _affine(-log(-log(u)), spread, mode, kind)


def bernoulli(
    p: Tensor | npt.ArrayLike = 0.5,
    shape: int | Sequence[int] = (),
    *,
    generator: Generator | None = None,
    key: Tensor | npt.ArrayLike | None = None,
) -> Tensor:
    """True with probability ``p``.

    Parameters
    ----------
    p : Tensor or array_like
        Probabilities.
    shape : int or tuple of int
        Of the result, which has also the axes of ``p``: they broadcast.
    generator, key
        As for `uniform`.

    Returns
    -------
    Tensor of bool

    Raises
    ------
    ArgumentError
        If a probability is not between 0 and 1.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.random.bernoulli([0.0, 1.0], (2, 1))
    tensor([[False,  True],
            [False,  True]])
    """
    sizes, kind, (chance,) = _parameters("bernoulli", shape, None, p)
    _within("bernoulli", "p", chance, 1.0)
    return unit(_draw("bernoulli", sizes, kind, generator, key), kind) < chance


def randint(
    shape: int | Sequence[int],
    low: int,
    high: int,
    *,
    dtype: npt.DTypeLike = np.int64,
    generator: Generator | None = None,
    key: Tensor | npt.ArrayLike | None = None,
) -> Tensor:
    """Integers spread evenly over ``low <= n < high``.

    Parameters
    ----------
    shape : int or tuple of int
    low, high : int
    dtype : dtype
        An integer dtype.
    generator, key
        As for `uniform`.

    Returns
    -------
    Tensor

    Raises
    ------
    ArgumentError
        If no integer lies between, or the limits are not integers.

    Notes
    -----
    The remainder of 64 random bits: no integer is likelier than another by more than ``(high - low) / 2**64``.

    Examples
    --------
    >>> import chainrule as cr
    >>> set(cr.random.randint(100, 1, 4).tolist()) == {1, 2, 3}
    True
    """
    try:
        low, high = index(low), index(high)
    except TypeError:
        raise ArgumentError(f"randint: low={low!r} and high={high!r} are not both integers", mend="write randint(shape, low, high)") from None
    span = high - low
    if not 0 < span < 2**63:
        raise ArgumentError(f"randint: no integers from {low} to {high}", mend="high must be greater than low, by less than 2**63")
    bits = _draw("randint", sizes_of("randint", shape), float64, generator, key)
    return astype(astype(bits % span, np.dtype("int64")) + low, as_dtype(dtype, "randint"))


def permutation(
    x: int | Tensor | npt.ArrayLike, /, *, axis: int = 0, generator: Generator | None = None, key: Tensor | npt.ArrayLike | None = None
) -> Tensor:
    """The numbers below ``x`` in random order, or the slices of ``x`` along an axis in random order.

    Parameters
    ----------
    x : int, or Tensor or array_like
        How many numbers, or what to permute.
    axis : int
        Slices along this axis keep together.
    generator, key
        As for `uniform`.

    Returns
    -------
    Tensor
        Of int64 for an int, else of the shape and dtype of ``x``; gradients find their way back.

    Notes
    -----
    Random 64-bit words are sorted.

    Examples
    --------
    >>> import chainrule as cr
    >>> sorted(cr.random.permutation(4).tolist())
    [0, 1, 2, 3]
    """
    if isinstance(x, int):
        return argsort(_draw("permutation", sizes_of("permutation", x), float64, generator, key))
    values = lift(x)
    axis = normalize_axis(axis, len(values.shape), "permutation")
    order = argsort(_draw("permutation", (values.shape[axis],), float64, generator, key))
    return take(values, order, axis=axis)


def categorical(
    logits: Tensor | npt.ArrayLike,
    /,
    *,
    axis: int = -1,
    shape: int | Sequence[int] = (),
    generator: Generator | None = None,
    key: Tensor | npt.ArrayLike | None = None,
) -> Tensor:
    """Class numbers, drawn with probabilities ``softmax(logits)``.

    Parameters
    ----------
    logits : Tensor or array_like
        Unnormalised log-probabilities; ``axis`` runs over the classes.
    axis : int
    shape : int or tuple of int
        This many draws for every distribution; these axes stand in front of the others.
    generator, key
        As for `uniform`.

    Returns
    -------
    Tensor of int64
        Of shape ``(*shape, *rest)``, where rest is the shape of the logits without ``axis``.

    Notes
    -----
    The class with the greatest sum of logit and Gumbel noise (Gumbel, "Statistical theory of extreme values", 1954).

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.random.categorical([0.0, 1000.0], shape=3)
    tensor([1, 1, 1])
    """
    scores = lift(logits)
    axis = normalize_axis(axis, len(scores.shape), "categorical")
    front = sizes_of("categorical", shape)
    noise = gumbel((*front, *scores.shape), dtype=scores.dtype if scores.dtype == float64 else float32, generator=generator, key=key)
    return argmax(noise + scores, axis=len(front) + axis)


def dropout(
    x: Tensor | npt.ArrayLike,
    rate: float = 0.5,
    /,
    *,
    training: bool = True,
    generator: Generator | None = None,
    key: Tensor | npt.ArrayLike | None = None,
) -> Tensor:
    """Zero every element with probability ``rate``, and scale the others so that the mean stays.

    Parameters
    ----------
    x : Tensor or array_like
        Floating-point values.
    rate : float
        In [0, 1).
    training : bool
        If False, ``x`` itself is returned.
    generator, key
        As for `uniform`.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``x``.

    Raises
    ------
    ArgumentError
        If the rate is outside of [0, 1).

    Notes
    -----
    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting" (2014); scaled by ``1 / (1 - rate)``
    in training, so that nothing is left to do in use.

    Examples
    --------
    >>> import chainrule as cr
    >>> sorted(set(cr.random.dropout(cr.ones(100), 0.75).tolist()))
    [0.0, 4.0]
    """
    if not 0 <= rate < 1:
        raise ArgumentError(f"dropout: rate={rate}", mend="it is the share of zeros, at least 0 and below 1")
    values = lift(x)
    if not training or rate == 0:
        return alias(values)
    kept = _draw("dropout", values.shape, float32, generator, key) >= min(round(rate * 2**32), 2**32 - 1)
    return values * (astype(kept, values.dtype) * (1 / (1 - rate)))
