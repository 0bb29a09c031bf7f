"""The library's own evaluation of a gate as text: its function, and whatever that function calls or reads, without annotations.

What runs in the library and what is printed can so never differ. Only what needs NumPy alone can be taken out.
"""

from __future__ import annotations

import ast
import builtins
import dis
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

_NOT_ALONE = ("chainrule.tape", "chainrule.tensor", "chainrule.core.interp", "chainrule.graph")
"""Modules of what computes with more than arrays."""


class NotAlone(Exception):  # noqa: N818, it never leaves the targets
    """A function needs more than NumPy."""


class Definitions:
    """Definitions of a printed module, in the order in which they stand.

    Parameters
    ----------
    names : iterable of str
        Of variables, which none of them may have.

    Attributes
    ----------
    imports : dict of str to None
        Lines at the top.
    constants : list of str
        Lines below them.
    texts : list of str
        Functions and classes.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.imports: dict[str, None] = {}
        self.constants: list[str] = []
        self.texts: list[str] = []
        self._named: dict[int, tuple[Any, str]] = {}
        self._same: dict[str, str] = {}
        self._taken = {"np", *dir(builtins)}
        self._kept = set(names)

    def unique(self, name: str) -> str:
        """A name that nothing else in the module has."""
        found, count = name, 1
        while found in self._taken or found in self._kept:
            count += 1
            found = f"{name}_{count}"
        self._taken.add(found)
        return found

    def local(self, name: str) -> str:
        """A name for a variable of a function, which nothing in the module has or will have."""
        while name in self._taken:
            name += "_"
        self._kept.add(name)
        return name

    def add(self, name: str, text: str) -> str:
        """The name of a definition, whose text has a blank ``{name}`` for it; the same for the same text."""
        known = self._same.get(text)
        if known is None:
            known = self._same[text] = self.unique(name)
            self.texts.append(text.replace("{name}", known))
        return known

    def function(self, function: Callable[..., Any], name: str) -> str:
        """The name of a function of NumPy, or of one of the library that is written with all that it needs."""
        if (getattr(function, "__module__", None) or "").startswith("numpy"):
            return in_numpy(function)
        key = id(function)
        if key not in self._named:
            self._named[key] = (function, self.unique(name))
            self._define(function, self._named[key][1])
        return self._named[key][1]

    def _define(self, function: Any, name: str) -> None:
        function = inspect.unwrap(function)
        if not isinstance(function, FunctionType) or function.__module__.startswith(_NOT_ALONE):
            raise NotAlone(getattr(function, "__qualname__", repr(function)))
        tree = _definition(function)
        outside = {**_outside(function), **_decorators(tree, function)}
        words = {word: self._need(word, value) for word, value in outside.items()}
        tree.name = name
        plain = _Plain(words).visit(tree)
        self.texts.append(ast.unparse(ast.fix_missing_locations(plain)))

    def _need(self, word: str, value: Any) -> str:
        """What is called ``word`` in a function is, in the module, under this name."""
        if value is np:
            return "np"
        if isinstance(value, ModuleType):
            self.imports[f"import {value.__name__}" + (f" as {word}" if word != value.__name__ else "")] = None
            self._taken.add(word)
            return word
        if getattr(builtins, word, None) is value:
            return word
        key = id(value)
        if key in self._named:
            return self._named[key][1]
        module = getattr(value, "__module__", None) or ""
        if isinstance(inspect.unwrap(value) if callable(value) else None, FunctionType) and module.startswith("chainrule"):
            return self.function(value, word)
        found = self.unique(word)
        self._named[key] = (value, found)
        if isinstance(value, type) and module.startswith("chainrule"):
            self._class(value, found)
        elif isinstance(owner := getattr(value, "__self__", None), np.ufunc):
            self.constants.append(f"{found} = np.{owner.__name__}.{value.__name__}")
        elif module.startswith("numpy") and not isinstance(value, (np.generic, np.ndarray, np.dtype)):
            self.constants.append(f"{found} = {in_numpy(value)}")
        elif module.startswith("chainrule"):
            raise NotAlone(getattr(value, "__qualname__", repr(value)))
        elif isinstance(value, type) or (callable(value) and module and not isinstance(value, np.ufunc)):
            self.imports[f"from {module} import {value.__name__}" + (f" as {found}" if found != value.__name__ else "")] = None
        else:
            self.constants.append(f"{found} = {literal(value)}")
        return found

    def _class(self, value: type, name: str) -> None:
        fields = getattr(value, "_fields", None)
        if fields is not None:
            self.imports["from collections import namedtuple"] = None
            self.constants.append(f"{name} = namedtuple({name!r}, {list(fields)!r})")
        elif issubclass(value, Exception):
            kind = next(base.__name__ for base in value.__mro__[1:] if base.__module__ == "builtins")
            self.texts.append(f"class {name}({kind}):\n    def __init__(self, says, mend=''):\n        super().__init__(f'{{says}}; {{mend}}')")
        else:
            raise NotAlone(value.__qualname__)


def literal(value: Any) -> str:
    """A fixed value as an expression."""
    if isinstance(value, np.dtype):
        return f"np.dtype({str(value)!r})"
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, np.floating):
        return f"np.{value.dtype}({_digits(value)})"
    if isinstance(value, np.generic):
        return f"np.{value.dtype.type.__name__}({value.item()!r})"
    if isinstance(value, np.ufunc):
        return f"np.{value.__name__}"
    if value.__class__ in (tuple, list):
        inside = ", ".join(map(literal, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * (len(value) == 1)})"
    if value.__class__ is dict:
        return "{" + ", ".join(f"{literal(key)}: {literal(one)}" for key, one in value.items()) + "}"
    if isinstance(value, slice):
        return f"slice({literal(value.start)}, {literal(value.stop)}, {literal(value.step)})"
    if isinstance(value, float) and not np.isfinite(value):
        return f"float('{value}')"
    if value is None or value is Ellipsis or value.__class__ in (bool, int, float, complex, str, bytes):
        return repr(value)
    if isinstance(value, type) and issubclass(value, np.generic):
        return f"np.{value.__name__}"
    if isinstance(value, frozenset):
        return f"frozenset(({', '.join(sorted(map(literal, value)))},))"
    raise NotAlone(f"the value {value!r}")


def _array(value: np.ndarray[Any, Any]) -> str:
    """All elements, with as few digits as give them back; an array of one number says so."""
    words = [literal(one.item()) if one.dtype.kind != "f" else _digits(one) for one in value.reshape(-1)]
    if len(words) > 1 and len(set(words)) == 1:
        return f'np.full({value.shape}, {words[0]}, "{value.dtype}")'
    if not words:
        return f'np.zeros({value.shape}, "{value.dtype}")'
    found = iter(words)
    nested = value.shape and np.vectorize(lambda _: next(found), otypes=[object])(value).tolist()
    text = str(nested).replace("'", "") if value.shape else words[0]
    return f'np.array({text}, "{value.dtype}")'


def _digits(value: np.floating[Any]) -> str:
    if not np.isfinite(value):
        return "np.nan" if np.isnan(value) else f"{'-' if value < 0 else ''}np.inf"
    return str(value) if value.dtype.type(float(str(value))) == value else repr(float(value))


def in_numpy(value: Any) -> str:
    for path in ("", "linalg.", "lib.stride_tricks."):
        home: Any = np
        for part in path.split(".")[:-1]:
            home = getattr(home, part)
        if getattr(home, value.__name__, None) is value:
            return f"np.{path}{value.__name__}"
    raise NotAlone(value.__name__)


def _outside(function: FunctionType) -> Mapping[str, Any]:
    """What a function reads that is not its own, by name."""
    found: dict[str, Any] = {}
    codes: list[CodeType] = [function.__code__]
    for code in codes:
        codes += [one for one in code.co_consts if isinstance(one, CodeType)]
        names = (step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL")
        found |= {name: function.__globals__[name] for name in names if name in function.__globals__}
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return found | {name: cell.cell_contents for name, cell in cells}


def _decorators(tree: ast.FunctionDef, function: FunctionType) -> Mapping[str, Any]:
    words = (one for decorator in tree.decorator_list for one in ast.walk(decorator) if isinstance(one, ast.Name))
    return {one.id: function.__globals__[one.id] for one in words if one.id in function.__globals__}


def _definition(function: FunctionType) -> ast.FunctionDef:
    if function.__name__ != "<lambda>":
        (found,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
        assert isinstance(found, ast.FunctionDef)
        return found
    lines, _ = inspect.findsource(function)
    names = function.__code__.co_varnames[: function.__code__.co_argcount + function.__code__.co_kwonlyargcount]
    for node in ast.walk(ast.parse("".join(lines))):
        if isinstance(node, ast.Lambda) and node.lineno == function.__code__.co_firstlineno:
            own = tuple(one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs))
            if own == names:
                found = ast.parse("def f(): ...").body[0]
                assert isinstance(found, ast.FunctionDef)
                found.args, found.body = node.args, [ast.Return(node.body)]
                return found
    raise NotAlone(function.__qualname__)


class _Plain(ast.NodeTransformer):
    """Takes annotations away, shortens docstrings to their first line, and renames."""

    def __init__(self, words: Mapping[str, str]) -> None:
        self._words = words

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        said = ast.get_docstring(node)
        if said is not None:
            node.body[0] = ast.Expr(ast.Constant(said.split("\n\n")[0].replace("\n", " ")))
        node.returns = None
        self.generic_visit(node)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        self.generic_visit(node)
        return None if node.value is None else ast.Assign(targets=[node.target], value=node.value, lineno=node.lineno)

    def visit_Assert(self, node: ast.Assert) -> ast.AST | None:
        return None

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self._words.get(node.id, node.id)
        return node
