"""Tensor: a name for a value and for the node that it comes from.

A Tensor computes nothing itself: its operators and methods are thin calls to the public functions of
the same name, so a new gate never edits this file. Rebinding the name (``x += y``, ``x[i] = v``,
``x.assign(v)``) leaves whatever else holds the old value or node as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.conversions import Conversions
from chainrule.core.aval import Aval, Dtype, Shape, promote
from chainrule.core.chain import ITEM
from chainrule.core.errors import ArgumentError, DtypeError, GradientError, ShapeError, TraceError
from chainrule.core.interp import BASE, Tag, current, settings
from chainrule.core.node import Cell, Node, leaf
from chainrule.core.primitive import functions
from chainrule.core.variable import Variable
from chainrule.operators import Operators

if TYPE_CHECKING:
    import numpy.typing as npt

Scalar = bool | int | float | complex
Axis = int | Sequence[int] | None


class Tensor(Operators, Conversions):
    """An immutable n-dimensional array that remembers how it was computed.

    Made by `chainrule.tensor`, `chainrule.asarray`, the creation functions and every gate.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    requires_grad : bool
        Whether gradients flow back to or through this tensor.
    grad : Tensor or None
        The gradient accumulated by `backward` in a leaf that requires one; None if none arrived.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([1.0, 2.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4.])
    """

    __slots__ = ("__weakref__", "_node", "_value")

    # An array or NumPy scalar; under a tracer an abstract value.
    _value: Any
    _node: Node | None

    @property
    def shape(self) -> Shape:
        return self._value.shape

    @property
    def dtype(self) -> Dtype:
        return self._value.dtype

    @property
    def ndim(self) -> int:
        return len(self._value.shape)

    @property
    def size(self) -> int:
        return self._value.size

    @property
    def device(self) -> str:
        return "cpu"

    @property
    def T(self) -> Tensor:
        """The matrix transposed; two axes only, as in the array API standard."""
        if self.ndim != 2:
            raise ShapeError(f"T needs two axes, not shape {self.shape}", mend="use mT for stacks of matrices, permute_dims for any order of axes")
        return functions.matrix_transpose(self)

    @property
    def mT(self) -> Tensor:
        """The last two axes exchanged."""
        return functions.matrix_transpose(self)

    @property
    def requires_grad(self) -> bool:
        node = self._node
        return node is not None and node.tags & current().running & ~Tag.forward_bits != 0

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    @property
    def is_leaf(self) -> bool:
        """Whether no gate that is tracked computed this tensor."""
        node = self._node
        return node is None or node.primitive is None or not self.requires_grad

    @property
    def grad(self) -> Tensor | None:
        node = self._node if current().tracer is None else seen(self)._node
        return None if node is None or node.cell is None else node.cell.grad

    @grad.setter
    def grad(self, value: Any) -> None:
        if value is not None and (not isinstance(value, Tensor) or value.shape != self.shape or value.dtype != self.dtype):
            got = str(Aval(value.shape, value.dtype)) if isinstance(value, Tensor) else type(value).__name__
            wanted = Aval(self.shape, self.dtype)
            raise GradientError(f"the gradient of {wanted} cannot be set to {got}", mend=f"assign a Tensor {wanted}, or None")
        own = seen(self)
        if own._node is None:
            own._node = leaf(own.shape, own.dtype, 0, Cell(retains=True))
        if own._node.cell is None:
            own._node.cell = Cell(retains=False)
        own._node.cell.grad = value if value is None else seen(value)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Ask (or stop asking) for this leaf's gradient; returns the tensor itself.

        Raises
        ------
        GradientError
            If the tensor is not floating point, or is computed by tracked gates.
        TraceError
            If the tensor is from outside of a function that is being traced.
        """
        if self._node is not None and self._node.tags & current().running & ~BASE:
            raise GradientError(
                "requires_grad_ on a tensor that a transform in progress differentiates", mend="use x.detach().requires_grad_() for a leaf of its own"
            )
        if not self.is_leaf:
            if requires_grad:
                return self
            raise GradientError("requires_grad can only be turned off on a leaf", mend="use x.detach() for a tensor without history")
        if requires_grad and self.dtype.kind != "f":
            kind = "complex values compute, but have no gradients yet" if self.dtype.kind == "c" else "only floating-point tensors have gradients"
            raise GradientError(f"a tensor of dtype {self.dtype} cannot require a gradient: {kind}", mend="convert it first: x.astype(cr.float32)")
        if requires_grad != self.requires_grad:
            if seen(self) is not self:
                raise TraceError(
                    f"requires_grad of a tensor from outside, {Aval(self.shape, self.dtype)}, is changed while a function is traced",
                    mend="change it before, outside of the function; x.detach() has no history inside",
                )
            cell = None if self._node is None else self._node.cell
            self._node = leaf(self.shape, self.dtype, BASE * requires_grad, cell if cell is not None and cell.retains else Cell(retains=True))
        return self

    def backward(
        self, gradient: Tensor | None = None, *, retain_graph: bool | None = None, create_graph: bool = False, inputs: Sequence[Tensor] | None = None
    ) -> None:
        """Add the gradient of this tensor to ``.grad`` of every leaf that requires one.

        Parameters
        ----------
        gradient : Tensor, optional
            The cotangent to start from, of this tensor's shape; 1 for a scalar if not given.
        retain_graph : bool, optional
            Keep the graph for another backward; by default it is kept only with ``create_graph``.
        create_graph : bool
            Record the backward pass, so that the gradients can be differentiated.
        inputs : sequence of Tensor, optional
            Only these leaves receive gradients.

        Raises
        ------
        GradientError
            If nothing here requires a gradient, the output is not scalar and no gradient is given,
            or the graph was freed.

        Notes
        -----
        With ``create_graph`` the leaf holds a gradient whose history holds the leaf, until ``.grad`` is
        cleared; `autograd.grad` makes no such cycle.
        """
        functions.backward([self], [gradient], retain_graph=retain_graph, create_graph=create_graph, inputs=inputs)

    def detach(self) -> Tensor:
        """The same value without history."""
        mode = current()
        if mode.tracer is None:
            return new(self._value)
        # A graph that is differentiated later must know.
        return functions.stop_gradient(self) if mode.tracking and self.dtype.kind == "f" else new(seen(self)._value)

    def retain_grad(self) -> None:
        """Keep the gradient that passes through this tensor in ``.grad``, as leaves do."""
        _watched(self).retains = True

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Callable[[], None]:
        """Call ``hook(gradient)`` when this tensor's gradient is complete; what it returns, unless None, replaces it.

        Returns
        -------
        callable
            Removes the hook.
        """
        hooks = _watched(self).hooks
        key = max(hooks, default=0) + 1
        hooks[key] = hook
        settings.version += 1

        def remove() -> None:
            hooks.pop(key, None)
            settings.version += 1

        return remove

    def assign(self, value: Tensor | npt.ArrayLike) -> Tensor:
        """Let this name stand for another value of the same shape; returns the tensor itself.

        A leaf that requires a gradient stays one, with its ``.grad``; like every change of such a
        leaf it needs `no_grad`. The dtype stays: floating-point values are rounded to it.

        Raises
        ------
        GradientError
            On a leaf that requires a gradient, outside of `no_grad`.
        ShapeError
            If the shape differs.
        DtypeError
            If the value is of a higher kind: complex for real, floating-point for integer.
        """
        given = seen(functions.asarray(value))
        if given.dtype != self.dtype:
            if promote(given.dtype, self.dtype) != self.dtype and (given.dtype.kind, self.dtype.kind) != ("f", "f"):
                raise DtypeError(f"a {self.dtype} tensor cannot be assigned a {given.dtype} value without loss", mend="convert it with astype")
            # From the value itself: Python numbers have more digits than the default dtype.
            given = seen(functions.asarray(value, dtype=self.dtype))
        if given.shape != self.shape:
            raise ShapeError(
                f"a tensor of shape {self.shape} cannot be assigned a value of shape {given.shape}",
                mend="make the shapes equal; broadcast_to repeats a value",
            )
        own = seen(self)
        node = own._node
        mode = current()
        tracking = mode.tracking
        if mode.tracer is not None:
            mode.tracer.assigned(own._value, given._value)
        if node is not None and node.primitive is None and node.cell is not None and node.cell.retains and not node.cell.stands_in:
            flows = given._node is not None and given._node.tags & tracking
            if node.tags & BASE and flows and not tracking & BASE:
                raise GradientError(
                    "a leaf that requires a gradient is assigned a value that a transform in progress differentiates",
                    mend="pass it to the function as an argument, or assign value.detach()",
                )
            if tracking & node.tags & BASE:
                raise GradientError("a leaf that requires a gradient is changed in place", mend="do it inside `with cr.no_grad():`, or on x.detach()")
            if not flows:
                own._node = leaf(own.shape, own.dtype, node.tags, node.cell)
                own._value = given._value
                return self
        own._value, own._node = given._value, given._node
        return self

    def __setitem__(self, index: Any, value: Tensor | npt.ArrayLike) -> None:
        self.assign(functions.index_update(self, index, value))

    def sum(self, axis: Axis = None, *, dtype: npt.DTypeLike | None = None, keepdims: bool = False) -> Tensor:
        return functions.sum(self, axis=axis, dtype=dtype, keepdims=keepdims)

    def mean(self, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
        return functions.mean(self, axis=axis, keepdims=keepdims)

    def prod(self, axis: Axis = None, *, dtype: npt.DTypeLike | None = None, keepdims: bool = False) -> Tensor:
        return functions.prod(self, axis=axis, dtype=dtype, keepdims=keepdims)

    def max(self, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
        return functions.max(self, axis=axis, keepdims=keepdims)

    def min(self, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
        return functions.min(self, axis=axis, keepdims=keepdims)

    def var(self, axis: Axis = None, *, correction: float = 0.0, keepdims: bool = False) -> Tensor:
        return functions.var(self, axis=axis, correction=correction, keepdims=keepdims)

    def std(self, axis: Axis = None, *, correction: float = 0.0, keepdims: bool = False) -> Tensor:
        return functions.std(self, axis=axis, correction=correction, keepdims=keepdims)

    def any(self, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
        return functions.any(self, axis=axis, keepdims=keepdims)

    def all(self, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
        return functions.all(self, axis=axis, keepdims=keepdims)

    def argmax(self, axis: int | None = None, *, keepdims: bool = False) -> Tensor:
        return functions.argmax(self, axis=axis, keepdims=keepdims)

    def argmin(self, axis: int | None = None, *, keepdims: bool = False) -> Tensor:
        return functions.argmin(self, axis=axis, keepdims=keepdims)

    def exp(self) -> Tensor:
        return functions.exp(self)

    def log(self) -> Tensor:
        return functions.log(self)

    def sqrt(self) -> Tensor:
        return functions.sqrt(self)

    def tanh(self) -> Tensor:
        return functions.tanh(self)

    def sigmoid(self) -> Tensor:
        return functions.sigmoid(self)

    def relu(self) -> Tensor:
        return functions.relu(self)

    def abs(self) -> Tensor:
        return functions.abs(self)

    def clip(self, min: Any = None, max: Any = None) -> Tensor:
        return functions.clip(self, min, max)

    def reshape(self, *shape: int | Sequence[int]) -> Tensor:
        sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], Sequence) else shape
        return functions.reshape(self, sizes)

    def flatten(self) -> Tensor:
        return functions.reshape(self, (-1,))

    def squeeze(self, axis: Axis = None) -> Tensor:
        axes = tuple(i for i, size in enumerate(self.shape) if size == 1) if axis is None else axis
        return functions.squeeze(self, axis=axes)

    def astype(self, dtype: npt.DTypeLike, *, copy: bool = True) -> Tensor:
        return functions.astype(self, dtype, copy=copy)

    def to_device(self, device: str, /, *, stream: Any = None) -> Tensor:
        """The tensor itself: there is one device, ``"cpu"``."""
        if device != "cpu" or stream is not None:
            raise ArgumentError(f"there is no device {device!r} with stream {stream!r}", mend='the only device is "cpu", without streams')
        return self

    def __getitem__(self, index: Any) -> Tensor:
        return functions.getitem(self, index)

    def __len__(self) -> int:
        if not self.shape:
            raise ShapeError("a tensor without axes has no length", mend="use x.size, or x.item() for its value")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if not self.shape:
            raise ShapeError("a tensor without axes cannot be iterated over", mend="use x.item() for its value")
        return iter(functions.unstack(self))

    def __contains__(self, value: Any) -> bool:
        return bool(functions.any(functions.equal(self, value)))

    def __repr__(self) -> str:
        if isinstance(self._value, Variable):
            return f"tensor({self._value}: {Aval(self.shape, self.dtype)})"
        body = np.array2string(np.asarray(self._value), separator=", ", prefix="tensor(")
        notes = [body]
        if self.dtype.name not in ("float32", "int64", "bool") or not self.size:
            notes.append(f"dtype={self.dtype}")
        if self.requires_grad:
            notes.append("requires_grad=True" if self.is_leaf else f"from={_gate_name(self._node)}")
        return f"tensor({', '.join(notes)})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec and self.size == 1 else format(str(self), spec)

    def __copy__(self) -> Tensor:
        same = self if current().tracer is None else seen(self)
        return new(same._value, same._node)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise GradientError("only leaves can be deep-copied: a copy cannot share the graph", mend="copy x.detach()")
        copied = self.detach()
        return copied.requires_grad_() if self.requires_grad else copied

    def __reduce__(self) -> Any:
        return _restore, (np.asarray(self._readable()), self.requires_grad and self.is_leaf)


def new(value: Any, node: Node | None = None) -> Tensor:
    """A name for this value and node."""
    tensor = Tensor()
    tensor._value = value
    tensor._node = node
    return tensor


def seen(tensor: Tensor) -> Tensor:
    """The tensor itself; while a function is traced, the traced one that stands for it."""
    tracer = current().tracer
    return tensor if tracer is None else tracer.seen(tensor)


def _gate_name(node: Node | None) -> str:
    """The gate that made this node; of one output among several, the gate that has them."""
    while node is not None and node.primitive is ITEM:
        (node,) = node.inputs
    return "" if node is None or node.primitive is None else node.primitive.name


def _restore(value: Any, requires_grad: bool) -> Tensor:
    tensor = new(value)
    return tensor.requires_grad_() if requires_grad else tensor


def _watched(tensor: Tensor) -> Cell:
    node = seen(tensor)._node
    if node is None or not tensor.requires_grad:
        raise GradientError(
            "no gradient passes through a tensor that does not require one", mend="set requires_grad=True on it or on what it comes from"
        )
    if node.cell is None:
        node.cell = Cell(retains=False)
    return node.cell
