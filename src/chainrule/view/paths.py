"""Paths: the backward pass from a loss, with everything kept that passes: each gate's cotangent and its share for every input.

It goes over the tape as `core.chain` does and by the same rules, but changes nothing: what a gate saved stays, no ``.grad`` is filled.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from chainrule.core import chain
from chainrule.core.interp import ARRAYS, BASE, using
from chainrule.core.node import Node
from chainrule.view.watching import record_of

NOTHING: Mapping[Any, Any] = {}
_ALIKE = 0.5
"""Shares of a gradient that differ by no more than this factor count as alike."""


class Edge(NamedTuple):
    """What one gate hands on to one of its inputs; ``raw`` before it is summed to the input's shape."""

    user: Node
    position: int
    source: Node
    ct: Any
    raw: Any
    share: Any


def shares_of(
    node: Node, ct: Any, saved: tuple[Any, ...], *, behind: bool, tag: int = -1, within: Container[Node] | None = None
) -> Iterator[tuple[int, Node, Any]]:
    """What a gate hands on to each of its inputs, or to those ``within``, that carries one of the tags; all do if none is named."""
    primitive = node.primitive
    if primitive is None:
        return
    pulls = primitive.pulls
    with using(ARRAYS), np.errstate(all="ignore"):
        if primitive.special or behind:
            ct, pulls = chain.special_pulls(node, ct, saved, tag, within, behind=behind or primitive.masks)
        for position, (source, pull) in enumerate(zip(node.inputs, pulls, strict=False)):
            if source is not None and pull is not None and source.tags & tag and (within is None or source in within):
                share = pull(ct, saved, node, source)
                if share is not None:
                    yield position, source, share


def known_inputs(node: Node, saved: tuple[Any, ...]) -> list[Any]:
    """The inputs and lastly the output of a gate as far as it saved them, None elsewhere."""
    primitive = node.primitive
    assert primitive is not None
    if not saved:
        return [None] * (len(node.inputs) + 1)
    if primitive.variadic:
        return [*(saved[0] if saved[0] is not None else (None,) * len(node.inputs)), saved[-1]]
    return list(saved)


class Sweep:
    """The backward pass from ``loss`` as data.

    Parameters
    ----------
    root : Node
        The loss's.
    value : ndarray or scalar
        The loss's.
    known : Mapping, optional
        Values of other nodes.

    Attributes
    ----------
    nodes : list of Node
        All that the loss depends on, in the order in which they were made.
    edges : list of Edge
        In the order of the backward pass.
    cts : dict
        The complete cotangent of every node.
    values : dict
        The value of every node that is known.
    memory : dict
        What was found out about edges, so that it is found out once for all tensors.
    """

    def __init__(self, root: Node, value: Any, known: Mapping[Node, Any] = NOTHING) -> None:
        self.root = root
        self.nodes = _reached(root)
        self.freed = next((node for node in self.nodes if node.saved is None), None)
        self.behind: set[Node] = set()
        self.edges: list[Edge] = []
        self.cts: dict[Node, Any] = {}
        self.values: dict[Node, Any] = dict(known)
        self.memory: dict[Any, Any] = {}
        if self.freed is None:
            self._learn_values(value)
            self.cts, self.edges = self.carry({root: np.ones(np.shape(value), np.asarray(value).dtype)}, learn=True)
            self.users: dict[Node, list[Edge]] = {}
            for edge in self.edges:
                self.users.setdefault(edge.source, []).append(edge)

    def carry(
        self,
        start: Mapping[Node, Any],
        *,
        learn: bool = False,
        opened: Mapping[tuple[Node, int], Any] = NOTHING,
        within: Container[Node] | None = None,
    ) -> tuple[dict[Node, Any], list[Edge]]:
        """Carry cotangents back from some nodes as the backward pass would, but for inputs that are ``opened`` where a mask says.

        With ``within`` only to these nodes.
        """
        cts = dict(start)
        edges: list[Edge] = []
        for node in reversed(self.nodes):
            if node not in cts or node.primitive is None:
                continue
            ct = cts[node]
            behind = node in self.behind
            if learn and (behind or node.primitive.masks):
                self.behind.update(source for source in node.inputs if source is not None)
            for position, source, raw in shares_of(node, ct, node.saved or (), behind=behind, tag=BASE, within=within):
                share = raw
                with using(ARRAYS), np.errstate(all="ignore"):
                    if raw.shape != source.shape:
                        share = chain.unbroadcast(raw, source.shape)
                    mask = opened.get((node, position))
                    if mask is not None:
                        share = np.where(mask, ct if np.shape(ct) == source.shape else 1.0, share)
                    cts[source] = share if source not in cts else cts[source] + share
                edges.append(Edge(node, position, source, ct, raw, share))
        return cts, edges

    def inputs_of(self, node: Node) -> list[Any]:
        """The inputs and lastly the output of a node's gate, None where unknown."""
        record = record_of(node)
        if record is not None:
            return [*record.inputs, record.outputs[0]]
        found = known_inputs(node, node.saved or ())
        for i, source in enumerate(node.inputs):
            if found[i] is None and source is not None:
                found[i] = self.values.get(source)
        if found[-1] is None:
            found[-1] = self.values.get(node)
        return found

    def leading_to(self, target: Node) -> set[Node]:
        """Nodes on a path from the loss to ``target``."""
        return chain.leading_to([target], [self.root], BASE)

    def main_path(self, target: Node) -> list[Edge]:
        """From the loss to ``target`` along the largest shares.

        It is followed from its end: of a tensor with many uses, such as a loop's, the one that made its gradient what it is. Of uses that
        gave about as much the first one is taken, behind which most gates lie.
        """
        node, path = target, list[Edge]()
        while node is not self.root:
            edges = self.users[node]
            sizes = [_weight(edge.share) for edge in edges]
            enough = max(sizes) * (_ALIKE if node is target else 1.0)
            path.append(min((edge for edge, size in zip(edges, sizes, strict=True) if size >= enough), key=lambda edge: edge.user.order))
            node = path[-1].user
        return path[::-1]

    def _learn_values(self, value: Any) -> None:
        """Values that gates saved, of themselves or of their inputs, and what can be computed again from those."""
        for node in self.nodes:
            record = record_of(node)
            if node.primitive is None or node.primitive.outputs or node.primitive is chain.ITEM:
                continue
            known = known_inputs(node, node.saved or ())
            if record is not None:
                known = [*record.inputs, record.outputs[0]]
            for source, found in zip(node.inputs, known, strict=False):
                if source is not None and found is not None:
                    self.values.setdefault(source, found)
            if known[-1] is not None:
                self.values[node] = known[-1]
        self.values[self.root] = value
        for node in self.nodes:
            if node not in self.values and node.primitive is not None and node.primitive is not chain.ITEM and not node.primitive.outputs:
                given = self.inputs_of(node)[:-1]
                if all(v is not None for v in given):
                    with np.errstate(all="ignore"):
                        self.values[node] = node.primitive.evaluate(*given, **node.params)


def norm(value: Any) -> float:
    """The square root of the sum of squares; of the cotangent of several outputs, of all parts."""
    if isinstance(value, chain.Parts):
        return float(np.sqrt(sum(norm(part) ** 2 for part in value.parts.values())))
    array = np.asarray(value, dtype=np.float64)
    with np.errstate(all="ignore"):
        return float(np.sqrt(np.sum(array * array)))


def _weight(share: Any) -> float:
    size = norm(share)
    return np.inf if np.isnan(size) else size


def _reached(root: Node) -> list[Node]:
    seen = {root}
    stack = [root]
    while stack:
        for source in stack.pop().inputs:
            if source is not None and source not in seen and source.tags & BASE:
                seen.add(source)
                stack.append(source)
    return sorted(seen, key=lambda node: node.order)
