"""Convolutional layers: the same small kernel at every position of an image."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

from chainrule.core.aval import Shape
from chainrule.core.errors import ArgumentError, LayerError
from chainrule.nn import regularizers
from chainrule.nn.activations import Function, get
from chainrule.nn.images import ImageLayer, Padding, Sizes, known_padding, per_axis
from chainrule.nn.initializers import Initializer, fetch
from chainrule.nn.regularizers import Regularizer
from chainrule.nn.spec import counted
from chainrule.ops.convolution import conv
from chainrule.tensor import Tensor


class KernelLayer(ImageLayer, ABC):
    """Base of layers that slide a kernel over images, add a bias and apply an activation; ``rank`` is the number of spatial axes.

    A subclass makes its kernels and says with `convolve` what they do.
    """

    bias: Tensor | None

    def set_window(self, kernel_size: Sizes, strides: Sizes, padding: Padding, dilation_rate: Sizes, data_format: str) -> None:
        """Keep how the windows lie."""
        self.kernel_size = per_axis(self, "kernel_size", kernel_size, self.rank)
        self.strides = per_axis(self, "strides", strides, self.rank)
        self.padding = known_padding(self, padding, self.named_paddings)
        self.dilation_rate = per_axis(self, "dilation_rate", dilation_rate, self.rank)
        self.set_format(data_format)

    def set_ending(
        self,
        activation: str | Function | None,
        use_bias: bool,
        bias_initializer: Initializer | str,
        bias_regularizer: Regularizer | str | None,
    ) -> None:
        """Keep what comes after the kernel."""
        self.activation = get(activation)
        self.use_bias = use_bias
        self.bias_initializer = fetch(bias_initializer)
        self.bias_regularizer = regularizers.fetch(bias_regularizer)

    @property
    def named_paddings(self) -> tuple[str, ...]:
        return ("valid", "same", "causal") if self.rank == 1 else ("valid", "same")

    def grouped(self, channels: int, groups: int) -> int:
        """The channels of each group."""
        if channels % groups:
            raise LayerError(f"{self.label}: {channels} channels do not fall into {groups} groups", mend="groups must divide the channels")
        return channels // groups

    def add_bias(self, filters: int) -> None:
        self.bias = None
        if self.use_bias:
            self.bias = self.add_parameter("bias", (filters,), self.bias_initializer, regularizer=self.bias_regularizer)

    def call(self, x: Tensor) -> Tensor:
        return self.on_channels_last(self._convolve_and_end, x)

    def _convolve_and_end(self, x: Tensor) -> Tensor:
        y = self.convolve(x)
        return self.activation(y if self.bias is None else y + self.bias)

    @abstractmethod
    def convolve(self, x: Tensor) -> Tensor:
        """What the kernel makes of images, channels last."""

    def slide(self, x: Tensor, kernel: Tensor, groups: int) -> Tensor:
        """The convolution of images with a kernel, as the windows lie."""
        padding = self.padding
        if padding == "causal":
            padding = (((self.kernel_size[0] - 1) * self.dilation_rate[0], 0),)
        return conv(x, kernel, stride=self.strides, padding=padding, dilation=self.dilation_rate, groups=groups)


class Convolution(KernelLayer):
    """Base of the convolutional layers; their arguments are those of `Conv2D`."""

    kernel: Tensor

    def __init__(
        self,
        filters: int,
        kernel_size: Sizes,
        strides: Sizes = 1,
        padding: Padding = "valid",
        *,
        data_format: str = "channels_last",
        dilation_rate: Sizes = 1,
        groups: int = 1,
        activation: str | Function | None = None,
        use_bias: bool = True,
        kernel_initializer: Initializer | str = "glorot_uniform",
        bias_initializer: Initializer | str = "zeros",
        kernel_regularizer: Regularizer | str | None = None,
        bias_regularizer: Regularizer | str | None = None,
        name: str | None = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.filters = counted(type(self).__name__, "filters", filters)
        self.groups = counted(type(self).__name__, "groups", groups)
        if self.filters % self.groups:
            raise ArgumentError(f"{type(self).__name__}: filters={filters}, groups={groups}", mend="filters must be a positive multiple of groups")
        self.set_window(kernel_size, strides, padding, dilation_rate, data_format)
        self.set_ending(activation, use_bias, bias_initializer, bias_regularizer)
        self.kernel_initializer = fetch(kernel_initializer)
        self.kernel_regularizer = regularizers.fetch(kernel_regularizer)

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[self.channel_axis]
        inside, window = self.grouped(channels, self.groups), math.prod(self.kernel_size)
        shape = (*self.kernel_size, inside, self.filters)
        fans = (window * inside, window * self.filters // self.groups)
        self.kernel = self.add_parameter("kernel", shape, self.kernel_initializer, fans=fans, regularizer=self.kernel_regularizer)
        self.add_bias(self.filters)
        self.input_spec = self.spec(channels)

    def convolve(self, x: Tensor) -> Tensor:
        return self.slide(x, self.kernel, self.groups)


class Conv1D(Convolution):
    """Convolution of sequences.

    Parameters
    ----------
    filters, kernel_size, strides, dilation_rate, data_format, groups, activation, use_bias
        As for `Conv2D`, with one spatial axis, the steps.
    padding : str, int or sequence
        As for `Conv2D`; or "causal": ``(kernel_size - 1) * dilation_rate`` zeros in front, so that an output
        depends on no later input.
    kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, name, dtype
        As for `Conv2D`.

    Attributes
    ----------
    kernel : Tensor of shape (kernel_size, channels / groups, filters)
    bias : Tensor of shape (filters,), or None

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> layer = cr.nn.Conv1D(1, 2, padding="causal", kernel_initializer="ones")
    >>> layer(np.array([[[1.0], [10.0], [100.0]]])).flatten().tolist()
    [1.0, 11.0, 110.0]
    """

    rank = 1


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
        Linear if not given. It sees channels last, whatever the data format.
    use_bias : bool
    kernel_initializer, bias_initializer : str or Initializer
    kernel_regularizer, bias_regularizer : str or Regularizer, optional
    name, dtype
        As for `Layer`.

    Attributes
    ----------
    kernel : Tensor of shape (height, width, channels / groups, filters)
    bias : Tensor of shape (filters,), or None

    Raises
    ------
    LayerError
        If an input is no batch of images, or has another number of channels than the first one.

    Notes
    -----
    As in networks at large, the kernel is not reversed; see `conv` for the formula. With strides, "same" pads
    so much that there are ``ceil(size / stride)`` outputs, the odd zero behind.

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


class Conv3D(Convolution):
    """Convolution of volumes, or of films, whose frames are the first spatial axis.

    Parameters
    ----------
    filters, kernel_size, strides, padding, data_format, dilation_rate, groups, activation, use_bias
        As for `Conv2D`, with three spatial axes: depth, height, width.
    kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, name, dtype
        As for `Conv2D`.

    Attributes
    ----------
    kernel : Tensor of shape (depth, height, width, channels / groups, filters)
    bias : Tensor of shape (filters,), or None

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> cr.nn.Conv3D(2, (1, 3, 3), strides=(1, 2, 2))(np.zeros((1, 4, 7, 7, 3))).shape
    (1, 4, 3, 3, 2)
    """

    rank = 3
