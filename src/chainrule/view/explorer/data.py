"""The facts of an explorer page: everything that it shows, as one tree of plain values.

What each field means is written in `docs/explorer.md`. All numbers come from `run`, all formulas from `formulas`, all places
from `layouts`; here they are only put together. NaN and infinities are words, as JSON has no such numbers.
"""

from __future__ import annotations

import inspect
import linecache
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation
from chainrule.view.explorer import formulas
from chainrule.view.explorer.code import code_and_steps
from chainrule.view.explorer.derivatives import COUNTED, structure, units
from chainrule.view.explorer.layouts import UNFOLDED, layouts
from chainrule.view.explorer.run import Run, jacobians, microseconds, numeric
from chainrule.view.explorer.saved import saved
from chainrule.view.explorer.why import why
from chainrule.view.patterns import pattern, sign
from chainrule.view.picture_values import Step, Value
from chainrule.view.source import Listing
from chainrule.view.targets.numpy import Flat

VERSION = 2
KEPT = 4096
"""Of larger tensors only every so many-th element is in the page."""
TIMED = 400
"""Graphs of more gates are timed once, not the best of several, and only their inputs are checked numerically."""
MOST_BOXES = 40
"""Into so many boxes at most a large graph without layers is cut."""

_RAISED = str.maketrans("0123456789-.", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻·")

Data = dict[str, Any]


@dataclass
class Picture:
    """The graph as it is drawn: gates, and explicit branches, joined by wires."""

    nodes: list[Data] = field(default_factory=list[Data])
    wires: list[Data] = field(default_factory=list[Data])
    copies: dict[Variable, str] = field(default_factory=dict[Variable, str])


class Facts:
    """Names and roles of a run's variables, shared by all parts of the page."""

    def __init__(self, done: Run, kinds: Mapping[Variable, str], listing: Listing, traced: Graph) -> None:
        self.done = done
        self.graph = done.graph
        self.traced = traced
        self.kinds = kinds
        self.listing = listing
        self.flat = Flat(listing, formulas.gate)
        self.numbers = {x for x in self.graph.constants if x.ndim == 0}
        self.names = {**self.flat.names, **{x: number_of(self.graph.constants[x]) for x in self.numbers}}
        self.formulas = formulas.Formulas(self.graph, self.names)
        self.nodes = [node for node in self.graph.nodes if any(i not in self.numbers for i in node.inputs) or node.outputs]
        self.ids = [self.names[node.outputs[0]] for node in self.nodes]
        self.slots = [[i for i, x in enumerate(node.inputs) if x not in self.numbers] for node in self.nodes]
        self.beside = Counter(node.scope for node in self.nodes)
        self.together = max(UNFOLDED // 2, len(self.nodes) // MOST_BOXES + 1)
        self.uses: dict[Variable, list[tuple[int, int]]] = {}
        for place, node in enumerate(self.nodes):
            for slot, i in enumerate(self.slots[place]):
                self.uses.setdefault(node.inputs[i], []).append((place, slot))
        self.paths = [self.path(place) for place in range(len(self.nodes))]
        self.makers = {x: place for place, node in enumerate(self.nodes) for x in node.outputs}
        outside = [x for x in (*self.graph.inputs, *self.graph.constants) if x not in self.numbers]
        self.leaves = [x for x in outside if x in self.uses or x in self.graph.parameters or x is done.output]

    def down(self, place: int, slot: int) -> Any:
        """The gradient that a gate sends to an operand that is shown, or None."""
        return self.done.down.get((place, self.slots[place][slot]))

    def path(self, place: int) -> tuple[str, ...]:
        """The boxes that a gate stands in, the outermost first: its layers; of too many gates side by side, some that run one after another."""
        scope = tuple(part.replace(" ", "_") for part in self.nodes[place].scope)
        found = [".".join(scope[: i + 1]) for i in range(len(scope))]
        if self.beside[self.nodes[place].scope] > UNFOLDED:
            first = place // self.together * self.together + 1
            name = f"gates_{first}_to_{min(first + self.together - 1, len(self.nodes))}"
            found.append(f"{found[-1]}.{name}" if found else name)
        return tuple(found)

    def shared(self, x: Variable) -> tuple[str, ...]:
        """The boxes that all gates stand in that read a value."""
        paths = [self.paths[place] for place, _ in self.uses.get(x, ())]
        return tuple(names[0] for names in takewhile(lambda names: len({*names}) == 1, zip(*paths, strict=False)))

    def home(self, x: Variable) -> str | None:
        """The box that a leaf stands in: parameters, other state and constants stand where they are read, arguments outside."""
        return None if x in self.graph.parameters else next(iter(self.shared(x)[::-1]), None)

    def branch(self, x: Variable) -> str | None:
        """The box that a value branches in: where all gates that read it are, unless one of them is beside the gate that makes it."""
        shared = self.shared(x) if x is not self.done.output else ()
        if x in self.makers:
            own = self.paths[self.makers[x]]
            common = len([*takewhile(lambda pair: pair[0] == pair[1], zip(own, shared, strict=False))])
            inner = own[: common + 1]
            if len(inner) > common and any(self.paths[place][: len(inner)] == inner for place, _ in self.uses.get(x, ())):
                shared = own
        return next(iter(shared[::-1]), None)

    def label(self, x: Variable) -> str:
        """The name without that of the layer in whose box it stands."""
        name, home = self.names[x], self.home(x) if x in self.leaves else None
        prefix = "" if home is None else home.replace(".", "_") + "_"
        return name[len(prefix) :] if prefix and name.startswith(prefix) and len(name) > len(prefix) else name


def page_data(facts: Facts, function: Callable[..., Any], title: str | None = None, *, live: bool = False) -> Data:
    """The page's data.

    Parameters
    ----------
    facts : Facts
    function : callable
        Whose source is shown.
    title : str, optional
        The function's name if not given.
    live : bool
        Whether the page can compute everything again.
    """
    done = facts.done
    picture = _picture(facts)
    gates = _gates(facts, picture)
    code, steps = code_and_steps(facts, picture)
    groups = _groups(facts)
    said = (inspect.getdoc(function) or "").strip().split("\n\n")[0].replace("\n", " ")
    arguments = ", ".join(x.name for x in done.graph.parameters)
    data = {
        "version": VERSION, "title": title or done.graph.name.replace("_", " "), "subtitle": said or f"{done.graph.name}({arguments})",
        "note": "Change any input: everything is computed again, here in the page." if live else "",
        "output": facts.names[done.output], "vars": _variables(facts), "gates": gates, "nodes": picture.nodes, "wires": picture.wires,
        "groups": groups, "code": code, "functions": facts.flat.functions, "steps": steps, "source": _source(facts, function),
        "layouts": {}, "live": live,
        "open": len(picture.nodes) <= UNFOLDED,
        "saved": saved(facts, function), "why": why(facts),
    }  # fmt: skip
    data["layouts"] = layouts(data)
    return plain(data)


def number_of(value: Any) -> str:
    """A number as it is written among the operands of a statement."""
    return f"{value.item():.6g}" if value.dtype.kind == "f" else str(value.item())


def plain(value: Any) -> Any:
    """A tree that JSON can hold: numbers with six digits, NaN and infinities in words."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        if math.isfinite(value):
            return float(f"{value:.6g}") + 0.0
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _variables(facts: Facts) -> Data:
    done = facts.done
    small = len(facts.nodes) <= TIMED
    checked = numeric(done, [x for x in done.grad if small or x not in facts.makers])
    shown = [*facts.leaves, *(x for node in facts.nodes for x in node.outputs)]
    return {facts.names[x]: _variable(facts, x, checked.get(x)) for x in shown}


def _variable(facts: Facts, x: Variable, checked: Any) -> Data:
    value, grad = facts.done.value[x], facts.done.grad.get(x)
    told: Data = {
        "kind": facts.kinds.get(x, "computed" if x in facts.makers else "data"), "label": facts.label(x),
        "dtype": str(x.dtype), "shape": list(x.shape), "bytes": x.nbytes,
        "value": _flat(value), "grad": _flat(grad), "numeric": _flat(checked), "error": None,
        "stats": None, "absent": "" if grad is not None else _absent(facts, x),
    }  # fmt: skip
    if checked is not None and grad is not None and grad.size:
        told["error"] = float(np.max(np.abs(grad - checked)))
    if value.size > KEPT:
        told["stats"] = {"value": _stats(value), "grad": _stats(grad)}
        strides = _strides(x.shape)
        told["kept"] = {"shape": [math.ceil(n / s) for n, s in zip(x.shape, strides, strict=True)], "strides": strides}
    return told


def _absent(facts: Facts, x: Variable) -> str:
    """Why there is no gradient, in words."""
    if x.dtype.kind != "f":
        return f"{x.dtype} has no gradient"
    if x not in facts.done.tracked:
        return "it is data, for which no gradient is asked" if x not in facts.makers else "it depends on nothing that is differentiated"
    if x not in facts.uses:
        return "it is not used, so it has no gradient"
    return "no path to the output passes a gradient on"


def _strides(shape: Sequence[int]) -> list[int]:
    strides = [1] * len(shape)
    while math.prod(math.ceil(n / s) for n, s in zip(shape, strides, strict=True)) > KEPT:
        widest = max(range(len(shape)), key=lambda i: shape[i] / strides[i])
        strides[widest] += 1
    return strides


def _flat(array: Any) -> list[float] | None:
    if array is None:
        return None
    if array.size > KEPT:
        array = array[tuple(slice(None, None, stride) for stride in _strides(array.shape))]
    if array.dtype.kind == "c":
        array = np.abs(array)
    return [x if isinstance(x, float) else int(x) for x in np.ravel(array).tolist()]


def _stats(array: Any) -> Data | None:
    """What the whole tensor is like, although perhaps not all of it is in the page."""
    if array is None or not array.size or array.dtype.kind == "c":
        return None
    numbers = array.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    return {
        "count": int(array.size), "low": float(finite.min()) if finite.size else None, "high": float(finite.max()) if finite.size else None,
        "zeros": int(np.sum(numbers == 0)), "nan": int(np.isnan(numbers).sum()), "inf": int(np.isinf(numbers).sum()),
        "norm": float(np.sqrt(np.sum(finite * finite))),
    }  # fmt: skip


def _picture(facts: Facts) -> Picture:
    """Nodes and wires, with an explicit copy wherever a value is used more than once."""
    picture, names = Picture(), facts.names
    for x in facts.leaves:
        picture.nodes.append({"id": f"leaf:{names[x]}", "kind": "leaf", "var": names[x], "group": facts.home(x)})
    for place, node in enumerate(facts.nodes):
        picture.nodes.append(
            {"id": facts.ids[place], "kind": "gate", "var": names[node.outputs[0]], "group": next(iter(facts.paths[place][::-1]), None)}
        )
    output = facts.done.output
    picture.nodes.append({"id": "out:", "kind": "out", "var": names[output], "group": None})
    ends: dict[Variable, list[tuple[str, int]]] = {x: [(facts.ids[p], slot) for p, slot in used] for x, used in facts.uses.items()}
    ends.setdefault(output, []).append(("out:", 0))
    for x, to in ends.items():
        start = facts.ids[facts.makers[x]] if x in facts.makers else f"leaf:{names[x]}"
        if len(to) > 1:
            copy = picture.copies[x] = f"copy:{names[x]}"
            picture.nodes.append({"id": copy, "kind": "copy", "var": names[x], "group": facts.branch(x)})
            picture.wires.append(_wire(start, copy, 0, names[x]))
            start = copy
        picture.wires += [_wire(start, end, slot, names[x]) for end, slot in to]
    return picture


def _wire(start: str, end: str, slot: int, name: str) -> Data:
    return {"id": f"{start}>{end}.{slot}", "from": start, "to": end, "slot": slot, "var": name}


def _gates(facts: Facts, picture: Picture) -> Data:
    written = {node: right for node, _, right in facts.flat.lines}
    gates = {facts.ids[place]: _gate(facts, place, node, written[node]) for place, node in enumerate(facts.nodes)}
    for x, copy in picture.copies.items():
        feeds = [wire["id"] for wire in picture.wires if wire["from"] == copy]
        gates[copy] = {
            "op": "copy", "title": "branch", "glyph": "", "pattern": "copy adds", "inputs": [facts.names[x]], "output": facts.names[x],
            "outputs": [facts.names[x]], "forward": facts.names[x], "local": ["1"], "way": [], "back": [], "zero": [], "jacobian": [None],
            "down": [_flat(facts.done.grad.get(x))], "time": [0, 0], "line": "", "branches": feeds, "structure": [None], "units": None,
        }  # fmt: skip
    return gates


def _gate(facts: Facts, place: int, node: Operation, forward: str) -> Data:
    names, done = facts.names, facts.done
    shown = facts.slots[place]
    open_slots = [i for slot, i in enumerate(shown) if facts.down(place, slot) is not None]
    told = formulas.Backward()
    tables: dict[int, Any] = {}
    if open_slots:
        told = facts.formulas.backward(node, open_slots, [i for i, x in enumerate(node.outputs) if x in done.grad])
        tables = jacobians(done, place, open_slots)
    operands = [names[x] for x in node.inputs]
    step = Step(node.primitive, tuple(_value(facts, x) for x in node.inputs), tuple(_value(facts, x) for x in node.outputs), node.params, node.scope)
    glyph = _glyph(node, step)
    repeat = 5 if len(facts.nodes) <= TIMED else 1
    return {
        "op": node.primitive.name, "title": formulas.title(node), "glyph": glyph if len(glyph) <= 22 else f"{glyph[:21]}…",
        "pattern": f"{node.primitive.name.replace('_', ' ')} {pattern(step) or 'mixes'}",
        "inputs": [names[node.inputs[i]] for i in shown], "output": names[node.outputs[0]], "outputs": [names[x] for x in node.outputs],
        "forward": forward, "local": [told.locals.get(i) for i in shown], "way": told.lines, "back": [told.results.get(i) for i in shown],
        "zero": [formulas.reason(told.locals.get(i), operands) for i in shown], "jacobian": [tables.get(i) for i in shown],
        "down": [_flat(facts.down(place, slot)) for slot in range(len(shown))], "time": microseconds(done, place, open_slots, repeat),
        "line": _line(node), "units": units(done, node),
        "structure": [
            structure(done, node, i, tables.get(i), counted=COUNTED if repeat > 1 else 0) if i in open_slots and not node.primitive.outputs else None
            for i in shown
        ],
    }  # fmt: skip


def _glyph(node: Operation, step: Step) -> str:
    exponent = node.params.get("exponent")
    if len(node.inputs) == len(node.params) == 1 and isinstance(exponent, (int, float)):
        return "x" + f"{exponent:g}".translate(_RAISED)
    return sign(step)


def _value(facts: Facts, x: Variable) -> Value:
    kind = "constant" if x in facts.graph.constants else "argument" if x in facts.graph.parameters else "outside" if x in facts.kinds else "computed"
    return Value(facts.names[x], x.shape, kind, facts.done.value.get(x), facts.done.grad.get(x))


def _line(node: Operation) -> str:
    return f"{Path(node.line[0]).name}:{node.line[1]}" if node.line[1] > 0 else ""


def _groups(facts: Facts) -> list[Data]:
    """All boxes, each after the one that it stands in."""
    gates: Counter[str] = Counter()
    parents: dict[str, str | None] = {}
    for path in facts.paths:
        gates.update(path)
        parents.update(zip(path, (None, *path), strict=False))
    parameters: Counter[str] = Counter()
    for x in (x for x in facts.leaves if facts.kinds.get(x) == "parameter"):
        box = facts.home(x)
        while box is not None:
            parameters[box] += x.size
            box = parents[box]
    found: list[Data] = []
    for box, parent in parents.items():
        label = box if parent is None else box[len(parent) + 1 :]
        if label.startswith("gates_"):
            label = label.replace("_", " ")
        detail = _count(gates[box], "gate") + (f", {_count(parameters[box], 'parameter')}" if parameters[box] else "")
        found.append({"id": box, "parent": parent, "label": label, "detail": detail})
    return found


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def _source(facts: Facts, function: Callable[..., Any]) -> list[Data]:
    """The user's lines that the gates come from: of each file the function's own, or those between the first and the last."""
    spans: dict[str, list[int]] = {}
    for node in facts.nodes:
        if node.line[1] > 0:
            spans.setdefault(node.line[0], []).append(node.line[1])
    own = inspect.unwrap(function)
    try:
        lines, first = inspect.getsourcelines(own)
        spans.setdefault(inspect.getsourcefile(own) or "", []).extend([max(first, 1), max(first, 1) + len(lines) - 1])
    except (OSError, TypeError):
        pass
    return [found for path, numbers in spans.items() if (found := _excerpt(path, numbers))]


def _excerpt(path: str, numbers: Iterable[int]) -> Data | None:
    lines = [line.rstrip("\n") for line in linecache.getlines(path)]
    first, last = min(numbers), min(max(numbers), len(lines))
    if not lines or last < first or last - first > 600:
        return None
    return {"file": Path(path).name, "first": first, "lines": lines[first - 1 : last]}
