"""The tape: how a gate's result gets its value, its history and its tangents, and how gradients go back.

`bind` sends a gate to the interpreter in force; in the everyday mode it computes the value and
records a node that keeps what the backward pass reads. `reverse` drives the chain rule over
those nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from chainrule.core import chain, interp
from chainrule.core.aval import Aval
from chainrule.core.errors import GradientError
from chainrule.core.interp import ARRAYS, BASE, Tag, current, using
from chainrule.core.node import NO_PARAMS, Cell, Node, make
from chainrule.core.primitive import Primitive, functions
from chainrule.tensor import Tensor, new

# An array or a NumPy scalar; traced values are avals. NumPy's own stubs are partly untyped.
Value = Any


def bind(primitive: Primitive, inputs: Sequence[Any], params: Mapping[str, Any] = NO_PARAMS) -> Any:
    """Apply a gate to Tensors (or to whatever the interpreter in force works on).

    Raises
    ------
    ChainruleError
        If the gate refuses the inputs.
    """
    mode = current()
    if mode.interpret is not None:
        return mode.interpret(primitive, inputs, params)
    values = [x._value for x in inputs]
    try:
        value = primitive.evaluate(*values, **params)
    except Exception as error:
        raise primitive.diagnose(values, params, error) from None
    return record(primitive, inputs, values, value, params, mode.tracking)


def record(primitive: Primitive, inputs: Sequence[Any], values: Sequence[Value], value: Value, params: Mapping[str, Any], tracking: int) -> Any:
    """Name a computed value, with its history and tangents if an input has tracked ones."""
    tags = tracked = 0
    nodes: list[Node | None] = []
    for i, x in enumerate(inputs):
        node = x._node
        if node is None or not node.tags & tracking:
            nodes.append(None)
        else:
            nodes.append(node)
            tags |= node.tags
            tracked |= 1 << i
    tags &= tracking
    if not tags or primitive.pulls == ():
        return tuple(new(v) for v in value) if primitive.outputs else new(value)
    node = _node_of(primitive, nodes, tracked, values, value, params, tags)
    if primitive.outputs:
        out: Any = tuple(item(v, node, i, len(value), tags) for i, v in enumerate(value))
    elif value.dtype.kind == "f":
        out = new(value, node)
    elif value.dtype.kind == "c":
        return new(value, _barrier(primitive, nodes, tags, value))
    else:
        return new(value)
    if tags & Tag.forward_bits:
        _push_forward(primitive, inputs, out, node, params, tags & Tag.forward_bits, tracking)
    return out


def _node_of(
    primitive: Primitive, nodes: Sequence[Node | None], tracked: int, values: Sequence[Value], value: Value, params: Mapping[str, Any], tags: int
) -> Node:
    shape, dtype = (None, None) if primitive.outputs else (value.shape, value.dtype)
    if not tags & ~Tag.forward_bits:
        return make(primitive, (), (), params, tags, shape, dtype)
    keeps = primitive.keeps[tracked]
    saved: tuple[Any, ...] = ()
    if True in keeps:
        candidates = (tuple(values), value) if primitive.variadic else (*values, value)
        saved = tuple(v if keep else None for v, keep in zip(candidates, keeps, strict=True))
    return make(primitive, tuple(nodes), saved, params, tags, shape, dtype)


def _barrier(primitive: Primitive, nodes: Sequence[Node | None], tags: int, value: Value) -> Node:
    """Complex results of tracked inputs compute; whoever asks for a gradient through them is told."""
    if tags & Tag.forward_bits:
        _refuse_complex(primitive.name)
    return make(_COMPLEX, tuple(nodes), (), {"gate": primitive.name}, tags, value.shape, value.dtype)


def _refuse_complex(gate: str) -> Any:
    raise GradientError(
        f"{gate} has a complex result, and gradients through complex values are not defined yet", mend="take real and imaginary parts apart first"
    )


_COMPLEX = Primitive(
    name="complex",
    inputs=("*xs",),
    aval=lambda *xs, gate: xs[0],
    eval=lambda *xs, gate: xs[0],
    batch=lambda primitive, batched, inputs, params: inputs[0],
    vjp=lambda ct, gate: _refuse_complex(gate),
)


def item(value: Value, node: Node, index: int, count: int, tags: int) -> Any:
    """One output of a gate that has several, with the tangents that it has already."""
    if value.dtype.kind != "f":
        return new(value)
    one = new(value, make(chain.ITEM, (node,), (), {"index": index, "count": count}, tags, value.shape, value.dtype))
    for tag, parts in node.cell.tangents.items() if node.cell is not None else ():
        set_tangent(one, tag, parts[index])
    return one


def _push_forward(primitive: Primitive, inputs: Sequence[Any], out: Any, node: Node, params: Mapping[str, Any], bits: int, tracking: int) -> None:
    for tag in Tag.outermost_first(bits):
        like = twin(node, tag.bit)
        if primitive.outputs:
            seen: Any = tuple(item(x._value, like, i, len(out), like.tags) for i, x in enumerate(out))
        else:
            seen = new(out._value, like)
        with interp.tracking(tracking & ~tag.bit), np.errstate(all="ignore"):
            tangents = chain.push(primitive, [tangent_of(x, tag) for x in inputs], inputs, seen, params, bind)
        if primitive.outputs:
            set_tangents(node, out, tag, (None,) * len(out) if tangents is None else tangents)
        else:
            set_tangent(out, tag, tangents)


def twin(node: Node, bit: int) -> Node:
    """What a tangent may depend on in place of the node that will hold it, for else they would hold each other."""
    if not node.tags & ~bit:
        return node
    cell = None
    if node.cell is not None:
        cell = Cell(retains=False)
        cell.tangents = dict(node.cell.tangents)
    assert node.saved is not None
    return make(node.primitive, node.inputs, node.saved, node.params, node.tags, node.shape, node.dtype, cell)


def tangent_of(x: Any, tag: Tag) -> Any:
    """The tangent that ``x`` carries for a forward-mode tag, or None."""
    node = x._node
    return None if node is None or node.cell is None else node.cell.tangents.get(tag)


def set_tangent(x: Any, tag: Tag, t: Any) -> None:
    """Let the newly made ``x`` carry a tangent; None: it carries none."""
    node = x._node
    if node is None:
        return
    if t is None:
        node.tags &= ~tag.bit
        return
    if node.cell is None:
        node.cell = Cell(retains=False)
    node.cell.tangents[tag] = t


def set_tangents(node: Node, outs: Sequence[Any], tag: Tag, tangents: Sequence[Any]) -> None:
    """The same for the outputs of a gate that has several; the node keeps them too, for outputs that are named anew."""
    for one, t in zip(outs, tangents, strict=True):
        set_tangent(one, tag, t)
    if node.cell is None:
        node.cell = Cell(retains=False)
    node.cell.tangents[tag] = tuple(tangents)


def _wrap(value: Value, node: Node | None) -> Any:
    """Give a saved value its history back."""
    if value.__class__ is tuple:
        assert node is not None
        return tuple(item(v, node, i, len(value), node.tags) for i, v in enumerate(value))
    return value if value is None or value.__class__ in (int, float, complex) else new(value, node)


def reverse(
    outputs: Sequence[Any],
    cotangents: Sequence[Any],
    tag: int = BASE,
    *,
    retain: bool,
    create: bool = False,
    wanted: Iterable[Node] | None = None,
    narrow: bool = False,
) -> dict[Node, Any]:
    """Carry cotangents from output Tensors back along one tag.

    Parameters
    ----------
    outputs, cotangents : sequences of Tensor
        Equal in number; shapes agree pair by pair.
    tag : int
        Whose derivative this is.
    retain : bool
        Keep saved values for another sweep; they are kept in any case while another transform's tag flows through the outputs.
    create : bool
        Record the sweep for ``tag`` itself; other tags' derivatives are recorded wherever they flow.
    wanted : iterable of Node, optional
        Return these nodes' cotangents; without it they are added to the leaves' ``.grad``.
    narrow : bool
        Enter only paths that lead to ``wanted``; needed when other leaves carry the same tag.

    Returns
    -------
    dict
        Node to Tensor, for the wanted nodes that a cotangent reached.
    """
    mode = current()
    mask = mode.tracking if create else mode.tracking & ~tag
    ends = None if wanted is None else dict.fromkeys(wanted)
    roots = [x._node for x in outputs]
    needed = chain.leading_to(ends, [r for r in roots if r is not None], tag) if narrow and ends is not None else None
    carried = any(x._node is not None and x._node.tags & mask for x in (*outputs, *cotangents))
    inside = interp.tracking_only(mask)
    watch = mode.watch
    if watch is not None:
        # Cotangents are looked at when they are complete: what a rule makes on its way, and drops, is its own business.
        inside = inside.watched(None, None)
    bare = not carried and inside.interpret is None

    def arrive(node: Node, ct: Any) -> Any:
        cell = node.cell
        assert cell is not None
        if not (cell.hooks or cell.retains) or tag != BASE:
            return ct
        if bare and cell.grad is None and not cell.hooks:
            # The everyday case written out: a leaf's first gradient.
            cell.grad = new(ct) if ends is None else None
            return ct
        with using(inside):
            ct = new(ct) if bare else ct
            for hook in tuple(cell.hooks.values()):
                changed = hook(_own_name(ct))
                ct = ct if changed is None else _checked_hook(changed, node)
            if cell.retains and ends is None:
                cell.grad = _own_name(ct) if cell.grad is None else cell.grad + ct
        return ct._value if bare else ct

    # Another derivative that flows through the same tape will read what it saved.
    retain = retain or any(root is not None and root.tags & mode.tracking & ~tag for root in roots)
    label = mode.tracer.gradient if mode.tracer is not None else None if watch is None else watch.gradient
    options: dict[str, Any] = {"retain": retain, "arrive": arrive, "wanted": ends, "needed": needed, "label": label}
    if bare:
        seeds = [(r, ct._value) for r, ct in zip(roots, cotangents, strict=True) if r is not None]
        with using(ARRAYS), np.errstate(all="ignore"):
            found = chain.sweep(seeds, tag, wrap=None, **options)
        return {node: new(ct) for node, ct in found.items()}
    seeds = [(r, ct) for r, ct in zip(roots, cotangents, strict=True) if r is not None]
    with using(inside), np.errstate(all="ignore"):
        found = chain.sweep(seeds, tag, wrap=_wrap, **options)
    return {node: _own_name(ct) for node, ct in found.items()}


def _own_name(x: Any) -> Any:
    """A Tensor that nobody else holds: whoever gets it may rebind it."""
    return new(x._value, x._node)


def _checked_hook(changed: Any, node: Node) -> Any:
    if not isinstance(changed, Tensor) or changed._value.shape != node.shape:
        got = f"a tensor of shape {changed._value.shape}" if isinstance(changed, Tensor) else type(changed).__name__
        raise GradientError(f"a hook returned {got} for a gradient of shape {node.shape}", mend="return None or a tensor of the gradient's shape")
    return changed


def seed(output: Any, gradient: Any, tag: int = BASE) -> Any:
    """The cotangent to start from: ``gradient``, or 1 for a scalar output.

    Raises
    ------
    GradientError
        If the output has no history, is not a scalar and no gradient is given, or shapes differ.
    """
    value = output._value
    if output._node is None or not output._node.tags & tag:
        raise GradientError(
            f"the output {Aval(value.shape, value.dtype)} does not depend on anything that requires a gradient",
            mend="set requires_grad=True on an input, and compute outside of no_grad and without detach",
        )
    if gradient is None:
        if value.size != 1:
            raise GradientError(
                f"a gradient can start implicitly from a scalar only, not from shape {value.shape}",
                mend="reduce the output first (loss.sum()), or pass gradient= of its shape",
            )
        return functions.ones(value.shape, dtype=value.dtype)
    gradient = functions.asarray(gradient)
    if gradient._value.shape != value.shape:
        raise GradientError(f"gradient has shape {gradient._value.shape}, the output {value.shape}", mend="pass a gradient of the output's shape")
    return gradient if gradient._value.dtype == value.dtype else functions.astype(gradient, value.dtype)
