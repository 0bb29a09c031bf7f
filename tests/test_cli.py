"""The command: the main job from end to end, and every mistake of a user told in one line."""

from __future__ import annotations

import gzip
import json
import os
import random
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from chainrule.cli import main

SOURCE = Path(__file__).parent.parent / "src"


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "chainrule.cli", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def weights(run: str) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in load_file(Path(run, "weights.safetensors")).items()}


def losses(run: str) -> list[float]:
    return [json.loads(line)["loss"] for line in Path(run, "metrics.jsonl").read_text().splitlines()]


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a wrong command leaves on standard error."""
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("chainrule: error: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
    return error


def mnist(folder: Path, count: int = 60) -> Path:
    """Files in the format of MNIST: bright squares whose place is the label."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for prefix in ("train", "t10k"):
        labels = rng.integers(0, 10, count)
        images = rng.integers(0, 60, (count, 28, 28))
        for image, label in zip(images, labels, strict=True):
            image[:, 2 * label : 2 * label + 6] += 150
        for kind, array in (("images", images), ("labels", labels)):
            header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / f"{prefix}-{kind}-idx{array.ndim}-ubyte.gz").write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))
    return folder


# The main job


def test_digits_are_learned_to_98_percent(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "digits"]) == 0
    output = capsys.readouterr().out
    epochs = [json.loads(line) for line in Path("runs/digits/metrics.jsonl").read_text().splitlines() if '"epoch", ' in line]
    assert epochs[-1]["validation_accuracy"] >= 0.98
    assert f"test accuracy {epochs[-1]['validation_accuracy']:.2%}" in output
    assert "runs/digits" in output

    assert main(["evaluate", "runs/digits"]) == 0
    assert f"test accuracy {epochs[-1]['validation_accuracy']:.2%}   (355 images)" in capsys.readouterr().out
    assert main(["list"]) == 0
    assert "runs/digits" in capsys.readouterr().out


def test_mnist_files_are_learned_from(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = mnist(tmp_path / "files")
    assert main(["train", "mnist", "--data-dir", str(folder), "--epochs", "4", "--batch-size", "10"]) == 0
    assert "60 training and 60 test images" in capsys.readouterr().out
    assert main(["evaluate", "runs/mnist"]) == 0
    assert main(["evaluate", "runs/mnist", "--data-dir", str(folder)]) == 0


def test_options_reach_the_run() -> None:
    assert main(["train", "digits", "--epochs", "1", "--batch-size", "300", "--lr", "0.01", "--seed", "7", "--run-dir", "mine"]) == 0
    config = json.loads(Path("mine/config.json").read_text())
    assert (config["epochs"], config["batch_size"], config["seed"], config["optimizer"]["groups"][0]["lr"]) == (1, 300, 7, 0.01)


def test_runs_get_names_of_their_own() -> None:
    for _ in range(2):
        assert main(["train", "digits", "--epochs", "1", "--batch-size", "700"]) == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["digits", "digits-2"]
    assert weights("runs/digits") == weights("runs/digits-2")


# Stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_go_on_and_ends_as_if_it_had_not_been(number: signal.Signals) -> None:
    options = ["train", "digits", "--epochs", "4", "--batch-size", "50"]
    assert main([*options, "--run-dir", "whole"]) == 0
    process = start(*options, "--run-dir", "run")
    assert process.stdout is not None
    while not process.stdout.readline().startswith("epoch 1/4"):
        assert process.poll() is None
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "stopped after step" in error
    assert "Traceback" not in error
    command = error.strip().splitlines()[-1].removeprefix("to go on: ")
    assert command == "chainrule train digits --resume --run-dir run"
    assert len(losses("run")) < len(losses("whole"))
    assert main(["evaluate", "run"]) == 0
    assert main(shlex.split(command)[1:]) == 0
    assert weights("run") == weights("whole")
    assert losses("run") == losses("whole")


def test_the_latest_run_is_resumed_by_default() -> None:
    assert main(["train", "digits", "--epochs", "1", "--batch-size", "700"]) == 0
    assert main(["train", "digits", "--epochs", "2", "--resume"]) == 0
    assert main(["train", "digits", "--epochs", "2", "--batch-size", "700", "--run-dir", "whole"]) == 0
    assert losses("runs/digits") == losses("whole")


def test_a_killed_run_leaves_a_checkpoint_to_go_on_from() -> None:
    chance = random.Random(0)
    process = start("train", "digits", "--epochs", "3", "--batch-size", "100", "--run-dir", "run")
    assert process.stdout is not None
    process.stdout.readline()
    while not Path("run/checkpoint.safetensors").exists():
        assert process.poll() is None
    time.sleep(chance.uniform(0, 1))
    process.kill()
    process.communicate()
    assert main(["train", "digits", "--resume", "--run-dir", "run"]) == 0
    assert main(["train", "digits", "--epochs", "3", "--batch-size", "100", "--run-dir", "whole"]) == 0
    assert weights("run") == weights("whole")
    assert losses("run") == losses("whole")


# Mistakes


def test_data_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "--data-dir DIR" in complaint(capsys, "train", "mnist")
    assert "nowhere is not a folder" in complaint(capsys, "train", "mnist", "--data-dir", "nowhere")
    folder = mnist(tmp_path / "files")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    assert "files has no t10k-labels-idx1-ubyte" in complaint(capsys, "train", "mnist", "--data-dir", "files")
    assert not Path("runs").exists()


def test_damaged_data_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = mnist(tmp_path / "files")
    path = folder / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "train-images-idx3-ubyte.gz is truncated" in complaint(capsys, "train", "mnist", "--data-dir", "files")
    path.write_bytes(whole[:-8] + b"\0\0\0\0" + whole[-4:])
    assert "train-images-idx3-ubyte.gz is corrupt" in complaint(capsys, "train", "mnist", "--data-dir", "files")
    path.write_bytes(gzip.compress(gzip.decompress(whole)[:-1]))
    assert "is truncated: 47039 bytes of values" in complaint(capsys, "train", "mnist", "--data-dir", "files")


def test_a_run_folder_that_is_taken_or_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no run on digits to resume" in complaint(capsys, "train", "digits", "--resume")
    assert "run does not exist" in complaint(capsys, "train", "digits", "--resume", "--run-dir", "run")
    assert "run does not exist" in complaint(capsys, "evaluate", "run")
    assert main(["train", "digits", "--epochs", "1", "--batch-size", "700", "--run-dir", "run"]) == 0
    capsys.readouterr()
    assert "run holds a run already" in complaint(capsys, "train", "digits", "--run-dir", "run")
    assert "batch_size was 700, is 32" in complaint(capsys, "train", "digits", "--resume", "--run-dir", "run", "--batch-size", "32")
    assert "is a run on digits, not mnist" in complaint(capsys, "train", "mnist", "--resume", "--run-dir", "run")
    Path("run/checkpoint.safetensors").write_bytes(b"nothing")
    assert "checkpoint.safetensors cannot be read" in complaint(capsys, "train", "digits", "--resume", "--run-dir", "run")
    Path("run/checkpoint.safetensors").unlink()
    assert "run has no checkpoint to resume from" in complaint(capsys, "train", "digits", "--resume", "--run-dir", "run")
    Path("run/weights.safetensors").unlink()
    assert "weights.safetensors does not exist" in complaint(capsys, "evaluate", "run")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", "digits", "--epochs", "1", "--batch-size", "700", "--run-dir", str(path)]) == 0
    return path


@pytest.fixture
def damaged(trained: Path) -> Path:
    """A run's folder among the usual ones, to be damaged, beside a whole one that is older."""
    for name in ("whole", "damaged"):
        shutil.copytree(trained, Path("runs", name), copy_function=shutil.copyfile)
    os.utime("runs/whole/config.json", (0, 0))
    return Path("runs/damaged")


RUN = json.dumps({"data": "digits", "model": {}, "loss": "softmax_cross_entropy", "metrics": [], "epochs": 1, "batch_size": 700, "seed": 0})


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("config.json", '{"data": "digits"}', "has no 'model'"),
        ("config.json", RUN, "has no 'optimizer'"),
        ("config.json", RUN[:-1] + ', "optimizer": {"groups": []}}', "'optimizer' cannot be"),
        ("config.json", RUN[:-1] + ', "optimizer": {"groups": [{"lr": "fast"}]}}', "'optimizer' cannot be"),
        ("config.json", RUN.replace("700", "null"), "'batch_size' cannot be null"),
        ("config.json", RUN.replace("[]", "[[]]"), "'metrics' cannot be"),
        ("config.json", "null", "holds no settings"),
        ("config.json", "{", "is damaged"),
        ("metrics.jsonl", "null\n", "is damaged: line 1"),
        ("metrics.jsonl", '{"kind": "epoch"}\n', "is damaged: line 1"),
        ("metrics.jsonl", '{"kind": "week", "epoch": 1, "step": 1}\n', "is damaged: line 1"),
        ("metrics.jsonl", '{"kind": "step", "epoch": 1, "step": 1, "loss": "low"}\n', "is damaged: line 1"),
    ],
)
def test_a_damaged_run_is_named_and_stops_no_other(name: str, text: str, says: str, damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (damaged / name).write_text(text)
    capsys.readouterr()
    assert says in complaint(capsys, "train", "digits", "--resume", "--run-dir", str(damaged))
    if name == "config.json":
        assert says in complaint(capsys, "evaluate", str(damaged))
    assert main(["list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "damaged" in lines["runs/damaged"].split(maxsplit=1)[1]
    assert "test accuracy" in lines["runs/whole"]
    if name == "config.json":
        assert main(["train", "digits", "--epochs", "2", "--resume"]) == 0
        assert "run folder runs/whole" in capsys.readouterr().out


@pytest.mark.parametrize("model", [{}, {"class": "Constant", "config": {}}, {"class": "Sequential", "config": {"layers": 5}}])
def test_settings_that_describe_no_model_are_named(model: Any, damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps({**config, "model": model}))
    capsys.readouterr()
    complaint(capsys, "evaluate", str(damaged))
    complaint(capsys, "train", "digits", "--resume", "--run-dir", str(damaged))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["train"],
        ["train", "cats"],
        ["train", "digits", "--epochs", "0"],
        ["train", "digits", "--lr", "-1"],
        ["train", "digits", "--lr", "fast"],
        ["train", "digits", "--batch-size", "many"],
        ["train", "digits", "--seed", "-1"],
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["evaluate", "--help"], ["list", "--help"]])
def test_help_has_examples(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert "chainrule train mnist --data-dir" in capsys.readouterr().out
