"""Tracing: what a graph takes from outside and assigns, what cannot be traced and how that is told, and what a trace leaves alone."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import threading
import time
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


def test_a_trace_keeps_nothing_alive() -> None:
    w = cr.tensor([1.0], requires_grad=True)
    gc.disable()
    try:
        held = weakref.ref(w)
        graph = cr.trace(lambda x, w=w: cr.sum(w * x).backward(), 1.0)
        graph.run(1.0)
        del graph, w
        assert held() is None
    finally:
        gc.enable()


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


# What cannot be traced


def branch(x: Any) -> Any:
    if cr.sum(x) > 0:
        return x
    return -x


def repeat(x: Any) -> Any:
    while cr.sum(x) < 10:
        x = x * 2.0
    return x


ASKS: dict[str, Callable[[Any], Any]] = {
    "if": branch,
    "while": repeat,
    "conditional expression": lambda x: x if x[0] > 0 else -x,
    "and": lambda x: (x[0] > 0) and (x[1] < 3),
    "or": lambda x: (x[0] > 0) or (x[1] < 3),
    "not": lambda x: not x[0],
    "in": lambda x: 1.0 in x,
    "max": lambda x: max(x[0], 0.0),
    "any": lambda x: any(part > 0 for part in x),
    "sorted": lambda x: sorted(x),
}
READS: dict[str, Callable[[Any], Any]] = {
    "float": lambda x: float(x[0]),
    "int": lambda x: int(x[0]),
    "complex": lambda x: complex(x[0]),
    "item": lambda x: x[0].item(),
    "tolist": lambda x: x.tolist(),
    "math": lambda x: math.sin(x[0]),
    "range": lambda x: range(cr.astype(x[0], cr.int64)),
    "index": lambda x: [1, 2, 3][cr.astype(x[0], cr.int64)],
    "size": lambda x: cr.zeros(cr.astype(x[0], cr.int64)),
    "format": lambda x: f"{x[0]:.3f}",
    "np.asarray": lambda x: np.asarray(x),
    "np.array": lambda x: np.array([x[0], x[1]]),
    "np.where": lambda x: np.where(x > 0, x, 0),
    "np.linalg.norm": lambda x: np.linalg.norm(x),
    "numpy": lambda x: x.numpy(),
    "from_dlpack": lambda x: np.from_dlpack(x),
    "pickle": lambda x: pickle.dumps(x),
}


def test_an_assertion_on_values_is_a_branch() -> None:
    def f(x: Any) -> Any:
        assert x > 0, "the caller's own check"
        return x

    with pytest.raises(TraceError) as caught:
        cr.trace(f, 1.0)
    assert "assert x > 0" in caught.value.where


@pytest.mark.parametrize("way", ASKS)
def test_a_branch_on_values_is_told_with_its_line_and_the_mend(way: str) -> None:
    with pytest.raises(TraceError, match="is asked for while a function is traced, where it is not known") as caught:
        cr.trace(ASKS[way], np.ones(2))
    assert __file__ in caught.value.where
    assert "cr.where or cr.cond" in caught.value.mend


def test_the_line_that_is_quoted_is_that_of_the_branch() -> None:
    for f, line in ((branch, "if cr.sum(x) > 0:"), (repeat, "while cr.sum(x) < 10:")):
        with pytest.raises(TraceError) as caught:
            cr.trace(f, np.ones(2))
        assert caught.value.where == f"{__file__}:{f.__code__.co_firstlineno + 1}: {line}"


@pytest.mark.parametrize("way", READS)
def test_reading_numbers_is_told_with_its_line_and_the_mend(way: str) -> None:
    with pytest.raises(TraceError, match="is asked for while a function is traced, where it is not known") as caught:
        cr.trace(READS[way], np.ones(2, np.float32))
    assert __file__ in caught.value.where
    assert "compute with the tensor itself" in caught.value.mend


def test_what_is_outside_cannot_be_read_either_since_it_may_change() -> None:
    w = cr.tensor(2.0)
    with pytest.raises(TraceError, match="the value of w, float32"):
        cr.trace(lambda x: x * w * float(w), 1.0)


def test_the_name_of_what_was_asked_for_is_told() -> None:
    def f(x: Any) -> Any:
        limit = x * 2.0
        return float(limit)

    with pytest.raises(TraceError, match=r"the value of limit, float64\(\),"):
        cr.trace(f, np.float64(1.0))


@pytest.mark.parametrize(
    "f", [lambda x: cr.nonzero(x), lambda x: x[x > 0], lambda x: cr.unique_values(x), lambda x: cr.repeat(x, cr.astype(x, cr.int64))]
)
def test_shapes_that_depend_on_values_are_told(f: Callable[[Any], Any]) -> None:
    with pytest.raises((ArgumentError, TraceError)) as caught:
        cr.trace(f, np.ones(2))
    assert caught.value.mend
    assert __file__ in caught.value.where


def test_lists_of_tensors_are_to_be_stacked() -> None:
    with pytest.raises(TraceError, match="a list of tensors") as caught:
        cr.trace(lambda x: cr.asarray([x, x]), 1.0)
    assert "cr.stack" in caught.value.mend


def test_printing_a_traced_tensor_shows_its_name_shape_and_dtype(capsys: pytest.CaptureFixture[str]) -> None:
    def f(x: Any) -> Any:
        y = x * 2.0
        print(y, [x], f"{y}")  # noqa: T201, it is what is tested
        return y

    cr.trace(f, np.ones(2, np.float32))
    assert capsys.readouterr().out == "tensor(y: float32(2)) [tensor(x: float32(2))] tensor(y: float32(2))\n"


def test_an_error_of_a_gate_is_the_one_that_eager_code_gives() -> None:
    for f in (lambda x: x @ x, lambda x: cr.reshape(x, (5,)), lambda x: x + np.ones(4), lambda x: cr.sum(x, axis=4), lambda x: cr.bitwise_and(x, x)):
        x = np.ones((2, 3))
        with pytest.raises(cr.errors.ChainruleError) as eager:
            f(cr.asarray(x))
        with pytest.raises(type(eager.value)) as traced:
            cr.trace(f, x)
        assert traced.value.what == eager.value.what
        assert __file__ in traced.value.where


# What leaves a trace


def leak() -> tuple[Any, Any]:
    kept: list[Any] = []

    def f(x: Any) -> Any:
        y = x * 2.0
        kept.extend((x, y))
        return y

    cr.trace(f, np.ones(2))
    return kept[0], kept[1]


USES: dict[str, Callable[[Any, Any], Any]] = {
    "operator": lambda x, y: y + 1.0,
    "reflected": lambda x, y: 1.0 + y,
    "of two": lambda x, y: x * y,
    "comparison": lambda x, y: y == x,
    "comparison with itself": lambda x, y: y != y,
    "comparison with a tensor": lambda x, y: cr.ones(2, dtype="float64") == y,
    "negation": lambda x, y: -y,
    "in place": lambda x, y: y.__iadd__(1.0),
    "function": lambda x, y: cr.exp(y),
    "method": lambda x, y: y.sum(),
    "product": lambda x, y: y @ y,
    "index": lambda x, y: y[0],
    "item assignment": lambda x, y: y.__setitem__(0, 1.0),
    "iteration": lambda x, y: list(y),
    "reshape": lambda x, y: y.reshape(2, 1),
    "where": lambda x, y: cr.where(y > 0, y, 0.0),
    "joining": lambda x, y: cr.concat([y, y]),
    "stacking": lambda x, y: cr.stack([cr.ones(2, dtype="float64"), y]),
    "conversion": lambda x, y: cr.astype(y, cr.float32),
    "new tensor": lambda x, y: cr.tensor(y),
    "list": lambda x, y: cr.asarray([y, y]),
    "detach": lambda x, y: y.detach() * 1.0,
    "copy": lambda x, y: copy.copy(y) * 1.0,
    "deep copy": lambda x, y: copy.deepcopy(y) * 1.0,
    "pickle": lambda x, y: pickle.dumps(y),
    "NumPy": lambda x, y: np.asarray(y),
    "NumPy's operator": lambda x, y: np.ones(2) * y,
    "DLPack": lambda x, y: np.from_dlpack(y),
    "numbers": lambda x, y: y.tolist(),
    "truth": lambda x, y: bool(y[0] > 0),
    "known values": lambda x, y: cr.nonzero(y),
    "gradient": lambda x, y: cr.grad(lambda z: cr.sum(z * y))(np.ones(2)),
    "other trace": lambda x, y: cr.trace(lambda z: z * y, 1.0).run(1.0),
    "run": lambda x, y: cr.trace(lambda z: z * 2.0, np.ones(2)).run(y),
    "assigned": lambda x, y: cr.zeros(2, dtype="float64").assign(y) + 1.0,
}


@pytest.mark.parametrize("use", USES)
def test_what_leaves_a_trace_is_named_at_its_first_use(use: str) -> None:
    x, y = leak()
    assert repr(y) == str(y) == "tensor(y: float64(2))"
    assert y.shape == (2,)
    with pytest.raises(TraceError, match=r"[xy], float64\(2\), was made while a function was traced, and has no value outside") as caught:
        USES[use](x, y)
    assert __file__ in caught.value.where
    assert "return it from the function" in caught.value.mend


# Traces within traces and modes


def test_traces_nest() -> None:
    w = cr.tensor(2.0, requires_grad=True)

    def outer(x: Any) -> Any:
        inner = cr.trace(lambda z: cr.sin(z * x) * w, 1.0)
        assert len(inner.captured) == 2
        return inner.run(x) + inner.grad("z").run(x * 2.0)

    graph = cr.trace(outer, 0.5).verify()
    assert [x.name for x in graph.inputs] == ["x", "w"]
    assert bits(graph.run(0.5)) == bits(outer(cr.tensor(0.5)))
    assert bits(graph.grad(0).run(0.5)) == bits(cr.grad(outer)(0.5))


def test_transforms_trace_and_traces_transform() -> None:
    f = lambda x: cr.sum(cr.exp(x) * x)
    x = np.array([0.1, 0.2])
    expected = cr.grad(f)(x)
    assert bits(cr.trace(cr.grad(f), x).run(x)) == bits(expected)
    assert bits(cr.grad(cr.trace(f, x).run)(x)) == bits(expected)
    assert bits(cr.trace(f, x).grad(0).run(x)) == bits(expected)
    tangent = cr.jvp(f, (x,), (x,))[1]
    assert bits(cr.trace(lambda x: cr.jvp(f, (x,), (x,))[1], x).run(x)) == bits(tangent)
    assert bits(cr.jvp(cr.trace(f, x).run, (x,), (x,))[1]) == bits(tangent)
    out, pull = cr.vjp(cr.trace(f, x).run, x)
    assert bits(out) == bits(f(cr.asarray(x)))
    assert bits(pull(1.0)[0]) == bits(expected)
    hessian = lambda f: cr.grad(lambda x: cr.sum(cr.grad(f)(x)))
    assert bits(cr.trace(hessian(f), x).run(x)) == bits(hessian(f)(x))
    assert bits(hessian(cr.trace(f, x).run)(x)) == bits(hessian(f)(x))


def test_arguments_that_require_a_gradient() -> None:
    x = cr.tensor([1.0, 2.0], requires_grad=True)
    graph = cr.trace(lambda x: cr.sum(x**2), x)
    graph.run(x).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2, 4]
    assert graph.run(x.detach()).requires_grad is False


def test_a_trace_under_no_grad_can_be_differentiated() -> None:
    w = cr.tensor(2.0, requires_grad=True)
    with cr.no_grad():
        graph = cr.trace(lambda x: w * x**2, 3.0)
        assert graph.grad("x").run(3.0).item() == 12
        assert not graph.run(3.0).requires_grad
    assert graph.run(3.0).requires_grad
    assert cr.grad(graph.run)(3.0).item() == 12


@cr.no_grad()
def squared(x: Any) -> Any:
    return x * x


def through_no_grad(x: Any) -> Any:
    with cr.no_grad():
        y = x * x
    return cr.sum(y * x)


def through_enable_grad(x: Any) -> Any:
    with cr.no_grad(), cr.enable_grad():
        y = x * x
    return cr.sum(y * x)


def through_a_leaf(x: Any) -> Any:
    z = x.detach().requires_grad_()
    cr.sum(z**3).backward()
    return cr.sum(z.grad * x)


def through_a_gradient_in_no_grad(x: Any) -> Any:
    with cr.no_grad():
        g = cr.grad(lambda z: cr.sum(z**3))(x)
    return cr.sum(g * x)


def through_a_tangent_in_no_grad(x: Any) -> Any:
    with cr.no_grad():
        out, t = cr.jvp(lambda z: z**3, (x,), (x,))
    return cr.sum(t * x) + cr.sum(out)


def through_state(x: Any) -> Any:
    state = cr.zeros(2, dtype="float64")
    state.assign(x * x)
    return cr.sum(state * x)


def through_training(x: Any) -> Any:
    w = cr.tensor([1.0, 1.0], dtype="float64", requires_grad=True)
    optimizer = cr.optim.SGD([w], lr=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        cr.sum((w * x) ** 2).backward()
        optimizer.step()
    return cr.sum(w * x)


def through_changes(x: Any) -> Any:
    y = x * 1.0
    y += x
    y[0] = x[1] * 3.0
    return cr.sum(y * x)


def through_a_branch_without_gradient(x: Any) -> Any:
    with cr.no_grad():
        y = cr.cond(cr.sum(x) > 0, lambda x: cr.sum(x * x), cr.sum, x)
    return cr.sum(y * x)


def without_gradient_in_a_branch(x: Any) -> Any:
    return cr.cond(cr.sum(x) > 0, through_no_grad, cr.sum, x)


CUTS: dict[str, Callable[[Any], Any]] = {
    "detach": lambda x: cr.sum(x.detach() * x),
    "stop_gradient": lambda x: cr.sum(cr.stop_gradient(x) * x),
    "new tensor": lambda x: cr.sum(cr.tensor(x) * x),
    "copy": lambda x: cr.sum(copy.copy(x) * x),
    "no_grad": through_no_grad,
    "no_grad as a decorator": lambda x: cr.sum(squared(x) * x),
    "no_grad to the end": lambda x: cr.sum(squared(x)) + cr.sum(x),
    "enable_grad": through_enable_grad,
    "a leaf": through_a_leaf,
    "a gradient in no_grad": through_a_gradient_in_no_grad,
    "a tangent in no_grad": through_a_tangent_in_no_grad,
    "a gradient": lambda x: cr.sum(cr.grad(lambda z: cr.sum(z**3))(x) * x),
    "state": through_state,
    "training": through_training,
    "changes in place": through_changes,
    "cond in no_grad": through_a_branch_without_gradient,
    "no_grad in cond": without_gradient_in_a_branch,
    "vmap": lambda x: cr.sum(cr.vmap(lambda z: z.detach() * z)(x)),
    "integers": lambda x: cr.sum(cr.astype(x, cr.int64) * x),
}


@pytest.mark.parametrize("way", CUTS)
def test_a_graph_passes_the_derivatives_that_eager_code_passes_and_no_others(way: str) -> None:
    f, x = CUTS[way], np.array([0.5, 1.5])
    graph = cr.trace(f, x).verify()
    expected, tangent = cr.grad(f)(x), cr.jvp(f, (x,), (x,))[1]
    second = cr.grad(lambda x: cr.sum(cr.grad(f)(x)))(x)
    for got in (graph.grad(0).run(x), cr.grad(graph.run)(x), cr.grad(cr.trace(graph.run, x).run)(x)):
        np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=1e-14)
    np.testing.assert_allclose(np.asarray(cr.jvp(graph.run, (x,), (x,))[1]), np.asarray(tangent), rtol=1e-14)
    for gradient in (graph.grad(0).run, cr.grad(graph.run)):
        got = cr.grad(lambda x: cr.sum(gradient(x)))(x)  # noqa: B023, it is called at once
        np.testing.assert_allclose(np.asarray(got), np.asarray(second), rtol=1e-14)


# Size


def chain(depth: int) -> Callable[[Any], Any]:
    def f(x: Any) -> Any:
        for _ in range(depth):
            x = cr.sin(x)
        return x

    return f


def test_ten_thousand_operations_are_traced_differentiated_and_run_without_recursion() -> None:
    results: list[Any] = []

    def work() -> None:
        graph = cr.trace(chain(10_000), 0.5)
        gradient = graph.grad(0).verify()
        results.extend((len(graph.nodes), graph.run(0.5).item(), gradient.run(0.5).item(), len(str(gradient).splitlines()), hash(graph)))

    threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(0)
    assert results[0] == 10_000
    assert results[1] == chain(10_000)(cr.tensor(0.5)).item()
    assert results[2] == cr.grad(chain(10_000))(0.5).item()


def test_time_grows_with_the_number_of_operations_and_not_with_its_square() -> None:
    def seconds(depth: int) -> float:
        best = math.inf
        for _ in range(3):
            began = time.perf_counter()
            graph = cr.trace(chain(depth), 0.5)
            graph.grad(0)
            str(graph)
            hash(graph)
            best = min(best, time.perf_counter() - began)
        return best

    # Twenty times the operations, at most sixty times the time; were it quadratic, it would be four hundred.
    assert seconds(6000) < 60 * seconds(300)


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
