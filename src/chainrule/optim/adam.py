"""Adam and AdamW: steps scaled by running moments of the gradient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from chainrule.core.aval import float64
from chainrule.ops.arithmetic import sqrt
from chainrule.ops.creation import astype
from chainrule.ops.selection import maximum
from chainrule.optim.optimizer import Group, Growing, Optimizer, Slots, check_at_least, check_betas
from chainrule.tensor import Tensor


class Adam(Optimizer):
    """Steps along the mean gradient over its root mean square.

    Parameters
    ----------
    parameters
        As for `Optimizer`.
    lr : float
    betas : (float, float)
        Shares of the running mean of the gradient, and of its square, that stay at a step; in [0, 1).
    eps : float
        Added to the root mean square.
    weight_decay : float
        This times the parameter is added to its gradient; see `AdamW` for the decoupled form.
    amsgrad : bool
        Divide by the largest root mean square so far, so that steps never grow where gradients fade.

    Notes
    -----
    ``m = beta1 * m + (1 - beta1) * g``, ``v = beta2 * v + (1 - beta2) * g**2``, then
    ``p = p - lr * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + eps)`` at step t.
    Kingma and Ba, "Adam: a method for stochastic optimization" (2015), algorithm 1, with eps added after
    the bias correction. With amsgrad the largest v so far takes the place of v: Reddi, Kale and Kumar,
    "On the convergence of Adam and beyond" (2018), algorithm 2, in PyTorch's form.

    Examples
    --------
    >>> import chainrule as cr
    >>> w = cr.tensor(1.0, requires_grad=True)
    >>> optimizer = cr.optim.Adam([w], lr=0.1)
    >>> (w * w).backward()
    >>> optimizer.step()
    >>> round(w.item(), 4)
    0.9
    """

    def __init__(
        self,
        parameters: Iterable[Tensor] | Growing | Sequence[Mapping[str, Any]],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        check_betas(options["betas"])
        check_at_least("eps", options["eps"], 0)
        check_at_least("weight_decay", options["weight_decay"], 0)

    def begin(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        zeros = np.zeros(parameter.shape, parameter.dtype)
        return {"step": np.array(0), "mean": zeros, "square": zeros, **({"largest": zeros} if group["amsgrad"] else {})}

    def update(self, parameter: Tensor, gradient: Tensor, lr: Tensor, slots: Slots, group: Group) -> Tensor:
        if group["weight_decay"]:
            parameter, gradient = self.decay(parameter, gradient, lr, group["weight_decay"])
        beta1, beta2 = group["betas"]
        dtype = parameter.dtype
        step = slots["step"].assign(slots["step"] + 1)
        mean = slots["mean"].assign(slots["mean"] * beta1 + gradient * (1 - beta1))
        square = slots["square"].assign(slots["square"] * beta2 + gradient * gradient * (1 - beta2))
        if group["amsgrad"]:
            square = slots["largest"].assign(maximum(slots["largest"], square))
        # In double precision: in single, 1 - 0.999**1 is off by 1e-5.
        count = astype(step, float64)
        root = astype(sqrt(1 - beta2**count), dtype, copy=False)
        scale = lr * astype(1 / (1 - beta1**count), dtype, copy=False)
        return parameter - mean * scale / (sqrt(square) / root + group["eps"])

    def decay(self, parameter: Tensor, gradient: Tensor, lr: Tensor, weight_decay: float) -> tuple[Tensor, Tensor]:
        """Parameter and gradient with weight decay."""
        return parameter, gradient + parameter * weight_decay


class AdamW(Adam):
    """Adam with decoupled weight decay: ``p = p * (1 - lr * weight_decay)`` before the step.

    Parameters
    ----------
    parameters, lr, betas, eps, amsgrad
        As for `Adam`.
    weight_decay : float
        Share of the parameter, times lr, by which it shrinks at a step.

    Notes
    -----
    Loshchilov and Hutter, "Decoupled weight decay regularization" (2019), algorithm 2.

    Examples
    --------
    >>> import chainrule as cr
    >>> w = cr.tensor([1.0], requires_grad=True)
    >>> (w * 3.0).sum().backward()
    >>> cr.optim.AdamW([w], lr=0.1, weight_decay=0.5).step(); w
    tensor([0.85], requires_grad=True)
    """

    def __init__(
        self,
        parameters: Iterable[Tensor] | Growing | Sequence[Mapping[str, Any]],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(parameters, lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)

    def decay(self, parameter: Tensor, gradient: Tensor, lr: Tensor, weight_decay: float) -> tuple[Tensor, Tensor]:
        return parameter * (1 - lr * weight_decay), gradient
