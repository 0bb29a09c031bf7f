"""What a graph has become, under a key of the graph itself: who has its step on disk need not write it again to find its machine code.

The key is all that the writing of a step depends on: the graph with its shapes, parameters and constants, the machine, and the library's own
files, which are known as Python knows those that it has compiled, by their sizes and times. What cannot be told for certain has no key.
"""

from __future__ import annotations

import marshal
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from chainrule.compiler.native.cache import discard, fetch, folder, keep, key_of
from chainrule.compiler.native.conv_shape import Target
from chainrule.compiler.native.space import debugging
from chainrule.core.aval import Shape
from chainrule.core.primitive import LOADED, TABLE
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation
from chainrule.ops.indices import Basic

__all__ = ["Launch", "key_of_graph", "recall", "remember"]

LIMIT = 1 << 20
"""Bytes of constants up to which a step is kept: they are kept with it."""


class Launch(NamedTuple):
    """A step, and what it is called with, in plain numbers and words.

    Attributes
    ----------
    step : str
        The function's name.
    direct : bool
        Whether the caller's thread alone runs it.
    made : sequence of (shape, str)
        Results that get memory: in which shape, of which dtype.
    constants : sequence of (str, shape, bytes)
        Dtype, shape, elements.
    arena_bytes, unplanned_bytes : int
    results : sequence of int
        The slots that are given out.
    donors : sequence of (int, int)
        Which of the results may take over the memory of which input.
    code : (str, sequence of str)
        Under which key the machine code is kept, and its functions.
    """

    step: str
    direct: bool
    made: Sequence[tuple[Shape, str]]
    constants: Sequence[tuple[str, Shape, bytes]]
    arena_bytes: int
    unplanned_bytes: int
    results: Sequence[int]
    donors: Sequence[tuple[int, int]]
    code: tuple[str, Sequence[str]]


def remember(key: str, launch: Launch) -> None:
    """Keep a step, if it is not too large."""
    plain: Any = tuple(launch)
    if sum(len(elements) for _, _, elements in launch.constants) <= LIMIT:
        keep(key, marshal.dumps(plain))


def recall(key: str) -> Launch | None:
    """What was kept under a key."""
    data = fetch(key)
    if data is None:
        return None
    try:
        return Launch(*marshal.loads(data))  # noqa: S302, as trusted as the machine code beside it, which is run
    except (ValueError, EOFError, TypeError):
        discard(key)
        return None


def key_of_graph(graph: Graph, target: Target, donate: Mapping[int, int], kind: Sequence[str]) -> str | None:
    """The key of a graph's step on a machine of a ``kind``; None if it has none.

    ``CHAINRULE_CACHE_STEPS=0``: none has, as where the library's functions are exchanged while it runs; nor has any in debug mode.
    """
    if folder() is None or debugging() or os.environ.get("CHAINRULE_CACHE_STEPS", "").strip() == "0":
        return None
    library = _library()
    if library is None:
        return None
    try:
        described = _graph(graph, {})
    except _UnknownError:
        return None
    return key_of("step", library, repr(described), repr(target), repr(sorted(donate.items())), sys.version, np.__version__, *kind)


@cache
def _library() -> str | None:
    """What its files were when it was loaded; None if that cannot be said."""
    root = Path(__file__).parents[2]
    found: list[tuple[str, int, int]] = []
    try:
        for path in sorted(root.rglob("*.py")):
            seen = path.stat()
            if seen.st_mtime >= LOADED:
                # What runs here may be older than the file.
                return None
            found.append((str(path), seen.st_size, seen.st_mtime_ns))
    except OSError:
        return None
    return repr(found) if found else None


class _UnknownError(Exception):
    """Something that has no description by which it is known in another process."""


_Numbers = dict[Variable, int]


def _graph(graph: Graph, numbers: _Numbers) -> Any:
    """Equal for graphs that compute the same in the same way: what is computed of what, not what it is called."""
    return (
        "graph",
        _plain(graph.inputs, numbers),
        [(_plain(x, numbers), _plain(value, numbers)) for x, value in graph.constants.items()],
        [_operation(node, numbers) for node in graph.nodes],
        _plain(graph.outputs, numbers),
        len(graph.captured),
        len(graph.updated),
    )


def _operation(node: Operation, numbers: _Numbers) -> Any:
    gate = node.primitive
    if TABLE.get(gate.name) is not gate:
        raise _UnknownError
    return (
        gate.name,
        _plain(node.inputs, numbers),
        [(name, _plain(value, numbers)) for name, value in node.params.items()],
        _plain(node.outputs, numbers),
    )


def _plain(x: Any, numbers: _Numbers) -> Any:
    """Of numbers, words and containers of them, whose ``repr`` tells apart what is different; values count in the order in which they come."""
    kind = x.__class__
    if kind in (int, float, complex, bool, str, bytes, type(None)):
        return x
    if kind in (tuple, list):
        return kind.__name__, [_plain(part, numbers) for part in x]
    if kind is Variable:
        seen = numbers.get(x)
        if seen is None:
            seen = numbers[x] = len(numbers)
            return "new", seen, x.shape, x.dtype.str
        return "x", seen
    if isinstance(x, np.dtype):
        return "dtype", _word(x)
    if isinstance(x, (np.ndarray, np.generic)):
        return "array", _word(x.dtype), x.shape, sha256(x.tobytes()).hexdigest()
    if kind is slice:
        return "slice", _plain((x.start, x.stop, x.step), numbers)
    if kind is Basic:
        return "index", _plain(x.native, numbers)
    if kind is dict:
        return "dict", [(_plain(name, numbers), _plain(part, numbers)) for name, part in x.items()]
    if isinstance(x, Graph):
        return _graph(x, numbers)
    raise _UnknownError


def _word(dtype: np.dtype[Any]) -> str:
    if dtype.kind not in "biufc":
        raise _UnknownError
    return dtype.str
