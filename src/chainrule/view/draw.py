"""`draw`: a picture of a graph, of what a function computes, or of how a tensor came to be."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from chainrule.core.errors import ArgumentError, look_up
from chainrule.core.files import write_whole
from chainrule.core.primitive import public
from chainrule.graph.ir import Graph
from chainrule.graph.trace import trace
from chainrule.tensor import Tensor
from chainrule.view import dot, paint
from chainrule.view.diagram import Diagram, diagram, table
from chainrule.view.folding import Fold
from chainrule.view.holding import callers_variables
from chainrule.view.layout import pixels, place
from chainrule.view.palettes import PALETTES, Palette
from chainrule.view.picture_values import Program, of_graph, of_tape

__all__ = ["Picture", "draw"]


class Picture:
    """What `draw` returns; Jupyter shows it.

    Attributes
    ----------
    svg : str
        The picture as one SVG, which takes nothing from elsewhere.
    dot : str
        The graph in Graphviz's language, with all texts, for other programs to lay out.
    text : str
        A table of the wires, with what stands above and below them; `print` shows it. A small tensor is told by its shape.
    """

    def __init__(self, diagram: Diagram, palette: Palette) -> None:
        self._diagram = diagram
        self._palette = palette

    @cached_property
    def scene(self) -> paint.Scene:
        """Shapes and texts, each with its place."""
        return paint.scene(self._diagram, place(dot.write(self._diagram)), self._palette)

    @cached_property
    def svg(self) -> str:
        return paint.svg(self.scene, self._palette)

    @property
    def dot(self) -> str:
        return dot.write(self._diagram, self._palette)

    @property
    def text(self) -> str:
        return table(self._diagram)

    def __str__(self) -> str:
        return self.text

    def png(self) -> bytes:
        """The picture in pixels, two for each of the SVG's; drawn by Graphviz, shape by shape as the SVG is."""
        return pixels(paint.pinned(self.scene, self._palette))

    def save(self, path: str | Path) -> Picture:
        """Write the picture to a file.

        Parameters
        ----------
        path : str or Path
            Its suffix says what is written: .svg, .png or .dot.

        Returns
        -------
        Picture
            Itself.

        Raises
        ------
        ArgumentError
            If the suffix is another one.
        DataError
            If the file cannot be written.
        """
        file = Path(path)
        writers: dict[str, Callable[[], Any]] = {
            ".svg": lambda: write_whole(file, self.svg.encode()),
            ".dot": lambda: write_whole(file, self.dot.encode()),
            ".png": lambda: write_whole(file, self.png()),
        }
        write = writers.get(file.suffix.lower())
        if write is None:
            raise ArgumentError(
                f"pictures are not written as {file.suffix or 'files without a suffix'}: {path}", mend="end the name in .svg, .png or .dot"
            )
        write()
        return self

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"<picture of {self._diagram.name or 'a tensor'}: {len(self._diagram.nodes)} nodes>"


@public
def draw(
    target: Tensor | Graph | Callable[..., Any],
    /,
    *examples: Any,
    path: str | Path | None = None,
    values: bool = True,
    gradients: bool = True,
    fold: Fold = "auto",
    palette: str = "board",
) -> Picture:
    """Draw a computation, left to right: gates as circles, values above the wires, gradients below.

    Below each gate stands what it does to a gradient: add distributes, multiply swaps, max routes. A value that is used more than
    once branches, and there gradients add. Layers are boxes.

    Parameters
    ----------
    target : Tensor, Graph or callable
        A loss, drawn from its history; a graph; or a function, which is traced for the examples.
    *examples : Tensor, array_like or containers of them
        The arguments of the function or the graph. A graph can do without: then shapes stand in the place of values.
    path : str or Path, optional
        Where to save it: .svg, .png or .dot.
    values, gradients : bool
        Whether they are written on the wires: numbers to two decimals, small tensors as heat maps, others as shape and norm.
    fold : {"auto", "all", "none"} or collection of str
        Which layers stand folded: "auto" opens what stays readable; a collection names the layers to fold.
    palette : {"board", "safe", "dark"}
        Green and red, as on the board; or blue and orange, told apart by colour-blind readers too; or for a dark page.

    Returns
    -------
    Picture
        Shown by Jupyter as it is; its ``svg`` and ``dot`` are text, ``save`` writes a file.

    Raises
    ------
    MissingExtraError
        If pygraphviz is not installed: ``pip install 'chainrule[view]'``.
    ArgumentError
        If there is nothing to draw, the examples do not fit, or an option is unknown.

    Notes
    -----
    Layout by Graphviz's dot: Gansner, Koutsofios, North and Vo, "A technique for drawing directed graphs", IEEE Transactions on Software
    Engineering 19 (1993).

    A tensor's history holds what the backward pass reads. Of the rest, leaves that the caller's variables hold are read there, and
    what can be computed from that is; other values are left out. ``backward`` frees the history, so draw before it
    (or with ``retain_graph=True``) to see all gradients; after it those of the leaves are shown. A function or a graph with
    examples is drawn with all values.

    Examples
    --------
    >>> import chainrule as cr
    >>> def f(x, y, z):
    ...     q = x + y
    ...     return q * z
    >>> picture = cr.draw(f, -2.0, 5.0, -4.0)
    >>> picture
    <picture of f: 6 nodes>
    >>> "−12.00" in picture.svg
    True
    """
    colors = look_up("palette", palette, PALETTES)
    program = _program(target, examples)
    picture = Picture(diagram(program, fold, values=values, gradients=gradients), colors)
    if path is not None:
        picture.save(path)
    return picture


def _program(target: Any, examples: tuple[Any, ...]) -> Program:
    if isinstance(target, Tensor):
        if examples:
            raise ArgumentError("a tensor is drawn from its history, which takes no examples", mend="draw the function instead: draw(f, *examples)")
        return of_tape(target, callers_variables())
    if isinstance(target, Graph):
        return of_graph(target, examples)
    if callable(target):
        return of_graph(trace(target, *examples), examples)
    raise ArgumentError(
        f"a {type(target).__name__} cannot be drawn", mend="give draw a Tensor with history, a Graph, or a function and its arguments"
    )
