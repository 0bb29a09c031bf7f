"""What a picture is painted of: texts, areas and curves, with their places in pixels, y downwards."""

from __future__ import annotations

from dataclasses import dataclass, replace

from chainrule.view.diagram import text_width
from chainrule.view.layout import Point


@dataclass(frozen=True, slots=True)
class Text:
    """A line of text; x and y are its middle."""

    x: float
    y: float
    text: str
    size: int
    color: str
    italic: bool = False
    bold: bool = False

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom in no common font larger than this."""
        half = text_width(self.text, self.size) * (1.06 if self.bold else 1.0) / 2
        return self.x - half, self.y - 0.5 * self.size, self.x + half, self.y + 0.5 * self.size


@dataclass(frozen=True, slots=True)
class Area:
    """A rectangle with round corners, by its middle; a circle if they are round enough."""

    x: float
    y: float
    width: float
    height: float
    radius: float
    fill: str
    stroke: str = ""
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Curve:
    """A chain of cubic Bézier curves; ``joint`` is the place of the point at which it can be cut, if there is one."""

    points: tuple[Point, ...]
    color: str
    joint: int = 0


Item = Text | Area | Curve


def extent(item: Item) -> tuple[float, float, float, float]:
    """Left, top, right and bottom."""
    if isinstance(item, Text):
        return item.box
    if isinstance(item, Area):
        return item.x - item.width / 2, item.y - item.height / 2, item.x + item.width / 2, item.y + item.height / 2
    across, down = zip(*item.points, strict=True)
    return min(across), min(down), max(across), max(down)


def moved(item: Item, right: float, down: float) -> Item:
    """The same elsewhere, on tenths of pixels."""
    if isinstance(item, Curve):
        return replace(item, points=tuple((round(x + right, 1), round(y + down, 1)) for x, y in item.points))
    return replace(item, x=round(item.x + right, 1), y=round(item.y + down, 1))
