"""Python's operators on tensors, each a thin call to the public function of the same meaning.

Operators that change their left operand (``+=``) rebind its name to the new value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chainrule.core.primitive import functions

if TYPE_CHECKING:
    import numpy.typing as npt

    from chainrule.tensor import Tensor


class Operators:
    """The operators of `Tensor`."""

    __slots__ = ()

    if TYPE_CHECKING:

        def assign(self, value: Tensor | npt.ArrayLike) -> Tensor: ...

    def __add__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.add(self, other)

    def __radd__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.add(other, self)

    def __sub__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.subtract(self, other)

    def __rsub__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.subtract(other, self)

    def __mul__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.multiply(self, other)

    def __rmul__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.multiply(other, self)

    def __truediv__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.divide(self, other)

    def __rtruediv__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.divide(other, self)

    def __floordiv__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.floor_divide(self, other)

    def __rfloordiv__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.floor_divide(other, self)

    def __mod__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.remainder(self, other)

    def __rmod__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.remainder(other, self)

    def __pow__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.pow(self, other)

    def __rpow__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.pow(other, self)

    def __matmul__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.matmul(self, other)

    def __rmatmul__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.matmul(other, self)

    def __and__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.bitwise_and(self, other)

    def __rand__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.bitwise_and(other, self)

    def __or__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.bitwise_or(self, other)

    def __ror__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.bitwise_or(other, self)

    def __xor__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.bitwise_xor(self, other)

    def __rxor__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.bitwise_xor(other, self)

    def __lshift__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.bitwise_left_shift(self, other)

    def __rlshift__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.bitwise_left_shift(other, self)

    def __rshift__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.bitwise_right_shift(self, other)

    def __rrshift__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.bitwise_right_shift(other, self)

    def __eq__(self, other: Tensor | npt.ArrayLike | None) -> Tensor:  # type: ignore[override] - elementwise, as arrays have it
        return NotImplemented if other is None else functions.equal(self, other)

    def __ne__(self, other: Tensor | npt.ArrayLike | None) -> Tensor:  # type: ignore[override] - elementwise, as arrays have it
        return NotImplemented if other is None else functions.not_equal(self, other)

    def __lt__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.less(self, other)

    def __le__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.less_equal(self, other)

    def __gt__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.greater(self, other)

    def __ge__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return functions.greater_equal(self, other)

    def __neg__(self) -> Tensor:
        return functions.negative(self)

    def __pos__(self) -> Tensor:
        return functions.positive(self)

    def __abs__(self) -> Tensor:
        return functions.abs(self)

    def __invert__(self) -> Tensor:
        return functions.bitwise_invert(self)

    def __iadd__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return self.assign(functions.add(self, other))

    def __isub__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return self.assign(functions.subtract(self, other))

    def __imul__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return self.assign(functions.multiply(self, other))

    def __itruediv__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return self.assign(functions.divide(self, other))

    def __ifloordiv__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return self.assign(functions.floor_divide(self, other))

    def __imod__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return self.assign(functions.remainder(self, other))

    def __ipow__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return self.assign(functions.pow(self, other))

    def __imatmul__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return self.assign(functions.matmul(self, other))

    def __iand__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return self.assign(functions.bitwise_and(self, other))

    def __ior__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return self.assign(functions.bitwise_or(self, other))

    def __ixor__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return self.assign(functions.bitwise_xor(self, other))

    def __ilshift__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return self.assign(functions.bitwise_left_shift(self, other))

    def __irshift__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return self.assign(functions.bitwise_right_shift(self, other))

    __hash__ = object.__hash__
