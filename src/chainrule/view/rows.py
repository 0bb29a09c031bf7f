"""A long picture in rows, as a long line of text is: cut where few wires pass, which go on in the row below."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from math import ceil
from typing import NamedTuple

from chainrule.view.layout import Point
from chainrule.view.shapes import Curve, Item, extent, moved

GAP = 40
"""Between rows; the wires that go on pass there."""

_TURN = 16
_BESIDE = 7
"""From a wire to its neighbour, where several turn around the end of a row."""

_MOST = 4
_LEAST = 0.35
_FREE = 4
_ROUND = 12


class Cut(NamedTuple):
    """Where a row ends: the wires that pass, each in two halves."""

    x: float
    halves: dict[int, tuple[Curve, Curve]]


def wrapped(items: Sequence[Item], width: float) -> list[Item]:
    """The same items in rows no wider than ``width``, where they can be cut."""
    left, _, right, _ = around(items)
    if right - left <= width:
        return list(items)
    cuts = _cuts(items)
    room = width - 4 * _TURN
    # Rows of about the same length, none much shorter.
    aim = min((right - left) / ceil((right - left) / room) * 1.12, room)
    chosen: list[Cut] = []
    start = left
    while right - start > aim:
        possible = [cut for cut in cuts if cut.x > start + _LEAST * aim and right - cut.x > _LEAST * aim]
        if not possible:
            break
        near = [cut for cut in possible if cut.x <= start + aim]
        fewest = min((len(cut.halves) for cut in near), default=0)
        chosen.append(next((cut for cut in reversed(near) if len(cut.halves) == fewest), possible[0]))
        start = chosen[-1].x
    return _stacked(items, chosen) if chosen else list(items)


def around(items: Iterable[Item]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of everything."""
    extents = [extent(item) for item in items]
    if not extents:
        return 0.0, 0.0, 0.0, 0.0
    lefts, tops, rights, bottoms = zip(*extents, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _cuts(items: Sequence[Item]) -> list[Cut]:
    """From left to right, where wires end their seats and nothing is in the way but a few wires."""
    spans = [extent(item) for item in items]
    # Just before the seat's end, on its straight line.
    joints = sorted({item.points[item.joint][0] - 0.5 for item in items if isinstance(item, Curve) and item.joint})
    found: list[Cut] = []
    for x in joints:
        passing = [i for i, (low, _, high, _) in enumerate(spans) if low < x + _FREE and high > x - _FREE]
        if len(passing) > _MOST:
            continue
        halves = {i: half for i in passing if (half := _halved(items[i], x)) is not None}
        if len(halves) == len(passing):
            found.append(Cut(x, halves))
    return found


def _halved(item: Item, x: float) -> tuple[Curve, Curve] | None:
    """A wire in two where it passes ``x``; None if it is none, or passes there more than once."""
    if not isinstance(item, Curve) or not item.points[0][0] < x - _FREE < x + _FREE < item.points[-1][0]:
        return None
    starts = range(0, len(item.points) - 1, 3)
    passed = [i for i in starts if (item.points[i][0] < x) != (item.points[i + 3][0] < x)]
    if len(passed) != 1:
        return None
    place = passed[0]
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _divided(item.points[place : place + 4], middle)[3][0] < x else (low, middle)
    points = _divided(item.points[place : place + 4], high)
    before = (*item.points[:place], *points[:3], (x, points[3][1]))
    after = ((x, points[3][1]), *points[4:], *item.points[place + 4 :])
    return replace(item, points=before, joint=0), replace(item, points=after, joint=0)


def _divided(curve: Sequence[Point], t: float) -> list[Point]:
    """The seven points of the two halves of a Bézier curve (de Casteljau)."""
    levels = [list(curve)]
    while len(levels[-1]) > 1:
        levels.append([(x0 + t * (x1 - x0), y0 + t * (y1 - y0)) for (x0, y0), (x1, y1) in pairwise(levels[-1])])
    return [level[0] for level in levels] + [level[-1] for level in reversed(levels[:-1])]


def _stacked(items: Sequence[Item], cuts: Sequence[Cut]) -> list[Item]:
    rows: list[list[Item]] = [[] for _ in range(len(cuts) + 1)]
    for i, item in enumerate(items):
        halves: list[Item] = [item]
        for cut in cuts:
            last = halves[-1]
            # A wire that passes several cuts is halved again.
            half = _halved(last, cut.x) if i in cut.halves else None
            halves = halves if half is None else [*halves[:-1], *half]
        for part in halves:
            low, _, high, _ = extent(part)
            rows[sum(cut.x <= (low + high) / 2 for cut in cuts)].append(part)
    found: list[Item] = []
    foot, before = 0.0, (0.0, 0.0)
    for place, row in enumerate(rows):
        left, top, _, bottom = around(row)
        indent = 0.0 if place == 0 else _TURN + _BESIDE * len(cuts[place - 1].halves)
        right, down = indent - left, foot - top
        found += [moved(item, right, down) for item in row]
        if place > 0:
            found += _turns(cuts[place - 1], before, (right, down), foot)
        before = right, down
        wires = len(cuts[place].halves) if place < len(cuts) else 0
        foot += bottom - top + GAP + _BESIDE * max(wires - 1, 0)
    return found


def _turns(cut: Cut, above: Point, below: Point, foot: float) -> list[Item]:
    """The wires from the end of a row to the beginning of the next: the uppermost turns outermost, passes lowest and arrives innermost."""
    wires = sorted((first.points[-1], first.color) for first, _ in cut.halves.values())
    found: list[Item] = []
    for place, ((x, y), color) in enumerate(wires):
        outer = _BESIDE * (len(wires) - 1 - place)
        x0, x1 = x + above[0] + _TURN + outer, x + below[0] - _TURN - _BESIDE * place
        level = foot - GAP / 2 - _BESIDE * place
        start, end = (x + above[0], y + above[1]), (x + below[0], y + below[1])
        found.append(_rounded([start, (x0, start[1]), (x0, level), (x1, level), (x1, end[1]), end], color))
    return found


def _rounded(way: Sequence[Point], color: str) -> Curve:
    """A way of straight lines with round corners."""
    points = [way[0]]
    for before, corner, after in zip(way, way[1:], way[2:], strict=False):
        one, two = _toward(corner, before), _toward(corner, after)
        points += [points[-1], one, one, _toward(corner, before, 0.45), _toward(corner, after, 0.45), two]
    return Curve((*points, points[-1], way[-1], way[-1]), color)


def _toward(corner: Point, other: Point, share: float = 1.0) -> Point:
    """A point near a corner on the way to another point."""
    (x0, y0), (x1, y1) = corner, other
    far = max(abs(x1 - x0), abs(y1 - y0), 1e-9)
    near = share * min(_ROUND, far / 2)
    return x0 + (x1 - x0) / far * near, y0 + (y1 - y0) / far * near
