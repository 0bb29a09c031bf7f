"""Chains: what to keep and what to recompute when one stage follows the other, forward and then backward.

The optimum is found by dynamic programming, after O. Beaumont, L. Eyraud-Dubois, J. Herrmann, A. Joly, A. Shilova, "Optimal
checkpointing for heterogeneous chains: how to train deep neural networks with limited memory" (2019). Here are only numbers;
what a stage is, is `remat`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.int64]
Costs = npt.NDArray[np.float64]


class Forward(NamedTuple):
    """Run a stage."""

    stage: int


class Backward(NamedTuple):
    """Run the backward pass of a stage, of which all that it reads is there."""

    stage: int


Action = Forward | Backward


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """What the stages of a chain take; stages are counted from 0.

    Attributes
    ----------
    cost : array of float, shape (n,)
        Of running stage i forward. That of running it backward does not matter: it runs once.
    boundary : array of int, shape (n, n, n)
        ``[i, j, t]``: bytes of what crosses from stage j to stages up to t, but for what stage i was given: what a checkpoint after j takes
        while the input of i is there and stages behind t are done with.
    everything : array of int, shape (n, n)
        ``[i, t]``: bytes of what stage i hands on to stages up to t, and of all that its backward pass reads, but for what it was given.
    residual : array of int, shape (n,)
        Bytes of what its backward pass reads of what it made.
    passing, keeping : array of int, shape (n,)
        The most bytes that stage i makes and holds at once while it keeps only what it hands on, or everything.
    cotangents : array of int, shape (n,)
        Bytes of what the backward pass holds before it enters stage i.
    backward : array of int, shape (n,)
        The most bytes that the backward pass holds of its own while it is in stage i.
    """

    cost: Costs
    boundary: Bytes
    everything: Bytes
    residual: Bytes
    passing: Bytes
    keeping: Bytes
    cotangents: Bytes
    backward: Bytes

    def __len__(self) -> int:
        return len(self.cost)

    @property
    def most(self) -> int:
        """Bytes with which nothing is computed twice."""
        held = np.concatenate([[0], np.cumsum(self.everything[:, -1])[:-1]])
        forward = held + self.cotangents[-1] + self.keeping
        return int(max(forward.max(), (held + self.residual + self.backward).max()))

    @property
    def least(self) -> int:
        """Bytes with which it can be done at all: the same choices as in `Solution`, for memory alone."""
        n = len(self)
        through = self.ran_through
        need = np.zeros((n + 1, n), np.int64)
        for i in range(n - 1, -1, -1):
            kept = np.maximum(self.keeping[i] + self.cotangents, self.residual[i] + self.backward[i])
            need[i, i:] = np.maximum(kept[i:], np.where(np.arange(i, n) > i, self.everything[i, i:] + need[i + 1, i:], 0))
            for k in range(i + 1, n):
                # In order: what it takes to go from i to k - 1 is known by now.
                both = np.maximum(through[i, k - 1, k:], self.boundary[i, k - 1, k:] + need[k, k:])
                need[i, k:] = np.minimum(need[i, k:], np.maximum(both, need[i, k - 1]))
        return int(need[0, n - 1])

    @property
    def ran_through(self) -> Bytes:
        """``[i, j, t]``: the most bytes held while stages i to j run and keep nothing but what stages up to t need, and the backward pass is at t."""
        n = len(self)
        held = np.zeros((n, n, n), np.int64)
        held[:, 1:] = self.boundary[:, :-1]
        held += self.passing[:, None]
        held[np.tril_indices(n, -1)] = 0
        return np.maximum.accumulate(held, axis=1) + self.cotangents


class Solution:
    """The least cost of a chain for every amount of memory up to a limit.

    Parameters
    ----------
    chain : Chain
    limit : int
        Bytes.
    slots : int
        Memory is counted in so many units up to the limit; every size is rounded to units.

    Notes
    -----
    Let C(i, t, m) be the least cost of taking stages i to t forward and backward with memory m beside the input of i, which is kept.
    Either stage i keeps everything, ``cost[i] + C(i+1, t, m - everything[i, t])``, or stages i to k-1 keep nothing but a checkpoint of what
    they hand on, ``cost[i] + ... + cost[k-1] + C(k, t, m - boundary[i, k-1, t]) + C(i, k-1, m)``; whatever fits. So a schedule is
    the cheapest among those that keep whole stages or boundaries between stages, keep them until they are used, and run a stage only
    while nothing behind it is kept: optimal up to the rounding of sizes.
    """

    def __init__(self, chain: Chain, limit: int, slots: int = 512) -> None:
        self.chain = chain
        self.slots = slots
        self.unit = max(limit / slots, 1e-9)
        self._boundary = self._units(chain.boundary)
        self._everything = self._units(chain.everything)
        self._keeping = self._units(chain.keeping[:, None] + chain.cotangents)
        self._back = self._units(chain.residual + chain.backward)
        self._through = self._units(chain.ran_through)
        self._sums = np.concatenate([[0.0], np.cumsum(chain.cost)])
        self._table: list[Costs] = []
        self._solve()

    def _units(self, sizes: Any) -> Bytes:
        return np.minimum(np.rint(np.asarray(sizes) / self.unit), self.slots + 1).astype(np.int64)

    def _solve(self) -> None:
        n, width = len(self.chain), self.slots + 1
        amounts = np.arange(width)
        self._table = [np.empty(0)] * n
        for i in range(n - 1, -1, -1):
            # Rows: the last stage t, from i on.
            found = np.full((n - i, width), np.inf)
            if i + 1 < n:
                found[1:] = _moved(self._table[i + 1], self._everything[i, i + 1 :], 0) + self.chain.cost[i]
            found[0] = self.chain.cost[i]
            found[amounts < np.maximum(self._keeping[i, i:], self._back[i])[:, None]] = np.inf
            for k in range(i + 1, n):
                # All sums for t = k, k+1, ... at once; that for t = k-1 is complete by now.
                start = int(self._through[i, k - 1, k:].min())
                if start >= width:
                    continue
                first = found[k - 1 - i, start:] + (self._sums[k] - self._sums[i])
                both = _moved(self._table[k], self._boundary[i, k - 1, k:], start) + first
                both[amounts[start:] < self._through[i, k - 1, k:, None]] = np.inf
                rest = found[k - i :, start:]
                np.minimum(rest, both, out=rest)
            self._table[i] = found

    @property
    def costs(self) -> Costs:
        """Per number of units, from 0 on, the least cost; infinite where it cannot be done."""
        return self._table[0][-1]

    def actions(self, units: int) -> list[Action]:
        """The cheapest schedule in so much memory."""
        actions: list[Action] = []
        todo: list[Action | tuple[int, int, int]] = [(0, len(self.chain) - 1, units)]
        while todo:
            task = todo.pop()
            if isinstance(task, (Forward, Backward)):
                actions.append(task)
                continue
            i, t, m = task
            k = self._choice(i, t, m)
            if k == i:
                actions.append(Forward(i))
                todo.append(Backward(i))
                if t > i:
                    todo.append((i + 1, t, m - int(self._everything[i, t])))
            else:
                actions += [Forward(stage) for stage in range(i, k)]
                todo.append((i, k - 1, m))
                todo.append((k, t, m - int(self._boundary[i, k - 1, t])))
        return actions

    def _choice(self, i: int, t: int, m: int) -> int:
        """The stage after the first checkpoint; i itself if stage i keeps everything."""
        if m >= self._keeping[i, t] and m >= self._back[i]:
            rest = m - int(self._everything[i, t])
            kept = self.chain.cost[i] + (0.0 if t == i else self._table[i + 1][t - i - 1, rest] if rest >= 0 else np.inf)
        else:
            kept = np.inf
        best, choice = kept, i
        for k in range(i + 1, t + 1):
            rest = m - int(self._boundary[i, k - 1, t])
            if rest < 0 or m < self._through[i, k - 1, t]:
                continue
            cost = self._sums[k] - self._sums[i] + self._table[k][t - k, rest] + self._table[i][k - 1 - i, m]
            if cost < best:
                best, choice = cost, k
        return choice


def _moved(costs: Costs, sizes: Bytes, start: int) -> Costs:
    """Per row the costs with so many units less, for ``start`` units and more; infinite where there are not as many."""
    rows, width = costs.shape
    if sizes.min() == sizes.max():
        # The usual case: what crosses a border is read right behind it.
        size = int(sizes[0])
        out = np.full((rows, width - start), np.inf)
        first = max(start, size)
        out[:, first - start :] = costs[:, first - size : max(width - size, 0)]
        return out
    places = np.arange(start, width) - sizes[:, None]
    return np.where(places >= 0, costs[np.arange(rows)[:, None], np.maximum(places, 0)], np.inf)
