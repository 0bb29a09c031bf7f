"""while_loop: apply a function again and again, as long as a condition holds.

Outside of a trace this is a loop in Python, recorded step by step. In a trace it is one gate, with condition and body as inner graphs.
Tangents go along in a loop of the same kind. Going back needs every carry, and their number is not known before:
that is a gate of its own, which keeps them in a list.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chainrule.core import tree
from chainrule.core.aval import Aval
from chainrule.core.errors import ArgumentError, DtypeError, ShapeError, TraceError
from chainrule.core.interp import current
from chainrule.core.nest import Array, Nest
from chainrule.core.primitive import Primitive, Refusal, Same, Sample, functions
from chainrule.core.variable import Variable
from chainrule.graph.control import carried as checked_carry
from chainrule.graph.control import condition, lifted
from chainrule.graph.derived import (
    Mask,
    batch_size,
    batched_of,
    beside,
    chosen,
    dealt,
    either,
    kept,
    masked,
    or_zeros,
    present,
    push_of,
    stretched,
    traced,
    zeros,
)
from chainrule.graph.inner import PRUNES, Inner, Run, check_inner, pruned, reads, restricted, runner
from chainrule.graph.ir import Graph, Operation
from chainrule.graph.opaque import Pull, Push, apply_opaque
from chainrule.graph.steps import back
from chainrule.ops.gate import batch_looped, gate
from chainrule.tape import bind
from chainrule.tensor import Tensor

__all__ = ["while_loop"]

# Containers of Tensors have no narrower type.
Tree = Any


def _aval(*avals: Aval, cond: Graph, body: Graph, carried: int) -> tuple[Aval, ...]:
    check_inner("while_loop", cond, avals, [Aval((), np.dtype(bool))])
    check_inner("while_loop", body, avals, avals[:carried])
    return avals[:carried]


def _eval(*xs: Any, cond: Graph, body: Graph, carried: int) -> tuple[Any, ...]:
    carry, rest, holds, step = list(xs[:carried]), xs[carried:], runner(cond), runner(body)
    while holds(*carry, *rest)[0]:
        carry = step(*carry, *rest)
    return tuple(carry)


def _jvp(t: tuple[Any, ...], xs: tuple[Any, ...], cond: Graph, body: Graph, carried: int) -> list[Any] | None:
    moved = present(t)
    flows, holds, step = kept(body, ("tangents", cond, carried, moved), lambda: _with_tangents(cond, body, carried, moved))
    if not any(flows):
        return None
    starts = or_zeros(chosen(flows, t[:carried]), chosen(flows, body.inputs[:carried]))
    others = [x for x in t[carried:] if x is not None]
    inputs = [*xs[:carried], *starts, *xs[carried:], *others]
    outs = bind(WHILE_LOOP, inputs, {"cond": holds, "body": step, "carried": carried + len(starts)})
    return dealt(flows, outs[carried:])


def _with_tangents(cond: Graph, body: Graph, carried: int, moved: Mask) -> tuple[Mask, Graph, Graph]:
    """The loop that carries tangents too: after the carry those that exist, after the rest those of the rest."""
    flows = moved[:carried]
    while True:
        push, reached = push_of(body, (*flows, *moved[carried:]))
        if either(flows, reached) == flows:
            break
        flows = either(flows, reached)
    moving, moved_rest = chosen(flows, body.inputs[:carried]), chosen(moved[carried:], body.inputs[carried:])
    first, second = carried + len(moving), len(body.inputs) + len(moving)
    like = [*body.inputs[:carried], *(beside("d_", x) for x in moving), *body.inputs[carried:], *(beside("d_", x) for x in moved_rest)]

    def step(values: list[Tensor]) -> list[Tensor]:
        outs = push.apply([*values[:carried], *values[first:second], *values[carried:first], *values[second:]])
        tangents = dealt(reached, outs[carried:])
        return [*outs[:carried], *or_zeros(chosen(flows, tangents), moving)]

    holds = traced(cond.name, like, lambda values: cond.apply([*values[:carried], *values[first:second]]))
    return flows, holds, traced(body.name, like, step)


def _vjp(
    ct: tuple[Any, ...], to: tuple[Aval | None, ...], xs: tuple[Any, ...], cond: Graph, body: Graph, carried: int, differentiated: Graph
) -> list[Any]:
    step = back(differentiated, carried, 0, present(to), present(ct), collects=False)
    if step is None:
        return [None] * len(xs)
    ends = or_zeros(chosen(step.flows, ct), chosen(step.flows, body.inputs[:carried]))
    sums = [zeros(x) for x in chosen(step.sums, body.inputs[carried:])]
    finals = bind(WHILE_LOOP_BACK, [*ends, *sums, *xs], {"cond": cond, "body": body, "back": step.graph, "carried": carried})
    return step.dealt(finals, (), ())


def _batch(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    size, cond, body, own = batch_size(batched, inputs), params["cond"], params["body"], params["carried"]
    flows, rest = tuple(batched[:own]), tuple(batched[own:])
    while True:
        step, which = batched_of(body, (*flows, *rest), size, flows)
        holds, (each,) = batched_of(cond, (*flows, *rest), size)
        # Where each example has its own condition, each has its own number of steps.
        wider = either(which, (each,) * own)
        if wider == flows:
            break
        flows = wider
    carry = [stretched(x, size) if flow and not b else x for x, b, flow in zip(inputs, batched, flows, strict=False)]
    others = list(inputs[own:])
    if not each:
        outs = bind(primitive, [*carry, *others], {**params, "cond": holds, "body": step})
        return tuple(x if flow else Same(x) for x, flow in zip(outs, flows, strict=True))
    running = holds.apply([*carry, *others])
    both = kept(body, ("until all are done", cond, flows, rest, size), lambda: _until_all_are_done(holds, step, own))
    outs = bind(primitive, [*running, *carry, *others], {"cond": both[0], "body": both[1], "carried": own + 1})
    return outs[1:]


def _until_all_are_done(holds: Graph, step: Graph, carried: int) -> tuple[Graph, Graph]:
    """A batched loop that runs while any example does; it carries which do, and what is done stays as it is."""
    like = [Variable(holds.outputs[0].aval, "running"), *step.inputs]

    def some(values: list[Tensor]) -> list[Tensor]:
        return [functions.any(values[0])]

    def body(values: list[Tensor]) -> list[Tensor]:
        running, carry, rest = values[0], values[1 : carried + 1], values[carried + 1 :]
        size = running.shape[0]
        after = [
            functions.where(functions.reshape(running, (size,) + (1,) * (x.ndim - 1)), now, x)
            for now, x in zip(step.apply(values[1:]), carry, strict=True)
        ]
        return [running & holds.apply([*after, *rest])[0], *after]

    return traced(holds.name, like, some), traced(step.name, like, body)


def _prune(operation: Operation, used: Collection[Variable]) -> Operation:
    cond, body, own = operation.params["cond"], operation.params["body"], operation.params["carried"]
    tested = reads(cond)
    ends = {i for i, x in enumerate(operation.outputs) if x in used or cond.inputs[i] in tested}
    while True:
        read = reads(body, ends)
        more = {i for i in range(own) if body.inputs[i] in read} - ends
        if not more:
            break
        ends |= more
    rest = [i for i in range(own, len(body.inputs)) if body.inputs[i] in read or cond.inputs[i] in tested]
    carry = sorted(ends)
    inputs = [*carry, *rest]
    holds = restricted(cond, {cond.inputs[i] for i in inputs}, (0,))
    return pruned(operation, inputs, carry, cond=holds, body=restricted(body, {body.inputs[i] for i in inputs}, carry), carried=len(carry))


PRUNES["while_loop"] = _prune


def _run_loops(w: Nest, carry: Sequence[Array], rest: Sequence[Array], cond: Graph, body: Graph) -> Any:
    """Apply the body to a carry as long as the condition holds: how many times it did."""
    steps = w.variable(0, wanted="steps")
    with w.forever():
        (holds,) = w.inline(cond, (*carry, *rest))
        w.leave(~w.load(holds))
        w.advance(carry, w.inline(body, (*carry, *rest)))
        w.assign(steps, steps + 1)
    return steps


def _loops(w: Nest, outs: tuple[Array, ...], *xs: Array, cond: Graph, body: Graph, carried: int) -> None:
    carry = [w.own(x, inner.name or "carry") for x, inner in zip(xs[:carried], body.inputs, strict=False)]
    _run_loops(w, carry, xs[carried:], cond, body)
    for out, x in zip(outs, carry, strict=True):
        w.copy(out, x)


WHILE_LOOP = Primitive(
    name="while_loop",
    inputs=("*xs",),
    aval=_aval,
    eval=_eval,
    batch=_batch,
    vjp=lambda ct, to, xs, cond, body, carried: _vjp(ct, to, xs, cond, body, carried, body),
    masked_vjp=lambda ct, to, xs, cond, body, carried: _vjp(ct, to, xs, cond, body, carried, masked(body)),
    jvp=_jvp,
    outputs=True,
    loops=_loops,
    samples=lambda rng: (
        Sample((lambda c: c[1] < 3, lambda c: (functions.sin(c[0]) * c[0], c[1] + 1), (rng.normal(size=2), rng.integers(0, 2)))),
        Sample((lambda c: c["n"] < 0, lambda c: c, {"x": rng.normal(size=2), "n": np.array(0)})),
        Sample((lambda c: functions.sum(c[0]) < 20, lambda c: (c[0] * c[1], c[1]), (rng.uniform(1, 2, 3), rng.uniform(2, 3, 3)))),
    ),
    refuses=lambda: [
        Refusal((lambda c: c, lambda c: c, 1.0), DtypeError, "x > 0"),
        Refusal((lambda c: c < 3, lambda c: (c, c), 1.0), ArgumentError, "structure * and returned (*, *)"),
        Refusal((lambda c: c < 3, lambda c: functions.stack([c, c]), 1.0), ShapeError, "was float32() and the body returned float32(2)"),
    ],
)


@gate(WHILE_LOOP)
def while_loop(cond_fn: Callable[[Tree], Tensor | bool], body_fn: Callable[[Tree], Tree], init: Tree, /) -> Tree:
    """Apply ``body_fn`` again and again, as long as ``cond_fn`` holds.

    Parameters
    ----------
    cond_fn : callable
        Carry to a single truth value.
    body_fn : callable
        Carry to the next carry, of the same structure, shapes and dtypes.
    init : Tensor, array_like or container of them
        The first carry.

    Returns
    -------
    Tensor or container
        The first carry for which the condition does not hold.

    Raises
    ------
    ArgumentError, ShapeError, DtypeError
        If the body changes the carry's structure, a shape or a dtype, or a condition is not one truth value.
    TraceError
        In a traced function: if the condition assigns to a tensor from outside, or the body makes or clears its ``.grad``.

    Notes
    -----
    In a traced function both functions are called once, to be written down. The gradient runs the loop, keeps every carry, and
    computes each step again on the way back. Of a batch of examples (`vmap`) those that are done keep their carry until all are.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor(3.0, requires_grad=True)
    >>> y = cr.while_loop(lambda y: y < 20, lambda y: y * x, x)
    >>> y.backward(); y.detach(), x.grad
    (tensor(27.), tensor(27.))
    """
    carry = lifted(init)
    tracer = current().tracer
    if tracer is not None:
        result = _traced(cond_fn, body_fn, carry)
        tracer.returning(result)
        return result
    while condition("while_loop", cond_fn(carry)):
        carry = checked_carry("while_loop", carry, body_fn(carry))
    return carry


def _traced(cond_fn: Callable[[Tree], Any], body_fn: Callable[[Tree], Tree], carry: Tree) -> Tree:
    holds = Inner(cond_fn, lambda carry: condition("while_loop", cond_fn(carry)), (carry,))
    step = Inner(body_fn, lambda before: checked_carry("while_loop", before, body_fn(before)), (carry,))
    step.must_find_gradients_as_it_leaves_them("while_loop")
    if holds.assigned or any(target.read() is not None for target in holds.cleared):
        raise TraceError("while_loop: the condition assigns to a tensor from outside", mend="assign in the body, or before and after the loop")
    if any(target not in step.taken for target in step.assigned) or any(target.read() is not None for target in step.cleared):
        raise TraceError(
            "while_loop: the body changes whether a tensor from outside has a .grad, and nobody knows whether it runs at all",
            mend="compute gradients with cr.grad, or clear them before the loop and in the body",
        )
    starts = tree.leaves(carry)
    states = {state: step.taken[state] for state in step.assigned}
    rest = {source: x for source, x in {**holds.taken, **step.taken}.items() if source not in states}
    graphs = [_closed(inner, states, rest, ends) for inner, ends in ((holds, holds.results), (step, (*step.results, *step.assigned.values())))]
    given = [*starts, *(state.read() for state in states), *(source.read() for source in rest)]
    carried = len(starts) + len(states)
    outs = bind(WHILE_LOOP, given, {"cond": graphs[0], "body": graphs[1], "carried": carried}) if carried else ()
    for state, value in zip(states, outs[len(starts) :], strict=True):
        state.write(value)
    return step.structure.rebuild(outs[: len(starts)])


def _closed(inner: Inner, states: Mapping[Any, Variable], rest: Mapping[Any, Variable], ends: Sequence[Variable]) -> Graph:
    own = inner.inputs({**states, **rest})
    return inner.closed((*inner.arguments, *own.values()), ends)


# Going back.


def _swept(run: Callable[[Graph], Run], xs: Sequence[Any], cond: Graph, body: Graph, back: Graph, carried: int) -> tuple[Any, ...]:
    """Run the loop, keep its carries, and go back through them."""
    count = len(back.outputs)
    state, carry, rest = list(xs[:count]), list(xs[count : count + carried]), xs[count + carried :]
    holds, step, step_back = run(cond), run(body), run(back)
    before: list[list[Any]] = []
    while holds(*carry, *rest)[0]:
        before.append(carry)
        carry = step(*carry, *rest)
    for carry in reversed(before):
        state = step_back(*state, *carry, *rest)
    return tuple(state)


@dataclass(frozen=True, slots=True)
class _Swept:
    """The same on Tensors, recorded, for its own derivatives."""

    cond: Graph
    body: Graph
    back: Graph
    carried: int

    @property
    def __name__(self) -> str:
        return "while_loop_back"

    def __call__(self, *xs: Tensor) -> tuple[Tensor, ...]:
        run = lambda graph: lambda *given: graph.apply(given)
        return _swept(run, xs, self.cond, self.body, self.back, self.carried)


def _back_aval(*avals: Aval, cond: Graph, body: Graph, back: Graph, carried: int) -> tuple[Aval, ...]:
    count = len(back.outputs)
    _aval(*avals[count:], cond=cond, body=body, carried=carried)
    check_inner("while_loop_back", back, avals, avals[:count])
    return avals[:count]


def _back_vjp(
    ct: tuple[Any, ...], to: tuple[Aval | None, ...], xs: tuple[Any, ...], cond: Graph, body: Graph, back: Graph, carried: int
) -> list[Any]:
    wanted, received = present(to), present(ct)
    outputs = [aval for aval in to if aval is not None]
    found = apply_opaque(Pull(_Swept(cond, body, back, carried), wanted, received), (*xs, *chosen(received, ct)), outputs)
    return dealt(wanted, found)


def _back_jvp(t: tuple[Any, ...], xs: tuple[Any, ...], cond: Graph, body: Graph, back: Graph, carried: int) -> list[Any]:
    every = (True,) * len(back.outputs)
    function = Push(_Swept(cond, body, back, carried), present(t), every)
    return list(apply_opaque(function, (*xs, *chosen(present(t), t)), [x.aval for x in back.outputs]))


def _back_loops(w: Nest, outs: tuple[Array, ...], *xs: Array, cond: Graph, body: Graph, back: Graph, carried: int) -> None:
    count = len(back.outputs)
    first, rest = xs[count : count + carried], xs[count + carried :]
    state, carry = [w.own(x, "back") for x in xs[:count]], [w.own(x, "carry") for x in first]
    steps = _run_loops(w, carry, rest, cond, body)
    # How many carries there are is not known, so that none is kept: each is computed from the first one.
    with w.loop(steps) as i:
        for x, start in zip(carry, first, strict=True):
            w.copy(x, start)
        with w.loop(steps - 1 - i):
            w.advance(carry, w.inline(body, (*carry, *rest)))
        w.advance(state, w.inline(back, (*state, *carry, *rest)))
    for out, x in zip(outs, state, strict=True):
        w.copy(out, x)


WHILE_LOOP_BACK = Primitive(
    name="while_loop_back",
    inputs=("*xs",),
    aval=_back_aval,
    eval=lambda *xs, cond, body, back, carried: _swept(runner, xs, cond, body, back, carried),
    batch=batch_looped("Each example takes a number of steps of its own."),
    vjp=_back_vjp,
    jvp=_back_jvp,
    loops=_back_loops,
    outputs=True,
)
"""From cotangents of the last carry, sums for the rest, and the inputs of a loop to cotangents of the first carry, and the sums.

Part of graphs, not of the table: no public function applies it.
"""
