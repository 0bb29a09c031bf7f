"""Names in printed source, and what they stand for: variables, NumPy's functions, numbers, and what has no source of its own."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Container
from math import isfinite
from typing import Any

import numpy as np

_NUMPY_NAME = re.compile(r"\bnp\.([a-zA-Z_][\w.]*)")
_RESERVED = {"np", "abs", "range", "reversed", "tuple", "float", "IndexError", *keyword.kwlist}


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
        size = 1
        for length in self.shape:
            size *= length
        return size

    @property
    def ndim(self) -> int:
        return len(self.shape)


class Namespace:
    """The names of one piece of source.

    Attributes
    ----------
    values : dict
        What those names stand for that the source itself does not explain.
    header : list of str
        Lines that explain the others.
    """

    def __init__(self) -> None:
        self.values: dict[str, Any] = {"np": np}
        self.header: list[str] = []
        self._known: dict[Any, str] = {}
        self._globals = dict.fromkeys(_RESERVED, 1)
        # Of all functions: what is named later for all of them must not be hidden by one.
        self._locals: set[str] = set()

    def unique(self, name: str) -> str:
        """An identifier for the whole source that nothing else has, as much like ``name`` as can be."""
        return _unused(name, self._globals, self._locals)

    def scope(self) -> Callable[[str], str]:
        """Makes identifiers for the variables of one function."""
        own: dict[str, int] = {}

        def unique(name: str) -> str:
            found = _unused(name, own, self._globals)
            self._locals.add(found)
            return found

        return unique

    def resolved(self, text: str) -> str:
        """Source with short names for ``np.something``."""
        return _NUMPY_NAME.sub(self._short, text) if "np." in text else text

    def _short(self, match: re.Match[str]) -> str:
        path = match.group()
        if path not in self._known:
            name = self._known[path] = self.unique(match.group(1).replace(".", "_"))
            self.header.append(f"{name} = {path}")
        return self._known[path]

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
        """The name of a number: a NumPy scalar, or a 0-d array, which beside arrays is much quicker than that or a Python number."""
        key = (value.tobytes(), value.dtype.str, scalar)
        if key not in self._known:
            word = re.sub(r"\W", "_", str(value).replace("-", "m").replace("+", ""))
            name = self._known[key] = self.unique(f"{'s' if scalar else 'n'}{word}")
            text = _written(value)
            self.header.append(f"{name} = np.{value.dtype.type.__name__}({text})" if scalar else f'{name} = np.array({text}, "{value.dtype}")')
        return self._known[key]

    def literal(self, name: str, value: Any) -> str:
        """A parameter as source, if it has one."""
        return repr(value) if _is_literal(value) else self.bound(name, value)


def _unused(name: str, taken: dict[str, int], others: Container[str]) -> str:
    """A name that is not taken; and takes it, with a count of names alike."""
    base = name if name.isidentifier() else _identifier(name)
    found, count = base, taken.get(base, 1)
    while found in taken or found in others:
        count += 1
        found = f"{base}_{count}"
    taken[base] = count
    taken[found] = taken.get(found, 1)
    return found


def _identifier(name: str) -> str:
    word = re.sub(r"\W", "_", name)
    return word if word.isidentifier() else f"_{word}"


def _written(value: Any) -> str:
    """A number as source that gives exactly it."""
    if value.dtype.kind != "f":
        return str(value)
    text = str(value)
    if not np.isfinite(value):
        return f'float("{text}")'
    return text if value.dtype.type(float(text)) == value else repr(float(value))


def _is_literal(value: Any) -> bool:
    if value.__class__ is tuple:
        return all(map(_is_literal, value))
    return value is None or value.__class__ in (bool, int, str) or (isinstance(value, float) and isfinite(value))
