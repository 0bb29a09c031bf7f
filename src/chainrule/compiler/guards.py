"""What a compiled step takes for granted about the Python around it, and how to tell that it changed.

What the caller's own functions load by name is compared at every call: variables of enclosing functions and modules, and
attributes of the objects that they reach from there, from ``self`` or from their arguments, containers item by item. The
attributes of layers that are called and the options of optimizers are compared only when any of them was set since. Not watched
are longer containers, elements of NumPy arrays, slots, and what the library keeps.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from chainrule.core.errors import is_users
from chainrule.tensor import Tensor

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_CONTAINERS = (list, tuple, dict, set)
_MOST = 64
"""Longer containers are not compared at every call."""
_DEEP = 4
"""Containers inside one another are compared so far down."""
_LIBRARY = __name__.partition(".")[0]


class Name(NamedTuple):
    """A variable from outside of a function: a cell, or a key in the dict of a module, class or object, and what it stood for."""

    name: str
    key: str
    owner: Any
    value: Any

    def now(self) -> Any:
        """What it stands for now."""
        if isinstance(self.owner, CellType):
            return self.owner.cell_contents if _filled(self.owner) else None
        return self.owner.get(self.key)

    def holds(self) -> bool:
        """Whether it still stands for the same."""
        return same(self.value, self.now())

    def change(self) -> str:
        """What changed, in words."""
        return f"{self.name}: {_word(self.value)} -> {_word(self.now())}"


def names_of(f: Callable[..., Any], given: Iterable[Any] = (), layers: Iterable[tuple[Any, str]] = ()) -> list[Name]:
    """What a function of the caller's own loads by name, and what the functions and objects load that it reaches.

    Parameters
    ----------
    f : callable
    given : iterable
        Its arguments that are no tensors.
    layers : iterable of (object, str)
        Layers that it calls and what they are called: of them only containers are taken, the rest is for `Attributes`.
    """
    search = _Search([*layers])
    search.pending += [("", x) for x in (f, *given)]
    while search.pending:
        while search.pending:
            search.meet(*search.pending.pop())
        search.look_up()
    return [*search.found.values()]


class _Search:
    """Goes from functions to what they name and on, until nothing is new."""

    def __init__(self, layers: list[tuple[Any, str]]) -> None:
        self.pending: list[tuple[str, Any]] = []
        self.found: dict[tuple[int, str], Name] = {}
        self.loaded = {"__call__", "call"}
        # Where attributes are looked up: what it is called, its dict, and the keys that count.
        self.spaces: list[tuple[str, Mapping[str, Any], set[str]]] = []
        # By identity, and so kept alive.
        self.met: dict[Any, Any] = {}
        for layer, label in layers:
            self.met[id(layer)] = layer
            own = vars(layer)
            self.spaces.append((label, own, {key for key, value in own.items() if value.__class__ in (list, dict)} - {*_BOOKKEEPING}))
            self.pending.append((label, type(layer)))

    def look_up(self) -> None:
        """Attributes that any function met so far loads."""
        for label, space, keys in self.spaces:
            for key in sorted(self.loaded & keys):
                self.enter(f"{label}.{key}" if label else key, key, space, space.get(key))

    def enter(self, name: str, key: str, owner: Any, value: Any) -> None:
        """A variable, to be watched and followed."""
        if (id(owner), key) in self.met:
            return
        self.met[id(owner), key] = owner
        self.pending.append((name, value))
        if not isinstance(value, (ModuleType, type, property, staticmethod, classmethod)):
            self.found[id(owner), key] = Name(name, key, owner, value if _is_long(value) else kept(value))

    def meet(self, name: str, value: Any) -> None:
        """Something that a name led to."""
        if value.__class__ in _PLAIN or isinstance(value, Tensor) or id(value) in self.met:
            return
        self.met[id(value)] = value
        if value.__class__ in _CONTAINERS:
            items = value.items() if value.__class__ is dict else enumerate(value)
            self.pending += [] if _is_long(value) else [(f"{name}[{key!r}]", x) for key, x in items]
        elif isinstance(value, FunctionType):
            self.meet_function(value)
        elif isinstance(value, MethodType):
            self.pending += [("self", value.__self__), (name, value.__func__)]
        elif isinstance(value, partial):
            self.pending.append((name, value.func))
            self.meet_given([*value.args, *value.keywords.values()])
        elif isinstance(value, property):
            self.pending.append((name, value.fget))
        elif isinstance(value, ModuleType):
            if _is_users_module(value):
                self.spaces.append((name, vars(value), {*vars(value)}))
        elif isinstance(value, type):
            kinds = _users_classes(value)
            self.pending += [(kind.__name__, kind) for kind in kinds]
            if value in kinds:
                self.spaces.append((value.__name__, vars(value), {*vars(value)}))
        else:
            self.pending += [(name, getattr(value, link)) for link in ("__wrapped__", "__func__") if hasattr(value, link)]
            self.pending.append((name, type(value)))
            if hasattr(value, "__dict__") and not type(value).__module__.startswith(_LIBRARY):
                # An attribute that is its class's until it is set on the object.
                shown = {key for kind in _users_classes(type(value)) for key, one in vars(kind).items() if one.__class__ in _PLAIN}
                self.spaces.append((name or type(value).__name__, vars(value), shown.union(vars(value))))

    def meet_function(self, function: FunctionType) -> None:
        self.pending.append(("", getattr(function, "__wrapped__", None)))
        if not is_users(function.__code__.co_filename):
            return
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if _filled(cell):
                self.enter(name, "", cell, cell.cell_contents)
        names, attributes = _loads(function.__code__)
        for name in sorted(names & {*function.__globals__}):
            self.enter(name, name, function.__globals__, function.__globals__[name])
        self.loaded |= attributes
        self.meet_given([*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()])

    def meet_given(self, values: Iterable[Any]) -> None:
        """Arguments that are always the same objects: what is in them may change."""
        for value in values:
            if value.__class__ in _CONTAINERS:
                self.enter("a default argument", "", {"": value}, value)
            self.pending.append(("", value))


def _loads(code: CodeType) -> tuple[set[str], set[str]]:
    """The module's variables and the attributes that a piece of code loads, functions inside it too."""
    names: set[str] = set()
    attributes: set[str] = set()
    pending = [code]
    while pending:
        code = pending.pop()
        pending += [x for x in code.co_consts if isinstance(x, CodeType)]
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                names.add(step.argval)
            elif step.opname.startswith("LOAD_") and step.argval.__class__ is str and step.argval in code.co_names:
                attributes.add(step.argval)
    return names, attributes


def _users_classes(kind: type) -> list[type]:
    return [one for one in kind.__mro__ if _is_users_module(sys.modules.get(one.__module__))]


def _is_users_module(module: Any) -> bool:
    file = getattr(module, "__file__", None)
    return is_users(file) if file else getattr(module, "__name__", "") == "__main__"


def _is_long(value: Any) -> bool:
    return value.__class__ in _CONTAINERS and len(value) > _MOST


def _filled(cell: CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def kept(value: Any, depth: int = _DEEP) -> Any:
    """A list, dict or set as it is now, with those inside; anything else itself."""
    if not depth or value.__class__ not in _CONTAINERS:
        return value
    if value.__class__ is dict:
        return {key: kept(x, depth - 1) for key, x in value.items()}
    if value.__class__ is set:
        return set(value)
    items = [kept(x, depth - 1) for x in value]
    if value.__class__ is list:
        return items
    return value if all(a is b for a, b in zip(items, value, strict=True)) else tuple(items)


def same(before: Any, now: Any) -> bool:
    """Whether nothing can tell apart what was `kept` and what is there now."""
    if before is now:
        return True
    if before.__class__ is not now.__class__:
        return False
    if before.__class__ in (list, tuple):
        return len(before) == len(now) and all(map(same, before, now))
    if before.__class__ is dict:
        return list(before) == list(now) and all(map(same, before.values(), now.values()))
    if before.__class__ in (float, complex):
        # -0.0 == 0.0, and NaN != NaN.
        return repr(before) == repr(now)
    return before.__class__ in (*_PLAIN, set) and bool(before == now)


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
            if not same(before, after):
                return f"{self._label}.{name}: {_word(before)} -> {_word(after)}"
        return ""


def _snapshot(owner: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in vars(owner).items():
        if name in _BOOKKEEPING:
            continue
        if name == "_options":
            found.update({option: kept(one) for option, one in value.items()})
        else:
            found[name] = kept(value)
    return found


_BOOKKEEPING = ("_parameters", "_buffers", "_source", "_known", "_rate", "_stale", "groups", "built")


def _is_plain(value: Any, depth: int = _DEEP) -> bool:
    if value.__class__ in _CONTAINERS:
        items = value.values() if value.__class__ is dict else value
        return depth > 0 and not _is_long(value) and all(_is_plain(x, depth - 1) for x in items)
    return value.__class__ in _PLAIN


def _word(value: Any) -> str:
    if isinstance(value, Tensor):
        return "another tensor"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    return repr(value) if _is_plain(value) else f"a {type(value).__name__}"
