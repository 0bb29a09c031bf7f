"""Blocks of a product as functions, and the kernels that share them out: one unit of work after the other.

Which blocks a product is cut into is decided elsewhere; each sum is added up by one thread in one order.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import NamedTuple

from chainrule.compiler.native.ir import I64, PTR, VOID, Function, Index, Kind, Module, Value, first_lanes, index, literal
from chainrule.compiler.native.kernel import Kernel
from chainrule.compiler.native.microkernel import (
    Ahead,
    Block,
    Multiply,
    Nest,
    Part,
    Parts,
    Rounds,
    Sums,
    Taps,
    fetch,
    fused,
    store_lanes,
    transposed,
    write_microkernel,
)
from chainrule.compiler.native.packing import Cut, batch_places, offset
from chainrule.compiler.native.product import Epilogue, Place, Product, Work


class Side(NamedTuple):
    """A or B as blocks read it: a role, strides across k and along k, where it begins; or panels of columns, each all along k.

    ``ahead``: so many elements further on it is called into the cache.
    """

    role: str
    across: int
    along: int
    batch: tuple[int, ...]
    start: int = 0
    panels: bool = False
    ahead: int = 0


class Cuts(NamedTuple):
    """How C is cut: rows, and columns in vectors of so many lanes. ``high`` blocks above each other follow one another, then those beside them."""

    rows: Cut
    panels: Cut
    lanes: int
    high: int


class Spot(NamedTuple):
    """Where a block is: which of those above each other, which of those beside each other, in which matrices."""

    tile: Index
    panel: Index
    batch: tuple[Index, ...]


WriteBlock = Callable[[str, int, tuple[int, ...]], None]
"""Defines the function of a block: its name, its rows, and how many lanes of each of its vectors count."""

_KEPT = 256 << 10
"""Bytes of the stack for sums of blocks."""


class Writer(NamedTuple):
    """Writes one product's functions. ``down``: it is the transposed product, whose columns are rows of C. ``far``: C comes from memory."""

    module: Module
    name: str
    product: Product
    kind: Kind
    epilogue: Epilogue | None
    down: bool = False
    multiply: Multiply = fused
    far: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """The further pointers."""
        return self.epilogue.parameters if self.epilogue else ()

    def parameters(self) -> list[tuple[str, Kind]]:
        """Of a block: where it begins in A, B and C, the epilogue's pointers, its place."""
        further = [(f"given_{word}", PTR) for word in self.words]
        places = [(f"place_{axis}", I64) for axis in range(len(self.product.batch))]
        return [("a", PTR), ("b", PTR), ("c", PTR), *further, *places, ("row", I64), ("column", I64)]

    def finish(self, f: Function, x: Value, row: Index, column: int, width: int) -> None:
        """Results of a block, so many rows and columns from where it begins."""
        kind = x.kind
        made: Value | None = x
        if self.epilogue:
            words = self.epilogue.parameters
            pointers = dict(zip(words, f.parameters[3 : 3 + len(words)], strict=True))
            *batch, at_row, at_column = f.parameters[3 + len(words) :]
            mask = None if width == kind.lanes else first_lanes(width, kind.lanes)
            place = Place(tuple(batch), f.add(at_row, row), f.add(at_column, column), width, mask)
            made = self.epilogue.write(f, x, place, pointers)
        if made is not None:
            store_lanes(f, made, f.at(f.parameters[2], f.add(f.mul(row, self.product.c), column), kind), width)

    def drive(self, cuts: Cuts, a: Side, b: Side, write: WriteBlock) -> Work:
        """The kernel that calls one block for each unit."""
        f = self.kernel()
        with f.loop(f.parameters[-2], f.parameters[-1]) as units:
            spot = self.spot(f, cuts, units.index)
            arguments = self.arguments(f, cuts, a, b, spot)
            for size, widths in self.shapes(f, cuts, spot):
                f.call(self.once("", write, size, widths), VOID, *arguments)
        f.close()
        return self.work(cuts, a, b)

    def drive_deep(self, cuts: Cuts, a: Side, b: Side, pieces: Cut) -> Work:
        """The same with k in pieces: many blocks keep their sums while all of them take a piece, whose rows and columns stay near meanwhile."""
        kind = self.kind
        room = cuts.rows.size * cuts.panels.size
        most = max(_KEPT // (room * kind.nbytes), 1)
        f = self.kernel()
        kept = f.value(PTR, f"alloca [{most * room * kind.lanes} x {kind.element}], align {kind.nbytes}")
        with f.loop(f.parameters[-2], f.parameters[-1], most) as several:
            first, last = several.index, f.least(f.add(several.index, most), f.parameters[-1])
            with f.loop(0, f.mul(f.sub(last, first), room)) as loop:
                f.store(literal(0, kind), f.at(kept, f.mul(loop.index, kind.lanes), kind))

            @contextmanager
            def blocks() -> Generator[tuple[Spot, Value, list[Value]]]:
                """Their places, their sums, what they are called with."""
                with f.loop(first, last) as units:
                    spot = self.spot(f, cuts, units.index)
                    yield spot, f.at(kept, f.mul(f.sub(units.index, first), room * kind.lanes), kind), self.arguments(f, cuts, a, b, spot)

            with f.loop(0, pieces.pieces) as piece:
                begin, length = pieces.begin(f, piece.index), pieces.length(f, piece.index)
                with blocks() as (spot, sums, (given_a, given_b, *_)):
                    for size, widths in self.shapes(f, cuts, spot):
                        from_a = f.at(given_a, f.mul(begin, a.along), kind)
                        from_b = f.at(given_b, f.mul(begin, kind.lanes * len(widths) if b.panels else b.along), kind)
                        f.call(self.once("_add", partial(self.adding, a, b), size, widths), VOID, from_a, from_b, sums, index(length))
            with blocks() as (spot, sums, (_, *others)):
                for size, widths in self.shapes(f, cuts, spot):
                    f.call(self.once("", self.ending, size, widths), VOID, sums, *others)
        f.close()
        return self.work(cuts, a, b, together=most)

    def kernel(self) -> Function:
        """It begins."""
        further = [(f"given_{word}", PTR) for word in self.words]
        return Function(self.module, self.name, [("a", PTR), ("b", PTR), ("c", PTR), *further, ("first", I64), ("last", I64)])

    def work(self, cuts: Cuts, a: Side, b: Side, *, together: int = 1) -> Work:
        """A kernel whose units are blocks."""
        units = cuts.rows.pieces * cuts.panels.pieces * prod(self.product.batch)
        return Work(Kernel(self.name, units, together), (a.role, b.role, "c", *self.words))

    def spot(self, f: Function, cuts: Cuts, unit: Index) -> Spot:
        """Of the block that is this unit."""
        rows, panels, _, high = cuts
        batch, at = f.div(unit, rows.pieces * panels.pieces), f.rem(unit, rows.pieces * panels.pieces)
        begin = f.mul(f.div(at, high * panels.pieces), high) if high < rows.pieces else 0
        at = f.sub(at, f.mul(begin, panels.pieces))
        here = high if rows.pieces % high == 0 else f.least(f.sub(rows.pieces, begin), high)
        return Spot(f.add(begin, f.rem(at, here)), f.div(at, here), batch_places(f, batch, self.product.batch))

    def shapes(self, f: Function, cuts: Cuts, spot: Spot) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Each shape that blocks have: what is written meanwhile runs where the block at this place has it."""
        for widths, its_panels in widths_of(cuts.panels, cuts.lanes, self.product.n):
            with _within(f, spot.panel, its_panels, cuts.panels.pieces):
                for size, its_rows in sizes_of(cuts.rows):
                    with _within(f, spot.tile, its_rows, cuts.rows.pieces):
                        yield size, widths

    def arguments(self, f: Function, cuts: Cuts, a: Side, b: Side, spot: Spot) -> list[Value]:
        """What the block there is called with."""
        p, kind, batch = self.product, self.kind, spot.batch
        row, column = cuts.rows.begin(f, spot.tile), f.mul(cuts.panels.begin(f, spot.panel), cuts.lanes)
        from_a = f.add(f.add(offset(f, batch, a.batch), f.mul(row, a.across)), a.start)
        from_b = f.add(f.add(offset(f, batch, b.batch), f.mul(column, p.k if b.panels else b.across)), b.start)
        row, column = (column, row) if self.down else (row, column)
        to = f.add(offset(f, batch, p.c_batch), f.add(f.mul(row, p.c), column))
        given_a, given_b, given_c, *further = f.parameters[:-2]
        pointers = [f.at(given_a, from_a, kind), f.at(given_b, from_b, kind), f.at(given_c, to, kind), *further]
        return [*pointers, *(index(x) for x in (*batch, row, column))]

    def once(self, what: str, write: WriteBlock, rows: int, widths: tuple[int, ...]) -> str:
        """The name of a block, which is written when it is needed first."""
        name = f"{self.name}{what}_{rows}x{sum(widths)}"
        if name not in self.module.functions:
            write(name, rows, widths)
        return name

    # Blocks.

    def block(self, a: Side, b: Side, name: str, rows: int, widths: tuple[int, ...]) -> None:
        """A micro-kernel: rows of A are broadcast, those of B are vectors."""
        p, kind = self.product, self.kind
        read = tuple(kind.lanes for _ in widths) if b.panels else widths
        block = Block(kind, tuple(i * a.across for i in range(rows)), read)
        ways = ways_of(rows * len(widths), p.k)
        nest = nest_of(p.k, ways, a.along, kind.lanes * len(widths) if b.panels else b.along)

        start = partial(self.call_ahead, a, rows, kind.lanes * len(widths)) if a.ahead or self.far else None
        finish = partial(self.results, rows, widths)
        write_microkernel(self.module, name, block, nest, finish, parameters=self.parameters()[2:], start=start, ways=ways, multiply=self.multiply)

    def call_ahead(self, a: Side, rows: int, columns: int, f: Function) -> Sums:
        """Call what the block will write into the cache, and its share of rows of A that are read later on: the blocks beside it call the others."""
        p, kind = self.product, self.kind
        line = 64 // kind.wide(1).nbytes
        for i in range(rows if self.far else 0):
            for at in range(0, columns, line):
                fetch(f, f.at(f.parameters[2], i * p.c + at, kind), write=True)
        if a.ahead:
            from_a = f.at(f.parameters[0], f.add(a.ahead, f.div(f.mul(f.parameters[-1], p.k), p.n)), kind)
            with f.loop(0, -(-p.k * columns // p.n), line) as loop:
                for i in range(rows):
                    fetch(f, f.at(from_a, f.add(loop.index, i * a.across), kind))
        return {}

    def adding(self, a: Side, b: Side, name: str, rows: int, widths: tuple[int, ...]) -> None:
        """A micro-kernel that adds a piece of k to sums in memory."""
        kind = self.kind
        read = tuple(kind.lanes for _ in widths) if b.panels else widths
        block = Block(kind, tuple(i * a.across for i in range(rows)), read)
        nest = Rounds("depth", a.along, kind.lanes * len(widths) if b.panels else b.along)

        def finish(f: Function, sums: Sums) -> None:
            for (i, v), x in sums.items():
                f.store(x, f.at(f.parameters[2], (i * len(widths) + v) * kind.lanes, kind))

        parameters = [("sums", PTR), ("depth", I64)]
        start = partial(_kept, place=2, block=block)
        write_microkernel(
            self.module, name, block, nest, finish, parameters=parameters, start=start, ahead=Ahead(a.ahead, b.ahead), multiply=self.multiply
        )

    def ending(self, name: str, rows: int, widths: tuple[int, ...]) -> None:
        """A block whose sums are in memory."""
        kind = self.kind
        block = Block(kind, (0,) * rows, widths)

        start, finish = partial(_kept, place=0, block=block), partial(self.results, rows, widths)
        write_microkernel(self.module, name, block, Parts(()), finish, parameters=self.parameters()[2:], start=start)

    def results(self, rows: int, widths: tuple[int, ...], f: Function, sums: Sums) -> None:
        """What is done with the sums of a block."""
        lanes = self.kind.lanes
        if self.down:
            self.turned(f, sums, rows, widths)
            return
        for (i, v), x in sums.items():
            self.finish(f, x, i, v * lanes, widths[v])

    def turned(self, f: Function, sums: Sums, rows: int, widths: tuple[int, ...]) -> None:
        """Columns of sums become rows of C: squares are transposed, and one row after the other finished."""
        kind, lanes = self.kind, self.kind.lanes
        apart = rows if rows == 1 else -(-rows // lanes) * lanes
        if rows == 1 and self.epilogue is None and self.product.c == 1:
            for (_, v), x in sums.items():
                store_lanes(f, x, f.at(f.parameters[2], v * lanes, kind), widths[v])
            return
        kept = f.value(PTR, f"alloca [{len(widths) * lanes * apart} x {kind.element}], align {kind.nbytes}")
        nobodys = Value("poison", kind)
        for v in range(len(widths)):
            if rows == 1:
                f.store(sums[0, v], f.at(kept, v * lanes, kind))
                continue
            for begin in range(0, rows, lanes):
                square = [sums.get((begin + i, v), nobodys) for i in range(lanes)]
                for i, x in enumerate(transposed(f, square)[: widths[v]]):
                    f.store(x, f.at(kept, (v * lanes + i) * apart + begin, kind))
        with f.loop(0, sum(widths)) as loop:
            for begin in range(0, rows, lanes):
                width = min(rows - begin, lanes)
                size = 1 << (width - 1).bit_length()
                x = f.load(kind.wide(size), f.at(kept, f.add(f.mul(loop.index, apart), begin), kind))
                self.finish(f, x, loop.index, begin, width)


def _kept(f: Function, *, place: int, block: Block) -> Sums:
    """Sums in the memory that a parameter points to, whole vectors one after the other."""
    pointer = f.parameters[place]
    wide, kind = len(block.widths), block.kind
    return {(i, v): f.load(kind, f.at(pointer, (i * wide + v) * kind.lanes, kind)) for i in range(len(block.rows)) for v in range(wide)}


def sizes_of(rows: Cut) -> list[tuple[int, range]]:
    """The pieces by their sizes."""
    pieces = [(rows.size, range(rows.long)), (rows.size - 1, range(rows.long, rows.pieces))]
    return [(size, which) for size, which in pieces if which]


def widths_of(panels: Cut, lanes: int, total: int) -> list[tuple[tuple[int, ...], range]]:
    """The panels by the lanes that count in their vectors; the last one of all may be short."""
    tail = total % lanes
    made: list[tuple[tuple[int, ...], range]] = []
    for size, which in sizes_of(panels):
        short = tail and which.stop == panels.pieces
        whole = range(which.start, which.stop - 1) if short else which
        made += [((lanes,) * size, whole)] if whole else []
        made += [((*(lanes,) * (size - 1), tail), range(which.stop - 1, which.stop))] if short else []
    return made


@contextmanager
def _within(f: Function, piece: Index, which: range, pieces: int) -> Generator[None]:
    """Run only for these pieces."""
    if len(which) == pieces:
        yield
    else:
        here = f.compare("ult", index(f.sub(piece, which.start)), index(len(which)))
        with f.when(here):
            yield


def nest_of(k: int, ways: int, a: int, b: int) -> Nest:
    """All of k, with these steps of A and B, in so many ways."""
    whole, rest = divmod(k, ways)
    body = Rounds(whole, ways * a, ways * b, Taps(tuple((way * a, way * b) for way in range(ways))))
    if not rest:
        return body
    begin = whole * ways
    tail = Taps(tuple((way * a, way * b) for way in range(rest)))
    return Parts((Part(0, 0, body), Part(begin * a, begin * b, tail)))


def ways_of(sums: int, k: int) -> int:
    """In how many ways a block adds up, so that about 8 sums go on at once."""
    return max(min(8 // sums, k), 1)
