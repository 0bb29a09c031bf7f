"""What a step of a random program is, and those that move elements: views, copies, joins, look-ups and scatters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import chainrule as cr

if TYPE_CHECKING:
    from fuzzed import Fuzz

__all__ = ["MOST", "Call", "Step", "joins", "looks_up", "moves"]

MOST = 5_000
"""Elements of a value."""

Call = Callable[..., Any]


class Step(NamedTuple):
    """What is called with which values; ``exact``: it does not round; ``kink``: its derivative jumps at 0."""

    name: str
    operands: tuple[int, ...]
    call: Call
    exact: bool = False


def _sliced(d: Fuzz, shape: tuple[int, ...]) -> tuple[Any, ...]:
    parts: list[Any] = []
    for n in shape[: d.integer(1, max(1, len(shape)))]:
        step = d.choose([1, 1, 2, -1, -2, 3])
        a, b = d.integer(-n - 1, n + 1), d.integer(-n - 1, n + 1)
        choices = [slice(None, None, step), slice(a, b, step), slice(a, None, step)]
        parts.append(d.choose([*choices, d.integer(-n, n - 1)]) if n else slice(None))
    if d.flip(0.2):
        parts.insert(d.integer(0, len(parts)), None)
    return tuple(parts)


def moves(d: Fuzz) -> Step | None:
    i = d.pick()
    if i is None:
        return None
    shape = d.values[i].shape
    ndim = len(shape)
    order = tuple(int(a) for a in d.rng.permutation(ndim))
    axis = d.integer(0, max(ndim - 1, 0))
    half = _factored(d, d.values[i].size)
    index = _sliced(d, shape)
    widths = [(d.integer(0, 2), d.integer(0, 2)) for _ in shape]
    mode = d.choose(["constant", "constant", "edge", "wrap", "reflect"])
    front = tuple(d.choose([1, 1, 2, 3]) for _ in range(d.integer(0, 1)))
    shift, times = d.integer(-3, 3), d.integer(1, 3)
    calls: dict[str, Call] = {
        f"permute {order}": lambda x: cr.permute_dims(x, order),
        f"reshape {half}": lambda x: cr.reshape(x, half),
        "expand": lambda x: cr.expand_dims(x, axis=axis),
        f"broadcast {front}": lambda x: cr.broadcast_to(x, (*front, *x.shape)),
        f"pad {widths} {mode}": lambda x: cr.pad(x, widths, mode),
        "stop": lambda x: cr.stop_gradient(x),
    }
    if ndim:
        calls |= {
            f"index {index}": lambda x: x[index],
            f"indexed {index}": lambda x: x[index],
            f"flip {axis}": lambda x: cr.flip(x, axis=axis),
            f"roll {shift} {axis}": lambda x: cr.roll(x, shift, axis=axis),
            f"repeat {times} {axis}": lambda x: cr.repeat(x, times, axis=axis),
            "tile": lambda x: cr.tile(x, (times, *(1,) * (ndim - 1))),
            f"unstack {axis}": lambda x: cr.unstack(x, axis=axis)[:3],
            f"split {axis}": lambda x: cr.split(x, [x.shape[axis] // 2, x.shape[axis] - x.shape[axis] // 2], axis=axis),
            f"updated {index}": lambda x: cr.index_update(x, index, x[index] * 0),
            "squeeze": lambda x: cr.reshape(x, tuple(n for n in x.shape if n != 1)),
        }
    if ndim > 1:
        calls |= {"mT": lambda x: x.mT, "tril": lambda x: cr.tril(x, k=shift), "triu": lambda x: cr.triu(x, k=shift)}
        calls["diagonal"] = lambda x: cr.linalg.diagonal(x)
    name = d.choose([*calls])
    return Step(name, (i,), calls[name], exact=True)


def _factored(d: Fuzz, size: int) -> tuple[int, ...]:
    if not size:
        return (0, 3) if d.flip() else (0,)
    parts: list[int] = []
    while size > 1 and len(parts) < 3:
        divisors = [n for n in range(1, size + 1) if size % n == 0]
        parts.append(d.choose(divisors))
        size //= parts[-1]
    return (*parts, size)


def joins(d: Fuzz) -> Step | None:
    i = d.pick(test=lambda x: x.ndim > 0)
    if i is None:
        return None
    x, axis = d.values[i], d.integer(0, d.values[i].ndim - 1)
    j = d.pick(test=lambda y: y.ndim == x.ndim and y.dtype == x.dtype and all(a == b for k, (a, b) in enumerate(zip(x.shape, y.shape)) if k != axis))
    if j is None:
        return None
    if d.flip(0.3):
        return Step(f"stack {axis}", (i, i), lambda x, y: cr.stack([x, y, x], axis=axis), exact=True)
    return Step(f"concat {axis}", (i, j), lambda x, y: cr.concat([x, y, x[:1] if axis == 0 else y], axis=axis), exact=True)


def looks_up(d: Fuzz) -> Step | None:
    i = d.pick("fi", lambda x: x.ndim > 0 and x.size > 0)
    if i is None:
        return None
    x, axis = d.values[i], d.integer(0, d.values[i].ndim - 1)
    n = x.shape[axis]
    dtype = d.choose(["int64", "int64", "int32", "int8"])
    name = d.choose(["take", "gather", "take_along", "scatter_add", "scatter_update", "scatter_along", "one_hot", "index_add"])
    exact = x.dtype.kind == "i" or name in ("take", "gather", "take_along", "scatter_update")
    if name in ("take", "gather", "one_hot", "scatter_update", "index_add"):
        shape = d.shape(2)
        if int(np.prod(shape)) * x.size > 4 * MOST:
            return None
        j = d.new(
            d.rng.integers(-n if name != "one_hot" else 0, n, shape if name not in ("scatter_update", "index_add") else shape[:1]).astype(dtype)
        )
        calls: dict[str, Call] = {
            "take": lambda x, i: cr.take(x, i, axis=axis),
            "gather": lambda x, i: cr.gather(x, i, axes=axis),
            "one_hot": lambda x, i: cr.one_hot(i, n, dtype=x.dtype),
            "scatter_update": lambda x, i: cr.scatter_update(x, i, x.sum() if x.dtype.kind == "f" else 3, axes=axis),
            "index_add": lambda x, i: cr.index_add(x, (slice(None),) * axis + (i,), 1),
        }
        return Step(f"{name} {axis}", (i, j), calls[name], exact=exact and name != "scatter_update")
    j = d.new(d.rng.integers(-n, n, x.shape).astype(dtype))
    wide = d.integer(1, 9)
    if name == "scatter_add":
        flat = d.new(d.rng.integers(-wide, wide, x.shape[:1]).astype(dtype))
        return Step(f"scatter_add {wide}", (i, flat), lambda x, i: cr.scatter_add(i, x, shape=(wide, *x.shape[1:]), axes=0))
    if name == "scatter_along":
        return Step("scatter_along", (i, j), lambda x, i: cr.scatter_along_axis(i, x, size=n, axis=axis))
    return Step(f"take_along {axis}", (i, j), lambda x, i: cr.take_along_axis(x, i, axis=axis), exact=True)
