"""Training: what a run leaves behind, and that stopping and resuming it changes nothing."""

from __future__ import annotations

import gc
import io
import json
import os
import re
import signal
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn, optim
from chainrule.core.errors import ArgumentError, ChainruleError, DataError, LayerError
from chainrule.core.files import write_whole
from chainrule.core.node import Node
from chainrule.data import DataLoader, Dataset
from chainrule.training import Callback, Interrupted, Progress, RunFolder, Trainer, evaluate, fit, store
from chainrule.training.blas import _controls, blas_threads
from chainrule.training.picture import draw
from training_runs import BATCHES, EPOCHS, Send, blobs, contents, network, train

# A run


def test_a_run_learns_and_leaves_its_folder(tmp_path: Path) -> None:
    model = network()
    history = train(tmp_path / "run", model, epochs=8)
    assert history.last["validation_accuracy"] > 0.9
    assert history.epochs[0]["loss"] > history.last["loss"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "checkpoint.safetensors",
        "config.json",
        "loss.svg",
        "metrics.jsonl",
        "weights.safetensors",
    ]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["epochs"], config["batch_size"], config["seed"], config["loss"]) == (8, 8, 0, "softmax_cross_entropy")
    assert config["optimizer"]["name"] == "Adam"
    weights, lines = contents(tmp_path / "run")
    assert weights == {name: value.numpy().tobytes() for name, value in model.state_dict().items()}
    assert [line["epoch"] for line in lines if line["kind"] == "epoch"] == list(range(1, 9))
    assert len([line for line in lines if line["kind"] == "step"]) == 8 * BATCHES
    assert set(lines[-1]) == {"kind", "epoch", "step", "loss", "accuracy", "validation_loss", "validation_accuracy", "lr"}


def test_a_model_and_its_weights_come_back_from_the_folder(tmp_path: Path) -> None:
    history = train(tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run")
    model = nn.deserialize(folder.read_config()["model"])
    model.initialize((1, 2)).load_state_dict(folder.read_weights())
    measured = evaluate(model, blobs(20, seed=1))
    assert measured == {"loss": history.last["validation_loss"], "accuracy": history.last["validation_accuracy"]}


def test_the_same_seed_gives_the_same_bits(tmp_path: Path) -> None:
    train(tmp_path / "a")
    train(tmp_path / "b")
    train(tmp_path / "c", seed=1)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_nothing_is_written_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert train().run_dir is None
    assert not list(tmp_path.iterdir())


def test_an_optimizer_and_a_loss_of_ones_own_will_do() -> None:
    def squared(outputs: cr.Tensor, labels: cr.Tensor) -> cr.Tensor:
        return cr.mean((outputs[:, 0] - cr.astype(labels, cr.float32)) ** 2)

    model = nn.Dense(1)
    history = train(model=model, loss=squared, optimizer=optim.SGD(model.parameters(), momentum=0.5), lr=0.01)
    assert set(history.last) == {"kind", "epoch", "step", "loss", "validation_loss", "lr", "seconds"}
    assert history.last["lr"] == 0.01
    assert history.last["loss"] < history.epochs[0]["loss"]


def test_callbacks_are_told() -> None:
    told: list[str] = []

    class Tell(Callback):
        def begin(self, trainer: Trainer) -> None:
            told.append(f"begin {trainer.epochs}x{trainer.steps}")

        def step(self, trainer: Trainer) -> None:
            told.append("step")

        def epoch(self, trainer: Trainer, record: dict[str, Any]) -> None:
            told.append(f"epoch {record['epoch']}")

        def end(self, trainer: Trainer) -> None:
            told.append("end")

    train(callbacks=[Tell()], epochs=2)
    assert told == ["begin 2x5", *["step"] * 5, "epoch 1", *["step"] * 5, "epoch 2", "end"]


def test_no_tape_outlives_its_step() -> None:
    """Training holds on to nothing, even without the garbage collector."""
    model = network().initialize((1, 2))
    trainer = Trainer(model, optim.Adam(model.parameters()))
    batch = next(iter(DataLoader(blobs(), 8)))

    def alive() -> int:
        return sum(issubclass(type(thing), (cr.Tensor, Node)) for thing in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        trainer.step(batch)
        before = alive()
        for _ in range(20):
            trainer.step(batch)
        assert alive() == before
    finally:
        gc.enable()


# Stopping and resuming


@pytest.mark.parametrize("step", [1, 3, BATCHES, BATCHES + 1, 2 * BATCHES - 1, EPOCHS * BATCHES])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_and_resumed_run_is_the_run_that_never_stopped(tmp_path: Path, step: int, number: signal.Signals) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(Interrupted, match=f"stopped after step {step} "):
        train(tmp_path / "run", callbacks=[Send(step, number)])
    history = train(tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    assert [r["loss"] for r in history.epochs] == [r["loss"] for r in whole.epochs]
    assert [r["loss"] for r in history.steps] == [r["loss"] for r in whole.steps]


def test_a_run_can_be_stopped_at_every_step(tmp_path: Path) -> None:
    train(tmp_path / "whole")
    for step in range(1, EPOCHS * BATCHES + 1):
        with pytest.raises(Interrupted):
            train(tmp_path / "run", callbacks=[Send(step)], resume=step > 1)
    train(tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_a_run_can_be_stopped_while_it_is_being_validated(tmp_path: Path) -> None:
    class Impatient(nn.Sequential):
        stop = False

        def call(self, x: Any) -> Any:
            if self.stop and not self.training:
                os.kill(os.getpid(), signal.SIGINT)
            return super().call(x)

    def impatient() -> Impatient:
        return Impatient([nn.Dense(6, activation="relu"), nn.Dropout(0.2), nn.Dense(3)])

    train(tmp_path / "whole", impatient())
    model = impatient().initialize((1, 2))
    model.stop = True
    with pytest.raises(Interrupted, match="epoch 1, batch 5 of 5"):
        train(tmp_path / "run", model)
    train(tmp_path / "run", impatient(), resume=True)
    assert contents(tmp_path / "run")[1] != []
    assert [line["step"] for line in contents(tmp_path / "run")[1]] == [line["step"] for line in contents(tmp_path / "whole")[1]]


def test_a_run_can_go_on_after_its_end(tmp_path: Path) -> None:
    train(tmp_path / "whole", epochs=4)
    train(tmp_path / "run", epochs=2)
    assert len(train(tmp_path / "run", epochs=2, resume=True).epochs) == 2
    train(tmp_path / "run", epochs=4, resume=True)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["epochs"] == 4


def test_a_run_that_died_while_writing_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    """Metrics that are ahead of the checkpoint are forgotten, and so is what lay aside."""
    train(tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(tmp_path / "run", callbacks=[Send(7)])
    ahead = contents(tmp_path / "whole")[1]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in ahead))
    (tmp_path / "run" / ".checkpoint.safetensors.123.part").write_bytes(b"half")
    train(tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    assert not list((tmp_path / "run").glob(".*"))


def test_handlers_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(tmp_path / "a", epochs=1)
    with pytest.raises(Interrupted):
        train(tmp_path / "b", callbacks=[Send(1)])
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_second_interrupt_does_not_wait(tmp_path: Path) -> None:
    class Twice(Callback):
        def step(self, trainer: Trainer) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as stopped:
        train(tmp_path / "run", callbacks=[Twice()])
    assert not isinstance(stopped.value, Interrupted)


def test_other_threads_can_train(tmp_path: Path) -> None:
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(train(tmp_path / "run", epochs=1)))
    thread.start()
    thread.join()
    assert done[0].last["epoch"] == 1


# What is refused


def refused(error: type[ChainruleError], says: str, **options: Any) -> None:
    with pytest.raises(error, match=re.escape(says)):
        train(**options)


def test_a_folder_that_is_taken_is_not_overwritten(tmp_path: Path) -> None:
    train(tmp_path / "run", epochs=1)
    refused(DataError, "holds a run already", run_dir=tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    refused(DataError, "is not empty", run_dir=tmp_path / "mine")
    (tmp_path / "file").write_text("")
    refused(DataError, "cannot be made a run folder", run_dir=tmp_path / "file")


def test_nothing_to_measure_on_is_told() -> None:
    few = DataLoader(blobs(3), 8, drop_last=True)
    with pytest.raises(ArgumentError, match="not one batch to measure on"):
        evaluate(network(), few)


def test_only_a_run_can_be_resumed_and_only_with_its_settings(tmp_path: Path) -> None:
    refused(ArgumentError, "resume without run_dir", resume=True)
    refused(DataError, "does not exist", run_dir=tmp_path / "nowhere", resume=True)
    (tmp_path / "empty").mkdir()
    refused(DataError, "no config.json", run_dir=tmp_path / "empty", resume=True)
    run = tmp_path / "run"
    train(run, epochs=1)
    refused(ArgumentError, "batch_size was 8, is 4", run_dir=run, resume=True, batch_size=4)
    refused(ArgumentError, "seed was 0, is 1", run_dir=run, resume=True, seed=1)
    refused(ArgumentError, "began with other settings: model", run_dir=run, resume=True, model=nn.Sequential([nn.Dense(3)]))
    (run / "checkpoint.safetensors").unlink()
    refused(DataError, "has no checkpoint", run_dir=run, resume=True)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_damaged_checkpoint_is_told(tmp_path: Path, keep: int) -> None:
    run = tmp_path / "run"
    train(run, epochs=1)
    whole = (run / "checkpoint.safetensors").read_bytes()
    (run / "checkpoint.safetensors").write_bytes(whole[:keep])
    refused(DataError, "checkpoint.safetensors cannot be read", run_dir=run, resume=True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda arrays, data: data.pop("optimizer"), "it has no 'optimizer'"),
        (lambda arrays, data: data.pop("position"), "it has no 'position'"),
        (lambda arrays, data: arrays.pop("random"), "it has no 'random'"),
        (lambda arrays, data: data["position"].pop("step"), "is damaged"),
        (lambda arrays, data: data["position"].update(epoch="one"), "is damaged"),
        (lambda arrays, data: data["position"].update(means=None), "is damaged"),
        (lambda arrays, data: data["position"]["means"].update(sums=[1]), "is damaged"),
        (lambda arrays, data: data.update(optimizer=None), "no optimizer's state"),
        (lambda arrays, data: data.update(optimizer=[None]), "no optimizer's state"),
        (lambda arrays, data: arrays.pop("optimizer/state/0/mean"), "it has no 'optimizer/state/0/mean'"),
        (lambda arrays, data: data["optimizer"]["state"].update(first=data["optimizer"]["state"]["0"]), "the state is of parameter first"),
        (lambda arrays, data: data["data"].pop("seed"), "it has no 'seed'"),
        (lambda arrays, data: data.update(callbacks=[{"state": {}}]), "is damaged"),
    ],
)
def test_a_checkpoint_that_lacks_something_is_told(tmp_path: Path, change: Callable[[Any, Any], Any], says: str) -> None:
    train(tmp_path / "run", epochs=1)
    folder = RunFolder(tmp_path / "run")
    arrays, data = folder.read_checkpoint()
    change(arrays, data)
    folder.write_checkpoint(arrays, data)
    refused(ChainruleError, says, run_dir=folder.path, resume=True)
    store.save(folder.checkpoint_path, arrays, [data])
    refused(DataError, "checkpoint.safetensors cannot be read", run_dir=folder.path, resume=True)


def test_damaged_settings_and_metrics_are_told(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, epochs=1)
    (run / "metrics.jsonl").write_text("{")
    refused(DataError, "metrics.jsonl is damaged", run_dir=run, resume=True)
    (run / "config.json").write_text("[]")
    refused(DataError, "holds no settings", run_dir=run, resume=True)


def test_what_makes_no_sense_is_refused() -> None:
    refused(ArgumentError, "epochs=0", epochs=0)
    refused(ArgumentError, "epochs=2.5", epochs=2.5)
    refused(ArgumentError, "no loss 'cross_entropy'", loss="cross_entropy")
    refused(ArgumentError, "no optimizer 'adm'", optimizer="adm")
    refused(ArgumentError, "no metric 'acuracy'", metrics=["acuracy"])
    with pytest.raises(LayerError, match="features=2"):
        fit(network().initialize((1, 2)), Dataset(np.zeros((4, 3), np.float32), [0, 1, 2, 0]), progress=False)
    with pytest.raises(ArgumentError, match="not one batch"):
        fit(network(), DataLoader(blobs(4), 8, drop_last=True), progress=False)


# Files


def test_a_file_is_whole_whenever_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="cannot be written: No space left on device"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    folder.write_metrics([{"kind": "step", "loss": float("nan"), "epoch": 1, "step": 1}])
    assert json.loads(folder.metrics_path.read_text(), parse_constant=pytest.fail)["loss"] is None
    folder.draw(folder.read_metrics(), "diverged")


# Pictures and progress


@pytest.mark.parametrize("epochs", [0, 1, 2, 30, 500])
def test_the_picture_is_svg_with_a_label_on_every_axis(epochs: int) -> None:
    records: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        records += [{"kind": "step", "epoch": epoch, "step": 10 * epoch - i, "loss": 2 / epoch} for i in range(10)]
        records.append({"kind": "epoch", "epoch": epoch, "step": 10 * epoch, "loss": 2 / epoch, "accuracy": 1 - 0.4 / epoch})
        records[-1] |= {"validation_loss": 2.2 / epoch, "validation_accuracy": 1 - 0.5 / epoch, "lr": 0.1, "seconds": 1.0}
    picture = ET.fromstring(draw(records, "a <title> & more"))
    texts = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == "a <title> & more"
    assert "loss" in texts
    assert "epochs" in texts
    assert ("accuracy" in texts) == (epochs > 0)
    coordinates = [
        float(number) for line in picture.iter("{http://www.w3.org/2000/svg}polyline") for number in re.split("[ ,]", line.get("points", ""))
    ]
    assert all(np.isfinite(coordinates))


def test_progress_in_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    train(progress=True, epochs=2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    pattern = r"epoch 1/2   loss \d\.\d{4}   accuracy \d+\.\d\d%   validation loss \d\.\d{4}   validation accuracy \d+\.\d\d%   \d+\.\d s"
    assert re.fullmatch(pattern, lines[0])


def test_progress_as_a_live_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    screen = Terminal()
    train(progress=False, callbacks=[Progress("test", screen)], epochs=2)
    assert "epoch 2/2" in screen.getvalue()
    assert "test accuracy" in screen.getvalue()
    assert "left" in screen.getvalue()


def test_blas_threads_are_put_back() -> None:
    controls = _controls()
    if controls is None:
        pytest.skip("needs a NumPy that uses OpenBLAS, as the wheels of pip install numpy do")
    get, put = controls
    before = get()
    try:
        put(2)
        with blas_threads(1):
            assert get() == 1
        assert get() == 2
    finally:
        put(before)
