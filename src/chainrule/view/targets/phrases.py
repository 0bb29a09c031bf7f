"""Gates as NumPy expressions that people write: a reduction as a method, a power as ``**``, a product of matrices as ``@``.

The records' own NumPy rules are for speed and exact bits, and read accordingly. A phrase gets the operands, the output
and the gate's parameters; None means that it has nothing to say, and the gate is printed otherwise.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from chainrule.core.primitive import Primitive
from chainrule.core.variable import Variable
from chainrule.view.targets.written import ATOM, Written, call, infix, number, prefix

Phrase = Callable[..., Written | None]
_BUILTIN = type(operator.add)


def _along(x: Written, axis: tuple[int, ...]) -> str:
    return "" if axis == tuple(range(x.ndim)) else f"axis={axis[0] if len(axis) == 1 else axis}"


def _words(*words: str) -> str:
    return ", ".join(word for word in words if word)


def _reduction(method: str) -> Phrase:
    def phrase(out: Variable, x: Written, axis: tuple[int, ...], keepdims: bool) -> Written | None:
        if not axis or not x.shape:
            return None
        given = f'dtype="{out.dtype}"' if method == "sum" and out.dtype.kind in "iu" else ""
        return x.method(method, _words(_along(x, axis), given, "keepdims=True" if keepdims else ""))

    return phrase


def _reshape(out: Variable, x: Written, shape: tuple[int, ...]) -> Written:
    return x.method("reshape", ", ".join(map(str, shape)) or "()") if x.shape else call("np.reshape", x, shape)


def _permute(out: Variable, x: Written, axes: tuple[int, ...]) -> Written:
    if axes == tuple(range(x.ndim))[::-1]:
        return Written(f"{x.at(ATOM)}.T")
    swapped = [i for i, axis in enumerate(axes) if i != axis]
    return x.method("swapaxes", *swapped) if len(swapped) == 2 else x.method("transpose", *axes)


def _matmul(out: Variable, x1: Written, x2: Written) -> Written:
    return infix(x1, "@", x2)


def _where(out: Variable, condition: Written, x1: Written, x2: Written) -> Written:
    return call("np.where", condition, x1, x2)


def _power(out: Variable, x: Written, exponent: float) -> Written | None:
    if exponent == 1:
        return x
    return infix(x, "**", number(exponent)) if out.dtype.kind == "f" else None


def _list(name: str) -> Phrase:
    def phrase(out: Variable, *xs: Written, axis: int, **sizes: Any) -> Written:
        return call(name, f"({', '.join(map(str, xs))}{',' * (len(xs) == 1)})", *([f"axis={axis}"] if axis else []))

    return phrase


def _limits(out: Variable, x: Written, low: Written, high: Written) -> Written:
    return call("np.minimum", call("np.maximum", x, low), high)


def _positive(out: Variable, x: Written) -> Written:
    return x


PHRASES: dict[str, Phrase] = {
    "positive": _positive,
    "stop_gradient": _positive,
    "matmul": _matmul,
    "sum": _reduction("sum"),
    "mean": _reduction("mean"),
    "max": _reduction("max"),
    "min": _reduction("min"),
    "all": _reduction("all"),
    "any": _reduction("any"),
    "reshape": _reshape,
    "permute_dims": _permute,
    "broadcast_to": lambda out, x, shape: call("np.broadcast_to", x, shape),
    "concat": _list("np.concatenate"),
    "stack": _list("np.stack"),
    "getitem": lambda out, x, index: Written(f"{x.at(ATOM)}{index}"),
    "where": _where,
    "clip": _limits,
    "square": lambda out, x: infix(x, "**", number(2)),
    "pow_constant": _power,
    "reciprocal": lambda out, x: infix(number(1), "/", x) if out.dtype.kind == "f" else None,
    "rsqrt": lambda out, x: infix(number(1), "/", call("np.sqrt", x)),
    "relu": lambda out, x: call("np.maximum", x, 0),
    "astype": lambda out, x, dtype: x.method("astype", f'"{dtype}"') if x.shape else call(f"np.{'bool_' if dtype.kind == 'b' else dtype}", x),
    "abs": lambda out, x: call("np.abs", x),
    "flip": lambda out, x, axis: call("np.flip", x, axis),
    "diagonal": lambda out, x, offset: call("np.diagonal", x, offset, "axis1=-2", "axis2=-1") if offset else None,
}
"""By the gate's name; what only has another spelling in NumPy stands here, whatever needs lines of its own in `helpers`, and operators in the
gates' records."""


def has_phrase(gate: Primitive) -> bool:
    """Whether a gate is an expression of NumPy, between whose operands numbers may stand as Python's."""
    return gate.name in PHRASES or _is_operator(gate)


def _is_operator(gate: Primitive) -> bool:
    """Whether an operator says all: a gate may have one, and evaluate with more care."""
    return bool(gate.operator) and gate.eval.__class__ is _BUILTIN


def phrase(gate: Primitive, out: Variable, operands: list[Written], params: Any) -> Written | None:
    """The expression of a gate, if there is one better than its evaluation."""
    found = PHRASES.get(gate.name)
    if found is not None:
        return found(out, *operands, **params)
    if _is_operator(gate):
        return infix(operands[0], gate.operator, operands[1]) if len(operands) == 2 else prefix(gate.operator, operands[0])
    function: Any = gate.eval
    if not params and isinstance(function, np.ufunc) and getattr(np, function.__name__, None) is function:
        return call(f"np.{function.__name__}", *operands)
    return None
