"""Rates that fall by factors, or as a function of one's own says."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping

from chainrule.optim.optimizer import Optimizer
from chainrule.optim.schedules.schedule import Schedule, check_count, check_not_negative, check_positive


class Constant(Schedule):
    """The rate stays as it is.

    Parameters
    ----------
    optimizer : Optimizer
    steps : int, optional
        Of no effect; there so that every schedule with a name is made in the same way.

    Examples
    --------
    >>> import chainrule as cr
    >>> optimizer = cr.optim.SGD([cr.tensor(1.0, requires_grad=True)], lr=0.5)
    >>> schedule = cr.optim.schedules.Constant(optimizer)
    >>> schedule.step(); schedule.lr
    0.5
    """

    def __init__(self, optimizer: Optimizer, steps: int | None = None) -> None:
        super().__init__(optimizer)

    def rate(self, count: int, initial: float) -> float:
        return initial


class StepDecay(Schedule):
    """The rate is multiplied by ``factor`` every so many steps.

    Parameters
    ----------
    optimizer : Optimizer
    every : int
    factor : float

    Notes
    -----
    ``initial * factor ** (count // every)``; PyTorch's ``StepLR``.

    Examples
    --------
    >>> import chainrule as cr
    >>> optimizer = cr.optim.SGD([cr.tensor(1.0, requires_grad=True)], lr=1.0)
    >>> schedule = cr.optim.schedules.StepDecay(optimizer, every=2, factor=0.5)
    >>> rates = []
    >>> for _ in range(5):
    ...     rates.append(optimizer.lr)
    ...     schedule.step()
    >>> rates
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    def __init__(self, optimizer: Optimizer, every: int, factor: float = 0.1) -> None:
        self.every = check_count("StepDecay: every", every)
        self.factor = check_positive("StepDecay: factor", factor)
        super().__init__(optimizer)

    def rate(self, count: int, initial: float) -> float:
        return initial * self.factor ** (count // self.every)


class Piecewise(Schedule):
    """The rate is a share of the initial one that changes at given steps.

    Parameters
    ----------
    optimizer : Optimizer
    shares : mapping of int to float
        From this many steps on, this share; 1 before the first.

    Examples
    --------
    >>> import chainrule as cr
    >>> optimizer = cr.optim.SGD([cr.tensor(1.0, requires_grad=True)], lr=1.0)
    >>> schedule = cr.optim.schedules.Piecewise(optimizer, {1: 0.5, 3: 0.25})
    >>> [schedule.rate(count, 1.0) for count in range(5)]
    [1.0, 0.5, 0.5, 0.25, 0.25]
    """

    def __init__(self, optimizer: Optimizer, shares: Mapping[int, float]) -> None:
        self.shares = {count: check_not_negative(f"Piecewise: shares[{count}]", shares[count]) for count in sorted(shares)}
        super().__init__(optimizer)

    def rate(self, count: int, initial: float) -> float:
        place = bisect_right(list(self.shares), count)
        return initial * [1.0, *self.shares.values()][place]


class Lambda(Schedule):
    """The rate is the initial one times a function of the number of steps.

    Parameters
    ----------
    optimizer : Optimizer
    share : callable
        Takes the number of steps taken. It is no part of the state.

    Examples
    --------
    >>> import chainrule as cr
    >>> optimizer = cr.optim.SGD([cr.tensor(1.0, requires_grad=True)], lr=0.5)
    >>> schedule = cr.optim.schedules.Lambda(optimizer, lambda count: 1 / (1 + count))
    >>> schedule.step(); schedule.lr
    0.25
    """

    def __init__(self, optimizer: Optimizer, share: Callable[[int], float]) -> None:
        self.share = share
        super().__init__(optimizer)

    def rate(self, count: int, initial: float) -> float:
        return initial * self.share(count)


class ExponentialDecay(Schedule):
    """The rate is multiplied by ``factor`` at every step.

    Parameters
    ----------
    optimizer : Optimizer
    factor : float

    Notes
    -----
    ``initial * factor ** count``; PyTorch's ``ExponentialLR``.

    Examples
    --------
    >>> import chainrule as cr
    >>> optimizer = cr.optim.SGD([cr.tensor(1.0, requires_grad=True)], lr=1.0)
    >>> schedule = cr.optim.schedules.ExponentialDecay(optimizer, 0.5)
    >>> schedule.step(); schedule.step(); schedule.lr
    0.25
    """

    def __init__(self, optimizer: Optimizer, factor: float) -> None:
        self.factor = check_positive("ExponentialDecay: factor", factor)
        super().__init__(optimizer)

    def rate(self, count: int, initial: float) -> float:
        return initial * self.factor**count
