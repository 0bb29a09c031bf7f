"""Anomalies: the first gate that makes NaN or infinity, forward or backward, stops the program and says why.

Values are only looked at, never changed; outside of a `detect_anomaly` block nothing is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ContextDecorator, ExitStack
from typing import Any

import numpy as np

from chainrule.core.aval import Aval
from chainrule.core.chain import Parts
from chainrule.core.errors import AnomalyError, ArgumentError
from chainrule.core.node import Node
from chainrule.core.primitive import Primitive
from chainrule.graph.naming import name_in_caller
from chainrule.view.faults import Fault, backward_fault, forward_fault
from chainrule.view.holding import callers_variables
from chainrule.view.paths import known_inputs, shares_of
from chainrule.view.watching import Place, Watch, name_nodes, place_of, record_of, watching

__all__ = ["detect_anomaly"]

_CHOICES = ("raise", "ignore")
_DEPTH = 2


class _Detector(Watch):
    """Raises at the first fault."""

    def __init__(self, *, nan: bool, inf: bool) -> None:
        super().__init__()
        self._nan = nan
        self._inf = inf
        # What a sweep has carried on so far: per node the cotangent, what the gate saved, and whether a mask is in front.
        self._swept: dict[Node, tuple[Any, tuple[Any, ...]]] = {}
        self._masked: set[Node] = set()

    def computed(self, primitive: Primitive, inputs: Sequence[Any], params: Mapping[str, Any], outputs: Sequence[Any], place: Place) -> None:
        values = [x._value for x in inputs]
        for out in outputs:
            if not self._wrong(out._value):
                continue
            labels = [place_of(x._node).name or name_in_caller(_DEPTH, x) for x in inputs]
            fault = forward_fault(primitive, values, params, out._value, labels, nan=self._nan, inf=self._inf)
            if fault is not None:
                raise _error("forward", primitive, fault, [Aval(v.shape, v.dtype) for v in values], place)

    def gradient(self, node: Node | None, ct: Any) -> None:
        if node is None:
            self._swept.clear()
            self._masked.clear()
            return
        value = getattr(ct, "_value", ct)
        if self._wrong(value):
            self._blame(node)
        saved = node.saved
        self._swept[node] = value, () if saved is None else saved
        if node in self._masked or (node.primitive is not None and node.primitive.masks):
            self._masked.update(source for source in node.inputs if source is not None)

    def _wrong(self, value: Any) -> bool:
        if not hasattr(value, "dtype") or value.dtype.kind != "f":
            return False
        return bool((self._nan and np.isnan(value).any()) or (self._inf and np.isinf(value).any()))

    def _blame(self, node: Node) -> None:
        """Raise for the gate, already carried back, whose share made this cotangent NaN or infinite."""
        users = [user for user in self._swept if node in user.inputs]
        if not all(_finite(self._swept[user][0]) for user in users):
            # What came was not finite already: that was told, or let through.
            return
        for user in users:
            ct, saved = self._swept[user]
            for position, source, raw in shares_of(user, ct, saved, behind=user in self._masked):
                if source is node and self._wrong(raw) and user.primitive is not None:
                    record = record_of(user)
                    values = known_inputs(user, saved) if record is None else [*record.inputs, record.outputs[0]]
                    name_nodes(callers_variables())
                    labels = [place_of(one).name for one in user.inputs]
                    self._end(user.primitive, backward_fault(user.primitive, position, values, user.params, ct, raw, labels), user)
        if users and users[0].primitive is not None:
            says = "gradients of several uses of one value are finite, and their sum is not"
            self._end(users[0].primitive, Fault("infinite", (), {}, says, "scale the loss or the inputs down, or use float64"), users[0])
        # What the sweep began with, or what a hook gave, is not finite: that is the caller's own.

    def _end(self, primitive: Primitive, fault: Fault, node: Node) -> None:
        avals = [Aval(x.shape, x.dtype) for x in node.inputs if x is not None and x.shape is not None]
        self._swept.clear()
        self._masked.clear()
        raise _error("backward", primitive, fault, avals, place_of(node))


def _finite(ct: Any) -> bool:
    if isinstance(ct, Parts):
        return all(_finite(part) for part in ct.parts.values())
    return bool(np.isfinite(getattr(ct, "_value", ct)).all())


def _error(direction: str, primitive: Primitive, fault: Fault, avals: Sequence[Aval], place: Place) -> AnomalyError:
    operands = ", ".join(map(str, avals))
    name = f", which makes {place.name}" if place.name else ""
    numbers = "".join(f"\n  {key} = {number!r}" for key, number in fault.numbers.items())
    error = AnomalyError(f"{direction}: {fault.says}\n  gate: {primitive.name}({operands}){name}{numbers}", mend=fault.mend)
    error.layer = place.layer
    if place.line[1]:
        error.where = place.code
    return error


class detect_anomaly(ContextDecorator):
    """Context manager and decorator: stop at the first gate that makes NaN or infinity, forward or backward, and say why.

    Every gate is looked at as it computes, with gradients or without, in transforms and in training loops; every complete
    gradient on its way back. In the block a compiled function runs gate by gate instead, so that the caller's own lines can be named;
    inside of a loop that is one gate (`scan`, `while_loop`), the loop is named. Meant for finding a mistake: it costs time.

    Parameters
    ----------
    nan : {"raise", "ignore"}
        What to do about a NaN that was none in the inputs.
    inf : {"raise", "ignore"}
        The same for an infinity. One that a gate was given (a mask of -inf, a constant, a parameter of the gate) or that stands for
        nothing at all (the largest of no elements) is none that it made, and passes.

    Raises
    ------
    AnomalyError
        In the block: it names the gate, the inputs' shapes, the element with its numbers, the layer, the line of the forward
        pass, and the mend.
    TraceError
        If the block is entered in a function that is being traced or compiled: it goes around the call, not into it.

    Examples
    --------
    >>> import chainrule as cr
    >>> with cr.detect_anomaly():
    ...     try:
    ...         cr.log(cr.tensor([1.0, -2.0]))
    ...     except cr.errors.AnomalyError as error:
    ...         print(error.what)
    forward: log(-2) is NaN at [1]; it is finite for its input above 0
      gate: log(float32(2))
      its input = -2.0
    """

    def __init__(self, *, nan: str = "raise", inf: str = "raise") -> None:
        for name, choice in (("nan", nan), ("inf", inf)):
            if choice not in _CHOICES:
                raise ArgumentError(f"detect_anomaly: {name}={choice!r} is no choice", mend=f'pass {name}="raise" or {name}="ignore"')
        self._options = {"nan": nan == "raise", "inf": inf == "raise"}
        self._blocks: list[ExitStack] = []

    def _recreate_cm(self) -> detect_anomaly:
        return type(self)(**{name: "raise" if on else "ignore" for name, on in self._options.items()})

    def __enter__(self) -> None:
        block = ExitStack()
        block.enter_context(watching(_Detector(**self._options)))
        self._blocks.append(block)

    def __exit__(self, *exc: object) -> None:
        self._blocks.pop().close()
