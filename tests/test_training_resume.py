"""A run that was stopped and resumed is, bit for bit, the run that never stopped: with everything that has a state."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

import chainrule as cr
from chainrule import nn, optim
from chainrule.core.errors import ArgumentError, DataError
from chainrule.data import DataLoader
from chainrule.training import Callback, Checkpoint, EarlyStopping, Interrupted, RunFolder, Trainer, files, fit
from training_runs import EPOCHS, Send, blobs, contents, network, train

STEPS = 3  # in an epoch: batches of 7, two at a time


def everything(run_dir: Path, *more: Callback, name: str = "adam", **options: Any) -> tuple[nn.Layer, Any]:
    """A run with dropout, running averages, a penalty, a schedule, accumulation, and callbacks that remember."""
    model = nn.Sequential([nn.Dense(6, activation="relu", kernel_regularizer="l2"), nn.BatchNormalization(), nn.Dropout(0.3), nn.Dense(3)])
    callbacks = [EarlyStopping("accuracy", patience=2, restore_best=True), Checkpoint(best="validation_loss"), *more]
    limits = {} if name == "lbfgs" else {"clip_norm": 1.0}
    given = {"optimizer": name, "lr": 0.02, "batch_size": 7, "accumulate": 2, "schedule": "one_cycle", **limits, **options}
    return model, train(run_dir, model, callbacks=callbacks, **given)


def left(folder: Path) -> Any:
    """All that a run leaves, but for times."""
    best = {name: value.tobytes() for name, value in load_file(folder / "best.safetensors").items()}
    arrays, data = RunFolder.open(folder).read_checkpoint()
    data["position"].pop("seconds")
    return contents(folder), best, {name: value.tobytes() for name, value in arrays.items()}, data


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", optim.NAMES)
def test_resuming_equals_not_having_stopped(tmp_path: Path, name: str, compile: bool) -> None:
    """Stopped in the middle of the second epoch, and in that of the third."""
    options: dict[str, Any] = {"name": name, "compile": compile}
    model, history = everything(tmp_path / "whole", **options)
    for step in (STEPS + 2, 2 * STEPS + 1):
        with pytest.raises(Interrupted, match=f"stopped after step {step} .*resume=True goes on"):
            everything(tmp_path / "run", Send(step), resume=step > 2 * STEPS, **options)
    again, resumed = everything(tmp_path / "run", resume=True, **options)
    assert left(tmp_path / "run") == left(tmp_path / "whole")
    assert {key: value.tolist() for key, value in again.state_dict().items()} == {key: value.tolist() for key, value in model.state_dict().items()}
    assert [r["loss"] for r in resumed.steps] == [r["loss"] for r in history.steps]


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_a_run_can_be_stopped_at_every_step_and_at_every_call_of_a_callback(tmp_path: Path, compile: bool) -> None:
    class Now(Callback):
        """Sends Ctrl-C at the given number of calls, whatever they are."""

        def __init__(self, at: int) -> None:
            self.left = at

        def step(self, trainer: Trainer) -> None:
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGINT)

        def begin(self, trainer: Trainer) -> None:
            self.step(trainer)

        def epoch(self, trainer: Trainer, record: Any) -> None:
            self.step(trainer)

    everything(tmp_path / "whole", compile=compile)
    stops = 0
    for attempt in range(60):
        try:
            everything(tmp_path / "run", Now(1 + attempt % 3), resume=attempt > 0, compile=compile)
            break
        except Interrupted:
            stops += 1
    assert stops >= EPOCHS * STEPS // 2
    assert left(tmp_path / "run") == left(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_file_is_written_waits_until_all_are(tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every single flush: the run stops behind it, and goes on as if it had not."""
    everything(tmp_path / "whole")
    flush, calls, at = os.fsync, 0, 0

    def interrupted(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), number)
        flush(handle)

    monkeypatch.setattr(os, "fsync", interrupted)
    everything(tmp_path / "counted")
    total = calls
    assert total > 30
    # The first file is written before training begins, the last after it ended: then a signal does what it always does.
    for at in range(3, total - 2, 8):
        calls, run = 0, tmp_path / f"run{at}"
        with pytest.raises(Interrupted):
            everything(run)
        assert not list(run.glob(".*"))
        calls = -1000
        everything(run, resume=True)
        assert left(run) == left(tmp_path / "whole")


def test_a_second_ctrl_c_while_a_file_is_written_harms_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush, calls, at = os.fsync, 0, 0

    def impatient(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        flush(handle)

    everything(tmp_path / "whole")
    monkeypatch.setattr(os, "fsync", impatient)
    for at in range(20, 42, 5):
        calls, run = 0, tmp_path / f"run{at}"
        with pytest.raises(KeyboardInterrupt) as stopped:
            everything(run)
        assert not isinstance(stopped.value, Interrupted)
        calls = -1000
        everything(run, resume=True)
        assert left(run) == left(tmp_path / "whole")


def test_a_run_that_stopped_early_is_over_when_it_is_resumed(tmp_path: Path) -> None:
    def stopping() -> EarlyStopping:
        return EarlyStopping(patience=1, min_delta=10.0, restore_best=True)

    history = train(tmp_path / "run", epochs=9, callbacks=[stopping()])
    assert (len(history.epochs), history.stopped) == (2, "validation_loss has not become better since epoch 1")
    before = contents(tmp_path / "run")
    again = train(tmp_path / "run", epochs=9, callbacks=[stopping()], resume=True)
    assert (len(again.epochs), again.stopped) == (2, history.stopped)
    assert contents(tmp_path / "run") == before
    # With more patience it goes on.
    assert len(train(tmp_path / "run", epochs=9, callbacks=[EarlyStopping(patience=4, min_delta=10.0)], resume=True).epochs) == 5


def test_the_epoch_before_a_stop_may_be_the_last_one(tmp_path: Path) -> None:
    """A signal behind the last step is not lost, and there is nothing left to do then."""

    class Late(Callback):
        def epoch(self, trainer: Trainer, record: Any) -> None:
            if record["epoch"] == EPOCHS:
                os.kill(os.getpid(), signal.SIGTERM)

    train(tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(tmp_path / "run", callbacks=[Late()])
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    assert len(train(tmp_path / "run", resume=True).epochs) == EPOCHS


def test_a_loader_of_ones_own_goes_on_where_it_was(tmp_path: Path) -> None:
    """Whatever was drawn from it before, and by others in between."""

    def run(folder: Path, loader: DataLoader, **options: Any) -> None:
        class Look(Callback):
            def epoch(self, trainer: Trainer, record: Any) -> None:
                next(iter(loader))

        callbacks = [Look(), *options.pop("callbacks", ())]
        fit(network(), loader, epochs=3, lr=0.05, progress=False, run_dir=folder, callbacks=callbacks, **options)

    def loader() -> DataLoader:
        return DataLoader(blobs(), 8, shuffle=True, seed=5)

    run(tmp_path / "whole", loader())
    used = loader()
    for _ in (*used, *used):
        pass
    with pytest.raises(Interrupted):
        run(tmp_path / "run", used, callbacks=[Send(8)])
    run(tmp_path / "run", loader(), resume=True)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_no_thread_outlives_a_run_that_is_stopped(tmp_path: Path) -> None:
    """Neither in the middle of an epoch nor while it is being measured; and batches made ahead change nothing."""

    def run(folder: Path, prefetch: int, **options: Any) -> Any:
        loaders = (DataLoader(blobs(), 4, shuffle=True, prefetch=prefetch), DataLoader(blobs(20, seed=1), 2, prefetch=prefetch))
        return fit(network(), *loaders, epochs=2, lr=0.05, metrics=[halfway], progress=False, run_dir=folder, **options)

    stop = False

    def halfway(outputs: cr.Tensor, targets: cr.Tensor) -> cr.Tensor:
        if stop and len(targets) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return cr.mean(outputs)

    run(tmp_path / "whole", 0)
    before = threading.active_count()
    for number, callback in enumerate((Send(3), Send(10), Callback())):
        stop = number == 2
        with pytest.raises(Interrupted) as stopped:
            run(tmp_path / "run", 3, callbacks=[callback], resume=number > 0)
        # While the traceback still holds the frames.
        assert stopped.traceback
        assert threading.active_count() == before
    stop = False
    run(tmp_path / "run", 2, resume=True)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_a_run_is_resumed_with_its_settings_schedule_and_callbacks(tmp_path: Path) -> None:
    run = tmp_path / "run"
    model = network()
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    given: dict[str, Any] = {"optimizer": "sgd", "lr": 0.01, "epochs": 1}
    train(run, callbacks=[EarlyStopping()], schedule="cosine", **given)
    for options, says in (
        ({"schedule": None}, 'schedule was "cosine", is null'),
        ({"schedule": "cosine", "accumulate": 2}, "accumulate was 1, is 2"),
        ({"schedule": "cosine", "clip_norm": 1.0}, "clip_norm was null, is 1.0"),
        ({"schedule": "cosine", "compile": True}, "compile was false, is true"),
        ({"schedule": "cosine"}, "a run with the callback EarlyStopping"),
    ):
        with pytest.raises(ArgumentError, match=says):
            train(run, resume=True, **given, **options)
    with pytest.raises(ArgumentError, match="the checkpoint is of a run with a schedule"):
        Trainer(model.initialize((1, 2)), optimizer, callbacks=[EarlyStopping()]).load(RunFolder.open(run), DataLoader(blobs(), 8))
    # A callback that is new begins anew.
    train(run, callbacks=[EarlyStopping(), Checkpoint(best="loss"), EarlyStopping("loss")], schedule="cosine", resume=True, **given)


def test_a_checkpoint_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is ever opened for writing under its own name."""
    opened: list[str] = []
    plain = Path.open

    def watched(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode != "r":
            opened.append(path.name)
        return plain(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", watched)
    everything(tmp_path / "run")
    assert opened
    assert all(name.startswith(".") and name.endswith(files.ASIDE) for name in opened)
    assert cr.training.RunFolder.open(tmp_path / "run").read_checkpoint()


@pytest.mark.skipif(os.name != "posix", reason="folders cannot be locked on Windows: run it on Linux or macOS")
def test_a_run_has_its_folder_for_itself(tmp_path: Path) -> None:
    """Others may read it meanwhile, and leave what is just being written."""
    run, half = tmp_path / "run", tmp_path / "run" / ".checkpoint.safetensors.1.part"

    class Meddler(Callback):
        def step(self, trainer: Trainer) -> None:
            half.write_bytes(b"half of it")
            assert RunFolder.open(run).read_checkpoint()
            for resume in (False, True):
                with pytest.raises(DataError, match="another run is going on"):
                    train(run, resume=resume, epochs=5)
            assert half.exists()

    train(run, callbacks=[Meddler()])
    assert RunFolder.open(run).read_config()["epochs"] == EPOCHS
    train(run, resume=True)
    assert not half.exists()


def test_a_trainer_that_was_interrupted_can_go_on(tmp_path: Path) -> None:
    model = network().initialize((1, 2))
    trainer = Trainer(model, optim.SGD(model.parameters(), lr=0.1), callbacks=[Send(2)])
    loader, folder = DataLoader(blobs(), 8), RunFolder.create(tmp_path / "run", {})
    with pytest.raises(Interrupted):
        trainer.run(loader, None, 2, folder)
    trainer.run(loader, None, 2, folder)
    assert trainer.position.epoch == 2


def test_a_run_resumed_for_fewer_epochs_than_it_has_stays_as_it_is(tmp_path: Path) -> None:
    train(tmp_path, epochs=2)
    before = contents(tmp_path)
    train(tmp_path, epochs=1, resume=True)
    assert contents(tmp_path) == before
    assert RunFolder.open(tmp_path).read_config()["epochs"] == 2


def test_a_handler_that_python_does_not_know_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one that a program has in which Python is embedded."""
    before, plain = signal.getsignal(signal.SIGTERM), signal.signal

    def set_handler(number: int, handler: Any) -> Any:
        found = plain(number, handler)
        return None if number == signal.SIGTERM else found

    monkeypatch.setattr(signal, "signal", set_handler)
    train(tmp_path, epochs=1)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    plain(signal.SIGTERM, before)
