"""RunFolder: what a training run leaves on the disk, and takes up again.

============================ ==================================================================================
file                         what it holds
============================ ==================================================================================
``config.json``              the model and all settings
``metrics.jsonl``            a line per step that was logged and per epoch
``weights.safetensors``      parameters and buffers, as of the checkpoint; at the end as training leaves them
``best.safetensors``         those of the best epoch, if a `Checkpoint` was asked to keep them
``checkpoint.safetensors``   all that going on depends on
``loss.svg``                 loss and metrics as a picture
============================ ==================================================================================

Every file is written whole or not at all. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from chainrule.core.errors import ArgumentError, DataError
from chainrule.core.files import write_whole
from chainrule.training import store
from chainrule.training.files import alone
from chainrule.training.picture import draw

Record = dict[str, Any]

_MAY_CHANGE = ("epochs", "data_dir")
_VERSION = 2
AGAIN = "take an earlier copy, or train again"


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _are_options(value: Any) -> bool:
    groups = value.get("groups") if isinstance(value, dict) else None
    return isinstance(groups, list) and bool(groups) and all(isinstance(group, dict) and _is_number(group.get("lr")) for group in groups)


_SETTINGS: dict[str, Callable[[Any], bool]] = {
    "model": lambda value: isinstance(value, dict),
    "loss": lambda value: isinstance(value, str),
    "metrics": lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
    "batch_size": _is_count,
    "epochs": _is_count,
    "seed": lambda value: type(value) is int,
    "optimizer": _are_options,
}
"""What every run's settings hold, and in which form; what more there is belongs to who asked for it."""


def _is_record(line: Any) -> bool:
    """Whether a line of the metrics tells of a step or an epoch, in numbers."""
    if not isinstance(line, dict) or line.get("kind") not in ("step", "epoch") or not (_is_count(line.get("epoch")) and _is_count(line.get("step"))):
        return False
    return all(value is None or _is_number(value) for name, value in line.items() if name != "kind")


class RunFolder:
    """A folder of one training run.

    Parameters
    ----------
    path : path

    Examples
    --------
    >>> import tempfile
    >>> import chainrule as cr
    >>> model = cr.nn.Sequential([cr.nn.Flatten(), cr.nn.Dense(10)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = cr.training.fit(model, cr.data.digits("train"), run_dir=folder, progress=False)
    ...     run = cr.training.RunFolder.open(folder)
    ...     weights = run.read_weights()
    >>> sorted(weights)
    ['layers.1.bias', 'layers.1.kernel']
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_path = self.path / "config.json"
        self.metrics_path = self.path / "metrics.jsonl"
        self.weights_path = self.path / "weights.safetensors"
        self.best_path = self.path / "best.safetensors"
        self.checkpoint_path = self.path / "checkpoint.safetensors"
        self.picture_path = self.path / "loss.svg"

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any]) -> RunFolder:
        """A new run's folder, which may exist but must be empty, or of a run that died before its first checkpoint.

        Raises
        ------
        DataError
            If it holds anything, or cannot be made.
        """
        run = cls(path)
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            with run.alone():
                if any(run.path.iterdir()) and not run._is_stillborn():
                    what = "holds a run already" if run.config_path.exists() else "is not empty"
                    raise DataError(f"{run.path} {what}", mend="resume it, or choose another folder for this run")
                run.write_config(config)
        except OSError as error:
            raise DataError(f"{run.path} cannot be made a run folder: {error.strerror}", mend="choose another folder") from None
        return run

    def alone(self) -> AbstractContextManager[None]:
        """Inside the block no other run is going on in the folder; DataError if one is."""
        return alone(self.path)

    def _is_stillborn(self) -> bool:
        """Whether the folder holds a run's settings, and nothing else that was ever measured or learned."""
        names = {path.name for path in self.path.iterdir()}
        alone = names <= {self.config_path.name, self.metrics_path.name}
        return alone and self.config_path.name in names and not (self.metrics_path.exists() and self.metrics_path.stat().st_size)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run's folder.

        Raises
        ------
        DataError
            If there is none.
        """
        run = cls(path)
        if not run.config_path.is_file():
            missing = "does not exist" if not run.path.exists() else "is not a run folder: it has no config.json"
            raise DataError(f"{run.path} {missing}", mend="pass the folder of a training run")
        return run

    def write_config(self, config: Mapping[str, Any]) -> None:
        write_whole(self.config_path, (json.dumps(config, indent=2) + "\n").encode())

    def read_config(self) -> dict[str, Any]:
        """The settings.

        Raises
        ------
        DataError
            If the file is missing or damaged, or lacks what every run has.
        """
        config = self._json(self.config_path, self._text(self.config_path))
        if not isinstance(config, dict):
            raise DataError(f"{self.config_path} holds no settings", mend=AGAIN)
        for name, fits in _SETTINGS.items():
            if name not in config:
                raise DataError(f"{self.config_path} is damaged: it has no {name!r}", mend=AGAIN)
            if not fits(config[name]):
                raise DataError(f"{self.config_path} is damaged: {name!r} cannot be {_short(config[name])}", mend=AGAIN)
        return config

    def write_metrics(self, records: Sequence[Record]) -> None:
        write_whole(self.metrics_path, "".join(json.dumps(_finite(record)) + "\n" for record in records).encode())

    def read_metrics(self) -> list[Record]:
        """The lines of the metrics; none if there is no file yet.

        Raises
        ------
        DataError
            If the file is damaged.
        """
        if not self.metrics_path.exists():
            return []
        records = [self._json(self.metrics_path, line) for line in self._text(self.metrics_path).splitlines()]
        for number, record in enumerate(records, 1):
            if not _is_record(record):
                raise DataError(f"{self.metrics_path} is damaged: line {number} is {_short(record)}", mend=AGAIN)
        return records

    def write_weights(self, state: Mapping[str, Any]) -> None:
        store.save(self.weights_path, state)

    def read_weights(self) -> dict[str, Any]:
        return store.load(self.weights_path)[0]

    def write_best(self, state: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        store.save(self.best_path, state, about)

    def read_best(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The best epoch's weights, and what it was: "epoch" and the measurement.

        Raises
        ------
        DataError
            If none were kept, or the file is damaged.
        """
        return store.load(self.best_path)

    def write_checkpoint(self, arrays: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        store.save(self.checkpoint_path, arrays, {"version": _VERSION, **data})

    def read_checkpoint(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Arrays and data of the checkpoint.

        Raises
        ------
        DataError
            If there is none, or it is damaged.
        """
        if not self.checkpoint_path.is_file():
            raise DataError(f"{self.path} has no checkpoint to resume from", mend="train anew in another folder")
        arrays, data = store.load(self.checkpoint_path)
        if data.pop("version", None) != _VERSION:
            raise DataError(f"{self.checkpoint_path} is of another format than {_VERSION}", mend="resume it with the version that wrote it")
        return arrays, data

    def draw(self, records: Sequence[Record], title: str) -> None:
        write_whole(self.picture_path, draw(records, title).encode())

    def check_same(self, config: Mapping[str, Any]) -> None:
        """Refuse to go on with other settings than the run began with; only the number of epochs may grow,
        and the data may have moved.

        Raises
        ------
        ArgumentError
            Naming what differs.
        """
        before, now = self.read_config(), json.loads(json.dumps(config))
        differing = [name for name in {**before, **now} if name not in _MAY_CHANGE and before.get(name) != now.get(name)]
        if differing:
            lines = "; ".join(f"{name} was {_short(before.get(name))}, is {_short(now.get(name))}" for name in differing)
            raise ArgumentError(f"{self.path} began with other settings: {lines}", mend="resume with the same settings, or begin another run")

    def _text(self, path: Path) -> str:
        try:
            return path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read: {error}", mend=AGAIN) from None

    def _json(self, path: Path, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise DataError(f"{path} is damaged: {error}", mend=AGAIN) from None


def _finite(record: Record) -> Record:
    """JSON has no NaN and no infinity; null says that there is no number."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in record.items()}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
