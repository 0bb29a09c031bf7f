"""The NumPy backend: a plan printed as flat Python source, one line per gate, compiled once.

How a gate is printed follows from its record: an `eval` that is an operator or a NumPy function prints itself, others
may have a rule (`numpy`) that says the same as source; for the rest `eval` is called under the gate's own name. What
runs has the bits that `eval` gives. Control flow prints as Python's own, its inner graphs as functions. Nothing is
decided here about order or memory: that is the plan's.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from chainrule.autodiff.checkpoint import without_barriers
from chainrule.compiler.backend import Run, arena_of, getrefcount, heard, held_by_owner, unheard
from chainrule.compiler.memory import Traits, is_large
from chainrule.compiler.namespace import Namespace, Operand
from chainrule.compiler.plan import Arena, New, Over, Plan, Step, Taken, make_plan
from chainrule.core.primitive import TABLE, Primitive, reads_of
from chainrule.core.variable import Variable
from chainrule.graph.control import COND
from chainrule.graph.ir import Graph, Operation
from chainrule.graph.loops import WHILE_LOOP, WHILE_LOOP_BACK
from chainrule.graph.scan import SCAN
from chainrule.ops.cross_entropy import CROSS_ENTROPY_AND_SLOPE

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

_OUT = ", out={}"
_PASSED_ON = frozenset(("positive", "stop_gradient", "real", "imag", "conj", "astype", "pow_constant", "floor", "ceil", "trunc", "round"))
"""Elementwise gates that may give their input itself."""
_NEW_MEMORY = frozenset(("conv", "cross_entropy", "gather", "gemm", "pool", "random", "reduce", "scan", "scatter", "softmax", "sort"))
"""Kernels known to give memory of their own, but for sums of no axes and rearranged single operands; for the rest it is not taken for granted."""
_NEVER_FAIL = frozenset(("conv", "gemm", "move", "pool", "random", "reduce", "scan", "softmax", "sort"))
"""Kernels that work for all values of the right shapes."""
_COPIES = frozenset(("concat", "stack"))
"""Movement that always copies."""


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


class Source:
    """All functions of one piece of source.

    Attributes
    ----------
    space : Namespace
    blocks : list of list of str
        The functions' lines.
    called : Counter of str
        How often the source calls which gate's own evaluation.
    """

    def __init__(self) -> None:
        self.space = Namespace()
        self.blocks: list[list[str]] = []
        self.called: Counter[str] = Counter()
        self._inner: dict[int, tuple[Graph, str]] = {}

    def inner(self, graph: Graph, name: str) -> str:
        """The name of the function that an inner graph becomes; the same for the same graph."""
        if id(graph) not in self._inner:
            plain = without_barriers(graph)
            printer = Printer(plain, self, name)
            self._inner[id(graph)] = (graph, printer.name)
            printer.print(make_plan(plain, printer.traits, {}, arena=False))
        return self._inner[id(graph)][1]

    def text(self) -> str:
        blocks = [self.space.header, *self.blocks] if self.space.header else self.blocks
        return "\n\n".join("\n".join(block) for block in blocks) + "\n"


class Printer:
    """One function of a piece of source.

    Parameters
    ----------
    graph : Graph
    source : Source
    name : str, optional
        The graph's if not given.
    """

    def __init__(self, graph: Graph, source: Source, name: str = "") -> None:
        self.graph = graph
        self.source = source
        self.space = source.space
        self.name = self.space.unique(name or graph.name)
        self.local = self.space.scope()
        self.names = {x: self.local(x.name) for x in (*graph.inputs, *(x for node in graph.nodes for x in node.outputs))}
        self.forms = {node: self._form(node) for node in graph.nodes}

    def traits(self, node: Operation) -> Traits:
        """What memory planning has to know of a node."""
        form, gate = self.forms[node], node.primitive
        if gate in FLOW:
            return Traits()
        elementwise = gate.scalar is not None and not gate.outputs
        if not form.called:
            if gate.kernel == "move" and gate.name not in _COPIES:
                return Traits(raises=False)
            over = tuple(i for i, x in enumerate(node.inputs) if x.aval == node.output.aval) if elementwise and form.into else ()
            # Integers have no negative powers.
            raises = gate.name == "pow" and node.output.dtype.kind in "iu"
            return Traits(fresh=True, into=form.into != "", over=over, raises=raises)
        scalars = all(not x.shape for x in node.outputs)
        if TABLE.get(gate.name) is not gate and gate is not CROSS_ENTROPY_AND_SLOPE:
            return Traits(fresh=scalars)
        new = gate.kernel in _NEW_MEMORY and node.params.get("axis") != () and (gate.kernel != "gemm" or len(node.inputs) > 1)
        fresh = new or scalars or (elementwise and gate.name not in _PASSED_ON)
        return Traits(fresh=fresh, raises=not elementwise and gate.kernel not in _NEVER_FAIL)

    # Expressions.

    def _form(self, node: Operation) -> Form:
        gate, out = node.primitive, node.outputs[0]
        if gate in FLOW:
            return Form("", "", False)
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
        into = rule(*given, **node.params, out=_OUT) if takes_out and is_large(node.outputs[0]) else None
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
            operand.spare = self.local
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

    def print(self, plan: Plan, *, outermost: bool = False) -> None:
        """Add the function to the source; the outermost one switches warnings off, holds the arena and takes memory over."""
        owned = {donor: self.local(f"own_{donor.name}") for donor in plan.donors}
        before, after, views = self._frame(plan) if outermost else ([], [], {})
        lines = [f"def {self.name}({', '.join(self.names[x] for x in self.graph.inputs)}):"]
        lines += [f"{INDENT}{name} = {self._if_owned(self.names[donor])}" for donor, name in owned.items()]
        lines += [INDENT + line for line in before]
        inside = INDENT * (2 if before else 1)
        for step in plan.steps:
            lines += [inside + line for line in self.statement(step, owned, views)]
        lines.append(f"{inside}return {self._tuple(self._name(x, scalar=True) for x in self.graph.outputs)}")
        self.source.blocks.append(lines + [INDENT + line for line in after])

    def _if_owned(self, name: str) -> str:
        count = self.space.bound("getrefcount", getrefcount)
        held = held_by_owner(len(self.graph.inputs))
        return f"{name} if {count}({name}) <= {held} and {name}.base is None and {name}.flags.writeable else None"

    def _frame(self, plan: Plan) -> tuple[list[str], list[str], dict[Variable, str]]:
        """What stands around the steps, and the arena's parts by value."""
        quiet = self.local("quiet")
        before = [f"{quiet} = {self.space.bound('unheard', unheard)}()", "try:"]
        after = ["finally:", f"{INDENT}{self.space.bound('heard', heard)}({quiet})"]
        parts: dict[tuple[Any, ...], str] = {}
        views: dict[Variable, str] = {}
        for step in plan.steps:
            if isinstance(step.place, Arena):
                x = step.node.output
                key = (step.place.offset, x.shape, x.dtype)
                if key not in parts:
                    parts[key] = self.local(f"m{len(parts) + 1}")
                views[x] = parts[key]
        if parts:
            pool, make = self.space.bound("pool", []), self.space.bound("arena", arena_of(plan.arena_bytes, list(parts)))
            memory = self.local("memory")
            found = ["try:", f"{INDENT}{memory} = {pool}.pop()", "except IndexError:", f"{INDENT}{memory} = {make}()"]
            before = [*found, f"{', '.join(parts.values())}{',' * (len(parts) == 1)} = {memory}", *before]
            after.append(f"{INDENT}{pool}.append({memory})")
        return before, after, views

    def statement(self, step: Step, owned: Mapping[Variable, str], views: Mapping[Variable, str]) -> Iterator[str]:
        """The lines of one gate."""
        node, form = step.node, self.forms[step.node]
        note = f"  # {', '.join(str(x.aval) for x in node.outputs)}"
        targets = [self.names[x] for x in node.outputs]
        if form.called:
            self.source.called[node.primitive.name] += 1
        if node.primitive in FLOW:
            first, *rest = FLOW[node.primitive](self, node, [self._name(x, scalar=True) for x in node.inputs], targets)
            yield from (first + note, *rest)
        else:
            text = self.space.resolved(self._placed(step, owned, views))
            yield f"{self._targets(targets) if node.primitive.outputs else targets[0]} = {text}{note}"
            if node.primitive.outputs:
                yield from (f"{self.names[x]} = {self.names[x]}[()]" for x in node.outputs if not x.shape)
        if step.dead:
            yield f"del {', '.join(self.names[x] for x in step.dead)}"

    def _placed(self, step: Step, owned: Mapping[Variable, str], views: Mapping[Variable, str]) -> str:
        """The expression, with the memory that it is written to."""
        form = self.forms[step.node]
        match step.place:
            case New():
                return form.text
            case Arena():
                return form.into.format(views[step.node.output])
            case Over(operand):
                return form.into.format(self.names[operand])
            case Taken(donor):
                return form.into.format(owned[donor])

    def _tuple(self, names: Iterable[str]) -> str:
        parts = list(names)
        return f"({', '.join(parts)}{',' * (len(parts) == 1)})"

    # Control flow.

    def cond(self, node: Operation, args: list[str], targets: list[str]) -> Iterator[str]:
        true, false = (f"{self._inner(node, which)}({', '.join(args[1:])})" for which in ("true", "false"))
        yield f"{self._targets(targets)} = {true} if {args[0]} else {false}"

    def while_loop(self, node: Operation, args: list[str], targets: list[str]) -> Iterator[str]:
        given = ", ".join([*targets, *args[len(targets) :]])
        yield f"{', '.join(targets)} = {', '.join(args[: len(targets)])}"
        yield f"while {self._inner(node, 'cond')}({given})[0]:"
        yield f"{INDENT}{self._targets(targets)} = {self._inner(node, 'body')}({given})"

    def while_loop_back(self, node: Operation, args: list[str], targets: list[str]) -> Iterator[str]:
        count, carried = len(targets), node.params["carried"]
        carry, before = self.local("carry"), self.local("before")
        rest = "".join(f", {name}" for name in args[count + carried :])
        yield f"{before}, {carry} = [], {self._tuple(args[count : count + carried])}"
        yield f"while {self._inner(node, 'cond')}(*{carry}{rest})[0]:"
        yield f"{INDENT}{before}.append({carry})"
        yield f"{INDENT}{carry} = {self._inner(node, 'body')}(*{carry}{rest})"
        yield f"{', '.join(targets)} = {', '.join(args[:count])}"
        yield f"for {carry} in reversed({before}):"
        yield f"{INDENT}{self._targets(targets)} = {self._inner(node, 'back')}({', '.join(targets)}, *{carry}{rest})"

    def scan(self, node: Operation, args: list[str], targets: list[str]) -> Iterator[str]:
        carried, sliced, length = node.params["carried"], node.params["sliced"], node.params["length"]
        step = self.local("i")
        columns = [f'np.empty({(length, *x.shape)}, "{x.dtype}")' for x in node.params["body"].outputs[carried:]]
        starts = [*args[:carried], *map(self.space.resolved, columns)]
        given = [*targets[:carried], *(f"{name}[{step}]" for name in args[carried : carried + sliced]), *args[carried + sliced :]]
        into = [*targets[:carried], *(f"{name}[{step}]" for name in targets[carried:])]
        yield f"{', '.join(targets)} = {', '.join(starts)}"
        yield f"for {step} in {f'reversed(range({length}))' if node.params['reverse'] else f'range({length})'}:"
        yield f"{INDENT}{self._targets(into)} = {self._inner(node, 'body')}({', '.join(given)})"

    def _inner(self, node: Operation, which: str) -> str:
        return self.source.inner(node.params[which], f"{node.outputs[0].name}_{which}")

    def _targets(self, names: list[str]) -> str:
        return ", ".join(names) + "," * (len(names) == 1)


FLOW: dict[Primitive, Callable[[Printer, Operation, list[str], list[str]], Iterator[str]]] = {
    COND: Printer.cond,
    WHILE_LOOP: Printer.while_loop,
    WHILE_LOOP_BACK: Printer.while_loop_back,
    SCAN: Printer.scan,
}
"""Gates that print as several lines, from a node and the names of its inputs and outputs."""


def print_source(
    graph: Graph, donate: Mapping[int, int], source: Source, *, arena: bool = True, printer: Callable[[Graph, Source], Printer] = Printer
) -> tuple[str, Plan]:
    """Print a graph into the source; the name of its function, and the plan."""
    prints = printer(graph, source)
    plan = make_plan(graph, prints.traits, donate, arena=arena)
    prints.print(plan, outermost=True)
    return prints.name, plan


def load(source: Source, name: str) -> Run:
    """The function of this name in the source."""
    text = source.text().replace("\n", f"\n{INDENT}")
    # A function in its own globals would keep itself, and all that it names, alive.
    scope = dict(source.space.values)
    exec(compile(f"def make():\n{INDENT}{text}return {name}", f"{__file__}: {name}", "exec"), scope)  # noqa: S102, of text made here alone
    return scope.pop("make")()
