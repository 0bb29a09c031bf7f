"""What a benchmark needs to know of the machine: its peak, its bandwidth, its memory, its name, and what an installation takes.

The floor of a computation is the larger of two times: its products at the peak of fused multiplications, and what it has to read and
write at the bandwidth of a copy of as much.
"""

from __future__ import annotations

import compileall
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import chainrule as cr
from chainrule.compiler.native import engine
from chainrule.graph.ir import Graph, Operation
from gemm import operations, peak

TUNED = {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736:glibc.malloc.top_pad=67108864"}
"""glibc's allocator told to keep what is freed: no mapping of its own for a large block, and nothing given back."""

ROUNDS, COPIED = 6_000_000, 1 << 28
"""How long the machine is measured: about 20 ms of products, and as many bytes."""

LEAST, MOST = 1 << 20, 1 << 28
"""Of how many bytes a copy is measured: less fits into what a core has for itself, more makes no difference."""


class Floor:
    """How fast the machine is, measured again and again, because it is not always as fast.

    Parameters
    ----------
    threads : int
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        # Each has a processor of its own: two threads that wake on one share it for some milliseconds.
        places = iter(processors())
        self._pool = ThreadPoolExecutor(threads, initializer=lambda: settle(next(places)))
        self._work, self._flops = peak("float32", ROUNDS), operations("float32", engine.host().bits, ROUNDS)
        self.flops = 0.0
        self.bandwidths: dict[int, float] = {}

    def measure(self, flops: int, nbytes: int) -> tuple[float, float]:
        """Seconds that so many operations take now, and copying so many bytes in all; of three times the best.

        The speeds are kept, too: in `flops` and `bandwidths` (by bytes, rounded up to a power of two) the best so far.
        """
        size = power(nbytes)
        part = size // 2 // self.threads
        pairs = [(np.ones(part, "uint8"), np.zeros(part, "uint8")) for _ in range(self.threads)]
        times = max(1, COPIED // size)

        def copy(pair: tuple[np.ndarray, np.ndarray]) -> None:
            for _ in range(times):
                np.copyto(pair[1], pair[0])

        multiply = lambda _: self._work()
        operated = max(self._flops * self.threads / self._timed(multiply, range(self.threads)) for _ in range(3))
        copied = max(size * times / self._timed(copy, pairs) for _ in range(3))
        self.flops = max(self.flops, operated)
        self.bandwidths[size] = max(self.bandwidths.get(size, 0.0), copied)
        return flops / operated, nbytes / copied

    def _timed(self, work: Callable[[Any], None], shares: Any) -> float:
        began = perf_counter()
        list(self._pool.map(work, shares))
        return perf_counter() - began


def settle(processor: int) -> None:
    """Let the thread that calls run there alone, if the system can say so."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {processor})


def power(nbytes: int) -> int:
    size = LEAST
    while size < min(nbytes, MOST):
        size *= 2
    return size


def products(computation: Graph | Operation) -> int:
    """Floating-point operations of matrix products and convolutions; a sum of the others would not say how long they take."""
    if isinstance(computation, Graph):
        return sum(map(products, computation.nodes))
    inner = [x for x in computation.params.values() if isinstance(x, Graph)]
    if inner:
        return sum(map(products, inner)) * int(computation.params.get("length", 1))
    one = computation.primitive
    return cr.autodiff.cost.floating_operations(computation) if one.multilinear and one.cost is not None else 0


def traffic(graph: Graph) -> int:
    """Bytes of what a graph reads from outside and leaves behind."""
    return sum(x.nbytes for x in (*graph.inputs, *graph.outputs))


def status(name: str) -> int:
    """A line of the process's status, such as ``VmRSS`` or ``VmHWM``, in bytes; 0 where there is none."""
    path = Path("/proc/self/status")
    found = re.search(rf"^{name}:\s+(\d+) kB", path.read_text(), re.MULTILINE) if path.exists() else None
    return int(found[1]) * 1024 if found else 0


def forget_peak() -> None:
    """Let the process's peak of memory, VmHWM, be what it takes now."""
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")


def processors() -> list[int]:
    """Those that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def describe(threads: int) -> str:
    """Processor, system, versions and day."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")), cpu)
    names = [f"{title} {version(name)}" for name, title in (("numpy", "NumPy"), ("llvmlite", "llvmlite"), ("torch", "PyTorch"), ("jax", "JAX"))]
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    return f"{cpu}, {threads} threads; {platform.system()}, Python {platform.python_version()}, {', '.join(names)}; {day}"


def compile_sources() -> None:
    """Bytecode for the library, as pip leaves it: one that is used from its folder may have none."""
    compileall.compile_dir(Path(cr.__file__).parent, quiet=2)


def import_seconds(module: str, rounds: int) -> list[float]:
    """What importing takes in a fresh process."""
    code = f"import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"
    run = lambda: subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    run()
    return [float(run()) for _ in range(rounds)]


def installed_bytes(*names: str) -> int:
    """Files of distributions and of what they need, extras aside; a library that is used from its folder counts that folder."""
    seen: set[str] = set()
    waiting, total = list(names), 0
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        if name == "chainrule":
            folder = Path(cr.__file__).parent
            total += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
            waiting.append("numpy")
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError:
            # Needed on another platform.
            continue
        total += sum(
            path.stat().st_size for file in found.files or () if (path := Path(str(found.locate_file(file)))).is_file() and path.suffix != ".pyc"
        )
        waiting += [match[0] for need in found.requires or () if "extra ==" not in need and (match := re.match(r"[\w.-]+", need))]
    return total
