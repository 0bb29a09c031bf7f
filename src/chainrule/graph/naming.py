"""Names of values: what the caller's code calls them, read off the frames and the bytecode around the call that makes one.

A value is followed through the instructions after that call: to the variable, attribute or key under which it is stored, or
to a return, and then on in the function above. Nothing here is needed to compute; what cannot be found out stays without a name
until the graph is complete, which then gives every value one of its own.
"""

from __future__ import annotations

import dis
import re
import sys
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import Parameter, signature
from keyword import iskeyword
from types import CodeType, FrameType
from typing import Any, NamedTuple

from chainrule.core.errors import is_users
from chainrule.core.variable import Variable

_SILENT = {"CACHE", "NOP", "EXTENDED_ARG", "RESUME", "PRECALL", "KW_NAMES", "COPY_FREE_VARS", "MAKE_CELL", "NOT_TAKEN"}
_POPS = {
    "BINARY_OP": 2, "BINARY_SUBSCR": 2, "BINARY_SLICE": 3, "COMPARE_OP": 2, "IS_OP": 2, "CONTAINS_OP": 2,
    "UNARY_NEGATIVE": 1, "UNARY_NOT": 1, "UNARY_INVERT": 1, "LOAD_ATTR": 1, "LOAD_METHOD": 1, "POP_TOP": 1, "STORE_ATTR": 2, "STORE_SUBSCR": 3,
    "STORE_FAST": 1, "STORE_NAME": 1, "STORE_GLOBAL": 1, "STORE_DEREF": 1, "STORE_FAST_STORE_FAST": 2, "STORE_FAST_LOAD_FAST": 1,
    "UNPACK_SEQUENCE": 1, "UNPACK_EX": 1, "GET_ITER": 1, "MAKE_FUNCTION": 1,
}  # fmt: skip
"""How many values an instruction takes from the stack, where that is always the same."""

_PER_ARGUMENT = {
    "CALL": (1, 2), "CALL_KW": (1, 3), "BUILD_TUPLE": (1, 0), "BUILD_LIST": (1, 0), "BUILD_SET": (1, 0), "BUILD_SLICE": (1, 0),
    "BUILD_STRING": (1, 0), "BUILD_MAP": (2, 0), "BUILD_CONST_KEY_MAP": (1, 1),
}  # fmt: skip
"""The same where it depends on the instruction's argument: times, and plus."""

_STORES = ("STORE_FAST", "STORE_NAME", "STORE_GLOBAL", "STORE_DEREF")


_MOST = 1000
"""Containers of more parts are not looked into for names."""


class Fate(NamedTuple):
    """What becomes of a value: it is "stored" under names (one per part, if it is unpacked), "returned", or neither.

    ``part`` is its place in a tuple or list that it was put into.
    """

    kind: str = ""
    names: tuple[str, ...] = ()
    part: int | None = None


_NOWHERE = Fate()


def caller(depth: int) -> tuple[tuple[str, ...], tuple[str, int]]:
    """Names under which the caller's code stores the value that is being made, and the line that makes it.

    Parameters
    ----------
    depth : int
        Frames above this function that belong to tracing.
    """
    frame: FrameType | None = sys._getframe(depth + 1)
    line = ("", 0)
    names: tuple[str, ...] = ()
    fate = Fate("returned")
    while frame is not None and (fate.kind == "returned" or not line[1]):
        code = frame.f_code
        users = is_users(code.co_filename)
        if users and not line[1]:
            line = (code.co_filename, frame.f_lineno)
        if fate.kind == "returned":
            fate = _table(code).fate(frame.f_lasti, fate.part)
            if fate.kind == "stored" and users:
                names = tuple("" if name == "_" else name for name in fate.names)
        frame = frame.f_back
    return names, line


def name_in_caller(depth: int, value: object) -> str:
    """The name of a value in the innermost function of the caller's code."""
    frame: FrameType | None = sys._getframe(depth + 1)
    while frame is not None:
        if is_users(frame.f_code.co_filename):
            return _name_in(frame, value)
        frame = frame.f_back
    return ""


def name_in_layer(layer: Any, value: object) -> str:
    """The name by which a layer, if there is one, knows a value."""
    return "" if layer is None else next((name for name, member in layer._members() if member is value), "")


def _name_in(frame: FrameType, value: object) -> str:
    """The name of a value among a function's variables, or in a container or object that is one of them."""
    read = frame.f_code.co_names
    variables = {**{name: frame.f_globals[name] for name in read if name in frame.f_globals}, **frame.f_locals}
    for name, held in variables.items():
        if held is value:
            return name
    for name, held in variables.items():
        for key, part in _parts(held, read):
            if part is value:
                return str(key) if name == "self" else f"{name}_{key}"
    return ""


def _parts(held: Any, read: tuple[str, ...]) -> Iterator[tuple[object, object]]:
    """What is in a list, tuple or dict; of another object, the attributes that the function reads."""
    if isinstance(held, (list, tuple, dict)):
        # Data are not searched.
        parts = held.items() if isinstance(held, dict) else enumerate(held)
        return iter(parts) if len(held) <= _MOST else iter(())
    attributes: Mapping[str, Any] = getattr(held, "__dict__", {})
    return ((name, attributes[name]) for name in read if name in attributes)


class _Table:
    """The instructions of one function, and what was found out about the values that they make."""

    def __init__(self, code: CodeType) -> None:
        self._users = is_users(code.co_filename)
        self._steps = [step for step in dis.get_instructions(code) if step.opname not in _SILENT]
        self._offsets = [step.offset for step in self._steps]
        self._known: dict[tuple[int, int | None], Fate] = {}

    def fate(self, offset: int, part: int | None) -> Fate:
        """Of the value of the instruction at ``offset``; if it is ``part`` of that value, of the part."""
        key = offset, part
        if key not in self._known:
            # While a call runs, its frame may stand on any of the instruction's cache entries.
            self._known[key] = self._follow(bisect_right(self._offsets, offset), part)
        return self._known[key]

    def _follow(self, position: int, part: int | None) -> Fate:
        above = 0  # How many values lie on top of it.
        while 0 < position < len(self._steps):
            step = self._steps[position]
            position += 1
            name, argument = step.opname, step.arg or 0
            if name == "SWAP":
                above = argument - 1 if above == 0 else 0 if above == argument - 1 else above
            elif name == "COPY":
                above = 0 if above == argument - 1 else above + 1
            elif name == "JUMP_FORWARD":
                position = bisect_right(self._offsets, step.argval - 1)
            elif name in ("RETURN_VALUE", "YIELD_VALUE"):
                return Fate("returned", (), part) if above == 0 and name == "RETURN_VALUE" else _NOWHERE
            elif name in ("LIST_APPEND", "SET_ADD", "MAP_ADD"):
                if above:
                    return _NOWHERE
                # It is in what the loop around it collects; after the loop that is on top.
                position = self._after_loop(position)
            elif name == "CALL_FUNCTION_EX" and above == argument == 0 and not self._users:
                pass  # In the library, named tuples are made so: of the same parts.
            elif (taken := _taken(name, argument)) is None:
                return _NOWHERE
            elif above >= taken:
                above += 1 - taken if name.startswith("CALL") else dis.stack_effect(step.opcode, step.arg, jump=False)
            elif name in ("BUILD_TUPLE", "BUILD_LIST") and part is None:
                part, above = argument - 1 - above, 0
            elif name == "UNPACK_SEQUENCE" and part is not None:
                part, above = None, part
            else:
                return self._stored(position - 1, above, part)
        return _NOWHERE

    def _after_loop(self, position: int) -> int:
        ends = {"JUMP_BACKWARD", "END_FOR", "POP_ITER"}
        while position < len(self._steps) and self._steps[position].opname in ends:
            position += 1
            # In some versions this takes the iterator.
            if self._steps[position - 1].opname == "END_FOR" and self._steps[position].opname == "POP_TOP":
                position += 1
        return position

    def _stored(self, position: int, above: int, part: int | None) -> Fate:
        """The fate of a value that the instruction at ``position`` takes."""
        step = self._steps[position]
        found: str | None = None
        if step.opname in _STORES or (step.opname == "STORE_ATTR" and above == 1):
            found = str(step.argval)
        elif step.opname.startswith("STORE_FAST_"):
            found = str(step.argval[above])
        elif step.opname == "STORE_SUBSCR" and above == 2:
            key = self._steps[position - 1].argval
            found = key if isinstance(key, str) and self._steps[position - 1].opname == "LOAD_CONST" else None
        elif step.opname == "UNPACK_SEQUENCE":
            return self._unpacked(position, int(step.argval))
        if found is None or not found.isidentifier() or iskeyword(found):
            return _NOWHERE
        return Fate("stored", (found if part is None else f"{found}_{part}",))

    def _unpacked(self, position: int, count: int) -> Fate:
        names: list[str] = []
        for step in self._steps[position + 1 : position + 1 + count]:
            if step.opname in _STORES:
                names.append(str(step.argval))
            elif step.opname == "STORE_FAST_STORE_FAST":
                names += map(str, step.argval)
            else:
                break
        return Fate("stored", tuple(names[:count])) if len(names) >= count else _NOWHERE


def _taken(name: str, argument: int) -> int | None:
    """How many values an instruction takes; None if that is not known."""
    if name in _PER_ARGUMENT:
        times, plus = _PER_ARGUMENT[name]
        return times * argument + plus
    if name in _POPS:
        return _POPS[name]
    return 0 if (name.startswith("LOAD_") and not name.startswith("LOAD_SUPER")) or name == "PUSH_NULL" else None


# By identity: functions' code compares by value, which takes long.
_tables: dict[int, _Table] = {}


def _table(code: CodeType) -> _Table:
    table = _tables.get(id(code))
    if table is None:
        table = _tables[id(code)] = _Table(code)
        weakref.finalize(code, _tables.pop, id(code), None)
    return table


def unnamed(x: Variable) -> bool:
    """Whether a value has no name, or one that was made up for it."""
    return not x.name or re.fullmatch(r"t\d+", x.name) is not None


def name_all(values: Iterable[Variable]) -> None:
    """Give every value of a graph a name of its own; those of another graph keep theirs."""
    taken: dict[str, int] = {}
    fresh: list[Variable] = []
    for x in dict.fromkeys(values):
        if x.settled and x.name not in taken:
            taken[x.name] = 1
        else:
            fresh.append(x)
    count = 0
    for x in fresh:
        base = x.name if x.name.isidentifier() else re.sub(r"\W", "_", x.name)
        base += "_" * iskeyword(base)
        if not base:
            count += 1
            while f"t{count}" in taken:
                count += 1
            base = f"t{count}"
        name = base
        while name in taken:
            taken[base] += 1
            name = f"{base}_{taken[base]}"
        taken.setdefault(base, 1)
        taken[name] = 1
        x.name = name
        x.settled = True


def leaf_names(f: Callable[..., Any] | str, examples: tuple[Any, ...]) -> list[str]:
    """Names of the arguments' leaves: the parameters', in containers with the keys or positions behind them; or all after one name."""
    plain, rest = ([f], "") if isinstance(f, str) else _parameter_names(f)
    names = [plain[i] if i < len(plain) else f"{rest}{i - len(plain)}" for i in range(len(examples))]
    return [name for base, example in zip(names, examples, strict=True) for name in _leaf_names(base, example)]


def _parameter_names(f: Callable[..., Any]) -> tuple[list[str], str]:
    try:
        found = list(signature(f).parameters.values())
    except (TypeError, ValueError):
        found = []
    plain = [p.name for p in found if p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)]
    return plain, next((p.name for p in found if p.kind is Parameter.VAR_POSITIONAL), "x")


def _leaf_names(base: str, example: Any) -> list[str]:
    if isinstance(example, dict):
        return [name for key, part in example.items() for name in _leaf_names(f"{base}_{key}", part)]
    if hasattr(example, "_fields"):
        return [name for key, part in zip(example._fields, example, strict=True) for name in _leaf_names(f"{base}_{key}", part)]
    if isinstance(example, (list, tuple)):
        return [name for i, part in enumerate(example) for name in _leaf_names(f"{base}_{i}", part)]
    return [] if example is None else [base]
