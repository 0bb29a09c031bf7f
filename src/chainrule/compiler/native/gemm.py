"""Matrix products as kernels: which block of sums is held in registers, what is packed first, who computes which block.

A product is cut in blocks of equal size, its units of work; each is added up along all of k by one thread, in one order. What is done with
the sums before they are stored is an `Epilogue`, written by others.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import NamedTuple

from chainrule.compiler.native.ir import I64, PTR, VOID, Function, Index, Kind, Module, Value, first_lanes, index, kind_of
from chainrule.compiler.native.kernel import Kernel
from chainrule.compiler.native.microkernel import (
    Block,
    Nest,
    Part,
    Parts,
    Rounds,
    Sums,
    Taps,
    balanced,
    lanes_of,
    shuffle,
    store_lanes,
    write_microkernel,
)
from chainrule.compiler.native.packing import Cut, Source, batch_places, cut, offset, panels_of, write_packing
from chainrule.core.aval import Dtype


class Product(NamedTuple):
    """``C[m, n] = A[m, k] @ B[k, n]``, for each place of a batch. Strides are in elements and may be 0 or negative.

    Attributes
    ----------
    m, k, n : int
    dtype : Dtype
        float32 or float64, of all three.
    a, b : (int, int)
        Strides of rows and columns.
    c : int
        Stride of C's rows; its columns are neighbours.
    batch : tuple of int
        Sizes of the batch axes.
    a_batch, b_batch, c_batch : tuple of int
        Strides of the batch axes; 0 where A or B is the same throughout the axis.
    """

    m: int
    k: int
    n: int
    dtype: Dtype
    a: tuple[int, int]
    b: tuple[int, int]
    c: int
    batch: tuple[int, ...] = ()
    a_batch: tuple[int, ...] = ()
    b_batch: tuple[int, ...] = ()
    c_batch: tuple[int, ...] = ()


class Place(NamedTuple):
    """Where results stand: a piece of one row of C.

    Attributes
    ----------
    batch : tuple of Index
        Along the batch axes of the product.
    row, column : Index
        Of the first lane; the others are the columns after it.
    width : int
        How many lanes count; nothing behind them may be read or written.
    mask : Value or None
        Of the lanes that count; None if all do.
    """

    batch: tuple[Index, ...]
    row: Index
    column: Index
    width: int
    mask: Value | None


class Epilogue(NamedTuple):
    """What is done with results before they are stored.

    Attributes
    ----------
    parameters : tuple of str
        Names of further pointers that the kernel gets.
    write : callable
        ``(f, x, place, pointers)`` writes it for some results ``x`` of any number of lanes, and returns what is stored in C in their place,
        or None if nothing is (it may store elsewhere itself). ``pointers`` are the further ones, by their names.
    """

    parameters: tuple[str, ...]
    write: Callable[[Function, Value, Place, Mapping[str, Value]], Value | None]


class Work(NamedTuple):
    """A kernel, and what its pointers are: ``"a"``, ``"b"``, ``"c"``, ``"scratch"``, and the epilogue's names."""

    kernel: Kernel
    roles: tuple[str, ...]


class Written(NamedTuple):
    """Kernels that run one after the other, each when the one before is done; so many bytes of scratch last from the first to the last."""

    works: tuple[Work, ...]
    scratch: int


def folded(product: Product) -> Product:
    """The same product with as few batch axes as can be: neighbours become one, and those that only A and C have become rows."""
    axes = [list(axis) for axis in zip(product.batch, product.a_batch, product.b_batch, product.c_batch, strict=True) if axis[0] != 1]
    merged: list[list[int]] = []
    for axis in axes:
        if merged and all(merged[-1][i] == axis[0] * axis[i] for i in (1, 2, 3)):
            merged[-1] = [merged[-1][0] * axis[0], *axis[1:]]
        else:
            merged.append(axis)
    m, a, c = product.m, product.a, product.c
    if m == 1 and merged and merged[-1][2] == 0:
        extent, stride, _, c = merged.pop()
        m, a = extent, (stride, a[1])
    while merged and merged[-1][1:] == [m * a[0], 0, m * c]:
        m *= merged.pop()[0]
    batch, a_batch, b_batch, c_batch = (tuple(axis[i] for axis in merged) for i in range(4))
    return product._replace(m=m, a=a, c=c, batch=batch, a_batch=a_batch, b_batch=b_batch, c_batch=c_batch)


def write_product(module: Module, name: str, product: Product, *, bits: int, registers: int, epilogue: Epilogue | None = None) -> Written:
    """Write the kernels of a product.

    Parameters
    ----------
    module : Module
    name : str
        That names of functions begin with.
    product : Product
        Without an epilogue it is folded here; with one, the caller folds it before writing the epilogue if that pays.
    bits : int
        Of vector registers.
    registers : int
        How many of them there are.
    epilogue : Epilogue, optional
    """
    if epilogue is None:
        product = folded(product)
    kind = kind_of(product.dtype)
    kind = kind.wide(max(bits // kind.bits, 1))
    if not product.m * product.n * prod(product.batch):
        return Written((), 0)
    return _Writer(module, name, _plain(product), kind, registers, epilogue or Epilogue((), lambda f, x, place, pointers: x)).write()


def _plain(product: Product) -> Product:
    """Strides of axes with one element mean nothing: take those that are best."""
    (a_row, a_column), (b_row, b_column) = product.a, product.b
    if product.m == 1:
        a_row = product.k if a_column == 1 else 1
    if product.n == 1:
        b_column = 1 if b_row != 1 else product.k
    if product.k <= 1:
        a_column, b_row = (1, product.n) if b_column == 1 else (1, 1)
    return product._replace(a=(a_row, a_column), b=(b_row, b_column))


class _Side(NamedTuple):
    """A or B as blocks read it: a role, where it begins, strides across k and along k; or panels of columns, each all along k."""

    role: str
    across: int
    along: int
    batch: tuple[int, ...]
    start: int = 0
    panels: bool = False


class _Cuts(NamedTuple):
    """How C is cut: rows, and columns in vectors of so many lanes."""

    rows: Cut
    panels: Cut
    lanes: int


class _Writer(NamedTuple):
    module: Module
    name: str
    product: Product
    kind: Kind
    registers: int
    epilogue: Epilogue | None

    def write(self) -> Written:
        p = self.product
        if p.a[1] == 1 and p.b[0] == 1 and (p.n == 1 or (p.b[1] != 1 and _DOT * p.m <= p.k)):
            return self.dots()
        if p.n == 1 and p.a[0] == 1:
            return self.column()
        return self.blocks()

    # The three ways: blocks of sums along C's rows, sums along a column of C, and sums whose lanes run along k.

    def blocks(self) -> Written:
        p, kind = self.product, self.kind
        rows, vectors = _best_block(p, kind, self.registers)
        a = _Side("a", *p.a, p.a_batch)
        b = _Side("b", p.b[1], p.b[0], p.b_batch)
        works: list[Work] = []
        scratch = 0
        if _pays(p, kind):
            source = Source(p.k, p.n, p.b, p.batch, p.b_batch)
            panels = panels_of(source, kind, vectors)
            works.append(Work(write_packing(self.module, f"{self.name}_b", source, panels, kind), ("b", "scratch")))
            b = _Side("scratch", 1, 0, panels.batch_strides, panels=True)
            scratch = panels.nbytes
        cuts = _Cuts(cut(p.m, rows), cut(-(-p.n // kind.lanes), vectors), kind.lanes)
        works.append(self.drive(cuts, a, b, partial(self.block, a, b)))
        return Written(tuple(works), scratch)

    def block(self, a: _Side, b: _Side, name: str, rows: int, widths: tuple[int, ...]) -> None:
        """A micro-kernel: rows of A are broadcast, those of B are vectors."""
        p, kind = self.product, self.kind
        read = tuple(kind.lanes for _ in widths) if b.panels else widths
        block = Block(kind, tuple(i * a.across for i in range(rows)), read)
        ways = _ways(rows * len(widths), p.k)
        nest = _along(p.k, ways, a.along, kind.lanes * len(widths) if b.panels else b.along)

        def finish(f: Function, sums: Sums) -> None:
            for (i, v), x in sums.items():
                self.finish(f, x, i, v * kind.lanes, widths[v])

        write_microkernel(self.module, name, block, nest, finish, parameters=self.parameters()[2:], ways=ways)

    def column(self) -> Written:
        """A matrix times a column: rows of A become lanes."""
        p, kind = self.product, self.kind
        a, b = _Side("b", 0, p.b[0], p.b_batch), _Side("a", 1, p.a[1], p.a_batch)
        cuts = _Cuts(Cut(1, 1, 1), cut(-(-p.m // kind.lanes), 8), kind.lanes)
        return Written((self.drive(cuts, a, b, partial(self.lanes_down, a, b), down=True),), 0)

    def lanes_down(self, a: _Side, b: _Side, name: str, rows: int, widths: tuple[int, ...]) -> None:
        kind = self.kind
        ways = _ways(len(widths), self.product.k)

        def finish(f: Function, sums: Sums) -> None:
            if self.epilogue is None and self.product.c == 1:
                for (_, v), x in sums.items():
                    store_lanes(f, x, f.at(f.parameters[2], v * kind.lanes, kind), widths[v])
                return
            kept = f.value(PTR, f"alloca [{len(widths) * kind.lanes} x {kind.element}], align {kind.nbytes}")
            for (_, v), x in sums.items():
                f.store(x, f.at(kept, v * kind.lanes, kind))
            with f.loop(0, sum(widths)) as loop:
                self.finish(f, f.load(kind.wide(1), f.at(kept, loop.index, kind)), loop.index, 0, 1)

        nest = _along(self.product.k, ways, a.along, b.along)
        write_microkernel(self.module, name, Block(kind, (0,) * rows, widths), nest, finish, parameters=self.parameters()[2:], ways=ways)

    def dots(self) -> Written:
        """Rows of A times columns of B, both of which lie along memory."""
        p = self.product
        a, b = _Side("a", *p.a, p.a_batch), _Side("b", p.b[1], p.b[0], p.b_batch)
        columns = 1 if p.n == 1 else min(4, self.kind.lanes)
        rows = 8 if p.n == 1 else 4 if self.registers > 16 else 2
        cuts = _Cuts(cut(p.m, rows), cut(-(-p.n // columns), 1), columns)
        return Written((self.drive(cuts, a, b, partial(self.dot, a, b, columns)),), 0)

    def dot(self, a: _Side, b: _Side, columns: int, name: str, rows: int, widths: tuple[int, ...]) -> None:
        p, kind, lanes = self.product, self.kind, self.kind.lanes
        f = Function(self.module, name, self.parameters(), linkage="internal")
        (count,) = widths
        places = [(i, j) for i in range(rows) for j in range(columns)]
        zero = Value("zeroinitializer", kind)

        def add(sums: Sequence[Value], at: Index, mask: Value | None) -> list[Value]:
            def take(pointer: Value) -> Value:
                return f.load(kind, pointer) if mask is None else f.load_some(kind, pointer, mask)

            x = [take(f.at(f.parameters[0], f.add(at, i * a.across), kind)) for i in range(rows)]
            y = [take(f.at(f.parameters[1], f.add(at, j * b.across), kind)) for j in range(count)]
            return [f.intrinsic("fmuladd", x[i], y[j], total) if j < count else total for (i, j), total in zip(places, sums, strict=True)]

        ways = min(max(8 // len(places), 1), max(p.k // lanes, 1))
        step = ways * lanes
        whole = p.k // step * step
        with f.loop(0, whole, step, [zero] * (ways * len(places))) as loop:
            parts = [loop.carried[way::ways] for way in range(ways)]
            parts = [add(part, f.add(loop.index, way * lanes), None) for way, part in enumerate(parts)]
            loop.next(*(x for group in zip(*parts, strict=True) for x in group))
        parts = [loop.results[way::ways] for way in range(ways)]
        sums = parts[0]
        for part in parts[1:]:
            sums = [f.binary("fadd", x, y) for x, y in zip(sums, part, strict=True)]
        for at in range(whole, p.k, lanes):
            sums = add(sums, at, first_lanes(p.k - at, lanes) if p.k - at < lanes else None)
        group = max(lanes // columns, 1)
        for begin in range(0, rows, group):
            here = min(group, rows - begin)
            totals = _across_lanes(f, sums[begin * columns : (begin + here) * columns])
            for i in range(here):
                self.finish(f, lanes_of(f, totals, range(i * columns, (i + 1) * columns)), begin + i, 0, count)
        f.close()

    # What the ways share.

    def parameters(self) -> list[tuple[str, Kind]]:
        """Of a block: where it begins in A, B and C, the epilogue's pointers, its place."""
        further = [(f"given_{word}", PTR) for word in (self.epilogue.parameters if self.epilogue else ())]
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

    def drive(self, cuts: _Cuts, a: _Side, b: _Side, write: Callable[[str, int, tuple[int, ...]], None], *, down: bool = False) -> Work:
        """The kernel: it calls for each unit the block that ``write`` writes. ``down``: what runs along the panels is C's rows."""
        p, (rows, panels, lanes) = self.product, cuts
        words = self.epilogue.parameters if self.epilogue else ()
        f = Function(
            self.module, self.name, [("a", PTR), ("b", PTR), ("c", PTR), *((f"given_{word}", PTR) for word in words), ("first", I64), ("last", I64)]
        )
        given_a, given_b, given_c, *further, first, last = f.parameters
        with f.loop(first, last) as units:
            tile, rest = f.rem(units.index, rows.pieces), f.div(units.index, rows.pieces)
            panel, rest = f.rem(rest, panels.pieces), f.div(rest, panels.pieces)
            batch = batch_places(f, rest, p.batch)
            row, column = rows.begin(f, tile), f.mul(panels.begin(f, panel), lanes)
            from_a = f.add(f.add(offset(f, batch, a.batch), f.mul(row, a.across)), a.start)
            from_b = f.add(f.add(offset(f, batch, b.batch), f.mul(column, p.k if b.panels else b.across)), b.start)
            row, column = (column, row) if down else (row, column)
            to = f.add(offset(f, batch, p.c_batch), f.add(f.mul(row, p.c), column))
            kind = self.kind
            pointers = [f.at(given_a, from_a, kind), f.at(given_b, from_b, kind), f.at(given_c, to, kind), *further]
            arguments = [*pointers, *(index(x) for x in (*batch, row, column))]
            for size, its_rows in _sizes(rows):
                with _within(f, tile, its_rows, rows.pieces):
                    for widths, its_panels in _widths(panels, lanes, p.m if down else p.n):
                        block = f"{self.name}_{size}x{sum(widths)}"
                        if block not in self.module.functions:
                            write(block, size, widths)
                        with _within(f, panel, its_panels, panels.pieces):
                            f.call(block, VOID, *arguments)
        f.close()
        return Work(Kernel(self.name, rows.pieces * panels.pieces * prod(p.batch)), (a.role, b.role, "c", *words))


def _sizes(rows: Cut) -> list[tuple[int, range]]:
    """The pieces by their sizes."""
    pieces = [(rows.size, range(rows.long)), (rows.size - 1, range(rows.long, rows.pieces))]
    return [(size, which) for size, which in pieces if which]


def _widths(panels: Cut, lanes: int, total: int) -> list[tuple[tuple[int, ...], range]]:
    """The panels by the lanes that count in their vectors; the last one of all may be short."""
    tail = total % lanes
    made: list[tuple[tuple[int, ...], range]] = []
    for size, which in _sizes(panels):
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


def _along(k: int, ways: int, a: int, b: int) -> Nest:
    """All of k, with these steps of A and B, in so many ways."""
    whole, rest = divmod(k, ways)
    body = Rounds(whole, ways * a, ways * b, Taps(tuple((way * a, way * b) for way in range(ways))))
    if not rest:
        return body
    begin = whole * ways
    tail = Taps(tuple((way * a, way * b) for way in range(rest)))
    return Parts((Part(0, 0, body), Part(begin * a, begin * b, tail)))


def _across_lanes(f: Function, vectors: Sequence[Value]) -> Value:
    """The sum of the lanes of each vector (of no more than they have lanes), as the first lanes of one."""
    lanes = vectors[0].kind.lanes
    count = 1 << (len(vectors) - 1).bit_length()
    level = [*vectors, *(Value("zeroinitializer", vectors[0].kind) for _ in range(count - len(vectors)))]
    segment, wide = lanes, lanes
    while segment > 1:
        half = segment // 2
        pairs = list(zip(level[::2], level[1::2], strict=True)) if len(level) > 1 else [(level[0], level[0])]
        taken = range(0, 2 * wide if len(level) > 1 else wide, segment)
        low = [at + i for at in taken for i in range(half)]
        level = [f.binary("fadd", shuffle(f, x, y, low), shuffle(f, x, y, [i + half for i in low])) for x, y in pairs]
        segment, wide = half, len(low)
    return level[0]


_DOT = 12
"""With so many times more along k than rows, dots of rows are faster than packing a transposed B."""


def _ways(sums: int, k: int) -> int:
    """In how many ways a block adds up, so that about 8 sums go on at once."""
    return max(min(8 // sums, k), 1)


def _pays(p: Product, kind: Kind) -> bool:
    """Whether B is packed: it must be where its columns do not lie along memory."""
    return p.k > 0 and (p.b[1] != 1)


def _best_block(p: Product, kind: Kind, registers: int) -> tuple[int, int]:
    """The most rows and vectors of a block."""
    vectors = -(-p.n // kind.lanes)
    best = (float("inf"), 1, 1)
    for wide in range(1, 9):
        rows = min((registers - 1 - wide) // wide, 14 if wide > 1 else 24)
        for high in range(max(rows // 2, 1), rows + 1):
            best = min(best, (_cost(p.m, vectors, high, wide), high, wide))
    return best[1:]


def _cost(m: int, vectors: int, rows: int, wide: int) -> float:
    """Instructions that blocks of this shape take at one place of k, weighted."""
    total = 0.0
    for high in balanced(m, rows):
        for across in balanced(vectors, wide):
            total += max(high * across, 4) + 0.15 * (high + across) + 1
    return total
