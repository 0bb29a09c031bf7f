"""What the caller's code calls a value: read off the frames and the bytecode around the call that made it.

A value that is stored by the very next instruction has that variable's name, also where it is handed up through
returns. Nothing here is needed to compute; what cannot be found out stays without a name.
"""

from __future__ import annotations

import dis
import sys
from types import CodeType, FrameType

from chainrule.core.errors import is_users

_STORES = ("STORE_FAST", "STORE_NAME", "STORE_GLOBAL", "STORE_DEREF", "STORE_ATTR")
_next: dict[CodeType, dict[int, tuple[str, tuple[str, ...]]]] = {}


def caller(depth: int) -> tuple[tuple[str, ...], tuple[str, int]]:
    """Names under which the caller's code stores the value that is being made, and the line that makes it.

    Parameters
    ----------
    depth : int
        Frames above this function that belong to tracing.
    """
    frame: FrameType | None = sys._getframe(depth + 1)
    names: tuple[str, ...] = ()
    handed_up = True
    while frame is not None:
        code = frame.f_code
        users = is_users(code.co_filename)
        if handed_up:
            kind, found = _after(code, frame.f_lasti)
            if kind == "store" and users:
                names = found
            handed_up = kind == "return"
        if users:
            return names, (code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return names, ("", 0)


def name_in_caller(depth: int, value: object) -> tuple[str, bool]:
    """The name by which a layer knows a value, and True; else that in the innermost function of the caller's code."""
    frame: FrameType | None = sys._getframe(depth + 1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        found = "" if owner is None or not hasattr(owner, "_members") else _attribute(owner, value)
        if found:
            return found, True
        if is_users(frame.f_code.co_filename):
            found = next((name for name, other in frame.f_locals.items() if other is value), "")
            return found or next((name for name in frame.f_code.co_names if frame.f_globals.get(name) is value), ""), False
        frame = frame.f_back
    return "", False


def _attribute(owner: object, value: object) -> str:
    return next((name for name, other in vars(owner).items() if other is value), "")


def _after(code: CodeType, offset: int) -> tuple[str, tuple[str, ...]]:
    """What happens to the result of the instruction at ``offset``: stored under names, returned, or neither."""
    table = _next.get(code)
    if table is None:
        table = _next[code] = _read(code)
    return table.get(offset, ("", ()))


def _read(code: CodeType) -> dict[int, tuple[str, tuple[str, ...]]]:
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("CACHE", "EXTENDED_ARG")]
    found: dict[int, tuple[str, tuple[str, ...]]] = {}
    for position in range(len(steps) - 1):
        fate = _fate(steps, position + 1)
        if fate[0]:
            # While a call runs, the frame may stand on any of the instruction's cache entries.
            found.update(dict.fromkeys(range(steps[position].offset, steps[position + 1].offset, 2), fate))
    return found


def _fate(steps: list[dis.Instruction], position: int) -> tuple[str, tuple[str, ...]]:
    step = steps[position]
    if step.opname == "RETURN_VALUE":
        return "return", ()
    if step.opname in _STORES:
        return "store", (str(step.argval),)
    if step.opname.startswith("STORE_FAST_"):
        return "store", (str(step.argval[0]),)
    if step.opname == "UNPACK_SEQUENCE":
        names = [_stored(later) for later in steps[position + 1 : position + 1 + int(step.argval)]]
        return ("store", tuple(names)) if all(names) else ("", ())
    return "", ()


def _stored(step: dis.Instruction) -> str:
    return str(step.argval) if step.opname in _STORES else ""
