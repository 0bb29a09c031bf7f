"""Which gates of a program are drawn one by one, and which stand folded in a box.

Each call of a layer is a box: the gates that its scope made one after another, so that no wire can leave a box and come back.
Of a long row of gates or boxes the middle is a box too. This arranges; it measures and paints nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import groupby

from chainrule.core.errors import ArgumentError
from chainrule.view.picture_values import Program, Step

LIMIT = 60
"""So many nodes can be read in one picture."""

_ROW = 24
"""Of a longer row of gates and boxes the middle is folded."""


@dataclass(slots=True, eq=False)
class Box:
    """Gates that can be drawn as one.

    Attributes
    ----------
    path : tuple of str
        The layer's; that of the box around it for a stretch of gates that is no layer.
    parts : list of Box or Step
    stretch : bool
        Whether it is the middle of a long row.
    label, kind : str
        What it is called, and the layer's class.
    """

    path: tuple[str, ...]
    parts: list[Box | Step] = field(default_factory=list["Box | Step"])
    stretch: bool = False
    label: str = ""
    kind: str = ""

    @property
    def title(self) -> str:
        """Both in a line."""
        return f"{self.label} {self.kind}".strip()

    def steps(self) -> Iterator[Step]:
        """All gates inside, in order."""
        stack: list[Box | Step] = [self]
        while stack:
            part = stack.pop()
            if isinstance(part, Box):
                stack.extend(reversed(part.parts))
            else:
                yield part


Fold = str | Collection[str]


def boxes(program: Program) -> Box:
    """The whole program as a box of boxes."""
    root = Box((), _parts(program.steps, ()))
    for box in _walk(root):
        box.kind = program.layers.get(".".join(box.path), "")
    _shorten(root)
    return root


def _parts(steps: Sequence[Step], path: tuple[str, ...]) -> list[Box | Step]:
    """Gates and boxes one level down; levels are layers inside layers, so few."""
    depth = len(path)
    found: list[Box | Step] = []
    for name, run in groupby(steps, key=lambda step: step.scope[depth : depth + 1]):
        inside = list(run)
        if not name:
            found += inside
            continue
        parts = _parts(inside, (*path, *name))
        # A frame around one thing says nothing more.
        found += parts if len(parts) == 1 and not isinstance(parts[0], Box) else [_merged(Box((*path, *name), parts, label=name[0]))]
    return found


def _merged(box: Box) -> Box:
    inner = box.parts[0]
    if len(box.parts) > 1 or not isinstance(inner, Box):
        return box
    inner.label = f"{box.label}.{inner.label}"
    return inner


def _shorten(root: Box) -> None:
    """Fold the middles of long rows, in all boxes."""
    stack = [root]
    while stack:
        box = stack.pop()
        stack.extend(part for part in box.parts if isinstance(part, Box))
        if len(box.parts) > _ROW:
            side = _ROW // 2 - 1
            middle = Box(box.path, box.parts[side:-side], stretch=True)
            middle.label = f"… {sum(1 for _ in middle.steps()):,} operations"
            box.parts = [*box.parts[:side], middle, *box.parts[-side:]]


def opened(root: Box, fold: Fold) -> set[Box]:
    """The boxes that are drawn open.

    Parameters
    ----------
    root : Box
    fold : {"auto", "all", "none"} or collection of str
        "auto" opens boxes, outer ones and small ones first, as long as the picture stays readable. A collection names
        the layers to fold, as "encoder" or "encoder.0".

    Raises
    ------
    ArgumentError
        If ``fold`` is another word, or names no layer.
    """
    if fold == "auto":
        return _readable(root)
    if fold == "all":
        return {root}
    every = list(_walk(root))
    if fold == "none":
        return set(every)
    if isinstance(fold, str):
        raise ArgumentError(f"fold={fold!r} is not a way to fold", mend='use "auto", "all", "none", or a list of layers\' paths')
    named = {".".join(box.path): box for box in every if not box.stretch}
    unknown = [name for name in fold if name not in named or not name]
    if unknown:
        known = ", ".join(name for name in named if name) or "none, for there are no layers"
        raise ArgumentError(f"there is no layer {unknown[0]!r} to fold; there are {known}", mend="fold layers by their paths in the graph")
    return {box for box in every if box.stretch or ".".join(box.path) not in set(fold)}


def _walk(root: Box) -> Iterator[Box]:
    stack = [root]
    while stack:
        box = stack.pop()
        yield box
        stack.extend(part for part in box.parts if isinstance(part, Box))


def _readable(root: Box) -> set[Box]:
    found = {root}
    total, row = _cost(root), len(root.parts)
    order = 0
    waiting: list[tuple[int, int, int, Box]] = []

    def offer(box: Box) -> None:
        nonlocal order
        for part in box.parts:
            if isinstance(part, Box):
                order += 1
                heappush(waiting, (len(part.path) + part.stretch, _cost(part), order, part))

    offer(root)
    while waiting:
        *_, box = heappop(waiting)
        more, longer = _cost(box) - 1, len(box.parts) - 1
        if total + more <= LIMIT and row + longer <= _ROW:
            total, row = total + more, row + longer
            found.add(box)
            offer(box)
    return found


def _cost(box: Box) -> int:
    """How many nodes it takes to draw what is in a box, inner boxes folded."""
    leaves = {id(x) for part in box.parts if isinstance(part, Step) for x in part.inputs if x.kind != "computed" and x.shape != ()}
    return len(box.parts) + len(leaves)
