"""A custom gate in a graph: the mark at which derivatives leave the operations of its forward for its own backward.

While a function is traced, a `Function`'s forward is written down like any other code. Its outputs then pass through the gate
``custom``: the identity, whose other inputs are the arguments and whatever forward kept for backward. Whoever only wants values may
drop it: it gives its first inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from chainrule.autodiff.contract import Context, Saved, pull, push
from chainrule.autodiff.vmap import vmap
from chainrule.core import tree
from chainrule.core.interp import QUIET, current, evaluate, using
from chainrule.core.primitive import Primitive, functions
from chainrule.graph.ir import frozen
from chainrule.tape import bind
from chainrule.tensor import Tensor, new

if TYPE_CHECKING:
    from chainrule.autodiff.function import Function

Shares = Sequence[Tensor | None]
"""A cotangent or tangent per input or output, None where there is none."""


class Rule(Protocol):
    """The derivative of a custom gate, of which ``xs`` are all inputs: the outputs of forward, the arguments, what was kept."""

    def pull(self, cts: Sequence[Tensor], to: Sequence[Any], xs: Sequence[Tensor], outs: Sequence[Tensor]) -> Shares:
        """A cotangent per input; None at least where ``to`` is."""
        ...

    def push(self, tangents: Shares, xs: Sequence[Tensor], outs: Sequence[Tensor]) -> Shares:
        """A tangent per output."""
        ...


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor that forward kept is found again."""

    among: Literal["inputs", "outputs"]
    index: int


class Written:
    """The rule of a Function as it is written, with what its forward kept.

    Parameters
    ----------
    function : type
    arguments : sequence of bool
        Per argument of ``apply``, whether it is a tensor.
    outputs : int
        How many there are.
    saved : sequence
        What was saved for backward, with places for tensors.
    attributes : tree
        What was set on the context; likewise.
    """

    def __init__(
        self, function: type[Function], arguments: Sequence[bool], outputs: int, saved: Sequence[Any], attributes: Mapping[str, Any]
    ) -> None:
        self.function = function
        self._arguments = tuple(arguments)
        self._outputs = outputs
        self._saved = tuple(saved)
        self._attributes = attributes
        leaves, structure = tree.flatten((list(saved), dict(attributes)))
        self._key = (function, self._arguments, outputs, structure, tuple(map(_comparable, leaves)))

    def __repr__(self) -> str:
        return self.function.__name__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Written) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def pull(self, cts: Sequence[Tensor], to: Sequence[Any], xs: Sequence[Tensor], outs: Sequence[Tensor]) -> Shares:
        again = any(x._node is not None and x._node.tags & current().tracking for x in (*cts, *xs))
        found = pull(self.function, self._context(xs, outs), cts, self._per_argument(to), again=again)
        return self._per_input([x for x, is_tensor in zip(found, self._arguments, strict=True) if is_tensor], len(xs))

    def push(self, tangents: Shares, xs: Sequence[Tensor], outs: Sequence[Tensor]) -> Shares:
        return push(self.function, self._context(xs, outs), self._per_argument(tangents), outs)

    def _per_argument(self, of_inputs: Sequence[Any]) -> list[Any]:
        rest = iter(of_inputs[self._outputs :])
        return [next(rest) if is_tensor else None for is_tensor in self._arguments]

    def _per_input(self, of_tensors: Shares, count: int) -> Shares:
        kept = count - self._outputs - len(of_tensors)
        return [*[None] * self._outputs, *of_tensors, *[None] * kept]

    def _context(self, xs: Sequence[Tensor], outs: Sequence[Tensor]) -> Context:
        """As forward left it."""

        def found(x: Any) -> Any:
            if not isinstance(x, _Place):
                return x
            tensor = (xs if x.among == "inputs" else outs)[x.index]
            return new(tensor._value, tensor._node)

        def entry(x: Any) -> Any:
            return x if not isinstance(x, _Place) else Saved(found(x)._value, found(x)._node, None)

        ctx = Context()
        ctx._of_graph = True
        ctx._saved = tuple(map(entry, self._saved))
        for name, value in self._attributes.items():
            setattr(ctx, name, tree.map(found, value))
        return ctx


class _Batched:
    """The rule of a batch of examples, from that of one."""

    def __init__(self, one: Rule, batched: Sequence[bool]) -> None:
        self._one = one
        self._batched = tuple(batched)

    def __repr__(self) -> str:
        return f"vmap({self._one!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Batched) and (self._one, self._batched) == (other._one, other._batched)

    def __hash__(self) -> int:
        return hash((self._one, self._batched))

    def pull(self, cts: Sequence[Tensor], to: Sequence[Any], xs: Sequence[Tensor], outs: Sequence[Tensor]) -> Shares:
        def one(cts: list[Tensor], xs: list[Tensor], outs: list[Tensor]) -> list[Tensor | None]:
            wants = [None if aval is None else x for aval, x in zip(to, xs, strict=True)]
            return [*self._one.pull(cts, wants, xs, outs)]

        found = vmap(one, in_axes=(0, self._axes, 0))(list(cts), list(xs), list(outs))
        return [x if x is None or b else functions.sum(x, axis=0) for x, b in zip(found, self._batched, strict=True)]

    def push(self, tangents: Shares, xs: Sequence[Tensor], outs: Sequence[Tensor]) -> Shares:
        def one(tangents: list[Tensor | None], xs: list[Tensor], outs: list[Tensor]) -> list[Tensor | None]:
            return [*self._one.push(tangents, xs, outs)]

        axes = [None if t is None else axis for t, axis in zip(tangents, self._axes, strict=True)]
        return vmap(one, in_axes=(axes, self._axes, 0))(list(tangents), list(xs), list(outs))

    @property
    def _axes(self) -> list[int | None]:
        return [0 if b else None for b in self._batched]


def _pull(ct: tuple[Any, ...], to: tuple[Any, ...], xs: tuple[Any, ...], out: tuple[Any, ...], rule: Rule) -> Any:
    if current().interpret is not evaluate:
        return rule.pull(_cotangents(ct, out), to, xs, out)
    with using(QUIET):
        xs, out = tuple(map(new, xs)), tuple(map(new, out))
        found = rule.pull(_cotangents([None if x is None else new(x) for x in ct], out), to, xs, out)
    return [None if x is None else x._value for x in found]


def _cotangents(ct: Sequence[Any], outs: Sequence[Tensor]) -> list[Tensor]:
    """With names of their own: backward may rebind them; an output without one is seen as zeros."""
    return [functions.zeros(out.shape, dtype=out.dtype) if x is None else new(x._value, x._node) for x, out in zip(ct, outs, strict=True)]


def _batch(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    size = next(x.shape[0] for x, b in zip(inputs, batched, strict=True) if b)
    count: int = params["outputs"]
    outs = [x if b else functions.broadcast_to(x, (size, *x.shape)) for x, b in zip(inputs[:count], batched, strict=False)]
    every = [*[True] * count, *batched[count:]]
    return bind(primitive, [*outs, *inputs[count:]], {**params, "rule": _Batched(params["rule"], every)})


CUSTOM = Primitive(
    name="custom",
    inputs=("*xs",),
    aval=lambda *xs, outputs, rule: xs[:outputs],
    eval=lambda *xs, outputs, rule: xs[:outputs],
    batch=_batch,
    vjp=_pull,
    jvp=lambda t, xs, out, rule: rule.push(t, xs, out),
    outputs=True,
)
"""The identity on its first ``outputs`` inputs, differentiated by a rule; part of graphs, not of the table."""


def mark(function: type[Function], ctx: Context, args: Sequence[Any], outputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of a traced forward behind the mark; where they were saved, these are saved in their place."""
    tensors = [x for x in args if isinstance(x, Tensor)]
    inputs = [*outputs, *tensors]
    places: dict[Any, _Place] = {}
    for i, x in enumerate(outputs):
        places[x._value] = _Place("outputs", i)
    for i, x in enumerate(tensors, len(outputs)):
        places[x._value] = _Place("inputs", i)

    def place(x: Any) -> Any:
        if not isinstance(x, (Tensor, Saved)):
            return x
        value = x._value if isinstance(x, Tensor) else x.value
        if value not in places:
            places[value] = _Place("inputs", len(inputs))
            inputs.append(new(value))
        return places[value]

    saved = [place(entry) for entry in ctx._saved]
    attributes = {name: tree.map(place, value) for name, value in ctx._attributes().items()}
    rule = Written(function, [isinstance(x, Tensor) for x in args], len(outputs), saved, attributes)
    marked = bind(CUSTOM, inputs, {"outputs": len(outputs), "rule": rule})
    for entry in ctx._saved:
        if isinstance(entry, Saved) and entry.output is not None:
            entry.value = marked[entry.output]._value
    return [*marked]


def _comparable(x: Any) -> Any:
    key = frozen(x)
    try:
        hash(key)
    except TypeError:
        return id(x)
    return key
