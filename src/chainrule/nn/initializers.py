"""Initializers: what parameters are before they have learned anything.

An initializer is plain frozen data, called with a shape; its values come from the library's random generator.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

import numpy as np

from chainrule.core.aval import Shape
from chainrule.core.errors import ArgumentError, look_up
from chainrule.ops import random
from chainrule.tensor import Tensor, new

__all__ = ["Constant", "Identity", "Initializer", "Orthogonal", "RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling"]


class Initializer(ABC):
    """Makes the first value of a parameter; the base of all initializers.

    Examples
    --------
    One's own is a frozen dataclass, so that `nn.serialize` can write it down.

    >>> import chainrule as cr
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Ramp(cr.nn.initializers.Initializer):
    ...     def __call__(self, shape, dtype="float32", fans=None):
    ...         return cr.reshape(cr.linspace(0, 1, shape[0], dtype=cr.float32), shape)
    >>> cr.nn.Dense(1, kernel_initializer=Ramp()).initialize((1, 3)).kernel.flatten().tolist()
    [0.0, 0.5, 1.0]
    """

    @abstractmethod
    def __call__(self, shape: Shape, dtype: Any = "float32", fans: tuple[int, int] | None = None) -> Tensor:
        """A value of this shape and dtype.

        Parameters
        ----------
        fans : (int, int), optional
            How many inputs an output depends on, and how many outputs an input reaches; read off the
            shape (sizes of a window, inputs, outputs) if not given.
        """


@dataclass(frozen=True)
class Constant(Initializer):
    """The same number everywhere.

    Parameters
    ----------
    value : float

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nn.initializers.Constant(2.0)((3,))
    tensor([2., 2., 2.])
    """

    value: float = 0.0

    def __post_init__(self) -> None:
        _numbers(self)

    def __call__(self, shape: Shape, dtype: Any = "float32", fans: tuple[int, int] | None = None) -> Tensor:
        return new(np.full(shape, self.value, dtype))


@dataclass(frozen=True)
class RandomNormal(Initializer):
    """Independent normal draws.

    Parameters
    ----------
    mean, stddev : float

    Examples
    --------
    >>> import chainrule as cr
    >>> values = cr.nn.initializers.RandomNormal(stddev=0.1)((10_000,))
    >>> abs(cr.std(values).item() - 0.1) < 0.01
    True
    """

    mean: float = 0.0
    stddev: float = 0.05

    def __post_init__(self) -> None:
        _numbers(self)

    def __call__(self, shape: Shape, dtype: Any = "float32", fans: tuple[int, int] | None = None) -> Tensor:
        return random.normal(shape, self.mean, self.stddev, dtype=dtype)


@dataclass(frozen=True)
class TruncatedNormal(Initializer):
    """Independent normal draws, those further than two standard deviations from the mean drawn again.

    Parameters
    ----------
    mean, stddev : float
        Of the normal distribution; what is left of it has 0.88 times the standard deviation.

    Examples
    --------
    >>> import chainrule as cr
    >>> values = cr.nn.initializers.TruncatedNormal(stddev=0.1)((10_000,))
    >>> cr.max(cr.abs(values)).item() <= 0.2
    True
    """

    mean: float = 0.0
    stddev: float = 0.05

    def __post_init__(self) -> None:
        _numbers(self)

    def __call__(self, shape: Shape, dtype: Any = "float32", fans: tuple[int, int] | None = None) -> Tensor:
        draws = _normal(shape, dtype)
        while (outside := np.abs(draws) > 2).any():
            draws[outside] = _normal((int(np.count_nonzero(outside)),), dtype)
        return new(np.asarray(draws * draws.dtype.type(self.stddev) + draws.dtype.type(self.mean)))


@dataclass(frozen=True)
class RandomUniform(Initializer):
    """Independent draws, spread evenly over an interval.

    Parameters
    ----------
    minval, maxval : float

    Examples
    --------
    >>> import chainrule as cr
    >>> values = cr.nn.initializers.RandomUniform(-1.0, 1.0)((10_000,))
    >>> abs(cr.mean(values).item()) < 0.1
    True
    """

    minval: float = -0.05
    maxval: float = 0.05

    def __post_init__(self) -> None:
        _numbers(self)

    def __call__(self, shape: Shape, dtype: Any = "float32", fans: tuple[int, int] | None = None) -> Tensor:
        return random.uniform(shape, self.minval, self.maxval, dtype=dtype)


@dataclass(frozen=True)
class Orthogonal(Initializer):
    """A random matrix with orthonormal columns or, where it has more columns than rows, rows; times a gain.

    Parameters
    ----------
    gain : float

    Notes
    -----
    Saxe, McClelland and Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks" (2014).
    All axes but the last make the rows, as in Keras. The matrix is Q of a normal matrix's QR decomposition, its
    columns times the signs of R's diagonal, so that no orthogonal matrix is likelier than another.

    Examples
    --------
    >>> import chainrule as cr
    >>> w = cr.nn.initializers.Orthogonal()((4, 3), "float64")
    >>> cr.max(cr.abs(w.T @ w - cr.eye(3))).item() < 1e-12
    True
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        _numbers(self)

    def __call__(self, shape: Shape, dtype: Any = "float32", fans: tuple[int, int] | None = None) -> Tensor:
        rows, columns = _matrix("Orthogonal", shape, len(shape) >= 2)
        q, r = np.linalg.qr(_normal((max(rows, columns), min(rows, columns)), "float64"))
        q *= np.where(np.diagonal(r) < 0, -1.0, 1.0)
        return new((self.gain * (q if rows >= columns else q.T)).reshape(shape).astype(dtype))


@dataclass(frozen=True)
class Identity(Initializer):
    """The identity matrix times a gain; a matrix that is not square has zeros beyond.

    Parameters
    ----------
    gain : float

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nn.initializers.Identity()((2, 3))
    tensor([[1., 0., 0.],
            [0., 1., 0.]])
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        _numbers(self)

    def __call__(self, shape: Shape, dtype: Any = "float32", fans: tuple[int, int] | None = None) -> Tensor:
        return new(self.gain * np.eye(*_matrix("Identity", shape, len(shape) == 2), dtype=dtype))


def _numbers(initializer: Any) -> None:
    """Refuse what is no number where one is needed, when the initializer is made rather than when it is called."""
    for field in fields(initializer):
        value = getattr(initializer, field.name)
        if not isinstance(value, Real):
            raise ArgumentError(f"{type(initializer).__name__}: {field.name}={value!r}", mend="give a number")


def _normal(shape: Shape, dtype: Any) -> Any:
    return np.array(random.normal(shape, dtype=dtype)._value)


def _matrix(kind: str, shape: Shape, fits: bool) -> tuple[int, int]:
    """Rows and columns of a parameter, the last axis being the columns."""
    if not fits:
        raise ArgumentError(f"{kind}: no matrix of shape {shape}", mend="use it for parameters with rows and columns")
    return math.prod(shape[:-1]), shape[-1]


@dataclass(frozen=True)
class VarianceScaling(Initializer):
    """Independent draws of mean 0 and variance ``scale / fan``.

    Parameters
    ----------
    scale : float
    mode : {"fan_in", "fan_out", "fan_avg"}
        Which fan the variance is divided by.
    distribution : {"uniform", "normal"}

    Notes
    -----
    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks"
    (2010): scale 1, fan_avg. He et al., "Delving deep into rectifiers" (2015), equation 10: scale 2,
    fan_in. LeCun et al., "Efficient BackProp" (1998): scale 1, fan_in. The normal
    distribution is not truncated.

    Examples
    --------
    >>> import chainrule as cr
    >>> he = cr.nn.initializers.VarianceScaling(2.0, "fan_in", "normal")
    >>> abs(cr.var(he((200, 100))).item() - 2 / 200) < 1e-3
    True
    """

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "uniform"

    def __post_init__(self) -> None:
        if not isinstance(self.scale, Real) or not 0 <= self.scale < math.inf:
            raise ArgumentError(f"VarianceScaling: scale={self.scale!r}", mend="give a finite number, at least 0")
        look_up("mode of VarianceScaling", self.mode, _FANS)
        if self.distribution not in ("uniform", "normal"):
            raise ArgumentError(f"VarianceScaling: no distribution {self.distribution!r}", mend="choose uniform or normal")

    def __call__(self, shape: Shape, dtype: Any = "float32", fans: tuple[int, int] | None = None) -> Tensor:
        fan = _FANS[self.mode](*(fans or fans_of(shape)))
        deviation = math.sqrt(self.scale / max(1.0, fan))
        if self.distribution == "normal":
            return random.normal(shape, std=deviation, dtype=dtype)
        limit = math.sqrt(3) * deviation
        return random.uniform(shape, -limit, limit, dtype=dtype)


_FANS: dict[str, Any] = {
    "fan_in": lambda fan_in, fan_out: fan_in,
    "fan_out": lambda fan_in, fan_out: fan_out,
    "fan_avg": lambda fan_in, fan_out: (fan_in + fan_out) / 2,
}


def fans_of(shape: Shape) -> tuple[int, int]:
    """Fan-in and fan-out of a kernel of shape (sizes of a window, inputs, outputs)."""
    if len(shape) < 2:
        size = shape[0] if shape else 1
        return size, size
    window = math.prod(shape[:-2])
    return window * shape[-2], window * shape[-1]


NAMES: dict[str, Initializer] = {
    "zeros": Constant(0.0),
    "ones": Constant(1.0),
    "glorot_uniform": VarianceScaling(1.0, "fan_avg", "uniform"),
    "glorot_normal": VarianceScaling(1.0, "fan_avg", "normal"),
    "he_uniform": VarianceScaling(2.0, "fan_in", "uniform"),
    "he_normal": VarianceScaling(2.0, "fan_in", "normal"),
    "lecun_uniform": VarianceScaling(1.0, "fan_in", "uniform"),
    "lecun_normal": VarianceScaling(1.0, "fan_in", "normal"),
    "random_normal": RandomNormal(),
    "random_uniform": RandomUniform(),
    "truncated_normal": TruncatedNormal(),
    "orthogonal": Orthogonal(),
    "identity": Identity(),
}


def fetch(initializer: Initializer | str) -> Initializer:
    """The initializer of this name; an initializer stays itself."""
    if isinstance(initializer, Initializer):
        return initializer
    return look_up("initializer", initializer, NAMES)


def name_of(initializer: Initializer) -> str | None:
    """The name under which `fetch` finds it, if any."""
    return next((name for name, known in NAMES.items() if known == initializer), None)
