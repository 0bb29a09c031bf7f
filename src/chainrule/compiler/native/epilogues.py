"""Elementwise gates on the results of a product while these are in registers: bias, activation, its mask, the optimizer's update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from chainrule.compiler.native.contractions import Labels, Matched
from chainrule.compiler.native.elements import load, store
from chainrule.compiler.native.gemm import Epilogue, Place
from chainrule.compiler.native.ir import Function, Index, Value
from chainrule.compiler.native.kernel import meeting
from chainrule.compiler.native.scalars import lower
from chainrule.compiler.native.views import Strides, View, as_one
from chainrule.core.variable import Variable
from chainrule.graph.ir import Operation

__all__ = ["Fitting", "epilogue", "fitting", "steps_of"]


class Steps(NamedTuple):
    """How far apart elements of an operand are along the axes of a product: of the batch, and from row to row, from column to column."""

    batch: Strides
    row: int
    column: int


class Fitting(NamedTuple):
    """Elementwise gates that fit a product.

    Attributes
    ----------
    result : Variable
        Of the product.
    nodes : sequence of Operation
        In order.
    reads : Mapping of Variable to Steps
        What they read besides the result.
    stores : Mapping of Variable to Steps
        What is kept of what they make, or the result itself.
    views : Mapping of Variable to View
        Of all of these.
    """

    result: Variable
    nodes: Sequence[Operation]
    reads: Mapping[Variable, Steps]
    stores: Mapping[Variable, Steps]
    views: Mapping[Variable, View]

    @property
    def parameters(self) -> dict[str, Variable]:
        """The values whose pointers the epilogue needs, by the pointers' names."""
        return {f"e{i}": x for i, x in enumerate(self.views)}

    @property
    def operands(self) -> dict[str, View]:
        """What the pointers are to; that of the product itself, which is not kept or has another name, is the first of those kept."""
        found = {name: self.views[x] for name, x in self.parameters.items()}
        return {**found, "c": found[self.kept[0]]}

    @property
    def meeting(self) -> frozenset[tuple[Variable, Variable]]:
        """What is read only where something is stored (see `Call`)."""
        at = lambda x, steps: (self.views[x].root, (self.views[x].offset, steps))
        return meeting((at(*item) for item in self.reads.items()), (at(*item) for item in self.stores.items()))

    @property
    def kept(self) -> list[str]:
        """The pointers to what is stored."""
        return [name for name, x in self.parameters.items() if x in self.stores]


def fitting(
    result: Variable, labels: Labels, found: Matched, nodes: Sequence[Operation], stores: Sequence[Variable], views: Mapping[Variable, View]
) -> Fitting | None:
    """Gates as an epilogue of a product; None if what they read does not lie evenly along its rows and columns.

    Parameters
    ----------
    result : Variable
    labels : tuple of str
        Of the result's axes.
    found : Matched
    nodes, stores
        Elementwise gates of the shape of the result, and what is kept of what they make.
    views : Mapping of Variable to View
        Of all that they read and keep.
    """
    made = {x for node in nodes for x in node.outputs}
    read = dict.fromkeys(x for node in nodes for x in node.inputs if x not in made and x is not result)
    steps = {x: steps_of(views[x].along(result.shape), labels, found) for x in (*read, *stores)}
    even = {x: step for x, step in steps.items() if step is not None}
    if len(even) < len(steps) or any(even[x].column != 1 and found.product.n > 1 for x in stores):
        return None
    return Fitting(result, nodes, {x: even[x] for x in read}, {x: even[x] for x in stores}, {x: views[x] for x in even})


def steps_of(strides: Strides, labels: Labels, found: Matched) -> Steps | None:
    """How far apart elements of something of the shape of a product's result are; None if its axes do not join as the product's do."""
    along = dict(zip(labels, strides, strict=True))
    one = lambda axes: as_one(tuple(size for _, size in axes), [tuple(along[label] for label, _ in axes)])
    if (row := one(found.rows)) is None or (column := one(found.columns)) is None:
        return None
    (rows,), (columns,) = row, column
    cut = found.strips > 1
    batch = [along[label] for label in found.order[: len(found.product.batch) - cut]]
    return Steps((*batch, *(rows * found.product.m for _ in range(cut))), rows, columns)


def epilogue(fit: Fitting) -> Epilogue:
    """What the product's kernel writes on its sums."""
    places = {x: name for name, x in fit.parameters.items()}

    def write(f: Function, x: Value, place: Place, pointers: Mapping[str, Value]) -> None:
        values = {fit.result: x}
        for leaf, steps in fit.reads.items():
            at = _at(f, fit.views[leaf], steps, place)
            values[leaf] = load(f, leaf.dtype, pointers[places[leaf]], at, steps.column, x.kind.lanes, place.mask)
        for node in fit.nodes:
            values[node.output] = lower(
                f, node.primitive, [values[y] for y in node.inputs], [y.dtype for y in node.inputs], node.params, node.output.dtype
            )
        for kept, steps in fit.stores.items():
            value = f.splat(values[kept], x.kind.lanes)
            store(f, kept.dtype, pointers[places[kept]], _at(f, fit.views[kept], steps, place), value, place.mask)

    return Epilogue(tuple(places.values()), write)


def _at(f: Function, view: View, steps: Steps, place: Place) -> Index:
    at: Index = view.offset
    for position, step in zip(place.batch, steps.batch, strict=True):
        at = f.add(at, f.mul(position, step))
    return f.add(f.add(at, f.mul(place.row, steps.row)), f.mul(place.column, steps.column))
