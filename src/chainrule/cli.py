"""The command ``chainrule``: train a network on real data, and see how good it is.

What a user can get wrong is told in one line on standard error, with exit code 2; an interrupted run ends
with code 130 after saying how to go on.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from chainrule import nn
from chainrule.core.errors import ChainruleError, DataError
from chainrule.data import Dataset, digits, mnist
from chainrule.training import Interrupted, Progress, RunFolder, evaluate, fit
from chainrule.training.blas import blas_threads
from chainrule.training.progress import as_time, as_words
from chainrule.training.run import AGAIN

USAGE_ERROR, INTERRUPTED = 2, 130
RUNS = Path("runs")

_EXAMPLES = """examples:
  chainrule train digits                                train on 1,442 real 8x8 digits, some seconds
  chainrule train mnist --data-dir ~/mnist --epochs 3   train on the MNIST files in a folder
  chainrule train digits --resume --run-dir runs/digits go on where Ctrl-C stopped
  chainrule evaluate runs/digits                        measure a trained network on the test images
  chainrule list                                        data sets and runs
"""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained on a data set if nothing else is asked for."""

    summary: str
    load: Callable[[argparse.Namespace, str], Dataset]
    needs_folder: bool
    model: Callable[[], nn.Layer]
    epochs: int
    batch_size: int
    lr: float


def _convolutional(filters: tuple[int, int], kernel_size: int, padding: str, units: int, dropouts: tuple[float, float], name: str) -> nn.Layer:
    """Two convolutions, each pooled to half the size, and a hidden layer."""
    given: dict[str, Any] = {"padding": padding, "kernel_initializer": "he_uniform"}
    first, second = (nn.Conv2D(count, kernel_size, **given) for count in filters)
    # ReLU commutes with the maximum: after pooling it gives the same values with a quarter of the work.
    images = [first, nn.MaxPooling2D(2), nn.ReLU(), second, nn.MaxPooling2D(2), nn.ReLU(), nn.Dropout(dropouts[0])]
    hidden = nn.Dense(units, activation="relu", kernel_initializer="he_uniform")
    return nn.Sequential([*images, nn.Flatten(), hidden, nn.Dropout(dropouts[1]), nn.Dense(10)], name=name)


RECIPES: dict[str, Recipe] = {
    "digits": Recipe(
        summary="1,797 handwritten digits of 8x8 pixels, carried by scikit-learn",
        load=lambda given, split: digits(split),
        needs_folder=False,
        model=lambda: _convolutional((32, 64), 3, "same", 64, (0.25, 0.4), "digits"),
        epochs=30,
        batch_size=32,
        lr=1e-3,
    ),
    "mnist": Recipe(
        summary="70,000 handwritten digits of 28x28 pixels, read from the files in --data-dir",
        load=lambda given, split: mnist(given.data_dir, split),
        needs_folder=True,
        model=lambda: _convolutional((16, 32), 5, "valid", 128, (0.2, 0.3), "mnist"),
        epochs=3,
        batch_size=100,
        lr=2e-3,
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process if not given.
    """
    given = _parser().parse_args(arguments)
    try:
        # These networks are small: see blas_threads.
        with blas_threads(1):
            given.command(given)
    except Interrupted as stopped:
        _complain(f"\n{stopped}\nto go on: {_resume_command(given)}")
        return INTERRUPTED
    except KeyboardInterrupt:
        _complain("\ninterrupted")
        return INTERRUPTED
    except ChainruleError as error:
        _complain(f"chainrule: error: {_one_line(error)}")
        return USAGE_ERROR
    except BrokenPipeError:
        return 0
    return 0


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "chainrule", description="Networks that learn, on computational graphs that can be looked through.", epilog=_EXAMPLES, formatter_class=plain
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train a network and leave a run folder",
        description="Train a network; the run folder holds settings, metrics, weights, checkpoint and a picture of the loss.",
        epilog=_EXAMPLES,
        formatter_class=plain,
    )
    train.add_argument("data", choices=RECIPES, help="the data set")
    train.add_argument("--data-dir", type=Path, metavar="DIR", help="the folder that holds its files")
    train.add_argument("--epochs", type=_count, metavar="N", help="passes over the training images")
    train.add_argument("--batch-size", type=_count, metavar="N", help="images per step")
    train.add_argument("--lr", type=_positive, metavar="RATE", help="the learning rate")
    train.add_argument("--seed", type=_seed, metavar="N", help="of all randomness (0 if not given)")
    train.add_argument("--run-dir", type=Path, metavar="DIR", help="the run folder (runs/DATA, or the next free name, if not given)")
    train.add_argument("--resume", action="store_true", help="go on from the run folder's checkpoint (the latest run's, if not given)")
    train.set_defaults(command=_train)

    measure = commands.add_parser("evaluate", help="measure a trained network on the test images", epilog=_EXAMPLES, formatter_class=plain)
    measure.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    measure.add_argument("--data-dir", type=Path, metavar="DIR", help="where the data set's files are now")
    measure.set_defaults(command=_evaluate)

    show = commands.add_parser("list", help="list data sets and runs", epilog=_EXAMPLES, formatter_class=plain)
    show.set_defaults(command=_list)
    return parser


def _train(given: argparse.Namespace) -> None:
    recipe = RECIPES[given.data]
    given.run_dir = _run_dir(given)
    settings = _settings(given, recipe)
    train, test = recipe.load(given, "train"), recipe.load(given, "test")
    _say(f"{given.data}: {len(train):,} training and {len(test):,} test images; run folder {given.run_dir}")
    history = fit(
        recipe.model(),
        train,
        test,
        run_dir=given.run_dir,
        resume=given.resume,
        progress=False,
        callbacks=[Progress(held_out="test")],
        about={"data": given.data, "data_dir": None if given.data_dir is None else str(given.data_dir)},
        **settings,
    )
    last = history.last
    right = round(last["validation_accuracy"] * len(test))
    after = f"after {last['epoch']} epochs, {as_time(last['seconds'])}"
    _say(f"test accuracy {last['validation_accuracy']:.2%} ({right:,} of {len(test):,}) {after}")
    _say(f"settings, metrics, weights and picture: {given.run_dir}")


def _settings(given: argparse.Namespace, recipe: Recipe) -> dict[str, Any]:
    """Arguments of the command line, then those of the run that is resumed, then the recipe's."""
    before: dict[str, Any] = {}
    if given.resume:
        config = RunFolder.open(given.run_dir).read_config()
        if config.get("data") != given.data:
            raise DataError(
                f"{given.run_dir} is a run on {config.get('data')}, not {given.data}", mend=f"chainrule train {config.get('data')} --resume"
            )
        if given.data_dir is None and config.get("data_dir"):
            given.data_dir = Path(str(config["data_dir"]))
        before = {**config, "lr": config["optimizer"]["groups"][0]["lr"]}
    if recipe.needs_folder and given.data_dir is None:
        raise DataError(f"{given.data} is read from files", mend="say in which folder they are: --data-dir DIR")
    wanted = {"epochs": recipe.epochs, "batch_size": recipe.batch_size, "lr": recipe.lr, "seed": 0}
    return {name: _first(getattr(given, name), before.get(name), default) for name, default in wanted.items()}


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _run_dir(given: argparse.Namespace) -> Path:
    """The folder asked for; else the latest run on this data to resume, or a new name."""
    if given.run_dir is not None:
        return given.run_dir
    if not given.resume:
        names = (given.data if number == 1 else f"{given.data}-{number}" for number in count(1))
        return next(path for path in (RUNS / name for name in names) if not path.exists())
    left = [path for path in _runs() if (path / "checkpoint.safetensors").exists() and _data_of(path) == given.data]
    if not left:
        raise DataError(f"there is no run on {given.data} to resume in {RUNS}/", mend="say which with --run-dir")
    return left[-1]


def _data_of(run: Path) -> Any:
    """What a run was trained on; None if it does not say, or cannot any more."""
    try:
        return RunFolder(run).read_config().get("data")
    except DataError:
        return None


def _runs() -> list[Path]:
    """Run folders under their usual place, the latest last."""
    found = [path.parent for path in RUNS.glob("*/config.json")]
    return sorted(found, key=lambda path: (path / "config.json").stat().st_mtime)


def _resume_command(given: argparse.Namespace) -> str:
    return shlex.join(["chainrule", "train", given.data, "--resume", "--run-dir", str(given.run_dir)])


def _evaluate(given: argparse.Namespace) -> None:
    folder = RunFolder.open(given.run)
    config = folder.read_config()
    recipe = RECIPES.get(str(config.get("data")))
    if recipe is None:
        raise DataError(
            f"{given.run} is a run on {config.get('data')}, which this command does not know", mend="measure it with chainrule.training.evaluate"
        )
    given.data_dir = _first(given.data_dir, config.get("data_dir"), "")
    test = recipe.load(given, "test")
    model = nn.deserialize(config["model"])
    if not isinstance(model, nn.Layer):
        raise DataError(f"{folder.config_path} is damaged: it describes no model", mend=AGAIN)
    model.initialize((1, *test.input_shape)).load_state_dict(folder.read_weights())
    measured = evaluate(model, test, loss=config["loss"], metrics=config["metrics"])
    _say("   ".join(as_words(f"validation_{name}", value, "test") for name, value in measured.items()) + f"   ({len(test):,} images)")


def _list(given: argparse.Namespace) -> None:
    _say("data sets:")
    for name, recipe in RECIPES.items():
        _say(f"  {name:<10} {recipe.summary}")
    _say("runs:" if _runs() else f"runs: none in {RUNS}/")
    for path in _runs():
        _say(f"  {path!s:<20} {_summary(RunFolder(path))}")


def _summary(folder: RunFolder) -> str:
    try:
        config, records = folder.read_config(), folder.read_metrics()
    except DataError as error:
        return f"damaged: {_one_line(error)}"
    epochs = [record for record in records if record["kind"] == "epoch"]
    if not epochs:
        return f"{config.get('data')}, no epoch of {config.get('epochs')} done"
    measured = [as_words(name, value, "test") for name, value in epochs[-1].items() if name.startswith("validation_") and value is not None]
    return "   ".join([f"{config.get('data')}, {epochs[-1]['epoch']} of {config.get('epochs')} epochs", *measured])


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def _one_line(error: ChainruleError) -> str:
    text = error.what + (f" (in layer {error.layer})" if error.layer else "") + (f"; {error.mend}" if error.mend else "")
    return "; ".join(line.strip() for line in text.splitlines()).replace(":;", ":")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _complain(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
