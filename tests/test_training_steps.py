"""A step: compiled equals eager, several batches equal one, and what is added, limited, measured and refused."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn, optim
from chainrule.compiler import pipeline
from chainrule.core.errors import ArgumentError, ChainruleError
from chainrule.data import DataLoader
from chainrule.nn.losses import softmax_cross_entropy
from chainrule.nn.regularizers import L2
from chainrule.training import DivergedError, RunFolder, Trainer, evaluate, fit, predict
from training_runs import BATCHES, EPOCHS, blobs, contents, network, train


class Examples:
    """Tuples of arrays, as a data set."""

    def __init__(self, *columns: Any) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return tuple(column[index] for column in self.columns)


def points(count: int = 40) -> Examples:
    """Points in double precision, and a number for each."""
    x = np.random.default_rng(3).normal(size=(count, 3))
    return Examples(x, np.sin(x.sum(1, keepdims=True)))


def squared(outputs: cr.Tensor, targets: cr.Tensor) -> cr.Tensor:
    return cr.mean((outputs - targets) ** 2)


def regression(**options: Any) -> nn.Layer:
    return nn.Sequential([nn.Dense(5, activation="tanh", dtype="float64", **options), nn.Dense(1, dtype="float64")])


def weights(model: nn.Layer) -> dict[str, Any]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def assert_same(a: dict[str, Any], b: dict[str, Any], **tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_allclose(value, b[name], err_msg=name, **tolerance)


# Compiled


@pytest.mark.parametrize("name", optim.NAMES)
@pytest.mark.parametrize("options", [{}, {"accumulate": 2, "schedule": "cosine", "clip_norm": 0.5}], ids=["plain", "all"])
def test_a_compiled_step_is_the_eager_step(name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "lbfgs":
        # It blows up what machine code rounds otherwise: NumPy's code has the bits of eager.
        monkeypatch.setattr(pipeline, "prefers_native", lambda: False)
    found: list[dict[str, Any]] = []
    measured: list[Any] = []
    for compile in (False, True):
        model = nn.Sequential([nn.Dense(6, activation="relu", kernel_regularizer="l2"), nn.BatchNormalization(), nn.Dropout(0.2), nn.Dense(3)])
        given = {key: value for key, value in options.items() if name != "lbfgs" or key != "clip_norm"}
        history = train(model=model, optimizer=name, lr=0.02, epochs=2, batch_size=7, compile=compile, **given)
        found.append(weights(model))
        measured.append({key: value for key, value in history.last.items() if key not in ("kind", "seconds")})
    assert_same(*found, rtol=1e-5, atol=1e-6)
    assert measured[0] == pytest.approx(measured[1], rel=1e-5)


def test_a_run_is_compiled_once_for_each_size_of_batch() -> None:
    model = network().initialize((1, 2))
    optimizer = optim.SGD(model.parameters(), momentum=0.9)
    trainer = Trainer(model, optimizer, schedule=optim.schedules.OneCycle(optimizer, 24), clip_norm=1.0, compile=True)
    trainer.run(DataLoader(blobs(), 12, shuffle=True), DataLoader(blobs(20, seed=1), 16), epochs=6)
    for function in (trainer._step._step, trainer._measure._measure):
        assert len(function.stats().compilations) == 2, function.stats()


def test_a_snapshot_of_the_weights_outlives_compiled_steps() -> None:
    """Compiled steps write their results over what nobody holds, and over nothing else."""
    model = nn.Sequential([nn.Dense(300, activation="relu"), nn.Dense(3)])
    trainer = Trainer(model.initialize((1, 2)), optim.Adam(model.parameters()), compile=True)
    batch = next(iter(DataLoader(blobs(), 8)))
    trainer.step(batch)
    held, state = model.state_dict(), trainer.optimizer.state_dict()["state"]["0"]
    before, moments = weights(model), {name: value.numpy().copy() for name, value in state.items()}
    before = {name: value.copy() for name, value in before.items()}
    for _ in range(3):
        trainer.step(batch)
    assert_same({name: value.numpy() for name, value in held.items()}, before, rtol=0)
    assert_same({name: value.numpy() for name, value in state.items()}, moments, rtol=0)


def test_a_compiled_step_follows_what_the_callers_loss_reads() -> None:
    scale = 1.0

    def scaled(outputs: cr.Tensor, labels: cr.Tensor) -> cr.Tensor:
        return softmax_cross_entropy(outputs, labels) * scale

    model = network().initialize((1, 2))
    trainer = Trainer(model.eval(), optim.SGD(model.parameters(), lr=0.0), loss=scaled, compile=True)
    batch = next(iter(DataLoader(blobs(), 8)))
    first = trainer.step(batch)["loss"]
    scale = 2.0
    assert trainer.step(batch)["loss"] == pytest.approx(2 * first)


# Several batches to a step


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize(
    ("optimizer", "limits"),
    [
        (optim.Adam, {}),
        (optim.Adam, {"clip_norm": 0.1}),
        (optim.Adam, {"clip_value": 0.02}),
        (partial(optim.LBFGS, max_iter=3, line_search_fn="strong_wolfe"), {}),
    ],
)
def test_batches_of_one_step_are_one_large_batch(compile: bool, optimizer: Any, limits: dict[str, Any]) -> None:
    """Also at the end of an epoch: 40 examples are 18, 18 and 4, or in batches of 6 three, three and a small one."""
    found: list[dict[str, Any]] = []
    histories: list[Any] = []
    for size, accumulate in ((18, 1), (6, 3)):
        model = regression(kernel_regularizer="l2")
        given: dict[str, Any] = {"loss": squared, "lr": 0.05, "epochs": 3, "compile": compile, "progress": False, **limits}
        histories.append(fit(model, points(), optimizer=optimizer(model.parameters()), batch_size=size, accumulate=accumulate, **given))
        found.append(weights(model))
    assert_same(*found, rtol=1e-9)
    large, small = ([(r["step"], pytest.approx(r["loss"])) for r in history.steps] for history in histories)
    assert [(step, loss.expected) for step, loss in small] == large
    assert histories[1].last["step"] == 9


def test_the_last_incomplete_step_counts_by_its_examples() -> None:
    model = regression()
    trainer = Trainer(model.initialize((1, 3), dtype="float64"), optim.SGD(model.parameters(), lr=1.0), loss=squared, accumulate=3)
    a, b = DataLoader(points(), 30)
    before = weights(model)
    model.train()
    trainer.step(a, b)
    moved = {name: before[name] - value for name, value in weights(model).items()}
    model.load_state_dict(before)
    trainer.optimizer.zero_grad()
    x, y = (cr.concat(pair) for pair in zip(a, b, strict=True))
    squared(model(x), y).backward()
    assert_same(moved, {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}, rtol=1e-9)


# Limits, penalties, schedules


@pytest.mark.parametrize("compile", [False, True])
def test_the_gradient_is_limited(compile: bool) -> None:
    for limits, norm in (({"clip_norm": 0.01}, lambda moves: np.sqrt(sum((x**2).sum() for x in moves))), ({"clip_value": 0.01}, _largest)):
        model = regression().initialize((1, 3), dtype="float64")
        before = weights(model)
        Trainer(model, optim.SGD(model.parameters(), lr=1.0), loss=squared, compile=compile, **limits).step(next(iter(DataLoader(points(), 8))))
        moves = [value - before[name] for name, value in weights(model).items()]
        assert norm(moves) == pytest.approx(0.01, rel=1e-3)


def _largest(moves: list[Any]) -> float:
    return max(np.abs(x).max() for x in moves)


@pytest.mark.parametrize("compile", [False, True])
def test_a_penalty_is_made_smaller_too_and_reported_beside_the_loss(compile: bool) -> None:
    model = regression(kernel_regularizer=L2(10.0), kernel_initializer="ones")
    options: dict[str, Any] = {"loss": squared, "progress": False, "compile": compile, "batch_size": 40}
    first = fit(model, points(), points(), lr=0.01, optimizer="sgd", epochs=1, **options).last
    assert first["penalty"] == pytest.approx(10 * 15)
    assert first["loss"] < 10
    assert "validation_penalty" not in first
    assert np.abs(model.state_dict()["layers.0.kernel"].numpy()).max() < 0.9
    assert "penalty" not in fit(regression(), points(), **options).last


def test_a_schedule_sets_the_rate_of_every_step() -> None:
    rates: list[float] = []

    class Rates(cr.training.Callback):
        def step(self, trainer: Trainer) -> None:
            rates.append(trainer.optimizer.lr)

    history = train(schedule="cosine", lr=1.0, optimizer="sgd", accumulate=2, callbacks=[Rates()])
    count = EPOCHS * 3
    assert rates == pytest.approx([(1 + np.cos(np.pi * step / count)) / 2 for step in range(1, count + 1)])
    assert history.last["lr"] == rates[-1] == pytest.approx(0.0)


def test_a_plateau_goes_by_the_validation_loss() -> None:
    model = network()
    optimizer = optim.SGD(model.parameters(), lr=0.0)
    optimizer.lr = 1e-30
    history = train(model=model, optimizer=optimizer, lr=None, epochs=5, schedule=optim.schedules.Plateau(optimizer, factor=0.5, patience=1))
    assert [record["lr"] / 1e-30 for record in history.epochs] == pytest.approx([1, 1, 0.5, 0.5, 0.25])


def test_a_schedule_belongs_to_the_optimizer() -> None:
    other = optim.SGD([cr.tensor(1.0, requires_grad=True)])
    with pytest.raises(ArgumentError, match="made for another optimizer"):
        train(schedule=optim.schedules.Cosine(other, 3))
    with pytest.raises(ArgumentError, match="no schedule 'cosin'"):
        train(schedule="cosin")


# Data of any kind


@pytest.mark.parametrize("compile", [False, True])
def test_windows_of_text_count_every_character(compile: bool) -> None:
    """Targets of shape (batch, steps): accuracy and loss are means over all of them, the last batch with its due weight."""
    text = np.random.default_rng(0).integers(0, 4, (10, 7))
    windows = Examples(np.eye(4, dtype=np.float32)[text[:, :-1]], text[:, 1:])
    model = nn.Dense(4).initialize((1, 6, 4))
    found = evaluate(model, DataLoader(windows, 4), compile=compile)
    logits = model(windows.columns[0])
    assert found["accuracy"] == pytest.approx((logits.detach().numpy().argmax(-1) == windows.columns[1]).mean())
    assert found["loss"] == pytest.approx(softmax_cross_entropy(logits, cr.tensor(windows.columns[1])).item())
    history = fit(model, windows, lr=0.5, epochs=2, batch_size=4, progress=False, compile=compile)
    assert history.epochs[1]["loss"] < history.epochs[0]["loss"]


def test_arrays_are_data_too() -> None:
    x, y = points().columns
    model = regression()
    history = fit(model, (x, y), (x[:8], y[:8]), loss=squared, epochs=2, lr=0.01, progress=False)
    assert history.last["validation_loss"] == pytest.approx(evaluate(model, (cr.tensor(x[:8]), cr.tensor(y[:8])), loss=squared)["loss"])


@pytest.mark.parametrize("compile", [False, True])
def test_several_inputs_and_outputs_and_a_loss_without_a_name(compile: bool, tmp_path: Path) -> None:
    class Both(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Dense(1, dtype="float64"), nn.Dense(1, dtype="float64")

        def call(self, x: cr.Tensor, y: cr.Tensor) -> dict[str, cr.Tensor]:
            return {"sum": self.first(x) + self.second(y), "first": self.first(x)}

    def loss(outputs: dict[str, cr.Tensor], targets: cr.Tensor, *, weight: float) -> cr.Tensor:
        return cr.mean((outputs["sum"] - targets) ** 2) + weight * cr.mean(outputs["first"] ** 2)

    def largest(outputs: dict[str, cr.Tensor], targets: cr.Tensor) -> cr.Tensor:
        return cr.max(outputs["sum"])

    x, y = points().columns
    model = Both()
    given: dict[str, Any] = {"loss": partial(loss, weight=0.1), "metrics": [largest], "lr": 0.05, "compile": compile, "progress": False}
    history = fit(model, Examples(x, x, y), epochs=3, run_dir=tmp_path / "run", **given)
    assert history.last["loss"] < history.epochs[0]["loss"]
    assert "largest" in history.last
    assert RunFolder.open(tmp_path / "run").read_config()["loss"] == "partial"
    outputs = predict(model, (x, x), 16, compile=compile)
    assert outputs["sum"].shape == outputs["first"].shape == (40, 1)
    np.testing.assert_allclose(outputs["first"].numpy(), model.first(x).detach().numpy())


@pytest.mark.parametrize("compile", [False, True])
def test_predictions_are_made_in_evaluation_mode_and_without_history(compile: bool) -> None:
    model = network()
    images = blobs().take(np.arange(40))[0]
    outputs = predict(model, images, 16, compile=compile)
    assert not model.training
    assert not outputs.requires_grad
    np.testing.assert_allclose(outputs.numpy(), model(images).detach().numpy(), rtol=1e-5, atol=1e-6)
    for wrong in (images[:0], 1.0, (images, images[:3])):
        with pytest.raises(ArgumentError, match="predict: inputs of shape"):
            predict(model, wrong)
    with pytest.raises(ArgumentError, match="batch_size=0"):
        predict(model, images, 0)


@pytest.mark.parametrize("compile", [False, True])
def test_a_model_is_left_in_evaluation_mode(compile: bool) -> None:
    model = network()
    for validation in (None, blobs(20, seed=1)):
        fit(model.train(), blobs(), validation, compile=compile, progress=False)
        assert not any(layer.training for layer in model.layers_inside())
    evaluated = evaluate(model.train(), blobs(20, seed=1), compile=compile)
    assert not model.training
    assert evaluated == pytest.approx(evaluate(model, blobs(20, seed=1)))


# What is refused


class Spoil(cr.training.Callback):
    """Sets a kernel after a step."""

    def __init__(self, step: int, value: float) -> None:
        self.at, self.value = step, value

    def step(self, trainer: Trainer) -> None:
        if trainer.position.step == self.at:
            with cr.no_grad():
                trainer.model.layers[0].kernel.assign(np.full((2, 6), self.value, np.float32))


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
@pytest.mark.parametrize("compile", [False, True])
def test_a_loss_that_is_no_number_ends_the_run_and_leaves_the_checkpoint(tmp_path: Path, compile: bool) -> None:
    train(tmp_path / "whole", compile=compile)
    for name, value in (("a", float("nan")), ("b", 1e38)):
        with pytest.raises(DivergedError, match=r"the loss is (nan|inf) at step 8 \(epoch 2, batch 3 of 5\); the loss before it was 0\.\d+") as error:
            train(tmp_path / name, compile=compile, callbacks=[Spoil(BATCHES + 2, value)])
        assert re.search("lower lr than 0.05.*clip_norm", error.value.mend or "")
        assert isinstance(error.value, ChainruleError)
        assert isinstance(error.value, ArithmeticError)
        train(tmp_path / name, compile=compile, resume=True)
        assert contents(tmp_path / name) == contents(tmp_path / "whole")


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_parameters_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    """The loss is measured before the step that spoils them, and the epoch ends with that step."""
    train(tmp_path / "whole")
    for name, best in (("a", None), ("b", "loss")):
        with pytest.raises(DivergedError, match=r"the parameter layers.0.kernel is not finite after step 10 "):
            train(tmp_path / name, callbacks=[Spoil(2 * BATCHES, np.inf), cr.training.Checkpoint(best=best)])
        train(tmp_path / name, resume=True, callbacks=[cr.training.Checkpoint(best=best)])
        assert contents(tmp_path / name) == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"accumulate": 0}, "accumulate=0"),
        ({"clip_norm": 0.0}, "clip_norm=0.0"),
        ({"clip_value": float("inf")}, "clip_value=inf"),
        ({"optimizer": "lbfgs", "clip_norm": 1.0}, "clipping with LBFGS"),
        ({"loss": lambda outputs, labels: outputs}, "the loss has the shape (8, 3), not ()"),
        ({"metrics": ["acuracy"]}, "no metric 'acuracy'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(says)):
        train(**options)


def test_a_batch_needs_targets() -> None:
    with pytest.raises(ArgumentError, match="a batch holds one tensor"):
        fit(nn.Dense(1).initialize((1, 3)), Examples(np.ones((4, 3), np.float32)), progress=False)
