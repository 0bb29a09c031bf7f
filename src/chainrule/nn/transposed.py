"""Transposed convolutional layers: every input position spreads a kernel over a larger output."""

from __future__ import annotations

import math
from typing import Any

from chainrule.core.aval import Shape
from chainrule.core.errors import ArgumentError
from chainrule.nn import regularizers
from chainrule.nn.activations import Function
from chainrule.nn.convolution import KernelLayer
from chainrule.nn.images import Padding, Sizes, per_axis
from chainrule.nn.initializers import Initializer, fetch
from chainrule.nn.regularizers import Regularizer
from chainrule.nn.spec import counted
from chainrule.ops.convolution import conv_transpose
from chainrule.tensor import Tensor


class TransposedConvolution(KernelLayer):
    """Base of the transposed convolutional layers; their arguments are those of `Conv2DTranspose`."""

    kernel: Tensor

    def __init__(
        self,
        filters: int,
        kernel_size: Sizes,
        strides: Sizes = 1,
        padding: Padding = "valid",
        *,
        output_padding: Sizes | None = None,
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
        self.output_padding = None if output_padding is None else self._fitting(output_padding)
        self.set_ending(activation, use_bias, bias_initializer, bias_regularizer)
        self.kernel_initializer = fetch(kernel_initializer)
        self.kernel_regularizer = regularizers.fetch(kernel_regularizer)

    @property
    def named_paddings(self) -> tuple[str, ...]:
        return "valid", "same"

    def _fitting(self, output_padding: Sizes) -> tuple[int, ...]:
        extra = per_axis(self, "output_padding", output_padding, self.rank, least=0)
        if any(more >= max(step, gap) for more, step, gap in zip(extra, self.strides, self.dilation_rate, strict=True)):
            raise ArgumentError(
                f"{type(self).__name__}: output_padding={output_padding!r} with strides={self.strides}, dilation_rate={self.dilation_rate}",
                mend="it must be smaller than the stride or the dilation",
            )
        return extra

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[self.channel_axis]
        inside, window = self.grouped(channels, self.groups), math.prod(self.kernel_size)
        shape = (*self.kernel_size, self.filters // self.groups, channels)
        # From the data's side: Keras and PyTorch read the fans off the shape as if it were a convolution's, the other way round.
        fans = (window * inside, window * self.filters // self.groups)
        self.kernel = self.add_parameter("kernel", shape, self.kernel_initializer, fans=fans, regularizer=self.kernel_regularizer)
        self.add_bias(self.filters)
        self.input_spec = self.spec(channels)

    def convolve(self, x: Tensor) -> Tensor:
        return conv_transpose(
            x,
            self.kernel,
            stride=self.strides,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.dilation_rate,
            groups=self.groups,
        )


class Conv1DTranspose(TransposedConvolution):
    """Transposed convolution of sequences.

    Parameters
    ----------
    filters, kernel_size, strides, padding, output_padding, data_format, dilation_rate, groups, activation, use_bias
        As for `Conv2DTranspose`, with one spatial axis, the steps.
    kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, name, dtype
        As for `Conv2DTranspose`.

    Attributes
    ----------
    kernel : Tensor of shape (kernel_size, filters / groups, channels)
    bias : Tensor of shape (filters,), or None

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> layer = cr.nn.Conv1DTranspose(1, 3, strides=2, kernel_initializer="ones")
    >>> layer(np.array([[[1.0], [10.0]]])).flatten().tolist()
    [1.0, 1.0, 11.0, 10.0, 10.0]
    """

    rank = 1


class Conv2DTranspose(TransposedConvolution):
    """Transposed convolution of images with two spatial axes: from coarse to fine.

    Parameters
    ----------
    filters : int
        Number of output channels.
    kernel_size, strides, dilation_rate : int or (int, int)
        One for both spatial axes, or height and width; strides are steps in the output.
    padding : str, int or sequence
        "valid": nothing is cut off the output, which has ``size * stride + max(kernel - stride, 0)`` positions;
        "same": it has ``size * stride``. Numbers, as for `Conv2D`, are cut off the sides, as PyTorch does.
    output_padding : int or (int, int), optional
        Positions added behind, fewer than the stride (or dilation). With it, "same" cuts ``kernel // 2`` off both sides, and "valid"
        has ``(size - 1) * stride + kernel + output_padding`` positions.
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
    kernel : Tensor of shape (height, width, filters / groups, channels)
        That of the `Conv2D` from ``filters`` to ``channels`` channels whose transpose this is. PyTorch's is
        (channels, filters / groups, height, width).
    bias : Tensor of shape (filters,), or None

    Raises
    ------
    LayerError
        If an input is no batch of images, or has another number of channels than the first one.

    Notes
    -----
    See `conv_transpose`. Where kernels do not divide evenly into strides, outputs overlap unevenly (Odena, Dumoulin
    and Olah, "Deconvolution and checkerboard artifacts", 2016); `UpSampling2D` before a `Conv2D` is the other way.

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> layer = cr.nn.Conv2DTranspose(4, 3, strides=2, padding="same")
    >>> layer(np.zeros((1, 5, 6, 3))).shape
    (1, 10, 12, 4)
    >>> layer.kernel.shape
    (3, 3, 4, 3)
    """

    rank = 2


class Conv3DTranspose(TransposedConvolution):
    """Transposed convolution of volumes.

    Parameters
    ----------
    filters, kernel_size, strides, padding, output_padding, data_format, dilation_rate, groups, activation, use_bias
        As for `Conv2DTranspose`, with three spatial axes: depth, height, width.
    kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, name, dtype
        As for `Conv2DTranspose`.

    Attributes
    ----------
    kernel : Tensor of shape (depth, height, width, filters / groups, channels)
    bias : Tensor of shape (filters,), or None

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> cr.nn.Conv3DTranspose(2, 2, strides=2)(np.zeros((1, 2, 3, 3, 4))).shape
    (1, 4, 6, 6, 2)
    """

    rank = 3
