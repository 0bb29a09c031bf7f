"""A language model of LSTM layers: what comes next, from all that came before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chainrule import nn
from chainrule.core.errors import ArgumentError, LayerError
from chainrule.models.writing import write_on
from chainrule.ops.linalg import matmul
from chainrule.ops.movement import matrix_transpose
from chainrule.tensor import Tensor

State = Sequence[Sequence[Tensor]]
"""The output and the cell, (h, c), of every LSTM layer."""


class LSTMLanguageModel(nn.Layer):
    """What `lstm_language_model` returns, and documents.

    Parameters
    ----------
    vocabulary, embedding, units, layers : int
    dropout : float
    tied : bool
    name, dtype
        As for `Layer`.

    Attributes
    ----------
    embed : Embedding
    recurrent : list of LSTM
    output : Dense, or None if tied
    output_bias : Tensor of shape (vocabulary,), if tied

    Examples
    --------
    >>> import chainrule as cr
    >>> model = cr.models.lstm_language_model(5, units=8)
    >>> logits, state = model(cr.asarray([[1, 2, 3]]), return_state=True)
    >>> model(cr.asarray([[4]]), state=state).shape
    (1, 1, 5)
    """

    output_bias: Tensor

    def __init__(
        self,
        vocabulary: int,
        *,
        embedding: int = 64,
        units: int = 256,
        layers: int = 1,
        dropout: float = 0.0,
        tied: bool = False,
        name: str | None = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        if layers < 1:
            raise ArgumentError(f"lstm_language_model: layers={layers}", mend="give a positive integer")
        if tied and embedding != units:
            raise ArgumentError(
                f"lstm_language_model: tied, with embedding={embedding} and units={units}",
                mend="give both one size: the same table turns tokens into vectors and outputs into logits",
            )
        self.vocabulary = vocabulary
        self.embedding = embedding
        self.units = units
        self.layers = layers
        self.dropout = dropout
        self.tied = tied
        self.embed = nn.Embedding(vocabulary, embedding, dtype=dtype)
        self.recurrent = [nn.LSTM(units, return_sequences=True, return_state=True, dtype=dtype) for _ in range(layers)]
        self.hide = nn.Dropout(dropout)
        self.output = None if tied else nn.Dense(vocabulary, dtype=dtype)
        self.input_spec = nn.InputSpec(
            ndim=2, names=("batch", "steps"), dtype="integer", mend="give it the numbers of tokens, one sequence per row; text[None] makes one row"
        )

    def build(self, *input_shapes: Any) -> None:
        if self.tied:
            self.output_bias = self.add_parameter("output_bias", (self.vocabulary,), "zeros")

    def call(self, tokens: Tensor, *, state: State | None = None, return_state: bool = False) -> Any:
        """Logits of the token after each one.

        Parameters
        ----------
        tokens : Tensor of int of shape (batch, steps)
        state : sequence of (h, c), optional
            Where an earlier call for the same sequences ended.
        return_state : bool
            Give the state at the end too.

        Returns
        -------
        Tensor of shape (batch, steps, vocabulary), or that and the state
        """
        if state is not None and len(state) != self.layers:
            raise LayerError(
                f"{self.label} has {self.layers} LSTM layers, but the state is of {len(state)}", mend="pass the state that the model gave"
            )
        y, ends = self.embed(tokens), []
        for i, layer in enumerate(self.recurrent):
            y, *end = layer(self.hide(y), initial_state=None if state is None else state[i])
            ends.append(tuple(end))
        y = self.hide(y)
        logits = matmul(y, matrix_transpose(self.embed.embeddings)) + self.output_bias if self.output is None else self.output(y)
        return (logits, tuple(ends)) if return_state else logits

    def generate(self, tokens: Any, count: int, *, temperature: float = 1.0, seed: int = 0) -> Tensor:
        """Carry sequences on, each token drawn from what the model expects after the one before.

        Parameters
        ----------
        tokens : Tensor of int of shape (batch, steps) or (steps,)
            What comes before, at least one token.
        count : int
            How many tokens to draw.
        temperature : float
            What logits are divided by: below 1 likely tokens become likelier, and 0 always takes the likeliest.
        seed : int

        Returns
        -------
        Tensor of int64 of shape (batch, count) or (count,)

        Raises
        ------
        ArgumentError
            If there is no first token, or a number is negative.

        Examples
        --------
        >>> import chainrule as cr
        >>> cr.models.lstm_language_model(5, units=8).generate([1, 2], 4).shape
        (4,)
        """

        def read(new: Tensor, state: State | None) -> tuple[Tensor, State | None]:
            logits, state = self(new, state=state, return_state=True)
            return logits[:, -1], state

        return write_on(self, read, tokens, count, temperature, seed)


def lstm_language_model(
    vocabulary: int,
    *,
    embedding: int = 64,
    units: int = 256,
    layers: int = 1,
    dropout: float = 0.0,
    tied: bool = False,
    dtype: Any = "float32",
) -> LSTMLanguageModel:
    """A model of sequences of tokens, such as the characters of a text.

    Parameters
    ----------
    vocabulary : int
        How many tokens there are.
    embedding : int
        Size of a token's vector.
    units, layers : int
        Size and number of the LSTM layers.
    dropout : float
        The share of values that is hidden in training before every LSTM layer and behind the last; never of what is carried on
        from step to step.
    tied : bool
        Compute logits with the embedding's own table, which needs ``embedding == units``.
    dtype : dtype
        Of the parameters.

    Returns
    -------
    LSTMLanguageModel
        From integers of shape (batch, steps) to logits of shape (batch, steps, vocabulary): ``model(tokens, *, state=None,
        return_state=False)``; ``model.generate(tokens, count)`` carries sequences on.

    Notes
    -----
    ================  ==========================  ==================================
    layer             output                      parameters
    ================  ==========================  ==================================
    Embedding         (batch, steps, embedding)   vocabulary * embedding
    LSTM, the first   (batch, steps, units)       4 * units * (embedding + units + 1)
    LSTM, the others  (batch, steps, units)       4 * units * (2 * units + 1)
    Dense             (batch, steps, vocabulary)  (units + 1) * vocabulary
    ================  ==========================  ==================================

    Tied, the last line is ``vocabulary``, a bias only. Hochreiter and Schmidhuber, "Long short-term memory" (1997); where dropout
    goes: Zaremba, Sutskever and Vinyals, "Recurrent neural network regularization" (2014); one table: Press and Wolf, "Using the output
    embedding to improve language models" (2017).

    Examples
    --------
    >>> import chainrule as cr
    >>> model = cr.models.lstm_language_model(100)
    >>> model(cr.asarray([[1, 2, 3]])).shape
    (1, 3, 100)
    >>> sum(p.size for p in model.parameters()) == 100 * 64 + 4 * 256 * (64 + 256 + 1) + (256 + 1) * 100
    True
    """
    return LSTMLanguageModel(vocabulary, embedding=embedding, units=units, layers=layers, dropout=dropout, tied=tied, dtype=dtype)
