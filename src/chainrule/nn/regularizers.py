"""Regularizers: a price on the size of parameters, added to the loss.

A regularizer is plain frozen data, called with a parameter; layers keep one beside the parameter that it is for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from chainrule.core.errors import ArgumentError, look_up
from chainrule.ops.arithmetic import square
from chainrule.ops.reduction import sum
from chainrule.ops.rounding import abs
from chainrule.tensor import Tensor

__all__ = ["L1", "L2", "L1L2", "Regularizer"]


class Regularizer(ABC):
    """What a parameter's values cost; the base of all regularizers.

    Examples
    --------
    One's own is a frozen dataclass, so that `nn.serialize` can write it down.

    >>> from dataclasses import dataclass
    >>> import chainrule as cr
    >>> @dataclass(frozen=True)
    ... class Largest(cr.nn.regularizers.Regularizer):
    ...     def __call__(self, parameter):
    ...         return cr.max(cr.abs(parameter))
    >>> layer = cr.nn.Dense(1, kernel_initializer="ones", kernel_regularizer=Largest()).initialize((1, 3))
    >>> layer.penalty().item()
    1.0
    """

    @abstractmethod
    def __call__(self, parameter: Tensor) -> Tensor:
        """The price, a scalar."""


def _check(kind: str, **factors: float) -> None:
    for name, factor in factors.items():
        if not 0 <= factor < float("inf"):
            raise ArgumentError(f"{kind}: {name}={factor}", mend="it must be a finite number, at least 0")


@dataclass(frozen=True)
class L1(Regularizer):
    """``l1 * sum(|w|)``, which drives small weights to zero.

    Parameters
    ----------
    l1 : float
        The factor, not negative.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nn.regularizers.L1(0.5)(cr.tensor([3.0, -4.0]))
    tensor(3.5)
    """

    l1: float = 0.01

    def __post_init__(self) -> None:
        _check("L1", l1=self.l1)

    def __call__(self, parameter: Tensor) -> Tensor:
        return self.l1 * sum(abs(parameter))


@dataclass(frozen=True)
class L2(Regularizer):
    """``l2 * sum(w**2)``, which keeps weights small; its derivative is ``2 * l2 * w``.

    Parameters
    ----------
    l2 : float
        The factor, not negative; half of lambda where a formula has ``lambda / 2 * sum(w**2)``.

    Examples
    --------
    >>> import chainrule as cr
    >>> layer = cr.nn.Dense(1, kernel_initializer="ones", kernel_regularizer=cr.nn.regularizers.L2(0.5))
    >>> _ = layer([[1.0, 2.0]])
    >>> layer.penalty().item()
    1.0
    """

    l2: float = 0.01

    def __post_init__(self) -> None:
        _check("L2", l2=self.l2)

    def __call__(self, parameter: Tensor) -> Tensor:
        return self.l2 * sum(square(parameter))


@dataclass(frozen=True)
class L1L2(Regularizer):
    """``l1 * sum(|w|) + l2 * sum(w**2)``.

    Parameters
    ----------
    l1, l2 : float
        The factors, not negative.

    Examples
    --------
    >>> import chainrule as cr
    >>> w = cr.tensor([3.0, -4.0], requires_grad=True)
    >>> cr.nn.regularizers.L1L2(l1=1.0, l2=0.5)(w).backward()
    >>> w.grad
    tensor([ 4., -5.])
    """

    l1: float = 0.01
    l2: float = 0.01

    def __post_init__(self) -> None:
        _check("L1L2", l1=self.l1, l2=self.l2)

    def __call__(self, parameter: Tensor) -> Tensor:
        return self.l1 * sum(abs(parameter)) + self.l2 * sum(square(parameter))


NAMES: dict[str, Regularizer] = {"l1": L1(), "l2": L2(), "l1_l2": L1L2()}


def fetch(regularizer: Regularizer | str | None) -> Regularizer | None:
    """The regularizer of this name; a regularizer, or None, stays itself."""
    if regularizer is None or isinstance(regularizer, Regularizer):
        return regularizer
    return look_up("regularizer", regularizer, NAMES)
