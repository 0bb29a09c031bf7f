"""What an explorer page is told beside values and gradients: what is saved or computed again, how Jacobians lie, dead units, and why."""

import numpy as np
import pytest

import chainrule as cr
from explorable import PROGRAMS

pytest.importorskip("pygraphviz", reason="pages are laid out by Graphviz: pip install 'chainrule[view]'")

from chainrule.view.explorer.page import explored


def facts(f, *inputs):
    with np.errstate(all="ignore"):
        return explored(f, *inputs)[0]


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_saved_is_what_nodes_of_the_tape_hold(name):
    f, inputs = PROGRAMS[name]
    told = facts(f, *inputs)
    for gates in told["saved"]["by"].values():
        assert set(gates) <= set(told["gates"])
    sizes = {x: v["bytes"] for x, v in told["vars"].items() if x in told["saved"]["by"]}
    computed = sum(size for x, size in sizes.items() if told["vars"][x]["kind"] == "computed")
    assert told["saved"]["bytes"] == computed
    assert told["saved"]["held"] == sum(sizes.values()) - computed


def test_a_gate_keeps_its_output_or_the_other_factor_as_its_record_says():
    told = facts(lambda x, y: cr.exp(x * y), 2.0, 3.0)
    assert set(told["saved"]["by"]) == {"x", "y", told["output"]}


def deep(x):
    for _ in range(12):
        x = cr.tanh(x @ MATRIX)
    return (x * x).sum()


MATRIX = cr.tensor(np.random.default_rng(0).normal(size=(64, 64)), requires_grad=True)


def test_a_compiled_functions_budget_says_what_is_computed_again():
    free = facts(cr.compile(deep), np.ones((64, 64)))["saved"]
    tight = facts(cr.compile(deep, memory_budget=250_000), np.ones((64, 64)))["saved"]
    assert free["again"] == {}
    assert tight["again"]
    assert "memory budget 250 KB" in tight["says"]


def test_a_checkpoint_is_computed_again():
    told = facts(lambda x: cr.checkpoint(lambda x: cr.exp(cr.sin(x)))(x).sum(), np.ones(3))["saved"]
    assert list(told["again"].values()) == [1]
    assert "2 values" in told["says"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_jacobians_structure_counts_its_entries(name):
    f, inputs = PROGRAMS[name]
    for gate in facts(f, *inputs)["gates"].values():
        for table, structure in zip(gate["jacobian"], gate["structure"], strict=True):
            if table is not None:
                assert structure["entries"] == sum(map(len, table))
                assert structure["cols"] == len(table)


@pytest.mark.parametrize(
    ("f", "inputs", "kinds"),
    [
        (lambda x: cr.relu(x).sum(), (np.ones((40, 40)),), ["diagonal", "one row"]),
        (lambda x, w: (x @ w).sum(), (np.ones((8, 4)), np.ones((4, 3))), ["8 blocks of 3×4", "3 blocks of 8×4", "one row"]),
        (lambda x: x.reshape((3, 2)).T.sum(), (np.ones(6),), ["diagonal", "a reordering: at most one entry in each row and column", "one row"]),
        (lambda x: (x + np.ones((5, 3))).sum(), (np.ones(3),), ["one entry in each row", "one row"]),
        (lambda x: x.sum(axis=0).sum(), (np.ones((5, 3)),), ["one entry in each column", "one row"]),
    ],
)
def test_how_a_jacobian_lies_is_said(f, inputs, kinds):
    gates = facts(f, *inputs)["gates"].values()
    assert [s["kind"] for gate in gates for s in gate["structure"] if s is not None] == kinds


def test_a_large_product_has_a_bound_of_its_entries():
    told = facts(lambda x, w: (x @ w).sum(), np.ones((64, 50)), np.ones((50, 40)))
    first, second = next(iter(told["gates"].values()))["structure"]
    assert first["entries"] is None
    assert first["most"] == second["most"] == 64 * 50 * 40
    assert first["bytes"] == 64 * 40 * 64 * 50 * 8


def test_units_say_how_often_they_are_closed():
    x = np.array([[1.0, -1.0, 2.0], [1.0, -2.0, -3.0]])
    told = facts(lambda x: cr.relu(x).sum(), x)
    assert next(iter(told["gates"].values()))["units"] == [0, 1, 0.5]
    assert all(gate["units"] is None for gate in facts(lambda x: cr.exp(x).sum(), x)["gates"].values())


def leaf(*numbers):
    return cr.tensor(np.array(numbers), requires_grad=True)


def test_an_ordinary_gradient_needs_no_words():
    assert facts(PROGRAMS["E2"][0], *PROGRAMS["E2"][1])["why"] == {}


def many(x):
    for _ in range(20):
        x = cr.sigmoid(x)
    return x.sum()


@pytest.mark.parametrize(
    ("f", "x", "kind", "says", "operation"),
    [
        (lambda x: (x.detach() * MATRIX[0, 0]).sum(), leaf(1.0, 2.0), "absent", "detach cuts the way here", "stop_gradient"),
        (lambda x: cr.relu(x).sum(), leaf(1.0, -2.0), "zero", "passes nothing on at 1 of 2 elements", "relu"),
        (lambda x: cr.log(x).sum(), leaf(1.0, -2.0), "NaN", "log(-2) is NaN at [1]", "log"),
        (lambda x: cr.sqrt(x).sum(), leaf(1.0, 0.0), "infinite", "the derivative of sqrt", "sqrt"),
        (many, leaf(0.5, -0.5), "vanishing", "shrinks the gradient", "sigmoid"),
        (lambda x: (x * 1e9).sum(), leaf(1.0, 2.0), "exploding", "stretches the gradient", "multiply"),
    ],
)
def test_why_a_gradient_is_not_ordinary_is_said_at_its_gate(f, x, kind, says, operation):
    told = facts(f, x)
    found = told["why"]["x"]
    assert found["kind"] == kind
    cause = found["causes"][0]
    assert says in cause["says"]
    assert told["gates"][cause["gate"]]["op"] == operation
    assert cause["line"].startswith("test_explore_facts.py:")
