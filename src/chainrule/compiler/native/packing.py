"""Copies of matrices in the order in which a product reads them: panels of a few columns, one row after the other.

Columns that run across memory are brought into vectors by transposing squares in registers. Nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from chainrule.compiler.native.ir import I64, PTR, Function, Index, Kind, Module, Value, index, literal
from chainrule.compiler.native.kernel import Kernel
from chainrule.compiler.native.microkernel import load_lanes, transposed

_ROWS = 16
"""How many rows one unit of work copies."""


class Cut(NamedTuple):
    """So many pieces, one after the other: the first ``long`` of ``size``, the others one shorter."""

    pieces: int
    size: int
    long: int

    def begin(self, f: Function, piece: Index) -> Index:
        """Where a piece begins."""
        start = f.mul(piece, self.size)
        return start if self.long == self.pieces else f.sub(start, f.most(f.sub(piece, self.long), 0))

    def length(self, f: Function, piece: Index) -> Index:
        if self.long == self.pieces:
            return self.size
        shorter = f.compare("sge", index(piece), index(self.long))
        return f.sub(self.size, f.cast("zext", shorter, I64))


def cut(total: int, most: int) -> Cut:
    """The fewest pieces of at most ``most``, as equal as possible."""
    count = -(-total // most)
    size = -(-total // max(count, 1))
    return Cut(count, size, total - count * (size - 1))


class Source(NamedTuple):
    """A batch of matrices somewhere in memory.

    Attributes
    ----------
    rows, columns : int
    strides : (int, int)
        Of rows and columns, in elements.
    batch : tuple of int
        Sizes of the batch axes.
    batch_strides : tuple of int
    """

    rows: int
    columns: int
    strides: tuple[int, int]
    batch: tuple[int, ...] = ()
    batch_strides: tuple[int, ...] = ()


class Panels(NamedTuple):
    """How copies lie: for each matrix of the batch panel after panel, each ``rows`` times its width; the last is filled up with zeros.

    Attributes
    ----------
    panels : Cut
        Of the columns, in vectors.
    size : int
        Elements of one matrix's copy.
    batch_strides : tuple of int
        0 where the source is the same throughout the axis.
    nbytes : int
        Of all.
    """

    panels: Cut
    size: int
    batch_strides: tuple[int, ...]
    nbytes: int


def panels_of(source: Source, kind: Kind, vectors: int, *, gap: int = 0) -> Panels:
    """The copy of a source in panels of at most so many vectors; ``gap`` vectors are left free after each row of a single panel."""
    panels = cut(-(-source.columns // kind.lanes), vectors)
    size = source.rows * (-(-source.columns // kind.lanes) + gap) * kind.lanes
    strides: list[int] = []
    following = size
    for extent, stride in zip(reversed(source.batch), reversed(source.batch_strides), strict=True):
        strides.insert(0, following if stride else 0)
        following *= extent if stride else 1
    return Panels(panels, size, tuple(strides), following * kind.wide(1).nbytes)


def write_packing(
    module: Module, name: str, source: Source, panels: Panels, kind: Kind, *, gap: int = 0, start: int = 0, copy: type[Copy] | None = None
) -> Kernel:
    """Define ``void name(ptr from, ptr to, i64 first, i64 last)``, which copies, so many elements behind ``to``.

    Units are some rows, or a panel where columns lie along memory.
    """
    made_by = copy or Copy
    turned = made_by.turned(source, kind)
    pieces = panels.panels.pieces if turned else -(-source.rows // _ROWS)
    moving = [(extent, stride, ours) for extent, stride, ours in zip(source.batch, source.batch_strides, panels.batch_strides, strict=True) if stride]
    f = Function(module, name, [("from", PTR), ("to", PTR), ("first", I64), ("last", I64)])
    given, made, first, last = f.parameters
    with f.loop(first, last) as loop:
        piece, rest = f.rem(loop.index, pieces), f.div(loop.index, pieces)
        places = batch_places(f, rest, [extent for extent, _, _ in moving])
        begin = offset(f, places, [stride for _, stride, _ in moving])
        target = f.add(offset(f, places, [stride for _, _, stride in moving]), start)
        one = made_by(f, kind, source, panels.panels, gap, f.at(given, begin, kind), f.at(made, target, kind))
        if turned:
            one.panel(piece)
        else:
            row = f.mul(piece, _ROWS)
            with f.loop(row, f.least(f.add(row, _ROWS), source.rows)) as rows:
                one.row(rows.index)
    f.close()
    return Kernel(name, pieces * prod(extent for extent, _, _ in moving))


class Copy(NamedTuple):
    """The copy of one matrix. Who copies elements otherwise overrides `turned`, `vector` and `square`."""

    f: Function
    kind: Kind
    source: Source
    panels: Cut
    gap: int
    given: Value
    made: Value

    @staticmethod
    def turned(source: Source, kind: Kind) -> bool:
        """Whether columns lie along memory."""
        return source.strides[1] != 1 and source.strides[0] == 1 and kind.lanes > 1

    def row(self, row: Index) -> None:
        """One row of all panels."""
        f, kind, (depth, _) = self.f, self.kind, self.source.strides
        given = f.at(self.given, f.mul(row, depth), kind)
        full, tail = divmod(self.source.columns, kind.lanes)
        with f.loop(0, self.panels.pieces) as panels:
            begin, length, made = self.place(panels.index, row)
            with f.loop(0, f.least(length, f.sub(full, begin))) as loop:
                self.vector(given, f.add(begin, loop.index), f.at(made, f.mul(loop.index, kind.lanes), kind), kind.lanes)
        if tail:
            begin, _, made = self.place(self.panels.pieces - 1, row)
            self.vector(given, full, f.at(made, f.mul(f.sub(full, begin), kind.lanes), kind), tail)

    def place(self, panel: Index, row: Index) -> tuple[Index, Index, Value]:
        """Where a panel begins and how long it is, in vectors, and where its part of a row lies in the copy."""
        f, lanes = self.f, self.kind.lanes
        begin, length = self.panels.begin(f, panel), self.panels.length(f, panel)
        width = f.mul(f.add(length, self.gap), lanes)
        return begin, length, f.at(self.made, f.add(f.mul(begin, lanes * self.source.rows), f.mul(row, width)), self.kind)

    def vector(self, given: Value, vector: Index, made: Value, count: int) -> None:
        """One vector of a row, of which so many columns exist."""
        f, kind, along = self.f, self.kind, self.source.strides[1]
        given = f.at(given, f.mul(f.mul(vector, kind.lanes), along), kind)
        if along == 1:
            x = load_lanes(f, kind, given, count)
        else:
            x = Value("zeroinitializer", kind)
            for lane in range(count):
                element = f.load(kind.wide(1), f.at(given, lane * along, kind))
                x = element if kind.lanes == 1 else f.value(kind, f"insertelement {x}, {element}, i64 {lane}")
        f.store(x, made)

    def panel(self, panel: Index) -> None:
        """All rows of a panel: squares of as many rows as columns."""
        f, kind, rows = self.f, self.kind, self.source.rows
        begin, length, made = self.place(panel, 0)
        width = f.mul(f.add(length, self.gap), kind.lanes)
        full, tail = divmod(self.source.columns, kind.lanes)

        def columns(place: Index, count: int) -> None:
            given = f.at(self.given, f.mul(f.mul(f.add(begin, place), kind.lanes), self.source.strides[1]), kind)
            target = f.at(made, f.mul(place, kind.lanes), kind)
            whole = rows - rows % kind.lanes
            with f.loop(0, whole, kind.lanes) as loop:
                self.square(given, target, loop.index, width, kind.lanes, count)
            if rows % kind.lanes:
                self.square(given, target, whole, width, rows % kind.lanes, count)

        with f.loop(0, f.least(length, f.sub(full, begin))) as loop:
            columns(loop.index, kind.lanes)
        if tail:
            with f.when(f.compare("eq", index(f.add(begin, length)), index(full + 1))):
                columns(f.sub(full, begin), tail)

    def square(self, given: Value, made: Value, row: Index, width: Index, rows: int, count: int) -> None:
        """So many rows of so many columns that lie along memory."""
        f, kind, along = self.f, self.kind, self.source.strides[1]
        given = f.at(given, row, kind)
        zero = literal(0, kind)
        columns = [load_lanes(f, kind, f.at(given, j * along, kind), rows) if j < count else zero for j in range(kind.lanes)]
        for i, x in enumerate(transposed(f, columns)[:rows]):
            f.store(x, f.at(made, f.mul(f.add(row, i), width), kind))


def batch_places(f: Function, flat: Index, batch: Sequence[int]) -> tuple[Index, ...]:
    """The places along the batch axes of a flat index."""
    places: list[Index] = []
    for extent in reversed(batch[1:]):
        places.insert(0, f.rem(flat, extent))
        flat = f.div(flat, extent)
    return (flat, *places) if batch else ()


def offset(f: Function, places: Sequence[Index], strides: Sequence[int]) -> Index:
    """Of a place along several axes, in elements."""
    total: Index = 0
    for place, stride in zip(places, strides, strict=True):
        total = f.add(total, f.mul(place, stride))
    return total
