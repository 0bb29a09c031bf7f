"""Activations by name, and the layers that are nothing else.

The functions are the library's gates, and attributes of this module too; the table only says which of them a name means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chainrule.core.errors import LayerError, look_up
from chainrule.nn.layer import Layer
from chainrule.ops.activation import hard_sigmoid, hard_tanh, log_sigmoid, relu, sigmoid, softplus, softsign
from chainrule.ops.composite import log_softmax, softmax
from chainrule.ops.gate import alias
from chainrule.ops.linear_units import elu, gelu, leaky_relu, mish, selu, silu
from chainrule.ops.transcendental import tanh
from chainrule.tensor import Tensor

Function = Callable[[Tensor], Tensor]


def linear(x: Tensor) -> Tensor:
    """The input as it is.

    Parameters
    ----------
    x : Tensor

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nn.activations.linear(cr.tensor([-1.0, 2.0]))
    tensor([-1.,  2.])
    """
    return alias(x)


swish = silu
"""The name that Keras had first."""

ACTIVATIONS: dict[str, Function] = {
    "elu": elu,
    "gelu": gelu,
    "hard_sigmoid": hard_sigmoid,
    "hard_tanh": hard_tanh,
    "leaky_relu": leaky_relu,
    "linear": linear,
    "log_sigmoid": log_sigmoid,
    "log_softmax": log_softmax,
    "mish": mish,
    "relu": relu,
    "selu": selu,
    "sigmoid": sigmoid,
    "silu": silu,
    "softmax": softmax,
    "softplus": softplus,
    "softsign": softsign,
    "swish": swish,
    "tanh": tanh,
}


def get(identifier: str | Function | None) -> Function:
    """The activation of this name; None is the linear one, and a function stays itself.

    Parameters
    ----------
    identifier : str, callable or None

    Returns
    -------
    callable
        A function of one Tensor.

    Raises
    ------
    LayerError
        If there is no activation of this name.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nn.get("relu")([-1.0, 2.0])
    tensor([0., 2.])
    """
    if identifier is None:
        return linear
    if callable(identifier):
        return identifier
    return look_up("activation", identifier, ACTIVATIONS, LayerError)


class Activation(Layer):
    """An activation as a layer.

    Parameters
    ----------
    activation : str or callable
        A name that `get` knows, or a function of one Tensor.
    name
        As for `Layer`.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nn.Activation("tanh")([0.0])
    tensor([0.])
    """

    def __init__(self, activation: str | Function, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.activation = get(activation)

    def call(self, x: Tensor) -> Tensor:
        return self.activation(x)


class ReLU(Layer):
    """``max(0, x)`` as a layer; the derivative at 0 is 0.

    Parameters
    ----------
    name
        As for `Layer`.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nn.ReLU()([-1.0, 2.0])
    tensor([0., 2.])
    """

    def __init__(self, *, name: str | None = None) -> None:
        super().__init__(name=name)

    def call(self, x: Tensor) -> Tensor:
        return relu(x)


class LeakyReLU(Layer):
    """Lets a part of negative values through: x above 0, ``negative_slope * x`` below.

    Parameters
    ----------
    negative_slope : float
        0.01, as for the function `leaky_relu` and in PyTorch; Keras's layer has 0.3.
    name
        As for `Layer`.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nn.LeakyReLU(0.5)([-1.0, 2.0])
    tensor([-0.5,  2. ])
    """

    def __init__(self, negative_slope: float = 0.01, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.negative_slope = negative_slope

    def call(self, x: Tensor) -> Tensor:
        return leaky_relu(x, self.negative_slope)


class ELU(Layer):
    """The exponential linear unit: x above 0, ``alpha * (exp(x) - 1)`` below.

    Parameters
    ----------
    alpha : float
    name
        As for `Layer`.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nn.ELU()([-100.0, 2.0])
    tensor([-1.,  2.])
    """

    def __init__(self, alpha: float = 1.0, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.alpha = alpha

    def call(self, x: Tensor) -> Tensor:
        return elu(x, self.alpha)


class Softmax(Layer):
    """Probabilities along an axis.

    Parameters
    ----------
    axis : int or tuple of int
    name
        As for `Layer`.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nn.Softmax()([[0.0, 0.0]])
    tensor([[0.5, 0.5]])
    """

    def __init__(self, axis: int | Sequence[int] = -1, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.axis = axis if isinstance(axis, int) else tuple(axis)

    def call(self, x: Tensor) -> Tensor:
        return softmax(x, axis=self.axis)
