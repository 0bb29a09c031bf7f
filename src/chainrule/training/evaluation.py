"""What a trained model is good for: means of the loss and the metrics over a data set, and outputs. In evaluation mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from chainrule.compiler.jit import compile as compiled
from chainrule.core import tree
from chainrule.core.errors import ArgumentError
from chainrule.core.interp import no_grad
from chainrule.data import DataLoader
from chainrule.data.loader import Source
from chainrule.nn import losses
from chainrule.nn.layer import Layer
from chainrule.ops.creation import asarray
from chainrule.ops.joining import concat
from chainrule.tensor import Tensor
from chainrule.training.metrics import OF_LOSS, Metric, fetch
from chainrule.training.position import Means
from chainrule.training.steps import Forward, Measure

Data = Source | Sequence[npt.NDArray[Any] | Tensor] | DataLoader
"""What a network is trained or measured on: a DataLoader, or what one can be made of."""


def evaluate(
    model: Layer,
    data: Data,
    *,
    loss: losses.Loss | str = "softmax_cross_entropy",
    metrics: Sequence[str | Metric] | None = None,
    batch_size: int = 128,
    compile: bool = False,
) -> dict[str, float]:
    """Means of the loss and of the metrics over a data set.

    Parameters
    ----------
    model : Layer
        Left in evaluation mode.
    data : Dataset or DataLoader
    loss : str or callable
    metrics : sequence of str or callable, optional
        Those that go with the loss if not given.
    batch_size : int
        Where no DataLoader is given.
    compile : bool
        Compile the measuring, which pays for many batches.

    Returns
    -------
    dict of str to float
        "loss" and the metrics.

    Raises
    ------
    ArgumentError
        If there is nothing to measure on.

    Examples
    --------
    >>> import chainrule as cr
    >>> model = cr.nn.Sequential([cr.nn.Flatten(), cr.nn.Dense(10)])
    >>> sorted(cr.training.evaluate(model, cr.data.digits("test")))
    ['accuracy', 'loss']
    """
    loader = data if isinstance(data, DataLoader) else DataLoader(data, batch_size)
    if not len(loader):
        raise ArgumentError("evaluate: there is not one batch to measure on", mend="give data, and use drop_last=False")
    means = Means()
    for values, count in Measure(Forward(model, losses.fetch(loss), measures(loss, metrics)), compile=compile)(loader):
        means.add(values, count)
    return means.values()


def predict(model: Layer, inputs: Any, batch_size: int = 128, *, compile: bool = False) -> Any:
    """A model's outputs, batch by batch, in evaluation mode and without history.

    Parameters
    ----------
    model : Layer
        Left in evaluation mode.
    inputs : array_like of shape (count, ...), or tuple of them
        A tuple for a model that takes several.
    batch_size : int
    compile : bool

    Returns
    -------
    Tensor of shape (count, ...)
        Or what else the model gives, with the batches joined.

    Raises
    ------
    ArgumentError
        If there is nothing to predict for, or the inputs differ in length.

    Examples
    --------
    >>> import chainrule as cr
    >>> model = cr.nn.Sequential([cr.nn.Flatten(), cr.nn.Dense(10)])
    >>> cr.training.predict(model, cr.data.digits("test").inputs).shape
    (355, 10)
    """
    if batch_size < 1:
        raise ArgumentError(f"predict: batch_size={batch_size}", mend="it must be at least 1")
    columns = [asarray(column) for column in (inputs if isinstance(inputs, tuple) else (inputs,))]
    count = min(len(column) if column.ndim else 0 for column in columns)
    if not count or any(len(column) != count for column in columns):
        shapes = ", ".join(str(column.shape) for column in columns)
        raise ArgumentError(f"predict: inputs of shape {shapes}", mend="give arrays of equally many examples, one at least")
    model.eval()
    call = compiled(model) if compile else model
    with no_grad():
        parts = [call(*(column[i : i + batch_size] for column in columns)) for i in range(0, count, batch_size)]
        return tree.map(lambda *pieces: concat(pieces), *parts)


def measures(loss: losses.Loss | str, metrics: Sequence[str | Metric] | None) -> dict[str, Metric]:
    """Metrics by name: those asked for, or those that go with the loss."""
    wanted = metrics if metrics is not None else OF_LOSS.get(name_of(loss), ())
    return {name_of(metric): fetch(metric) if isinstance(metric, str) else metric for metric in wanted}


def name_of(function: Any) -> str:
    """What a loss or a metric is called in records and settings."""
    return function if isinstance(function, str) else getattr(function, "__name__", type(function).__name__)
