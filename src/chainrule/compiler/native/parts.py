"""Gates in parts: the same values from elementwise gates and plain sums, which fuse with what stands beside them.

Of gates that summarise, normalise or compare with labels, and of products in which nothing is summed. Where the parts would round worse, or
there are none, a gate keeps its own loops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from chainrule.core.aval import Shape
from chainrule.core.primitive import TABLE, Primitive, functions
from chainrule.core.variable import Variable
from chainrule.graph.derived import kept, traced
from chainrule.graph.ir import Graph, Operation
from chainrule.ops.cross_entropy import CROSS_ENTROPY_AND_SLOPE

__all__ = ["in_parts"]

Axes = tuple[int, ...]


def in_parts(graph: Graph) -> Graph:
    """The graph with gates in parts, as far as they have any."""
    nodes: list[Operation] = []
    constants = dict(graph.constants)
    now: dict[Variable, Variable] = {}
    known: dict[Any, Graph] = {}
    for node in graph.nodes:
        inputs = tuple(now.get(x, x) for x in node.inputs)
        rule = _rule(node)
        if rule is None:
            params = {name: _inner(value) if isinstance(value, Graph) else value for name, value in node.params.items()}
            nodes.append(Operation(node.primitive, inputs, params, node.outputs, node.scope, node.line))
            continue
        key = (node.primitive, tuple(x.aval for x in inputs), tuple(node.params.items()))
        if key not in known:
            known[key] = traced(node.primitive.name, inputs, _applied(rule, node))
        own = dict(zip(known[key].inputs, inputs, strict=True))
        for x, value in known[key].constants.items():
            own[x] = Variable(x.aval, x.name)
            constants[own[x]] = value
        for step in known[key].nodes:
            own.update((x, Variable(x.aval, f"{node.outputs[0].name}_{x.name}")) for x in step.outputs)
            outputs = tuple(own[x] for x in step.outputs)
            nodes.append(Operation(step.primitive, tuple(own[x] for x in step.inputs), step.params, outputs, node.scope, node.line))
        now.update((x, own[end]) for x, end in zip(node.outputs, known[key].outputs, strict=True))
    return graph.with_nodes(nodes, [now.get(x, x) for x in graph.outputs], constants)


def _inner(graph: Graph) -> Graph:
    """The graph of a loop or a branch, once and for all."""
    return kept(graph, ("in parts",), lambda: in_parts(graph))


def _rule(node: Operation) -> Callable[..., Any] | None:
    if not all(x.size for x in node.inputs):
        return None
    if node.primitive is TABLE["matmul"]:
        a, b = (x.shape for x in node.inputs)
        return functions.multiply if min(len(a), len(b)) > 1 and a[-1] == 1 and node.output.dtype.kind in "fiu" else None
    floats = all(x.dtype.name in ("float32", "float64") for x in node.outputs)
    return MOVES.get(node.primitive) or (PARTS.get(node.primitive) if floats else None)


def _applied(rule: Callable[..., Any], node: Operation) -> Callable[[list[Any]], Sequence[Any]]:
    def apply(given: list[Any]) -> Sequence[Any]:
        made = rule(*given, **node.params)
        return made if isinstance(made, tuple) else (made,)

    return apply


def _count(shape: Shape, axis: Axes) -> int:
    return math.prod(shape[i] for i in axis)


def _sum(x: Any, axis: Axes, *, keepdims: bool = True) -> Any:
    return functions.sum(x, axis=axis, keepdims=keepdims)


def _mean(x: Any, axis: Axes, keepdims: bool) -> Any:
    return _sum(x, axis, keepdims=keepdims) / float(_count(x.shape, axis))


def _var(x: Any, axis: Axes, keepdims: bool, correction: float) -> Any:
    deviation = x - _mean(x, axis, keepdims=True)
    freedom = _count(x.shape, axis) - correction
    return _sum(deviation * deviation, axis, keepdims=keepdims) / (freedom if freedom > 0 else math.nan)


def _std(x: Any, axis: Axes, keepdims: bool, correction: float) -> Any:
    return functions.sqrt(_var(x, axis, keepdims, correction))


def _logsumexp(x: Any, axis: Axes, keepdims: bool) -> Any:
    top = functions.max(x, axis=axis, keepdims=True)
    top = functions.where(functions.isfinite(top), top, 0.0)
    out = functions.log(_sum(functions.exp(x - top), axis)) + top
    return out if keepdims else functions.squeeze(out, axis=axis)


def _exponentials(x: Any, axis: Axes) -> tuple[Any, Any, Any]:
    """What is shifted by the maximum, its exponentials, and their sums."""
    shifted = x - functions.max(x, axis=axis, keepdims=True)
    e = functions.exp(shifted)
    return shifted, e, _sum(e, axis)


def _softmax(x: Any, axis: Axes) -> Any:
    _, e, total = _exponentials(x, axis)
    return e / total


def _log_softmax(x: Any, axis: Axes) -> Any:
    shifted, _, total = _exponentials(x, axis)
    return shifted - functions.log(total)


def _standardize(x: Any, axis: Axes, epsilon: float) -> tuple[Any, Any, Any]:
    mean = _mean(x, axis, keepdims=True)
    deviation = x - mean
    var = _mean(deviation * deviation, axis, keepdims=True)
    return deviation / functions.sqrt(var + epsilon), mean, var


def _entropy(logits: Any, labels: Any, smoothing: float) -> tuple[Any, Any]:
    """Losses, and their slope: probabilities less labels."""
    axis = (len(logits.shape) - 1,)
    shifted, e, total = _exponentials(logits, axis)
    rows = functions.expand_dims(labels, axis=-1)
    # A label that is out of range is found where it is looked up; a negative one would count from the end.
    places = functions.astype(rows, np.dtype(np.int64))
    places = functions.where(places < 0, logits.shape[-1], places)
    expected = functions.squeeze(functions.take_along_axis(shifted, places, axis=-1), axis=-1)
    if smoothing:
        expected = (1 - smoothing) * expected + smoothing * _mean(shifted, axis, keepdims=False)
    classes = np.arange(logits.shape[-1]).astype(labels.dtype)
    slope = e / total - smoothing / logits.shape[-1] if smoothing else e / total
    return functions.log(functions.squeeze(total, axis=-1)) - expected, slope - functions.astype(rows == classes, slope.dtype) * (1.0 - smoothing)


def _roll(x: Any, shift: tuple[int, ...], axis: tuple[int, ...]) -> Any:
    for by, place in zip(shift, axis, strict=True):
        cut = -by % x.shape[place]
        before = (slice(None),) * place
        x = functions.concat((x[(*before, slice(cut, None))], x[(*before, slice(None, cut))]), axis=place) if cut else x
    return x


PARTS: dict[Primitive, Callable[..., Any]] = {
    TABLE["mean"]: _mean,
    TABLE["var"]: _var,
    TABLE["std"]: _std,
    TABLE["logsumexp"]: _logsumexp,
    TABLE["softmax"]: _softmax,
    TABLE["log_softmax"]: _log_softmax,
    TABLE["standardize"]: _standardize,
    TABLE["softmax_cross_entropy"]: lambda logits, labels, smoothing: _entropy(logits, labels, smoothing)[0],
    CROSS_ENTROPY_AND_SLOPE: _entropy,
}
"""The rules for float32 and float64: values as the gates themselves compute them. The slope of cross-entropy alone is none of them: it looks no label
up, so that nothing would find one out of range."""

MOVES: dict[Primitive, Callable[..., Any]] = {TABLE["roll"]: _roll}
"""The rules for any elements."""
