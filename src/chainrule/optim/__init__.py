"""Optimizers: PyTorch's handling, on steps that can be traced."""

from __future__ import annotations

from chainrule.core.errors import look_up
from chainrule.optim import schedules
from chainrule.optim.adam import Adam, AdamW
from chainrule.optim.clipping import clip_by_norm, clip_by_value
from chainrule.optim.lbfgs import LBFGS
from chainrule.optim.lion import Lion
from chainrule.optim.optimizer import Group, Optimizer
from chainrule.optim.scaled import Adagrad, RMSProp
from chainrule.optim.sgd import SGD

__all__ = [
    "LBFGS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Group",
    "Lion",
    "Optimizer",
    "RMSProp",
    "clip_by_norm",
    "clip_by_value",
    "get",
    "schedules",
]

NAMES: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "adagrad": Adagrad,
    "rmsprop": RMSProp,
    "adam": Adam,
    "adamw": AdamW,
    "lion": Lion,
    "lbfgs": LBFGS,
}


def get(name: str) -> type[Optimizer]:
    """The optimizer class of this name.

    Parameters
    ----------
    name : {"sgd", "adagrad", "rmsprop", "adam", "adamw", "lion", "lbfgs"}

    Returns
    -------
    type
        A subclass of `Optimizer`.

    Raises
    ------
    ArgumentError
        If there is none of this name.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.optim.get("adam").__name__
    'Adam'
    """
    return look_up("optimizer", name, NAMES)
