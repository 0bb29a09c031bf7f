"""Machine code for processors that are not here: a network's step is emitted for each, and its instructions are read."""

from __future__ import annotations

import platform
import re

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.compiler.native import engine, scalars, threads
from chainrule.compiler.native.conv_shape import Target
from chainrule.compiler.native.emit import emit
from chainrule.compiler.native.host import Host, describe
from chainrule.compiler.native.ir import PTR, Function, Module, kind_of
from chainrule.compiler.native.scalars import Builder
from chainrule.compiler.pipeline import build

llvm = pytest.importorskip("llvmlite.binding", reason="native code: pip install 'chainrule[cpu]'")

AVX2 = {"avx": True, "avx2": True, "fma": True, "f16c": True, "avx512f": False}
TARGETS = {
    "AVX-512": ("x86_64-unknown-linux-gnu", describe("skylake-avx512", {**AVX2, "avx512f": True, "avx512vl": True}, {}), "zmm"),
    "AVX2": ("x86_64-unknown-linux-gnu", describe("haswell", AVX2, {}), "ymm"),
    "SSE2": ("x86_64-unknown-linux-gnu", describe("x86-64", dict.fromkeys(AVX2, False), {}), "xmm"),
    "NEON": ("aarch64-unknown-linux-gnu", describe("cortex-a72", {"neon": True, "fp-armv8": True}, {}), "v"),
    "Apple": ("arm64-apple-darwin", describe("apple-m1", {"neon": True, "fp-armv8": True, "fullfp16": True}, {}), "v"),
}
REGISTERS = re.compile(r"\b([xyz]mm|[vz])\d+\b")
CALLS = re.compile(r"^\s+(?:callq|bl)\s+_?(\w+)", re.MULTILINE)


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Host, str]:
    """A processor, which the engine takes for its own while it writes, and the widest registers it has."""
    triple, host, widest = TARGETS[request.param]
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=host.cpu, features=host.features, opt=2, reloc="pic", codemodel="small")
    family = triple.split("-")[0]
    monkeypatch.setattr(engine, "host", lambda: host)
    monkeypatch.setattr(engine, "_machine", lambda: machine)
    monkeypatch.setattr(platform, "machine", lambda: family)
    monkeypatch.setattr(scalars, "converts_halves", scalars.converts_halves.__wrapped__)
    return host, widest


def test_a_step_uses_the_widest_registers_and_calls_nothing(target: tuple[Host, str]) -> None:
    host, widest = target
    cr.manual_seed(0)
    images = [nn.Conv2D(8, 3, activation="relu"), nn.BatchNormalization(), nn.MaxPooling2D(2), nn.Flatten()]
    model = nn.Sequential([*images, nn.Dense(10, activation="relu"), nn.Dense(10)])
    x = np.zeros((4, 12, 12, 3), np.float32)
    model(x)
    step = cr.trace(cr.value_and_grad(lambda x: (model(x) ** 2).sum()), x)
    program = emit(build(step, backend="numpy").graph, Target.of(host))
    assert not program.called_back
    code = engine.assembly(program.text) + engine.assembly(program.loops, optimize=2)
    order = ("v", "xmm", "ymm", "zmm")
    used = set(REGISTERS.findall(code))
    assert widest in used
    assert used <= set(order[: order.index(widest) + 1])
    assert {name for name in CALLS.findall(code) if "kernel" not in name} <= {"memcpy", "memset", "pool_barrier", "pool_take"}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_polynomials_call_nothing_where_no_instruction_fuses(target: tuple[Host, str], dtype: type) -> None:
    module, kind = Module(), kind_of(np.dtype(dtype)).wide(target[0].bits // 8 // np.dtype(dtype).itemsize)
    f = Function(module, "f", [("x", PTR)])
    k = Builder(f, np.dtype(dtype))
    x = f.load(kind, f.parameters[0])
    f.store(k.register(k.exp(k.value(x, np.dtype(dtype))), np.dtype(dtype)), f.parameters[0])
    f.close()
    # Of all steps, the four outside of the polynomial have to be rounded once; the C library does that for one lane after the other.
    exact = 0 if target[0].has("fma") or target[1] == "v" else 4 * kind.lanes
    assert len(CALLS.findall(engine.assembly(module.text()))) <= exact


def test_the_pool_can_be_written_for_each(target: tuple[Host, str]) -> None:
    for system in ("linux", "darwin", "win32"):
        assert "pool_run" in engine.assembly(threads.text(system))
