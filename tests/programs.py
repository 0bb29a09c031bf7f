"""Random programs for the tests of passes: a list of instructions, drawn by Hypothesis, that is a function of Tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

import chainrule as cr
from chainrule.core.primitive import functions
from chainrule.tensor import Tensor

NUMBERS = (1.0, -1.0, 0.0, -0.0, 2.0, -0.5, 0.3, 3.0)

UNARY: dict[str, Callable[[Any, float], Any]] = {
    "negative": lambda x, c: -x,
    "tanh": lambda x, c: cr.tanh(x),
    "sigmoid": lambda x, c: cr.sigmoid(x),
    "relu": lambda x, c: cr.relu(x),
    "square": lambda x, c: cr.square(x),
    "abs": lambda x, c: abs(x),
    "stop_gradient": lambda x, c: cr.stop_gradient(x),
    "positive": lambda x, c: +x,
    "times": lambda x, c: x * c,
    "of": lambda x, c: c * x,
    "plus": lambda x, c: x + c,
    "minus": lambda x, c: x - c,
    "from": lambda x, c: c - x,
    "over": lambda x, c: x / c if c else x,
    "power": lambda x, c: x ** {0.3: 2, 3.0: 3}.get(c, 1),
    "above": lambda x, c: cr.where(x > c, x, c),
    "full": lambda x, c: x * cr.full(x.shape, c, dtype=x.dtype),
    "flat": lambda x, c: cr.reshape(x, (-1,)),
    "in front": lambda x, c: cr.reshape(x, (1, *x.shape)),
    "behind": lambda x, c: cr.reshape(x, (*x.shape, 1)) if x.ndim < 4 else x,
    "transpose": lambda x, c: cr.permute_dims(x, tuple(range(x.ndim))[::-1]),
    "repeat": lambda x, c: cr.broadcast_to(x, (2, *x.shape)) if x.ndim < 4 else x,
    "sum": lambda x, c: cr.sum(x, axis=tuple(range(x.ndim))[:1], keepdims=c > 0),
    "mean": lambda x, c: cr.mean(x, axis=-1, keepdims=c > 0) if x.ndim else x,
    "max": lambda x, c: cr.max(x, axis=0, keepdims=c > 0) if x.ndim else x,
    "gram": lambda x, c: x @ x.mT if x.ndim == 2 else x,
    "double": lambda x, c: cr.astype(x, np.float64),
}
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / (y * y + 1.0),
    "maximum": lambda x, y: cr.maximum(x, y),
    "where": lambda x, y: cr.where(y > 0, x, y),
    "masked_multiply": lambda x, y: functions.masked_multiply(x, y),
}

Instruction = tuple[str, int, int, float]


class Program:
    """Instructions that each add a value: a name, two operands (counted from the latest) and a number.

    The results are the last ones, and whatever else is asked for.
    """

    def __init__(self, instructions: Sequence[Instruction], results: int) -> None:
        self.instructions = instructions
        self.results = results

    def __call__(self, *xs: Any) -> list[Tensor]:
        values = list(xs)
        for name, i, j, number in self.instructions:
            x, y = values[-1 - i % len(values)], values[-1 - j % len(values)]
            if name in UNARY:
                values.append(UNARY[name](x, number))
            else:
                values.append(BINARY[name](x, y if _broadcast(x, y) else x))
        return values[-self.results :]

    def __repr__(self) -> str:
        return f"Program({self.instructions}, {self.results})"


def _broadcast(x: Any, y: Any) -> bool:
    try:
        shape = np.broadcast_shapes(x.shape, y.shape)
    except ValueError:
        return False
    return len(shape) < 5 and int(np.prod(shape)) <= 1 << 16


def programs(most: int = 12) -> st.SearchStrategy[Program]:
    """Programs of up to so many instructions."""
    instruction = st.tuples(st.sampled_from([*UNARY, *BINARY]), st.integers(0, 5), st.integers(0, 5), st.sampled_from(NUMBERS))
    return st.builds(Program, st.lists(instruction, min_size=1, max_size=most), st.integers(1, 4))


def arguments(shapes: Sequence[tuple[int, ...]] = ((3, 4), (4,), (3, 1), ()), seed: int = 0) -> list[Any]:
    """Arrays with a few zeros of both signs among them."""
    rng = np.random.default_rng(seed)
    return [np.where(rng.random(shape) < 0.1, rng.choice((0.0, -0.0), shape), rng.normal(size=shape))[()] for shape in shapes]
