"""What the generated suite cannot see of the elementwise gates: kinks, ties, masks, extremes, scalars and refusals."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.errors import ArgumentError, DtypeError
from chainrule.core.interp import ARRAYS, using
from chainrule.core.primitive import TABLE, functions

INF, NAN = math.inf, math.nan


def values(*xs: float, dtype: Any = cr.float64) -> cr.Tensor:
    return cr.tensor(xs, dtype=dtype, requires_grad=True)


def gradient(f: Callable[..., cr.Tensor], *xs: cr.Tensor) -> list[list[float]]:
    """Of each element, in reverse; forward mode must agree."""
    y = f(*xs)
    grads = cr.autograd.grad(y, list(xs), cr.ones_like(y))
    for i, g in enumerate(grads):
        tangents = tuple(cr.ones_like(x) if k == i else cr.zeros_like(x) for k, x in enumerate(xs))
        _, t = cr.jvp(f, tuple(x.detach() for x in xs), tangents)
        np.testing.assert_allclose(np.asarray(t), np.asarray(g))
    return [g.tolist() for g in grads]


# Kinks and ties


def test_relu_has_the_derivative_0_at_0() -> None:
    assert gradient(cr.relu, values(-1.0, 0.0, -0.0, 2.0)) == [[0.0, 0.0, 0.0, 1.0]]


def test_abs_has_the_derivative_0_at_0() -> None:
    assert gradient(cr.abs, values(-2.0, 0.0, 3.0)) == [[-1.0, 0.0, 1.0]]


def test_sqrt_has_an_infinite_derivative_at_0() -> None:
    x = values(0.0, 4.0)
    cr.sqrt(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [INF, 0.25]


@pytest.mark.parametrize("backend", [None, "numpy", "native"])
@pytest.mark.parametrize("shape", [(), (2,), (2000,), (6000,)])
def test_zeros_that_are_chosen_keep_their_signs(shape: tuple[int, ...], backend: str | None) -> None:
    if backend == "native":
        pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")
    high = cr.zeros(shape)
    low = -high

    def choose(x: cr.Tensor) -> list[cr.Tensor]:
        return [1 / cr.clip(x, -0.0, 0.0), 1 / cr.clip(x, 0.0, -0.0), 1 / cr.clip(x, low, high), 1 / cr.relu(x)]

    chosen = choose if backend is None else cr.compile(choose, backend=backend)
    for x in (low, high):
        with np.errstate(divide="ignore"):
            for found in chosen(x):
                np.testing.assert_array_equal(np.signbit(np.asarray(found)), np.signbit(np.asarray(x)))


@pytest.mark.parametrize("choose", [cr.maximum, cr.minimum])
def test_ties_share_the_gradient(choose: Callable[..., cr.Tensor]) -> None:
    first, second = gradient(choose, values(1.0, 2.0, 3.0), values(2.0, 2.0, 2.0))
    assert first[1] == second[1] == 0.5
    assert [a + b for a, b in zip(first, second, strict=True)] == [1.0, 1.0, 1.0]


def test_nan_in_a_maximum_is_not_hidden() -> None:
    x, y = values(NAN, 1.0), values(0.0, NAN)
    assert np.isnan(np.asarray(cr.maximum(x.detach(), y.detach()))).all()
    assert gradient(cr.maximum, x, y) == [[1.0, 1.0], [1.0, 1.0]]


def test_clip_sends_the_gradient_to_x_on_the_bounds_and_to_a_bound_beyond_it() -> None:
    x, low, high = values(-2.0, -1.0, 0.0, 1.0, 2.0), values(*[-1.0] * 5), values(*[1.0] * 5)
    assert gradient(cr.clip, x, low, high) == [[0.0, 1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]]


def test_clip_takes_one_bound_or_none() -> None:
    x = cr.tensor([-2, 0, 2])
    assert cr.clip(x, 0).tolist() == [0, 0, 2]
    assert cr.clip(x, max=0).tolist() == [-2, 0, 0]
    assert cr.clip(x).tolist() == [-2, 0, 2]
    assert cr.clip(x, -1, 1).dtype == cr.int64
    assert cr.clip(cr.tensor(0.3), 0.5).item() == 0.5


def test_hypot_and_atan2_have_the_derivative_0_at_the_origin() -> None:
    for f in (cr.hypot, cr.atan2):
        assert gradient(f, values(0.0), values(0.0)) == [[0.0], [0.0]]


def test_powers_at_the_base_0() -> None:
    x, y = values(0.0, 0.0, 0.0), values(0.0, 1.0, 2.0)
    assert gradient(cr.pow, x, y) == [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    for exponent, slope in ((0, 0.0), (1, 1.0), (2, 0.0), (3.0, 0.0)):
        assert gradient(lambda x, exponent=exponent: x**exponent, values(0.0)) == [[slope]]


def test_a_power_of_negative_bases_has_a_gradient_for_whole_exponents() -> None:
    assert gradient(lambda x: x**3, values(-2.0)) == [[12.0]]
    assert gradient(lambda x: x ** cr.tensor(3.0, dtype=cr.float64), values(-2.0)) == [[12.0]]


@pytest.mark.parametrize("name", ["floor", "ceil", "round", "trunc", "sign"])
def test_steps_have_the_gradient_0_and_not_none(name: str) -> None:
    assert gradient(getattr(cr, name), values(0.3, 1.7)) == [[0.0, 0.0]]


# Masks: what is not taken leaves no trace


def safe_sqrt(x: cr.Tensor) -> cr.Tensor:
    return cr.where(x > 0, cr.sqrt(x), 0.0)


def test_where_keeps_infinite_derivatives_of_the_branch_not_taken_out() -> None:
    assert gradient(safe_sqrt, values(0.0, 4.0)) == [[0.0, 0.25]]


def test_where_keeps_nan_out_through_several_gates() -> None:
    with np.errstate(invalid="ignore"):
        ((outside, inside),) = gradient(lambda x: cr.where(x > 0, cr.exp(cr.sqrt(cr.log(x)) * 2.0), x), values(-1.0, math.e))
    assert outside == 1.0
    assert inside == pytest.approx(math.exp(2.0) / math.e)


def test_where_keeps_nan_out_in_the_second_order() -> None:
    x = values(0.0, 4.0)
    (first,) = cr.autograd.grad(safe_sqrt(x).sum(), [x], create_graph=True)
    (second,) = cr.autograd.grad(first.sum(), [x], create_graph=True)
    assert second.tolist() == [0.0, -1 / 32]
    (third,) = cr.autograd.grad(second.sum(), [x])
    assert third.tolist() == [0.0, 3 / 256]


def test_where_keeps_nan_out_of_forward_over_reverse() -> None:
    x = cr.tensor([0.0, 4.0], dtype=cr.float64)
    _, hv = cr.jvp(cr.grad(lambda x: safe_sqrt(x).sum()), (x,), (cr.ones_like(x),))
    assert hv.tolist() == [0.0, -1 / 32]


@pytest.mark.parametrize("mask", [lambda x: cr.maximum(cr.log(x), -10.0), lambda x: cr.clip(cr.log(x), -10.0, None)])
def test_losers_of_a_choice_leak_no_nan(mask: Callable[[cr.Tensor], cr.Tensor]) -> None:
    x = values(0.0, 1.0)
    with np.errstate(divide="ignore"):
        mask(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0]


def test_a_cotangent_of_nan_reaches_only_the_branch_taken() -> None:
    x, y = values(1.0, 1.0), values(2.0, 2.0)
    cr.where([True, False], x, y).backward(cr.tensor([NAN, INF], dtype=cr.float64))
    assert x.grad is not None
    assert y.grad is not None
    np.testing.assert_array_equal(np.asarray(x.grad), [NAN, 0.0])
    np.testing.assert_array_equal(np.asarray(y.grad), [0.0, INF])


@pytest.mark.parametrize("size", [10, 5000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, np.int64, np.bool_, np.complex64, np.complex128])
def test_where_chooses_bits_whatever_the_size_and_dtype(size: int, dtype: type) -> None:
    rng = np.random.default_rng(0)
    condition = rng.random(size) < 0.5
    x, y = (rng.normal(size=size) * 3).astype(dtype), (rng.normal(size=size) * 3).astype(dtype)
    if np.issubdtype(dtype, np.floating):
        x[:3], y[:3] = [NAN, INF, -0.0], [-INF, NAN, 0.0]
    pairs = ((x, y), (x, y[0]), (x[0], y), (x, dtype(0)), (dtype(0), y), (x[:1], y[None]), (x[::-1], y[::-1]))
    for (a, b), c in product(pairs, (condition, condition[0], ~condition[0])):
        got, expected = np.asarray(cr.where(c, a, b)), np.where(c, a, b)
        assert got.dtype == expected.dtype
        assert got.tobytes() == np.broadcast_to(expected, got.shape).tobytes()


def test_stop_gradient_ends_every_derivative() -> None:
    x = values(3.0)
    assert not cr.stop_gradient(x).requires_grad
    assert gradient(lambda x: x * cr.stop_gradient(x), x) == [[3.0]]
    assert cr.grad(cr.grad(lambda x: x * x * cr.stop_gradient(x)))(cr.tensor(3.0)).item() == 6.0


# Extremes, without warnings (which are errors in this suite)

EXTREMES = [-INF, -1e30, -1e4, -750.0, -100.0, -40.0, -1.0, 0.0, 1.0, 40.0, 100.0, 750.0, 1e4, 1e30, INF]


NAMES = ("sigmoid", "softplus", "log_sigmoid", "tanh", "relu", "erf", "elu", "selu", "leaky_relu", "hard_sigmoid", "hard_tanh")
SAFE = {**{name: getattr(cr, name) for name in NAMES}, "logaddexp": lambda x: cr.logaddexp(x, 0.0)}


@pytest.mark.parametrize("size", [1, 15, 6000])
@pytest.mark.parametrize("dtype", [cr.float32, cr.float64])
@pytest.mark.parametrize("f", SAFE.values(), ids=SAFE)
def test_no_overflow_and_no_nan_at_extremes(f: Callable[[cr.Tensor], cr.Tensor], dtype: Any, size: int) -> None:
    points = np.resize(np.array(EXTREMES), size).astype(dtype)
    x = cr.tensor(points, requires_grad=True)
    y = f(x)
    assert y.dtype == dtype
    (first,) = cr.autograd.grad(y, [x], cr.ones_like(y), create_graph=True)
    assert not np.isnan(np.asarray(y)).any()
    assert np.isfinite(np.asarray(first)).all()
    if first.requires_grad:
        (second,) = cr.autograd.grad(first, [x], cr.ones_like(first))
        assert np.isfinite(np.asarray(second))[np.isfinite(points)].all()


@pytest.mark.parametrize("f", [cr.sigmoid, cr.softplus, cr.erf, cr.relu])
def test_scalars_arrays_and_long_arrays_agree(f: Callable[[Any], cr.Tensor]) -> None:
    points = np.array([*EXTREMES, NAN], dtype=np.float64)
    one_by_one = [f(np.float64(x)).item() for x in points]
    np.testing.assert_allclose(np.asarray(f(points)), one_by_one, rtol=1e-15, atol=0.0)
    np.testing.assert_allclose(np.asarray(f(np.resize(points, 8000)))[: len(points)], one_by_one, rtol=1e-15, atol=0.0)


def test_sigmoid_is_exact_in_its_tail() -> None:
    x = np.linspace(-700.0, 0.0, 5001)
    np.testing.assert_allclose(np.asarray(cr.sigmoid(x)), np.exp(x) / (1.0 + np.exp(x)), rtol=1e-15)


def test_logaddexp_of_infinities() -> None:
    x, y = values(-INF, INF, INF, -INF, 0.0), values(-INF, INF, -INF, 3.0, 0.0)
    out = cr.logaddexp(x, y)
    assert out.tolist() == [-INF, INF, INF, 3.0, math.log(2.0)]
    assert gradient(cr.logaddexp, x, y) == [[0.5, 0.5, 1.0, 0.0, 0.5], [0.5, 0.5, 0.0, 1.0, 0.5]]


# The error function

GRID = np.concatenate([np.linspace(-7.0, 7.0, 4001), np.linspace(-0.6, 0.6, 1001), [0.0, -0.0, 5e-324, 0.46875, -0.46875, 4.0, -4.0, INF, -INF]])


def ulps(got: Any, expected: Any) -> float:
    finite = np.isfinite(expected) & (expected != 0)
    return float(np.max(np.abs(got - expected)[finite] / np.spacing(np.abs(expected[finite]))))


def test_erf_is_within_a_few_units_in_the_last_place() -> None:
    expected = np.array([math.erf(x) for x in GRID])
    got = np.asarray(cr.erf(GRID))
    assert ulps(got, expected) <= 4
    np.testing.assert_array_equal(np.signbit(got), np.signbit(expected))
    single = np.asarray(cr.erf(GRID.astype(np.float32)))
    assert single.dtype == np.float32
    assert ulps(single, np.array([math.erf(x) for x in GRID.astype(np.float32)], dtype=np.float32)) <= 5
    assert (np.abs(single) <= 1).all()


def test_erfc_is_exact_in_its_tail() -> None:
    points = np.concatenate([np.linspace(-6.0, 26.0, 4001), [INF, -INF]])
    got = np.asarray(cr.erfc(points))
    assert ulps(got, np.array([math.erfc(x) for x in points])) <= 8
    assert got[-2:].tolist() == [0.0, 2.0]


def test_gelu_in_both_forms() -> None:
    x = np.linspace(-5.0, 5.0, 101)
    exact = np.array([0.5 * v * math.erfc(-v / math.sqrt(2.0)) for v in x])
    np.testing.assert_allclose(np.asarray(cr.gelu(x)), exact, rtol=0, atol=1e-14)
    np.testing.assert_allclose(np.asarray(cr.gelu(x, approximate="tanh")), exact, atol=5e-4)
    with pytest.raises(ArgumentError, match="approximate"):
        cr.gelu(x, approximate="fast")


# Python numbers


@pytest.mark.parametrize("dtype", [cr.float32, cr.float64])
@pytest.mark.parametrize("x", [1.5, [1.5, 2.5]])
def test_python_numbers_take_the_dtype_of_the_other_operand(x: Any, dtype: Any) -> None:
    x = cr.tensor(x, dtype=dtype, requires_grad=True)
    results = [
        x + 2,
        2 + x,
        x - 0.1,
        0.1 - x,
        x * 2.0,
        2.0 * x,
        x / 3,
        3 / x,
        x**2,
        x**2.5,
        2**x,
        2.0**x,
        x // 2,
        x % 2,
        cr.maximum(x, 2.0),
        cr.hypot(2.0, x),
    ]
    for y in results:
        assert y.dtype == dtype
        y.sum().backward()
        assert x.grad is not None
        assert x.grad.dtype == dtype
    np.testing.assert_allclose(np.asarray(2**x - 2.0**x), 0.0)


def test_the_gradient_of_a_number_to_a_power_is_exact_in_double_precision() -> None:
    x = cr.tensor(1.5, dtype=cr.float64, requires_grad=True)
    (2**x).backward()
    assert x.grad is not None
    assert x.grad.item() == pytest.approx(2**1.5 * math.log(2.0), rel=1e-15)


@pytest.mark.parametrize("exponent", [-3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 5, 7.5])
def test_powers_by_numbers_and_by_tensors_agree(exponent: float) -> None:
    f, g = (lambda x: x**exponent), (lambda x: x ** cr.tensor(float(exponent), dtype=cr.float64))
    x = values(0.5, 1.0, 2.0)
    np.testing.assert_allclose(np.asarray(f(x).detach()), np.asarray(g(x).detach()), rtol=1e-15)
    np.testing.assert_allclose(gradient(f, x), gradient(g, x), rtol=1e-14)


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DtypeError, match="300 does not fit int8"):
        cr.tensor([1], dtype=cr.int8) + 300
    with pytest.raises(DtypeError, match="does not fit float32"):
        cr.tensor([1.0]) * 10**400


def test_integers_to_negative_powers_are_refused() -> None:
    with pytest.raises(ArgumentError, match="negative integer power"):
        cr.arange(3) ** -1
    with pytest.raises(ArgumentError, match="negative"):
        cr.arange(1, 4) ** cr.tensor(-1)


# Kinds of values


def test_booleans_are_not_numbers() -> None:
    mask = cr.tensor([True, False])
    for f in (lambda: mask + mask, lambda: -mask, lambda: mask < mask, lambda: cr.maximum(mask, mask), lambda: cr.abs(mask)):
        with pytest.raises(DtypeError, match="logical_and") as caught:
            f()
        assert "astype" in caught.value.mend
    assert (mask * 2.0).dtype == cr.float32
    assert (1 - mask).tolist() == [0, 1]


def test_numbers_are_not_conditions() -> None:
    with pytest.raises(DtypeError, match="x != 0"):
        cr.logical_and([1, 0], [True, True])
    with pytest.raises(DtypeError, match="x != 0"):
        cr.where([1, 0], 1.0, 2.0)


def test_complex_values_have_no_order() -> None:
    with pytest.raises(DtypeError, match="real"):
        _ = cr.tensor([1j]) < 1.0


@pytest.mark.parametrize("name", ["exp", "log", "sin", "tanh", "sqrt", "divide", "multiply", "asin", "log1p", "expm1", "conj", "square"])
def test_complex_values_compute(name: str) -> None:
    x = np.array([0.5 + 0.25j, -1.5 + 2j], dtype=np.complex64)
    args = (x, x[::-1]) if len(TABLE[name].inputs) == 2 else (x,)
    got = getattr(cr, name)(*map(cr.tensor, args))
    assert got.dtype == cr.complex64
    np.testing.assert_allclose(np.asarray(got), getattr(np, {"asin": "arcsin"}.get(name, name))(*args), rtol=1e-6)


def test_integers_become_floats_where_floats_are_needed() -> None:
    assert cr.exp(cr.arange(3)).dtype == cr.float32
    assert (cr.arange(3) / 2).dtype == cr.float32
    assert cr.sigmoid(1).dtype == cr.float32
    assert cr.floor(cr.arange(3)).dtype == cr.int64


def test_real_values_are_their_own_real_part() -> None:
    x = cr.tensor([1.0])
    assert cr.real(x).tolist() == x.tolist()
    assert cr.conj(x).tolist() == x.tolist()
    with pytest.raises(DtypeError, match="imag takes complex"):
        cr.imag(x)


# Under the arrays' interpreter


@pytest.mark.parametrize(
    "name", sorted(set(TABLE) & {"exp", "add", "where", "maximum", "sigmoid", "clip", "pow", "astype", "isnan", "less", "relu", "erf", "hypot"})
)
def test_gates_take_and_give_bare_arrays_there(name: str) -> None:
    x = np.array([0.5, 2.0], dtype=np.float32)
    arguments = {"where": (x > 1, x, 0.0), "clip": (x, 0.0, 1.0), "astype": (x, np.float64), "pow": (x, 2)}
    args = arguments.get(name, (x,) * len(TABLE[name].inputs))
    with using(ARRAYS):
        bare = getattr(functions, name)(*args)
        created = functions.zeros_like(x)
    expected = getattr(cr, name)(*args)
    assert isinstance(bare, np.ndarray)
    assert isinstance(created, np.ndarray)
    assert bare.dtype == expected.dtype
    np.testing.assert_array_equal(bare, np.asarray(expected))


# Values come in by copy where they could still change


@pytest.mark.parametrize(
    "view",
    [lambda a: np.broadcast_to(a, (2, 3, 3)), np.diagonal, lambda a: _read_only(a.view()), lambda a: _read_only(a[1:])],
    ids=["broadcast_to", "diagonal", "view", "slice"],
)
@pytest.mark.parametrize("make", [cr.tensor, cr.asarray, cr.from_dlpack, lambda x: cr.add(x, 0.0), cr.reshape])
def test_a_read_only_view_of_memory_that_can_change_is_copied(view: Callable[..., Any], make: Callable[..., Any]) -> None:
    a = np.eye(3)
    given = view(a)
    assert not given.flags.writeable
    t = make(given, (-1,)) if make is cr.reshape else make(given)
    before = t.tolist()
    a[:] = 99.0
    assert t.tolist() == before


@pytest.mark.parametrize("make", [cr.tensor, cr.asarray])
def test_a_copy_lies_row_by_row(make: Callable[..., Any]) -> None:
    for x in (np.ones((3, 4)).T, np.ones((2, 3, 4))[:, ::-1].swapaxes(0, 2), np.broadcast_to(np.ones((3, 1)), (3, 4))):
        assert make(x).numpy().flags.c_contiguous


def test_an_array_that_nobody_can_write_to_is_shared() -> None:
    a = _read_only(np.eye(3))
    assert np.shares_memory(np.asarray(cr.asarray(a)), a)
    assert np.shares_memory(np.asarray(cr.asarray(a[1:])), a)
    b = np.frombuffer(b"abcdefgh", np.uint8)
    assert np.shares_memory(np.asarray(cr.asarray(b.reshape(2, 4))), b)


def _read_only(a: Any) -> Any:
    a.flags.writeable = False
    return a


@pytest.mark.parametrize("dtype", [np.longdouble, np.clongdouble])
def test_extended_precision_is_refused(dtype: Any) -> None:
    x = np.ones(2, dtype)
    makers = (cr.asarray, cr.tensor, cr.exp, lambda x: cr.asarray(x, copy=False), lambda x: cr.asarray(x[0]), lambda x: cr.astype(1.0, x.dtype))
    for make in makers:
        with pytest.raises(DtypeError, match=r"(?s)long.*mend|float128.*mend|complex256.*mend"):
            make(x)


COMPARISONS = (operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne)


@pytest.mark.parametrize("backend", [None, "numpy", "native"])
@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "uint32", "uint64"])
def test_comparisons_with_numbers_that_a_dtype_does_not_hold_are_exact(dtype: str, backend: str | None) -> None:
    if backend == "native":
        pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")
    limits = np.iinfo(dtype)
    x = np.array([limits.min, 0, 1, limits.max - 1, limits.max], dtype)
    numbers = (limits.min - 1, limits.min, -1, limits.max, limits.max + 1, 10**30)

    def compare(x: Any) -> list[Any]:
        return [comparison(*pair) for comparison in COMPARISONS for number in numbers for pair in ((x, number), (number, x))]

    found = compare(cr.tensor(x)) if backend is None else cr.compile(compare, backend=backend)(x)
    np.testing.assert_array_equal(np.array(found), np.array(compare(x)))


def test_a_number_that_a_dtype_does_not_hold_may_stand_first() -> None:
    x = cr.tensor([0, 255], dtype=cr.uint8)
    assert cr.less(-1, x).tolist() == [True, True]
    assert cr.vmap(lambda x: cr.greater(x, 256))(x).tolist() == [False, False]
    with pytest.raises(DtypeError, match=r"256 does not fit uint8"):
        x + 256
    with pytest.raises(DtypeError, match=r"logical_and takes boolean values"):
        cr.logical_and(x, 256)
