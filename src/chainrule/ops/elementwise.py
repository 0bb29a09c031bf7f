"""Factories of elementwise gates: from one record and a few words to a public function with its docs.

`unary` and `binary` also write out the everyday case of recording a gate, because this is where
programs on small arrays spend their time. No gate is defined here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from chainrule.core.aval import float32, float64
from chainrule.core.errors import DtypeError, ShapeError
from chainrule.core.interp import ARRAYS, BASE, Tag, current
from chainrule.core.node import NO_PARAMS, Node, next_order
from chainrule.core.primitive import Partial, Primitive, Refusal, Rule, Sample, functions, public, register
from chainrule.ops.gate import BARE, KINDS, batch_elementwise, elementwise_aval, operands
from chainrule.tape import bind
from chainrule.tensor import Tensor, new

if TYPE_CHECKING:
    import numpy.typing as npt

Interval = tuple[float, float]
_ndarray = np.ndarray
_array = np.array


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
    domain: Interval = (-3.0, 3.0),
    notes: str = "",
    example: tuple[str, str],
    gradient: str = "",
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
    gradient : str
        What the gradient of the example's sum prints.
    """
    primitive = Primitive(
        name=name,
        inputs=("x",),
        aval=elementwise_aval(name, kinds, result),
        eval=eval or _namesake(name),
        batch=batch_elementwise,
        partials=None if partial is None else (partial,),
        scalar=scalar,
        onnx=onnx,
        samples=_samples(kinds, domain),
        refuses=_refusals(kinds, 1),
        **rules,
    )
    function = unary_function(register(primitive), kinds, tracked=result != "boolean" and "f" in KINDS[kinds] and primitive.pulls != ())
    return _document(function, primitive, summary, kinds, result, notes, example, (gradient,) if gradient else ())


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
    domains: tuple[Interval, Interval] = ((-3.0, 3.0), (-3.0, 3.0)),
    notes: str = "",
    example: tuple[str, str, str],
    gradients: tuple[str, ...] = (),
    **rules: Any,
) -> Binary:
    """Make and enter an elementwise gate of two inputs that broadcast; parameters as for `unary`."""
    primitive = Primitive(
        name=name,
        inputs=("x1", "x2"),
        aval=elementwise_aval(name, kinds, result),
        eval=eval or _namesake(name),
        batch=batch_elementwise,
        partials=partials,
        scalar=scalar,
        onnx=onnx,
        samples=_samples(kinds, *domains),
        refuses=_refusals(kinds, 2),
        **rules,
    )
    if result == "boolean":
        function = comparison_function(register(primitive), kinds)
    else:
        function = binary_function(register(primitive), kinds, tracked="f" in KINDS[kinds] and primitive.pulls != ())
    return _document(function, primitive, summary, kinds, result, notes, example, gradients)


def unary_function(primitive: Primitive, kinds: str, *, tracked: bool) -> Unary:
    """The public function of a gate of one input and no parameters; ``tracked``: floats in, floats out, with a derivative."""
    name = primitive.name
    compute = primitive.evaluate
    keep_x, keep_out = primitive.keeps[1]
    keeps = keep_x or keep_out
    direct = KINDS[kinds]

    def general(x: Any) -> Any:
        if current() is ARRAYS and isinstance(x, BARE) and x.dtype.kind in direct:
            return compute(x)
        return bind(primitive, operands(name, kinds, x))

    def function(x: Any, /) -> Any:
        mode = current()
        if x.__class__ is Tensor and mode.interpret is None:
            value = x._value
            node = x._node
            tags = 0 if node is None else node.tags & mode.tracking
            dtype = value.dtype
            if (dtype is float32 or dtype is float64) and (tags <= BASE or not tags & Tag.forward_bits):
                try:
                    out = compute(value)
                except Exception as error:
                    raise primitive.diagnose((value,), NO_PARAMS, error) from None
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
                made.tags = tags
                made.order = next_order()
                made.shape = out.shape
                made.dtype = dtype
                made.cell = None
                return tensor
        return general(x)

    return function if tracked else general


def binary_function(primitive: Primitive, kinds: str, *, tracked: bool) -> Binary:
    """The public function of a gate of two inputs and no parameters."""
    name = primitive.name
    compute = primitive.evaluate
    keeps = tuple(primitive.keeps[mask] if any(primitive.keeps[mask]) else None for mask in range(4))
    direct = KINDS[kinds]
    # Rules that call gates want the operand in its dtype; those that only multiply by it take the number as it is.
    plain = primitive.partials is not None and not any(map(callable, primitive.partials))

    def general(x1: Any, x2: Any, /) -> Any:
        if current() is ARRAYS and isinstance(x1, BARE) and isinstance(x2, BARE) and x1.dtype is x2.dtype and x1.dtype.kind in direct:
            return compute(x1, x2)
        return bind(primitive, operands(name, kinds, x1, x2))

    def function(x1: Any, x2: Any, /) -> Any:
        mode = current()
        if mode.interpret is None:
            n1 = n2 = None
            if x1.__class__ is Tensor:
                v1 = x1._value
                n1 = x1._node
                dtype = v1.dtype
                if x2.__class__ is Tensor:
                    v2 = x2._value
                    n2 = x2._node
                    if v2.dtype is not dtype:
                        return general(x1, x2)
                elif x2.__class__ is float or x2.__class__ is int:
                    v2 = x2 if plain and v1.__class__ is not _ndarray else _weak(x2, v1)
                else:
                    return general(x1, x2)
            elif x2.__class__ is Tensor and (x1.__class__ is float or x1.__class__ is int):
                v2 = x2._value
                n2 = x2._node
                dtype = v2.dtype
                v1 = x1 if plain and v2.__class__ is not _ndarray else _weak(x1, v2)
            else:
                return general(x1, x2)
            tracking = mode.tracking
            t1 = 0 if n1 is None else n1.tags & tracking
            t2 = 0 if n2 is None else n2.tags & tracking
            tags = t1 | t2
            if (dtype is float32 or dtype is float64) and (tags <= BASE or not tags & Tag.forward_bits):
                try:
                    out = compute(v1, v2)
                except Exception as error:
                    raise primitive.diagnose((v1, v2), NO_PARAMS, error) from None
                tensor = Tensor()
                tensor._value = out
                if not tags:
                    tensor._node = None
                    return tensor
                tensor._node = made = Node()
                made.primitive = primitive
                if not t2:
                    keep = keeps[1]
                    made.inputs = (n1, None)
                elif not t1:
                    keep = keeps[2]
                    made.inputs = (None, n2)
                else:
                    keep = keeps[3]
                    made.inputs = (n1, n2)
                made.saved = () if keep is None else (v1 if keep[0] else None, v2 if keep[1] else None, out if keep[2] else None)
                made.params = NO_PARAMS
                made.tags = tags
                made.order = next_order()
                made.shape = out.shape
                made.dtype = dtype
                made.cell = None
                return tensor
        return general(x1, x2)

    return function if tracked else general


def comparison_function(primitive: Primitive, kinds: str) -> Binary:
    """The public function of a gate of two inputs that gives booleans, so that nothing is recorded."""
    name = primitive.name
    compute = primitive.evaluate
    direct = KINDS[kinds]

    def function(x1: Any, x2: Any, /) -> Any:
        mode = current()
        if x1.__class__ is Tensor and mode.interpret is None:
            v1 = x1._value
            kind = v1.dtype.kind
            if x2.__class__ is Tensor:
                v2 = x2._value
            elif (x2.__class__ is float or x2.__class__ is int) and kind == "f":
                v2 = _weak(x2, v1)
            else:
                v2 = x2 if x2.__class__ is int and kind in "iu" else None
            if v2 is not None and kind in direct and (v2.__class__ is int or v2.dtype is v1.dtype):
                try:
                    out = compute(v1, v2)
                except Exception as error:
                    raise primitive.diagnose((v1, v2), NO_PARAMS, error) from None
                if out.__class__ is bool:
                    # Not numbers were compared, but names in a graph.
                    raise primitive.diagnose((v1, v2), NO_PARAMS, TypeError())
                return new(out)
        elif isinstance(x1, BARE) and isinstance(x2, BARE) and mode is ARRAYS and x1.dtype is x2.dtype and x1.dtype.kind in direct:
            return compute(x1, x2)
        if "i" in direct:
            x1, x2 = _unbounded(x1, x2)
            x2, x1 = _unbounded(x2, x1)
        return bind(primitive, operands(name, kinds, x1, x2))

    return function


def _unbounded(x: Any, beside: Any) -> tuple[Any, Any]:
    """Operands of a comparison: a Python integer that is beyond all integers beside it compares as an infinity does."""
    dtype = getattr(beside, "dtype", None)
    if x.__class__ is not int or not isinstance(dtype, np.dtype) or dtype.kind not in "iu":
        return x, beside
    limits = np.iinfo(dtype)
    return (x, beside) if limits.min <= x <= limits.max else (math.copysign(math.inf, x), functions.astype(beside, float32))


def _weak(number: float, beside: Any) -> Any:
    """A Python number in the dtype of the value beside it, in the form in which NumPy is quickest to take it there."""
    dtype = beside.dtype
    try:
        return _array(number, dtype) if beside.__class__ is _ndarray else dtype.type(number)
    except OverflowError:
        raise DtypeError(f"{number!r} does not fit {dtype}", mend="convert the other operand to a wider dtype with astype") from None


def _namesake(name: str) -> Rule:
    found = getattr(np, name, None)
    assert found is not None, f"NumPy has no {name}"
    return found


_PARAMETERS = (
    "x : Tensor or array_like\n    {kinds} values of any shape{converted}.",
    "x1, x2 : Tensor or array_like\n    {kinds} values of shapes that broadcast{converted}; Python scalars take the other's dtype.",
)
_RESULTS = {"same": "the (promoted) dtype of the input", "boolean": "dtype bool", "real": "the real dtype of the input"}


def _document(
    function: Any, primitive: Primitive, summary: str, kinds: str, result: str, notes: str, example: tuple[str, ...], gradients: tuple[str, ...]
) -> Any:
    name = primitive.name
    *arguments, prints = example
    two = len(arguments) == 2
    converted = "; integers are converted to float32" if KINDS[kinds][0] in "fc" else ""
    words = "Boolean, integer, floating-point or complex" if kinds == "any" else kinds.capitalize().replace("floating", "floating-point")
    function.__name__ = function.__qualname__ = name
    function.__module__ = "chainrule"
    function.__annotations__ = (Binary if two else Unary).__call__.__annotations__
    function.__doc__ = (
        f"{summary}\n\nParameters\n----------\n{_PARAMETERS[two].format(kinds=words, converted=converted)}\n\n"
        f"Returns\n-------\nTensor\n    Of the {'broadcast ' if two else ''}shape{'' if two else ' of the input'} and {_RESULTS[result]}.\n\n"
        "Raises\n------\nDtypeError\n    For values of another kind.\n"
        + ("ShapeError\n    If the shapes do not broadcast.\n" if two else "")
        + (f"\nNotes\n-----\n{notes}\n" if notes else "")
        + f"\nExamples\n--------\n>>> import chainrule as cr\n{_example(name, arguments, prints, gradients)}\n"
    )
    return public(function)


def _example(name: str, arguments: list[str], prints: str, gradients: tuple[str, ...]) -> str:
    if not gradients:
        return f">>> cr.{name}({', '.join(arguments)})\n{prints}"
    names = [f"x{i + 1}" for i in range(len(arguments))] if len(arguments) > 1 else ["x"]
    leaves = "".join(f">>> {one} = cr.tensor({argument}, requires_grad=True)\n" for one, argument in zip(names, arguments, strict=True))
    grads = f">>> {', '.join(f'{one}.grad' for one in names)}\n{gradients[0] if len(names) == 1 else '(' + ', '.join(gradients) + ')'}"
    return f"{leaves}>>> y = cr.{name}({', '.join(names)}); y\n{prints[:-1]}, from={name})\n>>> y.sum().backward()\n{grads}"


def _draw(rng: np.random.Generator, kinds: str, domain: Interval, shape: tuple[int, ...], *, whole: bool) -> Any:
    low, high = domain
    if whole or "f" not in KINDS[kinds]:
        drawn = rng.integers(max(0, int(low)), int(high) + 1, shape)
        return drawn.astype(bool) if kinds == "boolean" else drawn
    return rng.uniform(low, high, shape)


def _samples(kinds: str, *domains: Interval) -> Callable[[np.random.Generator], list[Sample]]:
    """Floats (or what else the gate takes) of diverse shapes, and for gates that take both also integers."""
    if len(domains) == 1:
        shapes: tuple[tuple[tuple[int, ...], ...], ...] = (((2, 3),), ((),), ((0, 2),))
    else:
        shapes = (((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1), (4, 1, 3)), ((), ()), ((0, 2), (2,)))

    def samples(rng: np.random.Generator) -> list[Sample]:
        drawn = [(group, False) for group in shapes] + [(shapes[0], True)] * ("i" in KINDS[kinds] and "f" in KINDS[kinds])
        pairs = [(list(zip(domains, group, strict=True)), whole) for group, whole in drawn]
        return [Sample(tuple(_draw(rng, kinds, domain, shape, whole=whole) for domain, shape in pair)) for pair, whole in pairs]

    return samples


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
