"""One run of a graph, looked at from everywhere: each value, the gradient on each wire, local derivatives, a numeric check, times.

Gradients are the system's own: the graph runs on Tensors and one sweep goes back, with an identity in front of every
operand so that each wire of a branch has a gradient of its own. Nothing is differentiated here by other means, but for the
check by central differences, which computes in float64.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chainrule.autodiff.patterns import local_pattern
from chainrule.autodiff.scope import ALIAS, enter
from chainrule.core.errors import ChainruleError, GradientError
from chainrule.core.interp import Tag, transforming
from chainrule.core.primitive import functions
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation
from chainrule.ops.gate import made
from chainrule.tape import bind, reverse
from chainrule.tensor import Tensor, new

CHECKED = 64
"""Tensors of up to so many elements are checked numerically."""
EVALUATIONS = 100_000
"""So many gates in all are evaluated for it."""
ENTRIES = 400
"""Local derivatives of up to so many entries are written down."""

Array = Any
Wire = tuple[int, int]
"""A node's place among the graph's nodes, and an operand's among the node's."""


@dataclass
class Run:
    """What is known after one run forward and backward."""

    graph: Graph
    output: Variable
    value: dict[Variable, Array] = field(default_factory=dict[Variable, Array])
    grad: dict[Variable, Array] = field(default_factory=dict[Variable, Array])
    down: dict[Wire, Array] = field(default_factory=dict[Wire, Array])
    seconds: dict[int, tuple[float, float]] = field(default_factory=dict[int, tuple[float, float]])
    tracked: set[Variable] = field(default_factory=set[Variable])


def run(graph: Graph, inputs: Sequence[Tensor], wanted: Sequence[bool]) -> Run:
    """Run a graph forward and backward.

    Parameters
    ----------
    graph : Graph
        Its first result is a scalar.
    inputs : sequence of Tensor
        For all inputs of the graph.
    wanted : sequence of bool
        Which of them are differentiated.

    Raises
    ------
    GradientError
        If the first result is no real scalar, or depends on no input that is differentiated.
    """
    done = Run(graph, output_of(graph))
    tag = Tag()
    env: dict[Variable, Tensor] = {}
    for x, tensor, wants in zip(graph.inputs, inputs, wanted, strict=True):
        env[x] = enter(tensor.detach(), tag, x.name) if wants else new(tensor._value, None)
    env.update({x: made(value) for x, value in graph.constants.items()})
    uses: dict[Wire, Tensor] = {}
    with transforming(tag.bit), np.errstate(all="ignore"):
        for place, node in enumerate(graph.nodes):
            given = [_wire(env[x], tag.bit) for x in node.inputs]
            uses.update({(place, slot): x for slot, x in enumerate(given) if _reached(x, tag.bit)})
            out = bind(node.primitive, given, node.params)
            env.update(zip(node.outputs, out if node.primitive.outputs else (out,), strict=True))
        end = env[done.output]
        if not _reached(end, tag.bit):
            says = f"{graph.name} depends on no input that is differentiated"
            raise GradientError(says, mend="give it a floating-point input, or name others in wrt=")
        everything: dict[Any, Any] = {**env, **uses}
        nodes = {key: x._node for key, x in everything.items() if _reached(x, tag.bit)}
        found = reverse([end], [functions.ones(end.shape, dtype=end.dtype)], tag.bit, retain=False, wanted=list(nodes.values()))
    kept: dict[Any, dict[Any, Array]] = {True: done.grad, False: done.down}
    for key, node in nodes.items():
        if node in found:
            kept[isinstance(key, Variable)][key] = np.asarray(found[node]._value)
    done.value = {x: np.asarray(tensor._value) for x, tensor in env.items()}
    done.tracked = {key for key in nodes if isinstance(key, Variable)}
    return done


def output_of(graph: Graph) -> Variable:
    """The scalar that is differentiated.

    Raises
    ------
    GradientError
        If the graph's first result is none.
    """
    first = next(iter(graph.returned), None)
    if first is None or first.shape != () or first.dtype.kind != "f":
        what = "no tensor" if first is None else str(first.aval)
        raise GradientError(f"{graph.name} returns {what}, and one real scalar is differentiated", mend="return a loss, such as the sum")
    return first


def _wire(x: Tensor, bit: int) -> Tensor:
    return bind(ALIAS, [x]) if _reached(x, bit) else x


def _reached(x: Tensor, bit: int) -> bool:
    return x._node is not None and bool(x._node.tags & bit)


def numeric(done: Run, names: Sequence[Variable]) -> dict[Variable, Array]:
    """Gradients by central differences, of values small enough, computed ones included; in float64, but where the program says otherwise."""
    base = {x: _wide(value) for x, value in done.value.items()}
    found: dict[Variable, Array] = {}
    left = EVALUATIONS
    for x in names:
        after = _after(done.graph, x)
        left -= 2 * done.value[x].size * max(1, len(after))
        if done.value[x].size > CHECKED or left < 0:
            continue
        slopes = np.zeros(x.shape)
        for index in np.ndindex(x.shape):
            step = 1e-5 * max(1.0, abs(float(base[x][index])))
            moved = [_evaluate(after, base, x, _shifted(base[x], index, change), done.output) for change in (step, -step)]
            slopes[index] = (moved[0] - moved[1]) / (2 * step)
        found[x] = slopes
    return found


def _wide(value: Array) -> Array:
    return value.astype(np.float64) if value.dtype.kind == "f" else value


def _shifted(value: Array, index: tuple[int, ...], change: float) -> Array:
    moved = value.copy()
    with np.errstate(all="ignore"):
        moved[index] += change
    return moved


def _after(graph: Graph, x: Variable) -> list[Operation]:
    """The nodes that depend on a value."""
    known, found = {x}, list[Operation]()
    for node in graph.nodes:
        if x not in node.outputs and not known.isdisjoint(node.inputs):
            known.update(node.outputs)
            found.append(node)
    return found


def _evaluate(nodes: Sequence[Operation], base: Mapping[Variable, Array], x: Variable, value: Array, output: Variable) -> float:
    env: dict[Variable, Array] = {x: value}
    with np.errstate(all="ignore"):
        for node in nodes:
            out = node.primitive.evaluate(*(env[i] if i in env else base[i] for i in node.inputs), **node.params)
            env.update(zip(node.outputs, out if node.primitive.outputs else (out,), strict=True))
    return float(env.get(output, base[output]))


def pull(node: Operation, value: Mapping[Variable, Array], slots: Sequence[int]) -> Callable[[Array], list[Array | None]]:
    """From a cotangent of a gate's only output to those of its operands in ``slots``."""
    tag = Tag()
    given = [enter(made(value[x]), tag, x.name) if slot in slots else made(value[x]) for slot, x in enumerate(node.inputs)]
    with transforming(tag.bit), np.errstate(all="ignore"):
        out = bind(node.primitive, given, node.params)
    ends: list[Any] = [given[slot]._node for slot in slots]

    def back(ct: Array) -> list[Array | None]:
        with np.errstate(all="ignore"):
            found = reverse([out], [made(ct)], tag.bit, retain=True, wanted=ends) if _reached(out, tag.bit) else {}
        return [np.asarray(found[end]._value) if end in found else None for end in ends]

    return back


class Values:
    """Values that are no part of what is differentiated, for the structure of a local derivative."""

    def __init__(self, done: Run) -> None:
        self._done = done

    def value(self, x: Variable) -> Array | None:
        return None if x in self._done.tracked else self._done.value.get(x)


def jacobians(done: Run, place: int, slots: Sequence[int]) -> dict[int, list[list[list[float]]]]:
    """Per operand, for each of its elements, the output elements that it can reach with the derivative; operands with too many have none."""
    node = done.graph.nodes[place]
    if node.primitive.outputs or node.output.size > ENTRIES:
        return {}
    pairs: dict[int, list[tuple[int, int]]] = {}
    for slot in slots:
        if node.inputs[slot].size > ENTRIES:
            continue
        try:
            pattern = local_pattern(node, slot, Values(done))
        except ChainruleError:
            continue
        if pattern is None:
            continue
        rows, cols = pattern
        if pattern.rows.size == 0 and node.output.size == node.inputs[slot].size:
            rows = cols = np.arange(node.output.size)
        found = sorted({(int(k), int(i)) for k, i in zip(rows, cols, strict=True)})
        if len(found) <= ENTRIES:
            pairs[slot] = found
    if not pairs:
        return {}
    back = pull(node, done.value, list(pairs))
    columns: dict[int, list[Array | None]] = {}
    for k in sorted({k for found in pairs.values() for k, _ in found}):
        hot = np.zeros(node.output.size, node.output.dtype)
        hot[k] = 1
        columns[k] = back(hot.reshape(node.output.shape))
    result: dict[int, list[list[list[float]]]] = {}
    for column, (slot, found) in enumerate(pairs.items()):
        table: list[list[list[float]]] = [[] for _ in range(node.inputs[slot].size)]
        for k, i in found:
            share = columns[k][column]
            table[i].append([k, 0.0 if share is None else float(share.flat[i])])
        result[slot] = table
    return result


def microseconds(done: Run, place: int, slots: Sequence[int], repeat: int) -> tuple[float, float]:
    """The best of some runs of a gate on these values, forward and backward."""
    node = done.graph.nodes[place]
    values = [done.value[x] for x in node.inputs]
    with np.errstate(all="ignore"):
        forward = _best(lambda: node.primitive.evaluate(*values, **node.params), repeat)
    if node.primitive.outputs or not slots or node.output not in done.grad:
        return forward, 0.0
    back = pull(node, done.value, slots)
    return forward, _best(lambda: back(done.grad[node.output]), repeat)


def _best(f: Callable[[], Any], repeat: int) -> float:
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        f()
        best = min(best, time.perf_counter() - start)
    return round(best * 1e6, 2)
