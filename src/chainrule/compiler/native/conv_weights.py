"""The weight gradient of a convolution: blocks of channels by features for each tap, summed over the outputs that the tap reaches.

The images are worked through in blocks that the second-level cache holds; the sums stand in the result meanwhile. Threads share the
blocks of the result, or where these are few, parts of the images, whose sums are added up in a fixed order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

from chainrule.compiler.native.conv_products import finished, pointers_of
from chainrule.compiler.native.conv_shape import Axis, Correlation, Panel, Target, best_vectors, panels, rows_of
from chainrule.compiler.native.gemm import Epilogue
from chainrule.compiler.native.ir import I64, PTR, VOID, Function, Index, Kind, Module, Value, index
from chainrule.compiler.native.kernel import Kernel
from chainrule.compiler.native.microkernel import (
    Ahead,
    Block,
    Nest,
    Part,
    Parts,
    Rounds,
    Sums,
    Taps,
    balanced,
    load_lanes,
    store_lanes,
    write_microkernel,
)

__all__ = ["write_sum", "write_weight_blocks"]

_CACHED = 3 << 17
"""Bytes of images and outputs at a time."""

_FEW = 16
"""Blocks of the result that keep threads busy."""

_SHARES, _SCRATCH = 4, 1 << 20
"""Parts of the images that are summed apart, so that threads need not read the same ones; as many as there are bytes for."""

_LINE = 64
"""Bytes of the caches' lines."""

_MIXED = 8
"""With fewer channels, the rows of a block are those of several taps."""

_EDGES = 16
"""Outputs at the ends of a row that are written out one by one."""


class _Piece(NamedTuple):
    """Rows of a block: neighbouring channels of one tap, or of the taps along the last axis.

    Attributes
    ----------
    first, stop : int
        Their numbers; pieces alike follow each other.
    a, out : int
        Where the first begins in x and in w, in elements.
    a_step, out_step : int
        From one to the next.
    rows, outs : tuple of int
        Where the rows begin, from there.
    taps : tuple of int
        Along the last axis, of each row, where they are mixed.
    """

    first: int
    stop: int
    a: int
    out: int
    a_step: int
    out_step: int
    rows: tuple[int, ...]
    outs: tuple[int, ...]
    taps: tuple[int, ...] = ()


def write_weight_blocks(module: Module, name: str, bond: Correlation, target: Target, vector: Kind) -> tuple[Kernel, int]:
    """Define ``void name(ptr x, ptr y, ptr w, i64 first, i64 last)``, and tell how many times it writes all of w, one after the other.

    With more than once, w has to be added up.
    """
    written = _Weights(module, name, bond.joined(), target, vector)
    return written.write(), written.parts


def _even(total: int, most: int, parts: int) -> int:
    """How many at a time, at most so many, that their number is a multiple of ``parts`` if there are enough."""
    count = -(-total // max(1, most))
    return max(1, -(-total // max(1, min(total, -(-count // parts) * parts))))


class _Weights:
    def __init__(self, module: Module, name: str, bond: Correlation, target: Target, vector: Kind) -> None:
        self.module, self.name, self.bond, self.vector = module, name, bond, vector
        self.axes = bond.axes if len(bond.axes) > 1 else (Axis(1, 1, 1, 0, 1, 1, 0, 0, 0), *bond.axes)
        self.size = bond.weights
        row = self.axes[-1]
        inner = range(
            max((row.reach(tap).start for tap in range(row.taps)), default=0), min((row.reach(tap).stop for tap in range(row.taps)), default=0)
        )
        self.inner = inner
        self.mixed = bond.channels < _MIXED and row.taps > 1 and 0 < row.outputs - len(inner) + 1 <= _EDGES and bool(inner)
        # What is mixed lies so close that the processor sees by itself what comes next, and beside products of short vectors it counts
        # how much is loaded.
        self.calls = vector.nbytes >= _LINE and not self.mixed
        height = row.taps * bond.channels if self.mixed else bond.channels
        vectors = best_vectors(height, bond.features, vector.lanes, target)
        self.panels = panels(bond.features, vector.lanes, vectors)
        self.pieces = self.cut(balanced(height, rows_of(vectors, target)) if height else ())
        self.looped = self.axes[1:-1] if self.mixed else self.axes[1:]
        self.taps = list(product(*(range(axis.taps) for axis in self.looped)))
        self.per_tap = bond.groups * (self.pieces[-1].stop if self.pieces else 0) * (self.panels[-1].stop if self.panels else 0)
        tiles = len(self.taps) * self.per_tap if all(axis.taps for axis in self.axes) else 0
        self.tiles = tiles
        few = max(-(-_FEW // max(1, tiles)), min(_SHARES, _SCRATCH // max(1, self.size * vector.wide(1).nbytes)))
        self.first_size, self.second_size = self.sizes(few)
        self.blocks = -(-self.axes[0].outputs // self.first_size) * -(-self.axes[1].outputs // self.second_size)
        most = max(1, min(self.blocks, few))
        # Nearly as many, but with as equal numbers of blocks as can be: the longest is waited for.
        self.parts = min(range(most, most // 2, -1), key=lambda parts: -(-self.blocks // parts) * parts)
        self.names: dict[object, str] = {}

    def cut(self, heights: Sequence[int]) -> list[_Piece]:
        bond, row = self.bond, self.axes[-1]
        found: list[_Piece] = []
        begin = 0
        for number, height in enumerate(heights):
            if self.mixed:
                which = [divmod(begin + i, bond.channels) for i in range(height)]
                rows = tuple(tap * row.gap * row.x + channel for tap, channel in which)
                outs = tuple(tap * row.w + channel * bond.row for tap, channel in which)
                found.append(_Piece(number, number + 1, 0, 0, 0, 0, rows, outs, tuple(tap for tap, _ in which)))
            elif found and len(found[-1].rows) == height:
                found[-1] = found[-1]._replace(stop=number + 1)
            else:
                rows, outs = tuple(range(height)), tuple(i * bond.row for i in range(height))
                found.append(_Piece(number, number + 1, begin, begin * bond.row, height, height * bond.row, rows, outs))
            begin += height
        return found

    def sizes(self, parts: int) -> tuple[int, int]:
        """How many outputs of the first two axes make up a block: as many blocks for each part, if that can be."""
        batch, second, *rest = self.axes
        line = math.prod(axis.outputs for axis in rest)
        read = math.prod(axis.inputs for axis in rest)
        channels, features = self.bond.channels * self.bond.groups, self.bond.features * self.bond.groups
        nbytes = self.vector.wide(1).nbytes
        image = (second.inputs * read * channels + second.outputs * line * features) * nbytes
        if image <= _CACHED or (self.mixed and not rest):
            return _even(batch.outputs, _CACHED // max(image, 1), parts), max(1, second.outputs)
        return 1, _even(second.outputs, -(-second.outputs // -(-image // _CACHED)), parts if batch.outputs == 1 else 1)

    def write(self) -> Kernel:
        f = Function(self.module, self.name, [("x", PTR), ("y", PTR), ("w", PTR), ("first", I64), ("last", I64)])
        if self.tiles:
            self.table()
            first, last = f.parameters[-2:]
            with f.loop(0, self.parts) as loop:
                part = 0 if self.parts == 1 else loop.index
                low = f.most(f.sub(first, f.mul(part, self.tiles)), 0)
                high = f.least(f.sub(last, f.mul(part, self.tiles)), self.tiles)
                with f.when(f.compare("slt", index(low), index(high))):
                    self.part(f, part, low, high)
        f.close()
        return Kernel(self.name, self.tiles * self.parts)

    def table(self) -> None:
        """What is known of each tap: where it begins in x, y and w, and which outputs it reaches on each axis."""
        entries: list[int] = []
        for tap in self.taps:
            x, y, w = self.bond.x, 0, 0
            reached: list[int] = []
            for number, (axis, k) in enumerate(zip(self.looped, tap, strict=True)):
                reach = axis.reach(k)
                x, w = x + (k * axis.gap - axis.low) * axis.x, w + k * axis.w
                if number:
                    x, y = x + reach.start * axis.step * axis.x, y + reach.start * axis.y
                    reached.append(len(reach))
                else:
                    reached += [reach.start, reach.stop]
            entries += [x, y, w, *reached]
        self.width = len(entries) // len(self.taps)
        numbers = ", ".join(f"i64 {number}" for number in entries)
        self.module.data[f"{self.name}_taps"] = f"@{self.name}_taps = internal constant [{len(entries)} x i64] [{numbers}]"

    def part(self, f: Function, part: Index, low: Index, high: Index) -> None:
        """These blocks of the result, over a part of the images."""
        w = f.at(f.parameters[2], f.mul(part, self.size), self.vector)
        with f.loop(low, high) as loop:
            self.tile(f, loop.index, lambda *place: self.clear(f, w, *place))
        begin, end = f.div(f.mul(part, self.blocks), self.parts), f.div(f.mul(f.add(part, 1), self.blocks), self.parts)
        with f.loop(begin, end) as block:
            here, following = self.block(f, block.index), self.block(f, f.add(block.index, 1))
            with f.loop(low, high) as loop:
                ahead = self.ahead(f, here, following, loop.index)
                self.tile(f, loop.index, lambda *place: self.add_block(f, w, here, ahead, *place))

    def block(self, f: Function, number: Index) -> tuple[Index, Index]:
        """The outputs of the first two axes with which a block of the images begins."""
        seconds = -(-self.axes[1].outputs // self.second_size)
        return f.mul(f.div(number, seconds), self.first_size), f.mul(f.rem(number, seconds), self.second_size)

    def ahead(self, f: Function, here: tuple[Index, Index], following: tuple[Index, Index], tile: Index) -> list[Index]:
        """How far it is to what a tile calls of the next block, in x and in y: all tiles together call all of it, line by line of each pixel."""
        batch, second, *_ = self.axes
        outer, inner = (f.sub(y, x) for x, y in zip(here, following, strict=True))
        line, groups = max(1, _LINE // self.vector.wide(1).nbytes), self.bond.groups
        steps = (batch.x * batch.step, second.x * second.step, self.bond.channels), (batch.y, second.y, self.bond.features)
        return [
            f.add(f.add(f.mul(outer, first), f.mul(inner, other)), f.mul(f.div(f.mul(tile, -(-size * groups // line)), self.tiles), line))
            for first, other, size in steps
        ]

    def tile(self, f: Function, number: Index, use: Callable[[Index, Index, _Piece, Index, Panel, Index], None]) -> None:
        """Call ``use(tap, group, piece, its number, panel, its number)`` for the block of this number."""
        across, down = self.panels[-1].stop, self.pieces[-1].stop
        right, rest = f.rem(number, across), f.div(number, across)
        under, rest = f.rem(rest, down), f.div(rest, down)
        group, tap = f.rem(rest, self.bond.groups), f.div(rest, self.bond.groups)
        for piece in self.pieces:
            with f.loop(f.most(under, piece.first), f.least(f.add(under, 1), piece.stop)):
                for panel in self.panels:
                    with f.loop(f.most(right, panel.first), f.least(f.add(right, 1), panel.stop)):
                        use(tap, group, piece, f.sub(under, piece.first), panel, f.sub(right, panel.first))

    def entry(self, f: Function, tap: Index) -> list[Value]:
        begin = f.at(Value(f"@{self.name}_taps", PTR), f.mul(tap, self.width), I64)
        return [f.load(I64, f.at(begin, k, I64)) for k in range(self.width)]

    def places(self, f: Function, group: Index, piece: _Piece, under: Index, panel: Panel, right: Index) -> tuple[Index, Index, Index]:
        """Channel, feature, and row of the result where a block begins."""
        local = f.add(panel.feature, f.mul(right, sum(panel.widths)))
        feature = f.add(local, f.mul(group, self.bond.features))
        channel = f.add(f.mul(group, self.bond.channels), f.add(piece.a, f.mul(under, piece.a_step)))
        return channel, feature, f.add(f.add(piece.out, f.mul(under, piece.out_step)), feature)

    def clear(self, f: Function, w: Value, tap: Index, group: Index, piece: _Piece, under: Index, panel: Panel, right: Index) -> None:
        """Set a block to zero."""
        _, _, place = self.places(f, group, piece, under, panel, right)
        begin = f.at(w, f.add(place, self.entry(f, tap)[2]), self.vector)
        for out in piece.outs:
            for v, width in enumerate(panel.widths):
                store_lanes(f, Value("zeroinitializer", self.vector), f.at(begin, out + self.vector.lanes * v, self.vector), width)

    def add_block(
        self,
        f: Function,
        w: Value,
        block: tuple[Index, Index],
        ahead: Sequence[Index],
        tap: Index,
        group: Index,
        piece: _Piece,
        under: Index,
        panel: Panel,
        right: Index,
    ) -> None:
        """What one block of the images adds to one block of the result."""
        batch, second, vector, (outer, inner) = self.axes[0], self.axes[1], self.vector, block
        channel, feature, place = self.places(f, group, piece, under, panel, right)
        entry = self.entry(f, tap)
        x, y = f.add(channel, f.add(entry[0], f.mul(outer, batch.x * batch.step))), f.add(f.add(entry[1], feature), f.mul(outer, batch.y))
        counts: list[Value] = [index(f.sub(f.least(f.add(outer, self.first_size), batch.outputs), outer))]
        if self.looped:
            begin, end = f.most(entry[3], inner), f.least(entry[4], f.add(inner, self.second_size))
            x, y = f.add(x, f.mul(begin, second.step * second.x)), f.add(y, f.mul(begin, second.y))
            counts += [index(f.sub(end, begin)), *entry[5:]]
        if self.mixed:
            row = self.axes[-1]
            x = f.sub(x, row.low * row.x)
        if self.calls:
            counts += [index(f.sub(ahead[0], channel)), index(f.sub(ahead[1], feature))]
        key = piece.rows, piece.outs, piece.taps, panel.widths
        if key not in self.names:
            self.names[key] = f"{self.name}_tile{len(self.names)}"
            self.kernel(self.names[key], piece, panel.widths)
        pointers = [f.at(f.parameters[0], x, vector), f.at(f.parameters[1], y, vector), f.at(w, f.add(place, entry[2]), vector)]
        f.call(self.names[key], VOID, *pointers, *counts)

    def kernel(self, name: str, piece: _Piece, widths: tuple[int, ...]) -> None:
        """The micro-kernel of one block; its rows are channels, its rounds outputs."""
        vector, lanes = self.vector, self.vector.lanes
        nest = self.along(piece, len(widths)) if self.mixed else Taps()
        levels = [self.axes[0], *self.looped]
        for number, axis in reversed(list(enumerate(levels))):
            nest = Rounds(f"n{number}", axis.step * axis.x, axis.y, nest)

        block = Block(vector, piece.rows, widths, short=True)

        def start(f: Function) -> Sums:
            c = f.parameters[2]
            return {
                (i, v): load_lanes(f, block.kinds[v], f.at(c, out + lanes * v, vector), width)
                for i, out in enumerate(piece.outs)
                for v, width in enumerate(widths)
            }

        def finish(f: Function, sums: Sums) -> None:
            for (i, v), x in sums.items():
                store_lanes(f, x, f.at(f.parameters[2], piece.outs[i] + lanes * v, vector), widths[v])

        ahead = Ahead("x", "y") if self.calls else Ahead()
        numbers = [*(f"n{number}" for number in range(len(levels))), *(("x", "y") if self.calls else ())]
        parameters = [("c", PTR), *((number, I64) for number in numbers)]
        ways = 2 if self.mixed and len(piece.rows) * len(widths) < 8 else 1
        write_microkernel(self.module, name, block, nest, finish, parameters=parameters, start=start, ways=ways, ahead=ahead)

    def along(self, piece: _Piece, vectors: int) -> Nest:
        """The outputs of one row: those at its ends with the rows whose taps read inside, the others in a loop."""
        row = self.axes[-1]
        reached = [row.reach(tap) for tap in piece.taps]

        def end(output: int) -> Part:
            rows = frozenset(i for i, reach in enumerate(reached) if output in reach)
            return Part(output * row.step * row.x, output * row.y, Taps(), rows)

        a, b, count = row.step * row.x, row.y, len(self.inner)
        at_once = 4 if len(piece.rows) * vectors <= 10 else 1
        several = Taps(tuple((k * a, k * b) for k in range(at_once)))
        middle = [Part(self.inner.start * a, self.inner.start * b, Rounds(count // at_once, at_once * a, at_once * b, several))]
        done = self.inner.start + count // at_once * at_once
        middle += [Part(output * a, output * b, Taps()) for output in range(done, self.inner.stop)]
        return Parts((*map(end, range(self.inner.start)), *middle, *map(end, range(self.inner.stop, row.outputs))))


def write_sum(module: Module, name: str, vector: Kind, parts: int, shape: tuple[int, int], epilogue: Epilogue | None, begin: int = 0) -> Kernel:
    """Define ``void name(ptr parts, ptr w, *pointers, i64 first, i64 last)``: so many matrices that follow each other, added up row by row.

    The sum begins so many elements after w.
    """
    rows, columns = shape
    f = Function(module, name, [("parts", PTR), ("w", PTR), *pointers_of(epilogue), ("first", I64), ("last", I64)])
    source, w = f.parameters[:2]
    with f.loop(f.parameters[-2], f.parameters[-1]) as loop:
        row = f.mul(loop.index, columns)

        def add(column: Index, width: int) -> None:
            place = f.add(row, column)
            total = load_lanes(f, vector, f.at(source, place, vector), width)
            for part in range(1, parts):
                total = f.binary("fadd", total, load_lanes(f, vector, f.at(source, f.add(place, part * rows * columns), vector), width))
            done = finished(f, epilogue, total, loop.index, column, width)
            if done is not None:
                store_lanes(f, done, f.at(w, f.add(place, begin), vector), width)

        whole = columns - columns % vector.lanes
        with f.loop(0, whole, vector.lanes) as along:
            add(along.index, vector.lanes)
        if columns % vector.lanes:
            add(whole, columns % vector.lanes)
    f.close()
    return Kernel(name, rows if columns else 0)
