"""CIFAR-10 from its binary version. The Python version is a pickle, which runs whatever it holds: it is never read."""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path

import numpy as np

from chainrule.core.errors import ArgumentError, DataError
from chainrule.data.dataset import Dataset
from chainrule.data.download import Progress, Remote, download
from chainrule.data.files import AGAIN, cache_folder, read_bytes

_PARTS = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FOLDER = "cifar-10-batches-bin"
_RECORD = 1 + 3 * 32 * 32

# Size and SHA-256: TensorFlow Datasets, tensorflow_datasets/url_checksums/cifar10.txt.
_ARCHIVE = Remote(
    "cifar-10-binary.tar.gz",
    170052171,
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
)


def cifar10(data_dir: str | Path | None = None, split: str = "train", *, download: bool = False, progress: Progress | None = None) -> Dataset:
    """CIFAR-10: small colour photographs of ten kinds of things.

    Parameters
    ----------
    data_dir : path, optional
        The folder that holds the binary version: its six files data_batch_1.bin ... data_batch_5.bin and test_batch.bin, a
        folder cifar-10-batches-bin with them, or cifar-10-binary.tar.gz. If not given, chainrule/cifar10 in the user's cache folder.
    split : {"train", "test"}
        50,000 and 10,000 images.
    download : bool
        Get the archive from the internet if nothing is there (170 MB), and keep it in the folder. Without it nothing is downloaded.
    progress : callable, optional
        As for `mnist`.

    Returns
    -------
    Dataset
        Images of shape (32, 32, 3), labels 0 to 9, with ``class_names``.

    Raises
    ------
    DataError
        If a file is missing, truncated or corrupt, or cannot be downloaded.

    Notes
    -----
    Krizhevsky, "Learning multiple layers of features from tiny images" (2009). A record is one byte of label and 3,072 of
    pixels: the red ones row by row, then the green, then the blue. The Python version of the data is a pickle, and is not read.

    Examples
    --------
    One black image, labelled 3, in the form of the test data:

    >>> import tempfile
    >>> from pathlib import Path
    >>> import chainrule as cr
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "test_batch.bin").write_bytes(bytes([3]) + bytes(3072))
    ...     test = cr.data.cifar10(folder, "test")
    >>> test, test.class_names[int(test.targets[0])]
    (Dataset('cifar10 test', 1 inputs of shape (32, 32, 3), 10 classes), 'cat')
    """
    if split not in _PARTS:
        raise ArgumentError(f"cifar10: no split {split!r}", mend='choose "train" or "test"')
    folder = cache_folder("cifar10") if data_dir is None else Path(data_dir)
    found = _parts(folder, split, download, progress)
    parts = [_records(data, where) for where, data in found]
    labels, pixels = np.concatenate([part[:, 0] for part in parts]), np.concatenate([part[:, 1:] for part in parts])
    images = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return Dataset(images, labels, scale=255, classes=10, class_names=_CLASSES, name=f"cifar10 {split}")


def _parts(folder: Path, split: str, fetch: bool, progress: Progress | None) -> list[tuple[str, bytes]]:
    """The files of a split, each with the words that say where it is from."""
    names = _PARTS[split]
    for place in (folder, folder / _FOLDER):
        if any((place / name).exists() for name in names):
            return [(str(place / name), read_bytes(place / name)) for name in names]
    archive = folder / _ARCHIVE.name
    if not archive.exists():
        if not fetch:
            pickled = ["; the Python version that lies there is a pickle, and not read" for place in folder.glob("cifar-10*py*") if place][:1]
            raise DataError(
                f"{folder} has neither {names[0]} nor {archive.name}{''.join(pickled)}",
                mend="pass data_dir, the folder that holds the binary version of CIFAR-10, or get it with download=True",
            )
        download(_ARCHIVE, folder, progress=progress)
    return _unpacked(archive, names)


def _unpacked(archive: Path, names: tuple[str, ...]) -> list[tuple[str, bytes]]:
    """Members of the archive, read where they are: nothing is written to the disk."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as members:
            for member in members:
                name = member.name.rpartition("/")[2]
                if name in names and (file := members.extractfile(member)) is not None:
                    found[name] = file.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"{archive} cannot be unpacked: {error}", mend=AGAIN) from None
    if missing := [name for name in names if name not in found]:
        raise DataError(f"{archive} has no {missing[0]}", mend="take the binary version, cifar-10-binary.tar.gz")
    return [(f"{archive}: {name}", found[name]) for name in names]


def _records(data: bytes, where: str) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    if not data or len(data) % _RECORD:
        raise DataError(f"{where} is truncated or no file of CIFAR-10: {len(data)} bytes, where each image takes {_RECORD}", mend=AGAIN)
    records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
    if (most := int(records[:, 0].max())) > 9:
        raise DataError(f"{where} holds a label {most}, not 0 to 9", mend="take the binary version of CIFAR-10, not of CIFAR-100")
    return records
