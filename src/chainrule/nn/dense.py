"""Dense: every output from every input."""

from __future__ import annotations

from typing import Any

from chainrule.core.aval import Shape
from chainrule.nn import regularizers
from chainrule.nn.activations import Function, get
from chainrule.nn.initializers import Initializer, fetch
from chainrule.nn.layer import Layer
from chainrule.nn.regularizers import Regularizer
from chainrule.nn.spec import InputSpec, counted
from chainrule.ops.linalg import matmul
from chainrule.tensor import Tensor


class Dense(Layer):
    """``activation(x @ kernel + bias)`` along the last axis.

    Parameters
    ----------
    units : int
        Size of the output's last axis.
    activation : str or callable, optional
        Linear if not given.
    use_bias : bool
    kernel_initializer, bias_initializer : str or Initializer
    kernel_regularizer, bias_regularizer : str or Regularizer, optional
    name, dtype
        As for `Layer`.

    Attributes
    ----------
    kernel : Tensor of shape (features, units)
    bias : Tensor of shape (units,), or None

    Raises
    ------
    LayerError
        If an input's last axis has another size than the first one's.

    Examples
    --------
    >>> import chainrule as cr
    >>> layer = cr.nn.Dense(2, kernel_initializer="ones")
    >>> layer([[1.0, 2.0, 3.0]]).sum().backward()
    >>> layer.bias.grad
    tensor([1., 1.])
    """

    kernel: Tensor
    bias: Tensor | None

    def __init__(
        self,
        units: int,
        activation: str | Function | None = None,
        *,
        use_bias: bool = True,
        kernel_initializer: Initializer | str = "glorot_uniform",
        bias_initializer: Initializer | str = "zeros",
        kernel_regularizer: Regularizer | str | None = None,
        bias_regularizer: Regularizer | str | None = None,
        name: str | None = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.units = counted("Dense", "units", units)
        self.activation = get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = fetch(kernel_initializer)
        self.bias_initializer = fetch(bias_initializer)
        self.kernel_regularizer = regularizers.fetch(kernel_regularizer)
        self.bias_regularizer = regularizers.fetch(bias_regularizer)
        self.input_spec = InputSpec(min_ndim=1, names=("features",))

    def build(self, input_shape: Shape) -> None:
        features = input_shape[-1]
        self.kernel = self.add_parameter("kernel", (features, self.units), self.kernel_initializer, regularizer=self.kernel_regularizer)
        self.bias = None
        if self.use_bias:
            self.bias = self.add_parameter("bias", (self.units,), self.bias_initializer, regularizer=self.bias_regularizer)
        self.input_spec = InputSpec(
            min_ndim=1,
            axes={-1: features},
            names=("features",),
            mend="give it inputs as wide as the first one; a Flatten layer in front makes one axis of all",
        )

    def call(self, x: Tensor) -> Tensor:
        y = matmul(x, self.kernel)
        return self.activation(y if self.bias is None else y + self.bias)
