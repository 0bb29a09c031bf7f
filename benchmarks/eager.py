"""Time per operation of the eager engine, forward and backward, beside PyTorch in the same process.

One thread on both sides. Each figure is for one of many equal operations on leaves of their own, which are then
swept by one backward call: forward is the time to compute and record them, backward that of the sweep and of
freeing the graph. The two libraries take turns, round by round.
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import gc
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch

import chainrule as cr
from pages import write_section

torch.set_num_threads(1)


@dataclass(frozen=True)
class Library:
    """How one library makes a leaf and goes back."""

    leaf: Callable[[Any], Any]
    backward: Callable[[Sequence[Any], Sequence[Any]], None]
    constant: Callable[[Any], Any]
    operations: dict[str, Callable[..., Any]]


OURS = Library(
    leaf=lambda x: cr.tensor(x, requires_grad=True),
    backward=cr.autograd.backward,
    constant=cr.tensor,
    operations={"add": cr.add, "mul": cr.multiply, "exp": cr.exp, "sum": cr.sum, "matmul": cr.matmul},
)
THEIRS = Library(
    leaf=lambda x: torch.tensor(x, requires_grad=True),
    backward=torch.autograd.backward,
    constant=torch.tensor,
    operations={"add": torch.add, "mul": torch.mul, "exp": torch.exp, "sum": torch.sum, "matmul": torch.matmul},
)
OPERANDS = {"add": 2, "mul": 2, "exp": 1, "sum": 1, "matmul": 2}
SIZES = {"scalar": ((), 100), "100": ((100,), 100), "1e6": ((1_000_000,), 4)}
MATRICES = {"scalar": ((1, 1), 100), "100": ((10, 10), 100), "1e6": ((1000, 1000), 4)}

# One round: seconds per operation, forward and backward.
Round = Callable[[], tuple[float, float]]


@dataclass(frozen=True)
class Row:
    """What was measured of one operation: microseconds per library, forward and backward, one pair a round."""

    name: str
    ours: list[tuple[float, float]]
    theirs: list[tuple[float, float]]

    def times(self, side: int) -> tuple[list[float], list[float]]:
        """Ours and theirs, forward (0) or backward (1)."""
        return [pair[side] for pair in self.ours], [pair[side] for pair in self.theirs]

    def ratio(self, side: int) -> float:
        ours, theirs = self.times(side)
        return median(ours) / median(theirs)

    def __str__(self) -> str:
        cells = [self.name]
        for side in (0, 1):
            ours, theirs = self.times(side)
            cells += [figure(ours), figure(theirs), f"{self.ratio(side):.2f}"]
        return "| " + " | ".join(cells) + " |"


def figure(times: list[float]) -> str:
    return f"{short(median(times))} ({short(min(times))})"


def short(microseconds: float) -> str:
    return f"{microseconds:.0f}" if microseconds >= 100 else f"{microseconds:.1f}" if microseconds >= 10 else f"{microseconds:.2f}"


def independent(library: Library, operation: str, shape: tuple[int, ...], count: int) -> Round:
    """``count`` operations, each on leaves of its own."""
    rng = np.random.default_rng(0)
    function = library.operations[operation]
    leaves = [[library.leaf(rng.uniform(0.5, 1.5, shape).astype("float32")) for _ in range(OPERANDS[operation])] for _ in range(count)]
    one = library.constant(np.ones_like(np.asarray(function(*leaves[0]).detach())))
    cotangents = [one] * count

    def round_() -> tuple[float, float]:
        for arguments in leaves:
            for x in arguments:
                x.grad = None
        start = perf_counter()
        outputs = [function(*arguments) for arguments in leaves]
        middle = perf_counter()
        library.backward(outputs, cotangents)
        del outputs
        end = perf_counter()
        return (middle - start) / count * 1e6, (end - middle) / count * 1e6

    return round_


def chain(library: Library, shape: tuple[int, ...], count: int) -> Round:
    """``count`` operations one after the other: y = y * a + b, with a gradient for all three."""
    rng = np.random.default_rng(0)
    x, a, b = (library.leaf(rng.uniform(0.9, 1.0, shape).astype("float32")) for _ in range(3))
    one = library.constant(np.ones(shape, "float32"))

    def round_() -> tuple[float, float]:
        x.grad = a.grad = b.grad = None
        start = perf_counter()
        y = x
        for _ in range(count // 2):
            y = y * a + b
        middle = perf_counter()
        library.backward([y], [one])
        del y
        end = perf_counter()
        return (middle - start) / count * 1e6, (end - middle) / count * 1e6

    return round_


def measure(name: str, make: Callable[[Library], Round], seconds: float) -> Row:
    """Rounds of both libraries in turn for about this many seconds; the first few are not counted."""
    rounds = make(OURS), make(THEIRS)
    times: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    gc.collect()
    gc.disable()
    warm = 3
    end = perf_counter() + seconds
    while warm or len(times[0]) < 5 or perf_counter() < end:
        for run, kept in zip(rounds, times, strict=True):
            pair = run()
            if not warm:
                kept.append(pair)
        warm = max(0, warm - 1)
    gc.enable()
    return Row(name, *times)


def rows(seconds: float) -> Iterator[Row]:
    for operation in OPERANDS:
        for label, (shape, count) in (MATRICES if operation == "matmul" else SIZES).items():
            size = "x".join(map(str, shape)) if operation == "matmul" else label
            yield measure(f"{operation}, {size}", lambda lib, o=operation, s=shape, c=count: independent(lib, o, s, c), seconds)
    for label, (shape, _) in SIZES.items():
        yield measure(f"mul+add chain of 100, {label}", lambda lib, s=shape: chain(lib, s, 100 if s != (1_000_000,) else 10), seconds)
    yield measure("one mul and its backward, scalar", lambda lib: independent(lib, "mul", (), 1), seconds)


IMPORT = "import numpy, time; start = time.perf_counter(); import chainrule; print(time.perf_counter() - start)"


def import_times(count: int = 9) -> list[float]:
    """Milliseconds that ``import chainrule`` takes in a fresh process that has imported NumPy; bytecode is cached, as after any first import."""
    with TemporaryDirectory() as cache:
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        fresh = partial(
            subprocess.run, [sys.executable, "-c", IMPORT], env={**kept, "PYTHONPYCACHEPREFIX": cache}, capture_output=True, text=True, check=True
        )
        fresh()
        return [float(fresh().stdout) * 1e3 for _ in range(count)]


def machine() -> str:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")), cpu)
    return (
        f"{cpu}, {os.cpu_count()} cores, one used; {platform.system()}, Python {platform.python_version()}, "
        f"NumPy {np.__version__}, PyTorch {torch.__version__}; {datetime.now(UTC):%Y-%m-%d}"
    )


HEADING = "How fast the eager engine is"
PAGE = """Microseconds per operation beside PyTorch, in one process, one thread each (`torch.set_num_threads(1)`, and
`OPENBLAS_NUM_THREADS=1` set before NumPy loads), float32. Measured and written by

```sh
make bench-eager
```

Median over the rounds, the fastest in brackets; the libraries take turns round by round. A ratio under 1 means
that chainrule is faster. *Forward* is computing and recording, *backward* the sweep, the gradients arriving in `.grad`, and
freeing the graph. A row's figures are per operation, of 100 (from 1e6 elements on: 4) on leaves of their own, all of
which require gradients, swept by one backward call; in the chain's rows, of 100 (10) in sequence. The last row
has one operation to a backward call.

{machine}

| operation, elements | forward: chainrule | PyTorch | ratio | backward: chainrule | PyTorch | ratio |
|---|---|---|---|---|---|---|
{table}

Slower than PyTorch by more than a tenth: {slower}. An addition's backward pass hands its cotangent on as it is, because values never change;
PyTorch copies it, which shows at 1e6 elements.

`import chainrule` takes {imported} ms more than `import numpy` (fresh processes with cached bytecode; median, fastest in brackets).

The machine is shared: trust the ratios more than the microseconds.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="write the page here")
    parser.add_argument("--seconds", type=float, default=2.0, help="per row")
    options = parser.parse_args()
    measured: list[Row] = []
    for row in rows(options.seconds):
        measured.append(row)
        print(row, flush=True)
    slower = [
        f"{row.name} {way} ({row.ratio(side):.2f})" for row in measured for side, way in enumerate(("forward", "backward")) if row.ratio(side) > 1.1
    ]
    page = PAGE.format(machine=machine(), table="\n".join(map(str, measured)), slower="; ".join(slower) or "nothing", imported=figure(import_times()))
    if options.output:
        write_section(options.output, HEADING, page)
    else:
        print("\n" + page)


if __name__ == "__main__":
    main()
