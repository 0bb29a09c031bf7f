"""Loop nests as statements: the loop builder that gates are written onto, for every language with braces.

A gate's rule writes statements with a `Writer`; a language prints them. Nothing here knows a syntax, nor a gate.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Generator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import numpy as np

from chainrule.core.aval import Aval
from chainrule.core.nest import Nest
from chainrule.core.scalar import Builder
from chainrule.core.variable import Variable
from chainrule.view.targets.expressions import INDEX, Expr, as_expr, const, number


@dataclass(frozen=True, slots=True)
class Loop:
    """``index`` counts from ``start`` up to, not including, ``stop``; or from ``stop - 1`` down to ``start``."""

    index: str
    start: Expr
    stop: Expr
    body: list[Any]


@dataclass(frozen=True, slots=True)
class Forever:
    """Again and again, until a `Leave` inside."""

    body: list[Any]


@dataclass(frozen=True, slots=True)
class Leave:
    """The end of the innermost `Forever`, if the condition holds."""

    condition: Expr


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
    variable : bool
        Whether it is a local variable that is there already, and may be assigned to.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    number: Any = None
    pointer: bool = False
    variable: bool = False

    @property
    def memory(self) -> bool:
        return bool(self.shape) or self.pointer

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass
class Writer(Nest):
    """Writes statements.

    Parameters
    ----------
    places : dict of Variable to Place
    name : callable
        ``name(wanted)``: a name that is free.
    k : Builder
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
    changing : set of str
        Names of variables.
    """

    places: dict[Variable, Place]
    name: Callable[[str], str]
    k: Builder
    gate: Callable[[Any], None]
    fixed: AbstractSet[Variable] = frozenset()
    body: list[Any] = field(default_factory=list[Any])
    tables: dict[str, Any] = field(default_factory=dict[str, Any])
    aliases: set[str] = field(default_factory=set[str])
    temporaries: list[Place] = field(default_factory=list[Place])
    locals: list[str] = field(default_factory=list[str])
    changing: set[str] = field(default_factory=set[str])
    depth: int = 0
    counters: list[str] = field(default_factory=list[str])

    # Control.

    @contextmanager
    def loop(self, stop: Any, start: Any = 0) -> Generator[Expr]:
        first, last = _position(start), _position(stop)
        if number(first) is not None and number(last) is not None and number(last) - number(first) == 1:
            yield first
            return
        if self.depth == len(self.counters):
            self.counters.append(self.name("ijklmnopqr"[self.depth] if self.depth < 10 else "i"))
        index = self.counters[self.depth]
        with self._block() as inside:
            yield Expr("name", (index,), INDEX)
        never = number(first) is not None and number(last) is not None and number(last) <= number(first)
        if inside and not never:
            self._write(last, lambda end: Loop(index, first, end, inside))

    @contextmanager
    def forever(self) -> Generator[None]:
        with self._block() as inside:
            yield
        self.body.append(Forever(inside))

    def leave(self, condition: Any) -> None:
        self._write(condition, Leave)

    @contextmanager
    def when(self, *conditions: Any) -> Generator[None]:
        condition = reduce(operator.and_, conditions, const(True, np.bool_))
        if condition.op == "const" and condition.args[0]:
            yield
            return
        outer, self.body = self.body, []
        yield
        inside, self.body = self.body, outer
        if condition.op != "const" and inside:
            self._write(condition, lambda value: When(value, inside))

    @contextmanager
    def _block(self) -> Generator[list[Any]]:
        """Statements inside of a loop."""
        outer, inside = self.body, list[Any]()
        self.body, self.depth = inside, self.depth + 1
        yield inside
        self.body, self.depth = outer, self.depth - 1

    # Values.

    def let(self, value: Any, wanted: str = "u") -> Any:
        if not isinstance(value, Expr) or value.op == "const" or (value.op == "name" and value.args[0] not in self.changing):
            return value
        name = self._local(wanted)
        self._write(value, lambda shared: Declare(name, shared))
        return Expr("name", (name,), value.dtype)

    def variable(self, value: Any, dtype: Any = None, wanted: str = "total") -> Expr:
        name, dtype = self._local(wanted), INDEX if dtype is None else np.dtype(dtype)
        self.changing.add(name)
        self._write(as_expr(value, dtype), lambda shared: Declare(name, shared, mutable=True))
        return Expr("name", (name,), dtype)

    def assign(self, variable: Expr, value: Any) -> None:
        self._write(as_expr(value, variable.dtype), lambda shared: Assign(variable.args[0], shared))

    def last_resort(self, operations: int) -> None:
        """Source code has no evaluation to call."""

    def index(self, value: Any) -> Expr:
        return as_expr(value, INDEX)

    # Arrays.

    def at(self, x: Variable, position: Any) -> Expr:
        place = self.places[x]
        if place.number is not None:
            return const(place.number, place.dtype)
        return Expr("load", (place.name, _position(position)), place.dtype) if place.memory else Expr("name", (place.name,), place.dtype)

    def put(self, x: Variable, position: Any, value: Any) -> None:
        place = self.places[x]
        value = as_expr(value, place.dtype)
        if place.memory:
            self._write(value, lambda shared: Store(place.name, _position(position), shared))
        elif place.variable:
            self._write(value, lambda shared: Assign(place.name, shared))
        else:
            self._write(value, lambda shared: Declare(place.name, shared))

    def alias(self, out: Variable, x: Variable) -> bool:
        place, other = self.places[out], self.places[x]
        if out in self.fixed or not place.shape or not other.shape or not place.size:
            return False
        self.body.append(Alias(place.name, other.name, place.dtype))
        self.aliases.add(place.name)
        return True

    def constant(self, values: Any, wanted: str = "c") -> Variable:
        values = np.asarray(values)
        x = Variable(Aval(values.shape, values.dtype))
        self.places[x] = Place("", (), values.dtype, values[()]) if not values.shape else Place(self.name(wanted), values.shape, values.dtype)
        if values.shape:
            self.tables[self.places[x].name] = values
        return x

    def scratch(self, shape: Sequence[int], dtype: Any, wanted: str = "t") -> Variable:
        x = Variable(Aval(tuple(shape), np.dtype(dtype)), wanted)
        self._temporary(x)
        return x

    def own(self, x: Variable, wanted: str = "kept") -> Variable:
        if x.shape:
            made = self.scratch(x.shape, x.dtype, wanted)
            self.copy(made, x)
            return made
        made = Variable(x.aval, wanted)
        self.places[made] = Place(self.variable(self.at(x, 0), x.dtype, wanted).args[0], (), x.dtype, variable=True)
        return made

    def inline(self, graph: Any, xs: Sequence[Variable]) -> tuple[Variable, ...]:
        for x, given in zip(graph.inputs, xs, strict=True):
            self.places[x] = self.places[given]
        for x, value in graph.constants.items():
            self.places[x] = self.places[self.constant(value)]
        for x in (x for node in graph.nodes for x in node.outputs):
            self._temporary(x)
        fixed, self.fixed = self.fixed, self.fixed | set(graph.outputs)
        for node in graph.nodes:
            self.gate(node)
        self.fixed = fixed
        given = dict(zip(graph.inputs, xs, strict=True))
        return tuple(given[x] if x in given else self._handle(x) for x in graph.outputs)

    def _handle(self, x: Variable) -> Variable:
        """Another handle of a place: the graph may be written again, with other places."""
        made = Variable(x.aval, x.name)
        self.places[made] = self.places[x]
        return made

    def _temporary(self, x: Variable) -> None:
        """Give a value a place, which is no value of the listing."""
        self.places[x] = Place(self.name(x.name or "t"), x.shape, x.dtype)
        self.temporaries.append(self.places[x])

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


def _position(value: Any) -> Expr:
    return as_expr(value, INDEX)


Statement = Loop | Forever | Leave | When | Declare | Assign | Store | Alias


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
        elif isinstance(one, Forever):
            found |= read_by(one.body)
        elif isinstance(one, Leave):
            found |= _names(one.condition)
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
        if isinstance(one, (Loop, When, Forever)):
            found |= written_by(one.body)
        elif not isinstance(one, Leave):
            found.add(one.array if isinstance(one, Store) else one.name)
    return found


def lifetimes(steps: Sequence[Sequence[Any]]) -> dict[str, tuple[int, int]]:
    """Per name the first and the last step that has to do with it, be it under another name."""
    origins: dict[str, str] = {}
    spans: dict[str, tuple[int, int]] = {}
    for position, statements in enumerate(steps):
        for one in _all(statements):
            if isinstance(one, Alias):
                origins[one.name] = origins.get(one.array, one.array)
        for name in read_by(statements) | written_by(statements):
            name = origins.get(name, name)
            spans[name] = (spans.get(name, (position, 0))[0], position)
    return spans


def _all(statements: Sequence[Any]) -> list[Any]:
    """Statements, and those inside of them."""
    found = list(statements)
    for one in found:
        found.extend(getattr(one, "body", ()))
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
        if isinstance(one, (Loop, When, Forever)):
            body, fewer = _without(one.body, needed)
            empty = all(isinstance(part, Leave) for part in body)
            dropped |= fewer or empty
            if not empty:
                kept.append(replace(one, body=body))
        elif isinstance(one, Leave) or (one.array if isinstance(one, Store) else one.name) in needed:
            kept.append(one)
        else:
            dropped = True
    return kept, dropped
