"""Schedule: the base of all schedules, which counts steps and sets the groups' rates."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from numbers import Real
from typing import Any

from chainrule.core.errors import ArgumentError, TraceError
from chainrule.core.interp import current
from chainrule.optim.optimizer import Optimizer
from chainrule.tensor import Tensor


class Schedule(ABC):
    """Base of the schedules; one of one's own says the rate after a number of steps.

    Parameters
    ----------
    optimizer : Optimizer
        What its groups have as "lr" when the schedule is made is their initial rate; then the schedule sets it.

    Attributes
    ----------
    count : int
        Steps taken.
    initial : list of float
        The groups' initial rates.

    Examples
    --------
    >>> import chainrule as cr
    >>> class Harmonic(cr.optim.schedules.Schedule):
    ...     def rate(self, count, initial):
    ...         return initial / (1 + count)
    >>> optimizer = cr.optim.SGD([cr.tensor(1.0, requires_grad=True)], lr=0.5)
    >>> schedule = Harmonic(optimizer)
    >>> schedule.step(); optimizer.lr
    0.25
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.count = 0
        self.initial: list[float] = [group["lr"] for group in optimizer.groups]
        self._set()

    @abstractmethod
    def rate(self, count: int, initial: float) -> float:
        """The learning rate after ``count`` steps of a group that began with ``initial``."""

    @property
    def lr(self) -> float:
        """The current learning rate of the first group."""
        return self.optimizer.lr

    def step(self, metric: float | Tensor | None = None) -> None:
        """Go on to the next rate; call it after each step of the optimizer.

        Parameters
        ----------
        metric : float or Tensor, optional
            What `Plateau` watches; the others take no notice of it.

        Raises
        ------
        TraceError
            While a function is traced or compiled.
        """
        if current().tracer is not None:
            raise TraceError(
                f"{type(self).__name__}.step inside a function that is traced or compiled, which would fix the rate",
                mend="call it outside, after the compiled step",
            )
        self.count += 1
        self._set()

    def state_dict(self) -> dict[str, Any]:
        """All that later rates depend on, as plain numbers and lists."""
        return {"count": self.count, "initial": list(self.initial)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` returned; sets the rates.

        Raises
        ------
        ArgumentError
            If it is of another kind of schedule, or of another number of groups; nothing is loaded then.
        """
        own, given = self.state_dict(), dict(state) if isinstance(state, Mapping) else {}  # pyright: ignore[reportUnnecessaryIsInstance] - callers may not check types
        known = given.keys() == own.keys() and isinstance(given["initial"], list | tuple)
        if not known or len(given["initial"]) != len(own["initial"]):
            raise ArgumentError(f"{type(self).__name__} has the state {own}, not {state}", mend="make optimizer and schedule as they were")
        for name, value in given.items():
            for number in value if name == "initial" else [value]:
                self._check(name, number)
        self._load(state)
        self._set()

    def _check(self, name: str, value: Any) -> None:
        """Refuse a number that cannot stand in a state under this name."""
        what = f"{type(self).__name__}: the state's {name}"
        if name == "initial":
            check_not_negative(what, value)
        else:
            check_count(what, value, least=0)

    def _load(self, state: Mapping[str, Any]) -> None:
        self.count, self.initial = int(state["count"]), list(state["initial"])

    def _set(self) -> None:
        for group, initial in zip(self.optimizer.groups, self.initial, strict=True):
            group["lr"] = self.rate(self.count, initial)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(count={self.count}, lr={self.lr})"


def check_count(name: str, value: Any, *, least: int = 1) -> int:
    """Refuse what is no whole number from ``least`` on."""
    if not _finite(value) or value != int(value) or value < least:
        raise ArgumentError(f"{name}={value!r}", mend=f"it must be a whole number, at least {least}")
    return int(value)


def check_positive(name: str, value: Any) -> float:
    """Refuse what is not finite and above 0."""
    if not _finite(value) or value <= 0:
        raise ArgumentError(f"{name}={value!r}", mend="it must be a finite number above 0")
    return value


def check_not_negative(name: str, value: Any) -> float:
    """Refuse what is not finite, or below 0."""
    if not _finite(value) or value < 0:
        raise ArgumentError(f"{name}={value!r}", mend="it must be a finite number, at least 0")
    return value


def _finite(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)
