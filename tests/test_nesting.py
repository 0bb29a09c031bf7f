"""Derivatives of derivatives where a rule reads the gate's own output: every nesting gives the same number."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

import chainrule as cr

Scalar = Callable[[cr.Tensor], cr.Tensor]


class Exp(cr.Function):
    """Its derivative is its output."""

    @staticmethod
    def forward(ctx: Any, x: cr.Tensor) -> cr.Tensor:
        out = cr.exp(x)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, ct: cr.Tensor) -> cr.Tensor:
        (out,) = ctx.saved_tensors
        return ct * out


class ExpBothWays(Exp):
    @staticmethod
    def jvp(ctx: Any, t: cr.Tensor) -> cr.Tensor:
        (out,) = ctx.saved_tensors
        return t * out


def forward(f: Scalar) -> Scalar:
    return lambda x: cr.jvp(f, (x,), (cr.ones_like(x),))[1]


def reverse(f: Scalar) -> Scalar:
    return cr.grad(f)


@pytest.mark.parametrize("modes", list(product((forward, reverse), repeat=3)), ids=lambda modes: "-".join(mode.__name__ for mode in modes))
@pytest.mark.parametrize("exp", [cr.exp, Exp.apply, ExpBothWays.apply], ids=["gate", "Function", "Function with jvp"])
def test_third_derivative(exp: Scalar, modes: tuple[Callable[[Scalar], Scalar], ...]) -> None:
    derivative = exp
    for mode in modes:
        derivative = mode(derivative)
    np.testing.assert_allclose(np.asarray(derivative(cr.tensor(0.5, dtype="float64"))), np.exp(0.5), rtol=1e-12)


@pytest.mark.parametrize("inner", [forward, reverse])
def test_a_tag_that_is_used_again_keeps_the_nesting(inner: Callable[[Scalar], Scalar]) -> None:
    """An inner transform may have a lower bit than the outer one, if another that ended meanwhile had it before."""
    earlier = [cr.vjp(cr.exp, 1.0)]

    def f(x: cr.Tensor) -> cr.Tensor:
        earlier.clear()
        return inner(cr.exp)(x)

    np.testing.assert_allclose(np.asarray(forward(f)(cr.tensor(0.5, dtype="float64"))), np.exp(0.5), rtol=1e-12)


def test_several_outputs_that_a_rule_reads() -> None:
    x = np.array([[2.0, 0.5], [0.5, -1.0]])

    def f(x: cr.Tensor) -> cr.Tensor:
        values, vectors = cr.linalg.eigh(x)
        return cr.sum(values * values * values) + cr.sum((vectors * values) @ vectors.mT)

    t = np.array([[0.3, -0.2], [-0.2, 0.7]])
    along = forward_along(cr.grad(f), t)(x)
    epsilon = 1e-6
    expected = (np.asarray(cr.grad(f)(x + epsilon * t)) - np.asarray(cr.grad(f)(x - epsilon * t))) / (2 * epsilon)
    np.testing.assert_allclose(np.asarray(along), expected, rtol=1e-6, atol=1e-8)


def forward_along(f: Scalar, t: np.ndarray) -> Scalar:
    return lambda x: cr.jvp(f, (x,), (t,))[1]
