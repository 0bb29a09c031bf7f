"""vmap: a function of one example becomes a function of a batch of them.

The function is traced once, for one example; the graph then runs with every gate's own batch rule, on tensors
with the batch axis in front. What does not depend on the batch is computed once. Nothing here knows
any gate, and nothing loops over examples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, NamedTuple

import numpy as np

from chainrule.core import tree
from chainrule.core.aval import Aval, normalize_axis
from chainrule.core.errors import ArgumentError, AxisError, ShapeError, TraceError
from chainrule.core.interp import current
from chainrule.core.primitive import Primitive, Same, functions, public
from chainrule.graph.ir import Graph
from chainrule.graph.naming import leaf_names
from chainrule.graph.trace import trace_with
from chainrule.ops.gate import alias
from chainrule.tape import bind
from chainrule.tensor import Tensor, new

__all__ = ["vmap"]

# Containers of Tensors, and of axes, have no narrower type.
Tree = Any
Axis = int | None

_NUMBERS = (bool, int, float, complex, np.ndarray, np.generic)


def vmap(f: Callable[..., Tree], /, in_axes: Tree = 0, out_axes: Tree = 0, *, axis_size: int | None = None) -> Callable[..., Tree]:
    """A function that applies ``f`` to every example of a batch at once.

    Parameters
    ----------
    f : callable
        A function of one example: of Tensors, or nested containers of them, with such a result.
    in_axes : int, None or container of them
        The axis of the arguments along which the examples lie; None: the argument is the same for all of them,
        and may be anything. A tuple has an entry per argument; an entry for a container
        holds for everything in it, or is nested like it.
    out_axes : int, None or container of them
        The axis of the results along which the examples will lie. None: the result is the same for
        all examples, and is returned once.
    axis_size : int, optional
        The number of examples; needed where nothing is mapped.

    Returns
    -------
    callable
        With the signature of ``f``. Keyword arguments are the same for all examples.

    Raises
    ------
    ArgumentError
        When called: if ``in_axes`` or ``out_axes`` do not fit the nesting, nothing says how many examples there are, or a result
        that differs between the examples has the axis None.
    AxisError
        If a tensor has no such axis.
    ShapeError
        If tensors have different numbers of examples.
    TraceError
        If ``f`` branches on values, or assigns what differs between the examples to a tensor from outside.

    Notes
    -----
    Random numbers from a generator differ from example to example, and the generator counts one draw for the whole batch.
    A number that ``f`` returns, and a tensor that depends on no mapped argument, is repeated for each example.

    Examples
    --------
    >>> import chainrule as cr
    >>> rows = cr.tensor([[3.0, 4.0], [6.0, 8.0]])
    >>> cr.vmap(cr.linalg.vector_norm)(rows)
    tensor([ 5., 10.])
    >>> cr.vmap(cr.grad(lambda w, x: w * x**2), in_axes=(None, 0))(3.0, cr.tensor([1.0, 2.0]))
    tensor([1., 4.])
    """

    @wraps(f)
    def mapped(*args: Tree, **kwargs: Any) -> Tree:
        leaves, structure = tree.flatten(args)
        axes = _axes_of(in_axes if not isinstance(in_axes, list) else tuple(in_axes), args, "in_axes", "arguments")
        names = leaf_names(f, args)
        places = [i for i, axis in enumerate(axes) if axis is not None]
        batches = [_in_front(leaves[i], axes[i], names[i], "vmap") for i in places]
        size = _size(batches, [(names[i], axes[i]) for i in places], axis_size)
        number = new(np.int64(0))

        def example(*own: Tensor) -> Tree:
            given = list(leaves)
            for i, x in zip(places, own, strict=True):
                given[i] = x
            return tree.map(_tensor, f(*structure.rebuild(given), **kwargs))

        example.__name__ = getattr(f, "__name__", "f")
        avals = [Aval(x.shape[1:], x.dtype) for x in batches]
        nesting = tree.flatten(tuple(batches))[1]
        graph, _ = trace_with(example, avals, nesting, names=[names[i] for i in places], examples=(*current().examples, number), at_once=True)
        outside = graph.read()
        taken = [functions.arange(size) if x is number else x for x in outside]
        outs, batched = apply_batched(graph, [True] * len(batches) + [x is number for x in outside], [*batches, *taken])
        count = len(graph.returned)
        _check_assigned(graph, batched[count:])
        graph.write(outs[count:])
        return _placed(graph, outs[:count], batched[:count], out_axes, size)

    return mapped


class _Batched(NamedTuple):
    """A tensor with the batch axis in front, where others have none."""

    tensor: Tensor


@public
def apply_batched(graph: Graph, batched: Sequence[bool], values: Sequence[Tensor]) -> tuple[list[Tensor], list[bool]]:
    """All outputs of a graph for values of which some have a batch axis in front, and which of the outputs have one.

    Parameters
    ----------
    graph : Graph
    batched : sequence of bool
        Per input, captured ones included, whether its value has a batch axis.
    values : sequence of Tensor
        Per input; nothing is assigned.
    """
    given = [_Batched(x) if b else x for x, b in zip(values, batched, strict=True)]
    outs = graph.apply(given, apply=_bind_batched)
    return [x.tensor if isinstance(x, _Batched) else x for x in outs], [isinstance(x, _Batched) for x in outs]


def _bind_batched(primitive: Primitive, inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    batched = [isinstance(x, _Batched) for x in inputs]
    if True not in batched:
        return bind(primitive, inputs, params)
    given = [x.tensor if isinstance(x, _Batched) else x for x in inputs]
    if any(b and not x.shape[0] for x, b in zip(given, batched, strict=True)):
        out = _of_none(primitive, batched, given, params)
    else:
        out = primitive.batch(primitive, batched, given, params)
    return tuple(x.value if isinstance(x, Same) else _Batched(x) for x in out) if primitive.outputs else _Batched(out)


def _of_none(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    """What a gate gives for a batch of no examples: rules that look at the first one are not asked."""
    found = primitive.aval(*(Aval(x.shape[b:], x.dtype) for x, b in zip(inputs, batched, strict=True)), **params)
    empty = [functions.zeros((0, *aval.shape), dtype=aval.dtype) for aval in (found if primitive.outputs else (found,))]
    return tuple(empty) if primitive.outputs else empty[0]


def _tensor(x: Any) -> Any:
    return functions.asarray(x) if isinstance(x, _NUMBERS) else x


def _axes_of(axes: Tree, container: Tree, role: str, what: str) -> list[Axis]:
    """Per leaf of ``container`` the axis that ``axes``, nested like it down to some depth, gives it."""
    if axes is None or (isinstance(axes, int) and not isinstance(axes, bool)):
        return [axes] * len(tree.leaves(container))
    same = type(axes) is type(container) or (isinstance(axes, dict) and isinstance(container, dict))
    if isinstance(axes, dict) and same:
        parts = [(axes[key], container[key]) for key in container] if axes.keys() == container.keys() else None
    else:
        parts = list(zip(axes, container, strict=True)) if same and isinstance(axes, (tuple, list)) and len(axes) == len(container) else None
    if parts is None:
        says = f"vmap: {role} {axes!r} does not fit the {what} {tree.describe(tree.flatten(container)[1])}"
        raise ArgumentError(says, mend="give an int or None, or nest such like the " + what + "; a tuple has one entry per argument")
    return [axis for part, inside in parts for axis in _axes_of(part, inside, role, what)]


def _in_front(x: Any, axis: Axis, name: str, operation: str) -> Tensor:
    """The batch axis first."""
    x = functions.asarray(x)
    assert axis is not None
    try:
        position = normalize_axis(axis, x.ndim, operation)
    except AxisError as error:
        raise AxisError(f"{error.what}: argument {name} is {Aval(x.shape, x.dtype)}", mend=f"{error.mend}; None hands it through unmapped") from None
    return functions.moveaxis(x, position, 0) if position else x


def _size(batches: Sequence[Tensor], places: Sequence[tuple[str, Axis]], given: int | None) -> int:
    found = [x.shape[0] for x in batches]
    if given is not None:
        found, places = [*found, given], [*places, ("axis_size", None)]
    if not found:
        raise ArgumentError("vmap: no argument is mapped, so nothing says how many examples there are", mend="give axis_size=, or an in_axes entry")
    if len(set(found)) != 1:
        said = ", ".join(f"{name} has {n}" + (f" on axis {axis}" if axis is not None else "") for (name, axis), n in zip(places, found, strict=True))
        raise ShapeError(f"vmap: different numbers of examples: {said}", mend="map axes of one size; in_axes=None hands an argument through unmapped")
    return found[0]


def _check_assigned(graph: Graph, batched: Sequence[bool]) -> None:
    for variable, b in zip(graph.outputs[len(graph.returned) :], batched, strict=True):
        if b:
            raise TraceError(
                f"vmap of {graph.name}: {variable}, {variable.aval} for each example, is assigned to a tensor from outside, which holds one value",
                mend="return it from the function, and assign to the tensor outside: its mean over the examples, say",
            )


def _placed(graph: Graph, outs: Sequence[Tensor], batched: Sequence[bool], out_axes: Tree, size: int) -> Tree:
    """The result, with every batch axis where it is wanted."""
    positions = [i for i in range(graph.results.leaf_count) if i not in graph.statics]
    axes = _axes_of(out_axes, graph.results.rebuild(range(graph.results.leaf_count)), "out_axes", "results")
    placed: list[Any] = []
    for x, b, axis, variable in zip(outs, batched, [axes[i] for i in positions], graph.returned, strict=True):
        if axis is None and b:
            says = f"vmap of {graph.name}: the result {variable} differs between the examples, but its out_axes is None"
            raise ArgumentError(says, mend="give out_axes an int, or reduce the result")
        if axis is None:
            placed.append(alias(x))
            continue
        try:
            position = normalize_axis(axis, variable.ndim + 1, "vmap")
        except AxisError as error:
            says = f"{error.what}: the result {variable} is {variable.aval} for each example"
            raise AxisError(says, mend=error.mend) from None
        x = x if b else functions.broadcast_to(x, (size, *variable.shape))
        placed.append(functions.moveaxis(x, 0, position) if position else alias(x))
    return graph.rebuild(placed)
