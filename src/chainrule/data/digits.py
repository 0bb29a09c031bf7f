"""The 1,797 handwritten digits that scikit-learn carries: real data without a download."""

from __future__ import annotations

import numpy as np

from chainrule.core.errors import ArgumentError, MissingExtraError
from chainrule.data.dataset import Dataset

HELD_OUT = 5
"""Every fifth image of each class, in the order of the file, is a test image."""


def digits(split: str = "train") -> Dataset:
    """Handwritten digits, 8 by 8 pixels with 17 shades.

    Parameters
    ----------
    split : {"train", "test", "all"}
        Every fifth image of each class is held out for testing: 1,442 and 355 images.

    Returns
    -------
    Dataset
        Images of shape (8, 8, 1), labels 0 to 9.

    Raises
    ------
    MissingExtraError
        If scikit-learn is not installed.

    Notes
    -----
    The test part of Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI Machine Learning
    Repository (1998), as scikit-learn embeds it.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.data.digits("test")
    Dataset('digits test', 355 inputs of shape (8, 8, 1), 10 classes)
    """
    if split not in ("train", "test", "all"):
        raise ArgumentError(f"digits: no split {split!r}", mend='choose "train", "test" or "all"')
    try:
        from sklearn.datasets import load_digits  # pyright: ignore[reportMissingTypeStubs] - it has none
    except ImportError:
        raise MissingExtraError("the digits come with scikit-learn, which is not installed", mend='pip install "chainrule[train]"') from None
    pixels, classes = load_digits(return_X_y=True)
    images, labels = np.asarray(pixels, np.uint8).reshape(-1, 8, 8, 1), np.asarray(classes, np.int64)
    test = held_out(labels)
    chosen = {"train": ~test, "test": test, "all": np.ones(len(labels), bool)}[split]
    return Dataset(images[chosen], labels[chosen], scale=16, classes=10, name=f"digits {split}")


def held_out(labels: np.ndarray[tuple[int], np.dtype[np.int64]]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Marks every fifth example of each class."""
    marked = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        marked[np.flatnonzero(labels == label)[HELD_OUT - 1 :: HELD_OUT]] = True
    return marked
