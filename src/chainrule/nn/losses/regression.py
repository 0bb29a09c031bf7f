"""Losses of numbers: how far outputs are from targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chainrule.core.errors import ArgumentError
from chainrule.nn.losses.common import reduce, same_shape, scores
from chainrule.ops.arithmetic import square
from chainrule.ops.rounding import abs
from chainrule.ops.selection import minimum
from chainrule.tensor import Tensor

if TYPE_CHECKING:
    import numpy.typing as npt


def _errors(name: str, outputs: Tensor | npt.ArrayLike, targets: Tensor | npt.ArrayLike) -> Tensor:
    outputs = scores(name, outputs)
    return outputs - same_shape(name, outputs, targets)


def mean_squared_error(outputs: Tensor | npt.ArrayLike, targets: Tensor | npt.ArrayLike, *, reduction: str = "mean") -> Tensor:
    """The squares of the differences.

    Parameters
    ----------
    outputs : Tensor of any shape
    targets : Tensor of the outputs' shape
    reduction : {"mean", "sum", "none"}
        What is returned of all squares; the mean is over all elements.

    Returns
    -------
    Tensor
        A scalar, or of the outputs' shape for ``reduction="none"``.

    Raises
    ------
    ShapeError
        If the shapes differ: outputs (N, 1) and targets (N,) would broadcast to (N, N).

    Notes
    -----
    ``(x - t)**2``: for noise of a normal distribution, twice its variance times minus the log-likelihood, up to a
    constant. Legendre (1805).

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([1.0, 4.0], requires_grad=True)
    >>> loss = cr.nn.losses.mean_squared_error(x, [1.0, 2.0])
    >>> loss.backward(); loss.item(), x.grad
    (2.0, tensor([0., 2.]))
    """
    return reduce(square(_errors("mean_squared_error", outputs, targets)), reduction)


def mean_absolute_error(outputs: Tensor | npt.ArrayLike, targets: Tensor | npt.ArrayLike, *, reduction: str = "mean") -> Tensor:
    """The absolute differences.

    Parameters
    ----------
    outputs : Tensor of any shape
    targets : Tensor of the outputs' shape
    reduction : {"mean", "sum", "none"}
        What is returned of all differences; the mean is over all elements.

    Returns
    -------
    Tensor
        A scalar, or of the outputs' shape for ``reduction="none"``.

    Raises
    ------
    ShapeError
        If the shapes differ.

    Notes
    -----
    ``|x - t|``, whose derivative is 0 where they are equal. The least of it is the median. Laplace (1774).

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nn.losses.mean_absolute_error(cr.tensor([1.0, 4.0]), [1.0, 2.0])
    tensor(1.)
    """
    return reduce(abs(_errors("mean_absolute_error", outputs, targets)), reduction)


def huber(outputs: Tensor | npt.ArrayLike, targets: Tensor | npt.ArrayLike, *, delta: float = 1.0, reduction: str = "mean") -> Tensor:
    """Half the square of small differences; of large ones, as much as a straight line goes on from there.

    Parameters
    ----------
    outputs : Tensor of any shape
    targets : Tensor of the outputs' shape
    delta : float
        Where the line begins; positive.
    reduction : {"mean", "sum", "none"}
        What is returned of all losses; the mean is over all elements.

    Returns
    -------
    Tensor
        A scalar, or of the outputs' shape for ``reduction="none"``.

    Raises
    ------
    ShapeError, ArgumentError
        If the shapes differ, or delta is not positive.

    Notes
    -----
    With ``e = |x - t|``: ``e**2 / 2`` if ``e <= delta``, else ``delta * (e - delta / 2)``. Huber, "Robust estimation of
    a location parameter" (1964).

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([0.5, 4.0], requires_grad=True)
    >>> losses = cr.nn.losses.huber(x, [0.0, 0.0], reduction="none")
    >>> losses.sum().backward(); losses.tolist(), x.grad
    ([0.125, 3.5], tensor([0.5, 1. ]))
    """
    if not 0 < delta < float("inf"):
        raise ArgumentError(f"huber: delta={delta}", mend="it must be a finite number above 0")
    errors = abs(_errors("huber", outputs, targets))
    near = minimum(errors, delta)
    return reduce(near * (errors - 0.5 * near), reduction)
