"""Watching: gates compute and record as ever, and where each was called, under which name and in which layer, is written down.

A watched block runs gate by gate, in the caller's own code, compiled functions too. Nothing here judges what it sees: that is
for whoever watches (`anomaly`, `explain`); where nobody does, nothing is paid.
"""

from __future__ import annotations

import linecache
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from chainrule.core.chain import ITEM
from chainrule.core.errors import TraceError
from chainrule.core.interp import Mode, current, using
from chainrule.core.node import Node
from chainrule.core.primitive import Primitive
from chainrule.graph.naming import caller, unnamed
from chainrule.tape import bind

_DEPTH = 3


class Place(NamedTuple):
    """Where a gate was called: the name of its value, the layer's path, the caller's line as (file, number), and the path by layers."""

    name: str = ""
    layer: str = ""
    line: tuple[str, int] = ("", 0)
    scope: tuple[str, ...] = ()

    @property
    def code(self) -> str:
        """``file:number: code``, or '' if the line is not known."""
        file, number = self.line
        if not number:
            return ""
        code = linecache.getline(file, number).strip()
        return f"{file}:{number}" + (f": {code}" if code else "")


class Record(NamedTuple):
    """One gate as it was computed: its place, and inputs and outputs as arrays or NumPy scalars."""

    place: Place
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]


NOWHERE = Place()

# A record lives as long as its node, so that a tape that was made under watch can be explained later.
_records: WeakKeyDictionary[Node, Record] = WeakKeyDictionary()


# What the caller's variables call values that nobody watched while they were made, leaves above all.
_named: WeakKeyDictionary[Node, Place] = WeakKeyDictionary()


def name_nodes(held: Iterable[tuple[str, Any]]) -> None:
    """Call the nodes of tensors by the names under which the caller holds them; of several the last counts."""
    for name, x in held:
        if x._node is not None:
            _named[x._node] = Place(name)


def record_of(node: Node | None) -> Record | None:
    """What was seen of the gate that made a node, if somebody watched."""
    return None if node is None else _records.get(node)


def place_of(node: Node | None) -> Place:
    """Where the gate of a node was called, if somebody watched; the name of its value alone, if a variable of the caller's holds that."""
    record = record_of(node)
    if record is not None and record.place.name:
        return record.place
    named = NOWHERE if node is None else _named.get(node, NOWHERE)
    return named if record is None else record.place._replace(name=named.name)


class Watch:
    """Sees every gate and every complete cotangent; a subclass does something about it."""

    def __init__(self) -> None:
        self._operation: Any = None

    def apply(self, primitive: Primitive, inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
        """The interpreter of a watched block."""
        place = self._here()
        with using(current().watched(None, None)), np.errstate(all="ignore"):
            out = bind(primitive, inputs, params)
        outputs = out if primitive.outputs else (out,)
        for one in outputs:
            node = one._node
            if node is not None:
                whole = node.inputs[0] if node.primitive is ITEM else None
                for seen in (node,) if whole is None else (node, whole):
                    _records[seen] = Record(place, tuple(x._value for x in inputs), tuple(x._value for x in outputs))
        self.computed(primitive, inputs, params, outputs, place)
        return out

    def _here(self) -> Place:
        operation = self._operation
        if operation is not None:
            name = "" if len(operation.outputs) != 1 or unnamed(operation.outputs[0]) else operation.output.name
            return Place(name, ".".join(operation.scope), operation.line, operation.scope)
        names, line = caller(_DEPTH)
        scope = current().scope
        return Place(names[0] if len(names) == 1 else "", ".".join(scope), line, scope)

    def follow(self, operation: Any) -> None:
        """What comes next is an operation of a graph; None: the caller's own."""
        self._operation = operation

    def computed(self, primitive: Primitive, inputs: Sequence[Any], params: Mapping[str, Any], outputs: Sequence[Any], place: Place) -> None:
        """A gate was computed; inputs and outputs are Tensors."""

    def gradient(self, node: Node | None, ct: Any) -> None:
        """The complete cotangent of a node; None: the sweep is over."""


class Namer(Watch):
    """Keeps tensors under the names that the caller's code gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.named: dict[str, Any] = {}

    def computed(self, primitive: Primitive, inputs: Sequence[Any], params: Mapping[str, Any], outputs: Sequence[Any], place: Place) -> None:
        if place.name and len(outputs) == 1:
            self.named[place.name] = outputs[0]


@contextmanager
def watching(watch: Watch) -> Generator[None]:
    """Inside the block gates go by way of ``watch``.

    Raises
    ------
    TraceError
        While a function is traced: nothing is computed then.
    """
    mode: Mode = current()
    if mode.tracer is not None:
        says = "values are to be looked at in a function that is being traced, where there are none"
        raise TraceError(says, mend="put the block, or the call of explain, around what is traced or compiled, not into it")
    with using(mode.watched(watch, watch.apply)):
        yield
