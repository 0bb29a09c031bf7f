"""What calls machine code with arrays: loads it, gives it memory, and calls back what it does not have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ctypes import CFUNCTYPE, addressof, c_int64, c_void_p
from functools import partial
from typing import Any

import numpy as np

from chainrule.compiler.backend import Run
from chainrule.compiler.native.emit import Program
from chainrule.compiler.native.engine import Code, load, pool, reload
from chainrule.compiler.native.entry import enter
from chainrule.compiler.native.loops import failure
from chainrule.compiler.native.recall import Launch, remember
from chainrule.compiler.native.space import Fenced, Space, debugging
from chainrule.compiler.native.step import Segment
from chainrule.core.aval import Aval
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation

__all__ = ["Caller", "caller", "recalled"]

_STEP = CFUNCTYPE(None, c_void_p, c_int64, c_int64)
_RUN = CFUNCTYPE(None, c_void_p, c_void_p)


def caller(graph: Graph, program: Program, *, parts: type[Caller] | None = None, key: str | None = None) -> Run:
    """A function of arrays that runs a program; ``parts``, a `Caller` if not given, does so where gates are called back. It is kept under ``key``."""
    code = load(program.text, loops=program.loops)
    inputs = {*graph.inputs}
    made = [x for x in program.slots if x not in inputs and x not in program.constants]
    part = program.parts[0] if len(program.parts) == 1 else None
    if isinstance(part, Segment) and not debugging():
        constants = [np.asarray(value) for value in program.constants.values()]
        launch = Launch(
            part.name,
            not part.shared,
            [(program.shapes[x], x.dtype.str) for x in made],
            [(x.dtype.str, x.shape, x.tobytes()) for x in constants],
            program.arena_bytes,
            program.unplanned_bytes,
            [program.slots[x] for x in program.results],
            [(made.index(out), graph.inputs.index(x)) for out, x in program.donors.items()],
            (code.key, code.names),
        )
        if key is not None:
            remember(key, launch)
        return _entered(graph, launch, code)
    return (parts or Caller)(graph, program, code)


def recalled(graph: Graph, launch: Launch) -> Run | None:
    """A function of arrays that runs a step which was kept; None if its machine code is not there any more."""
    code = reload(*launch.code, pooled=not launch.direct)
    return None if code is None else _entered(graph, launch, code)


def _entered(graph: Graph, launch: Launch, code: Code) -> Run:
    constants = [np.frombuffer(elements, dtype).reshape(shape) for dtype, shape, elements in launch.constants]
    return enter(
        code.address(launch.step), [x.aval for x in graph.inputs], [Aval(shape, np.dtype(dtype)) for shape, dtype in launch.made], constants,
        launch.arena_bytes, results=launch.results, donors=dict(launch.donors), direct=launch.direct, failed=_failed, keep=(code,),
    )  # fmt: skip


def _failed(status: int) -> None:
    """Whoever called evaluates the gates one by one, to say which."""
    raise failure(status)


class Caller:
    """Calls the parts of a program in order, with arrays, some of them in Python."""

    def __init__(self, graph: Graph, program: Program, code: Code) -> None:
        self.program = program
        self.code = code
        self.inputs = graph.inputs
        self.constants = {x: np.ascontiguousarray(value).reshape(x.shape) for x, value in program.constants.items()}
        self.parts = [self._step(code, part) if isinstance(part, Segment) else part.node for part in program.parts]
        self.made = [x for x in program.slots if x not in graph.inputs and x not in self.constants]

    def _step(self, code: Code, part: Segment) -> Callable[[Any], None]:
        address = code.address(part.name)
        if part.shared:
            return partial(_RUN(pool().symbols["pool_run"]), address)
        alone = _STEP(address)
        return lambda block: alone(block, 0, 1)

    def __call__(self, *arrays: Any) -> tuple[Any, ...]:
        program = self.program
        space = Fenced() if debugging() else Space()
        memory = {x: space.given(x, value) for x, value in (*self.constants.items(), *zip(self.inputs, arrays, strict=True))}
        memory.update((x, space.made(x, Aval(program.shapes[x], x.dtype))) for x in self.made)
        arena = space.arena(program.arena_bytes, program.places)
        status = c_int64(0)
        pointers = [*(memory[x].ctypes.data for x in program.slots), arena.ctypes.data, addressof(status)]
        block = (c_void_p * len(pointers))(*pointers)
        for part in self.parts:
            if isinstance(part, Operation):
                self.call_back(part, memory, arena)
            else:
                part(block)
                space.check()
                if status.value:
                    _failed(status.value)
        own = dict(zip(self.inputs, arrays, strict=True))
        return tuple(own[x] if x in own else memory[x] if memory[x].shape else memory[x][()] for x in program.results)

    def _array(self, x: Variable, memory: Mapping[Variable, np.ndarray], arena: np.ndarray) -> np.ndarray:
        view = self.program.views[x]
        root, size = view.root, view.root.dtype.itemsize
        data = memory[root] if root in memory else arena[self.program.places[root] :]
        return np.ndarray(view.shape, root.dtype, data, view.offset * size, tuple(stride * size for stride in view.strides))

    def call_back(self, node: Operation, memory: Mapping[Variable, np.ndarray], arena: np.ndarray) -> None:
        given = [self._array(x, memory, arena) for x in node.inputs]
        made = node.primitive.evaluate(*(value if value.shape else value[()] for value in given), **node.params)
        for x, value in zip(node.outputs, made if node.primitive.outputs else (made,), strict=True):
            self._array(x, memory, arena)[...] = value
