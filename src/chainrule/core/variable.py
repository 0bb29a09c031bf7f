"""The value of a traced Tensor: a name in a graph, with a shape and a dtype and nothing else."""

from __future__ import annotations

from typing import Any, NoReturn

from chainrule.core.aval import Aval, Dtype, Shape
from chainrule.core.errors import TraceError


class Variable:
    """One value of a graph: that of an input, a constant, or an output of an operation; compared by identity.

    Attributes
    ----------
    aval : Aval
        Shape and dtype.
    name : str
        '' until the graph is complete, if the program gave it none.
    settled : bool
        Whether a graph is complete in which it has its name; a name is only once in a graph.
    owner : object
        What identifies the trace that made it.
    """

    __slots__ = ("aval", "dtype", "name", "ndim", "owner", "settled", "shape")

    def __init__(self, aval: Aval, name: str = "", owner: object = None) -> None:
        self.aval = aval
        self.shape: Shape = aval.shape
        self.dtype: Dtype = aval.dtype
        self.ndim = len(aval.shape)
        self.name = name
        self.owner = owner
        self.settled = False

    @property
    def size(self) -> int:
        return self.aval.size

    @property
    def nbytes(self) -> int:
        return self.aval.size * self.aval.dtype.itemsize

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        # NumPy would make an array of one object of it.
        raise leaked(self)

    def __repr__(self) -> str:
        return self.name or "?"


def leaked(value: Variable) -> TraceError:
    """The error for a traced value that outlived its trace."""
    what = f"{value.name}, {value.aval}," if value.name else f"a tensor {value.aval}"
    return TraceError(
        f"{what} was made while a function was traced, and has no value outside of it",
        mend="return it from the function, or keep it with state.assign(value) in a tensor that exists before",
    )
