"""Recurrent: what layers that go through a sequence step by step have in common.

The input's part of all steps is one product, outside of the loop; the loop itself is `scan`, so that a compiled
layer holds one step however long the sequence is. What a step computes is said in `cells`, not here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from chainrule.core.aval import Aval, Dtype, Shape
from chainrule.core.errors import ArgumentError, LayerError
from chainrule.graph.scan import scan
from chainrule.nn import regularizers
from chainrule.nn.activations import Function, get
from chainrule.nn.initializers import Initializer, fetch
from chainrule.nn.layer import Layer
from chainrule.nn.regularizers import Regularizer
from chainrule.nn.spec import InputSpec, counted
from chainrule.ops import random
from chainrule.ops.creation import asarray, astype
from chainrule.ops.filled import ones, zeros
from chainrule.ops.gate import lift
from chainrule.ops.linalg import matmul
from chainrule.ops.movement import expand_dims, permute_dims, reshape
from chainrule.ops.selection import where
from chainrule.ops.shifting import flip
from chainrule.tensor import Tensor

State = tuple[Tensor, ...]
"""What a layer carries from step to step; the output comes first."""
Cell = Callable[[State, Tensor], State]
"""The next state from this one and the step's part of the projected input."""


class Recurrent(Layer):
    """The base of layers that go through a sequence and carry a state along.

    A subclass sets `gates` and `states` and says in `_cell` what a step computes.

    Attributes
    ----------
    gates : int
        How many blocks of `units` columns stand side by side in the kernels.
    states : int
        How many arrays are carried along.
    kernel : Tensor of shape (features, gates * units)
    recurrent_kernel : Tensor of shape (units, gates * units)
    bias : Tensor of shape (gates * units,), or None
    """

    gates = 1
    states = 1
    kernel: Tensor
    recurrent_kernel: Tensor
    bias: Tensor | None

    def __init__(
        self,
        units: int,
        activation: str | Function | None = "tanh",
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
        name: str | None = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        kind = type(self).__name__
        self.units = counted(kind, "units", units)
        self.activation = get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = fetch(kernel_initializer)
        self.recurrent_initializer = fetch(recurrent_initializer)
        self.bias_initializer = fetch(bias_initializer)
        self.kernel_regularizer = regularizers.fetch(kernel_regularizer)
        self.recurrent_regularizer = regularizers.fetch(recurrent_regularizer)
        self.bias_regularizer = regularizers.fetch(bias_regularizer)
        for label, rate in (("dropout", dropout), ("recurrent_dropout", recurrent_dropout)):
            if not 0 <= rate < 1:
                raise ArgumentError(f"{kind}: {label}={rate}", mend="it is the share of zeros, at least 0 and below 1")
        self.dropout = dropout
        self.recurrent_dropout = recurrent_dropout
        self.return_sequences = return_sequences
        self.return_state = return_state
        self.go_backwards = go_backwards
        self.input_spec = _spec(None)

    def build(self, input_shape: Shape) -> None:
        features, columns = input_shape[-1], self.gates * self.units
        self.kernel = self.add_parameter("kernel", (features, columns), self.kernel_initializer, regularizer=self.kernel_regularizer)
        recurrent = (self.units, columns)
        self.recurrent_kernel = self.add_parameter("recurrent_kernel", recurrent, self.recurrent_initializer, regularizer=self.recurrent_regularizer)
        self.bias = None
        if self.use_bias:
            self.bias = self.add_parameter("bias", self._bias_shape(), self._bias_initializer(), regularizer=self.bias_regularizer)
        self.input_spec = _spec(features)

    def _bias_shape(self) -> Shape:
        return (self.gates * self.units,)

    def _bias_initializer(self) -> Initializer:
        return self.bias_initializer

    def _input_bias(self) -> Tensor | None:
        """The bias of what comes from the input."""
        return self.bias

    def _cell(self, recalled: Function) -> Cell:
        """What a step computes; ``recalled`` is applied to the output before it meets the recurrent kernel."""
        raise LayerError(f"{type(self).__name__} does not define its step", mend="define its method _cell(self, recalled)")

    def call(self, x: Tensor, *, initial_state: Any = None, mask: Any = None) -> Any:
        """The outputs for sequences.

        Parameters
        ----------
        x : Tensor of shape (batch, steps, features)
        initial_state : Tensor or sequence of Tensor of shape (batch, units), optional
            Zeros if not given.
        mask : Tensor of bool of shape (batch, steps), optional
            Where it is False, the state is carried on unchanged, and so is the output.

        Returns
        -------
        Tensor or tuple of Tensor
            The last output, of shape (batch, units), or with `return_sequences` all of them, (batch, steps, units), in the
            order in which they were computed; with `return_state` also the last state's arrays, in one flat tuple.
        """
        batch, steps, features = x.shape
        if self.dropout:
            x = x * self._noise((batch, 1, features), x.dtype, self.dropout)
        # One matrix product, with the steps in front, where the loop takes its slices.
        rows = reshape(permute_dims(x, (1, 0, 2)), (steps * batch, features))
        projected, bias = matmul(rows, self.kernel), self._input_bias()
        projected = reshape(projected if bias is None else projected + bias, (steps, batch, self.gates * self.units))
        start = self._start(initial_state, batch, projected.dtype)
        slices = (projected,) if mask is None else (projected, self._columns(mask, (batch, steps)))
        cell = self._cell(self._recall(batch, projected.dtype))

        def step(state: State, slices: State) -> tuple[State, Tensor | None]:
            after = cell(state, slices[0])
            for known in slices[1:]:
                after = tuple(where(known, new, old) for new, old in zip(after, state, strict=True))
            return after, after[0] if self.return_sequences else None

        state, outputs = scan(step, start, slices, reverse=self.go_backwards)
        y = permute_dims(outputs, (1, 0, 2)) if self.return_sequences else state[0]
        if self.return_sequences and self.go_backwards:
            y = flip(y, axis=1)
        return (y, *state) if self.return_state else y

    def _recall(self, batch: int, dtype: Dtype) -> Function:
        if not (self.recurrent_dropout and self.training):
            return lambda h: h
        noise = self._noise((batch, self.units), dtype, self.recurrent_dropout)
        return lambda h: h * noise

    def _noise(self, shape: Shape, dtype: Dtype, rate: float) -> Tensor:
        """What hides the same values in all steps of a sequence."""
        return random.dropout(ones(shape, dtype=dtype), rate, training=self.training)

    def _start(self, given: Any, batch: int, dtype: Dtype) -> State:
        if given is None:
            return tuple(zeros((batch, self.units), dtype=dtype) for _ in range(self.states))
        state = tuple(lift(x) for x in states_of(given))
        if [x.shape for x in state] != [(batch, self.units)] * self.states:
            found = ", ".join(str(Aval(x.shape, x.dtype)) for x in state)
            raise LayerError(
                f"{self.label} starts from {self.states} of (batch={batch}, units={self.units}), but initial_state is {found or 'empty'}",
                mend="pass the state that the layer gave with return_state=True for as many sequences, or leave it out for zeros",
            )
        return tuple(x if x.dtype == dtype else astype(x, dtype) for x in state)

    def _columns(self, mask: Any, shape: Shape) -> Tensor:
        mask = asarray(mask)
        if mask.shape != shape or mask.dtype.kind != "b":
            raise LayerError(
                f"{self.label} takes a mask bool(batch={shape[0]}, steps={shape[1]}), but got {Aval(mask.shape, mask.dtype)}",
                mend="pass True for each step to be taken and False for padding, such as tokens != 0",
            )
        return expand_dims(permute_dims(mask, (1, 0)), axis=-1)


def states_of(given: Any) -> Sequence[Any]:
    """The arrays of a state, of which one may come bare."""
    return given if isinstance(given, (tuple, list)) else (given,)


def _spec(features: int | None) -> InputSpec:
    return InputSpec(
        ndim=3,
        axes={} if features is None else {2: features},
        names=("batch", "steps", "features"),
        mend="give it sequences of vectors, as wide as the first ones; tokens go through an Embedding first",
    )
