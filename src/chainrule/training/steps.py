"""One step: forward, penalty, loss, backward, clipping, optimizer; and how a batch is measured. Eager, or compiled whole.

What is made smaller is the loss plus the model's penalty; what is reported as "loss" is the loss alone, which compares with that of
held-out data, and "penalty" stands beside it. A step of several batches is the step of one batch of all their examples: each
batch's gradient counts by its number of examples, so a last, incomplete step is weighted as it should be.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from chainrule.compiler.jit import compile as compiled
from chainrule.core import tree
from chainrule.core.errors import ArgumentError
from chainrule.core.interp import no_grad
from chainrule.nn.layer import Layer
from chainrule.nn.losses import Loss
from chainrule.ops.creation import asarray, astype
from chainrule.optim import Optimizer
from chainrule.optim.clipping import clip_by_norm, clip_by_value
from chainrule.optim.lbfgs import LBFGS
from chainrule.tensor import Tensor
from chainrule.training.metrics import Metric

Batch = Sequence[Tensor]
Values = dict[str, Tensor]


def groups(batches: Iterable[Batch], size: int) -> Generator[list[Batch]]:
    """So many batches at a time; the last group may be smaller."""
    source = iter(batches)
    while group := list(islice(source, size)):
        yield group


def examples(batch: Batch) -> int:
    """How many examples a batch holds."""
    return len(batch[-1])


class Forward:
    """What a model makes of a batch: the outputs, the loss and the metrics."""

    def __init__(self, model: Layer, loss: Loss, metrics: Mapping[str, Metric]) -> None:
        self.model, self.loss, self.metrics = model, loss, metrics

    def __call__(self, batch: Batch) -> tuple[Tensor, Values]:
        """The loss, with its history, and the metrics."""
        if len(batch) < 2:
            raise ArgumentError(
                "a batch holds one tensor, but training takes inputs and targets",
                mend="give a data set of (inputs..., targets); to reproduce its inputs a network has them as targets too",
            )
        *inputs, targets = batch
        outputs = self.model(*inputs)
        loss = self.loss(outputs, targets)
        if loss.shape != ():
            raise ArgumentError(f"the loss has the shape {loss.shape}, not ()", mend="return the mean over the batch")
        with no_grad():
            outputs = tree.map(Tensor.detach, outputs)
            values = {name: metric(outputs, targets) for name, metric in self.metrics.items()}
        return loss, values


class Step:
    """Moves the parameters by one step on one or several batches, and says what it measured.

    Parameters
    ----------
    forward : Forward
    optimizer : Optimizer
    clip_norm, clip_value : float, optional
        What the gradient's norm, and the absolute value of its elements, are limited to, in this order.
    compile : bool
    """

    def __init__(
        self, forward: Forward, optimizer: Optimizer, *, clip_norm: float | None = None, clip_value: float | None = None, compile: bool = False
    ) -> None:
        if isinstance(optimizer, LBFGS) and (clip_norm, clip_value) != (None, None):
            raise ArgumentError("clipping with LBFGS, whose line search needs the gradient as it is", mend="leave clip_norm and clip_value out")

        def backward(batch: Batch, weight: Tensor | None = None) -> Values:
            loss, values = forward(batch)
            penalty = forward.model.penalty()
            total = loss + penalty
            (total if weight is None else total * astype(weight, total.dtype)).backward()
            own = {"penalty": penalty.detach()} if isinstance(penalty, Tensor) else {}
            return {"loss": loss.detach(), **own, **values}

        def move() -> None:
            parameters = [parameter for group in optimizer.groups for parameter in group.parameters]
            if clip_norm is not None:
                clip_by_norm(parameters, clip_norm)
            if clip_value is not None:
                clip_by_value(parameters, clip_value)
            optimizer.step()

        def step(*batch: Tensor) -> Values:
            optimizer.zero_grad()
            values = backward(batch)
            move()
            return values

        def share(first: bool, weight: Tensor, *batch: Tensor) -> Values:
            if first:
                optimizer.zero_grad()
            return backward(batch, weight)

        self._optimizer = optimizer
        self._step = _made(step, forward, compile)
        self._share = _made(share, forward, compile)
        self._move = _made(move, forward, compile)

    def __call__(self, group: Sequence[Batch]) -> list[Values]:
        """One step on these batches together; what was measured of each, before the step."""
        if isinstance(self._optimizer, LBFGS):
            return self._search(self._optimizer, group)
        if len(group) == 1:
            return [self._step(*group[0])]
        values = self._gradient(group)
        self._move()
        return values

    def _gradient(self, group: Sequence[Batch]) -> list[Values]:
        return [self._share(i == 0, weight, *batch) for i, (batch, weight) in enumerate(zip(group, _weights(group), strict=True))]

    def _search(self, optimizer: LBFGS, group: Sequence[Batch]) -> list[Values]:
        """A step that asks for loss and gradient as often as it likes."""
        measured: list[list[Values]] = []

        def closure() -> Tensor:
            measured.append(self._gradient(group))
            return sum(
                ((values["loss"] + values.get("penalty", 0.0)) * weight for values, weight in zip(measured[-1], _weights(group), strict=True)),
                start=asarray(np.float64(0)),
            )

        optimizer.step(closure)
        return measured[0]


class Measure:
    """Measures a model on batch after batch, in evaluation mode and without history.

    Parameters
    ----------
    forward : Forward
    compile : bool
    """

    def __init__(self, forward: Forward, *, compile: bool = False) -> None:
        def measure(*batch: Tensor) -> Values:
            loss, values = forward(batch)
            return {"loss": loss, **values}

        self._model = forward.model
        self._measure = _made(measure, forward, compile)

    def __call__(self, batches: Iterable[Batch]) -> Generator[tuple[dict[str, float], int]]:
        """The measurements of each batch, and the number of its examples."""
        self._model.eval()
        for batch in batches:
            with no_grad():
                values = self._measure(*batch)
            yield numbers(values), examples(batch)


def numbers(values: Values) -> dict[str, float]:
    """Measurements as plain numbers."""
    return {name: value.item() for name, value in values.items()}


def _made(function: Callable[..., Any], forward: Forward, compile: bool) -> Callable[..., Any]:
    if not compile:
        return function
    # What the caller's own loss finds outside is watched, as if it had been compiled itself.
    vars(function)["__wrapped__"] = forward.loss
    return compiled(function)


def _weights(group: Sequence[Batch]) -> list[Any]:
    """Each batch's share of the examples; arrays, so that a compiled function takes any value of them."""
    counts = [examples(batch) for batch in group]
    return [np.float64(count / sum(counts)) for count in counts]
