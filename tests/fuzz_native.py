"""Random programs as machine code beside what runs gate by gate, many in one graph: ``python tests/fuzz_native.py --count 20000``."""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

import chainrule as cr
from chainrule.compiler.native import emit, engine, step
from chainrule.compiler.pipeline import build
from fuzzed import Fuzz, differences, gradient, scale_of


@dataclass
class Finding:
    """What went wrong, and the smallest program with which it does."""

    program: Fuzz
    gradients: bool
    says: str

    def __str__(self) -> str:
        return f"{self.program}\n{'gradients: ' if self.gradients else ''}{self.says}"


@contextmanager
def shared(always: bool) -> Generator[None]:
    """Whether several threads share even what is small, and take units of it from each other."""
    before = emit.SMALL, step.SMALL, step.LARGE
    if always:
        emit.SMALL, step.SMALL, step.LARGE = -1, 0, 0
    try:
        yield
    finally:
        emit.SMALL, step.SMALL, step.LARGE = before


def wrong(programs: Sequence[Fuzz], *, gradients: bool, threads: bool) -> str:
    """What the machine code of all programs as one graph gets wrong; nothing if all is right."""
    functions = [gradient(program) if gradients else program for program in programs]
    fewer = [(f, program) for f, program in zip(functions, programs, strict=True) if f is not None]
    starts = np.cumsum([0, *(len(program.inputs) for _, program in fewer)])

    def everything(*xs: Any) -> list[Any]:
        return [out for (f, _), first, last in zip(fewer, starts, starts[1:], strict=False) for out in f(*xs[first:last])]

    given = [x for _, program in fewer for x in program.inputs]
    before = [np.array(x) for x in given]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = [[np.asarray(out) for out in f(*map(cr.asarray, program.inputs))] for f, program in fewer]
        with shared(threads):
            executable = build(cr.trace(everything, *given), backend="native")
        outs = list(executable.run(*given))
        again = executable.run(*given)
        with engine.pool().using(1):
            alone = executable.run(*given)
        with engine.pool().using(5):
            many = executable.run(*given)
    for x, old in zip(given, before, strict=True):
        if np.asarray(x).tobytes() != old.tobytes():
            return "an input was changed"
    for which, others in (("a second call gives", again), ("one thread gives", alone), ("five threads give", many)):
        if any(np.asarray(x).tobytes() != np.asarray(y).tobytes() for x, y in zip(outs, others, strict=True)):
            return f"{which} other bits"
    for (_, program), expected in zip(fewer, wanted, strict=True):
        scale = 10.0 * scale_of([*program.values, *expected]) if gradients else scale_of(program.values)
        own, outs = outs[: len(expected)], outs[len(expected) :]
        said = differences(own, expected, scale, single=program.single)
        if said:
            return said
    return ""


def attempt(programs: Sequence[Fuzz], *, gradients: bool, threads: bool) -> str:
    """As `wrong`; an exception is one of the things that are."""
    try:
        return wrong(programs, gradients=gradients, threads=threads)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def findings(programs: Sequence[Fuzz], *, gradients: bool, threads: bool) -> list[Finding]:
    """What fails among programs, each as small as it can be."""
    if not attempt(programs, gradients=gradients, threads=threads):
        return []
    if len(programs) > 1:
        half = len(programs) // 2
        found = [one for part in (programs[:half], programs[half:]) for one in findings(part, gradients=gradients, threads=threads)]
        return found or [
            Finding(programs[0], gradients, f"only with {len(programs) - 1} others: {attempt(programs, gradients=gradients, threads=threads)}")
        ]
    small = programs[0].minimal(lambda program: bool(attempt([program], gradients=gradients, threads=threads)))
    return [Finding(small, gradients, attempt([small], gradients=gradients, threads=threads))]


def fuzz(first: int, programs: int, *, together: int = 25, length: int = 8) -> Iterator[tuple[int, list[Finding]]]:
    """Go through seeds; yields how many programs were run, and what was found among them."""
    for batch in count():
        start = first + batch * together
        if batch * together >= programs:
            return
        drawn = [Fuzz(seed, length) for seed in range(start, start + min(together, programs - batch * together))]
        yield len(drawn), findings(drawn, gradients=batch % 2 == 1, threads=batch % 4 < 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--together", type=int, default=25)
    parser.add_argument("--length", type=int, default=8)
    chosen = parser.parse_args()
    os.environ.setdefault("CHAINRULE_CACHE_DIR", "0")
    began, done, bad = time.perf_counter(), 0, 0
    for number, found in fuzz(chosen.seed, chosen.count, together=chosen.together, length=chosen.length):
        done += number
        bad += len(found)
        for one in found:
            sys.stdout.write(f"{one}\n\n")
        if done % 500 < number:
            sys.stdout.write(f"{done} programs, {bad} findings, {time.perf_counter() - began:.0f} s\n")
            sys.stdout.flush()
    sys.stdout.write(f"{done} programs, {bad} findings, {time.perf_counter() - began:.0f} s\n")


if __name__ == "__main__":
    main()
