"""Forward mode: the tangent rides along with the value, gate by gate, and no tape is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from chainrule.autodiff.scope import enter, leave, tensors_like
from chainrule.core import tree
from chainrule.core.errors import GradientError
from chainrule.core.interp import Tag, transforming
from chainrule.core.primitive import functions, public
from chainrule.tape import set_tangent, tangent_of
from chainrule.tensor import Tensor, new

__all__ = ["jvp"]


@public
def jvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], *, has_aux: bool = False) -> tuple[Any, ...]:
    """The value of ``f`` and its derivative along a direction.

    Parameters
    ----------
    f : callable
        A function of Tensors, or nested containers of them, with such a result.
    primals : sequence of Tensor, array_like or containers of them
        Real floating-point arguments of ``f``.
    tangents : sequence
        The direction: nested like ``primals``, leaf by leaf of the same shape.
    has_aux : bool
        Whether ``f`` returns a pair, of which the second part is handed through undifferentiated.

    Returns
    -------
    out : Tensor or container
        ``f(*primals)``.
    tangent_out : Tensor or container
        Its derivative along the direction, zeros where an output does not depend on the primals.
    aux : any
        With ``has_aux`` only.

    Raises
    ------
    GradientError
        If a primal is not real floating point, or a tangent does not fit its primal.

    Notes
    -----
    The Jacobian-vector product J t, in one pass and without a tape: memory is that of running ``f``
    with two numbers for each one.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.jvp(lambda x, y: x * y, (3.0, -4.0), (1.0, 0.5))
    (tensor(-12.), tensor(-2.5))
    """
    tag = Tag(forward=True)
    if not isinstance(primals, (tuple, list)) or not isinstance(tangents, (tuple, list)):
        raise GradientError("jvp takes a tuple of primals and a tuple of tangents", mend="write cr.jvp(f, (x,), (t,))")
    leaves, structure = tree.flatten(tuple(primals))
    inside = [enter(x, tag, "an argument") for x in leaves]
    directions = tensors_like(tuple(tangents), structure, inside, "tangents")
    for x, t in zip(inside, directions, strict=True):
        set_tangent(x, tag, t)
    with transforming(tag.bit):
        out = f(*structure.rebuild(inside))
    aux = None
    if has_aux:
        if not isinstance(out, tuple) or len(out) != 2:
            raise GradientError("with has_aux=True the function must return a pair (output, aux)")
        out, aux = out
    ends, out_structure = tree.flatten(tree.map(functions.asarray, out))
    carried = out_structure.rebuild(_tangent(x, tag) for x in ends)
    result = out_structure.rebuild(leave(x, tag.bit) for x in ends)
    return (result, carried, tree.map(lambda x: leave(x, tag.bit), aux)) if has_aux else (result, carried)


def _tangent(x: Tensor, tag: Tag) -> Tensor:
    t = tangent_of(x, tag)
    return functions.zeros_like(leave(x, tag.bit)) if t is None else new(t._value, t._node)
