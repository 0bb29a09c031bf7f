"""Whole Jacobians: jacobian, hessian and hvp.

A Jacobian is a linear map applied to all unit vectors at once: the derivative's graph runs with its own batch rules on
blocks of the identity, as many rows of it as fit a budget of memory. Whether the unit vectors are directions,
cotangents, or both around a narrow waist is `bracketing`'s choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from itertools import accumulate, chain
from typing import Any

import numpy as np

from chainrule.autodiff.bracketing import Chain, CostTable, Plan, Segment
from chainrule.autodiff.cost import live_bytes
from chainrule.autodiff.forward import jvp
from chainrule.autodiff.linearize import lifting, real
from chainrule.autodiff.reverse import grad
from chainrule.autodiff.scope import argument_positions
from chainrule.autodiff.vmap import apply_batched
from chainrule.core import tree
from chainrule.core.aval import Aval
from chainrule.core.errors import ArgumentError, GradientError
from chainrule.core.interp import current
from chainrule.core.primitive import functions
from chainrule.core.size import parse_bytes
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph
from chainrule.graph.naming import leaf_names
from chainrule.graph.trace import trace_with
from chainrule.ops.gate import made
from chainrule.tensor import Tensor

__all__ = ["hessian", "hvp", "jacobian"]

# Containers of Tensors have no narrower type.
Tree = Any

MODES = ("auto", "forward", "reverse", "mixed")


def jacobian(
    f: Callable[..., Tree], /, argnums: int | Sequence[int] = 0, mode: str = "auto", *, explain: bool = False, memory_budget: int | str = "256MB"
) -> Callable[..., Any]:
    """A function that returns all derivatives of ``f``'s results by its arguments.

    Parameters
    ----------
    f : callable
        A function of Tensors, or nested containers of them, with such a result.
    argnums : int or sequence of int
        Positions of the arguments to differentiate by; they may be nested containers.
    mode : {"auto", "forward", "reverse", "mixed"}
        "forward" pushes a direction per element of the arguments, "reverse" pulls a cotangent per element of the results, "mixed"
        multiplies the Jacobians of stages in the cheapest order. "auto" counts the multiplications of each and takes the fewest.
    explain : bool
        Whether the function returns also a table that prints what each mode costs, and which was taken.
    memory_budget : int or str
        How many bytes the values between arguments and results may take, "200MB" say; directions or cotangents are handled in
        blocks that keep to it. The Jacobian itself does not count.

    Returns
    -------
    callable
        With the signature of ``f``; returns the Jacobian. It is nested like the result of ``f``, with in the place of each of its
        tensors a container like the argument (for several ``argnums`` a tuple of them), whose blocks have the shapes
        ``(*result.shape, *argument.shape)``. With ``explain`` a pair of it and the table.

    Raises
    ------
    ArgumentError
        If there is no such mode, or when called: if there is no argument at one of ``argnums``, or "mixed" is asked for a
        function without a waist.
    GradientError
        When called: if an argument or a result is not real floating point.
    TraceError
        When called: if ``f`` branches on values.

    Notes
    -----
    A waist is a value through which all paths from arguments to results pass and that has fewer elements than what is before and behind it.
    Between waists the order of products is chosen by dynamic programming over the costs of the matrix chain (Griewank and
    Naumann, "Accumulating Jacobians as chained sparse matrix products", 2003), each stretch being taken forward, in
    reverse, or as a product of two. An elementwise gate counts as one multiplication per element.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.jacobian(lambda x: x**2)(cr.tensor([1.0, 2.0]))
    tensor([[2., 0.],
            [0., 4.]])

    What is squeezed through two numbers is differentiated from there in both directions:

    >>> w, v = cr.ones((2, 64)), cr.ones((64, 2))
    >>> def squeeze(x):
    ...     waist = cr.tanh(w @ x)
    ...     return v @ waist
    >>> J, table = cr.jacobian(squeeze, explain=True)(cr.zeros((64,)))
    >>> print(table)
    jacobian of squeeze: 64 inputs, 64 outputs
    mode     multiplications          why
    forward           16,774          64 directions of 258, and 262 once
    reverse           16,774          64 cotangents of 258, and 262 once
    mixed              8,970  chosen  through waist (2): 778 in the stages, 8,192 in products
    stages of mixed
      J1: 64 -> 2, reverse, 394
      J2: 2 -> 64, forward, 384
    multiplied as J2 · J1
    """
    if mode not in MODES:
        raise ArgumentError(f"jacobian: there is no mode {mode!r}", mend=f"choose one of {', '.join(MODES)}")
    budget = parse_bytes(memory_budget, "jacobian: memory_budget")

    @wraps(f)
    def differentiated(*args: Tree, **kwargs: Any) -> Any:
        leaves, names, structure, function = _chosen(f, argnums, args, kwargs)
        points = [real(x) for x in leaves]
        avals = [Aval(x.shape, x.dtype) for x in points]
        graph, _ = trace_with(function, avals, tree.flatten(tuple(range(len(avals))))[1], names=names, at_once=True)
        _check_results(graph)
        stages = Chain(graph, len(points), len(graph.returned))
        table: CostTable | None = None
        if mode in ("auto", "mixed") or explain:
            plan, table = stages.choose(mode)
        else:
            plan = Plan(mode, 0, stages.stages)
        blocks, values = _evaluate(stages, plan, [*points, *graph.read()], budget)
        graph.write([values[x] for x in graph.outputs[len(graph.returned) :]])
        J = graph.results.rebuild(structure.rebuild(row) for row in blocks)
        return (J, table) if explain else J

    return differentiated


def hessian(f: Callable[..., Tensor], /, argnums: int | Sequence[int] = 0, *, memory_budget: int | str = "256MB") -> Callable[..., Tree]:
    """A function that returns all second derivatives of ``f``: forward mode over reverse.

    Parameters
    ----------
    f : callable
        Returns a scalar Tensor.
    argnums : int or sequence of int
        Positions of the arguments to differentiate by; they may be nested containers.
    memory_budget : int or str
        See `jacobian`.

    Returns
    -------
    callable
        With the signature of ``f``; returns the Hessian, nested like the argument twice over: in the place of each
        of its tensors ``a`` another such container, whose blocks have the shapes ``(*a.shape, *b.shape)``.

    Raises
    ------
    GradientError, ArgumentError, TraceError
        As `grad` and `jacobian` do.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.hessian(lambda x: x[0] ** 2 * x[1])(cr.tensor([1.0, 3.0]))
    tensor([[6., 2.],
            [2., 0.]])
    """
    return jacobian(grad(f, argnums), argnums, "forward", memory_budget=memory_budget)


def hvp(f: Callable[..., Tensor], primals: Sequence[Tree], tangents: Sequence[Tree], /) -> Tree:
    """The Hessian of ``f`` times a direction, without the Hessian.

    Parameters
    ----------
    f : callable
        Returns a scalar Tensor.
    primals : sequence of Tensor, array_like or containers of them
        Real floating-point arguments of ``f``.
    tangents : sequence
        The direction: nested like ``primals``, leaf by leaf of the same shape.

    Returns
    -------
    Tensor or container
        Nested like the only primal, or a tuple with one part per primal.

    Raises
    ------
    GradientError
        If ``f`` does not return a scalar, a primal is not real floating point, or a tangent does not fit its primal.

    Notes
    -----
    The derivative of the gradient along the direction, forward mode over reverse (Pearlmutter, "Fast exact multiplication
    by the Hessian", 1994); it takes a few times as long as ``f``.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.hvp(lambda x: cr.sum(x**3), (cr.tensor([1.0, 2.0]),), (cr.tensor([1.0, 1.0]),))
    tensor([ 6., 12.])
    """
    if not isinstance(primals, (tuple, list)) or not isinstance(tangents, (tuple, list)):
        raise GradientError("hvp takes a tuple of primals and a tuple of tangents", mend="write cr.hvp(f, (x,), (t,))")
    _, along = jvp(grad(f, tuple(range(len(primals)))), primals, tangents)
    return along[0] if len(primals) == 1 else along


def _chosen(
    f: Callable[..., Tree], argnums: int | Sequence[int], args: tuple[Tree, ...], kwargs: dict[str, Any]
) -> tuple[list[Any], list[str], tree.Structure, Callable[..., Tree]]:
    """The leaves of the arguments to differentiate by, their names, how they are nested in the result, and ``f`` as a function of their leaves."""
    positions = argument_positions(argnums, len(args))
    leaves, structure = tree.flatten(tuple(args[position] for position in positions))
    names = [leaf_names(f, args[: position + 1])[-len(tree.leaves(args[position])) :] for position in positions]
    lifted = lifting(f)

    def function(*leaves: Tensor) -> Tree:
        given = list(args)
        for position, x in zip(positions, structure.rebuild(leaves), strict=True):
            given[position] = x
        return lifted(*given, **kwargs)

    function.__name__ = lifted.__name__
    return leaves, list(chain.from_iterable(names)), structure.children[0] if isinstance(argnums, int) else structure, function


def _check_results(graph: Graph) -> None:
    for x in graph.returned:
        if x.dtype.kind != "f":
            raise GradientError(f"the result {x} of {graph.name}, {x.aval}, cannot be differentiated", mend="return real floating-point tensors only")


# A block per result and argument.
Blocks = list[list[Tensor]]


def _evaluate(stages: Chain, plan: Plan, given: Sequence[Tensor], budget: int) -> tuple[Blocks, dict[Variable, Any]]:
    """The Jacobian, and all values that pass between the stages."""
    values: dict[Variable, Any] = dict(zip(stages.graph.inputs, given, strict=True))
    values.update((x, functions.asarray(value)) for x, value in stages.graph.constants.items())
    found: dict[tuple[int, int], Blocks] = {}
    for stretch in plan.stretches():
        segment = stages.segment(stretch.first, stretch.last)
        found[stretch.first, stretch.last] = _of_segment(segment, stretch.mode, values, budget)
    # Products of products: as deep as there are waists, of which there are few.
    return _multiplied(stages, plan, found), values


def _multiplied(stages: Chain, plan: Plan, found: dict[tuple[int, int], Blocks]) -> Blocks:
    if plan.left is None or plan.right is None:
        return found[plan.first, plan.last]
    left, (right,) = _multiplied(stages, plan.left, found), _multiplied(stages, plan.right, found)
    shared = stages.waists[plan.left.first - 1][1].ndim
    return [[functions.tensordot(row[0], x, axes=shared) for x in right] for row in left]


def _of_segment(segment: Segment, mode: str, values: dict[Variable, Any], budget: int) -> Blocks:
    """The Jacobian of a segment; its values are entered among the others."""
    linear = segment.forward if mode == "forward" else segment.reverse
    graph = segment.graph
    early = linear.early.apply([values[x] for x in graph.inputs])
    values.update(zip(graph.outputs, early, strict=False))
    residuals = early[len(graph.outputs) :]
    ins = [x.aval for x in graph.inputs[: segment.inputs]]
    outs = [x.aval for x in graph.outputs[: segment.outputs]]
    seeds, results = (ins, outs) if mode == "forward" else (outs, ins)
    columns = _stacked(_swept(linear.late, residuals, seeds, results, budget), sum(x.size for x in seeds), results)
    parts = [_parts(column, seeds) for column in columns]
    if mode == "reverse":
        return [list(row) for row in zip(*parts, strict=True)]
    return [[_turned(part, x.ndim) for part, x in zip(row, ins, strict=True)] for row in parts]


def _swept(late: Graph, residuals: Sequence[Tensor], seeds: Sequence[Aval], results: Sequence[Aval], budget: int) -> Iterator[list[Tensor]]:
    """What the rows of the identity become, block by block."""
    moving = [*late.inputs[len(residuals) :], *(x for node in late.nodes for x in node.outputs)]
    step = max(1, budget // max(1, live_bytes(late, moving)))
    total = sum(x.size for x in seeds)
    batched = [False] * len(residuals) + [True] * len(seeds)
    for start in range(0, total, step):
        stop = min(start + step, total)
        outs, ones = apply_batched(late, batched, [*residuals, *_identity(seeds, start, stop)])
        yield [x if b else functions.broadcast_to(x, (stop - start, *aval.shape)) for x, b, aval in zip(outs, ones, results, strict=True)]


def _identity(avals: Sequence[Aval], start: int, stop: int) -> list[Tensor]:
    """Rows of the identity over all elements of tensors of these shapes."""
    found: list[Tensor] = []
    first = 0
    for aval in avals:
        rows = np.zeros((stop - start, aval.size), aval.dtype)
        own = np.arange(max(start, first), min(stop, first + aval.size))
        rows[own - start, own - first] = 1
        found.append(made(rows.reshape(stop - start, *aval.shape)))
        first += aval.size
    return found


def _stacked(blocks: Iterator[list[Tensor]], total: int, avals: Sequence[Aval]) -> list[Tensor]:
    """Blocks of rows as one; where nothing is recorded they are written where they belong, for joining them would need the room twice."""
    first = next(blocks, None)
    if first is None:
        return [functions.zeros((0, *aval.shape), dtype=aval.dtype) for aval in avals]
    if not first or first[0].shape[0] == total:
        return first
    if current().tracer is not None or any(x._node is not None for x in first):
        return [functions.concat(list(column)) for column in zip(first, *blocks, strict=True)]
    whole = [np.empty((total, *x.shape[1:]), x.dtype) for x in first]
    start = 0
    for block in chain([first], blocks):
        stop = start + block[0].shape[0]
        for rows, x in zip(whole, block, strict=True):
            rows[start:stop] = x._value
        start = stop
    return [made(rows) for rows in whole]


def _parts(x: Tensor, avals: Sequence[Aval]) -> list[Tensor]:
    """The rows taken apart again: those of one tensor's elements, in its shape."""
    stops = list(accumulate(aval.size for aval in avals))
    return [
        functions.reshape(x if len(avals) == 1 else x[stop - aval.size : stop], (*aval.shape, *x.shape[1:]))
        for stop, aval in zip(stops, avals, strict=True)
    ]


def _turned(x: Tensor, count: int) -> Tensor:
    """The first axes last."""
    return functions.permute_dims(x, (*range(count, x.ndim), *range(count))) if count else x
