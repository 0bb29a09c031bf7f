"""Adagrad and RMSProp: steps divided by the size that gradients have had, element by element."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from chainrule.ops.arithmetic import sqrt
from chainrule.ops.selection import maximum
from chainrule.optim.optimizer import Group, Growing, Optimizer, Slots, check_at_least, check_share
from chainrule.tensor import Tensor


class Adagrad(Optimizer):
    """Steps along the gradient over the root of the sum of all its squares so far.

    Parameters
    ----------
    parameters
        As for `Optimizer`.
    lr : float
    eps : float
        Added to the root.
    weight_decay : float
        This times the parameter is added to its gradient.
    initial_accumulator : float
        Where the sum of squares begins.

    Notes
    -----
    ``s = s + g**2``, then ``p = p - lr * g / (sqrt(s) + eps)``.
    Duchi, Hazan and Singer, "Adaptive subgradient methods for online learning and stochastic optimization"
    (2011), figure 1 with the diagonal matrix.

    Examples
    --------
    >>> import chainrule as cr
    >>> w = cr.tensor([1.0, 100.0], requires_grad=True)
    >>> optimizer = cr.optim.Adagrad([w], lr=0.5)
    >>> (w * w).sum().backward()
    >>> optimizer.step(); w
    tensor([ 0.5, 99.5], requires_grad=True)
    """

    def __init__(
        self,
        parameters: Iterable[Tensor] | Growing | Sequence[Mapping[str, Any]],
        lr: float = 1e-2,
        *,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        initial_accumulator: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr=lr, eps=eps, weight_decay=weight_decay, initial_accumulator=initial_accumulator)

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        for name in ("eps", "weight_decay", "initial_accumulator"):
            check_at_least(name, options[name], 0)

    def begin(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        return {"sum": np.full(parameter.shape, group["initial_accumulator"], parameter.dtype)}

    def update(self, parameter: Tensor, gradient: Tensor, lr: Tensor, slots: Slots, group: Group) -> Tensor:
        if group["weight_decay"]:
            gradient = gradient + parameter * group["weight_decay"]
        total = slots["sum"].assign(slots["sum"] + gradient * gradient)
        return parameter - gradient * lr / (sqrt(total) + group["eps"])


class RMSProp(Optimizer):
    """Steps along the gradient over its running root mean square.

    Parameters
    ----------
    parameters
        As for `Optimizer`.
    lr : float
    alpha : float
        Share of the running mean of squares that stays at a step, in [0, 1); elsewhere called rho.
    eps : float
        Added to the root.
    momentum : float
        Share of the last step's velocity that stays, in [0, 1).
    centered : bool
        Divide by the running standard deviation instead: the mean's square is subtracted first.
    weight_decay : float
        This times the parameter is added to its gradient.

    Notes
    -----
    ``s = alpha * s + (1 - alpha) * g**2``, then ``v = momentum * v + g / (sqrt(s) + eps)`` and
    ``p = p - lr * v``. Hinton, "Neural networks for machine learning", lecture 6e (2012); centered: Graves,
    "Generating sequences with recurrent neural networks" (2013), equations 38 to 45; in PyTorch's form.

    Examples
    --------
    >>> import chainrule as cr
    >>> w = cr.tensor([1.0], requires_grad=True)
    >>> optimizer = cr.optim.RMSProp([w], lr=0.1, alpha=0.75)
    >>> (w * w).sum().backward()
    >>> optimizer.step(); w
    tensor([0.8], requires_grad=True)
    """

    def __init__(
        self,
        parameters: Iterable[Tensor] | Growing | Sequence[Mapping[str, Any]],
        lr: float = 1e-2,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        centered: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr=lr, alpha=alpha, eps=eps, momentum=momentum, centered=centered, weight_decay=weight_decay)

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        for name in ("alpha", "momentum"):
            check_share(name, options[name])
        for name in ("eps", "weight_decay"):
            check_at_least(name, options[name], 0)

    def begin(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        wanted = {"square": True, "mean": group["centered"], "velocity": group["momentum"]}
        return {name: np.zeros(parameter.shape, parameter.dtype) for name, needed in wanted.items() if needed}

    def update(self, parameter: Tensor, gradient: Tensor, lr: Tensor, slots: Slots, group: Group) -> Tensor:
        if group["weight_decay"]:
            gradient = gradient + parameter * group["weight_decay"]
        alpha = group["alpha"]
        square = slots["square"].assign(slots["square"] * alpha + gradient * gradient * (1 - alpha))
        if group["centered"]:
            mean = slots["mean"].assign(slots["mean"] * alpha + gradient * (1 - alpha))
            # Rounding may take a variance of zero below it.
            square = maximum(square - mean * mean, 0.0)
        move = gradient / (sqrt(square) + group["eps"])
        if group["momentum"]:
            move = slots["velocity"].assign(slots["velocity"] * group["momentum"] + move)
        return parameter - move * lr
