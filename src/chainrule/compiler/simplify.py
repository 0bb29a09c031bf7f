"""Simplify: the same values from fewer gates.

One walk through the graph in order: a gate of known values becomes a value, a gate that was written already is not written
again, operands are not repeated where broadcasting repeats them anyway, and what the rules of `algebra` say otherwise is
said so. A walk back leaves out what no output depends on. Nothing is merged with, seen through or moved across a gate named
"barrier": recomputation depends on it.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from chainrule.autodiff.checkpoint import opened
from chainrule.autodiff.custom import CUSTOM
from chainrule.compiler.algebra import RULES, unspread
from chainrule.core.aval import Aval, broadcast
from chainrule.core.primitive import TABLE, Primitive
from chainrule.core.variable import Variable
from chainrule.graph import derived
from chainrule.graph.derived import kept
from chainrule.graph.inner import prune
from chainrule.graph.ir import Graph, Operation, frozen
from chainrule.ops.cross_entropy import CROSS_ENTROPY_AND_SLOPE, MINUS_LABELS, SOFTMAX_CROSS_ENTROPY
from chainrule.ops.joining import SPLIT

SMALL = 256
"""Of values of at most so many elements no call is saved for the sake of fewer, and equal ones are found."""

FOLDED = 1 << 22
"""Bytes of known values that one gate may read and make beforehand; in all, a graph may hold four times as many of them."""

BARRIER = "barrier"
_COMMUTE = frozenset(
    ("add", "multiply", "equal", "not_equal", "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor")
)
_IDENTITIES = frozenset((derived.MASK,))
"""They mean something to derivatives only, which are there by now."""
_PLAIN = frozenset((operator.add, operator.sub, operator.mul, operator.truediv, operator.neg))


def simplify(graph: Graph) -> Graph:
    """The graph with fewer gates, of the same inputs, outputs and values.

    Parameters
    ----------
    graph : Graph

    Returns
    -------
    Graph
        Every value has the same bits, but for the signs of zeros and NaN, and for what would have overflowed or underflowed between
        two factors that are powers of two.
    """
    # What nobody needs would count as a use.
    graph = without_dead_code(graph)
    with np.errstate(all="ignore"):
        writer = _Writer(graph)
        for node in graph.nodes:
            writer.write(node)
    outputs = tuple(writer.values[x] for x in graph.outputs)
    return without_dead_code(graph.with_nodes(writer.nodes, outputs, writer.constants))


def without_dead_code(graph: Graph) -> Graph:
    """The graph without what no output depends on."""
    wanted: set[Variable] = set(graph.outputs)
    kept: list[Operation] = []
    for node in reversed(graph.nodes):
        if not wanted.isdisjoint(node.outputs):
            node = prune(node, wanted)
            kept.append(node)
            wanted.update(node.inputs)
    constants = {x: value for x, value in graph.constants.items() if x in wanted}
    return graph.with_nodes(kept[::-1], graph.outputs, constants)


def _simplified(graph: Graph) -> Graph:
    """An inner graph, once and for all."""
    return kept(graph, ("simplified",), lambda: simplify(opened(graph)))


class _Writer:
    """Writes the new graph; what the rules see of it is `algebra.Builder`."""

    def __init__(self, graph: Graph) -> None:
        self.nodes: list[Operation] = []
        self.values: dict[Variable, Variable] = {x: x for x in graph.inputs}
        self.constants: dict[Variable, Any] = {}
        self._uses = Counter(x for node in graph.nodes for x in node.inputs)
        self._uses.update(graph.outputs)
        self._sources: dict[Variable, Operation] = {}
        self._uniform: dict[Variable, Any] = {}
        self._known: dict[Any, tuple[Variable, ...]] = {}
        self._numbers: dict[Any, Variable] = {}
        self._losses: dict[tuple[Variable, ...], int] = {}
        self._folded_bytes = 0
        self._order: dict[Variable, int] = {}
        self._names = {x.name for x in (*graph.inputs, *(x for node in graph.nodes for x in node.outputs))}
        self._made: set[Variable] = set()
        self._node: Operation = None  # type: ignore[assignment] - set for every gate
        for x, value in graph.constants.items():
            self.values[x] = self._enter(x, value)

    def write(self, node: Operation) -> None:
        """A gate of the old graph."""
        self._node = node
        self._made.clear()
        params = (
            {name: _simplified(value) if isinstance(value, Graph) else value for name, value in node.params.items()} if node.params else node.params
        )
        found = self._written(node.primitive, tuple(self.values[x] for x in node.inputs), params, node.outputs)
        self.values.update(zip(node.outputs, found, strict=True))
        if found[0] in self._made:
            # What stands for the gate's own result keeps its name.
            found[0].name = node.outputs[0].name

    def _written(
        self, primitive: Primitive, inputs: tuple[Variable, ...], params: Mapping[str, Any], outputs: tuple[Variable, ...]
    ) -> tuple[Variable, ...]:
        if primitive is CUSTOM:
            # So does the mark of a custom gate; what stands for its outputs keeps their names.
            return inputs[: len(outputs)]
        if primitive is SPLIT and len(outputs) == 1:
            return inputs
        if primitive.name == BARRIER or (TABLE.get(primitive.name) is not primitive and primitive not in _IDENTITIES):
            # A gate of one's own may do more than compute.
            return self._append(primitive, inputs, params, outputs)
        if not primitive.outputs:
            simpler = self._simpler(primitive, inputs, params, outputs[0])
            if simpler is not None:
                return (simpler,)
        folded = self._folded(primitive, inputs, params, outputs)
        if folded is not None:
            return folded
        key = self._key(primitive, inputs, params)
        found = None if key is None else self._known.get(key)
        if found is None:
            found = self._together(primitive, inputs, params, outputs) or self._append(primitive, inputs, params, outputs)
            if key is not None:
                self._known[key] = found
        return found

    def _together(self, primitive: Primitive, inputs: tuple[Variable, ...], params: Mapping[str, Any], outputs: tuple[Variable, ...]) -> Any:
        """The result of a gate that is computed with another one, written already, at little more than the price of that."""
        if primitive is SOFTMAX_CROSS_ENTROPY:
            self._losses[inputs] = len(self.nodes)
        elif primitive is MINUS_LABELS and inputs in self._losses:
            place = self._losses[inputs]
            loss = self.nodes[place]
            if loss.primitive is SOFTMAX_CROSS_ENTROPY and loss.params == params:
                self.nodes[place] = replace(loss, primitive=CROSS_ENTROPY_AND_SLOPE, outputs=(*loss.outputs, *outputs))
                return outputs
        return None

    def _append(
        self, primitive: Primitive, inputs: tuple[Variable, ...], params: Mapping[str, Any], outputs: tuple[Variable, ...]
    ) -> tuple[Variable, ...]:
        node = Operation(primitive, inputs, params, outputs, self._node.scope, self._node.line)
        self.nodes.append(node)
        if primitive.name != BARRIER:
            for x in outputs:
                self._sources[x] = node
        return outputs

    def _key(self, primitive: Primitive, inputs: tuple[Variable, ...], params: Mapping[str, Any]) -> Any:
        if primitive.name in _COMMUTE:
            order = self._order
            inputs = tuple(sorted(inputs, key=lambda x: order.setdefault(x, len(order))))
        key = (primitive, inputs, frozen(params))
        try:
            hash(key)
        except TypeError:
            return None
        return key

    # Values that are known.

    def _enter(self, x: Variable, value: Any) -> Variable:
        """A constant of the old graph, or a new one; equal numbers are one."""
        value = value[()]
        key = (value.dtype.str, value.shape, value.tobytes()) if value.size <= SMALL else None
        known = None if key is None else self._numbers.get(key)
        if known is not None:
            return known
        self.constants[x] = value
        if key is not None:
            self._numbers[key] = x
        if value.size and _is_uniform(value):
            self._uniform[x] = value if not value.shape else value[(0,) * value.ndim]
        return x

    def constant(self, value: Any) -> Variable:
        value = np.asarray(value)
        return self._enter(Variable(Aval(value.shape, value.dtype), self._name("c") if value.shape else ""), value)

    def number(self, x: Variable) -> Any:
        return self._uniform.get(x)

    def _folded(self, primitive: Primitive, inputs: tuple[Variable, ...], params: Mapping[str, Any], outputs: tuple[Variable, ...]) -> Any:
        known = [self._known_value(x) for x in inputs]
        size = sum(x.nbytes for x in outputs)
        if any(value is None for value in known) or size + sum(x.nbytes for x in inputs) > FOLDED or self._folded_bytes + size > 4 * FOLDED:
            return None
        if primitive.name == "broadcast_to" and outputs[0].size > SMALL:
            # It takes no memory as it is.
            return None
        try:
            made = primitive.evaluate(*known, **params)
        except Exception:
            return None
        values = made if primitive.outputs else (made,)
        if any((np.shape(value), value.dtype) != (x.shape, x.dtype) for value, x in zip(values, outputs, strict=True)):
            return None
        self._folded_bytes += size
        return tuple(self.constant(np.array(value)) for value in values)

    def _known_value(self, x: Variable) -> Any:
        if x in self.constants:
            return self.constants[x]
        return np.broadcast_to(self._uniform[x], x.shape) if x in self._uniform else None

    # What the rules ask for.

    def source(self, x: Variable) -> Operation | None:
        return self._sources.get(x)

    def alone(self, x: Variable) -> bool:
        return self._uses[x] <= 1

    def apply(self, primitive: Primitive, inputs: tuple[Variable, ...], params: Mapping[str, Any]) -> Variable:
        out = Variable(primitive.aval(*(x.aval for x in inputs), **params), self._name(self._node.outputs[0].name))
        self._made.add(out)
        return self._written(primitive, inputs, params, (out,))[0]

    def _name(self, base: str) -> str:
        count = 1
        while f"{base}_{count}" in self._names:
            count += 1
        self._names.add(f"{base}_{count}")
        return f"{base}_{count}"

    def _simpler(self, primitive: Primitive, inputs: tuple[Variable, ...], params: Mapping[str, Any], out: Variable) -> Variable | None:
        if primitive in _IDENTITIES:
            return inputs[0]
        rule = RULES.get(primitive.name)
        found = None if rule is None else rule(self, inputs, params, out.aval)
        if found is None and primitive.scalar is not None:
            found = self._unspread(primitive, inputs, params, out)
        if found is None and primitive.name == "broadcast_to" and inputs[0] in self._uniform:
            self._uniform[out] = self._uniform[inputs[0]]
        return found

    def _unspread(self, primitive: Primitive, inputs: tuple[Variable, ...], params: Mapping[str, Any], out: Variable) -> Variable | None:
        """An elementwise gate on operands that are not repeated beforehand."""
        if not out.shape:
            return None
        given = tuple(self._least(x) for x in inputs)
        if given == inputs:
            return None
        shape = broadcast(*(x.shape for x in given))
        if shape == out.shape:
            return self.apply(primitive, given, params)
        # It costs a call, which few elements are not worth; and other gates may take another way for fewer, with other roundings.
        if out.size > SMALL and math.prod(shape) < out.size and (primitive.eval in _PLAIN or isinstance(primitive.eval, np.ufunc)):
            small = self.apply(primitive, given, params)
            return self.apply(TABLE["broadcast_to"], (small,), {"shape": out.shape})
        for i, x in enumerate(inputs):
            some = (*given[:i], x, *given[i + 1 :])
            if x is not given[i] and x.shape == out.shape and some != inputs:
                return self.apply(primitive, some, params)
        return None

    def _least(self, x: Variable) -> Variable:
        if x.shape and x in self._uniform:
            return self.constant(self._uniform[x])
        return unspread(self, x) if x.shape else x


def _is_uniform(value: Any) -> bool:
    if not value.shape:
        return True
    first = value[(0,) * value.ndim]
    if not bool((value == first).all()):
        return False
    # Zeros of both signs are equal.
    return value.dtype.kind not in "fc" or first != 0 or not np.any(np.signbit(value.real) != np.signbit(first.real))
