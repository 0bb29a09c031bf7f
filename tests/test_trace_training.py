"""Training steps as graphs: every layer, optimizer and loss gives the bits that eager steps give, for several steps."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn, optim
from chainrule.nn.activations import ACTIVATIONS
from chainrule.nn.losses import LOSSES

STEPS = 4
Make = Callable[[], nn.Layer]


def data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class Residual(nn.Layer):
    """A layer of one's own: sublayers in containers, parameters of its own, running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = [nn.Dense(4, "tanh"), nn.Dense(4)]
        self.heads = {"a": nn.Dense(3), "b": nn.Dense(3)}
        self.scale = cr.tensor([1.5], requires_grad=True)
        self.frozen = cr.tensor([0.5])
        self.add_buffer("mean", np.zeros(4, np.float32))
        self.add_buffer("count", 0)

    def call(self, x: cr.Tensor) -> cr.Tensor:
        for block in self.blocks:
            x = x + block(x)
        if self.training:
            with cr.no_grad():
                self.mean.assign(self.mean * 0.9 + cr.mean(x, axis=0) * 0.1)
                self.count += 1
        return (self.heads["a"](x - self.mean) + self.heads["b"](x)) * self.scale * self.frozen


def _whole(x: cr.Tensor) -> cr.Tensor:
    return cr.astype(cr.clip(cr.abs(x) * 2, 0, 3), np.int64)


IMAGES = (2, 6, 6, 2)


RECURRENT = {"SimpleRNN", "LSTM", "GRU", "Bidirectional"}
"""What a graph adds up in another order: the share of a weight in all steps is one product there."""


def _images(rank: int) -> nn.Sequential:
    """All layers over images of so many axes."""
    whole, by_channel = (
        ("Conv", "ZeroPadding", "UpSampling", "MaxPooling", "UpSampling", "AveragePooling", "UpSampling", "Cropping"),
        ("DepthwiseConv", "SeparableConv"),
    )
    kinds = [f"{kind}{rank}D" for kind in (*whole, *(by_channel if rank < 3 else ()))] + [f"Conv{rank}DTranspose"]
    needed: dict[str, tuple[Any, ...]] = {"Conv": (4, 3), "SeparableConv": (4, 2), "DepthwiseConv": (2,), "Cropping": (1,)}
    layers = [getattr(nn, kind)(*needed.get(kind[:-2], (3, 2) if kind.endswith("Transpose") else ())) for kind in kinds]
    pooled = [getattr(nn, f"Global{kind}Pooling{rank}D") for kind in ("Max", "Average")]
    return nn.Sequential([*layers, pooled[0](keepdims=True), pooled[1]()])


LAYERS: dict[str, tuple[Make, tuple[int, ...]]] = {
    "Dense": (lambda: nn.Dense(3), (2, 4)),
    "Dense without bias": (lambda: nn.Dense(3, "relu", use_bias=False), (2, 4)),
    "Conv2D": (lambda: nn.Conv2D(3, 3, padding="same", strides=2), IMAGES),
    "MaxPooling2D": (lambda: nn.Sequential([nn.Conv2D(3, 3), nn.MaxPooling2D(2)]), IMAGES),
    "Flatten": (lambda: nn.Sequential([nn.Conv2D(2, 3), nn.Flatten(), nn.Dense(3)]), IMAGES),
    "Dropout": (lambda: nn.Sequential([nn.Dense(8), nn.Dropout(0.5), nn.Dense(3)]), (4, 4)),
    "ReLU": (lambda: nn.Sequential([nn.Dense(8), nn.ReLU(), nn.Dense(3)]), (4, 4)),
    "Activation": (lambda: nn.Sequential([nn.Dense(8), nn.Activation("sigmoid"), nn.Dense(3)]), (4, 4)),
    "Activations with options": (lambda: nn.Sequential([nn.Dense(4), nn.LeakyReLU(), nn.Dense(3), nn.ELU(), nn.Dense(3), nn.Softmax()]), (4, 4)),
    "BatchNormalization": (lambda: nn.Sequential([nn.Dense(4), nn.BatchNormalization(), nn.Dense(3)]), (4, 4)),
    "LayerNormalization": (lambda: nn.Sequential([nn.Dense(4), nn.LayerNormalization(), nn.RMSNormalization(), nn.Dense(3)]), (4, 4)),
    "GroupNormalization": (lambda: nn.Sequential([nn.Conv2D(4, 3), nn.GroupNormalization(2)]), IMAGES),
    "MultiHeadAttention": (lambda: nn.Sequential([nn.PositionEmbedding(6), nn.MultiHeadAttention(2, 3, dropout=0.2)]), (2, 5, 4)),
    "Embedding": (lambda: nn.Sequential([nn.Lambda(_whole), nn.Embedding(4, 3)]), (4, 4)),
    "Residual": (lambda: nn.Residual([nn.Dense(3, "gelu"), nn.Dense(4)]), (4, 4)),
    **{kind: (lambda kind=kind: getattr(nn, kind)(3, return_sequences=True), (2, 4, 3)) for kind in ("SimpleRNN", "LSTM", "GRU")},
    "Bidirectional": (lambda: nn.Bidirectional(nn.LSTM(3, dropout=0.2)), (2, 4, 3)),
    **{f"images of {rank} axes": (lambda rank=rank: _images(rank), (2, *(6,) * rank, 3)) for rank in (1, 2, 3)},
    "shapes": (lambda: nn.Sequential([nn.Conv2D(4, 3), nn.LocalResponseNormalization(), nn.Permute((3, 1, 2)), nn.Reshape((16, 4))]), IMAGES),
    "Sequential": (lambda: nn.Sequential([nn.Sequential([nn.Dense(4), nn.Dense(4)]), nn.Dense(3)]), (4, 4)),
    "of one's own": (Residual, (4, 4)),
    **{f"Dense with {name}": (lambda name=name: nn.Sequential([nn.Dense(5, name), nn.Dense(3)]), (4, 4)) for name in sorted(ACTIVATIONS)},
}
OPTIMIZERS: dict[str, tuple[type[optim.Optimizer], dict[str, Any]]] = {
    "sgd": (optim.SGD, {"lr": 0.1}),
    "sgd with weight decay": (optim.SGD, {"lr": 0.1, "weight_decay": 0.05}),
    "momentum": (optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "nesterov": (optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "adam": (optim.Adam, {"lr": 0.03, "weight_decay": 0.1}),
    "adamw": (optim.AdamW, {"lr": 0.03, "weight_decay": 0.2}),
    "amsgrad": (optim.Adam, {"lr": 0.03, "amsgrad": True}),
    "adagrad": (optim.Adagrad, {"lr": 0.1, "weight_decay": 0.1}),
    "rmsprop": (optim.RMSProp, {"lr": 0.01, "momentum": 0.5, "centered": True, "eps": 1e-3}),
    "lion": (optim.Lion, {"lr": 0.01, "weight_decay": 0.1}),
}


def step_of(model: nn.Layer, optimizer: optim.Optimizer, loss_of: Callable[..., Any]) -> Callable[..., Any]:
    def step(x: Any, target: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model(x), target)
        loss.backward()
        optimizer.step()
        return loss

    return step


def bits(x: Any) -> bytes:
    return np.asarray(x.detach()).tobytes()


def everything(model: nn.Layer, optimizer: optim.Optimizer) -> dict[str, Any]:
    """All that a step changes."""
    state = {f"model {name}": value for name, value in model.state_dict().items()}
    state |= {f"grad {name}": value.grad for name, value in model.named_parameters() if value.grad is not None}
    slots = optimizer.state_dict()["state"]
    state |= {f"slot {place} {name}": value for place, held in slots.items() for name, value in held.items()}
    return {name: np.array(value.detach()) for name, value in state.items()}


def compare(
    make: Make,
    shape: tuple[int, ...],
    kind: type[optim.Optimizer],
    options: dict[str, Any],
    loss_of: Callable[..., Any] | None = None,
    *,
    exactly: bool = True,
) -> None:
    """Steps of the graph of a step, beside steps of its twin in eager mode; up to rounding where the graph adds in another order."""
    cr.manual_seed(1)
    models = [make(), make()]
    outputs = [model.initialize(shape).eval()(data(*shape)) for model in models]
    models[1].load_state_dict(models[0].state_dict())
    loss_of = loss_of or (lambda out, target: cr.mean((out - target) ** 2))
    target = data(*outputs[0].shape, seed=1)
    optimizers = [kind(model.train().parameters(), **options) for model in models]
    eager, traced = (step_of(model, optimizer, loss_of) for model, optimizer in zip(models, optimizers, strict=True))
    graph = cr.trace(traced, data(*shape), target).verify()
    assert {name.split()[0] for name in everything(models[1], optimizers[1])} <= {"model", "slot"}
    losses: list[list[Any]] = []
    for run in (eager, graph.run):
        cr.manual_seed(2)
        losses.append([run(data(*shape, seed=10 + i), target).item() for i in range(STEPS)])
    assert losses[0] == (losses[1] if exactly else pytest.approx(losses[1], rel=1e-6))
    assert len(set(losses[0])) == STEPS
    one, other = everything(models[0], optimizers[0]), everything(models[1], optimizers[1])
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) if exactly else np.allclose(one[name], other[name], 1e-5, 1e-7) for name in one)


@pytest.mark.parametrize("layer", LAYERS)
def test_steps_of_every_layer(layer: str) -> None:
    compare(*LAYERS[layer], optim.SGD, {"lr": 0.001 if "axes" in layer else 0.1, "momentum": 0.9}, exactly=layer not in RECURRENT)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_of_every_optimizer(optimizer: str) -> None:
    compare(*LAYERS["Dropout"], *OPTIMIZERS[optimizer])


@pytest.mark.parametrize("loss", LOSSES)
def test_steps_on_every_loss(loss: str) -> None:
    by_class = {"softmax_cross_entropy", "negative_log_likelihood", "multiclass_hinge", "squared_hinge"}
    targets = np.array([0, 2, 1, 0]) if loss in by_class else np.random.default_rng(3).dirichlet(np.ones(3), 4).astype(np.float32)
    compare(*LAYERS["Sequential"], optim.SGD, {"lr": 0.1}, lambda out, target: LOSSES[loss](out, cr.tensor(targets)))


def test_every_public_layer_and_optimizer_is_here() -> None:
    covered = {type(layer).__name__ for make, shape in LAYERS.values() for layer in make().initialize(shape).layers_inside()}
    assert {name for name in nn.__all__ if isinstance(getattr(nn, name), type) and issubclass(getattr(nn, name), nn.Layer)} - {"Layer"} <= covered
    # L-BFGS is no part of a graph; its closure is.
    assert {kind for kind, _ in OPTIMIZERS.values()} == {*optim.NAMES.values()} - {optim.LBFGS}


def test_layers_make_their_parameters_while_they_are_traced() -> None:
    cr.manual_seed(0)
    model = nn.Sequential([nn.Dense(4, "relu"), nn.Dense(2)])
    graph = cr.trace(model, data(3, 5))
    cr.manual_seed(0)
    other = nn.Sequential([nn.Dense(4, "relu"), nn.Dense(2)]).initialize((1, 5))
    assert [bits(p) for p in model.parameters()] == [bits(p) for p in other.parameters()]
    assert bits(graph.run(data(3, 5))) == bits(other(data(3, 5)))


def test_a_graph_is_of_the_mode_in_which_it_was_traced() -> None:
    cr.manual_seed(0)
    model = nn.Sequential([nn.Dense(16), nn.Dropout(0.5)]).initialize((1, 4))
    trained = cr.trace(model, data(2, 4))
    evaluated = cr.trace(model.eval(), data(2, 4))
    assert [node.primitive.name for node in evaluated.nodes] == ["matmul", "add"]
    assert len({bits(trained.run(data(2, 4))) for _ in range(3)}) == 3
    assert len({bits(evaluated.run(data(2, 4))) for _ in range(3)}) == 1


def test_the_learning_rate_is_read_at_every_run() -> None:
    w = cr.tensor([1.0], requires_grad=True)
    optimizer = optim.SGD([w], lr=0.5)

    def step(x: Any) -> None:
        optimizer.zero_grad()
        cr.sum(w * x).backward()
        optimizer.step()

    graph = cr.trace(step, 1.0)
    graph.run(1.0)
    assert w.tolist() == [0.5]
    optimizer.lr = 0.25
    graph.run(1.0)
    assert w.tolist() == [0.25]


def test_a_learning_rate_that_a_step_sets_is_set_when_it_runs() -> None:
    w = cr.tensor([1.0], requires_grad=True)
    optimizer = optim.SGD([w], lr=0.5)

    def step(x: Any) -> None:
        optimizer.lr = 0.125
        optimizer.zero_grad()
        cr.sum(w * x).backward()
        optimizer.step()

    graph = cr.trace(step, 1.0)
    assert optimizer.lr == 0.5
    graph.run(1.0)
    assert (optimizer.lr, w.tolist()) == (0.125, [0.875])


def test_parameters_that_got_no_gradient_stay() -> None:
    used, unused = cr.tensor([1.0], requires_grad=True), cr.tensor([1.0], requires_grad=True)
    optimizer = optim.SGD([used, unused], lr=0.5)

    def step(x: Any) -> None:
        optimizer.zero_grad()
        cr.sum(used * x).backward()
        optimizer.step()

    cr.trace(step, 1.0).run(1.0)
    assert (used.tolist(), unused.tolist(), unused.grad) == ([0.5], [1.0], None)


def test_a_graph_of_many_steps_is_many_runs_of_one() -> None:
    cr.manual_seed(0)
    model = nn.Sequential([nn.Dense(4, "tanh"), nn.Dense(2)]).initialize((1, 3))
    twin = copy.deepcopy(model)
    steps = [step_of(m, optim.Adam(m.parameters(), lr=0.01), lambda out, target: cr.mean((out - target) ** 2)) for m in (model, twin)]
    x, target = data(5, 3), data(5, 2, seed=1)
    one = cr.trace(steps[0], x, target)
    for _ in range(3):
        one.run(x, target)

    def three(x: Any, target: Any) -> Any:
        return [steps[1](x, target) for _ in range(3)]

    losses = cr.trace(three, x, target).verify().run(x, target)
    assert [bits(p) for p in model.parameters()] == [bits(p) for p in twin.parameters()]
    assert all(later.item() < loss.item() for loss, later in itertools.pairwise(losses))


def test_gradient_clipping_and_penalties_between_backward_and_step() -> None:
    cr.manual_seed(0)
    models = [nn.Dense(3).initialize((1, 4)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())

    def stepper(model: nn.Layer) -> Callable[[Any], Any]:
        optimizer = optim.SGD(model.parameters(), lr=0.1)

        def step(x: Any) -> Any:
            optimizer.zero_grad()
            loss = cr.sum(model(x) ** 2) + 0.1 * sum((cr.sum(p**2) for p in model.parameters()), cr.tensor(0.0))
            loss.backward()
            grads = [p.grad for p in model.parameters()]
            norm = cr.sqrt(sum((cr.sum(g**2) for g in grads if g is not None), cr.tensor(0.0)))
            for p in model.parameters():
                assert p.grad is not None
                p.grad = p.grad * cr.minimum(1.0 / norm, 1.0)
            optimizer.step()
            return loss, norm

        return step

    eager, traced = map(stepper, models)
    graph = cr.trace(traced, data(2, 4))
    for i in range(3):
        expected, got = eager(data(2, 4, seed=i)), graph.run(data(2, 4, seed=i))
        assert [*map(bits, got)] == [*map(bits, expected)]
    assert [bits(p) for p in models[0].parameters()] == [bits(p) for p in models[1].parameters()]
