"""cr.profile: where the time of a compiled step goes. No test asks how long anything takes."""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn, optim
from chainrule.compiler.native import backend as native_backend
from chainrule.compiler.native import clock, engine, peaks
from chainrule.compiler.native.ir import PTR, Function, Module
from chainrule.compiler.native.space import debugging
from chainrule.compiler.profile import Profile
from chainrule.core.errors import ArgumentError

BACKENDS = [
    "numpy",
    pytest.param(
        "native",
        marks=[
            pytest.mark.skipif(not engine.available(), reason="native code: pip install 'chainrule[cpu]'"),
            pytest.mark.skipif(debugging(), reason="measures nothing in debug mode: unset CHAINRULE_NATIVE_DEBUG"),
        ],
    ),
]
both = pytest.mark.parametrize("backend", BACKENDS)


def network(x: Any, w: Any, v: Any) -> Any:
    return cr.sum(cr.relu(x @ w) @ v)


def drawn(*shapes: tuple[int, ...]) -> list[Any]:
    source = np.random.default_rng(0)
    return [cr.tensor(source.standard_normal(shape).astype("float32")) for shape in shapes]


def profiled(backend: str) -> Profile:
    return cr.profile(cr.compile(network, backend=backend), *drawn((512, 256), (256, 128), (128, 64)), rounds=3)


@both
def test_every_gate_stands_in_a_region_with_its_operations_bytes_and_line(backend: str) -> None:
    measured = profiled(backend)
    assert (measured.name, measured.backend) == ("network", backend)
    gates = [gate for region in measured.regions for gate in region.gates]
    assert sorted(gate for gate in gates if gate != "copy") == ["matmul", "matmul", "relu", "sum"]
    first = next(region for region in measured.regions if "matmul" in region.gates)
    assert first.operations - (512 * 128 if "relu" in first.gates else 0) == 2 * 512 * 256 * 128
    assert first.nbytes == 4 * (512 * 256 + 256 * 128 + 512 * 128)
    assert first.lines[0].startswith("test_profile.py:")
    assert all(region.calls == 1 and region.dtype == "float32" for region in measured.regions)


@both
def test_regions_waiting_and_the_rest_add_up_to_the_call(backend: str) -> None:
    measured = profiled(backend)
    assert all(region.seconds > 0 or region.slowest > 0 for region in measured.regions)
    assert all(region.slowest >= region.seconds and region.waiting >= 0 for region in measured.regions)
    assert measured.other >= 0
    # The second product reads what all threads write of the first.
    assert measured.threads == 1 or any(span.region is None for span in measured.spans)
    assert measured.plain > 0
    spent = sum(region.seconds + region.waiting for region in measured.regions)
    assert spent == pytest.approx(1e-9 * sum(span.end - span.begin for span in measured.spans if span.thread == 0))
    assert spent + measured.other == pytest.approx(measured.seconds)
    assert all(0 <= span.begin <= span.end <= 1e9 * measured.seconds for span in measured.spans if span.thread == 0)


@both
def test_no_thread_does_two_things_at_once(backend: str) -> None:
    measured = profiled(backend)
    for thread in range(measured.threads):
        own = sorted(span[3:] for span in measured.spans if span.thread == thread)
        assert all(before[1] <= after[0] for before, after in pairwise(own))


@both
def test_rates_are_shares_of_what_the_machine_does(backend: str) -> None:
    measured = profiled(backend)
    region = max(measured.regions, key=lambda region: region.operations)
    assert region.flops == pytest.approx(region.operations / region.slowest)
    assert measured.share_of_peak(region) == pytest.approx(region.flops / measured.peaks["float32"])
    assert measured.share_of_copy(region) == pytest.approx(region.bandwidth / measured.bandwidth)
    assert measured.peaks["float32"] > measured.peaks["float64"] > 0


@both
def test_the_table_has_a_line_for_each_region_the_longest_first(backend: str) -> None:
    measured = profiled(backend)
    lines = str(measured).splitlines()
    assert lines[0].startswith(f"network, {backend}, ")
    rows = lines[4:-2]
    assert len(rows) == len(measured.regions)
    times = [float(row.split()[0]) + float(row.split()[1]) for row in rows]
    assert times == pytest.approx(sorted(times, reverse=True), abs=0.2)
    assert lines[-1].endswith("in all")
    short = measured.table(1).splitlines()
    assert len(short) == 4 + 1 + (len(rows) > 1) + 2


@both
def test_the_trace_is_what_perfetto_reads(backend: str, tmp_path: Path) -> None:
    measured = profiled(backend)
    path = tmp_path / "trace.json"
    measured.trace(path)
    events = json.loads(path.read_text())["traceEvents"]
    named = {event["tid"] for event in events if event["name"] == "thread_name"}
    complete = [event for event in events if event["ph"] == "X"]
    assert len(complete) == len(measured.spans)
    assert {event["tid"] for event in complete} <= named == set(range(measured.threads))
    assert all(event["dur"] >= 0 and event["pid"] == 1 for event in complete)
    assert {event["name"] for event in complete if event["cat"] == "gates"} == {region.name for region in measured.regions}


@both
def test_a_training_step_is_measured_and_leaves_everything_as_it_was(backend: str) -> None:
    cr.manual_seed(0)
    model = nn.Sequential([nn.Dense(16, activation="relu"), nn.Dropout(0.5), nn.Dense(3)])
    (x,) = drawn((32, 8))
    model(x)
    optimizer = optim.Adam(model.parameters(), lr=0.1)

    def train(x: Any) -> Any:
        optimizer.zero_grad()
        loss = cr.sum(model(x) ** 2)
        loss.backward()
        optimizer.step()
        return loss

    step = cr.compile(train, backend=backend)
    before = [parameter.detach().numpy().copy() for parameter in model.parameters()]
    measured = cr.profile(step, x, rounds=2)
    assert all((parameter.detach().numpy() == value).all() for parameter, value in zip(model.parameters(), before, strict=True))
    assert "layers.0" in {layer for region in measured.regions for layer in region.layers}
    step(x)
    assert len(step.stats().compilations) == 1


@both
def test_a_loop_is_measured_whatever_its_length(backend: str) -> None:
    def repeated(x: Any) -> Any:
        return cr.while_loop(lambda state: state[0] < 3000, lambda state: (state[0] + 1, cr.sin(state[1])), (cr.tensor(0), x))

    measured = cr.profile(cr.compile(repeated, backend=backend), cr.ones((8,)), rounds=1)
    gates = {gate: region for region in measured.regions for gate in region.gates}
    assert gates["sin" if backend == "native" else "while_loop"].calls == (3000 if backend == "native" else 1)


@both
def test_a_loop_counts_what_it_computes_once_and_copies_what_they_move(backend: str) -> None:
    def forward(w: Any, x: Any) -> Any:
        return cr.scan(lambda carry, row: ((after := cr.tanh(carry @ w + row)), after), cr.zeros((8, 32)), x)[1].sum()

    # Weights are packed once, before the first of the loop's rounds; its rows begin with a copy of the first carry.
    measured = cr.profile(cr.compile(cr.grad(forward), backend=backend), *drawn((32, 32), (16, 8, 32)), rounds=1)
    products, others = 3 * 16 * 2 * 8 * 32 * 32, 16 * 8 * 32
    assert products <= sum(region.operations for region in measured.regions) < products + 12 * others
    first = [region for region in measured.regions if region.gates == ("copy",) and region.values[0].endswith("_rows")]
    assert all(region.nbytes == 2 * 4 * 8 * 32 for region in first)
    assert bool(first) == (backend == "native")


@both
def test_what_is_called_back_is_a_region_of_its_own(backend: str) -> None:
    measured = cr.profile(cr.compile(lambda x: cr.linalg.svd(x + 1)[1] * 2, backend=backend), *drawn((20, 10)), rounds=1)
    (region,) = (region for region in measured.regions if region.gates == ("svd",))
    assert (region.calls, region.seconds > 0) == (1, True)


@both
def test_the_last_gate_ends_where_the_step_ends(backend: str) -> None:
    (region,) = cr.profile(cr.compile(cr.exp, backend=backend), cr.ones((1000,)), rounds=1).regions
    assert (region.gates, region.calls, region.operations, region.nbytes) == (("exp",), 1, 1000, 8000)
    assert region.seconds > 0


@both
def test_a_function_that_does_nothing_has_no_regions(backend: str) -> None:
    measured = cr.profile(cr.compile(lambda x: x, backend=backend), cr.ones((3,)), rounds=1)
    assert measured.regions == ()
    assert "in all" in measured.table()


def test_a_compiled_method_is_measured_on_its_owner() -> None:
    class Scale:
        factor = 2.0

        @cr.compile(backend="numpy")
        def apply(self, x: Any) -> Any:
            return cr.exp(x) * self.factor

    measured = cr.profile(Scale().apply, cr.ones((3,)), rounds=1)
    assert [region.name for region in measured.regions] == ["exp", "multiply"]


@pytest.mark.skipif(not engine.available(), reason="native code: pip install 'chainrule[cpu]'")
def test_debug_mode_has_other_memory_and_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAINRULE_NATIVE_DEBUG", "1")
    with pytest.raises(ArgumentError, match="CHAINRULE_NATIVE_DEBUG"):
        cr.profile(cr.compile(network, backend="native"), *drawn((2, 2), (2, 2), (2, 2)))


COUNTER = """
declare i32 @clock_gettime(i32, ptr)
define i32 @counter(ptr %count) {
  %pair = alloca [2 x i64]
  %ignored = call i32 @clock_gettime(i32 MONOTONIC, ptr %pair)
  %seconds = load i64, ptr %pair
  %place = getelementptr i64, ptr %pair, i64 1
  %rest = load i64, ptr %place
  %whole = mul i64 %seconds, 1000000000
  %now = add i64 %whole, %rest
  %ticks = udiv i64 %now, TICK
  store i64 %ticks, ptr %count
  ret i32 1
}
"""
"""What Windows calls its performance counter, of a monotonic clock."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The clock of Windows, whose counter is one of 10 MHz, as it often is; the code that reads it."""
    code = engine.load(COUNTER.replace("MONOTONIC", str(time.CLOCK_MONOTONIC)).replace("TICK", "100"))
    counter = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)(code.address("counter"))
    load, clock_of = engine.load, clock.clock_of

    def python() -> int:
        ticks = ctypes.c_int64()
        counter(ctypes.addressof(ticks))
        return 100 * ticks.value

    texts: list[str] = []

    def linked(text: str, *, symbols: Any = None, **options: Any) -> Any:
        texts.extend([text] if "@QueryPerformanceCounter(" in text else [])
        return load(text, symbols={**(symbols or {}), "QueryPerformanceCounter": code.address("counter")}, **options)

    monkeypatch.setattr(time, "perf_counter_ns", python)
    monkeypatch.setattr(time, "get_clock_info", lambda _: SimpleNamespace(resolution=1e-7))
    monkeypatch.setattr(clock, "clock_of", lambda: clock_of("win32"))
    for module in (engine, native_backend):
        monkeypatch.setattr(module, "load", linked)
    peaks.flops.cache_clear()
    yield texts
    peaks.flops.cache_clear()


@pytest.mark.skipif(not engine.available(), reason="native code: pip install 'chainrule[cpu]'")
@pytest.mark.skipif(debugging(), reason="measures nothing in debug mode: unset CHAINRULE_NATIVE_DEBUG")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has its own counter, which the other tests read")
def test_machine_code_is_measured_by_the_counter_of_windows_too(asked: list[str]) -> None:
    began = clock.now()
    measured = profiled("native")
    assert 0 < measured.seconds <= 1e-9 * (clock.now() - began)
    assert measured.peaks["float32"] > 0
    assert any("call void @stamp(" in text for text in asked)
    assert {gate for region in measured.regions for gate in region.gates} >= {"matmul", "relu", "sum"}
    assert all(0 <= span.begin <= span.end <= 1e9 * measured.seconds for span in measured.spans if span.thread == 0)
    spent = sum(region.seconds + region.waiting for region in measured.regions)
    assert spent + measured.other == pytest.approx(measured.seconds)


@pytest.mark.skipif(not engine.available(), reason="native code: pip install 'chainrule[cpu]'")
@pytest.mark.parametrize("frequency", [10_000_000, 3_579_545, 1_000_000_000, 24_000_000])
def test_a_counter_of_any_frequency_gives_nanoseconds(frequency: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "get_clock_info", lambda _: SimpleNamespace(resolution=1.0 / frequency))
    ticks = 0

    @ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.POINTER(ctypes.c_int64))
    def counter(count: Any) -> int:
        count[0] = ticks
        return 1

    f = Function(Module(), "read", [("to", PTR)])
    (to,) = f.parameters
    f.store(clock.clock_of("win32").write(f), to)
    f.close()
    address = ctypes.cast(counter, ctypes.c_void_p).value
    assert address is not None
    code = engine.load(f.module.text(), symbols={"QueryPerformanceCounter": address})
    found = ctypes.c_int64()
    # Up to a hundred years after the machine was started.
    for seconds in (0.0, 1e-6, 0.37, 12345.678901, 3.2e9):
        ticks = int(seconds * frequency)
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(code.address("read"))(ctypes.addressof(found))
        assert found.value == ticks * 1_000_000_000 // frequency


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no other clock")
def test_python_and_machine_code_read_one_clock() -> None:
    assert clock.clock_of("win32").now is time.perf_counter_ns
    for system in ("linux", "darwin"):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        assert before <= clock.clock_of(system).now() <= time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def test_what_cannot_be_measured_is_said_with_the_mend() -> None:
    with pytest.raises(ArgumentError, match=r"cr\.compile\(f\)"):
        cr.profile(network, 1.0)
    with pytest.raises(ArgumentError, match="rounds"):
        cr.profile(cr.compile(network, backend="numpy"), 1.0, rounds=0)
    with pytest.raises(ArgumentError, match="call it once"):
        cr.profile(cr.compile(nn.Dense(3), backend="numpy"), cr.ones((2, 2)))
