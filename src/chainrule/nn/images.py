"""What layers over images share: where the channels stand, and sizes given once for every axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import index
from typing import Any

from chainrule.core.errors import ArgumentError
from chainrule.nn.layer import Layer
from chainrule.nn.spec import InputSpec
from chainrule.ops.movement import permute_dims
from chainrule.tensor import Tensor

Padding = str | int | Sequence[int | Sequence[int]]

SPATIAL = {1: ("steps",), 2: ("height", "width"), 3: ("depth", "height", "width")}
"""What the spatial axes are called."""


class ImageLayer(Layer):
    """Base of layers over batches of images of a fixed number of spatial axes.

    Channels stand last inside; ``data_format="channels_first"`` moves them there and back.
    """

    rank: int
    data_format: str

    def set_format(self, data_format: str) -> None:
        if data_format not in ("channels_last", "channels_first"):
            raise ArgumentError(f"{type(self).__name__}: no data_format {data_format!r}", mend='choose "channels_last" or "channels_first"')
        self.data_format = data_format
        self.input_spec = self.spec()

    def spec(self, channels: int | None = None) -> InputSpec:
        """What the layer takes, of a known number of channels if given."""
        spatial, last = SPATIAL[self.rank], self.data_format == "channels_last"
        names = ("batch", *spatial, "channels") if last else ("batch", "channels", *spatial)
        axes = {} if channels is None else {self.channel_axis: channels}
        return InputSpec(
            ndim=self.rank + 2,
            axes=axes,
            names=names,
            mend="images come in batches and have a channel axis, even if it is 1: cr.expand_dims adds one; see also data_format",
        )

    @property
    def channel_axis(self) -> int:
        return self.rank + 1 if self.data_format == "channels_last" else 1

    def on_channels_last(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Apply a function of images with channels last."""
        if self.data_format == "channels_last":
            return function(x)
        ahead = tuple(range(2, self.rank + 2))
        y = function(permute_dims(x, (0, *ahead, 1)))
        return permute_dims(y, (0, self.rank + 1, *range(1, self.rank + 1)))


def per_axis(layer: Layer, label: str, value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """A positive integer for every spatial axis."""
    given: Any = value if isinstance(value, Sequence) else (value,) * rank
    try:
        sizes = tuple(map(index, given))
    except TypeError:
        sizes = ()
    if len(sizes) != rank or min(sizes) < 1:
        raise ArgumentError(f"{type(layer).__name__}: {label}={value!r}", mend=f"give one positive integer, or {rank} of them")
    return sizes


def canonical(padding: Padding) -> Padding:
    """Padding with tuples for sequences."""
    if isinstance(padding, (str, int)):
        return padding
    return tuple(side if isinstance(side, int) else tuple(side) for side in padding)
