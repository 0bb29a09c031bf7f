"""Where everything on an explorer page stands: gates, and a seat on each wire for its name, value and gradient.

Graphviz places a seat like a gate, so nothing can come to lie on a number. A page has one layout for each set of folded
layers that it can show: all sets where there are few layers, else one layer unfolded at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from chainrule.view.layout import Placed, place

CELL = 5
"""Pixels per element in a wire's small heat map."""
MOST = 16
"""A small heat map has at most so many rows and columns."""
ROUND = 44
"""Diameter of a gate with a short sign."""
FEW = 3
"""Of so many layers every combination is laid out."""
UNFOLDED = 160
"""A page of more gates opens folded, and is never laid out whole."""

_HEAD = (
    'digraph {rankdir=LR;nodesep=0.16;ranksep=0.15;splines=true;ordering=in;margin=0;node[shape=box,fixedsize=true,label=""];edge[arrowhead=none];'
)

Data = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Spot:
    """What has to be placed: its size in pixels, and the layer's box that it belongs to."""

    width: float
    height: float
    group: str | None


@dataclass(frozen=True, slots=True)
class Edge:
    """A curve between two spots, of which one is a seat."""

    tail: str
    head: str
    ports: str
    weight: int
    length: int = 1


def layouts(data: Data) -> dict[str, Data]:
    """Per set of folded layers, by its names joined with spaces: a layout in pixels."""
    names = [group["id"] for group in data["groups"]]
    return {" ".join(sorted(folded)): layout(data, set(folded)) for folded in _fold_states(names, len(data["nodes"]))}


def _fold_states(names: Sequence[str], count: int) -> Iterable[tuple[str, ...]]:
    if len(names) <= FEW and count <= UNFOLDED:
        return [folded for size in range(len(names) + 1) for folded in combinations(names, size)]
    whole = [()] if count <= UNFOLDED or not names else []
    return [*whole, tuple(names), *(tuple(name for name in names if name != one) for one in names if len(names) > 1)]


def seat_size(name: str, shape: Sequence[int]) -> tuple[float, float]:
    """A wire's seat: name and value above the line, gradient below; symmetric about the line."""
    if not shape:
        return max(58.0, 6.8 * len(name) + 8), 66
    rows = min(MOST, shape[-2]) if len(shape) > 1 else 1
    label = f"{name} {'x'.join(map(str, shape))}"
    return max(50.0, min(MOST, shape[-1]) * CELL + 10, 6.8 * len(label) + 8), 2 * (max(rows, 1) * CELL + 24)


def node_size(node: Data, gates: Data, label: str) -> tuple[float, float]:
    """Of a leaf, a branch or a gate."""
    if node["kind"] in ("leaf", "out"):
        return max(34.0, 9.6 * len(label) + 8), 30
    if node["kind"] == "copy":
        return 14, 14
    glyph = gates[node["id"]]["glyph"]
    return (ROUND, ROUND) if len(glyph) <= 3 else (18 + 8.6 * len(glyph), 38)


def layout(data: Data, folded: set[str]) -> Data:
    """Place everything from left to right, with these layers folded."""
    group_of = {node["id"]: node["group"] for node in data["nodes"]}
    at = {name: f"box:{group}" if group in folded else name for name, group in group_of.items()}
    spots: dict[str, Spot] = {}
    for node in data["nodes"]:
        if node["group"] in folded:
            group = next(g for g in data["groups"] if g["id"] == node["group"])
            width = max(156.0, 8.4 * len(group["label"]) + 34, 6.6 * len(group["detail"]) + 20)
            spots.setdefault(at[node["id"]], Spot(width, 62, None))
        else:
            spots[node["id"]] = Spot(*node_size(node, data["gates"], data["vars"][node["var"]]["label"]), node["group"])
    edges: list[Edge] = []
    kept: list[Data] = []
    for wire in data["wires"]:
        tail, head = at[wire["from"]], at[wire["to"]]
        if tail == head:
            continue
        kept.append(wire)
        seat, variable = f"seat:{wire['id']}", data["vars"][wire["var"]]
        same = group_of[wire["from"]] == group_of[wire["to"]]
        inside = group_of[wire["from"]] if same else None
        spots[seat] = Spot(*seat_size(variable["label"], variable["shape"]), inside)
        # Data flow in a straight line, parameters join them.
        weight = 1 if variable["kind"] in ("parameter", "input") else 20
        entering = not same and group_of[wire["to"]] is not None and group_of[wire["to"]] not in folded
        inner = entering and any(w["to"] == wire["to"] and group_of[w["from"]] == group_of[w["to"]] for w in data["wires"])
        edges.append(Edge(tail, seat, ",headport=w", weight))
        edges.append(Edge(seat, head, ",tailport=e", weight, 3 if inner else 1))
    groups = [group["id"] for group in data["groups"] if group["id"] not in folded]
    numbers = {name: f"n{i}" for i, name in enumerate(spots)}
    return _told(place(_dot(spots, edges, groups, numbers)), spots, numbers, at, kept, groups)


def _dot(spots: Mapping[str, Spot], edges: Sequence[Edge], groups: Sequence[str], numbers: Mapping[str, str]) -> str:
    text = [_HEAD]
    for name, spot in spots.items():
        shape = ",shape=circle" if spot.width == spot.height else ""
        text.append(f"{numbers[name]}[width={spot.width / 72:.4f},height={spot.height / 72:.4f}{shape}];")
    text += [f"{numbers[e.tail]}->{numbers[e.head]}[weight={e.weight},minlen={e.length}{e.ports}];" for e in edges]
    for i, group in enumerate(groups):
        members = ";".join(numbers[name] for name, spot in spots.items() if spot.group == group)
        text.append(f'subgraph cluster_{i}{{margin=12;label=" ";labeljust=l;fontsize=13;{members}}}')
    return "".join([*text, "}"])


def _told(
    placed: Placed, spots: Mapping[str, Spot], numbers: Mapping[str, str], at: Mapping[str, str], wires: Sequence[Data], groups: Sequence[str]
) -> Data:
    out: Data = {"size": list(placed.size), "nodes": {}, "wires": {}, "groups": {}}
    for name, spot in spots.items():
        if not name.startswith("seat:"):
            out["nodes"][name] = [*placed.nodes[numbers[name]], spot.width, spot.height]
    for wire in wires:
        seat = f"seat:{wire['id']}"
        (x, y), spot = placed.nodes[numbers[seat]], spots[seat]
        first = placed.curves[numbers[at[wire["from"]]], numbers[seat]]
        second = placed.curves[numbers[seat], numbers[at[wire["to"]]]]
        path = f"{_curve('M', first)}L{x - spot.width / 2:g},{y:g}L{x + spot.width / 2:g},{y:g}{_curve('L', second)}"
        out["wires"][wire["id"]] = {"path": path, "seat": [x, y, spot.width, spot.height]}
    out["groups"] = {group: list(placed.frames[f"cluster_{i}"]) for i, group in enumerate(groups)}
    return out


def _curve(start: str, points: Sequence[tuple[float, float]]) -> str:
    return f"{start}{points[0][0]:g},{points[0][1]:g}C" + " ".join(f"{x:g},{y:g}" for x, y in points[1:])
