"""Attention: every step looks at other steps, and takes of each as much as their contents agree."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from chainrule.core.aval import Shape
from chainrule.core.errors import ArgumentError, LayerError
from chainrule.nn.dense import Dense
from chainrule.nn.initializers import Initializer, fetch
from chainrule.nn.layer import Layer
from chainrule.nn.regularizers import Regularizer
from chainrule.nn.regularizers import fetch as fetch_regularizer
from chainrule.nn.spec import InputSpec, counted
from chainrule.ops import discrete, random
from chainrule.ops.composite import softmax
from chainrule.ops.creation import asarray
from chainrule.ops.logic import logical_and
from chainrule.ops.movement import expand_dims, permute_dims, reshape
from chainrule.ops.product import matmul
from chainrule.ops.selection import where
from chainrule.tensor import Tensor


class MultiHeadAttention(Layer):
    """Mixes the steps of a sequence: each output is a mean of values, weighted by how well its query fits their keys.

    Parameters
    ----------
    num_heads : int
        How many such means are taken side by side, each of its own projections of the inputs.
    key_dim : int
        Size of a head's queries and keys.
    value_dim : int, optional
        Size of a head's values; that of the keys if not given.
    dropout : float
        Share of the weights that is set to zero in training.
    use_bias : bool
        Of the four projections.
    kernel_initializer, bias_initializer : str or Initializer
    kernel_regularizer, bias_regularizer : str or Regularizer, optional
    name, dtype
        As for `Layer`.

    Attributes
    ----------
    query, key, value, output : Dense
        The projections, all heads side by side; the output is as wide as the query.

    Notes
    -----
    ``softmax(q @ k.T / sqrt(key_dim)) @ v``: Vaswani et al., "Attention is all you need" (2017), equation 1 and section 3.2.2.
    Called with ``query, value, key``, in Keras's order, each of shape (batch, steps, features): the value is the query if it is
    not given, the key is the value. Options of the call are ``attention_mask``, booleans that are True where a
    query may look at a key, of shape (queries, keys), (batch, queries, keys) or (batch, heads, queries, keys), with sizes of 1
    where it is the same for all; and ``causal=True``, under which no step looks at a later one. A query that
    may look at nothing gets zeros from every head.

    Examples
    --------
    >>> import chainrule as cr
    >>> layer = cr.nn.MultiHeadAttention(num_heads=2, key_dim=4)
    >>> x = cr.random.normal((3, 5, 8))
    >>> layer(x, causal=True).shape
    (3, 5, 8)
    >>> sum(parameter.size for parameter in layer.parameters()) == 4 * (8 * 8 + 8)
    True
    """

    output: Dense

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        *,
        dropout: float = 0.0,
        use_bias: bool = True,
        kernel_initializer: Initializer | str = "glorot_uniform",
        bias_initializer: Initializer | str = "zeros",
        kernel_regularizer: Regularizer | str | None = None,
        bias_regularizer: Regularizer | str | None = None,
        name: str | None = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.num_heads = counted("MultiHeadAttention", "num_heads", num_heads)
        self.key_dim = counted("MultiHeadAttention", "key_dim", key_dim)
        self.value_dim = None if value_dim is None else counted("MultiHeadAttention", "value_dim", value_dim)
        if not 0 <= dropout < 1:
            raise ArgumentError(f"MultiHeadAttention: dropout={dropout}", mend="it must be at least 0 and less than 1")
        self.dropout = dropout
        self.use_bias = use_bias
        self.kernel_initializer = fetch(kernel_initializer)
        self.bias_initializer = fetch(bias_initializer)
        self.kernel_regularizer = fetch_regularizer(kernel_regularizer)
        self.bias_regularizer = fetch_regularizer(bias_regularizer)
        self.query = self._projection(self.num_heads * self.key_dim)
        self.key = self._projection(self.num_heads * self.key_dim)
        self.value = self._projection(self.num_heads * (self.value_dim or self.key_dim))
        self.input_spec = (InputSpec(ndim=3, names=("batch", "steps", "features")),) * 3

    def _projection(self, units: int) -> Dense:
        return Dense(
            units,
            use_bias=self.use_bias,
            kernel_initializer=self.kernel_initializer,
            bias_initializer=self.bias_initializer,
            kernel_regularizer=self.kernel_regularizer,
            bias_regularizer=self.bias_regularizer,
            dtype=self.dtype,
        )

    def build(self, query_shape: Shape, *others: Shape | None) -> None:
        self.output = self._projection(query_shape[-1])

    def call(
        self, query: Tensor, value: Tensor | None = None, key: Tensor | None = None, *, attention_mask: Any = None, causal: bool = False
    ) -> Tensor:
        value = query if value is None else value
        key = value if key is None else key
        q = self._heads(self.query(query) * (1 / math.sqrt(self.key_dim)))
        k, v = self._heads(self.key(key)), self._heads(self.value(value))
        scores = matmul(q, permute_dims(k, (0, 1, 3, 2)))
        mask = self._mask(attention_mask, causal, scores.shape)
        if mask is not None:
            # An addend costs one pass, and none on the way back. It is finite, so that a row of nothing but it stays defined.
            scores = scores + where(mask, 0.0, np.array(np.finfo(scores.dtype).min / 2, scores.dtype))
        mixed = matmul(random.dropout(softmax(scores), self.dropout, training=self.training), v)
        if attention_mask is not None and mask is not None:
            mixed = where(discrete.any(mask, axis=-1, keepdims=True), mixed, 0.0)
        batch, heads, steps, width = mixed.shape
        return self.output(reshape(permute_dims(mixed, (0, 2, 1, 3)), (batch, steps, heads * width)))

    def _heads(self, x: Tensor) -> Tensor:
        batch, steps, width = x.shape
        return permute_dims(reshape(x, (batch, steps, self.num_heads, width // self.num_heads)), (0, 2, 1, 3))

    def _mask(self, attention_mask: Any, causal: bool, shape: Shape) -> Tensor | None:
        """What may be attended to, in a shape that broadcasts to that of the scores."""
        earlier = asarray(np.tri(*shape[-2:], dtype=bool)) if causal else None
        if attention_mask is None:
            return earlier
        mask = asarray(attention_mask)
        rank = len(mask.shape)
        if mask.dtype.kind != "b" or rank < 2 or rank > 4:
            raise LayerError(
                f"{self.label} takes a mask of booleans with 2 to 4 axes, but got {InputSpec.got(mask)}",
                mend="make it of shape (queries, keys), (batch, queries, keys) or (batch, heads, queries, keys), True where a query may look",
            )
        if rank == 3:
            mask = expand_dims(mask, 1)
        if any(size not in (1, whole) for size, whole in zip(reversed(mask.shape), reversed(shape), strict=False)):
            raise LayerError(
                f"{self.label}: the mask {InputSpec.got(mask)} does not broadcast to (batch, heads, queries, keys) = {shape}",
                mend="give it these sizes, or 1",
            )
        return mask if earlier is None else logical_and(mask, earlier)
