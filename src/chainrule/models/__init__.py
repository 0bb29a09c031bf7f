"""Named networks: a function for each, which returns a layer ready to be trained.

Nothing here trains; `chainrule.training.fit`, the command ``chainrule train`` and the programs in ``examples/`` do.
"""

from chainrule.models.alexnet import alexnet
from chainrule.models.autoencoder import Autoencoder, autoencoder
from chainrule.models.lenet import lenet
from chainrule.models.linear import linear_regression, logistic_regression, softmax_classifier, svm
from chainrule.models.lstm_language_model import LSTMLanguageModel, lstm_language_model
from chainrule.models.mlp import mlp
from chainrule.models.neural_turing_machine import NeuralTuringMachine, neural_turing_machine
from chainrule.models.resnet import resnet
from chainrule.models.transformer import Transformer, TransformerBlock, transformer
from chainrule.models.wgan_gp import WassersteinGAN, wgan_gp
from chainrule.models.wgan_gp import gradient_penalty as gradient_penalty
from chainrule.nn.layer import Layer
from chainrule.nn.serial import CLASSES

__all__: list[str] = [
    "alexnet",
    "autoencoder",
    "lenet",
    "linear_regression",
    "logistic_regression",
    "lstm_language_model",
    "mlp",
    "neural_turing_machine",
    "resnet",
    "softmax_classifier",
    "svm",
    "transformer",
    "wgan_gp",
]

_LAYERS: tuple[type[Layer], ...] = (Autoencoder, Transformer, TransformerBlock, LSTMLanguageModel, NeuralTuringMachine, WassersteinGAN)
CLASSES.update({layer.__name__: layer for layer in _LAYERS})
