"""Gradients in PyTorch's manner: of tensors that were computed already, with respect to others.

`backward` fills ``.grad`` of the leaves; `grad` returns gradients and leaves ``.grad`` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chainrule.core.errors import GradientError
from chainrule.core.interp import BASE, Tag, current, tracking
from chainrule.core.node import Cell, Node
from chainrule.core.primitive import public
from chainrule.tape import reverse, seed
from chainrule.tensor import Tensor, seen

__all__ = ["backward", "grad"]


def __dir__() -> list[str]:
    return __all__


def _several(value: Any, count: int | None = None) -> list[Any]:
    if value is None and count is not None:
        return [None] * count
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _tags(*outputs: Any) -> int:
    """Whose derivatives flow through any of the outputs."""
    tags = 0
    for x in outputs:
        tags |= 0 if x._node is None else x._node.tags
    return tags & current().running & ~Tag.forward_bits


def _seeds(outputs: Sequence[Tensor], gradients: Any, tag: int = BASE) -> list[Tensor]:
    given = _several(gradients, len(outputs))
    if len(given) != len(outputs):
        raise GradientError(f"{len(outputs)} outputs, but {len(given)} gradients", mend="pass one gradient, or None, per output")
    return [seed(output, gradient, tag) for output, gradient in zip(outputs, given, strict=True)]


@public
def backward(
    tensors: Tensor | Sequence[Tensor],
    grad_tensors: Any = None,
    *,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Sequence[Tensor] | None = None,
) -> None:
    """Add to ``.grad`` of the leaves the gradient of the outputs' sum, each weighted by its cotangent.

    See `Tensor.backward` for the parameters and errors.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor(3.0, requires_grad=True)
    >>> cr.autograd.backward([x * x, 2 * x], [1.0, 10.0]); x.grad
    tensor(26.)
    """
    outputs = [seen(x) for x in _several(tensors)]
    cotangents = _seeds(outputs, grad_tensors)
    retain = create_graph if retain_graph is None else retain_graph
    if inputs is None:
        reverse(outputs, cotangents, retain=retain, create=create_graph)
        return
    nodes = [_node(seen(x) if isinstance(x, Tensor) else x) for x in _several(inputs)]
    found = reverse(outputs, cotangents, retain=retain, create=create_graph, wanted=nodes, narrow=True)
    with tracking(current().tracking if create_graph else current().tracking & ~BASE):
        for node, ct in found.items():
            node.cell = node.cell or Cell(retains=False)
            node.cell.grad = ct if node.cell.grad is None else node.cell.grad + ct


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Any = None,
    *,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """Gradients of the outputs' sum with respect to ``inputs``, which may be leaves or computed.

    Parameters
    ----------
    outputs : Tensor or sequence of Tensor
    inputs : Tensor or sequence of Tensor
    grad_outputs : Tensor or sequence of (Tensor or None), optional
        Cotangents of the outputs; 1 for scalars if not given.
    retain_graph : bool, optional
        Keep the graph for another sweep; by default it is kept only with ``create_graph``.
    create_graph : bool
        Record the sweep, so that the gradients can be differentiated.
    allow_unused : bool
        Return None for an input on which no output depends, instead of raising.

    Returns
    -------
    tuple of (Tensor or None)
        One gradient per input, of its shape.

    Raises
    ------
    GradientError
        If an input requires no gradient, or no output depends on it.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor(3.0, requires_grad=True)
    >>> (g,) = cr.autograd.grad(x * x, [x], create_graph=True)
    >>> cr.autograd.grad(g, [x])
    (tensor(2.),)
    """
    ends = [seen(x) if isinstance(x, Tensor) else x for x in _several(inputs)]
    nodes = [_node(x) for x in ends]
    results = [seen(x) for x in _several(outputs)]
    retain = create_graph if retain_graph is None else retain_graph
    tag = BASE
    if not any(_tags(x) & BASE for x in results):
        # Inside a transform, of what depends on its inputs alone: that transform differentiates what comes out.
        tag = _tags(*results)
        retain = create_graph = bool(tag)
    found = reverse(results, _seeds(results, grad_outputs, tag), tag or BASE, retain=retain, create=create_graph, wanted=nodes, narrow=True)
    for position, node in enumerate(nodes):
        if node not in found and not allow_unused:
            raise GradientError(
                f"no output depends on input {position}, of shape {ends[position].shape}", mend="pass allow_unused=True to get None for it"
            )
    return tuple(found.get(node) for node in nodes)


def _node(x: Any) -> Node:
    if not isinstance(x, Tensor) or x._node is None or not x.requires_grad:
        what = f"a tensor of shape {x.shape}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise GradientError(f"a gradient with respect to {what} that does not require one", mend="set requires_grad=True before computing the output")
    return x._node
