"""Matrix products as kernels: which way to compute one, how large its blocks are, what is packed first.

There are three ways: blocks of sums whose lanes run along rows of C, sums whose lanes run down a column of C, and sums whose lanes run along k.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

from chainrule.compiler.native.blocks import Cuts, Side, Writer, nest_of, ways_of
from chainrule.compiler.native.ir import PTR, Function, Index, Kind, Module, Value, first_lanes, kind_of
from chainrule.compiler.native.microkernel import Block, Sums, lanes_of, shuffle, store_lanes, write_microkernel
from chainrule.compiler.native.packing import Cut, Source, cut, panels_of, write_packing
from chainrule.compiler.native.product import Epilogue as Epilogue
from chainrule.compiler.native.product import Place as Place
from chainrule.compiler.native.product import Product as Product
from chainrule.compiler.native.product import Work as Work
from chainrule.compiler.native.product import Written as Written
from chainrule.compiler.native.product import folded as folded


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
    p = product = _plain(product)
    writer = Writer(module, name, product, kind, epilogue)
    if not p.m * p.n * prod(p.batch):
        return Written((), 0)
    if p.a[1] == 1 and p.b[0] == 1 and (p.n == 1 or (p.b[1] != 1 and _DOTS * p.m <= p.k)):
        return _dots(writer, registers)
    if p.n == 1 and p.a[0] == 1:
        if epilogue is None and p.c == 1:
            turned = p._replace(m=1, n=p.m, a=(0, p.b[0]), b=(p.a[1], 1), c=p.m, a_batch=p.b_batch, b_batch=p.a_batch)
            written = _blocks(writer._replace(product=turned), registers)
            return written._replace(works=tuple(work._replace(roles=tuple(_OTHER.get(role, role) for role in work.roles)) for work in written.works))
        return _column(writer)
    return _blocks(writer, registers)


def _plain(product: Product) -> Product:
    """Strides of axes with one element mean nothing: take those that are best."""
    (a_row, a_column), (b_row, b_column) = product.a, product.b
    if product.m == 1:
        a_row = product.k if a_column == 1 else 1
    if product.n == 1:
        b_column = product.k if b_row == 1 and a_column == 1 else 1
    if product.k <= 1:
        a_column, b_row = (1, product.n) if b_column == 1 else (1, 1)
    return product._replace(a=(a_row, a_column), b=(b_row, b_column))


_OTHER = {"a": "b", "b": "a"}

_DOTS = 12
"""With so many times more along k than rows, dots of rows are faster than packing a transposed B."""

_PACK = 1 << 20
"""Bytes of B from which on it is packed."""

_DEPTH = 384 << 10
"""Bytes of one panel of B that stay in the second cache while blocks above each other use it."""

_CONFLICT = 4096
"""Bytes between elements that fall on one another in the first cache."""

_OFTEN = 128
"""So often a row of A must be read for a copy of it to pay."""

_AHEAD = 16
"""Rows of B that are called into the cache ahead."""


_ROWS = 8
"""Rows of B that are read side by side where all of it comes from memory: the processor foresees so many streams."""


def _blocks(writer: Writer, registers: int) -> Written:
    """Blocks of sums: rows of A are broadcast, those of B are vectors."""
    p, kind = writer.product, writer.kind
    size = kind.wide(1).nbytes
    rows, vectors = _best_block(p, kind, registers)
    a, b = Side("a", *p.a, p.a_batch), Side("b", p.b[1], p.b[0], p.b_batch)
    works: list[Work] = []
    used = 0
    if _packs_b(p, kind):
        source = Source(p.k, p.n, p.b, p.batch, p.b_batch)
        panels = panels_of(source, kind, vectors)
        works.append(Work(write_packing(writer.module, f"{writer.name}_b", source, panels, kind), ("b", "scratch")))
        b = Side("scratch", 1, 0, panels.batch_strides, panels=True)
        used = -(-panels.nbytes // 64) * 64
    elif p.k * p.n * size > _PACK:
        b = b._replace(ahead=_AHEAD * b.along)
    if _packs_a(p, kind):
        source = Source(p.m, p.k, p.a, p.batch, p.a_batch)
        wide = -(-p.k // kind.lanes)
        gap = int(wide * kind.nbytes % (_CONFLICT // 4) == 0)
        panels = panels_of(source, kind, wide, gap=gap)
        start = used // size
        works.append(Work(write_packing(writer.module, f"{writer.name}_a", source, panels, kind, gap=gap, start=start), ("a", "scratch")))
        a = Side("scratch", (wide + gap) * kind.lanes, 1, panels.batch_strides, start)
        used += panels.nbytes
    cuts = Cuts(cut(p.m, rows), cut(-(-p.n // kind.lanes), vectors), kind.lanes)
    depth = max(_DEPTH // (cuts.panels.size * kind.nbytes), 1)
    if p.k > 2 * depth and p.m > 2 * rows:
        works.append(writer.drive_deep(cuts, a, b, cut(p.k, depth), beside=False))
    elif b.ahead and p.m < 64:
        b = b._replace(ahead=_ROWS // 2 * b.along if p.m > 2 else 0)
        works.append(writer.drive_deep(cuts, a, b, cut(p.k, _ROWS), beside=True))
    else:
        works.append(writer.drive(cuts, a, b, partial(writer.block, a, b)))
    return Written(tuple(works), used)


def _packs_b(p: Product, kind: Kind) -> bool:
    """It must be where its columns do not lie along memory."""
    least = 128 if kind.nbytes == 64 else 64
    return p.k > 0 and (p.b[1] != 1 or (p.m >= least and p.k * p.n * kind.wide(1).nbytes >= _PACK))


def _packs_a(p: Product, kind: Kind) -> bool:
    """Where each step along k is far from the one before."""
    least = _CONFLICT if kind.nbytes == 64 else _CONFLICT // 2
    return min(p.k, p.n) >= _OFTEN and abs(p.a[1]) * kind.wide(1).nbytes >= least


def _column(writer: Writer) -> Written:
    """A matrix times a column: rows of A become lanes."""
    p, kind = writer.product, writer.kind
    a, b = Side("b", 0, p.b[0], p.b_batch), Side("a", 1, p.a[1], p.a_batch)
    cuts = Cuts(Cut(1, 1, 1), cut(-(-p.m // kind.lanes), 8), kind.lanes, down=True)
    return Written((writer.drive(cuts, a, b, partial(_lanes_down, writer, a, b)),), 0)


def _lanes_down(writer: Writer, a: Side, b: Side, name: str, rows: int, widths: tuple[int, ...]) -> None:
    kind = writer.kind
    ways = ways_of(len(widths), writer.product.k)

    def finish(f: Function, sums: Sums) -> None:
        if writer.epilogue is None and writer.product.c == 1:
            for (_, v), x in sums.items():
                store_lanes(f, x, f.at(f.parameters[2], v * kind.lanes, kind), widths[v])
            return
        kept = f.value(PTR, f"alloca [{len(widths) * kind.lanes} x {kind.element}], align {kind.nbytes}")
        for (_, v), x in sums.items():
            f.store(x, f.at(kept, v * kind.lanes, kind))
        with f.loop(0, sum(widths)) as loop:
            writer.finish(f, f.load(kind.wide(1), f.at(kept, loop.index, kind)), loop.index, 0, 1)

    nest = nest_of(writer.product.k, ways, a.along, b.along)
    write_microkernel(writer.module, name, Block(kind, (0,) * rows, widths), nest, finish, parameters=writer.parameters()[2:], ways=ways)


def _dots(writer: Writer, registers: int) -> Written:
    """Rows of A times columns of B, both of which lie along memory."""
    p = writer.product
    a, b = Side("a", *p.a, p.a_batch), Side("b", p.b[1], p.b[0], p.b_batch)
    columns = 1 if p.n == 1 else min(4, writer.kind.lanes)
    rows = 8 if p.n == 1 else 4 if registers > 16 else 2
    cuts = Cuts(cut(p.m, rows), cut(-(-p.n // columns), 1), columns)
    return Written((writer.drive(cuts, a, b, partial(_dot, writer, a, b, columns)),), 0)


def _dot(writer: Writer, a: Side, b: Side, columns: int, name: str, rows: int, widths: tuple[int, ...]) -> None:
    p, kind, lanes = writer.product, writer.kind, writer.kind.lanes
    f = Function(writer.module, name, writer.parameters(), linkage="internal")
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
            writer.finish(f, lanes_of(f, totals, range(i * columns, (i + 1) * columns)), begin + i, 0, count)
    f.close()


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


def _best_block(p: Product, kind: Kind, registers: int) -> tuple[int, int]:
    """The most rows and vectors of a block."""
    vectors = -(-p.n // kind.lanes)
    best = (float("inf"), 1, 1)
    for wide in range(1, 9):
        rows = min((registers - 1 - wide) // wide, 14 if wide > 1 else 24)
        for high in range(max(rows - 4, 1), rows + 1):
            best = min(best, (_cost(cut(p.m, high), cut(vectors, wide)), high, wide))
    return best[1:]


def _cost(rows: Cut, panels: Cut) -> float:
    """Instructions that such blocks take at one place of k, weighted; more where two or four threads do not get equal shares."""

    def down(wide: int, tiles: int) -> float:
        """Of the first blocks of a panel."""
        long = min(tiles, rows.long)
        return long * _block_cost(rows.size, wide) + (tiles - long) * _block_cost(rows.size - 1, wide)

    def until(unit: int) -> float:
        panel, tile = divmod(unit, rows.pieces)
        long = min(panel, panels.long)
        whole = long * down(panels.size, rows.pieces) + (panel - long) * down(panels.size - 1, rows.pieces)
        return whole + down(panels.size - (panel >= panels.long), tile)

    units = rows.pieces * panels.pieces
    slowest = [threads * max(until(units * (i + 1) // threads) - until(units * i // threads) for i in range(threads)) for threads in (2, 4)]
    return 2 * until(units) + sum(slowest)


def _block_cost(high: int, wide: int) -> float:
    """Few sums do not hide how long a product takes; reading costs a little, of B more than of A."""
    return max(high * wide, 4) + 0.2 * high + 0.45 * wide + 1
