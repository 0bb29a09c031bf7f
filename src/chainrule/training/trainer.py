"""Trainer: the loop that turns data into weights, and can be left at any step and taken up again.

What going on depends on is written in `checkpoint`; a resumed run is, bit for bit, the run that was never stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from math import isfinite

from chainrule.core.errors import ArgumentError
from chainrule.data import DataLoader
from chainrule.nn import losses
from chainrule.nn.layer import Layer
from chainrule.optim import Optimizer
from chainrule.optim.schedules import Plateau, Schedule
from chainrule.training import checkpoint
from chainrule.training.callbacks import Callback
from chainrule.training.divergence import check_parameters, loss_diverged
from chainrule.training.evaluation import measures
from chainrule.training.keeper import Keeper
from chainrule.training.metrics import Metric
from chainrule.training.position import Means, Position
from chainrule.training.run import Record, RunFolder
from chainrule.training.steps import Batch, Forward, Measure, Step, examples, groups, numbers

_LOGGED_PER_EPOCH = 100


class Trainer:
    """A model, a loss and an optimizer, and how far they have come.

    Parameters
    ----------
    model : Layer
    optimizer : Optimizer
    loss : str or callable
        A callable takes the outputs and the targets and returns the mean over the batch.
    metrics : sequence of str or callable, optional
        Those that go with the loss if not given.
    schedule : Schedule, optional
        Made for the optimizer; stepped after each of its steps, a `Plateau` after each epoch with the validation loss.
    clip_norm, clip_value : float, optional
        What the gradient's norm, and the absolute value of its elements, are limited to.
    accumulate : int
        Batches to a step; it is the step that one batch of all their examples would give.
    compile : bool
        Compile the step and the measuring.
    callbacks : sequence of Callback

    Attributes
    ----------
    position : Position
    records : list of dict
        The lines of the metrics so far.
    epochs, steps : int
        Of the run in progress: how many epochs it has, and how many steps an epoch.
    data : DataLoader or None
        What it is trained on.
    folder : RunFolder or None
    stopped : str
        Why training ends before its last epoch; '' if it does not.

    Examples
    --------
    >>> import chainrule as cr
    >>> model = cr.nn.Sequential([cr.nn.Flatten(), cr.nn.Dense(10)])
    >>> trainer = cr.training.Trainer(model, cr.optim.Adam(model.parameters()))
    >>> batch = next(iter(cr.data.DataLoader(cr.data.digits("train"), 32)))
    >>> sorted(trainer.step(batch))
    ['accuracy', 'loss']
    """

    def __init__(
        self,
        model: Layer,
        optimizer: Optimizer,
        *,
        loss: losses.Loss | str = "softmax_cross_entropy",
        metrics: Sequence[str | Metric] | None = None,
        schedule: Schedule | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        accumulate: int = 1,
        compile: bool = False,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        if accumulate < 1:
            raise ArgumentError(f"accumulate={accumulate}", mend="it must be at least 1")
        for name, limit in (("clip_norm", clip_norm), ("clip_value", clip_value)):
            if limit is not None and not 0 < limit < float("inf"):
                raise ArgumentError(f"{name}={limit}", mend="it must be a finite number above 0")
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.accumulate = accumulate
        self.callbacks = callbacks
        self.metrics = measures(loss, metrics)
        forward = Forward(model, losses.fetch(loss), self.metrics)
        self._step = Step(forward, optimizer, clip_norm=clip_norm, clip_value=clip_value, compile=compile)
        self._measure = Measure(forward, compile=compile)
        self.position = Position()
        self.records: list[Record] = []
        self.folder: RunFolder | None = None
        self.epochs = self.steps = 0
        self.stopped = ""
        self.data: DataLoader | None = None
        self._keeper = Keeper(self)
        self._last_loss: float | None = None

    def step(self, *batches: Batch) -> dict[str, float]:
        """One step on a batch of inputs and, last, targets, or on several together: what was measured before the step."""
        return self._measured(batches).values()

    def _measured(self, group: Sequence[Batch]) -> Means:
        means = Means()
        for batch, values in zip(group, self._step(group), strict=True):
            means.add(numbers(values), examples(batch))
        return means

    def run(self, train: DataLoader, validation: DataLoader | None, epochs: int, folder: RunFolder | None = None) -> None:
        """Train up to this number of epochs, from wherever the run is; the model is left in evaluation mode.

        Raises
        ------
        Interrupted
            On Ctrl-C or SIGTERM, if there is a folder: after a checkpoint.
        DivergedError
            If the loss or a parameter is not finite any more; nothing is saved then.
        DataError
            If another run is going on in the folder, or it cannot be written to.
        """
        if not len(train):
            raise ArgumentError("there is not one batch to train on", mend="use a smaller batch_size, or drop_last=False")
        self.epochs, self.steps, self.folder, self.stopped = epochs, -(-len(train) // self.accumulate), folder, ""
        self.data = train
        with nullcontext() if folder is None else folder.alone():
            try:
                with self._keeper:
                    self._tell("begin")
                    if not self.position.step:
                        self._keeper.save()
                    while not self.done:
                        self._epoch(train)
                        self._finish_epoch({} if validation is None else self._validate(validation))
                        self._keeper.stop_if_asked()
            finally:
                self.model.eval()
                self._tell("end")
            if folder is not None:
                # A callback may have taken the best ones back.
                folder.write_weights(self.model.state_dict())

    @property
    def done(self) -> bool:
        """Whether all epochs are done, or training was stopped for good."""
        return self.position.epoch >= self.epochs or bool(self.stopped)

    @property
    def where(self) -> str:
        """The last step that was done, in words."""
        at = self.position
        return f"step {at.step} (epoch {at.epoch + 1}, batch {at.batch} of {0 if self.data is None else len(self.data)})"

    def stop(self, why: str) -> None:
        """Let training end after the epoch in progress, or at once if none is."""
        self.stopped = why

    def ask_to_save(self) -> None:
        """Let a checkpoint be written as soon as all callbacks have been told of the step."""
        self._keeper.ask_to_save()

    def _epoch(self, train: DataLoader) -> None:
        position = self.position
        every = -(-self.steps // _LOGGED_PER_EPOCH)
        self.model.train()
        # Said anew each time, so that a pass over the same loader elsewhere changes nothing.
        train.load_state_dict({**train.state_dict(), "epoch": position.epoch, "position": position.batch})
        # Closed on any way out, so that no thread goes on making batches.
        with closing(groups(train, self.accumulate)) as steps:
            for group in steps:
                loss = self._advance(group)
                if position.step % every == 0:
                    self.records.append({"kind": "step", "epoch": position.epoch + 1, "step": position.step, "loss": loss})
                self._keeper.tick()
                self._tell("step")
                self._keeper.save_if_due()
                self._keeper.stop_if_asked()

    def _advance(self, group: Sequence[Batch]) -> float:
        """One step of the run; its loss."""
        position, means = self.position, self._measured(group)
        position.next_step(len(group))
        loss = means.values()["loss"]
        if not isfinite(loss):
            raise loss_diverged(loss, self.where, self._last_loss, self.optimizer.lr)
        self._last_loss = loss
        position.means.join(means)
        if self.schedule is not None and not isinstance(self.schedule, Plateau):
            self.schedule.step()
        return loss

    def _validate(self, validation: DataLoader) -> dict[str, float]:
        means = Means()
        with closing(self._measure(validation)) as batches:
            for values, count in batches:
                means.add(values, count)
                self._keeper.tick()
                self._keeper.stop_if_asked()
        return {f"validation_{name}": value for name, value in means.values().items()}

    def _finish_epoch(self, measurements: Mapping[str, float]) -> None:
        position = self.position
        record: Record = {"kind": "epoch", "epoch": position.epoch + 1, "step": position.step, **position.means.values(), **measurements}
        if isinstance(self.schedule, Plateau):
            self.schedule.step(record.get("validation_loss", record["loss"]))
        record |= {"lr": self.optimizer.lr, "seconds": round(position.seconds, 3)}
        self.records.append(record)
        position.next_epoch()
        for callback in self.callbacks:
            callback.epoch(self, record)
        self._keeper.save()

    def check_finite(self) -> None:
        """Refuse parameters that are not finite.

        Raises
        ------
        DivergedError
        """
        check_parameters(self.model.named_parameters(), self.where, self.optimizer.lr)

    def save(self, folder: RunFolder) -> None:
        """Write the metrics, then the checkpoint, which alone decides where a resumed run begins, and what follows from both.

        Raises
        ------
        DivergedError
            If a parameter is not finite; nothing is written then.
        """
        self.check_finite()
        # Lines ahead of the checkpoint are left out by `load`; lines that lack could not be made up.
        folder.write_metrics(self.records)
        checkpoint.save(self, folder)
        folder.write_weights(self.model.state_dict())
        folder.draw(self.records, title=folder.path.name)

    def load(self, folder: RunFolder, train: DataLoader) -> None:
        """Take up the run, on this data, where its checkpoint was written; `run` goes on from there.

        Raises
        ------
        DataError, LayerError, ArgumentError
            If there is no checkpoint, or it does not fit the model, the optimizer, the schedule or the callbacks.
        """
        self.data = train
        checkpoint.load(self, folder)
        reached = {"step": self.position.step, "epoch": self.position.epoch}
        self.records = [record for record in folder.read_metrics() if record[record["kind"]] <= reached[record["kind"]]]

    def _tell(self, event: str) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self)
