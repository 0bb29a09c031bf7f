"""Copies of values whose neighbours in memory stand along another axis than the last: squares of vectors, transposed in registers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from chainrule.compiler.native.ir import I64, PTR, Function, Index, Kind, Module, Value, first_lanes, kind_of
from chainrule.compiler.native.kernel import Call, Kernel
from chainrule.compiler.native.microkernel import transposed
from chainrule.compiler.native.views import View, collapsed, contiguous

__all__ = ["is_turned", "write_turned_copy"]

LEAST = 1024
"""Elements from which on it pays."""


class _Plane(NamedTuple):
    """The two axes of a copy: along ``down`` the source's elements are neighbours, along the last one the copy's."""

    sizes: tuple[int, ...]
    source: tuple[int, ...]
    target: tuple[int, ...]
    down: int


def _plane(view: View) -> _Plane | None:
    found = collapsed(view.shape, [view.strides, contiguous(view.shape)])
    source, target = found.strides if found.sizes else ((), ())
    if len(source) < 2 or source[-1] in (0, 1) or 1 not in source or view.root.dtype.itemsize not in (4, 8):
        return None
    return _Plane(found.sizes, source, target, source.index(1))


def is_turned(view: View) -> bool:
    """Whether a value is better copied before it is read along its last axis."""
    return math.prod(view.shape) >= LEAST and _plane(view) is not None


def write_turned_copy(module: Module, name: str, to: View, view: View, nbytes: int) -> Call:
    """Write the kernel that copies a value (`is_turned`) to where its elements lie without gaps; ``nbytes``: of a vector."""
    plane = _plane(view)
    assert plane is not None
    kind = kind_of(view.root.dtype)
    return _Writer(module, name, plane, kind.wide(nbytes // kind.nbytes)).write(to, view)


class _Writer:
    def __init__(self, module: Module, name: str, plane: _Plane, kind: Kind) -> None:
        self.plane, self.kind = plane, kind
        self.f = Function(module, name, [("from", PTR), ("to", PTR), ("first", I64), ("last", I64)], linkage="internal", noalias=True)

    def write(self, own: View, view: View) -> Call:
        """Units are strips: as many of the source's neighbours as a vector has lanes, along all of the last axis."""
        f, plane, lanes = self.f, self.plane, self.kind.lanes
        given, made, first, last = f.parameters
        others = [i for i in range(len(plane.sizes) - 1) if i != plane.down]
        height = plane.sizes[plane.down]
        strips = -(-height // lanes)
        with f.loop(first, last) as loop:
            strip: Index = f.rem(loop.index, strips)
            rest: Index = f.div(loop.index, strips)
            at: Index = f.add(view.offset, f.mul(strip, lanes))
            to: Index = f.add(own.offset, f.mul(strip, lanes * plane.target[plane.down]))
            for i in reversed(others):
                place, rest = f.rem(rest, plane.sizes[i]), f.div(rest, plane.sizes[i])
                at, to = f.add(at, f.mul(place, plane.source[i])), f.add(to, f.mul(place, plane.target[i]))
            source, target = f.at(given, at, self.kind), f.at(made, to, self.kind)
            if height % lanes:
                is_last = f.compare("eq", self._value(strip), Value(str(strips - 1), I64))
                with f.when(is_last):
                    self._strip(source, target, height % lanes)
                with f.when(f.binary("xor", is_last, Value("true", is_last.kind))):
                    self._strip(source, target, lanes)
            else:
                self._strip(source, target, lanes)
        f.close()
        units = strips * math.prod(plane.sizes[i] for i in others)
        return Call(Kernel(f.name, units), (view.root, own.root), (own.root,))

    def _value(self, x: Index) -> Value:
        return x if isinstance(x, Value) else Value(str(x), I64)

    def _strip(self, source: Value, target: Value, rows: int) -> None:
        f, lanes, width = self.f, self.kind.lanes, self.plane.sizes[-1]
        with f.loop(0, width - width % lanes, lanes) as loop:
            self._square(source, target, loop.index, rows, lanes)
        if width % lanes:
            self._square(source, target, width - width % lanes, rows, width % lanes)

    def _square(self, source: Value, target: Value, column: Index, rows: int, columns: int) -> None:
        """So many rows and columns of the copy."""
        f, kind, lanes = self.f, self.kind, self.kind.lanes
        step, pitch = self.plane.source[-1], self.plane.target[self.plane.down]
        above: list[Value] = []
        for j in range(lanes):
            if j >= columns:
                above.append(Value("zeroinitializer", kind))
                continue
            place = f.at(source, f.mul(f.add(column, j), step), kind)
            above.append(f.load(kind, place) if rows == lanes else f.load_some(kind, place, first_lanes(rows, lanes)))
        self._store(transposed(f, above)[:rows], f.at(target, column, kind), pitch, columns)

    def _store(self, found: Sequence[Value], target: Value, pitch: int, columns: int) -> None:
        f, kind = self.f, self.kind
        for i, x in enumerate(found):
            place = f.at(target, i * pitch, kind)
            if columns == kind.lanes:
                f.store(x, place)
            else:
                f.store_some(x, place, first_lanes(columns, kind.lanes))
