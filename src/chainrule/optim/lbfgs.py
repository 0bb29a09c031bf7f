"""L-BFGS: steps along a gradient that the last few steps have taught the curvature.

How often it asks for the loss depends on what it finds, so it computes with values, between calls of the closure:
it cannot be part of a compiled step, but the closure can be compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chainrule.core.errors import ArgumentError, TraceError
from chainrule.core.interp import current, enable_grad, no_grad
from chainrule.ops.creation import asarray
from chainrule.optim.line_search import Vector, strong_wolfe
from chainrule.optim.optimizer import Group, Growing, Optimizer, Slots, check_at_least
from chainrule.tensor import Tensor, new

_CURVED = 1e-10
"""A pair of steps of less curvature than this teaches nothing."""


@dataclass
class _Memory:
    """What is known from the iterations before; vectors hold all parameters, one after the other."""

    iterations: int = 0
    evaluations: int = 0
    direction: Vector | None = None
    gradient: Vector | None = None
    length: Any = 0.0
    scale: Any = 1.0
    changes: list[Vector] = field(default_factory=list[Vector])
    steps: list[Vector] = field(default_factory=list[Vector])
    weights: list[Any] = field(default_factory=list[Any])

    def learn(self, gradient: Vector, most: int) -> None:
        """Keep what the last step was and how it changed the gradient, if it curved upwards."""
        assert self.gradient is not None
        assert self.direction is not None
        change, step = gradient - self.gradient, self.direction * np.asarray(self.length, self.direction.dtype)
        curvature = change @ step
        if curvature > _CURVED:
            for kept, one in ((self.changes, change), (self.steps, step), (self.weights, 1 / curvature)):
                del kept[: len(kept) + 1 - most]
                kept.append(one)
            self.scale = curvature / (change @ change)

    def towards(self, gradient: Vector) -> Vector:
        """Minus the inverse Hessian, as far as it is known, times the gradient: the two-loop recursion."""
        q = -gradient
        shares: list[Any] = []
        for change, step, weight in zip(reversed(self.changes), reversed(self.steps), reversed(self.weights), strict=True):
            shares.append((step @ q) * weight)
            q -= shares[-1] * change
        q *= self.scale
        for change, step, weight, share in zip(self.changes, self.steps, self.weights, reversed(shares), strict=True):
            q += (share - (change @ q) * weight) * step
        return q


class LBFGS(Optimizer):
    """Quasi-Newton steps with limited memory, for losses over all data at once.

    Parameters
    ----------
    parameters : iterable of Tensor, or ``layer.parameters()``
        Of one floating-point dtype; there is one group only.
    lr : float
        The step's length along the direction, or where the line search begins.
    max_iter : int
        Iterations in a step.
    max_eval : int, optional
        Calls of the closure in a step; ``max_iter * 5 // 4`` if not given.
    tolerance_grad : float
        A step ends where no element of the gradient is larger.
    tolerance_change : float
        A step ends where neither loss nor any parameter changes by more.
    history_size : int
        How many pairs of a step and its change of the gradient are remembered, of twice the parameters' size each.
    line_search_fn : {None, "strong_wolfe"}
    weight_decay : float
        This times the parameter is added to its gradient, and half of this times its square to the loss.

    Raises
    ------
    ArgumentError
        If there are several groups, or options make no sense.

    Notes
    -----
    Nocedal and Wright, "Numerical optimization" (2006), algorithms 7.4 and 7.5; line search: 3.5 and 3.6 with cubic
    interpolation; the same iterates as PyTorch's. A loss or gradient that is not finite ends the step.

    Examples
    --------
    >>> import chainrule as cr
    >>> w = cr.tensor([-1.5, 2.0], dtype="float64", requires_grad=True)
    >>> optimizer = cr.optim.LBFGS([w], max_iter=40, line_search_fn="strong_wolfe")
    >>> def rosenbrock():
    ...     optimizer.zero_grad()
    ...     loss = (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2
    ...     loss.backward()
    ...     return loss
    >>> first = optimizer.step(rosenbrock)
    >>> w.detach().numpy().round(3)
    array([1., 1.])
    """

    def __init__(
        self,
        parameters: Iterable[Tensor] | Growing,
        lr: float = 1.0,
        *,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            parameters,
            lr=lr,
            max_iter=max_iter,
            max_eval=max_iter * 5 // 4 if max_eval is None else max_eval,
            tolerance_grad=tolerance_grad,
            tolerance_change=tolerance_change,
            history_size=history_size,
            line_search_fn=line_search_fn,
            weight_decay=weight_decay,
        )
        if len(self.groups) > 1:
            raise ArgumentError(f"LBFGS: {len(self.groups)} groups", mend="it steps all parameters together: give one list of them")
        self._memory = _Memory()

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        for name in ("max_iter", "max_eval", "history_size"):
            check_at_least(name, options[name], 1)
        for name in ("tolerance_grad", "tolerance_change", "weight_decay"):
            check_at_least(name, options[name], 0)
        if options["line_search_fn"] not in (None, "strong_wolfe"):
            raise ArgumentError(f"LBFGS: no line search {options['line_search_fn']!r}", mend='choose None or "strong_wolfe"')

    def begin(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        """Nothing: what is remembered is of all parameters together."""
        return {}

    def update(self, parameter: Tensor, gradient: Tensor, lr: Tensor, slots: Slots, group: Group) -> Tensor:
        raise ArgumentError("LBFGS steps all parameters together", mend="call step(closure)")

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Iterate until a tolerance or a limit is reached.

        Parameters
        ----------
        closure : callable
            Clears the gradients, computes the loss, calls ``backward`` and returns the loss.

        Returns
        -------
        Tensor
            The loss at the beginning.

        Raises
        ------
        ArgumentError
            Without a closure.
        TraceError
            While a function is traced or compiled.
        """
        if closure is None:
            raise ArgumentError("LBFGS.step without a closure", mend="pass a function that computes the loss and the gradients and returns the loss")
        if current().tracer is not None:
            raise TraceError(
                "LBFGS.step inside a function that is traced or compiled: how often it calls the closure depends on values",
                mend="compile the closure instead, closure = cr.compile(closure), and call optimizer.step(closure) outside",
            )
        return _Search(self.groups[0], self._memory, closure).run()

    def state_dict(self) -> dict[str, Any]:
        memory = self._memory
        held: dict[str, Any] = {"iterations": memory.iterations, "evaluations": memory.evaluations}
        if memory.direction is not None and memory.gradient is not None:
            held |= {"direction": memory.direction, "gradient": memory.gradient, "length": memory.length, "scale": memory.scale}
            empty = np.zeros((0, memory.gradient.size), memory.gradient.dtype)
            held |= {"changes": memory.changes or empty, "steps": memory.steps or empty, "weights": np.array(memory.weights, memory.gradient.dtype)}
        return {**super().state_dict(), "state": {"0": {name: new(np.array(value)) for name, value in held.items()}}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        held = {name: np.asarray(asarray(value)._value) for name, value in self._parts(state)[1].get("0", {}).items()}
        count = sum(parameter.size for parameter in self.groups[0].parameters)
        if not _fits(held, count):
            found = {name: value.shape for name, value in held.items()}
            raise ArgumentError(f"LBFGS over {count} numbers has not the state {found}", mend="make model and optimizer as they were")
        super().load_state_dict({**state, "state": {}})
        if len(held) > len(_COUNTS):
            changes, steps, weights = (list(held[name]) for name in ("changes", "steps", "weights"))
            length, scale = held["length"][()], held["scale"][()]
            self._memory = _Memory(0, 0, held["direction"], held["gradient"], length, scale, changes, steps, weights)
        else:
            self._memory = _Memory()
        self._memory.iterations, self._memory.evaluations = int(held["iterations"]), int(held["evaluations"])


class _Search:
    """One step: calls of the closure, and the parameters as one vector."""

    def __init__(self, group: Group, memory: _Memory, closure: Callable[[], Any]) -> None:
        self.group = group
        self.memory = memory
        self.closure = closure

    def run(self) -> Tensor:
        memory, group = self.memory, self.group
        first, loss, gradient = self.evaluate()
        used = 1
        if not group["tolerance_grad"] < _largest(gradient) < np.inf:
            return first
        for iteration in range(1, group["max_iter"] + 1):
            last_iteration = iteration == group["max_iter"]
            memory.iterations += 1
            if memory.direction is None:
                direction, length = -gradient, min(1.0, 1.0 / np.abs(gradient).sum()) * group["lr"]
            else:
                memory.learn(gradient, group["history_size"])
                direction, length = memory.towards(gradient), group["lr"]
            memory.direction, memory.gradient, memory.length = direction, gradient, length
            slope, before = gradient @ direction, loss
            if slope > -group["tolerance_change"]:
                break
            if group["line_search_fn"] is None:
                self.move(self.values(), length, direction)
                if last_iteration:
                    break
                _, loss, gradient = self.evaluate()
                used += 1
            else:
                at = self.values()
                found = strong_wolfe(
                    lambda t, at=at, direction=direction: self.trial(at, t, direction),
                    length, direction, loss, gradient, slope,
                    most=group["max_eval"] - used,
                )  # fmt: skip
                loss, gradient, length = found.loss, found.gradient, found.length
                memory.length = length
                used += found.evaluations
                self.move(at, length, direction)
            settled = _largest(direction * length) <= group["tolerance_change"] or abs(loss - before) < group["tolerance_change"]
            if last_iteration or used >= group["max_eval"] or settled or not group["tolerance_grad"] < _largest(gradient) < np.inf:
                break
        return first

    def evaluate(self) -> tuple[Tensor, float, Vector]:
        """The closure's loss, the same as a number with the penalty of weight decay, and the gradient."""
        self.memory.evaluations += 1
        with enable_grad():
            loss = self.closure()
        if not isinstance(loss, Tensor) or loss.size != 1:
            raise ArgumentError(f"LBFGS: the closure returned {loss!r}", mend="let it return the loss, a Tensor of one number")
        decay = self.group["weight_decay"]
        values = [parameter.detach().numpy() for parameter in self.group.parameters]
        gradients = [parameter.grad for parameter in self.group.parameters]
        parts = [np.zeros(x.size, x.dtype) if g is None else g.detach().numpy().reshape(-1) for x, g in zip(values, gradients, strict=True)]
        total, gradient = loss.item(), np.concatenate(parts)
        if decay:
            flat = np.concatenate([x.reshape(-1) for x in values])
            total, gradient = total + decay / 2 * float(flat @ flat), gradient + decay * flat
        return loss, total, gradient

    def trial(self, at: list[Tensor], length: Any, direction: Vector) -> tuple[float, Vector]:
        """Loss and gradient at this length along the direction."""
        self.move(at, length, direction)
        _, loss, gradient = self.evaluate()
        return loss, gradient

    def values(self) -> list[Tensor]:
        return [parameter.detach() for parameter in self.group.parameters]

    def move(self, at: list[Tensor], length: Any, direction: Vector) -> None:
        """Put the parameters at this length along the direction."""
        begin = 0
        with no_grad():
            for parameter, value in zip(self.group.parameters, at, strict=True):
                part = direction[begin : begin + value.size].reshape(value.shape)
                parameter.assign(value.numpy() + part * np.asarray(length, part.dtype))
                begin += value.size


_COUNTS = ("iterations", "evaluations")


def _fits(held: Mapping[str, Any], count: int) -> bool:
    """Whether this is the memory of a search over so many numbers: two counts, or all that there is after a step."""
    pairs = held["weights"].size if "weights" in held else 0
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys((*_COUNTS, "length", "scale"), ())
    shapes |= {"direction": (count,), "gradient": (count,), "changes": (pairs, count), "steps": (pairs, count), "weights": (pairs,)}
    found = {name: value.shape for name, value in held.items()}
    return found in (shapes, dict.fromkeys(_COUNTS, ()))


def _largest(vector: Vector) -> float:
    return float(np.abs(vector).max())
