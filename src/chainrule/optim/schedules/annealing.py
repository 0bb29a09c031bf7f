"""Rates that fall along a curve in a known number of steps, from the start or after a rise."""

from __future__ import annotations

import math

from chainrule.core.errors import ArgumentError
from chainrule.optim.optimizer import Optimizer
from chainrule.optim.schedules.schedule import Schedule, check_count, check_not_negative, check_positive


class Cosine(Schedule):
    """The rate falls along half a cosine, from the initial one to ``minimum``, and stays there.

    Parameters
    ----------
    optimizer : Optimizer
    steps : int
        How long it falls.
    minimum : float

    Notes
    -----
    ``minimum + (initial - minimum) * (1 + cos(pi * count / steps)) / 2``. Loshchilov and Hutter, "SGDR: stochastic
    gradient descent with warm restarts" (2017), equation 5; up to ``steps`` PyTorch's ``CosineAnnealingLR``.

    Examples
    --------
    >>> import chainrule as cr
    >>> optimizer = cr.optim.SGD([cr.tensor(1.0, requires_grad=True)], lr=1.0)
    >>> schedule = cr.optim.schedules.Cosine(optimizer, steps=4)
    >>> [round(schedule.rate(count, 1.0), 3) for count in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """

    def __init__(self, optimizer: Optimizer, steps: int, *, minimum: float = 0.0) -> None:
        self.steps = check_count(f"{type(self).__name__}: steps", steps)
        self.minimum = check_not_negative(f"{type(self).__name__}: minimum", minimum)
        super().__init__(optimizer)

    def rate(self, count: int, initial: float) -> float:
        return self.minimum if count >= self.steps else _cosine(initial, self.minimum, count / self.steps)


class CosineRestarts(Cosine):
    """The rate falls along half a cosine again and again, each time from the initial one.

    Parameters
    ----------
    optimizer : Optimizer
    steps : int
        How long it falls the first time.
    growth : int
        How many times as long it falls each further time.
    minimum : float

    Notes
    -----
    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts" (2017); PyTorch's
    ``CosineAnnealingWarmRestarts``.

    Examples
    --------
    >>> import chainrule as cr
    >>> optimizer = cr.optim.SGD([cr.tensor(1.0, requires_grad=True)], lr=1.0)
    >>> schedule = cr.optim.schedules.CosineRestarts(optimizer, steps=2, growth=2)
    >>> [round(schedule.rate(count, 1.0), 3) for count in range(7)]
    [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]
    """

    def __init__(self, optimizer: Optimizer, steps: int, *, growth: int = 1, minimum: float = 0.0) -> None:
        self.growth = check_count("CosineRestarts: growth", growth)
        super().__init__(optimizer, steps, minimum=minimum)

    def rate(self, count: int, initial: float) -> float:
        steps = self.steps
        if self.growth == 1:
            count %= steps
        while count >= steps:
            count -= steps
            steps *= self.growth
        return _cosine(initial, self.minimum, count / steps)


class OneCycle(Schedule):
    """The rate rises from a small one to the initial one, then falls to almost nothing.

    Parameters
    ----------
    optimizer : Optimizer
        With the largest rate as "lr".
    steps : int
        In all, at least 2; the last rate stays.
    rising : float
        Share of the steps in which it rises.
    first, last : float
        The largest rate is this many times the one at the beginning, and that is this many times the one at the end.
    shape : {"cosine", "linear"}

    Notes
    -----
    Smith and Topin, "Super-convergence" (2018); PyTorch's ``OneCycleLR`` with ``cycle_momentum=False``.

    Examples
    --------
    >>> import chainrule as cr
    >>> optimizer = cr.optim.SGD([cr.tensor(1.0, requires_grad=True)], lr=1.0)
    >>> schedule = cr.optim.schedules.OneCycle(optimizer, steps=11, rising=0.5, first=10.0, shape="linear")
    >>> [round(schedule.rate(count, 1.0), 2) for count in (0, 2, 4, 5, 10)]
    [0.1, 0.5, 0.9, 0.91, 0.0]
    """

    def __init__(
        self, optimizer: Optimizer, steps: int, *, rising: float = 0.3, first: float = 25.0, last: float = 1e4, shape: str = "cosine"
    ) -> None:
        self.steps = check_count("OneCycle: steps", steps)
        if not 0 < rising < 1 or steps < 2:
            raise ArgumentError(f"OneCycle: steps={steps}, rising={rising}", mend="give at least 2 steps, and a share between 0 and 1")
        if shape not in _SHAPES:
            raise ArgumentError(f"OneCycle: no shape {shape!r}", mend=f"choose one of {', '.join(map(repr, _SHAPES))}")
        self.rising = rising
        self.first = check_positive("OneCycle: first", first)
        self.last = check_positive("OneCycle: last", last)
        self.shape = shape
        super().__init__(optimizer)

    def rate(self, count: int, initial: float) -> float:
        between = _SHAPES[self.shape]
        start, top, end = initial / self.first, self.rising * self.steps - 1, self.steps - 1
        if count <= top:
            return between(start, initial, count / top if top else 1.0)
        return between(initial, start / self.last, min(1.0, (count - top) / (end - top)))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _linear(start: float, end: float, share: float) -> float:
    return start + (end - start) * share


_SHAPES = {"cosine": _cosine, "linear": _linear}
