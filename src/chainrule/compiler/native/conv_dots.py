"""Convolution to few features, as dot products: vectors run over the channels that are summed, and are added up at the end.

So a generator's last layer is computed, and the gradient of images with one or three channels. The weights have to be turned unless they
come from the other side.
"""

from __future__ import annotations

from collections.abc import Iterator

from chainrule.compiler.native.conv_depthwise import Sliding, Sums
from chainrule.compiler.native.conv_shape import Correlation, Run, Target
from chainrule.compiler.native.ir import Function, Kind, Value, literal
from chainrule.compiler.native.microkernel import fused, load_lanes

__all__ = ["Dots", "is_narrow"]

_SUMS = 12
"""Of a block: what is read and multiplied with them needs registers too."""


def is_narrow(summed: int, features: int, bond: Correlation, vector: Kind, target: Target) -> bool:
    """Whether vectors of features would be mostly empty, and vectors of what is summed are not."""
    return bond.groups == 1 and 4 * features <= vector.lanes <= summed and target.registers > 16 and bond.axes[-1].taps <= 16


class Dots(Sliding):
    """Writes the kernel of one correlation; channels of its weights are neighbours, and follow each other feature by feature."""

    def shape(self) -> tuple[int, int]:
        return max(1, _SUMS // max(1, self.bond.features)), 1

    def begin(self, run: Run, widths: tuple[int, ...]) -> Sums:
        return [Value("zeroinitializer", self.tiles.vector)] * (run.height * self.bond.features)

    def slide(self, f: Function, a: Value, b: Value, run: Run, widths: tuple[int, ...], sums: Sums) -> Sums:
        vector, channels = self.tiles.vector, self.bond.channels
        whole = channels - channels % vector.lanes
        with f.loop(0, whole, vector.lanes, carry=sums) as loop:
            loop.next(*self.step(f, f.at(a, loop.index, vector), f.at(b, loop.index, vector), run, vector.lanes, loop.carried))
        sums = loop.results
        if channels % vector.lanes:
            sums = self.step(f, f.at(a, whole, vector), f.at(b, whole, vector), run, channels % vector.lanes, sums)
        return sums

    def step(self, f: Function, a: Value, b: Value, run: Run, width: int, sums: Sums) -> Sums:
        """As many channels as a vector holds."""
        row, vector, features, channels, sums = self.row, self.tiles.vector, self.bond.features, self.bond.channels, list(sums)
        weights: dict[tuple[int, int], Value] = {}
        for place, uses in self.places(run).items():
            x = load_lanes(f, vector, f.at(a, place * row.x, vector), width)
            for i, tap in uses:
                for feature in range(features):
                    if (tap, feature) not in weights:
                        weights[tap, feature] = load_lanes(f, vector, f.at(b, tap * row.w + feature * channels, vector), width)
                    sums[i * features + feature] = fused(f, x, weights[tap, feature], sums[i * features + feature])
        return sums

    def results(self, f: Function, run: Run, widths: tuple[int, ...], sums: Sums) -> Iterator[tuple[int, int, Value]]:
        vector, features = self.tiles.vector, self.bond.features
        one = vector.wide(1)
        for i in range(run.height):
            x = Value("zeroinitializer", vector)
            for feature in range(features):
                total = f.intrinsic(
                    "vector.reduce.fadd", literal(-0.0, one), sums[i * features + feature], result=one, overload=vector, flags="reassoc"
                )
                x = f.value(vector, f"insertelement {x}, {total}, i64 {feature}")
            yield i, 0, x
