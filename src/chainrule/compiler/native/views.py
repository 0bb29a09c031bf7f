"""Views: values that lie in the memory of another, and how their elements are found there.

Gates that only move elements need no code: what they give is the same memory, read with other strides. Which gates these are is not
listed anywhere: their own evaluation is asked, on memory that nobody reads.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from chainrule.core.aval import Shape
from chainrule.core.variable import Variable
from chainrule.graph.ir import Operation

__all__ = ["View", "as_one", "collapsed", "copied", "moved", "whole"]

Strides = tuple[int, ...]


class View(NamedTuple):
    """Where the elements of a value lie.

    Attributes
    ----------
    root : Variable
        In whose memory.
    shape : tuple of int
    offset : int
        Of the first element, in elements.
    strides : tuple of int
        In elements.
    """

    root: Variable
    shape: Shape
    offset: int
    strides: Strides

    @property
    def whole(self) -> bool:
        """Whether it is all of the memory, in order."""
        return self.offset == 0 and math.prod(self.shape) == self.root.size and self.strides == contiguous(self.shape)

    def along(self, shape: Shape) -> Strides:
        """Strides over the axes of a shape to which it is broadcast."""
        return (0,) * (len(shape) - len(self.shape)) + self.strides


def contiguous(shape: Shape) -> Strides:
    """Strides of a shape without gaps, the last axis quickest; 0 along axes of size 1."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step if size != 1 else 0)
        step *= max(size, 1)
    return tuple(reversed(strides))


def whole(x: Variable) -> View:
    """A value in memory of its own."""
    return View(x, x.shape, 0, contiguous(x.shape))


def moved(node: Operation, view: View) -> list[View] | None:
    """What a gate that moves the elements of one value gives, read in the memory of that value; None if it has to copy."""
    if not view.root.size:
        return None
    if not all(x.shape for x in node.outputs):
        # NumPy gives an element without axes as a number: numbers that are their own places tell which.
        results = _results(node, _array(np.arange(view.root.size), view))
        return [View(view.root, (), int(part), ()) for part in results]
    memory = np.empty(view.root.size, np.int8)
    found: list[View] = []
    for part, x in zip(_results(node, _array(memory, view)), node.outputs, strict=True):
        if not x.size:
            found.append(whole(x))
            continue
        offset = part.__array_interface__["data"][0] - memory.__array_interface__["data"][0]
        if not 0 <= offset < memory.size:
            return None
        strides = tuple(stride if size != 1 else 0 for size, stride in zip(part.shape, part.strides, strict=True))
        found.append(View(view.root, x.shape, offset, strides))
    return found


def _array(memory: np.ndarray, view: View) -> np.ndarray:
    size = memory.itemsize
    return np.ndarray(view.shape, memory.dtype, memory, view.offset * size, tuple(stride * size for stride in view.strides))


def _results(node: Operation, array: np.ndarray) -> tuple[np.ndarray, ...]:
    made = node.primitive.evaluate(array, **node.params)
    return tuple(made) if node.primitive.outputs else (made,)


def copied(x: Variable, view: View) -> View:
    """The view that a copy of another, without gaps, in the memory of ``x`` is."""
    return View(x, view.shape, 0, contiguous(view.shape))


class Axes(NamedTuple):
    """Axes of a loop nest, with every operand's strides along them.

    Attributes
    ----------
    sizes : tuple of int
    strides : tuple of tuple of int
        Per operand.
    marks : tuple of bool
        Whether it is one of the axes that were marked.
    """

    sizes: Shape
    strides: tuple[Strides, ...]
    marks: tuple[bool, ...]


def collapsed(shape: Shape, operands: list[Strides], marked: frozenset[int] = frozenset()) -> Axes:
    """Fewer and longer axes for the same elements: without those of size 1, and neighbours joined where all operands step evenly.

    A marked axis is only joined with marked ones.
    """
    kept = [i for i, size in enumerate(shape) if size != 1]
    sizes: list[int] = []
    strides: list[list[int]] = [[] for _ in operands]
    marks: list[bool] = []
    for i in kept:
        even = all(own and own[-1] == operand[i] * shape[i] for own, operand in zip(strides, operands, strict=True))
        if sizes and even and marks[-1] == (i in marked):
            sizes[-1] *= shape[i]
            for own, operand in zip(strides, operands, strict=True):
                own[-1] = operand[i]
            continue
        sizes.append(shape[i])
        marks.append(i in marked)
        for own, operand in zip(strides, operands, strict=True):
            own.append(operand[i])
    return Axes(tuple(sizes), tuple(map(tuple, strides)), tuple(marks))


def as_one(sizes: Shape, operands: list[Strides]) -> Strides | None:
    """Per operand the step of the one axis that axes of these sizes make; None if they do not make one in each."""
    axes = collapsed(sizes, operands)
    return tuple(strides[0] if strides else 0 for strides in axes.strides) if len(axes.sizes) < 2 else None
