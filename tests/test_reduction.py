"""Reductions and running sums: values as NumPy has them, and derivatives where formulas divide by zero."""

from __future__ import annotations

import itertools
import math
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import chainrule as cr
from chainrule.core.errors import ArgumentError, AxisError, DtypeError, ShapeError

ARRAYS = hnp.arrays(np.float64, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4), elements=st.floats(-100, 100, width=32))


def axes_of(data: st.DataObject, ndim: int) -> Any:
    """Any way to name axes: None, an int, or a tuple of some, from the front or the back."""
    if not ndim or data.draw(st.booleans()):
        return data.draw(st.sampled_from([None, ()]))
    some = data.draw(st.lists(st.integers(0, ndim - 1), unique=True))
    signed = tuple(axis - ndim * data.draw(st.booleans()) for axis in some)
    return signed[0] if len(signed) == 1 and data.draw(st.booleans()) else signed


def grad_of(f: Any, x: Any) -> np.ndarray:
    return cr.grad(f)(cr.asarray(np.asarray(x, float))).numpy()


@pytest.mark.parametrize("name", ["sum", "prod", "mean", "var", "std", "max", "min", "any", "all", "count_nonzero"])
@given(ARRAYS, st.data())
def test_reductions_agree_with_numpy(name: str, x: np.ndarray, data: st.DataObject) -> None:
    axis, keepdims = axes_of(data, x.ndim), data.draw(st.booleans())
    count = np.prod([x.shape[i] for i in (range(x.ndim) if axis is None else np.atleast_1d(np.asarray(axis, int)))])
    if name == "prod":
        # Of up to 256 factors: a product stays in range if none is beyond 10.
        x = x / 10
    if not count and name in ("max", "min"):
        with pytest.raises(ShapeError, match="no elements"):
            getattr(cr, name)(x, axis=axis, keepdims=keepdims)
        return
    ours = getattr(cr, name)(x, axis=axis, keepdims=keepdims)
    if not count and name in ("mean", "var", "std"):
        assert np.isnan(ours.numpy()).all()
        return
    theirs = np.count_nonzero(x, axis=axis, keepdims=keepdims) if name == "count_nonzero" else getattr(np, name)(x, axis=axis, keepdims=keepdims)
    assert ours.shape == np.shape(theirs)
    assert_allclose(ours.numpy(), theirs, rtol=1e-12, atol=1e-10)


@given(ARRAYS, st.data())
def test_norms_agree_with_numpy(x: np.ndarray, data: st.DataObject) -> None:
    order = data.draw(st.sampled_from([0, 1, 2, 3, 0.5, math.inf]))
    flat = x.reshape(-1)
    assert_allclose(cr.linalg.vector_norm(x, ord=order).numpy(), np.linalg.norm(flat, order) if flat.size else 0.0, rtol=1e-10)


@given(hnp.arrays(np.float64, hnp.array_shapes(max_dims=3, max_side=5), elements=st.sampled_from([0.0, 0.0, 1.5, -2.0, 3.0])), st.data())
def test_derivative_of_a_product_is_the_product_of_the_others(x: np.ndarray, data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, x.ndim - 1))
    rows = np.moveaxis(x, axis, -1)
    others = np.stack([np.delete(rows, i, -1).prod(-1) for i in range(rows.shape[-1])], -1)
    assert_array_equal(grad_of(lambda x: cr.prod(x, axis=axis).sum(), x), np.moveaxis(others, -1, axis))


@pytest.mark.parametrize("zeros", [0, 1, 2, 3])
def test_second_and_third_derivatives_of_a_product_hold_with_zeros(zeros: int) -> None:
    x = np.array([1.5, -2.0, 3.0, 0.5])
    x[:zeros] = 0
    hessian = np.array([grad_of(lambda x, i=i: cr.grad(cr.prod)(x)[i], x) for i in range(4)])
    third = np.array([[grad_of(lambda x, i=i, j=j: cr.grad(lambda x: cr.grad(cr.prod)(x)[i])(x)[j], x) for j in range(4)] for i in range(4)])
    for i, j in itertools.product(range(4), repeat=2):
        assert hessian[i, j] == (0 if i == j else np.delete(x, [i, j]).prod())
        for k in range(4):
            assert third[i, j, k] == (0 if len({i, j, k}) < 3 else np.delete(x, [i, j, k]).prod())


@pytest.mark.parametrize("x", [[2.0, 0.0, 3.0, 0.0, 5.0], [0.0, 0.0], [4.0], [1.0, 2.0, 3.0]])
def test_derivative_of_running_products_holds_with_zeros(x: list[float]) -> None:
    n = len(x)
    weights = np.arange(1.0, n + 1)
    expected = [sum(weights[k] * np.prod(np.delete(x[: k + 1], i)) for k in range(i, n)) for i in range(n)]
    assert_allclose(grad_of(lambda x: (cr.cumulative_prod(x) * weights).sum(), x), expected)
    pushed = cr.jvp(cr.cumulative_prod, (cr.asarray(np.array(x)),), (cr.asarray(weights),))[1].numpy()
    assert_allclose(pushed, [sum(weights[i] * np.prod(np.delete(x[: k + 1], i)) for i in range(k + 1)) for k in range(n)])


@given(hnp.arrays(np.float64, hnp.array_shapes(max_dims=2, max_side=4), elements=st.integers(-2, 2)), st.sampled_from(["max", "min"]))
def test_ties_share_the_gradient_equally(x: np.ndarray, name: str) -> None:
    gradient = grad_of(lambda x: getattr(cr, name)(x, axis=0).sum(), x)
    winners = x == getattr(np, name)(x, axis=0)
    assert_allclose(gradient, winners / winners.sum(0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_logsumexp_neither_overflows_nor_loses_what_is_small(dtype: str) -> None:
    assert cr.logsumexp(np.array([1e4, 1e4], dtype)).item() == pytest.approx(1e4 + math.log(2))
    assert cr.logsumexp(np.array([-1e4, -1e4], dtype)).item() == pytest.approx(-1e4 + math.log(2))
    assert cr.logsumexp(np.array([-np.inf, 0.0], dtype)).item() == 0.0
    assert cr.logsumexp(np.array([np.inf, 0.0], dtype)).item() == np.inf
    assert cr.logsumexp(np.full(3, -np.inf, dtype)).item() == -np.inf
    assert cr.logsumexp(np.zeros(0, dtype)).item() == -np.inf


def test_logsumexp_of_nothing_possible_has_no_gradient() -> None:
    x = [[-np.inf, -np.inf], [-np.inf, 1.0]]
    assert_array_equal(grad_of(lambda x: cr.logsumexp(x, axis=1)[1], x), [[0.0, 0.0], [0.0, 1.0]])
    assert_array_equal(grad_of(lambda x: cr.logsumexp(x, axis=1).sum(), x), [[0.0, 0.0], [0.0, 1.0]])


@pytest.mark.parametrize("order", [0, 1, 2, 3, 1.5, math.inf])
def test_derivative_of_a_norm_at_zero_is_zero(order: float) -> None:
    def norm(x: cr.Tensor) -> cr.Tensor:
        return cr.linalg.vector_norm(x, ord=order)

    gradient = grad_of(norm, np.zeros(3))
    assert_array_equal(gradient, np.zeros(3))
    assert np.isfinite(grad_of(lambda x: cr.grad(norm)(x).sum(), np.zeros(3))).all()


def test_derivative_of_a_deviation_among_equals_is_zero() -> None:
    assert_array_equal(grad_of(cr.std, [2.0, 2.0]), [0.0, 0.0])


def test_variance_does_not_cancel_under_a_large_mean() -> None:
    x = np.float32(10000) + np.tile(np.array([-1.0, 1.0], np.float32), 500)
    assert cr.var(x).item() == 1.0
    assert cr.var(x, correction=1).item() == pytest.approx(1000 / 999)
    assert math.isnan(cr.var(np.ones(1), correction=1).item())


def test_sums_of_many_small_numbers_are_pairwise() -> None:
    x = np.full(1_000_000, 0.1, np.float32)
    assert cr.sum(x).item() == pytest.approx(100000, rel=1e-6)
    assert cr.mean(x).item() == pytest.approx(0.1, rel=1e-6)


@pytest.mark.parametrize(
    ("given_dtype", "summed"),
    [("bool", "int64"), ("int8", "int64"), ("int32", "int64"), ("uint8", "uint64"), *((same, same) for same in ("float32", "float64", "complex64"))],
)
def test_dtypes_of_sums_and_products(given_dtype: str, summed: str) -> None:
    x = np.ones(3, given_dtype)
    for f in (cr.sum, cr.prod, cr.cumulative_sum, cr.cumulative_prod):
        assert f(x).dtype == summed
        assert f(x, dtype=cr.float64 if summed != "complex64" else cr.complex128).dtype == ("float64" if summed != "complex64" else "complex128")
    if summed != "complex64":
        floating = summed if summed.startswith("float") else "float32"
        assert cr.mean(x).dtype == cr.var(x).dtype == cr.logsumexp(x).dtype == floating


def test_accuracy_is_the_mean_of_a_comparison() -> None:
    assert cr.mean(cr.asarray([1, 2, 3]) == cr.asarray([1, 0, 3])).item() == pytest.approx(2 / 3)


@given(hnp.arrays(np.float64, hnp.array_shapes(max_dims=3, max_side=4), elements=st.integers(-2, 2)), st.data())
def test_positions_of_extremes_are_the_first(x: np.ndarray, data: st.DataObject) -> None:
    axis = data.draw(st.sampled_from([None, *range(-x.ndim, x.ndim)]))
    keepdims = data.draw(st.booleans())
    for name in ("argmax", "argmin"):
        ours = getattr(cr, name)(x, axis=axis, keepdims=keepdims)
        assert ours.dtype == cr.int64
        assert_array_equal(ours.numpy(), getattr(np, name)(x, axis=axis, keepdims=keepdims))


@given(hnp.arrays(np.float64, hnp.array_shapes(max_dims=3, min_side=0, max_side=4), elements=st.integers(-3, 3)), st.data())
def test_running_sums_and_products_agree_with_numpy(x: np.ndarray, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    begun = np.insert(x, 0, 0, axis), np.insert(x, 0, 1, axis)
    assert_array_equal(cr.cumulative_sum(x, axis=axis).numpy(), np.cumsum(x, axis))
    assert_array_equal(cr.cumulative_prod(x, axis=axis).numpy(), np.cumprod(x, axis))
    assert_array_equal(cr.cumulative_sum(x, axis=axis, include_initial=True).numpy(), np.cumsum(begun[0], axis))
    assert_array_equal(cr.cumulative_prod(x, axis=axis, include_initial=True).numpy(), np.cumprod(begun[1], axis))


@pytest.mark.parametrize("lanes", [1, 100])
def test_recurrence_is_the_loop_it_stands_for(lanes: int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 9, lanes))
    y = np.zeros(lanes)
    for k in range(9):
        y = a[k] * y + b[k]
    assert_allclose(cr.linear_recurrence(a, b, axis=0)[-1].numpy(), y, rtol=1e-12)
    a[0] = np.inf
    assert_allclose(cr.linear_recurrence(a, b, axis=0)[-1].numpy(), y, rtol=1e-12)


def test_differences_undo_running_sums() -> None:
    x = np.arange(12.0).reshape(3, 4) ** 2
    assert_array_equal(cr.diff(cr.cumulative_sum(x, axis=0, include_initial=True), axis=0).numpy(), x)
    for n in range(4):
        assert_array_equal(cr.diff(x, n=n).numpy(), np.diff(x, n=n))
    assert_array_equal(cr.diff(x, axis=0, prepend=np.zeros((1, 4)), append=x[:1]).numpy(), np.diff(x, axis=0, prepend=np.zeros((1, 4)), append=x[:1]))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda x: cr.sum(x, axis=2), AxisError, "sum: axis 2 is out of range"),
        (lambda x: cr.mean(x, axis=(0, -2)), AxisError, "stands twice"),
        (lambda x: cr.max(x[:0]), ShapeError, "no elements"),
        (lambda x: cr.max(x + 1j), DtypeError, "max takes real"),
        (lambda x: cr.cumulative_sum(x), ArgumentError, "needs an axis"),
        (lambda x: cr.linalg.vector_norm(x, ord="fro"), DtypeError, "matrix_norm"),
    ],
)
def test_what_cannot_be_reduced_is_refused_clearly(call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error) as raised:
        call(cr.ones((2, 3)))
    assert says in str(raised.value)


@pytest.mark.parametrize("shape", [(70000,), (3, 70000), (70000, 2), (2, 40, 2000)])
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_half_precision_is_added_up_in_single_precision(shape: tuple[int, ...], axis: int | None) -> None:
    x = np.full(shape, 0.5, np.float16)
    x.reshape(-1)[::3] = 1.5
    for ours, numpys in ((cr.mean, np.mean), (cr.var, np.var), (cr.std, np.std)):
        found, expected = ours(cr.asarray(x), axis=axis), numpys(x.astype(np.float64), axis=axis)
        assert found.dtype == np.float16
        np.testing.assert_allclose(np.asarray(found), expected, rtol=2e-3)
    small = np.full(shape, 1e-3, np.float16)
    exact = small.astype(np.float64).sum(axis)
    np.testing.assert_allclose(np.asarray(cr.sum(cr.asarray(small), axis=axis)), exact, rtol=1e-3)


def test_the_mean_of_half_precision_does_not_overflow() -> None:
    assert cr.asarray(np.full(70000, 1, np.float16)).mean().item() == 1.0
    assert cr.var(cr.asarray(np.full(3, 60000, np.float16))).item() == 0.0
    x = cr.tensor(np.full(70000, 1, np.float16), requires_grad=True)
    x.mean().backward()
    assert x.grad is not None
    assert x.grad.dtype == np.float16
