"""Local derivatives as matrices, without forming them: their size, how their entries lie, and the units that they close.

How entries lie is read from the gate's record and from the indices that it moves; values come from `run`. Nothing here is shown: the
page draws what it is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from chainrule.autodiff.patterns import local_pattern
from chainrule.core.errors import ChainruleError
from chainrule.graph.ir import Operation
from chainrule.ops.gate import made
from chainrule.view.explorer.run import Run, Values
from chainrule.view.units import closed_shares

COUNTED = 200_000
"""So many entries of a matrix are counted one by one, where its structure is not in the record."""

Data = dict[str, Any]
Table = Sequence[Sequence[Sequence[float]]]


def structure(done: Run, node: Operation, slot: int, table: Table | None, *, counted: int = COUNTED) -> Data:
    """The matrix of a gate's output by one operand: rows, columns, bytes if it were formed, entries that can be non-zero, and how they lie.

    Where entries are not counted, ``entries`` is None, and ``most`` is a bound of their number, if one is known.

    Parameters
    ----------
    done : Run
    node : Operation
        Of one output.
    slot : int
        Which operand.
    table : sequence, optional
        The matrix, if it is known: per element of the operand its pairs of output element and derivative.
    counted : int
        Matrices of more entries, whose structure the record does not say, are not looked at.
    """
    rows, cols = node.output.size, node.inputs[slot].size
    told: Data = {"rows": rows, "cols": cols, "bytes": rows * cols * node.output.dtype.itemsize, "entries": None, "most": None, "kind": ""}
    if table is not None:
        pairs = [(int(entry[0]), i) for i, column in enumerate(table) for entry in column]
    elif node.primitive.scalar is not None and node.inputs[slot].shape == node.output.shape:
        return {**told, "entries": rows, "kind": "diagonal"}
    elif node.primitive.scalar is not None:
        return {**told, "entries": rows, "kind": "one entry in each row"}
    elif rows * cols > counted:
        gate = node.primitive
        if gate.multilinear and gate.cost is not None:
            # Each multiplication joins one element of the operand to one of the output.
            most = gate.cost(*(x.aval for x in node.inputs), **node.params)
            return {**told, "most": int(min(most, rows * cols)), "kind": "at most one entry for each multiplication"}
        return told
    else:
        try:
            found = local_pattern(node, slot, Values(done))
        except ChainruleError:
            return told
        if found is None:
            return {**told, "entries": 0, "kind": "empty"}
        pairs = sorted(set(zip(found.rows.tolist(), found.cols.tolist(), strict=True)))
        if not pairs and rows == cols:
            pairs = [(i, i) for i in range(rows)]
    return {**told, "entries": len(pairs), "kind": _kind(pairs, rows, cols)}


def _kind(pairs: Sequence[tuple[int, int]], rows: int, cols: int) -> str:
    """How the entries of a matrix lie, in words."""
    if not pairs:
        return "empty"
    if len(pairs) == rows * cols:
        return "full" if rows > 1 and cols > 1 else "one row" if cols > 1 else "one column" if rows > 1 else "one number"
    if all(k == i for k, i in pairs):
        return "diagonal"
    by_row: dict[int, list[int]] = {}
    for k, i in sorted(pairs):
        by_row.setdefault(k, []).append(i)
    in_columns = Counter(i for _, i in pairs)
    single_rows, single_columns = len(by_row) == len(pairs), len(in_columns) == len(pairs)
    if single_rows and single_columns:
        return "a reordering: at most one entry in each row and column"
    if single_rows:
        return "one entry in each row"
    if single_columns:
        return "one entry in each column"
    blocks = Counter(tuple(columns) for columns in by_row.values())
    widths, heights = {len(block) for block in blocks}, set(blocks.values())
    if len(widths) == len(heights) == 1 and sum(map(len, blocks)) == len(in_columns):
        return f"{len(blocks)} blocks of {heights.pop()}×{widths.pop()}"
    return "sparse"


def units(done: Run, node: Operation) -> list[float] | None:
    """Per unit (the last axis) of an elementwise gate that closes anywhere: the share of examples and places whose local derivative is 0."""
    if len(node.inputs) != 1 or node.inputs[0] not in done.tracked:
        return None
    shares = closed_shares(node.primitive, [made(done.value[node.inputs[0]])], node.params)
    return None if shares is None or not shares.any() else shares.tolist()
