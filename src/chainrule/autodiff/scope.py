"""How values enter and leave a transform.

Inside, an input is a fresh node that carries the transform's tag and is linked to what it was outside;
results leave without the tag. So a transform sees exactly the dependence on its own inputs,
whatever else is being differentiated around it or within it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chainrule.core import tree
from chainrule.core.aval import Aval
from chainrule.core.errors import ArgumentError, DtypeError, GradientError
from chainrule.core.interp import Tag, current
from chainrule.core.node import NO_PARAMS, Cell, Node, make
from chainrule.core.primitive import Primitive, functions
from chainrule.tensor import Tensor, new, seen

ALIAS = Primitive(
    name="alias",
    inputs=("x",),
    aval=lambda x: x,
    eval=lambda x: x,
    batch=lambda primitive, batched, inputs, params: inputs[0],
    partials=(1,),
    scalar=lambda k, x: x,
)
"""The identity between a value inside and outside of a transform; part of the tape, not of the table."""


def argument_positions(argnums: int | Sequence[int], count: int) -> tuple[int, ...]:
    """The positions that ``argnums`` means among ``count`` arguments.

    Raises
    ------
    ArgumentError
        If there is no argument at one of them, or one is named twice.
    """
    given = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    for position in given:
        if not -count <= position < count:
            raise ArgumentError(f"argnums={position}, but there are {count} positional arguments", mend="count the arguments from 0")
    found = tuple(position % count for position in given)
    if len(set(found)) < len(found):
        raise ArgumentError(f"argnums={given} names an argument twice", mend="name each once")
    return found


def enter(x: Any, tag: Tag, role: str) -> Tensor:
    """``x`` as the transform with this tag sees it.

    Raises
    ------
    GradientError
        If ``x`` is not real floating point.
    """
    x = seen(functions.asarray(x))
    if x.dtype.kind != "f":
        hint = "complex values compute, but have no gradients yet" if x.dtype.kind == "c" else "convert it, for example with astype(cr.float32)"
        raise GradientError(f"{role} of dtype {x.dtype} cannot be differentiated", mend=hint)
    outside: Node | None = x._node
    tags = 0 if outside is None else outside.tags & current().tracking
    node = _alias(outside, tags | tag.bit) if outside is not None and tags else make(None, (), (), NO_PARAMS, tag.bit, x.shape, x.dtype)
    node.cell = node.cell or Cell(retains=False)
    node.cell.tag = tag
    tracer = current().tracer
    if tracer is not None:
        tracer.named(node, x._value)
    return new(x._value, node)


def node_of(x: Tensor) -> Node:
    """The node of a tensor that entered a transform: it always has one."""
    assert x._node is not None
    return x._node


def leave(x: Any, bit: int) -> Any:
    """A result without the tag; other derivatives flow through it as before."""
    if not isinstance(x, Tensor) or x._node is None or not x._node.tags & bit:
        return x
    rest = x._node.tags & current().running & ~bit
    return new(x._value, _alias(x._node, rest, bit) if rest else None)


def _alias(node: Node, tags: int, left: int = 0) -> Node:
    made = make(ALIAS, (node,), (), NO_PARAMS, tags, node.shape, node.dtype)
    tangents = {} if node.cell is None else {tag: leave(t, left) for tag, t in node.cell.tangents.items() if tag.bit & tags}
    if tangents:
        made.cell = Cell(retains=False)
        made.cell.tangents = tangents
    return made


def tensors_like(given: Any, wanted: tree.Structure, examples: Sequence[Tensor | Aval], role: str) -> list[Tensor]:
    """The leaves of ``given`` as Tensors of the examples' shapes and dtypes.

    Raises
    ------
    GradientError
        If structure, shape or kind differ.
    """
    leaves, structure = tree.flatten(given)
    if structure != wanted:
        raise GradientError(
            f"{role} have the structure {tree.describe(structure)}, not {tree.describe(wanted)}", mend="nest them as the values that they belong to"
        )
    return [_like(leaf, example, role) for leaf, example in zip(leaves, examples, strict=True)]


def _like(given: Any, example: Tensor | Aval, role: str) -> Tensor:
    try:
        given = seen(functions.asarray(given))
    except DtypeError as error:
        raise GradientError(f"{role} must be tensors: {error.what}") from None
    if given.shape != example.shape:
        raise GradientError(f"{role} must have the shape {example.shape}, not {given.shape}", mend="shapes agree leaf by leaf")
    return given if given.dtype == example.dtype or example.dtype.kind != "f" else functions.astype(given, example.dtype)
