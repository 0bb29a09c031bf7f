"""What a loop back adds up, step by step, for values that are the same in every step: as products over all steps, where it can be.

The cotangent of a weight matrix is a sum over the steps of ``left.T @ right``. Adding that up in the loop takes a small product and a pass
over the whole matrix in each step; all steps together are one large product after the loop, of values that the loop mostly collects anyway.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from chainrule.core.primitive import functions
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation


class Place(NamedTuple):
    """Where the values of all steps stand: among what the loop takes slices of, or among what it collects."""

    collected: bool
    number: int


Products = tuple[tuple[Place, Place], ...]
"""Pairs of left and right, whose products over all steps are added."""


class Late(NamedTuple):
    """Sums that are taken after the loop.

    Attributes
    ----------
    products : tuple of Products, or None
        For each sum; None for one that stays in the loop.
    more : tuple of Variable
        What the loop has to collect besides.
    """

    products: tuple[Products | None, ...]
    more: tuple[Variable, ...]

    def sums(self, slices: Sequence[Any], collected: Sequence[Any]) -> list[Any]:
        """The sums, None for those that stay in the loop, from what it takes slices of and what it collects."""
        value = lambda place: (collected if place.collected else slices)[place.number]
        return [None if pairs is None else _total([_over_all(value(left), value(right)) for left, right in pairs]) for pairs in self.products]


def late(step: Graph, sums: Sequence[Variable], slices: Sequence[Variable], collected: Sequence[Variable]) -> Late:
    """Which sums of a step's values can be taken after the loop.

    Parameters
    ----------
    step : Graph
        One step.
    sums : sequence of Variable
        What is added up over the steps.
    slices : sequence of Variable
        Those of its inputs that are slices.
    collected : sequence of Variable
        What it collects in any case.
    """
    made = {x: node for node in step.nodes for x in node.outputs}
    fixed = {*step.inputs, *step.constants}.difference(slices)
    found: list[Products | None] = []
    more: list[Variable] = []
    for x in sums:
        factors = _factors(x, made)
        known = {*slices, *collected, *more}
        new = list(dict.fromkeys(y for pair in factors for y in pair if y not in known))
        # What has to be collected besides must not be more than what would be added in each step.
        if not factors or not fixed.isdisjoint(new) or sum(y.size for y in new) > x.size * len(factors):
            found.append(None)
            continue
        more.extend(new)
        found.append(tuple((_place(left, slices, [*collected, *more]), _place(right, slices, [*collected, *more])) for left, right in factors))
    return Late(tuple(found), tuple(more))


def _factors(x: Variable, made: dict[Variable, Operation]) -> list[tuple[Variable, Variable]]:
    """Values of which x is ``left.T @ right``, or a sum of such; none if it is anything else."""
    found: list[tuple[Variable, Variable]] = []
    waiting = [x]
    while waiting:
        node = made.get(waiting.pop())
        if node is None:
            return []
        if node.primitive.name == "add" and all(y.shape == x.shape for y in node.inputs):
            waiting.extend(node.inputs)
            continue
        if node.primitive.name != "matmul" or any(len(y.shape) != 2 for y in node.inputs):
            return []
        turned = made.get(node.inputs[0])
        if turned is None or turned.primitive.name != "permute_dims" or turned.inputs[0].dtype != node.inputs[1].dtype:
            return []
        found.append((turned.inputs[0], node.inputs[1]))
    return found


def _place(x: Variable, slices: Collection[Variable], collected: Sequence[Variable]) -> Place:
    return Place(False, list(slices).index(x)) if x in slices else Place(True, collected.index(x))


def _over_all(left: Any, right: Any) -> Any:
    """The sum over the steps of ``left.T @ right``, from both for all steps."""
    rows = left.shape[0] * left.shape[1]
    left, right = (functions.reshape(x, (rows, x.shape[2])) for x in (left, right))
    return functions.matmul(functions.permute_dims(left, (1, 0)), right)


def _total(parts: Sequence[Any]) -> Any:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
