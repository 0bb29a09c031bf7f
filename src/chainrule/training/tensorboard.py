"""TensorBoard's event files of a run; the only file that knows tensorboardX."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainrule.core.errors import MissingExtraError
from chainrule.training.callbacks import Callback
from chainrule.training.run import Record

if TYPE_CHECKING:
    from chainrule.training.trainer import Trainer

_NO_SCALARS = ("kind", "epoch", "step")


class TensorBoard(Callback):
    """Writes the metrics where ``tensorboard --logdir PATH`` finds them.

    A resumed run begins another event file, which says that it replaces the ones before it, and writes its earlier metrics once more: so
    the curves are those of the run that was never stopped, also where a killed process lost what it had not written yet.

    Parameters
    ----------
    path : path
        The folder of this run's event files.

    Raises
    ------
    MissingExtraError
        When training begins, if tensorboardX is not installed.

    Notes
    -----
    Against the number of steps: "loss/step" of the steps that are logged; after each epoch "loss/train" and "loss/validation", likewise
    the metrics, and "lr/train".

    Examples
    --------
    >>> import tempfile
    >>> import chainrule as cr
    >>> model = cr.nn.Sequential([cr.nn.Flatten(), cr.nn.Dense(10)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     board = cr.training.TensorBoard(folder)
    ...     _ = cr.training.fit(model, cr.data.digits("train"), progress=False, callbacks=[board])
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._writer: Any = None
        self._written = 0

    def begin(self, trainer: Trainer) -> None:
        try:
            from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingTypeStubs] - it has none
        except ImportError:
            raise MissingExtraError(
                "TensorBoard's files are written by tensorboardX, which is not installed", mend='pip install "chainrule[train]"'
            ) from None
        # Two files begun in the same second would else be one.
        suffix = f".{os.getpid()}.{trainer.position.step}"
        self._writer = SummaryWriter(str(self.path), purge_step=0, filename_suffix=suffix)
        self._written = 0
        self._catch_up(trainer)

    def step(self, trainer: Trainer) -> None:
        self._catch_up(trainer)

    def epoch(self, trainer: Trainer, record: Record) -> None:
        self._catch_up(trainer)
        self._writer.flush()

    def end(self, trainer: Trainer) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _catch_up(self, trainer: Trainer) -> None:
        for record in trainer.records[self._written :]:
            for tag, value in _scalars(record):
                self._writer.add_scalar(tag, value, record["step"])
        self._written = len(trainer.records)


def _scalars(record: Record) -> list[tuple[str, float]]:
    if record["kind"] == "step":
        return [("loss/step", record["loss"])]
    named = [(name, value) for name, value in record.items() if name not in _NO_SCALARS and value is not None]
    return [(f"{name.removeprefix('validation_')}/{'validation' if name.startswith('validation_') else 'train'}", value) for name, value in named]
