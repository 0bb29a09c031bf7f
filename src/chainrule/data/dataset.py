"""Dataset: labelled images in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule.core.errors import DataError

Array = npt.NDArray[Any]


class Dataset:
    """Images and their labels.

    Parameters
    ----------
    images : array of shape (count, height, width, channels)
        As they were read; read-only from here on.
    labels : integer array of shape (count,)
    scale : float
        What the images are divided by when they are taken, so that bytes can stay bytes until then.
    classes : int, optional
        How many; one more than the largest label if not given.
    name : str

    Examples
    --------
    >>> import numpy as np
    >>> import chainrule as cr
    >>> data = cr.data.Dataset(np.full((3, 2, 2, 1), 255, np.uint8), np.array([0, 1, 0]), scale=255)
    >>> len(data), data.classes
    (3, 2)
    >>> images, labels = data.take([1, 2])
    >>> images.dtype, images.max(), labels
    (dtype('float32'), np.float32(1.0), array([1, 0]))
    """

    def __init__(self, images: npt.ArrayLike, labels: npt.ArrayLike, *, scale: float = 1.0, classes: int | None = None, name: str = "") -> None:
        self.images = frozen(np.asarray(images))
        self.labels = frozen(np.asarray(labels))
        self.scale = scale
        self.name = name
        if len(self.images) != len(self.labels):
            raise DataError(f"{name or 'data set'}: {len(self.images)} images, but {len(self.labels)} labels", mend="give one label for each image")
        if self.labels.dtype.kind not in "iu" or self.labels.ndim != 1:
            raise DataError(
                f"{name or 'data set'}: labels of dtype {self.labels.dtype} and shape {self.labels.shape}", mend="give a list of class numbers"
            )
        self.classes = classes if classes is not None else int(self.labels.max(initial=-1)) + 1
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < self.classes:
            raise DataError(
                f"{name or 'data set'}: labels from {self.labels.min()} to {self.labels.max()} for {self.classes} classes",
                mend=f"labels must lie in 0..{self.classes - 1}",
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self.images.shape[1:]

    def take(self, indices: Any) -> tuple[Array, Array]:
        """The images of these indices, scaled, as float32, and their labels as int64."""
        images = self.images[indices]
        return np.multiply(images, np.float32(1 / self.scale), dtype=np.float32), self.labels[indices].astype(np.int64)

    def __getitem__(self, index: Any) -> tuple[Array, Array]:
        return self.take(index)

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, {len(self)} images of shape {self.image_shape}, {self.classes} classes)"


def frozen(array: Array) -> Array:
    """A read-only view."""
    view = array.view()
    view.flags.writeable = False
    return view
