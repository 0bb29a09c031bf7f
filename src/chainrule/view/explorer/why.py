"""Why gradients in the page are what they are, in the words of `explain`, and the gates at which they became so.

The graph runs once more, watched, so that causes are told under the page's own names. Only inputs and parameters are asked about, and
of those only what is absent, zero in part, not finite, or far from the size of the others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.interp import enable_grad
from chainrule.core.variable import Variable
from chainrule.ops.gate import made
from chainrule.tensor import Tensor
from chainrule.view import cuts
from chainrule.view.causes import Cause
from chainrule.view.explain import EXPLODING, VANISHING, Explanation, explain
from chainrule.view.watching import Place, Watch, watching

if TYPE_CHECKING:
    from chainrule.view.explorer.data import Facts

MOST = 40
"""So many tensors at most are asked about."""
LARGEST = 400
"""In larger graphs only absent gradients are told about: trying all gates takes long."""

Data = dict[str, Any]


class _Named(Watch):
    """Writes down gates under the names that they have in the page."""

    def __init__(self, facts: Facts) -> None:
        super().__init__()
        self.facts = facts

    def _here(self) -> Place:
        node = self._operation
        return Place(self.facts.names[node.outputs[0]], ".".join(node.scope), node.line)


def why(facts: Facts) -> Data:
    """Per input or parameter whose gradient is not ordinary: its kind, that in a sentence, and its causes with their gates."""
    asked = [x for x in facts.leaves if facts.kinds.get(x, "data") != "data" and _strange(facts, x)][:MOST]
    if not asked:
        return {}
    graph = facts.graph
    leaves = {x: _leaf(facts, x) for x in graph.inputs}
    with enable_grad(), watching(_Named(facts)), np.errstate(all="ignore"):
        loss = graph.apply([leaves[x] for x in graph.inputs])[graph.outputs.index(facts.done.output)]
    # One call, for one backward pass.
    found = explain(loss, *(leaves[x] for x in asked))
    return {facts.names[x]: _told(facts, x, one) for x, one in zip(asked, [found] if len(asked) == 1 else found, strict=True)}


def _strange(facts: Facts, x: Variable) -> bool:
    grad = facts.done.grad.get(x)
    if grad is None:
        return True
    if not grad.size or len(facts.nodes) > LARGEST:
        return False
    if not np.isfinite(facts.done.value[facts.done.output]).all():
        return True
    with np.errstate(all="ignore"):
        size = float(np.linalg.norm(grad.astype(np.float64).ravel()))
    return not VANISHING <= size <= EXPLODING or bool((grad == 0).any())


def _leaf(facts: Facts, x: Variable) -> Tensor:
    tensor = made(facts.done.value[x])
    return tensor.requires_grad_() if x.dtype.kind == "f" and facts.kinds[x] != "data" else tensor


def _told(facts: Facts, x: Variable, found: Explanation) -> Data:
    name, causes = facts.names[x], found.causes
    if found.kind == "absent":
        causes = tuple(cuts.in_graph(facts.graph, x.name)) or causes
    # Without the shape, which the page shows beside it.
    says = f"the gradient of {name}{found.says.partition('),')[2]}"
    return {"kind": found.kind, "says": says, "causes": _causes(facts, causes)}


def _causes(facts: Facts, causes: Sequence[Cause]) -> list[Data]:
    told: list[Data] = []
    for cause in causes:
        told.append(_cause(facts, cause, {one["gate"] for one in told}))
    return told


def _cause(facts: Facts, cause: Cause, told: Collection[str | None]) -> Data:
    """A cause, with the gate's id in the page, or None."""
    file, _, code = cause.line.partition(": ")
    line = f"{Path(file).name}: {code}" if code else Path(file).name
    return {"says": cause.says, "kind": cause.kind, "gate": _gate(facts, cause, told), "line": line, "mend": cause.mend, "elements": cause.elements}


def _gate(facts: Facts, cause: Cause, told: Collection[str | None]) -> str | None:
    """The gate of that name; else of those on that line the first that is not told already."""
    if cause.name in facts.ids:
        return cause.name
    for name, node in zip(facts.ids, facts.nodes, strict=True):
        known = [facts.names[x] for x in node.outputs]
        here = cause.line == Place(line=node.line).code and name not in told
        if cause.gate == node.primitive.name and (cause.name in known or here):
            return name
    return None
