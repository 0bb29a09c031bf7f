"""Layers, activations, losses, optimizers and networks: both backends do what each does without compiling.

Whatever a table of the library lists has to have a case here: what is new fails until it has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

import chainrule as cr
import test_losses
import test_models
import test_optim
import test_schedules
from chainrule import nn, optim
from chainrule.compiler import pipeline
from chainrule.core import tree
from chainrule.nn import regularizers
from chainrule.nn.activations import ACTIVATIONS
from chainrule.nn.initializers import Initializer
from chainrule.nn.serial import CLASSES
from chainrule.optim import schedules

Compile = Callable[..., Callable[..., Any]]
Make = Callable[[], nn.Layer]

ROUNDING = {"float64": 1e-11, "float32": 2e-5}
"""How far two orders of adding may differ, in shares of numbers near 1."""

each_dtype = pytest.mark.parametrize("dtype", ROUNDING)


@pytest.fixture(params=["numpy", "native"])
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Compile:
    """`cr.compile` with one backend, while the other cannot be used."""
    if request.param == "native":
        pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")
    monkeypatch.delattr(pipeline, "emit" if request.param == "numpy" else "print_source")
    return partial(cr.compile, backend=request.param)


def eager(step: Callable[..., Any]) -> Callable[..., Any]:
    """In the place of `compiled`."""
    return step


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def arrays(results: Any) -> list[Any]:
    return [np.asarray(leaf.detach()) if isinstance(leaf, cr.Tensor) else leaf for leaf in tree.leaves(results)]


def same(found: Any, expected: Any, tolerance: float) -> None:
    for one, other in zip(arrays(found), arrays(expected), strict=True):
        assert getattr(one, "dtype", None) == getattr(other, "dtype", None)
        if not np.array_equal(one, other):
            np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


# Layers


IMAGE, ROW, VOLUME = (2, 6, 5, 4), (2, 7, 4), (2, 5, 4, 3, 2)

LAYERS: dict[str, tuple[Make, tuple[int, ...]]] = {
    "Activation": (lambda: nn.Activation("gelu"), (3, 4)),
    "AveragePooling1D": (nn.AveragePooling1D, ROW),
    "AveragePooling2D": (lambda: nn.AveragePooling2D(3, 2, "same"), IMAGE),
    "AveragePooling3D": (nn.AveragePooling3D, VOLUME),
    "BatchNormalization": (lambda: nn.BatchNormalization(momentum=0.7), (5, 4)),
    "BatchNormalization, of images": (lambda: nn.BatchNormalization(1, scale=False), IMAGE),
    "Bidirectional": (lambda: nn.Bidirectional(nn.GRU(3)), ROW),
    "Bidirectional, added": (lambda: nn.Bidirectional(nn.LSTM(3, return_sequences=True), "sum"), ROW),
    "Conv1D": (lambda: nn.Conv1D(3, 3, dilation_rate=2, activation="relu"), ROW),
    "Conv2D": (lambda: nn.Conv2D(3, 3, activation="tanh"), IMAGE),
    "Conv2D, in groups": (lambda: nn.Conv2D(6, (3, 2), 2, "same", groups=2, use_bias=False), IMAGE),
    "Conv2D, channels first": (lambda: nn.Conv2D(3, 2, data_format="channels_first"), IMAGE),
    "Conv3D": (lambda: nn.Conv3D(3, 2), VOLUME),
    "Conv1DTranspose": (lambda: nn.Conv1DTranspose(3, 3, 2), ROW),
    "Conv2DTranspose": (lambda: nn.Conv2DTranspose(3, 3, 2, "same", activation="relu"), IMAGE),
    "Conv3DTranspose": (lambda: nn.Conv3DTranspose(2, 2), VOLUME),
    "Cropping1D": (lambda: nn.Cropping1D((1, 2)), ROW),
    "Cropping2D": (lambda: nn.Cropping2D(1), IMAGE),
    "Cropping3D": (lambda: nn.Cropping3D(1), VOLUME),
    "Dense": (lambda: nn.Dense(5, "sigmoid"), (2, 3, 4)),
    "DepthwiseConv1D": (lambda: nn.DepthwiseConv1D(3, padding="same"), ROW),
    "DepthwiseConv2D": (lambda: nn.DepthwiseConv2D(3, depth_multiplier=2), IMAGE),
    "Dropout": (lambda: nn.Dropout(0.4), (8, 9)),
    "ELU": (lambda: nn.ELU(0.5), (3, 4)),
    "Embedding": (lambda: nn.Embedding(5, 3), (4, 6)),
    "Flatten": (nn.Flatten, IMAGE),
    "GRU": (lambda: nn.GRU(3, return_sequences=True), ROW),
    "GRU, with dropout": (lambda: nn.GRU(3, dropout=0.3, recurrent_dropout=0.3), ROW),
    "GlobalAveragePooling1D": (nn.GlobalAveragePooling1D, ROW),
    "GlobalAveragePooling2D": (nn.GlobalAveragePooling2D, IMAGE),
    "GlobalAveragePooling3D": (lambda: nn.GlobalAveragePooling3D(keepdims=True), VOLUME),
    "GlobalMaxPooling1D": (nn.GlobalMaxPooling1D, ROW),
    "GlobalMaxPooling2D": (lambda: nn.GlobalMaxPooling2D(data_format="channels_first"), IMAGE),
    "GlobalMaxPooling3D": (nn.GlobalMaxPooling3D, VOLUME),
    "GroupNormalization": (lambda: nn.GroupNormalization(2), IMAGE),
    "LSTM": (lambda: nn.LSTM(3), ROW),
    "LSTM, masked": (lambda: nn.LSTM(3, return_sequences=True), ROW),
    "LSTM, backwards with its state": (lambda: nn.LSTM(3, return_sequences=True, return_state=True, go_backwards=True), ROW),
    "Lambda": (lambda: nn.Lambda(lambda x: cr.cumulative_sum(x, axis=-1)), (3, 4)),
    "LayerNormalization": (lambda: nn.LayerNormalization((-2, -1)), ROW),
    "LeakyReLU": (nn.LeakyReLU, (3, 4)),
    "LocalResponseNormalization": (lambda: nn.LocalResponseNormalization(3, alpha=0.1), IMAGE),
    "MaxPooling1D": (nn.MaxPooling1D, ROW),
    "MaxPooling2D": (lambda: nn.MaxPooling2D(3, 1, "same"), IMAGE),
    "MaxPooling3D": (nn.MaxPooling3D, VOLUME),
    "MultiHeadAttention": (lambda: nn.MultiHeadAttention(2, 3, dropout=0.2), ROW),
    "MultiHeadAttention, causal": (lambda: nn.MultiHeadAttention(2, 3), ROW),
    "MultiHeadAttention, masked": (lambda: nn.MultiHeadAttention(2, 3), ROW),
    "Permute": (lambda: nn.Permute((3, 1, 2)), IMAGE),
    "PositionEmbedding": (lambda: nn.PositionEmbedding(9), ROW),
    "RMSNormalization": (nn.RMSNormalization, ROW),
    "ReLU": (nn.ReLU, (3, 4)),
    "Reshape": (lambda: nn.Reshape((4, -1)), IMAGE),
    "Residual": (lambda: nn.Residual([nn.Dense(4, "tanh"), nn.Dropout(0.2)], nn.Dense(4)), (3, 4)),
    "SeparableConv1D": (lambda: nn.SeparableConv1D(3, 2), ROW),
    "SeparableConv2D": (lambda: nn.SeparableConv2D(3, 3, padding="same", activation="relu"), IMAGE),
    "Sequential": (lambda: nn.Sequential([nn.Conv2D(3, 2), nn.BatchNormalization(), "relu", nn.MaxPooling2D(), nn.Flatten(), nn.Dense(2)]), IMAGE),
    "SimpleRNN": (lambda: nn.SimpleRNN(3, "relu", return_sequences=True), ROW),
    "Softmax": (nn.Softmax, (3, 4)),
    "UpSampling1D": (lambda: nn.UpSampling1D(3), ROW),
    "UpSampling2D": (lambda: nn.UpSampling2D((2, 3)), IMAGE),
    "UpSampling3D": (nn.UpSampling3D, VOLUME),
    "ZeroPadding1D": (nn.ZeroPadding1D, ROW),
    "ZeroPadding2D": (lambda: nn.ZeroPadding2D(((1, 0), (2, 1))), IMAGE),
    "ZeroPadding3D": (nn.ZeroPadding3D, VOLUME),
}
"""A layer, and the shape of what it takes; behind a comma, what is special about one of several."""
STEPS = np.array([[True] * 7, [True, True, False, True, True, False, False]])
OPTIONS: dict[str, dict[str, Any]] = {
    "LSTM, masked": {"mask": STEPS, "initial_state": (numbers(2, 3), numbers(2, 3, seed=1))},
    "MultiHeadAttention, causal": {"causal": True},
    "MultiHeadAttention, masked": {"attention_mask": STEPS[:, np.newaxis]},
}
"""What some are called with besides."""


def listed(kind: type) -> set[str]:
    """The names of the classes of a kind that descriptions of networks may hold, without those of networks themselves."""
    kinds = {name: one for name, one in CLASSES.items() if isinstance(one, type) and issubclass(one, kind)}
    return {name for name, one in kinds.items() if one.__module__.startswith(nn.__name__)}


every_layer = pytest.mark.parametrize("name", sorted(LAYERS | dict.fromkeys(listed(nn.Layer))))


def made(name: str, dtype: str) -> tuple[nn.Layer, list[cr.Tensor]]:
    """The layer, with parameters that all differ (where some are zero, much is right by chance), and two inputs."""
    assert name in LAYERS, f"enter a layer and the shape of its inputs in LAYERS for {name!r}"
    make, shape = LAYERS[name]
    cr.manual_seed(0)
    layer = make().astype(dtype)
    inputs = [cr.tensor(numbers(*shape, seed=seed), dtype=dtype) for seed in range(2)]
    if name == "Embedding":
        inputs = [cr.asarray(np.abs(x.numpy() * 9).astype(int) % 5) for x in inputs]
    layer(inputs[0], **OPTIONS.get(name, {}))
    with cr.no_grad():
        for seed, parameter in enumerate(layer.parameters()):
            parameter.assign(parameter + cr.tensor(0.3 * numbers(*parameter.shape, seed=seed), dtype=dtype))
    return layer, inputs


@every_layer
def test_layers_their_gradients_and_their_states(name: str, compiled: Compile) -> None:
    results: list[Any] = []
    for run in (eager, compiled):
        layer, inputs = made(name, "float64")

        def step(x: cr.Tensor, layer: nn.Layer = layer) -> Any:
            x = cr.tensor(x, requires_grad=x.dtype.kind == "f")
            outputs = layer(x, **OPTIONS.get(name, {}))
            wanted = [x for x in (x, *layer.parameters()) if x.requires_grad]
            return tree.map(cr.Tensor.detach, outputs), cr.autograd.grad(test_models.total(outputs), wanted, allow_unused=True)

        run_step = run(step)
        # Running averages and random numbers go on from call to call; evaluation mode takes the averages as they are then.
        outputs = [run_step(x) for training in (True, False) for x in inputs if layer.train(training)]
        results.append((outputs, layer.state_dict(), cr.random.default_generator.get_state()))
    same(results[1], results[0], ROUNDING["float64"])


@every_layer
def test_gradients_flow_through_a_compiled_layer(name: str, compiled: Compile) -> None:
    results: list[Any] = []
    for run in (eager, compiled):
        layer, (x, _) = made(name, "float32")
        x = cr.tensor(x, requires_grad=x.dtype.kind == "f")
        test_models.total(run(layer)(x, **OPTIONS.get(name, {}))).backward()
        results.append([leaf.grad for leaf in (x, *layer.parameters())])
    same(results[1], results[0], ROUNDING["float32"])


@pytest.mark.parametrize("name", sorted(listed(Initializer)))
def test_parameters_made_in_a_compiled_call(name: str, compiled: Compile) -> None:
    states: list[Any] = []
    for run in (eager, compiled):
        cr.manual_seed(3)
        layer = nn.Dense(4, kernel_initializer=CLASSES[name]())
        states.append((run(layer)(cr.tensor(numbers(3, 5), dtype="float32")), layer.state_dict()))
    same(states[1], states[0], 1e-6)


@pytest.mark.parametrize("name", sorted(listed(regularizers.Regularizer)))
def test_regularizers(name: str, compiled: Compile) -> None:
    layer = nn.Dense(4, bias_initializer="ones", kernel_regularizer=CLASSES[name](), bias_regularizer="l2", dtype="float64").initialize((1, 3))

    def penalty() -> Any:
        price = cr.asarray(layer.penalty())
        return price, cr.autograd.grad(price, list(layer.parameters()))

    same(compiled(penalty)(), penalty(), 1e-12)


# Activations and losses


@each_dtype
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_and_two_derivatives(name: str, dtype: str, compiled: Compile) -> None:
    activation = ACTIVATIONS[name]

    def derivatives(x: cr.Tensor) -> Any:
        slope = cr.grad(lambda x: cr.sum(activation(x) * cr.cos(x)))
        return activation(x), slope(x), cr.grad(lambda x: cr.sum(slope(x) * cr.sin(x)))(x)

    kinks = [-30.0, -3.0, -1.0, -1e-3, 0.0, 1e-3, 0.5, 1.0, 3.0, 30.0]
    x = cr.tensor([kinks, np.linspace(-5, 5, 10)], dtype=dtype)
    same(compiled(derivatives)(x), derivatives(x), ROUNDING[dtype])


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_of_what_is_no_number_or_without_end(name: str, compiled: Compile) -> None:
    x = cr.tensor([[np.nan, 1.0, 2.0], [-np.inf, 0.0, -1.0], [np.inf, 0.0, 3.0]])
    with np.errstate(invalid="ignore"):
        same(compiled(ACTIVATIONS[name])(x), ACTIVATIONS[name](x), 1e-6)


@pytest.mark.parametrize("name", test_losses.CASES)
def test_losses_with_every_reduction(name: str, compiled: Compile) -> None:
    loss, outputs, targets, options, _ = test_losses.CASES[name]

    def reduced(x: cr.Tensor, targets: cr.Tensor) -> Any:
        losses = [loss(x, targets, reduction=reduction, **options) for reduction in test_losses.REDUCTIONS]
        return losses, [cr.autograd.grad(cr.sum(cr.sin(one)), [x]) for one in losses]

    x, y = cr.tensor(outputs, requires_grad=True), cr.tensor(targets)
    same(compiled(reduced)(x, y), reduced(x, y), 1e-12)


# Optimizers


class Regression:
    """A small problem, and a step towards its solution."""

    def __init__(self, make: test_optim.Make, clip: Callable[..., Any] | None = None) -> None:
        self.parameters = [cr.tensor(value, requires_grad=True) for value in test_optim.start()]
        self.optimizer = make(self.parameters)
        self.clip = clip

    def loss(self, x: cr.Tensor) -> cr.Tensor:
        w, b = self.parameters
        self.optimizer.zero_grad()
        loss = cr.sum(cr.square(cr.tanh(x @ w + b)))
        loss.backward()
        return loss

    def step(self, x: cr.Tensor) -> Any:
        loss = self.loss(x)
        norm = self.clip and self.clip(self.parameters, 0.5)
        self.optimizer.step()
        return loss, norm, [parameter.grad for parameter in self.parameters]

    def after(self, steps: int, run: Compile, schedule: test_schedules.Make = schedules.Constant) -> Iterator[Any]:
        """Everything that there is, after every step."""
        rate, step = schedule(self.optimizer), run(self.step)
        for seed in range(steps):
            told = step(cr.tensor(numbers(5, 4, seed=seed)))
            rate.step()
            yield told, self.parameters, self.optimizer.state_dict()


CLIPPING: dict[str, Callable[..., Any] | None] = {"": None, "clip_by_norm": optim.clip_by_norm, "clip_by_value": optim.clip_by_value}


@pytest.mark.parametrize("name", test_optim.CASES)
def test_optimizers(name: str, compiled: Compile) -> None:
    make = test_optim.made(name)
    decaying = partial(schedules.Cosine, steps=8)
    for found, expected in zip(Regression(make).after(5, compiled, decaying), Regression(make).after(5, eager, decaying), strict=True):
        same(found, expected, 1e-12)


@pytest.mark.parametrize("clip", CLIPPING)
def test_clipped_gradients(clip: str, compiled: Compile) -> None:
    make = test_optim.made("sgd with momentum")
    runs = [Regression(make, CLIPPING[clip]).after(3, run) for run in (compiled, eager)]
    for found, expected in zip(*runs, strict=True):
        same(found, expected, 1e-12)


@pytest.mark.parametrize("name", test_schedules.CASES)
def test_optimizers_with_schedules(name: str, compiled: Compile) -> None:
    make, schedule = test_optim.made("adam"), test_schedules.CASES[name][0]
    for found, expected in zip(Regression(make).after(6, compiled, schedule), Regression(make).after(6, eager, schedule), strict=True):
        same(found, expected, 1e-12)


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_lbfgs_asks_a_compiled_closure(line_search: str | None, compiled: Compile) -> None:
    x = cr.tensor(numbers(5, 4))
    for found, expected in zip(*(searching(run, x, line_search) for run in (compiled, eager)), strict=True):
        same(found, expected, 1e-9)


def searching(run: Compile, x: cr.Tensor, line_search: str | None) -> Iterator[Any]:
    problem = Regression(partial(optim.LBFGS, lr=0.1, max_iter=4, line_search_fn=line_search))
    loss = run(problem.loss)
    for _ in range(3):
        yield problem.optimizer.step(lambda: loss(x)), problem.parameters


def test_every_optimizer_has_a_case() -> None:
    optimizers = {name for name in optim.__all__ if isinstance(getattr(optim, name), type) and issubclass(getattr(optim, name), optim.Optimizer)}
    assert optimizers - {"Optimizer", "LBFGS"} == {name for name, _ in test_optim.CASES.values()}


# Networks


@test_models.every_model
def test_three_steps_of_networks(name: str, compiled: Compile) -> None:
    for found, expected in zip(training(name, compiled), training(name, eager), strict=True):
        same(found, expected, 1e-9)


@pytest.mark.parametrize(("name", "budget"), [("mlp", "3KB"), ("transformer", "36KB")])
def test_networks_that_recompute_under_a_budget(name: str, budget: str, compiled: Compile) -> None:
    for found, expected in zip(training(name, partial(compiled, memory_budget=budget)), training(name, eager), strict=True):
        same(found, expected, 1e-9)


def training(name: str, run: Compile) -> Iterator[Any]:
    """Loss, gradients, parameters, averages and Adam's moments after every step."""
    model, inputs = test_models.made(name)
    model.astype("float64")
    inputs = [cr.astype(x, "float64") if x.dtype.kind == "f" else x for x in inputs]
    optimizer = optim.Adam(model.parameters(), lr=0.01)

    def step(*inputs: cr.Tensor) -> Any:
        optimizer.zero_grad()
        loss = test_models.total(model(*inputs)) + model.penalty()
        loss.backward()
        optimizer.step()
        return loss

    run_step = run(step)
    for seed in range(3):
        cr.manual_seed(seed)
        loss = run_step(*inputs)
        yield loss, [parameter.grad for parameter in model.parameters()], model.state_dict(), optimizer.state_dict()
