"""What the command can train, and on what: networks and data sets by name, with settings that work."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from chainrule import data, models, nn
from chainrule.core.errors import ArgumentError, ChainruleError, DataError
from chainrule.data import Dataset
from chainrule.data.files import read_text
from chainrule.ops.cross_entropy import sigmoid_cross_entropy
from chainrule.ops.statistics import mean
from chainrule.tensor import Tensor
from chainrule.training.metrics import Metric


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


@dataclass(frozen=True)
class Network:
    """A network, and how it is trained if nothing else is asked for.

    Attributes
    ----------
    losses : mapping of str to str or callable
        The loss for each kind of data that it takes.
    make : callable
        From the facts of the data to the layer.
    example : Facts
        For which its summary is shown.
    settings : mapping
        Arguments of `fit`.
    targets : callable
        What the network is to give, from the data set.
    metrics : tuple of str or callable, optional
        What is reported beside the loss, if not what goes with it.
    """

    summary: str
    losses: Mapping[str, nn.losses.Loss | str]
    make: Callable[[Facts], nn.Layer]
    example: Facts
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    targets: Callable[[Any], Any] = lambda examples: examples
    metrics: tuple[Metric | str, ...] | None = None


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


def network(name: str) -> Network:
    """The network of this name.

    Raises
    ------
    ArgumentError
        If there is none.
    """
    if name not in NETWORKS:
        near = get_close_matches(name, NETWORKS, 1)
        raise ArgumentError(f"no network {name!r}", mend=f"did you mean {near[0]}?" if near else f"choose one of {', '.join(NETWORKS)}")
    return NETWORKS[name]


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


def build(name: str, facts: Facts) -> tuple[Network, nn.Layer]:
    """The network of this name for data of these facts.

    Raises
    ------
    ArgumentError
        If it takes other data.
    """
    found = network(name)
    if facts.kind not in found.losses:
        raise ArgumentError(f"{name} takes {' or '.join(found.losses)}, not {facts.kind}", mend=_others(name, facts))
    return found, found.make(facts)


@contextmanager
def fitting(name: str, facts: Facts) -> Generator[None]:
    """Inside the block what the network of this name refuses is told as a matter of its inputs' shape.

    Raises
    ------
    ArgumentError
    """
    try:
        yield
    except ChainruleError as error:
        shape = "x".join(map(str, facts.input_shape))
        raise ArgumentError(f"{name} does not take inputs of {shape}: {error.what}", mend=_others(name, facts)) from None


def _others(name: str, facts: Facts) -> str:
    others = [other for other, entry in NETWORKS.items() if facts.kind in entry.losses and other != name]
    return f"choose one of {', '.join(others)}" if others else "give inputs of another shape"


def settings(name: str, model: str, facts: Facts) -> dict[str, Any]:
    """How a network is usually trained on a data set."""
    usual = {"batch_size": 32, "epochs": 10, "optimizer": "adam", **network(model).settings}
    return usual | _TUNED.get((facts.kind, model), {}) | _TUNED.get((name, model), {})


def metrics(network: Network, facts: Facts) -> tuple[Metric | str, ...] | None:
    """What is reported beside the loss, if not what goes with it; errors of numbers in their own unit."""
    spread = facts.spread

    def mean_absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.losses.mean_absolute_error(outputs, targets) * spread

    return (mean_absolute_error,) if facts.kind == "numbers" else network.metrics


# Data sets.


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


# Networks.


def _classes(facts: Facts) -> int:
    """How many classes the network tells apart."""
    if facts.classes is None:
        raise ArgumentError("this network tells classes apart, and the targets are numbers", mend="choose linear_regression or mlp")
    return facts.classes


def _convolutional(facts: Facts) -> nn.Layer:
    """Two convolutions, each pooled to half the size, and a hidden layer."""
    small = facts.input_shape[0] < 16
    filters, kernel_size, padding, units = ((32, 64), 3, "same", 64) if small else ((16, 32), 5, "valid", 128)
    dropouts = (0.25, 0.4) if small else (0.2, 0.3)
    given: dict[str, Any] = {"padding": padding, "kernel_initializer": "he_uniform"}
    first, second = (nn.Conv2D(count, kernel_size, **given) for count in filters)
    # ReLU commutes with the maximum: after pooling it gives the same values with a quarter of the work.
    images = [first, nn.MaxPooling2D(2), nn.ReLU(), second, nn.MaxPooling2D(2), nn.ReLU(), nn.Dropout(dropouts[0])]
    hidden = nn.Dense(units, activation="relu", kernel_initializer="he_uniform")
    return nn.Sequential([*images, nn.Flatten(), hidden, nn.Dropout(dropouts[1]), nn.Dense(_classes(facts))])


def _binary(facts: Facts) -> nn.Layer:
    if _classes(facts) != 2:
        raise ArgumentError(f"logistic_regression tells 2 classes apart, not {facts.classes}", mend="choose softmax_classifier")
    return models.logistic_regression()


def _outputs(facts: Facts) -> int:
    """Classes, or numbers to predict."""
    return facts.outputs if facts.classes is None else facts.classes


def _as_numbers(examples: Dataset) -> Dataset:
    """Classes 0 and 1 as targets of shape (1,)."""
    return Dataset(examples.take(slice(None))[0], examples.targets[:, None].astype(np.float32), name=examples.name)


def _inputs_again(examples: Dataset) -> Dataset:
    """What is to be reproduced is the input."""
    inputs = examples.take(slice(None))[0]
    return Dataset(inputs, inputs, name=examples.name)


def answer_cross_entropy(outputs: Tensor, bits: Tensor) -> Tensor:
    """The cross-entropy of what is said at the last steps, as many as there are targets."""
    return mean(sigmoid_cross_entropy(outputs[:, -bits.shape[1] :], bits))


def answer_bits(outputs: Tensor, bits: Tensor) -> Tensor:
    """The same in bits for each element."""
    return answer_cross_entropy(outputs, bits) / math.log(2)


_CLASSIFIED = {"images": "softmax_cross_entropy", "values": "softmax_cross_entropy"}
_WRITTEN = {"text": "softmax_cross_entropy"}
_LETTERS = "".join(map(chr, range(32, 127)))
_DIGIT, _POINT, _ROW = Facts("images", (28, 28, 1), 10), Facts("values", (2,), 2), Facts("numbers", (10,))
_PAGE = Facts("text", (128,), len(_LETTERS), vocabulary=_LETTERS)

NETWORKS: dict[str, Network] = {
    "convnet": Network(
        "two convolutions, fitted to the size of the images",
        {"images": "softmax_cross_entropy"},
        _convolutional,
        _DIGIT,
        {"lr": 1e-3, "epochs": 10},
    ),
    "linear_regression": Network(
        "numbers as weighted sums", {"numbers": "mean_squared_error"}, lambda facts: models.linear_regression(facts.outputs), _ROW, {"lr": 0.01}
    ),
    "logistic_regression": Network(
        "one of two classes by a weighted sum",
        {"values": "sigmoid_cross_entropy", "images": "sigmoid_cross_entropy"},
        _binary,
        _POINT,
        {"lr": 0.01, "epochs": 30},
        _as_numbers,
    ),
    "softmax_classifier": Network(
        "a weighted sum for each class", _CLASSIFIED, lambda facts: models.softmax_classifier(_classes(facts)), _DIGIT, {"lr": 3e-3}
    ),
    "svm": Network(
        "the same with the widest margin",
        dict.fromkeys(_CLASSIFIED, "multiclass_hinge"),
        lambda facts: models.svm(_classes(facts)),
        _DIGIT,
        {"lr": 3e-3},
    ),
    "mlp": Network(
        "hidden layers of rectified sums",
        {**_CLASSIFIED, "numbers": "mean_squared_error"},
        lambda facts: models.mlp(_outputs(facts)),
        _DIGIT,
        {"lr": 1e-3, "epochs": 20},
    ),
    "lenet": Network(
        "LeNet-5, 1998, for images of 28x28",
        {"images": "softmax_cross_entropy"},
        lambda facts: models.lenet(_classes(facts)),
        _DIGIT,
        {"lr": 2e-3, "epochs": 4, "batch_size": 64, "schedule": "cosine"},
    ),
    "alexnet": Network(
        "AlexNet, 2012; its small variant below 64x64",
        {"images": "softmax_cross_entropy"},
        lambda facts: models.alexnet(_classes(facts), small=facts.input_shape[0] < 64),
        Facts("images", (224, 224, 3), 1000),
        {"lr": 1e-3, "epochs": 5, "batch_size": 64},
    ),
    "resnet": Network(
        "ResNet-18, 2016; its small variant below 64x64",
        {"images": "softmax_cross_entropy"},
        lambda facts: models.resnet(_classes(facts), small=facts.input_shape[0] < 64),
        Facts("images", (224, 224, 3), 1000),
        {"lr": 1e-3, "epochs": 5, "batch_size": 64},
    ),
    "autoencoder": Network(
        "images through a narrow middle, and back",
        {"images": "mean_squared_error"},
        lambda facts: models.autoencoder(),
        _DIGIT,
        {"lr": 2e-3, "epochs": 30},
        _inputs_again,
    ),
    "lstm_language_model": Network(
        "the next character, by a state carried on",
        _WRITTEN,
        lambda facts: models.lstm_language_model(_classes(facts)),
        _PAGE,
        {"lr": 2e-3, "epochs": 4, "clip_norm": 1.0, "schedule": "cosine"},
        metrics=("bits",),
    ),
    "transformer": Network(
        "the next character, by attention to those before",
        _WRITTEN,
        lambda facts: models.transformer(_classes(facts), context=facts.input_shape[0]),
        _PAGE,
        {"lr": 2e-3, "epochs": 4, "batch_size": 16, "optimizer": "adamw", "clip_norm": 1.0, "schedule": "warmup_cosine"},
        metrics=("bits",),
    ),
    "neural_turing_machine": Network(
        "a network with a memory, for sequences of bits",
        {"bits": answer_cross_entropy},
        lambda facts: models.neural_turing_machine(facts.input_shape[-1], facts.outputs),
        Facts("bits", (41, 9), outputs=8),
        {"lr": 3e-3, "batch_size": 16, "epochs": 12, "clip_norm": 1.0, "schedule": "cosine"},
        metrics=(answer_bits,),
    ),
}

_LINEAR = {"lr": 0.03, "epochs": 30}

_TUNED: dict[tuple[str, str], dict[str, Any]] = {
    ("numbers", "linear_regression"): _LINEAR,
    ("values", "logistic_regression"): _LINEAR,
    ("values", "softmax_classifier"): _LINEAR,
    ("values", "svm"): _LINEAR,
    ("numbers", "mlp"): {"lr": 3e-3, "epochs": 30},
    ("digits", "convnet"): {"epochs": 15, "lr": 3e-3, "schedule": "one_cycle"},
    ("mnist", "convnet"): {"epochs": 3, "batch_size": 100, "lr": 2e-3},
}
"""Settings for a kind of data or a data set and a network, where they are not those of the network."""
