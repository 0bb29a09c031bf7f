"""Holding: which tensors the caller's variables hold, and under which names; a tape knows neither names nor the values of leaves."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from traceback import walk_stack
from typing import Any

from chainrule.core.errors import LayerError, is_users
from chainrule.tensor import Tensor

_FRAMES = 8
_MOST = 1000
"""Of longer containers the rest is not looked into for names."""


def callers_variables() -> Iterator[tuple[str, Tensor]]:
    """Tensors that the user's own functions hold, of the functions that are running now, the best name of each last."""
    frames = [frame for frame, _ in walk_stack(sys._getframe(1)) if is_users(frame.f_code.co_filename)]
    for frame in reversed(frames[:_FRAMES]):
        read = frame.f_code.co_names
        yield from held_by({**{name: frame.f_globals[name] for name in read if name in frame.f_globals}, **frame.f_locals})


def functions_variables(f: Callable[..., Any]) -> Iterator[tuple[str, Tensor]]:
    """Tensors that a function can reach: in variables of enclosing functions and of its module; of a layer, its parameters."""
    yield from held_by({"f": f})
    code = getattr(f, "__code__", None)
    if code is not None and is_users(code.co_filename):
        module: Mapping[str, Any] = getattr(f, "__globals__", {})
        cells = zip(code.co_freevars, getattr(f, "__closure__", None) or (), strict=False)
        found = {name: module[name] for name in code.co_names if name in module}
        for name, cell in cells:
            # Empty is the cell of a variable that is not set yet.
            with suppress(ValueError):
                found[name] = cell.cell_contents
        yield from held_by(found)


def held_by(names: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors among a function's variables: in containers there, the parameters of networks, and lastly the variables themselves."""
    for name, thing in names.items():
        if isinstance(thing, dict):
            yield from _parts(name, thing.items())
        elif isinstance(thing, (list, tuple)):
            yield from _parts(name, enumerate(thing))
    for thing in names.values():
        yield from parameters(thing)
    for name, thing in names.items():
        if isinstance(thing, Tensor):
            yield name, thing


def parameters(thing: Any) -> Iterator[tuple[str, Tensor]]:
    """A network's parameters by their names; nothing of anything else."""
    named: Callable[[], Iterable[tuple[str, Tensor]]] | None = None if isinstance(thing, type) else getattr(thing, "named_parameters", None)
    if named is not None:
        # A network without parameters yet has computed nothing.
        with suppress(LayerError):
            yield from named()


def _parts(name: str, parts: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, Tensor]]:
    return ((f"{name}_{key}", part) for key, part in islice(parts, _MOST) if isinstance(part, Tensor))
