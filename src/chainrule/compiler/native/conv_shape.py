"""Convolutions as numbers: which outputs a tap reaches, where its operands lie in memory, and how the sums are cut into blocks.

The batch is an axis like any other, with one tap. A `Correlation` describes what `conv` computes, and also each of the parts of a
`conv_transpose` that share their taps; axes along which nothing slides are joined. No code is written here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

from chainrule.compiler.native.host import Host
from chainrule.compiler.native.ir import Kind, kind_of
from chainrule.compiler.native.microkernel import balanced
from chainrule.core.aval import Dtype, Shape
from chainrule.ops.windows import phase

__all__ = [
    "Axis",
    "Correlation",
    "Panel",
    "Part",
    "Run",
    "Target",
    "best_vectors",
    "classes",
    "correlation",
    "panels",
    "rows_of",
    "runs",
    "strides_of",
]


class Target(NamedTuple):
    """What kernels are cut to.

    Attributes
    ----------
    nbytes : int
        Of a vector.
    registers : int
        That hold vectors.
    halves : bool
        Whether products of float32 may round their operands to bfloat16.
    """

    nbytes: int = 64
    registers: int = 32
    halves: bool = False

    @classmethod
    def of(cls, host: Host, *, halves: bool = False) -> Target:
        """x86 has 32 of the widest registers, and 16 of the others; everybody else has 32. ``halves``: whether they may, where the host can."""
        x86 = any(word[1:] == "avx" for word in host.features.split(","))
        return cls(host.bits // 8, 16 if x86 and host.bits < 512 else 32, halves and host.has("avx512bf16"))

    def vector(self, dtype: Dtype) -> Kind:
        """Of as many elements as a register holds."""
        return kind_of(dtype).wide(self.nbytes // dtype.itemsize)


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: tap k of output o reads input ``o*step + k*gap - low``; x, w and y are elements from one input, tap, output to the next."""

    taps: int
    step: int
    gap: int
    low: int
    inputs: int
    outputs: int
    x: int
    w: int
    y: int

    def reach(self, tap: int) -> range:
        """The outputs for which this tap reads inside of the input."""
        offset = self.low - tap * self.gap
        first = max(0, -(-offset // self.step))
        return range(first, max(first, min(self.outputs, (self.inputs - 1 + offset) // self.step + 1)))

    @property
    def peeled(self) -> bool:
        """Whether some tap of some output reads outside."""
        return any(len(self.reach(tap)) < self.outputs for tap in (0, self.taps - 1)) or not self.taps


@dataclass(frozen=True, slots=True)
class Correlation:
    """``y[o, f] = sum over taps and channels of x[o*step + k*gap - low, c] * w[k, c, f]`` for every group of channels and features.

    Attributes
    ----------
    axes : tuple of Axis
        The batch first.
    groups, channels, features : int
        The latter two per group.
    row : int
        Elements from one channel of w to the next.
    x, w, y : int
        Where they begin, in elements.
    """

    axes: tuple[Axis, ...]
    groups: int
    channels: int
    features: int
    row: int
    x: int = 0
    w: int = 0
    y: int = 0

    @property
    def outputs(self) -> int:
        """Positions, of all images."""
        return math.prod(axis.outputs for axis in self.axes)

    @property
    def taps(self) -> int:
        """Of the whole kernel."""
        return math.prod(axis.taps for axis in self.axes)

    @property
    def weights(self) -> int:
        """How many there are."""
        return self.taps * self.channels * self.features * self.groups

    def exchanged(self) -> Correlation:
        """From y to x, with reversed taps: of steps of 1 and one group only."""
        steps = strides_of([axis.taps for axis in self.axes[1:]], self.channels * self.features)
        batch = replace(self.axes[0], x=self.axes[0].y, y=self.axes[0].x)
        turned = [
            Axis(axis.taps, 1, axis.gap, (axis.taps - 1) * axis.gap - axis.low, axis.outputs, axis.inputs, axis.y, step, axis.x)
            for axis, step in zip(self.axes[1:], steps, strict=True)
        ]
        return Correlation((batch, *turned), 1, self.features, self.channels, self.channels)

    def joined(self) -> Correlation:
        """With neighbouring axes joined where nothing slides, and all operands step evenly."""
        x, kept = self.x, list[Axis]()
        for axis in self.axes:
            if axis.taps == 1 and not axis.peeled:
                x -= axis.low * axis.x
                plain = Axis(1, 1, 1, 0, axis.outputs, axis.outputs, axis.x * axis.step, 0, axis.y)
                last = kept[-1] if kept else None
                if last and last.taps == 1 and not last.peeled and (last.x, last.y) == (plain.x * plain.outputs, plain.y * plain.outputs):
                    count = last.outputs * plain.outputs
                    kept[-1] = replace(plain, inputs=count, outputs=count)
                    continue
                axis = plain
            kept.append(axis)
        return replace(self, axes=tuple(kept), x=x)


def strides_of(sizes: Sequence[int], last: int) -> Shape:
    """Of an array without gaps, the innermost of which is ``last``."""
    strides = [last]
    for size in reversed(sizes[1:]):
        strides.insert(0, strides[0] * size)
    return tuple(strides)


def correlation(x: Shape, w: Shape, y: Shape, params: Mapping[str, Any]) -> Correlation:
    """What binds images x, weights w and outputs y of a convolution, whichever of them is asked for."""
    groups, channels = params["groups"], w[-2]
    xs, ws, ys = strides_of(x[:-1], x[-1]), strides_of(w[:-2], channels * w[-1]), strides_of(y[:-1], y[-1])
    batch = Axis(1, 1, 1, 0, x[0], x[0], xs[0], 0, ys[0])
    spatial = zip(w[:-2], params["stride"], params["dilation"], params["low"], x[1:-1], y[1:-1], xs[1:], ws, ys[1:], strict=True)
    return Correlation((batch, *(Axis(*axis) for axis in spatial)), groups, channels, w[-1] // groups, w[-1])


class Part(NamedTuple):
    """A share of a `conv_transpose`: outputs with the same remainders modulo the strides.

    Attributes
    ----------
    correlation : Correlation
        From y to x, with weights that lie one tap after the other, channels and features exchanged.
    taps : tuple of int
        Which of the original weights' taps these are.
    """

    correlation: Correlation
    taps: tuple[int, ...]


def classes(bond: Correlation, *, turned: bool = True) -> list[Part]:
    """The parts that make up x out of y and w; turned weights follow each other in the parts' order, others are read where they are."""
    batch, *axes = bond.axes
    phases = [[phase(a.step, a.gap, a.low, a.taps, residue) for residue in range(min(a.step, a.inputs))] for a in axes]
    matrix = bond.channels * bond.features * bond.groups
    parts: list[Part] = []
    begin = 0
    for chosen in product(*phases):
        sizes = [one.taps for one in chosen]
        picked = [range(axis.taps)[one.pick] for one, axis in zip(chosen, axes, strict=True)]
        places = [0]
        for axis, which in zip(axes, picked, strict=True):
            places = [place * axis.taps + tap for place in places for tap in which]
        found = [Axis(1, 1, 1, 0, batch.outputs, batch.inputs, batch.y, 0, batch.x)]
        steps = strides_of(sizes, matrix) if turned else tuple(which.step * axis.w for which, axis in zip(picked, axes, strict=True))
        for one, axis, step in zip(chosen, axes, steps, strict=True):
            outputs = len(range(one.residue, axis.inputs, axis.step))
            found.append(Axis(one.taps, 1, one.dilation, one.low, axis.outputs, outputs, axis.y, step, axis.x * axis.step))
        y = sum(one.residue * axis.x for one, axis in zip(chosen, axes, strict=True))
        w = begin if turned else sum(which.start * axis.w for which, axis in zip(picked, axes, strict=True) if which)
        inner = Correlation(tuple(found), bond.groups, bond.features, bond.channels, bond.channels * bond.groups, w=w, y=y)
        parts.append(Part(inner, tuple(places)))
        begin += len(places) * matrix
    return parts


class Panel(NamedTuple):
    """Neighbouring panels of as many features.

    Attributes
    ----------
    first, stop : int
        Their numbers.
    feature : int
        Where the first of them begins.
    widths : tuple of int
        Lanes of each vector.
    """

    first: int
    stop: int
    feature: int
    widths: tuple[int, ...]


def panels(features: int, lanes: int, vectors: int) -> list[Panel]:
    """Features in panels of at most so many vectors, as equal as possible."""
    found: list[Panel] = []
    feature = 0
    for number, count in enumerate(balanced(-(-features // lanes), vectors) if features else ()):
        widths = tuple(min(lanes, features - feature - lanes * v) for v in range(count))
        if found and found[-1].widths == widths:
            found[-1] = found[-1]._replace(stop=number + 1)
        else:
            found.append(Panel(number, number + 1, feature, widths))
        feature += sum(widths)
    return found


def rows_of(vectors: int, target: Target) -> int:
    """How many rows of sums fit into the registers, beside so many vectors and what is multiplied with them."""
    return max(1, (target.registers - 1 - vectors) // vectors - (2 if vectors == 1 and target.registers > 16 else 0))


def best_vectors(outputs: int, features: int, lanes: int, target: Target) -> int:
    """How wide panels should be: as few instructions as possible, loads counted by what they cost."""

    def cost(vectors: int) -> float:
        heights = balanced(outputs, rows_of(vectors, target))
        widths = balanced(-(-features // lanes), vectors)
        return sum(max(h * v, 6) + 0.15 * h + 0.4 * v for h in heights for v in widths)

    return min((2, 1, 3, 4), key=cost)


class Run(NamedTuple):
    """Neighbouring blocks of outputs along the last axis for which the same taps read inside.

    Attributes
    ----------
    first, stop : int
        Their numbers.
    output : int
        Where the first begins.
    height : int
        Outputs of each.
    taps : tuple of (int, int, range)
        First tap, number of taps, and the rows that they reach.
    """

    first: int
    stop: int
    output: int
    height: int
    taps: tuple[tuple[int, int, range], ...]


def runs(axis: Axis, most: int) -> list[Run]:
    """The outputs of an axis in blocks of at most so many, as equal as possible."""
    reached = [axis.reach(tap) for tap in range(axis.taps)]
    found: list[Run] = []
    output = 0
    for number, height in enumerate(balanced(axis.outputs, most) if axis.outputs else ()):
        taps: list[tuple[int, int, range]] = []
        for tap, reach in enumerate(reached):
            rows = range(max(reach.start - output, 0), max(min(reach.stop - output, height), 0))
            if not rows:
                continue
            if taps and taps[-1][2] == rows and taps[-1][0] + taps[-1][1] == tap:
                taps[-1] = (taps[-1][0], taps[-1][1] + 1, rows)
            else:
                taps.append((tap, 1, rows))
        if found and (found[-1].height, found[-1].taps) == (height, tuple(taps)):
            found[-1] = found[-1]._replace(stop=number + 1)
        else:
            found.append(Run(number, number + 1, output, height, tuple(taps)))
        output += height
    return found
