"""Jacobians: every mode gives the same blocks, the counts are true, the order is the best, and memory keeps to its budget."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chainrule as cr
from chainrule.autodiff.bracketing import Chain
from chainrule.autodiff.cost import live_bytes, multiplications, multiplications_of, seconds
from chainrule.core import tree
from chainrule.core.aval import Aval
from chainrule.core.errors import ArgumentError, GradientError, TraceError
from chainrule.core.primitive import TABLE
from chainrule.core.size import parse_bytes, show_bytes
from gates import watching

rng = np.random.default_rng(0)
MODES = ("auto", "forward", "reverse")


def near(got: Any, expected: Any, rtol: float = 1e-12) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=rtol, atol=1e-13)


def waisted(*sizes: int, seed: int = 0) -> tuple[Callable[[Any], Any], Any]:
    """A chain of dense layers of these sizes, and a point."""
    draws = np.random.default_rng(seed)
    weights = [draws.normal(size=(b, a)) / np.sqrt(a) for a, b in pairwise(sizes)]

    def f(x: Any) -> Any:
        for w in weights:
            x = cr.tanh(w @ x)
        return x

    return f, draws.normal(size=sizes[0])


@pytest.mark.parametrize("mode", MODES)
def test_a_jacobian_is_the_matrix_of_derivatives(mode: str) -> None:
    A, x = rng.normal(size=(2, 3)), rng.normal(size=3)
    near(cr.jacobian(lambda x: cr.sin(A @ x), mode=mode)(x), np.cos(A @ x)[:, None] * A)
    near(cr.jacobian(cr.exp, mode=mode)(np.float64(2.0)), np.exp(2.0))


@pytest.mark.parametrize("mode", MODES)
def test_results_are_nested_outside_and_arguments_inside(mode: str) -> None:
    def f(p: dict[str, Any], unused: str, q: Any, *, scale: float) -> dict[str, Any]:
        return {"y": [p["w"] @ p["x"] * scale], "z": q * cr.sum(p["x"])}

    p = {"w": rng.normal(size=(2, 3)), "x": rng.normal(size=3)}
    q = rng.normal(size=(4, 1))
    J = cr.jacobian(f, (0, 2), mode)(p, "unused", q, scale=2.0)
    shapes = tree.map(lambda block: block.shape, J)
    assert J.keys() == {"y", "z"}
    assert shapes["y"][0][0] == {"w": (2, 2, 3), "x": (2, 3)}
    assert shapes["z"] == ({"w": (4, 1, 2, 3), "x": (4, 1, 3)}, (4, 1, 4, 1))
    near(J["y"][0][0]["w"], 2 * np.einsum("ij,k->ijk", np.eye(2), p["x"]))
    near(J["y"][0][0]["x"], 2 * p["w"])
    near(J["y"][0][1], np.zeros((2, 4, 1)))
    near(J["z"][0]["w"], np.zeros((4, 1, 2, 3)))
    near(J["z"][0]["x"], q[:, :, None] * np.ones(3))
    near(J["z"][1].reshape((4, 4)), np.eye(4) * p["x"].sum())
    alone = cr.jacobian(lambda q: f(p, "", q, scale=2.0)["z"], -1, mode)(q)
    near(alone, J["z"][1])


def test_each_block_has_the_dtype_in_which_it_is_computed() -> None:
    f = lambda x: x.astype(cr.float64) * 2.0
    assert cr.jacobian(f, mode="forward")(np.ones(2, np.float32)).dtype == np.float64
    assert cr.jacobian(f, mode="reverse")(np.ones(2, np.float32)).dtype == np.float32


def test_derivatives_that_do_not_exist_are_zero_and_empty_ones_empty() -> None:
    for mode in ("forward", "reverse"):
        near(cr.jacobian(lambda x: (x * 0 + 1, cr.ones((2,))), mode=mode)(np.ones(3))[1], np.zeros((2, 3)))
        assert cr.jacobian(cr.sin, mode=mode)(np.ones((0, 2))).shape == (0, 2, 0, 2)


def test_the_basis_goes_through_as_one_batch() -> None:
    """The number of gates does not depend on the number of directions."""
    A = rng.normal(size=(40, 40))
    counts = []
    for n in (5, 40):
        with watching() as calls:
            cr.jacobian(lambda x, n=n: cr.tanh(A[:n, :n] @ x), mode="reverse")(np.ones(n))
        counts.append(len(calls))
    assert counts[0] == counts[1] < 20


# The choice of the mode.


def test_auto_takes_the_mode_with_fewer_multiplications() -> None:
    wide, tall = (waisted(50, 20, 5), waisted(5, 20, 50))
    for (f, x), expected in ((wide, "reverse"), (tall, "forward")):
        J, table = cr.jacobian(f, explain=True)(x)
        counts = {row.mode: row.multiplications for row in table.rows}
        assert table.chosen == expected
        assert counts["mixed"] is None
        assert counts[expected] == min(counts["forward"], counts["reverse"])
        near(J, cr.jacobian(f, mode="forward")(x))


def test_through_a_narrow_waist_mixed_order_wins_and_the_table_shows_why() -> None:
    f, x = waisted(64, 2, 64)
    J, table = cr.jacobian(f, explain=True)(x)
    for mode in ("forward", "reverse", "mixed"):
        near(cr.jacobian(f, mode=mode)(x), J)
    assert str(table).splitlines() == [
        "jacobian of f: 64 inputs, 64 outputs",
        "mode     multiplications          why",
        "forward           21,062          64 directions of 322, and 454 once",
        "reverse           21,062          64 cotangents of 322, and 454 once",
        "mixed              9,290  chosen  through x_2 (2): 1,098 in the stages, 8,192 in products",
        "stages of mixed",
        "  J1: 64 -> 2, reverse, 394",
        "  J2: 2 -> 64, forward, 704",
        "multiplied as J2 · J1",
    ]


@pytest.mark.parametrize("mode", ["forward", "reverse", "mixed"])
@pytest.mark.parametrize("sizes", [(16, 2, 12), (9, 2, 10, 3, 8), (4, 16, 1, 8, 8, 2, 6)])
def test_as_many_multiplications_are_done_as_were_foretold(sizes: Sequence[int], mode: str) -> None:
    f, x = waisted(*sizes)
    with watching() as calls:
        _, table = cr.jacobian(f, mode=mode, explain=True)(x)
    done = 0
    for call in calls:
        avals = [[Aval(np.shape(v), v.dtype) for v in values] for values in (call.values, call.outputs)]
        done += multiplications_of(call.primitive, *avals, call.params)
    assert done == next(row.multiplications for row in table.rows if row.mode == mode)


def best_of_all(chain: Chain) -> int:
    """The least number of multiplications over all bracketings, tried one by one."""
    last = chain.stages
    segment = chain.segment
    size = [segment(i, i + 1).columns for i in range(last)] + [segment(last - 1, last).rows]

    def straight(mode: str, a: int, b: int) -> int:
        seeds = size[a] if mode == "forward" else size[b]
        return sum(segment(i, i + 1).counts[mode][0] + seeds * segment(i, i + 1).counts[mode][1] for i in range(a, b))

    @cache
    def best(a: int, b: int) -> int:
        products = [best(a, k) + best(k, b) + size[a] * size[k] * size[b] for k in range(a + 1, b)]
        return min([*products, straight("forward", a, b), straight("reverse", a, b)])

    return min(best(0, k) + best(k, last) + size[0] * size[k] * size[last] for k in range(1, last))


@given(st.lists(st.integers(1, 12), min_size=3, max_size=8), st.integers(0, 3))
def test_the_order_of_products_is_the_best_of_all(sizes: list[int], seed: int) -> None:
    f, x = waisted(*sizes, seed=seed)
    chain = Chain(cr.trace(f, x), 1, 1)
    mixed = chain.mixed()
    waists = [b for a, b, c in zip(sizes, sizes[1:], sizes[2:], strict=False) if a > b < c]
    flat = any(a == b for a, b in pairwise(sizes))
    assert flat or [value.size for _, value in chain.waists] == waists
    assert (mixed is None) == (chain.stages == 1)
    if mixed is not None:
        assert mixed.cost == best_of_all(chain)
        near(cr.jacobian(f, mode="mixed")(x), cr.jacobian(f, mode="forward")(x), rtol=1e-9)


def test_what_goes_around_a_value_makes_it_no_waist() -> None:
    f, x = waisted(16, 2, 16)
    assert cr.jacobian(lambda x: f(x) + x, explain=True)(x)[1].rows[-1].multiplications is None
    with pytest.raises(ArgumentError, match="no waist"):
        cr.jacobian(lambda x: f(x) + x, mode="mixed")(x)


def test_what_goes_around_without_a_derivative_is_handed_through() -> None:
    """Masks, integers and what stop_gradient cuts are read behind the waist, as constants."""
    w, v = rng.normal(size=(2, 8)), rng.normal(size=(8, 2))

    def f(x: Any) -> tuple[Any, Any]:
        y = v @ cr.tanh(w @ x)
        return cr.where(x > 0, y, -y) * cr.stop_gradient(x), y[cr.argsort(x)]

    x = rng.normal(size=8)
    for got, expected in zip(cr.jacobian(f, mode="mixed")(x), cr.jacobian(f, mode="reverse")(x), strict=True):
        near(got, expected)


def test_waists_of_any_rank_and_several_arguments_and_results() -> None:
    def f(p: dict[str, Any]) -> tuple[Any, Any, Any]:
        middle = cr.sum(cr.sin(p["a"])[:, None] * p["b"], axis=0, keepdims=True)
        return cr.exp(middle * np.ones((4, 2))), middle * np.ones((3, 2)), middle

    p = {"a": rng.normal(size=3), "b": rng.normal(size=(3, 2))}
    J, table = cr.jacobian(f, mode="mixed", explain=True)(p)
    assert "(2)" in table.rows[-1].why
    for got, expected in zip(tree.leaves(J), tree.leaves(cr.jacobian(f, mode="reverse")(p)), strict=True):
        near(got, expected)


# Memory.


def peak(call: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_blocks_keep_the_peak_under_the_budget(mode: str) -> None:
    """Per direction the values between are 2,000 times as large as what comes of it."""
    spread = rng.normal(size=20_000)

    def f(x: Any) -> Any:
        return cr.sum(cr.sin(x[:, None] * spread[None, :]), axis=1) if x.ndim == 1 else x

    x = rng.normal(size=10)
    reference = cr.jacobian(f, mode=mode)(x)
    once = peak(lambda: cr.jacobian(f, mode=mode, memory_budget=1)(x))
    budget = 8_000_000
    assert peak(lambda: cr.jacobian(f, mode=mode, memory_budget="8MB")(x)) < once + budget
    assert peak(lambda: cr.jacobian(f, mode=mode, memory_budget="1GB")(x)) > once + 2 * budget
    for size in (1, 10_000_000, "8 MB"):
        near(cr.jacobian(f, mode=mode, memory_budget=size)(x), reference)


def test_a_large_jacobian_is_written_where_it_belongs() -> None:
    x = rng.normal(size=1500)
    whole = x.size**2 * 8
    assert peak(lambda: cr.jacobian(lambda x: cr.sin(cr.cos(x)), mode="reverse", memory_budget="2MB")(x)) < 1.3 * whole


def test_blocks_are_differentiated_and_traced_like_the_whole() -> None:
    x = rng.normal(size=4)
    cubes = lambda budget: lambda x: cr.sum(cr.jacobian(lambda x: x**3, mode="forward", memory_budget=budget)(x))
    near(cr.grad(cubes(1))(x), 6 * x)
    near(cr.trace(cr.grad(cubes(100)), x).run(x), 6 * x)


def test_sizes_in_words() -> None:
    assert [parse_bytes(size) for size in (7, "7", "200MB", "1.5 GB", "64KiB", " 2 gib ")] == [7, 7, 200_000_000, 1_500_000_000, 65536, 2**31]
    assert [show_bytes(size) for size in (0, 999, 1000, 1536, 2e8, 3.2e12)] == ["0 B", "999 B", "1 KB", "1.54 KB", "200 MB", "3.2 TB"]
    for wrong in ("MB", "12 apples", -1, 1.5, True, None):
        with pytest.raises(ArgumentError, match="give bytes"):
            parse_bytes(wrong)
    with pytest.raises(ArgumentError, match="memory_budget is 'much'"):
        cr.jacobian(cr.sin, memory_budget="much")


# Composition.


@pytest.mark.parametrize("mode", MODES)
def test_jacobians_compose_with_every_transform(mode: str) -> None:
    A, x = rng.normal(size=(2, 3)), cr.asarray(rng.normal(size=3))
    f = lambda x: cr.sin(A @ x)
    J = np.cos(A @ np.asarray(x))[:, None] * A
    near(cr.trace(cr.jacobian(f, mode=mode), x).run(x), J)
    near(cr.vmap(cr.jacobian(f, mode=mode))(cr.stack([x, x])), [J, J])
    second = -np.sin(A @ np.asarray(x))[:, None, None] * A[:, :, None] * A[:, None, :]
    near(cr.jacobian(cr.jacobian(f, mode=mode), mode=mode)(x), second)
    near(cr.jvp(cr.jacobian(f, mode=mode), (x,), (np.ones(3),))[1], second.sum(axis=2))
    near(cr.compile(cr.jacobian(f, mode=mode))(x), J)


def test_history_from_outside_is_kept() -> None:
    w = cr.tensor([1.0, 2.0], requires_grad=True)
    cr.jacobian(lambda x: w * x)(cr.ones((2,))).sum().backward()
    assert w.grad.tolist() == [1, 1]


def test_a_generator_moves_on_once_and_all_rows_see_the_same_numbers() -> None:
    generator = cr.random.Generator(1)
    before = generator.get_state()
    J = cr.jacobian(lambda x: x * cr.random.uniform((3,), generator=generator), memory_budget=1)(np.ones(3, np.float32))
    near(np.diag(J), cr.random.uniform((3,), key=before))
    assert generator.get_state().tolist() == [1, 1]


def test_a_hessian_has_a_block_for_each_pair() -> None:
    f = lambda p, s: s * cr.sum(p["a"] ** 2) * p["b"]
    p = {"a": rng.normal(size=2), "b": np.float64(3.0)}
    H = cr.hessian(f)(p, np.float64(2.0))
    near(H["a"]["a"], 12 * np.eye(2))
    near(H["a"]["b"], 4 * p["a"])
    near(H["b"]["a"], 4 * p["a"])
    near(H["b"]["b"], 0)
    both = cr.hessian(f, (0, 1))(p, np.float64(2.0))
    near(both[0]["a"][0]["b"], H["a"]["b"])
    near(both[1][0]["a"], 2 * p["a"] * 3.0)


def test_a_hessian_times_a_vector() -> None:
    x, t = rng.normal(size=(2, 4))
    f = lambda x: cr.sum(cr.tanh(x) * cr.roll(x, 1, axis=0) ** 2)
    near(cr.hvp(f, (x,), (t,)), np.asarray(cr.hessian(f)(x)) @ t)
    two = cr.hvp(lambda x, y: cr.sum(x * x * y), (x, t), (t, x))
    near(two[0], 2 * t * t + 2 * x * x)
    near(two[1], 2 * x * t)


# What is refused.


def test_refusals() -> None:
    with pytest.raises(ArgumentError, match="no mode 'sideways'"):
        cr.jacobian(cr.sin, mode="sideways")
    with pytest.raises(ArgumentError, match="argnums=1, but there are 1"):
        cr.jacobian(cr.sin, 1)(np.ones(2))
    with pytest.raises(GradientError, match="an argument of dtype int64"):
        cr.jacobian(lambda x: x * 2.0)(np.arange(3))
    with pytest.raises(GradientError, match=r"the result \w+ of argmax, int64\(\)"):
        cr.jacobian(cr.argmax)(np.ones(3))
    with pytest.raises(TraceError, match=r"cr\.where"):
        cr.jacobian(lambda x: x if x.sum() > 0 else -x)(np.ones(3))
    with pytest.raises(GradientError, match="not a scalar"):
        cr.hessian(cr.sin)(np.ones(3))
    with pytest.raises(GradientError, match=r"hvp takes a tuple of primals .*\n.*\n.*write cr\.hvp\(f, \(x,\), \(t,\)\)"):
        cr.hvp(cr.sum, np.ones(3), np.ones(3))  # pyright: ignore[reportArgumentType]


# Costs.


def test_every_gate_has_a_cost() -> None:
    """Elementwise gates by their output, reductions by their input, moves nothing; the others have their own rule."""
    derived = {"reduce", "scan", "sort", "softmax", "standardize", "cross_entropy", "random", "move", "gather", "scatter"}
    unsaid = [
        name
        for name, gate in TABLE.items()
        if gate.cost is None and gate.scalar is None and gate.kernel not in derived and gate.transpose is None and name not in CONTROL
    ]
    assert unsaid == []


CONTROL = {"cond", "while_loop", "scan"}


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (lambda: cr.ones((2, 3)) @ cr.ones((3, 4)), 24),
        (lambda: cr.sin(cr.ones((2, 3))), 6),
        (lambda: cr.sum(cr.ones((2, 3)), axis=0), 6),
        (lambda: cr.permute_dims(cr.ones((2, 3)), (1, 0)), 0),
        (lambda: cr.einsum("ij,jk,kl->il", cr.ones((2, 3)), cr.ones((3, 4)), cr.ones((4, 5))), 24 + 40),
        (lambda: cr.conv(cr.ones((1, 8, 8, 3)), cr.ones((3, 3, 3, 5))), 36 * 5 * 27),
        (lambda: cr.max_pool(cr.ones((1, 4, 4, 2)), 2), 8 * 4),
        (lambda: cr.linalg.inv(cr.eye(10)), 1000),
        (lambda: cr.linalg.cholesky(cr.eye(6)), 36),
        (lambda: cr.vecdot(cr.ones((4, 3)), cr.ones((4, 3))), 12),
    ],
)
def test_multiplications_are_those_of_the_textbook(f: Callable[[], Any], expected: int) -> None:
    with watching() as calls:
        f()
    call = calls[-1]
    avals = [[Aval(np.shape(v), v.dtype) for v in values] for values in (call.values, call.outputs)]
    assert multiplications_of(call.primitive, *avals, call.params) == expected


def test_a_loop_costs_its_body_times_its_steps() -> None:
    step = lambda carry, x: (cr.tanh(carry * x), None)
    graph = cr.trace(lambda x: cr.scan(step, cr.ones((3,)), x)[0], np.ones((10, 3), np.float32))
    assert multiplications(graph) == 10 * 2 * 3


def test_times_order_operations_by_their_size() -> None:
    small, large = (cr.trace(lambda x: x @ x, np.ones((n, n))).nodes[0] for n in (10, 1000))
    assert 0 < seconds(small) < seconds(large)


def test_live_bytes_are_those_that_are_needed_at_once() -> None:
    graph = cr.trace(lambda x: cr.sum(cr.sin(cr.cos(x * 2.0))), np.ones(1000))
    assert live_bytes(graph) == 2 * 8000
