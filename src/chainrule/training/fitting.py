"""fit: training in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chainrule.core.errors import ArgumentError, LayerError
from chainrule.data import DataLoader, Dataset
from chainrule.nn import losses, serial
from chainrule.nn.layer import Layer
from chainrule.ops.generator import manual_seed
from chainrule.optim import Optimizer, get
from chainrule.training.progress import Progress
from chainrule.training.run import Record, RunFolder
from chainrule.training.trainer import Callback, Trainer


@dataclass(frozen=True)
class History:
    """What was measured while training.

    Attributes
    ----------
    epochs : list of dict
        For each epoch "loss" and the metrics, of the training data while it was learned from; the same with
        "validation_" in front; "lr" and "seconds" since the beginning.
    steps : list of dict
        Losses of single steps.
    run_dir : Path or None

    Examples
    --------
    >>> import chainrule as cr
    >>> model = cr.nn.Sequential([cr.nn.Flatten(), cr.nn.Dense(10)])
    >>> history = cr.training.fit(model, cr.data.digits("train"), progress=False)
    >>> len(history.epochs), sorted(history.last)[:3]
    (1, ['accuracy', 'epoch', 'kind'])
    """

    epochs: list[Record]
    steps: list[Record]
    run_dir: Path | None

    @property
    def last(self) -> Record:
        """The last epoch's record."""
        return self.epochs[-1]


def fit(
    model: Layer,
    train: Dataset | DataLoader,
    validation: Dataset | DataLoader | None = None,
    *,
    loss: losses.Loss | str = "softmax_cross_entropy",
    optimizer: Optimizer | str = "adam",
    lr: float | None = None,
    epochs: int = 1,
    batch_size: int = 32,
    seed: int = 0,
    metrics: Sequence[str] | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    about: Mapping[str, Any] | None = None,
) -> History:
    """Train a model; with a run folder, so that it can be stopped and taken up again.

    Parameters
    ----------
    model : Layer
    train : Dataset or DataLoader
        A Dataset is shuffled anew in each epoch.
    validation : Dataset or DataLoader, optional
        Measured after each epoch.
    loss : str or callable
    optimizer : str or Optimizer
    lr : float, optional
        For an optimizer given by name; its own default if not given.
    epochs : int
    batch_size : int
        For Datasets.
    seed : int
        Of all randomness: `manual_seed` is called with it, and the order of the examples follows from it.
    metrics : sequence of str, optional
        Those that go with the loss if not given.
    run_dir : path, optional
        Where settings, metrics, weights, checkpoint and a picture are left; see `RunFolder`.
    resume : bool
        Go on from the checkpoint in ``run_dir``; the result is, bit for bit, that of a run that was never stopped.
    progress : bool
        Show how it goes: a live bar in a terminal, else lines.
    callbacks : sequence of Callback
    about : mapping, optional
        More for the settings' file.

    Returns
    -------
    History

    Raises
    ------
    Interrupted
        On Ctrl-C or SIGTERM, after the checkpoint was written; only with ``run_dir``.
    DataError
        If ``run_dir`` holds a run already, or none to resume.
    ArgumentError
        If a run is resumed with other settings.

    Examples
    --------
    >>> import chainrule as cr
    >>> from chainrule import nn
    >>> model = nn.Sequential([nn.Flatten(), nn.Dense(10)])
    >>> history = cr.training.fit(model, cr.data.digits("train"), lr=0.01, epochs=2, progress=False)
    >>> history.last["accuracy"] > 0.9
    True
    """
    if epochs < 1:
        raise ArgumentError(f"fit: epochs={epochs}", mend="train at least one epoch")
    if resume and run_dir is None:
        raise ArgumentError("fit: resume without run_dir", mend="say which run to resume: run_dir=...")
    loader = train if isinstance(train, DataLoader) else DataLoader(train, batch_size, shuffle=True, seed=seed)
    held_out = validation if isinstance(validation, DataLoader) or validation is None else DataLoader(validation, max(batch_size, 128))
    manual_seed(seed)
    if any(True for _ in model._waiting()):
        *inputs, _ = next(iter(DataLoader(loader.dataset, 1)))
        model.initialize(*(x.shape for x in inputs), dtype=inputs[0].dtype)
    stepper = optimizer if isinstance(optimizer, Optimizer) else get(optimizer)(model.parameters(), **({} if lr is None else {"lr": lr}))
    if isinstance(optimizer, Optimizer) and lr is not None:
        stepper.lr = lr
    shown = [Progress()] if progress else []
    trainer = Trainer(model, stepper, loss=loss, metrics=metrics, callbacks=[*shown, *callbacks])
    folder = None
    if run_dir is not None:
        config = _settings(trainer, loader, loss, epochs, seed, about)
        folder = _taken_up(trainer, Path(run_dir), config) if resume else RunFolder.create(run_dir, config)
    trainer.run(loader, held_out, epochs, folder)
    records = trainer.records
    return History([r for r in records if r["kind"] == "epoch"], [r for r in records if r["kind"] == "step"], None if folder is None else folder.path)


def _taken_up(trainer: Trainer, path: Path, config: Mapping[str, Any]) -> RunFolder:
    folder = RunFolder.open(path)
    folder.check_same(config)
    trainer.load(folder)
    folder.write_config(config)
    return folder


def _settings(
    trainer: Trainer, loader: DataLoader, loss: losses.Loss | str, epochs: int, seed: int, about: Mapping[str, Any] | None
) -> dict[str, Any]:
    try:
        model = serial.serialize(trainer.model)
    except LayerError:
        model = {"class": type(trainer.model).__name__}
    optimizer = trainer.optimizer
    return {
        "format": 1,
        **(about or {}),
        "model": model,
        "loss": loss if isinstance(loss, str) else loss.__name__,
        "metrics": list(trainer.metrics),
        "optimizer": {"name": type(optimizer).__name__, "groups": optimizer.state_dict()["groups"]},
        "batch_size": loader.batch_size,
        "examples": len(loader.dataset),
        "epochs": epochs,
        "seed": seed,
    }
