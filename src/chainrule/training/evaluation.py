"""How good a model is on a data set: means of the loss and the metrics, in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from chainrule.core.interp import no_grad
from chainrule.data import DataLoader, Dataset
from chainrule.nn import losses
from chainrule.nn.layer import Layer
from chainrule.tensor import Tensor
from chainrule.training.metrics import OF_LOSS, Metric, fetch


def evaluate(
    model: Layer,
    data: Dataset | DataLoader,
    *,
    loss: losses.Loss | str = "softmax_cross_entropy",
    metrics: Sequence[str] | None = None,
    batch_size: int = 128,
) -> dict[str, float]:
    """Means of the loss and of the metrics over a data set.

    Parameters
    ----------
    model : Layer
        Left in evaluation mode.
    data : Dataset or DataLoader
    loss : str or callable
    metrics : sequence of str, optional
        Those that go with the loss if not given.
    batch_size : int
        For a Dataset.

    Returns
    -------
    dict of str to float
        "loss" and the metrics.

    Examples
    --------
    >>> import chainrule as cr
    >>> model = cr.nn.Sequential([cr.nn.Flatten(), cr.nn.Dense(10)])
    >>> sorted(cr.training.evaluate(model, cr.data.digits("test")))
    ['accuracy', 'loss']
    """
    loader = data if isinstance(data, DataLoader) else DataLoader(data, batch_size)
    means = Means()
    for values, count in measured(model, losses.fetch(loss), measures(loss, metrics), loader):
        means.add(values, count)
    return means.values()


@dataclass
class Means:
    """Running means, weighted by numbers of examples."""

    examples: int = 0
    sums: dict[str, float] = field(default_factory=dict[str, float])

    def add(self, values: Mapping[str, float], count: int) -> None:
        self.examples += count
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * count

    def values(self) -> dict[str, float]:
        return {name: total / self.examples for name, total in self.sums.items()} if self.examples else {}


def measures(loss: losses.Loss | str, names: Sequence[str] | None) -> dict[str, Metric]:
    """Metrics by name: those asked for, or those that go with the loss."""
    wanted = names if names is not None else OF_LOSS.get(loss if isinstance(loss, str) else loss.__name__, ())
    return {name: fetch(name) for name in wanted}


def measure(metrics: Mapping[str, Metric], outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """The metrics of one batch."""
    return {name: metric(outputs, targets).item() for name, metric in metrics.items()}


def measured(
    model: Layer, loss: losses.Loss, metrics: Mapping[str, Metric], data: Iterable[Sequence[Tensor]]
) -> Iterator[tuple[dict[str, float], int]]:
    """Loss and metrics of batch after batch in evaluation mode, and the number of examples in each."""
    model.eval()
    for *inputs, targets in data:
        with no_grad():
            outputs = model(*inputs)
            values = {"loss": loss(outputs, targets).item(), **measure(metrics, outputs, targets)}
        yield values, len(targets)
