"""The way back through a `while_loop` as machine code: wherever it stands, whatever is carried, and however it ends."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.compiler.native import backend, emit
from chainrule.compiler.native.ir import I64, PTR, VOID, Module
from chainrule.compiler.native.kernel import Call, Kernel
from chainrule.compiler.native.step import Block, write_steps
from chainrule.compiler.native.tasks import Again, Element, Sweep
from chainrule.core import tree
from chainrule.core.aval import Aval
from chainrule.core.errors import AxisError
from chainrule.core.variable import Variable
from test_native_safety import in_process

pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")

RNG = np.random.default_rng(0)
X, W = RNG.normal(size=(40, 8)), 0.3 * RNG.normal(size=(8, 8))
FENCE = b"\xa5" * 64


class Heap:
    """Memory as the C library gives it, where every block moves when it grows, what is freed holds NaN, and something stands behind each.

    Attributes
    ----------
    most : int
        Bytes of the largest block that there is memory for.
    """

    def __init__(self) -> None:
        self.most = 1 << 40
        self._asked: list[int] = []
        self._blocks: dict[int, Any] = {}
        self._freed: list[Any] = []
        self._functions = {
            "realloc": ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(self._realloc),
            "free": ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._free),
        }

    @property
    def symbols(self) -> dict[str, int]:
        return {name: ctypes.cast(function, ctypes.c_void_p).value or 0 for name, function in self._functions.items()}

    def _realloc(self, old: int | None, size: int) -> int | None:
        if size > self.most:
            return None
        block = ctypes.create_string_buffer(b"\xff" * size + FENCE, size + len(FENCE))
        if old is not None:
            ctypes.memmove(block, old, len(self._blocks[old]) - len(FENCE))
            self._free(old)
        self._blocks[ctypes.addressof(block)] = block
        self._asked.append(size)
        return ctypes.addressof(block)

    def _free(self, old: int | None) -> None:
        if old is not None and self._blocks[old].raw.endswith(FENCE):
            block = self._blocks.pop(old)
            ctypes.memset(block, 0xFF, len(block))
            # Nobody else gets it, so that whoever still reads it is found out.
            self._freed.append(block)

    def asked(self) -> list[int]:
        """The bytes of the blocks since this was called last. By now all are freed, and nothing was written behind one."""
        assert not self._blocks
        asked, self._asked, self._freed = self._asked, [], []
        return asked


@pytest.fixture
def heap(monkeypatch: pytest.MonkeyPatch) -> Heap:
    """Where machine code gets its rows from; nothing is too small for several threads."""
    made = Heap()
    monkeypatch.setattr(backend, "load", partial(backend.load, symbols=made.symbols))
    monkeypatch.setattr(emit, "SMALL", -1)
    return made


def native(f: Callable[..., Any]) -> Any:
    return cr.compile(f, backend="native")


def called_back(step: Any) -> list[dict[str, int]]:
    return [compilation["called_back"] for compilation in step.stats().compilations]


def same(got: Any, wanted: Any) -> None:
    for one, other in zip(tree.leaves(got), tree.leaves(wanted), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


# Programs: of a matrix, weights and a number of rounds.


def last(x: Any, w: Any, n: Any) -> list[Any]:
    """Carries of several dtypes, without axes and without elements; one never changes."""
    carry = [x, w, cr.asarray(0), cr.asarray(True), x[:0], cr.sum(w)]

    def body(c: list[Any]) -> list[Any]:
        return [cr.tanh(c[0] @ c[1]) + cr.where(c[3], c[5], 0.5), c[1], c[2] + 1, ~c[3], c[4] * 2.0, c[0][0, 0] * 0.5]

    return cr.while_loop(lambda c: c[2] < n, body, carry)


def plain(x: Any, w: Any, n: Any) -> Any:
    y, _, count, odd, none, number = last(x, w, n)
    return cr.sum(y * y) * cr.where(odd, 1.0, 2.0) + cr.sum(none) + number * count


def exchanged(x: Any, w: Any, n: Any) -> Any:
    """Carries change places; one condition is carried."""
    carry = (x, cr.sin(x), cr.asarray(0), n > 0)
    y, z, *_ = cr.while_loop(lambda c: c[3], lambda c: (c[1] @ w, c[0].mT.mT, c[2] + 1, c[2] + 1 < n), carry)
    return cr.sum(y * x) + cr.sum(z)


def computed(x: Any, w: Any, n: Any) -> Any:
    """Matrices that are there before the loop are read at the beginning of each round, or at its end, and others like them are made in between."""
    v = cr.tanh(w @ w)
    u = cr.sin(v @ w)

    def body(c: tuple[Any, Any]) -> tuple[Any, Any]:
        y = cr.tanh(c[0] @ v)
        z = y @ cr.tanh(y.mT @ y) + y @ cr.sin(y.mT @ c[0])
        return cr.tanh(z @ u + c[0]), c[1] + 1

    return cr.sum(cr.while_loop(lambda c: c[1] < n, body, (x, cr.asarray(0)))[0])


def added(x: Any, w: Any, n: Any) -> Any:
    """What each round reads at its beginning the way back does not read, but what came of it."""
    h = cr.sin(x @ w)

    def body(c: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        y = cr.cumulative_sum(c[0] + h, axis=1)
        return cr.cumulative_sum(cr.cumulative_sum(y * 0.1, axis=0) * 0.1, axis=1), c[1] + cr.sin(c[0]), c[2] + 1

    return cr.sum(cr.while_loop(lambda c: c[2] < n, body, (x, x, cr.asarray(0)))[1])


def in_scan(x: Any, w: Any, n: Any) -> Any:
    end, ys = cr.scan(lambda c, k: (last(c, w, k)[0] + c, cr.sum(c)), x, cr.stack([n, n * 0, n + 3]))
    return cr.sum(end) + cr.sum(ys)


def in_cond(x: Any, w: Any, n: Any) -> Any:
    return cr.cond(n > 1, lambda x: plain(x, w, n), lambda x: plain(x, w * 0.5, n + 2), x)


def in_while(x: Any, w: Any, n: Any) -> Any:
    return cr.sum(cr.while_loop(lambda c: c[1] < n, lambda c: (last(c[0], w, c[1])[0] * 1.1, c[1] + 1), (x, cr.asarray(0)))[0])


def in_batch(x: Any, w: Any, n: Any) -> Any:
    """Each example has its own number of rounds."""
    return cr.sum(cr.vmap(lambda x: cr.while_loop(lambda c: cr.sum(c * c) < 4.0 * n, lambda c: c * 1.3 + cr.sin(c @ w), x))(x))


def unchanged(x: Any, w: Any, n: Any) -> Any:
    return cr.sum(cr.while_loop(lambda c: cr.sum(c) < -1e9, lambda c: c, x) @ w)


def looked_up(x: Any, w: Any, n: Any) -> Any:
    """There is no row for a round after the fortieth."""
    return cr.sum(cr.while_loop(lambda c: c[1] < n, lambda c: (c[0] * 0.9 + cr.take(x, c[1], axis=0), c[1] + 1), (w[0], cr.asarray(0)))[0])


def looked_up_in_scan(x: Any, w: Any, n: Any) -> Any:
    return cr.sum(cr.scan(lambda c, k: (c + looked_up(x, w * c, k), c), cr.sum(w), cr.stack([n, n * 0 + 2]))[1])


PROGRAMS = [plain, exchanged, computed, added, in_scan, in_cond, in_while, in_batch, unchanged, looked_up, looked_up_in_scan]


@pytest.mark.parametrize("program", PROGRAMS)
def test_gradients_are_what_they_are_without_compiling_and_nothing_is_called_back(program: Callable[..., Any], heap: Heap) -> None:
    f = cr.value_and_grad(program, argnums=(0, 1))
    step = native(f)
    for n in map(np.int64, (0, 1, 2, 9)):
        same(step(X, W, n), f(*map(cr.asarray, (X, W, n))))
        heap.asked()
    assert called_back(step) == [{}]


def test_each_example_of_a_batch_may_have_a_gradient_of_its_own(heap: Heap) -> None:
    f = cr.vmap(cr.grad(lambda x: cr.sum(cr.while_loop(lambda c: cr.sum(c * c) < 9.0, lambda c: c * 1.3 + cr.sin(c), x))))
    step = native(f)
    same(step(X), f(cr.asarray(X)))
    assert called_back(step) == [{}]
    heap.asked()


def test_a_loop_may_run_again_after_its_way_back(heap: Heap) -> None:
    rounds = np.int64(5)
    graph = cr.trace(plain, X, W, rounds)

    def f(x: Any, w: Any, n: Any) -> Any:
        value, grad = cr.value_and_grad(lambda x: graph.run(x, w, n))(x)
        return value + graph.run(grad * 0.01, w, n)

    same(native(f)(X, W, rounds), f(*map(cr.asarray, (X, W, rounds))))
    heap.asked()


def test_rows_grow_with_the_rounds(heap: Heap) -> None:
    f = cr.grad(plain, argnums=(0, 1))
    step, rounds = native(f), np.int64(500)
    same(step(X, W, rounds), f(*map(cr.asarray, (X, W, rounds))))
    asked = heap.asked()
    assert asked == [asked[0] << i for i in range(len(asked))]
    # A matrix, a count, a truth value and a number for each round and the last carry; what never changes is in no row.
    assert asked[-1] // 2 < 501 * (X.nbytes + 24) <= asked[-1]
    step(X, W, np.int64(3))
    assert heap.asked() == asked[:1]


def test_without_memory_for_the_rows_the_step_says_so_and_changes_nothing(heap: Heap) -> None:
    total = cr.tensor(np.zeros(8))

    def f(x: Any, w: Any, n: Any) -> Any:
        value, (grad, _) = cr.value_and_grad(in_scan, argnums=(0, 1))(x, w, n)
        total.assign(total + cr.sum(grad, axis=0))
        return value

    step, rounds = native(f), np.int64(100)
    wanted, before, asked = np.asarray(step(X, W, rounds)), np.array(total), heap.asked()
    for most in (max(asked) - 1, 0):
        heap.most = most
        for _ in range(2):
            with pytest.raises(MemoryError, match="while_loop keeps every carry"):
                step(X, W, rounds)
            heap.asked()
            assert np.array_equal(total, before)
    heap.most = max(asked)
    assert np.array_equal(step(X, W, rounds), wanted)
    assert not np.array_equal(total, before)


@pytest.mark.parametrize("program", [looked_up, looked_up_in_scan])
def test_a_position_out_of_range_is_the_eager_error(program: Callable[..., Any], heap: Heap) -> None:
    f = cr.grad(program, argnums=(0, 1))
    step = native(f)
    for rounds in map(np.int64, (40, 41, 60, 39)):
        if rounds <= 40:
            same(step(X, W, rounds), f(*map(cr.asarray, (X, W, rounds))))
        else:
            with pytest.raises(AxisError, match="index 40 is out of range"):
                step(X, W, rounds)
        heap.asked()


@pytest.mark.parametrize("kind", ["loop", "sweep"])
def test_the_status_is_not_set_before_all_threads_have_seen_what_it_was(kind: str) -> None:
    """Whoever sees it later would leave the loop without the others, who would wait for ever."""
    condition, rows, status = (Variable(Aval((), np.dtype(name)), name) for name in ("bool", "int64", "int64"))
    module = Module()
    module.declare("fail", VOID, [PTR, I64, I64])
    call, holds = Call(Kernel("fail", 2), (status,), (status,)), Element(condition, 0)
    task = Again([], holds, [call]) if kind == "loop" else Sweep(rows, 8, status, [], [], [call], holds, [], [])
    write_steps(module, [task], Block({}, {condition: 0, rows: 8}, status), shared=True)
    before = module.text().partition("call void @fail")[0]
    assert "call void @pool_barrier" in before[before.rindex("load i64") :]


ENDLESS = """
    import numpy as np, chainrule as cr
    from chainrule.core.errors import AxisError
    def doubled(w, i):
        return cr.while_loop(lambda s: s < 1.0, lambda s: s * 2.0, cr.take(w, i))
    def f(w, i):
        return cr.sum(cr.while_loop(lambda c: c[1] < 3, lambda c: (c[0] * doubled(w, i + c[1]) * w, c[1] + 1), (w, cr.asarray(0)))[0])
    # Zero is what it reads where there is nothing, which never gets to be one.
    w = np.array([0.0, 0.3, 0.4, 0.5])
    for g in (doubled, f, cr.grad(doubled), cr.grad(f)):
        step = cr.compile(g, backend="native")
        step(w, np.int64(1))
        try:
            step(w, np.int64(4))
        except AxisError:
            print("ended", end=" ")
"""


def test_loops_end_whose_carry_comes_from_where_something_failed() -> None:
    assert in_process(ENDLESS, CHAINRULE_NUM_THREADS="2") == "ended ended ended ended"


def test_callers_at_once_have_rows_of_their_own(heap: Heap) -> None:
    step = native(cr.value_and_grad(plain, argnums=(0, 1)))
    wanted = {n: [np.array(out) for out in tree.leaves(step(X, W, np.int64(n)))] for n in (1, 30, 200)}

    def right(n: int) -> bool:
        return all(np.array_equal(out, want) for out, want in zip(tree.leaves(step(X, W, np.int64(n))), wanted[n], strict=True))

    with ThreadPoolExecutor(3) as callers:
        assert all(callers.map(right, [1, 30, 200] * 20))
    heap.asked()


def test_a_profile_measures_both_ways(heap: Heap) -> None:
    def f(x: Any) -> Any:
        return cr.sum(cr.while_loop(lambda c: c[1] < 70, lambda c: (cr.sin(c[0]), c[1] + 1), (x, cr.asarray(0)))[0])

    measured = cr.profile(native(cr.grad(f)), X, rounds=1)
    gates = {gate: region.calls for region in measured.regions for gate in region.gates}
    assert (gates["sin"], gates["cos"]) == (70, 70)
    heap.asked()


def test_second_derivatives_are_right_and_named_where_python_runs_them() -> None:
    f = cr.hessian(lambda x: cr.sum(cr.while_loop(lambda c: cr.sum(c) < 50.0, lambda c: c * c * 1.1, x)))
    x = np.array([1.5, 1.2])
    step = native(f)
    same(step(x), f(cr.asarray(x)))
    assert called_back(step)[0]
    assert "while_loop_back" not in called_back(step)[0]


BITS = """
    import hashlib
    import numpy as np, chainrule as cr
    from chainrule.compiler.native import emit
    from chainrule.core import tree
    from test_native_while import PROGRAMS, W, X
    emit.SMALL = -1
    made = hashlib.sha256()
    for program in PROGRAMS:
        step = cr.compile(cr.value_and_grad(program, argnums=(0, 1)), backend="native")
        for n in (0, 9):
            for out in tree.leaves(step(np.concatenate([X] * 20), W, np.int64(n))):
                made.update(np.asarray(out).tobytes())
    print(made.hexdigest())
"""


def test_results_are_the_same_bits_with_any_number_of_threads_and_between_canaries() -> None:
    settings = [("1", "0"), ("2", "0"), ("3", "0"), ("5", "0"), ("2", "1")]
    assert len({in_process(BITS, CHAINRULE_NUM_THREADS=threads, CHAINRULE_NATIVE_DEBUG=debug) for threads, debug in settings}) == 1
