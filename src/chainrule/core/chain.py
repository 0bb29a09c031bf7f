"""The chain rule: one reverse sweep over the tape, and one forward step through a gate.

The sweep is generic over what a value is. Under the arrays' interpreter, cotangents are bare arrays
and nothing is recorded; in the everyday mode they are Tensors and the sweep itself can be differentiated;
under a tracer it writes the gradient's graph. It takes always the latest node that has
received a cotangent: everything that uses a node is younger than it, so by then its cotangent is complete.
There is no recursion, and nothing is visited to which no cotangent flows.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any

import numpy as np

from chainrule.core.aval import Aval, Shape
from chainrule.core.errors import GradientError, ShapeError
from chainrule.core.interp import current
from chainrule.core.node import Node
from chainrule.core.primitive import Primitive, call, functions


class Parts:
    """The cotangent of a gate with several outputs: those parts that have received one."""

    __slots__ = ("count", "parts")

    shape = None

    def __init__(self, parts: dict[int, Any], count: int) -> None:
        self.parts = parts
        self.count = count

    def __add__(self, other: Parts) -> Parts:
        # In place: the sweep alone holds the left operand, and a gate with many outputs adds many times.
        parts = self.parts
        for index, ct in other.parts.items():
            parts[index] = parts[index] + ct if index in parts else ct
        return self

    def complete(self) -> tuple[Any, ...]:
        return tuple(self.parts.get(index) for index in range(self.count))


ITEM = Primitive(
    name="item",
    inputs=("parts",),
    aval=lambda parts, index, count: parts[index],
    eval=lambda parts, index, count: parts[index],
    batch=lambda primitive, batched, inputs, params: inputs[0][params["index"]],
    vjp=(lambda ct, index, count: Parts({index: ct}, count),),
    jvp=lambda t, index, count: t[index],
)
"""One output of a gate that has several; it is part of the tape, not of the table."""

# Values are arrays, Tensors or traced names: whatever the interpreter in force works on.
Value = Any
Wrap = Callable[[Value, Node | None], Value]
Arrive = Callable[[Node, Value], Value]


def sweep(
    seeds: Iterable[tuple[Node, Value]],
    tag: int,
    *,
    wrap: Wrap | None,
    retain: bool,
    arrive: Arrive,
    wanted: Mapping[Node, Any] | None = None,
    needed: Container[Node] | None = None,
    label: Callable[[Node | None, Value], None] | None = None,
) -> dict[Node, Value]:
    """Carry cotangents from outputs back to everything tagged that they depend on.

    Parameters
    ----------
    seeds : iterable of (Node, value)
        Outputs and their cotangents.
    tag : int
        Only nodes that carry this tag are entered.
    wrap : callable or None
        Gives a saved value its history back, so that the sweep can be differentiated; None leaves
        bare arrays.
    retain : bool
        Whether saved values stay for another sweep.
    arrive : callable
        ``arrive(node, ct)`` is told the complete cotangent of every node with a cell and returns
        what to carry on with.
    wanted : mapping of Node, optional
        Nodes whose cotangents are returned; the sweep does not go beyond a node that is wanted and a leaf.
    needed : container of Node, optional
        Only these nodes are entered, if given.
    label : callable, optional
        ``label(node, ct)`` is told every complete cotangent, before it is carried on, and None at the end: a tracer names it.

    Returns
    -------
    dict
        Cotangents of the wanted nodes that received one: absent is not zero.
    """
    found: dict[Node, Value] = {}
    pending: dict[int, tuple[Node, Value]] = {}
    masked: set[int] = set()
    sums: set[int] = set()
    bare = wrap is None
    heap: list[int] = []
    for node, ct in seeds:
        if node.tags & tag:
            key = -node.order
            if key in pending:
                ct = pending[key][1] + ct
            else:
                heappush(heap, key)
            pending[key] = (node, ct)
    while heap:
        key = heappop(heap)
        node, ct = pending.pop(key)
        if node.cell is not None:
            ct = arrive(node, ct)
        if wanted is not None and node in wanted:
            found[node] = ct
        if label is not None:
            label(node, ct)
        primitive = node.primitive
        if primitive is None:
            continue
        saved = node.saved
        if saved is None:
            raise GradientError(
                f"the graph of {primitive.name} was freed by an earlier backward pass",
                mend="pass retain_graph=True to the first backward, or compute the output again",
            )
        if saved:
            if not retain:
                node.saved = None
            if wrap is not None:
                saved = _wrap_saved(node, saved, wrap)
        inputs = node.inputs
        pulls = primitive.pulls
        if primitive.special or key in masked:
            behind = primitive.masks or key in masked
            if behind:
                masked.update(-source.order for source in inputs if source is not None)
            ct, pulls = special_pulls(node, ct, saved, tag, needed, behind=behind)
        for source, pull in zip(inputs, pulls):
            if source is None or pull is None or not source.tags & tag or (needed is not None and source not in needed):
                continue
            share = pull(ct, saved, node, source)
            if share is None:
                continue
            if share.shape != source.shape:
                share = unbroadcast(share, source.shape)
            at = -source.order
            if at not in pending:
                pending[at] = (source, share)
                heappush(heap, at)
                continue
            so_far = pending[at][1]
            if at in sums:
                so_far += share
                continue
            total = so_far + share
            pending[at] = (source, total)
            # A sum that this sweep has made is its own to add to; values from elsewhere are not.
            if bare and total.__class__ is np.ndarray:
                sums.add(at)
    if label is not None:
        label(None, None)
    return found


def special_pulls(
    node: Node, ct: Value, saved: tuple[Any, ...], tag: int, needed: Container[Node] | None, *, behind: bool
) -> tuple[Value, tuple[Any, ...]]:
    """The cotangent as a gate's rules take it, and one rule per input, for gates of several outputs or one rule, and ``behind`` masks."""
    primitive = node.primitive
    assert primitive is not None
    if primitive.outputs:
        ct = ct.complete()
    pulls = primitive.masked_pulls if behind else primitive.pulls
    if not isinstance(pulls, tuple):
        pulls = _pulls_of_all(pulls, ct, saved, node, tag, needed)
    if behind and saved and primitive.partials is None and primitive.masked_vjp is None:
        pulls = tuple(map(_unspoilt, pulls))
    return ct, pulls


def leading_to(targets: Iterable[Node], outputs: Iterable[Node], tag: int) -> set[Node]:
    """Nodes on a tagged path from any of ``targets`` to any of ``outputs``, both included."""
    ends = set(targets)
    first = min((node.order for node in ends), default=0)
    seen: dict[int, Node] = {}
    stack = list(outputs)
    while stack:
        node = stack.pop()
        if node.order not in seen and node.order >= first and node.tags & tag:
            seen[node.order] = node
            stack.extend(source for source in node.inputs if source is not None)
    found = ends & set(seen.values())
    for order in sorted(seen):
        node = seen[order]
        if any(source in found for source in node.inputs):
            found.add(node)
    return found


def unbroadcast(ct: Value, shape: Shape) -> Value:
    """Sum a cotangent over the axes along which its input was repeated by broadcasting."""
    extra = len(ct.shape) - len(shape)
    kept = ct.shape[extra:] if extra >= 0 else None
    if kept is None or any(have != want != 1 for have, want in zip(kept, shape, strict=True)):
        raise ShapeError(f"a cotangent of shape {ct.shape} cannot belong to an input of shape {shape}")
    axes = (*range(extra), *(extra + i for i, (have, want) in enumerate(zip(kept, shape, strict=True)) if have != want))
    ct = functions.sum(ct, axis=axes, keepdims=True)
    return functions.reshape(ct, shape) if extra else ct


def push(
    primitive: Primitive, tangents: Sequence[Value | None], inputs: Sequence[Value], out: Value, params: Mapping[str, Any], bind: Callable[..., Value]
) -> Value:
    """The tangent of a gate's output from those of its inputs; None where no tangent reaches it."""
    present = [i for i, t in enumerate(tangents) if t is not None]
    if not present:
        return None
    if primitive.partials is not None:
        terms = [_push_partial(primitive, i, tangents[i], inputs, out, params) for i in present]
        return _fit(_total(terms), out)
    if primitive.jvp is not None:
        given = {**_frame(primitive, inputs), **params, "out": out}
        if not isinstance(primitive.jvp, tuple):
            return call(primitive.jvp, {**given, "t": tangents[0] if len(primitive.inputs) == 1 and not primitive.variadic else tuple(tangents)})
        rules = [(primitive.jvp[i], tangents[i]) for i in present]
        return _total([call(rule, {**given, "t": t}) for rule, t in rules if rule is not None])
    if primitive.multilinear:
        return _total([bind(primitive, (*inputs[:i], tangents[i], *inputs[i + 1 :]), params) for i in present])
    if primitive.transpose is not None:
        rules = primitive.transpose if isinstance(primitive.transpose, tuple) else (primitive.transpose,) * len(inputs)
        moved = [
            _zero_for(x) if t is None and rule is not None else t if rule is not None else x
            for x, t, rule in zip(inputs, tangents, rules, strict=True)
        ]
        return bind(primitive, tuple(moved), params)
    return None


def _push_partial(primitive: Primitive, i: int, t: Value, inputs: Sequence[Value], out: Value, params: Mapping[str, Any]) -> Value:
    assert primitive.partials is not None
    partial = primitive.partials[i]
    given = {**_frame(primitive, inputs), **params, "out": out}
    if isinstance(partial, str):
        return t * given[partial]
    if callable(partial):
        return t * call(partial, given)
    if partial == 0:
        return functions.zeros_like(out)
    return t if partial == 1 else -t if partial == -1 else t * partial


def _frame(primitive: Primitive, inputs: Sequence[Value]) -> dict[str, Value]:
    if primitive.variadic:
        return {primitive.inputs[0].lstrip("*"): tuple(inputs)}
    return dict(zip(primitive.inputs, inputs, strict=True))


def _total(terms: Sequence[Value]) -> Value:
    total = None
    for term in terms:
        total = term if total is None else total + term
    return total


def _fit(t: Value, out: Value) -> Value:
    return t if t is None or t.shape == out.shape else functions.broadcast_to(t, out.shape)


def _zero_for(x: Value) -> Value:
    return functions.zeros_like(x)


def _wrap_saved(node: Node, saved: tuple[Any, ...], wrap: Wrap) -> tuple[Any, ...]:
    assert node.primitive is not None
    if node.primitive.variadic:
        together, out = saved
        if together is not None:
            together = tuple(wrap(value, source) for value, source in zip(together, node.inputs, strict=True))
        return together, wrap(out, node)
    return (*(wrap(value, source) for value, source in zip(saved, node.inputs, strict=False)), wrap(saved[-1], node))


def _pulls_of_all(pull: Any, ct: Value, saved: tuple[Any, ...], node: Node, tag: int, needed: Container[Node] | None) -> tuple[Any, ...]:
    """One rule for all inputs, dealt out as one trivial rule per input."""
    if pull is None:
        return ()
    wants = tuple(
        Aval(source.shape, source.dtype) if source is not None and source.tags & tag and (needed is None or source in needed) else None
        for source in node.inputs
    )
    shares: list[tuple[Any, Sequence[Value | None]]] = []

    def share_of(i: int, ct: Value, saved: tuple[Any, ...], node: Node) -> Value:
        if not shares or shares[0][0] is not saved:
            shares[:] = [(saved, pull(ct, saved, node, wants))]
        return shares[0][1][i]

    return tuple((lambda ct, saved, node, to, i=i: share_of(i, ct, saved, node)) for i in range(len(wants)))


def _unspoilt(pull: Any) -> Any:
    """A rule behind a `where`: infinities and NaN of what was not taken do not reach other elements.

    Zero cotangents make such values drop out of the linear map, but for 0 times infinity. What the result
    does not depend on may be replaced by any number, so it is computed with two of them: where both agree, the
    undefined value was multiplied by zero.
    """
    if pull is None:
        return None

    def apply(ct: Value, saved: tuple[Any, ...], node: Node, to: Any) -> Value:
        share = pull(ct, saved, node, to)
        if share is None or share.shape is None:
            return share
        if current().tracer is None:
            return share if bool(functions.all(functions.isfinite(share))) else mended(share, ct, saved, node, to)
        if node.primitive is None or node.primitive.cost is None:
            return mended(share, ct, saved, node, to)
        # Products of matrices are not computed three times where nothing is undefined.
        fine = functions.all(functions.isfinite(share))
        return functions.cond(fine, lambda: share, lambda: mended(share, ct, saved, node, to))

    def mended(share: Value, ct: Value, saved: tuple[Any, ...], node: Node, to: Any) -> Value:
        first, second = (pull(ct, tuple(_finite(value, fill) for value in saved), node, to) for fill in (0.0, 1.0))
        return functions.where(functions.isfinite(share) | (first != second), share, first)

    return apply


def _finite(value: Any, fill: float) -> Any:
    """A saved value with ``fill`` in place of what is not finite."""
    if isinstance(value, tuple):
        return tuple(_finite(part, fill) for part in value)
    if value is None or getattr(getattr(value, "dtype", None), "kind", "") != "f":
        return value
    return functions.where(functions.isfinite(value), value, fill)
