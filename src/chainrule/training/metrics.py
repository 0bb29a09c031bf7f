"""Metrics: what is reported of a batch's outputs besides the loss."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from chainrule.core.aval import float32
from chainrule.core.errors import ArgumentError
from chainrule.ops.creation import astype
from chainrule.ops.discrete import argmax
from chainrule.ops.logic import equal
from chainrule.ops.statistics import mean
from chainrule.tensor import Tensor

Metric = Callable[[Tensor, Tensor], Tensor]


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """The share of examples whose label has the largest logit.

    Parameters
    ----------
    logits : Tensor of shape (..., classes)
    labels : Tensor of int, shape (...)

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
    return mean(astype(equal(argmax(logits, axis=-1), labels), float32))


METRICS: dict[str, Metric] = {"accuracy": accuracy}

OF_LOSS: dict[str, tuple[str, ...]] = {"softmax_cross_entropy": ("accuracy",)}
"""Which metrics are reported beside a loss if none are asked for."""


def fetch(name: str) -> Metric:
    """The metric of this name."""
    if name not in METRICS:
        near = get_close_matches(name, METRICS, 1)
        raise ArgumentError(f"no metric {name!r}", mend=f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(METRICS)}")
    return METRICS[name]
