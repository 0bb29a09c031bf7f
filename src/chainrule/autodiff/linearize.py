"""linearize: the derivative at a point as a function of its own, to be applied to many directions.

The derivative of a function is written down as one graph and cut in two: what depends on the point alone runs once,
what depends on the direction runs for each. Jacobians are built on the same two halves, with directions
for forward mode and with cotangents for reverse mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from chainrule.autodiff.forward import jvp
from chainrule.autodiff.reverse import vjp
from chainrule.autodiff.scope import tensors_like
from chainrule.core import tree
from chainrule.core.aval import Aval
from chainrule.core.errors import GradientError
from chainrule.graph.ir import Graph
from chainrule.graph.naming import leaf_names
from chainrule.graph.split import split
from chainrule.graph.trace import trace_with
from chainrule.ops.gate import alias, lift
from chainrule.tensor import Tensor

__all__ = ["linearize"]

# Containers of Tensors have no narrower type.
Tree = Any


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """A linear map between flat lists of tensors, at a point that is not chosen yet.

    Attributes
    ----------
    early : Graph
        From the inputs of the function to its outputs and, after them, the residuals.
    late : Graph
        From the residuals and, after them, a direction for each input (forward) or a cotangent for each
        output (reverse) to the other.
    """

    early: Graph
    late: Graph
    seeds: int

    @property
    def residuals(self) -> int:
        return len(self.late.inputs) - self.seeds


def forward(graph: Graph, wrt: Sequence[int], of: Sequence[int]) -> Linear:
    """The derivative of the outputs ``of`` by the inputs ``wrt``, from directions to tangents."""

    def derivative(*values: Tensor) -> Any:
        inputs, directions = list(values[:count]), values[count:]

        def chosen(*own: Tensor) -> Any:
            for i, x in zip(wrt, own, strict=True):
                inputs[i] = x
            outs = graph.apply(inputs)
            return [outs[i] for i in of], outs

        _, tangents, outs = jvp(chosen, tuple(inputs[i] for i in wrt), directions, has_aux=True)
        return outs, tangents

    count = len(graph.inputs)
    return _halves(derivative, graph, [graph.inputs[i].aval for i in wrt], [f"d_{graph.inputs[i].name}" for i in wrt], len(of))


def reverse(graph: Graph, wrt: Sequence[int], of: Sequence[int]) -> Linear:
    """The same from cotangents of the outputs to those of the inputs."""

    def derivative(*values: Tensor) -> Any:
        inputs, cotangents = list(values[:count]), values[count:]

        def chosen(*own: Tensor) -> Any:
            for i, x in zip(wrt, own, strict=True):
                inputs[i] = x
            outs = graph.apply(inputs)
            return [outs[i] for i in of], outs

        _, pull, outs = vjp(chosen, *(inputs[i] for i in wrt), has_aux=True)
        return outs, pull(list(cotangents))

    count = len(graph.inputs)
    return _halves(derivative, graph, [graph.outputs[i].aval for i in of], ["" for _ in of], len(wrt))


def _halves(derivative: Callable[..., Any], graph: Graph, seeds: Sequence[Aval], names: Sequence[str], found: int) -> Linear:
    avals = [*(x.aval for x in graph.inputs), *seeds]
    names = [*(x.name for x in graph.inputs), *names]
    derivative.__name__ = f"d_{graph.name}"
    whole, _ = trace_with(derivative, avals, tree.flatten(tuple(range(len(avals))))[1], names=names)
    early, late, _ = split(whole, range(len(graph.inputs), len(avals)), range(len(whole.outputs) - found, len(whole.outputs)))
    return Linear(early, late, len(seeds))


def linearize(f: Callable[..., Tree], /, *primals: Tree) -> tuple[Tree, Callable[..., Tree]]:
    """The value of ``f`` and its derivative there, as a linear function to be applied many times.

    Parameters
    ----------
    f : callable
        A function of Tensors, or nested containers of them, with such a result.
    *primals : Tensor, array_like or containers of them
        Real floating-point arguments of ``f``.

    Returns
    -------
    out : Tensor or container
        ``f(*primals)``.
    push : callable
        ``push(*tangents)``, nested like the primals, returns the tangent of the output; ``f`` is not
        evaluated again.

    Raises
    ------
    GradientError
        If a primal is not real floating point, or a tangent does not fit its primal.
    TraceError
        If ``f`` branches on values.

    Notes
    -----
    The Jacobian-vector product t -> J t of `jvp` with everything computed in advance that does not depend on t; the numbers
    that this needs stay in memory as long as ``push`` does.

    Examples
    --------
    >>> import chainrule as cr
    >>> out, push = cr.linearize(cr.sin, 0.0)
    >>> out, push(1.0), push(2.0)
    (tensor(0.), tensor(1.), tensor(2.))
    """
    leaves, structure = tree.flatten(primals)
    points = [real(x) for x in leaves]
    graph, _ = trace_with(lifting(f), [Aval(x.shape, x.dtype) for x in points], structure, names=leaf_names(f, primals), at_once=True)
    wrt = range(len(points))
    of = range(len(graph.returned))
    linear = forward(graph, wrt, of)
    early = linear.early.apply([*points, *graph.read()])
    outs, residuals = early[: len(graph.outputs)], early[len(graph.outputs) :]
    graph.write(outs[len(of) :])
    # All that is kept for later.
    late, results, like = linear.late, graph.results, [Aval(x.shape, x.dtype) for x in points]

    def push(*tangents: Tree) -> Tree:
        directions = tensors_like(tangents, structure, like, "tangents")
        return results.rebuild(map(alias, late.apply([*residuals, *directions])))

    return graph.results.rebuild(map(alias, outs[: len(of)])), push


def lifting(f: Callable[..., Tree]) -> Callable[..., Tree]:
    """``f`` with tensors alone in its result."""

    def lifted(*args: Tree, **kwargs: Any) -> Tree:
        return tree.map(lift, f(*args, **kwargs))

    lifted.__name__ = getattr(f, "__name__", "f")
    return lifted


def real(x: Any) -> Tensor:
    x = lift(x)
    if x.dtype.kind != "f":
        hint = "complex values compute, but have no gradients yet" if x.dtype.kind == "c" else "convert it, for example with astype(cr.float32)"
        raise GradientError(f"an argument of dtype {x.dtype} cannot be differentiated", mend=hint)
    return x
