"""Kernels side by side: one that does the units of several, none of which reads or writes what another writes."""

from __future__ import annotations

from collections.abc import Sequence

from chainrule.compiler.native.ir import I8, I64, PTR, VOID, Function, Module, index
from chainrule.compiler.native.kernel import Call, Kernel

__all__ = ["side_by_side"]


def side_by_side(module: Module, name: str, calls: Sequence[Call]) -> Call:
    """Write the kernel."""
    if len(calls) == 1:
        return calls[0]
    arguments = tuple(dict.fromkeys(x for call in calls for x in call.arguments))
    f = Function(module, name, [*((f"p{i}", PTR) for i in range(len(arguments))), ("first", I64), ("last", I64)], linkage="internal")
    pointers = dict(zip(arguments, f.parameters, strict=False))
    start = 0
    for call in calls:
        units = call.kernel.units
        offsets = call.offsets or (0,) * len(call.arguments)
        given = [f.at(pointers[x], offset, I8) for x, offset in zip(call.arguments, offsets, strict=True)]
        first, last = (index(f.least(f.most(f.sub(x, start), 0), units)) for x in f.parameters[-2:])
        f.call(call.kernel.name, VOID, *given, first, last)
        start += units
    f.close()
    return Call(Kernel(name, start), arguments, tuple(dict.fromkeys(x for call in calls for x in call.writes)))
