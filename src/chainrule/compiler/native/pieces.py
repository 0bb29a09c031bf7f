"""The text of a module as several, which threads can compile side by side: their functions find each other by name when they are linked.

What comes out depends on the text alone, not on how many threads there are. What compiling is, is the business of others.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar

__all__ = ["pieces", "shared"]

T = TypeVar("T")

_NAME = re.compile(r"@([\w.$]+)")


class _Function(NamedTuple):
    """Its text, how others declare it, and the names in it, its own included."""

    text: str
    declared: str
    names: frozenset[str]


def pieces(text: str, size: int) -> list[str]:
    """Split a module between its functions.

    Parameters
    ----------
    text : str
        LLVM IR; what it defines besides functions is internal.
    size : int
        How many characters the functions of a piece have together; one that is longer is a piece by itself.

    Returns
    -------
    list of str
        Modules of the same functions. Where there are several, what was internal is hidden: only what is linked with them finds it.
    """
    if len(text) <= size:
        return [text]
    functions, others = _parts(text)
    groups: list[list[str]] = [[]]
    room = size
    for name, function in functions.items():
        if groups[-1] and len(function.text) > room:
            groups.append([])
            room = size
        groups[-1].append(name)
        room -= len(function.text)
    return [_module(group, functions, others) for group in groups] if len(groups) > 1 else [text]


def _parts(text: str) -> tuple[dict[str, _Function], list[str]]:
    """The functions by name, and the lines that stand outside of them."""
    functions: dict[str, _Function] = {}
    *written, rest = text.split("\n}\n")
    others = rest.splitlines()
    for part in written:
        before, _, function = f"\n{part}".rpartition("\ndefine ")
        others += before.splitlines()
        if function.startswith("internal "):
            function = f"hidden {function.removeprefix('internal ')}"
        head = function[: function.index("\n")]
        name = _NAME.findall(head)[0]
        functions[name] = _Function(f"define {function}\n}}\n", f"declare {head.rstrip(' {')}", frozenset(_NAME.findall(function)))
    return functions, others


def _module(group: Sequence[str], functions: Mapping[str, _Function], others: Sequence[str]) -> str:
    """Some of the functions, with what they name."""
    names = frozenset[str]().union(*(functions[name].names for name in group))
    needed = [line for line in others if not (found := _NAME.search(line)) or found[1] in names]
    declared = [function.declared for name, function in functions.items() if name in names and name not in group]
    return "\n".join([*needed, *declared, *(functions[name].text for name in group)])


def shared(tasks: Sequence[Callable[[], T]], threads: int) -> list[T]:
    """What each of the tasks gives, where so many threads take one after the other; the first error of any ends them all."""
    left = deque(enumerate(tasks))
    given: dict[int, T] = {}
    errors: list[BaseException] = []

    def work() -> None:
        while not errors:
            try:
                place, task = left.popleft()
            except IndexError:
                return
            try:
                given[place] = task()
            except BaseException as error:
                errors.append(error)

    # The caller's thread waits: an interrupt, which only the main one hears, never finds it with a lock in hand that others need.
    count = min(threads, len(tasks))
    helpers = [threading.Thread(target=work) for _ in range(count if count > 1 else 0)]
    try:
        # The system, or Python as it ends, may refuse more threads: then the caller's does what is left.
        with suppress(RuntimeError):
            for helper in helpers:
                helper.start()
        _wait(helpers)
        work()
    finally:
        left.clear()
        _wait(helpers)
    if errors:
        raise errors[0]
    return [given[place] for place in range(len(tasks))]


def _wait(helpers: Iterable[threading.Thread]) -> None:
    for helper in helpers:
        if helper.is_alive():
            helper.join()
