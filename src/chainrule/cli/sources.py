"""The data sets that the command knows by name, and the kinds of files: what is loaded, and what a network must know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

from chainrule import data
from chainrule.core.errors import ArgumentError, DataError
from chainrule.data import Dataset
from chainrule.data.files import read_text


class Examples(Protocol):
    """Training or test data: a length, and whole batches by index."""

    def __len__(self) -> int: ...

    def take(self, indices: Any) -> Any: ...


@dataclass(frozen=True)
class Request:
    """Which data is asked for.

    Attributes
    ----------
    data : str
        A name among `SOURCES`, or a path.
    data_dir : path, optional
    download : bool
    seed : int
        Of synthetic data, and of what is held out of a table.
    target : str, optional
        Of a table, the column that is predicted.
    classify : bool
        Whether that column holds classes, though they are numbers.
    context : int, optional
        Of a text, how many characters are looked at together.
    """

    data: str
    data_dir: str | Path | None = None
    download: bool = False
    seed: int = 0
    target: str | None = None
    classify: bool = False
    context: int | None = None


@dataclass(frozen=True)
class Facts:
    """What a network must know of its data to be built, and to be used again without it.

    Attributes
    ----------
    kind : str
        "images", "values" (a row of numbers has a class), "numbers" (it has numbers to predict), "text", or "bits" (sequences of them).
    input_shape : tuple of int
        Of one example.
    classes : int, optional
        None where numbers are predicted.
    class_names : tuple of str
    outputs : int
        How many numbers are predicted for an example, or a step, where there are no classes.
    spread : float
        What 1 stands for in the numbers that are predicted.
    vocabulary : str
        The characters of a text, in the order of their tokens.
    """

    kind: str
    input_shape: tuple[int, ...]
    classes: int | None = None
    class_names: tuple[str, ...] = ()
    outputs: int = 1
    spread: float = 1.0
    vocabulary: str = ""

    @property
    def dtype(self) -> str:
        """Of the inputs."""
        return "int64" if self.kind == "text" else "float32"

    @classmethod
    def of(cls, found: Any) -> Facts:
        """The facts that `asdict` gave and JSON kept; TypeError if they are none."""
        if not isinstance(found, Mapping):
            raise TypeError("no facts of a data set")
        told: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
        return cls(**told)


Loaded = tuple[Examples, Examples, Facts]
"""Training data, test data, and what a network must know of them."""


@dataclass(frozen=True)
class Source:
    """A data set, or a kind of file.

    Attributes
    ----------
    network : str
        What is trained on it if nothing else is asked for.
    options : tuple of str
        What of a `Request` it has a use for, besides the seed.
    """

    summary: str
    load: Callable[[Request], Loaded]
    network: str
    options: tuple[str, ...] = ()


def source(name: str) -> Source:
    """The data set of this name, or the kind of file that the path leads to.

    Raises
    ------
    ArgumentError
        If there is none.
    """
    if name in SOURCES:
        return SOURCES[name]
    if Path(name).is_file():
        return _TABLE if Path(name).suffix.lower() == ".csv" else _TEXT
    near = get_close_matches(name, SOURCES, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ArgumentError(f"no data set and no file {name!r}", mend=f"{hint}'chainrule list' names them all; or give a .csv or text file")


def located(name: str) -> str:
    """The same data set, wherever it is asked for from: the whole path of a file."""
    return str(Path(name).resolve()) if name not in SOURCES and Path(name).is_file() else name


def load(request: Request) -> Loaded:
    """Training and test data, and their facts.

    Raises
    ------
    ArgumentError, DataError
        If there are none, or they have no use for an option.
    """
    found = source(request.data)
    useless = [name for name in ("data_dir", "download", "target", "classify", "context") if getattr(request, name) and name not in found.options]
    if useless:
        raise ArgumentError(f"{request.data} has no use for --{useless[0].replace('_', '-')}", mend="leave it out")
    return found.load(request)


def _images(read: Callable[..., Dataset], *, in_files: bool = True) -> Callable[[Request], Loaded]:
    def load(request: Request) -> Loaded:
        given: dict[str, Any] = {"data_dir": request.data_dir, "download": request.download} if in_files else {}
        try:
            train, test = (read(split=split, **given) for split in ("train", "test"))
        except DataError as error:
            if "download=True" not in (error.mend or ""):
                raise
            raise DataError(error.what, mend=f"say which folder holds the files of {request.data}: --data-dir DIR; or get them: --download") from None
        return train, test, Facts("images", train.input_shape, train.classes, train.class_names)

    return load


def _synthetic(make: Callable[..., Dataset], count: int) -> Callable[[Request], Loaded]:
    """Made examples; those to test on come from another seed."""

    def load(request: Request) -> Loaded:
        train, test = (make(count=count, seed=2 * request.seed + part) for part in (0, 1))
        return train, test, Facts("values", train.input_shape, train.classes)

    return load


def _table(request: Request) -> Loaded:
    """The rows of a CSV file, a fifth of them held out; columns are standardized by what is learned from, numbers to predict, too."""
    rows = _read(request)
    train, test = rows.split(0.2, request.seed)
    standardize = data.transforms.standardize(train)
    if rows.classes is not None:
        return train.map(standardize), test.map(standardize), Facts("values", rows.input_shape, rows.classes, rows.class_names)
    middle, spread = float(train.targets.mean()), float(train.targets.std()) or 1.0
    train, test = (Dataset(part.inputs, (part.targets - middle) / spread, name=part.name).map(standardize) for part in (train, test))
    return train, test, Facts("numbers", rows.input_shape, spread=spread)


def _read(request: Request) -> Dataset:
    """A table with numbers to predict, or classes if they are none."""
    target = -1 if request.target is None else request.target
    if not request.classify:
        try:
            return data.csv(request.data, target)
        except DataError:
            pass
    return data.csv(request.data, target, classes="auto")


def _text(read: Callable[[Request], str]) -> Callable[[Request], Loaded]:
    """The windows of a text, the last tenth held out."""

    def load(request: Request) -> Loaded:
        windows = data.text(read(request), context=request.context or 128, name=Path(request.data).name)
        train, test = windows.split(0.1)
        return train, test, Facts("text", (windows.context,), windows.classes, vocabulary=windows.vocabulary.characters)

    return load


def _copies(request: Request) -> Loaded:
    """Sequences of up to twenty vectors of bits; those to test on have twenty."""
    train, test = (data.copy_task(20, count=count, seed=2 * request.seed + part) for part, count in enumerate((2000, 200)))
    return train, test, Facts("bits", train.input_shape, outputs=train.targets.shape[-1])


_TABLE = Source("a table of numbers; the last column is predicted, or that of --target", _table, "mlp", ("target", "classify"))
_TEXT = Source("a text", _text(lambda request: read_text(Path(request.data))), "transformer", ("context",))
_FILES = ("data_dir", "download")

SOURCES: dict[str, Source] = {
    "digits": Source("1,797 handwritten digits of 8x8 pixels, carried by scikit-learn", _images(data.digits, in_files=False), "convnet"),
    "mnist": Source("70,000 handwritten digits of 28x28 pixels, from files", _images(data.mnist), "convnet", _FILES),
    "fashion_mnist": Source("70,000 pictures of clothes of 28x28 pixels, from files", _images(data.fashion_mnist), "lenet", _FILES),
    "cifar10": Source("60,000 colour photographs of 32x32 pixels, from files", _images(data.cifar10), "resnet", _FILES),
    "moons": Source("two half circles of points", _synthetic(lambda **given: data.moons(**given), 1000), "mlp"),
    "spirals": Source("three spiral arms of points", _synthetic(lambda **given: data.spirals(**given), 1500), "mlp"),
    "xor": Source("the four corners of exclusive or, with noise", _synthetic(lambda **given: data.xor(noise=0.1, **given), 1000), "mlp"),
    "copy": Source("sequences of twenty vectors of bits, to be given back from memory", _copies, "neural_turing_machine"),
    "python_topics": Source("English prose that comes with Python", _text(lambda request: data.python_topics()), "transformer", ("context",)),
    "FILE.csv": _TABLE,
    "FILE.txt": _TEXT,
}
