"""Causes: what is said of one gate's part in a gradient, where it stands in the caller's code, and what mends it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from chainrule.core import chain
from chainrule.core.node import Node
from chainrule.view.faults import input_names, input_words
from chainrule.view.watching import place_of


@dataclass(frozen=True)
class Cause:
    """One gate's part in what a gradient is.

    Attributes
    ----------
    says : str
        What it did, with its numbers.
    kind : str
        In a word or two: "flat", "in steps", "saturated",
        "not taken", "times zero", "not read", "not chosen", "cancelled", "NaN", "infinite", "cut" or another.
    gate, name, layer, line : str
        The gate, the name of its value, the layer's path and the caller's line; '' where unknown.
    elements : int
        How many of the tensor's elements it answers for; 0 if that is not said.
    mend : str
    """

    says: str
    kind: str
    gate: str = ""
    name: str = ""
    layer: str = ""
    line: str = ""
    elements: int = 0
    mend: str = ""


def made(node: Node | None, says: str, kind: str, mend: str, elements: int = 0) -> Cause:
    """The cause that lies at the gate of a node."""
    place = place_of(node)
    return Cause(says, kind, gate_name(node), place.name, place.layer, place.code, elements, mend)


def gate_name(node: Node | None) -> str:
    """The gate that made a node; of one output among several, the gate that has them; '' for a leaf."""
    while node is not None and node.primitive is chain.ITEM:
        (node,) = node.inputs
    return "" if node is None or node.primitive is None else node.primitive.name


def labels(inputs: Sequence[Node | None]) -> list[str]:
    """The caller's own names of a gate's inputs, '' where there is none."""
    return [place_of(node).name for node in inputs]


def words(node: Node) -> list[str]:
    """What to call the inputs of a node's gate."""
    assert node.primitive is not None
    known = labels(node.inputs)
    return input_words(input_names(node.primitive, len(node.inputs), known), known)


def called(node: Node | None) -> str:
    """A gate as a person would point at it: ``h = relu(...)``."""
    name = place_of(node).name
    return f"{name} = {gate_name(node)}(...)" if name else f"{gate_name(node)}(...)"


def once(told: Sequence[Cause]) -> list[Cause]:
    """Causes that say the same, as steps of a loop do, are told once."""
    alike: dict[Cause, int] = {}
    for cause in told:
        # An element that several answer for is counted with the first.
        same = next((one for one in alike if replace(one, elements=0) == replace(cause, elements=0)), cause)
        alike[same] = alike.get(same, 0) + 1
    return [cause if count == 1 else replace(cause, says=f"{cause.says} ({count - 1} more like it)") for cause, count in alike.items()]
