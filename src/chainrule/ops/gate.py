"""How a record becomes a public function.

`lift` and `operands` bring arguments to Tensors of one dtype; `gate` enters a function and its record;
the rules that whole families share (shapes and dtypes of elementwise gates, batching) stand at the
end. No gate is defined here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np

from chainrule.core.aval import DEFAULT_FLOAT, Aval, Dtype, broadcast, float64, promote
from chainrule.core.errors import ArgumentError, DtypeError, GradientError, ShapeError, TraceError
from chainrule.core.interp import current, evaluate
from chainrule.core.primitive import F, Primitive, Rule, functions, public, register
from chainrule.core.variable import Variable, leaked
from chainrule.tape import bind
from chainrule.tensor import Tensor, new, seen

KINDS = {
    "any": "biufc",
    "numeric": "iufc",
    "real": "iuf",
    "floating": "fc",
    "real floating": "f",
    "complex floating": "c",
    "integral": "biu",
    "integer": "iu",
    "boolean": "b",
}
"""Which dtype kinds a family of gates takes, in the words of the array API standard."""

BARE = (np.ndarray, np.generic)
"""What the arrays' interpreter works on."""

_SCALARS = frozenset((bool, int, float, complex))
_MENDS = {
    "b": "use logical_and, logical_or and logical_not on booleans, or convert them: cr.astype(x, cr.int64)",
    "c": "take cr.real, cr.imag or cr.abs of complex values first",
}


def gate(primitive: Primitive) -> Callable[[F], F]:
    """Enter a record in the table and the decorated function under its name."""
    register(primitive)
    return public


def gate_of(primitive: Primitive, function: F, **words: str) -> F:
    """Enter a record, and the function that was made for it beside others alike, with its own words in the docstring's blanks."""
    made: Any = function
    made.__name__ = made.__qualname__ = primitive.name
    made.__doc__ = made.__doc__ and made.__doc__.format(name=primitive.name, **words)
    return gate(primitive)(function)


def lift(x: Any) -> Any:
    """A Tensor for ``x``; bare arrays stay as they are under the arrays' interpreter.

    NumPy arrays that could still be written to are copied, because Tensors never change.

    Raises
    ------
    DtypeError
        If ``x`` is nothing that an array of numbers can be made of.
    """
    mode = current()
    if mode.interpret is None:
        return x if x.__class__ is Tensor or isinstance(x, Tensor) else constant(x)
    if mode.interpret is evaluate:
        return x if isinstance(x, BARE) else x._value if isinstance(x, Tensor) else constant(x)._value
    return seen(x) if isinstance(x, Tensor) else constant(x)


def alias(x: Any) -> Any:
    """``x`` under a name of its own, so that rebinding one (``y += 1``) leaves the other; what is no Tensor stays itself."""
    return copy(x) if isinstance(x, Tensor) else x


def constant(x: Any, dtype: Dtype | None = None) -> Tensor:
    """A Tensor without history; Python numbers get the default dtype of their kind.

    Raises
    ------
    DtypeError
        If ``x`` is nothing that an array of numbers can be made of, or does not fit the dtype.
    """
    try:
        value = _value_of(x, dtype)
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, DtypeError):
            raise
        what = f"cannot make a tensor of {type(x).__name__}" if dtype is None else f"cannot make a {dtype} tensor of {type(x).__name__}"
        raise DtypeError(f"{what}: {error}", mend="pass numbers, or lists of equal lengths") from None
    check_values(value, type(x).__name__)
    if not value.dtype.isnative:
        value = value.astype(value.dtype.newbyteorder("="))
    return _name(value if value.shape else value[()])


def _name(value: Any) -> Tensor:
    """A name for a fixed value; in a graph that is being traced, a constant of it."""
    tracer = current().tracer
    return new(value) if tracer is None else tracer.constant(value)


def check_values(value: Any, kind: str) -> None:
    """Refuse arrays of what no tensor holds."""
    if not held(value.dtype):
        mend = "pass numbers, or an array of them" if value.dtype.kind not in "fc" else "convert it first: x.astype(np.float64)"
        raise DtypeError(f"cannot make a tensor of {kind} values of dtype {value.dtype}", mend=mend)


def held(dtype: Dtype) -> bool:
    """Whether tensors can be of this dtype: numbers, but not of the extended precision that differs between machines."""
    return dtype.kind in "biufc" and dtype.char not in "gG"


def _value_of(x: Any, dtype: Dtype | None) -> Any:
    """The value of anything; what is copied lies row by row, as compiled steps read it."""
    if isinstance(x, BARE):
        if dtype is not None and x.dtype.kind == "c" != dtype.kind:
            raise DtypeError(f"complex values cannot become {dtype} without losing the imaginary part", mend="take .real first")
        if isinstance(x, np.generic):
            return x if dtype is None else x.astype(dtype)
        return np.asarray(x, dtype=dtype) if _settled(x) else np.array(x, dtype=dtype, order="C", subok=False)
    if isinstance(x, (bool, int, float, complex)):
        return np.array(x, promote(x) if dtype is None else dtype)
    if isinstance(x, (list, tuple)):
        value = np.array(_without_tensors(x), dtype=dtype)
        weak = dtype is None and value.dtype in (float64, np.complex128) and not _holds_arrays(x)
        return value.astype(promote(value.dtype.type(0).item())) if weak else value
    if hasattr(x, "__dlpack__") and not hasattr(x, "__array__"):
        return np.array(np.from_dlpack(x), dtype=dtype, order="C")
    return np.array(x, dtype=dtype, order="C")


def _settled(x: Any) -> bool:
    """Whether nobody can write to the memory of an array, which may be a read-only view of another one's."""
    while isinstance(x, np.ndarray):
        if x.flags.writeable:
            return False
        x = x.base
    return x is None or isinstance(x, bytes)


def _without_tensors(x: Any) -> Any:
    if isinstance(x, (list, tuple)):
        return [_without_tensors(item) for item in x]
    if not isinstance(x, Tensor):
        return x
    if current().tracer is not None:
        raise TraceError(
            "a list of tensors cannot become one tensor while a function is traced, where they have no values", mend="join them with cr.stack"
        )
    if x._node is not None and x._node.tags & current().running:
        raise GradientError(
            "a list of tensors that are being differentiated cannot become one tensor", mend="join them with cr.stack, or detach them"
        )
    return np.asarray(x._value)


def _holds_arrays(x: Any) -> bool:
    return any(map(_holds_arrays, x)) if isinstance(x, (list, tuple)) else not isinstance(x, (bool, int, float, complex)) or isinstance(x, np.generic)


def concrete(x: Any, what: str) -> Any:
    """The value of ``x`` as an array, for what a shape depends on.

    Raises
    ------
    ArgumentError
        If values are not known, because a graph is being traced.
    """
    lifted, tracer = lift(x), current().tracer
    value = lifted._value if isinstance(lifted, Tensor) else lifted
    if tracer is not None:
        value = tracer.constants.get(value)
    if isinstance(value, Variable) and tracer is None:
        raise leaked(value)
    if not isinstance(value, BARE):
        says = f"{what} must be known values: the shape of the result depends on them"
        raise ArgumentError(says, mend="compute them outside of the traced function")
    return value


def made(value: Any) -> Any:
    """A freshly made array under a name; bare under the arrays' interpreter, where nothing has one."""
    if not value.shape:
        value = value[()]
    return value if current().interpret is evaluate else _name(value)


def as_dtype(dtype: Any, operation: str) -> Dtype:
    """The dtype that is meant.

    Raises
    ------
    DtypeError
        If it is none that tensors can have.
    """
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not held(found):
        says = f"{operation}: no tensors of dtype {dtype!r}"
        raise DtypeError(says, mend="use a boolean, integer, floating-point or complex one, such as cr.float32")
    return found


def check_device(device: str | None) -> None:
    """Refuse devices other than the one there is."""
    if device not in (None, "cpu"):
        raise ArgumentError(f"there is no device {device!r}", mend='the only device is "cpu"')


def operands(name: str, kinds: str, *xs: Any) -> list[Any]:
    """Tensors of one dtype, promoted; Python scalars take the others' dtype.

    Raises
    ------
    DtypeError
        If the dtype is not of the kinds that the gate takes; integers are converted for gates of
        floating point.
    """
    allowed = KINDS[kinds]
    bare = current().interpret is evaluate
    # The usual case first: one dtype, and numbers beside floats, or whole ones beside integers.
    common: Any = None
    numbers = fractions = False
    for x in xs:
        if x.__class__ is float or x.__class__ is int:
            numbers = True
            fractions = fractions or x.__class__ is float
        elif not (isinstance(x, BARE) if bare else x.__class__ is Tensor):
            break
        elif common is None:
            common = x.dtype
        elif x.dtype is not common:
            break
    else:
        if common is not None and common.kind in allowed and (not numbers or common.kind == "f" or (common.kind in "iu" and not fractions)):
            return [to_dtype(x, common) for x in xs] if numbers else list(xs)
    lifted = [x if x.__class__ in _SCALARS else lift(x) for x in xs]
    dtype = promote(*(x if x.__class__ in _SCALARS else x.dtype for x in lifted))
    if dtype.kind in "biu" and allowed[0] in "fc":
        dtype = DEFAULT_FLOAT
    if dtype.kind not in allowed:
        raise DtypeError(f"{name} takes {kinds} values, not {', '.join(describe(x) for x in lifted)}", mend=mend_of(allowed, dtype))
    return [to_dtype(x, dtype) for x in lifted]


def mend_of(allowed: str, dtype: Dtype) -> str:
    """What to do about a dtype that is not among the allowed kinds."""
    if allowed == "b":
        return "compare first: x != 0 is boolean"
    return _MENDS.get(dtype.kind, "convert the operands with astype")


def to_dtype(x: Any, dtype: Dtype) -> Any:
    """``x`` in this dtype, by a differentiable conversion where it has another one."""
    if x.__class__ not in _SCALARS:
        return x if x.dtype == dtype else functions.astype(x, dtype)
    try:
        value = dtype.type(x)
    except OverflowError:
        raise DtypeError(f"{x!r} does not fit {dtype}", mend="convert the other operand to a wider dtype with astype") from None
    return value if current().interpret is evaluate else _name(value)


def describe(x: Any) -> str:
    """Data type and shape for an error message."""
    return str(Aval(x.shape, x.dtype)) if hasattr(x, "dtype") else f"{type(x).__name__} {x!r}"


def elementwise_aval(name: str, kinds: str, result: str = "same") -> Rule:
    """The shape and dtype rule of an elementwise gate; ``result`` is "same", "boolean" or "real"."""

    def aval(*xs: Aval, **params: Any) -> Aval:
        dtype = promote(*(x.dtype for x in xs))
        if dtype.kind not in KINDS[kinds]:
            raise DtypeError(f"{name} takes {kinds} values, not {', '.join(map(str, xs))}", mend=mend_of(KINDS[kinds], dtype))
        if result == "boolean":
            dtype = np.dtype(bool)
        elif result == "real" and dtype.kind == "c":
            dtype = np.finfo(dtype).dtype
        return Aval(broadcast_avals(name, xs), dtype)

    return aval


def broadcast_avals(name: str, xs: Sequence[Aval]) -> tuple[int, ...]:
    """The shape that the operands of a gate broadcast to.

    Raises
    ------
    ShapeError
        If they do not; it names the gate and the operands.
    """
    try:
        return broadcast(*(x.shape for x in xs))
    except ShapeError as error:
        raise ShapeError(f"{name}({', '.join(map(str, xs))}): {error.what}", mend=error.mend) from None


def batch_elementwise(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    """Line the inputs' own axes up behind the batch axis; broadcasting does the rest."""
    rank = max(x.ndim - b for x, b in zip(inputs, batched, strict=True))

    def align(x: Any, b: bool) -> Any:
        missing = rank - (x.ndim - b)
        return functions.reshape(x, (x.shape[0], *(1,) * missing, *x.shape[1:])) if b and missing else x

    return bind(primitive, [align(x, b) for x, b in zip(inputs, batched, strict=True)], params)


def batch_looped(reason: str) -> Rule:
    """Apply the gate example by example and stack: for gates without a batched form, for the stated reason."""

    def batch(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
        count = next(x.shape[0] for x, b in zip(inputs, batched, strict=True) if b)
        rows = [bind(primitive, [functions.getitem(x, i) if b else x for x, b in zip(inputs, batched, strict=True)], params) for i in range(count)]
        if primitive.outputs:
            return tuple(functions.stack(column) for column in zip(*rows, strict=True))
        return functions.stack(rows)

    batch.__doc__ = reason
    return batch
