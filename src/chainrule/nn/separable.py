"""Convolutions taken apart: every channel with kernels of its own (depthwise), then channels mixed position by position (pointwise)."""

from __future__ import annotations

import math
from typing import Any

from chainrule.core.aval import Shape
from chainrule.nn import regularizers
from chainrule.nn.activations import Function
from chainrule.nn.convolution import KernelLayer
from chainrule.nn.images import Padding, Sizes
from chainrule.nn.initializers import Initializer, fetch
from chainrule.nn.regularizers import Regularizer
from chainrule.nn.spec import counted
from chainrule.ops.convolution import conv
from chainrule.ops.movement import reshape
from chainrule.tensor import Tensor


class ChannelwiseLayer(KernelLayer):
    """Base of layers that give every channel ``depth_multiplier`` kernels of its own."""

    depth_multiplier: int
    depthwise_initializer: Initializer
    depthwise_regularizer: Regularizer | None

    def set_depthwise(self, depth_multiplier: int, initializer: Initializer | str, regularizer: Regularizer | str | None) -> None:
        """Keep what the channels' kernels are."""
        self.depth_multiplier = counted(type(self).__name__, "depth_multiplier", depth_multiplier)
        self.depthwise_initializer = fetch(initializer)
        self.depthwise_regularizer = regularizers.fetch(regularizer)

    def add_depthwise(self, name: str, channels: int) -> Tensor:
        window = math.prod(self.kernel_size)
        shape = (*self.kernel_size, channels, self.depth_multiplier)
        # An output sees one channel; read off the shape, as Keras does, it would see all.
        fans = (window, window * self.depth_multiplier)
        return self.add_parameter(name, shape, self.depthwise_initializer, fans=fans, regularizer=self.depthwise_regularizer)

    def depthwise(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Every channel with its kernels: output ``c * depth_multiplier + m`` is channel c with its m-th kernel."""
        channels = x.shape[-1]
        return self.slide(x, reshape(kernel, (*self.kernel_size, 1, channels * self.depth_multiplier)), channels)


class DepthwiseConvolution(ChannelwiseLayer):
    """Base of the depthwise layers; their arguments are those of `DepthwiseConv2D`."""

    kernel: Tensor

    def __init__(
        self,
        kernel_size: Sizes,
        strides: Sizes = 1,
        padding: Padding = "valid",
        *,
        depth_multiplier: int = 1,
        data_format: str = "channels_last",
        dilation_rate: Sizes = 1,
        activation: str | Function | None = None,
        use_bias: bool = True,
        depthwise_initializer: Initializer | str = "glorot_uniform",
        bias_initializer: Initializer | str = "zeros",
        depthwise_regularizer: Regularizer | str | None = None,
        bias_regularizer: Regularizer | str | None = None,
        name: str | None = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.set_window(kernel_size, strides, padding, dilation_rate, data_format)
        self.set_depthwise(depth_multiplier, depthwise_initializer, depthwise_regularizer)
        self.set_ending(activation, use_bias, bias_initializer, bias_regularizer)

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[self.channel_axis]
        self.kernel = self.add_depthwise("kernel", channels)
        self.add_bias(channels * self.depth_multiplier)
        self.input_spec = self.spec(channels)

    def convolve(self, x: Tensor) -> Tensor:
        return self.depthwise(x, self.kernel)


class SeparableConvolution(ChannelwiseLayer):
    """Base of the separable layers; their arguments are those of `SeparableConv2D`."""

    depthwise_kernel: Tensor
    pointwise_kernel: Tensor

    def __init__(
        self,
        filters: int,
        kernel_size: Sizes,
        strides: Sizes = 1,
        padding: Padding = "valid",
        *,
        data_format: str = "channels_last",
        dilation_rate: Sizes = 1,
        depth_multiplier: int = 1,
        activation: str | Function | None = None,
        use_bias: bool = True,
        depthwise_initializer: Initializer | str = "glorot_uniform",
        pointwise_initializer: Initializer | str = "glorot_uniform",
        bias_initializer: Initializer | str = "zeros",
        depthwise_regularizer: Regularizer | str | None = None,
        pointwise_regularizer: Regularizer | str | None = None,
        bias_regularizer: Regularizer | str | None = None,
        name: str | None = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.filters = counted(type(self).__name__, "filters", filters)
        self.set_window(kernel_size, strides, padding, dilation_rate, data_format)
        self.set_depthwise(depth_multiplier, depthwise_initializer, depthwise_regularizer)
        self.pointwise_initializer = fetch(pointwise_initializer)
        self.pointwise_regularizer = regularizers.fetch(pointwise_regularizer)
        self.set_ending(activation, use_bias, bias_initializer, bias_regularizer)

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[self.channel_axis]
        self.depthwise_kernel = self.add_depthwise("depthwise_kernel", channels)
        shape = (*(1,) * self.rank, channels * self.depth_multiplier, self.filters)
        self.pointwise_kernel = self.add_parameter("pointwise_kernel", shape, self.pointwise_initializer, regularizer=self.pointwise_regularizer)
        self.add_bias(self.filters)
        self.input_spec = self.spec(channels)

    def convolve(self, x: Tensor) -> Tensor:
        return conv(self.depthwise(x, self.depthwise_kernel), self.pointwise_kernel)


class DepthwiseConv1D(DepthwiseConvolution):
    """Convolution of sequences, every channel with kernels of its own.

    Parameters
    ----------
    kernel_size, strides, padding, depth_multiplier, data_format, dilation_rate, activation, use_bias
        As for `DepthwiseConv2D`, with one spatial axis, the steps; padding may be "causal", as for `Conv1D`.
    depthwise_initializer, bias_initializer, depthwise_regularizer, bias_regularizer, name, dtype
        As for `DepthwiseConv2D`.

    Attributes
    ----------
    kernel : Tensor of shape (kernel_size, channels, depth_multiplier)
    bias : Tensor of shape (channels * depth_multiplier,), or None

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> layer = cr.nn.DepthwiseConv1D(2, depthwise_initializer="ones")
    >>> layer(np.array([[[1.0, 5.0], [10.0, 50.0]]])).tolist()
    [[[11.0, 55.0]]]
    """

    rank = 1


class DepthwiseConv2D(DepthwiseConvolution):
    """Convolution of images, every channel with kernels of its own.

    Parameters
    ----------
    kernel_size, strides, padding, data_format, dilation_rate, activation, use_bias
        As for `Conv2D`.
    depth_multiplier : int
        Kernels, and so output channels, for every input channel.
    depthwise_initializer, bias_initializer : str or Initializer
    depthwise_regularizer, bias_regularizer : str or Regularizer, optional
    name, dtype
        As for `Layer`.

    Attributes
    ----------
    kernel : Tensor of shape (height, width, channels, depth_multiplier)
    bias : Tensor of shape (channels * depth_multiplier,), or None

    Notes
    -----
    A `Conv2D` with as many groups as channels, whose kernel is laid out as in Keras. Output ``c * depth_multiplier + m`` is
    channel c with its m-th kernel.

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> layer = cr.nn.DepthwiseConv2D(3, depth_multiplier=2)
    >>> layer(np.zeros((1, 8, 8, 3))).shape
    (1, 6, 6, 6)
    """

    rank = 2


class SeparableConv1D(SeparableConvolution):
    """Depthwise convolution of sequences, then a mixing of the channels at each step.

    Parameters
    ----------
    filters, kernel_size, strides, padding, data_format, dilation_rate, depth_multiplier, activation, use_bias
        As for `SeparableConv2D`, with one spatial axis, the steps; padding may be "causal", as for `Conv1D`.
    depthwise_initializer, pointwise_initializer, bias_initializer
        As for `SeparableConv2D`.
    depthwise_regularizer, pointwise_regularizer, bias_regularizer, name, dtype
        As for `SeparableConv2D`.

    Attributes
    ----------
    depthwise_kernel : Tensor of shape (kernel_size, channels, depth_multiplier)
    pointwise_kernel : Tensor of shape (1, channels * depth_multiplier, filters)
    bias : Tensor of shape (filters,), or None

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> layer = cr.nn.SeparableConv1D(5, 3)
    >>> layer(np.zeros((1, 8, 4))).shape, sum(p.size for p in layer.parameters())
    ((1, 6, 5), 37)
    """

    rank = 1


class SeparableConv2D(SeparableConvolution):
    """Depthwise convolution of images, then a mixing of the channels at each position.

    Parameters
    ----------
    filters : int
        Number of output channels.
    kernel_size, strides, padding, data_format, dilation_rate
        Of the depthwise convolution; as for `Conv2D`.
    depth_multiplier : int
        Channels between the two steps for every input channel.
    activation, use_bias
        After both steps; as for `Conv2D`.
    depthwise_initializer, pointwise_initializer, bias_initializer : str or Initializer
    depthwise_regularizer, pointwise_regularizer, bias_regularizer : str or Regularizer, optional
    name, dtype
        As for `Layer`.

    Attributes
    ----------
    depthwise_kernel : Tensor of shape (height, width, channels, depth_multiplier)
    pointwise_kernel : Tensor of shape (1, 1, channels * depth_multiplier, filters)
    bias : Tensor of shape (filters,), or None

    Notes
    -----
    With k taps, C channels and F filters: ``k*C + C*F`` weights instead of ``k*C*F`` (Chollet, "Xception: Deep learning
    with depthwise separable convolutions", 2017).

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> layer = cr.nn.SeparableConv2D(8, 3, padding="same")
    >>> layer(np.zeros((1, 6, 6, 4))).shape, sum(p.size for p in layer.parameters())
    ((1, 6, 6, 8), 76)
    """

    rank = 2
