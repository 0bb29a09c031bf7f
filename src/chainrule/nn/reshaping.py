"""Layers that only rearrange their input."""

from __future__ import annotations

import math

from chainrule.nn.layer import Layer
from chainrule.nn.spec import InputSpec
from chainrule.ops.movement import reshape
from chainrule.tensor import Tensor


class Flatten(Layer):
    """All axes but the first made into one.

    Parameters
    ----------
    name
        As for `Layer`.

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> cr.nn.Flatten()(np.zeros((5, 2, 3))).shape
    (5, 6)
    """

    def __init__(self, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.input_spec = InputSpec(min_ndim=1)

    def call(self, x: Tensor) -> Tensor:
        return reshape(x, (x.shape[0], math.prod(x.shape[1:])))
