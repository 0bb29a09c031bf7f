"""Loops that gates write themselves, as machine code: shared by threads where no place needs what another one does, with the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.compiler.pipeline import build

pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")

from chainrule.compiler.native import emit, engine
from chainrule.compiler.native.ir import Module
from chainrule.compiler.native.loops import write_loops
from chainrule.compiler.native.views import whole
from chainrule.core.aval import Aval
from chainrule.core.variable import Variable

DRAWN = np.random.default_rng(0)
X, PLACES = DRAWN.normal(size=(5, 6, 300)), DRAWN.integers(-6, 6, (5, 6, 300))
MATRICES = DRAWN.normal(size=(9, 5, 5)) + 3 * np.eye(5)
LOGITS = DRAWN.normal(size=(2997, 3))
SOFT = np.exp(LOGITS[::-1]) / np.exp(LOGITS[::-1]).sum(1, keepdims=True)

SHARED: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "cumulative_sum": (lambda x: cr.cumulative_sum(x, axis=1), (X,)),
    "cumulative_prod": (lambda x: cr.cumulative_prod(x, axis=0), (X,)),
    "linear_recurrence": (lambda x: cr.linear_recurrence(cr.stop_gradient(x), x, axis=2), (X,)),
    "tril": (cr.tril, (X,)),
    "triu": (cr.triu, (X,)),
    "one_hot": (lambda i: cr.one_hot(i, 7), (PLACES % 7,)),
    "scatter_add": (lambda i, x: cr.scatter_add(i, x, shape=(4, 6, 300), axes=0), (PLACES[0, :5, 0] % 4, X)),
    "scatter_update": (lambda x, i: cr.scatter_update(x, i, X[:, :3], axes=1), (X, np.array([1, -1, 1]))),
    "scatter_along_axis": (lambda i, x: cr.scatter_along_axis(i, x, size=6, axis=1), (PLACES, X)),
    "take_along_axis": (lambda x, i: cr.take_along_axis(x, i, axis=1), (X, PLACES)),
    "solve": (lambda a: cr.linalg.solve(a, a.mT), (MATRICES,)),
    "inv": (cr.linalg.inv, (MATRICES,)),
    "slogdet": (lambda a: cr.linalg.slogdet(a)[1], (MATRICES,)),
    "adjugate": (cr.linalg.adjugate, (MATRICES,)),
    "sort": (cr.sort, (X[:, :, :20],)),
    "random_bits": (lambda key: cr.random.random_bits(key, 2999), (np.array([7, 9], "uint64"),)),
    "soft_cross_entropy": (lambda x, p: cr.softmax_cross_entropy(x, p, reduction="none"), (LOGITS, SOFT)),
}


@pytest.mark.parametrize("gate", SHARED)
def test_threads_share_gates_whose_rounds_are_independent(gate: str) -> None:
    f, given = SHARED[gate]
    (node,) = [node for node in cr.trace(f, *given).nodes if node.primitive.name == gate]
    written = write_loops(Module(), "kernel", node, {x: whole(x) for x in (*node.inputs, *node.outputs)}, Variable(Aval((), np.dtype(np.int64))))
    assert written.call.kernel.units > 1


@pytest.mark.parametrize("gate", SHARED)
def test_shared_gates_give_what_they_give_alone(gate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    f, given = SHARED[gate]
    monkeypatch.setattr(emit, "SMALL", -1)
    executable = build(cr.trace(f, *given), backend="native")
    assert not executable.stats["called_back"]
    found = []
    for threads in (1, 2, 3, 5, 7):
        with engine.pool().using(threads):
            found.append(np.array(executable.run(*given)[0]))
    assert {got.tobytes() for got in found} == {found[0].tobytes()}
    np.testing.assert_allclose(found[0], np.asarray(f(*map(cr.asarray, given))), rtol=1e-9, atol=1e-9)


def test_what_takes_much_memory_of_its_own_is_done_by_one_thread() -> None:
    (node,) = cr.trace(cr.linalg.det, np.ones((2, 60, 60))).nodes
    written = write_loops(
        Module(), "kernel", node, {x: whole(x) for x in (*node.inputs, *node.outputs)}, Variable(Aval((), np.dtype(np.int64))), inner=True
    )
    assert written.call.kernel.units == 1
    assert [x.nbytes for x in written.call.arguments[2:]] == [60 * 60 * 8]


def test_running_sums_begin_with_the_first_element_itself() -> None:
    """A sum that begins with 0 would make 0 of -0, and a decay before the first state NaN of infinity."""
    x = np.array([[-0.0, -0.0], [1.0, 2.0]])
    got = build(cr.trace(lambda x: cr.cumulative_sum(x, axis=1), x), backend="native").run(x)[0]
    assert np.signbit(got[0]).all()
    decay = np.array([np.inf, 0.5])
    np.testing.assert_array_equal(build(cr.trace(cr.linear_recurrence, decay, decay), backend="native").run(decay, decay)[0], [np.inf, np.inf])
