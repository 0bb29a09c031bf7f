"""One step of a loop, differentiated: the inner graph of a step of the loop that carries tangents along or cotangents back.

A loop's body maps a carry, what it gets of this step's slices, and what is the same in every step (`rest`) to the next carry and
what is collected. Which parts of the carry have a tangent or a cotangent is found by going round until nothing
more is reached. Both steps read the carry as it was before each step of the original loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any, NamedTuple

from chainrule.core.variable import Variable
from chainrule.graph.derived import Mask, beside, chosen, dealt, either, kept, or_zeros, pull_of, push_of, traced
from chainrule.graph.inner import flat
from chainrule.graph.ir import Graph
from chainrule.graph.sums import Late, Place, late
from chainrule.tensor import Tensor


class Back(NamedTuple):
    """One step back through a body.

    Attributes
    ----------
    graph : Graph
        Of cotangents of the carry and sums for the rest; then carry, slices, cotangents received of what was collected, what was
        collected of the values that it would compute again, rest. It gives the first two anew, cotangents of slices, and what
        the late sums need besides.
    flows, sums, shares : mask
        Which parts of the carry, the rest and the slices have cotangents.
    late : Late
        Which of the sums are taken after the loop.
    known : tuple of Variable
        The body's values that were collected.
    """

    graph: Graph
    flows: Mask
    sums: Mask
    shares: Mask
    late: Late
    known: tuple[Variable, ...]

    @property
    def early(self) -> Mask:
        """Which parts of the rest are summed in the loop."""
        stays = iter(self.late.products)
        return tuple(is_summed and next(stays) is None for is_summed in self.sums)

    def reads(self, place: int) -> bool:
        """Whether a late sum is made of a slice, counted from the first part of the carry."""
        return any(Place(False, place) in pair for pairs in self.late.products for pair in pairs or ())

    def dealt(self, finals: Sequence[Any], collected: Sequence[Any], slices: Sequence[Any]) -> list[Any]:
        """The cotangents of the loop's inputs from what the loop back gives, and what it took slices of."""
        ends, own = sum(self.flows), sum(self.shares)
        early = iter(finals[ends:])
        sums = [next(early) if late is None else late for late in self.late.sums(slices, collected)]
        return [*dealt(self.flows, finals[:ends]), *dealt(self.shares, collected[:own]), *dealt(self.sums, sums)]


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


def back(body: Graph, carried: int, sliced: int, wanted: Mask, received: Mask, *, collects: bool) -> Back | None:
    """For wanted inputs and received cotangents of the loop, which can collect values of all steps or not; None if no cotangent arrives."""
    make = lambda: _back(body, carried, sliced, wanted, received, collects)
    return kept(body, ("back", carried, sliced, wanted, received, collects), make)


def _back(body: Graph, carried: int, sliced: int, wanted: Mask, received: Mask, collects: bool) -> Back | None:
    active = _active(body, carried, wanted)
    flows = tuple(a and r for a, r in zip(active, received[:carried], strict=True))
    made = {node.output for node in body.nodes if len(node.outputs) == 1}
    collected = body.outputs[carried:] if collects else ()
    known = tuple(x for x in dict.fromkeys(collected) if x in made)
    shown = (*(False for _ in flows), *(x in known and x not in collected[:i] for i, x in enumerate(collected))) if known else None
    while True:
        given = (*flows, *received[carried:])
        pull, reached = pull_of(body, (*active, *wanted[carried:]), given, shown)
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
        list(body.inputs[:carried]),
        list(slices),
        [beside("grad_", x) for x in chosen(received[carried:], body.outputs[carried:])],
        list(rest),
    ]

    def pulled(values: list[Tensor]) -> list[Tensor]:
        cts, carry, xs, ct_ys, others = _parted(values, parts)
        given = list(pull.apply([*carry, *xs, *others, *cts, *ct_ys]))
        found, again = dealt(reached, given), given[sum(reached) :]
        after = or_zeros(chosen(flows, found[:carried]), moving)
        return [*after, *chosen(sums, found[carried + sliced :]), *chosen(shares, found[carried : carried + sliced]), *again]

    single = traced(f"back_{body.name}", [x for part in parts for x in part], pulled)
    after, added, given, again = _parted(single.outputs, [moving, chosen(sums, rest), chosen(shares, slices), known])
    single = _given(single, again, len(rest))
    taken = single.inputs[len(moving) : len(single.inputs) - len(rest)]
    later = late(single, added, taken, given) if collects else Late((None,) * len(added), ())
    stays = [products is None for products in later.products]
    added = list(compress(added, stays))
    once = flat(single.name, single.inputs, single.nodes, (*after, *added, *given, *later.more), single.constants)
    totals = [beside("sum_", x) for x in compress(chosen(sums, rest), stays)]

    def step(values: list[Tensor]) -> list[Tensor]:
        cts, before, others = _parted(values, [moving, totals, once.inputs[len(moving) :]])
        ends, new, collected = _parted(once.apply([*cts, *others]), [moving, totals, (*given, *later.more)])
        return [*ends, *(total + share for total, share in zip(before, new, strict=True)), *collected]

    graph = traced(single.name, [*parts[0], *totals, *once.inputs[len(moving) :]], step)
    return Back(graph, flows, sums, shares, later, known)


def _given(graph: Graph, values: Sequence[Variable], rest: int) -> Graph:
    """The graph that is given these values, in front of its last inputs, and does not compute them."""
    inputs = graph.inputs[: len(graph.inputs) - rest], graph.inputs[len(graph.inputs) - rest :]
    nodes = [node for node in graph.nodes if node.outputs[0] not in values]
    return flat(graph.name, (*inputs[0], *values, *inputs[1]), nodes, graph.outputs, graph.constants)


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
