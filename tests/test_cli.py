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
from PIL import Image
from safetensors.numpy import load_file

import chainrule as cr
from chainrule.cli import main
from chainrule.cli.networks import NETWORKS
from chainrule.cli.pictures import read_image

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
    options = ["train", "digits", "--batch-size", "700", "--schedule", "constant"]
    assert main([*options, "--epochs", "1"]) == 0
    assert main(["train", "digits", "--epochs", "2", "--resume"]) == 0
    assert main([*options, "--epochs", "2", "--run-dir", "whole"]) == 0
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


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ([], "required: COMMAND"),
        (["train"], "required: DATA"),
        (["train", "digits", "--lr", "nan"], "'nan' is not a positive number"),
        (["train", "digits", "--epochs", "0"], "'0' is not a positive whole number"),
        (["summary", "mlp", "--input", "28x"], "'28x' is not a shape"),
        (["summary", "mlp", "--input", "99999x99999999"], "is too large"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(command: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("chainrule: error: ")
    assert says in error
    assert error.endswith("--help\n")
    assert error.count("\n") == 1


def test_too_little_memory_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert "not enough memory" in complaint(capsys, "summary", "mlp", "--input", "100000x1000", "--batch", "1000000000")


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


@pytest.mark.parametrize("command", [[], ["train"], ["evaluate"], ["predict"], ["summary"], ["list"]])
def test_help_has_examples(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    examples = capsys.readouterr().out.partition("examples:")[2]
    assert " ".join(["chainrule", *command]) in examples


# Other data, other networks


def test_a_name_that_is_none_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean digits?" in complaint(capsys, "train", "digit")
    assert "did you mean lenet?" in complaint(capsys, "train", "digits", "--model", "lenett")
    assert "did you mean alexnet?" in complaint(capsys, "summary", "alexnett")
    assert "lenet takes images, not values" in complaint(capsys, "train", "moons", "--model", "lenet")
    assert "tells 2 classes apart, not 10; choose softmax" in complaint(capsys, "train", "digits", "--model", "logistic_regression")
    assert "lenet does not take inputs of 8x8x1" in complaint(capsys, "train", "digits", "--model", "lenet")
    assert "does not take inputs of 5" in complaint(capsys, "summary", "neural_turing_machine", "--input", "5")
    assert "digits has no use for --context" in complaint(capsys, "train", "digits", "--context", "5")
    assert "moons has no use for --data-dir" in complaint(capsys, "train", "moons", "--data-dir", ".")
    assert not Path("runs").exists()


def test_every_network_is_listed_and_has_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    for name in NETWORKS:
        assert f"  {name} " in listed
        # The two large ones are looked at by size in test_models_torch.py.
        if name not in ("alexnet", "resnet"):
            assert main(["summary", name]) == 0
            assert " of them trainable; " in capsys.readouterr().out
    assert main(["summary", "resnet", "--input", "32x32x3", "--batch", "2", "--classes", "7"]) == 0
    assert "float32(2, 7)" in capsys.readouterr().out


TOO_LARGE = {"lenet", "alexnet", "resnet", "logistic_regression"}
"""What does not take the digits: they are too small, or of too many classes."""
PAIRS = [("digits", model) for model, entry in NETWORKS.items() if "images" in entry.losses and model not in TOO_LARGE]
PAIRS += [("moons", model) for model, entry in NETWORKS.items() if "values" in entry.losses]


@pytest.mark.parametrize(("data", "model"), PAIRS)
def test_every_network_trains_on_the_data_that_it_takes(data: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", data, "--model", model, "--epochs", "2", "--batch-size", "200"]) == 0
    first, second = (json.loads(line)["loss"] for line in Path("runs", data, "metrics.jsonl").read_text().splitlines() if '"epoch", ' in line)
    assert second < first
    assert main(["evaluate", f"runs/{data}"]) == 0
    assert main(["list"]) == 0
    assert f"{data}, {model}, 2 of 2 epochs" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["lenet", "resnet", "alexnet"])
def test_image_networks_train_on_files(model: str, tmp_path: Path) -> None:
    folder = mnist(tmp_path / "files", count=20)
    assert main(["train", "mnist", "--data-dir", str(folder), "--model", model, "--epochs", "1", "--batch-size", "10"]) == 0
    assert main(["evaluate", "runs/mnist"]) == 0


def test_a_table_is_learned_from_numbers_or_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 2))
    prices, kinds = rows @ [3.0, -2.0] + 1, np.where(rows[:, 0] > rows[:, 1], "dear", "cheap")
    lines = [f"{a},{b},{kind},{price}" for (a, b), price, kind in zip(rows, prices, kinds, strict=True)]
    numbers, classes = (["a", "b", "price"], [0, 1, 3]), (["a", "b", "kind"], [0, 1, 2])
    for name, (head, columns) in (("prices", numbers), ("kinds", classes)):
        table = [",".join(head), *(",".join(line.split(",")[column] for column in columns) for line in lines)]
        Path(f"{name}.csv").write_text("\n".join(table))
    assert main(["train", "prices.csv", "--model", "linear_regression", "--epochs", "60", "--lr", "0.1"]) == 0
    assert json.loads(Path("runs/prices/metrics.jsonl").read_text().splitlines()[-1])["validation_loss"] < 1e-3
    assert main(["train", "kinds.csv", "--target", "kind", "--model", "softmax_classifier", "--epochs", "20", "--lr", "0.1"]) == 0
    assert json.loads(Path("runs/kinds/config.json").read_text())["facts"]["class_names"] == ["cheap", "dear"]
    assert main(["evaluate", "runs/kinds"]) == 0
    assert float(capsys.readouterr().out.splitlines()[-1].partition("accuracy ")[2].partition("%")[0]) > 90
    assert "line 3" in complaint(capsys, "train", str(_broken_table(tmp_path)))


def test_numbers_are_predicted_whatever_their_size_and_errors_told_in_their_unit(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    rows = rng.uniform(20, 200, (200, 2))
    Path("prices.csv").write_text("a,b,price\n" + "".join(f"{a},{b},{1e6 + 1e3 * a + 500 * b + 1e3 * rng.normal()}\n" for a, b in rows))
    for model in ("linear_regression", "mlp"):
        assert main(["train", "prices.csv", "--model", model, "--run-dir", model]) == 0
        capsys.readouterr()
        assert main(["evaluate", model]) == 0
        assert 500 < float(capsys.readouterr().out.partition("mean absolute error ")[2].split()[0]) < 6000


def test_a_run_finds_its_file_from_anywhere_and_sees_that_it_has_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("points.csv").write_text("a,b,kind\n" + "1,2,x\n2,1,y\n" * 10)
    assert main(["train", "points.csv", "--epochs", "1"]) == 0
    (tmp_path / "elsewhere").mkdir()
    os.chdir(tmp_path / "elsewhere")
    shutil.move(tmp_path / "runs" / "points", "moved")
    assert main(["evaluate", "moved"]) == 0
    (tmp_path / "points.csv").write_text("a,b,kind\n" + "1,2,x\n2,1,z\n" * 10)
    capsys.readouterr()
    assert "is not what moved was trained on any more" in complaint(capsys, "evaluate", "moved")


def _broken_table(folder: Path) -> Path:
    path = folder / "broken.csv"
    path.write_text("a,b\n1,2\n,3\n")
    return path


def test_a_text_is_learned_from_and_written_on(capsys: pytest.CaptureFixture[str]) -> None:
    Path("book.txt").write_text("to be or not to be, that is the question. " * 60)
    Path("prompt.txt").write_text("to be or")
    for model in ("transformer", "lstm_language_model"):
        run = f"runs/{model}"
        options = ["--context", "16", "--epochs", "2", "--run-dir", run]
        assert main(["train", "book.txt", "--model", model, *options]) == 0
        capsys.readouterr()
        assert main(["evaluate", run]) == 0
        assert " bits " in capsys.readouterr().out
        written = []
        for seed in ("1", "1", "2"):
            assert main(["predict", run, "prompt.txt", "--count", "40", "--seed", seed]) == 0
            written.append(capsys.readouterr().out)
        assert written[0] == written[1] != written[2]
        assert written[0].startswith("to be or")
        assert len(written[0]) == len("to be or") + 40 + 1
    Path("prompt.txt").write_text("")
    assert "prompt.txt is empty" in complaint(capsys, "predict", "runs/transformer", "prompt.txt")
    Path("prompt.txt").write_text("to bé", encoding="utf-8")
    assert "'é' (character 4) is not in the vocabulary" in complaint(capsys, "predict", "runs/transformer", "prompt.txt")


def test_the_curves_of_a_resumed_run_go_on(tmp_path: Path) -> None:
    assert main(["train", "moons", "--epochs", "1", "--tensorboard"]) == 0
    assert main(["train", "moons", "--epochs", "2", "--resume"]) == 0
    assert len(list(Path("runs/moons/tensorboard").iterdir())) == 2


# Pictures


def drawn(path: Path, *, dark: bool = False, size: int = 8, mode: str = "L") -> Path:
    """The first test image of the digits, a 0, as a file."""
    image = cr.data.digits("test").take([0])[0][0, :, :, 0]
    pixels = np.kron(image, np.ones((size // 8, size // 8))) * 255
    pixels = np.pad(pixels, size // 2) if size > 8 else pixels
    Image.fromarray((255 - pixels if dark else pixels).astype(np.uint8)).convert(mode).save(path)
    return path


def test_a_picture_is_read_as_the_network_was_taught(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = read_image(drawn(tmp_path / "same.png"), (8, 8, 1))
    assert np.allclose(same, cr.data.digits("test").take([0])[0][0], atol=1 / 255)
    # Larger, dark on light, with a border, coloured: the same drawing.
    for number, options in enumerate(({}, {"dark": True}, {"dark": True, "mode": "RGB"}, {"mode": "RGBA"})):
        found = read_image(drawn(tmp_path / f"{number}.png", size=64, **options), (8, 8, 1))
        assert found.shape == (8, 8, 1)
        assert float(np.corrcoef(found.ravel(), same.ravel())[0, 1]) > 0.75
    capsys.readouterr()
    assert main(["predict", str(trained), str(tmp_path / "same.png"), "--top", "10"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} == set("0123456789")
    shares = [float(line.split()[1].rstrip("%")) for line in lines]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=1)


def test_sixteen_bits_are_not_cut_off(tmp_path: Path) -> None:
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    assert np.allclose(read_image(tmp_path / "deep.png", (8, 8, 1))[:, :, 0], pixels / 65535, atol=1 / 128)


def test_a_network_that_tells_no_classes_predicts_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "digits", "--model", "autoencoder", "--epochs", "1", "--batch-size", "700"]) == 0
    capsys.readouterr()
    assert "does not tell classes" in complaint(capsys, "predict", "runs/digits", str(drawn(tmp_path / "same.png")))


def test_what_is_no_picture_is_told(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "note.png").write_text("no picture")
    assert "cannot be read as an image" in complaint(capsys, "predict", str(trained), str(tmp_path / "note.png"))
    assert "does not exist" in complaint(capsys, "predict", str(trained), str(tmp_path / "none.png"))
    cut = drawn(tmp_path / "cut.png", size=64)
    cut.write_bytes(cut.read_bytes()[:-40])
    assert "cannot be read as an image" in complaint(capsys, "predict", str(trained), str(cut))
    assert main(["train", "moons", "--epochs", "1", "--run-dir", "points"]) == 0
    capsys.readouterr()
    assert "was trained on values" in complaint(capsys, "predict", "points", str(cut))
