"""vmap: what is written for one example holds for a batch, whatever is nested in whatever."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ArgumentError, AxisError, ShapeError, TraceError

rng = np.random.default_rng(0)


def near(got: Any, expected: Any, rtol: float = 1e-12) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=rtol, atol=1e-14)


def test_a_function_of_one_example_becomes_one_of_a_batch() -> None:
    rows, w = rng.normal(size=(5, 3)), rng.normal(size=(3, 2))
    near(cr.vmap(lambda row: cr.tanh(row @ w))(rows), np.tanh(rows @ w))


@pytest.mark.parametrize(("axis", "moved"), [(0, 0), (1, 1), (-1, 2), (-2, 1)])
def test_any_axis_in_and_out(axis: int, moved: int) -> None:
    x = rng.normal(size=(2, 3, 4))
    examples = np.moveaxis(x, moved, 0)
    out = cr.vmap(lambda a: a.mT, in_axes=axis, out_axes=axis)(x)
    near(np.moveaxis(np.asarray(out), axis, 0), [example.T for example in examples])


class Pair(NamedTuple):
    first: Any
    second: Any


def test_containers_go_in_and_out_and_axes_are_given_for_all_or_parts_of_them() -> None:
    a, b, c = rng.normal(size=(4, 2)), rng.normal(size=(2, 4)), rng.normal(size=2)

    def f(p: dict[str, Any], shared: Any) -> dict[str, Any]:
        pair = p["pair"]
        return {"sum": pair.first + pair.second + shared, "rest": (pair.first * 2, [pair.second])}

    out = cr.vmap(f, in_axes=({"pair": Pair(0, 1)}, None), out_axes={"sum": 0, "rest": 1})({"pair": Pair(a, b)}, c)
    near(out["sum"], a + b.T + c)
    near(out["rest"][0], 2 * a.T)
    near(out["rest"][1][0], b)


def test_an_argument_that_is_not_mapped_may_be_anything_and_keywords_are_the_same_for_all() -> None:
    x = rng.normal(size=(3, 2))
    out = cr.vmap(lambda x, name, f, scale=1.0: f(x) * scale if name == "twice" else x, in_axes=(0, None, None))(x, "twice", cr.sin, scale=2.0)
    near(out, 2 * np.sin(x))


def test_nested_maps_are_nested_loops() -> None:
    a, b = rng.normal(size=(3, 2)), rng.normal(size=(4, 2))
    near(cr.vmap(lambda u: cr.vmap(lambda v: cr.sum(u * v))(b))(a), a @ b.T)
    near(cr.vmap(cr.vmap(lambda u, v: u @ v, in_axes=(None, 0)), in_axes=(0, None))(a, b), a @ b.T)
    near(cr.vmap(cr.vmap(lambda u, v: u - v), in_axes=(1, 0), out_axes=1)(a, a.T), np.zeros((3, 2)))


def test_what_does_not_depend_on_the_batch_is_computed_once_and_repeated() -> None:
    w = cr.asarray(rng.normal(size=(2, 2)))
    whole = cr.trace(lambda x: cr.vmap(lambda row: (row @ w, cr.linalg.inv(w), 7))(x), np.ones((3, 2)))
    assert [node.output.shape for node in whole.nodes if node.primitive.name == "inv"] == [(2, 2)]
    _, inverse, seven = whole.run(np.ones((3, 2)))
    near(inverse, np.linalg.inv(w) * np.ones((3, 1, 1)))
    near(seven, [7, 7, 7])


def test_a_result_that_is_the_same_for_all_examples_is_returned_once_if_asked_for() -> None:
    shared, own = cr.vmap(lambda x, y: (y * 2, x), in_axes=(0, None), out_axes=(None, 0))(np.ones(3), np.ones(2))
    assert (shared.shape, own.shape) == ((2,), (3,))


def test_results_are_names_of_their_own() -> None:
    x = cr.ones((2, 2))
    same, shared = cr.vmap(lambda row: (row, x), out_axes=(0, None))(x)
    same += 1
    shared += 1
    assert x.tolist() == [[1, 1], [1, 1]]


def test_assigning_to_an_example_leaves_the_batch_as_it_was() -> None:
    def double(row: cr.Tensor) -> cr.Tensor:
        row *= 2
        return row

    x = cr.ones((2, 2))
    assert cr.vmap(double)(x).tolist() == [[2, 2], [2, 2]]
    assert x.tolist() == [[1, 1], [1, 1]]


def test_a_batch_of_no_examples() -> None:
    out = cr.vmap(lambda x: (cr.searchsorted(x, x), cr.linalg.svd(x[:, None] * x).S))(np.ones((0, 3)))
    assert [part.shape for part in out] == [(0, 3), (0, 3)]


def test_axis_size_says_how_many_where_nothing_is_mapped() -> None:
    near(cr.vmap(lambda x: x * 2, in_axes=None, axis_size=3)(1.0), [2, 2, 2])


# Derivatives.


def loss(w: Any, x: Any) -> Any:
    return cr.sum(cr.tanh(w @ x) ** 2)


WEIGHTS = W = rng.normal(size=(2, 3))
ROWS = X = rng.normal(size=(5, 3))


@pytest.mark.parametrize("kind", ["arrays", "tensors", "traced"])
def test_derivatives_inside_and_outside(kind: str) -> None:
    run = (lambda f, *args: cr.trace(f, *args).run(*args)) if kind == "traced" else (lambda f, *args: f(*args))
    W, X = (WEIGHTS, ROWS) if kind == "arrays" else (cr.asarray(WEIGHTS), cr.asarray(ROWS))
    each = [np.asarray(cr.grad(loss)(W, x)) for x in X]
    near(run(cr.vmap(cr.grad(loss), in_axes=(None, 0)), W, X), each)
    near(run(cr.grad(lambda w, x: cr.vmap(loss, in_axes=(None, 0))(w, x).sum()), W, X), np.sum(each, axis=0))
    near(run(cr.jacobian(lambda w, x: cr.vmap(loss, in_axes=(None, 0))(w, x)), W, X), each)
    T = np.ones((5, 3))
    directional = [np.asarray(cr.jvp(lambda x: loss(W, x), (x,), (t,))[1]) for x, t in zip(ROWS, T, strict=True)]
    near(run(lambda x, t: cr.jvp(cr.vmap(lambda x: loss(W, x)), (x,), (t,))[1], X, T), directional)
    near(run(cr.vmap(lambda x, t: cr.jvp(lambda x: loss(W, x), (x,), (t,))[1]), X, T), directional)
    pulled = [np.asarray(cr.vjp(lambda x: cr.sin(W @ x), x)[1](np.ones(2))[0]) for x in X]
    near(run(lambda x: cr.vjp(cr.vmap(lambda x: cr.sin(W @ x)), x)[1](np.ones((5, 2)))[0], X), pulled)
    near(run(cr.vmap(lambda x: cr.vjp(lambda x: cr.sin(W @ x), x)[1](np.ones(2))[0]), X), pulled)


def test_a_backward_pass_goes_through_to_what_the_function_closes_over() -> None:
    w = cr.tensor(W, requires_grad=True)
    cr.vmap(lambda x: loss(w, x))(X).sum().backward()
    near(w.grad, sum(np.asarray(cr.grad(loss)(W, x)) for x in X))


def test_a_backward_pass_per_example_inside() -> None:
    w = cr.tensor(W, requires_grad=True)
    each = cr.vmap(lambda x: cr.autograd.grad(loss(w, x), [w])[0])(X)
    near(each, [np.asarray(cr.grad(loss)(W, x)) for x in X])
    with pytest.raises(TraceError, match="for each example, is assigned"):
        cr.vmap(lambda x: loss(w, x).backward())(X)
    assert w.grad is None


def test_inside_compile_and_around_it() -> None:
    near(cr.compile(cr.vmap(lambda x: loss(W, x)))(X), [float(loss(W, x)) for x in X])
    near(cr.vmap(cr.compile(lambda x: loss(W, x)))(X), [float(loss(W, x)) for x in X])


# State and random numbers.


def test_random_numbers_differ_between_examples_and_the_generator_counts_one_draw() -> None:
    generator = cr.random.Generator(3)
    state = generator.get_state()
    drawn = cr.vmap(lambda x: x + cr.random.normal((2,), generator=generator))(np.zeros((4, 1)))
    assert len({tuple(row) for row in drawn.tolist()}) == 4
    near(generator.get_state(), np.asarray(state) + np.array([0, 1], np.uint64))
    expected = [cr.random.normal((2,), key=cr.random.fold_in(state, i)) for i in range(4)]
    near(drawn, np.stack([np.asarray(row) for row in expected]))


def test_random_numbers_of_nested_maps_differ_between_all_pairs() -> None:
    drawn = cr.vmap(lambda _: cr.vmap(lambda _: cr.random.uniform(()))(np.ones(3)))(np.ones(4))
    assert drawn.shape == (4, 3)
    assert len(set(np.asarray(drawn).ravel().tolist())) == 12


def test_loops_and_checkpoints_inside_draw_anew_for_each_example_and_step() -> None:
    generator = cr.random.Generator(2)
    step = lambda carry, x: (carry + x, cr.random.uniform((), generator=generator))
    drawn = cr.vmap(lambda row: cr.scan(step, 0.0, row)[1])(cr.ones((4, 3)))
    assert len(set(np.asarray(drawn).ravel().tolist())) == 12
    again = cr.vmap(cr.checkpoint(lambda x: x * cr.random.uniform((2,), generator=generator)))(np.ones((3, 1)))
    assert len(set(np.asarray(again).ravel().tolist())) == 6
    assert generator.get_state().tolist() == [2, 4]


def test_a_key_per_example_may_be_mapped() -> None:
    keys = cr.random.split(cr.random.key(0), 3)
    drawn = cr.vmap(lambda key: cr.random.normal((), key=key))(keys)
    near(drawn, [float(cr.random.normal((), key=key)) for key in keys])


def test_a_traced_map_draws_anew_each_time() -> None:
    graph = cr.trace(cr.vmap(lambda x: x * cr.random.uniform(())), np.ones(3))
    first, second = graph.run(np.ones(3)), graph.run(np.ones(3))
    assert len({*first.tolist(), *second.tolist()}) == 6


def test_state_that_is_the_same_for_all_examples_is_assigned() -> None:
    count = cr.tensor(0.0)

    def f(x: cr.Tensor) -> cr.Tensor:
        count.assign(count + 1)
        return x * count

    assert cr.vmap(f)(np.ones(3)).tolist() == [1, 1, 1]
    assert count.item() == 1


def test_state_that_differs_between_examples_is_refused_and_left_as_it_was() -> None:
    mean = cr.tensor(0.0)

    def f(x: cr.Tensor) -> cr.Tensor:
        mean.assign(0.9 * mean + 0.1 * x)
        return x * mean

    with pytest.raises(TraceError, match=r"float32\(\) for each example, is assigned to a tensor from outside"):
        cr.vmap(f)(np.ones(3, np.float32))
    assert mean.item() == 0


def test_layers_inside_make_their_parameters_as_they_would_outside() -> None:
    cr.manual_seed(0)
    layer = nn.Sequential([nn.Dense(4, activation="tanh"), nn.Dense(1)])
    x = np.ones((5, 3), np.float32)
    mapped = cr.vmap(lambda row: layer(row[None, :])[0])(x)
    near(mapped.detach(), layer(x).detach(), rtol=1e-6)
    cr.manual_seed(0)
    again = nn.Sequential([nn.Dense(4, activation="tanh"), nn.Dense(1)])
    compiled = cr.compile(cr.vmap(lambda row: again(row[None, :])[0]))
    near(compiled(x).detach(), mapped.detach(), rtol=1e-6)


# What is refused.


def test_numbers_of_examples_that_differ_name_argument_axis_and_size() -> None:
    with pytest.raises(ShapeError, match=r"x has 3 on axis 0, y has 4 on axis 1"):
        cr.vmap(lambda x, y: x, in_axes=(0, 1))(np.ones(3), np.ones((2, 4)))
    with pytest.raises(ShapeError, match=r"x has 3 on axis 0, axis_size has 2"):
        cr.vmap(lambda x: x, axis_size=2)(np.ones(3))


def test_an_axis_that_is_not_there_names_the_argument_or_the_result() -> None:
    with pytest.raises(AxisError, match=r"axis 1 is out of range .* argument x is float64\(3\)"):
        cr.vmap(lambda x: x, in_axes=1)(np.ones(3))
    with pytest.raises(AxisError, match=r"argument x is float32\(\)"):
        cr.vmap(lambda x: x)(1.0)
    with pytest.raises(AxisError, match=r"axis 2 is out of range .* the result .* float64\(\) for each example"):
        cr.vmap(lambda x: x * 2, out_axes=2)(np.ones(3))


@pytest.mark.parametrize("axes", [(0, 0), ({"a": 0},), "rows", 0.5, ([0, 0],), True])
def test_axes_that_do_not_fit_the_arguments(axes: Any) -> None:
    with pytest.raises(ArgumentError, match=r"in_axes .* does not fit the arguments"):
        cr.vmap(lambda x: x, in_axes=axes)({"b": np.ones(3)})


def test_axes_that_do_not_fit_the_results() -> None:
    with pytest.raises(ArgumentError, match=r"out_axes .* does not fit the results"):
        cr.vmap(lambda x: (x, x), out_axes=(0, 0, 0))(np.ones(3))
    with pytest.raises(ArgumentError, match="differs between the examples"):
        cr.vmap(lambda x: x * 2, out_axes=None)(np.ones(3))


def test_nothing_mapped() -> None:
    with pytest.raises(ArgumentError, match="how many examples"):
        cr.vmap(lambda x: x, in_axes=None)(np.ones(3))


def test_a_branch_on_an_example_is_refused_with_its_line() -> None:
    with pytest.raises(TraceError, match=r"if x > 0"):
        cr.vmap(lambda x: x if x > 0 else -x)(np.ones(3))


def test_a_number_outside_may_be_read_since_a_map_runs_at_once():
    scale = cr.tensor(2.0)
    np.testing.assert_array_equal(cr.vmap(lambda x: x * float(scale))(cr.ones(2)), [2, 2])
    np.testing.assert_array_equal(cr.jacobian(lambda x: x * scale.item())(cr.ones(1)), [[2]])
    with pytest.raises(TraceError, match="asked for"):
        cr.trace(cr.vmap(lambda x: x * float(scale)), cr.ones(2))

    def changed(x):
        scale.assign(scale + 1.0)
        return x * float(scale)

    with pytest.raises(TraceError, match="asked for"):
        cr.vmap(changed)(cr.ones(2))
    assert scale.item() == 2
