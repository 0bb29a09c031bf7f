"""Layers that only rearrange their input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import index

from chainrule.core.aval import Shape
from chainrule.core.errors import ArgumentError, LayerError
from chainrule.nn.images import known_format
from chainrule.nn.layer import Layer
from chainrule.nn.spec import InputSpec
from chainrule.ops.movement import moveaxis, permute_dims, reshape
from chainrule.tensor import Tensor


class Flatten(Layer):
    """All axes but the first made into one.

    Parameters
    ----------
    data_format : {"channels_last", "channels_first"}
        Where channels stand in the input. In the output they always come last, so that both formats flatten to the same.
    name
        As for `Layer`.

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> cr.nn.Flatten()(np.zeros((5, 2, 3))).shape
    (5, 6)
    """

    def __init__(self, *, data_format: str = "channels_last", name: str | None = None) -> None:
        super().__init__(name=name)
        self.data_format = known_format(self, data_format)
        self.input_spec = InputSpec(min_ndim=1)

    def call(self, x: Tensor) -> Tensor:
        if self.data_format == "channels_first" and x.ndim > 2:
            x = moveaxis(x, 1, -1)
        return reshape(x, (x.shape[0], math.prod(x.shape[1:])))


class Reshape(Layer):
    """The same elements in another shape, example by example.

    Parameters
    ----------
    target_shape : sequence of int
        Without the batch; one size may be -1, which is then what is left.
    name
        As for `Layer`.

    Raises
    ------
    LayerError
        If an example has not as many elements.

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> cr.nn.Reshape((2, -1))(np.zeros((5, 8))).shape
    (5, 2, 4)
    """

    def __init__(self, target_shape: Sequence[int], *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.target_shape: Shape = tuple(map(index, target_shape))
        if min(self.target_shape, default=0) < -1 or self.target_shape.count(-1) > 1:
            raise ArgumentError(f"Reshape: target_shape={target_shape!r}", mend="sizes are not negative; one of them may be -1, for what is left")
        self.input_spec = InputSpec(min_ndim=1)

    def call(self, x: Tensor) -> Tensor:
        count = math.prod(x.shape[1:])
        known = math.prod(size for size in self.target_shape if size != -1)
        open_ended = -1 in self.target_shape
        if (known == 0 or count % known) if open_ended else count != known:
            wanted = f"a multiple of {known}" if open_ended else str(known)
            raise LayerError(
                f"{self.label} to {self.target_shape} takes {wanted} elements per example, but got {InputSpec.got(x)} with {count}",
                mend="give it inputs of that size, or another target_shape",
            )
        return reshape(x, (x.shape[0], *(count // known if size == -1 else size for size in self.target_shape)))


class Permute(Layer):
    """The axes in another order.

    Parameters
    ----------
    dims : sequence of int
        Which axis of the input comes first, second, ... in the output; counted from 1, as 0 is the batch, which stays.
    name
        As for `Layer`.

    Raises
    ------
    LayerError
        If an input has another number of axes.

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> cr.nn.Permute((3, 1, 2))(np.zeros((5, 28, 32, 3))).shape
    (5, 3, 28, 32)
    """

    def __init__(self, dims: Sequence[int], *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.dims: Shape = tuple(map(index, dims))
        if sorted(self.dims) != list(range(1, len(self.dims) + 1)):
            raise ArgumentError(f"Permute: dims={dims!r}", mend="name every axis but the batch once, counted from 1: (2, 1), say")
        names = ("batch", *(f"axis {axis}" for axis in range(1, len(self.dims) + 1)))
        self.input_spec = InputSpec(ndim=len(names), names=names, mend="give dims one number for each axis of the input but the batch")

    def call(self, x: Tensor) -> Tensor:
        return permute_dims(x, (0, *self.dims))
