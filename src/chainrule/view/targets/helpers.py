"""Gates that NumPy has no word for, as functions of NumPy alone: written to be read, and printed into a module that calls them.

Each has the name, the inputs and the parameters of its gate, and is checked against the gate's own evaluation over all of its
samples. Gates that are neither here nor a NumPy expression are printed as the library's own evaluation.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

Array = Any  # NumPy's own stubs would need every dtype spelled out.
Shape = tuple[int, ...]


def _taps(kernel: Shape, size: Shape, stride: Shape, dilation: Shape, low: Shape, spatial: Shape) -> Any:
    """For every tap of a kernel: the outputs that read inside of the image, and the places that they read."""
    for tap in product(*map(range, kernel)):
        outputs: list[slice] = [slice(None)]
        places: list[slice] = [slice(None)]
        for k, count, step, gap, front, wide in zip(tap, size, stride, dilation, low, spatial):
            offset = k * gap - front
            first = min(max(0, -(offset // step)), count)
            last = max(first, min(count, (wide - 1 - offset) // step + 1))
            outputs.append(slice(first, last))
            places.append(slice(max(first * step + offset, 0), max((last - 1) * step + offset + 1, 0), step))
        yield tap, tuple(outputs), tuple(places)


def conv(x: Array, w: Array, stride: Shape, dilation: Shape, low: Shape, groups: int, size: Shape) -> Array:
    """y[n, o, f] = sum over k, c of x[n, o*stride + k*dilation - low, c] * w[k, c, f], channels last; tap by tap."""
    y = np.zeros((x.shape[0], *size, groups, w.shape[-1] // groups), x.dtype)
    x = x.reshape(*x.shape[:-1], groups, 1, x.shape[-1] // groups)
    w = w.reshape(*w.shape[:-1], groups, w.shape[-1] // groups)
    for tap, outputs, places in _taps(w.shape[:-3], size, stride, dilation, low, x.shape[1:-3]):
        y[outputs] += (x[places] @ np.moveaxis(w[tap], 1, 0))[..., 0, :]
    return y.reshape(*y.shape[:-2], y.shape[-2] * y.shape[-1])


def conv_transpose(x: Array, w: Array, stride: Shape, dilation: Shape, low: Shape, groups: int, size: Shape) -> Array:
    """The gradient of conv's image: every output hands each tap's share back to the place that it read."""
    y = np.zeros((x.shape[0], *size, groups, w.shape[-2]), x.dtype)
    x = x.reshape(*x.shape[:-1], groups, 1, x.shape[-1] // groups)
    w = w.reshape(*w.shape[:-1], groups, w.shape[-1] // groups)
    for tap, outputs, places in _taps(w.shape[:-3], x.shape[1:-3], stride, dilation, low, size):
        y[places] += (x[outputs] @ np.moveaxis(w[tap], 0, -1))[..., 0, :]
    return y.reshape(*y.shape[:-2], y.shape[-2] * y.shape[-1])


def conv_weight(x: Array, y: Array, stride: Shape, dilation: Shape, low: Shape, groups: int, size: Shape) -> Array:
    """The gradient of conv's weights: what a tap read times what came back, summed over images and positions."""
    channels, features = x.shape[-1] // groups, y.shape[-1] // groups
    w = np.zeros((*size, channels, groups, features), x.dtype)
    x, y = x.reshape(*x.shape[:-1], groups, channels), y.reshape(*y.shape[:-1], groups, features)
    every = tuple(range(x.ndim - 2))
    for tap, outputs, places in _taps(size, y.shape[1:-2], stride, dilation, low, x.shape[1:-2]):
        for group in range(groups):
            w[tap][:, group] = np.tensordot(x[places][..., group, :], y[outputs][..., group, :], (every, every))
    return w.reshape(*size, channels, groups * features)


def gather(x: Array, index: Array, axes: Shape) -> Array:
    """Reads x at integer positions along axes; for several axes the positions stand one row per axis."""
    if len(axes) == 1:
        return np.take(x, index, axes[0])
    front = np.moveaxis(x, axes, range(len(axes)))[tuple(index)]
    return np.moveaxis(front, range(index.ndim - 1), range(axes[0], axes[0] + index.ndim - 1))


def scatter_add(index: Array, values: Array, shape: Shape, axes: Shape) -> Array:
    """The gradient of gather: values add up at the positions that they were read from."""
    out = np.zeros(shape, values.dtype)
    rows = (index,) if len(axes) == 1 else tuple(index)
    block = rows[0].ndim
    rest = [size for axis, size in enumerate(shape) if axis not in axes]
    values = np.broadcast_to(values, (*rest[: axes[0]], *rows[0].shape, *rest[axes[0] :]))
    values = np.moveaxis(values, range(axes[0], axes[0] + block), range(block))
    np.add.at(np.moveaxis(out, axes, range(len(axes))), rows, values)
    return out


def take_along_axis(x: Array, indices: Array, axis: int) -> Array:
    """Reads x at its own positions for every line along an axis."""
    return np.take_along_axis(x, indices, axis)


def scatter_along_axis(indices: Array, values: Array, axis: int, size: int) -> Array:
    """The gradient of take_along_axis."""
    out = np.zeros((*values.shape[:axis], size, *values.shape[axis + 1 :]), values.dtype)
    places = list(np.indices(indices.shape))
    places[axis] = indices
    np.add.at(out, tuple(places), values)
    return out


def one_hot(indices: Array, classes: int, dtype: Any) -> Array:
    """1 at the index of each class, else 0."""
    return (np.asarray(indices)[..., None] == np.arange(classes)).astype(dtype)


def softmax(x: Array, axis: int) -> Array:
    """Exponentials divided by their sum; the largest is subtracted first, so that none overflows."""
    power = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
    return power / power.sum(axis=axis, keepdims=True)


def log_softmax(x: Array, axis: int) -> Array:
    """The logarithm of softmax, without overflow."""
    x = x - x.max(axis=axis, keepdims=True, initial=-np.inf)
    return x - np.log(np.exp(x).sum(axis=axis, keepdims=True))


def place(value: Array, index: Any, shape: Shape) -> Array:
    """Zeros with the value at an index: the gradient of reading there."""
    out = np.zeros(shape, value.dtype)
    out[index] = value
    return out


def index_update(x: Array, value: Array, index: Any) -> Array:
    """A copy of x with another value at an index."""
    out = np.array(x)
    out[index] = value
    return out


def cond(pred: Array, *xs: Array, true: Any, false: Any) -> tuple[Array, ...]:
    """One of two functions of the same operands."""
    return true(*xs) if pred else false(*xs)


def while_loop(*xs: Array, cond: Any, body: Any, carried: int) -> tuple[Array, ...]:
    """The carry after as many steps as the condition holds."""
    carry, rest = xs[:carried], xs[carried:]
    while cond(*carry, *rest)[0]:
        carry = body(*carry, *rest)
    return tuple(carry)


def while_loop_back(*xs: Array, cond: Any, body: Any, back: Any, carried: int, count: int) -> tuple[Array, ...]:
    """The gradient of while_loop: it runs once more, keeping every carry, and then back through them, the last one first."""
    gradients, carry, rest = xs[:count], xs[count : count + carried], xs[count + carried :]
    before = []
    while cond(*carry, *rest)[0]:
        before.append(carry)
        carry = body(*carry, *rest)
    for carry in reversed(before):
        gradients = back(*gradients, *carry, *rest)
    return tuple(gradients)


def scan(*xs: Array, body: Any, length: int, reverse: bool, carried: int, sliced: int) -> tuple[Array, ...]:
    """Steps along the first axis: a carry goes from one to the next, and what each step gives is stacked."""
    carry, slices, rest = xs[:carried], xs[carried : carried + sliced], xs[carried + sliced :]
    rows = []
    for i in reversed(range(length)) if reverse else range(length):
        out = body(*carry, *(x[i] for x in slices), *rest)
        carry = out[:carried]
        rows.append(out[carried:])
    columns = zip(*(reversed(rows) if reverse else rows))
    return (*carry, *map(np.stack, columns))
