"""What ends a run that diverges, before anything of it is written over the last good checkpoint."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from chainrule.core.errors import ChainruleError
from chainrule.tensor import Tensor


class DivergedError(ChainruleError, ArithmeticError):
    """A loss or a parameter became infinite or not a number.

    Parameters
    ----------
    what : str
        Which, and after which step.
    mend : str
        What to try.
    """


def loss_diverged(value: float, where: str, last: float | None, lr: float) -> DivergedError:
    """What is to be said of a loss that is no finite number."""
    before = "it is the first loss of this run" if last is None else f"the loss before it was {last:.6g}"
    return DivergedError(f"the loss is {value} at {where}; {before}", mend=_mend(lr))


def check_parameters(parameters: Iterable[tuple[str, Tensor]], where: str, lr: float) -> None:
    """Refuse parameters that are not finite: the next loss would not be either.

    Raises
    ------
    DivergedError
    """
    for name, parameter in parameters:
        if not np.isfinite(parameter._value).all():
            raise DivergedError(f"the parameter {name} is not finite after {where}", mend=_mend(lr))


def _mend(lr: float) -> str:
    return f"take a lower lr than {lr:g}, or limit the gradient with clip_norm=1.0; the checkpoint, if there is a run folder, is from before"
