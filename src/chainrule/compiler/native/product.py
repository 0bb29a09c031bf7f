"""What a matrix product is, what may be done with its results before they are stored, and what comes of writing one.

Convolutions speak of their results in the same words. How a product is computed is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from chainrule.compiler.native.ir import Function, Index, Value
from chainrule.compiler.native.kernel import Kernel
from chainrule.core.aval import Dtype


class Product(NamedTuple):
    """``C[m, n] = A[m, k] @ B[k, n]``, for each place of a batch. Strides are in elements and may be 0 or negative.

    Attributes
    ----------
    m, k, n : int
    dtype : Dtype
        float32 or float64, of all three.
    a, b : (int, int)
        Strides of rows and columns.
    c : int
        Stride of C's rows; its columns are neighbours.
    batch : tuple of int
        Sizes of the batch axes.
    a_batch, b_batch, c_batch : tuple of int
        Strides of the batch axes; 0 where A or B is the same throughout the axis.
    """

    m: int
    k: int
    n: int
    dtype: Dtype
    a: tuple[int, int]
    b: tuple[int, int]
    c: int
    batch: tuple[int, ...] = ()
    a_batch: tuple[int, ...] = ()
    b_batch: tuple[int, ...] = ()
    c_batch: tuple[int, ...] = ()


class Place(NamedTuple):
    """Where results stand: a piece of one row of C.

    Attributes
    ----------
    batch : tuple of Index
        Along the batch axes of the product.
    row, column : Index
        Of the first lane; the others are the columns after it.
    width : int
        How many lanes count; nothing behind them may be read or written.
    mask : Value or None
        Of the lanes that count; None if all do.
    """

    batch: tuple[Index, ...]
    row: Index
    column: Index
    width: int
    mask: Value | None


class Epilogue(NamedTuple):
    """What is done with results before they are stored.

    Attributes
    ----------
    parameters : tuple of str
        Names of further pointers that the kernel gets.
    write : callable
        ``(f, x, place, pointers)`` writes it for some results ``x`` of any number of lanes, and returns what is stored in C in their place,
        or None if nothing is (it may store elsewhere itself). ``pointers`` are the further ones, by their names.
    """

    parameters: tuple[str, ...]
    write: Callable[[Function, Value, Place, Mapping[str, Value]], Value | None]


class Work(NamedTuple):
    """A kernel, and what its pointers are: ``"a"``, ``"b"``, ``"c"``, ``"scratch"``, and the epilogue's names. What writes C only reads scratch."""

    kernel: Kernel
    roles: tuple[str, ...]

    @property
    def packs(self) -> str | None:
        """Which operand it copies to scratch; None if it writes C."""
        return None if "c" in self.roles else self.roles[0]


class Written(NamedTuple):
    """Kernels that run one after the other, each when the one before is done; so many bytes of scratch last from the first to the last."""

    works: tuple[Work, ...]
    scratch: int


def folded(product: Product) -> Product:
    """The same product with as few batch axes as can be: neighbours become one, and those that only A and C have become rows."""
    axes = [list(axis) for axis in zip(product.batch, product.a_batch, product.b_batch, product.c_batch, strict=True) if axis[0] != 1]
    merged: list[list[int]] = []
    for axis in axes:
        if merged and all(merged[-1][i] == axis[0] * axis[i] for i in (1, 2, 3)):
            merged[-1] = [merged[-1][0] * axis[0], *axis[1:]]
        else:
            merged.append(axis)
    m, a, c = product.m, product.a, product.c
    if m == 1 and merged and merged[-1][2] == 0:
        extent, stride, _, c = merged.pop()
        m, a = extent, (stride, a[1])
    while merged and merged[-1][1:] == [m * a[0], 0, m * c]:
        m *= merged.pop()[0]
    batch, a_batch, b_batch, c_batch = (tuple(axis[i] for axis in merged) for i in range(4))
    return product._replace(m=m, a=a, c=c, batch=batch, a_batch=a_batch, b_batch=b_batch, c_batch=c_batch)
