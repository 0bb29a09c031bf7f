"""Dropout: noise that keeps a network from relying on any one of its values."""

from __future__ import annotations

from chainrule.core.errors import ArgumentError
from chainrule.nn.layer import Layer
from chainrule.ops import random
from chainrule.tensor import Tensor


class Dropout(Layer):
    """In training, sets a random share of the values to zero and scales the others up to the same mean.

    Parameters
    ----------
    rate : float
        The share that is dropped, in [0, 1).
    name
        As for `Layer`.

    Notes
    -----
    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting" (2014), with the scaling
    done in training, so that in evaluation the layer does nothing.

    Examples
    --------
    >>> import chainrule as cr
    >>> layer = cr.nn.Dropout(0.5)
    >>> layer.eval()([1.0, 2.0])
    tensor([1., 2.])
    """

    def __init__(self, rate: float, *, name: str | None = None) -> None:
        super().__init__(name=name)
        if not 0 <= rate < 1:
            raise ArgumentError(f"Dropout: rate={rate}", mend="it must be at least 0 and less than 1")
        self.rate = rate

    def call(self, x: Tensor) -> Tensor:
        return random.dropout(x, self.rate, training=self.training)
