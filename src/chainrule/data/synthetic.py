"""Data sets made on the spot, small enough to look at, each hard for something: a straight line, one mode, a short memory.

All are functions of their seed: what is drawn are Philox bits, which stay the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule.core.errors import ArgumentError
from chainrule.data.dataset import Dataset
from chainrule.ops.generator import Generator
from chainrule.ops.random import bernoulli, normal, uniform

Array = npt.NDArray[Any]


def moons(count: int = 200, *, noise: float = 0.1, seed: int = 0) -> Dataset:
    """Two half circles that reach into each other.

    Parameters
    ----------
    count : int
        Points in all, as many of each class, or one more of the first.
    noise : float
        Standard deviation of what is added to each coordinate.
    seed : int

    Returns
    -------
    Dataset
        Inputs of shape (2,), two classes.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.data.moons(100)
    Dataset('moons', 100 inputs of shape (2,), 2 classes)
    """
    labels = _labels("moons", count, 2)
    draw = Generator(seed)
    angle = np.pi * uniform(count, generator=draw, dtype=np.float64).numpy()
    upper, lower = np.stack([np.cos(angle), np.sin(angle)], 1), np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], 1)
    return Dataset(_noisy(np.where(labels[:, None] == 0, upper, lower), noise, draw), labels, classes=2, name="moons")


def spirals(count: int = 300, *, classes: int = 3, turns: float = 0.75, noise: float = 0.05, seed: int = 0) -> Dataset:
    """Arms that wind around the origin, a class each.

    Parameters
    ----------
    count : int
        Points in all, spread over the classes.
    classes : int
    turns : float
        How far an arm winds.
    noise : float
        Standard deviation of what is added to each coordinate; arms reach to radius 1.
    seed : int

    Returns
    -------
    Dataset
        Inputs of shape (2,).

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.data.spirals(90, classes=3)
    Dataset('spirals', 90 inputs of shape (2,), 3 classes)
    """
    labels = _labels("spirals", count, classes)
    draw = Generator(seed)
    radius = uniform(count, generator=draw, dtype=np.float64).numpy()
    angle = 2 * np.pi * (turns * radius + labels / classes)
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return Dataset(_noisy(points, noise, draw), labels, classes=classes, name="spirals")


def xor(count: int = 4, *, noise: float = 0.0, seed: int = 0) -> Dataset:
    """Exclusive or: the corners of the unit square, whose class is whether their coordinates differ. No straight line parts them.

    Parameters
    ----------
    count : int
        The corners take turns.
    noise : float
        Standard deviation of what is added to each coordinate.
    seed : int

    Returns
    -------
    Dataset
        Inputs of shape (2,), two classes.

    Examples
    --------
    >>> import chainrule as cr
    >>> points, labels = cr.data.xor()[:]
    >>> points.tolist(), labels.tolist()
    ([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0, 1, 1, 0])
    """
    corner = _labels("xor", count, 4)
    first, second = corner // 2, corner % 2
    return Dataset(_noisy(np.stack([first, second], 1), noise, Generator(seed)), first ^ second, classes=2, name="xor")


def eight_gaussians(count: int = 1000, *, radius: float = 2.0, std: float = 0.02, seed: int = 0) -> Dataset:
    """A ring of eight narrow Gaussians: a generator that has learned it finds all eight.

    Parameters
    ----------
    count : int
        Points in all, spread over the Gaussians.
    radius : float
        Of the ring on which their centres lie, the first at (radius, 0) and the others counterclockwise.
    std : float
        Of each Gaussian.
    seed : int

    Returns
    -------
    Dataset
        Inputs of shape (2,); the class is the number of the Gaussian.

    Notes
    -----
    The "8 Gaussians" of Gulrajani et al., "Improved training of Wasserstein GANs" (2017), section 5, before their code scales it down by 1.414.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.data.eight_gaussians()
    Dataset('eight_gaussians', 1000 inputs of shape (2,), 8 classes)
    """
    labels = _labels("eight_gaussians", count, 8)
    angle = labels * (math.pi / 4)
    return Dataset(_noisy(radius * np.stack([np.cos(angle), np.sin(angle)], 1), std, Generator(seed)), labels, classes=8, name="eight_gaussians")


def copy_task(length: int = 20, *, width: int = 8, count: int = 1000, seed: int = 0) -> Dataset:
    """Sequences of random bits, to be given back from memory after an end marker.

    Parameters
    ----------
    length : int
        Vectors in a sequence. For several lengths make a set for each: a batch has one.
    width : int
        Bits in a vector.
    count : int
        How many sequences.
    seed : int

    Returns
    -------
    Dataset
        Inputs of shape (2 length + 1, width + 1): the vectors, the marker in a channel of its own, and silence. Targets of
        shape (length, width): what the last ``length`` outputs should be.

    Notes
    -----
    Graves, Wayne and Danihelka, "Neural Turing machines" (2014), section 4.1, with width 8 and lengths from 1 to 20.

    Examples
    --------
    >>> import chainrule as cr
    >>> task = cr.data.copy_task(2, width=3, count=10)
    >>> task
    Dataset('copy_task', 10 inputs of shape (5, 4), targets of shape (2, 3))
    >>> inputs, targets = task[0]
    >>> (inputs[:2, :3] == targets).all(), inputs[:, 3].tolist()
    (np.True_, [0.0, 0.0, 1.0, 0.0, 0.0])
    """
    if min(length, width, count) < 1:
        raise ArgumentError(f"copy_task: length={length}, width={width}, count={count}", mend="each must be at least 1")
    bits = bernoulli(0.5, (count, length, width), generator=Generator(seed)).numpy().astype(np.float32)
    inputs = np.zeros((count, 2 * length + 1, width + 1), np.float32)
    inputs[:, :length, :width] = bits
    inputs[:, length, width] = 1
    return Dataset(inputs, bits, name="copy_task")


def paw() -> Dataset:
    """Three shades: white and black belong together, the gray between them does not. No linear model tells them apart; two ReLUs do.

    Returns
    -------
    Dataset
        Inputs 1, 0 and 0.5 of shape (1,), targets 0.5, 0.5 and -0.5 of shape (1,).

    Examples
    --------
    >>> import chainrule as cr
    >>> shades, targets = cr.data.paw()[:]
    >>> shades.ravel().tolist(), targets.ravel().tolist()
    ([1.0, 0.0, 0.5], [0.5, 0.5, -0.5])
    """
    return Dataset([[1.0], [0.0], [0.5]], [[0.5], [0.5], [-0.5]], name="paw")


def linear(count: int = 100, *, weights: Sequence[float] = (2.0,), bias: float = 1.0, noise: float = 0.1, seed: int = 0) -> Dataset:
    """Points on a line, or a plane, with noise: for linear regression, which should find the weights and the bias.

    Parameters
    ----------
    count : int
    weights : sequence of float
        One for each feature; features are normally distributed.
    bias : float
    noise : float
        Standard deviation of what is added to the targets.
    seed : int

    Returns
    -------
    Dataset
        Inputs of shape (features,), targets of shape (1,).

    Examples
    --------
    >>> import chainrule as cr
    >>> x, y = cr.data.linear(50, weights=(2.0, -1.0), bias=0.5, noise=0.0)[:]
    >>> float(abs(y[:, 0] - (2 * x[:, 0] - x[:, 1] + 0.5)).max()) < 1e-6
    True
    """
    _labels("linear", count, 1)
    draw = Generator(seed)
    inputs = normal((count, len(weights)), generator=draw, dtype=np.float64).numpy()
    targets = inputs @ np.asarray(weights, np.float64)[:, None] + bias
    return Dataset(inputs, _noisy(targets, noise, draw), name="linear")


def _labels(name: str, count: int, classes: int) -> npt.NDArray[np.int64]:
    """Classes that take turns."""
    if count < 1 or classes < 1:
        raise ArgumentError(f"{name}: {count} points of {classes} classes", mend="make one of each at least")
    return np.arange(count) % classes


def _noisy(points: Array, noise: float, draw: Generator) -> Array:
    if noise < 0:
        raise ArgumentError(f"noise of standard deviation {noise}", mend="it must not be negative")
    return points + noise * normal(points.shape, generator=draw, dtype=np.float64).numpy()
