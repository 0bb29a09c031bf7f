"""Layers that make images larger or smaller without computing: zeros around them, borders cut off, positions repeated."""

from __future__ import annotations

from chainrule.core.errors import LayerError
from chainrule.nn.images import Border, ImageLayer, Pairs, Sizes, pair_per_axis, per_axis
from chainrule.nn.spec import InputSpec
from chainrule.ops.movement import broadcast_to, reshape
from chainrule.ops.repetition import pad
from chainrule.tensor import Tensor


class ZeroPadding(ImageLayer):
    """Base of the layers that put zeros around images; their arguments are those of `ZeroPadding2D`."""

    def __init__(self, padding: Border = 1, *, data_format: str = "channels_last", name: str | None = None) -> None:
        super().__init__(name=name)
        self.padding: Pairs = pair_per_axis(self, "padding", padding, self.rank)
        self.set_format(data_format)

    def call(self, x: Tensor) -> Tensor:
        sides = dict(zip(self.spatial_axes, self.padding, strict=True))
        return pad(x, [sides.get(axis, (0, 0)) for axis in range(x.ndim)])


class Cropping(ImageLayer):
    """Base of the layers that cut borders off images; their arguments are those of `Cropping2D`."""

    def __init__(self, cropping: Border, *, data_format: str = "channels_last", name: str | None = None) -> None:
        super().__init__(name=name)
        self.cropping: Pairs = pair_per_axis(self, "cropping", cropping, self.rank)
        self.set_format(data_format)

    def call(self, x: Tensor) -> Tensor:
        index = [slice(None)] * x.ndim
        for axis, (front, back) in zip(self.spatial_axes, self.cropping, strict=True):
            size = x.shape[axis]
            if front + back >= size:
                wanted = f"more than {front + back} positions along axis {axis}"
                raise LayerError(f"{self.label} takes {wanted}, but got {InputSpec.got(x)}", mend="crop less, or give it a larger image")
            index[axis] = slice(front, size - back)
        return x[tuple(index)]


class UpSampling(ImageLayer):
    """Base of the layers that repeat positions; their arguments are those of `UpSampling2D`."""

    def __init__(self, size: Sizes = 2, *, data_format: str = "channels_last", name: str | None = None) -> None:
        super().__init__(name=name)
        self.size = per_axis(self, "size", size, self.rank)
        self.set_format(data_format)

    def call(self, x: Tensor) -> Tensor:
        times = dict(zip(self.spatial_axes, self.size, strict=True))
        apart = [n for axis, size in enumerate(x.shape) for n in ((size, 1) if axis in times else (size,))]
        repeated = [n for axis, size in enumerate(x.shape) for n in ((size, times[axis]) if axis in times else (size,))]
        return reshape(broadcast_to(reshape(x, apart), repeated), [size * times.get(axis, 1) for axis, size in enumerate(x.shape)])


class ZeroPadding1D(ZeroPadding):
    """Zeros before and after a sequence.

    Parameters
    ----------
    padding : int or (int, int)
        So many on both sides, or (front, back).
    data_format, name
        As for `ZeroPadding2D`.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nn.ZeroPadding1D((1, 2))([[[5.0]]]).flatten().tolist()
    [0.0, 5.0, 0.0, 0.0]
    """

    rank = 1


class ZeroPadding2D(ZeroPadding):
    """Zeros around images.

    Parameters
    ----------
    padding : int, (int, int) or ((int, int), (int, int))
        So many on all sides, on both sides of each axis, or as (front, back) of each axis.
    data_format : {"channels_last", "channels_first"}
    name
        As for `Layer`.

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> cr.nn.ZeroPadding2D(((1, 0), (2, 3)))(np.ones((1, 4, 4, 2))).shape
    (1, 5, 9, 2)
    """

    rank = 2


class ZeroPadding3D(ZeroPadding):
    """Zeros around volumes.

    Parameters
    ----------
    padding, data_format, name
        As for `ZeroPadding2D`, with three spatial axes.

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> cr.nn.ZeroPadding3D((0, 1, 2))(np.ones((1, 4, 4, 4, 2))).shape
    (1, 4, 6, 8, 2)
    """

    rank = 3


class Cropping1D(Cropping):
    """A sequence without its first and last steps.

    Parameters
    ----------
    cropping : int or (int, int)
        So many on both sides, or (front, back).
    data_format, name
        As for `Cropping2D`.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nn.Cropping1D((1, 0))([[[5.0], [6.0], [7.0]]]).flatten().tolist()
    [6.0, 7.0]
    """

    rank = 1


class Cropping2D(Cropping):
    """Images without their borders.

    Parameters
    ----------
    cropping : int, (int, int) or ((int, int), (int, int))
        So much on all sides, on both sides of each axis, or as (front, back) of each axis.
    data_format : {"channels_last", "channels_first"}
    name
        As for `Layer`.

    Raises
    ------
    LayerError
        If nothing would be left of an image.

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> cr.nn.Cropping2D((1, 2))(np.ones((1, 6, 6, 3))).shape
    (1, 4, 2, 3)
    """

    rank = 2


class Cropping3D(Cropping):
    """Volumes without their borders.

    Parameters
    ----------
    cropping, data_format, name
        As for `Cropping2D`, with three spatial axes.

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> cr.nn.Cropping3D(1)(np.ones((1, 3, 4, 5, 1))).shape
    (1, 1, 2, 3, 1)
    """

    rank = 3


class UpSampling1D(UpSampling):
    """Every step of a sequence several times.

    Parameters
    ----------
    size : int
        How often.
    data_format, name
        As for `UpSampling2D`.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nn.UpSampling1D(2)([[[1.0], [2.0]]]).flatten().tolist()
    [1.0, 1.0, 2.0, 2.0]
    """

    rank = 1


class UpSampling2D(UpSampling):
    """Every pixel made into a rectangle of its colour: the nearest neighbour.

    Parameters
    ----------
    size : int or (int, int)
        How many pixels, down and across.
    data_format : {"channels_last", "channels_first"}
    name
        As for `Layer`.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([[[[1.0], [2.0]]]], requires_grad=True)
    >>> y = cr.nn.UpSampling2D()(x); y.detach()[0, :, :, 0].tolist()
    [[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]]
    >>> y.sum().backward(); x.grad.flatten().tolist()
    [4.0, 4.0]
    """

    rank = 2


class UpSampling3D(UpSampling):
    """Every element of a volume made into a block.

    Parameters
    ----------
    size, data_format, name
        As for `UpSampling2D`, with three spatial axes.

    Examples
    --------
    >>> import chainrule as cr
    >>> import numpy as np
    >>> cr.nn.UpSampling3D((1, 2, 3))(np.ones((1, 2, 2, 2, 5))).shape
    (1, 2, 4, 6, 5)
    """

    rank = 3
