"""Lion: steps of one size, in the direction of a sign."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from chainrule.ops.rounding import sign
from chainrule.optim.optimizer import Group, Growing, Optimizer, Slots, check_at_least, check_betas
from chainrule.tensor import Tensor


class Lion(Optimizer):
    """Steps of the length lr against the sign of a mean of gradients.

    Parameters
    ----------
    parameters
        As for `Optimizer`.
    lr : float
        Three to ten times smaller than for Adam.
    betas : (float, float)
        Share of the running mean that counts in the direction, and share of it that stays at a step; in [0, 1).
    weight_decay : float
        Share of the parameter, times lr, by which it shrinks at a step; three to ten times larger than for AdamW.

    Notes
    -----
    ``c = beta1 * m + (1 - beta1) * g``, ``p = p - lr * (sign(c) + weight_decay * p)``, then
    ``m = beta2 * m + (1 - beta2) * g``.
    Chen et al., "Symbolic discovery of optimization algorithms" (2023), algorithm 2.

    Examples
    --------
    >>> import chainrule as cr
    >>> w = cr.tensor([1.0, -100.0], requires_grad=True)
    >>> optimizer = cr.optim.Lion([w], lr=0.25)
    >>> (w * w).sum().backward()
    >>> optimizer.step(); w
    tensor([  0.75, -99.75], requires_grad=True)
    """

    def __init__(
        self,
        parameters: Iterable[Tensor] | Growing | Sequence[Mapping[str, Any]],
        lr: float = 1e-4,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, weight_decay=weight_decay)

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        check_betas(options["betas"])
        check_at_least("weight_decay", options["weight_decay"], 0)

    def begin(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        return {"mean": np.zeros(parameter.shape, parameter.dtype)}

    def update(self, parameter: Tensor, gradient: Tensor, lr: Tensor, slots: Slots, group: Group) -> Tensor:
        beta1, beta2 = group["betas"]
        mean = slots["mean"]
        direction = sign(mean * beta1 + gradient * (1 - beta1))
        mean.assign(mean * beta2 + gradient * (1 - beta2))
        if group["weight_decay"]:
            direction = direction + parameter * group["weight_decay"]
        return parameter - direction * lr
