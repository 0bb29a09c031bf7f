"""Loop nests: what one gate does to flat arrays, said once for every language that has loops.

A kernel (see `kernels`) writes statements with a `Writer`; a language prints them. Nothing here knows a syntax.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Generator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from chainrule.core.variable import Variable
from chainrule.view.targets.expressions import INDEX, Expr, Lowering, const, converted, number


@dataclass(frozen=True, slots=True)
class Loop:
    """``index`` counts from ``start`` up to, not including, ``stop``; or from ``stop - 1`` down to ``start``."""

    index: str
    start: Expr
    stop: Expr
    body: list[Any]


@dataclass(frozen=True, slots=True)
class Declare:
    """A new name for a value, which may be assigned to if it is ``mutable``."""

    name: str
    value: Expr
    mutable: bool = False


@dataclass(frozen=True, slots=True)
class Assign:
    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Store:
    """``array[offset] = value``."""

    array: str
    offset: Expr
    value: Expr


@dataclass(frozen=True, slots=True)
class Alias:
    """Another name for an array."""

    name: str
    array: str
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class When:
    condition: Expr
    body: list[Any]


@dataclass
class Place:
    """Where a graph's value is: a local variable if it has no axes, else an array, laid out row by row.

    Attributes
    ----------
    name : str
    shape : tuple of int
    dtype : dtype
    number : number, optional
        The value, if it is known.
    pointer : bool
        Whether it is memory even without axes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    number: Any = None
    pointer: bool = False

    @property
    def memory(self) -> bool:
        return bool(self.shape) or self.pointer

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Of an array laid out row by row, in elements."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


@dataclass
class Writer:
    """Writes statements.

    Parameters
    ----------
    places : dict of Variable to Place
    name : callable
        ``name(wanted)``: a name that is free.
    k : Lowering
    gate : callable
        Writes a node.
    fixed : set of Variable
        Values that must have memory of their own.

    Attributes
    ----------
    body : list
        The statements.
    tables : dict of str to array
        Positions that are looked up, and constants of inner graphs, by name.
    aliases : set of str
        Names of values that are other values under another name.
    temporaries : list of Place
        Of values that are none of the listing.
    locals : list of str
        Names that are in use inside of loops only.
    """

    places: dict[Variable, Place]
    name: Callable[[str], str]
    k: Lowering
    gate: Callable[[Any], None]
    fixed: AbstractSet[Variable] = frozenset()
    body: list[Any] = field(default_factory=list[Any])
    tables: dict[str, Any] = field(default_factory=dict[str, Any])
    aliases: set[str] = field(default_factory=set[str])
    temporaries: list[Place] = field(default_factory=list[Place])
    locals: list[str] = field(default_factory=list[str])
    depth: int = 0
    counters: list[str] = field(default_factory=list[str])

    # Statements.

    @contextmanager
    def loop(self, stop: Any, start: Any = 0) -> Generator[Expr]:
        """Do what is written inside for every number from ``start`` up to ``stop``."""
        first, last = (x if isinstance(x, Expr) else const(x) for x in (start, stop))
        if number(first) is not None and number(last) is not None and number(last) - number(first) == 1:
            yield first
            return
        if self.depth == len(self.counters):
            self.counters.append(self.name("ijklmnopqr"[self.depth] if self.depth < 10 else "i"))
        index, outer = self.counters[self.depth], self.body
        self.body, self.depth = [], self.depth + 1
        yield Expr("name", (index,), INDEX)
        inside, self.body, self.depth = self.body, outer, self.depth - 1
        never = number(first) is not None and number(last) is not None and number(last) <= number(first)
        if inside and not never:
            self.body.append(Loop(index, first, last, inside))

    @contextmanager
    def each(self, shape: Sequence[int]) -> Generator[tuple[Expr, ...]]:
        """Do what is written inside for every position of an array."""
        with self._nest(list(shape), []) as at:
            yield at

    @contextmanager
    def _nest(self, sizes: list[int], done: list[Expr]) -> Generator[tuple[Expr, ...]]:
        if not sizes:
            yield tuple(done)
            return
        with self.loop(sizes[0]) as index, self._nest(sizes[1:], [*done, index]) as at:
            yield at

    @contextmanager
    def when(self, condition: Expr) -> Generator[None]:
        """Do what is written inside if the condition holds."""
        if condition.op == "const" and condition.args[0]:
            yield
            return
        outer, self.body = self.body, []
        yield
        inside, self.body = self.body, outer
        if condition.op != "const":
            self._write(condition, lambda value: When(value, inside))

    def let(self, value: Expr, wanted: str = "u") -> Expr:
        """A name for a value."""
        if value.op in ("name", "const"):
            return value
        name = self._local(wanted)
        self._write(value, lambda shared: Declare(name, shared))
        return Expr("name", (name,), value.dtype)

    def variable(self, value: Any, dtype: Any, wanted: str = "total") -> Expr:
        """A name that can be assigned to."""
        name = self._local(wanted)
        first = converted(value, dtype) if isinstance(value, Expr) else const(value, dtype)
        self._write(first, lambda shared: Declare(name, shared, mutable=True))
        return Expr("name", (name,), np.dtype(dtype))

    def assign(self, variable: Expr, value: Any) -> None:
        value = converted(value, variable.dtype) if isinstance(value, Expr) else const(value, variable.dtype)
        self._write(value, lambda shared: Assign(variable.args[0], shared))

    def load(self, x: Variable, at: Sequence[Expr] = ()) -> Expr:
        """The element at a position; of a smaller array the one that broadcasting repeats there."""
        place = self.places[x]
        own = at[len(at) - len(place.shape) :] if place.shape else ()
        steps = [0 if size == 1 else step for size, step in zip(place.shape, strides(place.shape), strict=True)]
        return self.at(x, offset(own, steps))

    def at(self, x: Variable, position: Expr) -> Expr:
        """The element at a position of the flat array."""
        place = self.places[x]
        if place.number is not None:
            return const(place.number, place.dtype)
        return Expr("load", (place.name, position), place.dtype) if place.memory else Expr("name", (place.name,), place.dtype)

    def store(self, x: Variable, at: Sequence[Expr], value: Any) -> None:
        """Let the element at a position be the value."""
        self.put(x, offset(at, strides(self.places[x].shape)), value)

    def put(self, x: Variable, position: Expr, value: Any) -> None:
        """Let the element at a position of the flat array be the value; of a value without axes, declare it."""
        place = self.places[x]
        value = converted(value, place.dtype) if isinstance(value, Expr) else const(value, place.dtype)
        if place.memory:
            self._write(value, lambda shared: Store(place.name, position, shared))
        else:
            self._write(value, lambda shared: Declare(place.name, shared))

    def shared(self, x: Variable, source: Variable) -> bool:
        """Whether a value with the same elements as another can be the same array, and is now."""
        place, other = self.places[x], self.places[source]
        if x in self.fixed or not place.shape or not other.shape or not place.size:
            return False
        self.body.append(Alias(place.name, other.name, place.dtype))
        self.aliases.add(place.name)
        return True

    def table(self, values: Any, wanted: str = "from") -> str:
        """The name of a table."""
        name = self.name(wanted)
        self.tables[name] = values
        return name

    def temporary(self, x: Variable) -> None:
        """Give a value a place, which is no value of the listing."""
        self.places[x] = Place(self.name(x.name or "t"), x.shape, x.dtype)
        self.temporaries.append(self.places[x])

    def fill(self, x: Variable, value: Any) -> None:
        """Let all elements be the value."""
        with self.loop(self.places[x].size) as i:
            self.put(x, i, value)

    def _local(self, wanted: str) -> str:
        """A name that is free; inside of loops it is free again when the node is written."""
        name = self.name(wanted)
        if self.depth:
            self.locals.append(name)
        return name

    def _write(self, value: Expr, statement: Callable[[Expr], Any]) -> None:
        shared = self._shared(value)
        self.body.append(statement(shared))

    def _shared(self, root: Expr) -> Expr:
        """The same expression with every part that it uses more than once under a name of its own."""
        order, uses = _parts(root)
        made: dict[Expr, Expr] = {}
        for part in order:
            if part.op in ("const", "name"):
                made[part] = part
                continue
            args = part.args if part.op == "load" else tuple(made[arg] for arg in part.args)
            again = part if all(map(operator.is_, args, part.args)) else Expr(part.op, args, part.dtype)
            if uses[part] > 1 and part.op not in ("load", "neg", "not") and part is not root:
                name = self._local("u")
                self.body.append(Declare(name, again))
                again = Expr("name", (name,), part.dtype)
            made[part] = again
        return made[root]


def _parts(root: Expr) -> tuple[list[Expr], dict[Expr, int]]:
    """All parts, inner ones first, and how often each is used."""
    order: list[Expr] = []
    uses: dict[Expr, int] = {root: 1}
    seen: set[Expr] = set()
    stack: list[tuple[Expr, bool]] = [(root, False)]
    while stack:
        part, done = stack.pop()
        if done:
            order.append(part)
            continue
        if part in seen:
            continue
        seen.add(part)
        stack.append((part, True))
        for arg in reversed(part.args if part.op not in ("const", "name", "load") else ()):
            uses[arg] = uses.get(arg, 0) + 1
            stack.append((arg, False))
    return order, uses


Statement = Loop | When | Declare | Assign | Store | Alias


def pruned(statements: Sequence[Any], live: AbstractSet[str]) -> list[Any]:
    """Statements without those that nothing needs: of what they write, ``live`` is read afterwards."""
    kept = list(statements)
    while True:
        needed = live | read_by(kept)
        fewer, dropped = _without(kept, needed)
        if not dropped:
            return kept
        kept = fewer


def read_by(statements: Sequence[Any]) -> set[str]:
    """Names that are read; that something is added to itself does not count."""
    found: set[str] = set()
    for one in statements:
        if isinstance(one, Loop):
            found |= _names(one.start) | _names(one.stop) | read_by(one.body)
        elif isinstance(one, When):
            found |= _names(one.condition) | read_by(one.body)
        elif isinstance(one, Alias):
            found.add(one.array)
        elif isinstance(one, Store):
            found |= _names(one.offset) | (_names(one.value) - {one.array})
        else:
            found |= _names(one.value) - {one.name}
    return found


def written_by(statements: Sequence[Any]) -> set[str]:
    """Names that are declared, assigned to or stored to."""
    found: set[str] = set()
    for one in statements:
        if isinstance(one, (Loop, When)):
            found |= written_by(one.body)
        else:
            found.add(one.array if isinstance(one, Store) else one.name)
    return found


def _names(x: Expr) -> set[str]:
    found: set[str] = set()
    stack: list[Any] = [x]
    while stack:
        part = stack.pop()
        if isinstance(part, Expr):
            if part.op in ("name", "load"):
                found.add(part.args[0])
            stack.extend(part.args)
    return found


def _without(statements: Sequence[Any], needed: AbstractSet[str]) -> tuple[list[Any], bool]:
    kept: list[Any] = []
    dropped = False
    for one in statements:
        if isinstance(one, (Loop, When)):
            body, fewer = _without(one.body, needed)
            dropped |= fewer or not body
            if body:
                kept.append(replace(one, body=body))
        elif (one.array if isinstance(one, Store) else one.name) in needed:
            kept.append(one)
        else:
            dropped = True
    return kept, dropped


def offset(at: Sequence[Expr], steps: Sequence[int], base: int = 0) -> Expr:
    """Where an element stands in a flat array."""
    total = const(base)
    for index, step in zip(at, steps, strict=True):
        total = total + index * step
    return total


def merged(shape: Sequence[int], operands: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """Fewer axes for the same loops: those of size 1 dropped, and neighbours made one where all operands lie in one row."""
    sizes: list[int] = []
    steps: list[list[int]] = [[] for _ in operands]
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        if sizes and all(own[-1] == operand[axis] * size for own, operand in zip(steps, operands, strict=True)):
            sizes[-1] *= size
            for own, operand in zip(steps, operands, strict=True):
                own[-1] = operand[axis]
        else:
            sizes.append(size)
            for own, operand in zip(steps, operands, strict=True):
                own.append(operand[axis])
    return sizes, steps
