"""Tracing: every gate, what a graph takes from outside and assigns, and what a trace leaves alone."""

from __future__ import annotations

import gc
import itertools
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.errors import ArgumentError, GradientError, TraceError
from chainrule.core.interp import EVERYDAY, current
from chainrule.core.primitive import TABLE, functions
from chainrule.core.variable import Variable
from gates import Case, Gate

GATES = {name: Gate(primitive, getattr(functions, name)) for name, primitive in sorted(TABLE.items())}


def bits(x: Any) -> tuple[Any, ...]:
    array = np.asarray(x)
    return array.dtype, array.shape, array.tobytes()


# Every gate


def weighted(case: Case) -> Callable[..., Any]:
    """A scalar that depends on all elements of all outputs."""

    def f(*arrays: Any) -> Any:
        rng = np.random.default_rng(1)
        return sum((cr.sum(out * rng.normal(size=out.shape).astype(out.dtype)) for out in case.real(*arrays)), cr.tensor(0.0, dtype="float64"))

    return f


@pytest.mark.parametrize("name", GATES)
def test_the_graph_of_a_gate_runs_to_the_same_bits_and_has_the_same_gradient(name: str) -> None:
    for case in GATES[name].cases():
        with case:
            graph = cr.trace(case, *case.arrays).verify()
            assert [bits(x) for x in graph.run(*case.arrays)] == [bits(x) for x in case(*case.arrays)]
            assert "0x" not in str(graph)
            if case.differentiable:
                f, every = weighted(case), tuple(range(len(case.arrays)))
                gradient = cr.trace(f, *case.arrays).grad(every).verify()
                for got, expected in zip(gradient.run(*case.arrays), cr.grad(f, every)(*case.arrays), strict=True):
                    assert got.dtype == expected.dtype
                    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=1e-14, atol=1e-300)


# What is taken from outside


def test_what_is_outside_is_read_anew_at_every_run() -> None:
    w = cr.tensor([1.0, 2.0])
    graph = cr.trace(lambda x: x * w, 1.0)
    assert graph.run(3.0).tolist() == [3, 6]
    w.assign([5.0, 6.0])
    assert graph.run(3.0).tolist() == [15, 18]
    w[0] = 0.0
    assert graph.run(3.0).tolist() == [0, 18]


def test_gradients_flow_to_what_is_outside() -> None:
    w = cr.tensor([1.0, 2.0], requires_grad=True)
    graph = cr.trace(lambda x: cr.sum(x * w**2), 1.0)
    graph.run(3.0).backward()
    assert w.grad is not None
    assert w.grad.tolist() == [6, 12]
    assert cr.grad(lambda v: cr.trace(lambda x: cr.sum(x * v**2), 1.0).run(3.0))(w.detach()).tolist() == [6, 12]


def test_numpy_arrays_are_constants_of_the_program() -> None:
    table = np.array([1.0, 2.0])
    graph = cr.trace(lambda x: x * table, 1.0)
    table[:] = 7.0
    assert graph.run(1.0).tolist() == [1, 2]


def test_constants_made_inside_are_written_once() -> None:
    graph = cr.trace(lambda x: x * 2.0 + cr.ones(2) * 2.0 - cr.tensor([3.0, 4.0]) * cr.tensor([3.0, 4.0]), np.ones(2, np.float32))
    assert sorted(np.asarray(value).tolist() for value in graph.constants.values() if value.ndim) == [[3.0, 4.0]]
    assert sum(value.ndim == 0 and value == 2.0 for value in graph.constants.values()) == 1


# What is assigned


def test_a_run_assigns_what_the_function_assigns() -> None:
    count, total, table, last = cr.tensor(0), cr.tensor(0.0), cr.tensor([0.0, 0.0, 0.0]), cr.tensor(0.0)

    def f(x: Any) -> Any:
        nonlocal total
        count.assign(count + 1)
        total += x
        table[1] = x * 2.0
        last.assign(table[1] + total)
        return last * 1.0

    graph = cr.trace(f, 1.0)
    assert (count.item(), total.item(), table.tolist(), last.item()) == (0, 0, [0, 0, 0], 0)
    assert [graph.run(x).item() for x in (1.0, 10.0)] == [3, 31]
    assert (count.item(), total.item(), table.tolist(), last.item()) == (2, 11, [0, 20, 0], 31)
    f(cr.tensor(1.0))
    assert (count.item(), total.item(), table.tolist(), last.item()) == (3, 12, [0, 2, 0], 14)


def test_tensors_among_the_arguments_are_assigned_like_those_outside() -> None:
    def f(x: Any, y: Any) -> Any:
        x += 1.0
        y["a"][0] = 5.0
        return x * 1.0

    graph = cr.trace(f, cr.tensor(1.0), {"a": cr.zeros(2)})
    x, a = cr.tensor(10.0), cr.tensor([1.0, 2.0])
    assert graph.run(x, {"a": a}).item() == 11
    assert (x.item(), a.tolist()) == (11, [5, 2])
    array = np.ones(2, np.float32)
    graph.run(1.0, {"a": array})
    assert array.tolist() == [1, 1]


def test_a_tensor_that_is_assigned_to_is_given_under_one_name_only() -> None:
    w = cr.tensor(2.0)

    def f(x: Any, y: Any) -> Any:
        x += 1.0
        w.assign(w * 3.0)
        return x * y

    graph = cr.trace(f, 0.0, 0.0)
    x = cr.tensor(3.0)
    # Eagerly both names see the assignment; a graph would take them for two values.
    for given, name in (((x, x), "x"), ((1.0, w), "y")):
        with pytest.raises(ArgumentError, match=f"f: the tensor that is assigned to and given as {name} is an input under another name too"):
            graph.run(*given)
    assert (x.item(), w.item()) == (3, 2)
    y = cr.tensor(2.0)
    assert cr.trace(lambda a, b, x: (x.assign(a * b), x)[1], y, y, x).run(y, y, x).item() == 4


def test_assigning_one_outside_tensor_to_another() -> None:
    a, b = cr.tensor(1.0), cr.tensor(2.0)
    graph = cr.trace(lambda: (a.assign(b), None)[1])
    b.assign(3.0)
    graph.run()
    assert a.item() == 3
    b.assign(4.0)
    assert a.item() == 3


def test_draws_go_on_from_run_to_run() -> None:
    generator = cr.random.Generator(5)
    graph = cr.trace(lambda: cr.random.uniform((3,), generator=generator))
    assert generator.get_state().tolist() == [5, 0]
    drawn = [graph.run().tolist() for _ in range(3)]
    again = cr.random.Generator(5)
    assert drawn == [cr.random.uniform((3,), generator=again).tolist() for _ in range(3)]
    assert generator.get_state().tolist() == again.get_state().tolist()


def test_the_default_generator_is_seeded_for_graphs_too() -> None:
    graph = cr.trace(lambda x: cr.random.dropout(x, 0.5), cr.ones(64))
    cr.manual_seed(3)
    first = graph.run(cr.ones(64)).tolist()
    cr.manual_seed(3)
    assert cr.random.dropout(cr.ones(64), 0.5).tolist() == first


def test_a_generator_that_is_made_inside_begins_anew_at_every_run() -> None:
    def f() -> Any:
        generator = cr.random.Generator(7)
        cr.random.uniform((2,), generator=generator)
        return cr.random.uniform((2,), generator=generator)

    graph = cr.trace(f)
    assert not graph.captured
    assert graph.run().tolist() == graph.run().tolist() == f().tolist()


def test_backward_inside_fills_grad_as_it_does_outside() -> None:
    w, v = cr.tensor([1.0, 2.0], requires_grad=True), cr.tensor([3.0], requires_grad=True)

    def f(x: Any) -> Any:
        w.grad = None
        v.grad = None
        loss = cr.sum(w * x) * cr.sum(v)
        loss.backward()
        return loss

    graph = cr.trace(f, 1.0)
    assert w.grad is None
    assert graph.run(2.0).item() == 18
    assert w.grad is not None
    assert v.grad is not None
    assert (w.grad.tolist(), v.grad.tolist()) == ([6, 6], [6])
    graph.run(2.0)
    assert w.grad.tolist() == [6, 6]


def test_gradients_that_are_there_are_added_to() -> None:
    w = cr.tensor([1.0, 2.0], requires_grad=True)

    def f(x: Any) -> None:
        cr.sum(w * x).backward()

    f(1.0)
    graph = cr.trace(f, 1.0)
    for expected in ([4, 4], [7, 7]):
        graph.run(3.0)
        assert w.grad is not None
        assert w.grad.tolist() == expected
    w.grad = None
    with pytest.raises(ArgumentError, match="the gradient w_grad, which the function reads, is None now"):
        graph.run(3.0)


def test_gradients_that_were_not_there_when_traced_are_not_overwritten() -> None:
    w = cr.tensor([1.0, 2.0], requires_grad=True)
    graph = cr.trace(lambda x: cr.sum(w * x).backward(), 1.0)
    graph.run(3.0)
    with pytest.raises(ArgumentError, match="was None, and it is not now") as caught:
        graph.run(3.0)
    assert "zero_grad" in caught.value.mend
    w.grad = None
    graph.run(5.0)
    assert w.grad is not None
    assert w.grad.tolist() == [5, 5]


def test_gradients_are_cleared_and_can_be_read_and_set() -> None:
    w = cr.tensor([1.0, 2.0], requires_grad=True)
    w.grad = cr.tensor([1.0, 1.0])

    def clip(x: Any) -> Any:
        assert w.grad is not None
        norm = cr.sum(w.grad)
        w.grad = w.grad * x
        return norm

    graph = cr.trace(clip, 1.0)
    assert (graph.run(3.0).item(), w.grad.tolist()) == (2, [3, 3])
    cr.trace(lambda: setattr(w, "grad", None)).run()
    assert w.grad is None


# What a trace leaves alone


def test_a_trace_that_fails_leaves_everything_as_it_was() -> None:
    w, state, generator = cr.tensor([1.0], requires_grad=True), cr.tensor(0.0), cr.random.Generator(1)
    w.grad = before = cr.tensor([5.0])
    node = w._node

    def f(x: Any, stop: Callable[[Any], Any]) -> Any:
        nonlocal state
        state += x
        cr.sum(w * x).backward()
        with cr.no_grad():
            w.assign(w * 2.0)
        cr.random.uniform((2,), generator=generator)
        return stop(x)

    def fails(x: Any) -> Any:
        raise KeyError(x)

    for stop, error in ((fails, KeyError), (bool, TraceError), (lambda x: x @ x, cr.errors.ChainruleError)):
        with pytest.raises(error):
            cr.trace(lambda x: f(x, stop), 1.0)  # noqa: B023, it is called at once
    assert (w.tolist(), state.item(), generator.get_state().tolist()) == ([1], 0, [1, 0])
    assert w._node is node
    assert w.grad is before
    assert before.tolist() == [5]
    assert current() is EVERYDAY


def test_a_trace_that_succeeds_does_too_until_it_is_run() -> None:
    w = cr.tensor([1.0], requires_grad=True)
    graph = cr.trace(lambda x: cr.sum(w * x).backward(), 1.0)
    assert w.grad is None
    graph.run(1.0)
    assert w.grad is not None


def keeps_nothing_alive(use: Callable[[Any], None]) -> bool:
    w = cr.tensor([1.0], requires_grad=True)
    gc.disable()
    try:
        held = weakref.ref(w)
        use(w)
        del w
        return held() is None
    finally:
        gc.enable()


def test_a_trace_keeps_nothing_alive() -> None:
    assert keeps_nothing_alive(lambda w: cr.trace(lambda x: cr.sum(w * x).backward(), 1.0).run(1.0))


def test_a_trace_that_fails_keeps_nothing_alive() -> None:
    def use(w: Any) -> None:
        with pytest.raises(TraceError):
            cr.trace(lambda x: bool(cr.sum(w * x)), 1.0)

    assert keeps_nothing_alive(use)


def test_threads_trace_at_once() -> None:
    w, state = cr.tensor([1.0, 2.0], requires_grad=True), cr.tensor(0.0)
    together = threading.Barrier(2)

    def work(factor: float) -> Any:
        def f(x: Any) -> Any:
            together.wait()
            y = x * w * factor
            together.wait()
            state.assign(cr.sum(y))
            loss = cr.sum(y)
            together.wait()
            loss.backward()
            return loss

        return cr.trace(f, 1.0)

    with ThreadPoolExecutor(2) as pool:
        graphs = list(pool.map(work, (10.0, 100.0)))
    assert w.grad is None
    for graph, factor in zip(graphs, (10, 100), strict=True):
        w.grad = None
        assert graph.verify().run(1.0).item() == state.item() == 3 * factor
        assert w.grad is not None
        assert w.grad.tolist() == [factor, factor]
        assert len([node for node in graph.nodes if node.primitive.name == "multiply"]) == 4


# Size


def chain(depth: int) -> Callable[[Any], Any]:
    def f(x: Any) -> Any:
        for _ in range(depth):
            x = cr.sin(x)
        return x

    return f


def test_ten_thousand_operations_are_traced_differentiated_and_run_without_recursion() -> None:
    f = chain(10_000)
    graph = cr.trace(f, 0.5)
    gradient = graph.grad(0).verify()
    assert len(graph.nodes) == 10_000
    assert bits(graph.run(0.5)) == bits(f(cr.tensor(0.5)))
    assert bits(gradient.run(0.5)) == bits(cr.grad(f)(0.5))
    assert len(str(gradient).splitlines()) == len(gradient.nodes) + 2
    assert hash(graph) == hash(cr.trace(f, 0.5))


def test_work_grows_with_the_number_of_operations_and_not_with_its_square() -> None:
    def calls(depth: int) -> int:
        counted = itertools.count()
        sys.setprofile(lambda frame, event, what: next(counted) * 0)
        try:
            graph = cr.trace(chain(depth), 0.5)
            graph.grad(0).verify()
            str(graph)
            hash(graph)
            graph.run(0.5)
        finally:
            sys.setprofile(None)
        return next(counted)

    calls(10)
    assert calls(2000) < 10.1 * calls(200)


def test_examples_may_be_anything_that_tensors_are_made_of() -> None:
    assert cr.trace(lambda x, y, z: x + y + z, cr.tensor(1.0), np.float64(2.0), 3).run(1.0, np.float64(2.0), 3).item() == 6
    with pytest.raises(cr.errors.DtypeError, match="cannot make a tensor of str"):
        cr.trace(lambda x: x, "text")
    with pytest.raises(cr.errors.DtypeError):
        cr.trace(lambda x: x, object())


def test_values_of_a_graph_have_no_numbers() -> None:
    (x, *_) = cr.trace(lambda x: x, np.ones((2, 3))).inputs
    assert isinstance(x, Variable)
    assert (x.size, x.nbytes, x.ndim) == (6, 48, 2)
    with pytest.raises(TraceError, match="has no value outside of it"):
        np.asarray(x)
    with pytest.raises(GradientError):
        cr.trace(lambda x: x * 2.0, 1).grad("x")
