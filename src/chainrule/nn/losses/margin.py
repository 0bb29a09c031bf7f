"""Losses of support vector machines: the label's score is to be above the others by a margin, and that is enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chainrule.nn.losses.common import class_numbers, reduce, same_shape, scores
from chainrule.ops.activation import relu
from chainrule.ops.arithmetic import square
from chainrule.ops.filled import arange
from chainrule.ops.gathering import take_along_axis
from chainrule.ops.logic import equal
from chainrule.ops.movement import expand_dims
from chainrule.ops.reduction import sum
from chainrule.ops.selection import where
from chainrule.tensor import Tensor

if TYPE_CHECKING:
    import numpy.typing as npt


def multiclass_hinge(outputs: Tensor | npt.ArrayLike, labels: Tensor | npt.ArrayLike, *, margin: float = 1.0, reduction: str = "mean") -> Tensor:
    """By how much the other classes' scores reach into the margin below the label's.

    Parameters
    ----------
    outputs : Tensor of shape (..., classes)
        Scores.
    labels : Tensor of int, shape (...)
    margin : float
    reduction : {"mean", "sum", "none"}
        What is returned of the losses of all examples.

    Returns
    -------
    Tensor
        A scalar, or of shape (...) for ``reduction="none"``.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        If labels do not fit, or are no class numbers.

    Notes
    -----
    ``sum_{j != y} max(0, s_j - s_y + margin)``: Weston and Watkins, "Support vector machines for multi-class pattern
    recognition" (1999). It is not divided by the number of classes, as PyTorch's ``multi_margin_loss`` is. The
    derivative where a term is just 0 is 0.

    Examples
    --------
    >>> import chainrule as cr
    >>> scores = cr.tensor([[3.0, 2.5, 1.0]], requires_grad=True)
    >>> loss = cr.nn.losses.multiclass_hinge(scores, [0])
    >>> loss.backward(); loss.item(), scores.grad
    (0.5, tensor([[-1.,  1.,  0.]]))
    """
    return reduce(sum(_reaching("multiclass_hinge", outputs, labels, margin), axis=-1), reduction)


def squared_hinge(outputs: Tensor | npt.ArrayLike, labels: Tensor | npt.ArrayLike, *, margin: float = 1.0, reduction: str = "mean") -> Tensor:
    """As `multiclass_hinge`, with each term squared.

    Parameters
    ----------
    outputs, labels, margin, reduction
        As for `multiclass_hinge`.

    Returns
    -------
    Tensor
        A scalar, or of shape (...) for ``reduction="none"``.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        If labels do not fit, or are no class numbers.

    Notes
    -----
    ``sum_{j != y} max(0, s_j - s_y + margin)**2``; smooth where it begins, and harder on large violations.
    Tang, "Deep learning using linear support vector machines" (2013), equation 8.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nn.losses.squared_hinge(cr.tensor([[3.0, 2.5, 1.0]]), [0])
    tensor(0.25)
    """
    return reduce(sum(square(_reaching("squared_hinge", outputs, labels, margin)), axis=-1), reduction)


def hinge(outputs: Tensor | npt.ArrayLike, targets: Tensor | npt.ArrayLike, *, margin: float = 1.0, reduction: str = "mean") -> Tensor:
    """By how much scores fall short of the margin on the right side of 0.

    Parameters
    ----------
    outputs : Tensor of any shape
        Scores.
    targets : Tensor of the outputs' shape
        -1 and 1.
    margin : float
    reduction : {"mean", "sum", "none"}
        What is returned of all losses.

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
    ``max(0, margin - t s)``. Cortes and Vapnik, "Support-vector networks" (1995). The derivative where it is just 0
    is 0.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nn.losses.hinge(cr.tensor([2.0, 0.5]), [1, -1], reduction="none")
    tensor([0. , 1.5])
    """
    outputs = scores("hinge", outputs)
    return reduce(relu(margin - outputs * same_shape("hinge", outputs, targets)), reduction)


def _reaching(name: str, outputs: Tensor | npt.ArrayLike, labels: Tensor | npt.ArrayLike, margin: float) -> Tensor:
    """By how much each class's score reaches into the margin; 0 for the label's own."""
    outputs = scores(name, outputs)
    column = expand_dims(class_numbers(name, outputs, labels), axis=-1)
    own = equal(arange(outputs.shape[-1]), column)
    return where(own, 0.0, relu(outputs - take_along_axis(outputs, column, axis=-1) + margin))
