"""Losses: how wrong a network's outputs are, as one number to make smaller.

Each is called with outputs and targets, and gives the mean over the batch unless another reduction is asked for.
"""

from __future__ import annotations

from collections.abc import Callable

from chainrule.core.errors import look_up
from chainrule.nn.losses.classification import kl_divergence, negative_log_likelihood, sigmoid_cross_entropy, softmax_cross_entropy
from chainrule.nn.losses.margin import hinge, multiclass_hinge, squared_hinge
from chainrule.nn.losses.regression import huber, mean_absolute_error, mean_squared_error
from chainrule.tensor import Tensor

__all__ = [
    "LOSSES",
    "Loss",
    "hinge",
    "huber",
    "kl_divergence",
    "mean_absolute_error",
    "mean_squared_error",
    "multiclass_hinge",
    "negative_log_likelihood",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
    "squared_hinge",
]

Loss = Callable[[Tensor, Tensor], Tensor]

_ALL: tuple[Callable[..., Tensor], ...] = (
    softmax_cross_entropy,
    sigmoid_cross_entropy,
    negative_log_likelihood,
    kl_divergence,
    multiclass_hinge,
    squared_hinge,
    hinge,
    mean_squared_error,
    mean_absolute_error,
    huber,
)

LOSSES: dict[str, Loss] = {loss.__name__: loss for loss in _ALL}


def fetch(loss: Loss | str) -> Loss:
    """The loss of this name; a function stays itself."""
    if callable(loss):
        return loss
    return look_up("loss", loss, LOSSES)
