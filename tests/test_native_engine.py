"""Native code: compiled, kept on disk, run by a pool of threads, called from Python."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from chainrule.compiler.native import engine
from chainrule.compiler.native.host import describe, thread_count
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


def called(code: engine.Code, name: str, x: np.ndarray) -> np.ndarray:
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(code.address(name))(x.ctypes.data, x.size)
    return x


@pytest.mark.parametrize("optimize", [0, 2])
def test_text_becomes_a_function_that_can_be_called(optimize: int) -> None:
    code = engine.load(TWICE, optimize=optimize)
    assert called(code, "twice", np.arange(37, dtype=np.float32)).tolist() == [2 * i for i in range(37)]


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
