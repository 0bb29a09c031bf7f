"""The compiler behind cr.compile: memory that is planned, memory that is taken over, regions, and the pipeline as a whole."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr
from chainrule.compiler import pipeline
from chainrule.compiler.fusion import is_elementwise, regions
from chainrule.compiler.memory import ALIGNMENT, Buffer, Traits, pack, plan_memory
from chainrule.compiler.pipeline import Executable, build
from chainrule.compiler.plan import make_plan
from chainrule.compiler.simplify import simplify
from chainrule.core.errors import ArgumentError, AxisError, TraceError
from chainrule.core.primitive import Primitive, functions
from chainrule.graph.ir import Graph
from chainrule.tape import bind
from programs import Program, arguments, programs

LARGE = (96, 128)
"""float32 arrays of this shape are worth planning."""


class Slot:
    """What holds an array as a Tensor does."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def large(seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=LARGE).astype("float32")


def compiled(f: Callable[..., Any], *xs: Any, **options: Any) -> Executable:
    return build(cr.trace(f, *xs), check=True, **options)


# Memory.


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


def own_gate(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    """A gate of two inputs that no table knows."""
    primitive = Primitive(name="own", inputs=("x", "y"), aval=lambda x, y: x, eval=evaluate, batch=lambda *given: None)
    return lambda x, y: bind(primitive, (x, y))


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


def wide(program: Program) -> Callable[..., Any]:
    """The program on large values: everything is planned."""
    return lambda *xs: program(*(x * 1.5 for x in xs))


SHAPES = ((96, 128), (128,), (96, 1), ())


@settings(max_examples=60)
@given(programs(8))
def test_later_calls_change_no_results(program: Program) -> None:
    executable = compiled(wide(program), *arguments(SHAPES))
    first = executable.run(*arguments(SHAPES))
    copies = [np.array(out) for out in first]
    executable.run(*arguments(SHAPES, seed=1))
    for out, copy in zip(first, copies, strict=True):
        np.testing.assert_array_equal(out, copy)


@settings(max_examples=60)
@given(programs(8))
def test_compiled_is_eager(program: Program) -> None:
    """Planned in memory or not; and a call leaves its arguments as they were."""
    for shapes in (SHAPES, ((3, 4), (4,), (3, 1), ())):
        xs = arguments(shapes)
        copies = [np.array(x) for x in xs]
        with np.errstate(all="ignore"):
            wanted = wide(program)(*map(cr.asarray, xs))
        for out, want in zip(compiled(wide(program), *xs).run(*xs), wanted, strict=True):
            assert (out.shape, out.dtype) == (want.shape, want.dtype)
            np.testing.assert_array_equal(out, np.asarray(want))
        for x, copy in zip(xs, copies, strict=True):
            np.testing.assert_array_equal(x, copy)


@settings(max_examples=40)
@given(programs(6))
def test_compiled_gradients_are_eager_ones(program: Program) -> None:
    def loss(*xs: Any) -> Any:
        return functions.sum(cr.stack([cr.sum(x) for x in wide(program)(*xs)]))

    gradient = cr.grad(loss, argnums=(0, 1, 2, 3))
    xs = arguments(((12, 8), (8,), (12, 1), ()))
    for out, want in zip(compiled(gradient, *xs).run(*xs), gradient(*map(cr.asarray, xs)), strict=True):
        np.testing.assert_allclose(out, np.asarray(want), rtol=1e-12, atol=1e-12)


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


# Running.


def test_several_threads_may_run_one_executable() -> None:
    def f(x: Any) -> Any:
        for _ in range(5):
            x = cr.sin(x) + cr.cos(x) * x
        return cr.sum(x, axis=0)

    run = compiled(f, large()).run
    wanted = {seed: run(large(seed))[0] for seed in range(4)}
    wrong: list[int] = []

    def work(seed: int) -> None:
        x = large(seed)
        wrong.extend(seed for _ in range(50) if not np.array_equal(run(x)[0], wanted[seed]))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_executable_may_run_inside_itself() -> None:
    runs: list[Callable[..., Any]] = []

    def evaluate(x: Any, y: Any) -> Any:
        if len(runs) == 1:
            runs.append(runs[0])
            runs[0](large(3))
        return x * y

    times = own_gate(evaluate)
    run = compiled(lambda x: cr.sum(times(cr.sin(x), cr.cos(x)) - cr.exp(x)), large()).run
    runs.append(run)
    np.testing.assert_allclose(run(large())[0], np.sum(np.sin(large()) * np.cos(large()) - np.exp(large())), rtol=1e-4)
    assert len(runs) == 2


def test_warnings_are_off_inside_and_as_they_were_outside() -> None:
    run = compiled(lambda x: cr.log(x) / x, np.zeros(3)).run
    with warnings.catch_warnings(), np.errstate(all="warn", over="raise"):
        warnings.simplefilter("error")
        run(np.zeros(3))
        assert np.geterr() == {"divide": "warn", "over": "raise", "under": "warn", "invalid": "warn"}


def test_warnings_are_as_they_were_after_an_error() -> None:
    run = compiled(lambda x, i: x[i], np.ones(3), np.array([0])).run
    before = np.geterr()
    with pytest.raises(AxisError, match="out of range"):
        run(np.ones(3), np.array([7]))
    assert np.geterr() == before


def test_numbers_are_numpy_scalars() -> None:
    f = lambda x: (cr.sum(x), x[0, 0], cr.reshape(x[:1, :1], ()), cr.einsum("ij->", x), cr.linalg.det(x))
    assert all(isinstance(out, np.float64) for out in compiled(f, np.eye(3)).run(np.eye(3)))


# The pipeline.


def test_stats_say_what_was_done() -> None:
    def f(x: Any) -> Any:
        return cr.cumulative_sum(cr.sin(x * 1.0), axis=0) + cr.linalg.inv(x @ x.T).sum()

    stats = compiled(f, np.eye(3)[:, 0] + np.eye(3)).stats
    simplified = stats["passes"]["simplify"]
    assert simplified["before"] == simplified["after"] + 1
    assert all(entry["milliseconds"] >= 0 for entry in stats["passes"].values())
    assert stats["called_back"] == {"cumulative_sum": 1, "inv": 1}
    assert stats["arena_bytes"] == 0


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ArgumentError, match="no backend 'gpu'"):
        build(cr.trace(lambda x: x, 1.0), backend="gpu")


def test_a_pass_that_loses_a_gate_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def losing(graph: Graph) -> Graph:
        return graph.with_nodes(graph.nodes[1:], graph.outputs)

    monkeypatch.setattr(pipeline, "simplify", losing)
    with pytest.raises(TraceError, match="used before it is defined"):
        compiled(lambda x: cr.sin(cr.cos(x)), 1.0)


def test_a_pass_that_changes_a_shape_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def reshaping(graph: Graph) -> Graph:
        first, *others = graph.nodes
        return graph.with_nodes([type(first)(first.primitive, first.inputs, {"axis": (0,), "keepdims": True}, first.outputs), *others], graph.outputs)

    monkeypatch.setattr(pipeline, "simplify", reshaping)
    with pytest.raises(TraceError, match="its gate gives"):
        compiled(lambda x: cr.sin(cr.sum(x, axis=0)), np.ones((2, 3)))


def test_a_wrong_pass_that_keeps_shapes_is_seen_in_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the comparisons above rest on: they see a sine that became a cosine."""

    def wrong(graph: Graph) -> Graph:
        first, *others = simplify(graph).nodes
        return graph.with_nodes([type(first)(cr.trace(cr.cos, 1.0).nodes[0].primitive, first.inputs, {}, first.outputs), *others], graph.outputs)

    monkeypatch.setattr(pipeline, "simplify", wrong)
    assert compiled(lambda x: cr.sin(x), 1.0).run(np.float32(1.0))[0] != np.sin(np.float32(1.0))


def test_names_that_python_or_the_source_has_already_are_no_trouble() -> None:
    def f(exp: Any, np: Any) -> Any:
        abs = cr.exp(exp) * cr.abs(np)
        unheard = abs + 1.0
        pool = cr.sum(unheard)
        return pool, exp * 2.0

    x = large()
    total, double = compiled(f, x, x).run(x, x)
    np.testing.assert_allclose(total, np.sum(np.exp(x) * abs(x) + 1), rtol=1e-4)
    np.testing.assert_array_equal(double, x * 2)


def test_ten_thousand_gates_compile() -> None:
    def f(x: Any) -> Any:
        for i in range(5_000):
            x = x * 0.999 + cr.sin(x) * (1.0 / (i + 1))
        return x

    executable = build(cr.trace(f, 0.3))
    x = np.float32(0.3)
    for i in range(5_000):
        x = x * np.float32(0.999) + np.sin(x) * np.float32(1.0 / (i + 1))
    np.testing.assert_allclose(executable.run(np.float32(0.3))[0], x, rtol=1e-6)


# Fusion.


def order_of(found: Sequence[Any], graph: Graph) -> bool:
    known = {*graph.inputs, *graph.constants}
    for region in found:
        if not known.issuperset(region.inputs):
            return False
        known.update(x for node in region.nodes for x in node.outputs)
    return known.issuperset(graph.outputs)


@given(programs(14))
def test_regions_can_run_one_after_the_other(program: Program) -> None:
    graph = cr.trace(lambda *xs: program(*xs), *arguments())
    found = regions(graph)
    assert sorted(id(node) for region in found for node in region.nodes) == sorted(map(id, graph.nodes))
    assert order_of(found, graph)
    for region in found:
        inside = {x for node in region.nodes for x in node.outputs}
        if len(region.nodes) > 1:
            assert region.shape is not None
            assert all(node.inputs[0].shape == region.shape for node in region.nodes if not is_elementwise(node))
            # What is the same for all elements, or for a row of them, may be computed with them.
            shapes = {node.output.shape for node in region.nodes if is_elementwise(node)}
            assert all(shape in (region.shape, (*region.shape[:-1], 1)) or np.prod(shape) == 1 for shape in shapes)
            # What a loop has summed up is there when it is over.
            sums = {node.output for node in region.nodes if not is_elementwise(node)}
            assert sums.isdisjoint(x for node in region.nodes for x in node.inputs)
        assert inside.isdisjoint(region.inputs)
        used = {x for other in found if other is not region for node in other.nodes for x in node.inputs} | set(graph.outputs)
        assert set(region.outputs) == inside & used


def test_a_chain_and_the_sum_behind_it_are_one_region() -> None:
    graph = cr.trace(lambda x, y: cr.sum(cr.tanh(x * y + 1.0), axis=0), np.ones((2, 3)), np.ones(3))
    (region,) = regions(graph)
    assert [node.primitive.name for node in region.nodes] == ["multiply", "add", "tanh", "sum"]
    assert region.shape == (2, 3)


def test_a_value_that_leaves_and_comes_back_divides_a_region() -> None:
    def f(x: Any) -> Any:
        y = cr.sin(x)
        return cr.cos(y) + y @ y

    found = regions(cr.trace(f, np.ones((3, 3))))
    assert [[node.primitive.name for node in region.nodes] for region in found] == [["sin", "cos"], ["matmul"], ["add"]]


def test_independent_loops_of_one_shape_may_become_one() -> None:
    found = regions(cr.trace(lambda x, y: cr.sin(x) + cr.cos(y), np.ones(3), np.ones(3)))
    assert [len(region.nodes) for region in found] == [3]


def test_what_one_later_loop_reads_alone_is_computed_there() -> None:
    def update(x: Any, kernel: Any, velocity: Any) -> Any:
        new = 0.9 * velocity + x.T @ x
        return kernel - 0.1 * new, new

    found = regions(cr.trace(update, np.ones((4, 3)), np.ones((3, 3)), np.ones((3, 3))))
    assert [len(region.nodes) for region in found] == [1, 1, 4]
    # Unless what it reads would have to be kept for longer, or it can stand behind a product.
    two = cr.trace(lambda x, y: (x @ y + y @ x) * 0.5 + cr.sqrt(x @ x) @ x, np.ones((3, 3)), np.ones((3, 3)))
    assert [len(region.nodes) for region in regions(two)] == [1, 1, 2, 1, 1, 1, 1]


def test_what_a_loop_has_summed_up_is_read_by_the_next_one() -> None:
    found = regions(cr.trace(lambda x: cr.cos(cr.sum(cr.sin(x), axis=0, keepdims=True)), np.ones((1, 3))))
    assert [[node.primitive.name for node in region.nodes] for region in found] == [["sin", "sum"], ["cos"]]
