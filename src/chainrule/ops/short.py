"""The short way of gates with one input and one output: what `bind` does, with the everyday case written out.

Small programs spend their time between the gates; movement and reductions take this way, elementwise gates
have their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from chainrule.core.aval import float32, float64
from chainrule.core.interp import ARRAYS, BASE, Tag, current
from chainrule.core.node import Node, next_order
from chainrule.core.primitive import Primitive
from chainrule.tape import bind
from chainrule.tensor import Tensor


def short(primitive: Primitive) -> Callable[[Any, Mapping[str, Any]], Any]:
    """``bind(primitive, (x,), params)`` as a function of a lifted ``x`` and the parameters."""
    compute = primitive.evaluate
    keep_x, keep_out = primitive.keeps[1]
    keeps = keep_x or keep_out

    def apply(x: Any, params: Mapping[str, Any]) -> Any:
        mode = current()
        if mode is ARRAYS:
            return compute(x._value if x.__class__ is Tensor else x, **params)
        if mode.interpret is not None or x.__class__ is not Tensor:
            return bind(primitive, (x,), params)
        value = x._value
        node = x._node
        dtype = value.dtype
        tags = 0 if node is None else node.tags & mode.tracking
        if not (dtype is float32 or dtype is float64) or (tags > BASE and tags & Tag.forward_bits):
            return bind(primitive, (x,), params)
        try:
            out = compute(value, **params)
        except Exception as error:
            raise primitive.diagnose((value,), params, error) from None
        tensor = Tensor()
        tensor._value = out
        if not tags or (out.dtype is not dtype and out.dtype.kind != "f"):
            tensor._node = None
            return tensor
        tensor._node = made = Node()
        made.primitive = primitive
        made.inputs = (node,)
        made.saved = (value if keep_x else None, out if keep_out else None) if keeps else ()
        made.params = params
        made.tags = tags
        made.order = next_order()
        made.shape = out.shape
        made.dtype = out.dtype
        made.cell = None
        return tensor

    return apply
