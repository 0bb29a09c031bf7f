"""The Neural Turing Machine: a network beside a memory, which it addresses by content and by place.

The stages of addressing stand here as functions of their own, an equation of the paper each; the layer puts them together and
goes through a sequence with `cr.scan`. A memory is kept as (batch, width, slots), a slot being a column, so that what is done to
all slots is done to neighbours. Nothing here trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add as plus
from typing import Any, NamedTuple

import numpy as np

from chainrule.core.aval import Shape
from chainrule.core.errors import ArgumentError
from chainrule.graph.scan import scan
from chainrule.nn.dense import Dense
from chainrule.nn.initializers import Initializer
from chainrule.nn.layer import Layer
from chainrule.nn.spec import InputSpec, counted
from chainrule.ops.activation import sigmoid, softplus
from chainrule.ops.arithmetic import sqrt, square
from chainrule.ops.composite import softmax
from chainrule.ops.creation import asarray, astype
from chainrule.ops.filled import full, zeros
from chainrule.ops.joining import concat, split
from chainrule.ops.linalg import matmul
from chainrule.ops.movement import broadcast_to, matrix_transpose, moveaxis, reshape
from chainrule.ops.reduction import sum
from chainrule.ops.shifting import roll
from chainrule.ops.transcendental import log, tanh
from chainrule.tensor import Tensor, new

# Keeps norms of empty slots and logarithms of weights that underflowed finite, derivatives included; below any that matter.
TINY = 1e-16


def content(keys: Tensor, strength: Tensor, memory: Tensor) -> Tensor:
    """Weights of the slots by how much they resemble a key.

    Parameters
    ----------
    keys : Tensor of shape (batch, heads, width)
    strength : Tensor of shape (batch, heads, 1)
        How much the most similar slots are preferred; at least 0.
    memory : Tensor of shape (batch, width, slots)

    Returns
    -------
    Tensor of shape (batch, heads, slots)

    Notes
    -----
    ``softmax_i(strength * K(key, memory_i))`` with the cosine similarity ``K(u, v) = u . v / (|u| |v|)``: Graves et al. (2014), equations 5 and 6.
    """
    keys = keys * (strength / sqrt(sum(square(keys), axis=-1, keepdims=True) + TINY))
    return softmax(matmul(keys, memory) / sqrt(sum(square(memory), axis=1, keepdims=True) + TINY))


def interpolate(found: Tensor, before: Tensor, gate: Tensor) -> Tensor:
    """Between the weights of the step before (gate 0) and those by content (gate 1).

    Parameters
    ----------
    found, before : Tensor of shape (batch, heads, slots)
    gate : Tensor of shape (batch, heads, 1)

    Notes
    -----
    ``gate * found + (1 - gate) * before``: Graves et al. (2014), equation 7.
    """
    return before + gate * (found - before)


def shift(weights: Tensor, shifts: Tensor) -> Tensor:
    """Weights moved round the slots, by several steps at once, each with its share.

    Parameters
    ----------
    weights : Tensor of shape (batch, heads, slots)
    shifts : Tensor of shape (batch, heads, 2 * most + 1)
        The shares of -most, ..., 0, ..., most; they sum to 1.

    Notes
    -----
    ``w_i = sum_j weights_j shifts_(i - j)``, positions modulo the number of slots: Graves et al. (2014), equation 8.
    """
    count = shifts.shape[-1]
    first, *others = (roll(weights, i - count // 2, axis=-1) * share for i, share in enumerate(split(shifts, count, axis=-1)))
    return reduce(plus, others, first)


def sharpen(weights: Tensor, gamma: Tensor) -> Tensor:
    """Weights raised to a power and made to sum to 1 again, so that a blurred focus becomes sharp.

    Parameters
    ----------
    weights : Tensor of shape (batch, heads, slots)
    gamma : Tensor of shape (batch, heads, 1)
        At least 1, which changes nothing.

    Notes
    -----
    ``weights_i^gamma / sum_j weights_j^gamma``, which is ``softmax(gamma * log(weights))``: Graves et al. (2014), equation 9.
    """
    return softmax(gamma * log(weights + TINY))


def read(memory: Tensor, weights: Tensor) -> Tensor:
    """What the heads see: mixtures of slots.

    Parameters
    ----------
    memory : Tensor of shape (batch, width, slots)
    weights : Tensor of shape (batch, heads, slots)

    Returns
    -------
    Tensor of shape (batch, heads, width)

    Notes
    -----
    ``sum_i weights_i memory_i``: Graves et al. (2014), equation 2.
    """
    return matrix_transpose(matmul(memory, matrix_transpose(weights)))


def write(memory: Tensor, weights: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    """The memory after all heads have erased and then all have added, each where its weights are.

    Parameters
    ----------
    memory : Tensor of shape (batch, width, slots)
    weights : Tensor of shape (batch, heads, slots)
    erase : Tensor of shape (batch, heads, width)
        Shares from 0 to 1.
    add : Tensor of shape (batch, heads, width)

    Notes
    -----
    ``memory_i (1 - weights_i erase) + weights_i add``: Graves et al. (2014), equations 3 and 4.
    """
    for place, kind in zip(split(weights, weights.shape[1], axis=1), split(erase, erase.shape[1], axis=1), strict=True):
        memory = memory * (1 - matmul(matrix_transpose(kind), place))
    return memory + matmul(matrix_transpose(add), weights)


class Addressing(NamedTuple):
    """Where the heads of a machine were at each step: weights that sum to 1 over the slots.

    Attributes
    ----------
    read : Tensor of shape (batch, steps, read heads, slots)
    write : Tensor of shape (batch, steps, write heads, slots)
    """

    read: Tensor
    write: Tensor


class State(NamedTuple):
    """What goes from step to step."""

    memory: Tensor
    weights: Tensor
    reads: Tensor
    controller: tuple[Tensor, ...]


class Orders(NamedTuple):
    """What the controller tells the heads in a step, each of shape (batch, heads, size); the last two are for the heads that write."""

    keys: Tensor
    strength: Tensor
    gate: Tensor
    shifts: Tensor
    gamma: Tensor
    erase: Tensor
    add: Tensor


def lstm(x: Tensor, reads: Tensor, state: tuple[Tensor, ...], kernel: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One step of a controller with a memory of its own; ``x`` holds the inputs' share of its four gates already."""
    hidden, cell = state
    gates, proposed = split(x + matmul(concat([reads, hidden], axis=-1), kernel), (3 * cell.shape[-1],), axis=-1)
    enter, keep, leave = split(sigmoid(gates), 3, axis=-1)
    cell = keep * cell + enter * tanh(proposed)
    hidden = leave * tanh(cell)
    return hidden, (hidden, cell)


def dense(x: Tensor, reads: Tensor, state: tuple[Tensor, ...], kernel: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One step of a controller that remembers nothing but what it reads."""
    return tanh(x + matmul(reads, kernel)), ()


class Controller(NamedTuple):
    """A kind of controller: its step, how many sums it makes of its inputs for each unit, and how many values per unit it carries on."""

    step: Callable[[Tensor, Tensor, tuple[Tensor, ...], Tensor], tuple[Tensor, tuple[Tensor, ...]]]
    gates: int
    carried: int


CONTROLLERS = {"lstm": Controller(lstm, 4, 2), "dense": Controller(dense, 1, 0)}


@dataclass(frozen=True)
class AtFirstSlot(Initializer):
    """Logits of weights that prefer the first slot: there ``value``, elsewhere 0."""

    value: float = 5.0

    def __call__(self, shape: Shape, dtype: Any = "float32", fans: tuple[int, int] | None = None) -> Tensor:
        logits = np.zeros(shape, dtype)
        logits[..., 0] = self.value
        return new(logits)


class NeuralTuringMachine(Layer):
    """What `neural_turing_machine` returns, and documents.

    Parameters
    ----------
    inputs, outputs, controller, units, memory, read_heads, write_heads, shift
        As for `neural_turing_machine`.
    name, dtype
        As for `Layer`.

    Attributes
    ----------
    kernel, recurrent_kernel, bias : Tensor
        The controller's, for the inputs and for what was read, together with its own last output if it is an LSTM.
    interface : Dense
        From the controller's output to the orders for all heads.
    readout : Dense
        From the controller's output and what was read to the logits.
    first_reads, first_weights : Tensor
        What the heads have read before the first step, before a tanh, and where they are, before a softmax.

    Raises
    ------
    ArgumentError
        If there is no such controller, or a size is not a positive integer.
    LayerError
        If a sequence is not of shape (batch, steps, inputs).

    Examples
    --------
    >>> import chainrule as cr
    >>> model = cr.models.neural_turing_machine(3, 2, units=8, memory=(6, 4))
    >>> model(cr.zeros((5, 7, 3))).shape
    (5, 7, 2)
    >>> weights = model.addressing(cr.zeros((5, 7, 3)))
    >>> weights.read.shape, weights.write.shape
    ((5, 7, 1, 6), (5, 7, 1, 6))
    """

    kernel: Tensor
    recurrent_kernel: Tensor
    bias: Tensor
    first_reads: Tensor
    first_weights: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        controller: str = "lstm",
        units: int = 100,
        memory: Sequence[int] = (128, 20),
        read_heads: int = 1,
        write_heads: int = 1,
        shift: int = 1,
        name: str | None = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        if controller not in CONTROLLERS:
            raise ArgumentError(f"neural_turing_machine: no controller {controller!r}", mend=f"choose one of {', '.join(CONTROLLERS)}")
        if len(memory) != 2:
            raise ArgumentError(f"neural_turing_machine: memory={memory!r}", mend="give a number of slots and their width, such as (128, 20)")
        self.inputs = _counted("inputs", inputs)
        self.outputs = _counted("outputs", outputs)
        self.controller = controller
        self.units = _counted("units", units)
        self.memory = (_counted("slots of the memory", memory[0]), _counted("width of the memory", memory[1]))
        self.read_heads = _counted("read_heads", read_heads)
        self.write_heads = _counted("write_heads", write_heads)
        self.shift = _counted("shift", shift)
        self.input_spec = InputSpec(ndim=3, axes={2: self.inputs}, names=("batch", "steps", "inputs"))
        heads, width = self.read_heads + self.write_heads, self.memory[1]
        # In the order in which they stand in the interface's output: keys; add; erase, gate; strength, gamma; shifts.
        sizes = (heads * width, write_heads * width, write_heads * width + heads, 2 * heads, heads * (2 * shift + 1))
        self._cuts = tuple(np.cumsum(sizes[:-1]).tolist())
        self.interface = Dense(int(np.sum(sizes)), dtype=dtype)
        self.readout = Dense(self.outputs, dtype=dtype)

    def build(self, input_shape: Shape) -> None:
        slots, width = self.memory
        _, gates, carried = CONTROLLERS[self.controller]
        self.kernel = self.add_parameter("kernel", (self.inputs, gates * self.units), "glorot_uniform")
        rows = self.read_heads * width + (self.units if carried else 0)
        self.recurrent_kernel = self.add_parameter("recurrent_kernel", (rows, gates * self.units), "glorot_uniform")
        self.bias = self.add_parameter("bias", (gates * self.units,), "zeros")
        self.first_reads = self.add_parameter("first_reads", (self.read_heads * width,), "zeros")
        self.first_weights = self.add_parameter("first_weights", (self.read_heads + self.write_heads, slots), AtFirstSlot())

    def call(self, sequence: Tensor) -> Tensor:
        seen, _ = self._run(sequence)
        return moveaxis(self.readout(seen), 0, 1)

    def addressing(self, sequence: Any) -> Addressing:
        """Where the heads are at each step of a sequence.

        Parameters
        ----------
        sequence : Tensor or array_like of shape (batch, steps, inputs)

        Returns
        -------
        Addressing
            Weights of shape (batch, steps, heads, slots): ``read`` and ``write``.
        """
        self._require_built()
        sequence = asarray(sequence)
        self._check((sequence,))
        _, weights = self._run(sequence)
        return Addressing(*split(moveaxis(weights, 0, 1), (self.read_heads,), axis=2))

    def _run(self, sequence: Tensor) -> tuple[Tensor, Tensor]:
        """What the readout sees, and the weights of all heads, steps first."""
        # What does not depend on the step before is done for all steps together, before the loop and after it.
        x = matmul(moveaxis(astype(sequence, self.dtype, copy=False), 1, 0), self.kernel) + self.bias
        _, collected = scan(self._step, self._start(sequence.shape[0]), x)
        return collected

    def _start(self, batch: int) -> State:
        slots, width = self.memory
        for_all = lambda x: broadcast_to(x, (batch, *x.shape))
        return State(
            full((batch, width, slots), 1e-6, dtype=self.dtype),
            for_all(softmax(self.first_weights)),
            for_all(tanh(self.first_reads)),
            (zeros((batch, self.units), dtype=self.dtype),) * CONTROLLERS[self.controller].carried,
        )

    def _step(self, state: State, x: Tensor) -> tuple[State, tuple[Tensor, Tensor]]:
        hidden, controller = CONTROLLERS[self.controller].step(x, state.reads, state.controller, self.recurrent_kernel)
        orders = self._orders(hidden)
        found = content(orders.keys, orders.strength, state.memory)
        moved = shift(interpolate(found, state.weights, orders.gate), orders.shifts)
        weights = sharpen(moved, orders.gamma)
        reading, writing = split(weights, (self.read_heads,), axis=1)
        reads = reshape(read(state.memory, reading), state.reads.shape)
        memory = write(state.memory, writing, orders.erase, orders.add)
        return State(memory, weights, reads, controller), (concat([hidden, reads], axis=-1), weights)

    def _orders(self, hidden: Tensor) -> Orders:
        keys, added, shares, powers, shifts = split(self.interface(hidden), self._cuts, axis=-1)
        erase, gate = split(sigmoid(shares), (self.write_heads * self.memory[1],), axis=-1)
        strength, gamma = split(softplus(powers), 2, axis=-1)
        heads = self.read_heads + self.write_heads
        per = lambda x, count=heads: reshape(x, (x.shape[0], count, x.shape[1] // count))
        writes = self.write_heads
        return Orders(per(keys), per(strength), per(gate), softmax(per(shifts)), 1 + per(gamma), per(erase, writes), per(added, writes))


def _counted(label: str, value: Any) -> int:
    return counted("neural_turing_machine", label, value)


def neural_turing_machine(
    inputs: int,
    outputs: int,
    *,
    controller: str = "lstm",
    units: int = 100,
    memory: Sequence[int] = (128, 20),
    read_heads: int = 1,
    write_heads: int = 1,
    shift: int = 1,
) -> NeuralTuringMachine:
    """A network with a memory beside it, that can learn to use it as a program does: to copy, to repeat, to look up.

    Parameters
    ----------
    inputs, outputs : int
        Sizes of a sequence's elements, coming in and going out.
    controller : {"lstm", "dense"}
        The network that gives the heads their orders: with a state of its own, or one layer without.
    units : int
        Size of the controller.
    memory : (int, int)
        Number of slots, and how many numbers each holds.
    read_heads, write_heads : int
    shift : int
        By how many slots a head can move in a step, either way.

    Returns
    -------
    NeuralTuringMachine
        From sequences of shape (batch, steps, inputs) to logits of shape (batch, steps, outputs). Its method ``addressing`` returns where the heads
        were at each step.

    Raises
    ------
    ArgumentError
        If there is no such controller, or a size is not a positive integer.

    Notes
    -----
    Graves, Wayne and Danihelka, "Neural Turing Machines" (2014), arXiv:1410.5401. In a step, with R and W heads that read and write and
    H = R + W in all, all of which address the memory as the step before has left it:

    ===================================  ===================================  ============================================
    part                                 output                               parameters
    ===================================  ===================================  ============================================
    controller, of x and what was read   (batch, units)                       lstm: (inputs + R width + units + 1) 4 units
    interface (Dense)                    (batch, H (width + 2 shift + 4)      (units + 1) times as many as its outputs
                                         + 2 W width)
    `content`, equations 5 and 6         (batch, H, slots)
    `interpolate`, equation 7            (batch, H, slots)
    `shift`, equation 8                  (batch, H, slots)
    `sharpen`, equation 9                (batch, H, slots)
    `read`, equation 2                   (batch, R, width)
    `write`, equations 3 and 4           (batch, width, slots)
    readout (Dense) of controller and    (batch, outputs)                     (units + R width + 1) outputs
    what was read
    before the first step                                                     R width + H slots
    ===================================  ===================================  ============================================

    62,536 parameters for the paper's copy task: 8 bits and a delimiter in, 8 bits out.

    A memory begins as 1e-6 everywhere, which learns fastest in Collier and Beel, "Implementing Neural Turing Machines" (2018),
    arXiv:1807.08518. Heads begin at the first slot, and learn where else to begin; begun everywhere at once, they would have nothing to shift.

    Examples
    --------
    >>> import chainrule as cr
    >>> model = cr.models.neural_turing_machine(9, 8)
    >>> model(cr.zeros((2, 5, 9))).shape
    (2, 5, 8)
    >>> sum(parameter.size for parameter in model.parameters())
    62536
    """
    return NeuralTuringMachine(
        inputs,
        outputs,
        controller=controller,
        units=units,
        memory=memory,
        read_heads=read_heads,
        write_heads=write_heads,
        shift=shift,
    )
