"""Where everything on an explorer page stands: gates, and a seat on each wire for its name, value and gradient.

Graphviz places a seat like a gate, so nothing can come to lie on a number. Every box is laid out by itself, once, with the boxes in it
folded and an end at its border for each wire that crosses it; the page puts them together for whatever is unfolded.
"""

from __future__ import annotations

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
    """What stands directly in a box: sizes of spots in pixels, curves, and the wires that run in it or end at its border."""

    spots: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    edges: list[Edge] = field(default_factory=list[Edge])
    wires: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
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
    for wire in data["wires"]:
        _run(rooms, paths, wire, data["vars"][wire["var"]])
    return {name: _laid(room) for name, room in rooms.items()}


def _path(groups: Mapping[str, Data], name: str | None) -> Path:
    found: list[str] = []
    while name is not None:
        found.append(name)
        name = groups[name]["parent"]
    return tuple(found[::-1])


def _run(rooms: Mapping[str, Room], paths: Mapping[str, Path], wire: Data, variable: Data) -> None:
    """A wire has its seat in the innermost box that holds both of its ends, and a piece in every box between that and an end."""
    name, tail, head = wire["id"], wire["from"], wire["to"]
    shared = len([*takewhile(lambda pair: pair[0] == pair[1], zip(paths[tail], paths[head], strict=False))])

    def stands(end: str, depth: int) -> str:
        return end if len(paths[end]) == depth else f"box:{paths[end][depth]}"

    start, stop, seat = stands(tail, shared), stands(head, shared), f"seat:{name}"
    room = rooms[paths[tail][shared - 1] if shared else ""]
    room.spots[seat] = seat_size(variable["label"], variable["shape"])
    room.wires[name] = start, stop
    # Data flow in a straight line, parameters join them.
    weight = 1 if variable["kind"] in ("parameter", "input") else 20
    room.edges.append(Edge(start, seat, weight, ",headport=w" + ",tailport=e" * start.startswith("box:")))
    room.edges.append(Edge(seat, stop, weight, ",tailport=e" + ",headport=w" * stop.startswith("box:")))
    for depth in range(shared, len(paths[tail])):
        own, end, door = rooms[paths[tail][depth]], stands(tail, depth + 1), f"exit:{name}"
        own.exits[name], own.spots[door] = end, (1, 12)
        own.edges.append(Edge(end, door, weight, ",headport=w" + ",tailport=e" * end.startswith("box:")))
    for depth in range(shared, len(paths[head])):
        own, end, door = rooms[paths[head][depth]], stands(head, depth + 1), f"entry:{name}"
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
    text = [_HEAD]
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
        if not name.startswith(("seat:", "entry:", "exit:")):
            out["nodes"][name] = [*(round(x) for x in placed.nodes[numbers[name]]), round(width), round(height)]
    for name, (start, stop) in room.wires.items():
        seat = f"seat:{name}"
        where = [round(x) for x in (*placed.nodes[numbers[seat]], *room.spots[seat])]
        out["wires"][name] = [where, curve(start, seat), curve(seat, stop)]
    out["entries"] = {name: curve(f"entry:{name}", end) for name, end in room.entries.items()}
    out["exits"] = {name: curve(end, f"exit:{name}") for name, end in room.exits.items()}
    return out
