"""A gate that holds a Python function of Tensors: for derivatives whose number of steps no graph can say.

Its value is what the function computes, its derivatives are opaque gates whose functions differentiate that
computation; so it has all of them, in both modes. To a compiler it is a call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chainrule.core.aval import Aval
from chainrule.core.interp import QUIET, using
from chainrule.core.primitive import Primitive, functions
from chainrule.graph.derived import Mask, chosen, dealt, present
from chainrule.ops.gate import batch_looped
from chainrule.tape import bind
from chainrule.tensor import Tensor, new

# Several Tensors to several; equal functions make equal graphs.
Function = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True)
class Pull:
    """From the inputs of a function and the cotangents received to the cotangents of wanted inputs."""

    function: Function
    wanted: Mask
    received: Mask

    @property
    def __name__(self) -> str:
        return f"pull_{self.function.__name__}"

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        inputs, cotangents = given[: len(self.wanted)], given[len(self.wanted) :]
        _, pull = functions.vjp(_Of(self.function, inputs, self.wanted, self.received), *chosen(self.wanted, inputs))
        return pull(cotangents)


@dataclass(frozen=True, slots=True)
class Push:
    """From the inputs of a function and the tangents of moved ones to the tangents of its outputs."""

    function: Function
    moved: Mask
    outputs: Mask

    @property
    def __name__(self) -> str:
        return f"push_{self.function.__name__}"

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        inputs, tangents = given[: len(self.moved)], given[len(self.moved) :]
        return functions.jvp(_Of(self.function, inputs, self.moved, self.outputs), chosen(self.moved, inputs), tangents)[1]


class _Of:
    """A function of some of its inputs, for some of its outputs."""

    def __init__(self, function: Function, inputs: tuple[Tensor, ...], varied: Mask, outputs: Mask) -> None:
        self.function, self.inputs, self.varied, self.outputs = function, inputs, varied, outputs

    def __call__(self, *some: Tensor) -> tuple[Tensor, ...]:
        given = [x if own is None else own for x, own in zip(self.inputs, dealt(self.varied, some), strict=True)]
        return tuple(chosen(self.outputs, self.function(*given)))


def _eval(*xs: Any, function: Function, outputs: tuple[Aval, ...]) -> tuple[Any, ...]:
    with using(QUIET):
        return tuple(x._value for x in function(*map(new, xs)))


def _vjp(ct: tuple[Any, ...], to: tuple[Aval | None, ...], xs: tuple[Any, ...], function: Function) -> list[Any]:
    wanted, received = present(to), present(ct)
    outputs = [aval for aval in to if aval is not None]
    return dealt(wanted, apply_opaque(Pull(function, wanted, received), (*xs, *chosen(received, ct)), outputs))


def _jvp(t: tuple[Any, ...], xs: tuple[Any, ...], function: Function, outputs: tuple[Aval, ...]) -> list[Any]:
    real = tuple(aval.dtype.kind == "f" for aval in outputs)
    return dealt(real, apply_opaque(Push(function, present(t), real), (*xs, *chosen(present(t), t)), chosen(real, outputs)))


OPAQUE = Primitive(
    name="opaque",
    inputs=("*xs",),
    aval=lambda *xs, function, outputs: outputs,
    eval=_eval,
    batch=batch_looped("Each example may take a number of steps of its own."),
    vjp=_vjp,
    jvp=_jvp,
    outputs=True,
)
"""Part of graphs, not of the table: no public function applies it."""


def apply_opaque(function: Function, inputs: tuple[Any, ...], outputs: list[Aval]) -> Any:
    """What the function gives for these inputs, as one gate."""
    return bind(OPAQUE, inputs, {"function": function, "outputs": tuple(outputs)})
