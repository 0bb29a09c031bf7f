"""From a gate to its loop nest: by its own rule, by its scalar lowering, or by where it takes every element from.

Every target that has loops starts here. It never names a gate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chainrule.core.nest import Array, Nest, merged, numbered, offset, repeated, strides
from chainrule.core.primitive import Primitive


def lower(w: Nest, gate: Primitive, outs: Sequence[Array], xs: Sequence[Array], params: Mapping[str, Any]) -> bool:
    """Write what a gate does; whether it has loops at all."""
    out = tuple(outs) if gate.outputs else outs[0]
    if gate.loops is not None:
        gate.loops(w, out, *xs, **params)
    elif gate.scalar is not None and not gate.outputs:
        _elementwise(w, gate, out, xs, params)
    elif gate.kernel == "move" and len(xs) == 1:
        _moved(w, gate, outs, xs[0], params)
    else:
        return False
    return True


def _elementwise(w: Nest, gate: Primitive, out: Array, xs: Sequence[Array], params: Mapping[str, Any]) -> None:
    rule = gate.scalar
    assert rule is not None
    rank = len(out.shape)
    sizes, steps = merged(out.shape, [*(repeated(x.shape, rank) for x in xs), strides(out.shape)])
    with w.share(sizes) as at:
        values = [w.at(x, offset(at, own)) for x, own in zip(xs, steps, strict=False)]
        w.put(out, offset(at, steps[-1]), rule(w.k, *values, **params))


def _moved(w: Nest, gate: Primitive, outs: Sequence[Array], x: Array, params: Mapping[str, Any]) -> None:
    """What only moves elements: where each comes from is what the gate makes of their numbers."""
    result = gate.evaluate(numbered(x.shape), **params)
    for out, source in zip(outs, result if gate.outputs else (result,), strict=True):
        source = np.asarray(source)
        if out.size == x.size and np.array_equal(source.reshape(-1), np.arange(x.size)) and w.alias(out, x):
            continue
        w.copy(out, x, source=source)
