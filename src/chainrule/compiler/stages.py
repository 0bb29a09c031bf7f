"""Stages: a graph that goes forward and then backward, seen as a chain.

A graph has a turn: nodes before it belong to the forward pass, and what they make is read again after it, latest first.
Cuts divide the forward pass into stages; the nodes after the turn are dealt out to the stages whose values they
read. Found from the order and the lifetimes of values alone: nothing here knows what a gradient is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import numpy as np

from chainrule.compiler.chains import Action, Chain, Forward
from chainrule.compiler.replay import Program

MOST_STAGES = 96
"""Longer chains are divided into so many stages, each with about the same bytes to keep."""

MOST_CROSSED = 64
"""The same where several values cross the borders, which takes longer to plan."""

_FAR = 3
"""Stages across which a value of the forward pass does not hold up the backward pass."""

_LONG = 32
"""Steps of waiting from which on it does not matter how many they are."""


def humps(live: Sequence[int]) -> list[tuple[int, int]]:
    """Stretches of steps, together all of them, of which each has one rise above half of the peak."""
    half = max(live, default=0) / 2
    cuts = [0]
    lowest: int | None = None
    risen = False
    for step, held in enumerate(live):
        if held >= half:
            if lowest is not None and risen:
                cuts.append(lowest)
            lowest, risen = None, True
        elif lowest is None or held < live[lowest]:
            lowest = step
    return list(pairwise([*cuts, len(live)]))


def turns(program: Program, start: int, stop: int, count: int = 2) -> list[int]:
    """The likeliest places between ``start`` and ``stop`` where forward passes end, the likeliest first.

    That is where most bytes wait from a reader before to one behind. What waits across a place that was found does not count for the
    next: gradients may wait for an optimizer in greater number than values for their gradients.
    """
    found: list[int] = []
    gaps = _gaps(program, start, stop)
    first = 0.0
    while len(found) < count and gaps:
        change = [0.0] * (stop - start + 2)
        for before, after, gain in gaps:
            change[before + 1 - start] += gain
            change[after + 1 - start] -= gain
        gains = list(accumulate(change))
        best = max(range(len(gains)), key=gains.__getitem__)
        if gains[best] < 0.05 * first or gains[best] <= 0:
            break
        first = first or gains[best]
        place = best + start
        found.append(place)
        gaps = [gap for gap in gaps if not gap[0] < place <= gap[1]]
    return found


def _gaps(program: Program, start: int, stop: int) -> list[tuple[int, int, float]]:
    """(step before, step after, weight) for every stretch in which a value waits; short ones weigh less."""
    uses = _uses(program, start, stop)
    return [(a, b, float(program.nbytes[x] * min(b - a, _LONG))) for x, steps in uses.items() for a, b in pairwise(steps) if b > a + 1]


def _uses(program: Program, start: int, stop: int) -> dict[int, list[int]]:
    """Per value with memory of its own that is made here: where it is made, and where it or a view of it is read."""
    found: dict[int, list[int]] = {}
    for node in range(start, stop):
        for x in program.reads[node]:
            root = program.root[x]
            if root in found:
                found[root].append(node)
        for x in program.writes[node]:
            if program.nbytes[x]:
                found[x] = [node]
    return found


class Stages:
    """A part of a program as a chain.

    Parameters
    ----------
    program : Program
    start, turn, stop : int
        The forward pass is ``start`` to ``turn``, what comes after it reaches to ``stop``.
    strict : bool
        Cut only where a single value crosses, so that the optimum of the chain is that of the graph; else anywhere.
    far : bool
        Whether values made many stages before wait for the backward pass, or the backward pass for their stage.
    small : int
        Values of at most so many bytes are kept in any case, and never cut through.

    Attributes
    ----------
    chain : Chain
    single : bool
        Whether at most one value crosses each cut.
    """

    def __init__(self, program: Program, start: int, turn: int, stop: int, *, strict: bool, far: bool, small: int) -> None:
        self.program = program
        self.start, self.turn, self.stop = start, turn, stop
        self._uses = _uses(program, start, turn)
        self._held = self._kept_anyway(small)
        self._late = self._read_later()
        self.cuts, self.single = self._find_cuts(strict)
        self.stage = [0] * (turn - start)
        for cut in self.cuts:
            self.stage[cut + 1 - start] = 1
        self.stage = list(accumulate(self.stage))
        self.groups, self.rest = self._deal_out(_FAR if far else len(self.cuts) + 2)
        self.chain = self._measure()

    def __len__(self) -> int:
        return len(self.cuts) + 1

    # What is there.

    def _kept_anyway(self, small: int) -> set[int]:
        """Values of the forward pass that are never computed again: small ones, results, and what is read beyond this part."""
        program = self.program
        held = {x for x in self._uses if program.nbytes[x] <= small}
        held.update(program.root[x] for x in program.results)
        for node in range(self.stop, len(program)):
            held.update(program.root[x] for x in program.reads[node])
        return held

    def _read_later(self) -> set[int]:
        program = self.program
        return {program.root[x] for node in range(self.turn, self.stop) for x in program.reads[node]}

    def _find_cuts(self, strict: bool) -> tuple[list[int], bool]:
        """Positions after which one stage ends, and whether a single value crosses each.

        Between two nodes that make something to be kept one cut is enough: where the fewest bytes cross, and of these as many as
        possible that are kept anyway.
        """
        span = self.turn - self.start
        crossing, number, extra, keeps = [0] * (span + 1), [0] * (span + 1), [0] * (span + 1), [0] * (span + 1)
        for x, steps in self._uses.items():
            if x in self._held:
                continue
            made, last, size = steps[0] - self.start, steps[-1] - self.start, self.program.nbytes[x]
            keeps[made] += size if x in self._late else 0
            for counted, amount in ((crossing, size), (number, 1), (extra, 0 if x in self._late else size)):
                counted[made] += amount
                counted[last] -= amount
        crossing, number, extra = list(accumulate(crossing)), list(accumulate(number)), list(accumulate(extra))
        runs: list[list[int]] = [[]]
        for p in range(span - 1):
            if keeps[p]:
                runs.append([])
            if number[p] <= 1 or not strict:
                runs[-1].append(p)
        best = [min(run, key=lambda p: (crossing[p], extra[p], p)) for run in runs if run]
        single = all(number[p] <= 1 for p in best)
        best = _thinned(best, list(accumulate(keeps)), MOST_STAGES if single else MOST_CROSSED)
        return [p + self.start for p in best], single

    # Who runs when.

    def _deal_out(self, far: int) -> tuple[list[list[int]], list[int]]:
        """Per stage the nodes behind the turn that run in its backward pass, and those that run after all of them.

        As early as what they read allows, so that gradients are used up (by an optimizer, say) as they are made: after what they read
        of the backward pass, and not before the stage whose values they read. A value that was made ``far`` stages before does not
        hold up the backward pass, but waits for it. What reads nothing of either pass runs as late as its readers allow.
        """
        program, last = self.program, len(self.cuts)
        available: dict[int, int] = {}
        for node in range(self.start, self.turn):
            stage = self.stage[node - self.start]
            for x in program.reads[node]:
                if x in available and program.root[x] not in self._held:
                    available[x] = stage
            for x in program.writes[node]:
                available[x] = last if program.root[x] in self._held else stage
        group: dict[int, int] = {}
        reached: dict[int, int] = {}
        for node in range(self.turn, self.stop):
            forward = [available[x] for x in program.reads[node] if x in available]
            backward = [reached[x] for x in program.reads[node] if x in reached]
            if forward or backward:
                now = min(backward, default=max(forward, default=last))
                group[node] = min([now, *(stage for stage in forward if now - stage < far)])
                reached.update(dict.fromkeys(program.writes[node], group[node]))
        wanted: dict[int, int] = {}
        for node in range(self.stop - 1, self.turn - 1, -1):
            if node not in group:
                group[node] = max((wanted.get(x, -1) for x in program.writes[node]), default=-1)
            for x in program.reads[node]:
                wanted[x] = max(wanted.get(x, -1), group[node])
        groups: list[list[int]] = [[] for _ in range(last + 1)]
        rest: list[int] = []
        for node in range(self.turn, self.stop):
            (rest if group[node] < 0 else groups[group[node]]).append(node)
        return groups, rest

    def order(self, actions: Sequence[Action]) -> list[int]:
        """The schedule of this part: whole stages as often as the actions say, what is kept anyway only once."""
        made: list[int] = []
        again: list[list[int]] = [[] for _ in range(len(self))]
        first: list[list[int]] = [[] for _ in range(len(self))]
        for node in range(self.start, self.turn):
            stage = self.stage[node - self.start]
            first[stage].append(node)
            if not any(x in self._held for x in self.program.writes[node]):
                again[stage].append(node)
        for action in actions:
            if isinstance(action, Forward):
                made += first[action.stage]
                first[action.stage] = again[action.stage]
            else:
                made += self.groups[action.stage]
        return made + self.rest

    # What it takes.

    def _measure(self) -> Chain:
        program, n = self.program, len(self)
        stage_of = {node: self.stage[node - self.start] for node in range(self.start, self.turn)}
        readers = self._backward_readers()
        kept: list[tuple[int, list[int]]] = []
        for x, steps in self._uses.items():
            if x not in self._held:
                made = stage_of[steps[0]]
                kept.append((x, sorted({*(stage_of[step] for step in steps), *(stage for stage in readers.get(x, ()) if stage > made)})))
        handed_on = {x: stages[-1] > stages[0] for x, stages in kept}
        boundary = np.zeros((n, n, n), np.int64)
        residual = np.zeros(n, np.int64)
        everything = np.zeros((n, n), np.int64)
        residuals = {x for x, stages in kept if any(stage <= stages[0] for stage in readers.get(x, ()))}
        for x, stages in kept:
            size, made = program.nbytes[x], stages[0]
            for stage, following in pairwise(stages):
                # Made in a stage from i on, and waiting at every border up to the next reader.
                boundary[: made + 1, stage:following, following:] += size
            if x in residuals:
                residual[made] += size
                everything[made] += size
            elif len(stages) > 1:
                everything[made, stages[1] :] += size
        cost = np.zeros(n)
        for node, stage in stage_of.items():
            if not any(x in self._held for x in program.writes[node]):
                cost[stage] += program.cost[node]
        passing = self._forward_peaks(handed_on)
        keeping = self._forward_peaks({x: handed or x in residuals for x, handed in handed_on.items()})
        cotangents, backward = self._backward_peaks()
        return Chain(cost, boundary, everything, residual, passing, keeping, cotangents, backward)

    def _backward_readers(self) -> dict[int, set[int]]:
        """Per value of the forward pass the stages in whose backward pass it is read."""
        found: dict[int, set[int]] = {}
        for stage, nodes in enumerate(self.groups):
            for node in nodes:
                for x in self.program.reads[node]:
                    found.setdefault(self.program.root[x], set()).add(stage)
        return found

    def _forward_peaks(self, stays: Mapping[int, bool]) -> np.ndarray:
        """Per stage the most bytes of its own values at once, if some of them stay."""
        program = self.program
        peaks = np.zeros(len(self), np.int64)
        bounds = [self.start, *(cut + 1 for cut in self.cuts), self.turn]
        for stage, (first, stop) in enumerate(pairwise(bounds)):
            change = [0] * (stop - first + 1)
            for node in range(first, stop):
                for x in program.writes[node]:
                    if x in stays:
                        change[node - first] += program.nbytes[x]
                        if not stays[x]:
                            change[self._uses[x][-1] + 1 - first] -= program.nbytes[x]
            peaks[stage] = max(held + own for held, own in zip(accumulate(change), [*program.scratch[first:stop], 0], strict=True))
        return peaks

    def _backward_peaks(self) -> tuple[np.ndarray, np.ndarray]:
        """Per stage what the backward pass holds of its own values before it enters the stage, and at most in it."""
        program, n = self.program, len(self)
        order = [node for nodes in reversed(self.groups) for node in nodes] + self.rest
        place = {node: step for step, node in enumerate(order)}
        change = [0] * (len(order) + 1)
        last: dict[int, int] = {}
        results = {program.root[x] for x in program.results}
        for node in order:
            for x in (*program.reads[node], *program.writes[node]):
                last[program.root[x]] = place[node]
        for node in order:
            for x in program.writes[node]:
                if program.root[x] == x and x not in program.donors:
                    change[place[node]] += program.nbytes[x]
                    if x not in results:
                        change[last[x] + 1] -= program.nbytes[x]
        held = [*accumulate(change)]
        before, peak = np.zeros(n, np.int64), np.zeros(n, np.int64)
        step = 0
        for stage in range(n - 1, -1, -1):
            stop = step + len(self.groups[stage])
            made = program.writes[order[step]] if step < len(order) else ()
            before[stage] = held[step] - sum(program.nbytes[x] for x in made if program.root[x] == x and x not in program.donors)
            peak[stage] = max((held[k] + program.scratch[order[k]] for k in range(step, stop)), default=before[stage])
            step = stop
        return before, peak


def _thinned(cuts: list[int], kept: list[int], most: int) -> list[int]:
    """So many of the cuts that there are at most ``most`` stages, with about as much kept between any two."""
    if len(cuts) < most:
        return cuts
    share = kept[-1] / most
    chosen: list[int] = []
    filled = 0.0
    for cut in cuts:
        if kept[cut] >= filled + share:
            chosen.append(cut)
            filled += share * ((kept[cut] - filled) // share)
    return chosen[: most - 1]
