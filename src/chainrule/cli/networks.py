"""The networks that the command knows by name: what each takes, and settings that work. Nothing here reads data."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import numpy as np

from chainrule import models, nn
from chainrule.cli.sources import Facts
from chainrule.core.errors import ArgumentError, ChainruleError
from chainrule.data import Dataset
from chainrule.ops.cross_entropy import sigmoid_cross_entropy
from chainrule.ops.statistics import mean
from chainrule.tensor import Tensor
from chainrule.training.metrics import Metric


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
