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


def by_pullback(f: Scalar) -> Scalar:
    def derivative(x: cr.Tensor) -> cr.Tensor:
        _, pull = cr.vjp(f, x)
        return pull(cr.ones_like(x))[0]

    return derivative


def by_kept_pullback(f: Scalar) -> Scalar:
    """The pullback is linear, so its own derivative is the derivative too; it is taken after the vjp has ended."""

    def derivative(x: cr.Tensor) -> cr.Tensor:
        _, pull = cr.vjp(f, x)
        one = cr.ones_like(x)
        return cr.jvp(lambda ct: pull(ct)[0], (one,), (one,))[1]

    return derivative


def by_autograd(f: Scalar) -> Scalar:
    def derivative(x: cr.Tensor) -> cr.Tensor:
        shift = cr.zeros_like(x).requires_grad_()
        return cr.autograd.grad(f(x + shift), [shift], create_graph=True)[0]

    return derivative


MODES = (forward, reverse, by_pullback, by_kept_pullback, by_autograd)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_every_composition_gives_the_same_number(order: int) -> None:
    """f = x**5 + exp(2 x), whose derivatives are known."""
    x = 0.7
    expected = np.prod(range(6 - order, 6)) * x ** (5 - order) + 2**order * np.exp(2 * x)
    for modes in product(MODES, repeat=order):
        derivative: Scalar = lambda x: x**5 + cr.exp(2.0 * x)
        for mode in modes:
            derivative = mode(derivative)
        found = derivative(cr.tensor(x, dtype="float64")).detach()
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-12, err_msg=str([mode.__name__ for mode in modes]))


def test_a_pullback_kept_from_around_a_jvp_is_not_disturbed_by_the_next_one() -> None:
    _, pull = cr.vjp(lambda y: cr.jvp(lambda z: z**3, (y,), (1.0,))[1], 2.0)
    assert cr.jvp(lambda ct: pull(ct)[0], (1.0,), (1.0,))[1].item() == 12


def test_a_tape_kept_from_around_a_jvp_is_not_disturbed_by_the_next_one() -> None:
    w = cr.tensor(2.0, requires_grad=True)
    loss = cr.jvp(lambda z: z**3 * w, (w,), (1.0,))[1]
    found = cr.jvp(lambda c: cr.autograd.grad(loss * c, [w], create_graph=True)[0], (1.0,), (1.0,))[1]
    assert found.item() == pytest.approx(36)


@pytest.mark.parametrize("transform", [cr.grad, forward])
def test_what_leaks_out_of_a_transform_is_a_constant_for_the_next(transform: Callable[[Scalar], Scalar]) -> None:
    """A running mean is changed inside the function, as batch normalisation does."""
    mean = cr.tensor(0.0)

    def f(x: cr.Tensor) -> cr.Tensor:
        mean.assign(0.9 * mean + 0.1 * x)
        return x * x + mean

    expected = 0.0
    for _ in range(3):
        assert transform(f)(cr.tensor(1.0)).item() == pytest.approx(2.1)
        expected = 0.9 * expected + 0.1
        assert mean.item() == pytest.approx(expected)
        assert not mean.requires_grad


def test_gradients_that_arrived_inside_a_jvp_are_numbers_afterwards() -> None:
    w = cr.tensor(2.0, requires_grad=True)
    cr.jvp(lambda x: (x * x * w).backward() or x, (2.0,), (1.0,))
    assert cr.jvp(lambda x: x * w.grad, (1.0,), (1.0,))[1].item() == w.grad.item() == 4


def test_steps_by_high_orders_keep_no_history() -> None:
    w = cr.tensor(1.0)
    for _ in range(3):
        w = w - 0.001 * cr.grad(cr.grad(cr.grad(lambda x: x**4)))(w)
    assert w._node is None


@pytest.mark.parametrize("mode", [cr.grad, forward, by_pullback])
def test_rebinding_an_argument_inside_a_transform_is_differentiated(mode: Callable[[Scalar], Scalar]) -> None:
    def square(x: cr.Tensor) -> cr.Tensor:
        x *= x
        return x

    x = cr.tensor(3.0)
    assert mode(square)(x).item() == 6
    assert mode(mode(square))(x).item() == 2
    assert x.item() == 3


def test_autograd_grad_of_what_depends_on_the_transform_alone() -> None:
    assert cr.grad(lambda x: cr.autograd.grad(x**3, [x])[0])(2.0).item() == 12


def test_backward_where_only_the_transform_would_get_a_gradient_is_told() -> None:
    with pytest.raises(cr.errors.GradientError, match="requires a gradient"):
        cr.grad(lambda x: (x * x).backward() or x)(2.0)


@pytest.mark.parametrize("modes", list(product((forward, reverse), repeat=2)))
def test_factorizations_whose_rules_invert_what_they_computed(modes: tuple[Callable[[Scalar], Scalar], ...]) -> None:
    A = np.array([[3.0, 0.4], [0.4, 2.0]])

    def f(x: cr.Tensor) -> cr.Tensor:
        q, r = cr.linalg.qr(A + x * x * np.eye(2))
        return cr.sum(cr.linalg.cholesky(A * x) * r) + cr.sum(q)

    derivative, x, h = f, 1.3, 1e-4
    for mode in modes:
        derivative = mode(derivative)
    near = [cr.grad(f)(np.float64(x + sign * h)).item() for sign in (1, -1)]
    assert derivative(cr.tensor(x, dtype="float64")).item() == pytest.approx((near[0] - near[1]) / (2 * h), rel=1e-6)


@pytest.mark.parametrize("mode", [reverse, forward])
def test_assigning_to_a_leaf_inside_a_transform_loses_nothing_silently(mode: Callable[[Scalar], Scalar]) -> None:
    frozen, trained = cr.tensor(1.0, requires_grad=True).requires_grad_(False), cr.tensor(1.0, requires_grad=True)

    def assigns_to(w: cr.Tensor) -> Scalar:
        return lambda z: w.assign(z * z) * z

    with cr.no_grad():
        assert mode(assigns_to(frozen))(cr.tensor(2.0)).item() == 12
        with pytest.raises(cr.errors.GradientError, match="transform in progress"):
            mode(assigns_to(trained))(cr.tensor(2.0))


@pytest.mark.parametrize("mode", [reverse, forward])
def test_what_would_cut_a_running_derivative_is_an_error(mode: Callable[[Scalar], Scalar]) -> None:
    for cut in (lambda z: z.requires_grad_() * z, lambda z: z * cr.asarray(np.from_dlpack(z)), lambda z: z * np.asarray(z)):
        with pytest.raises(cr.errors.GradientError):
            mode(cut)(cr.tensor(3.0))
