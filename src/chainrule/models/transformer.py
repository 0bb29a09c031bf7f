"""A decoder-only transformer: a stack of attention and perceptrons that foretells the next token, and writes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chainrule import nn
from chainrule.core.errors import ArgumentError, LayerError
from chainrule.models.writing import write_on
from chainrule.nn.initializers import RandomNormal
from chainrule.nn.spec import InputSpec, counted
from chainrule.ops.joining import concat
from chainrule.ops.movement import matrix_transpose
from chainrule.ops.product import matmul
from chainrule.tensor import Tensor

if TYPE_CHECKING:
    import numpy.typing as npt


def _first(width: int) -> RandomNormal:
    return RandomNormal(stddev=width**-0.5)


class TransformerBlock(nn.Layer):
    """What a transformer repeats: every step looks at the steps before it, then a perceptron works on each step alone.

    Parameters
    ----------
    width, heads : int
    dropout : float
    name, dtype
        As for `Layer`.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, *, name: str | None = None, dtype: Any = "float32") -> None:
        super().__init__(name=name, dtype=dtype)
        if width % heads:
            raise ArgumentError(f"a width of {width} in {heads} heads", mend="choose a number of heads that divides the width")
        self.width, self.heads, self.dropout = width, heads, dropout
        first = _first(width)
        self.attention_norm = nn.LayerNormalization(epsilon=1e-5, dtype=dtype)
        self.attention = nn.MultiHeadAttention(heads, width // heads, dropout=dropout, kernel_initializer=first, dtype=dtype)
        self.mlp_norm = nn.LayerNormalization(epsilon=1e-5, dtype=dtype)
        self.expand = nn.Dense(4 * width, "gelu", kernel_initializer=first, dtype=dtype)
        self.contract = nn.Dense(width, kernel_initializer=first, dtype=dtype)
        self.drop = nn.Dropout(dropout)

    def call(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attention(self.attention_norm(x), causal=True))
        return x + self.drop(self.contract(self.expand(self.mlp_norm(x))))


class Transformer(nn.Layer):
    """A decoder-only transformer; `transformer` says what it is made of.

    Parameters
    ----------
    vocabulary, width, heads, layers, context : int
    dropout : float
    tied : bool
    name, dtype
        As for `Layer`.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int = 128,
        heads: int = 4,
        layers: int = 4,
        context: int = 128,
        dropout: float = 0.0,
        tied: bool = True,
        name: str | None = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.vocabulary, self.width, self.heads = (
            counted("transformer", label, value) for label, value in (("vocabulary", vocabulary), ("width", width), ("heads", heads))
        )
        self.layers, self.context = counted("transformer", "layers", layers), counted("transformer", "context", context)
        self.dropout, self.tied = dropout, tied
        first = _first(self.width)
        self.tokens = nn.Embedding(vocabulary, width, embeddings_initializer=first, dtype=dtype)
        self.positions = nn.PositionEmbedding(context, initializer=first, dtype=dtype)
        self.drop = nn.Dropout(dropout)
        self.blocks = [TransformerBlock(width, heads, dropout, dtype=dtype) for _ in range(layers)]
        self.norm = nn.LayerNormalization(epsilon=1e-5, dtype=dtype)
        self.head = None if tied else nn.Dense(vocabulary, use_bias=False, kernel_initializer=first, dtype=dtype)
        self.input_spec = InputSpec(ndim=2, names=("batch", "steps"), dtype="integer", mend="give it numbers of tokens, a sequence per row")

    def call(self, tokens: Tensor) -> Tensor:
        return self._scores(self._read(tokens))

    def _read(self, tokens: Tensor) -> Tensor:
        """What the model knows of each step when it has seen all before."""
        if tokens.shape[1] > self.context:
            raise LayerError(
                f"{self.label} looks at {self.context} steps, but got {tokens.shape[1]}", mend="cut the sequences, or make it with a longer context"
            )
        x = self.drop(self.positions(self.tokens(tokens)))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def _scores(self, x: Tensor) -> Tensor:
        return matmul(x, matrix_transpose(self.tokens.embeddings)) if self.head is None else self.head(x)

    def generate(self, tokens: Tensor | npt.ArrayLike, count: int, *, temperature: float = 1.0, seed: int = 0) -> Tensor:
        """Go on with a text, token by token; each is drawn by what the model makes of the last ``context`` ones.

        Parameters
        ----------
        tokens : Tensor or array_like of int, shape (steps,) or (batch, steps)
            What comes before, one step at least.
        count : int
            How many tokens to draw.
        temperature : float
            The logits are divided by it: below 1 likely tokens get likelier; 0 always takes the likeliest.
        seed : int
            Of the draws.

        Returns
        -------
        Tensor of int64, shape (count,) or (batch, count)

        Raises
        ------
        ArgumentError
            If there is nothing to go on with, or a number is negative.
        """

        def read(new: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
            window = (new if kept is None else concat([kept, new], axis=1))[:, -self.context :]
            return self._scores(self._read(window)[:, -1]), window

        return write_on(self, read, tokens, count, temperature, seed)


def transformer(
    vocabulary: int,
    *,
    width: int = 128,
    heads: int = 4,
    layers: int = 4,
    context: int = 128,
    dropout: float = 0.0,
    tied: bool = True,
    name: str | None = None,
    dtype: Any = "float32",
) -> Transformer:
    """A transformer that foretells the next token of a text: a decoder without an encoder, as GPT-2 is.

    Parameters
    ----------
    vocabulary : int
        How many tokens there are; they are the integers below.
    width : int
        Size of the vector that stands for a step.
    heads : int
        Of attention, in each block; they divide the width.
    layers : int
        How many blocks.
    context : int
        How many steps it looks at.
    dropout : float
        Of the embedded tokens, the attention's weights and what each half of a block adds.
    tied : bool
        Whether the vectors that tokens are read as also score them at the end; else there is a matrix for each.
    name, dtype
        As for `Layer`.

    Returns
    -------
    Layer
        From tokens of shape (batch, steps) to logits of shape (batch, steps, vocabulary): those of a step are about the
        next token, and depend on no later one. Its method ``generate(tokens, count, temperature=1.0, seed=0)`` writes on.

    Notes
    -----
    With V = vocabulary, C = context, w = width, and shapes without the batch:

    ====================  ============================================  ==================
    layer                 output                                        parameters
    ====================  ============================================  ==================
    tokens                (steps, w), a learned vector per token        V w
    positions             (steps, w), plus a learned vector per place   C w
    blocks, each          (steps, w)                                    12 w**2 + 13 w
    ..  attention         plus attention(norm(x)), causal               4 w**2 + 4 w + 2 w
    ..  perceptron        plus Dense(GELU(Dense(norm(x)))), 4 w wide    8 w**2 + 5 w + 2 w
    norm                  (steps, w)                                    2 w
    logits                (steps, V)                                    0 if tied, else V w
    ====================  ============================================  ==================

    In total ``(V + C + 2) w + layers (12 w**2 + 13 w)``, and V w more if not tied. Vaswani et al., "Attention is all you need"
    (2017), for attention and the block; Radford et al., "Language models are unsupervised multitask learners" (GPT-2, 2019)
    for the order: a norm in front of each half, and one at the end. All weights begin with a deviation of ``1 / sqrt(w)``, with which
    narrow ones learn faster than with GPT-2's 0.02.

    Examples
    --------
    >>> import chainrule as cr
    >>> model = cr.models.transformer(50, width=16, heads=2, layers=2, context=8)
    >>> tokens = cr.random.randint((3, 8), 0, 50)
    >>> model(tokens).shape
    (3, 8, 50)
    >>> sum(parameter.size for parameter in model.parameters()) == (50 + 8 + 2) * 16 + 2 * (12 * 16**2 + 13 * 16)
    True
    >>> model.generate([1, 2, 3], 4).shape
    (4,)
    """
    return Transformer(vocabulary, width=width, heads=heads, layers=layers, context=context, dropout=dropout, tied=tied, name=name, dtype=dtype)
