"""The compiler behind cr.compile: any program gives what it gives uncompiled, executables run as they should, and the pipeline as a whole."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import chainrule as cr
from chainrule.compiler import pipeline
from chainrule.compiler.pipeline import Executable, build
from chainrule.compiler.simplify import simplify
from chainrule.core.errors import ArgumentError, AxisError, TraceError
from chainrule.core.primitive import Primitive, functions
from chainrule.graph.ir import Graph
from chainrule.tape import bind
from programs import Program, arguments, programs

LARGE = (96, 128)
"""float32 arrays of this shape are worth planning."""


def large(seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=LARGE).astype("float32")


def compiled(f: Callable[..., Any], *xs: Any, **options: Any) -> Executable:
    return build(cr.trace(f, *xs), check=True, **options)


def own_gate(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    """A gate of two inputs that no table knows."""
    primitive = Primitive(name="own", inputs=("x", "y"), aval=lambda x, y: x, eval=evaluate, batch=lambda *given: None)
    return lambda x, y: bind(primitive, (x, y))


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
