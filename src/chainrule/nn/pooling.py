"""Pooling layers: one value for every window of an image, or for all of it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from chainrule.nn.images import ImageLayer, Padding, Sizes, known_padding, per_axis
from chainrule.ops.pooling import avg_pool, max_pool
from chainrule.ops.reduction import max
from chainrule.ops.statistics import mean
from chainrule.tensor import Tensor


class Pooling(ImageLayer, ABC):
    """Base of the layers that pool windows; their arguments are those of `MaxPooling2D`."""

    def __init__(
        self,
        pool_size: Sizes = 2,
        strides: Sizes | None = None,
        padding: Padding = "valid",
        *,
        data_format: str = "channels_last",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.pool_size = per_axis(self, "pool_size", pool_size, self.rank)
        self.strides = self.pool_size if strides is None else per_axis(self, "strides", strides, self.rank)
        self.padding = known_padding(self, padding)
        self.set_format(data_format)

    def call(self, x: Tensor) -> Tensor:
        return self.on_channels_last(self.pool, x)

    @abstractmethod
    def pool(self, x: Tensor) -> Tensor:
        """The pooled images, channels last."""


class MaxPooling(Pooling):
    """Base of the layers that take the largest value of each window."""

    def pool(self, x: Tensor) -> Tensor:
        return max_pool(x, self.pool_size, stride=self.strides, padding=self.padding)


class AveragePooling(Pooling):
    """Base of the layers that take the mean of each window, padding left out."""

    def pool(self, x: Tensor) -> Tensor:
        return avg_pool(x, self.pool_size, stride=self.strides, padding=self.padding, count_include_pad=False)


class GlobalPooling(ImageLayer, ABC):
    """Base of the layers that pool whole images; their arguments are those of `GlobalAveragePooling2D`."""

    def __init__(self, *, data_format: str = "channels_last", keepdims: bool = False, name: str | None = None) -> None:
        super().__init__(name=name)
        self.keepdims = keepdims
        self.set_format(data_format)


class GlobalAveragePooling(GlobalPooling):
    """Base of the layers that take the mean over all spatial axes."""

    def call(self, x: Tensor) -> Tensor:
        return mean(x, axis=tuple(self.spatial_axes), keepdims=self.keepdims)


class GlobalMaxPooling(GlobalPooling):
    """Base of the layers that take the maximum over all spatial axes."""

    def call(self, x: Tensor) -> Tensor:
        return max(x, axis=tuple(self.spatial_axes), keepdims=self.keepdims)


class MaxPooling1D(MaxPooling):
    """The largest of each window of steps; ties share the gradient equally.

    Parameters
    ----------
    pool_size, strides, padding, data_format, name
        As for `MaxPooling2D`, with one spatial axis.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nn.MaxPooling1D(2)([[[1.0], [3.0], [5.0], [4.0]]]).flatten().tolist()
    [3.0, 5.0]
    """

    rank = 1


class MaxPooling2D(MaxPooling):
    """The largest value of each window; ties share the gradient equally.

    Parameters
    ----------
    pool_size : int or (int, int)
        Height and width of the windows.
    strides : int or (int, int), optional
        From one window to the next; their size if not given.
    padding : {"valid", "same"}, int or sequence
        "valid" for none, so that what does not fill a window is left out; "same" for ``ceil(size / stride)`` outputs;
        or numbers, for all sides, per axis, or (front, back) of each. What it adds is never the maximum.
    data_format : {"channels_last", "channels_first"}
    name
        As for `Layer`.

    Raises
    ------
    LayerError
        If an input is no batch of images.

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> x = np.arange(16.0).reshape(1, 4, 4, 1)
    >>> cr.nn.MaxPooling2D(2)(x).flatten().tolist()
    [5.0, 7.0, 13.0, 15.0]
    """

    rank = 2


class MaxPooling3D(MaxPooling):
    """The largest of each window of a volume; ties share the gradient equally.

    Parameters
    ----------
    pool_size, strides, padding, data_format, name
        As for `MaxPooling2D`, with three spatial axes: depth, height, width.

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> cr.nn.MaxPooling3D((1, 2, 2))(np.zeros((1, 3, 4, 6, 2))).shape
    (1, 3, 2, 3, 2)
    """

    rank = 3


class AveragePooling1D(AveragePooling):
    """The mean of each window of steps.

    Parameters
    ----------
    pool_size, strides, padding, data_format, name
        As for `AveragePooling2D`, with one spatial axis.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nn.AveragePooling1D(2, padding="same")([[[1.0], [3.0], [5.0]]]).flatten().tolist()
    [2.0, 5.0]
    """

    rank = 1


class AveragePooling2D(AveragePooling):
    """The mean of each window.

    Parameters
    ----------
    pool_size, strides, padding, data_format, name
        As for `MaxPooling2D`.

    Notes
    -----
    The mean is that of the values which lie inside of the image: padding does not count, as in Keras. In PyTorch it
    does, unless ``count_include_pad=False``.

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> x = np.arange(16.0).reshape(1, 4, 4, 1)
    >>> cr.nn.AveragePooling2D(2)(x).flatten().tolist()
    [2.5, 4.5, 10.5, 12.5]
    """

    rank = 2


class AveragePooling3D(AveragePooling):
    """The mean of each window of a volume.

    Parameters
    ----------
    pool_size, strides, padding, data_format, name
        As for `AveragePooling2D`, with three spatial axes: depth, height, width.

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> cr.nn.AveragePooling3D(2)(np.ones((1, 2, 2, 2, 3))).flatten().tolist()
    [1.0, 1.0, 1.0]
    """

    rank = 3


class GlobalAveragePooling1D(GlobalAveragePooling):
    """The mean of a sequence, channel by channel.

    Parameters
    ----------
    data_format, keepdims, name
        As for `GlobalAveragePooling2D`, with one spatial axis.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nn.GlobalAveragePooling1D()([[[1.0, 2.0], [3.0, 6.0]]]).tolist()
    [[2.0, 4.0]]
    """

    rank = 1


class GlobalAveragePooling2D(GlobalAveragePooling):
    """The mean of an image, channel by channel.

    Parameters
    ----------
    data_format : {"channels_last", "channels_first"}
    keepdims : bool
        Keep the spatial axes, with size 1.
    name
        As for `Layer`.

    Raises
    ------
    LayerError
        If an input is no batch of images.

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> x = np.arange(8.0).reshape(1, 2, 2, 2)
    >>> cr.nn.GlobalAveragePooling2D()(x).tolist()
    [[3.0, 4.0]]
    >>> cr.nn.GlobalAveragePooling2D(keepdims=True)(x).shape
    (1, 1, 1, 2)
    """

    rank = 2


class GlobalAveragePooling3D(GlobalAveragePooling):
    """The mean of a volume, channel by channel.

    Parameters
    ----------
    data_format, keepdims, name
        As for `GlobalAveragePooling2D`, with three spatial axes.

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> cr.nn.GlobalAveragePooling3D(data_format="channels_first")(np.ones((5, 3, 2, 2, 2))).shape
    (5, 3)
    """

    rank = 3


class GlobalMaxPooling1D(GlobalMaxPooling):
    """The largest value of a sequence, channel by channel; ties share the gradient equally.

    Parameters
    ----------
    data_format, keepdims, name
        As for `GlobalAveragePooling2D`, with one spatial axis.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nn.GlobalMaxPooling1D()([[[1.0, 6.0], [3.0, 2.0]]]).tolist()
    [[3.0, 6.0]]
    """

    rank = 1


class GlobalMaxPooling2D(GlobalMaxPooling):
    """The largest value of an image, channel by channel; ties share the gradient equally.

    Parameters
    ----------
    data_format, keepdims, name
        As for `GlobalAveragePooling2D`.

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> cr.nn.GlobalMaxPooling2D()(np.arange(8.0).reshape(1, 2, 2, 2)).tolist()
    [[6.0, 7.0]]
    """

    rank = 2


class GlobalMaxPooling3D(GlobalMaxPooling):
    """The largest value of a volume, channel by channel; ties share the gradient equally.

    Parameters
    ----------
    data_format, keepdims, name
        As for `GlobalAveragePooling2D`, with three spatial axes.

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> cr.nn.GlobalMaxPooling3D(keepdims=True)(np.ones((5, 2, 2, 2, 3))).shape
    (5, 1, 1, 1, 3)
    """

    rank = 3
