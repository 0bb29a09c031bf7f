"""Who hands out keys: generators, whose state is a tensor like others.

A step that is traced therefore takes the state as an input and gives the next one back, and draws anew each
time it runs.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.errors import ArgumentError
from chainrule.core.interp import current
from chainrule.ops.arithmetic import add
from chainrule.ops.gate import constant, lift, made
from chainrule.ops.philox import check_key, fold_in, uint64
from chainrule.tensor import Tensor

__all__ = ["Generator", "default_generator", "key", "manual_seed", "split"]

if TYPE_CHECKING:
    import numpy.typing as npt


def key(seed: int, /) -> Tensor:
    """The key of a seed.

    Parameters
    ----------
    seed : int
        Any integer; the key holds its last 64 bits.

    Returns
    -------
    Tensor of uint64, shape (2,)

    Raises
    ------
    ArgumentError
        If the seed is not an integer.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.random.key(7)
    tensor([7, 0], dtype=uint64)
    """
    return made(_words(seed))


def split(key: Tensor | npt.ArrayLike, count: int = 2, /) -> Tensor:
    """Several keys from one, of shape (count, 2): ``fold_in`` of 0, 1, ....

    Parameters
    ----------
    key : Tensor of uint64, shape (2,)
    count : int
        How many.

    Returns
    -------
    Tensor of uint64, shape (count, 2)

    Examples
    --------
    >>> import chainrule as cr
    >>> first, second = cr.random.split(cr.random.key(0))
    """
    return fold_in(key, made(np.arange(count)))


def _words(seed: int) -> Any:
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise ArgumentError(f"a seed is an integer, not {seed!r}", mend="pass an int")
    return np.array([seed.__index__() % 2**64, 0], uint64)


class Generator:
    """A source of keys, one after the other: a seed, and how many it has given out.

    Parameters
    ----------
    seed : int
        Equal seeds give equal numbers.

    Examples
    --------
    >>> import chainrule as cr
    >>> first, second = cr.random.Generator(1), cr.random.Generator(1)
    >>> bool((cr.random.uniform((3,), generator=first) == cr.random.uniform((3,), generator=second)).all())
    True
    """

    __slots__ = ("_state",)

    def __init__(self, seed: int = 0) -> None:
        self._state = constant(_words(seed))

    def __repr__(self) -> str:
        seed, draws = self._state.tolist()
        return f"Generator(seed={seed}, draws={draws})"

    def next(self) -> Tensor:
        """The next key; the state, a tensor like others, moves on."""
        mode = current()
        if mode.tracer is not None:
            mode.tracer.call(self._state, "generator")
        words = copy.copy(self._state)
        self._state.assign(add(words, made(_ONE_DRAW)))
        for example in mode.examples:
            words = fold_in(words, example)
        return words

    def manual_seed(self, seed: int) -> Generator:
        """Start again from a seed; returns the generator itself."""
        self._state.assign(made(_words(seed)))
        return self

    def get_state(self) -> Tensor:
        """Seed and number of draws, as uint64: what a checkpoint keeps."""
        return copy.copy(self._state)

    def set_state(self, state: Tensor | npt.ArrayLike) -> None:
        """Go on from a state that `get_state` gave.

        Raises
        ------
        DtypeError, ShapeError
            If it is none.
        """
        words = lift(state)
        check_key("set_state", words)
        self._state.assign(words)


_ONE_DRAW = np.array([0, 1], uint64)

default_generator = Generator(0)
"""The generator of calls that name neither a generator nor a key."""


def manual_seed(seed: int, /) -> Generator:
    """Seed the default generator; returns it.

    Parameters
    ----------
    seed : int

    Returns
    -------
    Generator

    Examples
    --------
    >>> import chainrule as cr
    >>> _ = cr.manual_seed(0)
    >>> a = cr.random.normal((2,))
    >>> _ = cr.manual_seed(0)
    >>> bool((cr.random.normal((2,)) == a).all())
    True
    """
    return default_generator.manual_seed(seed)
