"""Memory of compiled steps: what is planned, and what is taken over from state that nobody else holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chainrule as cr
from chainrule.compiler.memory import ALIGNMENT, Buffer, Traits, pack, plan_memory
from chainrule.compiler.pipeline import Executable
from chainrule.compiler.plan import make_plan
from chainrule.core.errors import ArgumentError
from test_compiler import LARGE, compiled, large, own_gate


class Slot:
    """What holds an array as a Tensor does."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


# Memory that is planned.


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 8), st.just(0) | st.integers(1, 5000)), max_size=30))
def test_buffers_in_use_at_once_do_not_overlap(drawn: list[tuple[int, int, int]]) -> None:
    buffers = [Buffer(size, start, start + length) for start, length, size in drawn]
    total = pack(buffers)
    for i, a in enumerate(buffers):
        assert a.offset is not None
        assert a.offset % ALIGNMENT == 0
        assert a.offset + a.nbytes <= total
        for b in buffers[:i]:
            assert b.offset is not None
            if a.start <= b.end and b.start <= a.end:
                assert a.offset + a.nbytes <= b.offset or b.offset + b.nbytes <= a.offset
    assert total <= sum(-(-b.nbytes // ALIGNMENT) * ALIGNMENT for b in buffers)


def test_gaps_are_filled_by_what_fits_best() -> None:
    first, second, third = Buffer(4096, 0, 1), Buffer(64, 0, 9), Buffer(1024, 0, 1)
    later = Buffer(1000, 2, 3)
    pack([first, second, third, later])
    assert later.offset == third.offset


def elementwise(node: Any) -> Traits:
    over = tuple(i for i, x in enumerate(node.inputs) if x.aval == node.output.aval)
    return Traits(fresh=True, into=True, over=over, raises=False)


def test_a_chain_is_computed_in_one_place() -> None:
    def f(x: Any) -> Any:
        for _ in range(10):
            x = cr.sin(x)
        return cr.sum(x)

    graph = cr.trace(f, large())
    layout = plan_memory(graph, elementwise, {})
    assert len({id(layout.buffers[node.output]) for node in graph.nodes[:-1]}) == 1
    assert layout.arena_bytes == large().nbytes


def test_an_operand_that_is_needed_later_is_not_written_over() -> None:
    def f(x: Any) -> Any:
        y = cr.sin(x)
        z = cr.cos(y)
        return cr.sum(y * z)

    x = large()
    executable = compiled(f, x)
    np.testing.assert_allclose(executable.run(x)[0], np.sum(np.sin(x) * np.cos(np.sin(x))), rtol=1e-4)
    assert executable.stats["arena_bytes"] == 2 * x.nbytes


def test_what_shares_memory_with_a_result_leaves_the_arena() -> None:
    def f(x: Any) -> Any:
        y = cr.sin(x)
        z = cr.exp(y)
        return y.T, cr.reshape(z, (-1,))[10:20], cr.sum(z)

    x, other = large(), large(1)
    executable = compiled(f, x)
    first = executable.run(x)
    copies = [np.array(out) for out in first]
    executable.run(other)
    for out, copy in zip(first, copies, strict=True):
        np.testing.assert_array_equal(out, copy)


def test_what_a_gate_of_ones_own_hands_through_leaves_the_arena() -> None:
    first = own_gate(lambda x, y: x)
    x, other = large(), large(1)
    run = compiled(lambda x: first(cr.sin(x), cr.cos(x)), x).run
    (out,) = run(x)
    run(other)
    np.testing.assert_array_equal(out, np.sin(x))


def places(f: Callable[..., Any], *xs: Any, **donate: int) -> list[str]:
    """Where each gate writes."""
    plan = make_plan(cr.trace(f, *xs), elementwise, {int(out[1:]): given for out, given in donate.items()})
    return [type(step.place).__name__ for step in plan.steps]


def test_an_operand_of_which_a_view_is_read_too_is_not_written_over() -> None:
    square = np.ones((128, 128), "float32")

    def f(x: Any, y: Any) -> Any:
        z = x * y
        return cr.sum(z * z.T)

    graph = cr.trace(f, square, square)
    traits = lambda node: Traits(raises=False) if node.primitive.name == "permute_dims" else elementwise(node)
    assert [type(step.place).__name__ for step in make_plan(graph, traits, {}).steps] == ["Arena", "New", "Arena", "New"]


def test_memory_is_taken_over_element_by_element_or_when_all_is_read() -> None:
    square = np.ones((128, 128), "float32")
    assert places(lambda v: v * 2.0, square, _0=0) == ["Taken"]
    assert places(lambda v, x: v * x, square, square, _0=0) == ["Taken"]
    assert places(lambda v, x: cr.sin(v + x) * v, square, square, _0=0) == ["Arena", "Over", "Taken"]
    assert places(lambda v, x: cr.sin(v + x), square, square, _0=0) == ["Taken", "Over"]
    traits = lambda node: Traits(fresh=True, into=True, over=(), raises=False)
    assert make_plan(cr.trace(lambda v: v @ v, square), traits, {0: 0}).donors == ()


def test_one_inputs_memory_is_taken_over_once() -> None:
    square = np.ones((128, 128), "float32")

    def f(v: Any) -> Any:
        t = v * 2.0
        return t + 1.0, t - 1.0

    assert places(f, square, _0=0, _1=0).count("Taken") == 1


def test_an_arena_is_used_again() -> None:
    run = compiled(lambda x: cr.sum(cr.sin(x) * cr.exp(x)), large()).run
    run(large())
    (arena,) = run.__globals__["pool"]
    run(large())
    assert [id(memory) for memory in run.__globals__["pool"]] == [id(arena)]


def test_the_arena_is_smaller_than_its_values_together() -> None:
    def f(x: Any) -> Any:
        for i in range(6):
            y = cr.sin(x)
            x = (y @ cr.ones((128, 128), dtype=x.dtype)) + y * float(i)
        return cr.sum(x)

    stats = compiled(f, large()).stats
    assert 0 < stats["arena_bytes"] < stats["unplanned_bytes"] / 2


# Memory that is taken over.


def momentum(v: Any, w: Any, g: Any) -> tuple[Any, Any]:
    v = v * 0.9 + g
    return v, w - v * 0.1


def step() -> Executable:
    return compiled(momentum, large(), large(1), large(2), donate={0: 0, 1: 1})


def test_state_that_is_nobody_elses_is_updated_in_place() -> None:
    run, g = step().run, large(2)
    v, w = Slot(large()), Slot(large(1))
    wanted = momentum(large(), large(1), g)
    places = [slot.value.ctypes.data for slot in (v, w)]
    v.value, w.value = run(v.value, w.value, g)
    assert [slot.value.ctypes.data for slot in (v, w)] == places
    for slot, want in zip((v, w), wanted, strict=True):
        np.testing.assert_allclose(slot.value, want, rtol=1e-6)


HOLDERS: dict[str, Callable[[Any], Any]] = {
    "another name": lambda x: x,
    "a list": lambda x: [x],
    "a view": lambda x: x[:1],
    "a transpose": lambda x: x.T,
    "a memoryview": memoryview,
    "a Tensor": lambda x: Slot(x),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_state_that_somebody_else_holds_stays_as_it_was(name: str) -> None:
    run, g = step().run, large(2)
    v, w = Slot(large()), Slot(large(1))
    holders = [HOLDERS[name](slot.value) for slot in (v, w)]
    outs = run(v.value, w.value, g)
    np.testing.assert_array_equal(v.value, large())
    np.testing.assert_array_equal(w.value, large(1))
    for out, want in zip(outs, momentum(large(), large(1), g), strict=True):
        np.testing.assert_allclose(out, want, rtol=1e-6)
    del holders


def test_state_passed_in_a_list_is_not_taken_over() -> None:
    """The list holds it too."""
    values = [large(), large(1), large(2)]
    step().run(*values)
    np.testing.assert_array_equal(values[0], large())


def read_only(x: Any) -> Any:
    x.flags.writeable = False
    return x


@pytest.mark.parametrize("kind", [read_only, lambda x: np.repeat(x, 2, axis=0)[::2], lambda x: np.array(x)[:]])
def test_memory_that_is_not_the_arrays_own_to_write_is_not_taken_over(kind: Callable[[Any], Any]) -> None:
    run, g = step().run, large(2)
    v, w = Slot(kind(large())), Slot(large(1))
    outs = run(v.value, w.value, g)
    np.testing.assert_array_equal(v.value, large())
    np.testing.assert_allclose(outs[0], momentum(large(), large(1), g)[0], rtol=1e-6)


def test_one_array_for_two_states_is_not_taken_over() -> None:
    run, v, g = step().run, Slot(large()), large(2)
    outs = run(v.value, v.value, g)
    np.testing.assert_array_equal(v.value, large())
    for out, want in zip(outs, momentum(large(), large(), g), strict=True):
        np.testing.assert_allclose(out, want, rtol=1e-6)


def test_what_is_read_later_is_not_taken_over() -> None:
    def f(v: Any, x: Any) -> Any:
        after = v + x
        return after, cr.sum(cr.sin(v) * after)

    run = compiled(f, large(), large(1), donate={0: 0}).run
    v, x = Slot(large()), large(1)
    after, total = run(v.value, x)
    np.testing.assert_allclose(total, np.sum(np.sin(large()) * (large() + x)), rtol=1e-4)
    np.testing.assert_array_equal(after, large() + x)


def test_what_is_a_result_too_is_not_taken_over() -> None:
    run = compiled(lambda v: (v + 1.0, v.T), large(), donate={0: 0}).run
    v = Slot(large())
    _, before = run(v.value)
    np.testing.assert_array_equal(before, large().T)


def test_a_transposed_operand_survives_an_update_in_place() -> None:
    square = np.random.default_rng(0).normal(size=(128, 128)).astype("float32")
    run = compiled(lambda v: v + v.T, square, donate={0: 0}).run
    v = Slot(square.copy())
    (v.value,) = run(v.value)
    np.testing.assert_array_equal(v.value, square + square.T)


def test_a_product_is_not_written_over_its_own_operand() -> None:
    square = np.random.default_rng(0).normal(size=(128, 128)).astype("float32")
    run = compiled(lambda v: v @ v, square, donate={0: 0}).run
    v = Slot(square.copy())
    (v.value,) = run(v.value)
    np.testing.assert_array_equal(v.value, square @ square)


def test_a_step_that_fails_has_changed_nothing() -> None:
    def f(v: Any, labels: Any) -> Any:
        after = v * 0.5
        return after, cr.nn.losses.softmax_cross_entropy(after, labels)

    v, labels = Slot(large()), np.full(LARGE[0], 1000)
    run = compiled(f, v.value, labels, donate={0: 0}).run
    with pytest.raises(ArgumentError, match="labels"):
        run(v.value, labels)
    np.testing.assert_array_equal(v.value, large())
