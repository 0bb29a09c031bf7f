"""DataLoader: a data set in batches, in an order that seed and epoch alone decide.

The place it has reached is three numbers, so a run can go on in the middle of an epoch as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from chainrule.core.errors import ArgumentError
from chainrule.ops.creation import asarray
from chainrule.tensor import Tensor


class Source(Protocol):
    """What a DataLoader reads: a `Dataset`, or anything of a known length that gives example ``i`` as a tuple."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Sequence[Any]: ...


class DataLoader:
    """Batches of a data set; each pass over it is one epoch.

    Parameters
    ----------
    dataset : Dataset, or anything with a length that gives example ``i`` as a tuple of arrays
        If it has a method ``take(indices)``, that gives a whole batch.
    batch_size : int
    shuffle : bool
        A new order in each epoch.
    seed : int
        Of the orders.
    drop_last : bool
        Leave out a last batch that is smaller than the others.

    Examples
    --------
    >>> import chainrule as cr
    >>> loader = cr.data.DataLoader(cr.data.digits("test"), batch_size=100, shuffle=True, seed=0)
    >>> [images.shape for images, labels in loader]
    [(100, 8, 8, 1), (100, 8, 8, 1), (100, 8, 8, 1), (55, 8, 8, 1)]
    """

    def __init__(self, dataset: Source, batch_size: int = 32, *, shuffle: bool = False, seed: int = 0, drop_last: bool = False) -> None:
        if batch_size < 1:
            raise ArgumentError(f"DataLoader: batch_size={batch_size}", mend="it must be at least 1")
        if seed < 0:
            raise ArgumentError(f"DataLoader: seed={seed}", mend="it must not be negative")
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
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
        bits = np.random.Philox(key=np.array([self.seed, epoch], np.uint64)).random_raw(count)
        return np.argsort(bits, kind="stable")

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """One epoch; the next call begins the next one, or goes on from a loaded state."""
        if not self._resuming and self._position:
            self._epoch, self._position = self._epoch + 1, 0
        self._resuming = False
        return self._batches(self._epoch, self._position)

    def _batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, ...]]:
        order = self.order(epoch)
        for position in range(start, len(self)):
            batch = self._take(order[position * self.batch_size : (position + 1) * self.batch_size])
            self._epoch, self._position = epoch, position + 1
            yield batch
        self._epoch, self._position = epoch + 1, 0

    def _take(self, indices: npt.NDArray[np.int64]) -> tuple[Tensor, ...]:
        take = getattr(self.dataset, "take", None)
        columns = take(indices) if take is not None else [np.stack(column) for column in zip(*(self.dataset[int(i)] for i in indices), strict=True)]
        for column in columns:
            column.flags.writeable = False
        return tuple(asarray(column) for column in columns)

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
