"""Schedules: learning rates that change from step to step.

A schedule sets the learning rate of every group, a Tensor that a compiled step reads each time, so nothing is
compiled anew. It counts in Python, and therefore stands outside of a function that is compiled.
"""

from __future__ import annotations

from typing import Protocol

from chainrule.core.errors import look_up
from chainrule.optim.optimizer import Optimizer
from chainrule.optim.schedules.annealing import Cosine, CosineRestarts, OneCycle
from chainrule.optim.schedules.decay import Constant, ExponentialDecay, Lambda, Piecewise, StepDecay
from chainrule.optim.schedules.plateau import Plateau
from chainrule.optim.schedules.schedule import Schedule
from chainrule.optim.schedules.warm_up import WarmUp, WarmUpCosine

__all__ = [
    "Constant",
    "Cosine",
    "CosineRestarts",
    "ExponentialDecay",
    "Lambda",
    "OneCycle",
    "Piecewise",
    "Plateau",
    "Schedule",
    "StepDecay",
    "WarmUp",
    "WarmUpCosine",
    "get",
]


class OfSteps(Protocol):
    """What makes a schedule for a known number of steps."""

    def __call__(self, optimizer: Optimizer, steps: int) -> Schedule: ...


NAMES: dict[str, OfSteps] = {
    "constant": Constant,
    "cosine": Cosine,
    "warmup_cosine": WarmUpCosine,
    "one_cycle": OneCycle,
}
"""Schedules that need to be told nothing but how many steps there are."""


def get(name: str) -> OfSteps:
    """The schedule class of this name; called with an optimizer and the number of steps in all.

    Parameters
    ----------
    name : {"constant", "cosine", "warmup_cosine", "one_cycle"}

    Returns
    -------
    type
        A subclass of `Schedule`.

    Raises
    ------
    ArgumentError
        If there is none of this name.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.optim.schedules.get("cosine").__name__
    'Cosine'
    """
    return look_up("schedule", name, NAMES)
