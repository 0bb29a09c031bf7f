"""What a checkpoint holds: all that going on depends on, as one nested container, and how it becomes a file's arrays and data.

================== =========================================================
part               what it is
================== =========================================================
``model``          parameters and buffers
``optimizer``      its slots and options
``schedule``       the learning rate's, if there is one
``random``         the state of the default generator
``data``           order and place in the data
``callbacks``      states of those that have one
``position``       epochs, batches, steps, and the means so far
================== =========================================================

The lines of the metrics stand in their own file, and are taken up to the position. Nothing is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.errors import ArgumentError, ChainruleError, DataError
from chainrule.ops.generator import default_generator
from chainrule.tensor import Tensor
from chainrule.training.position import Position
from chainrule.training.run import AGAIN, RunFolder

if TYPE_CHECKING:
    from chainrule.training.callbacks import Callback
    from chainrule.training.trainer import Trainer

_ARRAY = "array"
"""In the data, ``{"array": name}`` stands for an array of the file."""
_SAME = "resume with the schedule and the callbacks that the run began with"


def save(trainer: Trainer, folder: RunFolder) -> None:
    """Write a run's checkpoint."""
    state: dict[str, Any] = {
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "schedule": None if trainer.schedule is None else trainer.schedule.state_dict(),
        "random": default_generator.get_state(),
        "data": None if trainer.data is None else trainer.data.state_dict(),
        "callbacks": [{"class": type(callback).__name__, "state": held} for callback in trainer.callbacks if (held := callback.state_dict())],
        "position": asdict(trainer.position),
    }
    arrays: dict[str, Any] = {}
    data = {name: _taken_apart(part, name, arrays) for name, part in state.items()}
    folder.write_checkpoint(arrays, data)


def load(trainer: Trainer, folder: RunFolder) -> None:
    """Let a trainer go on from a checkpoint.

    Raises
    ------
    DataError, LayerError, ArgumentError
        If there is no checkpoint, or it is damaged, or does not fit the trainer.
    """
    arrays, data = folder.read_checkpoint()
    try:
        _take(trainer, _put_together(data, arrays))
    except ChainruleError:
        raise
    except KeyError as error:
        raise DataError(f"{folder.checkpoint_path} is damaged: it has no {error}", mend=AGAIN) from None
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"{folder.checkpoint_path} is damaged: {error}", mend=AGAIN) from None


def _take(trainer: Trainer, state: Mapping[str, Any]) -> None:
    position = Position.of(state["position"])
    trainer.model.load_state_dict(state["model"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    if (trainer.schedule is None) != (state["schedule"] is None):
        raise ArgumentError("the checkpoint is of a run " + ("with" if trainer.schedule is None else "without") + " a schedule", mend=_SAME)
    if trainer.schedule is not None:
        trainer.schedule.load_state_dict(state["schedule"])
    default_generator.set_state(state["random"])
    if trainer.data is not None:
        trainer.data.load_state_dict(state["data"])
    _take_callbacks(trainer.callbacks, state["callbacks"])
    trainer.position = position


def _take_callbacks(callbacks: Sequence[Callback], held: list[Any]) -> None:
    """Give each state to the callback of its class, in order; a callback that is new begins anew."""
    free = list(callbacks)
    for entry in held:
        owner = next((callback for callback in free if type(callback).__name__ == entry["class"]), None)
        if owner is None:
            raise ArgumentError(f"the checkpoint is of a run with the callback {entry['class']}", mend=_SAME)
        free.remove(owner)
        owner.load_state_dict(entry["state"])


def _taken_apart(part: Any, name: str, arrays: dict[str, Any]) -> Any:
    """A part as data that JSON can hold; its arrays are put into ``arrays``."""
    if isinstance(part, Mapping):
        return {str(key): _taken_apart(value, f"{name}/{key}", arrays) for key, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [_taken_apart(value, f"{name}/{i}", arrays) for i, value in enumerate(part)]
    if isinstance(part, (Tensor, np.ndarray)):
        arrays[name] = part
        return {_ARRAY: name}
    return part.item() if isinstance(part, np.generic) else part


def _put_together(data: Any, arrays: Mapping[str, Any]) -> Any:
    if isinstance(data, dict):
        if data.keys() == {_ARRAY}:
            return arrays[data[_ARRAY]]
        return {key: _put_together(value, arrays) for key, value in data.items()}
    return [_put_together(value, arrays) for value in data] if isinstance(data, list) else data
