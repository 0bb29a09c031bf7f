"""Flat gradient code in C99: one function, no allocation, nothing but math.h.

Arrays lie row by row; sizes are constants. Intermediate values lie in static memory, one after the other in the same where their lives
allow it, so that the function needs hardly any stack, and is not to be called twice at a time. Whole numbers wrap as C's do; positions
that are looked up are not checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chainrule.compiler.memory import Buffer, pack
from chainrule.core.aval import Aval
from chainrule.core.variable import Variable
from chainrule.view.source import Listing
from chainrule.view.targets.expressions import Expr
from chainrule.view.targets.loops import Alias, Place, lifetimes, read_by, written_by
from chainrule.view.targets.syntax import INDENT, Program, Syntax

TYPES = {
    "float32": "float", "float64": "double", "bool": "unsigned char",
    "int8": "signed char", "int16": "short", "int32": "int", "int64": "long long",
    "uint8": "unsigned char", "uint16": "unsigned short", "uint32": "unsigned int", "uint64": "unsigned long long",
}  # fmt: skip
_SUFFIXES = {"float32": "f", "int64": "LL", "uint32": "U", "uint64": "ULL"}
_KEYWORDS = """auto break case char const continue default do double else enum extern float for goto if inline int long register restrict
return short signed sizeof static struct switch typedef union unsigned void volatile while main NAN INFINITY"""
_MATH = """acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp2 expm1 fabs fdim floor fma fmax fmin fmod frexp
hypot ilogb ldexp lgamma llrint llround log log10 log1p log2 logb lrint lround modf nan nearbyint nextafter nexttoward pow remainder remquo rint
round scalbln scalbn sin sinh sqrt tan tanh tgamma trunc"""
_MACROS = "isnan isinf isfinite isnormal signbit fpclassify isgreater isless isunordered j0 j1 jn y0 y1 yn gamma exception"
_NAMED = {"abs": "fabs", "round": "rint"}
_WIDTH = 20
"""Numbers of a table in a line."""


class C(Syntax):
    target = "c"
    natives = (
        "exp2", "log2", "log10", "tan", "atan2", "asin", "acos", "sinh", "cosh", "asinh", "acosh", "atanh",
        "hypot", "erf", "erfc", "ceil", "trunc", "round", "copysign", "signbit",
    )  # fmt: skip
    reserved = frozenset((*_KEYWORDS.split(), *_MACROS.split(), *(f"{name}{end}" for name in _MATH.split() for end in ("", "f", "l"))))
    types = TYPES
    counter = "int"

    def number(self, value: Any, dtype: Any) -> str:
        if dtype.kind == "f":
            value = dtype.type(value)
            if np.isnan(value):
                return "NAN"
            if np.isinf(value):
                return "INFINITY" if value > 0 else "-INFINITY"
            text = str(value) if dtype.itemsize == 4 else repr(float(value))
            return (text if "." in text or "e" in text else f"{text}.0") + _SUFFIXES.get(dtype.name, "")
        if dtype.kind == "i" and dtype.itemsize >= 4 and value == np.iinfo(dtype).min:
            # There is no negative literal, and this one's magnitude has none of its type.
            return f"({self.number(value + 1, dtype)} - 1)"
        return f"{int(value)}{_SUFFIXES.get(dtype.name, '')}"

    def conversion(self, x: Expr, dtype: Any) -> tuple[str, int]:
        if dtype.kind == "b":
            return f"{self.inside(x, 9)} != 0", 6
        return f"({TYPES[dtype.name]}){self.inside(x, 12)}", 11

    def operation(self, x: Expr) -> tuple[str, int]:
        return super().operation(Expr("/", x.args, x.dtype) if x.op == "div" else x)

    def function(self, name: str, args: Sequence[Expr]) -> tuple[str, int]:
        words = ", ".join(self.text(arg) for arg in args)
        if name in ("isnan", "isinf", "isfinite"):
            return f"{name}({words})", 12
        if name == "signbit":
            return f"signbit({words}) != 0", 6
        return f"{_NAMED.get(name, name)}{_SUFFIXES.get(args[0].dtype.name, '')}({words})", 12

    def declare(self, name: str, dtype: Any, *, mutable: bool) -> str:
        return f"{'' if mutable else 'const '}{TYPES[dtype.name]} {name}"

    def alias(self, statement: Alias) -> str:
        return f"const {TYPES[statement.dtype.name]} *{statement.name} = {statement.array};"


def write(listing: Listing) -> str:
    """A listing as C99: a function of the inputs and of pointers to the results, the gradients and what is assigned."""
    syntax, graph = C(), listing.graph
    # A lambda has no name that C would take.
    function = (graph.name if graph.name.isidentifier() and graph.name.isascii() else "f") + "_" * (graph.name in syntax.reserved)
    program = Program(listing, syntax, {function})
    places, writer = program.places, program.writer
    results = _results(listing, program)
    writer.fixed = frozenset(x for x, _, _ in results)
    steps = [program.written(node) for node in graph.nodes]
    steps.append(program.noted(lambda: _copies(program, results)))
    *steps, last = program.living(steps, {places[x].name for x, _, _ in results})
    body: list[str] = []
    for position, (node, statements) in enumerate(zip(graph.nodes, steps, strict=True)):
        if position in (0, listing.turn):
            body += ["", f"/* {'Forward' if position < listing.turn else 'Backward'}. */"]
        body += _commented(program.lines(node, statements), program.told(node), ", ".join(str(x.aval) for x in node.outputs))
    body += ["", "/* Results that are other values too. */", *syntax.lines(last)] if last else []
    read, touched = read_by([one for step in (*steps, last) for one in step]), written_by([one for step in (*steps, last) for one in step])
    own = [*(places[x] for node in graph.nodes for x in node.outputs if x not in writer.fixed), *writer.temporaries]
    arrays = [place for place in own if place.shape and place.name in touched and place.name not in writer.aliases]
    body += [f"(void){places[x].name};" for x in graph.inputs if places[x].name not in read]
    body += [f"(void){places[x].name};" for x, _, _ in results if places[x].name not in touched]
    tables = [(places[x].name, np.asarray(value).reshape(-1), x.dtype) for x, value in graph.constants.items() if x.shape and places[x].name in read]
    tables += [(name, value.reshape(-1), value.dtype) for name, value in writer.tables.items() if name in read]
    head = [line for name, value, dtype in tables for line in _table(syntax, name, value, dtype)]
    memory, lines = _memory(program, arrays, lifetimes([*steps, last]))
    head += lines
    parameters = [f"{'const ' if x.shape else ''}{TYPES[x.dtype.name]} {'*' if x.shape else ''}{places[x].name}" for x in graph.inputs]
    parameters += [f"{TYPES[x.dtype.name]} *{places[x].name}" for x, _, _ in results]
    memory += sum(value.size * dtype.itemsize for _, value, dtype in tables)
    return "\n".join(
        [
            "/*",
            f" * {graph.name} and its gradient. Arrays lie row by row; results must not overlap the inputs, nor each other.",
            f" * Static memory: {memory} bytes.",
            " *",
            *(f" * {'in ' if x in graph.inputs else 'out'}  {places[x].name}: {x.aval}" for x in graph.inputs),
            *(f" * out  {places[x].name}: {x.aval}{told}" for x, _, told in results),
            " */",
            "#include <math.h>",
            "",
            *_signature(f"void {function}", parameters),
            "{",
            *(INDENT + line if line else "" for line in ([*head, *body] if head else body[1:])),
            "}",
            "",
        ]
    )


def _results(listing: Listing, program: Program) -> list[tuple[Variable, Variable, str]]:
    """What is written to memory of the caller: the value there, the value it is (it is copied if it is another), and a remark."""
    wanted = [(x, program.names.get(x, "result"), "") for x in listing.values]
    wanted += [(x, f"grad_{listing.names[of]}", "") for of, x in listing.gradients]
    wanted += [(x, f"new_{name}", f", the new {name}") for name, x in listing.updates]
    found: list[tuple[Variable, Variable, str]] = []
    made = {x for node in listing.graph.nodes for x in node.outputs}
    for x, name, told in wanted:
        first = x in made and all(x is not other for other, _, _ in found)
        target = x if first else Variable(x.aval, x.name)
        own = program.names[x] if first and program.names[x] == name else program.name(name)
        program.places[target] = Place(own, x.shape, x.dtype, pointer=True)
        if first:
            program.names[x] = own
        found.append((target, x, told))
    return found


def _memory(program: Program, arrays: list[Place], spans: Mapping[str, tuple[int, int]]) -> tuple[int, list[str]]:
    """Declarations of arrays, which share memory with those of their dtype that are not in use at the same time; and its bytes."""
    total, lines = 0, list[str]()
    for dtype in dict.fromkeys(place.dtype for place in arrays):
        own = [place for place in arrays if place.dtype == dtype]
        buffers = [Buffer(max(place.size, 1) * dtype.itemsize, *spans[place.name]) for place in own]
        size = pack(buffers, dtype.itemsize)
        pool, kind = program.name(f"memory_{dtype.name}"), TYPES[dtype.name]
        lines.append(f"static {kind} {pool}[{size // dtype.itemsize}];")
        for place, buffer in zip(own, buffers, strict=True):
            assert buffer.offset is not None
            lines.append(f"{kind} *const {place.name} = {pool} + {buffer.offset // dtype.itemsize};  /* {Aval(place.shape, dtype)} */")
        total += size
    return total, lines


def _copies(program: Program, results: list[tuple[Variable, Variable, str]]) -> None:
    for x, source, _ in results:
        if x is not source:
            program.writer.copy(x, source)


def _commented(lines: list[str], told: str, aval: str) -> list[str]:
    if not lines:
        return []
    if len(lines) == 1 and "{" not in lines[0]:
        return [f"{lines[0]}  /* {aval} */"]
    return [f"/* {told} */", *lines]


def _table(syntax: C, name: str, values: Any, dtype: Any) -> list[str]:
    words = [syntax.number(value, dtype) for value in values.tolist()] or ["0"]
    if len(words) <= _WIDTH:
        return [f"static const {TYPES[dtype.name]} {name}[{len(words)}] = {{{', '.join(words)}}};"]
    rows = [INDENT + ", ".join(words[i : i + _WIDTH]) + "," for i in range(0, len(words), _WIDTH)]
    return [f"static const {TYPES[dtype.name]} {name}[{len(words)}] = {{", *rows, "};"]


def _signature(start: str, parameters: list[str]) -> list[str]:
    line = f"{start}({', '.join(parameters)})"
    return [line] if len(line) <= 120 else [f"{start}(", *(f"{INDENT}{p}{',' if i + 1 < len(parameters) else ')'}" for i, p in enumerate(parameters))]
