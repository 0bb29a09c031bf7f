"""Formulas: scalars, sums and long elementwise chains, where calls or memory decide; and derivatives of other kinds than a gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

import chainrule as cr
from workloads.workload import Step, Workload, Wrap, formula, jax_names


def neuron(m: Any, w0: Any, x0: Any, w1: Any, x1: Any, w2: Any) -> Any:
    return 1.0 / (1.0 + m.exp(-1.0 * (w0 * x0 + w1 * x1 + w2)))


def half_square(m: Any, a: Any) -> Any:
    return 0.5 * m.sum(a**2)


def chain(m: Any, x: Any) -> Any:
    """The sum of what thirty gates make of x: five times the same six."""
    for _ in range(5):
        y = m.tanh(x)
        y = y * y
        y = y + 0.5
        y = m.log1p(y)
        y = m.sqrt(y)
        x = m.sigmoid(y)
    return m.sum(x)


def normal(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(count, "float32")


def two_layers(m: Any, x: Any, v: Any, w: Any) -> Any:
    return m.tanh(w @ m.tanh(v @ x))


def jacobian() -> Workload:
    """The Jacobian of a function from 64 numbers to 64."""
    rng = np.random.default_rng(0)
    given = [rng.normal(size=shape).astype("float32") / np.float32(8) for shape in ((64,), (64, 64), (64, 64))]

    def ours(wrap: Wrap) -> Step:
        run = wrap(cr.jacobian(lambda *xs: two_layers(cr, *xs)))
        xs = [cr.tensor(x) for x in given]
        return lambda: (run(*xs),)

    def torch_step(torch: Any, wrap: Wrap, last: bool) -> Step:
        del last
        run = wrap(torch.func.jacrev(lambda *xs: two_layers(torch, *xs)))
        xs = [torch.tensor(x) for x in given]
        return lambda: (run(*xs),)

    def jax_step(jax: Any) -> Step:
        run = jax.jit(jax.jacrev(lambda *xs: two_layers(jax.numpy, *xs)))
        xs = [jax.numpy.asarray(x) for x in given]
        return lambda: (jax.block_until_ready(run(*xs)),)

    return Workload("Jacobian of tanh(W tanh(V x)), 64x64", ours, torch_step, jax_step, aim=3)


def hessian_vector() -> Workload:
    """The Hessian of an MLP's loss, times a vector."""
    rng = np.random.default_rng(0)
    shapes = [(784, 256), (256,), (256, 128), (128,), (128, 10), (10,)]
    weights = [(rng.normal(size=shape) / shape[0] ** 0.5).astype("float32") for shape in shapes]
    direction = [rng.normal(size=shape).astype("float32") for shape in shapes]
    x, y = rng.normal(size=(64, 784)).astype("float32"), rng.integers(0, 10, 64)

    def scores(m: Any, x: Any, w1: Any, b1: Any, w2: Any, b2: Any, w3: Any, b3: Any) -> Any:
        return m.relu(m.relu(x @ w1 + b1) @ w2 + b2) @ w3 + b3

    def ours(wrap: Wrap) -> Step:
        def product(p: Any, v: Any, x: Any, y: Any) -> Any:
            return cr.hvp(lambda *p: cr.nn.losses.softmax_cross_entropy(scores(cr, x, *p), y), p, v)

        run = wrap(product)
        given = tuple(map(cr.tensor, weights)), tuple(map(cr.tensor, direction)), cr.tensor(x), cr.tensor(y)
        return lambda: run(*given)

    def torch_step(torch: Any, wrap: Wrap, last: bool) -> Step:
        del last

        @wrap
        def product(p: Any, v: Any, x: Any, y: Any) -> Any:
            loss = torch.nn.functional.cross_entropy(scores(torch, x, *p), y)
            slopes = torch.autograd.grad(loss, p, create_graph=True)
            return torch.autograd.grad(slopes, p, v)

        given = [torch.tensor(w, requires_grad=True) for w in weights], [torch.tensor(v) for v in direction], torch.tensor(x), torch.tensor(y)
        return lambda: product(*given)

    def jax_step(jax: Any) -> Step:
        names = jax_names(jax)

        def product(p: Any, v: Any, x: Any, y: Any) -> Any:
            def loss(p: Any) -> Any:
                return -jax.nn.log_softmax(scores(names, x, *p))[jax.numpy.arange(len(y)), y].mean()

            return jax.jvp(jax.grad(loss), (p,), (v,))[1]

        run = jax.jit(product)
        given = jax.tree.map(jax.numpy.asarray, (weights, direction, x, y))
        return lambda: jax.block_until_ready(run(*given))

    return Workload("Hessian-vector product, MLP 784-256-128-10, batch 64", ours, torch_step, jax_step)


WORKLOADS = {
    "neuron": lambda: formula("sigmoid neuron on scalars, value and gradients", neuron, [np.float32(v) for v in (2, -1, -3, -2, -3)], aim=3),
    "sum1e2": lambda: formula("0.5*(a**2).sum(), 1e2, value and gradient", half_square, [normal(100)], aim=3),
    "sum1e6": lambda: formula("0.5*(a**2).sum(), 1e6, value and gradient", half_square, [normal(1_000_000)]),
    "sum1e7": lambda: formula("0.5*(a**2).sum(), 1e7, value and gradient", half_square, [normal(10_000_000)]),
    "chain": lambda: formula("30 elementwise gates, 1e6, value and gradient", chain, [normal(1_000_000)]),
    "hvp": hessian_vector,
    "jacobian": jacobian,
}
