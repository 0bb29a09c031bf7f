"""What the commands do: train, evaluate, predict, show."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from chainrule import nn, training
from chainrule.cli import networks, reporting, sources
from chainrule.cli.pictures import read_image
from chainrule.cli.sources import Facts, Request
from chainrule.core.errors import ChainruleError, DataError
from chainrule.data import Characters
from chainrule.data.files import read_text
from chainrule.ops.composite import softmax
from chainrule.training import EarlyStopping, Progress, RunFolder, TensorBoard, Watch, fit
from chainrule.training.progress import as_time, as_words
from chainrule.training.run import AGAIN
from chainrule.training.watch import FILE as WATCHED

RUNS = Path("runs")
_KEPT = ("batch_size", "seed", "schedule", "clip_norm", "accumulate", "compile")
"""Settings that a resumed run takes over from its folder."""


def train(given: argparse.Namespace) -> None:
    """Train a network on a data set, and leave a run folder."""
    given.data = sources.located(given.data)
    given.run_dir = _run_dir(given)
    before = _before(given)
    name = _first(given.model, before.get("network"), sources.source(given.data).network)
    request = Request(
        data=given.data,
        data_dir=_first(given.data_dir, before.get("data_dir")),
        download=given.download,
        seed=_first(given.seed, before.get("seed"), 0),
        target=_first(given.target, before.get("target")),
        classify=given.classify or bool(before.get("classify")),
        context=_first(given.context, before.get("context")),
    )
    learned, held_out, facts = sources.load(request)
    network, model = networks.build(name, facts)
    with networks.fitting(name, facts):
        # A twin: the model's own parameters are drawn from the run's seed.
        network.make(facts).initialize((1, *facts.input_shape), dtype=facts.dtype)
    settings = _settings(given, before, networks.settings(given.data, name, facts))
    patience = _first(given.patience, before.get("patience"))
    board = given.run_dir / "tensorboard"
    watched = given.report or (given.run_dir / WATCHED).is_file()
    _say(f"{given.data}: {len(learned):,} training and {len(held_out):,} test {_unit(facts)}; {name}; run folder {given.run_dir}")
    history = fit(
        model,
        network.targets(learned),
        network.targets(held_out),
        loss=network.losses[facts.kind],
        metrics=networks.metrics(network, facts),
        run_dir=given.run_dir,
        resume=given.resume,
        progress=False,
        callbacks=[
            Progress(held_out="test"),
            *([] if patience is None else [EarlyStopping(patience=patience)]),
            *([TensorBoard(board)] if given.tensorboard or board.is_dir() else []),
            *([Watch(), reporting.Units(network.losses[facts.kind], network.targets(held_out))] if watched else []),
        ],
        about={
            "data": given.data,
            "data_dir": None if request.data_dir is None else str(request.data_dir),
            "network": name,
            "target": request.target,
            "classify": request.classify,
            "context": request.context,
            "patience": patience,
            "facts": asdict(facts),
        },
        **settings,
    )
    last = history.last
    measured = {name: value for name, value in last.items() if name.startswith("validation_") and value is not None}
    shown = {name: value for name, value in measured.items() if name != "validation_loss"} or measured
    words = "   ".join(as_words(name, value, "test") for name, value in shown.items())
    _say(f"{words} after {last['epoch']} epochs, {as_time(last['seconds'])}")
    _say(f"settings, metrics, weights and picture: {given.run_dir}")
    if watched:
        _say(f"report: {reporting.report(given.run_dir, model, network.losses[facts.kind], network.targets(held_out))}")


def _before(given: argparse.Namespace) -> dict[str, Any]:
    """The settings of the run that is resumed; nothing for a new one."""
    if not given.resume:
        return {}
    config = RunFolder.open(given.run_dir).read_config()
    if config.get("data") != given.data:
        raise DataError(f"{given.run_dir} is a run on {config.get('data')}, not {given.data}", mend=f"chainrule train {config.get('data')} --resume")
    return config


def _settings(given: argparse.Namespace, before: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `fit`: those of the command line, then those of the run that is resumed, then the network's usual ones."""
    kept = {name: before[name] for name in ("epochs", *_KEPT) if name in before}
    if before:
        kept |= {"optimizer": before["optimizer"]["name"].lower(), "lr": before["optimizer"]["groups"][0]["lr"]}
    asked = {name: getattr(given, name, None) for name in ("epochs", "optimizer", "lr", *_KEPT)}
    if given.eager:
        asked["compile"] = False
    return {"seed": 0, "compile": True, **usual, **kept, **{name: value for name, value in asked.items() if value is not None}}


def _first(*values: Any) -> Any:
    """The first that is not None; None if all are."""
    return next((value for value in values if value is not None), None)


def _run_dir(given: argparse.Namespace) -> Path:
    """The folder asked for; else the latest run on this data to resume, or a new name."""
    if given.run_dir is not None:
        return given.run_dir
    if not given.resume:
        label = Path(given.data).stem or "run"
        names = (label if number == 1 else f"{label}-{number}" for number in count(1))
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


def resume_command(given: argparse.Namespace) -> str:
    """What goes on where an interrupted run stopped."""
    return shlex.join(["chainrule", "train", given.data, "--resume", *(["--report"] if given.report else []), "--run-dir", str(given.run_dir)])


def evaluate(given: argparse.Namespace) -> None:
    """Measure a run's network on the test data."""
    config, facts, model = _trained(given.run)
    told: dict[str, Any] = {name: config.get(name) for name in ("data", "seed", "target", "classify", "context")}
    request = Request(**told, data_dir=_first(given.data_dir, config.get("data_dir")), download=given.download)
    _, held_out, found = sources.load(request)
    if found != facts:
        raise DataError(f"{request.data} is not what {given.run} was trained on any more", mend="put it back as it was, or train anew")
    network = networks.network(config["network"])
    metrics = networks.metrics(network, facts)
    measured = training.evaluate(model, network.targets(held_out), loss=network.losses[facts.kind], metrics=metrics, compile=True)
    _say("   ".join(as_words(f"validation_{name}", value, "test") for name, value in measured.items()) + f"   ({len(held_out):,} {_unit(facts)})")


def _trained(run: Path) -> tuple[dict[str, Any], Facts, nn.Layer]:
    """A run's settings and facts, and its network with the weights that it learned."""
    folder = RunFolder.open(run)
    config = folder.read_config()
    try:
        facts = Facts.of(config.get("facts"))
    except TypeError:
        raise DataError(f"{run} is a run on {config.get('data')}, which this command does not know", mend="use chainrule.training") from None
    model = nn.deserialize(config["model"])
    if not isinstance(model, nn.Layer):
        raise DataError(f"{folder.config_path} is damaged: it describes no model", mend=AGAIN)
    model.initialize((1, *facts.input_shape), dtype=facts.dtype).load_state_dict(folder.read_weights())
    return config, facts, model.eval()


def predict(given: argparse.Namespace) -> None:
    """What a run's network makes of an image, or how its text goes on."""
    _, facts, model = _trained(given.run)
    if facts.kind == "images":
        _classify(given, facts, model)
    elif facts.kind == "text":
        _write_on(given, facts, model)
    else:
        raise DataError(f"{given.run} was trained on {facts.kind}, not on images or text", mend="use chainrule.training.predict")


def _classify(given: argparse.Namespace, facts: Facts, model: nn.Layer) -> None:
    image = read_image(given.file, facts.input_shape)
    outputs = training.predict(model, image[None])
    if outputs.shape != (1, facts.classes):
        raise DataError(f"the network of {given.run} does not tell classes", mend="use chainrule.training.predict")
    shares = np.asarray(softmax(outputs))[0]
    for label in np.argsort(-shares, kind="stable")[: given.top]:
        _say(f"{facts.class_names[label] if facts.class_names else label!s:<12} {shares[label]:.1%}")


def _write_on(given: argparse.Namespace, facts: Facts, model: Any) -> None:
    prompt = read_text(given.file)
    if not prompt:
        raise DataError(f"{given.file} is empty", mend="let it begin the text, with one character at least")
    vocabulary = Characters(facts.vocabulary)
    tokens = vocabulary.encode(prompt)
    written = model.generate(tokens[None], given.count, temperature=given.temperature, seed=given.seed)
    _say(prompt + vocabulary.decode(np.asarray(written)[0]))


def summary(given: argparse.Namespace) -> None:
    """The table of a network, by name or of a run."""
    if Path(given.model, "config.json").is_file():
        _, facts, model = _trained(Path(given.model))
    else:
        facts = networks.network(given.model).example
        changes = {"input_shape": given.input or facts.input_shape, "classes": given.classes or facts.classes}
        facts = replace(facts, **changes)
        _, model = networks.build(given.model, facts)
    with networks.fitting(given.model, facts):
        _say(str(model.summary((given.batch, *facts.input_shape), dtype=facts.dtype)))


def show(given: argparse.Namespace) -> None:
    """List data sets, networks and runs."""
    _say("data sets:")
    for name, source in sources.SOURCES.items():
        _say(f"  {name:<16} {source.summary}")
    _say("networks:")
    for name, network in networks.NETWORKS.items():
        _say(f"  {name:<22} {network.summary}")
    found = _runs()
    _say("runs:" if found else f"runs: none in {RUNS}/")
    width = max((len(str(path)) for path in found), default=0)
    for path in found:
        _say(f"  {path!s:<{width}}  {_told(RunFolder(path))}")


def _told(folder: RunFolder) -> str:
    """A run in one line."""
    try:
        config, records = folder.read_config(), folder.read_metrics()
    except DataError as error:
        return f"damaged: {one_line(error)}"
    what = f"{Path(str(config.get('data'))).name}, {config.get('network')}"
    epochs = [record for record in records if record["kind"] == "epoch"]
    if not epochs:
        return f"{what}, no epoch of {config.get('epochs')} done"
    measured = [as_words(name, value, "test") for name, value in epochs[-1].items() if name.startswith("validation_") and value is not None]
    return "   ".join([f"{what}, {epochs[-1]['epoch']} of {config.get('epochs')} epochs", *measured])


def one_line(error: ChainruleError) -> str:
    """An error without line breaks."""
    text = error.what + (f" (in layer {error.layer})" if error.layer else "") + (f"; {error.mend}" if error.mend else "")
    return "; ".join(line.strip() for line in text.splitlines()).replace(":;", ":")


def _unit(facts: Facts) -> str:
    return {"images": "images", "text": "windows of text"}.get(facts.kind, "examples")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
