"""Chains of stages, in numbers: which results are kept and which computed again is the cheapest of all ways, for every amount of memory."""

from __future__ import annotations

import heapq
from itertools import count
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrule.compiler.chains import Chain, Forward, Solution


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    n = draw(st.integers(1, 5))
    few = st.integers(0, 3)
    cost = np.array([draw(st.integers(1, 4)) for _ in range(n)], float)
    handed = np.array([*(draw(st.integers(1, 3)) for _ in range(n - 1)), 0])
    residual = np.array([draw(few) for _ in range(n)])
    passing = handed + [draw(few) for _ in range(n)]
    keeping = np.maximum(handed + residual, passing) + [draw(few) for _ in range(n)]
    cotangents = np.array([*(draw(few) for _ in range(n - 1)), 0])
    backward = cotangents + [draw(few) for _ in range(n)]
    boundary = np.zeros((n, n, n), int)
    everything = np.zeros((n, n), int)
    for j in range(n):
        boundary[: j + 1, j, j + 1 :] = handed[j]
        everything[j] = residual[j] + np.where(np.arange(n) > j, handed[j], 0)
    return Chain(cost, boundary, everything, residual, passing, keeping, cotangents, backward)


def cheapest(chain: Chain, memory: int) -> float:
    """By trying everything: the shortest path over what is stored.

    What is stored stays until it is used, and a stage runs only while nothing behind it is stored. A state: how many stages have to go
    backward yet, which borders are stored, which stages are kept whole, whose result is at hand.
    """
    n = len(chain)
    handed = [int(chain.boundary[j, j, -1]) for j in range(n)]

    def stored(borders: frozenset[int], whole: frozenset[int]) -> int:
        return sum(handed[j] for j in borders) + sum(int(chain.residual[j]) + handed[j] for j in whole)

    ties = count()
    start = (n, frozenset[int](), frozenset[int](), None)
    queue: list[Any] = [(0.0, next(ties), start)]
    done: set[Any] = set()
    while queue:
        spent, _, state = heapq.heappop(queue)
        if state in done:
            continue
        done.add(state)
        left, borders, whole, at_hand = state
        if not left:
            return spent
        cotangent = int(chain.cotangents[left - 1])
        base = stored(borders, whole)
        stays = {-1, *borders, *whole}
        after: list[tuple[float, Any]] = []
        for j in range(left):
            if any(kept >= j for kept in (*borders, *whole)):
                continue
            if j - 1 in stays or at_hand == j - 1:
                held = handed[at_hand] if at_hand == j - 1 and j - 1 not in stays else 0
                if base + held + chain.passing[j] + cotangent <= memory:
                    after.append((chain.cost[j], (left, borders, whole, j)))
            if j - 1 in stays and base + chain.keeping[j] + cotangent <= memory:
                after.append((chain.cost[j], (left, borders, whole | {j}, None)))
        if at_hand is not None and at_hand not in stays:
            after.append((0.0, (left, borders | {at_hand}, whole, None)))
        last = left - 1
        if last in whole and last - 1 in stays:
            rest = whole - {last}
            if stored(borders - {last}, rest) + chain.residual[last] + chain.backward[last] <= memory:
                after.append((0.0, (last, frozenset(j for j in borders if j < last - 1), rest, None)))
        for cost, new in after:
            heapq.heappush(queue, (spent + cost, next(ties), new))
    return np.inf


@settings(max_examples=60)
@given(chain=chains())
def test_the_schedule_is_the_cheapest_for_every_amount_of_memory(chain: Chain) -> None:
    limit = chain.most
    if not limit:
        return
    found = Solution(chain, limit, slots=limit).costs
    assert found.tolist() == [cheapest(chain, memory) for memory in range(limit + 1)]
    assert found[-1] == chain.cost.sum()
    possible = np.flatnonzero(np.isfinite(found))
    assert possible[0] == chain.least


def uniform(n: int) -> Chain:
    """Equal stages that keep their input only, as if memory were of checkpoints alone."""
    ones, zeros = np.ones(n, int), np.zeros(n, int)
    boundary = np.zeros((n, n, n), int)
    for j in range(n):
        boundary[: j + 1, j, j + 1 :] = 1
    return Chain(np.ones(n), boundary, np.triu(np.ones((n, n), int), 1), zeros, ones, ones, zeros, zeros)


def test_equal_stages_need_what_the_binomial_schedule_needs() -> None:
    """Griewank and Walther: with s checkpoints and r repetitions binomial(s + r, s) steps are reversed."""
    chain = uniform(20)
    solution = Solution(chain, 24, slots=24)
    # One unit is at hand while the others are kept: s = 3 and r = 3 reverse 20 steps; one run of every step is the first.
    costs = dict(enumerate(solution.costs.tolist()))
    assert costs[4] <= 20 + 3 * 20
    assert costs[21] == 20
    assert sorted(costs.values(), reverse=True) == list(costs.values())


def test_a_schedule_runs_every_backward_once_in_reverse() -> None:
    solution = Solution(uniform(9), 10, slots=10)
    for units in np.flatnonzero(np.isfinite(solution.costs)):
        actions = solution.actions(int(units))
        assert [a.stage for a in actions if not isinstance(a, Forward)] == list(range(8, -1, -1))
        assert sum(isinstance(a, Forward) for a in actions) == solution.costs[units]
