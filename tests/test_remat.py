"""Recomputation under a memory budget: it fits, as counted and as measured, changes no bit, and costs less the more memory there is."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.autodiff.checkpoint import opened, without_barriers
from chainrule.autodiff.cost import seconds
from chainrule.compiler.remat import measured_costs, rematerialize
from chainrule.compiler.replay import SCRATCH, VIEWS, Program
from chainrule.compiler.simplify import simplify
from chainrule.compiler.stages import turns
from chainrule.core.errors import ArgumentError
from chainrule.core.interp import ARRAYS, evaluate, using
from chainrule.core.primitive import TABLE, functions
from chainrule.graph.ir import Graph
from gates import Gate, calls_of

rng = np.random.default_rng(0)
BATCH, WIDTH = 256, 8


def weight(*shape: int) -> cr.Tensor:
    return cr.tensor(rng.normal(size=shape) / 3, dtype="float32", requires_grad=True)


def step_of(loss: Callable[..., cr.Tensor], weights: Sequence[cr.Tensor], *xs: Any) -> Graph:
    """A training step with gradient descent as a graph."""

    def step(*xs: cr.Tensor) -> cr.Tensor:
        value = loss(*xs)
        value.backward()
        with cr.no_grad():
            for w in weights:
                w -= w.grad * 0.01
                w.grad = None
        return value

    return simplify(opened(cr.trace(step, *xs)))


def inputs(count: int = 1) -> list[np.ndarray]:
    return [rng.normal(size=(BATCH, WIDTH)).astype("float32") for _ in range(count)]


def network(depth: int = 64, *, dropout: float = 0.0, checkpoint: int = 0) -> Graph:
    weights = [weight(WIDTH, WIDTH) for _ in range(depth)]

    def layer(x: cr.Tensor, w: cr.Tensor) -> cr.Tensor:
        return cr.random.dropout(cr.tanh(x @ w), dropout) if dropout else cr.tanh(x @ w)

    def stretch(x: cr.Tensor, ws: Sequence[cr.Tensor]) -> cr.Tensor:
        for w in ws:
            x = layer(x, w)
        return x

    def loss(x: cr.Tensor) -> cr.Tensor:
        if not checkpoint:
            return cr.mean(stretch(x, weights) ** 2)
        for first in range(0, depth, checkpoint):
            x = cr.checkpoint(lambda x, first=first: stretch(x, weights[first : first + checkpoint]))(x)
        return cr.mean(x**2)

    return step_of(loss, weights, *inputs())


def residual() -> Graph:
    weights = [weight(WIDTH, WIDTH) for _ in range(32)]

    def loss(x: cr.Tensor) -> cr.Tensor:
        for a, b in zip(weights[::2], weights[1::2], strict=True):
            x = x + cr.tanh(cr.relu(x @ a) @ b)
        return cr.mean(x * x)

    return step_of(loss, weights, *inputs())


def towers() -> Graph:
    weights = [weight(WIDTH, WIDTH) for _ in range(32)]

    def loss(x: cr.Tensor, y: cr.Tensor) -> cr.Tensor:
        for w in weights[:16]:
            x = cr.tanh(x @ w)
        for w in weights[16:]:
            y = cr.tanh(y @ w)
        return cr.mean(x * y)

    return step_of(loss, weights, *inputs(2))


def side_by_side() -> Graph:
    weights = [weight(WIDTH, WIDTH) for _ in range(32)]

    def loss(x: cr.Tensor, y: cr.Tensor) -> cr.Tensor:
        for v, w in zip(weights[::2], weights[1::2], strict=True):
            x, y = cr.tanh(x @ v), cr.tanh(y @ w)
        return cr.mean(x * y)

    return step_of(loss, weights, *inputs(2))


def hourglass() -> Graph:
    weights = [weight(WIDTH, WIDTH) for _ in range(16)]

    def loss(x: cr.Tensor) -> cr.Tensor:
        skips: list[cr.Tensor] = []
        for w in weights[:8]:
            x = cr.tanh(1.5 * cr.tanh(x @ w))
            skips.append(x)
        for w in weights[8:]:
            x = cr.tanh(1.5 * cr.tanh(x @ w + skips.pop()))
        return cr.mean(x * x)

    return step_of(loss, weights, *inputs())


def convolutions() -> Graph:
    kernels = [weight(3, 3, 8, 8) for _ in range(10)]

    def loss(x: cr.Tensor) -> cr.Tensor:
        for kernel in kernels:
            x = cr.relu(cr.conv(x, kernel, padding="same"))
        return cr.mean(x * x)

    return step_of(loss, kernels, rng.normal(size=(4, 64, 64, 8)).astype("float32"))


def accumulated() -> Graph:
    """Two forward and backward passes one after the other, and one update."""
    weights = [weight(WIDTH, WIDTH) for _ in range(16)]

    def step(*xs: cr.Tensor) -> None:
        for x in xs:
            for w in weights:
                x = cr.tanh(x @ w)
            cr.mean(x * x).backward()
        with cr.no_grad():
            for w in weights:
                w -= w.grad * 0.01
                w.grad = None

    return simplify(opened(cr.trace(step, *inputs(2))))


GRAPHS: dict[str, tuple[Callable[[], Graph], float]] = {
    "layers": (network, 0.1),
    "layers with dropout": (lambda: network(16, dropout=0.3), 0.25),
    "layers in checkpoints": (lambda: network(32, checkpoint=8), 0.62),
    "residual blocks": (residual, 0.2),
    "two towers": (towers, 0.25),
    "two chains side by side": (side_by_side, 0.3),
    "skips": (hourglass, 0.75),
    "convolutions": (convolutions, 0.6),
    "two backward passes": (accumulated, 0.75),
}
"""Networks, and the share of their peak with which they can do."""


def predicted(graph: Graph) -> int:
    program = Program(without_barriers(graph), seconds, {})
    return program.peak(range(len(program)))


def values_for(graph: Graph) -> list[Any]:
    """Arrays for all inputs; a whole number is the state of a generator."""
    rng = np.random.default_rng(1)
    return [
        np.asarray(rng.normal(size=x.shape) / 3, x.dtype)[()] if x.dtype.kind == "f" else np.arange(7, 7 + x.size, dtype=x.dtype).reshape(x.shape)
        for x in graph.inputs
    ]


def results(graph: Graph, values: list[Any]) -> list[Any]:
    with using(ARRAYS):
        return graph.apply(values, evaluate)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_budget_is_kept_and_no_bit_changes(name: str) -> None:
    make, least = GRAPHS[name]
    graph = make()
    peak = predicted(graph)
    values = values_for(graph)
    expected = results(graph, values)
    for share in (1.0, (1 + least) / 2, least):
        budget = int(share * peak)
        made, report = rematerialize(graph, budget)
        assert predicted(made.verify()) == report.after <= budget
        assert report.before == peak
        assert bool(report.recomputed) == (share < 1)
        for a, b in zip(expected, results(made, values), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["layers with dropout", "residual blocks", "two towers", "skips", "convolutions"])
def test_less_than_possible_is_an_error_that_gives_the_least(name: str) -> None:
    graph = GRAPHS[name][0]()
    with pytest.raises(ArgumentError, match=r"the least possible is [\d.]+ [KM]B \(\d+ bytes\)") as error:
        rematerialize(graph, 0)
    least = int(str(error.value).partition("(")[2].partition(" bytes")[0])
    _, report = rematerialize(graph, least)
    assert report.after <= least
    with pytest.raises(ArgumentError, match="the least possible is"):
        rematerialize(graph, least - 1)


def measured_peak(graph: Graph, values: list[Any]) -> int:
    """Bytes that running the graph on arrays, gate by gate, takes at most."""
    with using(ARRAYS):
        graph.apply(values, evaluate)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        graph.apply(values, evaluate)
        taken = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
    return taken


@pytest.mark.parametrize("name", ["layers", "layers with dropout", "residual blocks", "two towers", "skips", "convolutions"])
def test_what_is_predicted_is_what_is_measured(name: str) -> None:
    make, least = GRAPHS[name]
    graph = make()
    for share in (1.0, least):
        made, report = rematerialize(graph, int(share * predicted(graph)))
        # NumPy keeps small blocks, and Python's own objects count too.
        slack = 200 * len(made.nodes)
        assert measured_peak(made, values_for(made)) <= report.after * 1.05 + slack


def test_more_memory_takes_less_time() -> None:
    graph = network()
    peak = predicted(graph)
    spent = [rematerialize(graph, int(share * peak))[1].extra_seconds for share in (0.1, 0.15, 0.25, 0.5, 0.75, 1.0)]
    assert spent == sorted(spent, reverse=True)
    assert spent[-1] == 0


def test_on_a_chain_the_recomputation_is_less_than_one_forward_pass_where_memory_is_not_scarce() -> None:
    """Half of the memory: half of the layers run twice, and no more."""
    graph = network()
    _, report = rematerialize(graph, predicted(graph) // 2)
    assert report.chain
    assert set(report.recomputed.values()) == {1}
    assert 0.4 * 128 < len(report.recomputed) < 0.6 * 128
    assert "a chain of" in str(report)
    assert "recomputations" in str(report)


def test_what_a_step_assigns_is_computed_once() -> None:
    graph = network(16, dropout=0.5)
    made, _ = rematerialize(graph, predicted(graph) // 5)
    ends = set(made.outputs)
    assert ends == set(graph.outputs)
    makers = Counter(node.primitive.name for node in made.nodes if not ends.isdisjoint(node.outputs))
    assert makers == Counter(node.primitive.name for node in graph.nodes if not set(graph.outputs).isdisjoint(node.outputs))
    # The state of the generator goes from layer to layer: it too is kept, and the numbers are drawn again from it.
    count = Counter(node.primitive.name for node in made.nodes)
    assert count["random_bits"] > 16
    assert count["add"] == Counter(node.primitive.name for node in graph.nodes)["add"]


def test_gradients_are_used_up_as_they_are_made() -> None:
    """An update waits in the step's order until all gradients are there; here it runs where its gradient is made."""
    weights = [weight(64, 64) for _ in range(8)]

    def loss(x: cr.Tensor) -> cr.Tensor:
        for w in weights:
            x = cr.tanh(x @ w)
        return cr.mean(x * x)

    graph = step_of(loss, weights, rng.normal(size=(8, 64)).astype("float32"))
    size = weights[0].size * 4
    donate = {len(graph.returned) + i: graph.inputs.index(x) for i, x in enumerate(graph.inputs[1:9])}
    assert predicted(graph) > 8 * size
    _, report = rematerialize(graph, int(3.5 * size), donate=donate)
    assert report.after <= 3.5 * size


def test_costs_may_be_measured() -> None:
    graph = network(8)
    times = measured_costs(graph, values_for(graph))
    assert set(times) == set(graph.nodes)
    assert all(time >= 0 for time in times.values())
    # A value that took an hour is not computed again.
    dear = next(node for node in graph.nodes[10:] if node.primitive.name == "tanh")
    _, cheap = rematerialize(graph, int(0.7 * predicted(graph)), costs=dict.fromkeys(graph.nodes, 1.0))
    _, report = rematerialize(graph, int(0.7 * predicted(graph)), costs={**dict.fromkeys(graph.nodes, 1.0), dear: 3600.0})
    assert dear.output.name not in report.recomputed
    assert cheap.extra_seconds <= report.extra_seconds < 3600


def test_nothing_is_recomputed_where_nothing_waits() -> None:
    graph = simplify(cr.trace(lambda x: cr.exp(cr.sin(x)), np.ones(1000)))
    with pytest.raises(ArgumentError, match=r"the least possible is 16 KB \(16000 bytes\)"):
        rematerialize(graph, 100)
    made, report = rematerialize(graph, 16000)
    assert len(made.nodes) == 2
    assert "nothing to recompute" in str(report)


def test_the_turn_is_where_the_backward_pass_begins() -> None:
    graph = network(8)
    program = Program(graph, seconds, {})
    (turn, *_) = turns(program, 0, len(program))
    assert "tanh" not in [node.primitive.name for node in graph.nodes[turn:]]
    assert [node.primitive.name for node in graph.nodes[:turn]].count("tanh") == 8


def test_ten_thousand_nodes() -> None:
    def f(x: cr.Tensor) -> cr.Tensor:
        for _ in range(4000):
            x = cr.sin(x)
        return cr.sum(x)

    graph = simplify(cr.trace(cr.value_and_grad(f), np.ones(100)))
    made, report = rematerialize(graph, predicted(graph) // 20)
    assert predicted(made.verify()) == report.after
    values = values_for(graph)
    for a, b in zip(results(graph, values), results(made, values), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", sorted(VIEWS))
def test_views_take_no_memory(name: str) -> None:
    primitive = TABLE[name]
    seen = 0
    for case in Gate(primitive, getattr(functions, name)).cases():
        for call in calls_of(case, case.arrays):
            if call.primitive is primitive:
                for out in call.outputs:
                    if np.ndim(out) and out.size and np.ndim(call.values[0]):
                        assert np.shares_memory(out, call.values[0])
                        seen += 1
    assert seen


def test_scratch_is_of_gates_that_there_are() -> None:
    assert set(SCRATCH) <= set(TABLE)
