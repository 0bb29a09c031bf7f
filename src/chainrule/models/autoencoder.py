"""An autoencoder: a network that learns to describe images in few numbers, by drawing them again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from chainrule import nn
from chainrule.core.aval import Shape
from chainrule.ops.movement import reshape
from chainrule.tensor import Tensor


class Autoencoder(nn.Layer):
    """What `autoencoder` returns, and documents.

    Parameters
    ----------
    latent : int
    hidden : sequence of int
    activation : str
    name, dtype
        As for `Layer`.

    Attributes
    ----------
    encoder : Sequential
        From inputs of shape (batch, ...) to (batch, latent).
    decoder : Sequential
        From (batch, latent) to (batch, features); made for the first input, whose size it must know.

    Examples
    --------
    >>> import chainrule as cr
    >>> model = cr.models.autoencoder(2).initialize((1, 8, 8, 1))
    >>> model.decoder([[0.0, 0.0]]).shape
    (1, 64)
    """

    decoder: nn.Sequential

    def __init__(
        self, latent: int = 16, hidden: Sequence[int] = (128,), activation: str = "relu", *, name: str | None = None, dtype: Any = "float32"
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.latent = latent
        self.hidden = tuple(hidden)
        self.activation = activation
        self.encoder = nn.Sequential([nn.Flatten(), *self._dense(self.hidden), nn.Dense(latent, dtype=dtype)])

    def build(self, input_shape: Shape) -> None:
        features = math.prod(input_shape[1:])
        self.decoder = nn.Sequential([*self._dense(self.hidden[::-1]), nn.Dense(features, dtype=self.dtype)])

    def _dense(self, sizes: Sequence[int]) -> list[nn.Dense]:
        return [nn.Dense(units, self.activation, dtype=self.dtype) for units in sizes]

    def call(self, x: Tensor) -> Tensor:
        return reshape(self.decoder(self.encoder(x)), x.shape)


def autoencoder(latent: int = 16, hidden: Sequence[int] = (128,), activation: str = "relu") -> Autoencoder:
    """A Dense encoder and its mirror image, trained to give back what it is given: ``nn.losses.mean_squared_error(model(x), x)``.

    Parameters
    ----------
    latent : int
        How many numbers an image must pass through.
    hidden : sequence of int
        Sizes of the encoder's hidden layers; the decoder has the same in reverse. With none, the best that it can learn is the
        principal components.
    activation : str
        Of the hidden layers.

    Returns
    -------
    Autoencoder
        From inputs of shape (batch, ...) to the same shape; its attributes ``encoder`` and ``decoder`` are the two halves.

    Notes
    -----
    ========================  =================  ================================
    layer                     output             parameters
    ========================  =================  ================================
    encoder: Flatten          (batch, features)
    encoder: Dense, for each  (batch, hidden)    (size before + 1) hidden
    encoder: Dense            (batch, latent)    (last hidden + 1) latent
    decoder: Dense, for each  (batch, hidden)    (size before + 1) hidden
    decoder: Dense            (batch, features)  (first hidden + 1) features
    ========================  =================  ================================

    20,816 parameters for the 8 by 8 pixels of `digits`. Hinton and Salakhutdinov, "Reducing the dimensionality of data with neural
    networks" (2006), trained in one go.

    Examples
    --------
    >>> import chainrule as cr
    >>> model = cr.models.autoencoder()
    >>> model(cr.zeros((5, 8, 8, 1))).shape
    (5, 8, 8, 1)
    >>> model.encoder(cr.zeros((5, 8, 8, 1))).shape
    (5, 16)
    >>> sum(parameter.size for parameter in model.parameters())
    20816
    """
    return Autoencoder(latent, hidden, activation)
