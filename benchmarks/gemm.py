"""Matrix products in our machine code, beside NumPy and PyTorch, and beside the peak of the processor's multipliers.

Every contender has a process of its own, because thread pools in one process spin in each other's way; they take turns, round by
round, and the best round counts. With one thread it is the processor's time that counts, which others on the machine do not lengthen.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any, NamedTuple

import numpy as np

from chainrule.compiler.native import engine
from chainrule.compiler.native.gemm import Product, folded, write_product
from chainrule.compiler.native.ir import I64, PTR, VOID, Function, Module, Value, index, kind_of, literal
from pages import write_section

KEPT: list[Any] = []
"""What machine code needs as long as it may be called."""

Call = Callable[[], Any]


class Case(NamedTuple):
    """``C[m, n] = A[m, k] @ B[k, n]``; A or B may lie transposed."""

    m: int
    k: int
    n: int
    turned: str = ""
    dtype: str = "float32"
    batch: int = 0

    @property
    def name(self) -> str:
        words = [f"{self.batch} x " if self.batch else "", f"{self.m}x{self.k}x{self.n}", *(f", {word} transposed" for word in self.turned)]
        return "".join(words) + (", float64" if self.dtype == "float64" else "")

    @property
    def work(self) -> float:
        return 2.0 * self.m * self.k * self.n * max(self.batch, 1)

    def operands(self) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        lead = (self.batch,) if self.batch else ()

        def make(rows: int, columns: int, turned: bool) -> np.ndarray:
            x = rng.standard_normal((*lead, *((columns, rows) if turned else (rows, columns)))).astype(self.dtype)
            return x.swapaxes(-1, -2) if turned else x

        return make(self.m, self.k, "A" in self.turned), make(self.k, self.n, "B" in self.turned)


CASES = [
    *(Case(64, 784, 256, turned) for turned in ("", "A", "B", "AB")),
    *(Case(*size) for size in [(512, 784, 256), (128, 128, 128), (32, 128, 512), (64, 64, 64), (16, 16, 16), (8, 4096, 1024)]),
    *(Case(512, 512, 512, turned) for turned in ("", "A", "B", "AB")),
    Case(2048, 2048, 2048),
    *(Case(1, 1024, 1024, turned) for turned in ("", "B")),
    *(Case(*size) for size in [(256, 3072, 10), (64, 256, 10), (1024, 1000, 10), (32, 4096, 16)]),
    Case(3072, 256, 10, "A"),
    Case(256, 10, 3072, "B"),
    Case(128, 32, 128, "B", batch=64),
    Case(128, 128, 32, batch=64),
    *(Case(8192, 256, 256, turned) for turned in ("", "B")),
    *(Case(*size, "A") for size in [(256, 8192, 256), (128, 2048, 512), (1024, 1024, 256), (1024, 4096, 32)]),
    Case(32, 4096, 1024),
    *(Case(*size, dtype="float64") for size in [(64, 784, 256), (512, 512, 512)]),
]


def native(case: Case, *, halves: bool = False) -> Call:
    """Our own: one call into the pool of threads, with a barrier where B is packed first."""
    a, b = case.operands()
    c = np.zeros((*a.shape[:-1], case.n), case.dtype)
    (*a_batch, a_row, a_column), (*b_batch, b_row, b_column), (*c_batch, c_row, _) = ([s // a.itemsize for s in x.strides] for x in (a, b, c))
    product = Product(
        *(case.m, case.k, case.n, a.dtype, (a_row, a_column), (b_row, b_column), c_row),
        *(a.shape[:-2], tuple(a_batch), tuple(b_batch), tuple(c_batch)),
    )
    module = Module()
    bits = engine.host().bits
    written = write_product(module, "product", folded(product), bits=bits, registers=32 if bits == 512 else 16, halves=halves)
    scratch = np.zeros(written.scratch + 64, "uint8")
    arrays = {"a": a, "b": b, "c": c, "scratch": scratch[-scratch.ctypes.data % 64 :]}
    pointers: list[int] = []
    module.declare("pool_run", VOID, [PTR, PTR])
    module.declare("pool_barrier", VOID, [I64, I64])
    f = Function(module, "step", [("args", PTR), ("thread", I64), ("threads", I64)])
    args, thread, threads = f.parameters
    for number, (kernel, roles) in enumerate(written.works):
        if number:
            f.call("pool_barrier", VOID, thread, threads)
        given = [f.load(PTR, f.at(args, len(pointers) + i, PTR)) for i in range(len(roles))]
        pointers += [arrays[role].ctypes.data for role in roles]
        first, last = (f.div(f.mul(at, kernel.units), threads) for at in (thread, f.add(thread, 1)))
        f.call(kernel.name, VOID, *given, index(first), index(last))
    f.close()
    f = Function(module, "run", [("args", PTR)])
    f.call("pool_run", VOID, Value("@step", PTR), f.parameters[0])
    f.close()
    code = engine.load(module.text())
    block = (ctypes.c_void_p * len(pointers))(*pointers)
    call = partial(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(code.address("run")), ctypes.addressof(block))
    KEPT.append((code, arrays, block))
    call()
    rounding = 0.02 * case.k**0.5 if halves else 1e-3
    np.testing.assert_allclose(c, a @ b, rtol=1e-3, atol=rounding)
    return call


ROUNDS, SUMS = 20_000, 12


def peak(dtype: str, rounds: int = ROUNDS) -> Call:
    """Fused products and sums of registers."""
    kind = kind_of(np.dtype(dtype))
    kind = kind.wide(engine.host().bits // kind.bits)
    module = Module()
    f = Function(module, "peak", [("out", PTR), ("rounds", I64)])
    out, count = f.parameters
    with f.loop(0, count, 1, [literal(0.1 * i, kind) for i in range(SUMS)]) as loop:
        loop.next(*(f.fma(x, literal(0.999, kind), literal(0.001, kind)) for x in loop.carried))
    for i, x in enumerate(loop.results):
        f.store(x, f.at(out, i * kind.lanes, kind))
    f.close()
    code = engine.load(module.text())
    made = np.zeros(SUMS * kind.lanes, dtype)
    KEPT.append((code, made))
    return partial(ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(code.address("peak")), made.ctypes.data, rounds)


def numpy(case: Case) -> Call:
    a, b = case.operands()
    c = np.zeros((*a.shape[:-1], case.n), case.dtype)
    return lambda: np.matmul(a, b, out=c)


def pytorch(case: Case) -> Call:
    torch = importlib.import_module("torch")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    a, b = (torch.from_numpy(x) for x in case.operands())
    c = torch.zeros((*a.shape[:-1], case.n), dtype=a.dtype)
    return lambda: torch.matmul(a, b, out=c)


MAKERS: dict[str, Callable[[Case], Call]] = {
    "512 bits": native,
    "512 bits, bfloat16": partial(native, halves=True),
    "256 bits": native,
    "NumPy": numpy,
    "PyTorch": pytorch,
}


def contend(pipe: Connection, name: str) -> None:
    """One contender: makes what it is sent, and times it whenever asked for a round."""
    clock = thread_time if os.environ["OMP_NUM_THREADS"] == "1" else perf_counter
    calls: dict[Any, Call] = {}
    while (asked := pipe.recv()) is not None:
        if asked not in calls:
            calls[asked] = peak(asked[0]) if asked[1:] == ("peak",) else MAKERS[name](Case(*asked))
            calls[asked]()
        call = calls[asked]
        began = perf_counter()
        call()
        repeat = max(int(0.004 / max(perf_counter() - began, 1e-7)), 1)
        best, end = float("inf"), perf_counter() + 0.05
        while perf_counter() < end or best == float("inf"):
            began = clock()
            for _ in range(repeat):
                call()
            best = min(best, (clock() - began) / repeat)
        pipe.send(best)


def measure(threads: int, names: list[str], rounds: int, cases: list[Case]) -> list[str]:
    """The rows of a table."""
    context = get_context("spawn")
    pipes: dict[str, Connection] = {}
    workers: list[Any] = []
    for word in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CHAINRULE_NUM_THREADS"):
        os.environ[word] = str(threads)
    for name in names:
        os.environ["CHAINRULE_NATIVE_WIDTH"] = name.split()[0] if "bits" in name else "512"
        pipes[name], end = context.Pipe()
        workers.append(context.Process(target=contend, args=(end, name), daemon=True))
        workers[-1].start()
    lines: list[str] = []
    for case in cases:
        asked = {name: [case, (case.dtype, "peak")] if "bits" in name else [case] for name in names}
        best: dict[tuple[str, Any], float] = {}
        for _ in range(rounds):
            for name, questions in asked.items():
                for question in questions:
                    pipes[name].send(tuple(question))
                    best[name, question] = min(pipes[name].recv(), best.get((name, question), float("inf")))
        cells: list[str] = []
        for name in names:
            speed = case.work / best[name, case] / 1e9
            top = best.get((name, (case.dtype, "peak")))
            most = threads * operations(case.dtype, int(name.split()[0])) / top / 1e9 if top else 0
            cells.append(f"{speed:.0f} ({100 * speed / most:.0f}%)" if most else f"{speed:.0f}")
        lines.append(f"| {case.name} | {threads} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    for pipe, worker in zip(pipes.values(), workers, strict=True):
        pipe.send(None)
        worker.join()
    return lines


def operations(dtype: str, bits: int, rounds: int = ROUNDS) -> float:
    """Of one call of `peak`."""
    return 2.0 * SUMS * rounds * bits / (8 * np.dtype(dtype).itemsize)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", default="", help="cases whose names contain this")
    parser.add_argument("--output", type=Path, help="a page that gets the table as a section")
    options = parser.parse_args()
    names = [name for name in MAKERS if "bits" not in name or int(name.split()[0]) <= engine.host().bits]
    names = [name for name in names if "bfloat16" not in name or engine.host().has("avx512bf16")]
    names = [name for name in names if name != "PyTorch" or importlib.util.find_spec("torch")]
    lines = [
        f"GFLOP/s, and the share of the peak of fused products of registers; `{' '.join(['python', *sys.argv])}`.",
        "",
        f"| product | threads | {' | '.join(f'ours, {name}' if 'bits' in name else name for name in names)} |",
        f"|---|---|{'---|' * len(names)}",
    ]
    print("\n".join(lines))
    for threads in options.threads:
        lines += measure(threads, names, options.rounds, [case for case in CASES if options.only in case.name])
    if options.output:
        write_section(options.output, "Matrix products", "\n".join(lines))


if __name__ == "__main__":
    main()
