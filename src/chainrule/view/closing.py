"""Closing: which gates made a gradient zero or small, and why, asked of their records at the values that they saw.

A gate is tried with a random gradient: what comes out zero then is closed by the gate itself and not by what stands behind it. Whether
that is why the tensor's own gradient is zero is tried as well: the gate is opened, and the gradient carried on. No gate is known here
by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from chainrule.core import chain
from chainrule.core.interp import ARRAYS, using
from chainrule.core.node import Node
from chainrule.graph.ir import Graph
from chainrule.view.causes import Cause, called, gate_name, made, once, words
from chainrule.view.faults import elementwise, range_of, slope
from chainrule.view.paths import Edge, Sweep, norm, shares_of
from chainrule.view.watching import place_of

SATURATED = 1e-4
"""A local derivative below this closes a gate as good as 0 does."""
_CANCELLED = 1e-5
_INSIDE = "it is a whole function: to look inside give explain the function, or compute the loss within cr.detect_anomaly()"
_MOST = 5
_TRIED = 12
_STEEPEST = 3
_COUNTS = 0.1
"""Gates whose part in the size is smaller than this part of the first one's are not told."""
_NEARLY_ALL = 0.9

_OPEN = "keep its inputs where it has a slope (normalise them, smaller weights or learning rate, another bias), or use a gate that has one everywhere"
_MENDS = {
    "flat": f"{_OPEN}: cr.leaky_relu, cr.gelu",
    "in steps": "use something smooth, or let the gradient go past it: x + (f(x) - x).detach()",
    "saturated": f"{_OPEN}; for probabilities let the loss take the values before the gate (cr.sigmoid_cross_entropy, cr.softmax_cross_entropy)",
    "stationary": "a step away from there it has a slope: begin at other values, or add a little noise",
    "not taken": "it is right if that input should not count there; if it should, look at what chooses",
    "times zero": "give the other factor a value that is not 0: weights that all begin at 0, or a mask, keep everything in front of them at 0",
    "not read": "it is right if these elements should not count; if they should, look at the index or the slice",
    "closed": "look at its derivative rule and at what goes in: by that its value does not depend on these elements",
    "not chosen": "it is right for an extreme; a mean, or cr.logsumexp, gives every element a share",
    "cancelled": "the loss does not change in this direction: drop one of the terms, or look at their signs",
    "vanishing": "larger initial weights, a normalisation between layers, or a way around them (residual connections)",
    "exploding": "smaller initial weights or inputs, a normalisation between layers, or a limit on the gradient (clip_norm)",
}


def closing(sweep: Sweep, target: Node) -> list[Cause]:
    """What closed the elements of the target's gradient that are zero or next to it, the most important first.

    A gate answers for an element if that stays closed while all other gates are open, or else if opening it alone opens that.
    """
    on_path = sweep.leading_to(target)
    gradient = np.asarray(sweep.cts[target])
    zero = gradient == 0 if (gradient == 0).any() else np.ones_like(gradient, dtype=bool)
    found = [closed for edge in sweep.edges if edge.source in on_path and edge.user in on_path and (closed := _closed(sweep, edge)) is not None]
    found = sorted(found, key=lambda closed: -closed.inner.sum())[:_TRIED]
    masks = {closed.key: closed.inner for closed in found}
    # Open gates carry about 1: what is next to nothing beside that counts as nothing.
    wide = _arriving(sweep, target, masks)
    least = SATURATED * float(wide.max(initial=0.0))
    open_to = zero & (wide > least)
    answers = [open_to & (_arriving(sweep, target, {key: m for key, m in masks.items() if key != closed.key}) <= least) for closed in found]
    rest = open_to & ~np.any(answers, axis=0) if found else open_to
    if rest.any():
        # Closed on several ways side by side: each gate would open it alone.
        answers = [
            mask | (rest & (_arriving(sweep, target, {closed.key: closed.inner}) > least)) for closed, mask in zip(found, answers, strict=True)
        ]
    # What stands still at 0 does so because something else made that 0.
    firm = [mask for closed, mask in zip(found, answers, strict=True) if closed.kind != "stationary"]
    taken = np.any(firm, axis=0) if firm else np.zeros_like(zero)
    kept = [(c, mask) for c, mask in zip(found, answers, strict=True) if (mask if c.kind != "stationary" else mask & ~taken).any()]
    kept.sort(key=lambda pair: (-int(pair[1].sum()), -pair[0].edge.source.order))
    # x * x closes both ways to x.
    first = {(closed.edge.user, closed.edge.source): (closed, mask) for closed, mask in reversed(kept)}
    told = [_told(closed, int(mask.sum())) for closed, mask in kept if first[closed.edge.user, closed.edge.source][0] is closed]
    return once(told or _unused(sweep, on_path) or [_told(closed, 0) for closed in found])[:_MOST]


def narrow(sweep: Sweep, target: Node) -> list[Cause]:
    """Gates without a slope at nearly all elements, though what passes by the others reaches the target."""
    on_path = sweep.leading_to(target)
    found = [closed for edge in sweep.edges if edge.source in on_path and edge.user in on_path and (closed := _closed(sweep, edge)) is not None]
    told = [closed for closed in found if closed.kind in ("flat", "saturated") and closed.inner.mean() >= _NEARLY_ALL]
    return once([_told(closed, 0) for closed in told])[:_MOST]


def _told(closed: _Closed, elements: int) -> Cause:
    user = closed.edge.user
    return made(user, closed.says, closed.kind, _INSIDE if _holds(user) else _MENDS[closed.kind], elements)


def _holds(node: Node) -> bool:
    """Whether a gate is a whole function."""
    return any(isinstance(v, Graph) for v in node.params.values())


def _unused(sweep: Sweep, on_path: set[Node]) -> list[Cause]:
    """Gates of several results, of which the loss uses some: what only the others read gets nothing."""
    found: dict[Node, Cause] = {}
    for edge in sweep.edges:
        parts = edge.ct
        if edge.source in on_path and isinstance(parts, chain.Parts) and len(parts.parts) < parts.count:
            raw = _tried(sweep, edge, _like(parts, 0.5))
            if raw is not None and (raw == 0).any():
                says = f"only {len(parts.parts)} of the {parts.count} results of {called(edge.user)} are used for the loss"
                found[edge.user] = made(edge.user, says, "not used", _MENDS["not read"])
    return list(found.values())


def _arriving(sweep: Sweep, target: Node, opened: Mapping[tuple[Node, int], Any]) -> Any:
    """The absolute gradient that arrives at the target if some gates are opened."""
    cts, _ = sweep.carry({sweep.root: sweep.cts[sweep.root]}, opened=opened, within=sweep.leading_to(target))
    return np.abs(np.asarray(cts.get(target, 0.0)))


class _Closed(NamedTuple):
    """Which elements of an input a gate closes, in what way, and in words."""

    edge: Edge
    inner: Any
    kind: str
    says: str

    @property
    def key(self) -> tuple[Node, int]:
        return self.edge.user, self.edge.position


def _closed(sweep: Sweep, edge: Edge) -> _Closed | None:
    """None if a gate closes nothing by itself; found out once for all tensors."""
    key = edge.user, edge.position
    if key not in sweep.memory:
        sweep.memory[key] = _found_closed(sweep, edge)
    return sweep.memory[key]


def _found_closed(sweep: Sweep, edge: Edge) -> _Closed | None:
    gate, ct = edge.user.primitive, edge.ct
    assert gate is not None
    if gate is chain.ITEM:
        return None
    probe = _like(ct, 0.5)
    raw = _tried(sweep, edge, probe)
    if raw is None or not np.isfinite(raw).all():
        return None
    by_element = elementwise(gate) and raw.shape == np.shape(probe)
    small = np.abs(raw) <= SATURATED * probe if by_element else raw == 0
    if not small.any():
        return None
    if isinstance(ct, chain.Parts) and len(ct.parts) < ct.count and not _holds(edge.user):
        # That the loss does not use all results says more.
        return None
    inner = small if raw.shape == edge.source.shape else _all_of(small, edge.source.shape)
    largest = float(np.max(np.abs(raw[small] / probe[small]))) if by_element else 0.0
    kind = _kind(sweep, edge, small, largest, by_element=by_element)
    says = f"{called(edge.user)} {_PHRASES[kind]} at {_share(small)}" + _numbers(sweep, edge, small, kind, largest, by_element=by_element)
    return _Closed(edge, inner, kind, says)


_PHRASES = {
    "flat": "passes nothing on",
    "in steps": "moves in steps, which have no slope,",
    "saturated": "is saturated",
    "not taken": "does not take this input",
    "stationary": "stands still",
    "times zero": "multiplies by zero",
    "not read": "never reads its input",
    "closed": "passes nothing on, whatever arrives,",
    "not chosen": "chose other elements than those",
}


def _kind(sweep: Sweep, edge: Edge, small: Any, largest: float, *, by_element: bool) -> str:
    gate = edge.user.primitive
    assert gate is not None
    if by_element:
        if gate.masks:
            return "not taken"
        rule = None if gate.partials is None else gate.partials[edge.position]
        if gate.multilinear or (isinstance(rule, str) and rule != "out"):
            return "times zero"
        if rule is None and not largest:
            return "flat"
        if isinstance(rule, (int, float)) and not rule:
            return "in steps"
        return "stationary" if _sloped_nearby(sweep, edge, small) else "saturated"
    if gate.multilinear or gate.transpose is not None:
        return "times zero" if gate.multilinear else "not read"
    known = sweep.inputs_of(edge.user)
    value, out = known[edge.position], known[-1]
    chooses = value is not None and out is not None and not gate.outputs and not small.all() and bool(np.isin(out, value).all())
    return "not chosen" if chooses and _moves_along(edge.user, value, out) else "closed"


def _moves_along(node: Node, value: Any, out: Any) -> bool:
    """Whether a gate of one input gives 1 more where that is 1 more everywhere, as what chooses among its elements does."""
    assert node.primitive is not None
    if len(node.inputs) != 1 or node.primitive.variadic:
        return True
    with np.errstate(all="ignore"):
        return bool(np.allclose(node.primitive.evaluate(value + 1, **node.params), out + 1, rtol=1e-3, atol=1e-3))


def _sloped_nearby(sweep: Sweep, edge: Edge, small: Any) -> bool:
    """Whether an elementwise gate has a slope a step away from the first element that it closed."""
    gate, known = edge.user.primitive, sweep.inputs_of(edge.user)
    assert gate is not None
    if gate.variadic or any(v is None for v in known[:-1]):
        return False
    place = np.unravel_index(int(np.argmax(small)), small.shape) if small.ndim else ()
    numbers = {name: float(np.broadcast_to(v, small.shape)[place]) for name, v in zip(gate.inputs, known, strict=False)}
    name = gate.inputs[edge.position]
    numbers[name] += 0.01 * max(1.0, abs(numbers[name]))
    return abs(slope(gate, edge.position, numbers, edge.user.params, known)) > SATURATED


def _numbers(sweep: Sweep, edge: Edge, small: Any, kind: str, largest: float, *, by_element: bool) -> str:
    """What a gate's inputs were at the elements that it closed."""
    if not by_element:
        return _zeros_beside(sweep, edge) if kind == "times zero" else ""
    gate = edge.user.primitive
    assert gate is not None
    told: list[str] = []
    if kind in ("flat", "in steps", "saturated", "stationary"):
        told.append(f"its local derivative there is {'0' if not largest else f'at most {largest:.2g}'}")
    known = sweep.inputs_of(edge.user)
    names = [*words(edge.user), "its result"]
    chosen = any(v is not None and np.asarray(v).dtype.kind == "b" for v in known)
    given = known[:-1] if any(v is not None for v in known[:-1]) else known
    for position, (name, value) in enumerate(zip(names, given, strict=False)):
        if value is None or (kind == "times zero" and position == edge.position):
            continue
        there = np.broadcast_to(value, small.shape)[small]
        if there.dtype.kind == "b" and (there == there[0]).all():
            told.append(f"{name} is {bool(there[0])}")
        elif there.dtype.kind in "fiu" and not np.isfinite(there).all():
            told.append(f"{name} is not finite there" + (", and its gradient carried on as 0" if position == edge.position else ""))
        elif there.dtype.kind in "fiu" and not (kind == "not taken" and chosen):
            told.append(f"{name} is {range_of(there)}")
    return f": {', '.join(told)}" if told else ""


def _zeros_beside(sweep: Sweep, edge: Edge) -> str:
    """Where the other factors of a product are 0."""
    told: list[str] = []
    for position, (node, value) in enumerate(zip(edge.user.inputs, sweep.inputs_of(edge.user), strict=False)):
        zero = np.zeros(()) if value is None else np.asarray(value) == 0
        if position != edge.position and zero.any():
            name = "the other factor" if node is None or not gate_name(node) else called(node)
            told.append(f"{place_of(node).name or name} is 0 at {_share(zero)}")
    return f": {', '.join(told)}" if told else ""


def _like(ct: Any, least: float) -> Any:
    """A random gradient of a form, from ``least`` to 1.5."""
    if isinstance(ct, chain.Parts):
        return chain.Parts({index: _like(part, least) for index, part in ct.parts.items()}, ct.count)
    array = np.asarray(ct)
    return np.random.default_rng(0).uniform(least, 1.5, array.shape).astype(array.dtype)[()]


def _tried(sweep: Sweep, edge: Edge, ct: Any) -> Any:
    """What a gate hands on to an input of another gradient."""
    node = edge.user
    for position, _, raw in shares_of(node, ct, node.saved or (), behind=node in sweep.behind):
        if position == edge.position and hasattr(raw, "shape") and raw.shape is not None:
            return np.asarray(raw)
    return None


def _all_of(small: Any, shape: tuple[int, ...]) -> Any:
    """Where all that was summed to one element is closed."""
    with using(ARRAYS):
        return np.asarray(chain.unbroadcast((~small).astype(np.float32), shape)) == 0


def _share(where: Any) -> str:
    """``124 of 128 elements, which are 31 of 32 rows``."""
    count, size = int(where.sum()), where.size
    if where.ndim == 0:
        return "its only element"
    if count == size:
        return f"all {size} elements"
    text = f"{count} of {size} elements"
    if where.ndim > 1:
        for axis, word in ((0, "rows"), (where.ndim - 1, "columns")):
            whole = np.moveaxis(where, axis, 0).reshape(where.shape[axis], -1).all(axis=1)
            if whole.any():
                text += f", all of {int(whole.sum())} of {whole.size} {word}"
    return text


def cancelling(sweep: Sweep, target: Node) -> list[Cause]:
    """Where shares that are not zero add up to nothing, along several paths or inside of one gate."""
    on_path = sweep.leading_to(target)
    found: list[Cause] = []
    for node in (node for node in reversed(sweep.nodes) if node in on_path):
        edges = [edge for edge in sweep.users.get(node, []) if not isinstance(edge.share, chain.Parts)]
        total = sweep.cts.get(node)
        if len(edges) > 1 and total is not None and not isinstance(total, chain.Parts):
            parts = sum(np.abs(np.asarray(edge.share)) for edge in edges)
            gone = (np.abs(np.asarray(total)) <= _CANCELLED * parts) & (parts > 0)
            if gone.any():
                found.append(_sum_of_paths(node, edges, gone, target))
        for edge in edges:
            if _cancels_inside(sweep, edge):
                says = f"the terms of {called(edge.user)}'s derivative cancel: its value does not change in the direction of this gradient"
                found.append(made(edge.user, says, "cancelled", _MENDS["cancelled"]))
    return found[:_MOST]


def _sum_of_paths(node: Node, edges: Sequence[Edge], gone: Any, target: Node) -> Cause:
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(gone)), gone.shape)) if gone.ndim else ()
    terms = ", ".join(f"{float(np.asarray(edge.share)[place]):+.4g} by way of {called(edge.user)}" for edge in edges)
    where = f" at [{', '.join(map(str, place))}]" if place else ""
    what = "its uses" if node is target else f"the uses of {place_of(node).name or called(node)}"
    says = f"the gradients of {what} cancel at {_share(gone)}; for example{where}: {terms}"
    return made(edges[0].user, says, "cancelled", _MENDS["cancelled"], int(gone.sum()) if node is target else 0)


def _cancels_inside(sweep: Sweep, edge: Edge) -> bool:
    gate, ct = edge.user.primitive, edge.ct
    if gate is None or gate is chain.ITEM or elementwise(gate) or not norm(ct) or (not isinstance(ct, chain.Parts) and np.size(ct) < 2):
        return False
    probe = _like(ct, -1.5)
    raw = _tried(sweep, edge, probe)
    if raw is None:
        return False
    return norm(edge.raw) <= _CANCELLED * norm(ct) * norm(raw) / norm(probe)


# Size.


def steepest(sweep: Sweep, path: Sequence[Edge], *, smallest: bool) -> list[Cause]:
    """The gates on a path that shrink the gradient most, or stretch it; the steps of a loop together."""
    alike: dict[Cause, list[tuple[float, Edge]]] = {}
    for edge in path:
        before = norm(edge.ct)
        ratio = norm(edge.share) / before if before else 1.0
        if ratio < 0.5 if smallest else ratio > 2.0:
            alike.setdefault(made(edge.user, "", "", ""), []).append((ratio, edge))
    parts = [(sum(abs(np.log(ratio)) for ratio, _ in group), group) for group in alike.values()]
    least = _COUNTS * max((part for part, _ in parts), default=0.0)
    ranked = sorted((pair for pair in parts if pair[0] >= least), key=lambda pair: -pair[0])
    return [_steep(sweep, group, smallest=smallest) for _, group in ranked[:_STEEPEST]]


def _steep(sweep: Sweep, group: Sequence[tuple[float, Edge]], *, smallest: bool) -> Cause:
    ratio, edge = (min if smallest else max)(group, key=lambda one: one[0])
    node = edge.user
    word, kind = ("shrinks", "vanishing") if smallest else ("stretches", "exploding")
    says = f"{called(node)} {word} the gradient to {ratio:.3g} times its norm"
    if node.primitive is not None and node.primitive.multilinear:
        others = [v for i, v in enumerate(sweep.inputs_of(node)[:-1]) if i != edge.position and v is not None]
        says += f": its other factor has the norm {norm(others[0]):.3g}" if len(others) == 1 else ""
    if len(group) > 1:
        with np.errstate(all="ignore"):
            says += f" ({len(group) - 1} more like it, together {np.prod([one[0] for one in group]):.3g} times)"
    return made(node, says, kind, _MENDS[kind])
