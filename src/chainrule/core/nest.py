"""The neutral loop builder: what the loop nest of a gate is written with that is not elementwise.

A gate says ``loops=rule``, and the rule writes onto a `Nest` what the gate does to arrays, element by element: loops over
ranges, conditions, accumulators, reads and writes at computed positions. Whoever prints or runs that (C, JavaScript,
machine code) derives from `Nest`, as it derives from `core.scalar.Builder` for the arithmetic; values are what that builder makes of them.
Nothing here knows a target, and nothing is computed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from chainrule.core.scalar import Value

Array = Any
"""A handle of an array; all that a rule may ask of it is ``shape``, ``dtype`` and ``size``. Elements lie row by row."""


class Nest(ABC):
    """Base of the targets. Wherever a value is wanted a Python number will do."""

    k: Any
    """The arithmetic: a `core.scalar.Builder`."""

    # Control.

    @abstractmethod
    def loop(self, stop: Value, start: Value = 0) -> AbstractContextManager[Value]:
        """Do what is written inside for every number from ``start`` up to ``stop``, in this order."""

    @abstractmethod
    def forever(self) -> AbstractContextManager[None]:
        """Do what is written inside again and again, until it is left."""

    @abstractmethod
    def leave(self, condition: Value) -> None:
        """Leave the innermost `forever`, right inside of which this is written, if the condition holds."""

    @abstractmethod
    def when(self, *conditions: Value) -> AbstractContextManager[None]:
        """Do what is written inside if all conditions hold."""

    # Values.

    @abstractmethod
    def let(self, value: Value, wanted: str = "u") -> Value:
        """The value, computed here and once; ``wanted`` is what a reader should see it called."""

    @abstractmethod
    def variable(self, value: Value, dtype: Any = None, wanted: str = "total") -> Value:
        """A variable that begins as the value; without a dtype it holds a position."""

    @abstractmethod
    def assign(self, variable: Value, value: Value) -> None:
        """Let a variable be the value from here on."""

    @abstractmethod
    def index(self, value: Value) -> Value:
        """A whole number of any dtype as a position."""

    @abstractmethod
    def last_resort(self, operations: int) -> None:
        """Say that the gate's evaluation has a better way than so many operations, one after the other, which is what the rule writes.

        A target that can call the evaluation does so instead, where they are many.

        Parameters
        ----------
        operations : int
            About how many; said before anything is written.
        """

    # Arrays.

    @abstractmethod
    def at(self, x: Array, position: Value) -> Value:
        """The element at a position of the flat array; of an array without axes the one that there is."""

    @abstractmethod
    def put(self, x: Array, position: Value, value: Value) -> None:
        """Let the element at a position of the flat array be the value; without axes once, and outside of loops and conditions (but see `own`)."""

    @abstractmethod
    def constant(self, values: Any, wanted: str = "c") -> Array:
        """A NumPy array that is known beforehand."""

    @abstractmethod
    def scratch(self, shape: Sequence[int], dtype: Any, wanted: str = "t") -> Array:
        """Memory for as long as the rule writes, with anything in it."""

    @abstractmethod
    def own(self, x: Array, wanted: str = "kept") -> Array:
        """A copy of an array, which may be written to anywhere and as often as one likes, even without axes."""

    @abstractmethod
    def inline(self, graph: Any, xs: Sequence[Array]) -> tuple[Array, ...]:
        """Write all nodes of a graph for these inputs: its outputs, each an input itself or memory of its own."""

    def alias(self, out: Array, x: Array) -> bool:
        """Let ``out``, which has the elements of ``x`` in the same order, be the same memory, if that can be; whether it is."""
        return False

    # What is said in terms of those.

    @contextmanager
    def each(self, shape: Sequence[int]) -> Generator[tuple[Value, ...]]:
        """Do what is written inside for every position of an array."""
        if not shape:
            yield ()
            return
        with self.loop(shape[0]) as first, self.each(shape[1:]) as others:
            yield (first, *others)

    def share(self, shape: Sequence[int]) -> AbstractContextManager[tuple[Value, ...]]:
        """As `each`, where no position needs what another one does: a target may do several at once."""
        return self.each(shape)

    @contextmanager
    def runs(self, rows: int, columns: int) -> Generator[tuple[Value, Callable[[], AbstractContextManager[Value]]]]:
        """Do what is written inside for every row and run of columns, none of which needs another.

        A target may do several at once, and cut a row's columns into runs, so that what lies side by side in memory is done together.

        Parameters
        ----------
        rows, columns : int

        Yields
        ------
        row : Value
        columns : callable
            Loops over the columns of the run, as often as it is called.
        """
        with self.share([rows]) as (row,):
            yield row, lambda: self.loop(columns)

    def within(self, place: Value, size: int) -> Value:
        """A position that came from data, and must be one of so many; a target that can fail does, where it is not."""
        return place

    def refuse(self, condition: Value, error: type[Exception]) -> None:  # noqa: B027, source code cannot fail
        """Say that the gate's evaluation raises an error where a condition holds: a target that can fail does, others go on.

        Parameters
        ----------
        condition : Value
        error : type of Exception
        """

    def load(self, x: Array, at: Sequence[Value] = ()) -> Value:
        """The element at a place; of a smaller array the one that broadcasting repeats there."""
        return self.at(x, offset(at[len(at) - len(x.shape) :], repeated(x.shape, len(x.shape))))

    def store(self, x: Array, at: Sequence[Value], value: Value) -> None:
        """Let the element at a place be the value."""
        self.put(x, offset(at, strides(x.shape)), value)

    def fill(self, x: Array, value: Value) -> None:
        """Let all elements be the value."""
        with self.loop(x.size) as i:
            self.put(x, i, value)

    def same(self, out: Array, x: Array) -> None:
        """Let ``out`` have the elements of ``x``, without a copy if that can be."""
        if not self.alias(out, x):
            self.copy(out, x)

    def advance(self, states: Sequence[Array], values: Sequence[Array]) -> None:
        """Let each of several arrays of one's own be its new value, all at once."""
        # A new value may be an old one in another place: those are kept before any changes.
        kept = [self.own(x) if any(x is state for state in states) else x for x in values]
        for state, value in zip(states, kept, strict=True):
            self.copy(state, value)

    def copy(self, out: Array, x: Array, *, into: Any = None, source: Any = None) -> None:
        """Let the elements of ``out`` at some positions be those of ``x`` at others; all of them, if positions are not given.

        Parameters
        ----------
        into, source : array of int, optional
            Positions, of one shape; of those in ``out`` each stands one step further along every axis.
        """
        into = numbered(out.shape) if into is None else into
        source = numbered(x.shape) if source is None else source
        targets, sources = affine(into), affine(source)
        assert targets is not None
        if sources is None:
            table = self.constant(source.reshape(-1).astype(np.int32), "from")
            sizes, steps = merged(into.shape, [targets[1], strides(into.shape)])
            with self.share(sizes) as at:
                self.put(out, offset(at, steps[0], targets[0]), self.at(x, self.at(table, offset(at, steps[1]))))
            return
        sizes, steps = merged(into.shape, [targets[1], sources[1]])
        with self.share(sizes) as at:
            self.put(out, offset(at, steps[0], targets[0]), self.at(x, offset(at, steps[1], sources[0])))


# Positions.


def strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Of an array laid out row by row, in elements."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def repeated(shape: Sequence[int], rank: int) -> tuple[int, ...]:
    """Steps through an array for each of ``rank`` axes, 0 along which broadcasting repeats it."""
    own = [0 if size == 1 else step for size, step in zip(shape, strides(shape), strict=True)]
    return (*(0,) * (rank - len(own)), *own)


def offset(at: Sequence[Value], steps: Sequence[int], base: int = 0) -> Value:
    """Where an element stands in a flat array."""
    total: Value = base
    for index, step in zip(at, steps, strict=True):
        total = index * step + total
    return total


def numbered(shape: Sequence[int]) -> Any:
    """The position of every element of an array."""
    return np.arange(math.prod(shape)).reshape(shape)


def affine(positions: Any) -> tuple[int, list[int]] | None:
    """First position and step along each axis, if there are such."""
    if not positions.size:
        return 0, [0] * positions.ndim
    first = int(positions.flat[0])
    steps = [
        int(positions[tuple(int(i == axis) for i in range(positions.ndim))]) - first if size > 1 else 0 for axis, size in enumerate(positions.shape)
    ]
    expected = first + sum(
        (np.arange(size) * step).reshape(-1, *(1,) * (positions.ndim - axis - 1))
        for axis, (size, step) in enumerate(zip(positions.shape, steps, strict=True))
    )
    return (first, steps) if np.array_equal(positions, np.broadcast_to(expected, positions.shape)) else None


def merged(shape: Sequence[int], operands: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """Fewer axes for the same loops: those of size 1 dropped, and neighbours made one where all operands lie in one row."""
    sizes: list[int] = []
    steps: list[list[int]] = [[] for _ in operands]
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        if sizes and all(own[-1] == operand[axis] * size for own, operand in zip(steps, operands, strict=True)):
            sizes[-1] *= size
            for own, operand in zip(steps, operands, strict=True):
                own[-1] = operand[axis]
        else:
            sizes.append(size)
            for own, operand in zip(steps, operands, strict=True):
                own.append(operand[axis])
    return sizes, steps
