"""Sparse Jacobians and Hessians: the pattern misses nothing, colours are few, and the elements are the dense derivative's."""

from __future__ import annotations

import subprocess
import sys
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import example, given, settings
from hypothesis import strategies as st

import chainrule as cr
from chainrule.core import tree
from chainrule.core.aval import Aval
from chainrule.core.errors import ArgumentError, GradientError, MissingExtraError, ShapeError, TraceError
from chainrule.core.primitive import TABLE, Primitive, functions
from chainrule.ops.gate import batch_looped
from chainrule.tape import bind
from gates import Gate

EVERY_GATE = [Gate(primitive, getattr(functions, name)) for name, primitive in TABLE.items()]


def dense(f: Any, *args: Any) -> Any:
    """The Jacobian, a product with a unit vector at a time."""
    out, pull = cr.vjp(f, *args)
    ends, structure = tree.flatten(out)
    rows = []
    for i, end in enumerate(ends):
        for unit in np.eye(end.size, dtype=end.dtype):
            cts = [unit.reshape(x.shape) if i == j else np.zeros(x.shape, x.dtype) for j, x in enumerate(ends)]
            rows.append(np.concatenate([np.zeros(0), *(np.asarray(x).reshape(-1) for x in tree.leaves(pull(structure.rebuild(cts))))]))
    return np.array(rows).reshape(sum(x.size for x in ends), sum(np.size(x) for x in tree.leaves(args)))


def dense_hessian(f: Any, *args: Any) -> Any:
    return dense(cr.grad(f, argnums=tuple(range(len(args)))), *args)


def generic(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).uniform(0.5, 1.5, shape)


def check(plan: cr.SparsePlan, expected: Any, *args: Any, exact: bool = True) -> None:
    """A plan's value is the dense derivative, in a CSR array that stores the pattern."""
    found = plan(*args)
    assert isinstance(found, scipy.sparse.csr_array)
    assert found.shape == plan.shape == expected.shape
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-12, atol=1e-12)
    if exact:
        np.testing.assert_array_equal(plan.pattern.toarray(), expected != 0)


def rosenbrock(x: Any) -> Any:
    return cr.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def heat(u: Any) -> Any:
    """A residual of the two-dimensional heat equation with a source, on the inner points of a grid."""
    centre = u[1:-1, 1:-1]
    return u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2] - 4 * centre + cr.exp(centre)


# Detection.


@pytest.mark.parametrize("gate", EVERY_GATE, ids=lambda gate: gate.primitive.name)
def test_pattern_of_every_gate_holds_all_that_is_not_zero(gate: Gate) -> None:
    for case in gate.cases():
        with case:
            if case.differentiable:
                pattern = cr.jacobian_sparsity(case.real, *case.arrays).toarray()
                assert not np.any((dense(case.real, *case.arrays) != 0) & ~pattern)


INDEX = np.array([[0, 3], [3, 1]])
EXACT = {
    "slice": (lambda x: x[1::2, ::-1], (4, 3)),
    "gather": (lambda x: cr.gather(x, INDEX, axes=0), (4, 2)),
    "gather of two axes": (lambda x: x[INDEX, [0, 1]], (4, 2)),
    "mask": (lambda x: x[np.array([True, False, True])], (3, 2)),
    "scatter": (lambda x: cr.scatter_add(INDEX, x, shape=(5, 2), axes=0), (2, 2, 2)),
    "scatter of repeated values": (lambda x: cr.scatter_add(INDEX, x, shape=(5, 2), axes=0), (2, 1)),
    "written": (lambda x: cr.index_update(x, ([0, 2, 0],), 3 * x[:3]), (4,)),
    "along an axis": (lambda x: cr.take_along_axis(x, np.array([[0], [2]]), axis=1), (2, 3)),
    "added along an axis": (lambda x: cr.scatter_along_axis(np.array([[0, 2, 0]]), x, axis=1, size=3), (1, 3)),
    "concat, reshape, flip": (lambda x: cr.reshape(cr.concat([x, 2 * cr.flip(x)], axis=1), (3, 4)), (2, 3)),
    "pad": (lambda x: cr.pad(x, 1, constant_values=2.0) ** 2, (2, 2)),
    "unstack": (lambda x: cr.multiply(*cr.unstack(x)), (2, 3)),
    "broadcast": (lambda x: x[:, None] * x[None], (4,)),
    "sum": (lambda x: cr.sum(x * x, axis=(0, 2)), (2, 3, 2)),
    "mean, kept": (lambda x: cr.mean(x * x, axis=1, keepdims=True), (2, 3, 2)),
    "prod": (lambda x: cr.prod(x, axis=0), (2, 3)),
    "logsumexp": (lambda x: cr.logsumexp(x, axis=1), (2, 3)),
    "softmax": (lambda x: cr.softmax(x, axis=0), (3, 2)),
    "cumulative sum": (lambda x: cr.cumulative_sum(x, axis=1), (2, 3)),
    "cumulative product": (lambda x: cr.cumulative_prod(x, axis=0), (3, 2)),
    "diff": (lambda x: cr.diff(x, n=2), (6,)),
    "matrix product": (lambda x: x[:2] @ x[2:].mT, (4, 3)),
    "matrix and vector": (lambda x: x[:3] @ x[3], (4, 3)),
    "stack of products": (lambda x: cr.matmul(x, x[:1, :, :1]), (2, 3, 3)),
    "vecdot": (lambda x: cr.linalg.vecdot(x, x[0]), (2, 3)),
    "cross": (lambda x: cr.linalg.cross(x, x[0] + 1.0), (2, 3)),
    "einsum": (lambda x: cr.einsum("bij,bkj->kbi", x, x + 1.0), (2, 2, 3)),
    "tril": (lambda x: cr.tril(x, k=-1), (3, 3)),
    "diagonal": (lambda x: cr.linalg.diagonal(x, offset=1), (3, 3)),
    "solve": (lambda x: cr.linalg.solve(np.array([[2.0, 1.0], [1.0, 3.0]]), x), (2, 3)),
    "convolution": (lambda x: cr.conv(x, generic(3, 2, 2, 1), padding=1, stride=(1, 2)), (1, 4, 5, 2)),
    "grouped convolution": (lambda x: cr.conv(x, generic(2, 2, 4), groups=2, dilation=2), (2, 5, 4)),
    "transposed convolution": (lambda x: cr.conv_transpose(x, generic(3, 1, 2), stride=2), (1, 3, 2)),
    "kernel of a convolution": (lambda w: cr.conv(generic(2, 4, 2), w, padding=1), (3, 2, 2)),
    "mean over windows": (lambda x: cr.avg_pool(x, 2, stride=1, padding="same"), (1, 3, 3, 2)),
    "where": (lambda x: cr.where(np.array([True, False, True]), x, 2 * x[::-1]), (3,)),
    "masked by constants": (lambda x: x * np.array([1.0, 0.0, 2.0]) + 0.0 * x[::-1], (3,)),
    "fixed coefficients": (lambda x: np.array([[1.0, 0.0, 2.0], [0.0, 0.0, 1.0]]) @ x, (3,)),
    "fixed kernel": (lambda x: cr.conv(x, np.array([1.0, 0.0, -2.0]).reshape(3, 1, 1)), (1, 6, 1)),
    "integers carry nothing": (lambda x: x[0] * cr.floor(x) + cr.astype(cr.astype(x, cr.int64), cr.float64), (3,)),
    "stop_gradient": (lambda x: cr.stop_gradient(x) * x[::-1], (3,)),
    "cond": (lambda x: cr.cond(x[0] > 0, lambda x: x[::-1], lambda x: x[::-1] ** 2, x), (4,)),
    "while": (lambda x: cr.while_loop(lambda c: c[1] < 2, lambda c: (c[0] * x[::-1], c[1] + 1), (x, 0))[0], (4,)),
    "scan": (lambda x: cr.scan(lambda c, row: (c * row, c + row), x[0], x[1:])[1], (4, 3)),
    "scan from the end": (lambda x: cr.scan(lambda c, row: (c * row, c + row), x[0], x[1:], reverse=True), (4, 2)),
    "position counted by a scan": (lambda x: x[cr.scan(lambda i, row: (i + 1, row * row), np.array(0), x)[0] - 1], (3, 2)),
    "scan with a counter": (lambda x: cr.scan(lambda i, row: (i + 1, row[i]), np.array(0), x)[1], (3, 3)),
}


@pytest.mark.parametrize("name", EXACT)
def test_pattern_is_exact(name: str) -> None:
    f, shape = EXACT[name]
    drawn = [generic(*shape, seed=seed) for seed in range(3)]
    expected = np.logical_or.reduce([dense(f, x) != 0 for x in drawn])
    np.testing.assert_array_equal(cr.jacobian_sparsity(f, drawn[0]).toarray(), expected)


def test_pattern_does_not_depend_on_values() -> None:
    np.testing.assert_array_equal(cr.jacobian_sparsity(cr.relu, np.array([-1.0, 2.0])).toarray(), np.eye(2, dtype=bool))
    np.testing.assert_array_equal(cr.jacobian_sparsity(lambda x: x * x[::-1], np.zeros(2)).toarray(), np.ones((2, 2), bool))


def test_positions_that_are_computed_may_be_any() -> None:
    pattern = cr.jacobian_sparsity(lambda x: cr.take_along_axis(x, cr.argsort(x, axis=1), axis=1), generic(2, 3))
    np.testing.assert_array_equal(pattern.toarray(), np.kron(np.eye(2), np.ones((3, 3))) != 0)
    pattern = cr.jacobian_sparsity(lambda x: cr.gather(x, cr.argmax(x[:, 0]), axes=0), generic(3, 2))
    np.testing.assert_array_equal(pattern.toarray(), np.tile(np.eye(2), 3) != 0)
    pattern = cr.jacobian_sparsity(lambda x: cr.scatter_add(cr.argsort(x[:, 0]), x, shape=(3, 2), axes=0), generic(3, 2))
    np.testing.assert_array_equal(pattern.toarray(), np.tile(np.eye(2), (3, 3)) != 0)


def test_a_gate_without_a_rule_depends_on_everything() -> None:
    assert cr.jacobian_sparsity(lambda x: cr.linalg.cholesky(x), np.eye(2)).toarray()[0].all()


def _second_neighbours(x: Any) -> Any:
    return x[2:] + x[:-2]


SECOND_NEIGHBOURS = Primitive(
    name="second_neighbours",
    inputs=("x",),
    aval=lambda x: Aval((x.shape[0] - 2,), x.dtype),
    eval=_second_neighbours,
    transpose=lambda ct: cr.pad(ct, (2, 0)) + cr.pad(ct, (0, 2)),
    batch=batch_looped("It is one of a test's own."),
)
"""A linear gate of which nothing else is known; the numbers of what it adds have whole means."""


def test_a_linear_gate_of_unknown_structure_depends_on_everything() -> None:
    f = lambda x: bind(SECOND_NEIGHBOURS, [cr.asarray(x)])
    check(cr.sparse_jacobian(f, generic(5)), np.eye(3, 5) + np.eye(3, 5, k=2), generic(5), exact=False)
    assert cr.jacobian_sparsity(f, generic(5)).nnz == 15


def test_a_hessian_is_zero_where_either_side_of_the_diagonal_shows_it() -> None:
    f = lambda x, y: cr.sum(bind(SECOND_NEIGHBOURS, [cr.asarray(x)]) * y)
    args = generic(5), generic(3)
    check(cr.sparse_hessian(f, *args), dense_hessian(f, *args), *args)


class StraightThrough(cr.Function):
    """Rounds, and passes gradients on in reverse order, as no rule for what it computes would."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return cr.round(x)

    @staticmethod
    def backward(ctx: Any, ct: Any) -> Any:
        return cr.flip(ct)


def test_the_derivative_of_a_function_of_ones_own_is_followed() -> None:
    plan = cr.sparse_jacobian(lambda x: 2.0 * StraightThrough.apply(x), generic(3))
    check(plan, 2.0 * np.eye(3)[::-1], generic(3))


def test_hessian_patterns() -> None:
    patterns = {
        "separable": (lambda x: cr.sum(cr.exp(x)), np.eye(4)),
        "linear": (lambda x: cr.sum(generic(4) * x), np.zeros((4, 4))),
        "piecewise linear": (lambda x: cr.sum(cr.relu(x) + cr.abs(x)), np.zeros((4, 4))),
        "chain": (lambda x: cr.sum(x[1:] * x[:-1]), np.eye(4, k=1) + np.eye(4, k=-1)),
        "quadratic form": (lambda x: x @ (np.diag([1.0, 2.0, 0.0, 1.0]) @ x), np.diag([1, 1, 0, 1])),
        "rosenbrock": (rosenbrock, np.eye(4) + np.eye(4, k=1) + np.eye(4, k=-1)),
        "partly separable": (lambda x: cr.sum(cr.prod(cr.reshape(x, (2, 2)), axis=1) ** 2), np.kron(np.eye(2), np.ones((2, 2)))),
        "of a sum": (lambda x: cr.sum(x) ** 2, np.ones((4, 4))),
    }
    for name, (f, expected) in patterns.items():
        np.testing.assert_array_equal(cr.hessian_sparsity(f, generic(4)).toarray(), expected != 0, err_msg=name)


def test_a_million_dependences_take_a_moment_and_what_is_not_sparse_is_refused() -> None:
    assert cr.jacobian_sparsity(heat, np.zeros((300, 300))).nnz == 5 * 298**2
    assert cr.hessian_sparsity(rosenbrock, np.zeros(100_000)).nnz == 3 * 100_000 - 2
    with pytest.raises(ArgumentError, match="not sparse"):
        cr.jacobian_sparsity(lambda x: x / cr.sum(x), np.zeros(100_000))


@settings(max_examples=40)
@given(st.data())
def test_patterns_of_random_programs(data: st.DataObject) -> None:
    """Nothing that can differ from zero is missing, and where no terms cancel nothing is too much."""
    steps = {
        "tanh": lambda x: cr.tanh(0.3 * x),
        "square": lambda x: 0.4 * x * x,
        "roll": lambda x: cr.roll(x, 1, axis=1),
        "neighbours": lambda x: x[:, 1:] * x[:, :-1] if x.shape[1] > 1 else x,
        "flip": lambda x: cr.flip(x, axis=0),
        "pad": lambda x: cr.pad(x, ((0, 0), (1, 0)), constant_values=0.5),
        "sum": lambda x: cr.sum(x, axis=1, keepdims=True) + 0.7 * x,
        "cut": lambda x: x[:, : max(1, x.shape[1] - 1)],
        "transpose": lambda x: x.mT,
        "some": lambda x: x[np.arange(x.shape[0]) // 2],
        "mask": lambda x: x * (np.arange(x.shape[1]) % 2).astype(np.float64) + 0.3,
        "product": lambda x: 0.2 * (x @ x.mT),
    }
    chosen = data.draw(st.lists(st.sampled_from(sorted(steps)), max_size=6))
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 4)))

    def program(x: Any) -> Any:
        for name in chosen:
            x = steps[name](x)
        return x

    expected = np.logical_or.reduce([dense(program, generic(*shape, seed=seed)) != 0 for seed in range(3)])
    np.testing.assert_array_equal(cr.jacobian_sparsity(program, np.zeros(shape)).toarray(), expected)


# Colouring.


def matrices() -> st.SearchStrategy[Any]:
    return st.integers(1, 7).flatmap(
        lambda m: st.integers(1, 7).flatmap(lambda n: st.lists(st.booleans(), min_size=m * n, max_size=m * n).map(lambda x: np.reshape(x, (m, n))))
    )


@given(matrices())
def test_columns_or_rows_of_one_colour_never_meet(pattern: Any) -> None:
    for mode, matrix in (("forward", pattern), ("reverse", pattern.T)):
        made = cr.color(pattern, mode)
        assert made.mode == mode
        assert set(made.colors.tolist()) | {-1} == {-1, *range(made.count)}
        np.testing.assert_array_equal(made.colors < 0, ~matrix.any(axis=0))
        for row in matrix:
            own = made.colors[row]
            assert len(set(own.tolist())) == len(own)
    assert cr.color(pattern).count == min(cr.color(pattern, "forward").count, cr.color(pattern, "reverse").count)


def symmetric_matrices() -> st.SearchStrategy[Any]:
    def matrix(entries: set[tuple[int, int]]) -> Any:
        pattern = np.zeros((9, 9), bool)
        for i, j in entries:
            pattern[i, j] = pattern[j, i] = True
        return pattern

    return st.sets(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=14).map(matrix)


@settings(max_examples=200)
@given(symmetric_matrices())
@example(np.array([[0, 1, 1, 1, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 1], [0, 0, 0, 1, 0]], bool))
def test_symmetric_colours_are_those_of_stars(pattern: Any) -> None:
    colors = cr.color(pattern, "symmetric").colors.tolist()
    size = range(len(pattern))
    edge = pattern & ~np.eye(len(pattern), dtype=bool)
    assert all(colors[i] != colors[j] for i in size for j in size if edge[i, j])
    paths = (p for p in permutations(size, 4) if edge[p[0], p[1]] and edge[p[1], p[2]] and edge[p[2], p[3]])
    assert all(len({colors[i] for i in p}) > 2 for p in paths)


@given(symmetric_matrices(), st.integers(0, 99))
def test_products_with_the_colours_determine_a_symmetric_matrix(pattern: Any, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=pattern.shape)
    matrix = np.where(pattern, values + values.T, 0.0)
    plan = cr.sparse_hessian(lambda x: 0.5 * x @ matrix @ x, np.zeros(len(matrix)), pattern=pattern)
    found = plan(np.zeros(len(matrix)))
    np.testing.assert_allclose(found.toarray(), matrix, rtol=1e-12, atol=1e-12)
    assert (found != found.T).nnz == 0


def test_colours_are_few() -> None:
    size = 50
    band = np.abs(np.subtract.outer(np.arange(size), np.arange(size))) <= 1
    arrow = np.eye(size, dtype=bool)
    arrow[0] = arrow[:, 0] = True
    assert cr.color(band).count == cr.color(band, "symmetric").count == 3
    assert cr.color(arrow).count == size
    assert cr.color(arrow, "symmetric").count == cr.color(arrow[::-1, ::-1], "symmetric").count == 2
    assert cr.color(np.eye(size)).count == cr.color(np.eye(size), "symmetric").count == 1
    assert cr.color(arrow[:1]) == cr.Coloring("reverse", cr.color(arrow[:1]).colors, 1)
    assert cr.color(np.zeros((3, 4))).count == 0
    assert cr.color(cr.jacobian_sparsity(heat, np.zeros((30, 30)))).count <= 7


def test_color_refuses_what_it_cannot_colour() -> None:
    with pytest.raises(ArgumentError, match="mode='rows'"):
        cr.color(np.eye(2), "rows")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ShapeError, match="not symmetric"):
        cr.color(np.ones((2, 3)), "symmetric")
    with pytest.raises(ShapeError, match="not symmetric"):
        cr.color(np.tri(3), "symmetric")
    with pytest.raises(ShapeError, match="a pattern of shape"):
        cr.color(np.ones(3))


# Plans.


@pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
def test_jacobian_of_a_stencil(mode: Any) -> None:
    u = generic(6, 7)
    check(cr.sparse_jacobian(heat, u, mode=mode), dense(heat, u), u)


def test_tridiagonal_jacobians_take_three_products() -> None:
    f = lambda x: cr.pad(x, 1)[2:] * x - x**3 + cr.pad(x, 1)[:-2]
    x = generic(40)
    for mode in ("auto", "forward", "reverse"):
        plan = cr.sparse_jacobian(f, x, mode=mode)
        assert plan.products == 3
        check(plan, dense(f, x), x)


def test_auto_takes_the_mode_with_fewer_products() -> None:
    row = cr.sparse_jacobian(lambda x: cr.sum(x**2), generic(9))
    column = cr.sparse_jacobian(lambda x: x * np.ones(9), generic(1))
    assert (row.mode, row.products, row.shape) == ("reverse", 1, (1, 9))
    assert (column.mode, column.products, column.shape) == ("forward", 1, (9, 1))
    check(row, 2.0 * generic(9)[None], generic(9))


def test_hessian_of_rosenbrock_takes_three_products() -> None:
    x = generic(128)
    plan = cr.sparse_hessian(rosenbrock, x)
    assert (plan.mode, plan.products, plan.shape) == ("symmetric", 3, (128, 128))
    check(plan, dense_hessian(rosenbrock, x), x)


def test_hessian_of_an_arrow_takes_two_products() -> None:
    f = lambda x: cr.sum(cr.sin(x[0] * x)) + x[0] ** 2
    plan = cr.sparse_hessian(f, generic(30))
    assert plan.products == 2
    check(plan, dense_hessian(f, generic(30)), generic(30))


def test_hessians_are_symmetric_to_the_last_bit() -> None:
    f = lambda u: cr.sum(heat(u) ** 2) + cr.sum(cr.logsumexp(u, axis=0))
    u = generic(6, 5)
    plan = cr.sparse_hessian(f, u)
    assert (plan(u) != plan(u).T).nnz == 0
    np.testing.assert_allclose(plan(u).toarray(), dense_hessian(f, u), rtol=1e-10, atol=1e-10)


def test_a_plan_holds_for_any_point_and_traces_its_function_once() -> None:
    calls = []

    def f(x: Any) -> Any:
        calls.append(1)
        return cr.sin(x[1:] * x[:-1])

    plan = cr.sparse_jacobian(f, np.zeros(8), mode="forward")
    assert len(calls) == 1
    for seed in range(3):
        x = generic(8, seed=seed)
        found = plan(x)
        assert len(calls) == 1
        np.testing.assert_allclose(found.toarray(), dense(lambda x: cr.sin(x[1:] * x[:-1]), x), rtol=1e-12)


def test_what_a_caller_does_to_a_result_leaves_the_plan_alone() -> None:
    plan = cr.sparse_jacobian(lambda x: x * x, np.zeros(3))
    found = plan(np.zeros(3))
    found.eliminate_zeros()
    found.indices[:] = 0
    check(plan, np.diag([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0]))


def test_containers_are_laid_out_one_after_another() -> None:
    def f(p: Any, y: Any) -> Any:
        return {"a": p["w"] * y[0], "b": (cr.sum(p["b"] ** 2), y[1:] * p["b"])}

    args = ({"w": generic(2, 3), "b": generic(2)}, generic(3))
    for mode in ("forward", "reverse"):
        check(cr.sparse_jacobian(f, *args, mode=mode), dense(f, *args), *args)
    g = lambda p, y: cr.sum(p["w"][0] * y) + cr.sum(p["b"] ** 3)
    check(cr.sparse_hessian(g, *args), dense_hessian(g, *args), *args)


def test_dtypes_are_those_of_arguments_and_results() -> None:
    f = lambda x: x[1:] * x[:-1]
    for dtype in (np.float32, np.float64):
        for mode in ("forward", "reverse"):
            assert cr.sparse_jacobian(f, np.zeros(4, dtype), mode=mode)(np.ones(4, dtype)).dtype == dtype
        assert cr.sparse_hessian(lambda x: cr.sum(x**3), np.zeros(4, dtype))(np.ones(4, dtype)).dtype == dtype
    mixed = cr.sparse_jacobian(lambda x: cr.astype(x, cr.float64) ** 2, np.zeros(2, np.float32))
    assert mixed(np.ones(2, np.float32)).dtype == np.float64


def test_what_nothing_depends_on_needs_no_products() -> None:
    x = generic(3)
    flat = cr.sparse_jacobian(lambda x: cr.floor(x), x)
    assert flat.products == flat(x).nnz == 0
    linear = cr.sparse_hessian(lambda x: cr.sum(2.0 * x), x)
    assert linear.products == linear(x).nnz == 0
    some = cr.sparse_jacobian(lambda x, y: x[:1] * 3.0, x, x)
    check(some, np.eye(1, 6) * 3.0, x, x)
    constant = cr.sparse_jacobian(lambda x: (2.0, x), x)
    check(constant, np.concatenate([np.zeros((1, 3)), np.eye(3)]), x)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_empty_jacobians(mode: Any) -> None:
    x = generic(3)
    assert cr.sparse_jacobian(lambda x: x[:0], x, mode=mode)(x).shape == (0, 3)
    assert cr.sparse_jacobian(lambda x: x * np.ones((2, 0)), np.zeros(0), mode=mode)(np.zeros(0)).shape == (0, 0)
    assert cr.sparse_jacobian(lambda x: (), x, mode=mode)(x).shape == (0, 3)
    assert cr.sparse_jacobian(lambda: np.ones(2), mode=mode)().shape == (2, 0)


def test_scalars() -> None:
    plan = cr.sparse_jacobian(cr.exp, 1.0)
    assert plan.shape == (1, 1)
    np.testing.assert_allclose(plan(0.0).toarray(), [[1.0]])


def test_parameters_are_read_at_each_call() -> None:
    w = cr.tensor(generic(4), requires_grad=True)
    plan = cr.sparse_jacobian(lambda x: w * x, np.zeros(4))
    check(plan, np.diag(generic(4)), generic(4))
    with cr.no_grad():
        w.assign(2.0 * generic(4))
    check(plan, np.diag(2.0 * generic(4)), generic(4))
    assert w.grad is None


def test_what_a_function_assigns_is_not_assigned() -> None:
    count = cr.tensor(0.0)

    def f(x: Any) -> Any:
        count.assign(count + 1.0)
        return x * x

    plan = cr.sparse_jacobian(f, np.zeros(2))
    check(plan, 2.0 * np.eye(2), np.ones(2))
    assert count.item() == 0.0


def test_positions_from_outside_must_stay_what_they_were() -> None:
    index = cr.tensor([2, 0, 1])
    plan = cr.sparse_jacobian(lambda x: x[index] ** 2, np.zeros(3))
    check(plan, 2.0 * np.eye(3)[[2, 0, 1]], np.ones(3))
    index.assign([0, 0, 1])
    with pytest.raises(ArgumentError, match="have changed"):
        plan(np.ones(3))


def test_random_functions_have_the_pattern_of_all_their_draws() -> None:
    generator = cr.random.Generator(0)
    x = generic(50)
    plan = cr.sparse_jacobian(lambda x: cr.where(cr.random.uniform((50,), generator=generator) < 0.5, x, 0.0), x)
    np.testing.assert_array_equal(plan.pattern.toarray(), np.eye(50, dtype=bool))
    assert set(np.unique(plan(x).data)) == {0.0, 1.0}


def test_convolution_network() -> None:
    w = generic(3, 3, 1, 2)
    f = lambda x: cr.max_pool(cr.tanh(cr.conv(x, w, padding="same")), 2)
    x = generic(1, 6, 6, 1)
    check(cr.sparse_jacobian(f, x), dense(f, x), x, exact=False)
    g = lambda x: cr.sum(cr.tanh(cr.conv(x, w, stride=2)))
    check(cr.sparse_hessian(g, x), dense_hessian(g, x), x)


def test_a_pattern_or_colouring_may_be_given() -> None:
    f = lambda x: x * cr.linalg.vector_norm(x) * 0.0 + x**2
    x = generic(4)
    plan = cr.sparse_jacobian(f, x, pattern=np.eye(4))
    assert plan.products == 1
    check(plan, np.diag(2 * x), x, exact=False)
    pattern = cr.jacobian_sparsity(rosenbrock, x)
    coloring = cr.color(pattern, "forward")
    plan = cr.sparse_jacobian(rosenbrock, x, pattern=pattern, coloring=coloring)
    assert plan.coloring is coloring
    check(plan, dense(rosenbrock, x), x)
    with pytest.raises(ShapeError, match=r"a pattern of shape \(3, 3\)"):
        cr.sparse_jacobian(f, x, pattern=np.eye(3))
    with pytest.raises(ShapeError, match="colouring"):
        cr.sparse_jacobian(f, x, coloring=cr.color(np.eye(3)))
    with pytest.raises(ShapeError, match="colouring"):
        cr.sparse_hessian(rosenbrock, x, coloring=cr.color(np.eye(4)))


def test_plans_say_what_they_are() -> None:
    assert repr(cr.sparse_jacobian(heat, np.zeros((4, 4)))) == "<sparse Jacobian of heat: 4 x 16, 20 nonzeros from 4 reverse products>"
    assert repr(cr.sparse_jacobian(cr.exp, np.zeros(2000))) == "<sparse Jacobian of exp: 2,000 x 2,000, 2,000 nonzeros from 1 forward product>"


def test_errors() -> None:
    plan = cr.sparse_jacobian(cr.exp, np.zeros(3))
    for wrong in (np.zeros(2), np.zeros(3, np.float32)):
        with pytest.raises(ArgumentError, match=r"the plan of exp was made for x float64\(3\), not float"):
            plan(wrong)
    with pytest.raises(ArgumentError, match=r"takes arguments \(\*\), not \(\*, \*\)"):
        plan(np.zeros(3), np.zeros(3))
    with pytest.raises(ArgumentError, match="mode='rows'"):
        cr.sparse_jacobian(cr.exp, np.zeros(3), mode="rows")  # pyright: ignore[reportArgumentType]
    with pytest.raises(GradientError, match="int64"):
        cr.sparse_jacobian(cr.square, np.array([1, 2]))
    with pytest.raises(GradientError, match="has no derivative"):
        cr.sparse_jacobian(lambda x: x > 0, np.zeros(3))
    with pytest.raises(GradientError, match="scalar"):
        cr.sparse_hessian(cr.exp, np.zeros(3))


def test_a_plan_does_not_lose_a_derivative_silently() -> None:
    plan = cr.sparse_jacobian(cr.exp, np.zeros(3))
    with pytest.raises(GradientError, match="would lose its derivative"):
        cr.grad(lambda x: cr.sum(cr.asarray(plan(x).toarray())))(np.ones(3))
    with pytest.raises(TraceError, match="asked for while a function is traced"):
        cr.trace(lambda x: cr.asarray(plan(x).toarray()), np.ones(3))
    w = cr.tensor(1.0)

    def through(value: Any) -> Any:
        w.assign(value)
        return cr.sum(cr.asarray(scaled(np.ones(3, np.float32)).toarray()))

    scaled = cr.sparse_jacobian(lambda x: w * x, np.ones(3, np.float32))
    with pytest.raises(GradientError, match="would lose its derivative"):
        cr.grad(through)(2.0)


WITHOUT = """
import sys
sys.modules["scipy"] = None
import chainrule as cr
for use in (lambda: cr.jacobian_sparsity(cr.exp, 1.0), lambda: cr.color([[1]]), lambda: cr.sparse_hessian(cr.exp, 1.0)):
    try:
        use()
    except cr.errors.MissingExtraError as error:
        print(error.mend)
"""


def test_without_scipy_the_error_names_the_extra() -> None:
    said = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["pip install 'chainrule[sparse]'"] * 3
    assert issubclass(MissingExtraError, ImportError)
