"""A long picture in rows, as a long line of text is: cut where a single wire passes, which goes on in the row below."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import ceil

from chainrule.view.layout import Point
from chainrule.view.shapes import Curve, Item, extent, moved

GAP = 40
"""Between rows; the wire that goes on passes there."""

_TURN = 26
_LEAST = 0.35
_FREE = 4


def wrapped(items: Sequence[Item], width: float) -> list[Item]:
    """The same items in rows no wider than ``width``, where they can be cut."""
    left, _, right, _ = around(items)
    if right - left <= width:
        return list(items)
    cuts = _cuts(items)
    count = ceil((right - left) / (width - 2 * _TURN))
    chosen: list[Curve] = []
    start = left
    # Rows of about the same length, none much shorter.
    aim = min((right - left) / count * 1.12, width - 2 * _TURN)
    while right - start > aim:
        possible = [cut for cut in cuts if _at(cut) > start + _LEAST * aim and right - _at(cut) > _LEAST * aim]
        if not possible:
            break
        near = [cut for cut in possible if _at(cut) <= start + aim]
        chosen.append(near[-1] if near else possible[0])
        start = _at(chosen[-1])
    return _stacked(_split(items, chosen)) if chosen else list(items)


def around(items: Iterable[Item]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of everything."""
    extents = [extent(item) for item in items]
    lefts, tops, rights, bottoms = zip(*extents, strict=True) if extents else ((0.0,),) * 4
    return min(lefts), min(tops), max(rights), max(bottoms)


def _at(cut: Curve) -> float:
    return cut.points[cut.joint][0]


def _cuts(items: Sequence[Item]) -> list[Curve]:
    """The wires at whose joints nothing else is in the way, from left to right."""
    spans = sorted((extent(item)[0], extent(item)[2], i) for i, item in enumerate(items))
    curves = sorted((_at(item), i) for i, item in enumerate(items) if isinstance(item, Curve) and item.joint)
    found: list[Curve] = []
    for x, i in curves:
        in_the_way = [other for low, high, other in spans if low < x + _FREE and high > x - _FREE and other != i]
        item = items[i]
        if not in_the_way and isinstance(item, Curve):
            found.append(item)
    return found


def _split(items: Sequence[Item], chosen: Sequence[Curve]) -> list[list[Item]]:
    rows: list[list[Item]] = [[] for _ in range(len(chosen) + 1)]
    ends = [_at(cut) for cut in chosen]
    for item in items:
        if isinstance(item, Curve) and any(item is cut for cut in chosen):
            place = next(place for place, cut in enumerate(chosen) if cut is item)
            rows[place].append(replace(item, points=item.points[: item.joint + 1], joint=0))
            rows[place + 1].append(replace(item, points=item.points[item.joint :], joint=0))
            continue
        low, _, high, _ = extent(item)
        rows[sum(end <= (low + high) / 2 for end in ends)].append(item)
    return rows


def _stacked(rows: Sequence[Sequence[Item]]) -> list[Item]:
    found: list[Item] = []
    foot = 0.0
    # Where the wire leaves the row above.
    leaving: Point | None = None
    for place, row in enumerate(rows):
        left, top, _, bottom = around(row)
        right_by, down_by = (0.0 if leaving is None else _TURN) - left, foot - top
        found += [moved(item, right_by, down_by) for item in row]
        if leaving is not None:
            (x, y), color = _joint(rows[place - 1], row)
            found.append(_turning(leaving, (x + right_by, y + down_by), foot - GAP / 2, color))
        if place + 1 < len(rows):
            (x, y), _ = _joint(row, rows[place + 1])
            leaving = x + right_by, y + down_by
        foot += bottom - top + GAP
    return found


def _joint(above: Sequence[Item], below: Sequence[Item]) -> tuple[Point, str]:
    """Where the wire between two rows was cut, and its colour."""
    starts = {item.points[0] for item in below if isinstance(item, Curve)}
    half = next(item for item in above if isinstance(item, Curve) and item.points[-1] in starts)
    return half.points[-1], half.color


def _turning(start: Point, end: Point, between: float, color: str) -> Curve:
    """From the end of a row to the beginning of the next, with round corners."""
    (x0, y0), (x1, y1) = start, end
    way = [start, (x0 + _TURN * 0.6, y0), (x0 + _TURN * 0.6, between), (x1 - _TURN * 0.6, between), (x1 - _TURN * 0.6, y1), end]
    points = [start]
    for before, corner, after in zip(way, way[1:], way[2:], strict=False):
        one, two = _toward(corner, before), _toward(corner, after)
        points += [points[-1], one, one, _toward(corner, before, 0.45), _toward(corner, after, 0.45), two]
    return Curve((*points, points[-1], end, end), color)


def _toward(corner: Point, other: Point, share: float = 1.0) -> Point:
    """A point near a corner on the way to another point."""
    (x0, y0), (x1, y1) = corner, other
    far = max(abs(x1 - x0), abs(y1 - y0), 1e-9)
    near = share * min(_ROUND, far / 2)
    return x0 + (x1 - x0) / far * near, y0 + (y1 - y0) / far * near


_ROUND = 12
