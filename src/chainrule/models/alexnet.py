"""AlexNet: the network with which deep learning came to images at large."""

from __future__ import annotations

from chainrule import nn
from chainrule.nn.initializers import Initializer, RandomNormal


def alexnet(classes: int = 1000, small: bool = False) -> nn.Sequential:
    """AlexNet, for images of 224 by 224 pixels, or of about 32 by 32.

    Parameters
    ----------
    classes : int
    small : bool
        The variant for small images (8 by 8 pixels and more): kernels that do not step over pixels, and the channels and units that one of
        the paper's two processors held.

    Returns
    -------
    Sequential
        From images of shape (batch, 224, 224, channels) to logits of shape (batch, classes).

    Notes
    -----
    ===========================================  =====================  ==========
    layer                                        output                 parameters
    ===========================================  =====================  ==========
    Conv2D 11x11, stride 4, padding 2            (batch, 55, 55, 96)    34,944
    LocalResponseNormalization
    MaxPooling2D 3x3, stride 2                   (batch, 27, 27, 96)
    Conv2D 5x5, padding 2, 2 groups              (batch, 27, 27, 256)   307,456
    LocalResponseNormalization
    MaxPooling2D 3x3, stride 2                   (batch, 13, 13, 256)
    Conv2D 3x3, padding 1                        (batch, 13, 13, 384)   885,120
    Conv2D 3x3, padding 1, 2 groups              (batch, 13, 13, 384)   663,936
    Conv2D 3x3, padding 1, 2 groups              (batch, 13, 13, 256)   442,624
    MaxPooling2D 3x3, stride 2                   (batch, 6, 6, 256)
    Flatten, Dropout 0.5, Dense                  (batch, 4096)          37,752,832
    Dropout 0.5, Dense                           (batch, 4096)          16,781,312
    Dense                                        (batch, classes)       4,097,000
    ===========================================  =====================  ==========

    60,965,224 parameters for three channels and 1000 classes; ReLU after every layer with parameters but the last. Krizhevsky, Sutskever and
    Hinton, "ImageNet classification with deep convolutional neural networks" (2012), sections 3.3 to 3.5 and, for the first values, 5. What
    the paper leaves open: the first convolution's padding, which its 55 by 55 outputs need.

    ===========================================  =====================  ==========
    layer with ``small=True``                    output                 parameters
    ===========================================  =====================  ==========
    Conv2D 5x5, padding 2                        (batch, 32, 32, 48)    3,648
    LocalResponseNormalization
    MaxPooling2D 3x3, stride 2, padding 1        (batch, 16, 16, 48)
    Conv2D 3x3, padding 1                        (batch, 16, 16, 128)   55,424
    LocalResponseNormalization
    MaxPooling2D 3x3, stride 2, padding 1        (batch, 8, 8, 128)
    Conv2D 3x3, padding 1                        (batch, 8, 8, 192)     221,376
    Conv2D 3x3, padding 1                        (batch, 8, 8, 192)     331,968
    Conv2D 3x3, padding 1                        (batch, 8, 8, 128)     221,312
    MaxPooling2D 3x3, stride 2, padding 1        (batch, 4, 4, 128)
    Flatten, Dropout 0.5, Dense                  (batch, 2048)          4,196,352
    Dropout 0.5, Dense                           (batch, 2048)          4,196,352
    Dense                                        (batch, classes)       20,490
    ===========================================  =====================  ==========

    9,246,922 parameters for 32 by 32 pixels, three channels and 10 classes. Its first values are He's.

    Examples
    --------
    >>> import chainrule as cr
    >>> model = cr.models.alexnet(classes=10, small=True)
    >>> model(cr.zeros((1, 32, 32, 3))).shape
    (1, 10)
    >>> sum(parameter.size for parameter in model.parameters())
    9246922
    """
    return nn.Sequential(_small(classes) if small else _large(classes))


def _large(classes: int) -> list[nn.Layer]:
    start = RandomNormal(stddev=0.01)
    return [
        _conv(96, 11, 2, start, "zeros", strides=4),
        nn.LocalResponseNormalization(),
        nn.MaxPooling2D(3, 2),
        _conv(256, 5, 2, start, "ones", groups=2),
        nn.LocalResponseNormalization(),
        nn.MaxPooling2D(3, 2),
        _conv(384, 3, 1, start, "zeros"),
        _conv(384, 3, 1, start, "ones", groups=2),
        _conv(256, 3, 1, start, "ones", groups=2),
        nn.MaxPooling2D(3, 2),
        *_head(4096, classes, start, "ones"),
    ]


def _small(classes: int) -> list[nn.Layer]:
    start = "he_normal"
    return [
        _conv(48, 5, 2, start, "zeros"),
        nn.LocalResponseNormalization(),
        nn.MaxPooling2D(3, 2, padding=1),
        _conv(128, 3, 1, start, "zeros"),
        nn.LocalResponseNormalization(),
        nn.MaxPooling2D(3, 2, padding=1),
        _conv(192, 3, 1, start, "zeros"),
        _conv(192, 3, 1, start, "zeros"),
        _conv(128, 3, 1, start, "zeros"),
        nn.MaxPooling2D(3, 2, padding=1),
        *_head(2048, classes, start, "zeros"),
    ]


def _conv(filters: int, size: int, padding: int, kernel: Initializer | str, bias: str, strides: int = 1, groups: int = 1) -> nn.Layer:
    return nn.Conv2D(filters, size, strides, padding=padding, groups=groups, activation="relu", kernel_initializer=kernel, bias_initializer=bias)


def _head(units: int, classes: int, kernel: Initializer | str, bias: str) -> list[nn.Layer]:
    return [
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Dense(units, "relu", kernel_initializer=kernel, bias_initializer=bias),
        nn.Dropout(0.5),
        nn.Dense(units, "relu", kernel_initializer=kernel, bias_initializer=bias),
        nn.Dense(classes, kernel_initializer=kernel),
    ]
