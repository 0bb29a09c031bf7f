"""Machine code writes values where they are wanted: what is put together, rows of loops, what loops carry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.compiler.native.conv_shape import Target
from chainrule.compiler.native.emit import Program, emit
from chainrule.compiler.native.engine import host
from chainrule.compiler.pipeline import build
from listings import close

llvmlite = pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")


def random(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def kernels(f: Any, *args: Any) -> list[set[str]]:
    """Per kernel the names of the gates that it computes; a copy is called so."""
    gates = program(f, *args).gates.values()
    return [{"copy" if node.primitive.name == "stop_gradient" else node.primitive.name for node in nodes} for nodes in gates]


def program(f: Any, *args: Any, **options: Any) -> Program:
    return emit(build(cr.trace(f, *args), backend="native").graph, Target.of(host()), **options)


def same(f: Any, *args: Any) -> None:
    """Compiled, a function gives what it gives without."""
    given = [cr.tensor(x) for x in args]
    expected = f(*given)
    got = cr.compile(f, backend="native")(*given)
    for x, want in zip(got if isinstance(got, tuple) else (got,), expected if isinstance(expected, tuple) else (expected,), strict=True):
        close([np.asarray(x)], [np.asarray(want)])


JOINED: dict[str, Any] = {
    "elementwise": lambda x: cr.concat([cr.exp(x), cr.sin(x)], axis=1),
    "first axis": lambda x: cr.concat([cr.exp(x), cr.sin(x)]),
    "reductions": lambda x: cr.concat([cr.sum(x, axis=1, keepdims=True), cr.max(x, axis=1, keepdims=True)], axis=1),
    "reductions in parts": lambda x: cr.stack([cr.sum(cr.exp(x) * cr.ones((400, 1, 1)), axis=(0, 1)), cr.max(x, axis=0)]),
    "products": lambda x: cr.concat([x @ x.T, cr.tanh(x @ x.T + 1.0)], axis=1),
    "many products": lambda x: cr.concat([x[None] @ x.T, cr.expand_dims(x @ x.T, axis=0)], axis=2),
    "stacked": lambda x: cr.stack([cr.exp(x), cr.sin(x)], axis=1),
    "stacked in the end": lambda x: cr.stack([cr.exp(x), cr.sin(x)], axis=-1),
    "reshaped": lambda x: cr.concat([cr.reshape(cr.exp(x), (x.size,)), cr.reshape(cr.sin(x.T), (x.size,))]),
    "transposed": lambda x: cr.concat([cr.exp(x).T, cr.sin(x).T], axis=1),
    "nested": lambda x: cr.concat([cr.concat([cr.exp(x), cr.sin(x)], axis=1), cr.cos(x)], axis=1),
    "conditions": lambda x: cr.concat([x > 0, x < 1], axis=1),
}


@pytest.mark.parametrize("shape", [(40, 24), (33, 17), (3, 5)])
@pytest.mark.parametrize("name", JOINED)
def test_what_is_put_together_is_made_in_its_place(name: str, shape: tuple[int, int]) -> None:
    # Something is done with the whole, so that it is no result itself.
    f = lambda x: cr.sqrt(cr.astype(JOINED[name](x), cr.float32) ** 2 + 1.0)
    same(f, random(*shape))
    assert not any(found & {"concat", "stack", "copy"} for found in kernels(f, random(*shape)))


def test_what_cannot_be_made_in_its_place_is_copied() -> None:
    def f(x: Any) -> Any:
        y = cr.exp(x)
        return cr.concat([y, x, y[:, ::-1], cr.cumulative_sum(x, axis=1), y], axis=1), y

    same(f, random(20, 30))
    assert sum("concat" in found for found in kernels(f, random(20, 30))) == 1


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [0, 1, 2, 3, 8])
def test_all_that_a_loop_carried_lies_in_rows(length: int, reverse: bool) -> None:
    def f(x: Any, xs: Any) -> Any:
        def step(carry: Any, y: Any) -> Any:
            a, b, fixed = carry
            new = cr.tanh(a + y) * fixed
            # The old value and the new one of a state, twice; another that only the next round reads; one that never changes.
            return (new, a * 0.5 + b, fixed), (new, a, cr.exp(new), a, fixed)

        states, (new, old, other, again, fixed) = cr.scan(step, (x, x + 1, x + 2), xs, length=length, reverse=reverse)
        return *states, cr.exp(new), cr.sin(old) * again, other, cr.cos(fixed)

    same(f, random(6, 20), random(length, 6, 20))


def test_states_that_change_places_are_not_mixed_up() -> None:
    same(lambda x: cr.scan(lambda carry, _: ((carry[1], carry[0] + carry[1]), carry[0]), (x, x + 1), None, length=7), random(9, 16))


def test_a_recurrent_layer_and_its_gradient_copy_nothing_from_round_to_round() -> None:
    kernel, xs = random(16, 64), random(5, 4, 64)

    def loss(kernel: Any, xs: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            h, c = carry
            i, f, g, o = cr.split(h @ kernel + x, 4, axis=1)
            c = cr.sigmoid(f) * c + cr.sigmoid(i) * cr.tanh(g)
            h = cr.sigmoid(o) * cr.tanh(c)
            return (h, c), h

        zeros = cr.zeros((4, 16), dtype=cr.float32)
        return cr.sum(cr.scan(step, (zeros, zeros), xs)[1] ** 2)

    same(cr.grad(loss), kernel, xs)
    copies = [found for found in kernels(cr.grad(loss), cr.tensor(kernel), cr.tensor(xs)) if found & {"copy", "concat"}]
    # The first values of what is carried, and what a product cannot read as it lies.
    assert len(copies) <= 6, copies


def test_what_is_read_in_a_loop_inside_of_a_loop_stays_until_the_last_round() -> None:
    def f(x: Any) -> Any:
        rows = cr.exp(x)

        def outer(state: Any, _: Any) -> Any:
            total, seen = cr.scan(lambda carry, row: (carry + row, carry * 2.0), state, rows)
            mixed = cr.tanh(seen) @ cr.ones((300, 300), dtype=cr.float32)
            return cr.tanh(total) + 1e-5 * cr.sum(cr.tanh(mixed)), cr.sum(mixed)

        return cr.scan(outer, x[0], None, length=3)

    same(f, random(4, 300))


def test_what_is_behind_a_product_may_take_the_memory_of_what_it_reads() -> None:
    f = lambda x, p: p - 0.1 * (x.T @ x)
    args = random(40, 24), random(24, 24)
    same(f, *args)
    made = program(f, *args, donate={0: 1})
    assert len(made.donors) == len(made.gates) == 1
    # But not that of a factor, which is read elsewhere too.
    assert not program(lambda x, p: p - 0.1 * (x @ p), random(24, 24), random(24, 24), donate={0: 1}).donors


def test_a_product_in_which_nothing_is_summed_runs_with_the_gates_beside_it() -> None:
    f = lambda a, b: cr.sum(1.0 - cr.reshape(a, (5, 12, 1)) @ cr.reshape(b, (5, 1, 20)), axis=2)
    same(f, random(5, 12), random(5, 20))
    assert kernels(f, random(5, 12), random(5, 20)) == [{"multiply", "subtract", "sum"}]


TURNED: dict[str, Any] = {
    "heads": lambda x: cr.reshape(cr.permute_dims(x @ cr.permute_dims(x, (0, 2, 1)), (1, 0, 2)), (x.shape[1], -1)),
    "columns as rows": lambda x: cr.reshape(cr.permute_dims(x @ cr.permute_dims(x, (0, 2, 1)), (2, 0, 1)), (-1, x.shape[1])),
    "twice": lambda x: cr.reshape(cr.permute_dims(cr.reshape(cr.permute_dims(cr.exp(x), (2, 0, 1)), (-1, x.shape[1])), (1, 0)), (-1,)),
    "gates": lambda x: cr.reshape(cr.permute_dims(cr.tanh(x @ cr.permute_dims(x, (0, 2, 1))), (1, 0, 2)), (-1,)),
    "a sum": lambda x: cr.reshape(cr.permute_dims(cr.sum(cr.exp(x), axis=2), (1, 0)), (-1,)),
}


@pytest.mark.parametrize("shape", [(3, 40, 24), (5, 33, 17), (2, 3, 5)])
@pytest.mark.parametrize("name", TURNED)
def test_what_is_turned_and_then_laid_out_anew_is_made_there(name: str, shape: tuple[int, ...]) -> None:
    f = lambda x: cr.exp(0.01 * TURNED[name](x))
    same(f, random(*shape))
    # A loop does not write across memory.
    assert name == "twice" or not any("copy" in found for found in kernels(f, random(*shape)))
    # It may be a result itself.
    same(TURNED[name], random(*shape))


def softmax(x: Any) -> Any:
    e = cr.exp(x - cr.max(x, axis=-1, keepdims=True))
    return e / cr.sum(e, axis=-1, keepdims=True)


@pytest.mark.parametrize("shape", [(6, 50, 33), (3, 5), (1, 128), (70, 1), (1000, 7), (2, 5000)])
def test_loops_over_rows_that_follow_one_another_are_one_kernel(shape: tuple[int, ...]) -> None:
    f = lambda x, g: (softmax(x * 3.0) * g, cr.vjp(softmax, x)[1](g))
    same(f, random(*shape), random(*shape))
    forward = kernels(softmax, random(6, 50, 33))
    assert len(forward) == 1, forward


@pytest.mark.parametrize("shape", [(40, 40), (300, 24), (24, 300)])
def test_rows_of_others_wait_until_all_are_there(shape: tuple[int, int]) -> None:
    def f(x: Any) -> Any:
        e = cr.exp(x - cr.max(x, axis=-1, keepdims=True))
        turned = e[::-1] / cr.sum(e, axis=-1, keepdims=True)
        other = cr.reshape(turned, shape[::-1])
        return turned * cr.sum(turned, axis=0), other - cr.max(other, axis=-1, keepdims=True), e * cr.sum(e[:, :1], axis=1, keepdims=True)[::-1]

    same(f, random(*shape))
