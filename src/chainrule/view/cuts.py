"""Cuts: why no gradient arrives at all, as far as the tape can tell, and exactly where a function can be traced.

What is detached, made under `no_grad` or read as numbers leaves no trace on a tape; in the graph of the function it does.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from chainrule.core.interp import BASE
from chainrule.core.primitive import Primitive
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation, State
from chainrule.graph.text import inner_graphs
from chainrule.tensor import Tensor
from chainrule.view.causes import Cause
from chainrule.view.watching import Place

SEEN = "; pass the function, cr.explain(f, *examples, of=...), to find the line"
FREED = Cause(
    "the tape was freed by an earlier backward pass",
    "freed",
    mend="call backward(retain_graph=True) first, explain before backward, or compute the loss again",
)


def of_tensors(loss: Tensor, x: Tensor) -> Cause | None:
    """Why a tensor gets no gradient from a loss, by what the two say of themselves; None if both are tracked, and the tape decides."""
    if x.dtype.kind != "f":
        says = f"it is of dtype {x.dtype}: only real floating-point tensors have gradients"
        return Cause(says, "dtype", mend="convert it before it is used: x.astype(cr.float32)")
    if x._node is None or not x._node.tags & BASE:
        says = "it does not require a gradient: requires_grad is not set, or it was detached, made under no_grad, or made anew of numbers"
        return Cause(says, "requires_grad", mend=f"set requires_grad=True on it, or on what it is computed from, before computing the loss{SEEN}")
    if loss.dtype.kind != "f":
        return Cause(f"the loss is of dtype {loss.dtype}, which has no gradient", "dtype", mend="use a loss of floating-point numbers")
    if loss._node is None or not loss._node.tags & BASE:
        says = "the loss has no history: computed under no_grad, detached, made anew of numbers, or of nothing that requires a gradient"
        return Cause(says, "cut", mend=f"compute it outside of no_grad, and without detach or NumPy{SEEN}")
    return None


_UNREACHED = (
    "no path of the tape leads from the loss to it: it was not used for the loss, or it was cut on the way by detach, no_grad, a cast to"
    " integers, or numbers read by NumPy; the tape keeps none of these"
)
UNCONNECTED = Cause(_UNREACHED, "cut", mend=f"use it in the loss, without detach or NumPy on the way{SEEN}")


def in_graph(graph: Graph, x: Tensor | str) -> list[Cause]:
    """Where a graph cuts the way from a value, by name or as a tensor from outside, to its first result."""
    start = _variable(graph, x)
    if start is None:
        says = "the function does not use it: what it uses may be a copy made outside (detach, NumPy), or another tensor"
        return [Cause(says, "not used", mend="use the tensor itself in the function, or pass it as an argument")]
    loss = graph.returned[0]
    after, cut, nested = _followed(graph, {start})
    if loss not in after:
        last = next((node for node in reversed(graph.nodes) if after.intersection(node.inputs)), None)
        says = "it is not used for the loss" + ("" if last is None else f": its last use is {_call(last)}, which does not lead there")
        return [_at(last, says, "not used", "use it, or what comes of it, in the loss")]
    leads = _leading(graph, [loss])
    found, inside = [node for node in cut if leads.intersection(node.outputs)], [one for one in nested if leads.intersection(one[0].outputs)]
    while inside:
        _, inner, given = inside.pop()
        _, cut, nested = _followed(inner, given)
        leads = _leading(inner, inner.outputs)
        found += [node for node in cut if leads.intersection(node.outputs)]
        inside += [one for one in nested if leads.intersection(one[0].outputs)]
    # What was cut on purpose says more than what only chooses.
    return [_cut(node) for node in sorted(found, key=lambda node: node.outputs[0].dtype.kind != "f")]


_Nested = tuple[Operation, Graph, set[Variable]]


def _followed(graph: Graph, starts: set[Variable]) -> tuple[set[Variable], list[Operation], list[_Nested]]:
    """All that comes of some values, the nodes that cut the way, and the graphs in the nodes that do not, with what goes into those."""
    after, live = set(starts), set(starts)
    cut: list[Operation] = []
    nested: list[_Nested] = []
    for node in graph.nodes:
        given = [i for i, v in enumerate(node.inputs) if v in after]
        if not given:
            continue
        after.update(node.outputs)
        carried = any(node.inputs[i] in live and _carries(node.primitive, i) for i in given)
        fresh = {v for v in node.outputs if v.dtype.kind == "f"} if carried else set[Variable]()
        live |= fresh
        if fresh:
            inner = [one for _, one in inner_graphs(node) if any(v.dtype.kind == "f" for v in one.outputs)]
            # An inner graph's inputs are its node's last ones.
            nested += [(node, one, {v for v, x in zip(one.inputs[::-1], node.inputs[::-1], strict=False) if x in live}) for one in inner]
        elif any(node.inputs[i] in live for i in given):
            cut.append(node)
    return after, cut, nested


def _carries(primitive: Primitive, position: int) -> bool:
    pulls = primitive.pulls
    if not isinstance(pulls, tuple):
        return pulls is not None
    return bool(pulls) and (primitive.variadic or pulls[min(position, len(pulls) - 1)] is not None)


def _leading(graph: Graph, ends: Iterable[Variable]) -> set[Variable]:
    found = set(ends)
    for node in reversed(graph.nodes):
        if found.intersection(node.outputs):
            found.update(node.inputs)
    return found


def _cut(node: Operation) -> Cause:
    code = Place("", "", node.line).code
    (out, *_) = node.outputs
    if out.dtype.kind != "f":
        says = f"{_call(node)} makes {out.aval}: what is of dtype {out.dtype} carries no gradient"
        return _at(
            node,
            says,
            "dtype",
            "stay in floating-point numbers; where it chooses, choose smoothly (cr.softmax for argmax, cr.sigmoid for a comparison)",
        )
    if node.primitive.pulls == () and len(node.inputs) == 1 and _passes(node):
        spelt = next((word for word in ("detach", "stop_gradient") if word in code), "")
        if spelt:
            return _at(node, f"{spelt} cuts the way here", "detach", f"leave {spelt} out, if the gradient is wanted")
        return _at(node, "what is computed here is computed under no_grad", "no_grad", "compute it outside of cr.no_grad()")
    return _at(node, f"{_call(node)} has no derivative by this input", "no derivative", "use a gate that has one")


def _passes(node: Operation) -> bool:
    """Whether a gate gives its input as it is, and so cuts only."""
    probe = np.ones(())
    return not node.params and node.primitive.evaluate(probe) is probe


def _at(node: Operation | None, says: str, kind: str, mend: str) -> Cause:
    if node is None:
        return Cause(says, kind, mend=mend)
    return Cause(says, kind, node.primitive.name, _name(node), ".".join(node.scope), Place("", "", node.line).code, mend=mend)


def _call(node: Operation) -> str:
    name = _name(node)
    return f"{name} = {node.primitive.name}(...)" if name else f"{node.primitive.name}(...)"


def _name(node: Operation) -> str:
    name = node.outputs[0].name
    return "" if name.startswith("t") and name[1:].isdigit() else name


def _variable(graph: Graph, x: Tensor | str) -> Variable | None:
    if isinstance(x, str):
        variables = (*graph.inputs, *(v for node in graph.nodes for v in node.outputs))
        return next((v for v in variables if v.name == x), None)
    sources = zip(graph.captured, graph.inputs[len(graph.parameters) :], strict=True)
    return next((v for source, v in sources if isinstance(source, State) and source.tensor is x), None)
