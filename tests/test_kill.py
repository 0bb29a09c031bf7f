"""kill -9 at any moment, and a crash before every single system call, leave a run that goes on as if nothing had happened.

As a program it is the process that is killed: ``python tests/test_kill.py train FOLDER``, or ``crash FOLDER``. How often it is killed says
the environment variable CHAINRULE_KILLS: ``CHAINRULE_KILLS=200 pytest -s tests/test_kill.py``.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from safetensors.numpy import load_file

from chainrule import nn
from chainrule.core.errors import DataError
from chainrule.core.files import write_whole
from chainrule.training import Callback, Checkpoint, EarlyStopping, Interrupted, RunFolder, Trainer, store
from chainrule.training import run as run_folder
from training_runs import Send, contents, train

KILLS = int(os.environ.get("CHAINRULE_KILLS", "12"))
EVERY = 1 if KILLS >= 100 else 13
"""Of the system calls; the calls of a file are not so many that the same ones would always be passed over."""
SYSTEM_CALLS = {"open", "write", "flush", "fsync", "__exit__", "close", "replace", "rename", "unlink"}


class Tell(Callback):
    """Says when training begins, or goes on, and when a step is done."""

    def begin(self, trainer: Trainer) -> None:
        sys.stdout.write(f"step {trainer.position.step}\n")
        sys.stdout.flush()

    def step(self, trainer: Trainer) -> None:
        self.begin(trainer)


def run(folder: Path, epochs: int, *more: Callback, batch_size: int = 20) -> None:
    """Begin a run, or go on with it if there is a checkpoint; one is written at every step."""
    model = nn.Sequential([nn.Dense(6, activation="relu"), nn.BatchNormalization(), nn.Dropout(0.3), nn.Dense(3)])
    callbacks = [Checkpoint(every_steps=1, best="validation_loss"), EarlyStopping(patience=1000, restore_best=True), *more]
    options: dict[str, Any] = {"epochs": epochs, "schedule": "cosine", "callbacks": callbacks}
    train(folder, model, batch_size=batch_size, resume=(folder / "checkpoint.safetensors").exists(), **options)


def left(folder: Path) -> Any:
    """What a run leaves for good."""
    arrays, _ = RunFolder(folder).read_checkpoint()
    best = {name: value.tobytes() for name, value in load_file(folder / "best.safetensors").items()}
    return contents(folder), best, {name: value.tobytes() for name, value in arrays.items()}


def check_loads(folder: Path) -> None:
    """Whatever is there is whole; and from the first checkpoint on, there is one."""
    found = RunFolder(folder)
    if found.config_path.exists():
        assert found.read_config()["seed"] == 0
    step = -1
    if found.checkpoint_path.exists():
        step = found.read_checkpoint()[1]["position"]["step"]
    if found.weights_path.exists():
        assert step >= 0
        assert found.read_weights()
    if found.best_path.exists():
        assert found.read_best()[1]["epoch"] >= 1
    # No line that belongs before the checkpoint lacks.
    assert [r["step"] for r in found.read_metrics() if r["kind"] == "step" and r["step"] <= step] == list(range(1, step + 1))


def start(*arguments: Any) -> subprocess.Popen[str]:
    alone = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, __file__, *map(str, arguments)], stdout=subprocess.PIPE, text=True, env=alone)


def test_killed_at_any_moment_a_run_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Killed again and again at random moments of its steps, and while it is starting, until it is through."""
    epochs, moments = 20, random.Random(7)
    run(tmp_path / "whole", epochs)
    expected = left(tmp_path / "whole")
    kills = torn = runs = 0
    while kills < KILLS or not runs:
        runs += 1
        folder = tmp_path / f"run{runs}"
        while _killed(start("train", folder, epochs), moments if kills < KILLS else None, early=kills % 4 == 0):
            kills += 1
            torn += any(folder.glob(".*.part"))
            check_loads(folder)
        assert left(folder) == expected
        assert not list(folder.glob(".*"))
    sys.stdout.write(f"\n{kills} kills, {torn} of them in the middle of writing a file, in {runs} runs of {2 * epochs} steps: 0 failures\n")


def _killed(process: subprocess.Popen[str], moments: random.Random | None, *, early: bool) -> bool:
    """Kill a process while it starts, or within some steps; or let it come to its end. Whether it was killed."""
    assert process.stdout is not None
    try:
        if moments is not None:
            for _ in range(0 if early else moments.randint(1, 7)):
                process.stdout.readline()
            time.sleep(moments.uniform(0.0, 1.0 if early else 0.06))
            process.kill()
        process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode in (0, -9)
    return process.returncode == -9


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork: run it on Linux or macOS")
def test_a_crash_before_any_system_call_of_writing_harms_nothing(tmp_path: Path) -> None:
    process = start("crash", tmp_path)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    # Some thirty files, with eight calls each.
    assert int(out.split()[0]) > 200 // EVERY, out
    sys.stdout.write(f"\n{out}")


def crash_everywhere(folder: Path) -> int:
    """Crash before system calls of writing, one after the other, and go on each time; how many crashes there were."""
    whole, begun = folder / "whole", folder / "begun"
    run(whole, 2, batch_size=40)
    with suppress(Interrupted):
        run(begun, 2, Send(1), batch_size=40)
    # From the very beginning, and from a step within an epoch, when every file is there already.
    return sum(_crashes(folder / "run", at_first, left(whole)) for at_first in (None, begun))


def _crashes(folder: Path, begun: Path | None, expected: Any) -> int:
    for number, at in enumerate(count(1, EVERY)):
        if begun is not None:
            shutil.copytree(begun, folder)
        child = os.fork()
        if not child:
            _exit_before(at)
            run(folder, 2, batch_size=40)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, 9), status
        check_loads(folder)
        run(folder, 2, batch_size=40)
        assert left(folder) == expected, at
        assert not list(folder.glob(".*")), at
        shutil.rmtree(folder)
        if not status:
            return number
    raise AssertionError


def _exit_before(at: int) -> None:
    """Let this process end, as if by kill -9, before that system call of writing files."""
    calls = 0

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        if event == "c_call" and argument.__name__ in SYSTEM_CALLS:
            calls += 1
            if calls == at:
                os._exit(9)

    def watched(path: Path, data: bytes) -> None:
        sys.setprofile(watch)
        try:
            write_whole(path, data)
        finally:
            sys.setprofile(None)

    for module in (run_folder, store):
        module.write_whole = watched


@pytest.mark.parametrize("name", ["open", "fsync", "replace"])
def test_a_full_disk_ends_the_run_and_harms_nothing(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any of the calls: the error says what could not be written, and with room again the run goes on."""
    run(tmp_path / "whole", 1)
    expected = left(tmp_path / "whole")
    plain, calls, at = getattr(os, name), 0, 0

    def full(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(28, "No space left on device")
        return plain(*arguments, **options)

    monkeypatch.setattr(os, name, full)
    run(tmp_path / "counted", 1)
    total = calls
    assert total >= 16
    for at in range(1, total + 1, min(EVERY, 5)):
        calls, folder = 0, tmp_path / f"run{at}"
        with pytest.raises(DataError, match="cannot be written: No space left"):
            run(folder, 1)
        check_loads(folder)
        calls = total
        run(folder, 1)
        assert left(folder) == expected


if __name__ == "__main__":
    if sys.argv[1] == "train":
        run(Path(sys.argv[2]), int(sys.argv[3]), Tell())
    else:
        sys.stdout.write(f"{crash_everywhere(Path(sys.argv[2]))} crashes\n")
