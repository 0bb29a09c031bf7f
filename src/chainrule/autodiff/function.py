"""Gates of one's own: a forward and a backward written in tensors.

A `Function` becomes a node like any other. Its backward is checked: the number and shapes of what
it returns, and, where it is differentiated again, that nothing came from values whose history
is unknown.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from copy import copy
from functools import cache
from typing import Any

import numpy as np

from chainrule.autodiff.scope import enter, leave, node_of
from chainrule.core import tree
from chainrule.core.aval import Aval
from chainrule.core.errors import FunctionError
from chainrule.core.interp import BASE, EVERYDAY, QUIET, Tag, current, evaluate, tracking, using
from chainrule.core.node import Node, make
from chainrule.core.primitive import Primitive, functions
from chainrule.tape import item, reverse, set_tangents, tangent_of, twin
from chainrule.tensor import Tensor, new, seen

__all__ = ["Context", "Function"]


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

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep inputs, outputs or other tensors for backward."""
        # By value: the names may be bound to something else before forward is done.
        self._saved = tuple(_Saved(x._value, None, None) if isinstance(x, Tensor) else x for x in tensors)

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        return tuple(self._restore(entry) for entry in self._saved)

    def _restore(self, entry: Any) -> Any:
        if not isinstance(entry, _Saved):
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
            if isinstance(entry, _Saved):
                entry.output = next((i for i, out in enumerate(outputs) if out._value is entry.value), None)
                source = next((x for x in args if isinstance(x, Tensor) and x._value is entry.value), None)
                entry.node = None if source is None else source._node
                entry.known = entry.output is not None or source is not None

    def _unknown(self) -> str | None:
        """What is kept here of floating point whose dependence on the inputs is unknown, or None."""
        kept = {f"saved tensor {i}": entry for i, entry in enumerate(self._saved)}
        kept |= {f"ctx.{name}": value for name, value in vars(self).items() if not name.startswith("_")}
        for name, value in kept.items():
            for x in tree.leaves(value):
                if isinstance(x, _Saved):
                    x = None if x.known else x.value
                if isinstance(x, (Tensor, np.ndarray, np.generic)) and x.dtype.kind in "fc" and not any(x is arg for arg in self._constants):
                    return f"{name}, {Aval(x.shape, x.dtype)}"
                # A Python number is a constant, unless forward read a tensor as numbers.
                if self._read and x.__class__ in (float, complex) and not any(x is arg for arg in self._constants):
                    return f"{name}, the number {x:.6g}"
        return None


class _Saved:
    __slots__ = ("known", "node", "output", "value")

    def __init__(self, value: Any, node: Node | None, output: int | None) -> None:
        self.value = value
        self.node = node
        self.output = output
        self.known = False


class Function:
    """Base of custom gates: define ``forward`` and ``backward`` as static methods, call ``apply``.

    ``forward(ctx, *args)`` computes a tensor, or a tuple of them, in tensors or in NumPy;
    ``backward(ctx, *cts)`` returns one gradient per argument of ``apply``, None for those that have
    none. Where backward is written in tensor operations on saved inputs and outputs, the gate can be
    differentiated again, and forward mode follows from it by transposing twice; a ``jvp(ctx, *tangents)``
    (None for arguments without one) takes its place if defined.

    Examples
    --------
    >>> import chainrule as cr
    >>> class Cube(cr.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x * x * x
    ...     @staticmethod
    ...     def backward(ctx, ct):
    ...         (x,) = ctx.saved_tensors
    ...         return 3 * x * x * ct
    >>> cr.grad(Cube.apply)(2.0), cr.grad(cr.grad(Cube.apply))(2.0)
    (tensor(12.), tensor(12.))
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        """The value; to be defined."""
        raise FunctionError("a Function must define forward(ctx, *args) as a static method")

    @staticmethod
    def backward(ctx: Any, *cts: Any) -> Any:
        """The arguments' cotangents from those of the outputs; to be defined."""
        raise FunctionError("a Function must define backward(ctx, *cts) as a static method to be differentiated")

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Apply the gate.

        Parameters
        ----------
        *args : Tensor or anything
            Handed to ``forward``; floating-point Tensors among them are differentiated.

        Returns
        -------
        Tensor or tuple of Tensor

        Raises
        ------
        FunctionError
            If ``forward`` returns something else, or later ``backward`` breaks its contract.
        """
        mode = current()
        if mode.interpret is evaluate:
            with using(EVERYDAY):
                out = cls.apply(*(new(x) if isinstance(x, (np.ndarray, np.generic)) else x for x in args))
            return tuple(x._value for x in out) if isinstance(out, tuple) else out._value
        if mode.tracer is not None:
            args = tuple(seen(x) if isinstance(x, Tensor) else x for x in args)
        nodes = tuple(_tracked(x, mode.tracking) for x in args)
        ctx = Context()
        ctx.needs_input_grad = tuple(node is not None for node in nodes)
        # With names of its own, which it may rebind, and free to compute in NumPy.
        readings: list[None] = []
        with using(mode.but(tracking=0, running=BASE, opaque=0, readings=readings)):
            returned = cls.forward(ctx, *(new(x._value, x._node) if isinstance(x, Tensor) else x for x in args))
        single = not isinstance(returned, tuple)
        results = (returned,) if single else returned
        outputs = [_output(cls, x) for x in results]
        ctx._settle(args, outputs, read=bool(readings))
        tags = 0
        for node in nodes:
            tags |= 0 if node is None else node.tags & mode.tracking
        if tags:
            params = {"ctx": ctx, "function": cls, "outputs": tuple(Aval(x.shape, x.dtype) for x in outputs)}
            node = make(_primitive(cls.__name__), nodes, (), params, tags, None, None)
            ctx._node = weakref.ref(node)
            outputs = [item(x._value, node, i, len(outputs), tags) for i, x in enumerate(outputs)]
            cls._push_forward(ctx, node, args, outputs)
        return outputs[0] if single else tuple(outputs)

    @classmethod
    def _push_forward(cls, ctx: Context, node: Node, args: Sequence[Any], outputs: Sequence[Tensor]) -> None:
        for tag in Tag.outermost_first(node.tags):
            like, seen = twin(node, tag.bit), ctx
            if like is not node:
                seen = copy(ctx)
                seen._node = weakref.ref(like)
                like.params = {**node.params, "ctx": seen}
            with tracking(current().tracking & ~tag.bit):
                tangents = [tangent_of(x, tag) if isinstance(x, Tensor) else None for x in args]
                pushed = cls._push(seen, tangents, outputs)
            set_tangents(node, outputs, tag, pushed)

    @classmethod
    def _push(cls, ctx: Context, tangents: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> Sequence[Tensor | None]:
        if all(t is None for t in tangents):
            return (None,) * len(outputs)
        again = any(x is not None and x._node is not None and x._node.tags & current().tracking for x in (*tangents, *outputs))
        if again:
            _check_known(cls, "jvp", ctx)
        if not hasattr(cls, "jvp"):
            return _transposed_twice(cls, ctx, tangents, outputs)
        wanted = [Aval(x.shape, x.dtype) for x in outputs]

        def push(*given: Tensor | None) -> tuple[Any, ...]:
            pushed = _several(cls.jvp(ctx, *given))  # pyright: ignore[reportAttributeAccessIssue] - optional, checked above
            _check(cls, "jvp", "output", pushed, wanted)
            return pushed

        return _probed(cls, "jvp", push, tangents) if again else push(*tangents)


def _transposed_twice(cls: type[Function], ctx: Context, tangents: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> list[Tensor | None]:
    """Backward is linear in its cotangents u: the gradient by u of <backward(u), t> is the tangent."""
    tag = Tag()
    with _watched(tag.bit):
        us = [enter(functions.zeros_like(x.detach()), tag, "an output") for x in outputs]
        nodes = [node_of(u) for u in us]
        cts = _checked_backward(cls, ctx, us, tangents)
        _check_reached(cls, "backward", cts, tag.bit, "forward mode")
    terms = [(ct, t) for ct, t in zip(cts, tangents, strict=True) if ct is not None and t is not None]
    found = reverse([ct for ct, _ in terms], [t for _, t in terms], tag.bit, retain=True, wanted=nodes)
    return [found.get(node) for node in nodes]


@cache
def _primitive(name: str) -> Primitive:
    """The record that Functions of this name share: all that they do is in their context."""
    return Primitive(
        name=name,
        inputs=("*xs",),
        aval=lambda *xs, ctx, function, outputs: outputs,
        eval=lambda *xs, ctx, function, outputs: tuple(x._value for x in _several(function.apply(*map(new, xs)))),
        batch=_no_batch,
        vjp=_pull,
        outputs=True,
    )


def _no_batch(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Any) -> Any:
    raise FunctionError(
        f"{primitive.name} has no batch rule", mend="call it on one example at a time, or write its forward in tensor operations without Function"
    )


def _pull(ct: tuple[Any, ...], to: tuple[Any, ...], ctx: Context, function: type[Function], outputs: tuple[Aval, ...]) -> tuple[Any, ...]:
    wants = tuple(aval is not None for aval in to)
    ctx.needs_input_grad = wants
    if current().interpret is evaluate:
        with using(QUIET):
            given = [functions.zeros(aval.shape, dtype=aval.dtype) if x is None else new(x) for x, aval in zip(ct, outputs, strict=True)]
            found = _checked_backward(function, ctx, given, to)
        return tuple(None if x is None else x._value for x in found)
    # With names of its own: backward may rebind them.
    given = [functions.zeros(aval.shape, dtype=aval.dtype) if x is None else new(x._value, x._node) for x, aval in zip(ct, outputs, strict=True)]
    if not current().tracking & _tags(ctx, given):
        return _checked_backward(function, ctx, given, to)
    _check_known(function, "backward", ctx)
    return _probed(function, "backward", lambda *cts: _checked_backward(function, ctx, cts, to), given)


def _tags(ctx: Context, cts: Sequence[Tensor]) -> int:
    node = None if ctx._node is None else ctx._node()
    tags = 0 if node is None else node.tags
    for ct in cts:
        tags |= 0 if ct._node is None else ct._node.tags
    return tags


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
        found = linear(*(None if x is None else enter(x, probe, "a cotangent or tangent") for x in given))
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


def _checked_backward(function: type[Function], ctx: Context, cts: Sequence[Tensor], to: Sequence[Any]) -> tuple[Any, ...]:
    found = _several(function.backward(ctx, *cts))
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


def _several(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else tuple(value) if isinstance(value, list) else (value,)


def _tracked(x: Any, mask: int) -> Node | None:
    return x._node if isinstance(x, Tensor) and x._node is not None and x._node.tags & mask else None


def _output(function: type[Function], x: Any) -> Tensor:
    if isinstance(x, (np.ndarray, np.generic, int, float)):
        x = functions.asarray(x)
    if not isinstance(x, Tensor):
        raise FunctionError(f"{function.__name__}.forward returned a {type(x).__name__}", mend="return a Tensor or a tuple of Tensors")
    return new(x._value)
