"""Large modules are compiled in pieces, side by side: nothing but the time tells."""

from __future__ import annotations

import ctypes
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.compiler.native import cache, engine
from chainrule.compiler.native.pieces import pieces
from chainrule.compiler.pipeline import build
from chainrule.core.errors import TraceError
from test_native_engine import compiled as compiled
from test_native_engine import folder as folder
from test_native_engine import in_process

pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")

HALVE = """
define float @halve(float %x) nounwind {
  %half = fmul float %x, 0.5
  ret float %half
}
"""

LINK = """define internal float @link{i}(float %x, ptr noalias %p) nounwind {{
entry:
  %at = getelementptr float, ptr @table, i64 {i}
  %y = load float, ptr %at, align 4
  %sum = fadd float %x, %y
  %all = call float @{next}(float %sum{pointer})
  ret float %all
}}
"""

RUN = """define void @run(ptr %x) nounwind {
  %a = load float, ptr %x
  %b = call float @link0(float %a, ptr %x)
  store float %b, ptr %x
  ret void
}
"""


def chain(length: int, first: int = 0) -> str:
    """``run`` adds so many numbers from a table, each in a function that calls the next one; the last calls ``halve``, which is elsewhere."""
    table = ", ".join(f"float {first + i}.0" for i in range(length))
    lines = [
        f"@table = internal constant [{length} x float] [{table}]",
        "@other = internal constant i8 1",
        "declare float @halve(float)",
        "declare float @nobody(float)",
    ]
    ends = [(f"link{i + 1}", ", ptr %p") for i in range(length - 1)] + [("halve", "")]
    return "\n".join(lines) + "\n" + "".join(LINK.format(i=i, next=name, pointer=more) for i, (name, more) in enumerate(ends)) + RUN


def result(code: engine.Code) -> float:
    x = np.ones(1, np.float32)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(code.address("run"))(x.ctypes.data)
    return float(x[0])


def linked(length: int, first: int = 0) -> bool:
    """Whether a chain that is loaded now computes what it should."""
    return result(engine.load(chain(length, first), loops=HALVE)) == (1 + sum(range(first, first + length))) / 2


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of two functions, and three threads."""
    monkeypatch.setattr(engine, "_PIECE", 500)
    monkeypatch.setattr(engine, "thread_count", lambda: 3)


def test_a_piece_has_some_of_the_functions_and_what_they_name() -> None:
    found = pieces(chain(8), 500)
    defined = [[line.split("@")[1].split("(")[0] for line in piece.splitlines() if line.startswith("define ")] for piece in found]
    assert defined == [["link0", "link1"], ["link2", "link3"], ["link4", "link5"], ["link6", "link7"], ["run"]]
    assert "declare hidden float @link2(float %x, ptr noalias %p) nounwind\n" in found[0]
    assert ["@table = " in piece for piece in found] == [True, True, True, True, False]
    assert ["declare float @halve" in piece for piece in found] == [False, False, False, True, False]
    # Only what is called from outside keeps a name that is known there.
    assert ["define hidden" in piece for piece in found] == [True, True, True, True, False]
    assert not any(word in piece for piece in found for word in ("@nobody", "@other", "internal float"))


def test_small_modules_stay_whole() -> None:
    assert pieces(chain(8), 100_000) == [chain(8)]
    assert pieces(HALVE, 10) == [HALVE]
    assert pieces("", 10) == [""]


@pytest.mark.usefixtures("split")
def test_pieces_and_loops_find_each_other() -> None:
    code = engine.load(chain(20), loops=HALVE)
    assert sorted(code.names) == ["halve", "run"]
    # Names inside of one module are nothing to another.
    other = engine.load(chain(20, 7), loops=HALVE)
    assert result(code) == 95.5
    assert result(other) == 165.5


@pytest.mark.usefixtures("split")
def test_what_is_kept_does_not_depend_on_the_number_of_threads(folder: Path, compiled: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[bytes] = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(engine, "thread_count", lambda count=threads: count)
        assert linked(20)
        assert linked(20)
        [file] = folder.iterdir()
        kept.append(file.read_bytes())
        file.unlink()
    assert len(compiled) == 3
    assert kept[0] == kept[1] == kept[2]


@pytest.mark.usefixtures("split")
@pytest.mark.parametrize("kept", [b"N", b"[\x02\x00\x00\x00s\x01\x00\x00\x00xN", b"i\x05\x00\x00\x00", b"\x7fELF", b""])
def test_what_is_no_list_of_object_files_is_compiled_anew(folder: Path, compiled: list[int], kept: bytes) -> None:
    assert linked(8)
    [file] = folder.iterdir()
    cache.keep(file.name, kept)
    assert linked(8)
    assert linked(8)
    assert len(compiled) == 2


def test_pieces_change_no_bit_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAINRULE_CACHE_DIR", "0")
    x = np.random.default_rng(0).standard_normal((17, 24), dtype=np.float32)
    graph = cr.trace(cr.value_and_grad(lambda x: (cr.softmax(cr.tanh(x @ x.T) + cr.cumulative_sum(x, axis=1)[:, :17]) ** 2).sum()), x)
    whole = [value.tobytes() for value in build(graph, backend="native").run(x)]
    monkeypatch.setattr(engine, "_PIECE", 1)
    assert [value.tobytes() for value in build(graph, backend="native").run(x)] == whole


@pytest.mark.usefixtures("split")
def test_pieces_are_compiled_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAINRULE_CACHE_DIR", "0")
    unlocked, together = engine._unlocked, threading.Barrier(3, timeout=30)

    def meeting(name: str) -> Any:
        function = unlocked(name)
        assert function is not None

        def emit(*given: Any) -> Any:
            together.wait()
            return function(*given)

        return emit if "Emit" in name else function

    monkeypatch.setattr(engine, "_unlocked", meeting)
    # Five pieces and the loops.
    assert linked(8)


@pytest.mark.usefixtures("split")
def test_an_llvmlite_that_hides_its_functions_is_asked_as_everybody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAINRULE_CACHE_DIR", "0")
    known = engine._llvm()
    monkeypatch.setattr(engine, "_llvm", lambda: SimpleNamespace(**{name: getattr(known, name) for name in dir(known) if name != "ffi"}))
    assert engine._unlocked("LLVMPY_TargetMachineEmitToMemory") is None
    assert linked(8)
    monkeypatch.setattr(engine, "_llvm", lambda: known)
    # Nor need a function of its library be what it is now.
    monkeypatch.setitem(known.ffi.lib._fntab, "LLVMPY_TargetMachineEmitToMemory", object())
    assert engine._unlocked("LLVMPY_TargetMachineEmitToMemory") is None


@pytest.mark.usefixtures("split")
def test_without_more_threads_the_callers_own_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAINRULE_CACHE_DIR", "0")

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert linked(8)


@pytest.mark.usefixtures("split")
def test_malformed_code_in_a_piece_is_blamed_on_its_function_and_line(monkeypatch: pytest.MonkeyPatch) -> None:
    text = chain(20)
    lines = text.splitlines()
    place = lines.index("define internal float @link11(float %x, ptr noalias %p) nounwind {") + 4
    assert lines[place] == "  %sum = fadd float %x, %y"
    lines[place] = "  %sum = fadd float %x, %z"
    before = threading.active_count()
    with pytest.raises(TraceError, match=rf"line {place + 1} in link11: %sum = fadd float %x, %z"):
        engine.load("\n".join(lines), loops=HALVE)
    with pytest.raises(TraceError, match=r"line 3 in halve: %half = fmul float %z, 0.5"):
        engine.load(text, loops=HALVE.replace("%x, 0.5", "%z, 0.5"))
    # Whole, and yet there is no such function.
    with pytest.raises(TraceError, match="LLVM cannot link the module"):
        engine.load(text)
    assert threading.active_count() == before
    assert linked(20)


@pytest.mark.usefixtures("split")
def test_many_python_threads_may_compile_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAINRULE_CACHE_DIR", "0")
    with ThreadPoolExecutor(4) as callers:
        assert all(callers.map(lambda i: linked(12, i), range(24)))


COMPILING = """
    import os, signal, threading, time
    from chainrule.compiler.native import engine
    from test_native_pieces import linked
    engine._PIECE = 500
"""


def test_an_interrupt_while_pieces_are_compiled_breaks_nothing() -> None:
    body = f"""{COMPILING}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert linked(3)
    for delay in (0.01, 0.05, 0.1, 0.2):
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            while True:
                linked(60)
        except KeyboardInterrupt:
            print(sum(thread.is_alive() for thread in threading.enumerate()), linked(60), end=" ")
    """
    assert in_process(body, CHAINRULE_NUM_THREADS="3", CHAINRULE_CACHE_DIR="0") == "1 True 1 True 1 True 1 True"


def test_a_process_may_fork_while_pieces_are_compiled() -> None:
    body = f"""{COMPILING}
    compiled = []

    def keep_compiling():
        for i in range(8):
            compiled.append(linked(60, i))

    thread = threading.Thread(target=keep_compiling)
    thread.start()
    children = []
    while thread.is_alive() and len(children) < 4:
        time.sleep(0.03)
        child = os.fork()
        if child == 0:
            os._exit(7 if linked(20) else 8)
        children.append(child)
    thread.join()
    print(set(compiled), {{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children}})
    """
    assert in_process(body, CHAINRULE_NUM_THREADS="3", CHAINRULE_CACHE_DIR="0") == "{True} {7}"


def test_modules_are_compiled_while_the_process_ends() -> None:
    body = f"""{COMPILING}
    import atexit
    atexit.register(lambda: print(linked(20)))

    def late():
        time.sleep(0.2)
        print(linked(20, 3))

    threading.Thread(target=late).start()
    """
    assert in_process(body, CHAINRULE_NUM_THREADS="3", CHAINRULE_CACHE_DIR="0") == "True\nTrue"
