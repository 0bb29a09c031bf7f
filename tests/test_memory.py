"""Memory: tapes free themselves without the garbage collector, and backward passes stay at the size of their operands."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest

import chainrule as cr

MIB = 2**20


@pytest.fixture
def no_collector() -> Iterator[None]:
    """The collector off, and tracemalloc on."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    yield
    tracemalloc.stop()
    gc.enable()


def network() -> tuple[list[cr.Tensor], cr.Tensor]:
    rng = np.random.default_rng(0)
    sizes = (8, 16, 4)
    weights = [cr.tensor(rng.normal(size=shape), dtype="float32", requires_grad=True) for shape in pairwise(sizes)]
    return weights, cr.tensor(rng.normal(size=(32, 8)), dtype="float32")


def loss_of(weights: list[cr.Tensor], x: cr.Tensor) -> cr.Tensor:
    hidden = cr.exp(x @ weights[0] * 0.1)
    return cr.sum((hidden @ weights[1]) * (hidden @ weights[1]))


def descend(weights: list[cr.Tensor], gradients: list[cr.Tensor]) -> None:
    with cr.no_grad():
        for w, g in zip(weights, gradients, strict=True):
            w += g * -1e-6


def by_backward(weights: list[cr.Tensor], x: cr.Tensor) -> None:
    loss_of(weights, x).backward()
    descend(weights, [w.grad for w in weights])
    for w in weights:
        w.grad = None


def by_penalised_gradient(weights: list[cr.Tensor], x: cr.Tensor) -> None:
    gradients = cr.autograd.grad(loss_of(weights, x), weights, create_graph=True)
    penalty = cr.sum(gradients[0] * gradients[0]) + cr.sum(gradients[1] * gradients[1])
    descend(weights, list(cr.autograd.grad(penalty, weights)))


def by_transform(weights: list[cr.Tensor], x: cr.Tensor) -> None:
    descend(weights, cr.grad(loss_of)(weights, x))


def by_forward_over_reverse(weights: list[cr.Tensor], x: cr.Tensor) -> None:
    gradient = cr.grad(lambda ws: loss_of(ws, x))
    descend(weights, cr.jvp(gradient, (weights,), ([w.detach() for w in weights],))[1])


def without_backward(weights: list[cr.Tensor], x: cr.Tensor) -> None:
    loss_of(weights, x).register_hook(lambda g: None)


def by_function(weights: list[cr.Tensor], x: cr.Tensor) -> None:
    loss = cr.sum(Square.apply(x @ weights[0]))
    descend(weights[:1], list(cr.autograd.grad(loss, weights[:1])))


class Square(cr.Function):
    """Saves its input and its output: the cycle that a careless tape would keep."""

    @staticmethod
    def forward(ctx: cr.Context, x: cr.Tensor) -> cr.Tensor:
        out = x * x
        ctx.save_for_backward(x, out)
        return out

    @staticmethod
    def backward(ctx: cr.Context, ct: cr.Tensor) -> cr.Tensor:
        x, _ = ctx.saved_tensors
        return 2.0 * x * ct


STEPS = [by_backward, by_penalised_gradient, by_transform, by_forward_over_reverse, without_backward, by_function]


def held() -> int:
    """Bytes in use. The interpreter's own lists of free objects are emptied first, while every cycle is out of the collector's reach."""
    gc.freeze()
    gc.collect()
    gc.unfreeze()
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("step", STEPS)
def test_a_thousand_steps_leave_nothing_behind(step: Callable[[list[cr.Tensor], cr.Tensor], None]) -> None:
    weights, x = network()
    # NumPy keeps freed blocks for later, up to a number that it reaches within some hundred steps.
    for _ in range(1000):
        step(weights, x)
    before = held()
    for _ in range(1000):
        step(weights, x)
    # The smallest leak would be an object a step, 28 bytes or more.
    assert held() - before < 24 * 1000


@pytest.mark.parametrize("step", STEPS)
def test_the_collector_finds_no_tape(step: Callable[[list[cr.Tensor], cr.Tensor], None]) -> None:
    weights, x = network()
    step(weights, x)
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(3):
            step(weights, x)
        gc.collect()
        ours = [type(thing).__qualname__ for thing in gc.garbage if type(thing).__module__.startswith("chainrule")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert ours == []


def peak(work: Callable[[], object]) -> int:
    """Bytes that ``work`` takes at most, beyond what there was before."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    work()
    taken = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    return taken


def test_the_backward_pass_frees_each_saved_value_as_soon_as_it_is_used() -> None:
    depth = 20
    leaves = [cr.tensor(np.ones(MIB // 4, "float32"), requires_grad=True) for _ in range(depth)]

    def work() -> None:
        y = leaves[0]
        for x in leaves[1:]:
            y = y * x
        cr.sum(y).backward()

    # Forward keeps one product per gate; backward lets them go as gradients of the same size arrive.
    assert peak(work) < (depth + 5) * MIB
