"""What layers over images share: where the channels stand, and sizes given once for every axis.

An image has one to three spatial axes here; the steps of a sequence are one.
"""

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
Border = int | Sequence[int | Sequence[int]]
Sizes = int | Sequence[int]
Pairs = tuple[tuple[int, int], ...]

SPATIAL = {1: ("steps",), 2: ("height", "width"), 3: ("depth", "height", "width")}
"""What the spatial axes are called."""


class ImageLayer(Layer):
    """Base of layers over batches of images of a fixed number of spatial axes, ``rank``."""

    rank: int
    data_format: str

    def set_format(self, data_format: str) -> None:
        self.data_format = known_format(self, data_format)
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

    @property
    def spatial_axes(self) -> range:
        return range(1, self.rank + 1) if self.data_format == "channels_last" else range(2, self.rank + 2)

    def on_channels_last(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Apply a function of images with channels last."""
        if self.data_format == "channels_last":
            return function(x)
        y = function(permute_dims(x, (0, *self.spatial_axes, 1)))
        return permute_dims(y, (0, self.rank + 1, *range(1, self.rank + 1)))


def known_format(layer: Layer, data_format: str) -> str:
    """``data_format``, if there is such a one."""
    if data_format not in ("channels_last", "channels_first"):
        raise ArgumentError(f"{type(layer).__name__}: no data_format {data_format!r}", mend='choose "channels_last" or "channels_first"')
    return data_format


def per_axis(layer: Layer, label: str, value: Sizes, rank: int, *, least: int = 1) -> tuple[int, ...]:
    """An integer, at least ``least``, for every spatial axis."""
    given: Any = value if isinstance(value, Sequence) else (value,) * rank
    try:
        sizes = tuple(map(index, given))
    except TypeError:
        sizes = ()
    if len(sizes) != rank or min(sizes) < least:
        kind = "positive integer" if least else "integer that is not negative"
        raise ArgumentError(f"{type(layer).__name__}: {label}={value!r}", mend=f"give one {kind}" + (f", or {rank} of them" if rank > 1 else ""))
    return sizes


def pair_per_axis(layer: Layer, label: str, value: Border, rank: int) -> Pairs:
    """(front, back) for every spatial axis, from one number for all sides, one per axis, or the pairs; of a single axis, the pair alone will do."""
    given: Any = value if isinstance(value, Sequence) else (value,) * rank
    if rank == 1 and len(given) == 2:
        given = (given,)
    try:
        sides = [tuple(map(index, one)) if isinstance(one, Sequence) else (index(one),) * 2 for one in given]
    except TypeError:
        sides = []
    if len(sides) != rank or any(len(pair) != 2 or min(pair) < 0 for pair in sides):
        several = "(front, back)" if rank == 1 else f"{rank} integers, or {rank} pairs (front, back)"
        raise ArgumentError(f"{type(layer).__name__}: {label}={value!r}", mend=f"give one integer, or {several}, none negative")
    return tuple((front, back) for front, back in sides)


def known_padding(layer: ImageLayer, padding: Padding, named: Sequence[str] = ("valid", "same")) -> Padding:
    """A padding of one of these names, or numbers of zeros, as tuples where they are not one for all sides."""
    if isinstance(padding, str):
        if padding not in named:
            choices = " or ".join(map(repr, named))
            raise ArgumentError(f"{type(layer).__name__}: padding={padding!r}", mend=f"choose {choices}, or give numbers of zeros")
        return padding
    pairs = pair_per_axis(layer, "padding", padding, layer.rank)
    return padding if isinstance(padding, int) else pairs
