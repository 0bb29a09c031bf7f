"""Nodes and wires: what there is to draw of a program, what is written on it, and how much room that takes.

Every wire has a seat in its middle, a box as large as its name, value and gradient. Seats are laid out like nodes, so nothing can
come to lie on a number. A value that is used more than once goes through a branch, a node of its own. Where
things lie is `layout`'s business, how they look `paint`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chainrule.view.folding import Box, Fold, boxes, opened
from chainrule.view.patterns import absorbed, pattern, sign
from chainrule.view.picture_values import Program, Step, Value

ROUND = 40
"""Diameter of a gate with a short sign."""

CELL = 6
"""Side of a heat map's cell."""

SIZES = {"sign": 15, "leaf": 16, "name": 11, "number": 13, "shape": 11, "badge": 10, "label": 14, "detail": 10, "frame": 12}
"""Sizes of text in pixels, by what it says."""

_FEW = 64
_LONGEST = 18


@dataclass(slots=True, eq=False)
class Node:
    """A gate, a leaf, a branch, a folded box, or the end.

    Attributes
    ----------
    id : str
    kind : {"gate", "leaf", "branch", "box", "out"}
    text, note : str
        What is written on it; below it, or in a box on further lines.
    shape : (float, float)
        What is drawn.
    size : (float, float)
        The room that it takes, symmetric around its middle.
    group : tuple of Box
        The open boxes that it is in.
    plain : bool
        Of a box: it is no layer.
    """

    id: str
    kind: str
    text: str
    note: str
    shape: tuple[float, float]
    size: tuple[float, float]
    group: tuple[Box, ...]
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """Something beside a wire: text in a style, or a small tensor."""

    style: str
    text: str = ""
    cells: Any = None

    @property
    def width(self) -> float:
        return text_width(self.text, SIZES[self.style]) if self.cells is None else self.cells.shape[1] * CELL

    @property
    def height(self) -> float:
        return SIZES[self.style] + 3 if self.cells is None else self.cells.shape[0] * CELL + 3


@dataclass(slots=True, eq=False)
class Wire:
    """A value on its way from a node to a node."""

    id: str
    tail: str
    head: str
    above: tuple[Line, ...]
    below: tuple[Line, ...]
    group: tuple[Box, ...]
    heavy: bool

    @property
    def size(self) -> tuple[float, float]:
        """The seat's, symmetric about the wire."""
        half = max(sum(line.height for line in lines) for lines in (self.above, self.below))
        width = max((line.width for line in (*self.above, *self.below)), default=0)
        return (width + 10, 2 * half + 8) if width else (10, 8)


@dataclass(slots=True, eq=False)
class Diagram:
    """All that is drawn."""

    name: str
    nodes: list[Node] = field(default_factory=list[Node])
    wires: list[Wire] = field(default_factory=list[Wire])
    frames: list[tuple[Box, ...]] = field(default_factory=list[tuple[Box, ...]])


Unit = Step | Box


@dataclass(slots=True, eq=False)
class _Use:
    unit: Unit | None
    shares: list[Any]


class _Drawing:
    """A diagram under construction."""

    def __init__(self, program: Program, fold: Fold, *, values: bool, gradients: bool) -> None:
        self.diagram = Diagram(program.name)
        self._values, self._gradients = values, gradients
        self._ids: dict[Unit, str] = {}
        self._groups: dict[Unit, tuple[Box, ...]] = {}
        self._unit: dict[Step, Unit] = {}
        root = boxes(program)
        self._place(root, opened(root, fold))
        self._ends = set(program.outputs)
        self._uses = self._all_uses(program)
        self._made = {x: self._unit[step] for step in program.steps for x in step.outputs}
        hidden = {x for x in self._uses if self._inside(x)}
        for unit, group in self._groups.items():
            self._add_unit(unit, group, hidden)
        for x in self._uses:
            if x not in hidden:
                self._connect(x)

    def _place(self, root: Box, open_boxes: set[Box]) -> None:
        stack: list[tuple[Unit, tuple[Box, ...]]] = [(root, ())]
        while stack:
            unit, group = stack.pop()
            if isinstance(unit, Step) or unit not in open_boxes:
                self._groups[unit] = group
                for step in unit.steps() if isinstance(unit, Box) else (unit,):
                    self._unit[step] = unit
            else:
                framed = unit is not root and not unit.stretch
                inner = (*group, unit) if framed else group
                if framed:
                    self.diagram.frames.append(inner)
                stack.extend((part, inner) for part in reversed(unit.parts))

    def _all_uses(self, program: Program) -> dict[Value, list[_Use]]:
        uses: dict[Value, list[_Use]] = {}
        of_box: dict[tuple[Value, Box], _Use] = {}
        for step in program.steps:
            unit, numbers = self._unit[step], absorbed(step)
            for slot, x in enumerate(step.inputs):
                if slot in numbers or x.kind == "counter" or (x.kind == "constant" and x.value is None):
                    continue
                if isinstance(unit, Box) and (x, unit) in of_box:
                    of_box[x, unit].shares.append(step.shares[slot])
                    continue
                use = _Use(unit, [step.shares[slot]])
                uses.setdefault(x, []).append(use)
                if isinstance(unit, Box):
                    of_box[x, unit] = use
        for x in dict.fromkeys(program.outputs):
            uses.setdefault(x, []).append(_Use(None, [x.gradient]))
        return uses

    def _inside(self, x: Value) -> bool:
        """Whether nothing of a value shows: all happens in one folded box."""
        units = {use.unit for use in self._uses[x]}
        if x.kind == "computed":
            return units == {self._made[x]} and isinstance(self._made[x], Box)
        return x.kind != "argument" and len(units) == 1 and isinstance(next(iter(units)), Box)

    def _id(self, thing: Unit) -> str:
        return self._ids.setdefault(thing, f"n{len(self._ids)}")

    def _add_unit(self, unit: Unit, group: tuple[Box, ...], hidden: Iterable[Value]) -> None:
        if isinstance(unit, Box):
            steps = list(unit.steps())
            own = {x for step in steps for x in step.inputs if x.kind == "outside" and x in hidden}
            count = sum(int(np.prod(x.shape)) for x in own)
            text = unit.label
            notes = [unit.kind, f"{count:,} parameters" if count else "" if unit.stretch else f"{len(steps):,} gates"]
            notes = [note for note in notes if note]
            wide = max(text_width(text, SIZES["label"]), *(text_width(note, SIZES["detail"]) for note in notes), 0) + 28
            shape, note = (wide, 38.0 + (SIZES["detail"] + 4) * len(notes)), "\n".join(notes)
            self.diagram.nodes.append(Node(self._id(unit), "box", text, note, shape, shape, group, plain=unit.stretch))
            return
        text, note = sign(unit), pattern(unit)
        wide = text_width(text, SIZES["sign"])
        shape = (float(ROUND), float(ROUND)) if wide <= ROUND - 8 else (wide + 22, ROUND - 6.0)
        size = (max(shape[0], text_width(note, SIZES["badge"]) + 8), shape[1] + 2 * (SIZES["badge"] + 4)) if note else shape
        self.diagram.nodes.append(Node(self._id(unit), "gate", text, note, shape, size, group))

    def _connect(self, x: Value) -> None:
        """Draw a value: its leaf if it is one, a branch if it is used more than once, and the wires."""
        made = self._made.get(x)
        uses = [use for use in self._uses[x] if use.unit is None or use.unit is not made or isinstance(made, Step)]
        groups = [() if use.unit is None else self._groups[use.unit] for use in uses]
        if made is None:
            # A parameter stands in the frame that uses it.
            group = () if x.kind == "argument" else _common(groups)
            tail = "" if x.kind == "constant" else self._leaf(x, group)
        else:
            tail, group = self._id(made), self._groups[made]
        # Data run in a line, parameters and numbers join it.
        heavy = x.kind == "computed" or (x.kind == "argument" and x.shape != ())
        # A number is written wherever it is used, and only where gradients meet do they add.
        branching = len(uses) > 1 and x.kind != "constant"
        if branching:
            note = "adds" if x.gradient is not None or x.value is None else ""
            size = (text_width(note, SIZES["badge"]) + 4, 10 + 2.0 * (SIZES["badge"] + 4)) if note else (10.0, 10.0)
            branch = f"b{len(self.diagram.wires)}"
            self.diagram.nodes.append(Node(branch, "branch", "", note, (10.0, 10.0), size, group))
            self._wire(tail, branch, self._above(x), self._below(x.gradient), group, heavy=heavy)
            tail = branch
        for use, inner in zip(uses, groups, strict=True):
            if x.kind == "constant":
                tail, group = self._leaf(x, inner), inner
            head = self._out(x) if use.unit is None else self._id(use.unit)
            above = () if branching else self._above(x)
            self._wire(tail, head, above, self._below(_total(use.shares)), _common([group, inner]), heavy=heavy)

    def _wire(self, tail: str, head: str, above: tuple[Line, ...], below: tuple[Line, ...], group: tuple[Box, ...], *, heavy: bool) -> None:
        self.diagram.wires.append(Wire(f"s{len(self.diagram.wires)}", tail, head, above, below, group, heavy))

    def _leaf(self, x: Value, group: tuple[Box, ...]) -> str:
        known = x.kind == "constant" and x.shape == () and x.value is not None
        text = number(np.asarray(x.value).item()) if known else shortened(_inside_frame(x.name, group)) or "·"
        size = (text_width(text, SIZES["leaf"]) + 8, SIZES["leaf"] + 12.0)
        name = f"l{len(self.diagram.nodes)}"
        self.diagram.nodes.append(Node(name, "leaf", text, "", size, size, group))
        return name

    def _out(self, x: Value) -> str:
        name = f"o{len(self.diagram.nodes)}"
        text = shortened(x.name) or shortened(self.diagram.name.strip("<>")) or "loss"
        size = (text_width(text, SIZES["leaf"]) + 8, SIZES["leaf"] + 12.0)
        self.diagram.nodes.append(Node(name, "out", text, "", size, size, ()))
        return name

    def _above(self, x: Value) -> tuple[Line, ...]:
        named = (Line("name", shortened(x.name)),) if x.name and x.kind == "computed" and x not in self._ends else ()
        if x.kind == "constant" and x.shape == ():
            return ()
        if x.value is None or not self._values:
            return (*named, Line("shape", _shape(x.shape)))
        return (*named, _shown(x.value, "value"))

    def _below(self, gradient: Any) -> tuple[Line, ...]:
        if gradient is None or not self._gradients:
            return ()
        return (_shown(gradient, "gradient"),)


def diagram(program: Program, fold: Fold = "auto", *, values: bool = True, gradients: bool = True) -> Diagram:
    """What is drawn of a program."""
    return _Drawing(program, fold, values=values, gradients=gradients).diagram


def table(drawn: Diagram) -> str:
    """The wires of a diagram as text, a line each."""
    labels = {node.id: node.text or "•" for node in drawn.nodes}
    notes = {node.id: node.note for node in drawn.nodes if node.kind != "box"}
    rows = [("from", "to", "name", "value", "gradient", "the gate there")]
    for wire in drawn.wires:
        name = " ".join(line.text for line in wire.above if line.style == "name")
        above, below = (" ".join(_told(line) for line in lines if line.style != "name") for lines in (wire.above, wire.below))
        rows.append((labels[wire.tail], labels[wire.head], name, above, below, notes.get(wire.head, "")))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    kept = [i for i in range(len(widths)) if any(row[i] for row in rows[1:])]
    return "\n".join("  ".join(row[i].rjust(widths[i]) if 2 < i < 5 else row[i].ljust(widths[i]) for i in kept).rstrip() for row in rows)


def _told(line: Line) -> str:
    return line.text if line.cells is None else _shape(line.cells.shape).removeprefix("1×")


def _inside_frame(name: str, group: tuple[Box, ...]) -> str:
    """A parameter's name without that of the layer that it stands in."""
    path = ".".join(group[-1].path) + "." if group else ""
    return name.removeprefix(path).removeprefix(path.replace(".", "_"))


def _common(groups: Sequence[tuple[Box, ...]]) -> tuple[Box, ...]:
    found: list[Box] = []
    for level in zip(*groups, strict=False):
        if any(box is not level[0] for box in level):
            break
        found.append(level[0])
    return tuple(found)


def _total(shares: Sequence[Any]) -> Any:
    """What several uses inside one box send back together."""
    known = [share for share in shares if share is not None]
    return None if not known else sum(known[1:], known[0])


def _shown(value: Any, role: str) -> Line:
    """A number, a tensor small enough to be seen whole, or what can be said of a large one in a word."""
    array = np.asarray(value)
    if array.ndim == 0:
        return Line("number", number(array.item()))
    if array.size == 1:
        return Line("number", f"[{number(array.item())}]")
    grid = array.reshape(1, -1) if array.ndim == 1 else array
    if grid.ndim == 2 and 0 < grid.size <= _FEW and max(grid.shape) <= 16 and array.dtype.kind in "fiub":
        return Line("number", "", grid.astype(np.float64))
    if role == "value":
        return Line("shape", _shape(array.shape))
    return Line("shape", f"norm {number(float(np.sqrt(np.sum(np.square(array, dtype=np.float64)))))}")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "×".join(map(str, shape)) if shape else ""


def number(x: Any) -> str:
    """Two decimals, as on the board; an exact zero is written 0, so that 0.00 never hides a small number."""
    if isinstance(x, (bool, int, complex, str)):
        return str(x).replace("-", "−")
    if x == 0:
        return "0"
    size = abs(x)
    text = f"{x:.2f}" if 0.005 <= size < 10_000 else f"{x:.4f}" if 0.0001 <= size < 0.005 else f"{x:.1e}" if np.isfinite(x) else str(x)
    return text.replace("e-0", "e-").replace("-", "−").replace("inf", "∞").replace("nan", "NaN")


def shortened(name: str) -> str:
    """A long name without its middle."""
    if len(name) <= _LONGEST:
        return name
    side = _LONGEST // 2 - 1
    return f"{name[:side]}…{name[-side:]}"


_WIDTHS = {
    letter: width
    for letters, width in (
        ("'", 0.30), (" ,./:;\\ijl|·", 0.35), ("()-I[]f", 0.40), ("!Jt⁰¹²³", 0.45), ('"*_`r', 0.50), ("?sz", 0.55), ("cvxy", 0.60),
        ("FLPSTYZ", 0.70), ("ABEKVX", 0.75), ("CGR", 0.80), ("#+<=>DOQU^~−×∞", 0.85), ("&HNw", 0.90), ("%@m…", 1.0), ("MW", 1.05),
    )
    for letter in letters
}  # fmt: skip
_USUAL = 0.65


def text_width(text: str, size: float) -> float:
    """A width that no common font exceeds: the larger of DejaVu Sans and DejaVu Serif Italic, which are the widest, letter by letter."""
    return sum(_WIDTHS.get(letter, _USUAL) for letter in text) * size
