"""SimpleRNN, LSTM and GRU: what a recurrent layer computes in one step.

Weights lie as Keras lays them, the gates' blocks side by side. How a sequence is gone through is `recurrent`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from chainrule.core.aval import Shape
from chainrule.nn.activations import Function, get
from chainrule.nn.initializers import Initializer
from chainrule.nn.recurrent import Cell, Recurrent, State
from chainrule.nn.regularizers import Regularizer
from chainrule.ops.joining import split
from chainrule.ops.linalg import matmul
from chainrule.tensor import Tensor, new


class SimpleRNN(Recurrent):
    """The plain recurrent layer: the output is carried along.

    Parameters
    ----------
    units : int
        Size of the output's last axis.
    activation : str or callable, optional
    use_bias : bool
    kernel_initializer, recurrent_initializer, bias_initializer : str or Initializer
    kernel_regularizer, recurrent_regularizer, bias_regularizer : str or Regularizer, optional
    dropout, recurrent_dropout : float
        The share of the input's features, and of the output that is carried along, that is hidden in training; the same ones in
        all steps of a sequence.
    return_sequences : bool
        Give the output of every step instead of the last one's.
    return_state : bool
        Give the last state too.
    go_backwards : bool
        Begin with the last step; outputs come in the order in which they were computed.
    name, dtype
        As for `Layer`.

    Attributes
    ----------
    kernel : Tensor of shape (features, units)
    recurrent_kernel : Tensor of shape (units, units)
    bias : Tensor of shape (units,), or None

    Raises
    ------
    LayerError
        If the input is not (batch, steps, features), or the state or mask does not go with it.

    Notes
    -----
    ``h' = activation(x @ kernel + h @ recurrent_kernel + bias)``; Elman, "Finding structure in time" (1990). One mask per
    sequence: Gal and Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks" (2016).

    Examples
    --------
    >>> import chainrule as cr
    >>> layer = cr.nn.SimpleRNN(1, activation=None, kernel_initializer="ones", recurrent_initializer="ones", return_sequences=True)
    >>> layer([[[1.0], [2.0], [3.0]]]).detach().tolist()
    [[[1.0], [3.0], [6.0]]]
    """

    def _cell(self, recalled: Function) -> Cell:
        def cell(state: State, x: Tensor) -> State:
            (h,) = state
            return (self.activation(x + matmul(recalled(h), self.recurrent_kernel)),)

        return cell


class LSTM(Recurrent):
    """Long short-term memory: a cell that gates write to, keep and read.

    Parameters
    ----------
    units : int
        Size of the output's last axis.
    activation : str or callable, optional
        Of what is written and of what is read.
    recurrent_activation : str or callable, optional
        Of the gates.
    use_bias : bool
    kernel_initializer, recurrent_initializer, bias_initializer : str or Initializer
    unit_forget_bias : bool
        Begin with a bias of 1 for the forget gate, so that the cell keeps.
    kernel_regularizer, recurrent_regularizer, bias_regularizer : str or Regularizer, optional
    dropout, recurrent_dropout, return_sequences, return_state, go_backwards
        As for `SimpleRNN`; the state is the output and the cell, (h, c).
    name, dtype
        As for `Layer`.

    Attributes
    ----------
    kernel : Tensor of shape (features, 4 * units)
        Blocks in the order i, f, c, o, as in all three.
    recurrent_kernel : Tensor of shape (units, 4 * units)
    bias : Tensor of shape (4 * units,), or None

    Raises
    ------
    LayerError
        If the input is not (batch, steps, features), or the state or mask does not go with it.

    Notes
    -----
    With ``z = x @ kernel + h @ recurrent_kernel + bias`` in four blocks:
    ``c' = sigmoid(z_f) * c + sigmoid(z_i) * tanh(z_c)`` and ``h' = sigmoid(z_o) * tanh(c')``. Hochreiter and
    Schmidhuber, "Long short-term memory" (1997); the forget gate: Gers et al., "Learning to forget" (2000); its bias: Jozefowicz et al.
    (2015). PyTorch's LSTM has two biases, which only ever appear as their sum.

    Examples
    --------
    >>> import chainrule as cr
    >>> layer = cr.nn.LSTM(4, return_sequences=True, return_state=True)
    >>> outputs, h, c = layer(cr.ones((2, 5, 3)))
    >>> outputs.shape, h.shape, c.shape
    ((2, 5, 4), (2, 4), (2, 4))
    >>> h.sum().backward(); layer.kernel.grad.shape
    (3, 16)
    """

    gates = 4
    states = 2

    def __init__(
        self,
        units: int,
        activation: str | Function | None = "tanh",
        recurrent_activation: str | Function | None = "sigmoid",
        *,
        use_bias: bool = True,
        kernel_initializer: Initializer | str = "glorot_uniform",
        recurrent_initializer: Initializer | str = "orthogonal",
        bias_initializer: Initializer | str = "zeros",
        unit_forget_bias: bool = True,
        kernel_regularizer: Regularizer | str | None = None,
        recurrent_regularizer: Regularizer | str | None = None,
        bias_regularizer: Regularizer | str | None = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        name: str | None = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__(
            units,
            activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            recurrent_regularizer=recurrent_regularizer,
            bias_regularizer=bias_regularizer,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            name=name,
            dtype=dtype,
        )
        self.recurrent_activation = get(recurrent_activation)
        self.unit_forget_bias = unit_forget_bias

    def _bias_initializer(self) -> Initializer:
        return _KeepingAtFirst(self.bias_initializer) if self.unit_forget_bias else self.bias_initializer

    def _cell(self, recalled: Function) -> Cell:
        def cell(state: State, x: Tensor) -> State:
            h, c = state
            write, keep, new, read = split(x + matmul(recalled(h), self.recurrent_kernel), 4, axis=-1)
            c = self.recurrent_activation(keep) * c + self.recurrent_activation(write) * self.activation(new)
            return self.recurrent_activation(read) * self.activation(c), c

        return cell


@dataclass(frozen=True)
class _KeepingAtFirst(Initializer):
    """Ones in the second of four blocks, the forget gate's."""

    others: Initializer

    def __call__(self, shape: Shape, dtype: Any = "float32", fans: tuple[int, int] | None = None) -> Tensor:
        bias = np.array(self.others(shape, dtype, fans)._value)
        bias[shape[0] // 4 : shape[0] // 2] = 1
        return new(bias)


class GRU(Recurrent):
    """Gated recurrent unit: an output that is kept or written anew, value by value.

    Parameters
    ----------
    units : int
        Size of the output's last axis.
    activation : str or callable, optional
        Of what is written.
    recurrent_activation : str or callable, optional
        Of the gates.
    use_bias : bool
    kernel_initializer, recurrent_initializer, bias_initializer : str or Initializer
    kernel_regularizer, recurrent_regularizer, bias_regularizer : str or Regularizer, optional
    dropout, recurrent_dropout, return_sequences, return_state, go_backwards
        As for `SimpleRNN`.
    reset_after : bool
        Reset what the recurrent kernel gives (PyTorch's way, and a bias of its own for that), or what it takes (as
        first published).
    name, dtype
        As for `Layer`.

    Attributes
    ----------
    kernel : Tensor of shape (features, 3 * units)
        Blocks in the order z, r, h, as in all three.
    recurrent_kernel : Tensor of shape (units, 3 * units)
    bias : Tensor of shape (2, 3 * units) with `reset_after`, else (3 * units,), or None

    Raises
    ------
    LayerError
        If the input is not (batch, steps, features), or the state or mask does not go with it.

    Notes
    -----
    ``h' = z * h + (1 - z) * n`` with the gates z and r, sigmoids of sums as in the other layers, and
    ``n = tanh(x_h + r * (h @ R_h + b_h))``, or without `reset_after` ``n = tanh(x_h + (r * h) @ R_h)``. Cho et al., "Learning phrase
    representations using RNN encoder-decoder" (2014); its second version resets after the product.

    Examples
    --------
    >>> import chainrule as cr
    >>> layer = cr.nn.GRU(4)
    >>> layer(cr.ones((2, 5, 3))).shape
    (2, 4)
    >>> [parameter.shape for parameter in layer.parameters()]
    [(3, 12), (4, 12), (2, 12)]
    """

    gates = 3

    def __init__(
        self,
        units: int,
        activation: str | Function | None = "tanh",
        recurrent_activation: str | Function | None = "sigmoid",
        *,
        use_bias: bool = True,
        kernel_initializer: Initializer | str = "glorot_uniform",
        recurrent_initializer: Initializer | str = "orthogonal",
        bias_initializer: Initializer | str = "zeros",
        kernel_regularizer: Regularizer | str | None = None,
        recurrent_regularizer: Regularizer | str | None = None,
        bias_regularizer: Regularizer | str | None = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        reset_after: bool = True,
        name: str | None = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__(
            units,
            activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            recurrent_regularizer=recurrent_regularizer,
            bias_regularizer=bias_regularizer,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            name=name,
            dtype=dtype,
        )
        self.recurrent_activation = get(recurrent_activation)
        self.reset_after = reset_after

    def _bias_shape(self) -> Shape:
        columns = self.gates * self.units
        return (2, columns) if self.reset_after else (columns,)

    def _input_bias(self) -> Tensor | None:
        return self.bias[0] if self.reset_after and self.bias is not None else self.bias

    def _cell(self, recalled: Function) -> Cell:
        return self._resetting_after(recalled) if self.reset_after else self._resetting_before(recalled)

    def _resetting_after(self, recalled: Function) -> Cell:
        bias = None if self.bias is None else self.bias[1]

        def cell(state: State, x: Tensor) -> State:
            (h,) = state
            inner = matmul(recalled(h), self.recurrent_kernel)
            z, r, n = split(x, 3, axis=-1)
            own_z, own_r, own_n = split(inner if bias is None else inner + bias, 3, axis=-1)
            z, r = self.recurrent_activation(z + own_z), self.recurrent_activation(r + own_r)
            return (_between(z, h, self.activation(n + r * own_n)),)

        return cell

    def _resetting_before(self, recalled: Function) -> Cell:
        gates, candidate = split(self.recurrent_kernel, (2 * self.units,), axis=-1)

        def cell(state: State, x: Tensor) -> State:
            (h,) = state
            known = recalled(h)
            z, r, n = split(x, 3, axis=-1)
            own_z, own_r = split(matmul(known, gates), 2, axis=-1)
            z, r = self.recurrent_activation(z + own_z), self.recurrent_activation(r + own_r)
            return (_between(z, h, self.activation(n + matmul(r * known, candidate))),)

        return cell


def _between(z: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """``z * old + (1 - z) * new``."""
    return new + z * (old - new)
