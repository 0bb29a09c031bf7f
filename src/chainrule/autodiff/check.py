"""Gradient checks: derivative rules against central differences, and against each other.

Everything is done in float64 along random directions: for a cotangent u, each element of u^T J from
`vjp` is compared with a difference quotient; for a tangent t, each element of J t from `jvp`; and
the two must meet in u^T (J t) = (u^T J) t to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.autodiff.forward import jvp
from chainrule.autodiff.reverse import vjp
from chainrule.core import tree
from chainrule.core.errors import ArgumentError, GradientCheckError
from chainrule.core.interp import no_grad
from chainrule.core.primitive import functions
from chainrule.tensor import Tensor

__all__ = ["gradcheck", "gradgradcheck"]

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Problem:
    """A function of flat float64 arrays, and where it is checked."""

    f: Callable[..., list[Tensor]]
    inputs: list[Array]
    names: list[str]
    eps: float
    atol: float
    rtol: float

    def __call__(self, inputs: Sequence[Array]) -> list[Array]:
        with no_grad():
            return [np.array(out.detach(), np.float64) for out in self.f(*map(functions.asarray, inputs))]

    def compare(self, what: str, name: str, got: Array, expected: Array) -> None:
        wrong = ~(np.abs(got - expected) <= self.atol + self.rtol * np.maximum(np.abs(expected), np.abs(got)))
        same = np.isnan(got) & np.isnan(expected) | (got == expected)
        wrong &= ~same
        if wrong.any():
            errors = np.where(wrong, np.nan_to_num(np.abs(got - expected), nan=np.inf), -1.0)
            worst = np.unravel_index(int(errors.argmax()), errors.shape)
            index = tuple(map(int, worst))
            raise GradientCheckError(
                f"{what}: {name}, element {index}: rule gives {got[worst]:.10g}, central difference {expected[worst]:.10g}"
                f" ({int(wrong.sum())} of {wrong.size} elements differ)",
                mend="correct the derivative rule; at a kink or a tie move the input away from it",
            )


def gradcheck(
    f: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-6,
    rtol: float = 1e-4,
    directions: int = 2,
    forward: bool = True,
    seed: int = 0,
) -> bool:
    """Check reverse and forward mode of ``f`` against central differences.

    Parameters
    ----------
    f : callable
        A function of Tensors with a Tensor or container of them as result.
    inputs : Tensor, array or sequence of them (containers too)
        Arguments; those of floating point are checked, in float64, the others handed through.
    eps : float
        Half the step of the difference quotient.
    atol, rtol : float
        Allowed: ``|rule - difference| <= atol + rtol * max(|rule|, |difference|)``.
    directions : int
        Random cotangents and tangents to try.
    forward : bool
        Whether to check `jvp` too.
    seed : int
        Of the random directions.

    Returns
    -------
    bool
        True; a disagreement raises.

    Raises
    ------
    GradientCheckError
        Naming the input (or output), the element, and both values.
    ArgumentError
        If no input or no output is floating point.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.gradcheck(lambda x, w: cr.tanh(x @ w), (cr.ones((2, 3)), cr.ones((3, 2))))
    True
    """
    problem = _problem(f, inputs, eps, atol, rtol)
    rng = np.random.default_rng(seed)
    for _ in range(directions):
        _check_direction(problem, rng, forward)
    return True


def gradgradcheck(f: Callable[..., Any], inputs: Any, **options: Any) -> bool:
    """Check second derivatives: `gradcheck` of the function from inputs and cotangents to gradients.

    Parameters, result and errors are those of `gradcheck`.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.gradgradcheck(lambda x: cr.exp(x) * x, (cr.tensor([0.5, -1.0]),))
    True
    """
    problem = _problem(f, inputs, 0.0, 0.0, 0.0)
    rng = np.random.default_rng(options.get("seed", 0))
    cotangents = [rng.normal(size=out.shape) for out in problem(problem.inputs)]
    count = len(problem.inputs)

    def gradients(*both: Tensor) -> Any:
        _, pull = vjp(problem.f, *both[:count])
        return pull(list(both[count:]))

    return gradcheck(gradients, (*problem.inputs, *cotangents), **options)


def _problem(f: Callable[..., Any], inputs: Any, eps: float, atol: float, rtol: float) -> _Problem:
    arguments = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    leaves, structure = tree.flatten(arguments)
    leaves = [functions.asarray(leaf).detach() for leaf in leaves]
    checked = [i for i, leaf in enumerate(leaves) if leaf.dtype.kind == "f"]
    if not checked:
        raise ArgumentError("gradcheck: no input is floating point", mend="pass at least one float tensor")

    def flat(*values: Tensor) -> list[Tensor]:
        given = list(leaves)
        for i, value in zip(checked, values, strict=True):
            given[i] = value
        outputs = [functions.asarray(out) for out in tree.leaves(f(*structure.rebuild(given)))]
        outputs = [out for out in outputs if out.dtype.kind == "f"]
        if not outputs:
            raise ArgumentError("gradcheck: no output is floating point", mend="check a function with a differentiable result")
        return outputs

    return _Problem(flat, [np.array(leaves[i], np.float64) for i in checked], [f"input {i}" for i in checked], eps, atol, rtol)


def _check_direction(problem: _Problem, rng: np.random.Generator, forward: bool) -> None:
    inputs = problem.inputs
    out, pull = vjp(problem.f, *inputs)
    cotangents = [rng.normal(size=x.shape) for x in out]
    rows = [np.asarray(row) for row in pull(cotangents)]
    for i, (name, row) in enumerate(zip(problem.names, rows, strict=True)):
        problem.compare("vjp", name, row, _numeric_row(problem, i, cotangents))
    if not forward:
        return
    tangents = [rng.normal(size=x.shape) for x in inputs]
    _, pushed = jvp(problem.f, tuple(inputs), tuple(tangents))
    columns = [np.asarray(column) for column in pushed]
    high, low = (problem([x + sign * problem.eps * t for x, t in zip(inputs, tangents, strict=True)]) for sign in (1, -1))
    for i, (column, a, b) in enumerate(zip(columns, high, low, strict=True)):
        problem.compare("jvp", f"output {i}", column, (a - b) / (2 * problem.eps))
    left = sum(float(np.sum(u * column)) for u, column in zip(cotangents, columns, strict=True))
    right = sum(float(np.sum(row * t)) for row, t in zip(rows, tangents, strict=True))
    scale = 1 + sum(float(np.sum(np.abs(row * t))) for row, t in zip(rows, tangents, strict=True))
    if not (abs(left - right) <= 1e-9 * scale or (np.isnan(left) and np.isnan(right))):
        raise GradientCheckError(
            f"the modes disagree: <u, J t> = {left:.12g} by jvp, <u^T J, t> = {right:.12g} by vjp", mend="correct whichever rule is wrong"
        )


def _numeric_row(problem: _Problem, position: int, cotangents: Sequence[Array]) -> Array:
    """Central differences of <u, f(x)> with respect to each element of one input."""
    x = problem.inputs[position]
    row = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        ends: list[list[Array]] = []
        for sign in (1, -1):
            moved = x.copy()
            moved[index] += sign * problem.eps
            ends.append(problem([*problem.inputs[:position], moved, *problem.inputs[position + 1 :]]))
        row[index] = sum(float(np.sum(u * (a - b))) for u, a, b in zip(cotangents, *ends, strict=True)) / (2 * problem.eps)
    return row
