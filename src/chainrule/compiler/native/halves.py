"""Products of float32 whose operands are rounded to bfloat16, with sums in float32: on processors that multiply those twice as fast.

Both operands are first copied to pairs, two neighbours along k in one word; the processor multiplies a pair with a pair and adds both to a sum. To
blocks a pair is an element, and k is half as long.
"""

from __future__ import annotations

from chainrule.compiler.native.ir import Function, Index, Kind, Module, Value, literal
from chainrule.compiler.native.kernel import Kernel
from chainrule.compiler.native.microkernel import load_lanes, shuffle, transposed
from chainrule.compiler.native.packing import Copy, Panels, Source, panels_of, write_packing
from chainrule.compiler.native.product import Product

__all__ = ["copies_pay", "halves_pay", "multiply_pairs", "pairs_of_a", "pairs_of_b"]

_BITS = 512
"""Of the vectors that this is written for."""

_SHORT = 16
"""Below this k copying is most of the work."""

_CONFLICT = 1024
"""Bytes between lines of A that come too near one another in the first cache."""

_OFTEN = 40
"""So often an element must be read, by halves of rows and columns, for the copies to pay."""


def halves_pay(p: Product, kind: Kind) -> bool:
    """Whether a product is worth two copies, and has what they need: k even, and one axis of each operand along memory."""
    return 1 in p.a and 1 in p.b and copies_pay(kind, p.k, p.m * p.n, p.m + p.n)


def copies_pay(kind: Kind, summed: int, products: int, copied: int) -> bool:
    """Whether so many products, of which so many neighbours are summed, are worth that both operands are copied, and their sums can be of pairs."""
    possible = kind.element == "float" and 8 * kind.nbytes == _BITS and summed % 2 == 0
    return possible and summed >= _SHORT and products >= _OFTEN * copied


def multiply_pairs(f: Function, a: Value, b: Value, total: Value) -> Value:
    """``total`` and the products of both halves, added up without rounding in between."""
    halves = Kind("bfloat", 2 * total.kind.lanes)
    name = f"llvm.x86.avx512bf16.dpbf16ps.{8 * total.kind.nbytes}"
    f.module.declare(name, total.kind, [total.kind, halves, halves])
    return f.call(name, total.kind, total, f.cast("bitcast", a, halves), f.cast("bitcast", b, halves))


def pairs_of_b(module: Module, name: str, p: Product, kind: Kind, vectors: int) -> tuple[Kernel, Panels]:
    """The copy of B: panels of columns, each row of them two of B's."""
    row, column = p.b
    source = Source(p.k // 2, p.n, (2 * row, column), p.batch, p.b_batch)
    panels = panels_of(source, kind, vectors)
    return write_packing(module, name, source, panels, kind, copy=_Pairs), panels


def pairs_of_a(module: Module, name: str, p: Product, kind: Kind, start: int) -> tuple[Kernel, Panels, int, int]:
    """The copy of A, which begins so many elements behind its pointer, and its strides of rows and pairs: as A lies, rows or columns in a line."""
    row, column = p.a
    lines, pairs = (p.m, p.k // 2) if column == 1 else (p.k // 2, p.m)
    source = Source(lines, pairs, (row, 2) if column == 1 else (2 * column, 1), p.batch, p.a_batch)
    wide = -(-pairs // kind.lanes)
    gap = int(wide * kind.nbytes % _CONFLICT == 0)
    panels = panels_of(source, kind, wide, gap=gap)
    line = (wide + gap) * kind.lanes
    kernel = write_packing(module, name, source, panels, kind, gap=gap, start=start, copy=_Pairs)
    return (kernel, panels, line, 1) if column == 1 else (kernel, panels, 1, line)


class _Pairs(Copy):
    """A copy whose elements are pairs: where the source steps by 2 they lie side by side, elsewhere in two rows."""

    @staticmethod
    def turned(source: Source, kind: Kind) -> bool:
        return source.strides[0] == 2 and source.strides[1] not in (1, 2)

    def vector(self, given: Value, vector: Index, made: Value, count: int) -> None:
        f, lanes, (line, along) = self.f, self.kind.lanes, self.source.strides
        given = f.at(given, f.mul(vector, lanes * along), self.kind)
        if along == 2:
            f.store(self.beside(given, count), made)
            return
        low, high = (load_lanes(f, self.kind, f.at(given, place, self.kind), count) for place in (0, line // 2))
        mixed = [i for lane in range(lanes) for i in (lane, lanes + lane)]
        halves = self.rounded(low, high)
        f.store(f.cast("bitcast", shuffle(f, halves, halves, mixed), self.kind), made)

    def square(self, given: Value, made: Value, row: Index, width: Index, rows: int, count: int) -> None:
        f, kind, along = self.f, self.kind, self.source.strides[1]
        given = f.at(given, f.mul(row, 2), kind)
        zero = literal(0, kind)
        columns = [self.beside(f.at(given, j * along, kind), rows) if j < count else zero for j in range(kind.lanes)]
        for i, x in enumerate(transposed(f, columns)[:rows]):
            f.store(x, f.at(made, f.mul(f.add(row, i), width), kind))

    def beside(self, given: Value, count: int) -> Value:
        """So many pairs of neighbours; the others are 0."""
        f, kind, lanes = self.f, self.kind, self.kind.lanes
        low = load_lanes(f, kind, given, min(2 * count, lanes))
        rest = 2 * count - lanes
        high = load_lanes(f, kind, f.at(given, lanes, kind), rest) if rest > 0 else Value("zeroinitializer", kind)
        return f.cast("bitcast", self.rounded(low, high), kind)

    def rounded(self, low: Value, high: Value) -> Value:
        """The elements of two vectors as bfloat16, rounded to nearest."""
        f, halves = self.f, Kind("bfloat", 2 * self.kind.lanes)
        name = f"llvm.x86.avx512bf16.cvtne2ps2bf16.{_BITS}"
        f.module.declare(name, halves, [self.kind, self.kind])
        return f.call(name, halves, high, low)
