"""Gates as loops, continued: a scan, whose body is a graph of its own, written inside of the loop over its steps."""

from __future__ import annotations

import numpy as np

from chainrule.core.variable import Variable
from chainrule.graph.ir import Operation
from chainrule.view.targets.expressions import Expr, const
from chainrule.view.targets.kernels import copied, numbered, writes
from chainrule.view.targets.loops import Place, Writer


@writes("scan")
def _scan(w: Writer, node: Operation) -> None:
    body, length, carried, sliced = (node.params[key] for key in ("body", "length", "carried", "sliced"))
    first, slices, rest = node.inputs[:carried], node.inputs[carried : carried + sliced], node.inputs[carried + sliced :]
    last, columns = node.outputs[:carried], node.outputs[carried:]
    states = body.inputs[:carried]
    for x, start in zip(states, first, strict=True):
        _state(w, x, start)
    for x, given in zip(body.inputs[carried + sliced :], rest, strict=True):
        w.places[x] = w.places[given]
    for x, value in body.constants.items():
        w.places[x] = Place(w.table(np.asarray(value), "c") if x.shape else "", x.shape, x.dtype, None if x.shape else np.asarray(value)[()])
    for x in (*body.inputs[carried : carried + sliced], *(x for step in body.nodes for x in step.outputs)):
        w.temporary(x)
    with w.loop(length) as i:
        at = length - 1 - i if node.params["reverse"] else i
        for x, whole in zip(body.inputs[carried : carried + sliced], slices, strict=True):
            _copy(w, x, whole, at * x.size if x.shape else at)
        for step in body.nodes:
            w.gate(step)
        for x, whole in zip(body.outputs[carried:], columns, strict=True):
            with w.each(x.shape) as place:
                w.store(whole, (at, *place), w.load(x, place))
        # A new state may be an old one in another place: all are kept before any changes.
        fresh = [_kept(w, x) if x in body.inputs or w.places[x].name in w.aliases else x for x in body.outputs[:carried]]
        for x, new in zip(states, fresh, strict=True):
            _assign(w, x, new)
    for x, out in zip(states, last, strict=True):
        copied(w, out, numbered(out.shape), x, numbered(x.shape))


def _state(w: Writer, x: Variable, start: Variable) -> None:
    """Something carried on, which begins as ``start``."""
    if x.shape:
        w.temporary(x)
        copied(w, x, numbered(x.shape), start, numbered(x.shape))
    else:
        w.places[x] = Place(w.variable(w.load(start), x.dtype, x.name or "state").args[0], (), x.dtype)


def _assign(w: Writer, x: Variable, new: Variable) -> None:
    if x.shape:
        copied(w, x, numbered(x.shape), new, numbered(x.shape))
    else:
        w.assign(Expr("name", (w.places[x].name,), x.dtype), w.load(new))


def _kept(w: Writer, x: Variable) -> Variable:
    own = Variable(x.aval, "kept")
    w.temporary(own)
    copied(w, own, numbered(x.shape), x, numbered(x.shape))
    return own


def _copy(w: Writer, x: Variable, whole: Variable, start: Expr) -> None:
    """One slice of what is gone through."""
    with w.loop(x.size) as j:
        w.put(x, j if x.shape else const(0), w.at(whole, start + j if x.shape else start))
