"""Where values are best written: right in the memory of what they are put together to, or in the order in which they are read.

These are wishes: what makes a value may not be able to write it there; who puts it together copies it then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from chainrule.compiler.native.views import View, collapsed, moved, whole
from chainrule.core.primitive import TABLE
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation

__all__ = ["parts_of", "wishes"]

SMALL = 1024
"""Elements up to which it does not matter how they are strewn."""
RUN = 16
"""Neighbours in memory, from which on it does not matter either."""


def wishes(graph: Graph) -> dict[Variable, View]:
    """Per value that is put together with others the part of that memory which is its own; per value that would be copied to another order, that."""
    made = {x: node for node in graph.nodes for x in node.outputs}
    # What is given out has memory of its own.
    given_out = {*graph.outputs}
    found: dict[Variable, View] = {}

    def wish(x: Variable, view: View | None) -> None:
        if view is not None and x in made and x not in given_out and (_dense(view) or (made[x].primitive.kernel == "gemm" and _dense(_turned(view)))):
            found.setdefault(x, view)

    for node in reversed(graph.nodes):
        if node.primitive in JOINING and node.output.size:
            for x, part in zip(node.inputs, parts_of(node, found.get(node.output) or whole(node.output)), strict=True):
                wish(x, part)
        elif (back := _back(node)) is not None:
            if node.output in given_out:
                given_out.update(node.inputs)
            if node.output in found or _copies(node, made.get(node.inputs[0])):
                wish(node.inputs[0], (moved(back, found.get(node.output) or whole(node.output)) or [None])[0])
    return found


def parts_of(node: Operation, view: View) -> list[View | None]:
    """Per operand of a gate that puts values together where it lies in the view of the result; None: of another dtype, or of no elements."""
    axis = node.params["axis"]
    start = 0
    found: list[View | None] = []
    for x in node.inputs:
        strides, size = view.strides, 1
        if node.primitive is TABLE["concat"]:
            size = x.shape[axis]
            strides = (*strides[:axis], strides[axis] if size != 1 else 0, *strides[axis + 1 :])
        else:
            strides = (*strides[:axis], *strides[axis + 1 :])
        part = View(view.root, x.shape, view.offset + start * view.strides[axis], strides)
        found.append(part if x.size and x.dtype == node.output.dtype else None)
        start += size
    return found


def _copies(node: Operation, before: Operation | None) -> bool:
    """Whether a gate would have to copy what the one before it only turned."""
    if before is None or before.primitive is not TABLE["permute_dims"] or not node.output.size:
        return False
    (turned,) = moved(before, whole(before.inputs[0])) or [None]
    return turned is not None and moved(node, turned) is None


def _dense(view: View) -> bool:
    """Whether it does not take longer to write there than to memory without gaps, and copy that."""
    if math.prod(view.shape) <= SMALL:
        return True
    axes = collapsed(view.shape, [view.strides])
    return axes.strides[0][-1] == 1 and axes.sizes[-1] >= RUN


def _turned(view: View) -> View:
    """Columns of matrices as rows: a product gives either."""
    turn = lambda axes: (*axes[:-2], *axes[:-3:-1])
    return View(view.root, turn(view.shape), view.offset, turn(view.strides))


def _back(node: Operation) -> Operation | None:
    """The gate that undoes one which gives all elements another order."""
    if node.primitive is TABLE["reshape"]:
        return Operation(node.primitive, node.outputs, {"shape": node.inputs[0].shape}, node.inputs)
    if node.primitive is TABLE["permute_dims"]:
        axes: Sequence[int] = np.argsort(node.params["axes"]).tolist()
        return Operation(node.primitive, node.outputs, {"axes": tuple(axes)}, node.inputs)
    return None


JOINING = (TABLE["concat"], TABLE["stack"])
"""Gates that put values together, along an axis that they have or a new one."""
