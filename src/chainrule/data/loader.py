"""DataLoader: a data set in batches, in an order that seed and epoch alone decide.

The place it has reached is three numbers, so a run can go on in the middle of an epoch as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any, Protocol, TypeGuard, cast

import numpy as np
import numpy.typing as npt

from chainrule.core.errors import ArgumentError, DataError
from chainrule.data.ahead import ahead
from chainrule.ops.creation import asarray
from chainrule.tensor import Tensor

Array = npt.NDArray[Any]
Transform = Callable[[Array, np.random.Generator], Array]
"""From a batch of inputs, and a source of random numbers, to another batch."""


class Source(Protocol):
    """What a DataLoader reads: a `Dataset`, or anything of a known length that gives example ``i`` as a tuple."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Sequence[Any]: ...


class DataLoader:
    """Batches of a data set; each pass over it is one epoch.

    Parameters
    ----------
    dataset : Dataset, or anything with a length that gives example ``i`` as a tuple of arrays
        If it has a method ``take(indices)``, that gives a whole batch. Or arrays or Tensors themselves: ``(inputs, targets)``, taken as they are.
    batch_size : int
    shuffle : bool
        A new order in each epoch.
    seed : int
        Of the orders, and of what ``transform`` draws.
    drop_last : bool
        Leave out a last batch that is smaller than the others.
    transform : callable, optional
        ``transform(inputs, rng)`` on each batch's inputs, as NumPy arrays; ``rng`` is a `numpy.random.Generator` that
        depends on seed, epoch and position alone. See `chainrule.data.transforms`.
    prefetch : int
        How many batches are made ahead, by a thread that ends with the epoch. It pays where making a batch takes about
        as long as a step, and leaves order and values as they are.

    Notes
    -----
    Whether ``prefetch`` pays is a matter of what a batch costs. One of 100 MNIST images takes 0.12 ms to make, a step of a small
    convolutional network 17 ms, so making it ahead gains nothing. It pays for a source that waits, for a disk say, or that
    works in large NumPy operations while a core is free; Python code, in a transform say, takes turns with the step's own.
    (AMD EPYC (Zen 4), 2 cores, shared; Python 3.11.7, NumPy 2.4.6)

    Examples
    --------
    >>> import chainrule as cr
    >>> loader = cr.data.DataLoader(cr.data.digits("test"), batch_size=100, shuffle=True, seed=0)
    >>> [images.shape for images, labels in loader]
    [(100, 8, 8, 1), (100, 8, 8, 1), (100, 8, 8, 1), (55, 8, 8, 1)]
    """

    def __init__(
        self,
        dataset: Source | Sequence[Array | Tensor] | Array | Tensor,
        batch_size: int = 32,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        transform: Transform | None = None,
        prefetch: int = 0,
    ) -> None:
        if batch_size < 1 or batch_size != int(batch_size):
            raise ArgumentError(f"DataLoader: batch_size={batch_size}", mend="it must be a whole number, at least 1")
        if seed < 0:
            raise ArgumentError(f"DataLoader: seed={seed}", mend="it must not be negative")
        if prefetch < 0:
            raise ArgumentError(f"DataLoader: prefetch={prefetch}", mend="give the number of batches to be made ahead, or 0")
        if isinstance(dataset, np.ndarray | Tensor):
            dataset = (dataset,)
        self.dataset: Source = _Columns(dataset) if _are_arrays(dataset) else cast("Source", dataset)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.transform = transform
        self.prefetch = prefetch
        self._epoch = 0
        self._position = 0
        self._resuming = False

    def __len__(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The order of the examples in an epoch."""
        count = len(self.dataset)
        if not self.shuffle:
            return np.arange(count)
        # The bit stream of Philox is fixed for good, that of NumPy's permutation is not.
        return np.argsort(self._bits(epoch).random_raw(count), kind="stable")

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """One epoch; the next call begins the next one, or goes on from a loaded state."""
        if not self._resuming and self._position:
            self._epoch, self._position = self._epoch + 1, 0
        self._resuming = False
        return self._batches(self._epoch, self._position)

    def _batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, ...]]:
        positions = range(start, len(self))
        make = partial(self._make, self.order(epoch), epoch)
        with closing(ahead(make, positions, self.prefetch) if self.prefetch else (make(position) for position in positions)) as batches:
            for position, batch in zip(positions, batches, strict=True):
                tensors = tuple(asarray(column) for column in batch)
                self._epoch, self._position = epoch, position + 1
                yield tensors
        self._epoch, self._position = epoch + 1, 0

    def _make(self, order: npt.NDArray[np.int64], epoch: int, position: int) -> Sequence[Array]:
        """One batch, as arrays that nobody writes to any more."""
        indices = order[position * self.batch_size : (position + 1) * self.batch_size]
        take = getattr(self.dataset, "take", None)
        columns = take(indices) if take is not None else [np.stack(column) for column in zip(*(self.dataset[int(i)] for i in indices), strict=True)]
        if self.transform is not None:
            inputs, *rest = columns
            columns = self.transform(inputs, np.random.Generator(self._bits(epoch, position))), *rest
        for column in columns:
            column.flags.writeable = False
        return columns

    def _bits(self, epoch: int, position: int | None = None) -> np.random.Philox:
        """The bit stream of an epoch's order, or of what is drawn for the batch at a position."""
        counter = [0, 0, 0, 0] if position is None else [0, 0, position, 1]
        return np.random.Philox(key=np.array([self.seed, epoch], np.uint64), counter=np.array(counter, np.uint64))

    def state_dict(self) -> dict[str, int]:
        """The epoch in progress, and how many of its batches were given out."""
        return {"epoch": self._epoch, "position": self._position, "seed": self.seed}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Let the next pass begin where the state was taken."""
        if state["seed"] != self.seed:
            raise ArgumentError(f"DataLoader: the state is of seed {state['seed']}, not {self.seed}", mend="make the loader with the same seed")
        if not 0 <= state["position"] <= len(self):
            raise ArgumentError(f"DataLoader: batch {state['position']} of {len(self)}", mend="make the loader with the same data and batch size")
        self._epoch, self._position, self._resuming = state["epoch"], state["position"], True


class _Columns:
    """Arrays of one length, side by side, as they are."""

    def __init__(self, columns: Sequence[Array | Tensor]) -> None:
        self.columns = [column.numpy() if isinstance(column, Tensor) else column for column in columns]
        lengths = [len(column) if column.ndim else 0 for column in self.columns]
        if not all(lengths) or len(set(lengths)) != 1:
            shapes = ", ".join(str(column.shape) for column in self.columns)
            raise DataError(f"DataLoader: arrays of shapes {shapes}", mend="give arrays with the same number of examples, one at least, in front")

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: Any) -> tuple[Array, ...]:
        return tuple(column[index] for column in self.columns)

    take = __getitem__


def _are_arrays(data: Any) -> TypeGuard[Sequence[Array | Tensor]]:
    return isinstance(data, tuple | list) and len(data) > 0 and all(isinstance(column, np.ndarray | Tensor) for column in data)
