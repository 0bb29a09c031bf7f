"""Convolutional layers: the same small kernel at every position of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from chainrule.core.aval import Shape
from chainrule.core.errors import ArgumentError, LayerError
from chainrule.nn.activations import Function, get
from chainrule.nn.images import ImageLayer, Padding, canonical, per_axis
from chainrule.nn.initializers import Initializer, fetch
from chainrule.nn.spec import counted
from chainrule.ops.convolution import conv
from chainrule.tensor import Tensor


class Convolution(ImageLayer):
    """Base of the convolutional layers; ``rank`` is the number of spatial axes.

    Parameters
    ----------
    filters : int
        Number of output channels.
    kernel_size, strides, dilation_rate : int or tuple of int
        One for all spatial axes, or one for each.
    padding : str, int or sequence
        "valid" for none, "same" for as much that strides of 1 keep the size; or zeros on all sides, on
        each axis, or (front, back) of each axis.
    data_format : {"channels_last", "channels_first"}
    groups : int
        Input and output channels fall into this many groups that do not see each other.
    activation : str or callable, optional
        Linear if not given.
    use_bias : bool
    kernel_initializer, bias_initializer : str or Initializer
    name, dtype
        As for `Layer`.

    Attributes
    ----------
    kernel : Tensor of shape (sizes of the kernel, input channels / groups, filters)
    bias : Tensor of shape (filters,), or None
    """

    kernel: Tensor
    bias: Tensor | None

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Padding = "valid",
        *,
        data_format: str = "channels_last",
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
        activation: str | Function | None = None,
        use_bias: bool = True,
        kernel_initializer: Initializer | str = "glorot_uniform",
        bias_initializer: Initializer | str = "zeros",
        name: str | None = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.filters = counted(type(self).__name__, "filters", filters)
        self.groups = counted(type(self).__name__, "groups", groups)
        if self.filters % self.groups:
            raise ArgumentError(f"{type(self).__name__}: filters={filters}, groups={groups}", mend="filters must be a positive multiple of groups")
        self.kernel_size = per_axis(self, "kernel_size", kernel_size, self.rank)
        self.strides = per_axis(self, "strides", strides, self.rank)
        self.padding = canonical(padding)
        self.dilation_rate = per_axis(self, "dilation_rate", dilation_rate, self.rank)
        self.activation = get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = fetch(kernel_initializer)
        self.bias_initializer = fetch(bias_initializer)
        self.set_format(data_format)

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[self.channel_axis]
        if channels % self.groups:
            raise LayerError(f"{self.label}: {channels} channels do not fall into {self.groups} groups", mend="groups must divide the channels")
        window = math.prod(self.kernel_size)
        shape = (*self.kernel_size, channels // self.groups, self.filters)
        fans = (window * channels // self.groups, window * self.filters // self.groups)
        self.kernel = self.add_parameter("kernel", shape, self.kernel_initializer, fans=fans)
        self.bias = self.add_parameter("bias", (self.filters,), self.bias_initializer) if self.use_bias else None
        self.input_spec = self.spec(channels)

    def call(self, x: Tensor) -> Tensor:
        return self.on_channels_last(self._convolve, x)

    def _convolve(self, x: Tensor) -> Tensor:
        y = conv(x, self.kernel, stride=self.strides, padding=self.padding, dilation=self.dilation_rate, groups=self.groups)
        return self.activation(y if self.bias is None else y + self.bias)


class Conv2D(Convolution):
    """Convolution of images with two spatial axes.

    Parameters
    ----------
    filters : int
        Number of output channels.
    kernel_size, strides, dilation_rate : int or (int, int)
        One for both spatial axes, or height and width.
    padding : str, int or sequence
        "valid" for none, "same" for as much that strides of 1 keep the size; or zeros on all sides, on
        each axis, or (front, back) of each axis.
    data_format : {"channels_last", "channels_first"}
    groups : int
        Input and output channels fall into this many groups that do not see each other.
    activation : str or callable, optional
        Linear if not given.
    use_bias : bool
    kernel_initializer, bias_initializer : str or Initializer
    name, dtype
        As for `Layer`.

    Raises
    ------
    LayerError
        If an input is no batch of images, or has another number of channels than the first one.

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> layer = cr.nn.Conv2D(4, 3, padding="same", activation="relu")
    >>> layer(np.zeros((1, 8, 8, 3))).shape
    (1, 8, 8, 4)
    >>> layer.kernel.shape
    (3, 3, 3, 4)
    """

    rank = 2
