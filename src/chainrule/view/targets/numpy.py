"""Flat code in NumPy: a module that runs with NumPy alone, and reads as the lectures write a backward pass by hand.

What a gate prints as is looked for in this order: an expression that people write (`phrases`), a function written to be
read (`helpers`), the record's scalar lowering, the record's own evaluation (`extract`). Whatever is used once and
belongs to no variable stands inside the expression that uses it.
"""

from __future__ import annotations

import base64
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from keyword import iskeyword
from typing import Any

import numpy as np

from chainrule.core.aval import Aval
from chainrule.core.errors import ArgumentError
from chainrule.core.primitive import reads_of
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation
from chainrule.graph.text import inner_graphs
from chainrule.view.source import Listing, refused
from chainrule.view.targets import helpers
from chainrule.view.targets.extract import Definitions, NotAlone, literal
from chainrule.view.targets.phrases import has_phrase, phrase
from chainrule.view.targets.written import Lines, Written, call, single

INDENT = "    "
_WIDE = 100
"""Characters of an expression that takes in no more."""
_MANY = 64
"""Elements of an array above which it is not printed as numbers."""
_FEW = 4
"""Values of one gate whose shapes are told."""


def write(listing: Listing) -> str:
    """The module; its function returns the results, a dict of the gradients by name, and a dict of assignments if there are any."""
    module, body = _opened(listing)
    names = body.names
    lines = list(body.constants())
    lines += body.statements(listing.forward)
    lines += ["", "# The backward pass is the forward pass reversed."] if listing.backward else []
    lines += body.statements(listing.backward)
    values = ", ".join(map(body.name, listing.values))
    result = [values if len(listing.values) == 1 else f"({values})", _dict({names[x]: body.name(g) for x, g in listing.gradients})]
    result += [_dict({name: body.name(x) for name, x in listing.updates})] * bool(listing.updates)
    head = [f"{names[x]},  # {x.aval}" for x in listing.graph.inputs]
    name = module.definitions.unique(_own(listing.graph.name))
    given = ", ".join(names[x] for x in listing.graph.inputs)
    text = [f"def {name}({given}):"]
    if len(text[0]) > _WIDE:
        text = [f"def {name}(", *(INDENT + line for line in head), "):"]
    elif head:
        text.append(f'{INDENT}"""{", ".join(f"{names[x]}: {x.aval}" for x in listing.graph.inputs)}"""')
    text += [(INDENT + line) if line else "" for line in [*lines, "", *f"return {', '.join(result)}".splitlines()]]
    parts = ", ".join(["value", "gradients", "assigned"][: len(result)])
    call_of = f"{parts} = {name}({given if len(given) <= _WIDE else '...'})"
    return module.text(f'"""{listing.graph.name} and its gradient, gate by gate: {call_of}"""', "\n".join(text))


def _opened(listing: Listing) -> tuple[_Module, _Body]:
    names = {x: _own(name) for x, name in listing.names.items()}
    module = _Module(names.values())
    own = [x for x, _ in listing.gradients]
    shown = {*own, *(x for node in listing.forward for x in node.outputs), *listing.graph.outputs}
    shown |= {x for x, name in names.items() if name.startswith("grad_")}
    return module, _Body(module, listing.graph, names, shown)


class Flat:
    """The statements of a listing one by one, without what stands around them: for views that tell something of each.

    Attributes
    ----------
    names : Mapping of Variable to str
    lines : list of (Operation, str, str)
        What is computed, left and right of the sign. A node that stands inside of another's line has none of its own.
    functions : list of str
        The functions that the lines call, as they are defined.
    """

    def __init__(self, listing: Listing, otherwise: Callable[[Operation, Mapping[Variable, str]], str]) -> None:
        module, self._body = _opened(listing)
        self.names: Mapping[Variable, str] = self._body.names
        self.lines: list[tuple[Operation, str, str]] = []
        for node in listing.graph.nodes:
            try:
                found = self._body.written(node)
            except ArgumentError:
                # What NumPy alone has no words for is told as what it is: a gate.
                found = (", ".join(self.names[x] for x in node.outputs), otherwise(node, {x: self.text(x) for x in node.inputs}))
            if found is not None:
                self.lines.append((node, *found))
        self.functions = module.definitions.texts

    def text(self, x: Variable) -> str:
        """A value where it is used."""
        return self._body.name(x)

    def inside(self, x: Variable) -> bool:
        """Whether a value stands inside of the line that uses it."""
        return x in self._body.inside


def _dict(parts: Mapping[str, str]) -> str:
    """A dict, in one line if it is short."""
    items = [f'"{name}": {value}' for name, value in parts.items()]
    short = f"{{{', '.join(items)}}}"
    return short if len(short) <= _WIDE else "\n".join(["{", *(f"{INDENT}{item}," for item in items), "}"])


def _own(name: str) -> str:
    return f"{name}_" if name == "np" or iskeyword(name) else name


class _Module:
    """What stands around the function."""

    def __init__(self, names: Iterable[str]) -> None:
        self.definitions = Definitions(names)
        # Functions that are of one set of parameters.
        self.baked: set[str] = set()
        # Below the functions.
        self.data: list[str] = []
        self._inner: dict[int, tuple[Graph, str]] = {}

    def text(self, said: str, function: str) -> str:
        above = "".join(f"{line}\n" for line in sorted(self.definitions.imports)) + "\n" * bool(self.definitions.imports)
        constants = ["\n".join(self.definitions.constants)] * bool(self.definitions.constants)
        parts = [f"{said}\n\n{above}import numpy as np", *constants, *self.definitions.texts, f'@np.errstate(all="ignore")\n{function}', *self.data]
        return "\n\n\n".join(parts) + "\n"

    def packed(self, name: str, values: np.ndarray[Any, Any]) -> str:
        """An array as its bytes, compressed, in letters."""
        self.definitions.imports |= {"import base64": None, "import zlib": None}
        kind = values.dtype.newbyteorder("<")
        letters = base64.b64encode(zlib.compress(values.astype(kind).tobytes(), 9)).decode()
        lines = "\n".join(letters[i : i + _WIDE] for i in range(0, len(letters), _WIDE))
        unpacked = f'np.frombuffer(zlib.decompress(base64.b64decode("""\n{lines}\n""")), "{kind.str}")'
        return f'# {Aval(values.shape, values.dtype)}\n{name} = {unpacked}.astype("{values.dtype}").reshape({values.shape})'

    def inner(self, graph: Graph, name: str) -> str:
        """The name of the function that an inner graph becomes."""
        if id(graph) not in self._inner:
            inside = (*graph.inputs, *graph.constants, *(x for node in graph.nodes for x in node.outputs))
            names = {x: self.definitions.local(_own(x.name)) for x in inside}
            body = _Body(self, graph, names, set(graph.outputs))
            lines = [*body.constants(), *body.statements(graph.nodes)]
            lines.append(f"return ({', '.join(map(body.name, graph.outputs))}{',' * (len(graph.outputs) == 1)})")
            found = self.definitions.unique(name)
            self._inner[id(graph)] = (graph, found)
            self.definitions.texts.append(
                "\n".join([f"def {found}({', '.join(names[x] for x in graph.inputs)}):", *((INDENT + line).rstrip() for line in lines)])
            )
        return self._inner[id(graph)][1]


class _Body:
    """The statements of one function."""

    def __init__(self, module: _Module, graph: Graph, names: Mapping[Variable, str], shown: set[Variable]) -> None:
        self.module = module
        self.graph = graph
        self.names = names
        self.uses = Counter(x for node in graph.nodes for x in node.inputs)
        self.uses.update(graph.outputs)
        self.shown = shown
        self.inside: dict[Variable, Written] = {}

    def constants(self) -> list[str]:
        """Lines of arrays that are known; large ones stand below the functions, where nobody reads them."""
        lines: list[str] = []
        for x, value in self.graph.constants.items():
            values = np.asarray(value)
            if values.size > _MANY and np.any(values != values.flat[0]):
                self.module.data.append(self.module.packed(self.names[x], values))
            elif values.ndim:
                lines.append(f"{self.names[x]} = {literal(values)}  # {x.aval}")
        return lines

    def name(self, x: Variable) -> str:
        if x in self.graph.constants and not np.ndim(self.graph.constants[x]):
            return literal(x.dtype.type(self.graph.constants[x]))
        return self.inside[x].text if x in self.inside else self.names[x]

    def statements(self, nodes: Iterable[Operation]) -> list[str]:
        """The lines of gates, with the path of the layer above those that belong to one."""
        lines: list[str] = []
        path = ""
        for node in nodes:
            found, inside = self.statement(node), ".".join(node.scope)
            if found and inside != path:
                lines += [f"# {inside}"] if inside else [""]
                path = inside
            lines += found
        return lines

    def statement(self, node: Operation) -> list[str]:
        """The line of a gate; none if it stands inside another one's."""
        found = self.written(node)
        if found is None:
            return []
        note = f"  # {', '.join(str(x.aval) for x in node.outputs)}" * (len(node.outputs) <= _FEW)
        return [f"{found[0]} = {found[1]}{note}"]

    def written(self, node: Operation) -> tuple[str, str] | None:
        """Both sides of a gate's line; None if it stands inside another one's."""
        try:
            found = self._expression(node)
        except NotAlone as error:
            raise refused("numpy", node, f"it needs {error}") from None
        if node.primitive.outputs:
            targets = ", ".join(self.names[x] if self.uses[x] else "_" for x in node.outputs) + "," * (len(node.outputs) == 1)
            return targets, str(found)
        out = node.output
        if out not in self.shown and self.uses[out] == 1 and len(found.text) <= _WIDE // 2:
            self.inside[out] = found
            return None
        return self.names[out], str(found)

    def _expression(self, node: Operation) -> Written:
        gate, params = node.primitive, dict(node.params)
        if gate.name == "positive" and node.inputs[0] in self.graph.constants:
            return self._start(node)
        operands = [self._operand(x, node) for x in node.inputs]
        if params.get("length") == 0:
            # No step is taken: what is carried stays, and nothing is collected.
            carried = params["carried"]
            collected = [f'np.zeros({x.shape}, "{x.dtype}")' for x in node.outputs[carried:]]
            return call("", *operands[:carried], *collected, *[""] * (len(node.outputs) == 1))
        if not gate.outputs:
            found = phrase(gate, node.output, operands, params)
            if found is not None:
                return found
        name = self._function(node)
        words = [f"{key}={self._word(node, key, value)}" for key, value in params.items()] if name not in self.module.baked else []
        helper = vars(helpers).get(gate.name)
        if helper is not None and "count" in reads_of(helper):
            words.append(f"count={len(node.outputs)}")
        return call(name, *operands, *words)

    def _operand(self, x: Variable, node: Operation) -> Written:
        """A value where a gate reads it; numbers are Python's where that makes no difference to the dtype."""
        if x not in self.graph.constants or np.ndim(self.graph.constants[x]):
            found = self.inside.get(x) or Written(self.names[x])
            found.shape, found.dtype = x.shape, x.dtype
            return found
        value = x.dtype.type(self.graph.constants[x])
        beside = any(y not in self.graph.constants and y.dtype == x.dtype for y in node.inputs)
        if beside and has_phrase(node.primitive) and x.dtype.kind in "fi" and not node.primitive.variadic:
            return single(value)
        return Written(literal(value))

    def _start(self, node: Operation) -> Written:
        """The gradient that a backward pass starts from: a plain 1 where what it multiplies has its dtype."""
        out = node.output
        readers = [one for one in self.graph.nodes if out in one.inputs]
        plain = readers and all(
            one.primitive.name in ("multiply", "positive") and any(x is not out and x not in self.graph.constants for x in one.inputs)
            for one in readers
        )
        value = out.dtype.type(self.graph.constants[node.inputs[0]])
        return single(value) if plain and out not in self.graph.outputs else Written(literal(value))

    def _function(self, node: Operation) -> str:
        """The name of the function that a gate is called as, which the module defines."""
        gate, definitions = node.primitive, self.module.definitions
        helper = vars(helpers).get(gate.name)
        if helper is not None:
            return definitions.function(helper, gate.name)
        if gate.scalar is not None and all(x.dtype.kind == "f" for x in (*node.inputs, *node.outputs)):
            lines = Lines(node.output.dtype)
            result = gate.scalar(lines, *(lines.argument(name) for name in gate.inputs), **node.params)
            body = [*lines.lines, f"return {result}"]
            text = "\n".join([f"def {{name}}({', '.join(gate.inputs)}):", *(INDENT + line for line in body)])
            found = definitions.add(gate.name, text)
            self.module.baked.add(found)
            return found
        return definitions.function(gate.eval, gate.name)

    def _word(self, node: Operation, key: str, value: Any) -> str:
        for name, inner in inner_graphs(node):
            if name == key:
                return self.module.inner(inner, f"{self.names[node.outputs[0]]}_{key}")
        if hasattr(value, "native"):
            return f"np.s_{value}"
        return literal(value)
