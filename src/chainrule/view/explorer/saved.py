"""What the backward pass reads again: values that gates keep for it, values that it computes anew, and the bytes.

Which inputs and outputs a gate keeps is in its record; what a compiled function computes again under its budget is the compiler's word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from chainrule.autodiff.checkpoint import CHECKPOINT, opened
from chainrule.autodiff.reverse import value_and_grad
from chainrule.compiler.jit import Compiled
from chainrule.compiler.remat import rematerialize
from chainrule.compiler.simplify import simplify
from chainrule.core.errors import ChainruleError
from chainrule.core.size import show_bytes
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph
from chainrule.graph.trace import trace
from chainrule.ops.gate import made

if TYPE_CHECKING:
    from chainrule.view.explorer.data import Facts

Data = dict[str, Any]


def saved(facts: Facts, function: Callable[..., Any]) -> Data:
    """Which values are kept until the backward pass, by which gates, and which it computes again.

    Returns
    -------
    dict
        ``by``, per name of a kept value the gates that keep it; ``bytes`` of those that were computed, ``held`` of arguments,
        parameters and data, which are there anyway; ``again``, per name how often it is computed again; ``says``, of that
        in words.
    """
    by: dict[Variable, list[str]] = {}
    for place, node in enumerate(facts.nodes):
        tracked = sum(1 << i for i, x in enumerate(node.inputs) if x in facts.done.tracked)
        if not tracked or node.primitive.pulls == ():
            continue
        keeps = node.primitive.keeps[tracked]
        if node.primitive.variadic:
            kept = [*(node.inputs if keeps[0] else ()), *(node.outputs if keeps[-1] else ())]
        else:
            kept = [x for x, keep in zip((*node.inputs, node.outputs[0]), keeps, strict=True) if keep]
        for x in dict.fromkeys(kept):
            if x not in facts.numbers:
                by.setdefault(x, []).append(facts.ids[place])
    again, says = _again(facts, function)
    return {
        "by": {facts.names[x]: gates for x, gates in by.items()},
        "bytes": sum(x.nbytes for x in by if x in facts.makers), "held": sum(x.nbytes for x in by if x not in facts.makers),
        "again": again, "says": says,
    }  # fmt: skip


def _again(facts: Facts, function: Callable[..., Any]) -> tuple[dict[str, int], str]:
    """What is computed twice: inside of checkpoints, and under a compiled function's budget of memory."""
    inside = [node for node in facts.nodes if node.primitive is CHECKPOINT]
    found: dict[str, int] = {facts.names[x]: 1 for node in inside for x in node.outputs}
    says: list[str] = []
    for node in inside:
        graph = node.params["graph"]
        made_there = [x for one in graph.nodes for x in one.outputs]
        size = show_bytes(sum(x.nbytes for x in made_there))
        says.append(f"{facts.names[node.outputs[0]]} is a checkpoint: {len(made_there)} values, {size}, are computed again")
    if isinstance(function, Compiled) and function.memory_budget is not None:
        try:
            _, report = rematerialize(simplify(opened(_both(facts))), function.memory_budget)
        except ChainruleError as error:
            return found, "; ".join([*says, str(error).partition("\n")[0]])
        known = {x.name: facts.names[x] for x in facts.makers}
        found.update({known[name]: times for name, times in report.recomputed.items() if name in known})
        says.append(str(report))
    return found, "; ".join(says)


def _both(facts: Facts) -> Graph:
    """The loss with all its gradients, as one graph."""
    graph, place = facts.graph, facts.graph.outputs.index(facts.done.output)
    wanted = [i for i, x in enumerate(graph.inputs) if x in facts.done.tracked]

    def loss(*inputs: Any) -> Any:
        return graph.apply(inputs)[place]

    loss.__name__ = graph.name
    return trace(value_and_grad(loss, argnums=tuple(wanted)), *(made(facts.done.value[x]) for x in graph.inputs))
