"""MNIST and Fashion-MNIST: 28 by 28 pixels, ten classes, four files in the IDX format."""

from __future__ import annotations

from pathlib import Path

from chainrule.core.errors import ArgumentError, DataError
from chainrule.data.dataset import Dataset
from chainrule.data.download import Progress, Remote, download
from chainrule.data.files import cache_folder
from chainrule.data.idx import read_idx

_PREFIXES = {"train": "train", "test": "t10k"}
_NAMES = ("{prefix}-{kind}-idx{ndim}-ubyte", "{prefix}-{kind}.idx{ndim}-ubyte")
_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

# Sizes and SHA-256: TensorFlow Datasets, tensorflow_datasets/url_checksums/{mnist,fashion_mnist}.txt.
# Addresses: there, torchvision's torchvision/datasets/mnist.py, and the repository of Fashion-MNIST.
_HOSTS = {
    "mnist": ("https://storage.googleapis.com/cvdf-datasets/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/"),
    "fashion_mnist": (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
}
_CONTENTS = {
    "mnist": {
        "train-images-idx3-ubyte.gz": (9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        "train-labels-idx1-ubyte.gz": (28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        "t10k-images-idx3-ubyte.gz": (1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        "t10k-labels-idx1-ubyte.gz": (4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte.gz": (26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        "train-labels-idx1-ubyte.gz": (29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        "t10k-images-idx3-ubyte.gz": (4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        "t10k-labels-idx1-ubyte.gz": (5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
    },
}


def mnist(data_dir: str | Path | None = None, split: str = "train", *, download: bool = False, progress: Progress | None = None) -> Dataset:
    """The MNIST handwritten digits, 28 by 28 pixels, from its four files.

    Parameters
    ----------
    data_dir : path, optional
        The folder that holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
        t10k-labels-idx1-ubyte, each gzipped (with .gz) or not. If not given, chainrule/mnist in the user's cache folder.
    split : {"train", "test"}
        60,000 and 10,000 images.
    download : bool
        Get the files that are missing from the internet (12 MB), and keep them in the folder. Without it nothing is downloaded.
    progress : callable, optional
        Called while downloading with a file's name, how many of its bytes are here and how many it has.

    Returns
    -------
    Dataset
        Images of shape (28, 28, 1), labels 0 to 9.

    Raises
    ------
    DataError
        If a file is missing, truncated or corrupt, cannot be downloaded, or images and labels do not belong together.

    Notes
    -----
    LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", Proceedings of the IEEE 86 (1998).

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
    images, labels = _files("mnist", data_dir, split, download, progress)
    return _read(images, labels, f"mnist {split}", ())


def fashion_mnist(data_dir: str | Path | None = None, split: str = "train", *, download: bool = False, progress: Progress | None = None) -> Dataset:
    """Fashion-MNIST: pictures of ten kinds of clothes, in the form of MNIST.

    Parameters
    ----------
    data_dir : path, optional
        The folder that holds its four files, which have the names of MNIST's: keep the two in folders of their own.
        If not given, chainrule/fashion_mnist in the user's cache folder.
    split : {"train", "test"}
        60,000 and 10,000 images.
    download : bool
        Get the files that are missing from the internet (31 MB), and keep them in the folder. Without it nothing is downloaded.
    progress : callable, optional
        As for `mnist`.

    Returns
    -------
    Dataset
        Images of shape (28, 28, 1), labels 0 to 9, with ``class_names``.

    Raises
    ------
    DataError
        If a file is missing, truncated or corrupt, cannot be downloaded, or images and labels do not belong together.

    Notes
    -----
    Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms", arXiv:1708.07747 (2017).

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import chainrule as cr
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     header = bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 28, 0, 0, 0, 28])
    ...     _ = (Path(folder) / "t10k-images-idx3-ubyte").write_bytes(header + bytes(28 * 28))
    ...     _ = (Path(folder) / "t10k-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 1, 7]))
    ...     test = cr.data.fashion_mnist(folder, "test")
    >>> test.class_names[int(test.targets[0])]
    'Sneaker'
    """
    images, labels = _files("fashion_mnist", data_dir, split, download, progress)
    return _read(images, labels, f"fashion_mnist {split}", _CLOTHES)


def _files(name: str, data_dir: str | Path | None, split: str, download: bool, progress: Progress | None) -> tuple[Path, Path]:
    """The files of images and of labels, downloaded if they are missing and that was asked for."""
    if split not in _PREFIXES:
        raise ArgumentError(f"{name}: no split {split!r}", mend='choose "train" or "test"')
    folder = cache_folder(name) if data_dir is None else Path(data_dir)
    if not download and not folder.is_dir():
        raise DataError(f"{folder} is not a folder", mend=_missing(name))
    return _find(name, folder, split, "images", 3, download, progress), _find(name, folder, split, "labels", 1, download, progress)


def _find(name: str, folder: Path, split: str, kind: str, ndim: int, fetch: bool, progress: Progress | None) -> Path:
    names = [pattern.format(prefix=_PREFIXES[split], kind=kind, ndim=ndim) for pattern in _NAMES]
    for file in names:
        for path in (folder / file, folder / f"{file}.gz"):
            if path.exists():
                return path
    if not fetch:
        raise DataError(f"{folder} has no {names[0]} (nor {names[0]}.gz)", mend=_missing(name))
    packed = f"{names[0]}.gz"
    size, sha256 = _CONTENTS[name][packed]
    return download(Remote(packed, size, sha256, tuple(host + packed for host in _HOSTS[name])), folder, progress=progress)


def _missing(name: str) -> str:
    return f"pass data_dir, the folder that holds the four files of {name}, or get them with download=True"


def _read(images_path: Path, labels_path: Path, name: str, class_names: tuple[str, ...]) -> Dataset:
    images, labels = read_idx(images_path, ndim=3), read_idx(labels_path, ndim=1)
    check = "check that it is a file of the data set"
    if images.dtype != "uint8" or images.shape[1:] != (28, 28):
        raise DataError(f"{images_path} holds {images.dtype} images of shape {images.shape[1:]}, not uint8 of (28, 28)", mend=check)
    if not len(images):
        raise DataError(f"{images_path} holds no images", mend=check)
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} holds {len(images)} images, but {labels_path.name} {len(labels)} labels", mend="take both files from the same place"
        )
    if labels.dtype.kind not in "iu" or int(labels.max()) > 9 or int(labels.min()) < 0:
        raise DataError(f"{labels_path} holds labels from {labels.min()} to {labels.max()}, not classes from 0 to 9", mend=check)
    return Dataset(images[..., None], labels, scale=255, classes=10, class_names=class_names, name=name)
