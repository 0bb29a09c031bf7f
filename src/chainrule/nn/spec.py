"""InputSpec: what a layer takes, checked before it computes, so that a wrong input is refused in the layer's own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Any

from chainrule.core.aval import Aval, Shape
from chainrule.core.errors import ArgumentError


def counted(kind: str, label: str, value: Any) -> int:
    """``value``, if it is a positive integer.

    Raises
    ------
    ArgumentError
        If it is not; it names the kind of layer and the argument.
    """
    try:
        count = index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise ArgumentError(f"{kind}: {label}={value!r}", mend="give a positive integer")
    return count


@dataclass(frozen=True, slots=True)
class InputSpec:
    """Rank, sizes and dtype of one input of a layer.

    Parameters
    ----------
    ndim, min_ndim, max_ndim : int, optional
        The number of axes, or its bounds.
    axes : mapping of int to int
        Sizes that certain axes must have; negative axes count from the end.
    names : sequence of str
        What the axes are called, for the message: all of them if `ndim` is given, else the last ones.
    dtype : str, optional
        The kind that is needed: "floating" or "integer".
    mend : str
        What the caller can do about a wrong input.

    Examples
    --------
    >>> import numpy as np
    >>> spec = InputSpec(ndim=2, axes={1: 3}, names=("batch", "features"))
    >>> spec.wanted
    '(batch, features=3)'
    >>> spec.accepts(np.zeros((5, 3))), spec.accepts(np.zeros((5, 4)))
    (True, False)
    """

    ndim: int | None = None
    min_ndim: int | None = None
    max_ndim: int | None = None
    axes: Mapping[int, int] = field(default_factory=dict[int, int])
    names: Sequence[str] = ()
    dtype: str | None = None
    mend: str = "reshape, permute_dims and astype make another shape, order of axes and dtype"

    def accepts(self, x: Any) -> bool:
        """Whether an array or Tensor is as specified."""
        shape: Shape = x.shape
        rank = len(shape)
        if self.ndim is not None and rank != self.ndim:
            return False
        if rank < (self.min_ndim or 0) or (self.max_ndim is not None and rank > self.max_ndim):
            return False
        if self.dtype is not None and x.dtype.kind not in _KINDS[self.dtype]:
            return False
        return all(-rank <= axis < rank and shape[axis] == size for axis, size in self.axes.items())

    @property
    def wanted(self) -> str:
        """The specification in words, such as ``(batch, height, width, channels=3)``."""
        lead = [] if self.ndim is not None else ["..."]
        labels = lead + (list(self.names) or ["*"] * (self.ndim or 0))
        for axis, size in self.axes.items():
            place = axis if axis < 0 else axis + len(lead)
            labels[place] = f"{labels[place]}={size}"
        sizes = ", ".join(labels) + ("," if len(labels) == 1 and not lead else "")
        bounds = [f"at least {self.min_ndim}"] * ((self.min_ndim or 0) > len(self.names)) + [f"at most {self.max_ndim}"] * (self.max_ndim is not None)
        limits = f" with {' and '.join(bounds)} axes" if bounds else ""
        return f"{self.dtype + ' ' if self.dtype else ''}({sizes}){limits}"

    @staticmethod
    def got(x: Any) -> str:
        """What came instead, in words."""
        return str(Aval(tuple(x.shape), x.dtype)) if hasattr(x, "dtype") else "nothing" if x is None else f"a {type(x).__name__}"


_KINDS = {"floating": "fc", "integer": "iu"}
