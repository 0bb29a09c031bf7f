"""The lectures' modular form: gates with forward and backward, wired by hand into a graph.

Nothing is recorded here and no tape is involved: a `ComputationalGraph` calls each gate's forward in the order
in which gates were added, and each one's backward in the reverse order, adding gradients where a value
branches. What flows is whatever the gates compute with: floats, arrays or Tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from chainrule.autodiff.reverse import vjp
from chainrule.core.errors import FunctionError

__all__ = ["ComputationalGraph", "Gate"]

# Gates compute with anything that adds.
Value = Any


class Gate:
    """Base of a gate: ``forward`` keeps on ``self`` what ``backward`` will need.

    Examples
    --------
    >>> import chainrule as cr
    >>> class MultiplyGate(cr.Gate):
    ...     def forward(self, x, y):
    ...         self.x, self.y = x, y
    ...         return x * y
    ...     def backward(self, dz):
    ...         return self.y * dz, self.x * dz
    """

    def forward(self, *inputs: Value) -> Value:
        """The output; to be defined."""
        raise FunctionError(f"{type(self).__name__} must define forward(self, *inputs)")

    def backward(self, dz: Value) -> Value:
        """The gradient of each input, a tuple if there are several, from that of the output; to be defined."""
        raise FunctionError(f"{type(self).__name__} must define backward(self, dz)")


class _Lifted(Gate):
    """A differentiable function as a gate."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def forward(self, *inputs: Value) -> Value:
        out, self.pull = vjp(self.function, *inputs)
        return out

    def backward(self, dz: Value) -> Value:
        return self.pull(dz)


class Wire:
    """A value in a `ComputationalGraph`: an input's or a gate's output."""

    def __init__(self, graph: ComputationalGraph, position: int, name: str) -> None:
        self.graph = graph
        self.position = position
        self.name = name

    def __repr__(self) -> str:
        return f"Wire({self.name!r})"


class ComputationalGraph:
    """Gates in topological order, with one forward and one backward for the whole.

    Examples
    --------
    f = (x + y) z, of the lectures:

    >>> import chainrule as cr
    >>> net = cr.ComputationalGraph()
    >>> x, y, z = (net.input(name) for name in "xyz")
    >>> f = net.output(net.add(cr.multiply, net.add(cr.add, x, y), z))
    >>> net.forward(x=-2.0, y=5.0, z=-4.0)
    tensor(-12.)
    >>> net.backward()
    {'x': tensor(-4.), 'y': tensor(-4.), 'z': tensor(3.)}
    """

    def __init__(self) -> None:
        self.inputs: dict[str, Wire] = {}
        self.gates: list[Gate] = []
        self._wires: list[Wire] = []
        self._steps: list[tuple[Gate, tuple[Wire, ...], Wire]] = []
        self._output: Wire | None = None
        self.values: list[Value] | None = None
        """Per wire its value, after `forward`."""
        self.gradients: list[Value] | None = None
        """Per wire its gradient, after `backward`; None where none arrived."""

    def input(self, name: str) -> Wire:
        """A new input."""
        if name in self.inputs:
            raise FunctionError(f"the graph has an input {name!r} already", mend="give each input a name of its own")
        self.inputs[name] = wire = self._wire(name)
        return wire

    def add(self, gate: Gate | Callable[..., Any], *inputs: Wire) -> Wire:
        """Wire a gate, or any differentiable function, to earlier values; returns its output.

        Raises
        ------
        FunctionError
            If an input is not a wire of this graph, or the gate is wired already (it keeps one set of values).
        """
        for wire in inputs:
            if getattr(wire, "graph", None) is not self:
                raise FunctionError(f"{wire!r} is not a value of this graph", mend="pass what input() or add() returned")
        made = gate if isinstance(gate, Gate) else _Lifted(gate)
        if any(made is other for other in self.gates):
            raise FunctionError(
                f"this {type(made).__name__} is wired already, and keeps the values of one forward only", mend="make another instance"
            )
        self.gates.append(made)
        out = self._wire(f"{type(made).__name__}_{len(self.gates)}")
        self._steps.append((made, inputs, out))
        return out

    def output(self, wire: Wire) -> Wire:
        """Declare the value that `forward` returns and `backward` starts from."""
        self._output = wire
        return wire

    def forward(self, **inputs: Value) -> Value:
        """Run every gate forward in topological order; returns the output's value.

        Raises
        ------
        FunctionError
            If inputs are missing or unknown, or no output is declared.
        """
        if self._output is None:
            raise FunctionError("the graph has no output", mend="call net.output(wire) first")
        if set(inputs) != set(self.inputs):
            missing, unknown = sorted(set(self.inputs) - set(inputs)), sorted(set(inputs) - set(self.inputs))
            raise FunctionError(f"forward: missing inputs {missing}, unknown inputs {unknown}", mend=f"pass exactly {sorted(self.inputs)}")
        values: list[Value] = [None] * len(self._wires)
        for name, wire in self.inputs.items():
            values[wire.position] = inputs[name]
        for gate, sources, out in self._steps:
            values[out.position] = gate.forward(*(values[wire.position] for wire in sources))
        self.values = values
        return values[self._output.position]

    def backward(self, gradient: Value = 1.0) -> dict[str, Value]:
        """Run every gate backward in reverse order; returns the inputs' gradients by name.

        Parameters
        ----------
        gradient : number, array or Tensor
            Of the output.

        Returns
        -------
        dict
            Per input its gradient; None where the output does not depend on it.

        Raises
        ------
        FunctionError
            Before `forward`, or if a gate returns a wrong number of gradients or a wrong shape.
        """
        if self.values is None or self._output is None:
            raise FunctionError("backward before forward", mend="call net.forward(...) first")
        gradients: list[Value] = [None] * len(self._wires)
        gradients[self._output.position] = gradient
        for gate, sources, out in reversed(self._steps):
            dz = gradients[out.position]
            if dz is None:
                continue
            found = gate.backward(dz)
            found = found if isinstance(found, tuple) else (found,)
            if len(found) != len(sources):
                raise FunctionError(f"{type(gate).__name__}.backward returned {len(found)} gradients for {len(sources)} inputs")
            for wire, share in zip(sources, found, strict=True):
                if share is not None:
                    self._add(gradients, gate, wire, share)
        self.gradients = gradients
        return {name: gradients[wire.position] for name, wire in self.inputs.items()}

    def _add(self, gradients: list[Value], gate: Gate, wire: Wire, share: Value) -> None:
        assert self.values is not None
        wanted = np.shape(self.values[wire.position])
        if np.shape(share) != wanted:
            raise FunctionError(f"{type(gate).__name__}.backward returned shape {np.shape(share)} for {wire.name} of shape {wanted}")
        before = gradients[wire.position]
        gradients[wire.position] = share if before is None else before + share

    def _wire(self, name: str) -> Wire:
        wire = Wire(self, len(self._wires), name)
        self._wires.append(wire)
        return wire
