"""Networks: layers with Keras's names and PyTorch's handling."""

from chainrule.nn import initializers, losses, regularizers
from chainrule.nn.activations import Activation, ReLU, get
from chainrule.nn.convolution import Conv2D
from chainrule.nn.dense import Dense
from chainrule.nn.dropout import Dropout
from chainrule.nn.layer import Layer
from chainrule.nn.pooling import MaxPooling2D
from chainrule.nn.reshaping import Flatten
from chainrule.nn.sequential import Sequential
from chainrule.nn.serial import CLASSES, deserialize, serialize
from chainrule.nn.spec import InputSpec

__all__ = [
    "Activation",
    "Conv2D",
    "Dense",
    "Dropout",
    "Flatten",
    "InputSpec",
    "Layer",
    "MaxPooling2D",
    "ReLU",
    "Sequential",
    "deserialize",
    "get",
    "initializers",
    "losses",
    "regularizers",
    "serialize",
]

_LAYERS = (Activation, Conv2D, Dense, Dropout, Flatten, MaxPooling2D, ReLU, Sequential)
CLASSES.update({layer.__name__: layer for layer in _LAYERS})
