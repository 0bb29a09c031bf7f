"""cr.profile: where the time of a compiled step goes, kernel by kernel, beside what the machine could do.

The step is written once more, with the time noted before everything that it does; the step that runs otherwise has no part in
it. Nothing here changes what is outside: what a step would assign is computed and dropped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from time import perf_counter
from types import MethodType
from typing import Any

import numpy as np

from chainrule.autodiff.cost import floating_operations
from chainrule.compiler.backend import Run
from chainrule.compiler.jit import Compiled
from chainrule.compiler.native import peaks
from chainrule.compiler.native.lower import COPY
from chainrule.compiler.timing import NativeTiming, NumpyTiming, Span, Work
from chainrule.core.errors import ArgumentError, MissingExtraError
from chainrule.core.files import write_whole
from chainrule.core.primitive import functions
from chainrule.graph.ir import Operation
from chainrule.graph.trace import Unbuilt

__all__ = ["Profile", "Region", "Span", "profile"]


@dataclass(frozen=True)
class Region:
    """Gates that run together, and what they took in one call of the step.

    Attributes
    ----------
    gates : tuple of str
        Their names, in order.
    values : tuple of str
        What is written to memory for others.
    layers, lines : tuple of str
        The paths of the layers, and the lines of the caller's code, that the gates belong to.
    calls : int
        How often they ran: more than once in a loop.
    seconds : float
        Of the caller's thread.
    waiting : float
        How long that thread then waited for others.
    slowest : float
        Seconds of the thread that took longest, from which rates follow.
    operations : int
        Floating-point operations, of all calls; a multiplication with an addition counts as two.
    nbytes : int
        That are read from what others made or written for them, each once per call.
    dtype : str
        Whose peak it is compared with.
    """

    gates: tuple[str, ...]
    values: tuple[str, ...]
    layers: tuple[str, ...]
    lines: tuple[str, ...]
    calls: int
    seconds: float
    waiting: float
    slowest: float
    operations: int
    nbytes: int
    dtype: str

    @property
    def flops(self) -> float:
        """Floating-point operations per second."""
        return self.operations / self.slowest if self.slowest else 0.0

    @property
    def bandwidth(self) -> float:
        """Bytes per second."""
        return self.nbytes / self.slowest if self.slowest else 0.0

    @property
    def name(self) -> str:
        """The gates in a few words."""
        counts: dict[str, int] = {}
        for gate in self.gates:
            counts[gate] = counts.get(gate, 0) + 1
        return " + ".join(f"{count} {gate}" if count > 1 else gate for gate, count in counts.items())


@dataclass(frozen=True, repr=False)
class Profile:
    """Where the time of one call went; printed, a table. Made by `chainrule.profile`.

    Attributes
    ----------
    name : str
        The function's.
    backend : str
        "native" or "numpy".
    threads : int
        That took part.
    regions : tuple of Region
        In the order in which they first ran.
    spans : tuple of Span
        What each thread did when.
    seconds : float
        Of the call that is shown, the quickest of those that were made: the regions' seconds and waiting, and `other`.
    plain : float
        Of the quickest call of the step without time stamps.
    peaks : Mapping of str to float
        Operations per second that the machine does at most, per dtype.
    bandwidth : float
        Bytes per second that a copy of large arrays reads and writes.
    """

    name: str
    backend: str
    threads: int
    regions: tuple[Region, ...]
    spans: tuple[Span, ...]
    seconds: float
    plain: float
    peaks: Mapping[str, float]
    bandwidth: float

    @property
    def other(self) -> float:
        """Seconds outside of all regions: handing over, waking threads, and waiting for them at the end."""
        return self.seconds - sum(region.seconds + region.waiting for region in self.regions)

    def share_of_peak(self, region: Region) -> float:
        """Of the operations that the machine can do at most in that time."""
        return region.flops / self.peaks[region.dtype]

    def share_of_copy(self, region: Region) -> float:
        """Of the bytes that a copy would read and write in that time; more than 1 where values lie in caches."""
        return region.bandwidth / self.bandwidth

    def table(self, most: int | None = None) -> str:
        """The regions as text, the longest first.

        Parameters
        ----------
        most : int, optional
            Of how many regions there is a line; of all if not given.
        """
        ranked = sorted(self.regions, key=lambda region: region.seconds + region.waiting, reverse=True)
        shown, rest = ranked[:most], ranked[len(ranked[:most]) :]
        rows = [self._row(region) for region in shown]
        total = lambda regions: (sum(x.seconds for x in regions), sum(x.waiting for x in regions))
        if rest:
            rows.append([*self._times(*total(rest)), *[""] * 5, f"{len(rest)} more"])
        rows.append([*self._times(self.other, 0.0), *[""] * 5, "handing over, waking threads"])
        all_of_it = total(self.regions)
        rows.append([*self._times(all_of_it[0] + self.other, all_of_it[1]), *[""] * 5, "in all"])
        return "\n".join([*self._heading(), "", *_aligned([_COLUMNS, *rows])])

    def _heading(self) -> Iterator[str]:
        peaks = ", ".join(f"{1e-9 * peak:.0f} GFLOP/s in {dtype}" for dtype, peak in self.peaks.items())
        yield f"{self.name}, {self.backend}, {self.threads} {'thread' if self.threads == 1 else 'threads'}: {1e6 * self.seconds:.1f} us"
        yield f"without time stamps {1e6 * self.plain:.1f} us; this machine: {peaks}, a copy {1e-9 * self.bandwidth:.1f} GB/s"

    def _times(self, seconds: float, waiting: float) -> list[str]:
        return [f"{1e6 * seconds:.1f}", f"{1e6 * waiting:.1f}", f"{(seconds + waiting) / self.seconds:.1%}"]

    def _row(self, region: Region) -> list[str]:
        rates = [f"{1e-9 * region.flops:.1f}", f"{self.share_of_peak(region):.0%}"] if region.operations else ["", ""]
        copied = [f"{1e-9 * region.bandwidth:.1f}", f"{self.share_of_copy(region):.0%}"]
        words = [_short(names) for names in (region.values, region.layers, region.lines)]
        return [*self._times(region.seconds, region.waiting), f"{region.calls}", *rates, *copied, _cut(region.name), *words]

    def trace(self, path: str | Path) -> None:
        """Write what every thread did as Chrome's trace JSON, which https://ui.perfetto.dev and chrome://tracing open.

        Parameters
        ----------
        path : str or Path
        """
        events: list[dict[str, Any]] = [{"ph": "M", "pid": 1, "name": "process_name", "args": {"name": f"{self.name} ({self.backend})"}}]
        for thread in range(self.threads):
            name = "the caller's thread" if thread == 0 else f"thread {thread}"
            events.append({"ph": "M", "pid": 1, "tid": thread, "name": "thread_name", "args": {"name": name}})
        events += [self._event(span) for span in self.spans]
        write_whole(Path(path), json.dumps({"displayTimeUnit": "ns", "traceEvents": events}).encode())

    def _event(self, span: Span) -> dict[str, Any]:
        where = {"ph": "X", "pid": 1, "tid": span.thread, "ts": 1e-3 * span.begin, "dur": 1e-3 * (span.end - span.begin)}
        if span.region is None:
            return {**where, "name": "wait", "cat": "wait", "cname": "grey"}
        region = self.regions[span.region]
        told = {"values": region.values, "layers": region.layers, "lines": region.lines}
        operations, nbytes = (total // region.calls for total in (region.operations, region.nbytes))
        return {
            **where,
            "name": _cut(region.name),
            "cat": "gates",
            "args": {**told, "kernel": span.kernel, "operations": operations, "bytes": nbytes},
        }

    def __str__(self) -> str:
        return self.table()

    __repr__ = __str__


def profile(compiled: Callable[..., Any], /, *args: Any, rounds: int = 10, **kwargs: Any) -> Profile:
    """Measure where the time of a compiled function goes.

    The function is compiled for these arguments if it is not yet, and its step runs several times, but nothing is assigned: parameters, gradients and
    generators are afterwards what they were.

    Parameters
    ----------
    compiled : Compiled
        What `compile` gave.
    *args, **kwargs
        As the function is called with.
    rounds : int
        How many calls are measured; the quickest one is shown.

    Returns
    -------
    Profile
        With ``table()``, ``trace(path)``, ``regions`` and ``spans``.

    Raises
    ------
    ArgumentError
        For a function that is not compiled, for layers without parameters, and for machine code in debug mode.

    Notes
    -----
    In machine code every thread notes the time before each kernel and each wait, which takes some 30 ns, so that nothing of the caller's
    thread is left out: regions, waiting and `Profile.other` add up to the call. A region's rates follow from the thread that took
    longest in it. In NumPy code a line is a gate, loops and branches are measured whole, and no memory of an input is taken over.

    The machine's peak is measured once per process, on all threads: fused multiplications in registers, and a copy of arrays that no cache
    holds; without llvmlite, NumPy's matrix product and copy. Bytes are those that must be moved if each value is read and written once;
    operations count one per element for a gate such as ``exp``, and two for a multiplication with an addition.

    Examples
    --------
    >>> import chainrule as cr
    >>> f = cr.compile(lambda x, w: cr.sum(cr.tanh(x @ w)), backend="numpy")
    >>> measured = cr.profile(f, cr.ones((64, 32)), cr.ones((32, 16)))
    >>> [region.name for region in measured.regions]
    ['matmul', 'tanh', 'sum']
    >>> measured.regions[0].operations
    65536
    >>> print(measured)  # doctest: +SKIP
    """
    function = compiled
    if isinstance(function, MethodType):
        args, function = (function.__self__, *args), function.__func__
    if not isinstance(function, Compiled):
        raise ArgumentError("profile takes a compiled function", mend="cr.profile(cr.compile(f), *args)")
    if rounds < 1:
        raise ArgumentError(f"profile cannot measure {rounds} rounds", mend="let rounds be 1 or more")
    try:
        entry, leaves = function.entry(args, kwargs)
    except Unbuilt:
        raise ArgumentError(f"{function.__name__} has layers without parameters", mend="call it once: that makes them") from None
    given = [functions.asarray(x) for x in (*entry.tensors(leaves), *entry.graph.read())]
    arrays = [x._value for x in given]
    native = entry.executable.stats["backend"] == "native"
    made = (NativeTiming if native else NumpyTiming)(entry.executable)
    plain, seconds, seen = _quickest(entry.executable.run, made, arrays, rounds)
    tops = _native_peaks() if native else _numpy_peaks()
    regions = tuple(_region(work, sums) for work, sums in zip(made.works, _sums(seen, len(made.works)), strict=True))
    threads = 1 + max((span.thread for span in seen), default=0)
    return Profile(function.__name__, "native" if native else "numpy", threads, regions, tuple(seen), seconds, plain, tops[0], tops[1])


# Measuring.


def _quickest(plain: Run, made: NativeTiming | NumpyTiming, arrays: Sequence[Any], rounds: int) -> tuple[float, float, list[Span]]:
    """The shortest time without stamps, and the shortest with them and what it went to; both by turns, and a first time uncounted."""
    plain(*arrays)
    made(arrays)
    best, found = float("inf"), []
    without: list[float] = []
    for _ in range(rounds):
        began = perf_counter()
        plain(*arrays)
        without.append(perf_counter() - began)
        begin, end, spans = made(arrays)
        if 1e-9 * (end - begin) < best:
            best, found = 1e-9 * (end - begin), spans
    return min(without), best, found


def _native_peaks() -> tuple[dict[str, float], float]:
    return {dtype: peaks.flops(dtype) for dtype in ("float32", "float64")}, peaks.bandwidth()


@cache
def _numpy_peaks() -> tuple[dict[str, float], float]:
    """What NumPy reaches in what it does best; machine code's peaks where that is possible."""
    with suppress(MissingExtraError):
        return _native_peaks()
    tops: dict[str, float] = {}
    for dtype in ("float32", "float64"):
        a = np.ones((1024, 1024), dtype)
        c = np.empty_like(a)
        tops[dtype] = 2.0 * a.size * len(a) / _seconds(partial(np.matmul, a, a, out=c))
    memory = np.ones((2, 1 << 24), np.float32)
    return tops, memory.nbytes / _seconds(partial(np.copyto, memory[1], memory[0]))


def _seconds(work: Callable[[], Any]) -> float:
    def once() -> float:
        began = perf_counter()
        work()
        return perf_counter() - began

    return min(once() for _ in range(5))


# Telling.


class _Sums:
    """What the spans of a region come to: nanoseconds and calls per thread, and how long the caller's waited afterwards."""

    def __init__(self) -> None:
        self.times: Counter[int] = Counter()
        self.calls: Counter[tuple[int, str]] = Counter()
        self.waiting = 0


def _sums(spans: Sequence[Span], count: int) -> list[_Sums]:
    found = [_Sums() for _ in range(count)]
    last: dict[int, int] = {}
    for span in spans:
        length = span.end - span.begin
        if span.region is not None:
            last[span.thread] = span.region
            found[span.region].times[span.thread] += length
            found[span.region].calls[span.thread, span.kernel] += 1
        elif span.thread == 0 and 0 in last:
            found[last[0]].waiting += length
    return found


def _region(work: Work, sums: _Sums) -> Region:
    nodes = work.nodes
    made = {x for node in nodes for x in node.outputs}
    read = {x for node in nodes for x in node.inputs} - made
    times = max(sums.calls.values(), default=0)
    copies = all(node.primitive is COPY for node in nodes)
    return Region(
        gates=tuple("copy" if node.primitive is COPY else node.primitive.name for node in nodes),
        values=tuple(x.name for x in work.written),
        layers=tuple(dict.fromkeys(".".join(node.scope) for node in nodes if node.scope)),
        lines=tuple(dict.fromkeys(f"{Path(node.line[0]).name}:{node.line[1]}" for node in nodes if node.line[1])),
        calls=times,
        seconds=1e-9 * sums.times[0],
        waiting=1e-9 * sums.waiting,
        slowest=1e-9 * max(sums.times.values(), default=0),
        # What writes no value of theirs packs one for those that compute.
        operations=times * sum(floating_operations(node) for node in nodes if node.primitive is not COPY and work.written),
        nbytes=times * (_copied(nodes) if copies else sum(x.nbytes for x in (*read, *work.written))),
        dtype="float64" if any(x.dtype == np.float64 for x in made) else "float32",
    )


def _copied(nodes: Sequence[Operation]) -> int:
    """Bytes read and written; a copy may be of, or into, a part of a value."""
    return sum(2 * min(x.nbytes for x in (*node.inputs, *node.outputs)) for node in nodes)


_COLUMNS = ["us", "waiting", "share", "calls", "GFLOP/s", "of peak", "GB/s", "of copy", "gates", "values", "layer", "line"]
_WORDS = 4
"""Columns at the end that are words."""


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    full = [[*row, *[""] * (len(_COLUMNS) - len(row))] for row in rows]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    numbers = len(_COLUMNS) - _WORDS
    for row in full:
        cells = [text.ljust(width) if i >= numbers else text.rjust(width) for i, (text, width) in enumerate(zip(row, widths, strict=True))]
        yield "  ".join(cells).rstrip()


def _short(names: Iterable[str]) -> str:
    first, *more = [*names] or [""]
    return _cut(f"{first} +{len(more)}" if more else first)


def _cut(text: str, most: int = 48) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
