"""A diagram that has been laid out, as shapes and texts, and these as SVG or as pixels.

Both say the same, shape by shape: pixels are what Graphviz's own renderer makes of the list that becomes SVG.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import atan2, cos, hypot, radians, sin
from typing import Any

import numpy as np

from chainrule.view.diagram import CELL, SIZES, Diagram, Line, Node, Wire, text_width
from chainrule.view.layout import Placed, Point
from chainrule.view.palettes import MATHS, PLAIN, Palette
from chainrule.view.rows import around, wrapped
from chainrule.view.shapes import Area, Curve, Item, Text, moved

MARGIN = 18
WIDTH = 1500
"""A longer picture is set in rows."""

GAP = 4
"""Between a wire and what is written beside it."""


@dataclass(frozen=True, slots=True)
class Scene:
    """All that is painted, in order."""

    width: float
    height: float
    items: tuple[Item, ...]
    title: str


def scene(diagram: Diagram, placed: Placed, palette: Palette) -> Scene:
    """What to paint where."""
    nodes = {node.id: node for node in diagram.nodes}
    arrivals = _arrivals(diagram, placed, nodes)
    items: list[Item] = []
    for place, group in enumerate(diagram.frames):
        left, top, wide, high = placed.frames[f"cluster_{place}"]
        items.append(Area(left + wide / 2, top + high / 2, wide - 6, high - 6, 10, palette.wash, palette.line))
        items.append(Text(left + wide / 2, top + 16, group[-1].title, SIZES["frame"], palette.soft, bold=True))
    for wire in diagram.wires:
        # Straight from the tail, its first bends, and straight to and through the seat; there it can be cut.
        joint = len(placed.curves[wire.tail, wire.id]) + 8
        items.append(Curve(tuple(_path(wire, placed, nodes, arrivals)), palette.wire, joint))
    for node in diagram.nodes:
        items += _node(node, placed.nodes[node.id], palette)
    for wire in diagram.wires:
        items += _seat(wire, placed.nodes[wire.id], palette)
    items = wrapped(items, WIDTH)
    left, top, right, bottom = around(items)
    shifted = tuple(moved(item, MARGIN - left, MARGIN - top) for item in items)
    return Scene(round(right - left + 2 * MARGIN, 1), round(bottom - top + 2 * MARGIN, 1), shifted, diagram.name)


def _arrivals(diagram: Diagram, placed: Placed, nodes: dict[str, Node]) -> dict[str, tuple[Point, Point]]:
    """Per wire where it meets the drawn outline of its gate, and the direction from there: fanned out on the left side."""
    entering: dict[str, list[Wire]] = {}
    for wire in diagram.wires:
        entering.setdefault(wire.head, []).append(wire)
    found: dict[str, tuple[Point, Point]] = {}
    for head, wires in entering.items():
        node, (x, y) = nodes[head], placed.nodes[head]
        wide, high = node.shape
        # Where the last bend of each begins.
        bends = {wire.id: placed.curves[wire.id, head][-4] for wire in wires}
        ordered = sorted(wires, key=lambda wire: (bends[wire.id][1], placed.nodes[wire.id][1]))
        if node.kind == "gate" and wide == high:
            slopes = [atan2(bends[wire.id][1] - y, max(x - bends[wire.id][0], 1.0)) for wire in ordered]
            for wire, angle in zip(ordered, _apart(slopes), strict=True):
                found[wire.id] = ((x - cos(angle) * wide / 2, y + sin(angle) * high / 2), (-cos(angle), sin(angle)))
            continue
        for place, wire in enumerate(ordered):
            offset = place - (len(ordered) - 1) / 2
            step = min(10.0, (high - 14) / len(ordered)) if node.kind in ("gate", "box") else 0.0
            found[wire.id] = ((x - wide / 2, y + offset * step), (-1.0, 0.0))
    return found


def _apart(slopes: Sequence[float]) -> list[float]:
    """Angles near these, rising, on the left side of a circle and far enough from each other; below is written what the gate does."""
    least, most = radians(-48), radians(28)
    gap = min(radians(32), (most - least) / max(len(slopes) - 1, 1))
    found: list[float] = []
    for slope in slopes:
        wanted = max(least, min(most, slope))
        found.append(max(wanted, found[-1] + gap) if found else wanted)
    # What was pushed down past the end goes up again.
    for place in range(len(found) - 1, -1, -1):
        found[place] = min(found[place], most - gap * (len(found) - 1 - place))
    return found


def _path(wire: Wire, placed: Placed, nodes: dict[str, Node], arrivals: dict[str, tuple[Point, Point]]) -> Iterator[Point]:
    tail, (x, y) = nodes[wire.tail], placed.nodes[wire.tail]
    first, second = placed.curves[wire.tail, wire.id], placed.curves[wire.id, wire.head]
    (seat_x, seat_y), half = placed.nodes[wire.id], wire.size[0] / 2
    start = (x + tail.shape[0] / 2, y)
    yield start
    yield from _straight(start, first[0])
    yield from first[1:]
    yield from _straight(first[-1], (seat_x - half, seat_y))
    yield from _straight((seat_x - half, seat_y), (seat_x + half, seat_y))
    yield from _straight((seat_x + half, seat_y), second[0])
    yield from second[1:-2]
    end, (dx, dy) = arrivals[wire.id]
    reach = min(22.0, hypot(end[0] - second[-4][0], end[1] - second[-4][1]) / 2)
    # Left of what is written below the gate.
    edge = placed.nodes[wire.head][0] - nodes[wire.head].size[0] / 2
    yield min(end[0] + dx * reach, edge), end[1] + dy * reach * 0.6
    yield end


def _straight(start: Point, end: Point) -> tuple[Point, Point, Point]:
    return start, end, end


def _node(node: Node, at: Point, palette: Palette) -> Iterator[Item]:
    x, y = at
    wide, high = node.shape
    if node.kind == "branch":
        yield Area(x, y, wide, high, wide / 2, palette.soft)
    elif node.kind == "box":
        yield Area(x, y, wide, high, 9, palette.box, palette.soft, dashed=node.plain)
        notes = node.note.splitlines()
        step = SIZES["detail"] + 4
        top = y - step * len(notes) / 2
        yield Text(x, top, node.text, SIZES["label"], palette.ink, bold=not node.plain)
        for place, note in enumerate(notes):
            yield Text(x, top + 5 + step * (place + 1), note, SIZES["detail"], palette.soft)
        return
    elif node.kind == "gate":
        yield Area(x, y, wide, high, high / 2, palette.box, palette.ink)
        yield Text(x, y, node.text, SIZES["sign"], palette.ink)
    else:
        yield Text(x, y, node.text, SIZES["leaf"], palette.ink, italic=True)
    if node.note:
        yield Text(x, y + high / 2 + 4 + SIZES["badge"] / 2, node.note, SIZES["badge"], palette.soft)


def _seat(wire: Wire, at: Point, palette: Palette) -> Iterator[Item]:
    x, y = at
    edge = y - GAP
    for line in reversed(wire.above):
        yield from _line(line, x, edge - line.height / 2, palette.value, palette)
        edge -= line.height
    edge = y + GAP
    for line in wire.below:
        yield from _line(line, x, edge + line.height / 2, palette.gradient, palette)
        edge += line.height


def _line(line: Line, x: float, y: float, color: str, palette: Palette) -> Iterator[Item]:
    if line.cells is not None:
        yield from _cells(line.cells, x, y, color, palette)
    elif line.style == "name":
        yield Text(x, y, line.text, SIZES["name"], palette.soft, italic=True)
    else:
        yield Text(x, y, line.text, SIZES[line.style], color)


def _cells(cells: Any, x: float, y: float, color: str, palette: Palette) -> Iterator[Item]:
    """A small tensor, from paper for 0 to full colour for its largest magnitude."""
    rows, columns = cells.shape
    finite = np.abs(cells[np.isfinite(cells)])
    most = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    left, top = x - columns * CELL / 2, y - rows * CELL / 2
    yield Area(x, y, columns * CELL + 1, rows * CELL + 1, 0, palette.box, palette.line)
    for (row, column), cell in np.ndenumerate(cells):
        full = color if cell > 0 else palette.negative
        share = min(abs(float(cell)) / most, 1.0) if np.isfinite(cell) else 1.0
        fill = _mixed(palette.box, palette.ink if not np.isfinite(cell) else full, share)
        if share > 0:
            yield Area(left + (column + 0.5) * CELL, top + (row + 0.5) * CELL, CELL - 0.6, CELL - 0.6, 0, fill)


def _mixed(paper: str, color: str, share: float) -> str:
    pairs = ((int(paper[i : i + 2], 16), int(color[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def svg(picture: Scene, palette: Palette) -> str:
    """The scene as SVG, with nothing taken from elsewhere."""
    wide, high = f"{picture.width:g}", f"{picture.height:g}"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" viewBox="0 0 {wide} {high}" role="img" font-family="{PLAIN[1]}">',
        f"<title>{escape(picture.title)}</title>",
        f'<rect width="{wide}" height="{high}" fill="{palette.paper}"/>',
    ]
    lines += [_svg_item(item) for item in picture.items]
    return "\n".join([*lines, "</svg>", ""])


def _svg_item(item: Item) -> str:
    if isinstance(item, Curve):
        return f'<path d="{_d(item.points)}" fill="none" stroke="{item.color}" stroke-width="1.3"/>'
    if isinstance(item, Area):
        stroke = f' stroke="{item.stroke}"' * bool(item.stroke) + ' stroke-dasharray="5 4"' * item.dashed
        if item.width == item.height == 2 * item.radius:
            return f'<circle cx="{item.x:g}" cy="{item.y:g}" r="{item.radius:g}" fill="{item.fill}"{stroke}/>'
        corner = f' rx="{item.radius:g}"' * bool(item.radius)
        left, top = round(item.x - item.width / 2, 2), round(item.y - item.height / 2, 2)
        return f'<rect x="{left:g}" y="{top:g}" width="{item.width:g}" height="{item.height:g}"{corner} fill="{item.fill}"{stroke}/>'
    style = f' font-family="{MATHS[1]}" font-style="italic"' * item.italic + ' font-weight="600"' * item.bold
    # The middle of digits and small letters lies about a third of the size above the baseline.
    base = round(item.y + 0.35 * item.size, 1)
    return f'<text x="{item.x:g}" y="{base:g}" font-size="{item.size}" text-anchor="middle" fill="{item.color}"{style}>{escape(item.text)}</text>'


def _d(points: Sequence[Point]) -> str:
    (x, y), rest = points[0], points[1:]
    parts = [f"M{x:g},{y:g}"]
    here = points[0]
    for one, two, three in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        if one == here and two == three:
            parts.append(f"L{three[0]:g},{three[1]:g}" * (three != here))
        else:
            parts.append(f"C{one[0]:g},{one[1]:g} {two[0]:g},{two[1]:g} {three[0]:g},{three[1]:g}")
        here = three
    return "".join(parts)


def pinned(picture: Scene, palette: Palette) -> str:
    """The scene as DOT in which every shape and text is a node with its place: what Graphviz turns into pixels."""
    lines = [
        "digraph picture {",
        f'  bgcolor="{palette.paper}"; dpi=144; outputorder=nodesfirst; margin=0; pad=0;',
        '  node [fixedsize=true, label="", margin=0, penwidth=1];',
        "  edge [arrowhead=none, penwidth=1.3];",
        f'  paper [shape=box, style=invis, {_size(picture.width, picture.height)}, pos="{picture.width / 2:g},{picture.height / 2:g}"];',
        '  a [style=invis, width=0.01, height=0.01, pos="1,1"];',
        '  b [style=invis, width=0.01, height=0.01, pos="2,2"];',
    ]
    lines += [f"  {line}" for line in _pinned_items(picture.items, picture.height)]
    return "\n".join([*lines, "}", ""])


def _pinned_items(items: Iterable[Item], height: float) -> Iterator[str]:
    for place, item in enumerate(items):
        if isinstance(item, Curve):
            way = " ".join(f"{x:g},{height - y:g}" for x, y in item.points)
            yield f'a -> b [pos="{way}", color="{item.color}"];'
            continue
        at = f'pos="{item.x:g},{height - item.y:g}"'
        if isinstance(item, Text):
            face = MATHS[0] if item.italic else f"{PLAIN[0]}-Bold" if item.bold else PLAIN[0]
            label = item.text.replace("\\", "\\\\").replace('"', '\\"')
            room = _size(1.5 * text_width(item.text, item.size), 2 * item.size)
            font = f'fontname="{face}", fontsize={item.size}, fontcolor="{item.color}"'
            yield f'i{place} [{at}, shape=none, {room}, label="{label}", {font}];'
            continue
        styles = ",".join(["filled", *["rounded"] * (item.radius > 0), *["dashed"] * item.dashed])
        shape = "ellipse" if item.width == item.height == 2 * item.radius else "box"
        size = _size(item.width, item.height)
        styles = "filled" if shape == "ellipse" else styles
        yield f'i{place} [{at}, shape={shape}, {size}, style="{styles}", fillcolor="{item.fill}", color="{item.stroke or item.fill}"];'


def _size(width: float, height: float) -> str:
    return f"width={width / 72:.4f}, height={height / 72:.4f}"
