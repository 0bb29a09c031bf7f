"""Loops whose places go through all rounds by themselves are one kernel; what is the same in every round is done once before them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr
from chainrule.compiler.native.conv_shape import Target
from chainrule.compiler.native.emit import emit
from chainrule.compiler.pipeline import build
from test_native_engine import in_process
from test_native_places import kernels, same, softmax

llvmlite = pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")

WIDTH = 72


def random(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).normal(size=shape)


SQUARE, WIDE = random(WIDTH, WIDTH) / 8, random(WIDTH, 3 * WIDTH) / 8

Move = Callable[[Any, Any, Any], Any]
"""``move(c, x, xs)``: of what is carried and the slice, both of (batch, WIDTH), which all slices stand beside."""

ALONE: dict[str, Move] = {
    "product": lambda c, x, _: cr.tanh(c @ SQUARE + x),
    "transposed product": lambda c, x, _: cr.tanh(x @ SQUARE.T + c),
    "two products": lambda c, x, _: cr.sin(c @ SQUARE) + x @ SQUARE.T,
    "gates": lambda c, x, _: gated(c @ WIDE, x),
    "elementwise": lambda c, x, _: cr.cos(c) * x,
    "for each row": lambda c, x, _: c * np.linspace(0.5, 1.0, x.shape[0])[:, None] + x,
    "for each column": lambda c, x, _: c * np.linspace(0.5, 1.0, WIDTH) + x,
    "softmax": lambda c, x, _: softmax(c) + x,
    "with one of all slices": lambda c, x, xs: c * 0.5 + xs[0] * x,
    "put together": lambda c, x, _: cr.concat([c[:, 7:], cr.exp(x[:, :7] * 0.1)], axis=1),
    "rolled columns": lambda c, x, _: cr.roll(c, 3, axis=1) * 0.5 + x,
}
TOGETHER: dict[str, Move] = {
    "rolled rows": lambda c, x, _: cr.roll(c, 1, axis=0) * 0.5 + x,
    "flipped rows": lambda c, x, _: c[::-1] * 0.5 + x,
    "first row": lambda c, x, _: c[:1] * x,
    "mean of rows": lambda c, x, _: c - cr.mean(c, axis=0) + x,
    "products of rows": lambda c, x, _: cr.tanh((x @ c.T) * 0.1) @ x * 0.1,
    "looked up": lambda c, x, _: cr.take(c, np.arange(x.shape[0])[::-1].copy(), axis=0) * 0.5 + x,
    "rows for columns": lambda c, x, _: cr.reshape(c, (WIDTH, -1)).T * 0.5 + x,
}
MOVES = ALONE | TOGETHER


def gated(z: Any, x: Any) -> Any:
    keep, take, let = (z[:, i * WIDTH : (i + 1) * WIDTH] for i in range(3))
    return cr.sigmoid(keep) * x + cr.sigmoid(take) * cr.tanh(let)


def scan_of(moves: list[str], *, reverse: bool = False, swapped: bool = False) -> Callable[[Any], Any]:
    """A loop over rows of matrices whose body does the moves, gives out what it had and what it made, and carries two values."""

    def body(carry: Any, x: Any, xs: Any) -> Any:
        c, other = carry
        made = c
        for move in moves:
            made = MOVES[move](made, x, xs)
        return ((other, made) if swapped else (made, other + made)), (c, made)

    def f(xs: Any) -> Any:
        (last, other), (before, after) = cr.scan(lambda c, x: body(c, x, xs), (xs[0] * 0.3, xs[-1]), xs, reverse=reverse)
        return last, other, before, after

    return f


def gradient(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return cr.grad(lambda x: sum(cr.sum(cr.sin(part)) for part in f(x)))


@pytest.mark.parametrize("batch", [8, 24, 30])
@pytest.mark.parametrize("move", ALONE)
def test_rows_that_have_nothing_to_do_with_each_other_go_through_all_rounds_alone(move: str, batch: int) -> None:
    f, x = scan_of([move, "product", move]), random(4, batch, WIDTH)
    assert {"scan"} in kernels(f, x)
    same(f, x)
    same(gradient(f), x)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("move", TOGETHER)
def test_rows_that_read_each_other_wait_for_each_other(move: str, first: bool) -> None:
    """What a round has made, or what the one before it has."""
    f, x = scan_of([move, "product"] if first else ["product", move]), random(4, 24, WIDTH)
    assert {"scan"} not in kernels(f, x)
    same(f, x)
    same(gradient(f), x)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 36), st.just(WIDTH)),
    moves=st.lists(st.sampled_from([*sorted(ALONE) * 3, *sorted(TOGETHER)]), min_size=1, max_size=4),
    reverse=st.booleans(),
    swapped=st.booleans(),
    graded=st.booleans(),
)
def test_whatever_a_round_does_it_reads_what_was_made_before(
    shape: tuple[int, ...], moves: list[str], reverse: bool, swapped: bool, graded: bool
) -> None:
    f = scan_of(moves, reverse=reverse, swapped=swapped)
    same(gradient(f) if graded else f, random(*shape))


@pytest.mark.parametrize("layer", ["SimpleRNN", "LSTM", "GRU"])
def test_recurrent_layers_are_loops_of_rows(layer: str) -> None:
    net = getattr(cr.nn, layer)(WIDTH, return_sequences=True).initialize((1, 5, WIDTH))
    x = random(16, 5, WIDTH).astype(np.float32)
    found = kernels(cr.grad(lambda x: cr.sum(cr.square(net(x)))), x)
    assert sum(gates == {"scan"} for gates in found) == 2
    same(cr.grad(lambda x: cr.sum(cr.square(net(x)))), x)


@pytest.mark.parametrize("batch", [1, 7, 22])
def test_rows_that_cannot_be_cut_evenly_stay_together(batch: int) -> None:
    f, x = scan_of(["gates", "transposed product"]), random(3, batch, WIDTH)
    assert {"scan"} not in kernels(f, x)
    same(f, x)
    same(gradient(f), x)


@pytest.mark.parametrize(("size", "pays"), [(256, True), (WIDTH, False)])
def test_products_that_are_worth_rounding_have_all_rows_in_one(size: int, pays: bool) -> None:
    """Copies of a strip's few rows, and of all of B for them, would not be worth it."""
    weights = random(size, size).astype(np.float32)
    f = lambda xs: cr.scan(lambda c, x: (cr.tanh(c @ weights) + x, c), xs[0], xs)
    graph = build(cr.trace(f, random(4, 64, size).astype(np.float32)), backend="native").graph
    assert ("dpbf16ps" in emit(graph, Target(64, 32, halves=True)).text) is pays


BITS = """
    import hashlib, numpy as np, chainrule as cr
    net = cr.nn.LSTM(48, return_sequences=True)
    x = cr.tensor(np.random.default_rng(0).normal(size=(40, 7, 24)).astype("float32"))
    net.initialize(x.shape)
    value, grad = cr.compile(cr.value_and_grad(lambda x: cr.sum(cr.square(net(x)))), backend="native")(x)
    print(hashlib.sha256(np.asarray(value).tobytes() + np.asarray(grad).tobytes()).hexdigest())
"""


def test_bits_do_not_depend_on_who_takes_which_rows() -> None:
    assert len({in_process(BITS, CHAINRULE_NUM_THREADS=threads, CHAINRULE_CACHE_DIR="0") for threads in ("1", "2", "3")}) == 1
