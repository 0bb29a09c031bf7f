"""Named networks beside the same ones in PyTorch: equal counts, and with copied weights equal outputs, gradients and statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import chainrule as cr

torch = pytest.importorskip("torch", reason="compared with PyTorch: pip install torch==2.13.0")
tnn = torch.nn

TOLERANCE = 1e-9


# The networks, in PyTorch's words.


def lenet() -> Any:
    return tnn.Sequential(
        tnn.Conv2d(1, 6, 5, padding=2),
        tnn.ReLU(),
        tnn.MaxPool2d(2),
        tnn.Conv2d(6, 16, 5),
        tnn.ReLU(),
        tnn.MaxPool2d(2),
        tnn.Flatten(),
        tnn.Linear(400, 120),
        tnn.ReLU(),
        tnn.Linear(120, 84),
        tnn.ReLU(),
        tnn.Linear(84, 10),
    )


def alexnet() -> Any:
    return tnn.Sequential(
        tnn.Conv2d(3, 96, 11, stride=4, padding=2),
        tnn.ReLU(),
        tnn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0),
        tnn.MaxPool2d(3, 2),
        tnn.Conv2d(96, 256, 5, padding=2, groups=2),
        tnn.ReLU(),
        tnn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0),
        tnn.MaxPool2d(3, 2),
        tnn.Conv2d(256, 384, 3, padding=1),
        tnn.ReLU(),
        tnn.Conv2d(384, 384, 3, padding=1, groups=2),
        tnn.ReLU(),
        tnn.Conv2d(384, 256, 3, padding=1, groups=2),
        tnn.ReLU(),
        tnn.MaxPool2d(3, 2),
        tnn.Flatten(),
        tnn.Linear(9216, 4096),
        tnn.ReLU(),
        tnn.Linear(4096, 4096),
        tnn.ReLU(),
        tnn.Linear(4096, 1000),
    )


def small_alexnet() -> Any:
    return tnn.Sequential(
        tnn.Conv2d(3, 48, 5, padding=2),
        tnn.ReLU(),
        tnn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0),
        tnn.MaxPool2d(3, 2, padding=1),
        tnn.Conv2d(48, 128, 3, padding=1),
        tnn.ReLU(),
        tnn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0),
        tnn.MaxPool2d(3, 2, padding=1),
        tnn.Conv2d(128, 192, 3, padding=1),
        tnn.ReLU(),
        tnn.Conv2d(192, 192, 3, padding=1),
        tnn.ReLU(),
        tnn.Conv2d(192, 128, 3, padding=1),
        tnn.ReLU(),
        tnn.MaxPool2d(3, 2, padding=1),
        tnn.Flatten(),
        tnn.Linear(2048, 2048),
        tnn.ReLU(),
        tnn.Linear(2048, 2048),
        tnn.ReLU(),
        tnn.Linear(2048, 10),
    )


class BasicBlock(tnn.Module):
    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = tnn.Conv2d(before, channels, 3, stride, padding=1, bias=False)
        self.bn1 = tnn.BatchNorm2d(channels)
        self.conv2 = tnn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = tnn.BatchNorm2d(channels)
        self.downsample = tnn.Sequential()
        if before != channels:
            self.downsample = tnn.Sequential(tnn.Conv2d(before, channels, 1, stride, bias=False), tnn.BatchNorm2d(channels))

    def forward(self, x: Any) -> Any:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.downsample(x))


def resnet(blocks: tuple[int, ...], classes: int, *stem: Any) -> Any:
    layers, before = [*stem, tnn.BatchNorm2d(64), tnn.ReLU()], 64
    if stem[0].stride == (2, 2):
        layers.append(tnn.MaxPool2d(3, 2, padding=1))
    for stage, count in enumerate(blocks):
        for block in range(count):
            layers.append(BasicBlock(before, 64 << stage, 2 if stage and not block else 1))
            before = 64 << stage
    return tnn.Sequential(*layers, tnn.AdaptiveAvgPool2d(1), tnn.Flatten(), tnn.Linear(512, classes))


def wide_stem() -> Any:
    return tnn.Conv2d(3, 64, 7, 2, padding=3, bias=False)


def mlp() -> Any:
    return tnn.Sequential(tnn.Flatten(), tnn.Linear(784, 256), tnn.ReLU(), tnn.Linear(256, 128), tnn.ReLU(), tnn.Linear(128, 10))


def autoencoder() -> Any:
    encoder = [tnn.Flatten(), tnn.Linear(64, 128), tnn.ReLU(), tnn.Linear(128, 16)]
    return tnn.Sequential(*encoder, tnn.Linear(16, 128), tnn.ReLU(), tnn.Linear(128, 64), tnn.Unflatten(1, (1, 8, 8)))


@dataclass
class Case:
    """A network here and there; `flat` is the image (height, width, channels) that its first Dense layer reads as a line."""

    here: Callable[[], Any]
    there: Callable[[], Any]
    input: tuple[int, ...]
    parameters: int
    flat: tuple[int, int, int] | None = None


CASES = {
    "mlp": Case(cr.models.mlp, mlp, (3, 28, 28, 1), 235_146),
    "lenet": Case(cr.models.lenet, lenet, (3, 28, 28, 1), 61_706, (5, 5, 16)),
    "alexnet": Case(cr.models.alexnet, alexnet, (2, 224, 224, 3), 60_965_224, (6, 6, 256)),
    "alexnet, small": Case(lambda: cr.models.alexnet(10, small=True), small_alexnet, (2, 32, 32, 3), 9_246_922, (4, 4, 128)),
    "resnet-18": Case(cr.models.resnet, lambda: resnet((2, 2, 2, 2), 1000, wide_stem()), (2, 64, 64, 3), 11_689_512),
    "resnet-18, small": Case(
        lambda: cr.models.resnet(10, small=True),
        lambda: resnet((2, 2, 2, 2), 10, tnn.Conv2d(3, 64, 3, padding=1, bias=False)),
        (2, 16, 16, 3),
        11_173_962,
    ),
    "autoencoder": Case(cr.models.autoencoder, autoencoder, (3, 8, 8, 1), 20_816),
}

MODES = [(name, training) for name in CASES for training in (False, True) if not training or name.startswith("resnet")]
"""Where training differs by more than dropout, both."""


def in_their_layout(name: str, value: np.ndarray, case: Case, first: str) -> np.ndarray:
    """A parameter as PyTorch keeps it: outputs first, then inputs; what it reads as a line has the channels in front."""
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    if value.ndim == 2:
        height, width, channels = case.flat if case.flat and name == first else (1, 1, len(value))
        return value.reshape(height, width, channels, -1).transpose(3, 2, 0, 1).reshape(value.shape[::-1])
    return value


class Pair:
    """A network and its twin, with the same weights and statistics, none of which is 0 or 1 throughout."""

    def __init__(self, case: Case, training: bool) -> None:
        cr.manual_seed(0)
        torch.manual_seed(0)
        self.case, self.random = case, np.random.default_rng(0)
        self.ours, self.theirs = case.here(), case.there().to(torch.float64).train(training)
        for layer in self.ours.layers_inside():
            layer.dtype = np.dtype("float64")
        self.ours.initialize(case.input, dtype="float64").train(training)
        for layer in self.ours.layers_inside():
            if isinstance(layer, cr.nn.Dropout):
                layer.eval()
        with cr.no_grad():
            for parameter in self.ours.parameters():
                if parameter.ndim == 1:
                    parameter.assign(parameter + self.normal(parameter.shape) * 0.1)
            for name, buffer in self.ours.named_buffers():
                buffer.assign(abs(self.normal(buffer.shape)) + 0.5 if name.endswith("variance") else self.normal(buffer.shape))
        self.first = next(name for name, parameter in self.ours.named_parameters() if parameter.ndim == 2)
        with torch.no_grad():
            for value, (_, copy) in zip(self.in_their_layout().values(), self.theirs.named_parameters(), strict=True):
                copy.copy_(torch.tensor(np.ascontiguousarray(value)))
            for (_, value), copy in zip(self.ours.named_buffers(), self.their_statistics(), strict=True):
                copy.copy_(torch.tensor(value.numpy()))

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        return self.random.normal(size=shape)

    def in_their_layout(self, read: Callable[[cr.Tensor], cr.Tensor] = lambda parameter: parameter) -> dict[str, np.ndarray]:
        named = ((name, read(parameter).detach().numpy()) for name, parameter in self.ours.named_parameters())
        return {name: in_their_layout(name, value, self.case, self.first) for name, value in named}

    def their_statistics(self) -> list[Any]:
        return [buffer for name, buffer in self.theirs.named_buffers() if not name.endswith("num_batches_tracked")]

    def assert_equal(self, ours: np.ndarray, theirs: Any, what: str) -> None:
        theirs = theirs.detach().numpy()
        scale = TOLERANCE * np.abs(theirs).max()
        assert scale > 0, what
        np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE, atol=scale, err_msg=what)


@pytest.mark.parametrize(("name", "training"), MODES, ids=[f"{name}, {'training' if training else 'evaluation'}" for name, training in MODES])
def test_counts_outputs_statistics_and_all_gradients_are_equal(name: str, training: bool) -> None:
    case = CASES[name]
    pair = Pair(case, training)
    assert sum(parameter.size for parameter in pair.ours.parameters()) == case.parameters
    assert sum(parameter.numel() for parameter in pair.theirs.parameters()) == case.parameters
    values = pair.normal(case.input)
    x = cr.tensor(values, requires_grad=True)
    tx = torch.tensor(np.moveaxis(values, -1, 1).copy(), requires_grad=True)
    sizes: list[int] = []
    for module in pair.theirs.modules():
        if isinstance(module, tnn.BatchNorm2d):
            module.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].numel() // inputs[0].shape[1]))
    before = [statistic.numpy().copy() for statistic in pair.their_statistics()]

    out, tout = pair.ours(x), pair.theirs(tx)
    weights = pair.normal(out.shape)
    (out * weights).sum().backward()
    (tout * torch.tensor(np.moveaxis(weights, -1, 1).copy() if weights.ndim == 4 else weights)).sum().backward()

    pair.assert_equal(np.moveaxis(out.detach().numpy(), -1, 1) if out.ndim == 4 else out.detach().numpy(), tout, "outputs")
    pair.assert_equal(np.moveaxis(x.grad.numpy(), -1, 1), tx.grad, "gradient of the input")
    gradients = pair.in_their_layout(lambda parameter: parameter.grad)
    for (name, gradient), copy in zip(gradients.items(), pair.theirs.parameters(), strict=True):
        pair.assert_equal(gradient, copy.grad, f"gradient of {name}")

    # PyTorch averages variances divided by one less than their count.
    counts = [size for size in sizes for _ in range(2)]
    for (name, ours), theirs, old, count in zip(pair.ours.named_buffers(), pair.their_statistics(), before, counts, strict=True):
        unbiased = (theirs - 0.9 * torch.tensor(old)) * ((count - 1) / count) + 0.9 * torch.tensor(old)
        pair.assert_equal(ours.numpy(), unbiased if training and name.endswith("variance") else theirs, name)
