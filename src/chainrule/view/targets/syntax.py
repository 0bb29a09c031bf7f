"""What languages with braces have in common: expressions and statements of `loops` as text, and a listing's nodes as such statements.

A language derives from `Syntax`. What it cannot say, and gates that have no loops, are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar

import numpy as np

from chainrule.core.lowering import lower
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation
from chainrule.graph.text import in_operators
from chainrule.view.source import Listing, refused
from chainrule.view.targets.expressions import Expr, Lowering
from chainrule.view.targets.loops import Alias, Assign, Declare, Forever, Leave, Loop, Place, When, Writer, pruned, read_by

INDENT = "    "
_BINDS = {
    "||": 1, "&&": 2, "|": 3, "^": 4, "&": 5, "==": 6, "!=": 6, "===": 6, "!==": 6, "<": 7, "<=": 7, ">": 7, ">=": 7,
    "<<": 8, ">>": 8, "+": 9, "-": 9, "*": 10, "/": 10, "%": 10,
}  # fmt: skip
"""How strongly operators bind."""
_UNARY, _ATOM = 11, 12
_CALM = 9
"""From here on precedence is known to every reader; below it, parentheses say it."""


class UnsaidError(Exception):
    """The language has no word for something."""


class Syntax:
    """A language; the methods here say what C and JavaScript say alike."""

    target: ClassVar[str]
    natives: ClassVar[tuple[str, ...]]
    reserved: ClassVar[frozenset[str]]
    types: ClassVar[Mapping[str, str]]

    # Expressions.

    def text(self, x: Expr) -> str:
        return self.bound(x)[0]

    def bound(self, x: Expr) -> tuple[str, int]:
        """An expression and how strongly it binds."""
        if x.op == "name":
            return x.args[0], _ATOM
        if x.op == "load":
            return f"{x.args[0]}[{self.text(x.args[1])}]", _ATOM
        if x.op == "const":
            text = self.number(x.args[0], x.dtype)
            return text, _UNARY if text.startswith("-") else _ATOM
        if x.op in ("neg", "not", "~"):
            inner, binds = self.bound(x.args[0])
            sign = {"neg": "-", "not": "!", "~": "~"}[x.op]
            return sign + (inner if binds >= _ATOM else f"({inner})"), _UNARY
        if x.op == "select":
            condition, a, b = (self.inside(arg, 1) for arg in x.args)
            return f"{condition} ? {a} : {b}", 0
        if x.op == "convert":
            return self.conversion(x.args[0], x.dtype)
        if x.op == "div" or x.op in _BINDS:
            return self.operation(x)
        return self.function(x.op, x.args)

    def operation(self, x: Expr) -> tuple[str, int]:
        a, b = x.args
        sign = x.op
        if a.dtype.kind == "b":
            sign = {"&": "&&", "|": "||", "^": "!="}.get(sign, sign)
        binds = _BINDS[sign]
        if binds >= _CALM:
            return f"{self.inside(a, binds)} {sign} {self.inside(b, binds + 1)}", binds
        return f"{self.loose(a, sign)} {sign} {self.loose(b, sign)}", binds

    def loose(self, x: Expr, sign: str) -> str:
        text, binds = self.bound(x)
        own = {"&": "&&", "|": "||"}.get(x.op) if x.dtype.kind == "b" else None
        least = 6 if sign in ("&&", "||") else 9 if _BINDS[sign] in (6, 7) else _UNARY
        return text if binds >= least or (own == sign) else f"({text})"

    def inside(self, x: Expr, least: int) -> str:
        text, binds = self.bound(x)
        return text if binds >= least else f"({text})"

    def number(self, value: Any, dtype: Any) -> str:
        raise NotImplementedError

    def conversion(self, x: Expr, dtype: Any) -> tuple[str, int]:
        raise NotImplementedError

    def function(self, name: str, args: Sequence[Expr]) -> tuple[str, int]:
        raise NotImplementedError

    # Statements.

    counter: ClassVar[str]

    def declare(self, name: str, dtype: Any, *, mutable: bool) -> str:
        raise NotImplementedError

    def initial(self, name: str, value: Expr) -> str:
        """What a declared name is."""
        return self.text(value)

    def alias(self, statement: Alias) -> str:
        raise NotImplementedError

    def lines(self, statements: Sequence[Any]) -> Iterator[str]:
        for one in statements:
            if isinstance(one, Loop):
                i = one.index
                yield f"for ({self.counter} {i} = {self.text(one.start)}; {i} < {self.text(one.stop)}; {i}++) {{"
                yield from (INDENT + line for line in self.lines(one.body))
                yield "}"
            elif isinstance(one, When):
                yield f"if ({self.text(one.condition)}) {{"
                yield from (INDENT + line for line in self.lines(one.body))
                yield "}"
            elif isinstance(one, Forever):
                yield "for (;;) {"
                yield from (INDENT + line for line in self.lines(one.body))
                yield "}"
            elif isinstance(one, Leave):
                yield f"if ({self.text(one.condition)}) break;"
            elif isinstance(one, Declare):
                yield f"{self.declare(one.name, one.value.dtype, mutable=one.mutable)} = {self.initial(one.name, one.value)};"
            elif isinstance(one, Alias):
                yield self.alias(one)
            else:
                target = one.name if isinstance(one, Assign) else f"{one.array}[{self.text(one.offset)}]"
                yield self.assignment(target, one.value)

    def assignment(self, target: str, value: Expr) -> str:
        """``total = total + x`` as ``total += x``."""
        if value.op in "+-*" and value.dtype.kind != "b" and self.text(value.args[0]) == target:
            return f"{target} {value.op}= {self.text(value.args[1])};"
        return f"{target} = {self.text(value)};"


class Program:
    """A listing's names, places and statements in a language.

    Parameters
    ----------
    listing : Listing
    syntax : Syntax
    taken : set of str
        Names that are in use.
    """

    def __init__(self, listing: Listing, syntax: Syntax, taken: AbstractSet[str] = frozenset()) -> None:
        self.listing, self.syntax = listing, syntax
        self._taken = {*syntax.reserved, *taken}
        self.names = {x: self.name(name) for x, name in listing.names.items()}
        self.places: dict[Variable, Place] = {}
        graph = listing.graph
        for x in (*graph.inputs, *(x for node in graph.nodes for x in node.outputs)):
            self.places[x] = Place(self.names[x], x.shape, x.dtype)
        for x, value in graph.constants.items():
            number = None if x.shape else np.asarray(value)[()]
            self.places[x] = Place(self.names.get(x, ""), x.shape, x.dtype, number)
        self.writer = Writer(self.places, self.name, Lowering(syntax.natives), self.gate)

    def name(self, wanted: str) -> str:
        """A name that is free, near the one wanted."""
        plain = re.sub(r"\W", "_", wanted, flags=re.ASCII) or "x"
        plain = plain if not plain[0].isdigit() else f"x{plain}"
        found, count = plain, 1
        while found in self._taken:
            count += 1
            found = f"{plain}_{count}" if plain not in self.syntax.reserved else f"{plain}{'_' * (count - 1)}"
        self._taken.add(found)
        return found

    def gate(self, node: Operation) -> None:
        """Write a node."""
        for x in (*node.inputs, *node.outputs):
            if x.dtype.name not in self.syntax.types:
                raise refused(self.syntax.target, node, f"it has no {x.dtype}")
        if not lower(self.writer, node.primitive, node.outputs, node.inputs, node.params):
            raise refused(self.syntax.target, node)

    def written(self, node: Operation) -> list[Any]:
        """A node's statements."""
        return self.noted(lambda: self.gate(node))

    def noted(self, write: Callable[[], None]) -> list[Any]:
        """The statements that are written."""
        self.writer.body = []
        write()
        self._taken.difference_update(self.writer.locals)
        self.writer.locals.clear()
        return self.writer.body

    def living(self, steps: Sequence[list[Any]], results: AbstractSet[str]) -> list[list[Any]]:
        """The statements of all nodes without those that no result needs."""
        names, live = {place.name for place in self.places.values()}, set(results)
        kept: list[list[Any]] = []
        for statements in reversed(steps):
            kept.append(pruned(statements, live))
            live |= read_by(kept[-1]) & names
        return kept[::-1]

    def lines(self, node: Operation, statements: Sequence[Any]) -> list[str]:
        """A node's statements as text."""
        try:
            return list(self.syntax.lines(statements))
        except UnsaidError as error:
            raise refused(self.syntax.target, node, str(error)) from None

    def told(self, node: Operation) -> str:
        """A node in the user's names, with its shape and layer."""
        outs = ", ".join(self.names[x] for x in node.outputs)
        avals = ", ".join(str(x.aval) for x in node.outputs)
        scope = f"  {'.'.join(node.scope)}" if node.scope else ""
        return f"{outs} = {self.expression(node)}  {avals}{scope}".replace("*/", "* /")

    def expression(self, node: Operation) -> str:
        gate, args = node.primitive, [self.names.get(x) or _brief(self.listing.graph.constants[x]) for x in node.inputs]
        if gate.operator and not node.params:
            return in_operators(gate, args)
        if gate.name == "positive":
            return args[0]
        return f"{gate.name}({', '.join([*args, *(f'{key}={_brief(value)}' for key, value in node.params.items())])})"


def _brief(value: Any) -> str:
    """A number, parameter or inner graph in a few words."""
    if isinstance(value, Graph):
        return value.name
    return "..." if isinstance(value, np.ndarray) and value.ndim else str(value)
