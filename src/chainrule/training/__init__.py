"""Training: from a model and data to a run folder that can be taken up again."""

from chainrule.training.blas import blas_threads
from chainrule.training.evaluation import evaluate
from chainrule.training.fitting import History, fit
from chainrule.training.metrics import accuracy
from chainrule.training.progress import Progress
from chainrule.training.run import RunFolder
from chainrule.training.signals import Interrupted
from chainrule.training.trainer import Callback, Position, Trainer

__all__ = ["Callback", "History", "Interrupted", "Position", "Progress", "RunFolder", "Trainer", "accuracy", "blas_threads", "evaluate", "fit"]
