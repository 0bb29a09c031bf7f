"""How far native code's elementary functions are from the exact result, in units in the last place, and how long they take.

float32 is compared with NumPy's float64, over bit patterns spread evenly or over all there are; float64 with NumPy's long double (the
error functions with the C library's), over random bit patterns and everyday numbers. One thread; times are the best of many rounds over
16384 numbers of a normal distribution, which stay in the cache.

    python benchmarks/ulp.py [--points N] [--all] [NAME ...]
"""

from __future__ import annotations

import argparse
import ctypes
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from chainrule.compiler.native import elements, engine
from chainrule.compiler.native.ir import I64, PTR, Function, Module
from chainrule.compiler.native.scalars import Builder
from pages import write_section

LANES = {np.dtype(np.float32): 32, np.dtype(np.float64): 64}
"""Bits of a dtype, by which a vector's lanes are counted."""
ROUNDS, TIMED, CHUNK = 200, 1 << 14, 1 << 17


def _sigmoid(x: Any) -> Any:
    power = np.exp(-np.abs(x))
    return np.where(x > 0, 1 / (1 + power), power / (1 + power))


EXACT: Mapping[str, Callable[..., Any]] = {
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log2": np.log2, "log10": np.log10, "log1p": np.log1p,
    "tanh": np.tanh, "sigmoid": _sigmoid, "erf": np.vectorize(math.erf, [float]), "erfc": np.vectorize(math.erfc, [float]),
    "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh,
    "cosh": np.cosh, "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "sqrt": np.sqrt, "pow": np.power,
    "hypot": np.hypot, "atan2": np.arctan2,
}  # fmt: skip
BINARY = ("pow", "hypot", "atan2")


class Worst(NamedTuple):
    """The largest error, where it is, and how many results are infinite or NaN where they should not be, or the other way round."""

    apart: float
    at: tuple[float, ...]
    wrong: int


def compiled(name: str, dtype: Any) -> Callable[..., None]:
    """A function of the addresses of one or two arrays and of the result, and their length."""
    lanes = engine.host().bits // LANES[dtype]
    module, arguments = Module(), [f"x{i}" for i in range(1 + (name in BINARY))]
    f = Function(module, "f", [*((word, PTR) for word in (*arguments, "y")), ("count", I64)])
    *xs, y, count = f.parameters
    with f.loop(0, count, lanes) as loop:
        k = Builder(f, dtype)
        made = getattr(k, name)(*(k.value(elements.load(f, dtype, x, loop.index, 1, lanes), dtype) for x in xs))
        elements.store(f, dtype, y, loop.index, k.register(made, dtype))
    f.close()
    code = engine.load(module.text(), permanent=True)
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (len(xs) + 1), ctypes.c_int64)(code.address("f"))


def called(function: Callable[..., None], *xs: Any) -> Any:
    y = np.empty_like(xs[0])
    function(*(x.ctypes.data for x in xs), y.ctypes.data, len(y))
    return y


def chunks(dtype: Any, points: int, *, everything: bool) -> Iterator[Any]:
    if everything:
        for start in range(0, 1 << 32, CHUNK):
            yield np.arange(start, start + CHUNK, dtype=np.uint64).astype(np.uint32).view(np.float32)
        return
    rng = np.random.default_rng(0)
    if dtype == np.float32:
        yield np.linspace(0, 2**32 - 1, points).astype(np.uint32).view(np.float32)
    else:
        yield rng.integers(0, 2**64, points, dtype=np.uint64).view(np.float64)
    for size in (0.5, 5.0, 300.0):
        yield (rng.normal(size=points // 4) * size).astype(dtype)


def worst(name: str, dtype: Any, points: int, *, everything: bool) -> Worst:
    function, found, rng = compiled(name, dtype), Worst(0.0, (), 0), np.random.default_rng(1)
    wide = np.float64 if dtype == np.float32 or name.startswith("erf") else np.longdouble
    for x in chunks(dtype, points, everything=everything):
        xs = (x, rng.permutation(x)) if name in BINARY else (x,)
        y = called(function, *xs)
        with np.errstate(all="ignore"):
            exact = EXACT[name](*(v.astype(wide) for v in xs))
            nearest = exact.astype(dtype)
            unit = np.spacing(np.maximum(np.abs(nearest), np.finfo(dtype).smallest_normal))
            apart = np.abs(y.astype(wide) - exact) / unit
        plain = np.isfinite(y) & np.isfinite(nearest)
        wrong = int(np.count_nonzero(~plain & (y != nearest) & ~(np.isnan(y) & np.isnan(nearest))))
        apart = np.where(plain, apart, 0)
        i = int(apart.argmax())
        better = found.apart >= apart[i]
        found = Worst(max(found.apart, float(apart[i])), found.at if better else tuple(float(v[i]) for v in xs), found.wrong + wrong)
    return found


def nanoseconds(name: str, dtype: Any) -> float:
    """Per element."""
    rng = np.random.default_rng(0)
    xs = [(np.abs(rng.normal(size=TIMED)) if name.startswith(("log", "pow", "sqrt")) else rng.normal(size=TIMED)).astype(dtype) for _ in range(2)]
    xs = xs[: 1 + (name in BINARY)]
    if name == "acosh":
        xs = [1 + np.abs(xs[0])]
    if name in ("asin", "acos", "atanh"):
        xs = [np.tanh(xs[0])]
    function, y = compiled(name, dtype), np.empty_like(xs[0])
    arguments, best = (*(x.ctypes.data for x in xs), y.ctypes.data, TIMED), math.inf
    for _ in range(ROUNDS):
        start = perf_counter()
        function(*arguments)
        best = min(best, perf_counter() - start)
    return best / TIMED * 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(EXACT)}")
    parser.add_argument("--points", type=int, default=1 << 20)
    parser.add_argument("--all", action="store_true", help="all 2**32 numbers of float32; a quarter of an hour for each function")
    parser.add_argument("--output", type=Path, help="a page that gets the table as a section")
    options = parser.parse_args()
    dtypes = [np.dtype(np.float32)] if options.all else [np.dtype(np.float32), np.dtype(np.float64)]
    lines = [
        "The largest error in units in the last place, where it is, infinities and NaN that are wrong, and nanoseconds per element on one thread;",
        f"{options.points} points over all finite numbers; {engine.host().cpu}, vectors of {engine.host().bits} bits; NumPy {np.__version__}.",
        "",
        "| function |" + "".join(f" {dtype}: ULP | at | wrong | ns |" for dtype in dtypes),
        "|---|" + "---|---|---|---|" * len(dtypes),
    ]
    print("\n".join(lines), flush=True)
    for name in options.names or EXACT:
        cells: list[str] = []
        for dtype in dtypes:
            points = options.points if dtype == np.float32 or not name.startswith("erf") else options.points // 4
            # Whole vectors, in the quarters too.
            found = worst(name, dtype, -(-points // 64) * 64, everything=options.all)
            cells += [f"{found.apart:.2f}", ", ".join(f"{x:.9g}" for x in found.at), str(found.wrong), f"{nanoseconds(name, dtype):.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    if options.output:
        write_section(options.output, "Elementary functions", "\n".join(lines))


if __name__ == "__main__":
    main()
