"""Blocks of a product as functions, and the kernels that share them out: one unit of work after the other.

Which blocks a product is cut into is decided elsewhere; each sum is added up by one thread in one order.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import NamedTuple

from chainrule.compiler.native.ir import I64, PTR, VOID, Function, Index, Kind, Module, Value, first_lanes, index, literal
from chainrule.compiler.native.kernel import Kernel
from chainrule.compiler.native.microkernel import (
    Block,
    Multiply,
    Nest,
    Part,
    Parts,
    Rounds,
    Sums,
    Taps,
    fused,
    store_lanes,
    transposed,
    write_microkernel,
)
from chainrule.compiler.native.packing import Cut, batch_places, cut, offset
from chainrule.compiler.native.product import Epilogue, Place, Product, Work


class Side(NamedTuple):
    """A or B as blocks read it: a role, strides across k and along k, where it begins; or panels of columns, each all along k.

    So many elements ahead it is called into the cache.
    """

    role: str
    across: int
    along: int
    batch: tuple[int, ...]
    start: int = 0
    panels: bool = False
    ahead: int = 0


class Cuts(NamedTuple):
    """How C is cut: rows, and columns in vectors of so many lanes. ``along``: blocks beside each other follow one another, not those below."""

    rows: Cut
    panels: Cut
    lanes: int
    along: bool = False


WriteBlock = Callable[[str, int, tuple[int, ...]], None]
"""Defines the function of a block: its name, its rows, and how many lanes of each of its vectors count."""

_ABOVE, _BESIDE = 16, 64
"""Blocks of a group that lie above each other, or beside each other, at most: their sums take up to 100 KB of the stack."""


class Writer(NamedTuple):
    """Writes one product's functions. ``down``: it is the transposed product, whose columns are rows of C."""

    module: Module
    name: str
    product: Product
    kind: Kind
    epilogue: Epilogue | None
    down: bool = False
    multiply: Multiply = fused

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
        p, (rows, panels, lanes, along) = self.product, cuts
        f = self.kernel()
        with self.units(f, *((panels.pieces, rows.pieces) if along else (rows.pieces, panels.pieces))) as (one, other, batch):
            tile, panel = (other, one) if along else (one, other)
            row, column = rows.begin(f, tile), f.mul(panels.begin(f, panel), lanes)
            arguments = self.arguments(f, cuts, a, b, batch, row, column)
            for widths, its_panels in widths_of(panels, lanes, p.n):
                with _within(f, panel, its_panels, panels.pieces):
                    for size, its_rows in sizes_of(rows):
                        with _within(f, tile, its_rows, rows.pieces):
                            f.call(self.once("", write, size, widths), VOID, *arguments)
        f.close()
        return Work(Kernel(self.name, rows.pieces * panels.pieces * prod(p.batch)), (a.role, b.role, "c", *self.words))

    def drive_deep(self, cuts: Cuts, a: Side, b: Side, pieces: Cut, *, beside: bool) -> Work:
        """The same with k in pieces: a unit is a group of blocks, whose sums are kept while they all take a piece.

        The blocks of a group lie above each other and share what they read of B; or ``beside`` each other, all rows of C in one group, and
        read long pieces of rows of B.
        """
        p, (rows, panels, lanes, _), kind = self.product, cuts, self.kind
        room = rows.size * panels.size
        high = rows.pieces if beside else 1
        groups = cut(panels.pieces, min(-(-panels.pieces // 4), max(_BESIDE // high, 1))) if beside else cut(rows.pieces, _ABOVE)
        apart = 1 if beside else panels.pieces
        f = self.kernel()
        kept = f.value(PTR, f"alloca [{groups.size * high * room * lanes} x {kind.element}], align {kind.nbytes}")

        with self.units(f, groups.pieces, apart) as (group, panel, batch):
            first, count = groups.begin(f, group), f.mul(groups.length(f, group), high)

            def each(member: Index, write: Callable[[int, tuple[int, ...]], str], call: Callable[[str, Value, list[Value], int], None]) -> None:
                """Of one block of the group: its function, its sums, where it begins, the width of its panel."""
                tile, at = (f.rem(member, high), f.add(first, f.div(member, high))) if beside else (f.add(first, member), panel)
                arguments = self.arguments(f, cuts, a, b, batch, rows.begin(f, tile), f.mul(panels.begin(f, at), lanes))
                sums = f.at(kept, f.mul(member, room * lanes), kind)
                for widths, its_panels in widths_of(panels, lanes, p.n):
                    with _within(f, at, its_panels, panels.pieces):
                        for size, its_rows in sizes_of(rows):
                            with _within(f, tile, its_rows, rows.pieces):
                                call(write(size, widths), sums, arguments, lanes * len(widths))

            with f.loop(0, groups.size * high * room) as loop:
                f.store(literal(0, kind), f.at(kept, f.mul(loop.index, lanes), kind))
            with f.loop(0, pieces.pieces) as piece, f.loop(0, count) as loop:
                begin, length = pieces.begin(f, piece.index), pieces.length(f, piece.index)

                def add(name: str, sums: Value, arguments: list[Value], width: int) -> None:
                    from_a = f.at(arguments[0], f.mul(begin, a.along), kind)
                    from_b = f.at(arguments[1], f.mul(begin, width if b.panels else b.along), kind)
                    f.call(name, VOID, from_a, from_b, sums, index(length))

                each(loop.index, partial(self.once, "_add", partial(self.adding, a, b)), add)
            with f.loop(0, count) as loop:

                def end(name: str, sums: Value, arguments: list[Value], _: int) -> None:
                    f.call(name, VOID, sums, *arguments[1:])

                each(loop.index, partial(self.once, "", self.ending), end)
        f.close()
        return Work(Kernel(self.name, groups.pieces * apart * prod(p.batch)), (a.role, b.role, "c", *self.words))

    def kernel(self) -> Function:
        """It begins."""
        further = [(f"given_{word}", PTR) for word in self.words]
        return Function(self.module, self.name, [("a", PTR), ("b", PTR), ("c", PTR), *further, ("first", I64), ("last", I64)])

    @contextmanager
    def units(self, f: Function, tiles: int, panels: int) -> Generator[tuple[Index, Index, tuple[Index, ...]]]:
        """A loop over the units: tile, panel, places in the batch."""
        with f.loop(f.parameters[-2], f.parameters[-1]) as units:
            tile, rest = f.rem(units.index, tiles), f.div(units.index, tiles)
            panel, rest = f.rem(rest, panels), f.div(rest, panels)
            yield tile, panel, batch_places(f, rest, self.product.batch)

    def arguments(self, f: Function, cuts: Cuts, a: Side, b: Side, batch: tuple[Index, ...], row: Index, column: Index) -> list[Value]:
        """What a block that begins there is called with."""
        p, kind = self.product, self.kind
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

        finish = partial(self.results, rows, widths)
        write_microkernel(self.module, name, block, nest, finish, parameters=self.parameters()[2:], ways=ways, ahead=b.ahead, multiply=self.multiply)

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
        write_microkernel(self.module, name, block, nest, finish, parameters=parameters, start=start, ahead=b.ahead, multiply=self.multiply)

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
        zero = literal(0, kind)
        for v in range(len(widths)):
            if rows == 1:
                f.store(sums[0, v], f.at(kept, v * lanes, kind))
                continue
            for begin in range(0, rows, lanes):
                square = [sums.get((begin + i, v), zero) for i in range(lanes)]
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
