"""Regions: which gates become one loop, and in which order they can run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given

import chainrule as cr
from chainrule.compiler.fusion import LONG, is_elementwise, regions
from chainrule.compiler.simplify import simplify
from chainrule.graph.ir import Graph
from programs import Program, arguments, programs


def order_of(found: Sequence[Any], graph: Graph) -> bool:
    known = {*graph.inputs, *graph.constants}
    for region in found:
        if not known.issuperset(region.inputs):
            return False
        known.update(x for node in region.nodes for x in node.outputs)
    return known.issuperset(graph.outputs)


@given(programs(14))
def test_regions_can_run_one_after_the_other(program: Program) -> None:
    graph = cr.trace(lambda *xs: program(*xs), *arguments())
    found = regions(graph)
    assert sorted(id(node) for region in found for node in region.nodes) == sorted(map(id, graph.nodes))
    assert order_of(found, graph)
    for region in found:
        inside = {x for node in region.nodes for x in node.outputs}
        if len(region.nodes) > 1:
            assert region.shape is not None
            assert all(node.inputs[0].shape == region.shape for node in region.nodes if not is_elementwise(node))
            # What is the same for all elements, or for a row of them, may be computed with them.
            shapes = {node.output.shape for node in region.nodes if is_elementwise(node)}
            assert all(shape in (region.shape, (*region.shape[:-1], 1)) or np.prod(shape) == 1 for shape in shapes)
            # What a loop has summed up is there when it is over.
            sums = {node.output for node in region.nodes if not is_elementwise(node)}
            assert sums.isdisjoint(x for node in region.nodes for x in node.inputs)
        assert inside.isdisjoint(region.inputs)
        used = {x for other in found if other is not region for node in other.nodes for x in node.inputs} | set(graph.outputs)
        assert set(region.outputs) == inside & used


def test_a_chain_and_the_sum_behind_it_are_one_region() -> None:
    graph = cr.trace(lambda x, y: cr.sum(cr.tanh(x * y + 1.0), axis=0), np.ones((2, 3)), np.ones(3))
    (region,) = regions(graph)
    assert [node.primitive.name for node in region.nodes] == ["multiply", "add", "tanh", "sum"]
    assert region.shape == (2, 3)


@pytest.mark.parametrize(("shape", "count"), [((8,), 1000), ((), 5000)])
def test_a_very_long_chain_is_several_loops_which_takes_a_backend_less_time(shape: tuple[int, ...], count: int) -> None:
    def chain(x: Any) -> Any:
        for _ in range(count):
            x = cr.tanh(x)
        return x

    lengths = [len(region.nodes) for region in regions(cr.trace(chain, np.ones(shape)))]
    assert sum(lengths) == count
    assert len(lengths) == -(-count // max(lengths)) > 3
    assert max(lengths) == LONG * (1 if shape else 4)


def test_a_value_that_leaves_and_comes_back_divides_a_region() -> None:
    def f(x: Any) -> Any:
        y = cr.sin(x)
        return cr.cos(y) + y @ y

    found = regions(cr.trace(f, np.ones((3, 3))))
    assert [[node.primitive.name for node in region.nodes] for region in found] == [["sin", "cos"], ["matmul"], ["add"]]


def test_independent_loops_of_one_shape_may_become_one() -> None:
    found = regions(cr.trace(lambda x, y: cr.sin(x) + cr.cos(y), np.ones(3), np.ones(3)))
    assert [len(region.nodes) for region in found] == [3]


def test_what_one_later_loop_reads_alone_is_computed_there() -> None:
    def update(x: Any, kernel: Any, velocity: Any) -> Any:
        new = 0.9 * velocity + x.T @ x
        return kernel - 0.1 * new, new

    found = regions(cr.trace(update, np.ones((4, 3)), np.ones((3, 3)), np.ones((3, 3))))
    assert [len(region.nodes) for region in found] == [1, 1, 4]
    # Unless what it reads would have to be kept for longer, or it can stand behind a product.
    two = cr.trace(lambda x, y: (x @ y + y @ x) * 0.5 + cr.sqrt(x @ x) @ x, np.ones((3, 3)), np.ones((3, 3)))
    assert [len(region.nodes) for region in regions(two)] == [1, 1, 2, 1, 1, 1, 1]


def test_what_a_loop_has_summed_up_is_read_by_the_next_one() -> None:
    found = regions(cr.trace(lambda x: cr.cos(cr.sum(cr.sin(x), axis=0, keepdims=True)), np.ones((1, 3))))
    assert [[node.primitive.name for node in region.nodes] for region in found] == [["sin", "sum"], ["cos"]]


def gradient_of(activation: Any) -> Graph:
    """Of a network of three layers by its weights."""

    def loss(v: Any, w: Any, u: Any, x: Any) -> Any:
        return cr.sum(activation(activation(activation(x @ v) @ w) @ u))

    return simplify(cr.trace(cr.grad(loss, argnums=(0, 1, 2)), *[np.ones((8, 8))] * 3, np.ones((32, 8))))


def test_what_is_made_of_values_that_wait_anyway_is_made_where_it_is_read() -> None:
    found = [[node.primitive.name for node in region.nodes] for region in regions(gradient_of(cr.tanh))]
    # The derivative 1 - tanh(x)**2 in the loop that multiplies by it.
    assert found.count(["tanh"]) == 2
    assert found.count(["multiply", "subtract", "multiply"]) == 2
    found = [[node.primitive.name for node in region.nodes] for region in regions(gradient_of(cr.sigmoid))]
    assert found.count(["sigmoid"]) == 2


def test_a_mask_is_made_with_what_it_is_made_of_since_it_takes_fewer_bytes() -> None:
    found = [[node.primitive.name for node in region.nodes] for region in regions(gradient_of(cr.relu))]
    assert found.count(["relu", "greater"]) == 2


def test_a_value_and_its_gradient_on_both_sides_of_a_sum_are_one_loop() -> None:
    """What the way back reads is in registers there: none of it waits in memory until the sum is done."""

    def loss(x: Any) -> Any:
        for _ in range(3):
            x = cr.sigmoid(cr.sqrt(cr.log1p(cr.square(cr.tanh(x)) + 0.5)))
        return cr.sum(x)

    found = regions(simplify(cr.trace(cr.value_and_grad(loss), np.ones(1000))))
    assert sum(region.shape == (1000,) for region in found) == 1
