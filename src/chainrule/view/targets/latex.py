r"""Flat code as formulas: the forward equations, the local derivatives of elementwise gates, and the gradients, each in an align environment.

Needs amsmath alone. Matrices and vectors are upright bold; :math:`\bar{x}` is the derivative of the result by x. What elementwise gates
compute is read off their scalar lowerings, their local derivatives off the records' partials.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from chainrule.core import tree
from chainrule.core.primitive import call
from chainrule.core.scalar import Builder
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation
from chainrule.graph.trace import trace_with
from chainrule.view.source import Listing

ATOM, POWER, PRODUCT, SUM, RELATION = 4, 3, 2, 1, 0
_LONG = 160
"""Characters of an expression that is not put inside another one."""

_GREEK = {
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi", "pi", "rho", "sigma",
    "tau", "upsilon", "phi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega",
}  # fmt: skip


def write(listing: Listing) -> str:
    """The formulas, in the order in which the code would run."""
    formulas = _Formulas(listing.graph, listing.names, {x for node in listing.forward for x in node.outputs} | set(listing.graph.outputs))
    parts = _titled("Forward:", [row for node in listing.forward for row in formulas.equations(node)])
    parts += _titled("Local derivatives:", [row for node in listing.forward for row in formulas.derivatives(node)])
    alone = len(listing.values) == 1 and not listing.values[0].shape
    of = formulas.symbols[listing.values[0]].text if alone else r"\ell"
    rows = [row for node in listing.backward for row in formulas.equations(node)]
    return "\n".join(parts + _titled(rf"Gradients, $\bar{{x}} = \partial {of} / \partial x$:", rows)) + "\n"


def _titled(title: str, rows: list[str]) -> list[str]:
    if not rows:
        return []
    lines = [rf"  {row} \\" for row in rows[:-1]]
    return [title, r"\begin{align*}", *lines, f"  {rows[-1]}", r"\end{align*}"]


class Formula:
    """An expression, how tightly it binds, and whether it is an array."""

    __slots__ = ("array", "level", "text")

    def __init__(self, text: str, level: int = ATOM, *, array: bool = False) -> None:
        self.text = text
        self.level = level
        self.array = array

    def at(self, level: int) -> str:
        return self.text if self.level >= level else rf"\left({self.text}\right)"

    def _sum(self, sign: str, left: Any, right: Any) -> Formula:
        a, b = _lift(left), _lift(right)
        return Formula(f"{a.at(SUM)} {sign} {b.at(SUM if sign == '+' and not b.text.startswith('-') else PRODUCT)}", SUM, array=a.array or b.array)

    def __add__(self, other: Any) -> Formula:
        return self._sum("+", self, other)

    def __radd__(self, other: Any) -> Formula:
        return self._sum("+", other, self)

    def __sub__(self, other: Any) -> Formula:
        return self._sum("-", self, other)

    def __rsub__(self, other: Any) -> Formula:
        return self._sum("-", other, self)

    def __mul__(self, other: Any) -> Formula:
        return _product(self, _lift(other))

    def __rmul__(self, other: Any) -> Formula:
        return _product(_lift(other), self)

    def __truediv__(self, other: Any) -> Formula:
        return _fraction(self, _lift(other))

    def __rtruediv__(self, other: Any) -> Formula:
        return _fraction(_lift(other), self)

    def __neg__(self) -> Formula:
        return Formula(f"-{self.at(PRODUCT)}", SUM, array=self.array)

    def __invert__(self) -> Formula:
        return Formula(rf"\lnot {self.at(ATOM)}", POWER, array=self.array)

    __hash__ = None  # pyright: ignore[reportAssignmentType] - equality makes an expression


def _relation(sign: str, *, reverse: bool = False) -> Callable[[Formula, Any], Formula]:
    def relate(self: Formula, other: Any) -> Formula:
        a, b = (_lift(other), self) if reverse else (self, _lift(other))
        return Formula(f"{a.at(SUM)} {sign} {b.at(SUM)}", RELATION, array=a.array or b.array)

    return relate


for _name, _sign in {"lt": "<", "le": r"\le", "gt": ">", "ge": r"\ge", "eq": "=", "ne": r"\ne"}.items():
    setattr(Formula, f"__{_name}__", _relation(_sign))
for _name, _sign in {"and": r"\land", "or": r"\lor", "xor": r"\oplus", "lshift": r"\ll", "rshift": r"\gg"}.items():
    setattr(Formula, f"__{_name}__", _relation(_sign))
    setattr(Formula, f"__r{_name}__", _relation(_sign, reverse=True))


def _product(a: Formula, b: Formula) -> Formula:
    left, right = a.at(PRODUCT), b.at(PRODUCT)
    between = r" \odot " if a.array and b.array else r" \cdot " if right[:1].isdigit() else r" \, "
    return Formula(left + between + right, PRODUCT, array=a.array or b.array)


def _fraction(a: Formula, b: Formula) -> Formula:
    return Formula(rf"\frac{{{a.text}}}{{{b.text}}}", PRODUCT, array=a.array or b.array)


def _lift(x: Any) -> Formula:
    return x if isinstance(x, Formula) else number(x)


def number(value: Any) -> Formula:
    """A number: whole ones without a point, powers of ten written as such."""
    value = np.asarray(value)[()]
    if value.dtype.kind == "b":
        return Formula(rf"\mathrm{{{'true' if value else 'false'}}}")
    if value.dtype.kind == "c":
        return Formula(str(value).strip("()").replace("j", r"\mathrm{i}"), SUM)
    if not np.isfinite(value):
        return Formula(r"\infty" if value > 0 else r"-\infty" if value < 0 else r"\mathrm{NaN}", ATOM if value > 0 else SUM)
    text = str(int(value)) if float(value).is_integer() and math.fabs(value) < 1e6 else str(value)
    mantissa, _, exponent = text.partition("e")
    negative = value < 0
    if not exponent:
        return Formula(text, SUM if negative else ATOM)
    power = f"10^{{{int(exponent)}}}"
    return Formula(power if mantissa == "1" else rf"{mantissa} \cdot {power}", SUM if negative else PRODUCT)


def symbol(name: str, rank: int) -> Formula:
    r"""A name as a symbol: digits and what stands behind underscores as subscripts, gradients as :math:`\bar{x}`."""
    barred = re.match(r"(?:grad_)+(?=.)", name)
    base = name[barred.end() :] if barred else name
    parts = [part for part in re.split(r"_+|(?<=[a-zA-Z])(?=\d)", base) if part] or [base]
    head, *below = parts
    word = rf"\{head}" if head in _GREEK else head if len(head) == 1 else rf"\mathrm{{{head}}}"
    if rank:
        word = rf"\boldsymbol{{{word}}}" if head in _GREEK else rf"\mathbf{{{head}}}"
    for _ in range(barred.group().count("grad_") if barred else 0):
        word = rf"\{'bar' if len(head) == 1 or head in _GREEK else 'overline'}{{{word}}}"
    marks = ",".join(part if part.isdigit() or len(part) == 1 else rf"\mathrm{{{part}}}" for part in below)
    return Formula(word + (f"_{{{marks}}}" if marks else ""), array=rank > 0)


def function(name: str, *args: Any) -> Formula:
    """A function applied to arguments; those that TeX has no name for are upright."""
    known = {"exp", "log", "sin", "cos", "tan", "sinh", "cosh", "tanh", "arcsin", "arccos", "arctan", "max", "min"}
    given = [_lift(x) for x in args]
    word = rf"\{name}" if name in known else rf"\operatorname{{{name.replace('_', chr(92) + '_')}}}"
    return Formula(rf"{word}\left({', '.join(x.text for x in given)}\right)", ATOM, array=any(x.array for x in given))


def _function(name: str) -> Callable[..., Any]:
    return lambda self, *xs: function(name, *xs)


class Symbols(Builder):
    """Scalar lowerings as formulas."""

    def select(self, condition: Any, a: Any, b: Any) -> Formula:
        c, a, b = _lift(condition), _lift(a), _lift(b)
        body = rf"{a.text} & \text{{if }} {c.text} \\ {b.text} & \text{{else}}"
        return Formula(rf"\begin{{cases}} {body} \end{{cases}}", SUM, array=a.array or b.array or c.array)

    def abs(self, x: Any) -> Formula:
        return Formula(rf"\left|{_lift(x).text}\right|", array=_lift(x).array)

    def floor(self, x: Any) -> Formula:
        return Formula(rf"\left\lfloor {_lift(x).text} \right\rfloor", array=_lift(x).array)

    def ceil(self, x: Any) -> Formula:
        return Formula(rf"\left\lceil {_lift(x).text} \right\rceil", array=_lift(x).array)

    def sqrt(self, x: Any) -> Formula:
        return Formula(rf"\sqrt{{{_lift(x).text}}}", array=_lift(x).array)

    def exp(self, x: Any) -> Formula:
        return Formula(rf"e^{{{_lift(x).text}}}", POWER, array=_lift(x).array)

    def expm1(self, x: Any) -> Formula:
        return self.exp(x) - 1

    def log1p(self, x: Any) -> Formula:
        return function("log", 1 + _lift(x))

    def log2(self, x: Any) -> Formula:
        return Formula(rf"\log_{{2}}\left({_lift(x).text}\right)", array=_lift(x).array)

    def log10(self, x: Any) -> Formula:
        return Formula(rf"\log_{{10}}\left({_lift(x).text}\right)", array=_lift(x).array)

    def pow(self, x: Any, y: Any) -> Formula:
        a, b = _lift(x), _lift(y)
        return Formula(rf"{a.at(ATOM)}^{{{b.text}}}", POWER, array=a.array or b.array)

    def conj(self, x: Any) -> Formula:
        return Formula(rf"\overline{{{_lift(x).text}}}", array=_lift(x).array)

    def convert(self, x: Any, dtype: Any) -> Formula:
        return _lift(x)

    log, sin, cos, tan, sinh, cosh, tanh = map(_function, ("log", "sin", "cos", "tan", "sinh", "cosh", "tanh"))
    asin, acos, atan, atan2 = map(_function, ("arcsin", "arccos", "arctan", "atan2"))
    asinh, acosh, atanh, hypot = map(_function, ("arsinh", "arcosh", "artanh", "hypot"))
    maximum, minimum, sign, trunc, round = map(_function, ("max", "min", "sign", "trunc", "round"))
    erf, erfc, fmod, nextafter = map(_function, ("erf", "erfc", "fmod", "nextafter"))
    remainder, floor_divide, signbit, copysign = map(_function, ("remainder", "floor_divide", "signbit", "copysign"))
    isnan, isinf, isfinite, real, imag = map(_function, ("isnan", "isinf", "isfinite", "Re", "Im"))


_BUILDER = Symbols()


def applied(node: Operation, operands: Sequence[Formula]) -> Formula:
    """What a gate computes, as a formula of its operands."""
    gate, params = node.primitive, node.params
    array = bool(node.outputs[0].shape)
    if gate.scalar is not None:
        found = _lift(gate.scalar(_BUILDER, *operands, **params))
        return Formula(found.text, found.level, array=array)
    if gate.kernel == "gemm" and not params and len(operands) == 2:
        return Formula(rf"{operands[0].at(PRODUCT)} \, {operands[1].at(PRODUCT)}", PRODUCT, array=array)
    if gate.kernel == "move" and "axes" in params and node.inputs[0].ndim == 2:
        return Formula(rf"{operands[0].at(ATOM)}^{{\top}}", POWER, array=array)
    if gate.kernel == "reduce" and gate.name == "sum":
        over = ",".join(f"i_{{{axis + 1}}}" for axis in params["axis"])
        return Formula(rf"\sum_{{{over}}} {operands[0].at(PRODUCT)}", PRODUCT if len(params["axis"]) else ATOM, array=array)
    found = function(gate.name, *operands)
    return Formula(found.text, found.level, array=array)


class _Formulas:
    """A graph's values as symbols or, where they are used once and belong to no variable, as formulas."""

    def __init__(self, graph: Graph, names: Mapping[Variable, str], shown: set[Variable]) -> None:
        self.graph = graph
        self.uses = Counter(x for node in graph.nodes for x in node.inputs)
        self.shown = shown | {x for x, name in names.items() if name.startswith("grad_")}
        self.symbols = {x: symbol(name, x.ndim) for x, name in names.items()}
        self.symbols |= {x: number(value) for x, value in graph.constants.items() if not np.ndim(value)}

    def equations(self, node: Operation) -> Iterator[str]:
        found = applied(node, [self.symbols[x] for x in node.inputs])
        out = node.outputs[0]
        if len(node.outputs) == 1 and out not in self.shown and self.uses[out] == 1 and len(found.text) <= _LONG:
            self.symbols[out] = found
            return
        yield rf"{', '.join(self.symbols[x].text for x in node.outputs)} &= {found.text}"

    def derivatives(self, node: Operation) -> Iterator[str]:
        """The local derivatives of an elementwise gate by its inputs."""
        gate = node.primitive
        if gate.partials is None or node.output.dtype.kind != "f":
            return
        for i, x in enumerate(node.inputs):
            if x.dtype.kind == "f" and x not in self.graph.constants:
                slope = self._slope(node, gate.partials[i])
                yield rf"\frac{{\partial {self.symbols[node.output].text}}}{{\partial {self.symbols[x].text}}} &= {slope.text}"

    def _slope(self, node: Operation, partial: Any) -> Formula:
        """A partial of a record: a number, the name of a value, or a rule in gates."""
        gate = node.primitive
        values = dict(zip((*gate.inputs, "out"), (*node.inputs, node.output), strict=True))
        if isinstance(partial, str):
            return self.symbols[values[partial]]
        if not callable(partial):
            return number(partial)
        fixed: list[Any] = []

        def slope(*xs: Any) -> Any:
            found = call(partial, {**dict(zip(values, xs, strict=True)), **node.params})
            if not hasattr(found, "shape"):
                fixed.append(found)
                return xs[0]
            return found

        _, structure = tree.flatten((0.0,) * len(values))
        graph, _ = trace_with(slope, [x.aval for x in values.values()], structure)
        if fixed:
            return number(fixed[0])
        known = {own: self.symbols[x] for own, x in zip(graph.inputs, values.values(), strict=True)}
        known |= {x: number(value) if not np.ndim(value) else Formula(r"\mathbf{c}", array=True) for x, value in graph.constants.items()}
        for one in graph.nodes:
            known[one.output] = applied(one, [known[x] for x in one.inputs])
        return known[graph.outputs[0]]
