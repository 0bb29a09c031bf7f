"""The tape's node: one application of a gate, its inputs, and what its backward pass reads.

Nodes point to the nodes they were computed from, never the other way, so a tape is freed as soon as
nobody holds its end. A node is immutable but for two things: `saved` is dropped when the backward
pass has used it, and the `Cell` collects what arrives here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chainrule.core.aval import Dtype, Shape
    from chainrule.core.interp import Tag
    from chainrule.core.primitive import Primitive

next_order: Callable[[], int] = count(1).__next__
"""Nodes are numbered as they are made, so every input has a smaller number than its user."""

NO_PARAMS: Mapping[str, Any] = {}


class Cell:
    """Where gradients arrive: the leaf's ``.grad``, hooks, and forward-mode tangents by tag.

    The node of a value that entered a transform holds that transform's tag here.

    A leaf and the names bound to it share one cell, which refers to neither.
    """

    __slots__ = ("grad", "hooks", "retains", "tag", "tangents")
    stands_in = False
    """Whether the leaf that it belongs to stands for a value that was computed."""

    def __init__(self, *, retains: bool) -> None:
        self.grad: Any = None
        self.retains = retains
        self.hooks: dict[int, Callable[[Any], Any]] = {}
        self.tangents: dict[Tag, Any] = {}
        self.tag: Tag | None = None


class Node:
    """One application of a gate; a leaf has no gate.

    Attributes
    ----------
    primitive : Primitive or None
        The gate; None for a leaf.
    inputs : tuple of (Node or None)
        The nodes of the inputs, None where an input has no history.
    saved : tuple or None
        Per input and lastly for the output the value that a derivative rule reads, else None; the
        whole is None once freed.
    params : Mapping
        The gate's keyword arguments.
    tags : int
        Whose derivatives flow through here.
    order : int
        Position in time.
    shape, dtype
        Of the output; None where a gate has several.
    cell : Cell or None
        Where gradients arrive, for leaves and watched nodes.
    """

    __slots__ = ("__weakref__", "cell", "dtype", "inputs", "order", "params", "primitive", "saved", "shape", "tags")

    primitive: Primitive | None
    inputs: tuple[Node | None, ...]
    saved: tuple[Any, ...] | None
    params: Mapping[str, Any]
    tags: int
    order: int
    # None for a gate with several outputs: its items have them.
    shape: Any
    dtype: Any
    cell: Cell | None


def leaf(shape: Shape, dtype: Dtype, tags: int, cell: Cell | None) -> Node:
    """A node without history."""
    return make(None, (), (), NO_PARAMS, tags, shape, dtype, cell)


def make(
    primitive: Primitive | None,
    inputs: tuple[Node | None, ...],
    saved: tuple[Any, ...],
    params: Mapping[str, Any],
    tags: int,
    shape: Shape | None,
    dtype: Dtype | None,
    cell: Cell | None = None,
) -> Node:
    """A node with the next number."""
    node = Node()
    node.primitive = primitive
    node.inputs = inputs
    node.saved = saved
    node.params = params
    node.tags = tags
    node.order = next_order()
    node.shape = shape
    node.dtype = dtype
    node.cell = cell
    return node
