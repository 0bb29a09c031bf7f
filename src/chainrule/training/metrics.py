"""Metrics: what is reported of a batch's outputs besides the loss.

Each is a mean over the batch, so that the mean over batches is the mean over all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from difflib import get_close_matches

from chainrule.core.aval import Dtype, float32, int64
from chainrule.core.errors import ArgumentError, ShapeError
from chainrule.nn import losses
from chainrule.ops.creation import astype
from chainrule.ops.discrete import argmax
from chainrule.ops.filled import arange
from chainrule.ops.gathering import take_along_axis
from chainrule.ops.logic import equal, logical_and, logical_not, logical_or
from chainrule.ops.movement import expand_dims
from chainrule.ops.reduction import sum
from chainrule.ops.statistics import mean
from chainrule.tensor import Tensor

Metric = Callable[[Tensor, Tensor], Tensor]


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """The share of examples whose label has the largest logit.

    Parameters
    ----------
    logits : Tensor of shape (..., classes)
    labels : Tensor of int, shape (...); or probabilities, of the logits' shape
        Of probabilities the largest is the label.

    Returns
    -------
    Tensor
        A number between 0 and 1, of float32.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.training.accuracy(cr.tensor([[0.1, 0.9], [0.8, 0.2]]), cr.tensor([1, 1]))
    tensor(0.5)
    """
    return _share(equal(argmax(logits, axis=-1), _numbers(logits, labels)))


def top_k_accuracy(logits: Tensor, labels: Tensor, *, k: int = 5) -> Tensor:
    """The share of examples whose label is among the ``k`` largest logits.

    Parameters
    ----------
    logits : Tensor of shape (..., classes)
    labels : Tensor of int, shape (...); or probabilities, of the logits' shape
    k : int
        At least 1. Equal logits come in the order of the classes.

    Returns
    -------
    Tensor
        A number between 0 and 1, of float32.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.training.metrics.top_k_accuracy(cr.tensor([[0.1, 0.9, 0.5], [0.8, 0.2, 0.1]]), cr.tensor([2, 2]), k=2)
    tensor(0.5)
    """
    if k < 1:
        raise ArgumentError(f"top_k_accuracy: k={k}", mend="it must be at least 1")
    column = expand_dims(_numbers(logits, labels), axis=-1)
    own = take_along_axis(logits, column, axis=-1)
    # Not "larger": what cannot be compared stands before.
    behind = logical_or(logits < own, logical_and(equal(logits, own), arange(logits.shape[-1]) >= column))
    return _share(sum(astype(logical_not(behind), int64), axis=-1) < k)


def top_5_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """The share of examples whose label is among the five largest logits; see `top_k_accuracy`."""
    return top_k_accuracy(logits, labels, k=5)


def binary_accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """The share of logits that are on the right side of 0.

    Parameters
    ----------
    logits : Tensor of any shape
    targets : Tensor of the logits' shape
        0 or -1, and 1; of probabilities, those above one half count as 1.

    Returns
    -------
    Tensor
        A number between 0 and 1, of float32.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.training.metrics.binary_accuracy(cr.tensor([1.5, -2.0]), cr.tensor([1.0, 1.0]))
    tensor(0.5)
    """
    if logits.shape != targets.shape:
        raise ShapeError(
            f"binary_accuracy: logits of shape {logits.shape} and targets of shape {targets.shape} differ in shape",
            mend="give one target for each logit",
        )
    return _share(equal(logits > 0, astype(targets, _floating(logits), copy=False) > 0.5))


def bits(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy in bits for each label: `softmax_cross_entropy` over log 2.

    Parameters
    ----------
    logits : Tensor of shape (..., classes)
    labels : Tensor of int, shape (...); or probabilities, of the logits' shape

    Returns
    -------
    Tensor
        Of a language model 2 to the power of this is the perplexity.

    Examples
    --------
    >>> import chainrule as cr
    >>> round(cr.training.metrics.bits(cr.zeros((1, 8)), cr.tensor([3])).item(), 4)
    3.0
    """
    return losses.softmax_cross_entropy(logits, labels) / math.log(2)


def binary_bits(logits: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy in bits for each binary target: `sigmoid_cross_entropy` over log 2.

    Parameters
    ----------
    logits : Tensor of any shape
    targets : Tensor of the logits' shape

    Returns
    -------
    Tensor
        A scalar.

    Examples
    --------
    >>> import chainrule as cr
    >>> round(cr.training.metrics.binary_bits(cr.zeros(4), cr.tensor([0, 1, 1, 0])).item(), 4)
    1.0
    """
    return losses.sigmoid_cross_entropy(logits, targets) / math.log(2)


def mean_absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean of the absolute differences.

    Parameters
    ----------
    outputs : Tensor of any shape
    targets : Tensor of the outputs' shape

    Returns
    -------
    Tensor
        A scalar.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.training.metrics.mean_absolute_error(cr.tensor([1.0, 4.0]), cr.tensor([1.0, 2.0]))
    tensor(1.)
    """
    return losses.mean_absolute_error(outputs, targets)


def _numbers(logits: Tensor, labels: Tensor) -> Tensor:
    return argmax(labels, axis=-1) if labels.shape == logits.shape else labels


def _floating(x: Tensor) -> Dtype:
    return x.dtype if x.dtype.kind == "f" else float32


def _share(hits: Tensor) -> Tensor:
    return mean(astype(hits, float32))


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "top_5_accuracy": top_5_accuracy,
    "binary_accuracy": binary_accuracy,
    "bits": bits,
    "binary_bits": binary_bits,
    "mean_absolute_error": mean_absolute_error,
}

OF_LOSS: dict[str, tuple[str, ...]] = {
    "softmax_cross_entropy": ("accuracy",),
    "negative_log_likelihood": ("accuracy",),
    "multiclass_hinge": ("accuracy",),
    "squared_hinge": ("accuracy",),
    "sigmoid_cross_entropy": ("binary_accuracy",),
    "hinge": ("binary_accuracy",),
    "mean_squared_error": ("mean_absolute_error",),
    "huber": ("mean_absolute_error",),
    "mean_absolute_error": (),
    "kl_divergence": (),
}
"""Which metrics are reported beside a loss if none are asked for."""


def fetch(name: str) -> Metric:
    """The metric of this name."""
    if name not in METRICS:
        near = get_close_matches(name, METRICS, 1)
        raise ArgumentError(f"no metric {name!r}", mend=f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(METRICS)}")
    return METRICS[name]
