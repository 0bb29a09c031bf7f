"""The loops and choices that random programs are made of: what goes on inside of bodies, and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

import chainrule as cr
from fuzz_moves import Step

if TYPE_CHECKING:
    from fuzzed import Fuzz

__all__ = ["loops"]

Body = Callable[[Any, Any, Any], tuple[Any, Any]]
"""``body(carry, slice, everything)``: the second is a slice of the third, which stands outside."""


def _positive(x: Any) -> Any:
    """Square matrices without zero among their eigenvalues."""
    n = x.shape[-1]
    return x @ x.mT / n + 2.0 * cr.eye(n, dtype=x.dtype)


def _inside(c: Any, x: Any, whole: Any) -> tuple[Any, Any]:
    last, rows = cr.scan(lambda s, y: (cr.tanh(s + y), (s, y * c)), c, whole)
    return last, (rows[0][-1], rows[1][0])


def _until(c: Any, x: Any, whole: Any) -> tuple[Any, Any]:
    last, _ = cr.while_loop(lambda s: s[1] < 3, lambda s: (cr.sin(s[0] + x), s[1] + 1), (c, cr.asarray(0)))
    return last, x


ANY: dict[str, Body] = {
    "tanh": lambda c, x, _: (cr.tanh(c + x), c * x),
    "total": lambda c, x, _: (c * 0.5 + x, cr.sum(c)),
    "exchanged": lambda c, x, _: (x, c),
    "cond": lambda c, x, _: (cr.cond(cr.sum(x) > 0, lambda c: cr.sin(c), lambda c: c * 0.5, c), c + 1.0),
    "cond of inputs": lambda c, x, _: (c * 0.5, cr.cond(cr.sum(x) > 0, lambda c, x: (c, x), lambda c, x: (x, x), c, x)),
    "inputs": lambda c, x, _: (c, (x, c, x)),
    "outside": lambda c, x, w: (cr.tanh(c + w[0]), (cr.sum(w * x), w[-1])),
    "constant": lambda c, x, _: (c * 0.9, (cr.ones_like(x), cr.zeros(2))),
    "inner scan": _inside,
    "inner while": _until,
}
AXES: dict[str, Body] = {
    "where": lambda c, x, _: (cr.where(x > 0, c, x * 0.5), x[..., ::-1]),
    "softmax": lambda c, x, _: (cr.softmax(c + x), cr.max(c * x)),
    "softmax of all": lambda c, x, _: (cr.softmax(c + x, axis=tuple(range(x.ndim))) * 2.0, cr.log_softmax(c, axis=0)),
    "standardized": lambda c, x, _: (cr.standardize(c + x, axis=-1, epsilon=0.1)[0], list(cr.standardize(x, axis=0, epsilon=0.1))),
    "normed": lambda c, x, _: (cr.layer_norm(c * x + x, axis=-1, epsilon=0.1), cr.logsumexp(c, axis=-1)),
    "crossed": lambda c, x, _: (c * 0.5 + x, cr.softmax_cross_entropy(c, cr.softmax(x), reduction="none")),
    "matmul": lambda c, x, _: (c + (x @ cr.ones((x.shape[-1], x.shape[-1]), dtype=x.dtype)) * 0.1, x),
    "rolled": lambda c, x, _: (cr.roll(c * 0.5 + x, 1, axis=-1), cr.roll(c, -1, axis=0)),
    "rolled twice": lambda c, x, _: (cr.roll(c, (1, 2), axis=(0, -1)), cr.roll(cr.roll(x, 1, axis=0), 2, axis=-1) + c),
    "concat": lambda c, x, _: (cr.concat([x[..., :1], c[..., 1:]], axis=-1), cr.concat([c, x * 2.0, c], axis=0)),
    "concat of parts": lambda c, x, _: (cr.concat([cr.tanh(c[..., 1:]), x[..., :1]], axis=-1), cr.concat([x, c], axis=-1)[..., ::2]),
    "stack": lambda c, x, _: (cr.sum(cr.stack([c, x, c]), axis=0) * 0.3, cr.stack([x, c], axis=-1)),
    "written": lambda c, x, _: (cr.index_update(c * 0.5, 0, x[0]), cr.index_add(x, (Ellipsis, -1), 1.0)),
    "running": lambda c, x, _: (cr.cumulative_sum(c * 0.2, axis=0) + x, cr.linear_recurrence(cr.sigmoid(c), x, axis=-1)),
    "looked up": lambda c, x, w: (cr.take(c, np.array([0] * x.shape[0]), axis=0) * 0.5 + x, cr.gather(w, np.array([0, -1]), axes=0)),
    "scattered": lambda c, x, _: (cr.scatter_add(np.arange(x.shape[0]) // 2, c, shape=x.shape, axes=0) * 0.5, x),
    "turned": lambda c, x, _: (c * 0.5 + x, cr.moveaxis(c, 0, -1)),
    "covered": lambda c, x, w: (cr.triu(c) + x if x.ndim > 1 else c, cr.flip(x)),
    "solved": lambda c, x, _: (cr.linalg.solve(_positive(x), c) if x.ndim > 1 and x.shape[-1] == x.shape[-2] else c, x),
    "determinants": lambda c, x, _: (c * 0.5, cr.linalg.slogdet(_positive(x))[1] if x.ndim > 1 else x),
    "roots": lambda c, x, _: (cr.linalg.cholesky(_positive(x)) * 0.1 + c if x.ndim > 1 and x.shape[-1] == x.shape[-2] else c, x),
}


def loops(d: Fuzz) -> Step | None:
    """A scan, a choice or a loop."""
    i = d.pick("f", lambda x: x.ndim > 0 and x.size > 0 and x.shape[0] < 9)
    # Of a last carry that is not read no gradient flows, or one of zeros; times infinity they differ (docs/native.md, "Results").
    if i is None or d.strange:
        return None
    bodies = {**ANY, **AXES} if d.values[i].ndim > 1 else ANY
    reverse, name = d.flip(), d.choose([*bodies])

    def run(x: Any) -> list[Any]:
        return _flat(cr.scan(lambda c, y: bodies[name](c, y, x), x[0] * 0.5, x, reverse=reverse))

    def several(x: Any) -> list[Any]:
        """Two carries and a count, which change places."""

        def body(carry: Any, y: Any) -> Any:
            a, b, n = carry
            made, out = bodies[name](a, y, x)
            return (b, made, n + 1), (out, n, a)

        return _flat(cr.scan(body, (x[0] * 0.5, x[-1], cr.asarray(0)), x, reverse=reverse))

    def choose(x: Any) -> list[Any]:
        return list(cr.cond(cr.sum(cr.stop_gradient(x)) > 0.123, lambda x: (cr.sin(x), x), lambda x: (x, x * 2.0), x))

    def inside(x: Any) -> list[Any]:
        return _flat(cr.cond(cr.sum(cr.stop_gradient(x)) > 0.1, run, lambda x: _flat(cr.scan(lambda c, y: bodies[name](c, y, x), x[-1], x)), x))

    def again(x: Any) -> list[Any]:
        return list(cr.while_loop(lambda s: s[1] < 5, lambda s: (cr.sin(s[0]) + 0.1, s[1] + 1), (x, cr.asarray(0))))

    called, call = d.choose(
        [("scan", run), ("scan", run), ("scan of several", several), ("cond", choose), ("cond of scans", inside), ("while", again)]
    )
    return Step(f"{called} {name} {reverse}", (i,), call)


def _flat(made: Any) -> list[Any]:
    return [part for one in made for part in _flat(one)] if isinstance(made, (tuple, list)) else [made]
