"""A register that knows its dtype, with Python's operators: the value that `scalars.Builder` computes with. The arithmetic is the builder's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from chainrule.compiler.native.ir import Value
from chainrule.core.aval import Dtype


class Arithmetic(Protocol):
    """What the operators stand for; either operand may be a Python number."""

    def binary(self, operation: str, a: Any, b: Any) -> Scalar: ...

    def divide(self, a: Any, b: Any) -> Scalar: ...

    def negative(self, x: Scalar) -> Scalar: ...

    def bitwise(self, operation: str, a: Any, b: Any) -> Scalar: ...

    def shift(self, operation: str, a: Any, b: Any) -> Scalar: ...

    def compare(self, predicate: str, a: Any, b: Any) -> Scalar: ...


@dataclass(frozen=True, slots=True, eq=False)
class Scalar:
    """A register that knows its dtype, with Python's operators; Python numbers beside it take its dtype."""

    k: Arithmetic
    register: Value
    dtype: Dtype

    @property
    def lanes(self) -> int:
        return self.register.kind.lanes

    def __add__(self, other: Any) -> Scalar:
        return self.k.binary("add", self, other)

    def __radd__(self, other: Any) -> Scalar:
        return self.k.binary("add", other, self)

    def __sub__(self, other: Any) -> Scalar:
        return self.k.binary("sub", self, other)

    def __rsub__(self, other: Any) -> Scalar:
        return self.k.binary("sub", other, self)

    def __mul__(self, other: Any) -> Scalar:
        return self.k.binary("mul", self, other)

    def __rmul__(self, other: Any) -> Scalar:
        return self.k.binary("mul", other, self)

    def __truediv__(self, other: Any) -> Scalar:
        return self.k.divide(self, other)

    def __rtruediv__(self, other: Any) -> Scalar:
        return self.k.divide(other, self)

    def __and__(self, other: Any) -> Scalar:
        return self.k.bitwise("and", self, other)

    def __rand__(self, other: Any) -> Scalar:
        return self.k.bitwise("and", other, self)

    def __or__(self, other: Any) -> Scalar:
        return self.k.bitwise("or", self, other)

    def __ror__(self, other: Any) -> Scalar:
        return self.k.bitwise("or", other, self)

    def __xor__(self, other: Any) -> Scalar:
        return self.k.bitwise("xor", self, other)

    def __rxor__(self, other: Any) -> Scalar:
        return self.k.bitwise("xor", other, self)

    def __lshift__(self, other: Any) -> Scalar:
        return self.k.shift("shl", self, other)

    def __rshift__(self, other: Any) -> Scalar:
        return self.k.shift("shr", self, other)

    def __neg__(self) -> Scalar:
        return self.k.negative(self)

    def __invert__(self) -> Scalar:
        return self.k.bitwise("xor", self, -1)

    def __eq__(self, other: object) -> Any:
        return self.k.compare("eq", self, other)

    def __ne__(self, other: object) -> Any:
        return self.k.compare("ne", self, other)

    def __lt__(self, other: Any) -> Scalar:
        return self.k.compare("lt", self, other)

    def __le__(self, other: Any) -> Scalar:
        return self.k.compare("le", self, other)

    def __gt__(self, other: Any) -> Scalar:
        return self.k.compare("gt", self, other)

    def __ge__(self, other: Any) -> Scalar:
        return self.k.compare("ge", self, other)

    __hash__ = object.__hash__
