"""Embeddings: a learned vector for every number or place."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.core.aval import Shape
from chainrule.core.errors import LayerError
from chainrule.nn import regularizers
from chainrule.nn.initializers import Initializer, fetch
from chainrule.nn.layer import Layer
from chainrule.nn.regularizers import Regularizer
from chainrule.nn.spec import InputSpec, counted
from chainrule.ops.gathering import gather
from chainrule.tensor import Tensor


class Embedding(Layer):
    """A learned vector for each of the integers below ``input_dim``.

    Parameters
    ----------
    input_dim : int
        How many integers, such as the size of a vocabulary.
    output_dim : int
        Size of a vector.
    embeddings_initializer : str or Initializer
    embeddings_regularizer : str or Regularizer, optional
    name, dtype
        As for `Layer`.

    Attributes
    ----------
    embeddings : Tensor of shape (input_dim, output_dim)

    Raises
    ------
    LayerError
        If an integer is negative or too large. A compiled function does not look for negative ones: they count from the end.

    Examples
    --------
    >>> import chainrule as cr
    >>> layer = cr.nn.Embedding(3, 2, embeddings_initializer="ones")
    >>> layer([[0, 2], [2, 2]]).sum().backward()
    >>> layer.embeddings.grad
    tensor([[1., 1.],
            [0., 0.],
            [3., 3.]])
    """

    embeddings: Tensor

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        *,
        embeddings_initializer: Initializer | str = "random_uniform",
        embeddings_regularizer: Regularizer | str | None = None,
        name: str | None = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.input_dim = counted("Embedding", "input_dim", input_dim)
        self.output_dim = counted("Embedding", "output_dim", output_dim)
        self.embeddings_initializer = fetch(embeddings_initializer)
        self.embeddings_regularizer = regularizers.fetch(embeddings_regularizer)
        self.input_spec = InputSpec(dtype="integer", mend="give it integers, such as the numbers of words; astype(cr.int64) converts")

    def build(self, input_shape: Shape) -> None:
        sizes = (self.input_dim, self.output_dim)
        self.embeddings = self.add_parameter("embeddings", sizes, self.embeddings_initializer, regularizer=self.embeddings_regularizer)

    def call(self, x: Tensor) -> Tensor:
        numbers: Any = x._value
        if isinstance(numbers, (np.ndarray, np.generic)) and numbers.size:
            for extreme in (numbers.min(), numbers.max()):
                if not 0 <= extreme < self.input_dim:
                    raise LayerError(
                        f"{self.label} takes integers from 0 to {self.input_dim - 1}, but got {extreme}",
                        mend="make the layer with a larger input_dim, or look at what numbers the words",
                    )
        return gather(self.embeddings, x, axes=0)


class PositionEmbedding(Layer):
    """Adds a learned vector to every step of a sequence: the same for all sequences, another for each place.

    Parameters
    ----------
    sequence_length : int
        How many steps a sequence may have.
    initializer : str or Initializer
    name, dtype
        As for `Layer`.

    Attributes
    ----------
    embeddings : Tensor of shape (sequence_length, features)

    Raises
    ------
    LayerError
        If a sequence is longer.

    Examples
    --------
    >>> import chainrule as cr
    >>> layer = cr.nn.PositionEmbedding(10, initializer="ones")
    >>> layer([[[1.0, 2.0], [3.0, 4.0]]]).tolist()
    [[[2.0, 3.0], [4.0, 5.0]]]
    """

    embeddings: Tensor

    def __init__(
        self,
        sequence_length: int,
        *,
        initializer: Initializer | str = "random_uniform",
        name: str | None = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.sequence_length = counted("PositionEmbedding", "sequence_length", sequence_length)
        self.initializer = fetch(initializer)
        self.input_spec = InputSpec(min_ndim=2, names=("steps", "features"))

    def build(self, input_shape: Shape) -> None:
        features = input_shape[-1]
        self.embeddings = self.add_parameter("embeddings", (self.sequence_length, features), self.initializer)
        self.input_spec = InputSpec(min_ndim=2, axes={-1: features}, names=("steps", "features"), mend="give it inputs as wide as the first one")

    def call(self, x: Tensor) -> Tensor:
        steps = x.shape[-2]
        if steps > self.sequence_length:
            raise LayerError(
                f"{self.label} takes sequences of up to {self.sequence_length} steps, but got {steps}",
                mend="cut the sequence, or make the layer for a longer one",
            )
        return x + self.embeddings[:steps]
