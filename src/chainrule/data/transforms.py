"""Transforms of batches: functions from a batch of inputs, and a source of random numbers, to another batch.

They work on NumPy arrays with the examples in front and channels last, and never write to what they are given. Those that draw
nothing need no source, and may be used with `Dataset.map`; the others are for the loader's ``transform``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule.core.errors import ArgumentError, ShapeError
from chainrule.data.dataset import Dataset

__all__ = ["compose", "normalize", "random_crop", "random_flip", "standardize"]

Array = npt.NDArray[Any]
Plain = Callable[..., Array]
"""``(inputs, rng=None) -> inputs``."""
Random = Callable[[Array, np.random.Generator], Array]


def compose(*transforms: Random) -> Random:
    """One transform after the other.

    Parameters
    ----------
    *transforms : callable

    Examples
    --------
    >>> import chainrule as cr
    >>> from chainrule.data import transforms
    >>> augment = transforms.compose(transforms.random_crop(1), transforms.random_flip())
    >>> loader = cr.data.DataLoader(cr.data.digits("train"), 32, transform=augment)
    >>> next(iter(loader))[0].shape
    (32, 8, 8, 1)
    """

    def composed(inputs: Array, rng: np.random.Generator) -> Array:
        for transform in transforms:
            inputs = transform(inputs, rng)
        return inputs

    return composed


def normalize(mean: npt.ArrayLike, std: npt.ArrayLike) -> Plain:
    """``(inputs - mean) / std``.

    Parameters
    ----------
    mean, std : array_like
        They broadcast with the inputs: one number, or one for each channel or feature.

    Examples
    --------
    >>> import numpy as np
    >>> from chainrule.data import transforms
    >>> transforms.normalize([1, 2], [1, 4])(np.array([[3.0, 6.0]], np.float32))
    array([[2., 1.]], dtype=float32)
    """
    center, spread = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    if not (spread > 0).all():
        raise ArgumentError("normalize: a standard deviation of zero or less", mend="give 1 for what does not vary")

    factor = 1 / spread

    def normalized(inputs: Array, rng: np.random.Generator | None = None) -> Array:
        kind = inputs.dtype if inputs.dtype.kind == "f" else np.float32
        return (inputs - center.astype(kind)) * factor.astype(kind)

    return normalized


def standardize(data: Dataset | npt.ArrayLike) -> Plain:
    """Normalize by mean and standard deviation of these data, feature by feature, or channel by channel.

    Parameters
    ----------
    data : Dataset or array of shape (count, ..., features)
        What to measure: the training data. The same transform is then right for test data.

    Notes
    -----
    What does not vary becomes 0.

    Examples
    --------
    >>> import numpy as np
    >>> from chainrule.data import transforms
    >>> transforms.standardize([[1.0, 5.0], [3.0, 5.0]])(np.array([[3.0, 5.0], [5.0, 6.0]]))
    array([[1., 0.],
           [3., 1.]])
    """
    inputs = data.take(slice(None))[0] if isinstance(data, Dataset) else np.asarray(data)
    if inputs.ndim < 2 or not len(inputs):
        raise ShapeError(f"standardize: data of shape {inputs.shape}", mend="give examples in rows: (count, ..., features)")
    axes = tuple(range(inputs.ndim - 1))
    std = inputs.std(axes, dtype=np.float64)
    return normalize(inputs.mean(axes, dtype=np.float64), np.where(std > 0, std, 1.0))


def random_flip(probability: float = 0.5) -> Random:
    """Images, each turned left to right with this probability.

    Parameters
    ----------
    probability : float

    Examples
    --------
    >>> import numpy as np
    >>> from chainrule.data import transforms
    >>> transforms.random_flip(1.0)(np.arange(3.0).reshape(1, 1, 3, 1), np.random.default_rng(0)).ravel()
    array([2., 1., 0.])
    """
    if not 0 <= probability <= 1:
        raise ArgumentError(f"random_flip: probability={probability}", mend="give a number from 0 to 1")

    def flipped(inputs: Array, rng: np.random.Generator) -> Array:
        _check_images("random_flip", inputs)
        return np.where((rng.random(len(inputs)) < probability)[:, None, None, None], inputs[:, :, ::-1], inputs)

    return flipped


def random_crop(padding: int) -> Random:
    """Images with ``padding`` zeros around them, cut to their size at a place drawn for each: moved by up to so many pixels each way.

    Parameters
    ----------
    padding : int

    Examples
    --------
    >>> import numpy as np
    >>> from chainrule.data import transforms
    >>> transforms.random_crop(4)(np.ones((2, 32, 32, 3), np.float32), np.random.default_rng(0)).shape
    (2, 32, 32, 3)
    """
    if padding < 0:
        raise ArgumentError(f"random_crop: padding={padding}", mend="it must not be negative")

    def cropped(inputs: Array, rng: np.random.Generator) -> Array:
        _check_images("random_crop", inputs)
        count, height, width, _ = inputs.shape
        padded = np.pad(inputs, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        corners = (rng.random((2, count)) * (2 * padding + 1)).astype(np.int64)
        rows, columns = corners[0][:, None] + np.arange(height), corners[1][:, None] + np.arange(width)
        return padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]

    return cropped


def _check_images(name: str, inputs: Array) -> None:
    if inputs.ndim != 4:
        raise ShapeError(f"{name}: inputs of shape {inputs.shape}", mend="give images: (count, height, width, channels)")
