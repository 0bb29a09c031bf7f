"""Faults: what made a number NaN or infinite, found by asking the gate's own record for its value and derivative nearby.

A gate says by itself where it is defined: its evaluation (or its derivative rule) is tried around the numbers that failed, until the
nearest ones that do not are found, and the border between. No gate is known here by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from chainrule.core.aval import Aval
from chainrule.core.interp import ARRAYS, using
from chainrule.core.primitive import Primitive

_STEPS = 10.0 ** np.arange(-6, 5)
_HALVINGS = 200
_NEAR = 8.0
"""A bound below this is one of the function, not of the dtype."""
_EXPONENT = 1.5
"""What may not be above so many of the dtype's greatest exponents is no exponent, but too large a number itself."""
_SMALLER = "scale the inputs down (normalise, a smaller learning rate, clipped gradients), or use float64"


class Fault(NamedTuple):
    """What a gate made, of what, and what would have been well.

    Attributes
    ----------
    kind : {"NaN", "infinite"}
    element : tuple of int
        Its place.
    numbers : dict
        The inputs there, by name, if the gate works element by element.
    says, mend : str
    """

    kind: str
    element: tuple[int, ...]
    numbers: dict[str, float]
    says: str
    mend: str


def elementwise(primitive: Primitive) -> bool:
    """Whether every output element depends on the inputs' elements at its own place only."""
    return primitive.partials is not None or primitive.scalar is not None


def floats(values: Sequence[Any]) -> list[Any]:
    """Those of the values that can be NaN or infinite."""
    return [v for v in map(np.asarray, values) if v.dtype.kind == "f"]


def forward_fault(
    primitive: Primitive,
    values: Sequence[Any],
    params: Mapping[str, Any],
    out: Any,
    labels: Sequence[str] = (),
    *,
    nan: bool = True,
    inf: bool = True,
) -> Fault | None:
    """What is NaN or infinite in an output without having been so in the inputs; None if nothing is.

    ``labels`` are the caller's names of the inputs, where there are some. Infinity counts only if all inputs are finite and not
    empty, and no parameter of the gate is infinite: a mask is none that was made.
    """
    array = np.asarray(out)
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return None
    inputs = floats(values)
    made = _fresh(np.isnan(array), [np.isnan(v) for v in inputs], primitive) if nan else None
    kind = "NaN"
    if made is None or not made.any():
        if not inf or not inputs or any(not v.size or not np.isfinite(v).all() for v in inputs) or not _finite_params(params):
            return None
        made, kind = np.isinf(array), "infinite"
        if not made.any():
            return None
    index = _first(made)
    name = primitive.name
    if not elementwise(primitive):
        return Fault(kind, index, {}, f"{name} made {_what(array[index])}{_at(index)} of {_extremes(primitive, values)}", _broad(kind, values))
    names = input_names(primitive, len(values), labels)
    numbers = {name: float(_element(v, index, array.shape)) for name, v in zip(names, values, strict=True)}
    told = [
        *map(show, numbers.values()),
        *(f"{key}={show(v)}" for key, v in params.items() if isinstance(v, (int, float)) and not isinstance(v, bool)),
    ]
    call = f"{name}({', '.join(told)}) is {_what(array[index])}{_at(index)}"
    border = _border(lambda *xs: _evaluated(primitive, xs, params, values), list(numbers.values()))
    words = input_words(names, labels)
    return Fault(kind, index, dict(zip(words, numbers.values(), strict=True)), call + _said(border, words), _mended(border, words, array.dtype))


def backward_fault(
    primitive: Primitive, position: int, values: Sequence[Any], params: Mapping[str, Any], ct: Any, share: Any, labels: Sequence[str] = ()
) -> Fault:
    """Why a finite cotangent became NaN or infinite on its way through a gate; ``values`` are inputs and output, None where unknown."""
    share = np.asarray(share)
    made = np.isnan(share) if np.isnan(share).any() else np.isinf(share)
    kind = "NaN" if np.isnan(share).any() else "infinite"
    index = _first(made)
    if not elementwise(primitive) or primitive.variadic or np.shape(ct) != share.shape:
        known = [v for v in values if v is not None]
        of = f", of {_extremes(primitive, values[:-1])}" if known and not any(v is None for v in values[:-1]) else ""
        mend = "look at what goes in, and at the gate's own derivative rule" if kind == "NaN" else _broad(kind, known)
        return Fault(kind, index, {}, f"the derivative of {primitive.name} is {_what(share[index])}{_at(index)}{of}", mend)
    own = [*primitive.inputs, "out"]
    given_names = input_names(primitive, len(primitive.inputs), labels)
    names = dict(zip(own, [*input_words(given_names, labels), "its result"], strict=True))
    numbers = {name: float(_element(v, index, share.shape)) for name, v in zip(own, values, strict=True) if v is not None}
    given = {name: number for name, number in numbers.items() if name != "out"}
    used = given if len(given) == len(primitive.inputs) else numbers
    shown = {names[name]: number for name, number in used.items()}
    at = ", ".join(f"{name} = {show(number)}" for name, number in shown.items())
    at = at.replace("its input =", "that is") if "its input" in shown else at
    f = partial(_slope_at, primitive, position, list(used), params, values)
    factor, before = f(*used.values()), float(np.asarray(ct)[index])
    if np.isfinite(factor):
        says = f"the gradient {show(before)} times the derivative {show(factor)} of {primitive.name} by {names[own[position]]} where {at}"
        return Fault(kind, index, shown, f"{says} is {_what(share[index])}{_at(index)}", _broad(kind, []))
    slope_of = f"derivative of {primitive.name} by {names[own[position]]} where {at}"
    says = f"the {slope_of} is {_what(share[index])}{_at(index)}"
    if np.isinf(factor) and np.isnan(share[index]):
        says = f"the {slope_of} is {_what(factor)}{_at(index)}, and times the gradient {show(before)} that is NaN"
    border = _border(f, list(used.values()))
    return Fault(kind, index, shown, says + _said(border, list(shown)), _mended(border, list(shown), share.dtype))


def input_names(primitive: Primitive, count: int, labels: Sequence[str] = ()) -> list[str]:
    """What to call the inputs of a gate: by the caller's own names if all are different, else by the record's."""
    own = [f"x{i}" for i in range(count)] if primitive.variadic else list(primitive.inputs)
    names = [label or name for label, name in zip(labels, own, strict=True)] if labels else own
    return names if len(set(names)) == len(names) else own


_ORDINALS = ("first", "second", "third")


def input_words(names: Sequence[str], labels: Sequence[str]) -> list[str]:
    """The same in words: x, x1 are the record's own, and may be names of other values in the caller's code."""
    told: list[str] = []
    for position, name in enumerate(names):
        if (labels and name == labels[position]) or not re.fullmatch(r"x\d*", name):
            told.append(name)
        elif len(names) == 1:
            told.append("its input")
        else:
            told.append(f"its {_ORDINALS[position]} input" if position < len(_ORDINALS) else f"its input {position + 1}")
    return told


def show(number: float) -> str:
    """A number as a person would write it."""
    return f"{number:.6g}"


def range_of(values: Any) -> str:
    """``from a to b``, or the one value, of some numbers."""
    array = np.asarray(values)
    low, high = float(array.min()), float(array.max())
    return show(low) if low == high else f"from {show(low)} to {show(high)}"


def _fresh(out: Any, inputs: Sequence[Any], primitive: Primitive) -> Any:
    """Where an output is spoilt by no input; of gates that mix elements, everywhere or nowhere."""
    if elementwise(primitive):
        for one in inputs:
            out = out & ~np.broadcast_to(one, out.shape)
        return out
    return out if not any(one.any() for one in inputs) else np.zeros_like(out)


def _finite_params(params: Mapping[str, Any]) -> bool:
    return all(np.isfinite(v) for v in params.values() if isinstance(v, (float, np.floating)))


def _first(where: Any) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(where)), where.shape)) if where.ndim else ()


def _element(value: Any, index: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    return np.broadcast_to(value, shape)[index]


def _at(index: tuple[int, ...]) -> str:
    return f" at [{', '.join(map(str, index))}]" if index else ""


def _what(number: Any) -> str:
    return "NaN" if np.isnan(number) else show(float(number)) if np.isfinite(number) else "infinite" if number > 0 else "minus infinite"


def _extremes(primitive: Primitive, values: Sequence[Any]) -> str:
    names = primitive.inputs if not primitive.variadic else [f"input {i}" for i in range(len(values))]
    parts = []
    for name, v in zip(names, map(np.asarray, values), strict=True):
        parts.append(f"{name} {Aval(v.shape, v.dtype)}" + (f" {range_of(v)}" if v.size and v.dtype.kind in "iuf" else ""))
    return ", ".join(parts)


def _broad(kind: str, values: Sequence[Any]) -> str:
    if kind == "infinite":
        return f"the numbers are beyond the dtype: {_SMALLER}"
    if any(np.isinf(v).any() for v in floats(values)):
        return "an infinity came in, and infinity minus or times something is NaN: see where that comes from"
    return "look at the inputs above: a sum or product of them is not defined"


def _evaluated(primitive: Primitive, numbers: Sequence[float], params: Mapping[str, Any], like: Sequence[Any]) -> float:
    given = [np.asarray(number).astype(np.asarray(v).dtype)[()] for number, v in zip(numbers, like, strict=True)]
    with np.errstate(all="ignore"):
        return float(primitive.evaluate(*given, **params))


def _slope_at(primitive: Primitive, position: int, names: Sequence[str], params: Mapping[str, Any], like: Sequence[Any], *numbers: float) -> float:
    return slope(primitive, position, dict(zip(names, numbers, strict=True)), params, like)


def slope(primitive: Primitive, position: int, numbers: Mapping[str, float], params: Mapping[str, Any], like: Sequence[Any]) -> float:
    """The local derivative at these inputs, or where only that is known, at this output."""
    names = (*primitive.inputs, "out")
    dtypes = {name: np.asarray(v).dtype for name, v in zip(names, like, strict=True) if v is not None}
    dtype = next(found for found in dtypes.values() if found.kind == "f")
    given = {name: np.asarray(number).astype(dtypes[name])[()] for name, number in numbers.items()}
    with using(ARRAYS), np.errstate(all="ignore"):
        if "out" not in given:
            given["out"] = primitive.evaluate(*given.values(), **params)
        pulls = primitive.pulls
        pull = pulls[position] if isinstance(pulls, tuple) else None
        if pull is None:
            return float("nan")
        node = SimpleNamespace(params=params, inputs=(None,) * len(primitive.inputs), primitive=primitive)
        return float(pull(dtype.type(1), tuple(given.get(name) for name in names), node, Aval((), dtype)))


class _Border(NamedTuple):
    """Which input to move, and where finite results begin: "above" or "below" the bound, or anywhere "but at" it."""

    position: int
    side: str
    bound: float


def _border(f: Callable[..., float], numbers: Sequence[float]) -> _Border | None:
    """The nearest numbers at which ``f`` is finite, one input moved at a time, the last first: it is the divisor or the exponent."""
    for position in range(len(numbers) - 1, -1, -1):
        x = numbers[position]
        if not np.isfinite(x):
            continue

        def moved(value: float, position: int = position) -> bool:
            try:
                return bool(np.isfinite(f(*numbers[:position], value, *numbers[position + 1 :])))
            except Exception:
                return False

        scale = max(1.0, abs(x))
        for step in _STEPS:
            up, down = moved(x + step * scale), moved(x - step * scale)
            if up and down:
                return _Border(position, "but at", x)
            if up or down:
                good = x + step * scale if up else x - step * scale
                return _Border(position, "above" if up else "below", _bisected(moved, x, good))
    return None


def _bisected(fine: Callable[[float], bool], bad: float, good: float) -> float:
    for _ in range(_HALVINGS):
        middle = 0.5 * (bad + good)
        if middle in (bad, good):
            break
        bad, good = (bad, middle) if fine(middle) else (middle, good)
    bound = float(f"{good:.4g}")
    return 0.0 if abs(bound) < 1e-6 else bound


def _said(border: _Border | None, names: Sequence[str]) -> str:
    if border is None:
        return ""
    where = f"everywhere {border.side}" if border.side == "but at" else border.side
    return f"; it is finite for {names[border.position]} {where} {show(border.bound)}"


def _mended(border: _Border | None, names: Sequence[str], dtype: np.dtype[Any]) -> str:
    if border is None:
        return "look at the inputs there: none of them alone can be moved a little to mend it"
    name, bound = names[border.position], show(border.bound)
    # In code, what has no name is left open.
    x = name if name.isidentifier() or "." in name else "..."
    if border.side == "but at":
        return f"keep {name} away from {bound}: add a small number to it, or put another in its place first, cr.where({x} != {bound}, {x}, 1.0)"
    if border.side == "above":
        least = show(border.bound + 1e-6 * max(1.0, abs(border.bound)))
        guard = f"in a branch, guard what goes into the gate, not only what comes out: cr.where({x} > {bound}, {x}, 1.0)"
        return f"keep {name} above {bound}: add a small number, or cr.clip({x}, {least}, None); {guard}"
    if abs(border.bound) < _NEAR:
        most = show(border.bound - 1e-6 * max(1.0, abs(border.bound)))
        return f"keep {name} below {bound}: subtract a small number, or cr.clip({x}, None, {most})"
    if abs(border.bound) > _EXPONENT * np.finfo(dtype).maxexp:
        return f"keep {name} below {bound}: {_SMALLER}"
    smaller = "subtract the largest first, as cr.softmax and cr.logsumexp do, scale it down"
    return f"keep {name} below {bound}: {smaller}, or cr.clip({x}, None, {bound})"
