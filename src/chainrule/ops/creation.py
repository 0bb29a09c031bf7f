"""Making tensors: from values, from shapes, and from one dtype to another.

Only `astype` is a gate; what the others make has no history.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import Aval, is_floating
from chainrule.core.errors import DtypeError
from chainrule.core.interp import current, evaluate
from chainrule.core.primitive import Primitive, Refusal, Sample, public
from chainrule.ops.gate import batch_elementwise, constant, gate, lift
from chainrule.tape import bind
from chainrule.tensor import Tensor, new

__all__ = ["asarray", "astype", "tensor"]

if TYPE_CHECKING:
    import numpy.typing as npt


@public
def tensor(data: Any, *, dtype: npt.DTypeLike = None, requires_grad: bool = False, copy: bool = True) -> Tensor:
    """A new leaf from numbers, nested lists, or an array, which is copied.

    Parameters
    ----------
    data : array_like or Tensor
    dtype : dtype, optional
        If not given, the array's own; float32 for Python floats, int64 for Python integers.
    requires_grad : bool
        Whether `backward` shall find a gradient for it.

    Returns
    -------
    Tensor

    Raises
    ------
    DtypeError
        If ``data`` is not numeric or lists are of unequal lengths.
    GradientError
        If a gradient is required of values that are not real floating point.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.tensor([1.0, 2.0], requires_grad=True)
    tensor([1., 2.], requires_grad=True)
    """
    made = constant(np.asarray(data._value) if isinstance(data, Tensor) else data, None if dtype is None else np.dtype(dtype))
    return made.requires_grad_() if requires_grad else made


ASTYPE = Primitive(
    name="astype",
    inputs=("x",),
    aval=lambda x, dtype: Aval(x.shape, dtype),
    eval=lambda x, dtype: x.astype(dtype),
    transpose=lambda ct, to: astype(ct, to.dtype),
    batch=batch_elementwise,
    scalar=lambda k, x: x,
    onnx="Cast",
    samples=lambda rng: [Sample((rng.normal(size=(2, 3)), "float64")), Sample((rng.normal(size=(2, 3)), "int64"))],
    refuses=lambda: [Refusal((np.ones(2), "str"), DtypeError, "dtype"), Refusal((np.ones(2) + 1j, "float64"), DtypeError, "complex")],
)


@gate(ASTYPE)
def astype(x: Tensor | npt.ArrayLike, dtype: npt.DTypeLike, /, *, copy: bool = True, device: Any = None) -> Tensor:
    """The values in another dtype; floating point to integer cuts towards zero.

    Gradients pass between floating-point dtypes and end at integers.

    Parameters
    ----------
    x : Tensor or array_like
    dtype : dtype
        Boolean, integer, floating-point or complex.
    copy : bool
        If False, ``x`` itself is returned where the dtype is the same already.

    Returns
    -------
    Tensor

    Raises
    ------
    DtypeError
        If the dtype is of another kind, or complex values would lose their imaginary part.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.astype([1.5, -1.5], cr.int64)
    tensor([ 1, -1])
    """
    x = lift(x)
    target = np.dtype(dtype)
    if target.kind not in "biufc":
        raise DtypeError(f"astype: no tensors of dtype {target}", mend="use booleans, integers, floating point or complex numbers")
    if x.dtype.kind == "c" and target.kind != "c":
        raise DtypeError(f"astype: complex values cannot become {target} without losing the imaginary part", mend="take cr.real(x) first")
    return x if x.dtype == target and not copy else bind(ASTYPE, (x,), {"dtype": target})


@public
def asarray(obj: Any, /, *, dtype: npt.DTypeLike = None, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor of ``obj``: a Tensor stays itself, with its history; anything else as by `tensor`."""
    if isinstance(obj, Tensor):
        return obj if dtype is None or obj.dtype == np.dtype(dtype) else astype(obj, dtype)
    return constant(obj, None if dtype is None else np.dtype(dtype))
