"""Contractions as matrix products: which axes are rows, columns, summed, and a batch, and with what strides.

An axis of a contraction is a label. Axes of one role become one where memory allows it; rows and columns that do not join go to the batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from chainrule.compiler.native.gemm import Product
from chainrule.compiler.native.views import Strides, View, as_one, contiguous
from chainrule.core.aval import Shape
from chainrule.core.primitive import TABLE
from chainrule.graph.ir import Operation

__all__ = ["Contraction", "Matched", "labelled", "matched", "placed"]

Labels = tuple[str, ...]

LOW, HIGH = 3, 5
"""Rows that a strip has: fewer do not use what is read of B often enough, and threads share more strips more evenly."""


class Contraction(NamedTuple):
    """The labels of the axes of two operands and of the result; those missing there are summed."""

    a: Labels
    b: Labels
    out: Labels

    @property
    def turned(self) -> Contraction:
        """Of the same operands in the other order, whose rows are columns."""
        return Contraction(self.b, self.a, self.out)


class Matched(NamedTuple):
    """A contraction as a product.

    Attributes
    ----------
    product : Product
    order : tuple of str
        The labels of the result as it lies in memory, row by row.
    rows, columns : tuple of (str, int)
        The labels that make the product's rows, and its columns, with their sizes.
    strips : int
        Into so many matrices rows are cut, along the last axis of the product's batch; not at all if 1.
    """

    product: Product
    order: Labels
    rows: tuple[tuple[str, int], ...]
    columns: tuple[tuple[str, int], ...]
    strips: int = 1

    def in_strips(self) -> Matched:
        """The same product with a matrix for each strip of rows, so that strips are computed one by one; as it is if rows are not cut evenly."""
        p = self.product
        strips = next((count for count in range(2, p.m // LOW + 1) if p.m % count == 0 and p.m // count <= HIGH), 1)
        if strips == 1 or math.prod(p.batch) != 1:
            return self
        m = p.m // strips
        a_batch, b_batch, c_batch = (*p.a_batch, m * p.a[0]), (*p.b_batch, 0), (*p.c_batch, m * p.c)
        return self._replace(product=p._replace(m=m, batch=(*p.batch, strips), a_batch=a_batch, b_batch=b_batch, c_batch=c_batch), strips=strips)


def labelled(node: Operation) -> Contraction | None:
    """What a gate contracts; None if it is no contraction of two operands."""
    if node.primitive is TABLE["matmul"]:
        a, b = (len(x.shape) for x in node.inputs)
        rank = max(a, b)
        batch = tuple(f"b{i}" for i in range(rank - 2))
        first = (*batch[len(batch) - (a - 2) :], "m", "k") if a > 1 else ("k",)
        second = (*batch[len(batch) - (b - 2) :], "k", "n") if b > 1 else ("k",)
        return Contraction(first, second, (*batch, *("m" for _ in range(a > 1)), *("n" for _ in range(b > 1))))
    if node.primitive is TABLE["einsum"] and len(node.inputs) == 2:
        terms, out = node.params["subscripts"].split("->")
        a, b = terms.split(",")
        found = Contraction(tuple(a), tuple(b), tuple(out))
        once = len(set(found.a)) == len(found.a) and len(set(found.b)) == len(found.b)
        known = {*found.a} & {*found.b} | {*found.out}
        return found if once and known >= {*found.a, *found.b} else None
    return None


def matched(contraction: Contraction, a: View, b: View) -> Matched | None:
    """The product; None if what is summed does not join in the memory of the operands."""
    sizes: dict[str, int] = {}
    for labels, view in ((contraction.a, a), (contraction.b, b)):
        for label, size in zip(labels, view.shape, strict=True):
            sizes[label] = size if sizes.get(label, 1) == 1 else sizes[label]
    steps_a = dict(zip(contraction.a, a.strides, strict=True))
    steps_b = dict(zip(contraction.b, b.strides, strict=True))
    summed = [label for label in contraction.a if label not in contraction.out]
    batch = [label for label in contraction.out if label in steps_a and label in steps_b]
    rows = [label for label in contraction.out if label not in steps_b]
    columns = [label for label in contraction.out if label not in steps_a]
    together = _steps(summed, sizes, [steps_a, steps_b])
    if together is None:
        return None
    (k_a, k_b) = together
    spare: list[str] = []
    while (row := _steps(rows, sizes, [steps_a])) is None:
        spare.append(rows.pop(0))
    while (column := _steps(columns, sizes, [steps_b])) is None:
        spare.append(columns.pop(0))
    batch += spare
    order = (*batch, *rows, *columns)
    c = contiguous(tuple(sizes[label] for label in order))
    width = _count(columns, sizes)
    product = Product(
        _count(rows, sizes), _count(summed, sizes), width, a.root.dtype, (row[0], k_a), (k_b, column[0]), width,
        tuple(sizes[label] for label in batch), tuple(steps_a.get(label, 0) for label in batch),
        tuple(steps_b.get(label, 0) for label in batch), c[: len(batch)],
    )  # fmt: skip
    return Matched(product, order, tuple((label, sizes[label]) for label in rows), tuple((label, sizes[label]) for label in columns))


def placed(contraction: Contraction, order: Labels, shape: Shape) -> tuple[Shape, tuple[int, ...]]:
    """The shape of the result as it lies in memory, and its strides in the order of its own axes."""
    sizes = dict(zip(contraction.out, shape, strict=True))
    memory = tuple(sizes[label] for label in order)
    steps = dict(zip(order, contiguous(memory), strict=True))
    return memory, tuple(steps[label] for label in contraction.out)


def _count(labels: Sequence[str], sizes: Mapping[str, int]) -> int:
    return math.prod(sizes[label] for label in labels)


def _steps(labels: Sequence[str], sizes: Mapping[str, int], operands: Sequence[Mapping[str, int]]) -> Strides | None:
    """Per operand the step of the one axis that these make; None if they do not make one in each."""
    return as_one(tuple(sizes[label] for label in labels), [tuple(steps[label] for label in labels) for steps in operands])
