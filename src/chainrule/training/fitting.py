"""fit: training in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chainrule.core.errors import ArgumentError, LayerError
from chainrule.data import DataLoader
from chainrule.nn import losses, serial
from chainrule.nn.layer import Layer
from chainrule.ops.generator import manual_seed
from chainrule.optim import Optimizer, get, schedules
from chainrule.optim.schedules import Schedule
from chainrule.training.callbacks import Callback
from chainrule.training.evaluation import Data, measures, name_of
from chainrule.training.metrics import Metric
from chainrule.training.progress import Progress
from chainrule.training.run import Record, RunFolder
from chainrule.training.trainer import Trainer


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
    stopped : str
        Why training ended before the last epoch, '' if it did not.

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
    stopped: str = ""

    @property
    def last(self) -> Record:
        """The last epoch's record."""
        return self.epochs[-1]


def fit(
    model: Layer,
    train: Data,
    validation: Data | None = None,
    *,
    loss: losses.Loss | str = "softmax_cross_entropy",
    optimizer: Optimizer | str = "adam",
    lr: float | None = None,
    schedule: Schedule | str | None = None,
    epochs: int = 1,
    batch_size: int = 32,
    seed: int = 0,
    metrics: Sequence[str | Metric] | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    about: Mapping[str, Any] | None = None,
    compile: bool = False,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    accumulate: int = 1,
) -> History:
    """Train a model; with a run folder, so that it can be stopped and taken up again.

    The model is trained in training mode and left in evaluation mode, as are `evaluate` and `predict`: what it gives afterwards are
    predictions.

    Parameters
    ----------
    model : Layer
    train : Dataset or DataLoader
        A Dataset is shuffled anew in each epoch; it may be anything that a DataLoader reads, such as ``(inputs, targets)``. A batch is
        inputs and, last, targets.
    validation : Dataset or DataLoader, optional
        Measured after each epoch.
    loss : str or callable
        A callable takes outputs and targets and returns the mean over the batch. The model's penalty is added to what is made smaller;
        what is reported as "loss" is without it, and "penalty" is reported beside it.
    optimizer : str or Optimizer
    lr : float, optional
        For an optimizer given by name; its own default if not given.
    schedule : str or Schedule, optional
        How the learning rate goes, by name, or made for ``optimizer``; by name it is made for all steps of the run, and made anew if the run is
        resumed with more epochs. It goes on after every step; a `Plateau` after every epoch, by the validation loss, or the loss if there is
        no validation data.
    epochs : int
    batch_size : int
        For Datasets.
    seed : int
        Of all randomness: `manual_seed` is called with it, and the order of the examples follows from it.
    metrics : sequence of str or callable, optional
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
    compile : bool
        Compile the whole step, and the measuring; the results are the same up to rounding. A smaller last batch is compiled for itself.
    clip_norm, clip_value : float, optional
        What the gradient's norm, and then the absolute value of its elements, are limited to.
    accumulate : int
        Batches to a step, whose gradients are averaged by numbers of examples: for a loss that is a mean, the step is that of one large
        batch. The rest of an epoch makes a last, smaller step.

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
    DivergedError
        If the loss or a parameter is not finite any more; the last checkpoint stays as it was.

    Examples
    --------
    >>> import chainrule as cr
    >>> from chainrule import nn
    >>> model = nn.Sequential([nn.Flatten(), nn.Dense(10)])
    >>> history = cr.training.fit(model, cr.data.digits("train"), lr=0.01, epochs=2, progress=False)
    >>> history.last["accuracy"] > 0.9
    True
    """
    if epochs < 1 or epochs != int(epochs):
        raise ArgumentError(f"fit: epochs={epochs}", mend="it must be a whole number, at least 1")
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
    options: dict[str, Any] = {"clip_norm": clip_norm, "clip_value": clip_value, "accumulate": accumulate, "compile": compile}
    config = {
        "format": 1,
        **(about or {}),
        "model": _described(model),
        "loss": name_of(loss),
        "metrics": list(measures(loss, metrics)),
        "optimizer": {"name": type(stepper).__name__, "groups": stepper.state_dict()["groups"]},
        "schedule": schedule if isinstance(schedule, str | None) else type(schedule).__name__,
        "batch_size": loader.batch_size,
        "examples": len(loader.dataset),
        "epochs": epochs,
        "seed": seed,
        **options,
    }
    trainer = Trainer(
        model,
        stepper,
        loss=loss,
        metrics=metrics,
        schedule=_made(schedule, stepper, epochs * -(-len(loader) // max(accumulate, 1))),
        callbacks=[*([Progress()] if progress else []), *callbacks],
        **options,
    )
    folder = None
    if run_dir is not None:
        folder = _taken_up(trainer, loader, Path(run_dir), config) if resume else RunFolder.create(run_dir, config)
    trainer.run(loader, held_out, epochs, folder)
    records = trainer.records
    steps, whole = ([record for record in records if record["kind"] == kind] for kind in ("step", "epoch"))
    return History(whole, steps, None if folder is None else folder.path, trainer.stopped)


def _made(schedule: Schedule | str | None, optimizer: Optimizer, steps: int) -> Schedule | None:
    """A schedule by name for this many steps; one that was made already must be the optimizer's."""
    if schedule is None:
        return None
    if isinstance(schedule, str):
        return schedules.get(schedule)(optimizer, steps)
    if schedule.optimizer is not optimizer:
        raise ArgumentError("fit: the schedule was made for another optimizer", mend="pass the same optimizer to both, or the schedule's name")
    return schedule


def _described(model: Layer) -> dict[str, Any]:
    try:
        return serial.serialize(model)
    except LayerError:
        return {"class": type(model).__name__}


def _taken_up(trainer: Trainer, train: DataLoader, path: Path, config: Mapping[str, Any]) -> RunFolder:
    folder = RunFolder.open(path)
    folder.check_same(config)
    with folder.alone():
        trainer.load(folder, train)
        if trainer.position.epoch < config["epochs"]:
            folder.write_config(config)
    return folder
