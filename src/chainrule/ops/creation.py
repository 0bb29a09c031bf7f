"""Making tensors of given values, and bringing them from one dtype to another.

Only `astype` is a gate; the others give a tensor without history, or the one that they were given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import Aval, Dtype
from chainrule.core.errors import ArgumentError, DtypeError
from chainrule.core.interp import current, evaluate
from chainrule.core.primitive import Primitive, Refusal, Sample, public
from chainrule.ops.gate import BARE, as_dtype, batch_elementwise, check_device, check_values, constant, gate, lift
from chainrule.tape import bind
from chainrule.tensor import Tensor, new

__all__ = ["asarray", "astype", "from_dlpack", "tensor"]

if TYPE_CHECKING:
    import numpy.typing as npt


@public
def tensor(data: Any, *, dtype: npt.DTypeLike | None = None, requires_grad: bool = False) -> Tensor:
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
    target = None if dtype is None else as_dtype(dtype, "tensor")
    if isinstance(data, Tensor) and current().tracer is not None:
        leaf = data.detach() if target is None else astype(data.detach(), target)
    else:
        leaf = constant(np.asarray(data._value) if isinstance(data, Tensor) else data, target)
    return leaf.requires_grad_() if requires_grad else leaf


ASTYPE = Primitive(
    name="astype",
    inputs=("x",),
    aval=lambda x, dtype: Aval(x.shape, dtype),
    eval=lambda x, dtype: x.astype(dtype, copy=False),
    transpose=lambda ct, to: astype(ct, to.dtype),
    batch=batch_elementwise,
    scalar=lambda k, x, dtype: k.convert(x, dtype),
    numpy=lambda x, dtype: f"{x}.astype({x.array(str(dtype), dtype)})" if x.shape or dtype.kind != "f" or x.dtype.kind == "c" else f"np.{dtype}({x})",
    onnx="Cast",
    samples=lambda rng: [
        Sample((rng.normal(size=(2, 3)), "float64")),
        Sample((rng.normal(size=(2, 3)), "int64")),
        Sample((rng.integers(0, 2, (3,)), "bool")),
        Sample((rng.normal(), "float64")),
        Sample((rng.normal(size=(0, 2)), "float64")),
    ],
    refuses=lambda: [Refusal((np.ones(2), "str"), DtypeError, "dtype"), Refusal((np.ones(2) + 1j, "float64"), DtypeError, "complex")],
)


@gate(ASTYPE)
def astype(x: Tensor | npt.ArrayLike, dtype: npt.DTypeLike, /, *, copy: bool = True, device: str | None = None) -> Tensor:
    """The values in another dtype; floating point to integer cuts towards zero.

    Gradients pass between floating-point dtypes and end at integers.

    Parameters
    ----------
    x : Tensor or array_like
    dtype : dtype
        Boolean, integer, floating-point or complex.
    copy : bool
        If False, ``x`` itself is returned where the dtype is the same already.
    device : "cpu", optional

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
    check_device(device)
    lifted = lift(x)
    target = as_dtype(dtype, "astype")
    if lifted.dtype.kind == "c" and target.kind not in "cb":
        raise DtypeError(f"astype: complex values cannot become {target} without losing the imaginary part", mend="take cr.real(x) first")
    return lifted if lifted.dtype == target and not copy else bind(ASTYPE, (lifted,), {"dtype": target})


@public
def asarray(obj: Any, /, *, dtype: npt.DTypeLike | None = None, device: str | None = None, copy: bool | None = None) -> Tensor:
    """A tensor of ``obj``; a Tensor stays itself, with its history.

    Tensors never change, so an array that could still be written to is copied. With ``copy=False`` it
    is shared instead, and the caller promises not to write to it any more.

    Parameters
    ----------
    obj : Tensor, array_like, or object with the buffer protocol or DLPack
    dtype : dtype, optional
        If not given, the array's own; for Python numbers the default of their kind.
    device : "cpu", optional
    copy : bool, optional
        True: always copy (of a Tensor: another tensor with the same history); False: never.

    Returns
    -------
    Tensor

    Raises
    ------
    DtypeError
        If ``obj`` is not numeric or lists are of unequal lengths.
    ArgumentError
        If ``copy`` is False and the values cannot be shared.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.asarray([[1, 2], [3, 4]])
    tensor([[1, 2],
            [3, 4]])
    """
    check_device(device)
    target = None if dtype is None else as_dtype(dtype, "asarray")
    bare = current().interpret is evaluate
    if isinstance(obj, Tensor) or (bare and isinstance(obj, BARE)):
        same: Any = obj
        if target is None or same.dtype == target:
            return astype(same, same.dtype) if copy else same
        if copy is False:
            raise ArgumentError(f"asarray: {same.dtype} cannot become {target} without a copy", mend="pass copy=None")
        return astype(same, target)
    result = _shared(obj, target) if copy is False else constant(obj, target)
    return result._value if bare else result


def _shared(obj: Any, dtype: Dtype | None) -> Tensor:
    try:
        value = np.asarray(obj, dtype=dtype, copy=False)
    except ValueError:
        raise ArgumentError(f"asarray: the values of {type(obj).__name__} cannot be shared without a copy", mend="pass copy=None") from None
    check_values(value, type(obj).__name__)
    return new(value)


@public
def from_dlpack(x: Any, /, *, device: str | None = None, copy: bool | None = None) -> Tensor:
    """A tensor of another library's array, through DLPack.

    The values are copied unless they are a Tensor's, because tensors never change; with ``copy=False``
    they are shared, and the caller promises not to write to them any more.

    Parameters
    ----------
    x : object with ``__dlpack__`` and ``__dlpack_device__``
        An array in the main memory.
    device : "cpu", optional
    copy : bool, optional

    Returns
    -------
    Tensor
        Without history.

    Raises
    ------
    DtypeError
        If the array's dtype is none that tensors have, or ``x`` is no array.
    BufferError
        If the exporter cannot give its values.

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> cr.from_dlpack(np.arange(3))
    tensor([0, 1, 2])
    """
    check_device(device)
    if isinstance(x, Tensor) and not copy:
        return x.detach()
    if not hasattr(x, "__dlpack__"):
        raise DtypeError(f"from_dlpack: {type(x).__name__} does not take part in DLPack", mend="use cr.asarray for numbers and lists")
    value = np.from_dlpack(x, copy=copy)
    return constant(value) if copy is None else _shared(value, None)
