"""Depthwise convolution: every channel has a kernel of its own, so that vectors run over channels on both sides.

Forward, and back to the images: blocks of outputs of one row, for which each input is read once. To the weights: one block of the result
per tap along the outer axes, all taps along the row together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from chainrule.compiler.native.conv_products import Products, Tiles, finished, pointers_of
from chainrule.compiler.native.conv_shape import Axis, Correlation, Panel, Run, Target, panels
from chainrule.compiler.native.ir import I64, PTR, Function, Index, Kind, Module, Value
from chainrule.compiler.native.kernel import Kernel
from chainrule.compiler.native.microkernel import fused, load_lanes, store_lanes

__all__ = ["Depthwise", "Sliding", "is_depthwise", "write_depthwise_weights"]

_PARTS = 32
"""Shares of the images whose weight gradients are added up at the end."""

_TAPS = 64
"""Along the row, at most; beyond, registers and code do not suffice."""

Sums = list[Value]


def is_depthwise(bond: Correlation) -> bool:
    """Whether each channel has one feature."""
    return bond.channels == bond.features == 1 < bond.groups and bond.axes[-1].taps <= _TAPS


class Sliding(Products, ABC):
    """Kernels whose vectors run over the same channels in the images and in the weights: both are read as vectors."""

    def called(self, run: Run, widths: tuple[int, ...]) -> int:
        return 0

    def begin(self, run: Run, widths: tuple[int, ...]) -> Sums:
        """The sums of a block."""
        return [Value("zeroinitializer", self.tiles.vector)] * (run.height * len(widths))

    @abstractmethod
    def slide(self, f: Function, a: Value, b: Value, run: Run, widths: tuple[int, ...], sums: Sums) -> Sums:
        """Add the taps along the row."""

    def results(self, f: Function, run: Run, widths: tuple[int, ...], sums: Sums) -> Iterator[tuple[int, int, Value]]:
        """Output, vector, and what belongs there."""
        for place, x in enumerate(sums):
            yield *divmod(place, len(widths)), x

    def places(self, run: Run) -> dict[int, list[tuple[int, int]]]:
        """The inputs that a block reads, counted from its first output, and for which outputs and taps: each is read once."""
        seen: dict[int, list[tuple[int, int]]] = {}
        for first, count, rows in run.taps:
            for tap, i in product(range(first, first + count), rows):
                seen.setdefault(i * self.row.step + tap * self.row.gap, []).append((i, tap))
        return dict(sorted(seen.items()))

    def tile(self, run: Run, widths: tuple[int, ...]) -> str:
        tiles, row, bond = self.tiles, self.row, self.bond
        outer = tuple((axis.taps, axis.gap, axis.x, axis.w, axis.peeled) for axis in self.outer)
        key = type(self).__name__, run.height, run.taps, widths, row, outer, bond.channels
        if key in tiles.names:
            return tiles.names[key]
        name = tiles.names[key] = f"{tiles.name}_tile{len(tiles.names)}"
        slides = [(f"n{number}", axis) for number, axis in enumerate(self.outer) if axis.taps > 1 or axis.peeled]
        labels = sorted(label for label, axis in slides if axis.peeled)
        places = [("a", PTR), ("b", PTR), ("c", PTR), ("row", I64), ("feature", I64)]
        f = Function(tiles.module, name, [*places, *((label, I64) for label in labels), *pointers_of(tiles.epilogue)], linkage="internal")
        counts = dict(zip(labels, f.parameters[5:], strict=False))
        a, b, c, number, feature = f.parameters[:5]

        def along(left: list[tuple[str, Axis]], x: Index, w: Index, sums: Sums) -> Sums:
            if not left:
                return self.slide(f, f.at(a, x, tiles.vector), f.at(b, w, tiles.vector), run, widths, sums)
            (label, axis), *rest = left
            with f.loop(0, counts.get(label, axis.taps), carry=sums) as loop:
                loop.next(*along(rest, f.add(x, f.mul(loop.index, axis.gap * axis.x)), f.add(w, f.mul(loop.index, axis.w)), loop.carried))
            return loop.results

        for i, v, x in self.results(f, run, widths, along(slides, 0, 0, self.begin(run, widths))):
            lane = v * tiles.vector.lanes
            done = finished(f, tiles.epilogue, x, f.add(number, i * row.y // tiles.features), f.add(feature, lane), widths[v])
            if done is not None:
                store_lanes(f, done, f.at(c, i * row.y + lane, x.kind), widths[v])
        f.close()
        return name


class Depthwise(Sliding):
    """Writes the kernel of one depthwise correlation."""

    def __init__(self, tiles: Tiles, bond: Correlation) -> None:
        super().__init__(tiles, replace(bond, groups=1, features=bond.groups))

    def shape(self) -> tuple[int, int]:
        return 8, 2 if self.tiles.target.registers > 16 else 1

    def channel(self, f: Function, group: Index, feature: Index) -> Index:
        return feature

    def slide(self, f: Function, a: Value, b: Value, run: Run, widths: tuple[int, ...], sums: Sums) -> Sums:
        row, vector, sums = self.row, self.tiles.vector, list(sums)
        for v, width in enumerate(widths):
            weights: dict[int, Value] = {}
            for place, uses in self.places(run).items():
                x = load_lanes(f, vector, f.at(a, place * row.x + v * vector.lanes, vector), width)
                for i, tap in uses:
                    if tap not in weights:
                        weights[tap] = load_lanes(f, vector, f.at(b, tap * row.w + v * vector.lanes, vector), width)
                    sums[i * len(widths) + v] = fused(f, x, weights[tap], sums[i * len(widths) + v])
        return sums


def write_depthwise_weights(module: Module, name: str, bond: Correlation, target: Target, vector: Kind) -> tuple[Kernel, int]:
    """Define ``void name(ptr x, ptr y, ptr w, i64 first, i64 last)``, and tell how many times it writes all of w, one after the other."""
    return _Weights(module, name, bond, target, vector).write()


class _Weights:
    def __init__(self, module: Module, name: str, bond: Correlation, target: Target, vector: Kind) -> None:
        self.module, self.name, self.vector, self.channels = module, name, vector, bond.groups
        self.batch, *self.outer = bond.axes[:-1]
        self.row = bond.axes[-1]
        few = 1 if self.row.taps * 2 > target.registers // 2 else 2
        self.panels = panels(bond.groups, vector.lanes, few)
        self.at_once = max(1, min(8, 24 // self.row.taps)) if target.registers > 16 else 2
        self.taps = list(product(*(range(axis.taps) for axis in self.outer)))
        self.parts = max(1, min(_PARTS, self.batch.outputs))

    def write(self) -> tuple[Kernel, int]:
        f = Function(self.module, self.name, [("x", PTR), ("y", PTR), ("w", PTR), ("first", I64), ("last", I64)])
        tiles = len(self.taps) * self.panels[-1].stop if self.row.taps else 0
        if tiles:
            self.table()
            with f.loop(f.parameters[-2], f.parameters[-1]) as loop:
                part, rest = f.div(loop.index, tiles), f.rem(loop.index, tiles)
                tap, number = f.div(rest, self.panels[-1].stop), f.rem(rest, self.panels[-1].stop)
                for panel in self.panels:
                    with f.loop(f.most(number, panel.first), f.least(f.add(number, 1), panel.stop)) as chosen:
                        self.block(f, part, tap, panel, f.mul(f.sub(chosen.index, panel.first), sum(panel.widths)))
        f.close()
        return Kernel(self.name, tiles * self.parts), self.parts

    def table(self) -> None:
        """Of every tap along the outer axes: where its operands begin, and how many outputs it reaches."""
        entries: list[int] = []
        for tap in self.taps:
            reached = [axis.reach(k) for axis, k in zip(self.outer, tap, strict=True)]
            x = sum((reach.start * axis.step + k * axis.gap - axis.low) * axis.x for axis, k, reach in zip(self.outer, tap, reached, strict=True))
            y = sum(reach.start * axis.y for axis, reach in zip(self.outer, reached, strict=True))
            entries += [x, y, sum(k * axis.w for axis, k in zip(self.outer, tap, strict=True)), *map(len, reached)]
        self.width = len(entries) // len(self.taps)
        numbers = ", ".join(f"i64 {number}" for number in entries)
        self.module.data[f"{self.name}_taps"] = f"@{self.name}_taps = internal constant [{len(entries)} x i64] [{numbers}]"

    def block(self, f: Function, part: Index, tap: Index, panel: Panel, offset: Index) -> None:
        """Some channels of the taps of one row, over a part of the images."""
        begin = f.at(Value(f"@{self.name}_taps", PTR), f.mul(tap, self.width), I64)
        x, y, w, *counts = (f.load(I64, f.at(begin, k, I64)) for k in range(self.width))
        channel, batch, size = f.add(panel.feature, offset), self.batch, self.batch.outputs
        low, high = f.div(f.mul(part, size), self.parts), f.div(f.mul(f.add(part, 1), size), self.parts)
        levels = [(low, high, batch.x, batch.y), *((0, n, axis.step * axis.x, axis.y) for n, axis in zip(counts, self.outer, strict=True))]

        def along(left: list[tuple[Index, Index, int, int]], x: Index, y: Index, sums: Sums) -> Sums:
            if not left:
                return self.line(f, f.sub(x, self.row.low * self.row.x), y, panel, sums)
            (first, stop, dx, dy), *rest = left
            with f.loop(first, stop, carry=sums) as loop:
                loop.next(*along(rest, f.add(x, f.mul(loop.index, dx)), f.add(y, f.mul(loop.index, dy)), loop.carried))
            return loop.results

        zero = Value("zeroinitializer", self.vector)
        sums = along(levels, f.add(x, channel), f.add(y, channel), [zero] * (self.row.taps * len(panel.widths)))
        size = len(self.taps) * self.row.taps * self.channels
        out = f.at(f.parameters[2], f.add(f.add(f.mul(part, size), w), channel), self.vector)
        for place, total in enumerate(sums):
            k, v = divmod(place, len(panel.widths))
            store_lanes(f, total, f.at(out, k * self.row.w + v * self.vector.lanes, self.vector), panel.widths[v])

    def line(self, f: Function, x: Index, y: Index, panel: Panel, sums: Sums) -> Sums:
        """The outputs of one row, a few at a time; those at its ends with the taps that read inside."""
        row = self.row
        reached = [row.reach(k) for k in range(row.taps)]
        first, stop = max(reach.start for reach in reached), min(reach.stop for reach in reached)
        middle = range(first, max(first, stop) - (max(first, stop) - first) % self.at_once)
        rest = sorted({output for reach in reached for output in reach} - set(middle))
        if len(rest) > _TAPS:
            return self.slow(f, x, y, panel, sums)
        with f.loop(middle.start, middle.stop, self.at_once, carry=sums) as loop:
            loop.next(*self.outputs(f, x, y, loop.index, self.at_once, reached, panel, loop.carried, inside=True))
        sums = loop.results if middle else sums
        for output in rest:
            sums = self.outputs(f, x, y, output, 1, reached, panel, sums, inside=False)
        return sums

    def outputs(
        self, f: Function, x: Index, y: Index, first: Index, count: int, reached: list[range], panel: Panel, sums: Sums, *, inside: bool
    ) -> Sums:
        """So many neighbouring outputs: every input and every output is read once."""
        row, vector, sums, vectors = self.row, self.vector, list(sums), len(panel.widths)
        x, y = f.add(x, f.mul(first, row.step * row.x)), f.add(y, f.mul(first, row.y))
        for v, width in enumerate(panel.widths):
            lane = v * vector.lanes
            read: dict[int, Value] = {}
            for i in range(count):
                factor = load_lanes(f, vector, f.at(f.parameters[1], f.add(y, i * row.y + lane), vector), width)
                for k, reach in enumerate(reached):
                    if not inside and first not in reach:
                        continue
                    place = i * row.step + k * row.gap
                    if place not in read:
                        read[place] = load_lanes(f, vector, f.at(f.parameters[0], f.add(x, place * row.x + lane), vector), width)
                    sums[k * vectors + v] = fused(f, read[place], factor, sums[k * vectors + v])
        return sums

    def slow(self, f: Function, x: Index, y: Index, panel: Panel, sums: Sums) -> Sums:
        """Tap by tap: for kernels that hardly ever lie inside as a whole."""
        row, vector, sums, vectors = self.row, self.vector, list(sums), len(panel.widths)
        for k in range(row.taps):
            reach = row.reach(k)
            with f.loop(reach.start, reach.stop, carry=sums[k * vectors : (k + 1) * vectors]) as loop:
                at = f.add(x, f.add(f.mul(loop.index, row.step * row.x), k * row.gap * row.x))
                made: Sums = []
                for v, width in enumerate(panel.widths):
                    lane = v * vector.lanes
                    a = load_lanes(f, vector, f.at(f.parameters[0], f.add(at, lane), vector), width)
                    b = load_lanes(f, vector, f.at(f.parameters[1], f.add(f.add(y, f.mul(loop.index, row.y)), lane), vector), width)
                    made.append(fused(f, a, b, loop.carried[v]))
                loop.next(*made)
            sums[k * vectors : (k + 1) * vectors] = loop.results
        return sums
