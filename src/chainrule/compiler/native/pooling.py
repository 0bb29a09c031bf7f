"""Pooling gates in machine code: maxima and means over windows, and the maps that carry cotangents and tangents past them.

Vectors run over channels. What goes back to the images is put together image position by image position, from the windows that cover it,
so that nothing is written twice; windows that lie side by side are the exception: each writes all that it covers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from chainrule.compiler.native.conv_products import finished, pointers_of
from chainrule.compiler.native.conv_shape import Axis, Panel, Target, panels, runs, strides_of
from chainrule.compiler.native.gemm import Epilogue, Work, Written
from chainrule.compiler.native.ir import I64, PTR, Function, Index, Kind, Module, Value, literal
from chainrule.compiler.native.kernel import Kernel
from chainrule.compiler.native.microkernel import load_lanes, store_lanes
from chainrule.core.aval import Aval

__all__ = ["write_pool"]

_FEW = 16
"""Units that keep threads busy; with fewer, rows are cut."""

_UNROLLED = 8
"""Taps that are written one after the other."""

_VECTORS = 4
"""Of channels, that are worked on together."""

Values = list[Value]


def write_pool(
    module: Module,
    name: str,
    gate: str,
    inputs: Sequence[Aval],
    out: Aval,
    params: Mapping[str, Any],
    target: Target,
    epilogue: Epilogue | None = None,
) -> Written:
    """Write the kernels of `max_pool`, `max_pool_spread`, `max_pool_gather`, `avg_pool` or `avg_pool_spread`.

    Parameters
    ----------
    module : Module
    name : str
        With which the names of all functions begin.
    gate : str
    inputs : sequence of Aval
        Without gaps in memory, as the result: float32 or float64.
    out : Aval
    params : Mapping
        The gate's.
    target : Target
    epilogue : Epilogue, optional
        What becomes of the results before they are stored: of a matrix with a row for each position and a column for each channel.

    Returns
    -------
    Written
        Kernels of the inputs, ``"a"``, ``"b"`` and ``"d"``, and the result ``"c"``, whose memory may not be shared.
    """
    back = gate.endswith("_spread")
    image = out if back else inputs[min(1, len(inputs) - 1)]
    pooled = inputs[0] if back else out
    xs, ys = (strides_of(aval.shape[:-1], aval.shape[-1]) for aval in (image, pooled))
    batch = Axis(1, 1, 1, 0, image.shape[0], image.shape[0], xs[0], 0, ys[0])
    spatial = zip(params["window"], params["stride"], params["low"], image.shape[1:-1], pooled.shape[1:-1], xs[1:], ys[1:], strict=True)
    axes = (batch, *(Axis(taps, step, 1, low, inside, outside, x, 0, y) for taps, step, low, inside, outside, x, y in spatial))
    pool = _Pool(module, name, target.vector(out.dtype), axes, out.shape[-1], epilogue)
    extra = epilogue.parameters if epilogue else ()
    if gate == "max_pool":
        return Written((Work(pool.windows(name, "ac", pool.maximum), ("a", "c", *extra)),), 0)
    if gate == "avg_pool":
        return Written((Work(pool.windows(name, "ac", pool.mean(include_pad=params["include_pad"])), ("a", "c", *extra)),), 0)
    if gate == "max_pool_gather":
        return Written((Work(pool.windows(name, "abdc", pool.gather), ("a", "b", "d", "c", *extra)),), 0)
    if gate == "avg_pool_spread":
        return Written((Work(pool.covered(name, "ac", pool.mean_back(include_pad=params["include_pad"])), ("a", "c", *extra)),), 0)
    if all(axis.step == axis.taps and not axis.low and axis.outputs * axis.step == axis.inputs for axis in axes[1:]):
        return Written((Work(pool.windows(name, "abdc", pool.apart), ("a", "b", "d", "c", *extra)),), 0)
    bare = pool._replace(epilogue=None)
    shares = bare.windows(f"{name}_shares", "abdc", bare.share)
    works = Work(shares, ("a", "b", "d", "scratch")), Work(pool.covered(name, "abdc", pool.maximum_back), ("scratch", "b", "d", "c", *extra))
    return Written(works, math.prod(pooled.shape) * out.dtype.itemsize)


class _Place(NamedTuple):
    """Some channels of one window, or of one position of an image.

    Attributes
    ----------
    pointers : Mapping
        The kernel's, by their roles.
    x, y : Index
        Where the channels begin in the image (of a window: at its first tap inside) and among the results of windows.
    taps : tuple of (Index, Index)
        Of a window: how many taps lie inside, and elements from one to the next, per axis. Of a position: where the windows begin that
        cover it, and how many these are.
    panel : Panel
        Which channels.
    """

    pointers: Mapping[str, Value]
    x: Index
    y: Index
    taps: tuple[tuple[Index, Index], ...]
    panel: Panel


Body = Callable[[Function, _Place], Values | None]


class _Pool(NamedTuple):
    module: Module
    name: str
    vector: Kind
    axes: tuple[Axis, ...]
    channels: int
    epilogue: Epilogue | None

    # Kernels.

    def windows(self, name: str, roles: str, body: Body) -> Kernel:
        """One that gives a result for each window, or stores its own into what the window covers."""
        row = self.axes[-1]

        def line(f: Function, pointers: Mapping[str, Value], place: Sequence[Index], begin: Index, end: Index) -> None:
            x, y, taps = self.entered(f, place)
            for run in runs(row, 1):
                first, count = (run.taps[0][0], sum(one[1] for one in run.taps)) if run.taps else (0, 0)
                with f.loop(f.most(begin, run.first), f.least(end, run.stop)) as loop:
                    at = f.add(x, f.mul(f.sub(f.add(f.mul(loop.index, row.step), first), row.low), row.x))
                    self.channelwise(f, pointers, at, f.add(y, f.mul(loop.index, row.y)), (*taps, (count, row.x)), body)

        return self.kernel(name, roles, [axis.outputs for axis in self.axes], line)

    def covered(self, name: str, roles: str, body: Body) -> Kernel:
        """One that gives a result for each position of the images."""

        def line(f: Function, pointers: Mapping[str, Value], place: Sequence[Index], begin: Index, end: Index) -> None:
            x, ranges = f.mul(place[0], self.axes[0].x), list[tuple[Index, Index]]()
            for axis, at in zip(self.axes[1:-1], place[1:], strict=True):
                x = f.add(x, f.mul(at, axis.x))
                ranges.append(self.covering(f, axis, at))
            y = f.mul(place[0], self.axes[0].y)
            row = self.axes[-1]
            with f.loop(begin, end) as loop:
                taps = (*ranges, self.covering(f, row, loop.index))
                self.channelwise(f, pointers, f.add(x, f.mul(loop.index, row.x)), y, taps, body, back=True)

        return self.kernel(name, roles, [axis.inputs for axis in self.axes], line)

    def kernel(
        self, name: str, roles: str, sizes: Sequence[int], line: Callable[[Function, Mapping[str, Value], Sequence[Index], Index, Index], None]
    ) -> Kernel:
        """Units are rows of positions, or pieces of these where rows are few."""
        pointers = [("out" if role == "c" else f"in{i}", PTR) for i, role in enumerate(roles)]
        f = Function(self.module, name, [*pointers, *pointers_of(self.epilogue), ("first", I64), ("last", I64)])
        rows = math.prod(sizes[:-1])
        piece = max(1, sizes[-1] // max(1, _FEW // max(1, rows)))
        pieces = -(-sizes[-1] // piece)
        units = rows * pieces if self.channels else 0
        if units:
            with f.loop(f.parameters[-2], f.parameters[-1]) as loop:
                part, rest = f.rem(loop.index, pieces), f.div(loop.index, pieces)
                place: list[Index] = []
                for size in reversed(sizes[:-1]):
                    place.insert(0, f.rem(rest, size))
                    rest = f.div(rest, size)
                begin = f.mul(part, piece)
                end = sizes[-1] if pieces == 1 else f.least(f.add(begin, piece), sizes[-1])
                line(f, dict(zip(roles, f.parameters, strict=False)), place, begin, end)
        f.close()
        return Kernel(name, units)

    def channelwise(
        self, f: Function, pointers: Mapping[str, Value], x: Index, y: Index, taps: tuple[tuple[Index, Index], ...], body: Body, *,
        back: bool = False,
    ) -> None:  # fmt: skip
        """The channels of one place in pieces of a few vectors."""
        for panel in panels(self.channels, self.vector.lanes, _VECTORS):
            with f.loop(panel.first, panel.stop) as loop:
                channel = f.add(panel.feature, f.mul(f.sub(loop.index, panel.first), sum(panel.widths)))
                if panel.stop == panel.first + 1:
                    channel = panel.feature
                place = _Place(pointers, f.add(x, channel), f.add(y, channel), taps, panel)
                made = body(f, place)
                if made is not None:
                    self.keep(f, pointers["c"], x if back else y, channel, panel, made)

    def keep(self, f: Function, out: Value, begin: Index, channel: Index, panel: Panel, made: Values) -> None:
        """Results of one position of the kernel's own."""
        row = f.div(begin, self.channels) if self.epilogue else 0
        for v, (value, width) in enumerate(zip(made, panel.widths, strict=True)):
            column = f.add(channel, v * self.vector.lanes)
            done = finished(f, self.epilogue, value, row, column, width)
            if done is not None:
                store_lanes(f, done, f.at(out, f.add(begin, column), self.vector), width)

    # Windows.

    def entered(self, f: Function, place: Sequence[Index]) -> tuple[Index, Index, list[tuple[Index, Index]]]:
        """Where the windows of a row find the first tap that lies inside, and where their results are."""
        x: Index = 0
        y: Index = 0
        taps: list[tuple[Index, Index]] = []
        for number, (axis, at) in enumerate(zip(self.axes, place, strict=False)):
            begin, count = f.sub(f.mul(at, axis.step), axis.low), axis.taps
            y = f.add(y, f.mul(at, axis.y))
            if axis.peeled:
                inside = f.most(begin, 0)
                count = f.most(f.sub(f.least(f.add(begin, axis.taps), axis.inputs), inside), 0)
                begin = inside
            x = f.add(x, f.mul(begin, axis.x))
            if number:
                taps.append((count, axis.x))
        return x, y, taps

    def covering(self, f: Function, axis: Axis, at: Index) -> tuple[Index, Index]:
        """The first window over a position along one axis, and one after the last."""
        there = f.add(at, axis.low)
        first = f.div(f.most(f.add(there, axis.step - axis.taps), 0), axis.step)
        return first, f.least(f.div(f.most(f.add(there, axis.step), 0), axis.step), axis.outputs)

    def fold(self, f: Function, taps: Sequence[tuple[Index, Index]], x: Index, carried: Values, use: Callable[[Index, Values], Values]) -> Values:
        """``carried = use(place, carried)`` for every tap of a window."""
        if not taps:
            return use(x, carried)
        (count, step), *rest = taps
        if isinstance(count, int) and count <= _UNROLLED:
            for tap in range(count):
                carried = self.fold(f, rest, f.add(x, f.mul(tap, step)), carried, use)
            return carried
        with f.loop(0, count, carry=carried) as loop:
            loop.next(*self.fold(f, rest, f.add(x, f.mul(loop.index, step)), loop.carried, use))
        return loop.results

    def over(self, f: Function, place: _Place, carried: Values, use: Callable[[Index, Index, Values], Values]) -> Values:
        """``carried = use(window, its elements, carried)`` for every window that covers a position."""

        def along(axes: Sequence[tuple[Axis, tuple[Index, Index]]], y: Index, elements: Index, carried: Values) -> Values:
            if not axes:
                return use(y, elements, carried)
            (axis, (first, stop)), *rest = axes
            with f.loop(first, stop, carry=carried) as loop:
                begin = f.sub(f.mul(loop.index, axis.step), axis.low)
                count = f.sub(f.least(f.add(begin, axis.taps), axis.inputs), f.most(begin, 0)) if axis.peeled else axis.taps
                loop.next(*along(rest, f.add(y, f.mul(loop.index, axis.y)), f.mul(elements, count), loop.carried))
            return loop.results

        return along(list(zip(self.axes[1:], place.taps, strict=True)), place.y, 1, carried)

    def load(self, f: Function, pointer: Value, begin: Index, panel: Panel) -> Values:
        lanes = self.vector.lanes
        return [load_lanes(f, self.vector, f.at(pointer, f.add(begin, v * lanes), self.vector), width) for v, width in enumerate(panel.widths)]

    def constant(self, number: float, panel: Panel) -> Values:
        return [literal(number, self.vector)] * len(panel.widths)

    def one_over(self, f: Function, count: Index) -> Value:
        """In all lanes."""
        if isinstance(count, int):
            return literal(1 / max(count, 1), self.vector)
        one = self.vector.wide(1)
        return f.splat(f.binary("fdiv", literal(1, one), f.cast("sitofp", count, one)), self.vector.lanes)

    # What is computed.

    def maximum(self, f: Function, place: _Place) -> Values:
        def use(x: Index, best: Values) -> Values:
            found = self.load(f, place.pointers["a"], x, place.panel)
            return [f.intrinsic("maximum", a, b, flags="nsz") for a, b in zip(best, found, strict=True)]

        return self.fold(f, place.taps, place.x, self.constant(-math.inf, place.panel), use)

    def mean(self, *, include_pad: bool) -> Body:
        def body(f: Function, place: _Place) -> Values:
            def use(x: Index, total: Values) -> Values:
                return [f.binary("fadd", a, b) for a, b in zip(total, self.load(f, place.pointers["a"], x, place.panel), strict=True)]

            total = self.fold(f, place.taps, place.x, self.constant(0, place.panel), use)
            elements: Index = 1
            for (count, _), axis in zip(place.taps, self.axes[1:], strict=True):
                elements = f.mul(elements, axis.taps if include_pad else count)
            scale = self.one_over(f, elements)
            return [f.binary("fmul", x, scale) for x in total]

        return body

    def mean_back(self, *, include_pad: bool) -> Body:
        full = math.prod(axis.taps for axis in self.axes)

        def body(f: Function, place: _Place) -> Values:
            def use(y: Index, elements: Index, total: Values) -> Values:
                scale = self.one_over(f, full if include_pad else elements)
                parts = [f.binary("fmul", x, scale) for x in self.load(f, place.pointers["a"], y, place.panel)]
                return [f.binary("fadd", a, b) for a, b in zip(total, parts, strict=True)]

            return self.over(f, place, self.constant(0, place.panel), use)

        return body

    def attained(self, f: Function, place: _Place, x: Index, out: Values) -> Values:
        """1 where the image has the maximum, else 0: NaN equals nothing."""
        ones, zero = literal(1, self.vector), literal(0, self.vector)
        found = self.load(f, place.pointers["b"], x, place.panel)
        return [f.select(f.compare("oeq", a, b), ones, zero) for a, b in zip(found, out, strict=True)]

    def ties(self, f: Function, place: _Place, out: Values) -> Values:
        """How often the maximum is attained, at least 1."""

        def use(x: Index, number: Values) -> Values:
            return [f.binary("fadd", a, b) for a, b in zip(number, self.attained(f, place, x, out), strict=True)]

        ones = literal(1, self.vector)
        counted = self.fold(f, place.taps, place.x, self.constant(0, place.panel), use)
        return [f.select(f.compare("ogt", x, ones), x, ones) for x in counted]

    def share(self, f: Function, place: _Place) -> Values:
        """The cotangent of a window for each of the elements that attain the maximum."""
        out, given = (self.load(f, place.pointers[role], place.y, place.panel) for role in "da")
        return [f.binary("fdiv", a, b) for a, b in zip(given, self.ties(f, place, out), strict=True)]

    def apart(self, f: Function, place: _Place) -> None:
        out, share = self.load(f, place.pointers["d"], place.y, place.panel), self.share(f, place)

        def use(x: Index, nothing: Values) -> Values:
            made = [f.binary("fmul", a, b) for a, b in zip(share, self.attained(f, place, x, out), strict=True)]
            channel = f.rem(x, self.channels) if self.epilogue else 0
            self.keep(f, place.pointers["c"], f.sub(x, channel), channel, place.panel, made)
            return nothing

        self.fold(f, place.taps, place.x, [], use)

    def maximum_back(self, f: Function, place: _Place) -> Values:
        def use(y: Index, elements: Index, total: Values) -> Values:
            out, share = (self.load(f, place.pointers[role], y, place.panel) for role in "da")
            parts = [f.binary("fmul", a, b) for a, b in zip(share, self.attained(f, place, place.x, out), strict=True)]
            return [f.binary("fadd", a, b) for a, b in zip(total, parts, strict=True)]

        return self.over(f, place, self.constant(0, place.panel), use)

    def gather(self, f: Function, place: _Place) -> Values:
        out = self.load(f, place.pointers["d"], place.y, place.panel)

        def use(x: Index, total: Values) -> Values:
            moved = self.load(f, place.pointers["a"], x, place.panel)
            parts = [f.binary("fmul", a, b) for a, b in zip(moved, self.attained(f, place, x, out), strict=True)]
            return [f.binary("fadd", a, b) for a, b in zip(total, parts, strict=True)]

        total = self.fold(f, place.taps, place.x, self.constant(0, place.panel), use)
        return [f.binary("fdiv", a, b) for a, b in zip(total, self.ties(f, place, out), strict=True)]
