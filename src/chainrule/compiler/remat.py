"""Recomputation against memory: what a graph keeps for later, and what it computes again, under a budget of bytes.

A forward pass whose values are read again, latest first, becomes a chain of stages (`stages`), whose optimal schedule for every amount
of memory is known (`chains`); the cheapest of these schedules that fits, counted on the graph itself (`replay`), is written
down. Values are the same bits, since the same gates run on the same bits.
"""

from __future__ import annotations

import time
import tracemalloc
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from chainrule.autodiff.checkpoint import without_barriers
from chainrule.autodiff.cost import seconds
from chainrule.compiler.chains import Solution
from chainrule.compiler.replay import Program
from chainrule.compiler.stages import Stages, humps, turns
from chainrule.core.errors import ArgumentError
from chainrule.core.interp import ARRAYS, using
from chainrule.core.size import show_bytes
from chainrule.graph.ir import Graph, Operation

_SMALL = (1 / 2000, 1 / 16)
"""Values of at most these shares of the peak and of the largest value are never worth computing again."""
_ROUNDS = 6
"""After a schedule has lowered the peak, another part of the graph may be the highest."""
_SLOTS = 512
"""Units in which memory is counted in the search."""
_LOWEST = 4
"""Schedules tried for the least memory: what the chain counts and what the graph takes differ a little."""


@dataclass(frozen=True, slots=True)
class Report:
    """What recomputation under a budget came to; prints as text.

    Attributes
    ----------
    budget : int
        Bytes asked for.
    before, after : int
        Predicted peak, in bytes, without and with recomputation.
    recomputed : Mapping of str to int
        Names of values that are computed again, and how often.
    seconds : float
        Predicted time of the graph without recomputation.
    extra_seconds : float
        What recomputation adds to it.
    stages : int
        Into how many the forward pass was divided; 0 if nothing had to be done.
    chain : bool
        Whether a single value crosses each of their borders, so that the schedule is optimal for them.
    """

    budget: int
    before: int
    after: int
    recomputed: Mapping[str, int]
    seconds: float
    extra_seconds: float
    stages: int
    chain: bool

    def __str__(self) -> str:
        if not self.stages:
            return f"memory budget {show_bytes(self.budget)}: predicted peak {show_bytes(self.before)}, nothing to recompute"
        kind = "a chain of" if self.chain else "cut into"
        share = self.extra_seconds / self.seconds if self.seconds else 0.0
        return (
            f"memory budget {show_bytes(self.budget)}: predicted peak {show_bytes(self.before)} -> {show_bytes(self.after)};"
            f" {sum(self.recomputed.values())} recomputations of {len(self.recomputed)} values, predicted time +{100 * share:.1f}%"
            f" ({kind} {self.stages} stages)"
        )


def rematerialize(
    graph: Graph, budget: int, *, donate: Mapping[int, int] | None = None, costs: Mapping[Operation, float] | None = None
) -> tuple[Graph, Report]:
    """The graph with recomputation, so that its predicted peak is at most ``budget``, at the least predicted time.

    Parameters
    ----------
    graph : Graph
        Simplified: nothing may merge equal nodes afterwards. Barriers are taken out.
    budget : int
        Bytes.
    donate : Mapping of int to int, optional
        Per output the input whose memory it takes over.
    costs : Mapping of Operation to float, optional
        Seconds per node, measured by `measured_costs`, say; estimated where there is none.

    Returns
    -------
    graph : Graph
        Of the same values, bit for bit.
    report : Report

    Raises
    ------
    ArgumentError
        If the budget is less than what is possible here; it gives the least that is.

    Notes
    -----
    The predicted peak counts every value that a node makes from then to its last reader, results to the end, and what those
    gates that need much memory for themselves need while they run. Inputs, state and constants are not counted, nor results that take over
    the memory of an input, nor views.

    Where a single value crosses each border between stages, the schedule is the cheapest of those that keep borders or whole
    stages until they are used, and run a stage only while nothing behind it is kept (see `chains.Solution`). Elsewhere the same
    search, over borders that several values cross, is a heuristic. Stages are dealt out by the order of the nodes; what an
    optimizer computes moves to where its gradient is made. Results, among them the state that a step assigns, are computed once.
    """
    graph = without_barriers(graph)
    given = {} if costs is None else costs

    def cost(node: Operation) -> float:
        return given[node] if node in given else seconds(node)

    program = Program(graph, cost, {} if donate is None else donate)
    plan = _fit(program, budget)
    if plan.peak > budget:
        least = _least(program)
        if least.peak > budget:
            possible = f"the least possible is {show_bytes(least.peak)} ({least.peak} bytes)"
            says = f"a memory budget of {show_bytes(budget)} is less than what {graph.name} can do with: {possible}"
            raise ArgumentError(says, mend="allow as much, or compute on smaller batches")
        plan = least
    before = program.peak(range(len(program)))
    again = Counter(plan.order)
    names = {graph.nodes[node].outputs[0].name: count - 1 for node, count in again.items() if count > 1}
    spent = sum(program.cost)
    report = Report(budget, before, plan.peak, names, spent, program.seconds(plan.order) - spent, plan.stages, plan.chain)
    return (program.write(plan.order), report) if plan.stages else (graph, report)


class _Plan(NamedTuple):
    order: list[int]
    peak: int
    stages: int
    chain: bool


def _fit(program: Program, budget: int) -> _Plan:
    """The cheapest schedule found within the budget; the one with the least peak if there is none."""
    order = list(range(len(program)))
    live = program.live(order)
    plan = _Plan(order, max(live, default=0), 0, True)
    for _ in range(_ROUNDS):
        if plan.peak <= budget:
            break
        better = _round(program, plan, budget)
        if better.peak >= plan.peak:
            break
        plan = better
    return plan


def _least(program: Program) -> _Plan:
    """The schedule with the least peak that can be found: where another one is found with less, there is a heuristic at work."""
    plan = _fit(program, 0)
    while True:
        better = _fit(program, plan.peak - 1)
        if better.peak >= plan.peak:
            return plan
        plan = better


def _round(program: Program, plan: _Plan, budget: int) -> _Plan:
    """Lower the graph as one forward and backward pass, or if that is not enough every rise above the budget for itself."""
    # What runs again is a node like others from now on.
    unfolded = program.unfolded(plan.order)
    live = unfolded.live(range(len(unfolded)))
    best = plan
    for parts in ([(0, len(unfolded))], humps(live)):
        if best.peak <= budget or (parts == [(0, len(unfolded))] and best is not plan):
            break
        pieces: list[int] = []
        stages, chain = plan.stages, plan.chain
        for start, stop in parts:
            found = _lowered(unfolded, start, stop, budget) if max(live[start:stop]) > budget else None
            if found is None or found.peak >= max(live[start:stop]):
                pieces += range(start, stop)
            else:
                pieces += found.order
                stages, chain = max(stages, found.stages), chain and found.chain
        order = program.without_waste([unfolded.origin[node] for node in pieces])
        peak = program.peak(order)
        if peak < best.peak:
            best = _Plan(order, peak, stages, chain)
    return best


def _lowered(program: Program, start: int, stop: int, budget: int) -> _Plan | None:
    """The best schedule of a part of a program by any of the ways to see it as a chain."""
    small = int(min(_SMALL[0] * program.peak(range(len(program))), _SMALL[1] * max(program.nbytes)))
    best: _Plan | None = None
    best_key: tuple[Any, ...] = ()
    for turn in turns(program, start, stop):
        seen: list[Any] = []
        for far, strict in ((True, True), (True, False), (False, True), (False, False)):
            if best is not None and best.peak <= budget and not far:
                break
            stages = Stages(program, start, turn, stop, strict=strict, far=far, small=small)
            if (stages.cuts, stages.groups) in seen or not stages.cuts:
                continue
            seen.append((stages.cuts, stages.groups))
            found = _Search(program, stages, budget).best()
            if found is None:
                continue
            if found.peak <= budget and found.chain:
                return found
            key = (found.peak > budget, found.peak if found.peak > budget else 0, program.seconds(found.order))
            if best is None or key < best_key:
                best, best_key = found, key
    return best


class _Search:
    """Among the optimal schedules of a chain, one per amount of memory, the cheapest that fits the budget on the graph itself."""

    def __init__(self, program: Program, stages: Stages, budget: int) -> None:
        self.program = program
        self.stages = stages
        self.budget = budget

    def best(self) -> _Plan | None:
        """The cheapest that fits; the one with the least peak if none does."""
        most = self.stages.chain.most
        limit = min(most, 2 * self.budget)
        while limit:
            found, all_fit = self._within(limit)
            if found is None or found.peak > self.budget:
                break
            if not all_fit or limit >= most:
                return found
            limit = min(most, 2 * limit)
        # In finer units, from the least on.
        return self._within(int(1.25 * self.stages.chain.least) + 1)[0]

    def _within(self, limit: int) -> tuple[_Plan | None, bool]:
        """The cheapest that fits, of those that the chain can do with at most ``limit`` bytes; else the one with the least peak.

        And whether all of them fit.
        """
        solution = Solution(self.stages.chain, limit, _SLOTS)
        costs = solution.costs
        feasible = [units for units in range(len(costs)) if np.isfinite(costs[units]) and (units == 0 or costs[units] < costs[units - 1])]
        known: dict[int, _Plan] = {}

        def plan(units: int) -> _Plan:
            if units not in known:
                known[units] = self._plan(solution, units)
            return known[units]

        # More memory, less time: the first that does not fit ends the search.
        first_too_large = bisect_left(feasible, True, key=lambda units: plan(units).peak > self.budget)
        if first_too_large:
            return plan(feasible[first_too_large - 1]), first_too_large == len(feasible)
        for units in feasible[:_LOWEST]:
            plan(units)
        return min(known.values(), key=lambda found: found.peak, default=None), False

    def _plan(self, solution: Solution, units: int) -> _Plan:
        program, stages = self.program, self.stages
        inside = stages.order(solution.actions(units))
        order = program.without_waste([*range(stages.start), *inside, *range(stages.stop, len(program))])
        stop = len(order) - (len(program) - stages.stop)
        peak = max(program.live(order)[stages.start : stop])
        return _Plan(order[stages.start : stop], peak, len(stages), stages.single)


class Measured(NamedTuple):
    """What a call took.

    Attributes
    ----------
    peak : int
        The most bytes allocated during the call beyond those before it.
    seconds : float
        The shortest time of several calls.
    """

    peak: int
    seconds: float

    def __str__(self) -> str:
        return f"measured peak {show_bytes(self.peak)}, {1e3 * self.seconds:.3g} ms"


def measure(call: Callable[[], Any], repeat: int = 3) -> Measured:
    """Peak memory, of what Python and NumPy allocate, and time of a call.

    Memory is measured in a call of its own, the first: what a compiled step allocates then and keeps is part of it.
    """
    running = tracemalloc.is_tracing()
    if not running:
        tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    call()
    peak = tracemalloc.get_traced_memory()[1] - before
    if not running:
        tracemalloc.stop()
    times: list[float] = []
    for _ in range(repeat):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return Measured(peak, min(times))


def measured_costs(graph: Graph, values: Sequence[Any], repeat: int = 3) -> dict[Operation, float]:
    """Seconds per node, of arrays in the place of all inputs: the shortest of several runs."""
    times: dict[Operation, float] = {}
    position = 0

    def timed(primitive: Any, inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
        nonlocal position
        began = time.perf_counter()
        out = primitive.evaluate(*inputs, **params)
        taken = time.perf_counter() - began
        node = graph.nodes[position]
        times[node] = min(taken, times.get(node, taken))
        position += 1
        return out

    for _ in range(repeat):
        position = 0
        with using(ARRAYS), np.errstate(all="ignore"):
            graph.apply(values, timed)
    return times
