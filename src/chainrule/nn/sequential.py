"""Sequential: layers one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from chainrule.core.errors import ArgumentError
from chainrule.nn.activations import get
from chainrule.nn.layer import Layer


class Sequential(Layer):
    """Layers (or plain functions) of which each takes what the one before gives.

    Parameters
    ----------
    layers : sequence of Layer, callable or str
        A string names an activation.

    Examples
    --------
    >>> import chainrule as cr
    >>> model = cr.nn.Sequential([cr.nn.Dense(4, activation="relu"), cr.nn.Dense(2)])
    >>> model([[1.0, 2.0, 3.0]]).shape
    (1, 2)
    >>> [name for name, _ in model.named_parameters()]
    ['layers.0.kernel', 'layers.0.bias', 'layers.1.kernel', 'layers.1.bias']
    """

    def __init__(self, layers: Iterable[Callable[..., Any] | str] = (), *, name: str | None = None) -> None:
        super().__init__(name=name)
        if isinstance(layers, str | Mapping | Layer) or not isinstance(layers, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may not check types
            raise ArgumentError(f"Sequential: a {type(layers).__name__} is no list of layers", mend="pass a list: nn.Sequential([nn.Dense(10)])")
        self.layers = [get(layer) if isinstance(layer, str) else layer for layer in layers]
        for place, layer in enumerate(self.layers):
            got = f"the class {layer.__name__}" if isinstance(layer, type) else None if callable(layer) else repr(layer)
            if got is not None:
                raise ArgumentError(f"Sequential: entry {place} is {got}, not a layer", mend="pass layers, such as nn.Dense(10)")

    def call(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x
