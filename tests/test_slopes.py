"""Slopes: fewer arrays wait for a gradient, and it is what it was."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import chainrule as cr
from chainrule import nn
from chainrule.autodiff.checkpoint import opened
from chainrule.compiler.fusion import is_elementwise, regions
from chainrule.compiler.simplify import simplify
from chainrule.compiler.slopes import slopes
from chainrule.graph.ir import Graph
from programs import NUMBERS, Program

Activation = Callable[[Any], Any]

SEVERAL: dict[str, Activation] = {
    "gelu": cr.gelu,
    "gelu by tanh": lambda x: cr.gelu(x, approximate="tanh"),
    "silu": cr.silu,
    "mish": cr.mish,
    "silu written out": lambda x: x / (1.0 + cr.exp(-x)),
    "selu": cr.selu,
    "a wave in a bell": lambda x: x * cr.sin(x) * cr.exp(-x * x),
    "a wave that grows": lambda x: cr.sin(x) * cr.sqrt(1.0 + x * x),
}
"""Whose derivatives are made of several arrays."""

SINGLE: dict[str, Activation] = {"tanh": cr.tanh, "sigmoid": cr.sigmoid, "softplus": cr.softplus, "elu": cr.elu, "relu": cr.relu}
"""Whose derivatives are made of one."""

EVERY = {**SEVERAL, **SINGLE}
RNG = np.random.default_rng(0)


def values(graph: Graph, *xs: Any) -> list[np.ndarray]:
    with np.errstate(all="ignore"):
        return [np.asarray(x._value) for x in graph.apply([cr.asarray(x) for x in xs])]


def waiting(graph: Graph) -> dict[int, int]:
    """How many bytes are alive while each gate runs that ends a loop over elements, by the first value that it makes."""
    found: dict[int, int] = {}
    alive: set[Any] = set()
    for node, last in zip(graph.nodes, graph.last_uses(), strict=True):
        alive.update(node.outputs)
        if not is_elementwise(node) and node.primitive.kernel != "move":
            found[id(node.outputs[0])] = sum(x.nbytes for x in alive)
        alive.difference_update(last)
    return found


def made(graph: Graph) -> list[str]:
    """The names of the slopes in a graph."""
    return [x.name for node in graph.nodes for x in node.outputs if x.name.startswith("slope_")]


def shortened(f: Callable[..., Any], *xs: Any) -> tuple[Graph, Graph]:
    """The graph of a function without and with slopes."""
    before = simplify(opened(cr.trace(f, *xs)))
    return before, slopes(before).verify()


def gradient_between(activation: Activation, order: np.ndarray) -> Callable[..., Any]:
    """The gradient of a function by x, between two gates that are not elementwise, to be multiplied by c."""
    back = np.argsort(order)

    def f(x: Any, c: Any) -> Any:
        return cr.sum(cr.take(activation(cr.take(x, order)), back) * c)

    return cr.grad(f)


MATRICES = [RNG.normal(size=shape) for shape in ((32, 8), (8, 64), (64, 8))]
LAYER = 32 * 64 * 8


def network(activation: Activation, x: Any, w: Any, v: Any) -> Any:
    return cr.sum(cr.tanh(activation(x @ w) @ v))


# What it is for.


@pytest.mark.parametrize("name", EVERY)
def test_one_array_waits_in_place_of_several(name: str) -> None:
    before, after = shortened(cr.grad(partial(network, EVERY[name]), argnums=(0, 1, 2)), *MATRICES)
    most_before, most = max(waiting(before).values()), max(waiting(after).values())
    assert bool(made(after)) == (most < most_before) == (name in SEVERAL)
    assert most < 5 * LAYER
    for x, y in zip(values(before, *MATRICES), values(after, *MATRICES), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-14)


def test_what_makes_the_factors_makes_the_slope() -> None:
    _, after = shortened(cr.grad(partial(network, cr.gelu)), *MATRICES)
    (loop,) = (region for region in regions(after) if any(node.primitive.name == "erf" for node in region.nodes))
    assert {"exp", "erf"} <= {node.primitive.name for node in loop.nodes}
    assert len(loop.outputs) == 2
    assert sum(x.name.startswith("slope_") for x in loop.outputs) == 1


def test_what_is_selected_or_counted_in_few_bits_or_waits_anyway_stays_as_it_is() -> None:
    half = [x.astype(np.float16) for x in MATRICES]
    assert not made(shortened(cr.grad(partial(network, cr.gelu)), *half)[1])

    def chosen(x: Any) -> Any:
        return cr.where(x > 0, x * cr.sigmoid(x), 0.0)

    assert not made(shortened(cr.grad(partial(network, chosen)), *MATRICES)[1])

    def given_too(x: Any, w: Any, v: Any) -> Any:
        h = x @ w
        return h, cr.sigmoid(h), cr.grad(partial(network, cr.silu))(x, w, v)

    assert not made(shortened(given_too, *MATRICES)[1])


def test_a_gated_unit_and_an_unknown_mask_have_slopes_too() -> None:
    def gated(x: Any, w: Any, u: Any, v: Any) -> Any:
        return cr.sum(cr.tanh((cr.silu(x @ w) * cr.cos(x @ u)) @ v))

    x, w, v = MATRICES
    xs = (x, w, 0.5 * w[::-1], v)
    before, after = shortened(cr.grad(gated, argnums=(0, 1, 2, 3)), *xs)
    assert made(after)
    assert max(waiting(after).values()) < max(waiting(before).values())
    for a, b in zip(values(before, *xs), values(after, *xs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


# Values.

EDGES = [0.0, 1.0, 0.5, 3.0, 20.0, 88.0, 100.0, 1e-45, 1e-40, 1e-30, 1e10, 1e19, 1e20, 3e38, np.inf, np.nan]


@pytest.mark.parametrize("name", EVERY)
def test_zeros_infinities_and_tiny_numbers_give_what_they_gave(name: str) -> None:
    gradients = [0.0, 1.0, 0.75, 1e-6, 1e-30, 1e-42]
    pairs = itertools.product([*EDGES, *(-x for x in EDGES)], [*gradients, *(-g for g in gradients), 1e6])
    x, g = np.array([*zip(*pairs, strict=True)], np.float32)
    before, after = shortened(gradient_between(EVERY[name], RNG.permutation(len(x))), x, g)
    assert bool(made(after)) == (name in SEVERAL)
    (a,), (b,) = values(before, x, g), values(after, x, g)
    # Where the way went beyond the range only with a large gradient, a slope still gives the right number.
    fits = (np.abs(g) <= 1.0) | ~np.isnan(a)
    np.testing.assert_allclose(b[fits], a[fits], rtol=1e-5, atol=1e-37)


OUT_OF_RANGE: dict[str, Activation] = {
    "exp of exp": lambda x: cr.exp(cr.exp(x)),
    "cosh times sinh": lambda x: cr.cosh(x) * cr.sinh(x) * x,
    "a cube, gated": lambda x: x * x * cr.sigmoid(x) * x,
    "a power, waving": lambda x: x**5 * cr.sin(x),
    "one over a square": lambda x: cr.sin(1.0 / (x * x)),
    "log of a small number": lambda x: cr.log(x) / x,
}
"""Whose derivatives, in the order of their factors, are beyond the range of float32 for numbers whose factors are not."""


@pytest.mark.parametrize("g", [0.0, 1e-20, -1e-30])
@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_a_gradient_is_finite_where_it_was_whatever_its_factors_multiply_to(name: str, g: float) -> None:
    rng = np.random.default_rng(0)
    size = 2.0 ** np.r_[rng.uniform(-140.0, 127.0, 2000), rng.uniform(-3.0, 8.0, 2000)]
    xs = (rng.choice([-1.0, 1.0], 4000) * size).astype(np.float32), np.full(4000, g, np.float32)
    before, after = shortened(gradient_between(OUT_OF_RANGE[name], rng.permutation(4000)), *xs)
    (a,), (b,) = values(before, *xs), values(after, *xs)
    assert np.array_equal(np.isfinite(a), np.isfinite(b))
    # What is added up may nearly cancel.
    np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-30)


@pytest.mark.parametrize("name", ["gelu", "gelu by tanh", "silu"])
def test_a_factor_that_is_not_bounded_is_multiplied_first_and_the_rest_has_a_slope(name: str) -> None:
    order = RNG.permutation(1000)
    large, c = (RNG.choice([-1.0, 1.0], (2, 1000)) * 2.0 ** RNG.uniform(-10.0, 110.0, (2, 1000))).astype(np.float32), np.zeros(1000, np.float32)

    def gated(x: Any, y: Any, c: Any) -> Any:
        return cr.sum(cr.take(EVERY[name](cr.take(x, order)) * cr.take(y, order), np.argsort(order)) * c)

    before, after = shortened(cr.grad(gated, argnums=(0, 1)), *large, c)
    assert made(after)
    assert max(waiting(after).values()) < max(waiting(before).values())
    for a, b in zip(values(before, *large, c), values(after, *large, c), strict=True):
        np.testing.assert_array_equal(a, b)


SMOOTH = ("negative", "tanh", "sigmoid", "square", "times", "of", "plus", "minus", "from", "over", "add", "subtract", "multiply", "divide", "above")
INSTRUCTIONS = st.tuples(st.sampled_from(SMOOTH), st.integers(0, 5), st.integers(0, 5), st.sampled_from(NUMBERS))
COMPOSITIONS = st.builds(Program, st.lists(INSTRUCTIONS, min_size=1, max_size=10), st.integers(1, 3))


@given(COMPOSITIONS, st.integers(0, 1))
def test_any_composition_keeps_its_values_and_no_more_bytes(program: Program, order: int) -> None:
    x, w, v = MATRICES

    def f(x: Any, w: Any) -> Any:
        h = x @ w
        return cr.sum(cr.tanh(cr.broadcast_to(sum(program(h[:, :1] + 1.0, cr.sin(h), h)), h.shape) @ v))

    def g(x: Any, w: Any) -> Any:
        return cr.grad(lambda x: cr.sum(cr.grad(f)(x, w) @ w))(x)

    with np.errstate(all="ignore"):
        before, after = shortened(g if order else cr.grad(f, argnums=(0, 1)), x, w)
    found, expected = values(after, x, w), values(before, x, w)
    assume(all(np.isfinite(a).all() for a in expected))
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-9 * max(1.0, float(np.abs(a).max())))
    bytes_before = waiting(before)
    assert all(count <= bytes_before[gate] for gate, count in waiting(after).items())


# Within what else a compiler does.


def test_what_is_computed_again_has_its_slope_behind_the_barrier() -> None:
    block = cr.checkpoint(lambda x, w, v: cr.gelu(x @ w) @ v)

    def f(x: Any, w: Any, v: Any) -> Any:
        return cr.sum(cr.tanh(block(block(x, w, v), w, v)))

    before, after = shortened(cr.grad(f, argnums=(0, 1, 2)), *MATRICES)
    names = [node.primitive.name for node in after.nodes]
    barriers = [place for place, name in enumerate(names) if name == "barrier"]
    places = [place for place, node in enumerate(after.nodes) if node.outputs[0].name.startswith("slope_")]
    assert len(barriers) == 2
    assert places
    assert min(places) > barriers[0]
    # Forward values wait as they did: not at all.
    first, bytes_before = after.nodes[barriers[0]].outputs[0], waiting(before)
    assert waiting(after)[id(first)] == bytes_before[id(first)]
    for a, b in zip(values(before, *MATRICES), values(after, *MATRICES), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_an_activation_that_is_computed_again_alone_waits_for_nothing_and_has_no_slope() -> None:
    # Its factors are made behind the barrier, next to the gradient: made into one before that, they would wait for it.
    block = cr.checkpoint(cr.gelu)
    before, after = shortened(cr.grad(lambda x, w, v: cr.sum(cr.tanh(block(x @ w) @ v)), argnums=(0, 1, 2)), *MATRICES)
    assert not made(after)
    assert [node.primitive.name for node in after.nodes] == [node.primitive.name for node in before.nodes]


def test_a_factor_that_a_barrier_keeps_is_not_saved() -> None:
    inner = cr.checkpoint(lambda h, q: cr.tanh(h @ q))
    outer = cr.checkpoint(lambda x, w, v, q: cr.silu(x @ w) @ v + inner(x @ w, q))
    _, after = shortened(cr.grad(lambda *xs: cr.sum(cr.tanh(outer(*xs))), argnums=(0, 1, 2)), *MATRICES, MATRICES[2][::-1])
    barriers = [node for node in after.nodes if node.primitive.name == "barrier"]
    assert any(x.shape == (32, 64) for x in barriers[1].inputs)
    # The barrier keeps x @ w with or without a slope, and what else waits, its sigmoid, takes what a slope would.
    assert not made(after)


class Training:
    """Steps of a network of three blocks, compiled or not."""

    def __init__(self, activation: str, **options: Any) -> None:
        cr.manual_seed(0)
        blocks = [nn.Sequential([nn.Dense(96, activation=EVERY[activation]), nn.Dense(32)]) for _ in range(3)]
        self.model = nn.Sequential(blocks).initialize((1, 32))
        self.step: Any = cr.compile(self._step, **options) if options else self._step

    def _step(self, x: Any) -> Any:
        for p in self.model.parameters():
            p.grad = None
        loss = cr.mean(cr.square(self.model(x)))
        loss.backward()
        return loss

    def gradients(self, x: Any) -> list[np.ndarray]:
        self.step(x)
        return [p.grad.numpy().copy() for p in self.model.parameters() if p.grad is not None]


@pytest.mark.parametrize("budget", [None, "240KB"])
@pytest.mark.parametrize("name", SEVERAL)
def test_machine_code_gives_eager_gradients(name: str, budget: str | None) -> None:
    pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")
    x = RNG.normal(size=(64, 32)).astype(np.float32)
    compiled = Training(name, backend="native", memory_budget=budget)
    for a, b in zip(Training(name).gradients(x), compiled.gradients(x), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * np.abs(a).max())


def test_machine_code_takes_less_memory() -> None:
    pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")
    x, w, v = (a.astype(np.float32) for a in MATRICES)
    step = cr.compile(cr.grad(partial(network, cr.gelu), argnums=(0, 1, 2)), backend="native")
    step(x, w, v)
    (arena,) = re.findall(r"arena_bytes: (\d+)", str(step.stats()))
    assert int(arena) < 3 * LAYER
