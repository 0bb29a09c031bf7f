"""One step of a loop, differentiated: the inner graph of a step of the loop that carries tangents along or cotangents back.

A loop's body maps a carry, what it gets of this step's slices, and what is the same in every step (`rest`) to the next carry and
what is collected. Which parts of the carry have a tangent or a cotangent is found by going round until nothing
more is reached. Both steps read the carry as it was before each step of the original loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from chainrule.core.variable import Variable
from chainrule.graph.derived import Mask, beside, chosen, dealt, either, kept, or_zeros, pull_of, push_of, traced
from chainrule.graph.ir import Graph
from chainrule.tensor import Tensor


class Back(NamedTuple):
    """One step back through a body.

    Attributes
    ----------
    graph : Graph
        Of cotangents of the carry and sums for the rest; then carry, slices, cotangents received of what was collected, rest.
        It gives the first two anew, and cotangents of slices.
    flows, sums, shares : mask
        Which parts of the carry, the rest and the slices have cotangents.
    """

    graph: Graph
    flows: Mask
    sums: Mask
    shares: Mask

    def dealt(self, finals: Sequence[Any], shares: Sequence[Any]) -> list[Any]:
        """The cotangents of the loop's inputs from what the loop back gives."""
        ends = sum(self.flows)
        return [*dealt(self.flows, finals[:ends]), *dealt(self.shares, shares), *dealt(self.sums, finals[ends:])]


class Ahead(NamedTuple):
    """One step ahead with tangents.

    Attributes
    ----------
    graph : Graph
        Of tangents of the carry; then carry, slices, tangents of slices, rest, tangents of the rest. It gives the tangents of the
        next carry, and those of what is collected.
    flows, collected : mask
        Which parts of the carry, and of what is collected, have tangents.
    """

    graph: Graph
    flows: Mask
    collected: Mask


def back(body: Graph, carried: int, sliced: int, wanted: Mask, received: Mask) -> Back | None:
    """For wanted inputs and received cotangents of the loop; None if no cotangent arrives."""
    return kept(body, ("back", carried, sliced, wanted, received), lambda: _back(body, carried, sliced, wanted, received))


def _back(body: Graph, carried: int, sliced: int, wanted: Mask, received: Mask) -> Back | None:
    active = _active(body, carried, wanted)
    flows = tuple(a and r for a, r in zip(active, received[:carried], strict=True))
    while True:
        given = (*flows, *received[carried:])
        pull, reached = pull_of(body, (*active, *wanted[carried:]), given)
        if either(flows, reached[:carried]) == flows:
            break
        flows = either(flows, reached[:carried])
    shares, sums = reached[carried : carried + sliced], reached[carried + sliced :]
    if not any((*flows, *shares, *sums)):
        return None
    slices, rest = body.inputs[carried : carried + sliced], body.inputs[carried + sliced :]
    moving = chosen(flows, body.inputs[:carried])
    parts: list[list[Variable]] = [
        [beside("grad_", x) for x in moving],
        [beside("sum_", x) for x in chosen(sums, rest)],
        list(body.inputs[:carried]),
        list(slices),
        [beside("grad_", x) for x in chosen(received[carried:], body.outputs[carried:])],
        list(rest),
    ]

    def step(values: list[Tensor]) -> list[Tensor]:
        cts, totals, carry, xs, ct_ys, others = _parted(values, parts)
        found = dealt(reached, pull.apply([*carry, *xs, *others, *cts, *ct_ys]))
        after = or_zeros(chosen(flows, found[:carried]), moving)
        totals = [total + share for total, share in zip(totals, chosen(sums, found[carried + sliced :]), strict=True)]
        return [*after, *totals, *chosen(shares, found[carried : carried + sliced])]

    return Back(traced(f"back_{body.name}", [x for part in parts for x in part], step), flows, sums, shares)


def ahead(body: Graph, carried: int, sliced: int, moved: Mask) -> Ahead | None:
    """For inputs of the loop that have tangents; None if nothing else gets one."""
    return kept(body, ("ahead", carried, sliced, moved), lambda: _ahead(body, carried, sliced, moved))


def _ahead(body: Graph, carried: int, sliced: int, moved: Mask) -> Ahead | None:
    flows = moved[:carried]
    while True:
        push, reached = push_of(body, (*flows, *moved[carried:]))
        if either(flows, reached[:carried]) == flows:
            break
        flows = either(flows, reached[:carried])
    collected = reached[carried:]
    if not any((*flows, *collected)):
        return None
    slices, rest = body.inputs[carried : carried + sliced], body.inputs[carried + sliced :]
    moving = chosen(flows, body.inputs[:carried])
    moved_slices, moved_rest = moved[carried : carried + sliced], moved[carried + sliced :]
    parts: list[list[Variable]] = [
        [beside("d_", x) for x in moving],
        list(body.inputs[:carried]),
        list(slices),
        [beside("d_", x) for x in chosen(moved_slices, slices)],
        list(rest),
        [beside("d_", x) for x in chosen(moved_rest, rest)],
    ]

    def step(values: list[Tensor]) -> list[Tensor]:
        tangents, carry, xs, t_xs, others, t_others = _parted(values, parts)
        found = push.apply([*carry, *xs, *others, *tangents, *t_xs, *t_others])
        found = dealt(reached, found[len(body.outputs) :])
        return [*or_zeros(chosen(flows, found[:carried]), moving), *chosen(collected, found[carried:])]

    return Ahead(traced(f"ahead_{body.name}", [x for part in parts for x in part], step), flows, collected)


def _active(body: Graph, carried: int, wanted: Mask) -> Mask:
    """Parts of the carry that depend on a wanted input in some step."""
    active = wanted[:carried]
    while True:
        live = set(chosen((*active, *wanted[carried:]), body.inputs))
        for node in body.nodes:
            if node.primitive.pulls != () and not live.isdisjoint(node.inputs):
                live.update(x for x in node.outputs if x.dtype.kind == "f")
        now = tuple(a or x in live for a, x in zip(active, body.outputs, strict=False))
        if now == active:
            return active
        active = now


def _parted(values: Sequence[Any], parts: Sequence[Sequence[Variable]]) -> list[list[Any]]:
    rest = iter(values)
    return [[next(rest) for _ in part] for part in parts]
