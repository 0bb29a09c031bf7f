"""Random bits as a function of a key: Philox4x32-10, and the two gates that apply it.

Philox (Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) scrambles a counter of
128 bits with a key of 64. Our keys are two 64-bit words: the seed, which is Philox's key, and the number of the
draw, the upper half of its counter; the lower half counts blocks of four 32-bit words. Keys are derived
from blocks that no draw reaches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import Aval, Dtype, Shape, float32
from chainrule.core.errors import DtypeError, ShapeError
from chainrule.core.nest import Nest
from chainrule.core.primitive import Primitive, Refusal, Sample
from chainrule.core.scalar import Builder, Value
from chainrule.ops.creation import astype
from chainrule.ops.gate import as_dtype, describe, gate, lift
from chainrule.ops.movement import broadcast_to
from chainrule.tape import bind
from chainrule.tensor import Tensor

__all__ = ["fold_in", "random_bits"]

if TYPE_CHECKING:
    import numpy.typing as npt

Array = Any  # NumPy's own stubs would need every dtype spelled out.

uint32 = np.dtype("uint32")
uint64 = np.dtype("uint64")

_SHIFT = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], uint64)
_WEYL = np.array([[0x9E3779B9], [0xBB67AE85]], uint64)
_ROUNDS = 10
_CHUNK = 1 << 14
"""Blocks at a time: the rounds work in the second-level cache."""

_DERIVED = np.uint64(1 << 63)
"""Block numbers from here on belong to derived keys."""


def philox(block: Array, draw: Array, seed: Array) -> Array:
    """Four 32-bit words for every counter.

    Parameters
    ----------
    block, draw, seed : array or scalar of uint64
        Lower and upper half of the counter, and the key; they broadcast.

    Returns
    -------
    array of uint32, shape (n, 4)
    """
    count = max(np.size(block), np.size(draw), np.size(seed))
    even, odd = np.empty((2, count), uint64), np.empty((2, count), uint64)
    even[0], even[1] = block & _LOW, draw & _LOW
    odd[0], odd[1] = block >> _SHIFT, draw >> _SHIFT
    keys = np.stack(np.broadcast_arrays(np.atleast_1d(seed & _LOW), np.atleast_1d(seed >> _SHIFT)))
    products = np.empty_like(even)
    for _ in range(_ROUNDS):
        # Rows are the words (0, 2) and (1, 3); each pair's product goes to the other pair.
        np.multiply(even, _MULTIPLIERS, out=products)
        np.right_shift(products[::-1], _SHIFT, out=even)
        even ^= odd
        even ^= keys
        np.bitwise_and(products[::-1], _LOW, out=odd)
        keys = (keys + _WEYL) & _LOW
    words = np.empty((count, 4), uint32)
    words[:, 0::2], words[:, 1::2] = even.T, odd.T
    return words


def _bits_eval(key: Array, shape: Shape, dtype: Dtype) -> Array:
    count = math.prod(shape)
    blocks = -(-count * dtype.itemsize // 16)
    keys = np.reshape(key, (key.size // 2, 2))
    words = np.empty((len(keys) * blocks, 4), uint32)
    for start in range(0, len(words), _CHUNK):
        block = np.arange(start, min(start + _CHUNK, len(words)), dtype=uint64)
        row = slice(1)
        if len(keys) > 1:
            row, block = np.divmod(block, uint64.type(blocks))
        seed, draw = keys[row].T
        words[start : start + len(block)] = philox(block, draw, seed)
    # Little-endian on every machine: a 64-bit word has its first half below.
    flat = words if dtype == uint32 else words[:, 0::2] | words[:, 1::2].astype(uint64) << _SHIFT
    return flat.reshape(len(keys), blocks * 16 // dtype.itemsize)[:, :count].reshape((*key.shape[:-1], *shape))[()]


def check_key(name: str, key: Aval) -> None:
    """Refuse what is no key."""
    if key.dtype != uint64:
        raise DtypeError(f"{name}: a key of {describe(key)}", mend="keys are made by cr.random.key(seed), a Generator's next(), fold_in or split")
    if key.shape[-1:] != (2,):
        raise ShapeError(f"{name}: a key of {describe(key)}", mend="a key has two words on its last axis: cr.random.key(seed)")


def _bits_aval(key: Aval, shape: Shape, dtype: Dtype) -> Aval:
    check_key("random_bits", key)
    return Aval((*key.shape[:-1], *shape), dtype)


def _some_key(rng: np.random.Generator, *shape: int) -> Array:
    return rng.integers(0, 2**64, (*shape, 2), uint64)


def sizes_of(name: str, shape: int | Sequence[int]) -> Shape:
    """A shape as a tuple, checked."""
    try:
        sizes = tuple(map(index, shape)) if isinstance(shape, Sequence) else (index(shape),)
    except TypeError:
        raise DtypeError(f"{name}: {shape!r} is no shape", mend="pass an integer, or a sequence of them") from None
    if any(size < 0 for size in sizes):
        raise ShapeError(f"{name}: a negative size in {sizes}", mend="sizes are 0 or more")
    return sizes


def _scrambled(w: Nest, block: tuple[Value, Value], draw: Value, seed: Value) -> list[Value]:
    """The four words of `philox` for one counter, in a loop nest; ``block`` as its lower and its upper 32 bits."""
    k = w.k
    halves = [*block, *_halves(k, draw), *_halves(k, seed)]
    *words, low, high = (w.variable(half, uint32, name) for half, name in zip(halves, ("x0", "x1", "x2", "x3", "k0", "k1"), strict=True))
    with w.loop(_ROUNDS):
        a, b = (w.let(word, "a") for word in words[::2])
        for word, upper, factor, other, key in ((0, b, 1, 1, low), (2, a, 0, 3, high)):
            times = int(_MULTIPLIERS[factor, 0])
            w.assign(words[word], k.product_high(upper, times) ^ words[other] ^ key)
            w.assign(words[other], upper * times)
        for key, weyl in ((low, 0), (high, 1)):
            w.assign(key, key + int(_WEYL[weyl, 0]))
    return words


def _halves(k: Builder, word: Value) -> tuple[Value, Value]:
    """The lower and the upper 32 bits of a uint64."""
    return k.convert(word & 0xFFFFFFFF, uint32), k.convert(word >> 32, uint32)


def _paired(k: Builder, words: Sequence[Value]) -> list[Value]:
    """Words of 64 bits from twice as many of 32."""
    return [k.convert(low, uint64) | k.convert(high, uint64) << 32 for low, high in zip(words[::2], words[1::2], strict=True)]


def _bits_loops(w: Nest, out: Array, key: Array, shape: Shape, dtype: Dtype) -> None:
    count, several = math.prod(shape), 16 // dtype.itemsize
    blocks = -(-count // several)
    # Not as many numbers as would need the upper half of the block's number have room in any memory.
    with w.runs(key.size // 2, blocks) as (row, run), run() as block:
        words = _scrambled(w, (w.k.convert(block, uint32), 0), w.at(key, row * 2 + 1), w.at(key, row * 2))
        for i, word in enumerate((words if dtype == uint32 else _paired(w.k, words))[: count or None]):
            place = block * several + i
            # The last block may be of more numbers than are wanted.
            with w.when(*[place < count] * (i >= count - several * (blocks - 1))):
                w.put(out, row * count + place, word)


RANDOM_BITS = Primitive(
    name="random_bits",
    inputs=("key",),
    aval=_bits_aval,
    eval=_bits_eval,
    batch=lambda primitive, batched, inputs, params: bind(primitive, inputs, params),
    loops=_bits_loops,
    kernel="random",
    samples=lambda rng: [
        Sample((_some_key(rng),)),
        Sample((_some_key(rng), (3, 5))),
        Sample((_some_key(rng, 2, 3), 7)),
        Sample((_some_key(rng), (2, 3)), {"dtype": "uint64"}),
        Sample((_some_key(rng, 2), 0)),
    ],
    refuses=lambda: [
        Refusal((np.array([1, 2]), 3), DtypeError, "key"),
        Refusal((np.array([1, 2, 3], uint64), 3), ShapeError, "key"),
        Refusal((np.array([1, 2], uint64), -1), ShapeError, "negative"),
        Refusal((np.array([1, 2], uint64), 2), DtypeError, "uint32 or uint64", {"dtype": "int32"}),
    ],
)


@gate(RANDOM_BITS)
def random_bits(key: Tensor | npt.ArrayLike, shape: int | Sequence[int] = (), /, *, dtype: npt.DTypeLike = uint32) -> Tensor:
    """Uniformly random unsigned integers, a function of the key alone.

    Parameters
    ----------
    key : Tensor of uint64, shape (..., 2)
        One key, or one for each leading index.
    shape : int or tuple of int
        How many numbers per key.
    dtype : dtype
        uint32 or uint64.

    Returns
    -------
    Tensor
        Of shape ``(..., *shape)``.

    Raises
    ------
    DtypeError
        If the key is not of uint64, or for another dtype.
    ShapeError
        If the key has not two words.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.random.random_bits(cr.random.key(0), 2).tolist()
    [1713891541, 3781805453]
    """
    kind = as_dtype(dtype, "random_bits")
    if kind not in (uint32, uint64):
        raise DtypeError(f"random_bits: no bits of dtype {kind}", mend="choose uint32 or uint64")
    words = lift(key)
    check_key("random_bits", words)
    return bind(RANDOM_BITS, (words,), {"shape": sizes_of("random_bits", shape), "dtype": kind})


def _derive_eval(key: Array, data: Array) -> Array:
    numbers = np.atleast_1d(data).astype(uint64).ravel()
    seed, draw = np.atleast_2d(key.reshape(key.size // 2, 2)).T
    if len(seed) > 1:
        index = np.broadcast_to(np.arange(len(seed)).reshape(*key.shape[:-1], *(1,) * (np.ndim(data) - key.ndim + 1)), np.shape(data)).ravel()
        seed, draw = seed[index], draw[index]
    words = philox(numbers | _DERIVED, draw, seed) if numbers.size else np.empty((0, 4), uint32)
    return (words[:, 0::2] | words[:, 1::2].astype(uint64) << _SHIFT).reshape((*np.shape(data), 2))


def _derive_aval(key: Aval, data: Aval) -> Aval:
    check_key("fold_in", key)
    if data.dtype.kind not in "iu":
        raise DtypeError(f"fold_in: data {describe(data)}", mend="fold in integers")
    if key.shape[:-1] != data.shape[: len(key.shape) - 1]:
        raise ShapeError(f"fold_in: keys {describe(key)} and data {describe(data)}", mend="leading axes of the data are those of the keys")
    return Aval((*data.shape, 2), uint64)


def _derive_batch(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    key, data = inputs
    if all(batched) or len(key.shape) == 1:
        return bind(primitive, inputs, params)
    count = (key if batched[0] else data).shape[0]
    full = [x if b else broadcast_to(x, (count, *x.shape)) for x, b in zip(inputs, batched, strict=True)]
    return bind(primitive, full, params)


def _derive_loops(w: Nest, out: Array, key: Array, data: Array) -> None:
    with w.share(data.shape) as at:
        low, high = _halves(w.k, w.k.convert(w.load(data, at), uint64))
        words = _scrambled(w, (low, high | 1 << 31), w.load(key, (*at[: len(key.shape) - 1], 1)), w.load(key, (*at[: len(key.shape) - 1], 0)))
        for i, word in enumerate(_paired(w.k, words)):
            w.store(out, (*at, i), word)


DERIVE = Primitive(
    name="fold_in",
    inputs=("key", "data"),
    aval=_derive_aval,
    eval=_derive_eval,
    batch=_derive_batch,
    loops=_derive_loops,
    kernel="random",
    samples=lambda rng: [
        Sample((_some_key(rng), rng.integers(0, 9, ()))),
        Sample((_some_key(rng), rng.integers(0, 9, (2, 3)))),
        Sample((_some_key(rng, 2), rng.integers(0, 9, (2, 3)))),
        Sample((_some_key(rng), rng.integers(0, 9, 0))),
    ],
    refuses=lambda: [
        Refusal((np.array([1, 2]), 3), DtypeError, "key"),
        Refusal((np.array([1, 2], uint64), 1.5), DtypeError, "integers"),
        Refusal((np.array([[1, 2]], uint64), 3), ShapeError, "leading axes"),
    ],
)


@gate(DERIVE)
def fold_in(key: Tensor | npt.ArrayLike, data: Tensor | npt.ArrayLike, /) -> Tensor:
    """A key derived from another by an integer: for the step, the layer or the example of that number.

    Parameters
    ----------
    key : Tensor of uint64, shape (..., 2)
    data : Tensor or array_like of int, shape (...)
        Numbers below 2**63; several for each key, if there are more axes.

    Returns
    -------
    Tensor of uint64
        One key for each number, of shape ``(*data.shape, 2)``; independent of each other and of the
        numbers that are drawn with the key itself.

    Raises
    ------
    DtypeError
        If data are not integers.

    Examples
    --------
    >>> import chainrule as cr
    >>> keys = cr.random.fold_in(cr.random.key(0), cr.arange(3)); keys.shape
    (3, 2)
    """
    words, numbers = lift(key), lift(data)
    _derive_aval(words, numbers)
    return bind(DERIVE, (words, numbers), {})


def unit(bits: Any, dtype: Dtype) -> Any:
    """Numbers in [0, 1), as many as there are multiples of the dtype's precision."""
    kept = 24 if dtype == float32 else 53
    return astype(bits >> (dtype.itemsize * 8 - kept), dtype) * 2.0**-kept


def open_unit(bits: Any, dtype: Dtype) -> Any:
    """Numbers in (0, 1], dense near 0: for logarithms."""
    return (astype(bits, dtype) + 0.5) * 2.0 ** -(dtype.itemsize * 8)


def middle(bits: Any, dtype: Dtype) -> Any:
    """Numbers in (0, 1), as far from 1 as from 0: for logarithms of logarithms."""
    kept = 23 if dtype == float32 else 52
    return (astype(bits >> (dtype.itemsize * 8 - kept), dtype) + 0.5) * 2.0**-kept
