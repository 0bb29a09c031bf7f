"""Residual networks: blocks that add to what passes them, so that many can stand one after the other."""

from __future__ import annotations

from chainrule import nn
from chainrule.core.errors import ArgumentError

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def resnet(classes: int = 1000, depth: int = 18, small: bool = False, width: int = 64) -> nn.Sequential:
    """A residual network of basic blocks.

    Parameters
    ----------
    classes : int
    depth : {18, 34}
        Layers with weights, projections not counted.
    small : bool
        Begin with a 3 by 3 convolution alone, for images of about 32 by 32 pixels; they are then halved three times, and not five.
    width : int
        Channels of the first stage; each following one has twice as many.

    Returns
    -------
    Sequential
        From images of shape (batch, height, width, channels) to logits of shape (batch, classes).

    Notes
    -----
    The output's shapes are those of images of 224 by 224 pixels, and of 32 by 32 with ``small=True``.

    ============================================  =====================  =====================  ==========
    layer                                         output                 output, small          parameters
    ============================================  =====================  =====================  ==========
    Conv2D 7x7, stride 2 (small: 3x3, stride 1)   (batch, 112, 112, 64)  (batch, 32, 32, 64)    9,408
    BatchNormalization, ReLU                                                                    128
    MaxPooling2D 3x3, stride 2 (small: none)      (batch, 56, 56, 64)
    2 (3) blocks                                  (batch, 56, 56, 64)    (batch, 32, 32, 64)    147,968
    2 (4) blocks, the first of stride 2           (batch, 28, 28, 128)   (batch, 16, 16, 128)   525,568
    2 (6) blocks, the first of stride 2           (batch, 14, 14, 256)   (batch, 8, 8, 256)     2,099,712
    2 (3) blocks, the first of stride 2           (batch, 7, 7, 512)     (batch, 4, 4, 512)     8,393,728
    GlobalAveragePooling2D                        (batch, 512)           (batch, 512)
    Dense                                         (batch, classes)       (batch, classes)       513,000
    ============================================  =====================  =====================  ==========

    A block is two 3 by 3 convolutions, each with batch normalization, and a ReLU between and after; where the shape changes, a 1 by 1
    convolution with batch normalization stands in the way around. Depth 18 has 11,689,512 parameters at 1000 classes (11,173,962 with
    ``small=True`` at 10 classes), depth 34 has 21,797,672.

    He, Zhang, Ren and Sun, "Deep residual learning for image recognition" (2016), table 1, with projections where the shape changes (its
    option B). The last scale of each block begins at 0, so that it begins as the identity: Goyal et al., "Accurate, large minibatch SGD"
    (2017), section 5.1.

    Examples
    --------
    >>> import chainrule as cr
    >>> model = cr.models.resnet(classes=10, small=True, width=4)
    >>> model(cr.zeros((1, 16, 16, 3))).shape
    (1, 10)
    """
    if depth not in _BLOCKS:
        raise ArgumentError(f"resnet: depth={depth}", mend="choose 18 or 34")
    layers = [_conv(width, 3, 1), _norm(), nn.ReLU()] if small else [_conv(width, 7, 2), _norm(), nn.ReLU(), nn.MaxPooling2D(3, 2, padding=1)]
    for stage, blocks in enumerate(_BLOCKS[depth]):
        for block in range(blocks):
            strides = 2 if stage and not block else 1
            layers += [_block(width << stage, strides), nn.ReLU()]
    return nn.Sequential([*layers, nn.GlobalAveragePooling2D(), nn.Dense(classes)])


def _block(filters: int, strides: int) -> nn.Residual:
    """A basic block, without the ReLU after it."""
    shortcut = nn.Sequential([_conv(filters, 1, strides), _norm()]) if strides > 1 else None
    return nn.Residual([_conv(filters, 3, strides), _norm(), nn.ReLU(), _conv(filters, 3, 1), _norm("zeros")], shortcut)


def _conv(filters: int, size: int, strides: int) -> nn.Layer:
    return nn.Conv2D(filters, size, strides, padding=size // 2, use_bias=False, kernel_initializer="he_normal")


def _norm(scale: str = "ones") -> nn.Layer:
    return nn.BatchNormalization(momentum=0.9, epsilon=1e-5, gamma_initializer=scale)
