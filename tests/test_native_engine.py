"""Native code: compiled, kept on disk, run by a pool of threads, called from Python."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

from chainrule.compiler.native import cache, engine, threads
from chainrule.compiler.native.entry import _Entry, enter
from chainrule.compiler.native.fastcall import Result, Word, usable
from chainrule.compiler.native.host import describe
from chainrule.compiler.native.threads import thread_count
from chainrule.core.aval import Aval
from chainrule.core.errors import ArgumentError, DtypeError, ShapeError, TraceError

llvmlite = pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")

TWICE = """
define void @twice(ptr %x, i64 %n) nounwind {
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%next, %loop]
  %at = getelementptr float, ptr %x, i64 %i
  %a = load float, ptr %at, align 4
  %b = fmul float %a, 2.0
  store float %b, ptr %at, align 4
  %next = add nsw i64 %i, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""


# args: the rounds to do, the mistakes seen, and a place for each thread, which its neighbour reads after every round.
RELAY = """
declare void @pool_barrier(i64, i64)
define void @relay(ptr %args, i64 %thread, i64 %threads) nounwind {
entry:
  %rounds = load i64, ptr %args, align 8
  %mistakes = getelementptr i64, ptr %args, i64 1
  %places = getelementptr i64, ptr %args, i64 2
  %own = getelementptr i64, ptr %places, i64 %thread
  %after = add i64 %thread, 1
  %next = urem i64 %after, %threads
  %theirs = getelementptr i64, ptr %places, i64 %next
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %more, %loop ]
  %more = add i64 %i, 1
  store i64 %more, ptr %own, align 8
  call void @pool_barrier(i64 %thread, i64 %threads)
  %seen = load i64, ptr %theirs, align 8
  %wrong = icmp ne i64 %seen, %more
  %count = zext i1 %wrong to i64
  %ignored = atomicrmw add ptr %mistakes, i64 %count seq_cst
  call void @pool_barrier(i64 %thread, i64 %threads)
  %further = icmp slt i64 %more, %rounds
  br i1 %further, label %loop, label %done
done:
  ret void
}
"""

PLACES = {"first": 0, "checksum": 15, "first of the code": 44, "middle": 500, "last": -1}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own."""
    monkeypatch.setenv("CHAINRULE_CACHE_DIR", str(tmp_path / "code"))
    return tmp_path / "code"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by an entry for every module that is compiled and not fetched."""
    seen: list[int] = []
    compile_it: Callable[[str, int], bytes] = engine._compile

    def counting(text: str, optimize: int) -> bytes:
        seen.append(1)
        return compile_it(text, optimize)

    monkeypatch.setattr(engine, "_compile", counting)
    return seen


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def in_process(body: str, **settings: str) -> str:
    """Run Python code in a process of its own, which must end well; what it printed."""
    where = [str(Path(engine.__file__).parents[3]), str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(where), **settings}
    ran = subprocess.run([sys.executable, "-c", dedent(body)], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def doubles(code: engine.Code) -> bool:
    return called(code, "twice", np.arange(37, dtype=np.float32)).tolist() == [2 * i for i in range(37)]


def called(code: engine.Code, name: str, x: np.ndarray) -> np.ndarray:
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(code.address(name))(x.ctypes.data, x.size)
    return x


@pytest.mark.parametrize("optimize", [0, 2])
def test_text_becomes_a_function_that_can_be_called(optimize: int) -> None:
    code = engine.load(TWICE, optimize=optimize)
    assert doubles(code)


def test_malformed_code_is_blamed_on_its_function_and_line() -> None:
    with pytest.raises(TraceError, match=r"line 9 in twice: %b = fmul float %z, 2.0"):
        engine.load(TWICE.replace("%b = fmul float %a", "%b = fmul float %z"))


def test_loops_become_vectors_of_the_width_of_the_host() -> None:
    wide = {512: "zmm", 256: "ymm"}.get(engine.host().bits)
    if wide is None:
        pytest.skip("the names of its vector registers are not known here: run on an x86 processor with AVX2")
    assert wide in engine.assembly(TWICE, optimize=2)
    assert wide not in engine.assembly(TWICE)


def test_vectors_can_be_narrowed_by_a_setting() -> None:
    features = {"avx": True, "avx2": True, "avx512f": True, "avx512vl": True, "avx512bf16": True}
    assert describe("cpu", features, {}).bits == 512
    narrow = describe("cpu", features, {"CHAINRULE_NATIVE_WIDTH": "256"})
    assert narrow.bits == 256
    assert not narrow.has("avx512bf16")
    assert narrow.has("avx2")
    assert describe("cpu", features, {"CHAINRULE_NATIVE_FEATURES": "-avx512f"}).bits == 256
    assert describe("cpu", {"neon": True}, {}).bits == 128
    with pytest.raises(ArgumentError, match="CHAINRULE_NATIVE_WIDTH is '1024'"):
        describe("cpu", features, {"CHAINRULE_NATIVE_WIDTH": "1024"})


def test_the_number_of_threads_is_a_setting() -> None:
    assert thread_count({"CHAINRULE_NUM_THREADS": "3"}) == 3
    assert thread_count({}) >= 1
    with pytest.raises(ArgumentError, match="CHAINRULE_NUM_THREADS is 'many'"):
        thread_count({"CHAINRULE_NUM_THREADS": "many"})


def test_code_is_compiled_once_for_all_processes(folder: Path, compiled: list[int]) -> None:
    assert doubles(engine.load(TWICE))
    assert doubles(engine.load(TWICE))
    assert len(compiled) == 1
    assert len(names(folder)) == 1
    # Other flags are other code.
    assert doubles(engine.load(TWICE, optimize=2))
    assert len(compiled) == 2


@pytest.mark.parametrize("place", PLACES)
def test_damaged_code_is_thrown_away_and_compiled_anew(folder: Path, compiled: list[int], place: str) -> None:
    engine.load(TWICE)
    [file] = folder.iterdir()
    data = bytearray(file.read_bytes())
    data[PLACES[place]] ^= 0x40
    file.write_bytes(data)
    assert doubles(engine.load(TWICE))
    assert len(compiled) == 2
    assert doubles(engine.load(TWICE))
    assert len(compiled) == 2


@pytest.mark.parametrize("length", [0, 5, 44, 45, 500])
def test_truncated_code_is_thrown_away_and_compiled_anew(folder: Path, compiled: list[int], length: int) -> None:
    engine.load(TWICE)
    [file] = folder.iterdir()
    file.write_bytes(file.read_bytes()[:length])
    assert doubles(engine.load(TWICE))
    assert len(compiled) == 2


def test_code_under_another_ones_name_is_not_taken(folder: Path) -> None:
    cache.keep("a" * 64, b"code")
    assert cache.fetch("a" * 64) == b"code"
    (folder / ("a" * 64)).rename(folder / ("b" * 64))
    assert cache.fetch("b" * 64) is None


def test_whole_files_that_hold_no_code_are_compiled_anew(folder: Path, compiled: list[int]) -> None:
    engine.load(TWICE)
    [file] = folder.iterdir()
    cache.keep(file.name, b"no object file")
    assert doubles(engine.load(TWICE))
    assert len(compiled) == 2


def test_without_a_folder_nothing_is_kept(tmp_path: Path, compiled: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    for name in ("", "0", str(tmp_path / "file"), str(tmp_path / "file" / "below"), "/proc/nowhere"):
        monkeypatch.setenv("CHAINRULE_CACHE_DIR", name)
        assert doubles(engine.load(TWICE))
    assert len(compiled) == 5
    assert cache.folder({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "chainrule" / "native"


def test_a_folder_that_can_only_be_read_serves_what_it_has(folder: Path, compiled: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    engine.load(TWICE)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError

    # Permissions do not stop a superuser.
    for owner, name in ((cache.os, "utime"), (Path, "unlink"), (Path, "write_bytes")):
        monkeypatch.setattr(owner, name, refused)
    assert doubles(engine.load(TWICE))
    assert len(compiled) == 1
    assert doubles(engine.load(TWICE, optimize=2))
    assert len(compiled) == 2
    assert len(names(folder)) == 1


def test_code_is_not_taken_from_a_folder_that_everybody_may_write_to(folder: Path, compiled: list[int]) -> None:
    engine.load(TWICE)
    folder.chmod(0o777)
    engine.load(TWICE)
    assert len(compiled) == 2


def test_the_folder_keeps_what_was_used_last(folder: Path) -> None:
    for i in range(8):
        cache.keep(f"{i}", bytes(1000))
        os.utime(folder / f"{i}", (i, i))
    assert cache.fetch("0") is not None
    cache._trim(folder, 5000)
    assert names(folder) == ["0", "6", "7"]
    cache._trim(folder, 5000)
    assert len(names(folder)) == 3


def test_files_that_were_never_finished_are_removed(folder: Path) -> None:
    cache.keep("1", b"x")
    for name, age in (("2.abandoned", 1), ("3.being.written", 4e9)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (age, age))
    cache._trim(folder)
    assert names(folder) == ["1", "3.being.written"]


def test_many_processes_may_write_at_once(folder: Path) -> None:
    body = """
        import os, sys
        from chainrule.compiler.native import cache
        os.environ["CHAINRULE_CACHE_DIR"] = sys.argv[1]
        for i in range(60):
            key = str(i % 5)
            image = bytes([i % 5]) * 30_000
            cache.keep(key, image)
            found = cache.fetch(key)
            assert found is None or found == image, i
        cache._trim(cache.folder(), 1000)
    """
    where = str(Path(engine.__file__).parents[3])
    processes = [
        subprocess.Popen([sys.executable, "-c", dedent(body), str(folder)], env={**os.environ, "PYTHONPATH": where}, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    assert [process.communicate(timeout=60)[1] for process in processes] == [b""] * 3


def relay(pool: threads.Pool, code: engine.Code, rounds: int = 50) -> tuple[int, list[int]]:
    """The mistakes, and how many threads got as far as the end."""
    args = np.zeros(2 + threads.MOST, np.int64)
    args[0] = rounds
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(pool.symbols["pool_run"])(code.address("relay"), args.ctypes.data)
    return int(args[1]), np.flatnonzero(args[2:] == rounds).tolist()


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_threads_of_a_pool_wait_for_each_other(count: int) -> None:
    code = engine.load(RELAY)
    with engine.pool().using(count):
        for _ in range(5):
            assert relay(engine.pool(), code) == (0, list(range(count)))


def test_the_number_of_threads_may_change_between_steps() -> None:
    code, pool = engine.load(RELAY), engine.pool()
    for count in (4, 1, 2, 3, 1, 4, 2):
        with pool.using(count):
            assert relay(pool, code, 3) == (0, list(range(count)))


def test_the_pool_works_without_the_linux_kernels_help() -> None:
    text = threads.text("darwin")
    assert "pthread_cond_wait" in text
    assert "syscall" not in text
    # Asleep at once.
    module = engine.load(text.replace(f"icmp ult i32 %offers.next, {threads._OFFERS}", "icmp ult i32 %offers.next, 0"), permanent=True)
    pool = threads.Pool(module.address, 3)
    code = engine.load(RELAY, symbols=pool.symbols)
    assert relay(pool, code, 200) == (0, [0, 1, 2])


def test_without_threads_of_the_system_the_caller_runs_alone() -> None:
    pool = threads.Pool(engine.load(threads.text("win32"), permanent=True).address, 4)
    assert relay(pool, engine.load(RELAY, symbols=pool.symbols)) == (0, [0])


def test_many_python_threads_may_run_steps_at_once() -> None:
    code, pool = engine.load(RELAY), engine.pool()
    with pool.using(3), ThreadPoolExecutor(4) as callers:
        found = list(callers.map(lambda _: relay(pool, code, 10), range(40)))
    assert {mistakes for mistakes, _ in found} == {0}
    # Whoever came second ran alone.
    assert {tuple(who) for _, who in found} <= {(0,), (0, 1, 2)}


def test_a_forked_child_has_threads_of_its_own() -> None:
    body = """
        import os, sys
        from chainrule.compiler.native import engine
        from test_native_engine import RELAY, relay
        code, pool = engine.load(RELAY), engine.pool()
        relay(pool, code)
        children = []
        for i in range(3):
            child = os.fork()
            if child == 0:
                assert relay(pool, code) == (0, [0, 1, 2])
                os._exit(7)
            children.append(child)
            assert relay(pool, code) == (0, [0, 1, 2])
        print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
    """
    assert in_process(body, CHAINRULE_NUM_THREADS="3") == "[7, 7, 7]"


@pytest.mark.parametrize("idle", [0.0, 0.3])
def test_a_process_ends_whatever_its_threads_do(idle: float) -> None:
    body = f"""
        import time
        from chainrule.compiler.native import engine
        from test_native_engine import RELAY, relay
        print(relay(engine.pool(), engine.load(RELAY)))
        time.sleep({idle})
    """
    assert in_process(body, CHAINRULE_NUM_THREADS="4") == "(0, [0, 1, 2, 3])"


def test_an_interrupt_is_heard_after_the_step_and_breaks_nothing() -> None:
    body = """
        import os, signal, threading
        from chainrule.compiler.native import engine
        from test_native_engine import RELAY, relay
        code, pool = engine.load(RELAY), engine.pool()
        for i in range(3):
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
            try:
                while True:
                    relay(pool, code, 2000)
            except KeyboardInterrupt:
                print(relay(pool, code), end="")
    """
    assert in_process(body, CHAINRULE_NUM_THREADS="2") == "(0, [0, 1])" * 3


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
  store i64 %wanted, ptr %status, align 8
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
        lambda: np.frombuffer(b"x" + X.tobytes(), F32, offset=1).reshape(3, 4),
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
    gives(run, np.asfortranarray(X))
    assert len(calls) == 2
    entry_of(run).table[Word.BUSY] = 1
    gives(run, X)
    assert len(calls) == 3


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
