"""How a record becomes a public function.

`lift` and `operands` bring arguments to Tensors of one dtype; `unary` and `binary` make the functions of
elementwise gates, with a short way for the everyday case; `gate` enters any other function; the
batch rules that whole families share stand at the end. No gate is defined here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from chainrule.core.aval import DEFAULT_FLOAT, Aval, Dtype, broadcast, float32, float64, promote
from chainrule.core.errors import DtypeError, ShapeError
from chainrule.core.interp import BASE, EVERYDAY, current, evaluate
from chainrule.core.node import NO_PARAMS, Node, next_order
from chainrule.core.primitive import F, Partial, Primitive, Refusal, Rule, Sample, functions, public, register
from chainrule.tape import bind, record
from chainrule.tensor import Tensor, new

if TYPE_CHECKING:
    import numpy.typing as npt

TensorLike = "Tensor | npt.ArrayLike"

KINDS = {"numeric": "biufc", "number": "iufc", "real": "biuf", "ordered": "iuf", "floating": "fc", "real floating": "f", "integral": "biu", "integer": "iu", "boolean": "b"}
"""Which dtype kinds a family of gates takes."""


def gate(primitive: Primitive) -> Callable[[F], F]:
    """Enter a record in the table and the decorated function under its name."""
    register(primitive)
    return public


def lift(x: Any) -> Any:
    """A Tensor for ``x``; bare arrays stay as they are under the arrays' interpreter.

    NumPy arrays that could still be written to are copied, because Tensors never change.

    Raises
    ------
    DtypeError
        If ``x`` is nothing that an array of numbers can be made of.
    """
    if x.__class__ is Tensor:
        return x
    if current().interpret is evaluate:
        return x if isinstance(x, (np.ndarray, np.generic)) else constant(x)._value
    return constant(x)


def constant(x: Any, dtype: Dtype | None = None) -> Tensor:
    """A Tensor without history; Python numbers get the default dtype of their kind."""
    if isinstance(x, np.ndarray):
        value: Any = np.array(x, dtype=dtype) if x.flags.writeable else np.asarray(x, dtype=dtype)
    elif isinstance(x, np.generic):
        value = x if dtype is None else x.astype(dtype)
    elif isinstance(x, (bool, int, float, complex)):
        value = np.array(x, promote(x) if dtype is None else dtype)
    elif hasattr(x, "__dlpack__") and not hasattr(x, "__array__"):
        value = np.array(np.from_dlpack(x), dtype=dtype)
    else:
        value = _nested(x, dtype)
    if value.dtype.kind not in "biufc":
        raise DtypeError(f"cannot make a tensor of {type(x).__name__} values of dtype {value.dtype}", mend="pass numbers, or an array of them")
    return new(value if value.shape else value[()])


def _nested(x: Any, dtype: Dtype | None) -> Any:
    try:
        value = np.array(_without_tensors(x), dtype=dtype)
    except (TypeError, ValueError) as error:
        raise DtypeError(f"cannot make a tensor of {type(x).__name__}: {error}", mend="pass numbers, or lists of equal lengths") from None
    if dtype is None and not hasattr(x, "__array__") and value.dtype in (float64, np.complex128) and not _holds_arrays(x):
        value = value.astype(promote(value.dtype.type(0).item()))
    return value


def _without_tensors(x: Any) -> Any:
    return [_without_tensors(item) for item in x] if isinstance(x, (list, tuple)) else np.asarray(x._value) if isinstance(x, Tensor) else x


def _holds_arrays(x: Any) -> bool:
    return any(map(_holds_arrays, x)) if isinstance(x, (list, tuple)) else isinstance(x, (np.ndarray, np.generic, Tensor))


def operands(name: str, kinds: str, *xs: Any) -> list[Any]:
    """Tensors of one dtype, promoted; Python scalars take the others' dtype.

    Raises
    ------
    DtypeError
        If the dtype is not of the kinds that the gate takes; integers are converted for gates of
        floating point.
    """
    lifted = [x if isinstance(x, (bool, int, float, complex)) and x.__class__ in _SCALARS else lift(x) for x in xs]
    dtype = promote(*(x if x.__class__ in _SCALARS else x.dtype for x in lifted))
    if dtype.kind in "biu" and KINDS[kinds][0] in "fc":
        dtype = DEFAULT_FLOAT
    if dtype.kind not in KINDS[kinds]:
        raise DtypeError(f"{name} takes {kinds} values, not {', '.join(describe(x) for x in xs)}", mend="convert the operands with astype")
    return [to_dtype(x, dtype) for x in lifted]


def to_dtype(x: Any, dtype: Dtype) -> Any:
    """``x`` in this dtype, by a differentiable conversion where it has another one."""
    if x.__class__ in _SCALARS:
        made = dtype.type(x)
        return made if current().interpret is evaluate else new(made)
    return x if x.dtype == dtype else functions.astype(x, dtype)


def describe(x: Any) -> str:
    """dtype and shape for an error message."""
    return str(Aval(x.shape, x.dtype)) if hasattr(x, "dtype") else f"{type(x).__name__} {x!r}"


_SCALARS = frozenset((bool, int, float, complex))


def elementwise_aval(name: str, kinds: str, result: str) -> Rule:
    """The shape and dtype rule of an elementwise gate; ``result`` is "same", "boolean" or "real"."""

    def aval(*xs: Aval) -> Aval:
        dtype = promote(*(x.dtype for x in xs))
        if dtype.kind not in KINDS[kinds]:
            raise DtypeError(f"{name} takes {kinds} values, not {', '.join(map(str, xs))}", mend="convert the operands with astype")
        if result == "boolean":
            dtype = np.dtype(bool)
        elif result == "real" and dtype.kind == "c":
            dtype = np.finfo(dtype).dtype
        return Aval(_broadcast(name, xs), dtype)

    return aval


def _broadcast(name: str, xs: Sequence[Aval]) -> tuple[int, ...]:
    try:
        return broadcast(*(x.shape for x in xs))
    except ShapeError as error:
        raise ShapeError(f"{name}({', '.join(map(str, xs))}): {error.what}", mend=error.mend) from None


class Unary(Protocol):
    """A public elementwise function of one tensor."""

    def __call__(self, x: Tensor | npt.ArrayLike, /) -> Tensor: ...


class Binary(Protocol):
    """A public elementwise function of two tensors that broadcast."""

    def __call__(self, x1: Tensor | npt.ArrayLike, x2: Tensor | npt.ArrayLike, /) -> Tensor: ...


def unary(
    name: str,
    summary: str,
    *,
    kinds: str = "floating",
    result: str = "same",
    eval: Rule | None = None,
    partial: Partial | None = None,
    scalar: Rule,
    onnx: str | None = None,
    domain: tuple[float, float] = (-3.0, 3.0),
    notes: str = "",
    example: tuple[str, str],
    **rules: Any,
) -> Unary:
    """Make and enter an elementwise gate of one input.

    Parameters
    ----------
    name, summary, notes : str
        For the docstring; ``notes`` holds the formula and conventions.
    kinds : str
        A key of `KINDS`: what the gate takes.
    result : str
        dtype of the output: "same", "boolean" or "real".
    eval : rule, optional
        The namespace's function of the same name if not given.
    partial : rule or number, optional
        The local derivative.
    scalar : rule
        Lowering onto the scalar builder.
    domain : tuple of float
        Interval of sample values.
    example : (str, str)
        Argument of an example call, and what it prints.
    """
    primitive = register(
        Primitive(
            name=name,
            inputs=("x",),
            aval=elementwise_aval(name, kinds, result),
            eval=eval or _namesake(name),
            batch=batch_elementwise,
            partials=None if partial is None else (partial,),
            scalar=scalar,
            onnx=onnx,
            samples=_unary_samples(kinds, domain),
            refuses=_refusals(kinds, 1),
            **rules,
        )
    )
    function = _unary_function(primitive, name, kinds, fast=result == "same" and "f" in KINDS[kinds] and primitive.pulls != ())
    return _finish(function, name, summary, _PARAMETERS[1], kinds, result, notes, f"cr.{name}({example[0]})", example[1])


def binary(
    name: str,
    summary: str,
    *,
    kinds: str = "numeric",
    result: str = "same",
    eval: Rule | None = None,
    partials: tuple[Partial, Partial] | None = None,
    scalar: Rule,
    onnx: str | None = None,
    domains: tuple[tuple[float, float], tuple[float, float]] = ((-3.0, 3.0), (-3.0, 3.0)),
    notes: str = "",
    example: tuple[str, str],
    **rules: Any,
) -> Binary:
    """Make and enter an elementwise gate of two inputs that broadcast; parameters as for `unary`."""
    primitive = register(
        Primitive(
            name=name,
            inputs=("x1", "x2"),
            aval=elementwise_aval(name, kinds, result),
            eval=eval or _namesake(name),
            batch=batch_elementwise,
            partials=partials,
            scalar=scalar,
            onnx=onnx,
            samples=_binary_samples(kinds, domains),
            refuses=_refusals(kinds, 2),
            **rules,
        )
    )
    function = _binary_function(primitive, name, kinds, fast=result == "same" and "f" in KINDS[kinds] and primitive.pulls != ())
    return _finish(function, name, summary, _PARAMETERS[2], kinds, result, notes, f"cr.{name}({example[0]})", example[1])


def _unary_function(primitive: Primitive, name: str, kinds: str, *, fast: bool) -> Unary:
    def general(x: Tensor | npt.ArrayLike, /) -> Tensor:
        return bind(primitive, operands(name, kinds, x))

    compute = primitive.evaluate
    keep_x, keep_out = primitive.keeps[1]
    keeps = keep_x or keep_out

    # The everyday case written out: this is where small programs spend their time.
    def function(x: Tensor | npt.ArrayLike, /) -> Tensor:
        if x.__class__ is Tensor and current() is EVERYDAY:
            value = x._value
            node = x._node
            tags = 0 if node is None else node.tags
            dtype = value.dtype
            if tags <= BASE and (dtype is float32 or dtype is float64):
                out = compute(value)
                tensor = Tensor()
                tensor._value = out
                if not tags:
                    tensor._node = None
                    return tensor
                tensor._node = made = Node()
                made.primitive = primitive
                made.inputs = (node,)
                made.saved = (value if keep_x else None, out if keep_out else None) if keeps else ()
                made.params = NO_PARAMS
                made.tags = BASE
                made.order = next_order()
                made.shape = out.shape
                made.dtype = dtype
                made.cell = None
                return tensor
        return general(x)

    return function if fast else general


def _binary_function(primitive: Primitive, name: str, kinds: str, *, fast: bool) -> Binary:
    def general(x1: Tensor | npt.ArrayLike, x2: Tensor | npt.ArrayLike, /) -> Tensor:
        return bind(primitive, operands(name, kinds, x1, x2))

    compute = primitive.evaluate
    keeps = tuple(primitive.keeps[tracked] if any(primitive.keeps[tracked]) else None for tracked in range(4))

    def function(x1: Tensor | npt.ArrayLike, x2: Tensor | npt.ArrayLike, /) -> Tensor:
        if x1.__class__ is Tensor and x2.__class__ is Tensor and current() is EVERYDAY:
            v1 = x1._value
            v2 = x2._value
            n1 = x1._node
            n2 = x2._node
            t1 = 0 if n1 is None else n1.tags
            t2 = 0 if n2 is None else n2.tags
            dtype = v1.dtype
            if t1 | t2 <= BASE and dtype is v2.dtype and (dtype is float32 or dtype is float64):
                try:
                    out = compute(v1, v2)
                except Exception as error:
                    raise primitive.diagnose((v1, v2), NO_PARAMS, error) from None
                tensor = Tensor()
                tensor._value = out
                if not (t1 or t2):
                    tensor._node = None
                    return tensor
                keep = keeps[t1 + 2 * t2]
                tensor._node = made = Node()
                made.primitive = primitive
                made.inputs = (n1 if t1 else None, n2 if t2 else None)
                made.saved = () if keep is None else (v1 if keep[0] else None, v2 if keep[1] else None, out if keep[2] else None)
                made.params = NO_PARAMS
                made.tags = BASE
                made.order = next_order()
                made.shape = out.shape
                made.dtype = dtype
                made.cell = None
                return tensor
        elif x1.__class__ is Tensor and (x2.__class__ is float or x2.__class__ is int) and x1._value.dtype.kind == "f":
            return function(x1, new(x1._value.dtype.type(x2))) if current() is EVERYDAY else general(x1, x2)
        return general(x1, x2)

    return function if fast else general


def _namesake(name: str) -> Rule:
    found = getattr(np, name, None)
    assert found is not None, f"NumPy has no {name}"
    return found


_PARAMETERS = {
    1: "x : Tensor or array_like\n    {kinds} values of any shape{converted}.",
    2: "x1, x2 : Tensor or array_like\n    {kinds} values of shapes that broadcast{converted}; Python scalars take the other's dtype.",
}
_RESULTS = {"same": "the (promoted) dtype of the input", "boolean": "dtype bool", "real": "the real dtype of the input"}


def _finish(function: Any, name: str, summary: str, parameters: str, kinds: str, result: str, notes: str, call: str, prints: str) -> Any:
    converted = "; integers are converted to float32" if KINDS[kinds][0] in "fc" else ""
    function.__name__ = function.__qualname__ = name
    function.__module__ = "chainrule"
    notes = f"Notes\n-----\n{notes}\n\n" if notes else ""
    function.__doc__ = (
        f"{summary}\n\nParameters\n----------\n{parameters.format(kinds=kinds.capitalize(), converted=converted)}\n\n"
        f"Returns\n-------\nTensor\n    Of the (broadcast) shape of the input and {_RESULTS[result]}.\n\n"
        "Raises\n------\nDtypeError\n    For values of another kind.\nShapeError\n    If shapes do not broadcast.\n\n"
        f"{notes}Examples\n--------\n>>> import chainrule as cr\n>>> {call}\n{prints}\n"
    )
    return public(function)


def _draw(rng: np.random.Generator, kinds: str, domain: tuple[float, float], shape: tuple[int, ...]) -> Any:
    low, high = domain
    if "f" in KINDS[kinds]:
        return rng.uniform(low, high, shape)
    if kinds == "boolean":
        return rng.integers(0, 2, shape).astype(bool)
    return rng.integers(max(0, int(low)), int(high) + 1, shape)


def _unary_samples(kinds: str, domain: tuple[float, float]) -> Callable[[np.random.Generator], list[Sample]]:
    return lambda rng: [Sample((_draw(rng, kinds, domain, shape),)) for shape in ((2, 3), (), (0, 2))]


def _binary_samples(kinds: str, domains: tuple[tuple[float, float], tuple[float, float]]) -> Callable[[np.random.Generator], list[Sample]]:
    shapes = (((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1), (4, 1, 3)), ((), ()), ((0, 2), (2,)))
    return lambda rng: [Sample((_draw(rng, kinds, domains[0], a), _draw(rng, kinds, domains[1], b))) for a, b in shapes]


def _refusals(kinds: str, count: int) -> Callable[[], list[Refusal]]:
    def refuses() -> list[Refusal]:
        refused = [Refusal((np.array(["a"]),) * count, DtypeError, "numbers")]
        wrong = [x for x in (True, 1j, 1.5) if np.array(x).dtype.kind not in KINDS[kinds] and (KINDS[kinds][0] not in "fc" or x == 1j)]
        refused += [Refusal((np.array(x),) * count, DtypeError, "takes") for x in wrong]
        if count == 2:
            x = np.ones(3, bool if kinds == "boolean" else int)
            refused.append(Refusal((x, x[:2]), ShapeError, "broadcast"))
        return refused

    return refuses


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
