"""The inner loops of products and convolutions: a block of sums in registers, one side broadcast, the other in vectors.

A micro-kernel adds up ``sums[i, v] += A[rows[i] + a] * B[b + lanes * v ...]`` over all places (a, b) that a nest of loops names, and
hands the sums to whoever asked for them. What A and B mean, which blocks there are and who computes which is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from chainrule.compiler.native.ir import I32, I64, PTR, VOID, Function, Kind, Module, Value, first_lanes, index, literal

Sums = dict[tuple[int, int], Value]
"""Of (row, vector): the sums, as far as they are known."""


@dataclass(frozen=True, slots=True)
class Taps:
    """Products at these places: offsets of A and of B, in elements."""

    places: tuple[tuple[int, int], ...] = ((0, 0),)


@dataclass(frozen=True, slots=True)
class Rounds:
    """``count`` rounds of a nest; after each, A and B are so many elements further. The count may be the name of an i64 parameter (0 is allowed)."""

    count: int | str
    a: int
    b: int
    nest: Nest = Taps()


class Part(NamedTuple):
    """A nest that begins further on, and adds to these rows only (to all where ``rows`` is None)."""

    a: int
    b: int
    nest: Nest
    rows: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """One nest after the other."""

    parts: tuple[Part, ...]


Nest = Taps | Rounds | Parts


class Block(NamedTuple):
    """The shape of a block of sums.

    Attributes
    ----------
    kind : Kind
        Of one vector.
    rows : tuple of int
        Where each row begins in A, in elements.
    widths : tuple of int
        How many lanes of each vector count; the others are neither read nor written.
    short : bool
        Whether vectors of 512 bits of which half or less counts are half as long: there are processors that compute two of these in
        the time of one.
    """

    kind: Kind
    rows: tuple[int, ...]
    widths: tuple[int, ...]
    short: bool = False

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Of each vector."""
        half = self.kind.lanes // 2 if self.short and 8 * self.kind.nbytes == 512 else 0
        return tuple(self.kind.wide(half) if width <= half else self.kind for width in self.widths)


class Ahead(NamedTuple):
    """What is called into the cache with each product, because the processor does not see by itself what comes next.

    Attributes
    ----------
    a, b : int or str
        So many elements further on, or as many as the i64 parameter of this name says; 0: nothing.
    rows : int
        The first ones, of A.
    """

    a: int | str = 0
    b: int | str = 0
    rows: int = 1


_NOTHING = Ahead()

Multiply = Callable[[Function, Value, Value, Value], Value]


def fused(f: Function, a: Value, b: Value, total: Value) -> Value:
    """``a * b + total``, rounded once where the processor can."""
    return f.intrinsic("fmuladd", a, b, total)


def write_microkernel(
    module: Module,
    name: str,
    block: Block,
    nest: Nest,
    finish: Callable[[Function, Sums], None],
    *,
    parameters: Sequence[tuple[str, Kind]] = (),
    start: Callable[[Function], Mapping[tuple[int, int], Value]] | None = None,
    multiply: Multiply = fused,
    ways: int = 1,
    ahead: Ahead = _NOTHING,
) -> None:
    """Define ``void name(ptr a, ptr b, *parameters)``.

    Parameters
    ----------
    module : Module
    name : str
    block : Block
    nest : Nest
    finish : callable
        Writes what is done with the sums; the parameters are ``f.parameters``, A and B the first two.
    parameters : sequence of (str, Kind)
        Further ones; those of kind i64 may be counts of rounds.
    start : callable, optional
        What the sums begin with; 0 otherwise.
    multiply : callable
        ``(f, a, b, total)`` writes the new total.
    ways : int
        Neighbouring taps add to so many different sums, which are added up at the end: for blocks that are too small to hide how
        long one product takes.
    ahead : Ahead
    """
    f = Function(module, name, [("a", PTR), ("b", PTR), *parameters], linkage="internal")
    keys = [(i, v) for i in range(len(block.rows)) for v in range(len(block.widths))]
    zeros = [Value("zeroinitializer", kind) for kind in block.kinds]
    given = start(f) if start else {}
    sums = {(i, v, way): zeros[v] for i, v in keys for way in range(ways)} | {(i, v, 0): x for (i, v), x in given.items()}
    writer = _Writer(f, block, multiply, ways, ahead, {x.text[1:]: x for x in f.parameters})
    sums = writer.nest(nest, f.parameters[0], f.parameters[1], sums, range(len(block.rows)))
    finish(f, {(i, v): writer.total([sums[i, v, way] for way in range(ways)]) for i, v in keys})
    f.close()


_Ways = dict[tuple[int, int, int], Value]


class _Writer(NamedTuple):
    f: Function
    block: Block
    multiply: Multiply
    ways: int
    ahead: Ahead
    counts: Mapping[str, Value]

    def nest(self, nest: Nest, a: Value, b: Value, sums: _Ways, rows: Sequence[int]) -> _Ways:
        """The sums after a nest that begins here; only these rows take part."""
        if isinstance(nest, Taps):
            return self.taps(nest, a, b, sums, rows)
        if isinstance(nest, Rounds):
            return self.rounds(nest, a, b, sums, rows)
        for part in nest.parts:
            here = [i for i in rows if part.rows is None or i in part.rows]
            f, kind = self.f, self.block.kind
            sums = self.nest(part.nest, f.at(a, part.a, kind), f.at(b, part.b, kind), sums, here)
        return sums

    def taps(self, taps: Taps, a: Value, b: Value, sums: _Ways, rows: Sequence[int]) -> _Ways:
        f, (kind, offsets, widths, _), kinds, sums = self.f, self.block, self.block.kinds, dict(sums)
        for number, (da, db) in enumerate(taps.places):
            way = number % self.ways
            vectors = [load_lanes(f, kinds[v], f.at(b, db + kind.lanes * v, kind), width) for v, width in enumerate(widths)]
            ahead_a, ahead_b = (self.counts[x] if isinstance(x, str) else x for x in self.ahead[:2])
            for offset in offsets[: self.ahead.rows] if ahead_a else ():
                fetch(f, f.at(a, f.add(offset + da, ahead_a), kind))
            for v in range(0, len(widths) if ahead_b else 0, max(64 // kind.nbytes, 1)):
                fetch(f, f.at(b, f.add(db + kind.lanes * v, ahead_b), kind))
            for i in rows:
                x = f.load(kind.wide(1), f.at(a, offsets[i] + da, kind))
                # Each width from the element itself: the widest broadcast then serves for all.
                splats = {one: f.splat(x, one.lanes) for one in dict.fromkeys(kinds)}
                for v, y in enumerate(vectors):
                    sums[i, v, way] = self.multiply(f, splats[kinds[v]], y, sums[i, v, way])
        return sums

    def rounds(self, rounds: Rounds, a: Value, b: Value, sums: _Ways, rows: Sequence[int]) -> _Ways:
        """A loop that is tested at its end, and counts down."""
        f, kind, count = self.f, self.block.kind, rounds.count
        if count == 0 or not rows:
            return sums
        if count == 1:
            return self.nest(rounds.nest, a, b, sums, rows)
        total = index(count) if isinstance(count, int) else self.counts[count]
        head, done, before = f.fresh("rounds"), f.fresh("done"), f.block
        if isinstance(count, int):
            f.jump(head)
        else:
            f.branch(f.compare("sgt", total, index(0)), head, done)
        f.label(head)
        live = [key for key in sums if key[0] in rows]
        left, at_a, at_b, *carried = (Value(f"%{f.fresh('c')}", kind) for kind in (I64, PTR, PTR, *(sums[key].kind for key in live)))
        place = len(f.lines)
        inner = self.nest(rounds.nest, at_a, at_b, sums | dict(zip(live, carried, strict=True)), rows)
        fewer = f.binary("add nsw", left, index(-1))
        nexts = [fewer, f.at(at_a, rounds.a, kind), f.at(at_b, rounds.b, kind), *(inner[key] for key in live)]
        firsts = [total, a, b, *(sums[key] for key in live)]
        last = f.block
        f.branch(f.compare("ne", fewer, index(0)), head, done)
        f.lines[place:place] = [
            _phi(x, (first, before), (following, last)) for x, first, following in zip([left, at_a, at_b, *carried], firsts, nexts, strict=True)
        ]
        f.label(done)
        if isinstance(count, int):
            return inner
        merged = dict(inner)
        for key in live:
            merged[key] = Value(f"%{f.fresh('c')}", sums[key].kind)
            f.lines.append(_phi(merged[key], (sums[key], before), (inner[key], last)))
        return merged

    def total(self, parts: list[Value]) -> Value:
        """By pairs."""
        while len(parts) > 1:
            half = (len(parts) + 1) // 2
            parts = [self.f.binary("fadd", x, y) for x, y in zip(parts[:half], parts[half:], strict=False)] + parts[len(parts) - half : half]
        return parts[0]


def _phi(x: Value, *sources: tuple[Value, str]) -> str:
    return f"  {x.text} = phi {x.kind} {', '.join(f'[ {value.text}, %{block} ]' for value, block in sources)}"


def fetch(f: Function, pointer: Value, *, write: bool = False) -> None:
    """Call a line into the second cache, or into the first to be written; any address will do."""
    f.module.declare("llvm.prefetch.p0", VOID, [PTR, I32, I32, I32])
    f.call("llvm.prefetch.p0", VOID, pointer, literal(int(write), I32), literal(3 if write else 2, I32), literal(1, I32))


def load_lanes(f: Function, kind: Kind, pointer: Value, count: int) -> Value:
    """The first lanes of a vector; the others are 0, and their memory is not touched."""
    return f.load(kind, pointer) if count == kind.lanes else f.load_some(kind, pointer, first_lanes(count, kind.lanes))


def store_lanes(f: Function, x: Value, pointer: Value, count: int) -> None:
    """The first lanes of a vector. Short vectors in pieces: masked stores of them are slow where they are not missing."""
    kind = x.kind
    if count == kind.lanes:
        f.store(x, pointer)
    elif 8 * kind.nbytes > 256:
        f.store_some(x, pointer, first_lanes(count, kind.lanes))
    else:
        done = 0
        while done < count:
            size = 1 << (count - done).bit_length() - 1
            f.store(lanes_of(f, x, range(done, done + size)), f.at(pointer, done, kind))
            done += size


def lanes_of(f: Function, x: Value, which: Sequence[int]) -> Value:
    """Some lanes of a vector, as a shorter one."""
    return x if list(which) == list(range(x.kind.lanes)) else shuffle(f, x, x, which)


def shuffle(f: Function, x: Value, y: Value, which: Sequence[int]) -> Value:
    """Lanes out of two vectors, those of the second counted on from the first's."""
    if len(which) == 1:
        source, lane = (x, which[0]) if which[0] < x.kind.lanes else (y, which[0] - x.kind.lanes)
        return f.value(x.kind.wide(1), f"extractelement {source}, i64 {lane}")
    if x.text == y.text == "poison":
        return Value("poison", x.kind.wide(len(which)))
    mask = ", ".join(f"i32 {i}" for i in which)
    return f.value(x.kind.wide(len(which)), f"shufflevector {x}, {y}, <{len(which)} x i32> <{mask}>")


def transposed(f: Function, rows: Sequence[Value]) -> list[Value]:
    """As many vectors as they have lanes (a power of 2), transposed: exchange ever smaller squares."""
    done, lanes = list(rows), rows[0].kind.lanes
    distance = lanes // 2
    while distance:
        low = [j if not j & distance else lanes + j - distance for j in range(lanes)]
        high = [j + distance if not j & distance else lanes + j for j in range(lanes)]
        for i in range(lanes):
            if not i & distance:
                x, y = done[i], done[i + distance]
                done[i], done[i + distance] = shuffle(f, x, y, low), shuffle(f, x, y, high)
        distance //= 2
    return done


def balanced(total: int, most: int) -> tuple[int, ...]:
    """The fewest pieces of at most ``most``, as equal as possible, longer ones first."""
    count = -(-total // most)
    return tuple(total // count + (i < total % count) for i in range(count))
