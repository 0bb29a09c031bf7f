"""Pooling layers: one value for every window of an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from chainrule.nn.images import ImageLayer, Padding, canonical, per_axis
from chainrule.ops.pooling import max_pool
from chainrule.tensor import Tensor


class Pooling(ImageLayer, ABC):
    """Base of the pooling layers; ``rank`` is the number of spatial axes.

    Parameters
    ----------
    pool_size : int or tuple of int
        Size of the windows.
    strides : int or tuple of int, optional
        From one window to the next; their size if not given.
    padding : {"valid", "same"}, int or sequence
    data_format : {"channels_last", "channels_first"}
    name
        As for `Layer`.
    """

    def __init__(
        self,
        pool_size: int | Sequence[int] = 2,
        strides: int | Sequence[int] | None = None,
        padding: Padding = "valid",
        *,
        data_format: str = "channels_last",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.pool_size = per_axis(self, "pool_size", pool_size, self.rank)
        self.strides = self.pool_size if strides is None else per_axis(self, "strides", strides, self.rank)
        self.padding = canonical(padding)
        self.set_format(data_format)

    def call(self, x: Tensor) -> Tensor:
        return self.on_channels_last(self.pool, x)

    @abstractmethod
    def pool(self, x: Tensor) -> Tensor:
        """The pooled images, channels last."""


class MaxPooling2D(Pooling):
    """The largest value of each window; ties share the gradient equally.

    Parameters
    ----------
    pool_size : int or (int, int)
        Height and width of the windows.
    strides : int or (int, int), optional
        From one window to the next; their size if not given.
    padding : {"valid", "same"}, int or sequence
        As for `max_pool`.
    data_format : {"channels_last", "channels_first"}
    name
        As for `Layer`.

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> x = np.arange(16.0).reshape(1, 4, 4, 1)
    >>> cr.nn.MaxPooling2D(2)(x).flatten().tolist()
    [5.0, 7.0, 13.0, 15.0]
    """

    rank = 2

    def pool(self, x: Tensor) -> Tensor:
        return max_pool(x, self.pool_size, stride=self.strides, padding=self.padding)
