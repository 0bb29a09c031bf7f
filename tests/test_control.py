"""cond, while_loop and scan: what they compute, their gradients, and what a loop may carry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.errors import ArgumentError, DtypeError, ShapeError


def close(x: Any, y: Any) -> None:
    np.testing.assert_allclose(np.asarray(x.detach()) if isinstance(x, cr.Tensor) else x, y, rtol=1e-9, atol=1e-12)


def test_cond_calls_one_branch_only():
    def other(x):
        raise AssertionError

    close(cr.cond(cr.tensor(True), lambda x: x + 1, other, 1.0), 2.0)
    close(cr.cond(False, other, lambda x: x + 2, 1.0), 3.0)


def test_cond_takes_and_gives_containers():
    pair = cr.cond(True, lambda p: {"sum": p["a"] + p["b"], "b": p["b"]}, lambda p: p, {"a": cr.tensor(1.0), "b": 2.0})
    assert list(pair) == ["sum", "b"]
    close(pair["sum"], 3.0)
    assert isinstance(pair["b"], cr.Tensor)


def test_gradients_follow_the_branch_taken():
    f = lambda x: cr.cond(x > 0, lambda x: x * x, lambda x: 3 * x, x)
    close(cr.grad(f)(np.float64(2.0)), 4.0)
    close(cr.grad(f)(np.float64(-2.0)), 3.0)
    close(cr.grad(cr.grad(f))(np.float64(2.0)), 2.0)
    close(cr.jvp(f, (np.float64(2.0),), (np.float64(1.0),))[1], 4.0)


def test_a_condition_is_one_truth_value():
    with pytest.raises(ShapeError, match=r"cr\.where chooses element by element"):
        cr.cond(cr.tensor([True, False]), abs, abs, 1.0)
    with pytest.raises(DtypeError, match="x > 0"):
        cr.while_loop(lambda x: x, lambda x: x, 1.0)


def test_while_loop_is_newtons_method_and_differentiates():
    def root(a):
        def body(carry):
            x, _, steps = carry
            return (x + a / x) * 0.5, x, steps + 1

        x, _, steps = cr.while_loop(lambda c: cr.abs(c[0] - c[1]) > 1e-12, body, (a, a * 0, 0))
        assert 4 < int(steps) < 20
        return x

    close(root(cr.tensor(np.float64(2.0))), np.sqrt(2))
    close(cr.grad(root)(np.float64(2.0)), 0.5 / np.sqrt(2))
    cr.gradgradcheck(root, (np.float64(2.0),))


def test_while_loop_may_not_run_at_all():
    x = cr.tensor(3.0)
    close(cr.while_loop(lambda c: c < 0, lambda c: c * 0, x), 3.0)


@pytest.mark.parametrize(
    ("body", "error", "says"),
    [
        (lambda c: {"x": c["x"]}, ArgumentError, "structure {'x': *, 'n': *} and returned {'x': *}"),
        (lambda c: {"x": c["x"], "n": cr.ones(2)}, ShapeError, "was float32() and the body returned float32(2)"),
        (lambda c: {"x": c["x"], "n": cr.astype(c["n"], "int64")}, DtypeError, "was float32() and the body returned int64()"),
    ],
)
def test_a_carry_keeps_structure_shapes_and_dtypes(body, error, says):
    init = {"x": cr.ones((2, 2)), "n": 0.0}
    for loop in (lambda: cr.while_loop(lambda c: True, body, init), lambda: cr.scan(lambda c, x: (body(c), None), init, length=2)):
        with pytest.raises(error) as caught:
            loop()
        assert says in str(caught.value)


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_is_a_loop(reverse):
    xs = {"a": np.arange(4.0), "b": np.arange(8.0).reshape(4, 2)}
    last, ys = cr.scan(lambda c, x: (c + x["a"], (c * x["b"], {"c": c})), np.float64(1.0), xs, reverse=reverse)
    carry, rows = 1.0, {}
    for i in reversed(range(4)) if reverse else range(4):
        rows[i] = (carry * xs["b"][i], carry)
        carry += xs["a"][i]
    close(last, carry)
    close(ys[0], np.stack([rows[i][0] for i in range(4)]))
    close(ys[1]["c"], np.stack([rows[i][1] for i in range(4)]))


def test_gradients_through_a_recurrence():
    def network(w, h, xs):
        h, ys = cr.scan(lambda h, x: ((new := cr.tanh(w @ h + x)), cr.sum(new)), h, xs)
        return cr.sum(h * h) + cr.sum(ys)

    rng = np.random.default_rng(0)
    args = rng.normal(size=(3, 3)), rng.normal(size=3), rng.normal(size=(5, 3))
    cr.gradcheck(network, args)
    cr.gradgradcheck(network, args)


def test_scan_without_slices_counts_steps():
    last, ys = cr.scan(lambda c, x: (c * 2, c), 1, length=4)
    assert (last.tolist(), ys.tolist()) == (16, [1, 2, 4, 8])


def test_scan_over_nothing_still_says_what_it_collects():
    last, ys = cr.scan(lambda c, x: (c + cr.sum(x), {"x": x, "c": c}), 1.0, cr.ones((0, 3)))
    close(last, 1.0)
    assert ys["x"].shape == (0, 3)
    assert (ys["c"].shape, ys["c"].dtype) == ((0,), np.float32)


def test_scan_may_collect_nothing():
    last, ys = cr.scan(lambda c, x: (c + x, None), 0.0, cr.tensor([1.0, 2.0]))
    assert ys is None
    close(last, 3.0)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: cr.scan(lambda c, x: (c, x), 0.0), ArgumentError, "no one number of steps"),
        (lambda: cr.scan(lambda c, x: (c, x), 0.0, (np.ones(2), np.ones(3))), ArgumentError, "no one number of steps"),
        (lambda: cr.scan(lambda c, x: (c, x), 0.0, np.ones(2), length=3), ArgumentError, "length=3"),
        (lambda: cr.scan(lambda c, x: (c, x), 0.0, length=-1), ArgumentError, "0 or more"),
        (lambda: cr.scan(lambda c, x: (c, x), 0.0, np.float64(1.0)), ShapeError, "no axes"),
        (lambda: cr.scan(lambda c, x: c, 0.0, np.ones(2)), ArgumentError, "not a pair"),
        (lambda: cr.scan(lambda c, x: (c + 1, x if float(c) else (x,)), 0.0, np.ones(2)), ArgumentError, "collected"),
    ],
)
def test_what_scan_refuses(call, error, says):
    with pytest.raises(error) as caught:
        call()
    assert says in str(caught.value)
