"""Units: which units of a network are dead: through none of them a gradient passes, for no example of a batch. It judges nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chainrule.autodiff.reverse import vjp
from chainrule.core import tree
from chainrule.core.interp import no_grad
from chainrule.core.primitive import Primitive
from chainrule.graph.ir import Graph
from chainrule.ops.creation import asarray
from chainrule.tape import bind
from chainrule.tensor import Tensor

FILE = "units.jsonl"
"""In a run folder, one line per epoch: "epoch", and "gates" with what `dead_units` found."""


@dataclass(frozen=True)
class Gate:
    """How open an elementwise gate is.

    Attributes
    ----------
    layer, gate : str
        The layer's path, and the operation.
    dead, units : int
        How many of the units (channels, the last axis) pass no gradient, for any example and at any place; and how many there are.
    closed : float
        The share of all elements whose local derivative is 0.
    """

    layer: str
    gate: str
    dead: int
    units: int
    closed: float


def dead_units(graph: Graph, examples: Sequence[Any]) -> list[Gate]:
    """All elementwise gates of one input, in the order in which they run for a batch; for one graph these are always the same ones."""
    found: list[Gate] = []
    nodes = iter(graph.nodes)

    def looked_at(primitive: Any, inputs: Sequence[Tensor], params: Mapping[str, Any]) -> Any:
        node = next(nodes)
        shares = closed_shares(primitive, inputs, params)
        if shares is not None:
            found.append(Gate(".".join(node.scope), primitive.name, int((shares == 1).sum()), shares.size, float(shares.mean())))
        return bind(primitive, inputs, params)

    with no_grad():
        graph.apply(values_of(graph, examples), looked_at)
    return found


def values_of(graph: Graph, examples: Sequence[Any]) -> list[Any]:
    """Tensors for all inputs of a graph, with what it takes from outside as that is now."""
    return [*(asarray(x) for x in tree.leaves(tuple(examples))), *graph.read()]


def closed_shares(primitive: Primitive, inputs: Sequence[Tensor], params: Mapping[str, Any]) -> Any:
    """Per unit (the last axis) of an elementwise gate of one input, the share of local derivatives that are 0; None of other gates."""
    if primitive.scalar is None or len(inputs) != 1 or inputs[0].dtype.kind != "f" or inputs[0].ndim < 2 or not inputs[0].size:
        return None
    with np.errstate(all="ignore"):
        out, back = vjp(lambda x: bind(primitive, [x], params), inputs[0])
        if out.dtype.kind != "f":
            return None
        local = np.asarray(tree.leaves(back(asarray(np.ones(out.shape, out.dtype))))[0])
    return (local == 0).reshape(-1, local.shape[-1]).mean(0)
