"""Every gate of the table keeps every promise; the inputs are the record's own samples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

import chainrule as cr
from chainrule.core.primitive import TABLE, functions
from chainrule.graph.inner import PRUNES
from gates import CHECKS, Case, Gate, frozen, in_a_graph

FUNCTIONS = {name: in_a_graph(getattr(functions, name)) if name in PRUNES else getattr(functions, name) for name in sorted(TABLE)}
GATES = {name: Gate(TABLE[name], function) for name, function in FUNCTIONS.items()}
BINARY = [name for name, gate in GATES.items() if gate.primitive.scalar is not None and gate.primitive.inputs == ("x1", "x2")]
ELEMENTWISE = [name for name, gate in GATES.items() if gate.primitive.partials is not None and gate.primitive.scalar is not None]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("name", GATES)
def test_gate(name: str, check: Callable[[Gate], None]) -> None:
    check(GATES[name])


@pytest.mark.parametrize("name", BINARY)
@settings(max_examples=15)
@given(data=st.data())
def test_operands_broadcast_as_numpy_says(name: str, data: st.DataObject) -> None:
    """A broadcast operand gives what its repetition gives, and its gradient is the sum over the repetitions."""
    gate = GATES[name]
    shapes = data.draw(mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4))
    rng = np.random.default_rng(data.draw(st.integers(0, 100)))
    pools = gate.cases()[0].leaves
    x1, x2 = (frozen(rng.choice(np.ravel(pool), shape)) for pool, shape in zip(pools, shapes.input_shapes, strict=True))
    full = [frozen(np.broadcast_to(x, shapes.result_shape)) for x in (x1, x2)]
    narrow, wide = (Case.of(gate, 0, (a, b), {}) for a, b in ((x1, x2), full))
    (out,), (expected,) = narrow(*narrow.arrays), wide(*wide.arrays)
    assert out.shape == shapes.result_shape
    np.testing.assert_array_equal(np.asarray(out), np.asarray(expected))
    if narrow.differentiable and gate.has_rules:
        ct = rng.normal(size=out.shape)
        for got, repeated, x in zip(pulled(narrow, ct), pulled(wide, ct), narrow.arrays, strict=True):
            assert got.shape == x.shape
            extra = repeated.ndim - x.ndim
            axes = (*range(extra), *(extra + i for i, size in enumerate(x.shape) if size == 1))
            np.testing.assert_allclose(np.asarray(got), np.asarray(repeated).sum(axes).reshape(x.shape), rtol=1e-10, atol=1e-12)


def pulled(case: Case, ct: np.ndarray) -> tuple[cr.Tensor, ...]:
    _, pull = cr.vjp(lambda *arrays: case(*arrays)[0], *case.arrays)
    return pull(ct)


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_where_lets_nothing_of_the_branch_not_taken_into_a_gradient(name: str) -> None:
    """At poles, outside the domain, at infinity and NaN: where the other branch is taken the gradient is 0."""
    gate = GATES[name]
    awkward = np.array([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 1e300, np.inf, -np.inf, np.nan])
    arrays = [frozen(x.ravel()) for x in np.meshgrid(*[awkward] * len(gate.primitive.inputs))]
    taken = frozen(np.zeros(arrays[0].shape, bool))
    sample = gate.cases()[0]
    if len(sample.places) != len(gate.primitive.inputs):
        arrays = [frozen(np.resize(awkward, np.shape(x))) for x in sample.arrays]
        taken = frozen(np.zeros(np.broadcast_shapes(*(np.shape(x) for x in arrays)), bool))
    for ct in cr.grad(lambda *xs: cr.sum(cr.where(taken, sample(*xs)[0], 1.0)), tuple(range(len(arrays))))(*arrays):
        np.testing.assert_array_equal(np.asarray(ct), 0.0)


KINKS = {
    "relu": ((0.0,), (0.0,)),
    "abs": ((0.0,), (0.0,)),
    "sign": ((0.0,), (0.0,)),
    "sqrt": ((0.0,), (np.inf,)),
    "maximum": ((2.0, 2.0), (0.5, 0.5)),
    "minimum": ((2.0, 2.0), (0.5, 0.5)),
    "hypot": ((0.0, 0.0), (0.0, 0.0)),
}


@pytest.mark.parametrize("name", KINKS)
def test_derivative_at_a_kink_is_the_documented_one(name: str) -> None:
    at, expected = KINKS[name]
    found = cr.grad(getattr(cr, name), tuple(range(len(at))))(*map(cr.tensor, at))
    assert tuple(ct.item() for ct in found) == expected


def test_ties_share_the_gradient_equally() -> None:
    x = cr.tensor([1.0, 3.0, 3.0, 3.0])
    third = np.float32(1 / 3)
    assert cr.grad(cr.max)(x).tolist() == [0.0, third, third, third]
    assert cr.grad(lambda x: -cr.min(-x))(x).tolist() == [0.0, third, third, third]
