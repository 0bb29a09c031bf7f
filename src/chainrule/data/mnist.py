"""MNIST from local files."""

from __future__ import annotations

from pathlib import Path

from chainrule.core.errors import ArgumentError, DataError
from chainrule.data.dataset import Dataset
from chainrule.data.idx import read_idx

_PREFIXES = {"train": "train", "test": "t10k"}
_NAMES = ("{prefix}-{kind}-idx{ndim}-ubyte", "{prefix}-{kind}.idx{ndim}-ubyte")


def mnist(data_dir: str | Path, split: str = "train") -> Dataset:
    """The MNIST handwritten digits, 28 by 28 pixels, from its four files.

    Parameters
    ----------
    data_dir : path
        The folder that holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
        t10k-labels-idx1-ubyte, each gzipped (with .gz) or not.
    split : {"train", "test"}
        60,000 and 10,000 images.

    Returns
    -------
    Dataset
        Images of shape (28, 28, 1), labels 0 to 9.

    Raises
    ------
    DataError
        If a file is missing, truncated or corrupt, or images and labels do not belong together.

    Examples
    --------
    Two black images, labelled 7 and 3, in the form of the test data:

    >>> import tempfile
    >>> from pathlib import Path
    >>> import chainrule as cr
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     header = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28])
    ...     _ = (Path(folder) / "t10k-images-idx3-ubyte").write_bytes(header + bytes(2 * 28 * 28))
    ...     _ = (Path(folder) / "t10k-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 3]))
    ...     cr.data.mnist(folder, "test")
    Dataset('mnist test', 2 inputs of shape (28, 28, 1), 10 classes)
    """
    if split not in _PREFIXES:
        raise ArgumentError(f"mnist: no split {split!r}", mend='choose "train" or "test"')
    folder = Path(data_dir)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder", mend="pass the folder that holds the four MNIST files")
    images_path, labels_path = _find(folder, split, "images", 3), _find(folder, split, "labels", 1)
    images, labels = read_idx(images_path, ndim=3), read_idx(labels_path, ndim=1)
    if images.dtype != "uint8" or images.shape[1:] != (28, 28):
        raise DataError(
            f"{images_path} holds {images.dtype} images of shape {images.shape[1:]}, not uint8 of (28, 28)", mend="check that it is a file of MNIST"
        )
    if not len(images):
        raise DataError(f"{images_path} holds no images", mend="check that it is a file of MNIST")
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} holds {len(images)} images, but {labels_path.name} {len(labels)} labels", mend="take both files from the same place"
        )
    if labels.dtype.kind not in "iu" or int(labels.max()) > 9 or int(labels.min()) < 0:
        raise DataError(f"{labels_path} holds labels from {labels.min()} to {labels.max()}, not digits", mend="check that it is a file of MNIST")
    return Dataset(images[..., None], labels, scale=255, classes=10, name=f"mnist {split}")


def _find(folder: Path, split: str, kind: str, ndim: int) -> Path:
    names = [pattern.format(prefix=_PREFIXES[split], kind=kind, ndim=ndim) for pattern in _NAMES]
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.exists():
                return path
    raise DataError(f"{folder} has no {names[0]} (nor {names[0]}.gz)", mend="pass the folder that holds the four MNIST files")
