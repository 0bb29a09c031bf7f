"""How a Tensor leaves the library: as numbers, lists, NumPy arrays and DLPack capsules.

Whatever would silently cut a derivative, or ask for a value that is not known yet, is an error here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import Aval, Dtype, Shape
from chainrule.core.errors import DtypeError, FunctionError, GradientError, ShapeError, TraceError
from chainrule.core.interp import BASE, current
from chainrule.core.primitive import functions
from chainrule.core.variable import Variable, leaked

if TYPE_CHECKING:
    import numpy.typing as npt

    from chainrule.core.node import Node


class Conversions:
    """The ways out of `Tensor`."""

    __slots__ = ()

    if TYPE_CHECKING:
        _value: Any
        _node: Node | None

        @property
        def shape(self) -> Shape: ...
        @property
        def dtype(self) -> Dtype: ...
        @property
        def size(self) -> int: ...
        @property
        def requires_grad(self) -> bool: ...

    def item(self) -> Any:
        """The only element, as a Python scalar."""
        if self.size != 1:
            raise ShapeError(f"only a tensor of one element has an item, not shape {self.shape}", mend="index it first, or use tolist()")
        return self._readable().item()

    def tolist(self) -> Any:
        """Nested lists of Python scalars."""
        return self._readable().tolist()

    def numpy(self) -> npt.NDArray[Any]:
        """The value as a read-only NumPy array, without copying.

        Raises
        ------
        GradientError
            If the tensor requires a gradient, which NumPy could not see.
        """
        if self.requires_grad:
            raise GradientError("numpy() on a tensor that requires a gradient", mend="use x.detach().numpy() to leave the graph on purpose")
        return self.__array__()

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        array = np.asarray(self._convertible(), dtype=dtype)
        if copy:
            return array.copy()
        array = array.view()
        array.flags.writeable = False
        return array

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        function = functions.ufunc(ufunc.__name__)
        if method == "__call__" and function is not None and not kwargs:
            return function(*inputs)
        called = ufunc.__name__ + ("" if method == "__call__" else f".{method}") + "".join(f", {name}=" for name in kwargs)
        raise DtypeError(f"NumPy's {called} does not compute with Tensors", mend="use chainrule's function, or convert with np.asarray(x)")

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return functions.array_namespace(api_version)

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        if self.requires_grad:
            raise GradientError("a tensor that requires a gradient cannot be exported", mend="export x.detach()")
        return np.asarray(self._convertible()).__dlpack__(stream=stream, max_version=max_version, dl_device=dl_device, copy=copy)

    def __dlpack_device__(self) -> tuple[int, int]:
        return np.asarray(self._value).__dlpack_device__()

    def __bool__(self) -> bool:
        return bool(self._single("bool", _BRANCH))

    def __float__(self) -> float:
        return float(self._single("float"))

    def __int__(self) -> int:
        return int(self._single("int"))

    def __complex__(self) -> complex:
        return complex(self._single("complex"))

    def __index__(self) -> int:
        if self.dtype.kind not in "iu" or self.shape:
            raise DtypeError(f"only an integer tensor without axes can be an index, not {Aval(self.shape, self.dtype)}")
        return int(self._readable())

    def _single(self, kind: str, mend: str = "") -> Any:
        if self.size != 1:
            raise ShapeError(
                f"{kind}() of a tensor of shape {self.shape} is ambiguous",
                mend="reduce it first: x.any(), x.all(), x.sum(); or choose elementwise with cr.where",
            )
        return self._readable(mend).item()

    def _convertible(self) -> Any:
        """The value, unless a transform in progress would lose sight of it once it is another library's array."""
        value = self._readable()
        if self._node is not None and self._node.tags & current().running & ~BASE:
            raise GradientError(
                "a tensor that is being differentiated was converted to a NumPy array, which would lose its derivative",
                mend="compute with chainrule's functions, or convert x.detach() on purpose",
            )
        return value

    def _readable(self, mend: str = "") -> Any:
        """The value, unless it is not known yet, or a custom gate's derivative depends on this tensor."""
        mode = current()
        value = self._value
        if isinstance(value, Variable) or (mode.tracer is not None and not mode.tracer.readable(self)):
            raise _unknown(value if mode.tracer is None else mode.tracer.seen(self)._value, mend or _NUMBER)
        if mode.readings is not None:
            mode.readings.append(None)
        if self._node is not None and self._node.tags & mode.opaque:
            raise FunctionError(
                "the backward or jvp of a Function is differentiated itself, but reads a tensor as plain numbers, which loses the derivative",
                mend="compute with the tensor itself, or use x.detach() on purpose",
            )
        return value


def _unknown(value: Any, mend: str) -> TraceError:
    if current().tracer is None:
        return leaked(value)
    name = getattr(value, "name", "")
    what = f"{name}, {Aval(value.shape, value.dtype)}," if name else f"a tensor {Aval(value.shape, value.dtype)}"
    return TraceError(f"the value of {what} is asked for while a function is traced, where it is not known", mend=mend)


_BRANCH = "choose with cr.where or cr.cond, repeat with cr.while_loop or cr.scan; decide what is fixed before, and pass it as a Python value"
_NUMBER = (
    "compute with the tensor itself, in chainrule's functions and not in NumPy's or Python's;"
    " pass what is fixed, such as a size or a number of repetitions, as a Python number; repeat with cr.while_loop or cr.scan"
)
