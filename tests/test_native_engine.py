"""Native code: compiled, kept on disk, run by a pool of threads, called from Python."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from chainrule.compiler.native import cache, engine
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


def in_process(body: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own."""
    where = str(Path(engine.__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": where, **settings}
    return subprocess.run([sys.executable, "-c", dedent(body)], env=environment, capture_output=True, text=True, timeout=60, check=False)


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
        for i in range(200):
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
        for _ in range(4)
    ]
    assert [process.communicate(timeout=60)[1] for process in processes] == [b""] * 4
