"""Gates of one's own: a forward and a backward written in tensors.

A `Function` becomes a node of the tape like any other, whose rules are its own backward and jvp. What these must
keep stands in `contract`; what becomes of it in a graph in `custom`.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from copy import copy
from functools import cache
from typing import Any

import numpy as np

from chainrule.autodiff.contract import Context, pull, push, several, traced_too
from chainrule.autodiff.custom import mark
from chainrule.core.aval import Aval
from chainrule.core.errors import FunctionError
from chainrule.core.interp import BASE, EVERYDAY, QUIET, Tag, current, evaluate, tracking, using
from chainrule.core.node import Node, make
from chainrule.core.primitive import Primitive, functions
from chainrule.tape import item, set_tangents, tangent_of, twin
from chainrule.tensor import Tensor, new, seen

__all__ = ["Context", "Function"]


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
        ctx.needs_input_grad = tuple(node is not None or _may_be_tracked(x) for node, x in zip(nodes, args, strict=True))
        # There are no histories inside, but derivatives of a graph may pass.
        bit = 0 if mode.tracer is None else mode.tracking & mode.tracer.tag.bit
        readings: list[None] = []
        with using(mode.but(tracking=bit, running=BASE | bit, opaque=0, readings=readings)):
            # With names of its own, which it may rebind, and free to compute in NumPy.
            with traced_too(cls, "forward"):
                returned = cls.forward(ctx, *(new(x._value, x._node) if isinstance(x, Tensor) else x for x in args))
            single = not isinstance(returned, tuple)
            outputs = [_output(cls, x) for x in ((returned,) if single else returned)]
            ctx._settle(args, outputs, read=bool(readings))
            if mode.tracer is not None:
                outputs = mark(cls, ctx, args, outputs)
        tags = 0
        for node in nodes:
            tags |= 0 if node is None else node.tags & mode.tracking
        if tags:
            params = {"ctx": ctx, "function": cls, "outputs": tuple(Aval(x.shape, x.dtype) for x in outputs)}
            node = make(_primitive(cls.__name__), nodes, (), params, tags, None, None)
            ctx._node = weakref.ref(node)
            outputs = [item(x._value, node, i, len(outputs), tags) for i, x in enumerate(outputs)]
            cls._push_forward(ctx, node, args, outputs)
        result = outputs[0] if single else tuple(outputs)
        if mode.tracer is not None:
            mode.tracer.returning(result)
        return result

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
                pushed = push(cls, seen, tangents, outputs)
            set_tangents(node, outputs, tag, pushed)


@cache
def _primitive(name: str) -> Primitive:
    """The record that Functions of this name share: all that they do is in their context."""
    return Primitive(
        name=name,
        inputs=("*xs",),
        aval=lambda *xs, ctx, function, outputs: outputs,
        eval=lambda *xs, ctx, function, outputs: tuple(x._value for x in several(function.apply(*map(new, xs)))),
        batch=_no_batch,
        vjp=_pull,
        outputs=True,
    )


def _no_batch(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Any) -> Any:
    raise FunctionError(f"{primitive.name} stands on the tape, and has no batch rule", mend="trace the function that applies it: cr.vmap does")


def _pull(ct: tuple[Any, ...], to: tuple[Any, ...], ctx: Context, function: type[Function], outputs: tuple[Aval, ...]) -> tuple[Any, ...]:
    if current().interpret is evaluate:
        with using(QUIET):
            given = [functions.zeros(aval.shape, dtype=aval.dtype) if x is None else new(x) for x, aval in zip(ct, outputs, strict=True)]
            found = pull(function, ctx, given, to, again=False)
        return tuple(None if x is None else x._value for x in found)
    # With names of its own: backward may rebind them.
    given = [functions.zeros(aval.shape, dtype=aval.dtype) if x is None else new(x._value, x._node) for x, aval in zip(ct, outputs, strict=True)]
    return pull(function, ctx, given, to, again=bool(current().tracking & _tags(ctx, given)))


def _tags(ctx: Context, cts: Sequence[Tensor]) -> int:
    node = None if ctx._node is None else ctx._node()
    tags = 0 if node is None else node.tags
    for ct in cts:
        tags |= 0 if ct._node is None else ct._node.tags
    return tags


def _tracked(x: Any, mask: int) -> Node | None:
    return x._node if isinstance(x, Tensor) and x._node is not None and x._node.tags & mask else None


def _may_be_tracked(x: Any) -> bool:
    """Whether the graph that is being written may be differentiated by this argument."""
    return isinstance(x, Tensor) and current().tracer is not None and x.dtype.kind == "f"


def _output(function: type[Function], x: Any) -> Tensor:
    if isinstance(x, (np.ndarray, np.generic, int, float)):
        x = functions.asarray(x)
    if not isinstance(x, Tensor):
        raise FunctionError(f"{function.__name__}.forward returned a {type(x).__name__}", mend="return a Tensor or a tuple of Tensors")
    return new(x._value)
