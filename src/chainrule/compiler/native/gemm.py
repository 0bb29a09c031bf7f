"""Matrix products as kernels: which way to compute one, how large its blocks are, what is packed first.

There are three ways: blocks of sums whose lanes run along rows of C, or down its columns, and sums whose lanes run along k. Where C has few columns
they fill vectors badly; then the way is taken that costs least.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from math import prod
from typing import NamedTuple

from chainrule.compiler.native.blocks import Cuts, Side, Writer, ways_of
from chainrule.compiler.native.halves import halves_pay, multiply_pairs, pairs_of_a, pairs_of_b
from chainrule.compiler.native.ir import Function, Index, Kind, Module, Value, first_lanes, kind_of
from chainrule.compiler.native.microkernel import lanes_of, shuffle
from chainrule.compiler.native.packing import Cut, Source, cut, panels_of, write_packing
from chainrule.compiler.native.product import Epilogue as Epilogue
from chainrule.compiler.native.product import Place as Place
from chainrule.compiler.native.product import Product as Product
from chainrule.compiler.native.product import Work as Work
from chainrule.compiler.native.product import Written as Written
from chainrule.compiler.native.product import folded as folded


def write_product(
    module: Module,
    name: str,
    product: Product,
    *,
    bits: int,
    registers: int,
    epilogue: Epilogue | None = None,
    halves: bool = False,
    often: bool = False,
) -> Written:
    """Write the kernels of a product.

    Parameters
    ----------
    module : Module
    name : str
        That names of functions begin with.
    product : Product
        As it is to be computed; who wants few large matrices folds it before.
    bits : int
        Of vector registers.
    registers : int
        How many of them there are.
    epilogue : Epilogue, optional
    halves : bool
        Whether float32 may be rounded to bfloat16 where that is faster.
    often : bool
        Whether it is computed again and again with the same B, so that packing that costs nothing.
    """
    kind = kind_of(product.dtype)
    kind = kind.wide(max(bits // kind.bits, 1))
    p = product = _plain(product)
    writer = Writer(module, name, product, kind, epilogue)
    if not p.m * p.n * prod(p.batch):
        return Written((), 0)
    if halves and halves_pay(p, kind):
        return _halves(writer, registers)
    if often and p.n > _THIN * kind.lanes:
        return _blocks(writer, registers, packs=True)
    if p.a[1] == 1 and p.b[0] == 1 and (p.n == 1 or (p.b[1] != 1 and _DOTS * p.m <= p.k)):
        return _dots(writer, registers)
    costs: dict[Callable[[Writer, int], Written], float] = {_blocks: _cost_of_rows(p, kind, registers)}
    if p.n <= _THIN * kind.lanes and p.a[0] == 1:
        costs[_columns] = _cost_of_columns(p, kind, registers)
    if p.n <= _THIN * kind.lanes and p.a[1] == 1 and p.k >= kind.lanes:
        costs[_dots] = _cost_of_dots(p, kind, registers)
    return min(costs, key=lambda way: costs[way])(writer, registers)


def rounding_pays(product: Product, bits: int) -> bool:
    """Whether a product is faster with operands rounded to bfloat16, where they may be, in vectors of so many bits."""
    kind = kind_of(product.dtype)
    return halves_pay(_plain(product), kind.wide(max(bits // kind.bits, 1)))


def _turned(p: Product) -> Product:
    """The transposed product, but for C, whose strides stay."""
    (a_row, a_column), (b_row, b_column) = p.a, p.b
    return p._replace(m=p.n, n=p.m, a=(b_column, b_row), b=(a_column, a_row), a_batch=p.b_batch, b_batch=p.a_batch)


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

_SHALLOW = 64
"""Up to this k a product is mostly stores: C is written row after row, with all of B near."""

_TALL = 96
"""Rows of A that stay near while all of B passes."""

_PIECE = 64
"""Places of k that all blocks add up before the next ones where B comes from memory line by line: it is called a piece ahead."""

_THIN = 2
"""With so many vectors of columns or less the other ways than blocks along rows are looked at."""

_TURN = 60
"""What it costs to turn a vector of results; to add up the lanes of as many, half as much."""

_MOVE = 40
"""What it costs to copy a vector."""

_WAIT = 20_000
"""What it costs that all threads wait for a copy."""

_FAR = 512 << 10
"""Bytes from which on it comes from behind the second cache."""


def _blocks(writer: Writer, registers: int, *, packs: bool = False) -> Written:
    """Blocks of sums: rows of A are broadcast, those of B are vectors, packed if need be or if that is said."""
    p, kind = writer.product, writer.kind
    size = kind.wide(1).nbytes
    _, rows, vectors = _best_block(p, kind, registers)
    a, b = Side("a", *p.a, p.a_batch), Side("b", p.b[1], p.b[0], p.b_batch)
    works: list[Work] = []
    used = 0
    if packs or _packs_b(p, kind):
        source = Source(p.k, p.n, p.b, p.batch, p.b_batch)
        panels = panels_of(source, kind, vectors)
        works.append(Work(write_packing(writer.module, f"{writer.name}_b", source, panels, kind), ("b", "scratch")))
        b = Side("scratch", 1, 0, panels.batch_strides, panels=True)
        used = -(-panels.nbytes // 64) * 64
    if _packs_a(p, kind):
        source = Source(p.m, p.k, p.a, p.batch, p.a_batch)
        wide = -(-p.k // kind.lanes)
        gap = int(wide * kind.nbytes % (_CONFLICT // 4) == 0)
        panels = panels_of(source, kind, wide, gap=gap)
        start = used // size
        works.append(Work(write_packing(writer.module, f"{writer.name}_a", source, panels, kind, gap=gap, start=start), ("a", "scratch")))
        a = Side("scratch", (wide + gap) * kind.lanes, 1, panels.batch_strides, start)
        used += panels.nbytes
    works.append(_driven(writer, _cuts(p, kind, rows, vectors), a, b))
    return Written(tuple(works), used)


def _halves(writer: Writer, registers: int) -> Written:
    """Blocks of sums of pairs of bfloat16."""
    p, kind = writer.product, writer.kind
    pairs = p._replace(k=p.k // 2)
    _, rows, vectors = _best_block(pairs._replace(a=(1, pairs.m), b=(pairs.n, 1)), kind, registers)
    to_b, panels = pairs_of_b(writer.module, f"{writer.name}_b", p, kind, vectors)
    start = -(-panels.nbytes // 64) * 64 // kind.wide(1).nbytes
    to_a, lines, across, along = pairs_of_a(writer.module, f"{writer.name}_a", p, kind, start)
    a = Side("scratch", across, along, lines.batch_strides, start)
    b = Side("scratch", 1, 0, panels.batch_strides, panels=True)
    writer = writer._replace(product=pairs, multiply=multiply_pairs)
    blocks = _driven(writer, _cuts(pairs, kind, rows, vectors), a, b)
    works = Work(to_b, ("b", "scratch")), Work(to_a, ("a", "scratch")), blocks
    return Written(works, start * kind.wide(1).nbytes + lines.nbytes)


def _shallow(p: Product, kind: Kind) -> bool:
    """Writing C takes longest: its rows lie on different pages."""
    return p.k <= _SHALLOW and p.k * p.n * kind.wide(1).nbytes <= _FAR


def _streams(p: Product, kind: Kind) -> bool:
    """Rows of B are lines of memory from afar, and either few rows of A use them, or columns of A are such lines too."""
    size = kind.wide(1).nbytes
    few = p.m < _few(kind) and p.k >= 2 * _PIECE and p.k * p.n * size > _PACK
    lines = p.a[0] == 1 and p.k >= 16 * _PIECE and (p.m + p.n) * p.k * size > 2 * _FAR
    return p.b[1] == 1 and (few or lines)


def _few(kind: Kind) -> int:
    """With so many rows a packed B pays."""
    return 128 if kind.nbytes == 64 else 64


def _packs_b(p: Product, kind: Kind) -> bool:
    """It must be where its columns do not lie along memory."""
    return p.k > 0 and not _streams(p, kind) and (p.b[1] != 1 or (p.m >= _few(kind) and p.k * p.n * kind.wide(1).nbytes >= _PACK))


def _packs_a(p: Product, kind: Kind) -> bool:
    """Where each step along k is far from the one before."""
    least = _CONFLICT if kind.nbytes == 64 else _CONFLICT // 2
    return not _streams(p, kind) and min(p.k, p.n) >= _OFTEN and abs(p.a[1]) * kind.wide(1).nbytes >= least


def _cuts(p: Product, kind: Kind, rows: int, vectors: int) -> Cuts:
    """Blocks of so many rows and vectors at most."""
    tiles = cut(p.m, rows)
    far = prod(p.batch) * p.m * p.k * kind.wide(1).nbytes > _FAR
    high = 1 if _shallow(p, kind) else min(max(_TALL // rows, 1), tiles.pieces) if far else tiles.pieces
    return Cuts(tiles, cut(-(-p.n // kind.lanes), vectors), kind.lanes, high)


def _driven(writer: Writer, cuts: Cuts, a: Side, b: Side) -> Work:
    """Blocks that take all of k at once, or a piece after the other."""
    p, (tiles, panels, _, high) = writer.product, cuts
    if not b.panels and _streams(p, writer.kind):
        pieces = cut(p.k, _PIECE)
        a = a._replace(ahead=pieces.size * a.along if a.across == 1 else 0)
        return writer.drive_deep(cuts, a, b._replace(ahead=pieces.size * b.along), pieces)
    depth = max(_DEPTH // (panels.size * writer.kind.nbytes), 1)
    if p.k > 2 * depth and p.m > 2 * tiles.size:
        return writer.drive_deep(cuts, a, b, cut(p.k, depth))
    if not writer.down:
        writer = writer._replace(far=prod(p.batch) * p.m * p.n * writer.kind.wide(1).nbytes > _FAR)
        a = a._replace(ahead=high * tiles.size * a.across if 1 < high < tiles.pieces and a.along == 1 else 0)
    return writer.drive(cuts, a, b, partial(writer.block, a, b))


def _columns(writer: Writer, registers: int) -> Written:
    """Blocks of sums of the transposed product: columns of A are vectors, and sums are turned before they are stored."""
    written = _blocks(writer._replace(product=_turned(writer.product), down=True), registers)
    return written._replace(works=tuple(work._replace(roles=tuple(_OTHER.get(role, role) for role in work.roles)) for work in written.works))


def _dots(writer: Writer, registers: int) -> Written:
    """Rows of A times columns of B, both of which lie along memory, or those of B in a copy."""
    p, kind = writer.product, writer.kind
    lanes = kind.lanes
    a, b = Side("a", *p.a, p.a_batch), Side("b", p.b[1], p.b[0], p.b_batch)
    works: list[Work] = []
    used = 0
    if p.b[0] != 1:
        source = Source(p.n, p.k, (p.b[1], p.b[0]), p.batch, p.b_batch)
        panels = panels_of(source, kind, 1)
        works.append(Work(write_packing(writer.module, f"{writer.name}_b", source, panels, kind), ("b", "scratch")))
        b = Side("scratch", lanes, p.n, panels.batch_strides)
        used = panels.nbytes
    _, rows, columns = _best_dots(p, kind, registers)
    cuts = Cuts(cut(p.m, rows), cut(p.n, columns), 1, high=1)
    works.append(writer.drive(cuts, a, b, partial(_dot, writer, a, b)))
    return Written(tuple(works), used)


def _dot(writer: Writer, a: Side, b: Side, name: str, rows: int, widths: tuple[int, ...]) -> None:
    p, kind, lanes = writer.product, writer.kind, writer.kind.lanes
    f = Function(writer.module, name, writer.parameters(), linkage="internal")
    columns = len(widths)
    places = [(i, j) for i in range(rows) for j in range(columns)]
    zero = Value("zeroinitializer", kind)

    def add(sums: Sequence[Value], at: Index, mask: Value | None) -> list[Value]:
        def take(pointer: Value) -> Value:
            return f.load(kind, pointer) if mask is None else f.load_some(kind, pointer, mask)

        x = [take(f.at(f.parameters[0], f.add(at, i * a.across), kind)) for i in range(rows)]
        y = [take(f.at(f.parameters[1], f.add(f.mul(at, b.along), j * b.across), kind)) for j in range(columns)]
        return [f.intrinsic("fmuladd", x[i], y[j], total) for (i, j), total in zip(places, sums, strict=True)]

    ways = min(ways_of(len(places), p.k), max(p.k // lanes, 1))
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
    wide = min(1 << (columns - 1).bit_length(), lanes)
    for begin in range(0, columns, wide):
        count = min(wide, columns - begin)
        filling = [zero] * (wide - count)
        group = lanes // wide
        for top in range(0, rows, group):
            here = range(top, min(top + group, rows))
            totals = _across_lanes(f, [x for i in here for x in (*sums[i * columns + begin : i * columns + begin + count], *filling)])
            for i in here:
                writer.finish(f, lanes_of(f, totals, range((i - top) * wide, (i - top + 1) * wide)), i, begin, count)
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


class Reading(NamedTuple):
    """What reading costs a block beyond what it always does.

    Attributes
    ----------
    crowded : bool
        Rows of A come from afar and fall on one another in the first cache, so that many push each other out.
    far : bool
        B comes from afar as often as there are blocks above each other.
    along : bool
        Blocks beside each other follow one another.
    """

    crowded: bool = False
    far: bool = False
    along: bool = False


def _reading(p: Product, kind: Kind) -> Reading:
    size = kind.wide(1).nbytes
    crowded = p.a[1] == 1 and p.m * p.k * size > _FAR and p.a[0] * size % (_CONFLICT // 2) == 0
    far = p.k * p.n * size > _PACK and not _packs_b(p, kind) and not _streams(p, kind)
    return Reading(crowded, far, _shallow(p, kind))


@cache
def _best_block(p: Product, kind: Kind, registers: int) -> tuple[float, int, int]:
    """What the best blocks cost at each place of k, and the most rows and vectors of one."""
    vectors = -(-p.n // kind.lanes)
    reading = _reading(p, kind)
    best = (float("inf"), 1, 1)
    for wide in range(1, 9):
        rows = min((registers - 1 - wide) // wide, 14 if wide > 1 else 24)
        for high in range(1 if reading.crowded else max(rows - 4, 1), rows + 1):
            best = min(best, (_cost(cut(p.m, high), cut(vectors, wide), reading), high, wide))
    return best


@cache
def _best_dots(p: Product, kind: Kind, registers: int) -> tuple[float, int, int]:
    """What the best blocks of dots cost at each vector along k, and the most rows and columns of one."""
    reading = _reading(p, kind)._replace(far=False, along=True)
    best = (float("inf"), 1, 1)
    for wide in range(1, min(p.n, 8) + 1):
        for high in range(1, max(min((registers - 1 - wide) // wide, 8), 1) + 1):
            best = min(best, (_cost(cut(p.m, high), cut(p.n, wide), reading), high, wide))
    return best


def _cost_of_rows(p: Product, kind: Kind, registers: int) -> float:
    moved = (2 if p.b[1] != 1 else 1) if _packs_b(p, kind) else 0
    return p.k * _best_block(p, kind, registers)[0] + _MOVE * moved * p.k * p.n / kind.lanes


def _cost_of_columns(p: Product, kind: Kind, registers: int) -> float:
    return _cost_of_rows(_turned(p), kind, registers) + _TURN * p.m * p.n / kind.lanes


def _cost_of_dots(p: Product, kind: Kind, registers: int) -> float:
    packing = _MOVE * p.k * p.n / kind.lanes + _WAIT if p.b[0] != 1 else 0
    return -(-p.k // kind.lanes) * _best_dots(p, kind, registers)[0] + _TURN / 2 * p.m * p.n / kind.lanes + packing


def _cost(rows: Cut, panels: Cut, reading: Reading) -> float:
    """Instructions that such blocks take at one place of k, weighted; more where two or four threads do not get equal shares."""
    inner, outer = (panels, rows) if reading.along else (rows, panels)
    sizes = [[(i, j) for i in (inner.size, inner.size - 1)] for j in (outer.size, outer.size - 1)]
    blocks = [[_block_cost(*((j, i) if reading.along else (i, j)), reading) for i, j in pairs] for pairs in sizes]

    def down(short: int, count: int) -> float:
        """Of the first blocks of a long or a short row or panel of them."""
        long = min(count, inner.long)
        return long * blocks[short][0] + (count - long) * blocks[short][1]

    wholes = [down(short, inner.pieces) for short in (0, 1)]

    def until(unit: int) -> float:
        at, count = divmod(unit, inner.pieces)
        long = min(at, outer.long)
        return long * wholes[0] + (at - long) * wholes[1] + down(at >= outer.long, count)

    units = rows.pieces * panels.pieces
    slowest = [threads * max(until(units * (i + 1) // threads) - until(units * i // threads) for i in range(threads)) for threads in (2, 4)]
    return 2 * until(units) + sum(slowest)


def _block_cost(high: int, wide: int, reading: Reading) -> float:
    """Few sums do not hide how long a product takes; reading costs a little, of B more than of A."""
    missed = 3.4 * high if reading.crowded and high > 6 else 0
    return max(high * wide, 4, missed) + 0.2 * high + (1.5 if reading.far else 0.45) * wide + 1
