"""Checkpoints: of a function only the inputs are kept for the backward pass, which computes the rest again.

The function becomes a graph and one gate that runs it. Every derivative of that gate is again such a gate, of a derived
graph, so what holds for the first order holds for all of them. No graph is optimized here; `opened` and
`without_barriers` give a compiler what it needs to do so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

import numpy as np

from chainrule.autodiff.scope import enter, node_of
from chainrule.core import tree
from chainrule.core.aval import Aval
from chainrule.core.errors import ArgumentError
from chainrule.core.interp import QUIET, Tag, current, evaluate, transforming, using
from chainrule.core.nest import Array, Nest
from chainrule.core.primitive import Primitive, Same, Sample, functions
from chainrule.core.variable import Variable
from chainrule.graph.derived import batch_size, batched_of, chosen, dealt, kept, masked, present, pull_of, push_of
from chainrule.graph.inner import flat, reads, restricted, runner
from chainrule.graph.ir import Graph, Operation
from chainrule.graph.naming import leaf_names
from chainrule.graph.trace import GraphTracer, trace_with
from chainrule.ops.gate import gate, lift
from chainrule.tape import bind, reverse
from chainrule.tensor import Tensor, new

__all__ = ["checkpoint"]

# Containers of Tensors have no narrower type.
Tree = Any


def _batch_barrier(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    return tuple(x if b else Same(x) for x, b in zip(bind(primitive, inputs), batched, strict=True))


def _barrier_loops(w: Nest, outs: tuple[Array, ...], *xs: Array) -> None:
    for out, x in zip(outs, xs, strict=True):
        w.same(out, x)


BARRIER = Primitive(
    name="barrier",
    inputs=("*xs",),
    aval=lambda *xs: xs,
    cost=lambda *xs: 0,
    eval=lambda *xs: xs,
    batch=_batch_barrier,
    vjp=lambda ct: ct,
    jvp=lambda t: t,
    outputs=True,
    loops=_barrier_loops,
    samples=lambda rng: [Sample((rng.normal(size=(2, 3)), rng.normal(size=4))), Sample((rng.normal(), np.arange(3)))],
)


@gate(BARRIER)
def barrier(*xs: Any) -> tuple[Tensor, ...]:
    """Its arguments, which nothing that merges or moves computations looks through.

    What is computed from them is computed after all of them, and never taken for what is computed from the same values
    elsewhere.
    """
    return bind(BARRIER, tuple(map(lift, xs)))


def _pull(ct: tuple[Any, ...], to: tuple[Aval | None, ...], xs: tuple[Any, ...], graph: Graph) -> list[Any]:
    received, wanted = present(ct), present(to)
    if current().interpret is evaluate:
        return _recompute(graph, xs, wanted, ct)
    pull, reached = pull_of(graph, wanted, received)
    fenced = kept(pull, ("fenced",), lambda: _fenced(pull))
    return dealt(reached, bind(CHECKPOINT, (*xs, *chosen(received, ct)), {"graph": fenced}))


def _masked_pull(ct: tuple[Any, ...], to: tuple[Aval | None, ...], xs: tuple[Any, ...], graph: Graph) -> list[Any]:
    return _pull(ct, to, xs, masked(graph))


def _recompute(graph: Graph, xs: Sequence[Any], wanted: tuple[bool, ...], cts: Sequence[Any]) -> list[Any]:
    """The cotangents of arrays: a tape is made and used up here."""
    ends = [i for i, ct in enumerate(cts) if ct is not None]
    needed = kept(graph, ("ends", *ends), lambda: restricted(graph, graph.inputs, ends))
    tag = Tag()
    with using(QUIET):
        inside = [enter(new(x), tag, "an input") if needs else new(x) for x, needs in zip(xs, wanted, strict=True)]
        nodes = [node_of(x) if needs else None for x, needs in zip(inside, wanted, strict=True)]
        with transforming(tag.bit):
            outs = needed.apply(inside)
        seeds = [new(cts[i]) for i in ends]
        found = reverse(outs, seeds, tag.bit, retain=False, wanted=[node for node in nodes if node is not None])
    return [found[node]._value if node in found else None for node in nodes]


def _fenced(graph: Graph) -> Graph:
    """A graph that recomputes, behind a barrier: it must not be merged with what was computed before."""
    given = tuple(Variable(x.aval, x.name) for x in graph.inputs)
    return flat(graph.name, given, (Operation(BARRIER, given, {}, graph.inputs), *graph.nodes), graph.outputs, graph.constants)


def _push(t: tuple[Any, ...], xs: tuple[Any, ...], graph: Graph) -> list[Any]:
    moved = present(t)
    push, reached = push_of(graph, moved)
    tangents = kept(push, ("tangents",), lambda: restricted(push, push.inputs, range(len(graph.outputs), len(push.outputs))))
    return dealt(reached, bind(CHECKPOINT, (*xs, *chosen(moved, t)), {"graph": tangents}))


def _batch(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    graph: Graph = params["graph"]
    made, which = batched_of(graph, tuple(batched), batch_size(batched, inputs))
    return tuple(x if b else Same(x) for x, b in zip(bind(primitive, inputs, {"graph": made}), which, strict=True))


CHECKPOINT = Primitive(
    name="checkpoint",
    inputs=("*xs",),
    aval=lambda *xs, graph: tuple(x.aval for x in graph.outputs),
    eval=lambda *xs, graph: tuple(runner(graph)(*xs)),
    batch=_batch,
    vjp=_pull,
    masked_vjp=_masked_pull,
    jvp=_push,
    outputs=True,
)
"""A graph of which the tape keeps the inputs only; part of tapes and graphs, not of the table, since it needs a graph."""


def checkpoint(f: Callable[..., Tree], /) -> Callable[..., Tree]:
    """The same function, of which only the inputs are kept for the backward pass; the rest is computed again then.

    Memory for time: a network of n layers, of which every stretch of sqrt(n) is checkpointed, trains in memory for about
    2 sqrt(n) layers and in the time of one more forward pass. Also a decorator.

    Parameters
    ----------
    f : callable
        A function of Tensors, or nested containers of them, with such a result: a layer, say. What it takes from outside is
        differentiated too.

    Returns
    -------
    callable
        With the signature of ``f``. Values and derivatives, of every order and in every mode, are those of ``f``.

    Raises
    ------
    ArgumentError
        If ``f`` is no function.
    TraceError
        When called: if ``f`` asks for the value of a tensor, to branch on it, say; it is traced at every call.

    Notes
    -----
    What ``f`` assigns (running statistics, the state of a generator) is assigned once, by the forward pass. The backward pass
    begins at the state that the forward pass began at, so dropout drops the same again. Derivatives of
    derivatives recompute as well, and checkpoints may stand in checkpoints [1]_. Hooks that ``f`` registers on its own
    intermediate values are not called.

    References
    ----------
    .. [1] A. Griewank, A. Walther, "Evaluating Derivatives", 2nd ed., SIAM 2008, chapter 12.

    Examples
    --------
    >>> import chainrule as cr
    >>> @cr.checkpoint
    ... def layer(x):
    ...     return cr.sin(cr.exp(x))
    >>> x = cr.tensor(0.5, requires_grad=True)
    >>> layer(layer(x)).backward()
    >>> plain = lambda x: cr.sin(cr.exp(x))
    >>> bool(x.grad == cr.grad(lambda x: plain(plain(x)))(0.5))
    True
    """
    if not callable(f):
        raise ArgumentError(f"checkpoint takes a function, not a {type(f).__name__}", mend="use it as a decorator, or write cr.checkpoint(f)")

    @wraps(f, updated=())
    def checkpointed(*args: Any, **kwargs: Any) -> Tree:
        mode = current()
        if mode.interpret is evaluate or mode.watch is not None or (mode.tracer is None and not mode.tracking):
            # Who watches gates sees the caller's own.
            return f(*args, **kwargs)
        leaves, structure = tree.flatten((args, kwargs))
        places = [i for i, x in enumerate(leaves) if isinstance(x, (Tensor, np.ndarray, np.generic))]
        names = [*leaf_names(f, args), *(name for key, part in kwargs.items() for name in leaf_names(key, (part,)))]
        given = [functions.asarray(leaves[i]) for i in places]

        def fill(tensors: list[Tensor]) -> list[Any]:
            full = list(leaves)
            for i, x in zip(places, tensors, strict=True):
                full[i] = x
            return full

        def body(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tree:
            return f(*args, **kwargs)

        body.__name__ = getattr(f, "__name__", type(f).__name__)
        graph, tracer = trace_with(
            body,
            [Aval(x.shape, x.dtype) for x in given],
            structure,
            names=[names[i] for i in places],
            fill=fill,
            leaves=[x.requires_grad for x in given],
            assigns=True,
        )
        outs = _apply(graph, tracer, [*given, *graph.read()])
        count = len(graph.returned)
        graph.write(outs[count:], [leaves[i] for i in places])
        return graph.rebuild(outs[:count])

    return checkpointed


def _apply(graph: Graph, tracer: GraphTracer, values: Sequence[Tensor]) -> list[Tensor]:
    """All outputs: whole numbers made of whole numbers plainly, the others by the gate; what has no history in the function has none."""
    derived = reached(graph, (x for x in (*graph.inputs, *graph.constants) if x.dtype.kind in "fc"))
    within = [i for i, x in enumerate(graph.outputs) if x in derived]
    plain = [i for i, x in enumerate(graph.outputs) if x not in derived]
    outs: dict[int, Tensor] = {}
    if within:
        # What the outputs do not need is not kept either.
        inside = restricted(graph, reads(graph, within), within)
        wanted = set(inside.inputs)
        given = [value for x, value in zip(graph.inputs, values, strict=True) if x in wanted]
        outs.update(zip(within, bind(CHECKPOINT, given, {"graph": inside}), strict=True))
    if plain:
        outs.update(zip(plain, restricted(graph, graph.inputs, plain).apply(values), strict=True))
    flows = reached(graph, (x for x in graph.inputs if x.dtype.kind == "f"), differentiably=True) - tracer._untracked
    return [outs[i] if x in flows or x.dtype.kind != "f" else outs[i].detach() for i, x in enumerate(graph.outputs)]


def reached(graph: Graph, sources: Iterable[Variable], *, differentiably: bool = False) -> set[Variable]:
    """What depends on any of the sources; or what derivatives flow through."""
    found = set(sources)
    for node in graph.nodes:
        if not found.isdisjoint(node.inputs) and not (differentiably and node.primitive.pulls == ()):
            found.update(x for x in node.outputs if not differentiably or x.dtype.kind == "f")
    return found


def opened(graph: Graph) -> Graph:
    """The graph with the nodes of its checkpoints in their place: barriers remain between forward and recomputed ones."""
    while any(node.primitive is CHECKPOINT for node in graph.nodes):
        graph = _opened_once(graph)
    return graph


def _opened_once(graph: Graph) -> Graph:
    nodes: list[Operation] = []
    constants = dict(graph.constants)
    now: dict[Variable, Variable] = {}
    for node in graph.nodes:
        node = replace(node, inputs=tuple(now.get(x, x) for x in node.inputs))
        if node.primitive is not CHECKPOINT:
            nodes.append(node)
            continue
        inner: Graph = node.params["graph"]
        # An inner graph may stand in several nodes, so its variables are copied.
        own = dict(zip(inner.inputs, node.inputs, strict=True))
        for x, value in inner.constants.items():
            own[x] = Variable(x.aval, x.name)
            constants[own[x]] = value
        for step in inner.nodes:
            own.update((x, Variable(x.aval, x.name)) for x in step.outputs)
            nodes.append(replace(step, inputs=tuple(own[x] for x in step.inputs), outputs=tuple(own[x] for x in step.outputs)))
        now.update((x, own[end]) for x, end in zip(node.outputs, inner.outputs, strict=True))
    return graph.with_nodes(nodes, [now.get(x, x) for x in graph.outputs], constants)


def without_barriers(graph: Graph) -> Graph:
    """The graph for who merges nothing any more: barriers are gone, the order stays."""
    nodes: list[Operation] = []
    now: dict[Variable, Variable] = {}
    for node in graph.nodes:
        inputs = tuple(now.get(x, x) for x in node.inputs)
        if node.primitive is BARRIER:
            now.update(zip(node.outputs, inputs, strict=True))
        else:
            nodes.append(node if inputs == node.inputs else replace(node, inputs=inputs))
    return graph.with_nodes(nodes, [now.get(x, x) for x in graph.outputs])
