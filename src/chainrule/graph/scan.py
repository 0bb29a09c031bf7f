"""scan: through slices along the first axis, carrying something on and collecting something from each.

Outside of a trace this is a loop in Python, recorded step by step. In a trace it is one gate with the step as its inner graph.
Where gradients may be asked for, that gate also collects what the derivatives of each step are computed from (`residuals`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from chainrule.core import tree
from chainrule.core.aval import Aval
from chainrule.core.errors import ArgumentError, ShapeError
from chainrule.core.interp import current, evaluate, no_grad
from chainrule.core.nest import Array, Nest
from chainrule.core.primitive import Primitive, Refusal, Same, Sample, functions
from chainrule.core.variable import Variable
from chainrule.graph.control import carried as checked_carry
from chainrule.graph.control import lifted
from chainrule.graph.derived import batch_size, batched_of, chosen, dealt, kept, masked, or_zeros, present, stretched, zeros
from chainrule.graph.inner import PRUNES, Inner, check_inner, flat, pruned, reads, restricted, runner
from chainrule.graph.ir import Graph, Operation
from chainrule.graph.residuals import residuals
from chainrule.graph.steps import ahead, back
from chainrule.ops.gate import describe, gate, lift
from chainrule.tape import bind
from chainrule.tensor import Tensor

__all__ = ["scan"]

# Containers of Tensors have no narrower type.
Tree = Any


def _aval(*avals: Aval, body: Graph, length: int, reverse: bool, carried: int, sliced: int) -> tuple[Aval, ...]:
    slices = avals[carried : carried + sliced]
    if any(x.shape[:1] != (length,) for x in slices):
        raise ShapeError(f"scan({', '.join(map(str, avals))}): not all slices are {length} in number", mend="give all of them one first axis")
    one = [Aval(x.shape[1:], x.dtype) for x in slices]
    check_inner("scan", body, [*avals[:carried], *one, *avals[carried + sliced :]], avals[:carried])
    return (*avals[:carried], *(Aval((length, *x.shape), x.dtype) for x in body.outputs[carried:]))


def _eval(*xs: Any, body: Graph, length: int, reverse: bool, carried: int, sliced: int) -> tuple[Any, ...]:
    step = runner(body)
    carry, slices, rest = xs[:carried], xs[carried : carried + sliced], xs[carried + sliced :]
    columns = [np.empty((length, *y.shape), y.dtype) for y in body.outputs[carried:]]
    for i in reversed(range(length)) if reverse else range(length):
        out = step(*carry, *[x[i] for x in slices], *rest)
        carry = out[:carried]
        for column, y in zip(columns, out[carried:], strict=True):
            column[i] = y
    return (*carry, *columns)


class _Scan(NamedTuple):
    """The parameters of a scan."""

    body: Graph
    length: int
    reverse: bool
    carried: int
    sliced: int

    def parted(self, values: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        """What is for the carry, the slices and the rest."""
        return values[: self.carried], values[self.carried : self.carried + self.sliced], values[self.carried + self.sliced :]


def _loop(
    body: Graph, carry: Sequence[Any], slices: Sequence[Any], rest: Sequence[Any], length: int, reverse: bool
) -> tuple[Sequence[Any], Sequence[Any]]:
    """The last carry and what is collected; slices and the rest may be None where the body does not read them."""
    carried, bare = len(carry), current().interpret is evaluate
    used, step = kept(body, ("step", carried, bare), lambda: _step_of(body, carried, bare))
    if not step.outputs:
        return [], []
    slots = [*carry, *slices, *rest]
    sliced = sum(carried <= i < carried + len(slices) for i in used)
    outs = bind(SCAN, [slots[i] for i in used], _Scan(step, length, reverse, carried, sliced)._asdict())
    for x, before in zip(outs[len(body.outputs) :], step.outputs[len(body.outputs) :], strict=True):
        if isinstance(x, Tensor) and isinstance(x._value, Variable) and before in step.inputs:
            x._value.name = f"{before.name}_before"
    return outs[:carried], outs[carried : len(body.outputs)]


def _step_of(body: Graph, carried: int, bare: bool) -> tuple[list[int], Graph]:
    """Which inputs the body reads, and the body of those; unless its values are bare, it collects what derivatives will read."""
    read = reads(body)
    used = [i for i, x in enumerate(body.inputs) if i < carried or x in read]
    step = restricted(body, {body.inputs[i] for i in used}, range(len(body.outputs)))
    return used, step if bare else collecting(step, carried, residuals(step, carried))


def collecting(body: Graph, carried: int, parts: Collection[Variable]) -> Graph:
    """The same body, which collects these values too: parts of the carry that it is given, or what it computes."""
    values = (*body.inputs[:carried], *(x for node in body.nodes for x in node.outputs))
    missing = [x for x in values if x in parts and x not in body.outputs[carried:]]
    if not missing:
        return body
    make = lambda: flat(body.name, body.inputs, body.nodes, (*body.outputs, *missing), body.constants)
    return kept(body, ("collecting", carried, *missing), make)


def _before(parts: Collection[Variable], xs: Sequence[Any], out: Sequence[Any], scan: _Scan) -> list[Any]:
    """The carry before each step, None for parts that are not asked for; computed again if it was not collected."""
    body = collecting(scan.body, scan.carried, parts)
    if body is not scan.body:
        out = bind(SCAN, xs, scan._replace(body=body)._asdict())
    places = {x: i for i, x in enumerate(body.outputs) if i >= scan.carried}
    return [out[places[x]] if x in parts else None for x in body.inputs[: scan.carried]]


def _vjp(ct: tuple[Any, ...], to: tuple[Aval | None, ...], xs: tuple[Any, ...], out: Any, scan: _Scan, body: Graph) -> list[Any]:
    step = back(body, scan.carried, scan.sliced, present(to), present(ct), collects=True)
    if step is None:
        return [None] * len(xs)
    _, slices, rest = scan.parted(xs)
    like, _, like_rest = scan.parted(body.inputs)
    ends = or_zeros(chosen(step.flows, ct[: scan.carried]), chosen(step.flows, like))
    sums = [zeros(x) for x in chosen(step.early, like_rest)]
    read = _read_at(step.graph, len(ends) + len(sums), like) | {x for i, x in enumerate(like) if step.reads(i)}
    cts = [x for x in ct[scan.carried :] if x is not None]
    taken = [*_before(read, xs, out, scan), *slices, *cts]
    taken += [out[body.outputs.index(x, scan.carried)] for x in step.known]
    finals, collected = _loop(step.graph, [*ends, *sums], taken, rest, scan.length, not scan.reverse)
    return step.dealt(finals, collected, taken)


def _jvp(t: tuple[Any, ...], xs: tuple[Any, ...], out: Any, scan: _Scan) -> list[Any] | None:
    step = ahead(scan.body, scan.carried, scan.sliced, present(t))
    if step is None:
        return None
    _, slices, rest = scan.parted(xs)
    t_carry, t_slices, t_rest = scan.parted(t)
    like = scan.body.inputs[: scan.carried]
    starts = or_zeros(chosen(step.flows, t_carry), chosen(step.flows, like))
    before = _before(_read_at(step.graph, len(starts), like), xs, out, scan)
    moved, others = ([x for x in part if x is not None] for part in (t_slices, t_rest))
    finals, tangents = _loop(step.graph, starts, [*before, *slices, *moved], [*rest, *others], scan.length, scan.reverse)
    return [*dealt(step.flows, finals), *dealt(step.collected, tangents)]


def _read_at(step: Graph, first: int, carry: Sequence[Variable]) -> set[Variable]:
    """Parts of the carry that a derived step, which takes them from its input ``first`` on, reads."""
    read = reads(step)
    return {x for x, own in zip(carry, step.inputs[first : first + len(carry)], strict=True) if own in read}


def _batch(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    size, body, own, sliced = batch_size(batched, inputs), params["body"], params["carried"], params["sliced"]
    flows, rest = tuple(batched[:own]), tuple(batched[own:])
    while True:
        step, which = batched_of(body, (*flows, *rest), size, (*flows, *(False for _ in body.outputs[own:])))
        if which[:own] == flows:
            break
        flows = which[:own]
    carry = [stretched(x, size) if flow and not b else x for x, b, flow in zip(inputs[:own], batched, flows, strict=False)]
    # Steps first, examples second.
    slices = [functions.moveaxis(x, 0, 1) if b else x for x, b in zip(inputs[own : own + sliced], rest, strict=False)]
    outs = bind(primitive, [*carry, *slices, *inputs[own + sliced :]], {**params, "body": step})
    finals = [x if flow else Same(x) for x, flow in zip(outs, flows, strict=False)]
    return (*finals, *(functions.moveaxis(x, 1, 0) if b else Same(x) for x, b in zip(outs[own:], which[own:], strict=True)))


def _prune(operation: Operation, used: Collection[Variable]) -> Operation:
    body, own, sliced = operation.params["body"], operation.params["carried"], operation.params["sliced"]
    ends = {i for i, x in enumerate(operation.outputs) if x in used}
    while True:
        read = reads(body, ends)
        more = {i for i in range(own) if body.inputs[i] in read} - ends
        if not more:
            break
        ends |= more
    kept_inputs = [i for i, x in enumerate(body.inputs) if (i in ends if i < own else x in read)]
    outputs = sorted(ends)
    step = restricted(body, {body.inputs[i] for i in kept_inputs}, outputs)
    counts = {"carried": sum(i < own for i in outputs), "sliced": sum(own <= i < own + sliced for i in kept_inputs)}
    return pruned(operation, kept_inputs, outputs, body=step, **counts)


PRUNES["scan"] = _prune


def _samples(rng: np.random.Generator) -> list[Sample]:
    def network(h: Tree, x: Tree) -> tuple[Tree, Tree]:
        h = functions.sin(functions.vecdot(x["w"], h)) * h + x["b"]
        return h, functions.sum(h)

    xs = {"w": rng.normal(size=(4, 3)), "b": rng.normal(size=4)}
    return [
        Sample((network, rng.normal(size=3), xs)),
        Sample((network, rng.normal(size=3), xs), {"reverse": True}),
        Sample((lambda c, x: ((c[0] * c[1], c[1], c[2] + 1), c[2]), (rng.normal(), rng.normal(), np.array(0))), {"length": 3}),
        Sample((lambda c, x: (c, (x * c, x)), rng.normal(), rng.normal(size=(2, 2)))),
        Sample((network, rng.normal(size=3), {"w": rng.normal(size=(0, 3)), "b": rng.normal(size=0)})),
    ]


def _loops(w: Nest, outs: tuple[Array, ...], *xs: Array, body: Graph, length: int, reverse: bool, carried: int, sliced: int) -> None:
    slices, rest, columns = xs[carried : carried + sliced], xs[carried + sliced :], outs[carried:]
    states = [w.own(x, inner.name or "state") for x, inner in zip(xs[:carried], body.inputs, strict=False)]
    with w.loop(length) as i:
        at = length - 1 - i if reverse else i
        pieces = [w.scratch(x.shape[1:], x.dtype, inner.name) for x, inner in zip(slices, body.inputs[carried:], strict=False)]
        for piece, whole in zip(pieces, slices, strict=True):
            with w.loop(piece.size) as j:
                w.put(piece, j, w.at(whole, at * piece.size + j))
        made = w.inline(body, (*states, *pieces, *rest))
        for x, whole in zip(made[carried:], columns, strict=True):
            with w.each(x.shape) as place:
                w.store(whole, (at, *place), w.load(x, place))
        w.advance(states, made[:carried])
    for x, out in zip(states, outs, strict=False):
        w.copy(out, x)


SCAN = Primitive(
    name="scan",
    inputs=("*xs",),
    aval=_aval,
    eval=_eval,
    batch=_batch,
    vjp=lambda ct, to, xs, out, body, length, reverse, carried, sliced: _vjp(ct, to, xs, out, _Scan(body, length, reverse, carried, sliced), body),
    masked_vjp=lambda ct, to, xs, out, body, length, reverse, carried, sliced: _vjp(
        ct, to, xs, out, _Scan(body, length, reverse, carried, sliced), masked(body)
    ),
    jvp=lambda t, xs, out, body, length, reverse, carried, sliced: _jvp(t, xs, out, _Scan(body, length, reverse, carried, sliced)),
    outputs=True,
    loops=_loops,
    samples=_samples,
    refuses=lambda: [
        Refusal((lambda c, x: (c, x), 0.0), ArgumentError, "no one number of steps"),
        Refusal((lambda c, x: c, 0.0, np.ones(2)), ArgumentError, "not a pair"),
        Refusal((lambda c, x: (c[None], x), np.ones(2), np.ones(2)), ShapeError, "was float64(2) and the body returned float64(1, 2)"),
    ],
)


@gate(SCAN)
def scan(
    f: Callable[[Tree, Tree], tuple[Tree, Tree]], init: Tree, xs: Tree = None, /, *, length: int | None = None, reverse: bool = False
) -> tuple[Tree, Tree]:
    """Go through slices along the first axis, carrying something on and collecting something from each.

    Parameters
    ----------
    f : callable
        ``f(carry, x)`` returns ``(carry, y)``, the carry of the same structure, shapes and dtypes.
    init : Tensor, array_like or container of them
        The first carry.
    xs : Tensor, array_like or container of them, optional
        Everything in it has the same size on its first axis; ``f`` receives one slice of each, or None without ``xs``.
    length : int, optional
        Number of steps; needed without ``xs`` only.
    reverse : bool
        Begin with the last slice; results are stacked in the order of the slices all the same.

    Returns
    -------
    carry : Tensor or container
        The last one.
    ys : Tensor or container
        The collected results, stacked along a new first axis.

    Raises
    ------
    ArgumentError, ShapeError, DtypeError
        If the number of steps is not known or not one, if ``f`` does not return a pair, or if the carry changes
        its structure, a shape or a dtype.
    TraceError
        In a traced function: if the first step would find a tensor from outside without a ``.grad`` and the others with one,
        or the reverse.

    Notes
    -----
    For no steps at all, ``f`` is called once on zeros, to see what it collects.

    In a traced function ``f`` is called once, to write the step down. What it assigns to tensors from outside (a generator's
    state, running statistics) goes from step to step. The gradient is a scan in the other
    direction, which computes each step again from the carry before it: memory is that of the carries.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> last, sums = cr.scan(lambda total, v: (total + v, total + v), 0.0, x)
    >>> sums.detach()
    tensor([1., 3., 6.])
    >>> sums.sum().backward(); x.grad
    tensor([3., 2., 1.])
    """
    carry, xs = lifted(init), lifted(xs)
    slices, structure = tree.flatten(xs)
    steps = _steps(slices, length)
    tracer = current().tracer
    if tracer is not None:
        result = _traced(f, carry, xs, slices, steps, reverse)
        tracer.returning(result)
        return result
    if not steps:
        return carry, _collects_nothing(f, carry, xs)
    rows = list(zip(*(functions.unstack(leaf) for leaf in slices), strict=True)) or [()] * steps
    collected: list[list[Any]] = []
    shape_of_y = None
    for row in reversed(rows) if reverse else rows:
        carry, y = _step(f, carry, structure.rebuild(row))
        leaves, found = tree.flatten(y)
        if shape_of_y is not None and found != shape_of_y:
            says = f"scan: f collected {tree.describe(shape_of_y)} in one step and {tree.describe(found)} in another"
            raise ArgumentError(says, mend="collect containers nested in the same way in every step")
        shape_of_y = found
        collected.append([lift(leaf) for leaf in leaves])
    assert shape_of_y is not None
    columns = zip(*(reversed(collected) if reverse else collected), strict=True)
    return carry, shape_of_y.rebuild(functions.stack(column) for column in columns)


def _traced(f: Callable[[Tree, Tree], Any], carry: Tree, xs: Tree, slices: list[Any], length: int, reverse: bool) -> tuple[Tree, Tree]:
    starts = tree.leaves(carry)
    avals = [*(Aval(x.shape, x.dtype) for x in starts), *(Aval(x.shape[1:], x.dtype) for x in slices)]
    inner = Inner(f, lambda carry, x: lifted(_step(f, carry, x)), (carry, xs), avals)
    if length > 1:
        inner.must_find_gradients_as_it_leaves_them("scan")
    count = len(starts)
    states = inner.inputs(inner.assigned)
    rest = {source: x for source, x in inner.taken.items() if source not in states}
    body = inner.closed(
        (*inner.arguments[:count], *states.values(), *inner.arguments[count:], *rest.values()),
        (*inner.results[:count], *inner.assigned.values(), *inner.results[count:]),
    )
    # What is assigned but never read has no value before the first step.
    before = [state.read() if state in inner.taken else zeros(x) for state, x in inner.assigned.items()]
    finals, ys = _loop(body, [*starts, *before], slices, [source.read() for source in rest], length, reverse)
    if length:
        for state, value in zip(states, finals[count:], strict=True):
            state.write(value)
        for target in inner.cleared:
            target.write(None)
    return inner.structure.rebuild([*finals[:count], *ys])


def _steps(slices: list[Any], length: int | None) -> int:
    if any(not leaf.shape for leaf in slices):
        raise ShapeError(
            "scan: a part of xs has no axes to go along", mend="give every part of xs a first axis; what is the same in every step needs not go in"
        )
    sizes = {leaf.shape[0] for leaf in slices} | ({length} if length is not None else set())
    if len(sizes) != 1:
        known = ", ".join(map(describe, slices))
        raise ArgumentError(
            f"scan: no one number of steps from xs ({known}) and length={length}", mend="give parts of one length, or length= without xs"
        )
    (steps,) = sizes
    if steps < 0:
        raise ArgumentError(f"scan: length={length}", mend="a number of steps is 0 or more")
    return steps


def _step(f: Callable[[Tree, Tree], Any], carry: Tree, x: Tree) -> tuple[Tree, Tree]:
    result = f(carry, x)
    if not isinstance(result, tuple) or len(result) != 2:
        raise ArgumentError(f"scan: f returned {type(result).__name__} and not a pair", mend="return (carry, y); y may be None")
    after, y = result
    return checked_carry("scan", carry, after), y


def _collects_nothing(f: Callable[[Tree, Tree], Any], carry: Tree, xs: Tree) -> Tree:
    with no_grad():
        _, y = _step(f, carry, tree.map(lambda leaf: functions.zeros(leaf.shape[1:], dtype=leaf.dtype), xs))
    return tree.map(lambda leaf: functions.zeros((0, *leaf.shape), dtype=leaf.dtype), lifted(y))
