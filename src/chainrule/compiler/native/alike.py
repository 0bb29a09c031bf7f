"""Kernels that are alike are written once: who asks for one again, on other values, gets another name of the same function.

What a kernel is written of (a product and the gates behind it, a loop nest and where its operands lie) is the key: all its numbers, with
every value in it replaced by the order in which the values come, its shape and its dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from chainrule.compiler.native.ir import Module
from chainrule.compiler.native.kernel import Call, Kernel
from chainrule.compiler.native.product import Written
from chainrule.compiler.native.views import View
from chainrule.core.variable import Variable
from chainrule.graph.ir import Operation, frozen

__all__ = ["Alike"]

_Numbers = dict[Variable, int]


class Alike:
    """What was written in a module; ``name`` gives names of new kernels, and constants are the same for all who call one."""

    def __init__(self, module: Module, name: Callable[[], str], constants: Container[Variable] = ()) -> None:
        self._module, self._name, self._constants = module, name, constants
        self._written: dict[Hashable, Written] = {}
        self._calls: dict[Hashable, tuple[_Numbers, list[Call]]] = {}

    def written(self, of: Any, write: Callable[[str], Written]) -> Written:
        """What ``write(name)`` gives, which depends on nothing but ``of``."""
        key = _key(of, {})
        found = self._written.get(key)
        if found is None:
            found = self._written[key] = write(self._name())
            return found
        return found._replace(works=tuple(work._replace(kernel=self._again(work.kernel)) for work in found.works))

    def calls(self, of: Any, views: Mapping[Variable, View], write: Callable[[str], list[Call]]) -> list[Call]:
        """What ``write(name)`` gives, which depends on nothing but ``of`` and where the values in it lie; they are the calls' arguments."""
        numbers: _Numbers = {}
        key = (_key(of, numbers), *(_key(views.get(x), numbers) for x in [*numbers]))
        found = self._calls.get(key)
        if found is None:
            made = write(self._name())
            self._calls[key] = numbers, made
            return made
        before, calls = found
        now = dict(zip(before, numbers, strict=True))
        return [self._called(call, now) for call in calls]

    def _called(self, call: Call, now: dict[Variable, Variable]) -> Call:
        """A call on other values; what is only handed from one kernel to the next is new."""
        now.update((x, x if x in self._constants else Variable(x.aval, x.name)) for x in call.arguments if x not in now)
        return Call(*(_exchanged(part, now) for part in call))._replace(kernel=self._again(call.kernel))

    def _again(self, kernel: Kernel) -> Kernel:
        name = self._name()
        self._module.same[name] = kernel.name
        return kernel._replace(name=name)


def _key(x: Any, numbers: _Numbers) -> Hashable:
    """Equal for what is alike; notes which values come in it, in order."""
    if x.__class__ is int:
        return x
    if isinstance(x, Variable):
        return numbers.setdefault(x, len(numbers)), x.aval
    if isinstance(x, (tuple, list)):
        return tuple([_key(part, numbers) for part in x])
    if isinstance(x, Operation):
        return x.primitive, _key(x.inputs, numbers), frozen(x.params), _key(x.outputs, numbers)
    if isinstance(x, Mapping):
        return tuple([(_key(name, numbers), _key(part, numbers)) for name, part in x.items()])
    if is_dataclass(x) and not isinstance(x, type):
        return tuple(_key(getattr(x, part.name), numbers) for part in fields(x))
    return frozen(x)


def _exchanged(x: Any, now: Mapping[Variable, Variable]) -> Any:
    """The same with other values in it."""
    if isinstance(x, Variable):
        return now[x]
    if x.__class__ in (tuple, frozenset):
        return x.__class__(_exchanged(part, now) for part in x)
    return x
