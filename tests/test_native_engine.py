"""Native code: compiled, kept on disk, run by a pool of threads."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from chainrule.compiler.native import cache, engine, pool_code, threads
from chainrule.compiler.native.host import describe
from chainrule.compiler.native.threads import thread_count
from chainrule.core.errors import ArgumentError, TraceError

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

LATE = """
declare i32 @usleep(i32)
define void @late(ptr %args, i64 %thread, i64 %threads) nounwind {
entry:
  %place = getelementptr i64, ptr %args, i64 1
  %first = icmp eq i64 %thread, 0
  br i1 %first, label %tell, label %sleep
tell:
  store i64 %threads, ptr %place
  ret void
sleep:
  %delay = load i32, ptr %args
  %ignored = call i32 @usleep(i32 %delay)
  ret void
}
"""
"""All threads but the first come so many microseconds late."""

DEEP = """
define void @deep(ptr %args, i64 %thread, i64 %threads) nounwind {
  %memory = alloca [MUCH x i8]
  store volatile i8 1, ptr %memory
  %place = getelementptr i8, ptr %args, i64 %thread
  %kept = load volatile i8, ptr %memory
  store i8 %kept, ptr %place
  ret void
}
"""
"""Each thread stores a 1, by way of the far end of so many bytes of its stack."""

# args: rounds, microseconds that all threads but the first sleep over each of their units, then for each unit how often it was done and by whom last.
# In a round two works of as many units lie between two waits.
TAKEN = """
declare void @pool_barrier(i64, i64)
declare { i64, i64 } @pool_take(i64, i64, i64, i64, i64, i64)
declare i32 @usleep(i32)
define internal void @work(ptr %args, i64 %number, i64 %thread, i64 %threads, i64 %units, i64 %least) nounwind {
entry:
  %sleep.place = getelementptr i64, ptr %args, i64 1
  %sleep = load i32, ptr %sleep.place
  %counts = getelementptr i64, ptr %args, i64 2
  %late = icmp ugt i64 %thread, 0
  br label %take
take:
  %done = phi i64 [ 0, %entry ], [ %last, %unit.end ]
  %pair = call { i64, i64 } @pool_take(i64 %number, i64 %thread, i64 %threads, i64 %units, i64 %least, i64 %done)
  %first = extractvalue { i64, i64 } %pair, 0
  %last = extractvalue { i64, i64 } %pair, 1
  %some = icmp ult i64 %first, %last
  br i1 %some, label %unit, label %end
unit:
  %i = phi i64 [ %first, %take ], [ %next, %unit.end ]
  br i1 %late, label %wait, label %count
wait:
  %ignored = call i32 @usleep(i32 %sleep)
  br label %count
count:
  %row = mul i64 %number, %units
  %at.i = add i64 %row, %i
  %at.two = shl i64 %at.i, 1
  %at = getelementptr i64, ptr %counts, i64 %at.two
  %old = load i64, ptr %at
  %new = add i64 %old, 1
  store i64 %new, ptr %at
  %who = getelementptr i64, ptr %at, i64 1
  store i64 %thread, ptr %who
  br label %unit.end
unit.end:
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %last
  br i1 %more, label %unit, label %take
end:
  ret void
}
define void @taken(ptr %args, i64 %thread, i64 %threads) nounwind {
entry:
  %rounds = load i64, ptr %args
  br label %round
round:
  %i = phi i64 [ 0, %entry ], [ %next, %wait ]
  call void @work(ptr %args, i64 0, i64 %thread, i64 %threads, i64 UNITS, i64 1)
  call void @work(ptr %args, i64 1, i64 %thread, i64 %threads, i64 UNITS, i64 5)
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %rounds
  br i1 %more, label %wait, label %done
wait:
  call void @pool_barrier(i64 %thread, i64 %threads)
  br label %round
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
    compile_it: Callable[[str, str], list[bytes]] = engine._compile

    def counting(text: str, loops: str) -> list[bytes]:
        seen.append(1)
        return compile_it(text, loops)

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


@pytest.mark.parametrize(("text", "loops"), [(TWICE, ""), ("", TWICE)])
def test_text_becomes_a_function_that_can_be_called(text: str, loops: str) -> None:
    assert doubles(engine.load(text, loops=loops))


def test_malformed_code_is_blamed_on_its_function_and_line() -> None:
    with pytest.raises(TraceError, match=r"line 9 in twice: %b = fmul float %z, 2.0"):
        engine.load(TWICE.replace("%b = fmul float %a", "%b = fmul float %z"))


def test_loops_become_vectors_of_the_width_of_the_host() -> None:
    wide = {512: "zmm", 256: "ymm"}.get(engine.host().bits)
    if wide is None:
        pytest.skip("the names of its vector registers are not known here: run on an x86 processor with AVX2")
    assert wide in engine.assembly(TWICE, optimize=2)
    assert wide not in engine.assembly(TWICE)


def test_whether_llvm_is_there_is_known_without_loading_it() -> None:
    body = """
        import sys
        from chainrule.compiler.native import engine
        print(engine.available(), "llvmlite" in sys.modules, end=" ")
        sys.modules["llvmlite.binding"] = None
        try:
            engine.load("")
        except engine.MissingExtraError as error:
            print("pip install 'chainrule[cpu]'" in str(error))
    """
    assert in_process(body) == "True False True"


def test_vectors_can_be_narrowed_by_a_setting() -> None:
    features = {"avx": True, "avx2": True, "avx512f": True, "avx512vl": True, "avx512bf16": True}
    assert describe("cpu", features, {}).bits == 512
    narrow = describe("cpu", features, {"CHAINRULE_NATIVE_WIDTH": "256"})
    assert narrow.bits == 256
    assert not narrow.has("avx512bf16")
    assert narrow.has("avx2")
    assert describe("cpu", features, {"CHAINRULE_NATIVE_FEATURES": "-avx512f"}).bits == 256
    # What stands on a feature goes with it.
    assert {describe("cpu", features, {"CHAINRULE_NATIVE_FEATURES": gone}).bits for gone in ("-avx", "-avx2")} == {128}
    assert describe("cpu", {"neon": True}, {}).bits == 128
    with pytest.raises(ArgumentError, match="CHAINRULE_NATIVE_WIDTH is '1024'"):
        describe("cpu", features, {"CHAINRULE_NATIVE_WIDTH": "1024"})
    with pytest.raises(ArgumentError, match=r"CHAINRULE_NATIVE_FEATURES has 'fma'(.|\n)*-fma"):
        describe("cpu", features, {"CHAINRULE_NATIVE_FEATURES": "-avx512bf16, fma"})


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
    assert doubles(engine.load(loops=TWICE))
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
    assert doubles(engine.load(loops=TWICE))
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
            assert found == image, i
    """
    where = str(Path(engine.__file__).parents[3])
    processes = [
        subprocess.Popen([sys.executable, "-c", dedent(body), str(folder)], env={**os.environ, "PYTHONPATH": where}, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    assert [process.communicate(timeout=60)[1] for process in processes] == [b""] * 3
    assert names(folder) == ["0", "1", "2", "3", "4"]


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


def take(pool: threads.Pool, units: int, rounds: int, sleep: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """How often each unit of two works was done, and by which thread last."""
    code = engine.load(TAKEN.replace("UNITS", str(units)), symbols=pool.symbols)
    args = np.zeros(2 + 4 * units, np.int64)
    args[:2] = rounds, sleep
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(pool.symbols["pool_run"])(code.address("taken"), args.ctypes.data)
    counts, who = args[2:].reshape(2 * units, 2).T
    return counts, who


@pytest.mark.parametrize("units", [0, 1, 7, 64, 1000])
@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_threads_take_every_unit_once(count: int, units: int) -> None:
    with engine.pool().using(count):
        for rounds in (1, 40, 2):
            counts, who = take(engine.pool(), units, rounds)
            assert (counts == rounds).all()
            assert (who < count).all()


def test_a_thread_takes_what_slow_ones_have_not_begun() -> None:
    with engine.pool().using(3):
        counts, who = take(engine.pool(), 300, 1, sleep=5_000)
    assert (counts == 1).all()
    # Its own share is a third, and the others take a quarter of theirs at a time.
    assert (who == 0).sum() > 300


def test_the_number_of_threads_may_change_between_steps() -> None:
    code, pool = engine.load(RELAY), engine.pool()
    for count in (4, 1, 2, 3, 1, 4, 2):
        with pool.using(count):
            assert relay(pool, code, 3) == (0, list(range(count)))


def test_a_step_whose_threads_only_wait_runs_alone_for_a_while() -> None:
    code, pool = engine.load(LATE), engine.pool()
    turn = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(pool.symbols["pool_turn"])
    args, mood = np.zeros(2, np.int64), np.zeros(2, np.int32)

    def threads_of_turns(count: int, late: int) -> list[int]:
        args[0] = late
        found: list[int] = []
        for _ in range(count):
            turn(code.address("late"), args.ctypes.data, mood.ctypes.data)
            found.append(int(args[1]))
        return found

    with pool.using(2):
        assert threads_of_turns(51, 100_000) == [2, *[1] * 16, 2, *[1] * 32, 2]
        assert threads_of_turns(64, 0) == [1] * 64
        assert mood.tolist() == [0, 64]
        # A turn on all threads that is not late is not sure on a busy machine, but sooner or later there is one.
        assert 2 in threads_of_turns(2000, 0)


def test_the_stacks_of_threads_do_not_depend_on_the_system() -> None:
    body = """
        import ctypes
        from chainrule.compiler.native import engine, pool_code
        from test_native_engine import DEEP
        system = ctypes.CDLL(None)
        if hasattr(system, "pthread_setattr_default_np"):
            traits = (ctypes.c_int64 * 16)()
            system.pthread_attr_init(traits)
            system.pthread_attr_setstacksize(traits, ctypes.c_size_t(128 << 10))
            assert system.pthread_setattr_default_np(traits) == 0
        run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(engine.pool().symbols["pool_run"])
        found = (ctypes.c_int8 * 3)()
        code = engine.load(DEEP.replace("MUCH", str(pool_code._STACK // 2)))
        run(code.address("deep"), found)
        print(list(found))
    """
    assert in_process(body, CHAINRULE_NUM_THREADS="3") == "[1, 1, 1]"


def test_the_pool_works_without_the_linux_kernels_help() -> None:
    text = threads.text("darwin")
    assert "pthread_cond_wait" in text
    assert "syscall" not in text
    # Asleep at once.
    module = engine.load(text.replace(f"icmp ult i32 %offers.next, {pool_code._OFFERS}", "icmp ult i32 %offers.next, 0"), permanent=True)
    pool = threads.Pool(module.address, 3)
    code = engine.load(RELAY, symbols=pool.symbols)
    assert relay(pool, code, 200) == (0, [0, 1, 2])
    assert (take(pool, 50, 20)[0] == 20).all()


def test_without_threads_of_the_system_the_caller_runs_alone() -> None:
    pool = threads.Pool(engine.load(threads.text("win32"), permanent=True).address, 4)
    assert relay(pool, engine.load(RELAY, symbols=pool.symbols)) == (0, [0])
    counts, who = take(pool, 50, 3)
    assert (counts == 3).all()
    assert (who == 0).all()


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
        # A process in the background of a shell is started with interrupts ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code, pool = engine.load(RELAY), engine.pool()
        for i in range(3):
            try:
                threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
                while True:
                    relay(pool, code, 2000)
            except KeyboardInterrupt:
                print(relay(pool, code), end="")
    """
    assert in_process(body, CHAINRULE_NUM_THREADS="2") == "(0, [0, 1])" * 3
