"""Where everything on an explorer page stands: gates, and a seat on each wire for its name, value and gradient.

Graphviz places a seat like a gate, so nothing can come to lie on a number. Every box is laid out by itself, once, with the boxes in it
folded and an end at its border for each wire that crosses it; the page puts them together for whatever is unfolded. Many wires between
the same two places are one to Graphviz, whose time grows with the square of their number: their seats stand in one column.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from chainrule.view.layout import Placed, place

CELL = 5
"""Pixels per element in a wire's small heat map."""
MOST = 16
"""A small heat map has at most so many rows and columns."""
ROUND = 44
"""Diameter of a gate with a short sign."""
UNFOLDED = 160
"""A page of more gates opens folded; a box of more gates is cut into boxes."""

TOGETHER = 6
"""Of more wires between the same two places the seats stand in one column."""
FAN = 60
"""Pixels on both sides of a column, in which its wires run apart."""
HURRIED = 100
"""For rooms with more spots Graphviz may only improve so often as there are spots: to the best it can take minutes, for a few pixels less."""

_HEAD = (
    'digraph {rankdir=LR;nodesep=0.16;ranksep=0.15;splines=true;ordering=in;margin=0;node[shape=box,fixedsize=true,label=""];edge[arrowhead=none];'
)

Data = dict[str, Any]
Path = tuple[str, ...]
"""The boxes that something stands in, the outermost first."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A curve between two spots."""

    tail: str
    head: str
    weight: int = 1
    ports: str = ""


@dataclass
class Room:
    """What stands directly in a box: sizes of spots in pixels, curves, and the wires that run in it or end at its border.

    A column is the spot of one or more wires' seats, from top to bottom.
    """

    spots: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    edges: list[Edge] = field(default_factory=list[Edge])
    wires: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    seats: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    columns: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    entries: dict[str, str] = field(default_factory=dict[str, str])
    exits: dict[str, str] = field(default_factory=dict[str, str])


def layouts(data: Data) -> dict[str, Data]:
    """Per box, and for the whole under "", its layout in pixels."""
    groups = {group["id"]: group for group in data["groups"]}
    paths = {node["id"]: _path(groups, node["group"]) for node in data["nodes"]}
    rooms = {name: Room() for name in ("", *groups)}
    for node in data["nodes"]:
        size = node_size(node, data["gates"], data["vars"][node["var"]]["label"])
        rooms[node["group"] or ""].spots[node["id"]] = size
    for name, group in groups.items():
        size = max(156.0, 8.4 * len(group["label"]) + 34, 6.6 * len(group["detail"]) + 20), 62
        rooms[group["parent"] or ""].spots[f"box:{name}"] = size
    count = Counter(_ends(paths, wire) for wire in data["wires"])
    for wire in data["wires"]:
        _run(rooms, paths, wire, data["vars"][wire["var"]], together=count[_ends(paths, wire)] > TOGETHER)
    return {name: _laid(room) for name, room in rooms.items()}


def _path(groups: Mapping[str, Data], name: str | None) -> Path:
    found: list[str] = []
    while name is not None:
        found.append(name)
        name = groups[name]["parent"]
    return tuple(found[::-1])


def _stands(path: Path, end: str, depth: int) -> str:
    """Where a node is seen from a box of that depth around it: itself, or a box that it is in."""
    return end if len(path) == depth else f"box:{path[depth]}"


def _ends(paths: Mapping[str, Path], wire: Data) -> tuple[Path, str, str]:
    """The innermost box that holds both ends of a wire, and where they stand in it."""
    tail, head = wire["from"], wire["to"]
    shared = tuple(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(paths[tail], paths[head], strict=False)))
    return shared, _stands(paths[tail], tail, len(shared)), _stands(paths[head], head, len(shared))


def _run(rooms: Mapping[str, Room], paths: Mapping[str, Path], wire: Data, variable: Data, *, together: bool) -> None:
    """A wire has its seat in the innermost box that holds both of its ends, and a piece in every box between that and an end."""
    name, tail, head = wire["id"], wire["from"], wire["to"]
    around, start, stop = _ends(paths, wire)
    shared, room = len(around), rooms[around[-1] if around else ""]
    column = f"seats:{start} {stop}" if together else f"seat:{name}"
    room.wires[name] = start, stop
    room.columns.setdefault(column, []).append(name)
    room.seats[name] = width, height = seat_size(variable["label"], variable["shape"])
    widest, tall = room.spots.get(column, (0, 0))
    room.spots[column] = max(widest, width + 2 * FAN * together), tall + height
    # Data flow in a straight line, parameters join them.
    weight = 1 if variable["kind"] in ("parameter", "input") else 20
    if room.columns[column] == [name]:
        room.edges.append(Edge(start, column, weight, ",headport=w" + ",tailport=e" * start.startswith("box:")))
        room.edges.append(Edge(column, stop, weight, ",tailport=e" + ",headport=w" * stop.startswith("box:")))
    for depth in range(shared, len(paths[tail])):
        own, end, door = rooms[paths[tail][depth]], _stands(paths[tail], tail, depth + 1), f"exit:{name}"
        own.exits[name], own.spots[door] = end, (1, 12)
        own.edges.append(Edge(end, door, weight, ",headport=w" + ",tailport=e" * end.startswith("box:")))
    for depth in range(shared, len(paths[head])):
        own, end, door = rooms[paths[head][depth]], _stands(paths[head], head, depth + 1), f"entry:{name}"
        own.entries[name], own.spots[door] = end, (1, 12)
        own.edges.append(Edge(door, end, weight, ",tailport=e" + ",headport=w" * end.startswith("box:")))


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


def _laid(room: Room) -> Data:
    numbers = {name: f"n{i}" for i, name in enumerate(room.spots)}
    return _told(place(_dot(room, numbers)), room, numbers)


def _dot(room: Room, numbers: Mapping[str, str]) -> str:
    text = [_HEAD, "nslimit=1;" * (len(room.spots) > HURRIED)]
    for name, (width, height) in room.spots.items():
        shape = ",shape=circle" if width == height else ""
        text.append(f"{numbers[name]}[width={width / 72:.4f},height={height / 72:.4f}{shape}];")
    text += [f"{numbers[e.tail]}->{numbers[e.head]}[weight={e.weight}{e.ports}];" for e in room.edges]
    for side, doors in (("source", room.entries), ("sink", room.exits)):
        names = [numbers[f"{'entry' if side == 'source' else 'exit'}:{name}"] for name in doors]
        text += [f"{{rank={side};{';'.join(names)}}}"] * bool(names)
    return "".join([*text, "}"])


def _told(placed: Placed, room: Room, numbers: Mapping[str, str]) -> Data:
    def curve(tail: str, head: str) -> list[int]:
        return [round(x) for point in placed.curves[numbers[tail], numbers[head]] for x in point]

    out: Data = {"size": [round(x) for x in placed.size], "nodes": {}, "wires": {}, "entries": {}, "exits": {}}
    for name, (width, height) in room.spots.items():
        if not name.startswith(("seat:", "seats:", "entry:", "exit:")):
            out["nodes"][name] = [*(round(x) for x in placed.nodes[numbers[name]]), round(width), round(height)]
    for column, names in room.columns.items():
        x, y = placed.nodes[numbers[column]]
        half, tall = room.spots[column][0] / 2, room.spots[column][1]
        top = y - tall / 2
        for name in names:
            (width, height), (start, stop) = room.seats[name], room.wires[name]
            at, top = top + height / 2, top + height
            before, after = curve(start, column), curve(column, stop)
            if len(names) > 1:
                before = [*before, *_level(x - half, y, x - width / 2, at)]
                after = [*(round(z) for z in (x + width / 2, at)), *_level(x + width / 2, at, *after[:2]), *after[2:]]
            out["wires"][name] = [[round(z) for z in (x, at, width, height)], before, after]
    out["entries"] = {name: curve(f"entry:{name}", end) for name, end in room.entries.items()}
    out["exits"] = {name: curve(end, f"exit:{name}") for name, end in room.exits.items()}
    return out


def _level(x: float, y: float, x2: float, y2: float) -> list[int]:
    """A curve that leaves and arrives level, without its first point."""
    return [round(z) for z in ((x + x2) / 2, y, (x + x2) / 2, y2, x2, y2)]
