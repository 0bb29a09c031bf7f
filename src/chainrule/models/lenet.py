"""LeNet-5: two convolutions that look for strokes, and a perceptron that reads what they found."""

from __future__ import annotations

from chainrule import nn


def lenet(classes: int = 10) -> nn.Sequential:
    """LeNet-5, for images of 28 by 28 pixels.

    Parameters
    ----------
    classes : int

    Returns
    -------
    Sequential
        From images of shape (batch, 28, 28, channels) to logits of shape (batch, classes).

    Notes
    -----
    ===========================  =====================  ==========
    layer                        output                 parameters
    ===========================  =====================  ==========
    C1: Conv2D 5x5, padding 2    (batch, 28, 28, 6)     156
    S2: MaxPooling2D 2x2         (batch, 14, 14, 6)
    C3: Conv2D 5x5               (batch, 10, 10, 16)    2,416
    S4: MaxPooling2D 2x2         (batch, 5, 5, 16)
    C5: Dense                    (batch, 120)           48,120
    F6: Dense                    (batch, 84)            10,164
    output: Dense                (batch, classes)       850
    ===========================  =====================  ==========

    61,706 parameters for one channel and 10 classes. LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to
    document recognition" (1998), figure 2, in the form that is usual today. What differs: the two pixels around the image are padding
    of C1 here and of the 32 by 32 image there; S2 and S4 take maxima, and not means with a weight and a bias of their own; C3 sees all maps
    of S2, and not the subsets of table I; hidden values pass through ReLU, and not a scaled tanh; the output is a Dense layer of
    logits, and not distances to drawn characters.

    Examples
    --------
    >>> import chainrule as cr
    >>> model = cr.models.lenet()
    >>> model(cr.zeros((1, 28, 28, 1))).shape
    (1, 10)
    >>> sum(parameter.size for parameter in model.parameters())
    61706
    """
    return nn.Sequential(
        [
            nn.Conv2D(6, 5, padding=2, activation="relu", kernel_initializer="he_normal"),
            nn.MaxPooling2D(2),
            nn.Conv2D(16, 5, activation="relu", kernel_initializer="he_normal"),
            nn.MaxPooling2D(2),
            nn.Flatten(),
            nn.Dense(120, "relu", kernel_initializer="he_normal"),
            nn.Dense(84, "relu", kernel_initializer="he_normal"),
            nn.Dense(classes),
        ]
    )
