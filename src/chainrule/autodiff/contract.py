"""What the rules of custom gates must keep, and how they are called.

A backward, and a jvp, gets a `Context` and returns a Tensor or None per argument (or output). Counts, shapes and dtypes are
checked; where a rule is differentiated again, so is that nothing came from values whose history is unknown. Nothing here knows
whether the gate stands on the tape or in a graph.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.autodiff.scope import enter, leave, node_of
from chainrule.core import tree
from chainrule.core.aval import Aval
from chainrule.core.errors import FunctionError, TraceError
from chainrule.core.interp import Tag, current, using
from chainrule.core.node import Node
from chainrule.core.primitive import functions
from chainrule.tape import item, reverse
from chainrule.tensor import Tensor, new

if TYPE_CHECKING:
    from chainrule.autodiff.function import Function


class Context:
    """What a `Function` passes from its forward to its backward; any attribute may be set on it.

    Attributes
    ----------
    saved_tensors : tuple of Tensor
        What forward saved, with its history where it is an input or an output.
    needs_input_grad : tuple of bool
        Per argument of ``apply``, whether its gradient is wanted.
    """

    needs_input_grad: tuple[bool, ...]

    def __init__(self) -> None:
        self._saved: tuple[Any, ...] = ()
        self._constants: tuple[Any, ...] = ()
        self._read = False
        self._node: weakref.ref[Node] | None = None
        # In a graph the history of all that is kept is known: the graph itself is it.
        self._of_graph = False

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep inputs, outputs or other tensors for backward."""
        # By value: the names may be bound to something else before forward is done.
        self._saved = tuple(Saved(x._value, None, None) if isinstance(x, Tensor) else x for x in tensors)

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        return tuple(self._restore(entry) for entry in self._saved)

    def _restore(self, entry: Any) -> Any:
        if not isinstance(entry, Saved):
            return entry
        if entry.output is None or self._node is None:
            return new(entry.value, entry.node)
        node = self._node()
        assert node is not None, "a node outlives its own backward"
        return item(entry.value, node, entry.output, len(node.params["outputs"]), node.tags)

    def _settle(self, args: Sequence[Any], outputs: Sequence[Tensor], *, read: bool) -> None:
        """Find the history of what was saved: that of an input, or of an output, holding which would be a cycle."""
        self._constants = tuple(x for x in args if not isinstance(x, Tensor))
        self._read = read
        for entry in self._saved:
            if isinstance(entry, Saved):
                source = next((x for x in args if isinstance(x, Tensor) and x._value is entry.value), None)
                entry.node = None if source is None else source._node
                same = (i for i, out in enumerate(outputs) if source is None and out._value is entry.value)
                entry.output = next(same, None)
                entry.known = entry.output is not None or source is not None

    def _attributes(self) -> dict[str, Any]:
        """What forward has set itself."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_") and name != "needs_input_grad"}

    def _unknown(self) -> str | None:
        """What is kept here of floating point whose dependence on the inputs is unknown, or None."""
        if self._of_graph:
            return None
        kept = {f"saved tensor {i}": entry for i, entry in enumerate(self._saved)}
        kept |= {f"ctx.{name}": value for name, value in self._attributes().items()}
        for name, value in kept.items():
            for x in tree.leaves(value):
                if isinstance(x, Saved):
                    x = None if x.known else x.value
                if isinstance(x, (Tensor, np.ndarray, np.generic)) and x.dtype.kind in "fc" and not any(x is arg for arg in self._constants):
                    return f"{name}, {Aval(x.shape, x.dtype)}"
                # A Python number is a constant, unless forward read a tensor as numbers.
                if self._read and x.__class__ in (float, complex) and not any(x is arg for arg in self._constants):
                    return f"{name}, the number {x:.6g}"
        return None


class Saved:
    """A tensor that was saved: its value, and the node of an input or the number of an output that has it."""

    __slots__ = ("known", "node", "output", "value")

    def __init__(self, value: Any, node: Node | None, output: int | None) -> None:
        self.value = value
        self.node = node
        self.output = output
        self.known = False


def pull(function: type[Function], ctx: Context, cts: Sequence[Tensor], to: Sequence[Any], *, again: bool) -> tuple[Any, ...]:
    """The cotangents of the arguments, None where ``to`` is; ``again``: they will be differentiated."""
    ctx.needs_input_grad = tuple(aval is not None for aval in to)
    if not again:
        return _checked_backward(function, ctx, cts, to)
    _check_known(function, "backward", ctx)
    return _probed(function, "backward", lambda *given: _checked_backward(function, ctx, given, to), cts)


def push(function: type[Function], ctx: Context, tangents: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """The tangents of the outputs, by the Function's jvp, or by transposing its backward."""
    if all(t is None for t in tangents):
        return (None,) * len(outputs)
    again = any(x is not None and x._node is not None and x._node.tags & current().tracking for x in (*tangents, *outputs))
    if again:
        _check_known(function, "jvp", ctx)
    if not hasattr(function, "jvp"):
        return _transposed_twice(function, ctx, tangents, outputs)
    wanted = [Aval(x.shape, x.dtype) for x in outputs]

    def pushed(*given: Tensor | None) -> tuple[Any, ...]:
        with traced_too(function, "jvp"):
            found = several(function.jvp(ctx, *given))  # pyright: ignore[reportAttributeAccessIssue] - optional, checked above
        _check(function, "jvp", "output", found, wanted)
        return found

    return _probed(function, "jvp", pushed, tangents) if again else pushed(*tangents)


def several(value: Any) -> tuple[Any, ...]:
    """What a Function's method returned, as a tuple."""
    return value if isinstance(value, tuple) else tuple(value) if isinstance(value, list) else (value,)


def _transposed_twice(function: type[Function], ctx: Context, tangents: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> list[Tensor | None]:
    """Backward is linear in its cotangents u: the gradient by u of <backward(u), t> is the tangent."""
    tag = Tag()
    with _watched(tag.bit):
        us = [_entered(functions.zeros_like(x.detach()), tag) for x in outputs]
        nodes = [None if u._node is None else node_of(u) for u in us]
        cts = _checked_backward(function, ctx, us, tangents)
        _check_reached(function, "backward", cts, tag.bit, "forward mode")
    terms = [(ct, t) for ct, t in zip(cts, tangents, strict=True) if ct is not None and t is not None]
    found = reverse([ct for ct, _ in terms], [t for _, t in terms], tag.bit, retain=True, wanted=[node for node in nodes if node is not None])
    return [None if node is None else found.get(node) for node in nodes]


def _entered(x: Tensor, tag: Tag) -> Tensor:
    """A cotangent or tangent as the transform with this tag sees it; that of integers is a constant."""
    return enter(x, tag, "a cotangent or tangent") if x.dtype.kind == "f" else x


def _check_known(function: type[Function], method: str, ctx: Context) -> None:
    unknown = ctx._unknown()
    if unknown is not None:
        raise FunctionError(
            f"{function.__name__}.{method} is differentiated again, but {unknown}, was computed in forward and its history is unknown",
            mend=f"save the inputs or outputs instead and compute it from them in {method}",
        )


def _probed(function: type[Function], method: str, linear: Callable[..., tuple[Any, ...]], given: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """Apply a linear method with a probe on what it is given: a result that the probe does not reach was computed elsewhere."""
    probe = Tag()
    with _watched(probe.bit):
        found = linear(*(None if x is None else _entered(x, probe) for x in given))
    _check_reached(function, method, found, probe.bit, "a further derivative")
    return tuple(leave(x, probe.bit) for x in found)


def _watched(bit: int) -> Any:
    """Track a further tag, and let nothing that is tracked be read as a plain number."""
    mode = current()
    tracked = mode.tracking | bit
    return using(mode.but(tracking=tracked, running=tracked, opaque=tracked))


def _check_reached(function: type[Function], method: str, found: Sequence[Tensor | None], bit: int, purpose: str) -> None:
    for position, x in enumerate(found):
        if x is not None and (x._node is None or not x._node.tags & bit):
            raise FunctionError(
                f"{function.__name__}.{method} is needed for {purpose}, but its result {position}"
                " was not computed from what it was given in tensor operations",
                mend=f"write {method} in tensor operations, without NumPy, detach or no_grad; return None where the derivative is always 0",
            )


@contextmanager
def traced_too(function: type[Function], method: str) -> Generator[None]:
    """Whoever computes in NumPy inside is told that a Function's methods are traced like other code."""
    try:
        yield
    except TraceError as error:
        error.mend += f"; {function.__name__}.{method} is traced too: write it in chainrule's operations, not in NumPy"
        raise


def _checked_backward(function: type[Function], ctx: Context, cts: Sequence[Tensor], to: Sequence[Any]) -> tuple[Any, ...]:
    with traced_too(function, "backward"):
        found = several(function.backward(ctx, *cts))
    count = len(to)
    if len(found) > count and all(x is None for x in found[count:]):
        found = found[:count]
    _check(function, "backward", "argument", found, to)
    return tuple(None if aval is None or x is None else _cast(x, aval) for x, aval in zip(found, to, strict=True))


def _check(function: type[Function], method: str, what: str, found: Sequence[Any], wanted: Sequence[Any]) -> None:
    name = f"{function.__name__}.{method}"
    if len(found) != len(wanted):
        raise FunctionError(
            f"{name} returned {len(found)} values for {len(wanted)} {what}s", mend=f"return one value per {what}, None where there is none"
        )
    for position, (x, aval) in enumerate(zip(found, wanted, strict=True)):
        if x is None or aval is None:
            continue
        if not isinstance(x, Tensor):
            raise FunctionError(f"{name} returned a {type(x).__name__} for {what} {position}", mend="return Tensors, or None")
        if x.shape != aval.shape:
            raise FunctionError(
                f"{name} returned shape {x.shape} for {what} {position} of shape {aval.shape}", mend="sum over the axes along which it was broadcast"
            )
        if x.dtype.kind not in "fc":
            raise FunctionError(f"{name} returned dtype {x.dtype} for {what} {position} of dtype {aval.dtype}", mend="gradients are floating point")


def _cast(x: Tensor, aval: Any) -> Tensor:
    return x if x.dtype == aval.dtype else functions.astype(x, aval.dtype)
