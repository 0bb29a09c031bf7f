"""Layers made of others, or of a plain function: a way around some layers, a function with a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from chainrule.core.errors import ArgumentError, LayerError
from chainrule.nn.layer import Layer
from chainrule.nn.sequential import Sequential
from chainrule.tensor import Tensor


class Residual(Layer):
    """``x + layer(x)``: what the layer computes is added to a way around it.

    Parameters
    ----------
    layer : Layer or callable, or sequence of them
        Several stand one after the other, as in `Sequential`.
    shortcut : Layer or callable, optional
        What the way around computes, such as a projection where the layer changes the shape; the identity if not given.
    name
        As for `Layer`.

    Raises
    ------
    LayerError
        If the two ways end in different shapes.

    Notes
    -----
    He et al., "Deep residual learning for image recognition" (2016), equations 1 and 2.

    Examples
    --------
    >>> import chainrule as cr
    >>> block = cr.nn.Residual([cr.nn.LayerNormalization(), cr.nn.Dense(2, kernel_initializer="zeros")])
    >>> block([[1.0, 2.0]]).tolist()
    [[1.0, 2.0]]
    """

    def __init__(
        self, layer: Callable[..., Any] | Sequence[Callable[..., Any] | str], shortcut: Callable[..., Any] | None = None, *, name: str | None = None
    ) -> None:
        super().__init__(name=name)
        self.layer = layer if callable(layer) else Sequential(layer)
        self.shortcut = shortcut

    def call(self, x: Tensor) -> Tensor:
        through = self.layer(x)
        around = x if self.shortcut is None else self.shortcut(x)
        if through.shape != around.shape:
            raise LayerError(
                f"{self.label}: the layer gives {through.shape}, and the way around it {around.shape}",
                mend="give a shortcut that makes the shape of the layer's output, such as a Dense or Conv2D without bias",
            )
        return around + through


class Lambda(Layer):
    """A plain function as a layer.

    Parameters
    ----------
    function : callable
        Of the layer's inputs. What it reads besides them is no parameter of the layer.
    name
        As for `Layer`.

    Notes
    -----
    `serialize` writes down the function's name, and `deserialize` takes the function from its ``custom_objects``.

    Examples
    --------
    >>> import chainrule as cr
    >>> model = cr.nn.Sequential([cr.nn.Lambda(lambda x: x / 255), cr.nn.Flatten()])
    >>> model([[[0.0, 255.0]]]).tolist()
    [[0.0, 1.0]]
    """

    def __init__(self, function: Callable[..., Any], *, name: str | None = None) -> None:
        super().__init__(name=name)
        if not callable(function):
            raise ArgumentError(f"Lambda: {function!r} is not a function", mend="pass a function of the layer's inputs")
        self.function = function

    def call(self, *inputs: Any) -> Any:
        return self.function(*inputs)
