"""The NumPy backend: every gate compiles to what it computes eagerly, bit for bit, and so do its gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.compiler import memory
from chainrule.compiler.numpy_code import Printer, Source
from chainrule.compiler.pipeline import Executable, build
from chainrule.compiler.simplify import simplify
from chainrule.core.primitive import TABLE, functions
from chainrule.graph.ir import Graph
from chainrule.tensor import Tensor, new
from gates import Case, Gate, frozen


def gate_of(name: str) -> Gate:
    return Gate(TABLE[name], getattr(functions, name))


def traced(f: Callable[..., Any], arrays: Sequence[Any]) -> Graph:
    return cr.trace(f, *map(cr.asarray, arrays))


def built(f: Callable[..., Any], arrays: Sequence[Any]) -> Executable:
    return build(traced(f, arrays), check=True)


def values(arrays: Sequence[Any]) -> list[Any]:
    return [cr.asarray(x)._value for x in arrays]


def check_same(outs: Sequence[Any], expected: Sequence[Tensor]) -> None:
    """Equal in every bit, but for the sign of zeros."""
    assert len(outs) == len(expected)
    for out, want in zip(outs, expected, strict=True):
        want = want._value
        assert isinstance(out, np.generic if not want.shape else np.ndarray)
        assert (out.shape, out.dtype) == (want.shape, want.dtype)
        np.testing.assert_array_equal(out, want)


def behind(case: Case) -> Callable[..., list[Tensor]]:
    """The gate of values that lie in the arena, so that it may write over them."""
    return lambda *arrays: case(*(-(-x * 3.0) / 3.0 for x in arrays))


@pytest.fixture(params=["small values are new", "all values are planned"])
def threshold(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples are small; planned all the same, they are written to given memory and over operands."""
    if request.param == "all values are planned":
        monkeypatch.setattr(memory, "LARGE", 1)


@pytest.mark.usefixtures("threshold")
@pytest.mark.parametrize("name", TABLE)
def test_every_gate_compiles_to_what_it_computes(name: str) -> None:
    for case in gate_of(name).cases():
        with case:
            for arrays in (case.arrays, [frozen(np.float32(x)) for x in case.arrays]):
                for f in (case, behind(case)):
                    executable = built(f, arrays)
                    check_same(executable.run(*values(arrays)), f(*map(cr.asarray, arrays)))


def pullback(case: Case) -> Callable[..., list[Tensor]]:
    def gradients(*arrays: Any) -> list[Tensor]:
        def loss(*xs: Any) -> Tensor:
            outs = case.real(*xs)
            weighed = [(out * cr.asarray(np.linspace(0.5, 1.5, out.size).reshape(out.shape).astype(out.dtype))).sum() for out in outs]
            return functions.sum(cr.stack(weighed))

        return list(cr.grad(loss, argnums=tuple(range(len(arrays))))(*arrays))

    return gradients


@pytest.mark.usefixtures("threshold")
@pytest.mark.parametrize("name", [name for name in TABLE if gate_of(name).has_rules])
def test_every_gradient_compiles_to_what_it_is(name: str) -> None:
    for case in gate_of(name).cases():
        with case:
            if not case.differentiable:
                continue
            gradients = pullback(case)
            for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-5)):
                arrays = [frozen(x.astype(dtype)) for x in case.arrays]
                outs = built(gradients, arrays).run(*values(arrays))
                for out, want in zip(outs, gradients(*arrays), strict=True):
                    assert (out.shape, out.dtype) == (want.shape, want.dtype)
                    np.testing.assert_allclose(out, np.asarray(want), rtol=tolerance, atol=tolerance * 1e-2)


@pytest.mark.parametrize("name", TABLE)
def test_what_is_called_new_memory_is(name: str) -> None:
    """What memory planning takes for granted of gates: their values are writable, and share nothing with what they read."""
    for case in gate_of(name).cases():
        with case:
            graph = simplify(traced(case, case.arrays))
            graph.apply([cr.asarray(x) for x in case.arrays], watching(Printer(graph, Source())))


def watching(printer: Printer) -> Callable[..., Any]:
    """An interpreter that holds what gates give against what is taken for granted of them."""
    nodes = iter(printer.graph.nodes)

    def apply(primitive: Any, inputs: Any, params: Any) -> Any:
        traits = printer.traits(next(nodes))
        given = [x._value for x in inputs]
        made = primitive.evaluate(*given, **params)
        for value in made if primitive.outputs else (made,):
            if traits.fresh and value.size and value.shape:
                assert value.flags.writeable
                assert not any(np.shares_memory(value, x) for x in given)
        return tuple(map(new, made)) if primitive.outputs else new(made)

    return apply


def test_the_source_reads_like_code_by_hand() -> None:
    def f(x: Any, w: Any) -> Any:
        h = cr.tanh(x @ w + 1.0)
        loss = cr.mean((h.T - x[0, :2]) ** 2)
        return loss, h

    source = built(f, [np.ones((2, 3), "float32"), np.ones((3, 3), "float32")]).source()
    assert (
        source
        == """\
n1_0 = np.array(1.0, "float32")
tanh = np.tanh
square = np.square

def f(x, w):
    quiet = unheard()
    try:
        t1 = x.dot(w)  # float32(2, 3)
        t2 = t1 + n1_0  # float32(2, 3)
        h = tanh(t2)  # float32(2, 3)
        t3 = h.T  # float32(3, 2)
        t4 = x[0, 0:2]  # float32(2)
        t5 = t3 - t4  # float32(3, 2)
        t6 = square(t5)  # float32(3, 2)
        loss = t6.reshape(-1).dot(ones_6) / 6  # float32()
        return (loss, h)
    finally:
        heard(quiet)
"""
    )


def test_control_flow_prints_as_pythons_own() -> None:
    def f(x: Any, n: Any) -> Any:
        def step(total: Any, row: Any) -> Any:
            total = total * 0.5 + row
            return total, cr.sum(total)

        total, sums = cr.scan(step, cr.zeros((3,), dtype=x.dtype), x, reverse=True)
        grown = cr.while_loop(lambda c: cr.sum(c) < n, lambda c: c * 2.0 + 1.0, total)
        return cr.cond(n > 0, lambda a: cr.exp(-a), lambda a: a, grown), sums

    xs = [np.linspace(0.0, 1.0, 6).reshape(2, 3), np.array(20.0)]
    executable = built(f, xs)
    source = executable.source()
    assert "for i in reversed(range(2)):\n            total, sums[i] = total_body(total, x[i])\n" in source
    assert "_true(grown) if " in source
    assert source.count("\ndef ") == 6
    check_same(executable.run(*values(xs)), list(f(*map(cr.asarray, xs))))


def test_a_fixed_array_is_never_written_to() -> None:
    fixed = np.arange(12.0).reshape(3, 4)
    executable = built(lambda x: (cr.asarray(fixed), x * cr.asarray(fixed)), [np.ones((3, 4))])
    first, product = executable.run(np.ones((3, 4)))
    assert not first.flags.writeable
    np.testing.assert_array_equal(product, fixed)
    assert "# c: float64(3, 4), fixed" in executable.source()


def test_stacks_of_outer_products_are_multiplied_elementwise() -> None:
    columns, rows = np.arange(6.0).reshape(2, 3, 1), np.arange(8.0).reshape(2, 1, 4) - 3
    executable = built(cr.matmul, [columns, rows])
    assert "x1 * x2" in executable.source()
    check_same(executable.run(columns, rows), [cr.asarray(np.einsum("bi,bj->bij", columns[..., 0], rows[:, 0]))])
