"""Parts of complex values.

Complex values compute; a gradient that would have to pass through them is refused by the tape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.errors import DtypeError
from chainrule.core.primitive import Primitive, Refusal, Sample
from chainrule.ops.creation import astype
from chainrule.ops.gate import alias, batch_elementwise, elementwise_aval, gate, operands
from chainrule.tape import bind
from chainrule.tensor import Tensor

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["conj", "imag", "real"]


def _samples(rng: np.random.Generator) -> list[Sample]:
    return [Sample((rng.normal(size=shape) + 1j * rng.normal(size=shape),)) for shape in ((2, 3), (), (0, 2))]


def _refuses() -> list[Refusal]:
    return [Refusal((np.array([True]),), DtypeError, "takes"), Refusal((np.array(["a"]),), DtypeError, "numbers")]


REAL = Primitive(
    name="real",
    inputs=("x",),
    aval=elementwise_aval("real", "numeric", "real"),
    eval=lambda x: x.real,
    transpose=lambda ct, to: astype(ct, to.dtype),
    batch=batch_elementwise,
    scalar=lambda k, x: k.real(x),
    samples=_samples,
    refuses=_refuses,
)
IMAG = Primitive(
    name="imag",
    inputs=("x",),
    aval=elementwise_aval("imag", "complex floating", "real"),
    eval=lambda x: x.imag,
    transpose=lambda ct, to: astype(ct, to.dtype) * 1j,
    batch=batch_elementwise,
    scalar=lambda k, x: k.imag(x),
    samples=_samples,
    refuses=lambda: [Refusal((np.ones(2),), DtypeError, "takes"), *_refuses()],
)
CONJ = Primitive(
    name="conj",
    inputs=("x",),
    aval=elementwise_aval("conj", "numeric"),
    eval=lambda x: x.conjugate(),
    transpose=lambda ct: conj(ct),
    batch=batch_elementwise,
    scalar=lambda k, x: k.conj(x),
    samples=_samples,
    refuses=_refuses,
)


@gate(REAL)
def real(x: Tensor | npt.ArrayLike, /) -> Tensor:
    """Real part, elementwise; real values stay as they are.

    Parameters
    ----------
    x : Tensor or array_like
        Numeric values of any shape.

    Returns
    -------
    Tensor
        Of the shape of the input and its real dtype.

    Raises
    ------
    DtypeError
        For values of another kind.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.real([1 + 2j, 3.0])
    tensor([1., 3.])
    """
    return _unless_real(REAL, *operands("real", "numeric", x))


@gate(IMAG)
def imag(x: Tensor | npt.ArrayLike, /) -> Tensor:
    """Imaginary part of complex values, elementwise.

    Parameters
    ----------
    x : Tensor or array_like
        Complex values of any shape.

    Returns
    -------
    Tensor
        Of the shape of the input and its real dtype.

    Raises
    ------
    DtypeError
        For values of another kind.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.imag([1 + 2j, 3.0])
    tensor([2., 0.])
    """
    return bind(IMAG, operands("imag", "complex floating", x))


@gate(CONJ)
def conj(x: Tensor | npt.ArrayLike, /) -> Tensor:
    """Complex conjugate, elementwise; real values stay as they are.

    Parameters
    ----------
    x : Tensor or array_like
        Numeric values of any shape.

    Returns
    -------
    Tensor
        Of the shape and dtype of the input.

    Raises
    ------
    DtypeError
        For values of another kind.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.conj([1 + 2j, 3.0])
    tensor([1.-2.j, 3.-0.j], dtype=complex64)
    """
    return _unless_real(CONJ, *operands("conj", "numeric", x))


def _unless_real(primitive: Primitive, x: Any) -> Any:
    return bind(primitive, (x,)) if x.dtype.kind == "c" else alias(x)
