"""Plateau: the rate falls when a metric no longer gets better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from chainrule.core.errors import ArgumentError
from chainrule.core.interp import current
from chainrule.optim.optimizer import Optimizer
from chainrule.optim.schedules.schedule import Schedule, check_not_negative, check_positive
from chainrule.tensor import Tensor


class Plateau(Schedule):
    """The rate is multiplied by ``factor`` when a metric has stopped getting better.

    Parameters
    ----------
    optimizer : Optimizer
    factor : float
        Between 0 and 1.
    patience : int
        How many steps without getting better are let pass.
    cooldown : int
        How many steps after a change are not counted.
    threshold : float
        By which share of the best a metric must be better to count.
    mode : {"min", "max"}
        Whether lower is better.
    minimum : float
        The rate goes no lower.

    Notes
    -----
    PyTorch's ``ReduceLROnPlateau``. ``step(metric)`` after each measurement, of an epoch say; a NaN is not better.

    Examples
    --------
    >>> import chainrule as cr
    >>> optimizer = cr.optim.SGD([cr.tensor(1.0, requires_grad=True)], lr=1.0)
    >>> schedule = cr.optim.schedules.Plateau(optimizer, factor=0.5, patience=1)
    >>> rates = []
    >>> for metric in (3.0, 2.0, 2.0, 2.0, 1.0):
    ...     schedule.step(metric)
    ...     rates.append(schedule.lr)
    >>> rates
    [1.0, 1.0, 1.0, 0.5, 0.5]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        factor: float = 0.1,
        patience: int = 10,
        cooldown: int = 0,
        threshold: float = 1e-4,
        mode: str = "min",
        minimum: float = 0.0,
    ) -> None:
        if mode not in ("min", "max"):
            raise ArgumentError(f"Plateau: no mode {mode!r}", mend='choose "min" or "max"')
        self.factor = check_positive("Plateau: factor", factor)
        if factor >= 1:
            raise ArgumentError(f"Plateau: factor={factor}", mend="it must lie between 0 and 1")
        self.patience = int(check_not_negative("Plateau: patience", patience))
        self.cooldown = int(check_not_negative("Plateau: cooldown", cooldown))
        self.threshold = check_not_negative("Plateau: threshold", threshold)
        self.mode = mode
        self.minimum = check_not_negative("Plateau: minimum", minimum)
        self.best = math.inf if mode == "min" else -math.inf
        self.bad = 0
        self.cooling = 0
        self.cuts = 0
        super().__init__(optimizer)

    def rate(self, count: int, initial: float) -> float:
        """The rate now; it depends on the metrics, not on ``count``."""
        return min(initial, max(initial * self.factor**self.cuts, self.minimum))

    def step(self, metric: float | Tensor | None = None) -> None:
        if metric is None:
            raise ArgumentError("Plateau.step without a metric", mend="pass what is watched, such as the validation loss")
        if current().tracer is None:
            self._watch(float(metric))
        super().step()

    def _watch(self, metric: float) -> None:
        lower = metric < self.best * (1 - self.threshold)
        higher = metric > self.best * (1 + self.threshold)
        if lower if self.mode == "min" else higher:
            self.best, self.bad = metric, 0
        else:
            self.bad += 1
        if self.cooling:
            self.cooling, self.bad = self.cooling - 1, 0
        if self.bad > self.patience:
            self.cuts, self.cooling, self.bad = self.cuts + 1, self.cooldown, 0

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "best": self.best, "bad": self.bad, "cooling": self.cooling, "cuts": self.cuts}

    def _check(self, name: str, value: Any) -> None:
        # The best metric so far may be any number, and is infinite before the first.
        if name != "best" or not isinstance(value, float | int):
            super()._check(name, value)

    def _load(self, state: Mapping[str, Any]) -> None:
        super()._load(state)
        self.best = state["best"]
        self.bad, self.cooling, self.cuts = (int(state[name]) for name in ("bad", "cooling", "cuts"))
