"""Graphviz: where nodes and wires of a diagram lie, and pictures of pixels. The only file that knows pygraphviz.

Its wheel carries Graphviz, so nothing is installed by hand. What goes in is DOT, what comes out are plain numbers in pixels, y downwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chainrule.core.errors import MissingExtraError

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Placed:
    """Where everything lies.

    Attributes
    ----------
    size : (float, float)
    nodes : dict of str to (float, float)
        Middles.
    curves : dict of (str, str) to list of points
        Per edge a chain of cubic Bézier curves.
    frames : dict of str to (left, top, width, height)
    """

    size: Point
    nodes: dict[str, Point]
    curves: dict[tuple[str, str], list[Point]]
    frames: dict[str, tuple[float, float, float, float]]


def graphviz() -> Any:
    """The module ``pygraphviz``.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    try:
        import pygraphviz  # pyright: ignore[reportMissingTypeStubs] - it has none, and need not be there
    except ImportError:
        raise MissingExtraError("pictures are laid out by Graphviz, and pygraphviz is not installed", mend="pip install 'chainrule[view]'") from None
    return pygraphviz


def place(dot: str) -> Placed:
    """Lay out a graph given as DOT."""
    graph = graphviz().AGraph(string=dot)
    graph.layout("dot")
    left, bottom, right, top = _numbers(graph.graph_attr["bb"])

    def point(text: str) -> Point:
        x, y = _numbers(text)[-2:]
        return round(x - left, 1), round(top - y, 1)

    nodes = {str(node): point(node.attr["pos"]) for node in graph.nodes()}
    curves = {(str(edge[0]), str(edge[1])): [point(part) for part in edge.attr["pos"].split() if part[0] not in "es"] for edge in graph.edges()}
    found: dict[str, tuple[float, float, float, float]] = {}
    stack = graph.subgraphs()
    while stack:
        frame = stack.pop()
        x0, y0, x1, y1 = _numbers(frame.graph_attr["bb"])
        found[frame.name] = (round(x0 - left, 1), round(top - y1, 1), round(x1 - x0, 1), round(y1 - y0, 1))
        stack += frame.subgraphs()
    return Placed((round(right - left, 1), round(top - bottom, 1)), nodes, curves, found)


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def pixels(dot: str) -> bytes:
    """The PNG of a graph whose nodes and edges have places already."""
    # "nop2" leaves nodes and edges where they are.
    return graphviz().AGraph(string=dot).draw(format="png", prog="nop2")
