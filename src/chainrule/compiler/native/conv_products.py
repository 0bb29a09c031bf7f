"""Convolution as an implicit matrix product: blocks of outputs of one row by features, summed over taps and channels in place.

Nothing is copied or padded: where taps read outside of the image, blocks leave them out. The sums over y for the gradient of x are of
the same kind, with turned weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from chainrule.compiler.native.conv_shape import Axis, Correlation, Panel, Run, Target, best_vectors, panels, rows_of, runs
from chainrule.compiler.native.gemm import Epilogue, Place
from chainrule.compiler.native.ir import I64, PTR, VOID, Function, Index, Kind, Module, Value, first_lanes, index
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
    load_lanes,
    store_lanes,
    transposed,
    write_microkernel,
)

__all__ = ["Products", "Tiles", "finished", "pointers_of", "too_long", "write_products", "write_turn"]

_CODE = 12_000
"""Products written out, beyond which a convolution is computed position by position."""

_CACHED = 1 << 19
"""Bytes of weights that the second-level cache holds beside the images: more are read panel by panel."""

_NEAR = 1 << 15
"""Bytes of the image that a share reads at a time."""

_LINE = 64
"""Bytes of the caches' lines: images with shorter pixels come from memory as fast as they are read."""

_OFTEN = 4
"""Products of vectors for each line that is called."""

_BUSY = 512
"""Products with each element of the images, beyond which nobody waits for them."""

_SHORT = 4
"""Fewer channels than this are not worth a loop."""

_BRIEF = 128
"""Products that a result is the sum of: with no more, storing it costs as much."""

_FEW = 32
"""Units that keep threads busy; with fewer, rows are cut further."""


@dataclass
class Tiles:
    """The micro-kernels of one gate, each written once."""

    module: Module
    name: str
    target: Target
    vector: Kind
    features: int
    epilogue: Epilogue | None = None
    multiply: Multiply = fused
    names: dict[object, str] = field(default_factory=dict[object, str])

    def tile(self, rows: tuple[int, ...], outs: tuple[int, ...], widths: tuple[int, ...], nest: Nest, counts: tuple[str, ...], ahead: Ahead) -> str:
        """One that stores its sums at ``outs`` (and so many lanes further), in elements."""
        key = rows, outs, widths, nest, counts, ahead
        if key not in self.names:
            self.names[key] = f"{self.name}_tile{len(self.names)}"
            few = len(rows) * len(widths)
            parameters = [("c", PTR), ("row", I64), ("feature", I64), *((count, I64) for count in counts), *pointers_of(self.epilogue)]
            block, ways = Block(self.vector, rows, widths, short=True), 4 if few < 4 else 2 if few < 8 else 1
            finish = partial(self._store, outs=outs, widths=widths)
            start = partial(self._call, outs=outs, vectors=len(widths)) if sum(widths) < self.features else None
            write_microkernel(
                self.module, self.names[key], block, nest, finish, parameters=parameters, start=start, multiply=self.multiply, ways=ways, ahead=ahead
            )
        return self.names[key]

    def _call(self, f: Function, outs: tuple[int, ...], vectors: int) -> Sums:
        """Call the lines that will be written: pieces of rows do not follow each other."""
        for out in outs:
            for v in range(0, vectors, max(_LINE // self.vector.nbytes, 1)):
                fetch(f, f.at(f.parameters[2], out + self.vector.lanes * v, self.vector))
        return {}

    def row_of(self, f: Function, y: Index) -> Index:
        """Which position begins at this element of the result; nobody asks without an epilogue."""
        return f.div(y, self.features) if self.epilogue else 0

    def _store(self, f: Function, sums: Sums, outs: tuple[int, ...], widths: tuple[int, ...]) -> None:
        _, _, c, row, feature, *_ = f.parameters
        for (i, v), x in sums.items():
            lane = self.vector.lanes * v
            y = finished(f, self.epilogue, x, f.add(row, outs[i] // self.features), f.add(feature, lane), widths[v])
            if y is not None:
                store_lanes(f, y, f.at(c, outs[i] + lane, y.kind), widths[v])


def pointers_of(epilogue: Epilogue | None) -> list[tuple[str, Kind]]:
    """The parameters that an epilogue adds to a kernel's pointers."""
    return [(name, PTR) for name in epilogue.parameters] if epilogue else []


def finished(f: Function, epilogue: Epilogue | None, x: Value, row: Index, column: Index, width: int) -> Value | None:
    """What an epilogue makes of a vector of results; ``row`` numbers positions, ``column`` features."""
    if not epilogue:
        return x
    mask = None if width == x.kind.lanes else first_lanes(width, x.kind.lanes)
    pointers = {y.text[1:]: y for y in f.parameters if y.text[1:] in epilogue.parameters}
    return epilogue.write(f, x, Place((), row, column, width, mask), pointers)


def write_products(tiles: Tiles, written: Sequence[Products]) -> Kernel:
    """Define ``void name(ptr x, ptr w, ptr y, *pointers, i64 first, i64 last)``, which computes these correlations."""
    name, kernels = tiles.name, [one.write(f"{tiles.name}_{number}") for number, one in enumerate(written)]
    f = Function(tiles.module, name, [("x", PTR), ("w", PTR), ("y", PTR), *pointers_of(tiles.epilogue), ("first", I64), ("last", I64)])
    *pointers, first, last = f.parameters
    units = max((kernel.units for kernel in kernels), default=0)
    for kernel in kernels if units else ():
        # The same share of each: they differ in how many taps they have.
        f.call(kernel.name, VOID, *pointers, *(index(f.div(f.mul(end, kernel.units), units)) for end in (first, last)))
    f.close()
    return Kernel(name, units)


class Products:
    """Writes the kernel of one correlation: which units there are, and which tiles each calls."""

    def __init__(self, tiles: Tiles, bond: Correlation) -> None:
        self.tiles = tiles
        self.bond = bond = bond.joined()
        *self.outer, self.row = bond.axes
        height, vectors = self.shape()
        self.panels = panels(bond.features, tiles.vector.lanes, vectors)
        self.runs = runs(self.row, height)
        blocks, rows = sum(run.stop - run.first for run in self.runs), 1
        for axis in self.outer:
            rows *= axis.outputs
        self.columns = bond.groups * (self.panels[-1].stop if self.panels else 0)
        # Panels outside of rows: each thread then reads its panels' weights only, one panel at a time.
        self.by_panel = bond.weights * tiles.vector.wide(1).nbytes > _CACHED or rows * blocks < _FEW
        self.share = max(1, blocks // max(1, _FEW // max(1, rows)))
        if not self.by_panel:
            # All panels of a share read the same of the image: it should stay in the first-level cache.
            nbytes = height * self.row.step * abs(self.row.x) * tiles.vector.wide(1).nbytes
            self.share = max(1, min(self.share, _NEAR // max(1, nbytes)))
        self.shares = -(-blocks // self.share) if blocks else 0
        self.blocks = blocks
        # To what the next row reads first, or where there is one row only, the next share.
        near = self.outer[-1] if self.outer else None
        self.further = (near.step + (near.taps - 1) * near.gap) * near.x if near else self.share * height * self.row.step * self.row.x
        self.units = rows * self.shares * (self.columns if self.by_panel else bool(self.columns))

    def shape(self) -> tuple[int, int]:
        """Rows and vectors of a block."""
        bond, target = self.bond, self.tiles.target
        across = -(-bond.features // self.tiles.vector.lanes)
        if bond.channels >= _SHORT and bond.taps * bond.channels <= _BRIEF and 0 < across <= 4 and target.registers > 16:
            # What is stored counts here: a position at a time.
            return rows_of(across, target), across
        if bond.channels < _SHORT:
            # Of products one after the other, LLVM moves loads ahead: they need registers too.
            target = target._replace(registers=target.registers * 3 // 4)
        vectors = best_vectors(self.row.outputs, bond.features, self.tiles.vector.lanes, target)
        return rows_of(vectors, target), vectors

    def channel(self, f: Function, group: Index, feature: Index) -> Index:
        """The first one that a panel reads."""
        return f.mul(group, self.bond.channels)

    def write(self, name: str) -> Kernel:
        bond, tiles = self.bond, self.tiles
        parameters = [("x", PTR), ("w", PTR), ("y", PTR), *pointers_of(tiles.epilogue), ("first", I64), ("last", I64)]
        f = Function(tiles.module, name, parameters, linkage="internal")
        if self.units:
            with f.loop(f.parameters[-2], f.parameters[-1]) as loop:
                share, rest = f.rem(loop.index, self.shares), f.div(loop.index, self.shares)
                x, w, y = bond.x, bond.w, bond.y
                counts: dict[str, Value] = {}
                for number, axis in reversed(list(enumerate(self.outer))):
                    output, rest = f.rem(rest, axis.outputs), f.div(rest, axis.outputs)
                    x, w, y = self.along(f, f"n{number}", axis, output, (x, w, y), counts)
                self.unit(f, rest, share, (x, w, y), counts)
        f.close()
        return Kernel(name, self.units)

    def along(
        self, f: Function, label: str, axis: Axis, output: Index, places: tuple[Index, Index, Index], counts: dict[str, Value]
    ) -> tuple[Index, Index, Index]:
        """An outer axis: where its first tap that reads inside finds its operands, and how many there are."""
        x, w, y = places
        begin = f.sub(f.mul(output, axis.step), axis.low)
        y = f.add(y, f.mul(output, axis.y))
        if axis.peeled:
            first = f.div(f.add(f.most(f.sub(0, begin), 0), axis.gap - 1), axis.gap)
            stop = f.least(axis.taps, f.div(f.most(f.add(f.sub(axis.inputs, begin), axis.gap - 1), 0), axis.gap))
            counts[label] = index(f.sub(stop, first))
            begin, w = f.add(begin, f.mul(first, axis.gap)), f.add(w, f.mul(first, axis.w))
        return f.add(x, f.mul(begin, axis.x)), w, y

    def unit(self, f: Function, column: Index, share: Index, places: tuple[Index, Index, Index], counts: dict[str, Value]) -> None:
        """All panels, or one of them, of the blocks of one share."""
        bond = self.bond
        if self.by_panel:
            per_group = self.columns // bond.groups
            group, number = f.div(column, per_group), f.rem(column, per_group)
            for panel in self.panels:
                with f.loop(f.most(number, panel.first), f.least(f.add(number, 1), panel.stop)) as loop:
                    self.panel(f, group, loop.index, panel, share, places, counts)
            return
        with f.loop(0, bond.groups) as groups:
            group = 0 if bond.groups == 1 else groups.index
            for panel in self.panels:
                with f.loop(panel.first, panel.stop) as loop:
                    number = panel.first if panel.stop == panel.first + 1 else loop.index
                    self.panel(f, group, number, panel, share, places, counts)

    def panel(
        self, f: Function, group: Index, number: Index, panel: Panel, share: Index, places: tuple[Index, Index, Index], counts: dict[str, Value]
    ) -> None:
        bond, (x, w, y) = self.bond, places
        local = f.add(panel.feature, f.mul(f.sub(number, panel.first), sum(panel.widths)))
        feature = f.add(local, f.mul(group, bond.features))
        x, w, y = f.add(x, self.channel(f, group, feature)), f.add(w, feature), f.add(y, feature)
        begin = f.mul(share, self.share)
        end = f.least(f.add(begin, self.share), self.blocks)
        for run in self.runs:
            tile, called = self.tile(run, panel.widths), self.called(run, panel.widths)
            low, high = (run.first, run.stop) if self.shares == 1 else (f.most(begin, run.first), f.least(end, run.stop))
            with f.loop(low, high) as loop:
                here = run.first if low == run.first and high == run.first + 1 else loop.index
                output = f.add(run.output, f.mul(f.sub(here, run.first), run.height))
                place = f.add(y, f.mul(output, self.row.y))
                at = f.add(x, f.mul(f.sub(f.mul(output, self.row.step), self.row.low), self.row.x))
                ahead: dict[str, Value] = {}
                if called:
                    first = f.least(f.mul(number, called), run.height - called)
                    ahead["next"] = index(f.add(self.further, f.mul(first, self.row.step * self.row.x)))
                self.call(f, tile, at, w, place, feature, counts | ahead)

    def called(self, run: Run, widths: tuple[int, ...]) -> int:
        """How many rows of what is read next a tile calls for while it computes: the panels beside it call for others."""
        bond, vector = self.bond, self.tiles.vector
        busy = bond.taps * bond.features > _BUSY * math.prod(axis.step for axis in bond.axes)
        if self.by_panel or busy or bond.channels * vector.wide(1).nbytes < _LINE or bond.features < vector.lanes:
            return 0
        return min(-(-run.height // self.panels[-1].stop), -(-run.height * len(widths) // _OFTEN))

    def call(self, f: Function, tile: str, x: Index, w: Index, y: Index, feature: Index, counts: dict[str, Value]) -> None:
        kind = self.tiles.vector
        px, pw, py, *extra = f.parameters[:-2]
        pointers = [f.at(px, x, kind), f.at(pw, w, kind), f.at(py, y, kind)]
        row = self.tiles.row_of(f, f.sub(y, feature))
        arguments = [*pointers, index(row), index(feature), *(counts[label] for label in sorted(counts)), *extra]
        f.call(tile, VOID, *arguments)

    def tile(self, run: Run, widths: tuple[int, ...]) -> str:
        """The micro-kernel of a run: outer taps in loops, those along the row as far as their rows see them."""
        row = self.row
        few = run.height * len(widths)
        parts = [Part(tap * row.gap * row.x, tap * row.w, self.taps(count, few), frozenset(reach)) for tap, count, reach in run.taps]
        nest: Nest = Parts(tuple(part._replace(rows=None) if len(part.rows or ()) == run.height else part for part in parts))
        counts: list[str] = []
        for number, axis in reversed(list(enumerate(self.outer))):
            if axis.taps > 1 or axis.peeled:
                nest = Rounds(f"n{number}" if axis.peeled else axis.taps, axis.gap * axis.x, axis.w, nest)
            if axis.peeled:
                counts.append(f"n{number}")
        rows = tuple(i * row.step * row.x for i in range(run.height))
        outs = tuple(i * row.y for i in range(run.height))
        called = self.called(run, widths)
        if called:
            counts.append("next")
        return self.tiles.tile(rows, outs, widths, nest, tuple(sorted(counts)), Ahead("next", rows=called) if called else Ahead())

    def taps(self, count: int, few: int) -> Nest:
        """Neighbouring taps along the row, and the channels under each: one long loop where they follow each other in both operands."""
        bond, row = self.bond, self.row
        if row.gap * row.x == bond.channels and row.w == bond.channels * bond.row:
            return _line(count * bond.channels, bond.row, few)
        inner = _line(bond.channels, bond.row, few)
        if isinstance(inner, Taps) and len(inner.places) * count * few <= _UNROLLED:
            return Taps(tuple((a + tap * row.gap * row.x, b + tap * row.w) for tap in range(count) for a, b in inner.places))
        return Rounds(count, row.gap * row.x, row.w, inner)


_UNROLLED = 120
"""Products that are written one after the other rather than in a loop."""


def _line(count: int, row: int, few: int) -> Nest:
    """So many channels, one after the other: of few sums several at a time."""
    if count * few <= _UNROLLED or count <= 3:
        return Taps(tuple((k, k * row) for k in range(count)))
    at_once = next(u for u in (4, 2, 1) if count % u == 0 and (u == 1 or u * few <= 32))
    return Rounds(count // at_once, at_once, at_once * row, Taps(tuple((k, k * row) for k in range(at_once))))


def write_turn(module: Module, name: str, vector: Kind, bond: Correlation, taps: Sequence[int], begin: int = 0) -> Kernel:
    """Define ``void name(ptr w, ptr turned, i64 first, i64 last)``: these taps of w with channels and features exchanged, group by group.

    The weights begin so many elements after w.
    """
    lanes, channels, features, groups = vector.lanes, bond.channels, bond.features, bond.groups
    blocks = -(-channels // lanes)
    units = len(taps) * groups * blocks if channels * features else 0
    f = Function(module, name, [("w", PTR), ("turned", PTR), ("first", I64), ("last", I64)])
    w, out, first, last = f.parameters
    if units:
        module.data[f"{name}_taps"] = f"@{name}_taps = internal constant [{len(taps)} x i64] [{', '.join(f'i64 {tap}' for tap in taps)}]"
        with f.loop(first, last) as loop:
            block, rest = f.rem(loop.index, blocks), f.div(loop.index, blocks)
            group, number = f.rem(rest, groups), f.div(rest, groups)
            tap = f.load(I64, f.at(Value(f"@{name}_taps", PTR), number, I64))
            source = f.add(f.mul(f.add(f.mul(tap, channels), f.mul(block, lanes)), groups * features), f.mul(group, features))
            goal = f.add(f.mul(number, channels * features * groups), f.add(f.mul(group, channels), f.mul(block, lanes)))

            def square(height: int, width: int, feature: Index) -> None:
                at = f.at(w, f.add(source, f.add(feature, begin)), vector)
                zero = Value("zeroinitializer", vector)
                rows = [load_lanes(f, vector, f.at(at, i * groups * features, vector), width) if i < height else zero for i in range(lanes)]
                to = f.at(out, f.add(goal, f.mul(feature, groups * channels)), vector)
                for i, x in enumerate(transposed(f, rows)[:width]):
                    store_lanes(f, x, f.at(to, i * groups * channels, vector), height)

            def strip(height: int) -> None:
                whole = features - features % lanes
                if whole:
                    with f.loop(0, whole, lanes) as along:
                        square(height, lanes, along.index)
                if features % lanes:
                    square(height, features % lanes, whole)

            full = channels // lanes
            if full:
                with f.loop(f.most(block, 0), f.least(f.add(block, 1), full)):
                    strip(lanes)
            if channels % lanes:
                with f.loop(f.most(block, full), f.add(block, 1)):
                    strip(channels % lanes)
    f.close()
    return Kernel(name, units)


def too_long(written: Sequence[Products]) -> bool:
    """Whether these correlations are better computed position by position: so many products would be written out."""
    found: dict[object, int] = {}
    for one in written:
        for run in one.runs:
            for panel in one.panels:
                key = run.height, run.taps, panel.widths, one.row, tuple(axis.peeled for axis in one.outer)
                found[key] = sum(len(reach) for _, _, reach in run.taps) * len(panel.widths)
    return sum(found.values()) > _CODE
