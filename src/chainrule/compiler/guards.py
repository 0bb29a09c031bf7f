"""What a compiled step takes for granted about the Python around it, and how to tell that it changed.

Names that the function finds in enclosing functions and in its module are compared at every call; the attributes of
layers and the options of optimizers only when any of them was set since. Objects that a function changes without
naming them (an attribute of a global object, say) are not watched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import CellType, FunctionType, ModuleType
from typing import Any, NamedTuple

from chainrule.core.errors import is_users
from chainrule.tensor import Tensor

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_MOST = 64
"""Longer lists and dicts are not compared at every call."""


class Name(NamedTuple):
    """A variable from outside of a function: a cell, or a name in a module's dict, and what it stood for."""

    kind: str
    name: str
    owner: Any
    value: Any

    def now(self) -> Any:
        """What it stands for now."""
        if self.kind == "cell":
            return self.owner.cell_contents if _filled(self.owner) else None
        return self.owner.get(self.name)

    def holds(self) -> bool:
        """Whether it still stands for the same."""
        now = self.now()
        return now is self.value or (_is_plain(self.value) and now.__class__ is self.value.__class__ and bool(now == self.value))

    def change(self) -> str:
        """What changed, in words."""
        return f"{self.name}: {_word(self.value)} -> {_word(self.now())}"


def names_of(f: Callable[..., Any]) -> list[Name]:
    """The variables from outside that a function of the caller's own names, and those that functions among them name."""
    found: list[Name] = []
    pending: list[Any] = [f]
    seen: set[int] = set()
    while pending:
        function = pending.pop()
        if id(function) in seen:
            continue
        seen.add(id(function))
        pending += [getattr(function, link) for link in ("__wrapped__", "__func__") if hasattr(function, link)]
        if not isinstance(function, FunctionType) or not is_users(function.__code__.co_filename):
            continue
        for name in _outside(function):
            if not isinstance(name.value, (ModuleType, type)):
                found.append(name)
                pending.append(name.value)
    return found


def _outside(function: FunctionType) -> Iterable[Name]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if _filled(cell):
            yield Name("cell", name, cell, _kept(cell.cell_contents))
    module = function.__globals__
    for name in function.__code__.co_names:
        if name in module:
            yield Name("globals", name, module, _kept(module[name]))


def _filled(cell: CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _kept(value: Any) -> Any:
    """A list or dict of plain values as it is now; anything else itself."""
    return value.copy() if value.__class__ in (list, dict) and _is_plain(value) else value


def _is_plain(value: Any) -> bool:
    if value.__class__ in (list, tuple):
        return len(value) <= _MOST and all(map(_is_plain, value))
    if value.__class__ is dict:
        return len(value) <= _MOST and all(map(_is_plain, value.values()))
    return value.__class__ in _PLAIN


class Attributes:
    """The attributes of a layer or of an optimizer's options, as they were when a step was traced."""

    def __init__(self, owner: Any, label: str) -> None:
        self._owner = owner
        self._label = label
        self._were = _snapshot(owner)

    def change(self) -> str:
        """What is different now, in words; '' if nothing is."""
        now = _snapshot(self._owner)
        for name in {**self._were, **now}:
            # Until an attribute is set, it is its class's.
            default = getattr(type(self._owner), name, None)
            before, after = self._were.get(name, default), now.get(name, default)
            if not _same(before, after):
                return f"{self._label}.{name}: {_word(before)} -> {_word(after)}"
        return ""


def _snapshot(owner: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in vars(owner).items():
        if name in _BOOKKEEPING:
            continue
        if name == "_options":
            found.update({option: _kept(one) for option, one in value.items()})
        else:
            found[name] = list(value) if isinstance(value, list) else dict(value) if isinstance(value, dict) else value
    return found


_BOOKKEEPING = ("_parameters", "_buffers", "_source", "_known", "_rate", "_stale", "groups", "built")


def _same(before: Any, now: Any) -> bool:
    if before is now:
        return True
    if before.__class__ is not now.__class__:
        return False
    if before.__class__ in (list, tuple):
        return len(before) == len(now) and all(map(_same, before, now))
    if before.__class__ is dict:
        return list(before) == list(now) and all(map(_same, before.values(), now.values()))
    return _is_plain(before) and bool(before == now)


def _word(value: Any) -> str:
    if isinstance(value, Tensor):
        return "another tensor"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    return repr(value) if _is_plain(value) else f"a {type(value).__name__}"
