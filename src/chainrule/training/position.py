"""Where a run is: how many epochs, batches and steps are done, and what was measured in the epoch in progress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Means:
    """Running means, weighted by numbers of examples."""

    examples: int = 0
    sums: dict[str, float] = field(default_factory=dict[str, float])

    def add(self, values: Mapping[str, float], count: int) -> None:
        self.examples += count
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * count

    def join(self, more: Means) -> None:
        self.examples += more.examples
        for name, total in more.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + total

    def values(self) -> dict[str, float]:
        return {name: total / self.examples for name, total in self.sums.items()} if self.examples else {}


@dataclass
class Position:
    """Where a run is: whole epochs done, batches done of the next one, and the means over those batches.

    Attributes
    ----------
    epoch, batch : int
        How many are done.
    step : int
        Steps of the optimizer since the beginning.
    seconds : float
        Spent on training.
    means : Means
        Of the loss and the metrics, over the batches of the epoch in progress.

    Examples
    --------
    >>> import chainrule as cr
    >>> position = cr.training.Position(epoch=2, step=90)
    >>> position.next_epoch(); position.epoch
    3
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    means: Means = field(default_factory=Means)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Position:
        """The position that `asdict` wrote; TypeError, ValueError or KeyError if it is none."""
        means = Means(int(data["means"]["examples"]), {str(name): float(total) for name, total in data["means"]["sums"].items()})
        return cls(int(data["epoch"]), int(data["batch"]), int(data["step"]), float(data["seconds"]), means)

    def next_step(self, batches: int) -> None:
        self.batch += batches
        self.step += 1

    def next_epoch(self) -> None:
        self.epoch += 1
        self.batch = 0
        self.means = Means()
