"""Callbacks: when training ends early, what is kept besides, and TensorBoard's files."""

from __future__ import annotations

import io
import re
import struct
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from chainrule.core.errors import ArgumentError, DataError, MissingExtraError
from chainrule.training import Callback, Checkpoint, EarlyStopping, Interrupted, Progress, RunFolder, TensorBoard, Trainer
from chainrule.training.callbacks import Monitor
from training_runs import BATCHES, EPOCHS, Send, contents, network, train


class Given(EarlyStopping):
    """Early stopping on a measurement that is given in advance."""

    def __init__(self, values: list[float], **options: Any) -> None:
        super().__init__("given", **options)
        self.values = values

    def epoch(self, trainer: Trainer, record: dict[str, Any]) -> None:
        super().epoch(trainer, {**record, "given": self.values[record["epoch"] - 1]})


@pytest.mark.parametrize(
    ("values", "options", "epochs", "best"),
    [
        ([3, 2, 1, 2, 1, 0.5], {"patience": 1}, 4, 3),
        ([3, 2, 1, 2, 1, 0.5], {"patience": 2}, 5, 3),
        ([3, 2, 1, 2, 1, 0.5], {"patience": 3}, 6, 6),
        ([3, 2.5, 2.1, 2, 1.9, 1.8], {"patience": 2, "min_delta": 0.7}, 5, 3),
        ([1, 2, 3, 2, 1, 0], {"patience": 2, "mode": "max"}, 5, 3),
        ([float("nan"), 2, float("nan"), 1, 2, 2], {"patience": 2}, 6, 4),
    ],
)
def test_training_ends_when_nothing_becomes_better(values: list[float], options: dict[str, Any], epochs: int, best: int) -> None:
    stopping = Given(values, **options)
    history = train(epochs=6, callbacks=[stopping])
    assert (len(history.epochs), stopping.best_epoch) == (epochs, best)
    assert stopping.best == values[best - 1]
    assert bool(history.stopped) == (epochs < 6 or values[0] != values[0])
    # The same callback serves another run, from the beginning.
    assert len(train(epochs=6, callbacks=[stopping]).epochs) == epochs


def test_the_best_weights_come_back(tmp_path: Path) -> None:
    states: list[dict[str, Any]] = []

    class Keep(Callback):
        def epoch(self, trainer: Trainer, record: dict[str, Any]) -> None:
            states.append({name: value.tolist() for name, value in trainer.model.state_dict().items()})

    for compile in (False, True):
        for restore, epoch in ((True, 1), (False, 3)):
            states.clear()
            model, run = network(), tmp_path / f"{compile}{restore}"
            train(run, model, epochs=9, compile=compile, callbacks=[Keep(), Given([2, 1, 3, 3], patience=2, restore_best=restore), Keep()])
            last = {name: value.tolist() for name, value in model.state_dict().items()}
            assert last == states[2 * epoch if restore else -1]
            assert {name: value.tolist() for name, value in RunFolder.open(run).read_weights().items()} == last


def test_more_is_better_where_the_name_says_so() -> None:
    for name in ("accuracy", "validation_accuracy", "validation_top_5_accuracy"):
        monitor = Monitor(name)
        assert [monitor.better({name: value}) for value in (0.5, 0.4, 0.6)] == [True, False, True]
    monitor = Monitor("validation_loss")
    assert [monitor.better({"validation_loss": value}) for value in (0.5, 0.4, 0.6)] == [True, True, False]


def test_checkpoints_can_be_written_more_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at: list[int] = []
    save = Trainer.save
    monkeypatch.setattr(Trainer, "save", lambda trainer, folder: (at.append(trainer.position.step), save(trainer, folder)))
    train(tmp_path / "a", epochs=2)
    assert at == [0, 5, 10]
    at.clear()
    train(tmp_path / "b", epochs=2, callbacks=[Checkpoint(every_steps=2)])
    assert at == [0, 2, 4, 5, 6, 8, 10, 10]
    at.clear()
    train(tmp_path / "c", epochs=2, callbacks=[Checkpoint(every_minutes=1e-12)])
    assert at == [0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 10]
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")


def test_the_best_epochs_weights_are_kept(tmp_path: Path) -> None:
    states: list[dict[str, Any]] = []

    class Keep(Callback):
        def epoch(self, trainer: Trainer, record: dict[str, Any]) -> None:
            states.append({name: value.tolist() for name, value in trainer.model.state_dict().items()})

    history = train(tmp_path / "run", epochs=6, lr=0.5, callbacks=[Keep(), Checkpoint(best="validation_loss")])
    losses = [record["validation_loss"] for record in history.epochs]
    weights, about = RunFolder.open(tmp_path / "run").read_best()
    assert about == {"epoch": np.argmin(losses) + 1, "validation_loss": min(losses)}
    assert {name: value.tolist() for name, value in weights.items()} == states[np.argmin(losses)]
    train(tmp_path / "other", epochs=1)
    with pytest.raises(DataError, match="does not exist"):
        RunFolder.open(tmp_path / "other").read_best()


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    for make, says in (
        (lambda: EarlyStopping(patience=0), "patience=0"),
        (lambda: EarlyStopping(min_delta=-1.0), "min_delta=-1.0"),
        (lambda: EarlyStopping(mode="most"), "mode='most'"),
        (lambda: Checkpoint(every_steps=0), "every_steps=0"),
        (lambda: Checkpoint(every_minutes=-1.0), "every_minutes=-1.0"),
    ):
        with pytest.raises(ArgumentError, match=says):
            make()
    with pytest.raises(ArgumentError, match="has no folder"):
        train(callbacks=[Checkpoint()])
    with pytest.raises(
        ArgumentError,
        match=r"(?s)no measurement 'validation_acuracy'.*choose one of loss, accuracy, validation_loss, validation_accuracy, lr, seconds$",
    ):
        train(callbacks=[EarlyStopping("validation_acuracy")])


def test_the_end_is_told_even_if_the_beginning_fails() -> None:
    ended: list[bool] = []

    class Ends(Callback):
        def end(self, trainer: Trainer) -> None:
            ended.append(trainer.done)

    with pytest.raises(ArgumentError):
        train(callbacks=[Ends(), Checkpoint()])
    train(callbacks=[Ends()], epochs=1)
    assert ended == [False, True]


def test_progress_says_why_training_ended(capsys: pytest.CaptureFixture[str]) -> None:
    train(progress=True, epochs=5, callbacks=[Given([1, 2, 2], patience=1)])
    assert capsys.readouterr().out.splitlines()[-1] == "training ended early: given has not become better since epoch 1"


# TensorBoard


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: points from the event files, the older first; a session replaces what is not before its first step."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # noqa: PLC0415, slow to import

    shown: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += 12 + size + 4
            if event.session_log.status == SessionLog.START:
                shown = {tag: [point for point in points if point[0] < event.step] for tag, points in shown.items()}
            for value in event.summary.value:
                shown.setdefault(value.tag, []).append((event.step, value.simple_value))
    return shown


def test_progress_needs_no_file_and_breaks_no_line_in_a_terminal() -> None:
    class Notebook:
        text = ""

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None:
            pass

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Notebook()
    train(callbacks=[Progress(stream=cast("Any", shown))], epochs=1)
    assert "epoch 1/1" in shown.text
    terminal = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "40")
        patch.setenv("TERM", "xterm")
        train(callbacks=[Progress(stream=terminal, held_out="[held out]")], epochs=1)
    assert re.search(r"epoch 1/1   loss .*   accuracy .*   \[held out\] loss .*   \[held out\] accuracy .* s\n", terminal.getvalue())


def test_tensorboard_shows_the_metrics_and_a_resumed_run_as_one(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason='needs pip install "chainrule[train]"')
    history = train(tmp_path / "whole", callbacks=[TensorBoard(tmp_path / "whole_board")])
    found = scalars(tmp_path / "whole_board")
    assert found.keys() == {"loss/step", "loss/train", "loss/validation", "accuracy/train", "accuracy/validation", "lr/train", "seconds/train"}
    assert found["loss/step"] == [(r["step"], pytest.approx(r["loss"], rel=1e-6)) for r in history.steps]
    assert found["loss/validation"] == [(BATCHES * r["epoch"], pytest.approx(r["validation_loss"], rel=1e-6)) for r in history.epochs]
    assert len(found["loss/step"]) == BATCHES * EPOCHS
    with pytest.raises(Interrupted):
        train(tmp_path / "run", callbacks=[TensorBoard(tmp_path / "board"), Send(7)])
    train(tmp_path / "run", callbacks=[TensorBoard(tmp_path / "board")], resume=True)
    resumed = scalars(tmp_path / "board")
    assert len(list((tmp_path / "board").iterdir())) == 2
    for shown in (found, resumed):
        shown.pop("seconds/train")
    assert resumed == found


def test_tensorboard_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(MissingExtraError, match="tensorboardX") as error:
        train(callbacks=[TensorBoard(tmp_path)])
    assert 'pip install "chainrule[train]"' in str(error.value)
