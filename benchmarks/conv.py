"""GFLOP/s of the native convolutions beside PyTorch's in channels_last, and their share of the peak that the machine shows in the same run.

The contenders take turns, round by round; each figure is the best of all rounds, because others use the machine too. With one thread it
is the processor's time that counts. PyTorch's threads keep looking for work for a while after a call: everyone waits until they sleep.

    python benchmarks/conv.py [--threads N] [--rounds N] [--only NAME ...] [--without-torch]
"""

from __future__ import annotations

import argparse
import ctypes
import math
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, sleep, thread_time
from typing import Any, NamedTuple

import numpy as np
import torch

from chainrule.compiler.native import engine
from chainrule.compiler.native.conv import write_conv
from chainrule.compiler.native.conv_shape import Target
from chainrule.compiler.native.ir import F32, I64, PTR, VOID, Function, Module, Value, index, literal
from chainrule.compiler.native.kernel import Kernel
from chainrule.core.aval import Aval
from chainrule.core.primitive import TABLE
from pages import write_section

GATES = {"forward": "conv", "input gradient": "conv_transpose", "weight gradient": "conv_weight"}
HALVED = ("forward", "input gradient")
"""Those that may round their operands to bfloat16."""


class Shape(NamedTuple):
    """Batch, height, width, channels, features, kernel, stride, padding, groups."""

    batch: int
    height: int
    width: int
    channels: int
    features: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1

    @property
    def size(self) -> tuple[int, int]:
        taken = 2 * self.padding - self.kernel
        return (self.height + taken) // self.stride + 1, (self.width + taken) // self.stride + 1

    @property
    def flops(self) -> float:
        return 2.0 * self.batch * math.prod(self.size) * self.features * self.channels // self.groups * self.kernel**2


SHAPES = {
    "5x5 1->32, 28x28, batch 64": Shape(64, 28, 28, 1, 32, 5, 1, 2),
    "5x5 32->64, 14x14, batch 64": Shape(64, 14, 14, 32, 64, 5, 1, 2),
    "5x5 32->64, 28x28, batch 64": Shape(64, 28, 28, 32, 64, 5, 1, 2),
    "3x3 64->64, 32x32, batch 16": Shape(16, 32, 32, 64, 64, 3, 1, 1),
    "11x11/4 3->64, 224x224, batch 8": Shape(8, 224, 224, 3, 64, 11, 4, 2),
    "5x5 64->192, 27x27, batch 8": Shape(8, 27, 27, 64, 192, 5, 1, 2),
    "3x3 192->384, 13x13, batch 8": Shape(8, 13, 13, 192, 384, 3, 1, 1),
    "3x3/2 64->128, 32x32, batch 16": Shape(16, 32, 32, 64, 128, 3, 2, 1),
    "1x1 128->256, 28x28, batch 16": Shape(16, 28, 28, 128, 256, 1),
    "1x1 256->64, 28x28, batch 16": Shape(16, 28, 28, 256, 64, 1),
    "3x3 24->24, 20x20, batch 16": Shape(16, 20, 20, 24, 24, 3, 1, 1),
    "3x3 10->10, 20x20, batch 16": Shape(16, 20, 20, 10, 10, 3, 1, 1),
    "5x5 64->3, 32x32, batch 16": Shape(16, 32, 32, 64, 3, 5, 1, 2),
    "3x3 groups of 16, 64, 32x32, batch 16": Shape(16, 32, 32, 64, 64, 3, 1, 1, 4),
    "3x3 depthwise 64, 32x32, batch 16": Shape(16, 32, 32, 64, 64, 3, 1, 1, 64),
}


def native(shape: Shape, gate: str, arrays: Sequence[np.ndarray], *, halves: bool = False) -> tuple[Callable[[], None], np.ndarray]:
    """A call that runs a gate's kernels on all threads, and where it leaves the result; ``halves``: they may round to bfloat16."""
    x, w, y = (Aval(a.shape, a.dtype) for a in arrays)
    layout = {"stride": (shape.stride,) * 2, "dilation": (1, 1), "low": (shape.padding,) * 2, "groups": shape.groups}
    cases = {"conv": ((0, 1), y, shape.size), "conv_transpose": ((2, 1), x, x.shape[1:-1]), "conv_weight": ((0, 2), w, w.shape[:-2])}
    inputs, out, size = cases[gate]
    module = Module()
    target = Target.of(engine.host(), halves=halves)
    written = write_conv(module, "conv", gate, [(x, w, y)[i] for i in inputs], out, {**layout, "size": size}, target)
    result, scratch = aligned(np.zeros(out.shape, out.dtype)), aligned(np.zeros(written.scratch // 4 + 1, "f4"))
    memory = {"a": arrays[inputs[0]], "b": arrays[inputs[1]], "c": result, "scratch": scratch}
    names = list(memory)
    f = Function(module, "step", [("args", PTR), ("thread", I64), ("threads", I64)])
    args, thread, threads = f.parameters
    pointers = {name: f.load(PTR, f.at(args, i, PTR)) for i, name in enumerate(names)}
    module.declare("pool_barrier", VOID, [I64, I64])
    for number, work in enumerate(written.works):
        if number:
            f.call("pool_barrier", VOID, thread, threads)
        f.call(work.kernel.name, VOID, *(pointers[role] for role in work.roles), *_share(f, work.kernel, thread, threads))
    f.close()
    return _step(module, [memory[name] for name in names]), result


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy that begins with a cache line, as in a plan's arena."""
    memory = np.empty(array.nbytes + 64, "u1")
    begin = -memory.ctypes.data % 64
    copy = memory[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _share(f: Function, kernel: Kernel, thread: Value, threads: Value) -> tuple[Value, Value]:
    ends = (f.div(f.mul(at, kernel.units), threads) for at in (thread, f.add(thread, 1)))
    first, last = map(index, ends)
    return first, last


def _step(module: Module, arrays: Sequence[np.ndarray]) -> Callable[[], None]:
    """A call of the module's ``step`` on the threads of the pool."""
    module.declare("pool_run", VOID, [PTR, PTR])
    f = Function(module, "run", [("args", PTR)])
    f.call("pool_run", VOID, Value("@step", PTR), f.parameters[0])
    f.close()
    code = engine.load(module.text())
    block = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(code.address("run"))
    kept = code, arrays
    return lambda: run(block) if kept else None


def peak() -> Callable[[], None]:
    """Multiplications and additions in registers alone: 28 sums of one vector each, 10,000 times on every thread."""
    vector = F32.wide(Target.of(engine.host()).nbytes // 4)
    chains = 28 if Target.of(engine.host()).registers == 32 else 12
    module = Module()
    f = Function(module, "step", [("args", PTR), ("thread", I64), ("threads", I64)])
    place = f.at(f.load(PTR, f.parameters[0]), f.mul(f.parameters[1], 64), F32)
    factor = f.load(vector, place)
    with f.loop(0, 10_000, carry=[literal(0, vector)] * chains) as loop:
        loop.next(*(f.fma(x, factor, factor) for x in loop.carried))
    total = loop.results[0]
    for x in loop.results[1:]:
        total = f.binary("fadd", total, x)
    f.store(total, place)
    f.close()
    return _step(module, [np.zeros(64 * 256, "f4")])


def torch_calls(shape: Shape, arrays: Sequence[np.ndarray], threads: int) -> dict[str, Callable[[], Any]]:
    torch.set_num_threads(threads)
    last = torch.channels_last
    x, y = (torch.tensor(a).permute(0, 3, 1, 2).contiguous(memory_format=last) for a in (arrays[0], arrays[2]))
    w = torch.tensor(arrays[1]).permute(3, 2, 0, 1).contiguous(memory_format=last)

    def back(*wanted: bool) -> Any:
        return torch.ops.aten.convolution_backward(
            y, x, w, None, [shape.stride] * 2, [shape.padding] * 2, [1, 1], False, [0, 0], shape.groups, list(wanted)
        )

    return {
        "forward": lambda: torch.nn.functional.conv2d(x, w, None, shape.stride, shape.padding, 1, shape.groups),
        "input gradient": lambda: back(True, False, False),
        "weight gradient": lambda: back(False, True, False),
    }


def best(call: Callable[[], Any], seconds: float, clock: Callable[[], float]) -> float:
    """The quickest of the calls that fit into so many seconds."""
    call()
    least, end = math.inf, perf_counter() + seconds
    while perf_counter() < end:
        start = clock()
        call()
        least = min(least, clock() - start)
    return least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=engine.pool().threads)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--only", nargs="*", default=[""])
    parser.add_argument("--without-torch", action="store_true")
    parser.add_argument("--output", type=Path, help="a page that gets the table as a section")
    options = parser.parse_args()
    engine.pool().resize(options.threads)
    clock = thread_time if options.threads == 1 else perf_counter
    rng = np.random.default_rng(0)
    host = engine.host()
    lines = [
        "GFLOP/s: ours (share of the peak of fused products of registers) / PyTorch.",
        f"{host.cpu}, vectors of {host.bits} bits, {options.threads} threads, Python {platform.python_version()}.",
        "",
        f"| convolution | {' | '.join(GATES)} | peak | bfloat16: {', '.join(HALVED)} |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    fma, lanes = peak(), Target.of(host).nbytes // 4
    flops = 2 * 10_000 * lanes * (28 if Target.of(host).registers == 32 else 12) * options.threads
    for name, shape in SHAPES.items():
        if not any(part in name for part in options.only):
            continue
        arrays = [
            aligned(rng.normal(size=size).astype("f4"))
            for size in (
                (shape.batch, shape.height, shape.width, shape.channels),
                (shape.kernel, shape.kernel, shape.channels // shape.groups, shape.features),
                (shape.batch, *shape.size, shape.features),
            )
        ]
        ours = {label: native(shape, gate, arrays) for label, gate in GATES.items()}
        halved = {label: native(shape, GATES[label], arrays, halves=True) for label in HALVED}
        peers = {} if options.without_torch else torch_calls(shape, arrays, options.threads)
        check(shape, ours, arrays)
        halved = {label: call for label, (call, result) in halved.items() if rounds(call, result, ours[label][1])}
        times: dict[tuple[str, str], list[float]] = {}
        top: list[float] = []
        for _ in range(options.rounds):
            top.append(best(fma, 0.05, clock))
            for label in GATES:
                times.setdefault(("ours", label), []).append(best(ours[label][0], 0.12, clock))
                if label in halved:
                    times.setdefault(("halved", label), []).append(best(halved[label], 0.08, clock))
                if peers:
                    times.setdefault(("torch", label), []).append(best(peers[label], 0.12, clock))
                    sleep(0.05)
        highest = flops / min(top) / 1e9
        cells: list[str] = []
        for label in GATES:
            rate = shape.flops / min(times["ours", label]) / 1e9
            peer = f" / {shape.flops / min(times['torch', label]) / 1e9:4.0f}" if peers else ""
            cells.append(f"{rate:4.0f} ({rate / highest:3.0%}){peer}")
        rounded = ", ".join(f"{shape.flops / min(times['halved', label]) / 1e9:.0f}" if label in halved else "-" for label in HALVED)
        lines.append(f"| {name} | {' | '.join(cells)} | {highest:.0f} | {rounded} |")
        print(lines[-1], flush=True)
    if options.output:
        write_section(options.output, "Convolutions", "\n".join(lines))


def rounds(call: Callable[[], None], result: np.ndarray, exact: np.ndarray) -> bool:
    """Whether a call leaves something else than the one in float32."""
    call()
    return not np.array_equal(result, exact)


def check(shape: Shape, ours: dict[str, tuple[Callable[[], None], np.ndarray]], arrays: Sequence[np.ndarray]) -> None:
    """The same numbers as the library's eager gates."""
    layout = {"stride": (shape.stride,) * 2, "dilation": (1, 1), "low": (shape.padding,) * 2, "groups": shape.groups}
    x, w, y = arrays
    sizes = {"conv": shape.size, "conv_transpose": x.shape[1:-1], "conv_weight": w.shape[:-2]}
    for label, gate in GATES.items():
        call, result = ours[label]
        call()
        expected = TABLE[gate].evaluate(*{"conv": (x, w), "conv_transpose": (y, w), "conv_weight": (x, y)}[gate], size=sizes[gate], **layout)
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4 * float(np.abs(expected).max()))


if __name__ == "__main__":
    main()
