"""Dataset: inputs and targets in memory, as arrays that nobody writes to.

Whole batches are taken by index; bytes stay bytes until then. Order, batches and randomness are the loader's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule.core.errors import ArgumentError, DataError
from chainrule.ops.generator import Generator
from chainrule.ops.random import permutation

Array = npt.NDArray[Any]


class Dataset:
    """Inputs, and the target of each.

    Parameters
    ----------
    inputs : array of shape (count, ...)
        Images, vectors, tokens; read-only from here on.
    targets : array of shape (count, ...)
        Integers are classes; real numbers are values to predict.
    scale : float, optional
        What inputs are divided by when they are taken, which makes them float32. If not given, real inputs come as
        float32, and integers as the tokens that they are, as int64.
    classes : int, optional
        How many; one more than the largest if not given. None for real targets.
    class_names : sequence of str
        What the classes are called.
    name : str

    Raises
    ------
    DataError
        If inputs and targets differ in number, are not numbers, or a class is out of range.

    Examples
    --------
    Images as bytes, with labels:

    >>> import numpy as np
    >>> import chainrule as cr
    >>> data = cr.data.Dataset(np.full((3, 2, 2, 1), 255, np.uint8), [0, 1, 0], scale=255)
    >>> len(data), data.classes, data.input_shape
    (3, 2, (2, 2, 1))
    >>> images, labels = data.take([1, 2])
    >>> images.dtype, images.max(), labels
    (dtype('float32'), np.float32(1.0), array([1, 0]))

    Vectors with real targets:

    >>> cr.data.Dataset([[0.0, 1.0], [1.0, 0.0]], [[0.5], [2.5]], name="line")
    Dataset('line', 2 inputs of shape (2,), targets of shape (1,))
    """

    def __init__(
        self,
        inputs: npt.ArrayLike,
        targets: npt.ArrayLike,
        *,
        scale: float | None = None,
        classes: int | None = None,
        class_names: Sequence[str] = (),
        name: str = "",
    ) -> None:
        self.inputs = _numbers(inputs, "inputs", name)
        self.targets = _numbers(targets, "targets", name)
        self.scale = scale
        self.name = name
        self.class_names = tuple(class_names)
        self.classes = classes
        self._functions: tuple[Callable[[Array], Array], ...] = ()
        if len(self.inputs) != len(self.targets):
            raise DataError(
                f"{name or 'data set'}: {len(self.inputs)} inputs, but {len(self.targets)} targets", mend="give one target for each input"
            )
        if scale == 0:
            raise ArgumentError(f"{name or 'data set'}: scale=0", mend="inputs are divided by it: leave it out to take them as they are")
        if self.targets.dtype.kind in "iu":
            self.classes = self._count_classes()
        elif classes is not None:
            raise DataError(
                f"{name or 'data set'}: {classes} classes, but targets of dtype {self.targets.dtype}",
                mend="classes are integers: targets.astype(int)",
            )
        if self.class_names and len(self.class_names) != self.classes:
            raise DataError(f"{name or 'data set'}: {len(self.class_names)} names for {self.classes} classes", mend="give one name for each class")

    def _count_classes(self) -> int:
        """How many classes there are, if all targets are among them."""
        least, most = (int(self.targets.min()), int(self.targets.max())) if self.targets.size else (0, -1)
        classes = self.classes if self.classes is not None else len(self.class_names) or most + 1
        if least < 0 or most >= classes:
            raise DataError(
                f"{self.name or 'data set'}: targets from {least} to {most} for {classes} classes",
                mend=f"classes are numbered 0..{classes - 1}; values to predict are real numbers: targets.astype(float)",
            )
        return classes

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, as it is taken."""
        return self.take(slice(0, 1))[0].shape[1:] if self._functions else self.inputs.shape[1:]

    def take(self, indices: Any) -> tuple[Array, Array]:
        """The inputs of these indices, as float32 (tokens: int64), and their targets, as float32 (classes: int64)."""
        chosen = self.inputs[indices]
        inputs = _plain(chosen) if self.scale is None else np.multiply(chosen, np.float32(1 / self.scale), dtype=np.float32)
        for function in self._functions:
            inputs = function(inputs)
        return inputs, _plain(self.targets[indices])

    def __getitem__(self, index: Any) -> tuple[Array, Array]:
        return self.take(index)

    def subset(self, indices: Any, *, name: str | None = None) -> Dataset:
        """The data set of these examples alone.

        Parameters
        ----------
        indices : slice, or array of integers or booleans
        name : str, optional
            The same name if not given.
        """
        chosen = indices if isinstance(indices, slice) else np.asarray(indices)
        return self._with(self.inputs[chosen], self.targets[chosen], self.name if name is None else name)

    def split(self, fraction: float, seed: int = 0) -> tuple[Dataset, Dataset]:
        """What to learn from, and a part to be held out, drawn at random.

        Parameters
        ----------
        fraction : float
            The part that is held out: 0.2 is every fifth example.
        seed : int

        Examples
        --------
        >>> import chainrule as cr
        >>> train, validation = cr.data.moons(100).split(0.2)
        >>> len(train), len(validation)
        (80, 20)
        """
        held_out = held_out_of(len(self), fraction)
        order = permutation(len(self), generator=Generator(seed)).numpy()
        # In the order of the data, so that neighbours in memory stay neighbours.
        return self.subset(np.sort(order[held_out:])), self.subset(np.sort(order[:held_out]), name=f"{self.name} held out".strip())

    def map(self, function: Callable[[Array], Array]) -> Dataset:
        """The data set whose inputs go through a function, batch by batch, each time that they are taken.

        Parameters
        ----------
        function : callable
            From a batch of inputs to another. What is random belongs in the loader's ``transform``.

        Examples
        --------
        >>> import chainrule as cr
        >>> data = cr.data.digits("test").map(lambda images: images.reshape(len(images), -1))
        >>> data.input_shape
        (64,)
        """
        mapped = self._with(self.inputs, self.targets, self.name)
        mapped._functions = (*self._functions, function)
        return mapped

    def _with(self, inputs: Array, targets: Array, name: str) -> Dataset:
        made = Dataset(inputs, targets, scale=self.scale, classes=self.classes, class_names=self.class_names, name=name)
        made._functions = self._functions
        return made

    def __repr__(self) -> str:
        found = f"targets of shape {self.targets.shape[1:]}" if self.classes is None else f"{self.classes} classes"
        return f"{type(self).__name__}({self.name!r}, {len(self)} inputs of shape {self.input_shape}, {found})"


def held_out_of(count: int, fraction: float) -> int:
    """How many of ``count`` examples a fraction holds out; at least one stays on each side."""
    if not 0 < fraction < 1:
        raise ArgumentError(f"split: fraction={fraction}", mend="give the part to hold out, between 0 and 1: 0.2 is every fifth")
    held_out = round(count * fraction)
    if not 0 < held_out < count:
        raise DataError(f"split: {fraction} of {count} leaves one side empty", mend="hold out another part, or give more data")
    return held_out


def frozen(array: Array) -> Array:
    """A read-only view."""
    view = array.view()
    view.flags.writeable = False
    return view


def _plain(array: Array) -> Array:
    """Integers as int64, real numbers as float32."""
    return array.astype(np.int64 if array.dtype.kind in "iu" else np.float32)


def _numbers(values: npt.ArrayLike, what: str, name: str) -> Array:
    """A read-only array of numbers with one entry per example."""
    try:
        array = np.asarray(values)
    except ValueError:
        raise DataError(f"{name or 'data set'}: {what} of different lengths", mend="give rows of one length: pad or cut them") from None
    if array.dtype.kind not in "iuf" or array.ndim < 1:
        raise DataError(
            f"{name or 'data set'}: {what} of dtype {array.dtype} and shape {array.shape}", mend="give an array of numbers, with one row per example"
        )
    return frozen(array)
