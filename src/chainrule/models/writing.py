"""How a model of tokens writes on: one token after the other, each drawn from what it expects next."""

from __future__ import annotations

from collections.abc import Callable
from operator import index
from typing import Any

import numpy.typing as npt

from chainrule.core.errors import ArgumentError
from chainrule.core.interp import no_grad
from chainrule.nn.layer import Layer
from chainrule.nn.spec import InputSpec
from chainrule.ops.creation import asarray
from chainrule.ops.discrete import argmax
from chainrule.ops.filled import zeros
from chainrule.ops.generator import Generator
from chainrule.ops.joining import stack
from chainrule.ops.movement import expand_dims
from chainrule.ops.random import categorical
from chainrule.tensor import Tensor

Read = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""From new tokens of shape (batch, steps) and what was kept of those before (None at first) to the logits of the next token and what to keep."""


def write_on(model: Layer, read: Read, tokens: Tensor | npt.ArrayLike, count: int, temperature: float, seed: int) -> Tensor:
    """Tokens that follow the given ones, as a model's ``generate`` documents it.

    Parameters
    ----------
    model : Layer
        In evaluation mode meanwhile.
    read : callable
        From new tokens of shape (batch, steps), and what was kept of those before or None, to the logits of the next token and what to keep.
    tokens : Tensor or array_like of int, shape (steps,) or (batch, steps)
    count : int
    temperature : float
    seed : int

    Returns
    -------
    Tensor of int64, shape (count,) or (batch, count)

    Raises
    ------
    ArgumentError
        If there is no first token, or count or temperature is negative.

    Examples
    --------
    >>> import chainrule as cr
    >>> from chainrule.models.writing import write_on
    >>> model = cr.nn.Embedding(3, 3, embeddings_initializer="identity")
    >>> write_on(model, lambda new, kept: (model(new)[:, -1], None), [0, 1], 4, temperature=0, seed=0).tolist()
    [1, 1, 1, 1]
    """
    given = asarray(tokens)
    if given.ndim not in (1, 2) or not given.shape[-1] or given.dtype.kind not in "iu":
        raise ArgumentError(f"generate goes on with integers (steps,) or (batch, steps), not {InputSpec.got(given)}", mend="give one token at least")
    if index(count) < 0 or not temperature >= 0:
        raise ArgumentError(f"generate: count={count}, temperature={temperature}", mend="both must be at least 0")
    new = given if given.ndim == 2 else expand_dims(given, axis=0)
    generator, kept, written = Generator(seed), None, list[Tensor]()
    with model.evaluating(), no_grad():
        for _ in range(count):
            logits, kept = read(new, kept)
            drawn = categorical(logits / temperature, generator=generator) if temperature else argmax(logits, axis=-1)
            written.append(drawn)
            new = expand_dims(drawn, axis=1)
    found = stack(written, axis=1) if written else zeros((new.shape[0], 0), dtype="int64")
    return found if given.ndim == 2 else found[0]
