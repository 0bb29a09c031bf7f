"""Bounds: what elementwise gates give lies between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest

import chainrule as cr
from chainrule.compiler.bounds import Bounding, Condition, Interval, bounds, room
from chainrule.core.primitive import TABLE
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph
from test_scalar import LOWERED, lowered

FLOAT = np.dtype(np.float64)
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


def on_floats(name: str) -> bool:
    values, _, value = next(lowered(TABLE[name]))
    return all(np.asarray(x).dtype in (FLOAT, bool) for x in (*values, value)) and name not in ("bitwise_and", "bitwise_or", "bitwise_xor")


def between(one: np.ndarray, other: np.ndarray) -> Any:
    """All from one sample to another, element by element."""
    if one.dtype == bool:
        return Condition(one | other, ~one | ~other)
    return Interval(np.sort([one, other], axis=0))


def holds(bound: Any, values: np.ndarray) -> Any:
    """Whether values lie within bounds; NaN does."""
    if values.dtype == bool:
        return np.where(values, bound.yes, bound.no)
    slack = 1e-12 * np.abs(bound.ends)
    return np.isnan(values) | ((bound.ends[0] - slack[0] <= values) & (values <= bound.ends[1] + slack[1]))


@pytest.mark.parametrize("name", [name for name in LOWERED if on_floats(name)])
def test_what_a_gate_gives_lies_within_bounds(name: str) -> None:
    primitive, lowering = TABLE[name], cast("Any", TABLE[name].scalar)
    for values, params, value in lowered(primitive):
        if any(np.asarray(x).dtype not in (FLOAT, bool) for x in (*values, value)):
            continue
        ones = [np.ravel(x) for x in np.broadcast_arrays(*values)]
        wide = [
            np.where(RNG.uniform(size=x.shape) < 0.5, x, RNG.choice([-1.0, 1.0]) * 10.0 ** RNG.uniform(-9, 9, x.shape)).astype(x.dtype) for x in ones
        ]
        others = [RNG.permutation(x) for x in wide]
        bound = Bounding(FLOAT).value(lowering(Bounding(FLOAT), *map(between, ones, others), **params))
        middles = [one if one.dtype == bool else 0.5 * one + 0.5 * other for one, other in zip(ones, others, strict=True)]
        for points in (ones, others, middles):
            assert np.all(holds(bound, np.asarray(primitive.evaluate(*points, **params))))


def of_result(f: Any, *xs: np.ndarray) -> Interval:
    """The bounds of what a function gives."""
    graph: Graph = cr.trace(f, *xs)
    makers = {x: (number, node) for number, node in enumerate(graph.nodes) for x in node.outputs}
    (out,) = graph.outputs
    # The sum of two values is made of both: bounds are those of the values.
    found: dict[Variable, Interval] = bounds({out, *graph.inputs}, makers.get, graph.constants)
    return found[out]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_bounded_everywhere_is_so_however_large_its_parts_are(dtype: Any) -> None:
    x = np.zeros(3, dtype)
    for f, most in (
        (lambda x: x * cr.sigmoid(-x * x), 1.0),
        (lambda x: x * cr.exp(-x * x), 2.0),
        (lambda x: x**3 * (1 - cr.tanh(x) ** 2), 20.0),
        (lambda x: x / cr.sqrt(1.0 + x * x), 256.0),
        (lambda x: cr.where(x > 0.0, cr.exp(-x), cr.exp(x)), 1.001),
        (lambda x: cr.expm1(cr.minimum(x, 0.0)) * cr.erf(x), 1.0),
    ):
        assert np.max(of_result(f, x).largest) <= most


def test_values_of_their_own_are_taken_together_as_large_as_they_may_be() -> None:
    x = np.zeros(3, np.float32)
    assert np.max(of_result(lambda x, y: cr.tanh(x) * cr.cos(y), x, x).largest) == 1.0
    assert np.max(of_result(lambda x, y: cr.tanh(x) * y, x, x).largest) == room(np.dtype(np.float32))
    assert np.max(of_result(lambda x, y: x * y, x, x).largest) == np.finfo(np.float32).max
