"""Steps of native code, called from Python with arrays of every form."""

from __future__ import annotations

import os
import signal
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from chainrule.compiler.native import engine
from chainrule.compiler.native.entry import _Entry, enter
from chainrule.compiler.native.fastcall import Result, Word, usable
from chainrule.core.aval import Aval
from chainrule.core.errors import ArgumentError, DtypeError, ShapeError
from test_native_engine import in_process

llvmlite = pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")

# Inputs: x of 12 float32, a weight without axes. Outputs: x * weight, and the last value of that. By thread 0 alone.
SCALE = """
define void @scale(ptr %args, i64 %thread, i64 %threads) nounwind {
entry:
  %first = icmp eq i64 %thread, 0
  br i1 %first, label %start, label %done
start:
  %x = load ptr, ptr %args, align 8
  %p1 = getelementptr ptr, ptr %args, i64 1
  %w = load ptr, ptr %p1, align 8
  %p2 = getelementptr ptr, ptr %args, i64 2
  %y = load ptr, ptr %p2, align 8
  %p3 = getelementptr ptr, ptr %args, i64 3
  %s = load ptr, ptr %p3, align 8
  %weight = load float, ptr %w, align 4
  br label %loop
loop:
  %i = phi i64 [ 0, %start ], [ %next, %loop ]
  %from = getelementptr float, ptr %x, i64 %i
  %a = load float, ptr %from, align 4
  %b = fmul float %a, %weight
  %to = getelementptr float, ptr %y, i64 %i
  store float %b, ptr %to, align 4
  store float %b, ptr %s, align 4
  %next = add nsw i64 %i, 1
  %more = icmp slt i64 %next, 12
  br i1 %more, label %loop, label %done
done:
  ret void
}
define void @nothing(ptr %args, i64 %thread, i64 %threads) nounwind {
  ret void
}
define void @fails(ptr %args, i64 %thread, i64 %threads) nounwind {
  %p = getelementptr ptr, ptr %args, i64 3
  %status = load ptr, ptr %p, align 8
  %q = load ptr, ptr %args, align 8
  %wanted = load i64, ptr %q, align 8
  %bad = icmp ne i64 %wanted, 0
  br i1 %bad, label %say, label %done
say:
  store i64 %wanted, ptr %status, align 8
  ret void
done:
  ret void
}
"""
F32, F64, I64 = np.dtype("float32"), np.dtype("float64"), np.dtype("int64")
MATRIX, NUMBER = Aval((3, 4), F32), Aval((), F32)
X = np.arange(12, dtype=np.float32).reshape(3, 4)
TWO = np.float32(2)
Run = Callable[..., tuple[Any, ...]]


@pytest.fixture(params=["fast", "direct", "long"])
def scale(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The step, called in every way there is."""
    code = engine.load(SCALE)
    if request.param == "long":
        monkeypatch.setattr("chainrule.compiler.native.entry.usable", lambda: False)
    elif not usable():
        pytest.skip("this Python keeps its objects otherwise: run on CPython of 64 bits with its lock")
    return enter(code.address("scale"), [MATRIX, NUMBER], [MATRIX, NUMBER], direct=request.param == "direct", keep=code)


def unaligned() -> np.ndarray:
    return np.frombuffer(b"x" + X.tobytes(), F32, offset=1).reshape(3, 4)


def entry_of(run: Run) -> _Entry:
    """What is behind a function that `enter` gave."""
    owner = run.__self__
    return owner if isinstance(owner, _Entry) else owner.long.__self__


def gives(run: Run, x: Any, weight: Any = TWO) -> tuple[Any, ...]:
    y, last = run(x, weight)
    assert y.tolist() == (np.asarray(x, np.float32) * np.float32(weight)).tolist()
    assert type(last) is np.float32
    assert last == y[-1, -1]
    return y, last


def test_a_step_is_called_with_arrays_and_returns_arrays_and_scalars(scale: Run) -> None:
    for weight in (2, 3, -1, 2):
        y, _ = gives(scale, X, np.float32(weight))
        assert (y.shape, y.dtype, type(y)) == ((3, 4), F32, np.ndarray)
        assert y.flags.writeable
        assert y.ctypes.data % 64 == 0


@pytest.mark.parametrize(
    "form",
    [
        lambda: np.asfortranarray(X),
        lambda: np.repeat(X, 2, axis=1)[:, ::2],
        lambda: X[::-1, ::-1],
        lambda: np.broadcast_to(X[0], (3, 4)),
        unaligned,
        lambda: X.astype(">f4"),
        lambda: np.frombuffer(X.tobytes(), F32).reshape(3, 4),
        lambda: X.view(type("Own", (np.ndarray,), {})),
    ],
    ids=["fortran", "strided", "reversed", "broadcast", "unaligned", "swapped", "read-only", "subclass"],
)
def test_inputs_may_lie_in_memory_as_they_like(scale: Run, form: Callable[[], np.ndarray]) -> None:
    x = form()
    before = np.array(x)
    for _ in range(3):
        gives(scale, x)
    assert np.array_equal(x, before)


@pytest.mark.parametrize("weight", [np.float32(3), np.array(3, np.float32), np.full((1, 2), 3, np.float32)[0, 1:].reshape(())])
def test_values_without_axes_may_be_scalars_or_arrays(scale: Run, weight: Any) -> None:
    for _ in range(3):
        gives(scale, X, weight)


@pytest.mark.parametrize(
    ("args", "error", "words"),
    [
        ((X[:2], TWO), ShapeError, r"input 0 .* float32\(3, 4\), and got shape \(2, 4\)"),
        ((X.ravel(), TWO), ShapeError, "input 0"),
        ((X.T, TWO), ShapeError, "input 0"),
        ((X.astype(F64), TWO), DtypeError, "input 0 .* got float64"),
        ((X, np.float64(2)), DtypeError, "input 1 .* got float64"),
        ((X, np.ones(1, F32)), ShapeError, "input 1"),
        ((X,), ShapeError, "2 arrays got 1"),
        ((X, TWO, TWO), ShapeError, "2 arrays got 3"),
        ((), ShapeError, "2 arrays got 0"),
    ],
)
def test_what_does_not_fit_is_refused_and_breaks_nothing(scale: Run, args: tuple[Any, ...], error: type[Exception], words: str) -> None:
    for _ in range(2):
        with pytest.raises(error, match=words):
            scale(*args)
        gives(scale, X)


def test_results_are_never_overwritten_while_anything_holds_them(scale: Run) -> None:
    held: list[tuple[Any, np.ndarray]] = []
    for i in range(60):
        y, _ = scale(X, np.float32(i))
        whole = y.copy()
        # The array, a view, a view of a view, a buffer, an iterator.
        forms: list[Callable[[np.ndarray], Any]] = [
            lambda y: y,
            lambda y: y[1:],
            lambda y: y.T[1:].reshape(-1)[::2],
            memoryview,
            lambda y: y.flat,
            lambda y: np.asarray(memoryview(y)),
        ]
        keep = forms[i % len(forms)](y)
        held.append((keep, np.array(keep) if i % len(forms) != 4 else whole.ravel()))
        del y
        if i % 7 == 0:
            held.pop(0)
    for keep, value in held:
        assert np.array_equal(np.array(keep), value)


def test_memory_is_used_again_when_nobody_holds_it(scale: Run) -> None:
    places = {scale(X, TWO)[0].ctypes.data for _ in range(20)}
    assert len(places) == 1
    state = X
    places = set()
    for _ in range(20):
        state, _ = scale(state, np.float32(1))
        places.add(state.ctypes.data)
    assert len(places) == 2
    assert np.array_equal(state, X)


def test_a_result_that_was_changed_is_not_handed_out_again(scale: Run) -> None:
    for change in ("reshape", "freeze", "retype"):
        for _ in range(3):
            y, _ = scale(X, TWO)
            if change == "reshape":
                y.shape = (4, 3)
            elif change == "freeze":
                y.flags.writeable = False
            else:
                y.dtype = np.int32
            del y
            made, _ = gives(scale, X)
            assert made.flags.writeable
            assert made.shape == (3, 4)
            del made


def test_the_fast_way_is_taken_when_all_is_as_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    code = engine.load(SCALE)
    run = enter(code.address("scale"), [MATRIX, NUMBER], [MATRIX, NUMBER], keep=code)
    calls: list[int] = []
    check = _Entry._check
    monkeypatch.setattr(_Entry, "_check", lambda self, arrays: calls.append(1) or check(self, arrays))
    for _ in range(5):
        gives(run, X)
    gives(run, X, np.array(2, F32))
    assert len(calls) == 1
    for expected, x in ((2, np.asfortranarray(X)), (3, unaligned()), (3, X)):
        gives(run, x)
        assert len(calls) == expected
    entry_of(run).table[Word.BUSY] = 1
    gives(run, X)
    assert len(calls) == 4


def test_constants_lie_after_the_inputs_and_scratch_memory_after_the_outputs() -> None:
    code = engine.load(SCALE)
    run = enter(code.address("scale"), [MATRIX], [MATRIX, NUMBER], [np.asfortranarray(np.array(5, F32))], 1000, keep=code)
    for _ in range(3):
        y, last = run(X)
        assert np.array_equal(y, 5 * X)
        assert last == 55
    block = entry_of(run)._block(entry_of(run).frame)
    assert block[4] % 64 == 0


def test_results_are_chosen_by_their_place_in_the_block() -> None:
    code = engine.load(SCALE)
    given = [MATRIX, NUMBER], [MATRIX, NUMBER], [X[0]]
    nothing = enter(code.address("nothing"), *given, results=[4, 0, 2, 1, 4, 3], keep=code)
    for _ in range(3):
        last, x, constant, weight, again, y = nothing(X, TWO)
        assert x is X
        assert weight is TWO
        assert np.array_equal(constant, X[0])
        assert not constant.flags.writeable
        assert (type(last), type(again), y.shape) == (np.float32, np.float32, (3, 4))
    assert [kind for kind, _ in entry_of(nothing).given_back][1] is Result.INPUT
    assert enter(code.address("nothing"), *given, results=[], keep=code)(X, TWO) == ()


@pytest.mark.parametrize("dtype", ["?", "b", "B", "h", "H", "i", "I", "q", "Q", "e", "f", "d", "F", "D"])
def test_every_dtype_passes_in_and_out(dtype: str) -> None:
    code = engine.load(
        """
        declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
        define void @copy(ptr %args, i64 %thread, i64 %threads) nounwind {
          %p1 = getelementptr ptr, ptr %args, i64 1
          %x = load ptr, ptr %args, align 8
          %y = load ptr, ptr %p1, align 8
          call void @llvm.memcpy.p0.p0.i64(ptr %y, ptr %x, i64 SIZE, i1 false)
          ret void
        }
    """.replace("SIZE", str(np.dtype(dtype).itemsize)).replace("\n        define", "\ndefine")
    )
    aval = Aval((), np.dtype(dtype))
    run = enter(code.address("copy"), [aval], [aval], direct=True, keep=code)
    for value in (0, 1, 100, 0):
        scalar = np.dtype(dtype).type(value)
        for x in (scalar, np.array(scalar)):
            (y,) = run(x)
            assert type(y) is type(scalar)
            assert y == scalar


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2), (0, 0)])
def test_arrays_may_be_empty(shape: tuple[int, ...]) -> None:
    code = engine.load(SCALE)
    run = enter(code.address("nothing"), [Aval(shape, F32)], [Aval(shape, F64)], scratch_bytes=0, keep=code)
    for _ in range(3):
        (y,) = run(np.empty(shape, F32))
        assert (y.shape, y.dtype) == (shape, F64)


def test_a_step_may_fail() -> None:
    code = engine.load(SCALE)

    def said(status: int) -> None:
        raise IndexError(f"index {status}")

    for pooled, hook, error in ((True, said, IndexError), (False, said, IndexError), (True, None, ArgumentError)):
        run = enter(code.address("fails"), [Aval((1,), I64)], [Aval((2,), F32)], direct=not pooled, failed=hook, keep=code)
        for status in (0, 7, 0, 2**40, 0, 3):
            if status:
                with pytest.raises(error, match=str(status)):
                    run(np.array([status]))
            else:
                assert run(np.array([0]))[0].shape == (2,)


def test_steps_may_be_called_by_many_threads_at_once(scale: Run) -> None:
    def caller(number: int) -> bool:
        x = X + np.float32(number)
        results = [(scale(x, np.float32(i)), i) for i in range(200)]
        return all(np.array_equal(y, x * np.float32(i)) and last == y[-1, -1] for (y, last), i in results)

    with ThreadPoolExecutor(6) as callers:
        assert all(callers.map(caller, range(12)))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no timer that interrupts: run on Unix")
def test_an_interrupt_breaks_nothing(scale: Run) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def call_for_ever(delay: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, delay)
        while True:
            gives(scale, X)
            gives(scale, X.T.copy().T)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for i in range(20):
            with pytest.raises(KeyboardInterrupt):
                call_for_ever(0.001 + i * 3e-4)
            gives(scale, X)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# Says that it failed, and waits until its input is no longer 0.
WAIT = """
define void @wait(ptr %args, i64 %thread, i64 %threads) nounwind {
entry:
  %x = load ptr, ptr %args, align 8
  %p = getelementptr ptr, ptr %args, i64 2
  %status = load ptr, ptr %p, align 8
  store i64 1, ptr %status, align 8
  br label %loop
loop:
  %value = load volatile i64, ptr %x, align 8
  %more = icmp eq i64 %value, 0
  br i1 %more, label %loop, label %done
done:
  store i64 0, ptr %status, align 8
  ret void
}
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork: run on Unix")
def test_a_forked_child_takes_the_fast_way_into_a_step_that_another_thread_was_in() -> None:
    body = """
        import ctypes, os, threading, time
        import numpy as np
        from chainrule.compiler.native import engine
        from chainrule.compiler.native.entry import enter
        from chainrule.compiler.native.fastcall import Word
        from test_native_entry import I64, WAIT, Aval, entry_of
        code = engine.load(WAIT)
        run = enter(code.address("wait"), [Aval((1,), I64)], [], scratch_bytes=8, keep=code)
        entry, x = entry_of(run), np.zeros(1, np.int64)
        waiting = threading.Thread(target=run, args=(x,))
        waiting.start()
        status = ctypes.c_int64.from_address(entry._status(entry.frame))
        while not status.value:
            time.sleep(0.001)
        assert entry.table[Word.BUSY]
        child = os.fork()
        if child == 0:
            assert not entry.table[Word.BUSY]
            assert not status.value
            os._exit(run(np.ones(1, np.int64)) != ())
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        x[0] = 1
        waiting.join()
    """
    assert in_process(body) == "0"


def test_a_call_inside_a_call_has_memory_of_its_own(scale: Run) -> None:
    entry = entry_of(scale)
    y, _ = gives(scale, X)
    entry.table[Word.BUSY] = 1
    block = np.array(entry._block(entry.frame))
    other, _ = gives(scale, X, np.float32(3))
    assert np.array_equal(block, entry._block(entry.frame))
    assert not np.shares_memory(y, other)
    assert len(entry.spare) == 1


def test_nothing_is_left_of_a_step_that_nobody_has(scale: Run) -> None:
    entry = entry_of(scale)
    gives(scale, X)
    code, frame = weakref.ref(entry), weakref.ref(entry.frame)
    counts = [sys.getrefcount(x) for x in (TWO, X, F32, np.ndarray)]
    for _ in range(100):
        gives(scale, X)
        gives(scale, X.T.copy().T)
    after = [sys.getrefcount(x) for x in (TWO, X, F32, np.ndarray)]
    assert max(abs(b - a) for a, b in zip(counts, after, strict=True)) < 20
    assert code() is entry
    run = enter(entry.step, [MATRIX, NUMBER], [MATRIX, NUMBER], keep=entry.keep)
    gives(run, X)
    frame = weakref.ref(entry_of(run).frame)
    del run
    assert frame() is None


def test_a_process_ends_well_with_steps_that_are_still_there() -> None:
    body = """
        import builtins
        from test_native_entry import MATRIX, NUMBER, SCALE, TWO, X, engine, enter
        code = engine.load(SCALE)
        run = builtins.run = enter(code.address("scale"), [MATRIX, NUMBER], [MATRIX, NUMBER], keep=code)
        builtins.held = [run(X, TWO) for _ in range(9)]
        print(run(X, TWO)[1])
    """
    for threads in ("1", "3"):
        assert in_process(body, CHAINRULE_NUM_THREADS=threads) == "22.0"
