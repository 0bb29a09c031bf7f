"""cond: the result of one of two functions; and what all control flow asks of conditions and results.

Outside of a trace the choice is made as soon as the condition is known, and the tape records what was done. In a trace
both functions become inner graphs of one gate, which chooses each time it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from chainrule.core import tree
from chainrule.core.aval import Aval
from chainrule.core.errors import ArgumentError, DtypeError, ShapeError, TraceError
from chainrule.core.interp import current
from chainrule.core.nest import Array, Nest
from chainrule.core.primitive import Primitive, Refusal, Same, Sample, functions
from chainrule.core.variable import Variable
from chainrule.graph.derived import batch_size, batched_of, chosen, dealt, either, filled, masked, present, pull_of, push_of, stretched
from chainrule.graph.inner import PRUNES, Inner, check_inner, pruned, reads, restricted, runner
from chainrule.graph.ir import Captured, Graph, Operation
from chainrule.ops.gate import alias, describe, gate, lift
from chainrule.tape import bind
from chainrule.tensor import Tensor

__all__ = ["cond"]

# Containers of Tensors have no narrower type.
Tree = Any


def condition(name: str, x: Any) -> Any:
    """A single truth value.

    Raises
    ------
    ShapeError, DtypeError
        If it is none.
    """
    value = lift(x)
    if value.shape != ():
        raise ShapeError(
            f"{name}: a condition of shape {value.shape}",
            mend="reduce it to one truth value with cr.all or cr.any; cr.where chooses element by element",
        )
    if value.dtype.kind != "b":
        raise DtypeError(f"{name}: a condition of dtype {value.dtype}", mend="compare: x > 0, or x != 0")
    return value


def named(x: Any) -> Any:
    """A Tensor with a name of its own: neither a function nor its caller can rebind the other's."""
    return alias(lift(x))


def lifted(container: Tree) -> Tree:
    """All leaves as such Tensors."""
    return tree.map(named, container)


def carried(name: str, before: Tree, after: Tree) -> Tree:
    """``after`` as Tensors, if it is what ``before`` was in everything but its values.

    Raises
    ------
    ArgumentError, ShapeError, DtypeError
        If it is not.
    """
    old, structure = tree.flatten(before)
    new, found = tree.flatten(after)
    if found != structure:
        raise ArgumentError(
            f"{name}: the body was given a carry of structure {tree.describe(structure)} and returned {tree.describe(found)}",
            mend="return containers nested in the same way, with the same keys",
        )
    new = [named(leaf) for leaf in new]
    for position, (was, now) in enumerate(zip(old, new, strict=True)):
        what = f"{name}: part {position} of the carry was {describe(was)} and the body returned {describe(now)}"
        if now.shape != was.shape:
            raise ShapeError(what, mend="a carry keeps its shape: give init the final shape, or collect what grows as scan's second result")
        if now.dtype != was.dtype:
            raise DtypeError(what, mend="a carry keeps its dtype: give init that dtype, or convert in the body with astype")
    return structure.rebuild(new)


def _branch(true: Graph, false: Graph, pred: Any) -> Graph:
    return true if pred else false


def _aval(*avals: Aval, true: Graph, false: Graph) -> tuple[Aval, ...]:
    outs = tuple(x.aval for x in true.outputs)
    for branch in (true, false):
        check_inner("cond", branch, avals[1:], outs)
    return outs


def _vjp(ct: tuple[Any, ...], to: tuple[Aval | None, ...], xs: tuple[Any, ...], true: Graph, false: Graph) -> list[Any]:
    wanted, received = present(to[1:]), present(ct)
    pulls = [pull_of(branch, wanted, received) for branch in (true, false)]
    return [None, *_choose([graph for graph, _ in pulls], [reached for _, reached in pulls], true.inputs, (*xs, *chosen(received, ct)))]


def _jvp(t: tuple[Any, ...], xs: tuple[Any, ...], true: Graph, false: Graph) -> list[Any]:
    moved = present(t[1:])
    pushes = [push_of(branch, moved) for branch in (true, false)]
    tangents = [restricted(graph, graph.inputs, range(len(true.outputs), len(graph.outputs))) for graph, _ in pushes]
    return _choose(tangents, [reached for _, reached in pushes], true.outputs, (*xs, *chosen(moved, t[1:])))


def _choose(branches: Sequence[Graph], reached: Sequence[tuple[bool, ...]], like: Sequence[Variable], inputs: Sequence[Any]) -> list[Any]:
    """One of two graphs' values, of which each gives those that it reaches: zeros where only the other one gives a value."""
    any_reached = either(*reached)
    if not any(any_reached):
        return [None] * len(any_reached)
    true, false = (filled(branch, own, any_reached, like) for branch, own in zip(branches, reached, strict=True))
    return dealt(any_reached, bind(COND, inputs, {"true": true, "false": false}))


def _batch(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    size, own = batch_size(batched, inputs), tuple(batched[1:])
    true, false = params["true"], params["false"]
    if not batched[0]:
        which = either(*(batched_of(branch, own, size)[1] for branch in (true, false)))
        outs = bind(primitive, inputs, {name: batched_of(params[name], own, size, which)[0] for name in ("true", "false")})
        return tuple(x if b else Same(x) for x, b in zip(outs, which, strict=True))
    columns: list[list[Any]] = []
    for branch in (true, false):
        # Each is computed for examples too for which it was not meant.
        with np.errstate(all="ignore"):
            outs, which = functions.apply_batched(branch, own, inputs[1:])
        columns.append([x if b else stretched(x, size) for x, b in zip(outs, which, strict=True)])
    return tuple(functions.where(functions.reshape(inputs[0], (size,) + (1,) * (x.ndim - 1)), x, y) for x, y in zip(*columns, strict=True))


def _prune(operation: Operation, used: Collection[Variable]) -> Operation:
    true, false = operation.params["true"], operation.params["false"]
    ends = [i for i, x in enumerate(operation.outputs) if x in used]
    own = [reads(branch, ends) for branch in (true, false)]
    kept = [i for i, pair in enumerate(zip(true.inputs, false.inputs, strict=True)) if any(x in read for x, read in zip(pair, own, strict=True))]
    branches = {name: restricted(branch, {branch.inputs[i] for i in kept}, ends) for name, branch in (("true", true), ("false", false))}
    return pruned(operation, [0, *(i + 1 for i in kept)], ends, **branches)


PRUNES["cond"] = _prune


def _loops(w: Nest, outs: tuple[Array, ...], pred: Array, *xs: Array, true: Graph, false: Graph) -> None:
    holds = w.let(w.load(pred), "holds")
    numbers = {out: w.variable(0, out.dtype, "chosen") for out in outs if not out.shape}
    for branch, condition in ((true, holds), (false, ~holds)):
        with w.when(condition):
            for out, x in zip(outs, w.inline(branch, xs), strict=True):
                if out in numbers:
                    w.assign(numbers[out], w.load(x))
                else:
                    w.copy(out, x)
    for out, number in numbers.items():
        w.store(out, (), number)


COND = Primitive(
    name="cond",
    inputs=("*xs",),
    aval=_aval,
    eval=lambda pred, *xs, true, false: tuple(runner(_branch(true, false, pred))(*xs)),
    batch=_batch,
    vjp=_vjp,
    masked_vjp=lambda ct, to, xs, true, false: _vjp(ct, to, xs, masked(true), masked(false)),
    jvp=_jvp,
    outputs=True,
    loops=_loops,
    samples=lambda rng: (
        Sample((np.array(True), lambda x, y: x * y, lambda x, y: x - y, rng.normal(size=3), rng.normal(size=3))),
        Sample((np.array(False), lambda x, y: (x, 2), lambda x, y: (functions.sin(x) * y, 3), rng.normal(size=3), rng.normal())),
        Sample((np.array(True), lambda c: c["a"] + 1, lambda c: c["b"], {"a": rng.normal(size=2), "b": rng.normal(size=2)})),
    ),
    refuses=lambda: [
        Refusal((np.array([True, False]), abs, abs, 1.0), ShapeError, "cr.where chooses element by element"),
        Refusal((np.array(1.0), abs, abs, 1.0), DtypeError, "x > 0"),
    ],
)


@gate(COND)
def cond(pred: Tensor | bool, true_fn: Callable[..., Tree], false_fn: Callable[..., Tree], /, *operands: Tree) -> Tree:
    """The result of one of two functions; only that one is called.

    Parameters
    ----------
    pred : Tensor or bool
        A single truth value; a Python one chooses at once, in a traced function too.
    true_fn, false_fn : callable
        Called with the operands. In a traced function both must return the same structure, shapes and dtypes.
    *operands : Tensor, array_like or containers of them

    Returns
    -------
    Tensor or container
        ``true_fn(*operands)`` or ``false_fn(*operands)``.

    Raises
    ------
    ShapeError, DtypeError
        If ``pred`` is not one truth value.
    ArgumentError, ShapeError, DtypeError
        In a traced function: if the two functions return different structures, shapes or dtypes.
    TraceError
        In a traced function: if after one of them a tensor from outside has a ``.grad`` and after the other it has none.

    Notes
    -----
    A traced function calls both, once, to write them down; the graph runs one of them each time. What they assign to tensors
    from outside is assigned by the one that runs. For a batch of examples with a condition each (`vmap`), both
    are computed and `where` chooses.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor(-3.0, requires_grad=True)
    >>> cr.cond(x > 0, lambda x: x, lambda x: 0.25 * x, x).backward()
    >>> x.grad
    tensor(0.25)
    """
    tracer = current().tracer
    if tracer is None or isinstance(pred, (bool, np.bool_)):
        known = pred if isinstance(pred, (bool, np.bool_)) else condition("cond", pred)
        return lifted((true_fn if known else false_fn)(*map(lifted, operands)))
    result = _traced(condition("cond", pred), true_fn, false_fn, lifted(operands))
    tracer.returning(result)
    return result


def _traced(pred: Tensor, true_fn: Callable[..., Tree], false_fn: Callable[..., Tree], operands: tuple[Tree, ...]) -> Tree:
    true, false = (Inner(f, lambda *given, f=f: lifted(f(*given)), operands) for f in (true_fn, false_fn))
    _check_alike(true, false)
    targets = list({**true.assigned, **false.assigned})
    like = {**true.taken, **false.taken}
    for target in targets:
        if target in like or (target in true.assigned and target in false.assigned):
            continue
        if target.read() is None:
            raise _disagreement(target)
        # What one branch alone assigns is handed through the other.
        like[target] = true.assigned.get(target) or false.assigned[target]
    cleared = [target for target in {*true.cleared, *false.cleared} if target.read() is not None]
    for target in cleared:
        if target not in true.cleared or target not in false.cleared:
            raise _disagreement(target)
    given = [*tree.leaves(operands), *(source.read() for source in like)]
    outs: Sequence[Any] = ()
    if true.results or targets:
        outs = bind(COND, [pred, *given], {"true": _closed(true, like, targets), "false": _closed(false, like, targets)})
    for target, value in zip(targets, outs[len(true.results) :], strict=True):
        target.write(value)
    for target in cleared:
        target.write(None)
    return true.structure.rebuild(outs[: len(true.results)])


def _closed(branch: Inner, like: Mapping[Captured, Variable], targets: Sequence[Captured]) -> Graph:
    own = branch.inputs(like)
    ends = (branch.assigned[target] if target in branch.assigned else own[target] for target in targets)
    return branch.closed((*branch.arguments, *own.values()), (*branch.results, *ends))


def _check_alike(true: Inner, false: Inner) -> None:
    if true.structure != false.structure:
        raise ArgumentError(
            f"cond: true_fn returned {tree.describe(true.structure)} and false_fn {tree.describe(false.structure)}",
            mend="return containers nested in the same way, with the same keys, from both functions",
        )
    for position, (x, y) in enumerate(zip(true.results, false.results, strict=True)):
        what = f"cond: part {position} of the result is {x.aval} from true_fn and {y.aval} from false_fn"
        if x.shape != y.shape:
            raise ShapeError(what, mend="return the same shapes from both functions; broadcast_to repeats a value")
        if x.dtype != y.dtype:
            raise DtypeError(what, mend="return the same dtypes from both functions: convert one with astype")


def _disagreement(target: Captured) -> TraceError:
    x = target.tensor
    return TraceError(
        f"cond: after one of its functions a tensor {Aval(x.shape, x.dtype)} from outside has a .grad, after the other it has none",
        mend="run backward after cond, or compute gradients with cr.grad",
    )
