"""The native backend: a graph becomes machine code, and what calls it with arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from ctypes import CFUNCTYPE, c_int64, c_void_p
from typing import Any

import numpy as np

from chainrule.compiler.backend import Run
from chainrule.compiler.memory import ALIGNMENT
from chainrule.compiler.native.conv_shape import Target
from chainrule.compiler.native.emit import CallBack, Program, Segment, emit
from chainrule.compiler.native.engine import Code, host, load
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation

__all__ = ["Native", "build_native"]

_STEP = CFUNCTYPE(None, c_void_p, c_int64, c_int64)


class Native:
    """A graph as machine code that is loaded.

    Attributes
    ----------
    program : Program
    run : callable
        As `Executable.run`.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.program = emit(graph, Target.of(host()))
        self.code = load(self.program.text)
        self.run: Run = Caller(graph, self.program, self.code)

    @property
    def called_back(self) -> Counter[str]:
        """How often a call runs which gates in Python."""
        return Counter(part.node.primitive.name for part in self.program.parts if isinstance(part, CallBack))


def build_native(graph: Graph) -> Native:
    """Compile a graph that has gone through the passes."""
    return Native(graph)


class Caller:
    """Calls the parts of a program in order, with arrays."""

    def __init__(self, graph: Graph, program: Program, code: Code) -> None:
        self.program = program
        self.inputs = graph.inputs
        self.constants = {x: np.ascontiguousarray(value).reshape(x.shape) for x, value in graph.constants.items()}
        self.parts = [_STEP(code.address(part.name)) if isinstance(part, Segment) else part.node for part in program.parts]
        self.code = code
        self.made = [x for x in program.slots if x not in graph.inputs and x not in self.constants]

    def __call__(self, *arrays: Any) -> tuple[Any, ...]:
        program = self.program
        memory: dict[Variable, np.ndarray] = dict(self.constants)
        memory.update((x, np.ascontiguousarray(value).reshape(x.shape)) for x, value in zip(self.inputs, arrays, strict=True))
        memory.update((x, np.empty(x.shape, x.dtype)) for x in self.made)
        arena = np.empty(program.arena_bytes + ALIGNMENT, np.uint8)
        first = -arena.ctypes.data % ALIGNMENT
        block = (c_void_p * (len(program.slots) + 1))(*(memory[x].ctypes.data for x in program.slots), arena.ctypes.data + first)
        for part in self.parts:
            if isinstance(part, Operation):
                self._call_back(part, memory, arena[first:])
            else:
                part(block, 0, 1)
        own = dict(zip(self.inputs, arrays, strict=True))
        return tuple(own[x] if x in own else memory[x] if x.shape else memory[x][()] for x in program.results)

    def _array(self, x: Variable, memory: Mapping[Variable, np.ndarray], arena: np.ndarray) -> np.ndarray:
        view = self.program.views[x]
        root, size = view.root, view.root.dtype.itemsize
        data = memory[root] if root in memory else arena[self.program.places[root] :]
        return np.ndarray(view.shape, root.dtype, data, view.offset * size, tuple(stride * size for stride in view.strides))

    def _call_back(self, node: Operation, memory: Mapping[Variable, np.ndarray], arena: np.ndarray) -> None:
        given = [self._array(x, memory, arena) for x in node.inputs]
        made = node.primitive.evaluate(*(value if value.shape else value[()] for value in given), **node.params)
        for x, value in zip(node.outputs, made if node.primitive.outputs else (made,), strict=True):
            self._array(x, memory, arena)[...] = value
