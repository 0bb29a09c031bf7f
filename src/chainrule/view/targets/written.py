"""Expressions as Python text that know how tightly they bind, so that parentheses stand where they are needed and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from chainrule.core.scalar import Builder

ATOM, POWER, UNARY, PRODUCT, SUM, SHIFT, AND, XOR, OR, COMPARISON, LOOSE = range(10, -1, -1)

LEVELS = {
    "**": POWER, "*": PRODUCT, "/": PRODUCT, "//": PRODUCT, "%": PRODUCT, "@": PRODUCT, "+": SUM, "-": SUM, "<<": SHIFT, ">>": SHIFT,
    "&": AND, "^": XOR, "|": OR, "<": COMPARISON, "<=": COMPARISON, ">": COMPARISON, ">=": COMPARISON, "==": COMPARISON, "!=": COMPARISON,
}  # fmt: skip


class Written:
    """An expression.

    Attributes
    ----------
    text : str
    level : int
        How tightly it binds.
    chain : str
        What a product or sum consists of, "*" or "+", if it may be continued from the right without parentheses.
    shape, dtype
        Of the value, where it is known.
    """

    __slots__ = ("chain", "dtype", "level", "shape", "text")

    def __init__(self, text: str, level: int = ATOM, chain: str = "", shape: tuple[int, ...] = (), dtype: Any = None) -> None:
        self.text = text
        self.level = level
        self.chain = chain
        self.shape = shape
        self.dtype = dtype

    def __str__(self) -> str:
        return self.text

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def at(self, level: int) -> str:
        """The text where something at least so tight is wanted."""
        return self.text if self.level >= level else f"({self.text})"

    def method(self, name: str, *args: Any) -> Written:
        return Written(f"{self.at(ATOM)}.{name}({', '.join(map(str, args))})")


def infix(left: Written, sign: str, right: Written) -> Written:
    """Two expressions with an operator between them; products of products and sums of sums need no parentheses."""
    level = LEVELS[sign]
    if sign == "**":
        return Written(f"{left.at(ATOM)} ** {right.at(UNARY)}", POWER)
    if sign == "+" and right.level == UNARY and right.text.startswith("-"):
        return infix(left, "-", Written(right.text[1:], POWER))
    flows = sign in "*+" and right.chain == sign
    tight = COMPARISON + 1 if level == COMPARISON else level
    text = f"{left.at(tight)} {sign} {right.at(level if flows else level + 1)}"
    pure = {"*": "*", "/": "", "+": "+", "-": ""}.get(sign, "")
    # A remainder on the left would reach over a product that is continued.
    return Written(text, level, pure if left.level != level or left.chain == pure else "")


def prefix(sign: str, x: Written) -> Written:
    return Written(f"{sign}{x.at(POWER)}", UNARY)


def call(name: str, *args: Any) -> Written:
    return Written(f"{name}({', '.join(map(str, args))})")


def number(value: Any, *, whole: bool = True) -> Written:
    """A real number as Python writes it; whole ones without a point, if they may be."""
    value = value.item() if isinstance(value, (np.ndarray, np.generic)) else value
    if isinstance(value, bool) or not isinstance(value, float):
        return Written(repr(value), ATOM if isinstance(value, (bool, complex)) or value >= 0 else UNARY)
    if not np.isfinite(value):
        return Written({np.inf: "np.inf", -np.inf: "-np.inf"}.get(value, "np.nan"), UNARY if value < 0 else ATOM)
    text = repr(int(value)) if whole and value.is_integer() and abs(value) < 1e6 and (value or not np.signbit(value)) else repr(value)
    return Written(text, UNARY if text.startswith("-") else ATOM)


def single(value: np.generic | np.ndarray[Any, Any], *, whole: bool = True) -> Written:
    """A number with as few digits as its dtype needs."""
    value = np.asarray(value)[()]
    if value.dtype.kind != "f":
        return number(value)
    short = float(str(value)) if np.isfinite(value) else float(value)
    return number(short if value.dtype.type(short) == value else float(value), whole=whole)


_LONG = 48


def _numpys(function: str) -> Callable[..., Any]:
    """The method of `Lines` that calls a function of NumPy."""
    return lambda self, *xs: self.call(function, *xs)


class Lines(Builder):
    """Scalar lowerings as lines of NumPy: what gets long is a variable of its own.

    Parameters
    ----------
    dtype
        Of the result: two numbers to select from are of it.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.lines: list[str] = []

    def made(self, found: Written) -> _Lowered:
        if len(found.text) > _LONG:
            self.lines.append(f"v{len(self.lines) + 1} = {found.text}")
            found = Written(f"v{len(self.lines)}")
        return _Lowered(self, found.text, found.level, found.chain)

    def call(self, function: str, *args: Any) -> _Lowered:
        return self.made(call(f"np.{function}", *(x if isinstance(x, Written) else number(x) for x in args)))

    def argument(self, name: str) -> _Lowered:
        return _Lowered(self, name)

    def select(self, condition: Any, a: Any, b: Any) -> Any:
        if not isinstance(a, Written) and not isinstance(b, Written):
            a = _Lowered(self, f"np.{self.dtype}({number(a)})")
        return self.call("where", condition, a, b)

    def convert(self, x: Any, dtype: Any) -> Any:
        if not isinstance(x, Written):
            return _Lowered(self, f"np.{np.dtype(dtype)}({number(x)})")
        return self.made(call("np.asarray", x, f'"{np.dtype(dtype)}"'))

    def pow(self, x: Any, y: Any) -> Any:
        return self.made(infix(_operand(x), "**", _operand(y)))

    # What NumPy has needs no lowering.
    abs, sign, sqrt, exp, expm1, exp2 = map(_numpys, ("abs", "sign", "sqrt", "exp", "expm1", "exp2"))
    log, log1p, log2, log10 = map(_numpys, ("log", "log1p", "log2", "log10"))
    floor, ceil, trunc, round, fmod = map(_numpys, ("floor", "ceil", "trunc", "rint", "fmod"))
    sin, cos, tan, sinh, cosh, tanh = map(_numpys, ("sin", "cos", "tan", "sinh", "cosh", "tanh"))
    asin, acos, atan, atan2 = map(_numpys, ("arcsin", "arccos", "arctan", "arctan2"))
    asinh, acosh, atanh, hypot = map(_numpys, ("arcsinh", "arccosh", "arctanh", "hypot"))
    isnan, isinf, isfinite, signbit, copysign = map(_numpys, ("isnan", "isinf", "isfinite", "signbit", "copysign"))
    maximum, minimum, nextafter = map(_numpys, ("maximum", "minimum", "nextafter"))
    remainder, floor_divide = map(_numpys, ("remainder", "floor_divide"))


def _operand(x: Any) -> Written:
    return x if isinstance(x, Written) else number(x)


class _Lowered(Written):
    """A value of `Lines`, with Python's operators."""

    __slots__ = ("lines",)

    def __init__(self, lines: Lines, text: str, level: int = ATOM, chain: str = "") -> None:
        super().__init__(text, level, chain)
        self.lines = lines

    def _with(self, sign: str, other: Any) -> Any:
        return self.lines.made(infix(self, sign, _operand(other)))

    def _after(self, sign: str, other: Any) -> Any:
        return self.lines.made(infix(_operand(other), sign, self))

    def __neg__(self) -> Any:
        return self.lines.made(prefix("-", self))

    def __invert__(self) -> Any:
        return self.lines.made(prefix("~", self))

    __hash__ = None  # pyright: ignore[reportAssignmentType] - equality makes an expression


def _operator(sign: str, *, after: bool) -> Callable[[_Lowered, Any], Any]:
    return (lambda self, other: self._after(sign, other)) if after else (lambda self, other: self._with(sign, other))


for _name, _sign in {"add": "+", "sub": "-", "mul": "*", "truediv": "/", "and": "&", "or": "|", "xor": "^", "lshift": "<<", "rshift": ">>"}.items():
    setattr(_Lowered, f"__{_name}__", _operator(_sign, after=False))
    setattr(_Lowered, f"__r{_name}__", _operator(_sign, after=True))
for _name, _sign in {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}.items():
    setattr(_Lowered, f"__{_name}__", _operator(_sign, after=False))
