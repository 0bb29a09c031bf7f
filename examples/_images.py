"""Images for the examples: what lies in a folder, or the digits that need none."""

from __future__ import annotations

import chainrule as cr
from chainrule.data import Dataset


def images(data_dir: str | None, kind: str = "mnist", *, enlarge: bool = False) -> tuple[Dataset, Dataset]:
    """Training and test images: MNIST or CIFAR-10 from a folder, or without one the embedded digits of 8 by 8 pixels.

    Parameters
    ----------
    data_dir : str, optional
    kind : {"mnist", "cifar10"}
        What lies in the folder.
    enlarge : bool
        Draw each pixel of the digits 3 by 3, and 2 pixels of margin around them: 28 by 28, as in MNIST.
    """
    if data_dir is not None:
        read = getattr(cr.data, kind)
        return read(data_dir, "train"), read(data_dir, "test")
    train, test = cr.data.digits("train"), cr.data.digits("test")
    return (enlarged(train), enlarged(test)) if enlarge else (train, test)


def enlarged(data: Dataset) -> Dataset:
    """Digits of 8 by 8 pixels on 28 by 28."""
    drawn = cr.pad(cr.repeat(cr.repeat(cr.tensor(data.inputs), 3, axis=1), 3, axis=2), ((0, 0), (2, 2), (2, 2), (0, 0)))
    return Dataset(drawn.numpy(), data.targets, scale=data.scale, classes=data.classes, name=data.name)
