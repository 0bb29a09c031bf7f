"""Spoiling: the first gate that made NaN or infinity, in the forward pass or on the way back, and of what. No gate is known here by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrule.core import chain
from chainrule.core.aval import Aval
from chainrule.core.node import Node
from chainrule.view.causes import Cause, called, labels, made, words
from chainrule.view.faults import Fault, backward_fault, elementwise, floats, forward_fault, show
from chainrule.view.paths import Sweep
from chainrule.view.watching import place_of


def spoiling(sweep: Sweep, target: Node) -> list[Cause]:
    """The first gate that made NaN or infinity: forward, if the loss itself is spoilt, else backward, with what was spoilt forward beneath it."""
    if not np.isfinite(sweep.values[sweep.root]).all():
        found = first_forward(sweep)
        if found is not None:
            return [found]
    on_path = sweep.leading_to(target)
    for edge in sweep.edges:
        if edge.source not in on_path or edge.user.primitive is None or _finite(edge.raw) or not _finite(edge.ct):
            continue
        known = sweep.inputs_of(edge.user)
        fault = backward_fault(edge.user.primitive, edge.position, known, edge.user.params, edge.ct, edge.raw, labels(edge.user.inputs))
        causes = [_of_fault(edge.user, f"backward, at {called(edge.user)}: ", fault)]
        if any(not np.isfinite(v).all() for v in floats([v for v in known if v is not None])):
            beneath = first_forward(sweep)
            causes += [] if beneath is None else [beneath]
        return causes
    says = "the gradients of several uses are finite, and their sum is not"
    return [Cause(says, "infinite", mend="scale the loss or the inputs down, or use float64")]


def first_forward(sweep: Sweep) -> Cause | None:
    """The first gate in the forward pass that made NaN or infinity of finite inputs."""
    for node in sweep.nodes:
        gate, value = node.primitive, sweep.values.get(node)
        if value is None:
            continue
        if gate is None:
            if not _finite(value):
                return _given(place_of(node).name or "a tensor that was given", value)
            continue
        known = [] if gate is chain.ITEM or gate.outputs else sweep.inputs_of(node)[:-1]
        # What has no node was given; an infinity among that, such as a mask's, may be meant.
        for v in (v for v, source in zip(known, node.inputs, strict=False) if v is not None and source is None):
            if any(np.isnan(x).any() for x in floats([v])):
                return _given(f"an input of {called(node)} that was given", v, node)
        if _finite(value) or gate is chain.ITEM or gate.outputs:
            continue
        if all(v is not None for v in known):
            fault = forward_fault(gate, known, node.params, value, labels(node.inputs))
            if fault is not None:
                return _of_fault(node, f"forward, at {called(node)}: ", fault)
        elif all(_finite(v) for v in known if v is not None) and all(_finite(sweep.values.get(s, 0.0)) for s in node.inputs if s is not None):
            return _partly_known(node, known, value)
    return None


def _given(what: str, value: Any, node: Node | None = None) -> Cause:
    array = np.asarray(value)
    spoilt = ~np.isfinite(array)
    place = f" at [{', '.join(map(str, np.argwhere(spoilt)[0]))}]" if array.ndim else ""
    says = f"{what}, {Aval(array.shape, array.dtype)}, is not finite itself{place}"
    return made(node, says, "NaN" if np.isnan(array).any() else "infinite", "look at the data, and at what made it")


def _partly_known(node: Node, known: Sequence[Any], value: Any) -> Cause:
    """A gate that made NaN or infinity of inputs of which the tape kept some."""
    assert node.primitive is not None
    array = np.asarray(value)
    kind = "NaN" if np.isnan(array).any() else "infinite"
    first = np.unravel_index(int(np.argmax(~np.isfinite(array))), array.shape) if array.ndim else ()
    at = f" at [{', '.join(map(str, first))}]" if first else ""
    told: list[str] = []
    if elementwise(node.primitive):
        names = words(node)
        told = [f"{name} is {show(float(np.broadcast_to(v, array.shape)[first]))}" for name, v in zip(names, known, strict=False) if v is not None]
    says = f"forward, at {called(node)}: its value is {kind}{at}, " + (
        f"where {', '.join(told)}" if told else "and what is known of its inputs is finite"
    )
    return made(node, says, kind, "look at its inputs")


def _of_fault(node: Node, before: str, fault: Fault) -> Cause:
    return made(node, before + fault.says, fault.kind, fault.mend)


def _finite(value: Any) -> bool:
    if isinstance(value, chain.Parts):
        return all(_finite(part) for part in value.parts.values())
    if isinstance(value, tuple):
        return all(_finite(part) for part in value if part is not None)
    return bool(np.isfinite(value).all())
