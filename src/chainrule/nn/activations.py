"""Activations by name, and the layers that are nothing else.

The functions themselves are gates; the table only says which of them a name means.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from chainrule.core.errors import LayerError
from chainrule.nn.layer import Layer
from chainrule.ops.activation import relu, sigmoid, softplus
from chainrule.ops.composite import softmax
from chainrule.ops.gate import alias
from chainrule.ops.transcendental import tanh
from chainrule.tensor import Tensor

Function = Callable[[Tensor], Tensor]


def linear(x: Tensor) -> Tensor:
    """The input as it is."""
    return alias(x)


ACTIVATIONS: dict[str, Function] = {"linear": linear, "relu": relu, "sigmoid": sigmoid, "softmax": softmax, "softplus": softplus, "tanh": tanh}


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
    if identifier not in ACTIVATIONS:
        near = get_close_matches(str(identifier), ACTIVATIONS, 1)
        raise LayerError(f"no activation {identifier!r}", mend=f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[identifier]


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
