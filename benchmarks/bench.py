"""Whole steps beside PyTorch and JAX: time, first call, memory, and how near they come to what the machine can do.

Every contender of a workload has a process of its own, because thread pools in one process spin in each other's way. They
have the same numbers and the same processors; what they return at first, and then, is compared. They take turns, round by round.

    python benchmarks/bench.py [NAME ...] [--rounds N] [--torch-compile] [--output docs/performance.md]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, TemporaryFile
from time import perf_counter, sleep
from typing import Any

import numpy as np

import chainrule as cr
import machine
from pages import write_section
from workloads import WORKLOADS, Step, Workload

EAGER, NUMPY, NATIVE = "eager", "numpy", "native"
TUNED, LAST, COMPILED = " tuned", " channels_last", "torch.compile"
OURS = (EAGER, NUMPY, NATIVE)
PEERS = ("PyTorch", "PyTorch" + TUNED, "PyTorch" + LAST, "PyTorch" + LAST + TUNED, COMPILED, "JAX", "JAX" + TUNED)
HEADING = "Whole steps beside PyTorch and JAX"
PATIENCE = 180.0
AGAIN = 3
"""More first calls of the native step: a machine that is shared may be slow for one of them."""
CALL = 1e-6
"""What a call takes anyway: a floor below it is none."""


def contenders(work: Workload, *, compiled: bool) -> list[str]:
    """Those that take part."""
    return [*OURS, *(name for name in PEERS if (LAST not in name or work.images) and (name != COMPILED or compiled))]


# In the process of a contender.


def library_of(contender: str) -> Any:
    """What the contender is measured with, loaded, and nothing else."""
    if contender in OURS:
        return cr
    library = import_module("jax" if contender.startswith("JAX") else "torch")
    if library.__name__ == "torch":
        library.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        import_module("torch.utils.checkpoint")
    return library


def step_of(work: Workload, contender: str, library: Any) -> Step:
    itself = lambda f: f
    if contender in OURS:
        return work.ours(itself if contender == EAGER else lambda f: cr.compile(f, backend=contender))
    if contender.startswith("JAX"):
        return work.jax(library)
    return work.torch(library, library.compile if contender == COMPILED else itself, LAST in contender)


def norms(results: Sequence[Any]) -> list[float]:
    """One number for each result, the same in all layouts."""
    arrays = [np.asarray(x.detach() if hasattr(x, "detach") else x, "float64") for x in results]
    return [float(np.sqrt(np.sum(x * x))) for x in arrays]


def contend(name: str, contender: str, pipe: Any) -> None:
    """Answer the parent's questions, a line of JSON each, until there are none."""
    library = library_of(contender)
    before = machine.status("VmRSS")
    step = step_of(WORKLOADS[name](), contender, library)
    repeat = 0

    def first() -> dict[str, Any]:
        began = perf_counter()
        results = step()
        seconds = perf_counter() - began
        return {"first": seconds, "norms": norms(results) + norms(step())}

    def turn(seconds: float) -> dict[str, Any]:
        nonlocal repeat
        machine.forget_peak()
        began = perf_counter()
        step()
        once = perf_counter() - began
        repeat = repeat or max(1, int(seconds / once))
        if repeat == 1 and once > seconds:
            return {"time": once}
        began = perf_counter()
        for _ in range(repeat):
            step()
        return {"time": (perf_counter() - began) / repeat}

    def memory() -> dict[str, Any]:
        most = machine.status("VmHWM")
        return {"peak": most, "growth": most - before}

    answers: dict[str, Callable[..., dict[str, Any]]] = {"first": first, "turn": turn, "memory": memory, "start": dict}
    for line in sys.stdin:
        word, *given = json.loads(line)
        print(json.dumps(answers[word](*given)), file=pipe, flush=True)


# In the parent's.


class Contender:
    """A contender's process, or why there is none."""

    def __init__(self, name: str, contender: str, threads: int, cache: str) -> None:
        self.contender = contender
        self.fault = ""
        self._errors = TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        words = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CHAINRULE_NUM_THREADS")
        settings = os.environ | dict.fromkeys(words, str(threads)) | {"CHAINRULE_CACHE_DIR": cache, "PYTHONFAULTHANDLER": "1"}
        if contender.endswith(TUNED):
            settings |= machine.TUNED
        command = [sys.executable, __file__, "--contend", name, contender, str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=settings, bufsize=0, start_new_session=True
        )
        self.send("start")

    def send(self, *words: Any) -> None:
        if not self.fault:
            try:
                self._process.stdin.write((json.dumps(words) + "\n").encode())
            except OSError:
                self._fail("stopped")

    def ask(self, *words: Any) -> dict[str, Any]:
        """Its answer; nothing if it has failed."""
        self.send(*words)
        return self.answer()

    def answer(self) -> dict[str, Any]:
        if self.fault:
            return {}
        line = b""
        end = time.monotonic() + PATIENCE
        while not line.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], max(end - time.monotonic(), 0))[0]:
                return self._fail(f"no answer in {PATIENCE:.0f} s")
            more = self._process.stdout.read(1 << 16)
            if not more:
                return self._fail("stopped")
            line += more
        return json.loads(line)

    def _fail(self, why: str) -> dict[str, Any]:
        try:
            code = f" with status {self._process.wait(1)}"
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = ""
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        told = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt|Fatal)", line)] or lines
        self.fault = f"{why}{code}: {' / '.join(told[-2:])[:600]}"
        return {}

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.stdin.close()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._errors.close()


@dataclass
class Row:
    """What was found out about a workload; times in seconds, by contender, and what arithmetic and memory take at least, by round."""

    name: str
    title: str
    aim: float
    flops: int
    nbytes: int
    times: dict[str, list[float]] = field(default_factory=dict)
    floors: list[tuple[float, float]] = field(default_factory=list)
    first: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    warm: list[float] = field(default_factory=list)
    growth: dict[str, int] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)

    @property
    def peer(self) -> str:
        """The best of the others, by its median."""
        found = [name for name in self.times if name in PEERS]
        return min(found, key=lambda name: median(self.times[name])) if found else ""

    @property
    def floor(self) -> tuple[list[float], str]:
        """The least time that the machine could take, round by round, and for what."""
        by = dict(zip(("arithmetic", "memory"), map(list, zip(*self.floors, strict=True)), strict=True))
        bound = max(by, key=lambda word: median(by[word]))
        return by[bound], bound

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the best peer the native step is."""
        if not self.peer or NATIVE not in self.times:
            return None
        return median(self.times[self.peer]) / median(self.times[NATIVE])


def graph_of(work: Workload) -> Any:
    """The step as the library writes it down, before anything is simplified."""
    found: list[Any] = []

    def keep(f: Any) -> Any:
        def call(*args: Any) -> Any:
            found.append(cr.trace(f, *args))
            return ((), ())

        return call

    work.ours(keep)()
    return found[0]


def measure(name: str, options: argparse.Namespace, floor: machine.Floor) -> Row:
    """All contenders, in turn."""
    work = WORKLOADS[name]()
    graph = graph_of(work)
    row = Row(name, work.title, work.aim, machine.products(graph), machine.traffic(graph))
    del graph
    names = [x for x in contenders(work, compiled=options.torch_compile) if any(part in x for part in options.only)]
    if NATIVE in names:
        first_calls(row, options.threads)
    with TemporaryDirectory() as cache:
        started = [Contender(name, x, options.threads, cache) for x in names]
        for one in started:
            one.answer()
        for one in started:
            sleep(0.05)
            told = one.ask("first")
            if told:
                row.first[one.contender].append(told["first"])
                agree(row, one.contender, told["norms"])
        rounds(row, started, options, floor)
    for one in started:
        told = one.ask("memory")
        if told:
            row.growth[one.contender], row.peak[one.contender] = told["growth"], told["peak"]
        if one.fault:
            row.faults[one.contender] = one.fault
            row.times.pop(one.contender, None)
        one.close()
    return row


def first_calls(row: Row, threads: int) -> None:
    """Of native steps in processes of their own: one without anything on disk, then one that finds the machine code there."""
    for _ in range(AGAIN):
        with TemporaryDirectory() as cache:
            for found in (row.first[NATIVE], row.warm):
                one = Contender(row.name, NATIVE, threads, cache)
                one.answer()
                told = one.ask("first")
                if told:
                    found.append(told["first"])
                one.close()


REFERENCE: dict[str, list[float]] = {}


def agree(row: Row, contender: str, found: list[float]) -> None:
    """Whether a contender's numbers are those of the first one, after one call and after two."""
    wanted = REFERENCE.setdefault(row.name, found)
    half = len(wanted) // 2
    same = len(found) == len(wanted) and np.allclose(found[0], wanted[0], rtol=1e-4, atol=1e-6)
    if not same or not np.allclose(found[1:], wanted[1:], rtol=5e-3, atol=1e-6):
        row.faults[contender] = f"disagrees: {found[:1] + found[half : half + 1]} instead of {wanted[:1] + wanted[half : half + 1]}"


def rounds(row: Row, started: Sequence[Contender], options: argparse.Namespace, floor: machine.Floor) -> None:
    began = perf_counter()
    for number in range(options.rounds):
        if number >= min(3, options.rounds) and perf_counter() - began > options.seconds:
            break
        for one in started:
            # The last one's threads look for work for a while: OpenBLAS's for some 2**26 cycles.
            sleep(0.15)
            if one.contender == NATIVE:
                row.floors.append(floor.measure(row.flops, row.nbytes))
            told = one.ask("turn", options.turn)
            if told:
                row.times.setdefault(one.contender, []).append(told["time"])


# The page.


def shown(seconds: float) -> str:
    """A time with its unit, of three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds < 1000 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds * 1e6:.3g} us"


def pair(times: Sequence[float]) -> str:
    return f"{shown(median(times))} ({shown(min(times))})"


def megabytes(count: float) -> str:
    return f"{count / 1e6:.3g}" if count < 1e9 else f"{count / 1e6:.0f}"


def table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, ["---"] * len(titles), *lines))


def summary(rows: Sequence[Row]) -> str:
    lines: list[list[str]] = []
    for row in rows:
        ratio, ours = row.ratio, row.times.get(NATIVE)
        least = min((row.peak[x] for x in row.peak if x in PEERS), default=None)
        floor, bound = row.floor if row.floors else ([0.0], "")
        reached = ours and min(floor) >= CALL
        lines.append(
            [
                row.title,
                pair(ours) if ours else "-",
                f"{pair(row.times[row.peer])} {row.peer}" if row.peer else "-",
                "-" if ratio is None else f"{ratio:.2f}",
                f"{row.aim:g}",
                f"{pair(floor)} {bound}" if reached else "-",
                f"{median(floor) / median(ours):.0%} ({min(floor) / min(ours):.0%})" if reached else "-",
                f"{pair(row.first[NATIVE])}, {pair(row.warm)}" if row.warm else "-",
                f"{megabytes(row.peak[NATIVE])} / {megabytes(least)}" if NATIVE in row.peak and least is not None else "-",
            ]
        )
    titles = ["workload", "native", "best peer", "times as fast", "aim", "floor", "share", "first call: cold, cached", "MB: native / least peer"]
    return table(titles, lines)


def every(rows: Sequence[Row], cell: Callable[[Row, str], str], names: Sequence[str]) -> str:
    return table(["workload", *names], [[row.name, *(cell(row, name) for name in names)] for row in rows])


def installation(rounds: int) -> str:
    groups = {"chainrule": ("chainrule",), "chainrule[cpu]": ("chainrule", "llvmlite"), "PyTorch": ("torch",), "JAX": ("jax", "jaxlib")}
    modules = {"chainrule": "chainrule", "chainrule[cpu]": "chainrule", "PyTorch": "torch", "JAX": "jax"}
    lines: list[list[str]] = []
    for title, names in groups.items():
        lines.append([title, pair(machine.import_seconds(modules[title], rounds)), megabytes(machine.installed_bytes(*names))])
    return table(["library", "import", "installed, MB"], lines)


PAGE = """`make bench` writes this section. Everyone computes the same step from the same numbers, in float32, in a process of its own
with {threads} threads; the contenders take turns, round by round, and their results are compared after one call and after two. Times are medians
with the minimum in brackets.

{machine}; `{command}`, at most {rounds} rounds and about {seconds:.0f} s each.

{summary}

- *Best peer*: the best of PyTorch eager, JAX jit{compiled}, both also with glibc's allocator tuned to keep what is freed, and for images
  PyTorch with `channels_last`; *times as fast* compares medians with it, and *aim* is what that should be at least.
- *Floor*: the larger of two times, the FLOPs of all products at the peak of fused multiplications (up to {flops:.0f} GFLOP/s), and the bytes
  that a step reads from outside and leaves behind at the bandwidth of a copy of as many bytes (up to {fastest:.0f} GB/s in the caches,
  {slowest:.0f} GB/s from memory). Both are measured in every round, right before the native step's turn, the best of three times: the machine
  is not always as fast. Where it is below what a call takes, there is none. What elementwise gates compute is not counted, so that it says
  little of a chain of them, and what one call leaves in the caches for the next may be read faster. *Share*: the median of the floor by the
  median of the native step, in brackets the least of one by the least of the other.
- *First call*: traced, compiled and run, without anything on disk, and in another process that finds the machine code there; of the native step
  the medians of several processes, with the least in brackets.
- *MB*: the peak of the process's resident memory (VmHWM) while stepping, in the last round, libraries and all.

Time of a step:

{times}

First call:

{first}

Peak memory while stepping, MB, and in brackets how much of it came after the library was imported; the native step's compiler comes
after that.

{memory}

{installation}

Import in a fresh process; installed with everything that is needed.

{faults}

The machine is shared: trust the ratios more than the times.
"""


def page(rows: Sequence[Row], options: argparse.Namespace, floor: machine.Floor, installed: str) -> str:
    names = [name for name in (*OURS, *PEERS) if any(row.first.get(name) for row in rows)]
    faults = [f"- {row.name}, {name}: {fault}" for row in rows for name, fault in row.faults.items()]
    return PAGE.format(
        threads=options.threads,
        machine=machine.describe(options.threads),
        command=" ".join(["python", "benchmarks/bench.py", *sys.argv[1:]]),
        rounds=options.rounds,
        seconds=options.seconds,
        summary=summary(rows),
        compiled=", torch.compile" if options.torch_compile else "",
        flops=floor.flops / 1e9,
        fastest=max(floor.bandwidths.values()) / 1e9,
        slowest=min(floor.bandwidths.values()) / 1e9,
        times=every(rows, lambda row, x: pair(row.times[x]) if x in row.times else "-", names),
        first=every(rows, lambda row, x: shown(median(row.first[x])) if row.first.get(x) else "-", names),
        memory=every(rows, lambda row, x: f"{megabytes(row.peak[x])} ({megabytes(row.growth[x])})" if x in row.peak else "-", names),
        installation=installed,
        faults="\n".join(["What failed:", "", *faults]) if faults else "All contenders agreed about every workload.",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(WORKLOADS)}; all if none is given")
    parser.add_argument("--rounds", type=int, default=10, help="at most")
    parser.add_argument("--seconds", type=float, default=15.0, help="of rounds for one workload, after which there are no more than three")
    parser.add_argument("--turn", type=float, default=0.1, help="seconds of a contender's turn")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("CHAINRULE_NUM_THREADS") or len(machine.processors())))
    parser.add_argument("--torch-compile", action="store_true", help="takes minutes")
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="contenders whose names contain one of these")
    parser.add_argument("--output", type=Path, help="a page of which this is a section")
    parser.add_argument("--json", type=Path, help="everything that was measured")
    parser.add_argument("--contend", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contend:
        name, contender, threads = options.contend
        # What a library prints goes to the errors.
        pipe = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, machine.processors()[: int(threads)])
        contend(name, contender, pipe)
        return
    unknown = set(options.names) - set(WORKLOADS)
    if unknown:
        parser.error(f"no workload {', '.join(sorted(unknown))}; there are {', '.join(WORKLOADS)}")
    if min(options.threads, options.rounds) < 1:
        parser.error("--threads and --rounds take numbers above 0")
    if not any(part in name for part in options.only for name in (*OURS, *PEERS)):
        parser.error(f"no contender is called {' or '.join(options.only)}; there are {', '.join((*OURS, *PEERS))}")
    machine.compile_sources()
    floor, installed = machine.Floor(options.threads), installation(5)
    rows: list[Row] = []
    text = ""
    for name in options.names or WORKLOADS:
        began = perf_counter()
        row = measure(name, options, floor)
        rows.append(row)
        times = ", ".join(f"{x} {pair(t)}" for x, t in row.times.items())
        print(f"{name} [{perf_counter() - began:.0f} s]: {times}; floor {pair(row.floor[0]) if row.floors else '-'}", flush=True)
        for contender, fault in row.faults.items():
            print(f"  {contender}: {fault}", flush=True)
        # What has been measured stays, whatever becomes of the rest.
        text = page(rows, options, floor, installed)
        if options.output:
            write_section(options.output, HEADING, text)
        if options.json:
            options.json.write_text(json.dumps([vars(row) for row in rows], indent=1))
    print("\n" + text)
    if any("disagrees" in fault for row in rows for fault in row.faults.values()):
        sys.exit("some contenders disagree")


if __name__ == "__main__":
    main()
