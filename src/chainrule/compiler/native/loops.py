"""Loop nests that gates write themselves, as machine code: the target of `core.nest.Nest`.

One element after the other is written; LLVM makes vectors of that. If all that a gate writes is one `share`, its places are the
units that threads share; else one thread does everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from chainrule.compiler.native.ir import I1, I8, I64, PTR, Function, Index, Module, Value, index, literal
from chainrule.compiler.native.ir import kind_of as memory_kind
from chainrule.compiler.native.kernel import Call, Kernel
from chainrule.compiler.native.scalars import Builder, NotLowered, Scalar, kind_of
from chainrule.compiler.native.views import View, whole
from chainrule.core.aval import Aval, Dtype, Shape
from chainrule.core.lowering import lower
from chainrule.core.nest import Nest
from chainrule.core.variable import Variable
from chainrule.graph.ir import Operation

__all__ = ["Loops", "failure", "status_of", "write_loops"]

_FEW = 16
"""Rounds up to which the loop around theirs can be made vectors of, which it pays to write them all for."""
_LONG = 8
"""Elements of a last axis from which on it is worth a loop."""
_MANY = 60_000
"""Operations, some 20 microseconds, for more of which a gate is called back that has a better way."""
_RUN = 128
"""Columns that stay together."""
_STACK = 1 << 14
"""Bytes of memory for as long as it writes that a thread takes from its stack."""

_ERRORS: dict[type[Exception], str] = {
    IndexError: "a position is out of range",
    np.linalg.LinAlgError: "a matrix is singular or not positive definite, or too near to that",
    ValueError: "whole numbers have no negative powers",
    MemoryError: "the way back through a while_loop keeps every carry, and there is no memory for another one",
}
"""What a status says, counted from 1."""

_POSITION, _BOOL = np.dtype(np.int64), np.dtype(np.bool_)


@dataclass(frozen=True, eq=False)
class Array:
    """An array in memory, row by row from where the pointer points."""

    shape: Shape
    dtype: Dtype
    pointer: Value

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class _Cell(Scalar):
    """A variable: it is read wherever it is used."""

    function: Function
    pointer: Value

    def __init__(self, k: Builder, pointer: Value, dtype: Dtype) -> None:
        object.__setattr__(self, "k", k)
        object.__setattr__(self, "function", k.function)
        object.__setattr__(self, "dtype", dtype)
        object.__setattr__(self, "pointer", pointer)

    @property
    def register(self) -> Value:  # pyright: ignore[reportIncompatibleVariableOverride] - read anew each time
        return self.function.load(kind_of(self.dtype), self.pointer)


class _Builder(Builder):
    """The scalar builder where there are loops too.

    LLVM makes vectors of some rounds and not of others: contracted, elements would be rounded as units happen to be shared.
    """

    contracted = ""

    def __init__(self, nest: Loops, function: Function, out: Dtype, *, half: bool) -> None:
        super().__init__(function, out, half=half)
        self.nest = nest

    def pow(self, x: Any, y: Any) -> Scalar:
        if isinstance(y, Scalar) and y.dtype.kind != "f" and not (isinstance(x, Scalar) and x.dtype.kind == "f"):
            return self.nest.power(*self._numbers(x, y))
        return super().pow(x, y)


class _AloneError(Exception):
    """What is written cannot be shared: one thread does it."""


def failure(status: int) -> Exception:
    """The error that a status stands for, where nothing is known of the gate."""
    error, says = [*_ERRORS.items()][status - 1]
    return error(says)


def status_of(error: type[Exception]) -> Value:
    """The status that stands for an error."""
    return literal(1 + [*_ERRORS].index(error), I64)


class Written(NamedTuple):
    """A gate's loops as a kernel.

    Attributes
    ----------
    call : Call
    constants : Mapping of Variable to array
        Arrays known beforehand that it reads.
    """

    call: Call
    constants: Mapping[Variable, Any]


def write_loops(module: Module, name: str, node: Operation, views: Mapping[Variable, View], status: Variable, *, inner: bool = False) -> Written:
    """Write the loops of a gate.

    Parameters
    ----------
    module : Module
    name : str
    node : Operation
        Its inputs lie row by row, its outputs in memory of their own.
    views : Mapping of Variable to View
    status : Variable
        An i64 in memory that is set where something is wrong (see `failure`).
    inner : bool
        Whether nothing can be called back; else a gate that has a better way is, where there is much to do.

    Raises
    ------
    NotLowered
        If the gate has no loops, or asks for what there is not here.
    """
    if any(x.dtype.kind not in "fiub" or x.dtype.itemsize > 8 for x in (*node.inputs, *node.outputs)):
        raise NotLowered(f"{node.primitive.name} of such numbers")
    try:
        return Loops(module, name, node, views, status, shared=True, inner=inner).write()
    except _AloneError:
        return Loops(module, name, node, views, status, shared=False, inner=inner).write()


class Loops(Nest):
    """Writes the kernel of one gate.

    Parameters
    ----------
    shared : bool
        Whether its places shall be units; if it writes anything but one `share`, that is an error.
    """

    def __init__(
        self, module: Module, name: str, node: Operation, views: Mapping[Variable, View], status: Variable, *, shared: bool, inner: bool
    ) -> None:
        self.node, self.views, self.status, self.shared, self.inner = node, views, status, shared, inner
        self.f = f = Function(module, name, [("first", I64), ("last", I64)], noalias=True)
        self.first, self.last = f.parameters
        self.k = _Builder(self, f, node.outputs[0].dtype, half=any(x.dtype == np.float16 for x in node.inputs))
        self.arguments: list[Variable] = []
        self.writes: list[Variable] = []
        self.constants: dict[Variable, Any] = {}
        self.units = 0
        self._pointers: dict[Variable, Value] = {}
        self._depth = 0 if shared else 1
        self._stack = 0
        self._done: list[str] = []

    def write(self) -> Written:
        """The kernel."""
        node, f = self.node, self.f
        with f.when(f.compare("slt", self.first, self.last)):
            inputs = [self._array(x) for x in node.inputs]
            outputs = [self._array(x, written=True) for x in node.outputs]
            if not lower(self, node.primitive, outputs, inputs, node.params):
                raise NotLowered(f"{node.primitive.name} has no loops")
        f.parameters = [*self._pointers.values(), self.first, self.last]
        f.close()
        units = self.units if self.shared else 1
        return Written(Call(Kernel(f.name, units), tuple(self.arguments), tuple(self.writes)), self.constants)

    def _array(self, x: Variable, *, written: bool = False) -> Array:
        view = self.views.get(x) or whole(x)
        return Array(x.shape, x.dtype, self.f.at(self._pointer(view.root, written=written), view.offset, memory_kind(x.dtype)))

    def _pointer(self, root: Variable, *, written: bool = False) -> Value:
        if root not in self._pointers:
            self._pointers[root] = Value(f"%p{len(self._pointers)}", PTR)
            self.arguments.append(root)
        if written and root not in self.writes:
            self.writes.append(root)
        return self._pointers[root]

    def _inside(self) -> None:
        """What is written next has to stand in a unit."""
        if not self._depth:
            raise _AloneError

    # Control.

    @contextmanager
    def loop(self, stop: Any, start: Any = 0) -> Generator[Any]:
        self._inside()
        first, last = self._index(start), self._index(stop)
        with self.f.loop(first, last, unroll=isinstance(first, int) and isinstance(last, int) and last <= _FEW) as loop:
            yield self._position(loop.index)

    @contextmanager
    def share(self, shape: Sequence[int]) -> Generator[tuple[Any, ...]]:
        if self._depth:
            with self.each(shape) as at:
                yield at
            return
        if self.units:
            raise _AloneError
        # Along a long last axis a unit has a loop of its own, which LLVM can make vectors of.
        outer = shape[:-1] if len(shape) > 1 and shape[-1] >= _LONG else shape
        self.units = math.prod(outer)
        self._depth = 1
        with self.f.loop(self.first, self.last) as loop, self.each(shape[len(outer) :]) as inner:
            rest: Index = loop.index
            places: list[Index] = [rest] * len(outer)
            for axis in range(len(outer) - 1, 0, -1):
                places[axis], rest = self.f.rem(rest, outer[axis]), self.f.div(rest, outer[axis])
            places[:1] = [rest] * bool(outer)
            yield (*map(self._position, places), *inner)
        self._depth = 0

    @contextmanager
    def runs(self, rows: int, columns: int) -> Generator[tuple[Any, Callable[[], AbstractContextManager[Any]]]]:
        f, count = self.f, -(-columns // _RUN)
        with self.share([rows * count]) as (unit,):
            row, run = f.div(self._index(unit), count), f.mul(f.rem(self._index(unit), count), _RUN)
            stop = columns if count == 1 else f.least(f.add(run, _RUN), columns)
            yield self._position(row), lambda: self.loop(stop, run)

    @contextmanager
    def forever(self) -> Generator[None]:
        self._inside()
        head, done = self.f.fresh("again"), self.f.fresh("left")
        self._done.append(done)
        self.f.jump(head)
        self.f.label(head)
        yield
        self.f.jump(head)
        self.f.label(self._done.pop())

    def leave(self, condition: Any) -> None:
        further = self.f.fresh("further")
        self.f.branch(self._condition(condition), self._done[-1], further)
        self.f.label(further)

    @contextmanager
    def when(self, *conditions: Any) -> Generator[None]:
        self._inside()
        with ExitStack() as stack:
            for condition in conditions:
                stack.enter_context(self.f.when(self._condition(condition)))
            yield

    def _condition(self, condition: Any) -> Value:
        return self.k.register(condition, _BOOL)

    # Values.

    def let(self, value: Any, wanted: str = "u") -> Any:
        return Scalar(self.k, value.register, value.dtype) if isinstance(value, _Cell) else value

    def variable(self, value: Any, dtype: Any = None, wanted: str = "total") -> Any:
        self._inside()
        held = _POSITION if dtype is None else np.dtype(dtype)
        held = np.dtype(np.float32) if held == np.float16 else held
        cell = _Cell(self.k, self.f.allocate(kind_of(held)), held)
        self.assign(cell, value)
        return cell

    def assign(self, variable: Any, value: Any) -> None:
        self.f.store(self.k.register(value, variable.dtype), variable.pointer)

    def index(self, value: Any) -> Any:
        return self.k.convert(value, _POSITION) if isinstance(value, Scalar) else int(value)

    def last_resort(self, operations: int) -> None:
        if operations > _MANY and not self.inner:
            raise NotLowered("its evaluation does it better")

    def refuse(self, condition: Any, error: type[Exception]) -> None:
        with self.f.when(self._condition(condition)):
            self.f.store(status_of(error), self._pointer(self.status))

    def within(self, place: Any, size: int) -> Any:
        at = index(self._index(place))
        good = self.f.compare("ult", at, index(size))
        self.refuse(self.k.value(self.f.binary("xor", good, literal(1, I1)), _BOOL), IndexError)
        return self._position(self.f.select(good, at, index(0)))

    def power(self, x: Any, y: Any) -> Any:
        """Of whole numbers."""
        if y.dtype.kind == "i":
            self.refuse(y < 0, ValueError)
        total, square, left = (self.variable(value, x.dtype) for value in (1, x, y))
        with self.forever():
            self.leave(left <= 0)
            self.assign(total, self.k.select((left & 1) != 0, total * square, total))
            self.assign(square, square * square)
            self.assign(left, left >> 1)
        return self.let(total)

    def _index(self, place: Any) -> Index:
        if isinstance(place, Value):
            return place
        return self.k.register(place, _POSITION) if isinstance(place, Scalar) else int(place)

    def _position(self, at: Index) -> Any:
        return Scalar(self.k, at, _POSITION) if isinstance(at, Value) else at

    # Arrays.

    def at(self, x: Array, position: Any) -> Any:
        kind = memory_kind(x.dtype)
        loaded = self.f.load(kind, self.f.at(x.pointer, self._index(position) if x.shape else 0, kind))
        if x.dtype.kind == "b":
            loaded = self.f.compare("ne", loaded, literal(0, kind))
        return self.k.value(loaded, x.dtype)

    def put(self, x: Array, position: Any, value: Any) -> None:
        self._inside()
        kind = memory_kind(x.dtype)
        made = self.k.register(value, x.dtype)
        made = self.f.cast("zext", made, I8) if x.dtype.kind == "b" else made
        self.f.store(made, self.f.at(x.pointer, self._index(position) if x.shape else 0, kind))

    def constant(self, values: Any, wanted: str = "c") -> Array:
        array = np.ascontiguousarray(values)
        x = Variable(Aval(array.shape, array.dtype), wanted)
        self.constants[x] = array
        return self._array(x)

    def scratch(self, shape: Sequence[int], dtype: Any, wanted: str = "t") -> Array:
        x = Variable(Aval(tuple(shape), np.dtype(dtype)), wanted)
        self._stack += x.nbytes
        if self._stack <= _STACK:
            return Array(x.shape, x.dtype, self.f.allocate(memory_kind(x.dtype), x.size))
        if self.shared:
            # Every thread would need its own.
            raise _AloneError
        return self._array(x, written=True)

    def own(self, x: Array, wanted: str = "kept") -> Array:
        made = self.scratch(x.shape, x.dtype, wanted)
        self.copy(made, x)
        return made

    def inline(self, graph: Any, xs: Sequence[Array]) -> tuple[Array, ...]:
        raise NotLowered("graphs inside of gates are not written here")
