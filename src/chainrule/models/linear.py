"""The linear models: one Dense layer, told apart by the loss that they are trained with.

Their losses are convex, so they begin at zero, and where they end does not depend on a seed.
"""

from __future__ import annotations

from chainrule import nn
from chainrule.nn.regularizers import Regularizer


def linear_regression(outputs: int = 1) -> nn.Sequential:
    """Linear regression: ``x @ W + b``, trained with ``nn.losses.mean_squared_error``.

    Parameters
    ----------
    outputs : int
        How many numbers are predicted for each example.

    Returns
    -------
    Sequential
        From inputs of shape (batch, ...) to (batch, outputs).

    Notes
    -----
    ========  ====================  ======================
    layer     output                parameters
    ========  ====================  ======================
    Flatten   (batch, features)
    Dense     (batch, outputs)      (features + 1) outputs
    ========  ====================  ======================

    Legendre, "Nouvelles méthodes pour la détermination des orbites des comètes" (1805): least squares.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.models.linear_regression(2)([[3.0, 4.0, 5.0]]).shape
    (1, 2)
    """
    return _linear(outputs)


def logistic_regression() -> nn.Sequential:
    """Binary logistic regression: the logit of the probability of class 1, trained with ``nn.losses.sigmoid_cross_entropy``.

    Returns
    -------
    Sequential
        From inputs of shape (batch, ...) to logits of shape (batch, 1).

    Notes
    -----
    ========  ====================  ============
    layer     output                parameters
    ========  ====================  ============
    Flatten   (batch, features)
    Dense     (batch, 1)            features + 1
    ========  ====================  ============

    Cox, "The regression analysis of binary sequences" (1958). The sigmoid is a part of the loss, where it cannot overflow.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.sigmoid(cr.models.logistic_regression()([[1.0, 2.0]])).item()
    0.5
    """
    return _linear(1)


def softmax_classifier(classes: int = 10) -> nn.Sequential:
    """Multinomial logistic regression: a linear score for each class, trained with ``nn.losses.softmax_cross_entropy``.

    Parameters
    ----------
    classes : int

    Returns
    -------
    Sequential
        From inputs of shape (batch, ...) to logits of shape (batch, classes).

    Notes
    -----
    ========  ====================  ======================
    layer     output                parameters
    ========  ====================  ======================
    Flatten   (batch, features)
    Dense     (batch, classes)      (features + 1) classes
    ========  ====================  ======================

    7,850 parameters for 28 by 28 pixels and 10 classes. Bishop, "Pattern recognition and machine learning" (2006), section 4.3.4.

    Examples
    --------
    >>> import chainrule as cr
    >>> model = cr.models.softmax_classifier(10).initialize((1, 28, 28, 1))
    >>> sum(parameter.size for parameter in model.parameters())
    7850
    """
    return _linear(classes)


def svm(classes: int = 10, l2: float = 1e-3) -> nn.Sequential:
    """A linear multi-class support vector machine, trained with ``nn.losses.multiclass_hinge`` and its own `penalty`.

    Parameters
    ----------
    classes : int
    l2 : float
        What the squares of the weights cost: the wider the margin between classes, the smaller the weights.

    Returns
    -------
    Sequential
        From inputs of shape (batch, ...) to scores of shape (batch, classes).

    Notes
    -----
    ========  ====================  ======================
    layer     output                parameters
    ========  ====================  ======================
    Flatten   (batch, features)
    Dense     (batch, classes)      (features + 1) classes
    ========  ====================  ======================

    Weston and Watkins, "Support vector machines for multi-class pattern recognition" (1999), the linear case.

    Examples
    --------
    >>> import chainrule as cr
    >>> model = cr.models.svm(3, l2=0.5).initialize((1, 2))
    >>> with cr.no_grad():
    ...     _ = model.layers[1].kernel.assign([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    >>> model.penalty().item()
    2.5
    """
    return _linear(classes, nn.regularizers.L2(l2))


def _linear(outputs: int, regularizer: Regularizer | None = None) -> nn.Sequential:
    return nn.Sequential([nn.Flatten(), nn.Dense(outputs, kernel_initializer="zeros", kernel_regularizer=regularizer)])
