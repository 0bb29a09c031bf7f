"""Rates that begin small and rise, so that the first steps, when moments know little yet, do no harm."""

from __future__ import annotations

from chainrule.core.errors import ArgumentError
from chainrule.optim.optimizer import Optimizer
from chainrule.optim.schedules.annealing import Cosine
from chainrule.optim.schedules.plateau import Plateau
from chainrule.optim.schedules.schedule import Schedule, check_count, check_not_negative


class WarmUp(Schedule):
    """The rate rises in a straight line to the initial one, then follows another schedule.

    Parameters
    ----------
    optimizer : Optimizer
    steps : int
        How long it rises.
    start : float
        The share of the initial rate that it begins with.
    then : Schedule, optional
        Of the same optimizer; its steps are counted from where the rise ends. The rate stays if there is none.

    Notes
    -----
    ``initial * (start + (1 - start) * count / steps)``. Goyal et al., "Accurate, large minibatch SGD" (2017),
    section 2.2; PyTorch's ``LinearLR`` and ``SequentialLR``.

    Examples
    --------
    >>> import chainrule as cr
    >>> optimizer = cr.optim.SGD([cr.tensor(1.0, requires_grad=True)], lr=1.0)
    >>> schedule = cr.optim.schedules.WarmUp(optimizer, steps=2, then=cr.optim.schedules.Cosine(optimizer, steps=4))
    >>> [round(schedule.rate(count, 1.0), 3) for count in range(7)]
    [0.0, 0.5, 1.0, 0.854, 0.5, 0.146, 0.0]
    """

    def __init__(self, optimizer: Optimizer, steps: int, *, start: float = 0.0, then: Schedule | None = None) -> None:
        self.steps = check_count(f"{type(self).__name__}: steps", steps)
        self.start = check_not_negative(f"{type(self).__name__}: start", start)
        self.then = then
        if then is not None and (then.optimizer is not optimizer or isinstance(then, Plateau)):
            what = "a Plateau, which has no rate for a number of steps" if isinstance(then, Plateau) else "a schedule of another optimizer"
            raise ArgumentError(f"{type(self).__name__}: then is {what}", mend="make it with the same optimizer; step a Plateau by itself afterwards")
        if then is not None:
            # It has set its own first rate.
            for group, initial in zip(optimizer.groups, then.initial, strict=True):
                group["lr"] = initial
        super().__init__(optimizer)

    def rate(self, count: int, initial: float) -> float:
        if count < self.steps:
            return initial * (self.start + (1 - self.start) * count / self.steps)
        return initial if self.then is None else self.then.rate(count - self.steps, initial)


class WarmUpCosine(WarmUp):
    """The rate rises in a straight line, then falls along half a cosine.

    Parameters
    ----------
    optimizer : Optimizer
    steps : int
        In all, at least 2.
    warm_up : int, optional
        How many of them it rises; a twentieth, and at least one, if not given.
    minimum : float
        What it falls to.

    Notes
    -----
    The first step has the share ``1 / (warm_up + 1)`` of the initial rate, not 0, so that it is not lost.

    Examples
    --------
    >>> import chainrule as cr
    >>> optimizer = cr.optim.SGD([cr.tensor(1.0, requires_grad=True)], lr=1.0)
    >>> schedule = cr.optim.schedules.WarmUpCosine(optimizer, steps=5, warm_up=1)
    >>> [round(schedule.rate(count, 1.0), 3) for count in range(6)]
    [0.5, 1.0, 0.854, 0.5, 0.146, 0.0]
    """

    def __init__(self, optimizer: Optimizer, steps: int, *, warm_up: int | None = None, minimum: float = 0.0) -> None:
        rising = max(1, steps // 20) if warm_up is None else check_count("WarmUpCosine: warm_up", warm_up)
        if rising >= steps:
            raise ArgumentError(f"WarmUpCosine: {rising} of {steps} steps are the warm-up", mend="let the warm-up be shorter than the whole")
        super().__init__(optimizer, rising, start=1 / (rising + 1), then=Cosine(optimizer, steps - rising, minimum=minimum))
