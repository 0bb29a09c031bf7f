"""What the array API standard's namespace tells about itself: dtypes, constants, what it can do.

Nothing here computes with tensors; only their dtypes are asked for.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import DEFAULT_COMPLEX, DEFAULT_FLOAT, DEFAULT_INT, Dtype, promote
from chainrule.core.errors import ArgumentError, DtypeError
from chainrule.core.primitive import functions, public
from chainrule.ops import dtypes
from chainrule.ops.gate import as_dtype
from chainrule.tensor import Tensor

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "__array_api_version__",
    "__array_namespace_info__",
    "can_cast",
    "e",
    "finfo",
    "iinfo",
    "inf",
    "isdtype",
    "nan",
    "newaxis",
    "pi",
    "result_type",
]

e = math.e
pi = math.pi
inf = math.inf
nan = math.nan
newaxis = None

__array_api_version__ = "2024.12"

_NAMES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64", "complex64", "complex128")
DTYPES: dict[str, Dtype] = {name: getattr(dtypes, name) for name in _NAMES}
"""The standard's dtypes by name."""

_FAMILIES = {
    "bool": "b",
    "signed integer": "i",
    "unsigned integer": "u",
    "integral": "iu",
    "real floating": "f",
    "complex floating": "c",
    "numeric": "iufc",
}


UFUNCS = {
    "absolute": "abs",
    "arccos": "acos",
    "arccosh": "acosh",
    "arcsin": "asin",
    "arcsinh": "asinh",
    "arctan": "atan",
    "arctan2": "atan2",
    "arctanh": "atanh",
    "conjugate": "conj",
    "invert": "bitwise_invert",
    "left_shift": "bitwise_left_shift",
    "power": "pow",
    "right_shift": "bitwise_right_shift",
    "rint": "round",
    "true_divide": "divide",
}
"""NumPy's ufuncs whose names are not the standard's."""


@dataclass(frozen=True, slots=True)
class FloatInfo:
    """Limits of a floating-point dtype, as Python numbers."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: Dtype


@dataclass(frozen=True, slots=True)
class IntegerInfo:
    """Limits of an integer dtype."""

    bits: int
    max: int
    min: int
    dtype: Dtype


@public
def finfo(type: npt.DTypeLike | Tensor, /) -> FloatInfo:
    """Limits of a floating-point dtype; of a complex one, those of its parts.

    Parameters
    ----------
    type : dtype or Tensor

    Returns
    -------
    FloatInfo
        With ``bits``, ``eps``, ``max``, ``min``, ``smallest_normal`` and ``dtype``.

    Raises
    ------
    DtypeError
        If the dtype is not floating point.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.finfo(cr.float64).eps
    2.220446049250313e-16
    """
    dtype = _dtype_of(type, "finfo")
    if dtype.kind not in "fc":
        raise DtypeError(f"finfo: {dtype} is not a floating-point dtype", mend="use iinfo for integers")
    found = np.finfo(dtype)
    return FloatInfo(found.bits, float(found.eps), float(found.max), float(found.min), float(found.smallest_normal), found.dtype)


@public
def iinfo(type: npt.DTypeLike | Tensor, /) -> IntegerInfo:
    """Limits of an integer dtype.

    Parameters
    ----------
    type : dtype or Tensor

    Returns
    -------
    IntegerInfo
        With ``bits``, ``max``, ``min`` and ``dtype``.

    Raises
    ------
    DtypeError
        If the dtype is not an integer one.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.iinfo(cr.int8).max
    127
    """
    dtype = _dtype_of(type, "iinfo")
    if dtype.kind not in "iu":
        raise DtypeError(f"iinfo: {dtype} is not an integer dtype", mend="use finfo for floating point")
    found = np.iinfo(dtype)
    return IntegerInfo(found.bits, int(found.max), int(found.min), found.dtype)


@public
def isdtype(dtype: npt.DTypeLike, kind: str | npt.DTypeLike | tuple[Any, ...]) -> bool:
    """Whether a dtype is of a kind, or of one of several kinds.

    Parameters
    ----------
    dtype : dtype
    kind : str, dtype or tuple of these
        "bool", "signed integer", "unsigned integer", "integral", "real floating", "complex floating",
        "numeric", or a dtype that must be equal.

    Returns
    -------
    bool

    Raises
    ------
    ArgumentError
        If there is no such kind.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.isdtype(cr.int8, "integral"), cr.isdtype(cr.float32, (cr.float64, "complex floating"))
    (True, False)
    """
    asked = as_dtype(dtype, "isdtype")
    kinds: tuple[Any, ...] = kind if isinstance(kind, tuple) else (kind,)
    return any(asked.kind in _family(one) if isinstance(one, str) else asked == as_dtype(one, "isdtype") for one in kinds)


@public
def result_type(*arrays_and_dtypes: Any) -> Dtype:
    """The dtype in which tensors, dtypes and Python scalars meet; the scalars are weak.

    Parameters
    ----------
    *arrays_and_dtypes : Tensor, array, dtype or Python scalar

    Returns
    -------
    dtype

    Raises
    ------
    ArgumentError
        If nothing is given.
    DtypeError
        If there is no common dtype.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.result_type(cr.int8, cr.int16), cr.result_type(cr.float32, 1.5)
    (dtype('int16'), dtype('float32'))
    """
    if not arrays_and_dtypes:
        raise ArgumentError("result_type of nothing", mend="pass at least one array or dtype")
    scalars = (bool, int, float, complex)
    return promote(*(x if x.__class__ in scalars else _dtype_of(x, "result_type") for x in arrays_and_dtypes))


@public
def can_cast(from_: npt.DTypeLike | Tensor, to: npt.DTypeLike, /) -> bool:
    """Whether promotion can bring a dtype to another: their common dtype is ``to``.

    Parameters
    ----------
    from_ : dtype or Tensor
    to : dtype

    Returns
    -------
    bool

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.can_cast(cr.int8, cr.int16), cr.can_cast(cr.float64, cr.float32)
    (True, False)
    """
    target = as_dtype(to, "can_cast")
    try:
        return promote(_dtype_of(from_, "can_cast"), target) == target
    except DtypeError:
        return False


def _dtype_of(x: Any, operation: str) -> Dtype:
    return x.dtype if isinstance(x, (Tensor, np.ndarray, np.generic)) else as_dtype(x, operation)


def _family(kind: str) -> str:
    if kind not in _FAMILIES:
        raise ArgumentError(f"there is no kind of dtypes {kind!r}", mend=f"one of {', '.join(map(repr, _FAMILIES))}")
    return _FAMILIES[kind]


class NamespaceInfo:
    """What the namespace can do, in the array API standard's terms."""

    def capabilities(self) -> dict[str, bool | int]:
        """Optional abilities and limits."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> str:
        return "cpu"

    def devices(self) -> list[str]:
        return ["cpu"]

    def default_dtypes(self, *, device: str | None = None) -> dict[str, Dtype]:
        """The dtypes that Python numbers and indices get."""
        self._check(device)
        return {"real floating": DEFAULT_FLOAT, "complex floating": DEFAULT_COMPLEX, "integral": DEFAULT_INT, "indexing": DEFAULT_INT}

    def dtypes(self, *, device: str | None = None, kind: str | tuple[str, ...] | None = None) -> dict[str, Dtype]:
        """The dtypes by name, all or of some kinds.

        Examples
        --------
        >>> import chainrule as cr
        >>> cr.__array_namespace_info__().dtypes(kind="real floating")
        {'float32': dtype('float32'), 'float64': dtype('float64')}
        """
        self._check(device)
        return {name: dtype for name, dtype in DTYPES.items() if kind is None or isdtype(dtype, kind)}

    def _check(self, device: str | None) -> None:
        if device not in (None, "cpu"):
            raise ArgumentError(f"there is no device {device!r}", mend='the only device is "cpu"')


@public
def __array_namespace_info__() -> NamespaceInfo:  # noqa: N807, the standard's name
    """The array API standard's inspection of the namespace.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.__array_namespace_info__().default_dtypes()["real floating"]
    dtype('float32')
    """
    return NamespaceInfo()


@public
def ufunc(name: str) -> Callable[..., Any] | None:
    """The function that computes what NumPy's ufunc of this name computes, if there is one."""
    return getattr(functions, UFUNCS.get(name, name), None)


@public
def array_namespace(api_version: str | None = None) -> Any:
    """The package, as the namespace of its tensors.

    Raises
    ------
    ArgumentError
        If another version of the standard is asked for than the ones that it follows.
    """
    versions = ("2021.12", "2022.12", "2023.12", __array_api_version__)
    if api_version not in (None, *versions):
        raise ArgumentError(f"there is no namespace for version {api_version!r} of the array API standard", mend=f"one of {', '.join(versions)}")
    return sys.modules[__name__.partition(".")[0]]
