"""Bidirectional: a sequence read from both ends.

It runs two recurrent layers and puts their outputs together; what they compute is their own business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from chainrule.core.errors import ArgumentError, LayerError
from chainrule.nn.layer import Layer
from chainrule.nn.recurrent import Recurrent, states_of
from chainrule.ops.joining import concat
from chainrule.ops.shifting import flip
from chainrule.tensor import Tensor

_MERGED: Mapping[str | None, Callable[[Tensor, Tensor], Any]] = {
    "concat": lambda a, b: concat([a, b], axis=-1),
    "sum": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "ave": lambda a, b: (a + b) / 2,
    None: lambda a, b: (a, b),
}


class Bidirectional(Layer):
    """A recurrent layer, and another like it that goes through the sequence in the other direction.

    Parameters
    ----------
    layer : SimpleRNN, LSTM or GRU
    merge_mode : {"concat", "sum", "mul", "ave"}, optional
        How both outputs become one; with None they come as a pair.
    backward_layer : SimpleRNN, LSTM or GRU, optional
        Made from the arguments of `layer`, with weights of its own, if not given.
    name
        As for `Layer`.

    Raises
    ------
    ArgumentError
        If the layers are not recurrent, go in the same direction, or differ in what they return.

    Notes
    -----
    Schuster and Paliwal, "Bidirectional recurrent neural networks" (1997). With `return_sequences` the outputs of both stand in the
    order of the input. The state, taken and given, is the one of `layer` and then that of `backward_layer`, in one flat tuple.

    Examples
    --------
    >>> import chainrule as cr
    >>> layer = cr.nn.Bidirectional(cr.nn.LSTM(4, return_sequences=True))
    >>> layer(cr.ones((2, 5, 3))).shape
    (2, 5, 8)
    >>> [name for name, _ in layer.named_parameters()][2:4]
    ['layer.bias', 'backward_layer.kernel']
    """

    layer: Recurrent
    backward_layer: Recurrent

    def __init__(
        self, layer: Recurrent, merge_mode: str | None = "concat", *, backward_layer: Recurrent | None = None, name: str | None = None
    ) -> None:
        super().__init__(name=name)
        for given in (layer, backward_layer):
            if given is not None and not isinstance(given, Recurrent):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
                raise ArgumentError(f"Bidirectional: {given!r} is not a recurrent layer", mend="pass a SimpleRNN, LSTM or GRU")
        if merge_mode not in _MERGED:
            raise ArgumentError(f"Bidirectional: merge_mode={merge_mode!r}", mend=f"choose one of {', '.join(map(str, _MERGED))}")
        self.layer = layer
        self.merge_mode = merge_mode
        if backward_layer is None:
            config: dict[str, Any] = {**layer.get_config(), "go_backwards": not layer.go_backwards}
            backward_layer = type(layer)(**config)
        self.backward_layer = backward_layer
        if layer.go_backwards == backward_layer.go_backwards:
            raise ArgumentError("Bidirectional: both layers go in one direction", mend="make one of the two with go_backwards=True")
        for option in ("return_sequences", "return_state"):
            if getattr(layer, option) != getattr(backward_layer, option):
                raise ArgumentError(f"Bidirectional: one layer has {option}, the other has not", mend=f"give both the same {option}")

    def call(self, x: Tensor, *, initial_state: Any = None, mask: Any = None) -> Any:
        """The merged outputs, and with `return_state` the states of both; see `Recurrent.call`."""
        starts = self._starts(initial_state)
        results: list[tuple[Tensor, ...]] = []
        for layer, start in zip((self.layer, self.backward_layer), starts, strict=True):
            result = layer(x, initial_state=start, mask=mask)
            y, *state = result if layer.return_state else (result,)
            results.append((flip(y, axis=1) if layer.return_sequences and layer.go_backwards else y, *state))
        (one, *states), (other, *others) = results
        merged = _MERGED[self.merge_mode](one, other)
        if not self.layer.return_state:
            return merged
        return (*(merged if self.merge_mode is None else (merged,)), *states, *others)

    def _starts(self, given: Any) -> tuple[Any, Any]:
        if given is None:
            return None, None
        state, own = states_of(given), self.layer.states
        if len(state) != own + self.backward_layer.states:
            raise LayerError(
                f"{self.label} starts from {own} + {self.backward_layer.states} arrays, but initial_state has {len(state)}",
                mend="pass the state of the layer and then that of the backward layer, in one tuple",
            )
        return state[:own], state[own:]
