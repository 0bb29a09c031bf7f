"""Convolutions of any shape, one output position after the other: for what would be too much code if it were cut into blocks.

Vectors run over features; every tap is tested for whether it reads inside. Nothing here depends on how windows lie, so that this is
also what the quicker ways are compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from chainrule.compiler.native.conv_products import finished, pointers_of
from chainrule.compiler.native.conv_shape import Axis, Correlation
from chainrule.compiler.native.gemm import Epilogue
from chainrule.compiler.native.ir import I64, PTR, Function, Index, Kind, Module, Value, index
from chainrule.compiler.native.kernel import Kernel
from chainrule.compiler.native.microkernel import fused, load_lanes, store_lanes

__all__ = ["write_general"]


def write_general(module: Module, name: str, vector: Kind, bond: Correlation, epilogue: Epilogue | None = None, *, back: bool = False) -> Kernel:
    """Define ``void name(ptr x, ptr w, ptr y, *pointers, i64 first, i64 last)``.

    Parameters
    ----------
    bond : Correlation
    back : bool
        From y to x: the pointers are then y, w with channels and features exchanged within each group, and x.
    """
    return _General(module, vector, bond, epilogue, back).write(name)


class _General:
    def __init__(self, module: Module, vector: Kind, bond: Correlation, epilogue: Epilogue | None, back: bool) -> None:
        self.module, self.vector, self.bond, self.epilogue, self.back = module, vector, bond, epilogue, back
        self.summed, self.made = (bond.features, bond.channels) if back else (bond.channels, bond.features)
        self.row = self.made * bond.groups

    def write(self, name: str) -> Kernel:
        f = Function(self.module, name, [("x", PTR), ("w", PTR), ("y", PTR), *pointers_of(self.epilogue), ("first", I64), ("last", I64)])
        self.sum = f.value(PTR, f"alloca {self.vector}")
        sizes = [axis.inputs if self.back else axis.outputs for axis in self.bond.axes]
        units = 1 if self.row else 0
        for size in sizes:
            units *= size
        if units:
            with f.loop(f.parameters[-2], f.parameters[-1]) as loop:
                rest: Index = loop.index
                place: list[Index] = []
                for size in reversed(sizes):
                    place.insert(0, f.rem(rest, size))
                    rest = f.div(rest, size)
                self.position(f, place)
        f.close()
        return Kernel(name, units)

    def position(self, f: Function, place: Sequence[Index]) -> None:
        """All features of one position."""
        y: Index = 0
        for axis, at in zip(self.bond.axes, place, strict=True):
            y = f.add(y, f.mul(at, axis.x if self.back else axis.y))
        lanes = self.vector.lanes
        with f.loop(0, self.bond.groups) as groups:
            group = groups.index
            begin = f.mul(group, self.made)
            whole = self.made - self.made % lanes
            with f.loop(0, whole, lanes) as loop:
                self.vectors(f, place, group, f.add(begin, loop.index), y, lanes)
            if self.made % lanes:
                self.vectors(f, place, group, f.add(begin, whole), y, self.made % lanes)

    def vectors(self, f: Function, place: Sequence[Index], group: Index, feature: Index, y: Index, width: int) -> None:
        """One vector of features: its sum stands on the stack while it grows."""
        f.store(Value("zeroinitializer", self.vector), self.sum)
        self.taps(f, list(zip(self.bond.axes, place, strict=True)), 0, f.mul(group, self.summed), feature, width)
        done = finished(f, self.epilogue, f.load(self.vector, self.sum), f.div(y, self.row), feature, width)
        if done is not None:
            store_lanes(f, done, f.at(f.parameters[2], f.add(y, feature), self.vector), width)

    def taps(self, f: Function, left: list[tuple[Axis, Index]], tap: Index, x: Index, w: Index, width: int) -> None:
        """The axes that are left, the first of them outermost; then the channels."""
        if not left:
            self.channels(f, f.add(w, f.mul(tap, self.summed * self.row)), x, width)
            return
        (axis, at), *rest = left
        with f.loop(0, axis.taps) as loop:
            number = f.add(f.mul(tap, axis.taps), loop.index)
            moved = f.mul(loop.index, axis.gap)
            if not self.back:
                read, size, step = f.sub(f.add(f.mul(at, axis.step), moved), axis.low), axis.inputs, axis.x
                with self.inside(f, read, size):
                    self.taps(f, rest, number, f.add(x, f.mul(read, step)), w, width)
                return
            there = f.sub(f.add(at, axis.low), moved)
            read = f.value(I64, f"sdiv {index(there)}, {axis.step}")
            with f.when(f.compare("eq", index(f.mul(read, axis.step)), index(there))), self.inside(f, read, axis.outputs):
                self.taps(f, rest, number, f.add(x, f.mul(read, axis.y)), w, width)

    def inside(self, f: Function, at: Index, size: int) -> AbstractContextManager[None]:
        """Whether ``0 <= at < size``; negative numbers are very large ones without a sign."""
        return f.when(f.compare("ult", index(at), index(size)))

    def channels(self, f: Function, w: Index, x: Index, width: int) -> None:
        kind, one = self.vector, self.vector.wide(1)
        with f.loop(0, self.summed, carry=[f.load(kind, self.sum)]) as loop:
            factor = f.load(one, f.at(f.parameters[0], f.add(x, loop.index), kind))
            weights = load_lanes(f, kind, f.at(f.parameters[1], f.add(w, f.mul(loop.index, self.row)), kind), width)
            loop.next(fused(f, f.splat(factor, kind.lanes), weights, loop.carried[0]))
        f.store(loop.results[0], self.sum)
