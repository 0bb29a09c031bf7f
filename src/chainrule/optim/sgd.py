"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from chainrule.core.errors import ArgumentError
from chainrule.optim.optimizer import Group, Growing, Optimizer, Slots, check_at_least, check_share
from chainrule.tensor import Tensor


class SGD(Optimizer):
    """Steps against the gradient, with momentum if asked for.

    Parameters
    ----------
    parameters
        As for `Optimizer`.
    lr : float
    momentum : float
        Share of the last step's velocity that stays, in [0, 1).
    nesterov : bool
        Take the gradient as if the velocity had been followed already; needs momentum.
    weight_decay : float
        This times the parameter is added to its gradient.

    Notes
    -----
    ``v = momentum * v + g``, then ``p = p - lr * v``, or with nesterov ``p = p - lr * (g + momentum * v)``.
    Sutskever et al., "On the importance of initialization and momentum in deep learning" (2013), in PyTorch's form.

    Examples
    --------
    >>> import chainrule as cr
    >>> w = cr.tensor(1.0, requires_grad=True)
    >>> optimizer = cr.optim.SGD([w], lr=0.1)
    >>> (w * w).backward()
    >>> optimizer.step()
    >>> round(w.item(), 4)
    0.8
    """

    def __init__(
        self,
        parameters: Iterable[Tensor] | Growing | Sequence[Mapping[str, Any]],
        lr: float = 1e-2,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        check_share("momentum", options["momentum"])
        check_at_least("weight_decay", options["weight_decay"], 0)
        if options["nesterov"] and not options["momentum"]:
            raise ArgumentError("SGD: nesterov without momentum", mend="pass a momentum, such as 0.9")

    def begin(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        return {"velocity": np.zeros(parameter.shape, parameter.dtype)} if group["momentum"] else {}

    def update(self, parameter: Tensor, gradient: Tensor, lr: Tensor, slots: Slots, group: Group) -> Tensor:
        if group["weight_decay"]:
            gradient = gradient + parameter * group["weight_decay"]
        if group["momentum"]:
            velocity = slots["velocity"].assign(slots["velocity"] * group["momentum"] + gradient)
            gradient = gradient + velocity * group["momentum"] if group["nesterov"] else velocity
        return parameter - gradient * lr
