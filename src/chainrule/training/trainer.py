"""Trainer: the loop that turns data into weights, and can be left at any step and taken up again.

What going on depends on is one `Position`, the model's and the optimizer's states, and the random state; a
checkpoint holds them all, so a resumed run is, bit for bit, the run that was never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from chainrule.core.errors import ArgumentError, ChainruleError, DataError
from chainrule.data import DataLoader
from chainrule.nn import losses
from chainrule.nn.layer import Layer
from chainrule.ops.generator import default_generator
from chainrule.optim import Optimizer
from chainrule.tensor import Tensor
from chainrule.training.evaluation import Means, measure, measured, measures
from chainrule.training.run import AGAIN, Record, RunFolder
from chainrule.training.signals import Interrupted, StopRequest

_LOGGED_PER_EPOCH = 100


@dataclass
class Position:
    """Where a run is: whole epochs done, batches done of the next one, and the means over those batches.

    Attributes
    ----------
    epoch, batch : int
        How many are done.
    step : int
        Batches done since the beginning.
    seconds : float
        Spent on training.
    means : Means
        Of the loss and the metrics, over the batches of the epoch in progress.

    Examples
    --------
    >>> import chainrule as cr
    >>> position = cr.training.Position(epoch=2, step=90)
    >>> position.next_epoch(); position.epoch
    3
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    means: Means = field(default_factory=Means)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Position:
        """The position that `asdict` wrote; TypeError, ValueError or KeyError if it is none."""
        means = Means(int(data["means"]["examples"]), {str(name): float(total) for name, total in data["means"]["sums"].items()})
        return cls(int(data["epoch"]), int(data["batch"]), int(data["step"]), float(data["seconds"]), means)

    def next_step(self, values: Mapping[str, float], count: int) -> None:
        self.batch += 1
        self.step += 1
        self.means.add(values, count)

    def next_epoch(self) -> None:
        self.epoch += 1
        self.batch = 0
        self.means = Means()


class Callback:
    """What is told how a run goes; every method may be left out.

    Examples
    --------
    >>> import chainrule as cr
    >>> class Losses(cr.training.Callback):
    ...     def epoch(self, trainer, record):
    ...         print(record["epoch"], record["loss"] < 2)
    >>> model = cr.nn.Sequential([cr.nn.Flatten(), cr.nn.Dense(10)])
    >>> _ = cr.training.fit(model, cr.data.digits("train"), lr=0.01, epochs=2, progress=False, callbacks=[Losses()])
    1 True
    2 True
    """

    def begin(self, trainer: Trainer) -> None:
        """Before the first step."""

    def step(self, trainer: Trainer) -> None:
        """After every step."""

    def epoch(self, trainer: Trainer, record: Record) -> None:
        """After every epoch, with its line of the metrics."""

    def end(self, trainer: Trainer) -> None:
        """When training is over, however it ended."""


class Trainer:
    """A model, a loss and an optimizer, and how far they have come.

    Parameters
    ----------
    model : Layer
    optimizer : Optimizer
    loss : str or callable
    metrics : sequence of str, optional
        Those that go with the loss if not given.
    callbacks : sequence of Callback

    Attributes
    ----------
    position : Position
    records : list of dict
        The lines of the metrics so far.
    epochs, batches : int
        Of the run in progress: how many epochs it has, and how many batches an epoch.

    Examples
    --------
    >>> import chainrule as cr
    >>> model = cr.nn.Sequential([cr.nn.Flatten(), cr.nn.Dense(10)])
    >>> trainer = cr.training.Trainer(model, cr.optim.Adam(model.parameters()))
    >>> batch = next(iter(cr.data.DataLoader(cr.data.digits("train"), 32)))
    >>> loss, outputs = trainer.step(*batch)
    >>> outputs.shape
    (32, 10)
    """

    def __init__(
        self,
        model: Layer,
        optimizer: Optimizer,
        *,
        loss: losses.Loss | str = "softmax_cross_entropy",
        metrics: Sequence[str] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.loss = losses.fetch(loss)
        self.metrics = measures(loss, metrics)
        self.callbacks = callbacks
        self.position = Position()
        self.records: list[Record] = []
        self.epochs = self.batches = 0

    def step(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """One step on a batch of inputs and, last, targets: the loss and the outputs, both from before the step."""
        *inputs, targets = batch
        self.optimizer.zero_grad()
        outputs = self.model(*inputs)
        loss = self.loss(outputs, targets)
        loss.backward()
        self.optimizer.step()
        return loss.detach(), outputs.detach()

    def run(self, train: DataLoader, validation: DataLoader | None, epochs: int, folder: RunFolder | None = None) -> None:
        """Train up to this number of epochs, from wherever the run is.

        Raises
        ------
        Interrupted
            On Ctrl-C or SIGTERM, if there is a folder: after a checkpoint.
        """
        self.epochs, self.batches = epochs, len(train)
        if not self.batches:
            raise ArgumentError("there is not one batch to train on", mend="use a smaller batch_size, or drop_last=False")
        keeper = _Keeper(self, folder)
        if not self.position.step:
            keeper.save()
        self._tell("begin")
        try:
            with keeper:
                while self.position.epoch < epochs:
                    self._epoch(train, keeper)
                    self._finish_epoch({} if validation is None else self._validate(validation, keeper), keeper)
        finally:
            self._tell("end")

    def _epoch(self, train: DataLoader, keeper: _Keeper) -> None:
        position = self.position
        every = -(-self.batches // _LOGGED_PER_EPOCH)
        self.model.train()
        train.load_state_dict({"epoch": position.epoch, "position": position.batch, "seed": train.seed})
        for batch in train:
            loss, outputs = self.step(*batch)
            value = loss.item()
            position.next_step({"loss": value, **measure(self.metrics, outputs, batch[-1])}, len(batch[-1]))
            if position.step % every == 0:
                self.records.append({"kind": "step", "epoch": position.epoch + 1, "step": position.step, "loss": value})
            keeper.tick()
            self._tell("step")
            keeper.stop_if_asked()

    def _validate(self, validation: DataLoader, keeper: _Keeper) -> dict[str, float]:
        means = Means()
        for values, count in measured(self.model, self.loss, self.metrics, validation):
            means.add(values, count)
            keeper.tick()
            keeper.stop_if_asked()
        return {f"validation_{name}": value for name, value in means.values().items()}

    def _finish_epoch(self, measurements: Mapping[str, float], keeper: _Keeper) -> None:
        position = self.position
        record: Record = {"kind": "epoch", "epoch": position.epoch + 1, "step": position.step, **position.means.values(), **measurements}
        record |= {"lr": self.optimizer.lr, "seconds": round(position.seconds, 3)}
        self.records.append(record)
        position.next_epoch()
        keeper.save()
        for callback in self.callbacks:
            callback.epoch(self, record)

    def save(self, folder: RunFolder) -> None:
        """Write metrics, picture, weights, and lastly the checkpoint, which alone decides where a resumed run begins."""
        state = self.model.state_dict()
        folder.write_metrics(self.records)
        folder.draw(self.records, title=folder.path.name)
        folder.write_weights(state)
        optimizer = self.optimizer.state_dict()
        arrays = {f"model/{name}": value for name, value in state.items()}
        arrays |= {f"optimizer/{place}/{name}": value for place, slots in optimizer["state"].items() for name, value in slots.items()}
        arrays["random"] = default_generator.get_state()
        folder.write_checkpoint(arrays, {"version": 1, "position": asdict(self.position), "optimizer": optimizer["groups"]})

    def load(self, folder: RunFolder) -> None:
        """Take up the run where its checkpoint was written.

        Raises
        ------
        DataError, LayerError, ArgumentError
            If there is no checkpoint, or it does not fit the model or the optimizer.
        """
        arrays, data = folder.read_checkpoint()
        try:
            self._take(arrays, data)
        except ChainruleError:
            raise
        except KeyError as error:
            raise DataError(f"{folder.checkpoint_path} is damaged: it has no {error}", mend=AGAIN) from None
        except (AttributeError, TypeError, ValueError) as error:
            raise DataError(f"{folder.checkpoint_path} is damaged: {error}", mend=AGAIN) from None
        reached = {"step": self.position.step, "epoch": self.position.epoch}
        self.records = [record for record in folder.read_metrics() if record[record["kind"]] <= reached[record["kind"]]]

    def _take(self, arrays: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        position = Position.of(data["position"])
        self.model.load_state_dict({name.removeprefix("model/"): value for name, value in arrays.items() if name.startswith("model/")})
        slots: dict[str, dict[str, Any]] = {}
        for name, value in arrays.items():
            if name.startswith("optimizer/"):
                _, place, slot = name.split("/")
                slots.setdefault(place, {})[slot] = value
        self.optimizer.load_state_dict({"state": slots, "groups": data["optimizer"]})
        default_generator.set_state(arrays["random"])
        self.position = position

    def _tell(self, event: str) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self)


class _Keeper:
    """Keeps a run: its time, its folder if it has one, and requests to stop."""

    def __init__(self, trainer: Trainer, folder: RunFolder | None) -> None:
        self._trainer = trainer
        self._folder = folder
        self._request = StopRequest()
        self._last = time.perf_counter()

    def __enter__(self) -> None:
        # Without a folder there is nothing to save, and a signal does what it always does.
        if self._folder is not None:
            self._request.__enter__()
        self._last = time.perf_counter()

    def __exit__(self, *exc: object) -> None:
        self._request.__exit__(*exc)

    def tick(self) -> None:
        """Count the time since the last tick."""
        now = time.perf_counter()
        self._trainer.position.seconds += now - self._last
        self._last = now

    def save(self) -> None:
        if self._folder is not None:
            self._trainer.save(self._folder)

    def stop_if_asked(self) -> None:
        if not self._request.requested:
            return
        self.save()
        at = self._trainer.position
        where = f"step {at.step} (epoch {at.epoch + 1}, batch {at.batch} of {self._trainer.batches})"
        raise Interrupted(f"stopped after {where}; the checkpoint is in {self._folder.path if self._folder else None}")
