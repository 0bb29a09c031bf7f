"""The multi-layer perceptron: Dense layers with a bend between them."""

from __future__ import annotations

from collections.abc import Sequence

from chainrule import nn


def mlp(classes: int = 10, hidden: Sequence[int] = (256, 128), activation: str = "relu", dropout: float = 0.0) -> nn.Sequential:
    """A multi-layer perceptron.

    Parameters
    ----------
    classes : int
        Outputs: a logit for each class.
    hidden : sequence of int
        Sizes of the hidden layers; with none it is the softmax classifier.
    activation : str
        Of the hidden layers.
    dropout : float
        Share of each hidden layer that is dropped in training.

    Returns
    -------
    Sequential
        From inputs of shape (batch, ...) to logits of shape (batch, classes).

    Notes
    -----
    ================  =================  =========================
    layer             output             parameters
    ================  =================  =========================
    Flatten           (batch, features)
    Dense, for each   (batch, hidden)    (size before + 1) hidden
    Dropout, if any   (batch, hidden)
    Dense             (batch, classes)   (last hidden + 1) classes
    ================  =================  =========================

    235,146 parameters for 28 by 28 pixels and what else is given here. Rumelhart, Hinton and Williams, "Learning representations by
    back-propagating errors" (1986).

    Examples
    --------
    >>> import chainrule as cr
    >>> model = cr.models.mlp().initialize((1, 28, 28, 1))
    >>> sum(parameter.size for parameter in model.parameters())
    235146
    """
    layers: list[nn.Layer] = [nn.Flatten()]
    for units in hidden:
        layers.append(nn.Dense(units, activation))
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential([*layers, nn.Dense(classes)])
