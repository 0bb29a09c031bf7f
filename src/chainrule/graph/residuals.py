"""What a loop keeps of each step for its derivatives: what is dear to compute again, and the carry from which the rest follows.

A product, an exponential or a reduction is kept where a rule reads it, or something made of it. Sums, products of elements and what only
moves elements are a pass over memory, as reading them would be: these are computed again. A body in `checkpoint` keeps its carry alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.core.scalar import Builder
from chainrule.core.variable import Variable
from chainrule.graph.inner import needed
from chainrule.graph.ir import Graph, Operation


def residuals(body: Graph, carried: int) -> set[Variable]:
    """The values of a step, parts of its carry among them, from which its derivatives are computed."""
    read: set[Variable] = set()
    for node in body.nodes:
        given = (node.inputs,) if node.primitive.variadic else tuple((x,) for x in node.inputs)
        for values, saved in zip((*given, node.outputs), node.primitive.keeps[-1], strict=True):
            read.update(values if saved else ())
    dear = {node.output for node in body.nodes if len(node.outputs) == 1 and not _is_cheap(node)}
    again = [node for node in body.nodes if dear.isdisjoint(node.outputs)]
    return needed(again, read)[1].intersection((*body.inputs[:carried], *dear))


def _is_cheap(node: Operation) -> bool:
    """Whether an operation costs no more than reading its value would."""
    primitive = node.primitive
    if primitive.scalar is None:
        return primitive.transpose is not None and primitive.cost is None and node.output.size >= max((x.size for x in node.inputs), default=0)
    return _is_arithmetic(node)


def _is_arithmetic(node: Operation) -> bool:
    """Whether an elementwise gate is made of sums, products and choices alone, by a try on single numbers."""
    assert node.primitive.scalar is not None
    builder = _Arithmetic()
    with np.errstate(all="ignore"):
        node.primitive.scalar(builder, *(np.asarray(0.5).astype(x.dtype)[()] for x in node.inputs), **node.params)
    return builder.alone


class _Arithmetic(Builder):
    """Computes with numbers, and notes when that takes more than arithmetic."""

    def __init__(self) -> None:
        self.alone = True

    def select(self, condition: Any, a: Any, b: Any) -> Any:
        return a if condition else b

    def abs(self, x: Any) -> Any:
        return abs(x)

    def convert(self, x: Any, dtype: Any) -> Any:
        return x

    def _more(self, x: Any, y: Any = None) -> Any:
        self.alone = False
        return x

    floor = sqrt = exp = expm1 = log = log1p = sin = cos = tanh = atan = _more
    pow = fmod = nextafter = _more
