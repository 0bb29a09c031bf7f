"""Flat gradient code in JavaScript (ES2020, no imports): a function that the explorer page calls when an input is edited.

All real numbers are doubles, whatever their dtype here, so that a page can check gradients by differences; int64 are doubles too, exact up
to 2**53. Numbers without sign have all their bits, which random numbers need: those of 32 bits wrap, those of 64 are BigInt inside,
and numbers for the caller. Arrays are flat, row by row; a value without axes is a number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from chainrule.autodiff.reverse import grad
from chainrule.core.errors import ChainruleError
from chainrule.core.nest import numbered
from chainrule.core.primitive import call, functions
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation
from chainrule.graph.trace import trace
from chainrule.tape import bind
from chainrule.view.source import Listing
from chainrule.view.targets.expressions import INDEX, Expr, number
from chainrule.view.targets.loops import Alias, Place, read_by, written_by
from chainrule.view.targets.syntax import INDENT, Program, Syntax, UnsaidError

TYPES = {
    "float32": "Float64Array", "float64": "Float64Array", "bool": "Uint8Array",
    "int8": "Int8Array", "int16": "Int16Array", "int32": "Int32Array", "int64": "Float64Array",
    "uint8": "Uint8Array", "uint16": "Uint16Array", "uint32": "Uint32Array", "uint64": "BigUint64Array",
}  # fmt: skip
_WORDS = """await break case catch class const continue debugger default delete do else enum export extends false finally for function if implements
import in instanceof interface let new null package private protected public return static super switch this throw true try typeof var void while
with yield arguments eval undefined NaN Infinity Math Number BigInt Object Array inputs put recompute"""
_BITS = frozenset(("&", "|", "^", "<<", ">>"))
_WORD, _WIDE = np.dtype("uint32"), np.dtype("uint64")
_PLAIN = frozenset(("abs", "floor", "sqrt", "exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "atan", "pow"))


class JavaScript(Syntax):
    """The language.

    Parameters
    ----------
    replaced : Mapping of str to str
        Local names of values that the caller may replace, and how they are called there.
    """

    target = "javascript"
    natives = ("log2", "log10", "tan", "atan2", "asin", "acos", "sinh", "cosh", "asinh", "acosh", "atanh", "hypot", "ceil", "trunc")
    reserved = frozenset((*_WORDS.split(), *TYPES.values()))
    types = TYPES
    counter = "let"

    def __init__(self, replaced: Mapping[str, str] | None = None) -> None:
        self.replaced: Mapping[str, str] = replaced or {}

    def number(self, value: Any, dtype: Any) -> str:
        if dtype.kind != "f":
            return f"{int(value)}{'n' * (dtype == _WIDE)}"
        if np.isnan(value):
            return "NaN"
        if np.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        return repr(float(value))

    def conversion(self, x: Expr, dtype: Any) -> tuple[str, int]:
        if dtype.kind == "b":
            return f"{self.inside(x, 9)} !== {self.number(0, x.dtype)}", 6
        if dtype == _WIDE:
            whole = f"BigInt({f'Math.trunc({self.text(x)})' if x.dtype.kind == 'f' else self.text(x)})"
            return whole if x.dtype.kind in "bu" else f"BigInt.asUintN(64, {whole})", 12
        if x.dtype == _WIDE:
            kept = f"BigInt.as{'Int' if dtype.kind == 'i' else 'Uint'}N({8 * dtype.itemsize}, {self.text(x)})"
            return f"Number({kept if dtype.kind in 'iu' else self.text(x)})", 12
        if x.dtype.kind == "b":
            return f"Number({self.text(x)})", 12
        if dtype == _WORD:
            return f"{self.inside(x, 9)} >>> 0", 8
        if x.dtype.kind == "f" and dtype.kind in "iu":
            return f"Math.trunc({self.text(x)})", 12
        return self.bound(x)

    def bound(self, x: Expr) -> tuple[str, int]:
        if x.op in ("~", "neg") and x.dtype == _WIDE:
            return f"BigInt.asUintN(64, {super().bound(x)[0]})", 12
        if x.op in ("~", "neg") and x.dtype == _WORD:
            return f"{super().bound(x)[0]} >>> 0", 8
        if x.op == "~" and x.dtype.kind == "u":
            return self._cut(f"~BigInt({self.text(x.args[0])})", x.dtype)
        return (f"-1 - {self.inside(x.args[0], 10)}", 9) if x.op == "~" else super().bound(x)

    def operation(self, x: Expr) -> tuple[str, int]:
        a, b = x.args
        if x.dtype == _WIDE:
            plain = super().operation(Expr("/", x.args, x.dtype) if x.op == "div" else x)
            return (f"BigInt.asUintN(64, {plain[0]})", 12) if x.op in ("+", "-", "*", "<<") else plain
        if x.op == "div":
            return f"Math.trunc({self.inside(a, 10)} / {self.inside(b, 11)})", 12
        if x.dtype == _WORD and x.op in "+-*&|^":
            return f"{f'Math.imul({self.text(a)}, {self.text(b)})' if x.op == '*' else f'({super().operation(x)[0]})'} >>> 0", 8
        if x.dtype == _WORD and x.op in ("<<", ">>") and (number(b) or 32) < 32:
            return f"{self.inside(a, 9)} >>> {self.text(b)}" if x.op == ">>" else f"({super().operation(x)[0]}) >>> 0", 8
        if x.dtype == INDEX and (x.op in "&|^" or (x.op in ("<<", ">>") and (number(b) or 32) < 32)):
            return super().operation(x)
        if x.op in _BITS and a.dtype.kind in "iu":
            return self._cut(f"BigInt({self.text(a)}) {x.op} BigInt({self.text(b)})", a.dtype)
        if x.op in ("==", "!=") and a.dtype.kind != "b":
            return f"{self.loose(a, x.op)} {x.op}= {self.loose(b, x.op)}", 6
        return super().operation(x)

    def _cut(self, text: str, dtype: Any) -> tuple[str, int]:
        """Numbers of more than 32 bits have bits in BigInt only."""
        return f"Number(BigInt.as{'Int' if dtype.kind == 'i' else 'Uint'}N({8 * dtype.itemsize}, {text}))", 12

    def assignment(self, target: str, value: Expr) -> str:
        # What wraps is written out.
        return f"{target} = {self.text(value)};" if value.dtype in (_WORD, _WIDE) else super().assignment(target, value)

    def function(self, name: str, args: Sequence[Expr]) -> tuple[str, int]:
        words = ", ".join(self.text(arg) for arg in args)
        if name in ("isnan", "isfinite"):
            return f"Number.{'isNaN' if name == 'isnan' else 'isFinite'}({words})", 12
        if name == "isinf":
            return f"Math.abs({words}) === Infinity", 6
        if name == "fmod":
            return f"{self.inside(args[0], 10)} % {self.inside(args[1], 11)}", 10
        if name not in _PLAIN and name not in self.natives:
            raise UnsaidError(f"it has no {name}")
        return f"Math.{name}({words})", 12

    def declare(self, name: str, dtype: Any, *, mutable: bool) -> str:
        return f"{'let' if mutable else 'const'} {name}"

    def initial(self, name: str, value: Expr) -> str:
        if name in self.replaced:
            found = f"{member('put', self.replaced[name])} ?? {self.inside(value, 9)}"
            return f"BigInt({found})" if value.dtype == _WIDE else found
        return self.text(value)

    def alias(self, statement: Alias) -> str:
        return f"const {statement.name} = {statement.array}.slice();"


def member(of: str, name: str) -> str:
    """An object's property."""
    return f"{of}.{name}" if name.isascii() and name.isidentifier() else f'{of}["{name}"]'


def write(listing: Listing, *, local: bool = True) -> str:
    """A listing as the function ``recompute(inputs, put)``.

    ``inputs`` holds the inputs by name, ``put`` what is to stand in the place of computed values. It returns the values, gradients, shapes, and
    local derivatives by name: of every gate one for each operand that is no number, null where the gate is not elementwise;
    none if not ``local``.
    """
    syntax, graph = JavaScript(), listing.graph
    program = Program(listing, syntax)
    places, names = program.places, listing.names
    forward = [x for node in listing.forward for x in node.outputs]
    syntax.replaced = {places[x].name: names[x] for x in forward if not x.shape}
    slopes = _Locals(program)
    steps: list[list[Any]] = []
    inside: dict[Operation, list[Place]] = {}
    for node in graph.nodes:
        known = len(program.writer.temporaries)
        steps.append(program.written(node))
        inside[node] = program.writer.temporaries[known:]
    slots = {node: slopes.slots(node) for node in listing.forward} if local else {}
    shown = {x: names[x] for x in (*graph.inputs, *(x for x in listing.values if x.shape), *forward)}
    reached = {**listing.reached, **dict(listing.gradients)}
    grads = {name: reached[x] for x, name in shown.items() if x in reached}
    results = {places[x].name for x in (*shown, *grads.values(), *graph.outputs)} | {word for words in slots.values() for word in words}
    *kept, beside = program.living([*steps, [one for part in slopes.steps for one in part]], results)
    body: list[str] = []
    for position, (node, statements) in enumerate(zip(graph.nodes, kept, strict=True)):
        if position in (0, listing.turn):
            body += ["", f"// {'Forward' if position < listing.turn else 'Backward'}."]
        lines = program.lines(node, statements)
        memory = _memory(program, [*(places[x] for x in node.outputs), *inside[node]], statements, results)
        if len(lines) == 1 and not memory:
            body.append(f"{lines[0]}  // {', '.join(str(x.aval) for x in node.outputs)}")
        elif lines or memory:
            body += [f"// {program.told(node)}", *memory, *lines]
        if position < listing.turn:
            body += [_replacing(places[x].name, member("put", names[x]), x) for x in node.outputs if x.shape]
    last = [*_memory(program, [places[x] for x in slopes.made], beside, results), *syntax.lines(beside)]
    body += ["", "// Local derivatives.", *last] if last else []
    read = read_by([one for part in (*kept, beside) for one in part])
    head = [_given(x, places[x].name, names[x]) for x in graph.inputs]
    for x, value in graph.constants.items():
        if x.shape and places[x].name in read:
            head.append(f"const {places[x].name} = [{', '.join(syntax.number(v, x.dtype) for v in np.asarray(value).reshape(-1).tolist())}];")
    head += [
        f"const {name} = [{', '.join(syntax.number(one, value.dtype) for one in np.asarray(value).reshape(-1).tolist())}];"
        for name, value in (program.writer.tables | slopes.tables).items()
        if name in read
    ]
    fields = {
        "value": {name: _shown(places[x]) for x, name in shown.items()},
        "grad": {name: _shown(places[x]) for name, x in grads.items()},
        "local": {names[node.outputs[0]]: f"[{', '.join(words)}]" for node, words in slots.items()},
        "shape": {name: str(list(x.shape)) for x, name in shown.items()},
    }
    end = [f"{name}: {{ {', '.join(_entry(key, text) for key, text in entries.items())} }}," for name, entries in fields.items()]
    lines = [*head, *body, "", "return {", *(INDENT + line for line in end), "};"]
    return "\n".join(
        [
            f"// {graph.name} and its gradient; all numbers are doubles, arrays are flat.",
            "function recompute(inputs, put = {}) {",
            *(INDENT + line if line else "" for line in lines),
            "}",
            "",
        ]
    )


def _given(x: Variable, name: str, called: str) -> str:
    given = member("inputs", called)
    each, one = (", BigInt", f"BigInt({given})") if x.dtype == _WIDE else ("", given)
    return f"const {name} = {f'{TYPES[x.dtype.name]}.from({given}{each})' if x.shape else one};  // {x.aval}"


def _replacing(name: str, put: str, x: Variable) -> str:
    return f"if ({put}) {name}.set({f'Array.from({put}, BigInt)' if x.dtype == _WIDE else put});"


def _memory(program: Program, made: Sequence[Place], statements: Sequence[Any], results: AbstractSet[str]) -> list[str]:
    """Arrays for the values that the statements store to, or that are empty."""
    wanted = written_by(statements) | results
    arrays = [place for place in made if place.shape and place.name not in program.writer.aliases and place.name in wanted]
    return [f"const {place.name} = new {TYPES[place.dtype.name]}({place.size});" for place in arrays]


def _shown(place: Place) -> str:
    """A value for the caller: conditions are numbers, and so are integers of 64 bits."""
    if place.number is not None:
        return JavaScript().number(place.number, place.dtype).rstrip("n")
    if place.dtype == _WIDE and place.shape:
        return f"Array.from({place.name}, Number)"
    return f"Number({place.name})" if (place.dtype.kind == "b" or place.dtype == _WIDE) and not place.shape else place.name


def _entry(key: str, text: str) -> str:
    if key == text:
        return key
    return f"{key}: {text}" if key.isascii() and key.isidentifier() else f'"{key}": {text}'


class _Locals:
    """Local derivatives of elementwise gates, as their records say: each is traced, and written like any other node."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.steps: list[list[Any]] = []
        self.made: list[Variable] = []
        self.tables: dict[str, Any] = {}

    def slots(self, node: Operation) -> list[str]:
        """The names or numbers of a gate's local derivatives."""
        numbers = {x for x in self.program.listing.graph.constants if not x.shape}
        return [self._slot(node, i) for i, x in enumerate(node.inputs) if x not in numbers]

    def _slot(self, node: Operation, i: int) -> str:
        gate, out = node.primitive, node.outputs[0]
        if gate.scalar is None or out.dtype.kind != "f" or node.inputs[i].dtype.kind != "f":
            return "null"
        partial = gate.partials[i] if gate.partials is not None else None
        frame = dict(zip((*gate.inputs, "out"), (*node.inputs, out), strict=True))
        if isinstance(partial, (int, float)):
            return repr(partial)
        if isinstance(partial, str):
            return self._like(frame[partial], out)
        if callable(partial):
            rule = partial
            return self._traced(lambda *xs: call(rule, {**dict(zip(frame, xs, strict=True)), **node.params}), list(frame.values()), out)

        def slope(*xs: Any) -> Any:
            full = [functions.broadcast_to(x, out.shape) for x in xs]
            return grad(lambda x: functions.sum(bind(gate, [*full[:i], x, *full[i + 1 :]], node.params)))(full[i])

        return self._traced(slope, node.inputs, out)

    def _traced(self, rule: Callable[..., Any], given: Sequence[Variable], out: Variable) -> str:
        try:
            graph = trace(rule, *(np.zeros(x.shape, x.dtype) for x in given))
            return self._like(self._inlined(graph, given), out)
        except ChainruleError:
            # What cannot be printed a page does without.
            return "null"

    def _inlined(self, graph: Graph, given: Sequence[Variable]) -> Variable:
        program, stands = self.program, dict(zip(graph.inputs, given, strict=False))
        for x, value in graph.constants.items():
            program.places[x] = Place(program.name("c") if x.shape else "", x.shape, x.dtype, None if x.shape else np.asarray(value)[()])
            if x.shape:
                self.tables[program.places[x].name] = value
        for node in graph.nodes:
            outs = tuple(self._place(x) for x in node.outputs)
            stands.update(zip(node.outputs, outs, strict=True))
            own = Operation(node.primitive, tuple(stands.get(x, x) for x in node.inputs), node.params, outs)
            statements = program.written(own)
            program.lines(own, statements)
            self.steps.append(list(statements))
        (result,) = graph.returned
        return stands.get(result, result)

    def _place(self, x: Variable) -> Variable:
        own = Variable(x.aval)
        self.program.places[own] = Place(self.program.name("slope"), x.shape, x.dtype)
        self.made.append(own)
        return own

    def _like(self, x: Variable, out: Variable) -> str:
        """A value with the shape of the gate's output."""
        place = self.program.places[x]
        if x.shape == out.shape or not x.shape:
            return _shown(place)
        full = self._place(Variable(out.aval))
        source = np.broadcast_to(numbered(x.shape), out.shape)
        self.steps.append(list(self.program.noted(lambda: self.program.writer.copy(full, x, source=source))))
        return self.program.places[full].name
