"""Losses: how wrong a network's outputs are, as one number to make smaller."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from chainrule.core.errors import ArgumentError
from chainrule.ops import cross_entropy
from chainrule.tensor import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def softmax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over a batch of minus the log-probability that the softmax of the logits gives to the label.

    Parameters
    ----------
    logits : Tensor of shape (..., classes)
    labels : Tensor of shape (...)
        Integers in [0, classes).

    Returns
    -------
    Tensor
        A scalar.

    Examples
    --------
    >>> import chainrule as cr
    >>> logits = cr.tensor([[0.0, 0.0]], requires_grad=True)
    >>> loss = cr.nn.losses.softmax_cross_entropy(logits, cr.tensor([1]))
    >>> loss.backward()
    >>> logits.grad
    tensor([[ 0.5, -0.5]])
    """
    return cross_entropy.softmax_cross_entropy(logits, labels)


LOSSES: dict[str, Loss] = {"softmax_cross_entropy": softmax_cross_entropy}


def fetch(loss: Loss | str) -> Loss:
    """The loss of this name; a function stays itself."""
    if callable(loss):
        return loss
    if loss not in LOSSES:
        near = get_close_matches(str(loss), LOSSES, 1)
        raise ArgumentError(f"no loss {loss!r}", mend=f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(LOSSES)}")
    return LOSSES[loss]
