"""Reverse mode as transforms of functions: vjp, grad, value_and_grad.

The function runs once, on inputs that carry a fresh tag; the tape that it leaves is swept back. All three
nest in one another and in `jvp`, to any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from chainrule.autodiff.scope import argument_positions, enter, leave, node_of, tensors_like
from chainrule.core import tree
from chainrule.core.errors import GradientError
from chainrule.core.interp import Tag, transforming
from chainrule.core.node import Node
from chainrule.core.primitive import functions, public
from chainrule.tape import reverse, seed
from chainrule.tensor import Tensor

__all__ = ["grad", "value_and_grad", "vjp"]

# Containers of Tensors have no narrower type.
Tree = Any


@public
def vjp(f: Callable[..., Tree], /, *primals: Tree, has_aux: bool = False) -> tuple[Any, ...]:
    """The value of ``f`` and the function that carries cotangents from its outputs to its inputs.

    Parameters
    ----------
    f : callable
        A function of Tensors, or nested containers of them, with such a result.
    *primals : Tensor, array_like or containers of them
        Real floating-point arguments of ``f``.
    has_aux : bool
        Whether ``f`` returns a pair, of which the second part is handed through undifferentiated.

    Returns
    -------
    out : Tensor or container
        ``f(*primals)``.
    pull : callable
        ``pull(ct)`` with a cotangent for each output returns a tuple with one cotangent per primal,
        zeros where no output depends on it; it may be called any number of times.
    aux : any
        With ``has_aux`` only.

    Raises
    ------
    GradientError
        If a primal is not real floating point, or a cotangent does not fit its output.

    Notes
    -----
    The vector-Jacobian product: ct -> ct^T J. The Jacobian J itself is never formed.

    Examples
    --------
    >>> import chainrule as cr
    >>> out, pull = cr.vjp(lambda x, y: x * y, 3.0, -4.0)
    >>> out, pull(1.0)
    (tensor(-12.), (tensor(-4.), tensor(3.)))
    """
    tag = Tag()
    leaves, structure = tree.flatten(primals)
    inside = [enter(x, tag, "an argument") for x in leaves]
    nodes = [node_of(x) for x in inside]
    with transforming(tag.bit):
        out = f(*structure.rebuild(inside))
    out, aux = _split(out) if has_aux else (out, None)
    ends, out_structure = tree.flatten(tree.map(functions.asarray, out))

    def pull(ct: Tree) -> tuple[Tree, ...]:
        cotangents = tensors_like(ct, out_structure, ends, "cotangents")
        found = reverse(ends, cotangents, tag.bit, retain=True, wanted=nodes)
        return structure.rebuild(_or_zeros(found.get(node), x) for node, x in zip(nodes, leaves, strict=True))

    result = out_structure.rebuild(leave(x, tag.bit) for x in ends)
    return (result, pull, tree.map(lambda x: leave(x, tag.bit), aux)) if has_aux else (result, pull)


def value_and_grad(f: Callable[..., Any], /, argnums: int | Sequence[int] = 0, *, has_aux: bool = False) -> Callable[..., Any]:
    """A function that returns the value of ``f`` and its gradient.

    Parameters
    ----------
    f : callable
        Returns a scalar Tensor, or with ``has_aux`` a pair of it and anything.
    argnums : int or sequence of int
        Positions of the arguments to differentiate by; they may be nested containers.
    has_aux : bool
        Whether ``f`` returns a pair, of which only the first part is differentiated.

    Returns
    -------
    callable
        With the signature of ``f``; returns ``(value, gradient)``, or ``((value, aux), gradient)``. The
        gradient has the structure of the argument (a tuple of them for several argnums), zeros
        where the value does not depend on it.

    Raises
    ------
    GradientError
        When called: if the value is not a scalar, or an argument is not real floating point.
    ArgumentError
        When called: if there is no argument at one of ``argnums``, or one is named twice.

    Examples
    --------
    >>> import chainrule as cr
    >>> loss = lambda p, x: cr.sum(p["w"] * x + p["b"])
    >>> cr.value_and_grad(loss)({"w": cr.tensor([1.0, 2.0]), "b": 0.5}, cr.tensor([3.0, 4.0]))
    (tensor(12.), {'w': tensor([3., 4.]), 'b': tensor(2.)})
    """
    single = isinstance(argnums, int)

    @wraps(f)
    def differentiated(*args: Any, **kwargs: Any) -> Any:
        positions = argument_positions(argnums, len(args))
        tag = Tag()
        chosen = tuple(args[position] for position in positions)
        leaves, structure = tree.flatten(chosen)
        inside = [enter(x, tag, "an argument") for x in leaves]
        # Taken now: the function may rebind its arguments.
        nodes = [node_of(x) for x in inside]
        entered = structure.rebuild(inside)
        given = list(args)
        for position, x in zip(positions, entered, strict=True):
            given[position] = x
        with transforming(tag.bit):
            out = f(*given, **kwargs)
        out, aux = _split(out) if has_aux else (out, None)
        gradients = structure.rebuild(_gradients(_scalar(out), nodes, leaves, tag.bit))
        value = leave(functions.asarray(out), tag.bit)
        return (value, tree.map(lambda x: leave(x, tag.bit), aux)) if has_aux else value, gradients[0] if single else gradients

    return differentiated


def grad(f: Callable[..., Any], /, argnums: int | Sequence[int] = 0, *, has_aux: bool = False) -> Callable[..., Any]:
    """A function that returns the gradient of ``f``, or with ``has_aux`` the pair of it and the rest.

    Parameters, result and errors are those of `value_and_grad`, without the value.

    Examples
    --------
    >>> import chainrule as cr
    >>> cube = lambda x: x**3
    >>> cr.grad(cube)(2.0), cr.grad(cr.grad(cube))(2.0)
    (tensor(12.), tensor(12.))
    """
    both = value_and_grad(f, argnums, has_aux=has_aux)

    @wraps(f)
    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, gradients = both(*args, **kwargs)
        return (gradients, value[1]) if has_aux else gradients

    return gradient


def _gradients(out: Tensor, nodes: list[Node], outside: list[Any], bit: int) -> list[Tensor]:
    node = out._node
    if node is None or not node.tags & bit:
        return [_or_zeros(None, x) for x in outside]
    found = reverse([out], [seed(out, None, bit)], bit, retain=False, wanted=nodes)
    return [_or_zeros(found.get(n), x) for n, x in zip(nodes, outside, strict=True)]


def _or_zeros(ct: Tensor | None, x: Any) -> Tensor:
    return functions.zeros_like(functions.asarray(x)) if ct is None else ct


def _scalar(out: Any) -> Tensor:
    if not isinstance(out, Tensor) and not isinstance(out, (int, float)):
        raise GradientError(
            f"the function to differentiate returned a {type(out).__name__}, not a scalar tensor",
            mend="return one tensor; use has_aux=True for further results",
        )
    out = functions.asarray(out)
    if out.shape:
        raise GradientError(
            f"the function to differentiate returned shape {out.shape}, not a scalar",
            mend="reduce it, for example with cr.sum; cr.vjp takes any shape",
        )
    return out


def _split(out: Any) -> tuple[Any, Any]:
    if not isinstance(out, tuple) or len(out) != 2:
        raise GradientError("with has_aux=True the function must return a pair (output, aux)")
    return out
