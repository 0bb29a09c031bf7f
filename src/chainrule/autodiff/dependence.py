"""On which inputs each element of a value depends: a sparse matrix per value, carried through a graph gate by gate.

Control flow is followed inside: both branches of a choice, every step of a scan, a loop until nothing new is reached. This is
the one file that knows SciPy. What a single gate does is `patterns`' business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from chainrule.autodiff.patterns import SAME, Pattern, check_count, local_pattern
from chainrule.core.errors import MissingExtraError
from chainrule.core.interp import ARRAYS, using
from chainrule.core.variable import Variable
from chainrule.graph.inner import reads
from chainrule.graph.ir import Graph, Operation, State

# SciPy's sparse arrays have no types of their own, and SciPy need not be there.
Matrix = Any
Row = list[Matrix]
"""A matrix per value, None for what depends on nothing."""


def scipy_sparse() -> Any:
    """The module ``scipy.sparse``.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    try:
        from scipy import sparse  # pyright: ignore[reportMissingTypeStubs] - it has none, and need not be there
    except ImportError:
        raise MissingExtraError("sparse derivatives are SciPy's arrays, and SciPy is not installed", mend="pip install 'chainrule[sparse]'") from None
    return sparse


def as_pattern(stored: Any) -> Matrix:
    """What is stored in a matrix of any kind, as a CSR array of bool in the order of its columns."""
    made = scipy_sparse().csr_array(stored, copy=True)
    made.sum_duplicates()
    return _csr(made.indptr, made.indices, made.shape)


def _csr(indptr: Any, indices: Any, shape: tuple[int, int]) -> Matrix:
    return scipy_sparse().csr_array((np.ones(len(indices), bool), indices, indptr), shape=shape)


@dataclass(frozen=True)
class _Value:
    """A value that is the same whatever the inputs are, and what from outside it comes from."""

    value: Any
    origins: frozenset[State] = frozenset()


@dataclass
class _Fixed:
    """What a graph computes from constants alone, and from integers and booleans outside that it does not assign to."""

    values: dict[Variable, _Value]
    used: set[State] = field(default_factory=set[State])

    def value(self, x: Variable) -> Any:
        """The value of ``x`` if it is fixed; that the dependence rests on it is noted."""
        known = self.values.get(x)
        if known is None:
            return None
        self.used |= known.origins
        return known.value

    def follow(self, node: Operation) -> bool:
        """Compute a node, if all of its inputs are fixed; whether they are."""
        given = [self.values.get(x) for x in node.inputs]
        known = [x for x in given if x is not None]
        if len(known) < len(given):
            return False
        with using(ARRAYS), np.errstate(all="ignore"):
            out = node.primitive.evaluate(*(x.value for x in known), **node.params)
        origins = frozenset[State]().union(*(x.origins for x in known))
        for x, value in zip(node.outputs, out if node.primitive.outputs else (out,), strict=True):
            self.values[x] = _Value(value, origins)
        return True

    def enter(self, x: Variable, known: _Value | None) -> None:
        if known is not None:
            self.values[x] = known

    def inside(self, graph: Graph, given: Sequence[_Value | None]) -> _Fixed:
        """The same in an inner graph with these inputs."""
        values = {x: _Value(value) for x, value in graph.constants.items()}
        values.update((x, known) for x, known in zip(graph.inputs, given, strict=True) if known is not None)
        return _Fixed(values, self.used)

    def get(self, inputs: Sequence[Variable]) -> list[_Value | None]:
        return [self.values.get(x) for x in inputs]


def dependence(graph: Graph, wanted: Sequence[Variable]) -> tuple[Matrix, list[tuple[State, Any]]]:
    """How the results of a graph depend on some of its arguments, and on what from outside, of which value, this rests.

    Returns
    -------
    csr_array of bool
        A row per element of all results, a column per element of the wanted arguments.
    list of (State, array)
    """
    sparse = scipy_sparse()
    count = sum(x.size for x in wanted)
    first = np.cumsum([0, *(x.size for x in wanted)])
    own = {x: _csr(np.arange(x.size + 1), start + np.arange(x.size), (x.size, count)) for x, start in zip(wanted, first, strict=False)}
    fixed = _Fixed({x: _Value(value) for x, value in graph.constants.items()})
    for source, x in zip(graph.captured, graph.inputs[len(graph.parameters) :], strict=True):
        if isinstance(source, State) and x.dtype.kind in "biu" and source not in graph.updated and not isinstance(source.tensor._value, Variable):
            fixed.values[x] = _Value(source.tensor._value, frozenset((source,)))
    found = _through(graph, [own.get(x) for x in graph.inputs], fixed)[: len(graph.returned)]
    rows = [sparse.csr_array((x.size, count), dtype=bool) if row is None else row for x, row in zip(graph.returned, found, strict=True)]
    whole = as_pattern(sparse.vstack(rows, format="csr") if rows else sparse.csr_array((0, count), dtype=bool))
    return whole, [(source, source.tensor._value) for source in fixed.used]


def _through(graph: Graph, given: Row, fixed: _Fixed) -> Row:
    """On what the outputs of a graph depend, if its inputs depend on this."""
    depends = {x: row for x, row in zip(graph.inputs, given, strict=True) if row is not None}
    needed = reads(graph)
    for node, last in zip(graph.nodes, graph.last_uses(), strict=True):
        if needed.isdisjoint(node.outputs):
            continue
        if depends.keys().isdisjoint(node.inputs) and fixed.follow(node):
            continue
        rule = _INNER.get(node.primitive.name, _of_gate)
        rows = zip(node.outputs, rule(node, [depends.get(x) for x in node.inputs], fixed), strict=True)
        depends.update((x, row) for x, row in rows if row is not None and row.nnz)
        for x in last:
            depends.pop(x, None)
    return [depends.get(x) for x in graph.outputs]


def _of_gate(node: Operation, given: Row, fixed: _Fixed) -> Row:
    total: Matrix = None
    for place, row in enumerate(given):
        pattern = None if row is None else local_pattern(node, place, fixed)
        if pattern is not None:
            total = _either(total, row if pattern is SAME else _product(node, pattern, row))
    if total is None or len(node.outputs) == 1:
        return [total] * len(node.outputs)
    ends = np.cumsum([0, *(x.size for x in node.outputs)])
    return [total[start:end] for start, end in pairwise(ends)]


def _product(node: Operation, pattern: Pattern, row: Matrix) -> Matrix:
    check_count(node, int(np.diff(row.indptr)[pattern.cols].sum()))
    size = sum(x.size for x in node.outputs)
    local = scipy_sparse().csr_array((np.ones(len(pattern.rows), bool), tuple(pattern)), shape=(size, row.shape[0]))
    product = local @ row
    product.sort_indices()
    return product


def _either(first: Matrix, second: Matrix) -> Matrix:
    return second if first is None or first is second else first if second is None else first + second


# Gates that hold graphs.


def _cond(node: Operation, given: Row, fixed: _Fixed) -> Row:
    chosen = fixed.value(node.inputs[0])
    branches = [node.params[name] for name, runs in (("true", chosen is None or chosen), ("false", chosen is None or not chosen)) if runs]
    found = [_through(branch, given[1:], fixed.inside(branch, fixed.get(node.inputs[1:]))) for branch in branches]
    return [_either(rows[0], rows[-1]) for rows in zip(*found, strict=True)]


def _scan(node: Operation, given: Row, fixed: _Fixed) -> Row:
    body, length, carried, sliced = (node.params[name] for name in ("body", "length", "carried", "sliced"))
    slices = range(carried, carried + sliced)
    sizes = [x.size for x in body.inputs]
    rows, known = list(given), fixed.get(node.inputs)
    steps: list[tuple[Row, list[_Value | None]]] = []
    order = range(length)[:: -1 if node.params["reverse"] else 1]
    for i in order:
        now, own = list(rows), list(known)
        for k in slices:
            now[k] = None if given[k] is None else given[k][i * sizes[k] : (i + 1) * sizes[k]]
            own[k] = _at(known[k], i)
        inside = fixed.inside(body, own)
        out, found = _through(body, now, inside), inside.get(body.outputs)
        rows[:carried], known[:carried] = out[:carried], found[:carried]
        steps.append((out, found))
    steps = steps[:: order.step]
    for x, last in zip(node.outputs, known[:carried], strict=False):
        fixed.enter(x, last)
    collected: Row = []
    for k, x in enumerate(node.outputs[carried:], carried):
        collected.append(_stacked([out[k] for out, _ in steps], body.outputs[k].size))
        fixed.enter(x, _stacked_values([found[k] for _, found in steps]))
    return [*rows[:carried], *collected]


def _at(known: _Value | None, i: int) -> _Value | None:
    return None if known is None else _Value(known.value[i], known.origins)


def _stacked_values(steps: Sequence[_Value | None]) -> _Value | None:
    known = [x for x in steps if x is not None]
    if not known or len(known) < len(steps):
        return None
    return _Value(np.stack([x.value for x in known]), frozenset[State]().union(*(x.origins for x in known)))


def _stacked(rows: Sequence[Matrix], size: int) -> Matrix:
    some = next((row for row in rows if row is not None), None)
    if some is None:
        return None
    sparse = scipy_sparse()
    empty = sparse.csr_array((size, some.shape[1]), dtype=bool)
    return sparse.vstack([empty if row is None else row for row in rows], format="csr")


def _while_loop(node: Operation, given: Row, fixed: _Fixed) -> Row:
    body, carried = node.params["body"], node.params["carried"]
    carry, rest = given[:carried], given[carried:]
    known = [*[None] * carried, *fixed.get(node.inputs[carried:])]
    while True:
        after = [_either(x, y) for x, y in zip(carry, _through(body, [*carry, *rest], fixed.inside(body, known)), strict=True)]
        if [_count(x) for x in after] == [_count(x) for x in carry]:
            return after
        carry = after


def _count(row: Matrix) -> int:
    return 0 if row is None else row.nnz


_INNER: Mapping[str, Callable[[Operation, Row, _Fixed], Row]] = {"cond": _cond, "scan": _scan, "while_loop": _while_loop}
