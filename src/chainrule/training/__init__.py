"""Training: from a model and data to a run folder that can be taken up again."""

from chainrule.training.blas import blas_threads
from chainrule.training.callbacks import Callback, Checkpoint, EarlyStopping
from chainrule.training.divergence import DivergedError
from chainrule.training.evaluation import evaluate, predict
from chainrule.training.fitting import History, fit
from chainrule.training.metrics import accuracy
from chainrule.training.position import Position
from chainrule.training.progress import Progress
from chainrule.training.run import RunFolder
from chainrule.training.signals import Interrupted
from chainrule.training.tensorboard import TensorBoard
from chainrule.training.trainer import Trainer
from chainrule.training.watch import Watch

__all__ = [
    "Callback",
    "Checkpoint",
    "DivergedError",
    "EarlyStopping",
    "History",
    "Interrupted",
    "Position",
    "Progress",
    "RunFolder",
    "TensorBoard",
    "Trainer",
    "Watch",
    "accuracy",
    "blas_threads",
    "evaluate",
    "fit",
    "predict",
]
