"""What graphs cost: multiplications, and a rough time, from shapes alone.

Transforms compare by these numbers the ways to the same derivative; a compiler that recomputes values weighs them.
Nothing here runs or measures anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from chainrule.core.aval import Aval
from chainrule.core.primitive import Primitive
from chainrule.graph.ir import Graph, Operation

MOVES = frozenset(("move", "gather", "scatter"))
"""The families of gates that carry elements to other places and compute nothing."""

_PER_OPERATION = 2e-6
_PER_MULTIPLICATION = 0.5e-9
_PER_BYTE = 0.1e-9


def multiplications(computation: Operation | Graph | Iterable[Operation]) -> int:
    """How many multiplications an operation, a graph or some operations take.

    An elementwise gate counts one per element of its output, whatever it computes; a reduction, a scan or a sort one per element of its
    input; what moves elements counts nothing. Other gates say it themselves (`Primitive.cost`).

    Examples
    --------
    >>> import chainrule as cr
    >>> from chainrule.autodiff.cost import multiplications
    >>> multiplications(cr.trace(lambda w, x: cr.tanh(w @ x), cr.ones((3, 4)), cr.ones((4,))))
    15
    """
    if isinstance(computation, Operation):
        inputs, outputs = ([x.aval for x in values] for values in (computation.inputs, computation.outputs))
        return multiplications_of(computation.primitive, inputs, outputs, computation.params)
    return sum(multiplications(node) for node in (computation.nodes if isinstance(computation, Graph) else computation))


def floating_operations(operation: Operation) -> int:
    """How many floating-point operations it takes: a multiplication with an addition, as in products and convolutions, counts as two.

    Examples
    --------
    >>> import chainrule as cr
    >>> from chainrule.autodiff.cost import floating_operations
    >>> [floating_operations(node) for node in cr.trace(lambda w, x: cr.tanh(w @ x), cr.ones((3, 4)), cr.ones((4,))).nodes]
    [24, 3]
    """
    inner = [x for x in operation.params.values() if isinstance(x, Graph)]
    if inner:
        return sum(floating_operations(node) for graph in inner for node in graph.nodes) * int(operation.params.get("length", 1))
    return multiplications(operation) * (2 if operation.primitive.multilinear and operation.primitive.cost is not None else 1)


def seconds(operation: Operation) -> float:
    """A rough guess of an operation's time, for ordering: a call, its multiplications, and the bytes that it reads and writes.

    The three rates are those of one core of a common machine, within a factor of a few.
    """
    moved = sum(x.nbytes for x in (*operation.inputs, *operation.outputs))
    return _PER_OPERATION + multiplications(operation) * _PER_MULTIPLICATION + moved * _PER_BYTE


def live_bytes(graph: Graph, counted: Iterable[Any] | None = None) -> int:
    """The most bytes of values that are alive at once while a graph runs.

    Parameters
    ----------
    graph : Graph
    counted : iterable of Variable, optional
        Only these count; all but constants if not given.
    """
    sizes = {x: x.nbytes for x in ((*graph.inputs, *(x for node in graph.nodes for x in node.outputs)) if counted is None else counted)}
    alive = most = sum(sizes.get(x, 0) for x in graph.inputs)
    for node, last in zip(graph.nodes, graph.last_uses(), strict=True):
        alive += sum(sizes.get(x, 0) for x in node.outputs)
        most = max(most, alive)
        alive -= sum(sizes.get(x, 0) for x in last)
    return most


def multiplications_of(primitive: Primitive, inputs: list[Aval], outputs: list[Aval], params: Mapping[str, Any]) -> int:
    """The same of a gate for inputs and outputs of these shapes."""
    if primitive.cost is not None:
        return int(primitive.cost(*inputs, **params))
    inner = [x for x in params.values() if isinstance(x, Graph)]
    if inner:
        return sum(map(multiplications, inner)) * int(params.get("length", 1))
    if primitive.scalar is not None:
        return outputs[0].size
    if primitive.kernel in MOVES or (primitive.kernel is None and primitive.transpose is not None):
        return 0
    return max(sum(x.size for x in inputs), sum(x.size for x in outputs))
