"""Transforms on both backends: what a transform makes is compiled, and what is compiled is transformed, as without compiling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.core import tree
from test_backends import Compile, compiled, numbers, same

__all__ = ["compiled"]

Function = Callable[..., Any]

SIZE = 6
X, DIRECTION, OTHER = (cr.tensor(numbers(SIZE, seed=seed)) for seed in range(3))
W, KERNEL = numbers(SIZE, SIZE), numbers(3, 1, 2)
ORDER = np.array([3, 0, 3, 5, 2, 0])


# Programs: vectors of SIZE numbers to vectors


def products(x: Any) -> Any:
    return (W @ cr.tanh(x)) * (x @ W) + cr.sum(cr.einsum("i,j->ij", x, cr.sin(x)) @ W, axis=0)


def convolution(x: Any) -> Any:
    return cr.sum(cr.tanh(cr.conv(cr.reshape(x * x, (1, SIZE, 1)), KERNEL, padding="same")), axis=(0, 2))


def normalised(x: Any) -> Any:
    return cr.softmax(x) * cr.logsumexp(x) + (x - cr.mean(x)) / cr.sqrt(cr.var(x) + 0.1) + cr.cumulative_sum(x * x)


def scan(x: Any) -> Any:
    last, ys = cr.scan(lambda c, v: (cr.sin(c * v) + v, c * c), cr.sum(x) * 0.1, x)
    return ys * last


def backward_scan(x: Any) -> Any:
    last, ys = cr.scan(lambda c, v: (cr.tanh(W @ c) + v, cr.sum(c)), x, x, reverse=True)
    return last + ys


def cond(x: Any) -> Any:
    return cr.cond(cr.sum(x) > 0, lambda x: cr.exp(x) * x, lambda x: cr.cos(x) * x, x) + cr.where(x > 0, x * x, cr.sin(x))


def while_loop(x: Any) -> Any:
    """As often as it takes, which vmap finds out for each."""
    return cr.while_loop(lambda c: cr.sum(cr.abs(c["y"])) < 20, lambda c: {"y": c["y"] * 1.5 + cr.sin(x), "n": c["n"] + 1}, {"y": x, "n": 0})["y"]


def scan_of_conds(x: Any) -> Any:
    _, ys = cr.scan(lambda c, v: (cr.cond(v > 0, lambda c: c * v, lambda c: c - v, c), c * c), cr.sum(x), x)
    return ys


def sorting(x: Any) -> Any:
    return cr.sort(x * x) * cr.sin(x) + cr.max(x) * cr.flip(x)


def gathering(x: Any) -> Any:
    return cr.take(x, ORDER) * x[::-1] + cr.where(ORDER > 2, x[ORDER] ** 2, 1.0) + cr.concat([x[1:], x[:1] * x[-1:]])


def random_numbers(x: Any) -> Any:
    return cr.sin(x * cr.random.normal(x.shape, dtype="float64")) + cr.nn.activations.silu(x)


class Halved(cr.Function):
    """Its derivative is half of the true one."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        y = cr.tanh(W @ args[0])
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *cts: Any) -> Any:
        (y,) = ctx.saved_tensors
        return W.T @ (0.5 * cts[0] * (1 - y * y))

    @staticmethod
    def jvp(ctx: Any, t: Any) -> Any:
        (y,) = ctx.saved_tensors
        return 0.5 * (W @ t) * (1 - y * y)


def rule_of_ones_own(x: Any) -> Any:
    return Halved.apply(x * x) + x


def equations(x: Any) -> Any:
    matrix = W @ W.T + cr.diag_embed(1 + x * x)
    return cr.linalg.solve(matrix, x) + cr.log(cr.linalg.det(matrix))


PROGRAMS = [
    products,
    convolution,
    normalised,
    scan,
    backward_scan,
    cond,
    while_loop,
    scan_of_conds,
    sorting,
    gathering,
    random_numbers,
    rule_of_ones_own,
    equations,
]


def scalar(f: Function) -> Function:
    return lambda x: cr.sum(cr.sin(f(x)))


def linearized(f: Function, x: Any) -> Any:
    out, push = cr.linearize(f, x)
    return out, push(DIRECTION), push(OTHER)


def pulled(f: Function, x: Any) -> Any:
    out, pull = cr.vjp(f, x)
    return out, pull(cr.cos(out))


def by_backward(f: Function, x: Any) -> Any:
    leaf = cr.tensor(x, requires_grad=True)
    cr.sum(cr.sin(f(leaf))).backward()
    return leaf.grad


def rows(x: Any) -> Any:
    return cr.stack([x, -0.5 * x, x[::-1]])


TRANSFORMS: dict[str, Callable[[Function, Any], Any]] = {
    "none": lambda f, x: f(x),
    "backward": by_backward,
    "grad": lambda f, x: cr.grad(scalar(f))(x),
    "vjp": pulled,
    "jvp": lambda f, x: cr.jvp(f, (x,), (DIRECTION,)),
    "linearize": linearized,
    "vmap": lambda f, x: cr.vmap(f)(rows(x)),
    "jacobian, forward": lambda f, x: cr.jacobian(f, mode="forward")(x),
    "jacobian, reverse": lambda f, x: cr.jacobian(f, mode="reverse")(x),
    "hessian": lambda f, x: cr.hessian(scalar(f))(x),
    "hvp": lambda f, x: cr.hvp(scalar(f), (x,), (DIRECTION,)),
    "value_and_grad of checkpoint": lambda f, x: cr.value_and_grad(scalar(cr.checkpoint(f)))(x),
    "vmap of grad": lambda f, x: cr.vmap(cr.grad(scalar(f)))(rows(x)),
    "grad of vmap": lambda f, x: cr.grad(scalar(cr.vmap(f)))(rows(x)),
    "grad of jvp": lambda f, x: cr.grad(lambda x: cr.sum(cr.jvp(f, (x,), (DIRECTION,))[1] ** 2))(x),
    "jvp of grad of checkpoint": lambda f, x: cr.jvp(cr.grad(scalar(cr.checkpoint(f))), (x,), (DIRECTION,)),
    "vmap of jvp of vjp": lambda f, x: cr.vmap(lambda x: cr.jvp(lambda x: pulled(f, x), (x,), (OTHER,)))(rows(x)),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_transforms(program: Function, transform: str, compiled: Compile) -> None:
    apply = TRANSFORMS[transform]
    expected = seeded(apply, program, X)
    same(seeded(compiled(lambda x: apply(program, x)), X), expected, 1e-10)
    same(seeded(apply, compiled(program), X), expected, 1e-10)


def seeded(f: Callable[..., Any], *args: Any) -> Any:
    cr.manual_seed(0)
    return f(*args)


# Containers, axes, and matrices that are sparse


def layered(parameters: Any, x: Any, scale: float = 1.0) -> Any:
    hidden = cr.relu(x @ parameters["w"] + parameters["b"]) * scale
    return cr.sum(hidden**2), {"hidden": hidden, "largest": cr.argmax(hidden, axis=-1)}


def losses(parameters: Any, x: Any) -> Any:
    return layered(parameters, x)[0]


WEIGHTS = {"w": cr.tensor(numbers(4, 3)), "b": cr.tensor(numbers(3))}
BATCH = cr.tensor(numbers(5, 4))

CALLS: dict[str, Callable[[Function, Function], Any]] = {
    "aux": lambda full, loss: cr.value_and_grad(full, argnums=(0, 1), has_aux=True)(WEIGHTS, BATCH),
    "another number": lambda full, loss: full(WEIGHTS, BATCH, scale=3.0),
    "gradients of each example": lambda full, loss: cr.vmap(cr.grad(loss), in_axes=(None, 0), out_axes={"w": 1, "b": 0})(WEIGHTS, BATCH),
    "networks side by side": lambda full, loss: cr.vmap(full, in_axes=({"w": -1, "b": None}, None))(
        {"w": cr.stack([WEIGHTS["w"], -WEIGHTS["w"]], axis=-1), "b": WEIGHTS["b"]}, BATCH
    ),
    "jacobian of the parts": lambda full, loss: cr.jacobian(lambda p: full(p, BATCH)[1]["hidden"])(WEIGHTS),
    "hessian over containers": lambda full, loss: cr.hessian(loss)(WEIGHTS, BATCH),
    "mapped twice": lambda full, loss: cr.vmap(lambda p: cr.vmap(lambda x: full(p, x)[1])(BATCH))(tree.map(lambda x: cr.stack([x, 2 * x]), WEIGHTS)),
}


@pytest.mark.parametrize("call", CALLS)
def test_transforms_over_containers_and_axes(call: str, compiled: Compile) -> None:
    expected = CALLS[call](layered, losses)
    same(compiled(lambda: CALLS[call](layered, losses))(), expected, 1e-11)
    same(CALLS[call](compiled(layered), compiled(losses)), expected, 1e-11)


def banded(x: Any) -> Any:
    return cr.sin(x[1:] * x[:-1]) + x[1:] ** 2


SPARSE: dict[str, Callable[[Function], cr.SparsePlan]] = {
    "forward": lambda f: cr.sparse_jacobian(f, X, mode="forward"),
    "reverse": lambda f: cr.sparse_jacobian(f, X, mode="reverse"),
    "hessian": lambda f: cr.sparse_hessian(lambda x: cr.sum(cr.exp(0.1 * f(x))), X),
}


@pytest.mark.parametrize("kind", SPARSE)
def test_sparse_derivatives(kind: str, compiled: Compile) -> None:
    """A plan hands out SciPy's matrices, which no graph holds: its products are compiled, and a compiled function has plans."""
    plan = SPARSE[kind](banded)
    same(SPARSE[kind](compiled(banded))(X).toarray(), plan(X).toarray(), 1e-12)
    same(compiled(lambda x: plan.graph.apply([x, *plan.graph.read()]))(X), plan.graph.apply([X, *plan.graph.read()]), 1e-12)
