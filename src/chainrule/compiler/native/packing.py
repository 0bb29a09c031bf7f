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

_CHUNK = 8
"""How many vectors' worth of rows one unit of work copies."""


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


def write_packing(module: Module, name: str, source: Source, panels: Panels, kind: Kind, *, gap: int = 0) -> Kernel:
    """Define ``void name(ptr from, ptr to, i64 first, i64 last)``, which copies; units are pieces of panels."""
    chunk = _CHUNK * kind.lanes
    chunks = -(-source.rows // chunk)
    moving = [(extent, stride, ours) for extent, stride, ours in zip(source.batch, source.batch_strides, panels.batch_strides, strict=True) if stride]
    f = Function(module, name, [("from", PTR), ("to", PTR), ("first", I64), ("last", I64)])
    given, made, first, last = f.parameters
    with f.loop(first, last) as loop:
        at_chunk, rest = f.rem(loop.index, chunks), f.div(loop.index, chunks)
        panel, rest = f.rem(rest, panels.panels.pieces), f.div(rest, panels.panels.pieces)
        places = batch_places(f, rest, [extent for extent, _, _ in moving])
        start = offset(f, places, [stride for _, stride, _ in moving])
        target = offset(f, places, [stride for _, _, stride in moving])
        begin, length = panels.panels.begin(f, panel), panels.panels.length(f, panel)
        target = f.add(target, f.mul(begin, kind.lanes * source.rows))
        width = f.mul(f.add(length, gap), kind.lanes)
        row = f.mul(at_chunk, chunk)
        stop = f.least(f.add(row, chunk), source.rows)
        here = _Copy(f, kind, source, f.at(given, start, kind), f.at(made, target, kind), width, row, stop)
        full, tail = divmod(source.columns, kind.lanes)
        with f.loop(0, f.least(length, f.sub(full, begin))) as vectors:
            here.columns(f.add(begin, vectors.index), vectors.index, kind.lanes)
        if tail:
            with f.when(f.compare("eq", index(f.add(begin, length)), index(full + 1))):
                here.columns(full, f.sub(full, begin), tail)
    f.close()
    return Kernel(name, chunks * panels.panels.pieces * prod(extent for extent, _, _ in moving))


class _Copy(NamedTuple):
    """One piece of a panel: the rows ``row`` to ``stop - 1``."""

    f: Function
    kind: Kind
    source: Source
    given: Value
    made: Value
    width: Index
    row: Index
    stop: Index

    def columns(self, vector: Index, place: Index, count: int) -> None:
        """One vector of columns (so many of them exist), which becomes the ``place``-th of the panel."""
        f, kind, (depth, along) = self.f, self.kind, self.source.strides
        given = f.at(self.given, f.mul(f.mul(vector, kind.lanes), along), kind)
        made = f.at(self.made, f.mul(place, kind.lanes), kind)
        if along != 1 and depth == 1 and kind.lanes > 1:
            whole = f.sub(self.stop, f.rem(self.stop, kind.lanes))
            with f.loop(self.row, whole, kind.lanes) as loop:
                self.square(given, made, loop.index, kind.lanes, count)
            tail = self.source.rows % kind.lanes
            if tail:
                with f.when(f.compare("eq", index(self.stop), index(self.source.rows))):
                    self.square(given, made, self.source.rows - tail, tail, count)
            return
        with f.loop(self.row, self.stop) as loop:
            line = f.at(given, f.mul(loop.index, depth), kind)
            if along == 1:
                x = load_lanes(f, kind, line, count)
            else:
                x = Value("zeroinitializer", kind)
                for lane in range(count):
                    element = f.load(kind.wide(1), f.at(line, lane * along, kind))
                    x = f.value(kind, f"insertelement {x}, {element}, i64 {lane}")
            f.store(x, f.at(made, f.mul(loop.index, self.width), kind))

    def square(self, given: Value, made: Value, row: Index, rows: int, count: int) -> None:
        f, kind, along = self.f, self.kind, self.source.strides[1]
        given = f.at(given, row, kind)
        zero = literal(0, kind)
        columns = [load_lanes(f, kind, f.at(given, j * along, kind), rows) if j < count else zero for j in range(kind.lanes)]
        for i, x in enumerate(transposed(f, columns)[:rows]):
            f.store(x, f.at(made, f.mul(f.add(row, i), self.width), kind))


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
