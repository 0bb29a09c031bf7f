"""The NumPy backend: a plan printed as flat Python source, one line per gate, compiled once.

How a gate is printed follows from its record: an `eval` that is an operator or a NumPy function prints itself, others
may have a rule (`numpy`) that says the same as source; for the rest `eval` is called under the gate's own name. What
runs has the bits that `eval` gives. Nothing is decided here about order or memory: that is the plan's.
"""

from __future__ import annotations

import keyword
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from chainrule.compiler.backend import HELD_BY_OWNER, Run, arena_of, getrefcount, heard, unheard
from chainrule.compiler.memory import LARGE, Traits
from chainrule.compiler.plan import Arena, New, Over, Plan, Step, Taken
from chainrule.core.primitive import reads_of
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation

INDENT = "    "

OPERATORS: dict[Any, tuple[str, str]] = {
    operator.add: ("{} + {}", "np.add"),
    operator.sub: ("{} - {}", "np.subtract"),
    operator.mul: ("{} * {}", "np.multiply"),
    operator.truediv: ("{} / {}", "np.true_divide"),
    operator.neg: ("-{}", "np.negative"),
    operator.abs: ("abs({})", "np.absolute"),
    operator.pow: ("{} ** {}", "np.power"),
    operator.mod: ("{} % {}", "np.remainder"),
    operator.eq: ("{} == {}", "np.equal"),
    operator.ne: ("{} != {}", "np.not_equal"),
    operator.lt: ("{} < {}", "np.less"),
    operator.le: ("{} <= {}", "np.less_equal"),
    operator.gt: ("{} > {}", "np.greater"),
    operator.ge: ("{} >= {}", "np.greater_equal"),
    operator.and_: ("{} & {}", "np.bitwise_and"),
    operator.or_: ("{} | {}", "np.bitwise_or"),
    operator.xor: ("{} ^ {}", "np.bitwise_xor"),
    operator.invert: ("~{}", "np.invert"),
    operator.lshift: ("{} << {}", "np.left_shift"),
    operator.rshift: ("{} >> {}", "np.right_shift"),
}
"""What Python writes as an operator, and the function that does the same and takes ``out=``."""

_NUMPY_NAME = re.compile(r"\bnp\.([a-zA-Z_][\w.]*)")
_OUT = ", out={}"
_PASSED_ON = frozenset(("positive", "stop_gradient", "real", "imag", "conj", "astype", "pow_constant", "floor", "ceil", "trunc", "round"))
"""Elementwise gates that may give their input itself."""
_NEW_MEMORY = frozenset(("conv", "conv_transpose", "conv_weight", "softmax", "log_softmax", "softmax_cross_entropy", "softmax_minus_labels"))
"""Other gates known to give memory of their own; for the rest it is not taken for granted."""


class Operand(str):
    """The name of a value in the source, with what a printing rule may ask of it.

    Attributes
    ----------
    shape, dtype
    number : callable
        ``number(2.0)``: the name of this number as NumPy takes it quickest beside the value.
    array : callable
        ``array("ones", values)``: the name of a fixed array.
    spare : callable
        ``spare("part")``: a name for what is kept inside the expression, with ``:=``.
    """

    __slots__ = ("array", "dtype", "number", "shape", "spare")

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    number: Callable[[float], str]
    array: Callable[[str, Any], str]
    spare: Callable[[str], str]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def ndim(self) -> int:
        return len(self.shape)


class Form(NamedTuple):
    """How a gate is printed.

    Attributes
    ----------
    text : str
        The expression.
    into : str
        The same with a blank for the memory that it is written to; '' if there is no such form.
    called : bool
        Whether it is a call of `eval`.
    """

    text: str
    into: str
    called: bool


class Printer:
    """The source of one function.

    Parameters
    ----------
    graph : Graph
    space : Namespace
        What the source names.
    """

    def __init__(self, graph: Graph, space: Namespace) -> None:
        self.graph = graph
        self.space = space
        self.names: dict[Variable, str] = {}
        for x in (*graph.inputs, *(x for node in graph.nodes for x in node.outputs)):
            self.names[x] = space.unique(x.name)
        self.forms = {node: self._form(node) for node in graph.nodes}

    def traits(self, node: Operation) -> Traits:
        """What memory planning has to know of a node."""
        form, gate = self.forms[node], node.primitive
        shaped = bool(node.outputs[0].shape)
        elementwise = gate.scalar is not None and not gate.outputs
        if not form.called:
            if gate.kernel == "move" and gate.name not in _COPIES:
                return Traits(raises=False)
            over = tuple(i for i, x in enumerate(node.inputs) if x.aval == node.output.aval) if elementwise and form.into else ()
            return Traits(fresh=True, into=form.into != "", over=over, raises=False)
        fresh = shaped and ((elementwise and gate.name not in _PASSED_ON) or gate.name in _NEW_MEMORY)
        return Traits(fresh=fresh, raises=not elementwise)

    # Expressions.

    def _form(self, node: Operation) -> Form:
        gate, out = node.primitive, node.outputs[0]
        args = self._operands(node)
        form = self._by_rule(node, args)
        if form is not None:
            return form
        operator_form = OPERATORS.get(gate.eval)
        if operator_form is not None and not node.params:
            text, function = operator_form
            into = f"{function}({', '.join(args)}{_OUT})" if out.shape else ""
            return Form(text.format(*args), into, False)
        if isinstance(gate.eval, np.ufunc) and not node.params and getattr(np, gate.eval.__name__, None) is gate.eval:
            call = f"np.{gate.eval.__name__}({', '.join(args)}"
            return Form(f"{call})", f"{call}{_OUT})" if out.shape else "", False)
        return self._call(node)

    def _by_rule(self, node: Operation, args: list[Operand]) -> Form | None:
        rule = node.primitive.numpy
        if rule is None:
            return None
        given: Any = args
        if node.primitive.variadic:
            given = [Operand(f"({', '.join(args)}{',' * (len(args) == 1)})")]
            given[0].shape, given[0].dtype = node.outputs[0].aval
        takes_out = "out" in reads_of(rule)
        text = rule(*given, **node.params, **({"out": ""} if takes_out else {}))
        if text is None:
            return None
        large = takes_out and node.outputs[0].nbytes >= LARGE
        into = rule(*given, **node.params, out=_OUT) if large else None
        return Form(text, into or "", False)

    def _call(self, node: Operation) -> Form:
        """A call of the record's own evaluation."""
        gate = node.primitive
        name = self.space.bound(gate.name, gate.evaluate)
        words = [self._name(x, scalar=True) for x in node.inputs]
        words += [f"{key}={self.space.literal(key, value)}" for key, value in node.params.items()]
        text = f"{name}({', '.join(words)})"
        # Some give 0-d arrays, where a value without axes is a NumPy scalar.
        return Form(text if gate.outputs or gate.scalar is not None or node.output.shape else f"{text}[()]", "", True)

    def _operands(self, node: Operation) -> list[Operand]:
        scalar = not any(x.shape for x in node.inputs)
        operands: list[Operand] = []
        for x in node.inputs:
            operand = Operand(self._name(x, scalar=scalar))
            operand.shape, operand.dtype = x.aval
            operand.number = lambda number, dtype=x.dtype: self.space.number(dtype.type(number), scalar=scalar)
            operand.array = self.space.bound
            operand.spare = self.space.unique
            operands.append(operand)
        return operands

    def _name(self, x: Variable, *, scalar: bool) -> str:
        if x not in self.graph.constants:
            return self.names[x]
        value = self.graph.constants[x]
        if value.ndim == 0:
            return self.space.number(value[()], scalar=scalar)
        if x not in self.names:
            self.names[x] = self.space.constant(x.name, value)
        return self.names[x]

    # Statements.

    def function(self, plan: Plan) -> list[str]:
        """The lines of the function."""
        lines = [f"def {self.space.unique(self.graph.name)}({', '.join(self.names[x] for x in self.graph.inputs)}):"]
        owned = {donor: self.space.unique(f"own_{donor.name}") for donor in plan.donors}
        check = self.space.bound("getrefcount", getrefcount)
        for donor, name in owned.items():
            x = self.names[donor]
            lines.append(f"{INDENT}{name} = {x} if {check}({x}) <= {HELD_BY_OWNER} and {x}.base is None and {x}.flags.writeable else None")
        before, after, views = self._frame(plan)
        lines += [INDENT + line for line in before]
        inside = INDENT * (2 if before else 1)
        for step in plan.steps:
            lines += [inside + line for line in self._statement(step, owned, views)]
        lines.append(f"{inside}return {self._results()}")
        return lines + [INDENT + line for line in after]

    def _frame(self, plan: Plan) -> tuple[list[str], list[str], dict[Variable, str]]:
        """What stands around the steps: NumPy's warnings are off, and an arena is held; and the arena's parts by value."""
        quiet = self.space.unique("quiet")
        before = [f"{quiet} = {self.space.bound('unheard', unheard)}()"]
        after = [f"{INDENT}{self.space.bound('heard', heard)}({quiet})"]
        views: dict[Variable, str] = {}
        inside = [step for step in plan.steps if isinstance(step.place, Arena)]
        if inside:
            parts: dict[tuple[Any, ...], str] = {}
            for step in inside:
                out = step.node.output
                key = (step.place.offset, out.shape, out.dtype)  # type: ignore[union-attr] - all are in the arena
                if key not in parts:
                    parts[key] = self.space.unique(f"m{len(parts) + 1}")
                views[out] = parts[key]
            pool: list[Any] = []
            name, made = self.space.bound("pool", pool), self.space.bound("arena", arena_of(plan.arena_bytes, list(parts)))
            arena = self.space.unique("memory")
            found = ["try:", f"{INDENT}{arena} = {name}.pop()", "except IndexError:", f"{INDENT}{arena} = {made}()"]
            before = [*found, f"{', '.join(parts.values())}{',' * (len(parts) == 1)} = {arena}", *before]
            after.append(f"{INDENT}{name}.append({arena})")
        return [*before, "try:"], ["finally:", *after], views

    def _statement(self, step: Step, owned: Mapping[Variable, str], views: Mapping[Variable, str]) -> Iterable[str]:
        node, form = step.node, self.forms[step.node]
        match step.place:
            case New():
                text = form.text
            case Arena():
                text = form.into.format(views[node.output])
            case Over(operand):
                text = form.into.format(self.names[operand])
            case Taken(donor):
                text = form.into.format(owned[donor])
        targets = ", ".join(self.names[x] for x in node.outputs)
        trailing = "," if node.primitive.outputs and len(node.outputs) == 1 else ""
        yield f"{targets}{trailing} = {self.space.resolved(text)}  # {', '.join(str(x.aval) for x in node.outputs)}"
        if node.primitive.outputs:
            for x in node.outputs:
                if not x.shape:
                    yield f"{self.names[x]} = {self.names[x]}[()]"
        if step.dead:
            yield f"del {', '.join(self.names[x] for x in step.dead)}"

    def _results(self) -> str:
        names = [self._name(x, scalar=True) for x in self.graph.outputs]
        return f"({', '.join(names)}{',' * (len(names) == 1)})"


_COPIES = frozenset(("concat", "stack", "place", "pad"))
"""Movement that always copies."""


class Namespace:
    """Names and what they stand for: of variables, NumPy's functions, numbers, and whatever has no source."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {"np": np}
        self.header: list[str] = []
        self._taken = {"np", "abs", "None", *keyword.kwlist}
        self._known: dict[Any, str] = {}
        self._resolved: dict[str, str] = {}

    def unique(self, name: str) -> str:
        """An identifier that nothing else has, as much like ``name`` as can be."""
        base = re.sub(r"\W", "_", name)
        base = base if base.isidentifier() else f"_{base}"
        found, count = base, 1
        while found in self._taken:
            count += 1
            found = f"{base}_{count}"
        self._taken.add(found)
        return found

    def resolved(self, text: str) -> str:
        """Source with short names for ``np.something``."""
        return _NUMPY_NAME.sub(self._short, text) if "np." in text else text

    def _short(self, match: re.Match[str]) -> str:
        path = match.group(1)
        if path not in self._resolved:
            name = self._resolved[path] = self.unique(path.replace(".", "_"))
            self.header.append(f"{name} = np.{path}")
        return self._resolved[path]

    def bound(self, name: str, value: Any) -> str:
        """The name of an object that has no source."""
        key = (name, id(value))
        if key not in self._known:
            found = self._known[key] = self.unique(name)
            self.values[found] = value
        return self._known[key]

    def constant(self, name: str, value: Any) -> str:
        """The name of a fixed array, which is never written to."""
        value = value.view()
        value.flags.writeable = False
        found = self.unique(name or "c")
        self.values[found] = value
        self.header.append(f"# {found}: {value.dtype}({', '.join(map(str, value.shape))}), fixed")
        return found

    def number(self, value: Any, *, scalar: bool) -> str:
        """The name of a number: a 0-d array beside arrays, which is much quicker there than a scalar, else a NumPy scalar."""
        key = (value.tobytes(), value.dtype.str, scalar)
        if key not in self._known:
            text = str(value)
            if value.dtype.kind == "f":
                text = text if value.dtype.type(float(text)) == value else repr(float(value))
                text = f'float("{text}")' if not np.isfinite(value) else text
            word = re.sub(r"\W", "_", str(value).replace("-", "m").replace("+", ""))
            name = self._known[key] = self.unique(f"{'s' if scalar else 'n'}{word}")
            kind = f'"{value.dtype}"'
            self.header.append(f"{name} = np.{value.dtype.type.__name__}({text})" if scalar else f"{name} = np.array({text}, {kind})")
        return self._known[key]

    def literal(self, name: str, value: Any) -> str:
        """A parameter as source, if it has one."""
        return repr(value) if _is_literal(value) else self.bound(name, value)


def _is_literal(value: Any) -> bool:
    if isinstance(value, tuple) and value.__class__ is tuple:
        return all(map(_is_literal, value))
    return value is None or value.__class__ in (bool, int, str) or (value.__class__ is float and isfinite(value))


def print_source(printer: Printer, plan: Plan) -> tuple[str, str, Counter[str]]:
    """The source, the name of the function in it, and how often it calls which gate's own evaluation."""
    lines = printer.function(plan)
    name = lines[0][len("def ") :].partition("(")[0]
    called = Counter(node.primitive.name for node in plan.graph.nodes if printer.forms[node].called)
    header = printer.space.header
    return "\n".join([*header, "", *lines]) + "\n" if header else "\n".join(lines) + "\n", name, called


def load(source: str, name: str, space: Namespace) -> Run:
    """The function that the source defines."""
    values = dict(space.values)
    exec(compile(source, f"<compiled {name}>", "exec"), values)  # noqa: S102 - of text made here alone
    return values[name]
