"""What stands on a gate in a picture: its sign, and in a word what it does to a gradient.

Both are read off the gate's record: partials that are numbers, rules that read only the other inputs, masks. Of a gate with one
input, whose rule says nothing by its form, the gradient of a sum is computed once and looked at. No gate is known here by
its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrule.core import chain
from chainrule.core.errors import ChainruleError
from chainrule.core.interp import ARRAYS, BASE, EVERYDAY, using
from chainrule.core.primitive import Primitive
from chainrule.tape import bind
from chainrule.tensor import new
from chainrule.view.picture_values import Step, Value

_TYPE = str.maketrans({"*": "×", "-": "−"})
_MOST = 100_000
"""Gates of more elements are not tried out."""


def absorbed(step: Step) -> tuple[int, ...]:
    """The places of single numbers, which are written on the gate itself."""
    found = tuple(i for i, x in enumerate(step.inputs) if x.kind == "constant" and x.shape == () and x.value is not None)
    return found if len(found) < len(step.inputs) else ()


def sign(step: Step) -> str:
    """What is written on a gate: ×, +1, 1/x, exp."""
    gate, numbers = step.primitive, absorbed(step)
    operator = gate.operator if not step.params else ""
    if operator and len(step.inputs) == 1 and gate.partials is not None and isinstance(gate.partials[0], (int, float)):
        return f"×{gate.partials[0]:g}".translate(_TYPE)
    if operator and len(numbers) == 1 and len(step.inputs) == 2:
        (place,) = numbers
        number = _number(step.inputs[place])
        if operator == "**":
            return f"x{_raised(number)}" if place == 1 else f"{number}ˣ"
        written = operator.translate(_TYPE)
        return f"{written}{number}" if place == 1 or _symmetric(gate) else f"{number}{written}x"
    if operator:
        return operator.translate(_TYPE)
    if len(numbers) == 1 and len(step.inputs) == 2 and not gate.variadic:
        words = [_number(x) if i in numbers else "x" for i, x in enumerate(step.inputs)]
        return f"{gate.name}({', '.join(words)})"
    written, _, power = gate.sign.format(**{name: _short(v) for name, v in step.params.items() if isinstance(v, (int, float))}).partition("^")
    return f"{written}{_raised(power)}" if power else written or gate.name.replace("_", " ")


def _number(x: Value) -> str:
    return _short(np.asarray(x.value).item())


def _short(value: Any) -> str:
    return f"{value:.{4 if 1e-3 < abs(value) < 1e5 else 2}g}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-").translate(_TYPE)


def _raised(number: str) -> str:
    plain = all(letter in "0123456789−" for letter in number)
    return number.translate(str.maketrans("0123456789−", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")) if plain else f"^{number}"


def _symmetric(gate: Primitive) -> bool:
    """Whether both inputs play the same part."""
    if gate.partials is None or len(gate.partials) != 2:
        return False
    first, second = gate.partials
    return first == second if not isinstance(first, str) else (first, second) == (gate.inputs[1], gate.inputs[0])


def pattern(step: Step) -> str:
    """What the gate does to a gradient, in a word; '' where no single word says it."""
    gate, numbers = step.primitive, absorbed(step)
    open_places = [i for i in range(len(step.inputs)) if i not in numbers]
    if gate.pulls is None or gate.pulls == () or (isinstance(gate.pulls, tuple) and all(pull is None for pull in gate.pulls)):
        return "stops"
    if gate.masks:
        return "routes"
    if gate.partials is not None:
        return _of_partials([gate.partials[i] for i in open_places], gate, several=len(open_places) > 1)
    if len(open_places) > 1 and not gate.variadic and _reads_others(gate, open_places):
        return "swaps"
    return _tried(step) if len(step.inputs) == 1 else ""


def _of_partials(partials: Sequence[Any], gate: Primitive, *, several: bool) -> str:
    if all(isinstance(p, (int, float)) for p in partials):
        if all(p == 0 for p in partials):
            return "stops"
        if several:
            return "distributes"
        return {1: "passes on", -1: "flips sign"}.get(partials[0], "scales")
    return "swaps" if several and _reads_others(gate, range(len(partials))) else "scales"


def _reads_others(gate: Primitive, places: Sequence[int]) -> bool:
    """Whether the gradient of each input takes the other inputs, and neither itself nor the output."""
    return all(gate.reads[i] and gate.reads[i] <= set(range(len(gate.inputs))) - {i} for i in places)


def _tried(step: Step) -> str:
    """What the gradient of the output's sum looks like, at random values."""
    (x,) = step.inputs
    dtype = np.result_type(x.value) if x.value is not None else np.dtype(np.float32)
    if len(step.outputs) != 1 or step.primitive.outputs or dtype.kind != "f" or not 0 < int(np.prod(x.shape)) <= _MOST:
        return ""
    try:
        with using(EVERYDAY), np.errstate(all="ignore"):
            given = new(np.random.default_rng(0).standard_normal(x.shape).astype(dtype)[()]).requires_grad_()
            out = bind(step.primitive, [given], step.params)
        source, end = given._node, out._node
        if source is None or end is None:
            return "stops"
        with using(ARRAYS), np.errstate(all="ignore"):
            start = [(end, np.ones(out.shape, out.dtype))]
            found = chain.sweep(start, BASE, wrap=None, retain=True, arrive=lambda node, ct: ct, wanted={source: None})
    except ChainruleError:
        return ""
    return _look(np.asarray(found.get(source, 0.0)), given.size, out.size)


def _look(sent: Any, size: int, out_size: int) -> str:
    if np.all(sent == np.round(sent)):
        if np.any(sent == 0):
            return "routes"
        return "distributes" if out_size < size else "adds" if out_size > size else "passes on"
    return "shares" if out_size < size and np.allclose(sent, sent.flat[0]) else ""
