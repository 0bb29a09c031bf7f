"""Clipping: gradients made smaller between the backward pass and the step.

Both functions are made of gates and never look at a value, so they are traced and compiled with the step that
they stand in.
"""

from __future__ import annotations

from collections.abc import Iterable

from chainrule.core.aval import float32
from chainrule.core.errors import ArgumentError
from chainrule.ops.arithmetic import sqrt, square
from chainrule.ops.creation import asarray, astype
from chainrule.ops.reduction import sum
from chainrule.ops.selection import clip, minimum
from chainrule.tensor import Tensor


def clip_by_norm(parameters: Iterable[Tensor], limit: float) -> Tensor:
    """Scale all gradients together so that their common norm is at most ``limit``.

    Parameters
    ----------
    parameters : iterable of Tensor
        Those without a gradient are passed over.
    limit : float
        Positive.

    Returns
    -------
    Tensor
        The norm before: the root of the sum of squares of all gradients, a scalar. If it is infinite or NaN, a
        gradient is, or has too large a square for its dtype, and what is left in ``.grad`` is of no use: look at it before the step if
        that can happen.

    Notes
    -----
    ``g = g * min(1, limit / (norm + 1e-6))`` for every gradient, as in PyTorch's ``clip_grad_norm_``. Pascanu,
    Mikolov and Bengio, "On the difficulty of training recurrent neural networks" (2013), algorithm 1.

    Examples
    --------
    >>> import chainrule as cr
    >>> w = cr.tensor([3.0, 4.0], dtype="float64", requires_grad=True)
    >>> (w * w / 2).sum().backward()
    >>> cr.optim.clip_by_norm([w], limit=1.0)
    tensor(5., dtype=float64)
    >>> w.grad.numpy().round(5).tolist()
    [0.6, 0.8]
    """
    if not 0 < limit < float("inf"):
        raise ArgumentError(f"clip_by_norm: limit={limit}", mend="it must be a finite number above 0")
    found = _gradients(parameters)
    squares = [sum(square(gradient)) for _, gradient in found]
    norm = sqrt(_added(squares)) if squares else asarray(0.0, dtype=float32)
    scale = minimum(limit / (norm + 1e-6), 1.0)
    for parameter, gradient in found:
        parameter.grad = gradient * astype(scale, gradient.dtype, copy=False)
    return norm


def clip_by_value(parameters: Iterable[Tensor], limit: float) -> None:
    """Cut every element of every gradient to the range from ``-limit`` to ``limit``.

    Parameters
    ----------
    parameters : iterable of Tensor
        Those without a gradient are passed over.
    limit : float
        Positive.

    Notes
    -----
    Unlike `clip_by_norm` it changes the direction in which all parameters together go. A NaN stays one.

    Examples
    --------
    >>> import chainrule as cr
    >>> w = cr.tensor([3.0, 0.5], requires_grad=True)
    >>> (w * w / 2).sum().backward()
    >>> cr.optim.clip_by_value([w], 1.0)
    >>> w.grad
    tensor([1. , 0.5])
    """
    if not 0 < limit < float("inf"):
        raise ArgumentError(f"clip_by_value: limit={limit}", mend="it must be a finite number above 0")
    for parameter, gradient in _gradients(parameters):
        parameter.grad = clip(gradient, -limit, limit)


def _gradients(parameters: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Parameters that have a gradient, and that gradient without history."""
    pairs = [(parameter, parameter.grad) for parameter in ([parameters] if isinstance(parameters, Tensor) else parameters)]
    return [(parameter, gradient.detach()) for parameter, gradient in pairs if gradient is not None]


def _added(terms: list[Tensor]) -> Tensor:
    first, *rest = terms
    for term in rest:
        first = first + term
    return first
