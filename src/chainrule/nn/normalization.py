"""Normalization: values shifted and scaled to mean 0 and variance 1, then to what the layer has learned.

The layers differ in which values share a mean. What they compute stands in `chainrule.ops.composite`; here
are their parameters and running averages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chainrule.core.aval import Shape, normalize_axes
from chainrule.core.errors import ArgumentError, LayerError
from chainrule.core.interp import no_grad
from chainrule.nn import regularizers
from chainrule.nn.initializers import Initializer, fetch
from chainrule.nn.layer import Layer
from chainrule.nn.regularizers import Regularizer
from chainrule.nn.spec import InputSpec
from chainrule.ops.arithmetic import sqrt, square
from chainrule.ops.composite import batch_norm, layer_norm, standardize
from chainrule.ops.movement import reshape
from chainrule.ops.statistics import mean
from chainrule.tensor import Tensor


class _Normalization(Layer):
    """What the layers share: which axes carry the scale `gamma` and the shift `beta`."""

    gamma: Tensor | None
    beta: Tensor | None

    def __init__(
        self,
        axis: int | Sequence[int] = -1,
        *,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Initializer | str = "zeros",
        gamma_initializer: Initializer | str = "ones",
        beta_regularizer: Regularizer | str | None = None,
        gamma_regularizer: Regularizer | str | None = None,
        name: str | None = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        if not epsilon >= 0:
            raise ArgumentError(f"{type(self).__name__}: epsilon={epsilon}", mend="give a small positive number")
        places = (axis,) if isinstance(axis, int) else tuple(axis)
        if not places or not all(isinstance(place, int) for place in places):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may not check types
            raise ArgumentError(f"{type(self).__name__}: axis={axis!r}", mend="give an integer, or several")
        self.axis = axis if isinstance(axis, int) else places
        least = max(-place if place < 0 else place + 1 for place in places)
        self.input_spec = InputSpec(min_ndim=least, mend="give it inputs that have the layer's axis, or make it for another one")
        self.epsilon = epsilon
        self.center = center
        self.scale = scale
        self.beta_initializer = fetch(beta_initializer)
        self.gamma_initializer = fetch(gamma_initializer)
        self.beta_regularizer = regularizers.fetch(beta_regularizer)
        self.gamma_regularizer = regularizers.fetch(gamma_regularizer)

    def build(self, input_shape: Shape) -> None:
        axes = normalize_axes(self.axis, len(input_shape), type(self).__name__)
        sizes = tuple(input_shape[axis] for axis in axes)
        self.gamma = self.beta = None
        if self.scale:
            self.gamma = self.add_parameter("gamma", sizes, self.gamma_initializer, regularizer=self.gamma_regularizer)
        if self.center:
            self.beta = self.add_parameter("beta", sizes, self.beta_initializer, regularizer=self.beta_regularizer)
        self.input_spec = _as_wide(self.axis, input_shape)

    def axes(self, x: Tensor) -> tuple[int, ...]:
        """The axes that carry parameters, counted from the front."""
        return normalize_axes(self.axis, len(x.shape), type(self).__name__)

    def along(self, parameter: Tensor | None, x: Tensor) -> Any:
        """The parameter in a shape that broadcasts to the input's."""
        axes, rank = self.axes(x), len(x.shape)
        if parameter is None or axes == tuple(range(rank - len(axes), rank)):
            return parameter
        return reshape(parameter, tuple(size if axis in axes else 1 for axis, size in enumerate(x.shape)))


def _as_wide(axis: int | Sequence[int], shape: Shape) -> InputSpec:
    """That later inputs have the first one's sizes along these axes; a negative axis counts from the end, whatever is in front."""
    named = [axis] if isinstance(axis, int) else list(axis)
    behind = all(place < 0 for place in named)
    names = ["*"] * (-min(named) if behind else len(shape))
    for place in named:
        names[place] = "channels"
    return InputSpec(
        ndim=None if behind else len(shape),
        min_ndim=len(names) if behind else None,
        axes={place: shape[place] for place in named},
        names=names,
        mend="give it inputs with as many channels as the first one",
    )


class LayerNormalization(_Normalization):
    """Normalizes every example over its own features, then scales and shifts them.

    Parameters
    ----------
    axis : int or tuple of int
        The feature axes.
    epsilon : float
        Added to the variance under the root; 1e-3 as in Keras, PyTorch has 1e-5.
    center, scale : bool
        Whether a shift ``beta`` and a scale ``gamma`` are learned.
    beta_initializer, gamma_initializer : str or Initializer
    beta_regularizer, gamma_regularizer : str or Regularizer, optional
    name, dtype
        As for `Layer`.

    Attributes
    ----------
    gamma, beta : Tensor of the feature axes' sizes, or None

    Notes
    -----
    ``(x - mean) / sqrt(var + epsilon) * gamma + beta``: Ba, Kiros and Hinton, "Layer normalization" (2016).

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nn.LayerNormalization(epsilon=0.0)([[1.0, 3.0], [10.0, 30.0]])
    tensor([[-1.,  1.],
            [-1.,  1.]], from=add)
    """

    def call(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.along(self.gamma, x), self.along(self.beta, x), axis=self.axes(x), epsilon=self.epsilon)


class GroupNormalization(_Normalization):
    """Normalizes groups of channels, every example on its own, then scales and shifts each channel.

    Parameters
    ----------
    groups : int
        How many; they divide the number of channels. 1 is layer normalization over all axes but the batch's, -1 (as
        many groups as channels) is instance normalization.
    axis : int
        The channels.
    epsilon : float
        Added to the variance under the root; 1e-3 as in Keras, PyTorch has 1e-5.
    center, scale : bool
        Whether a shift ``beta`` and a scale ``gamma`` are learned.
    beta_initializer, gamma_initializer : str or Initializer
    beta_regularizer, gamma_regularizer : str or Regularizer, optional
    name, dtype
        As for `Layer`.

    Attributes
    ----------
    gamma, beta : Tensor of shape (channels,), or None

    Raises
    ------
    LayerError
        If the groups do not divide the channels.

    Notes
    -----
    Wu and He, "Group normalization" (2018), equation 7.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nn.GroupNormalization(2, epsilon=0.0)([[1.0, 3.0, 10.0, 30.0]])
    tensor([[-1.,  1., -1.,  1.]], from=add)
    """

    def __init__(
        self,
        groups: int = 32,
        axis: int = -1,
        *,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Initializer | str = "zeros",
        gamma_initializer: Initializer | str = "ones",
        beta_regularizer: Regularizer | str | None = None,
        gamma_regularizer: Regularizer | str | None = None,
        name: str | None = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__(
            axis,
            epsilon=epsilon,
            center=center,
            scale=scale,
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            name=name,
            dtype=dtype,
        )
        if groups < 1 and groups != -1:
            raise ArgumentError(f"GroupNormalization: groups={groups}", mend="give a positive integer, or -1 for a group per channel")
        self.groups = groups

    def build(self, input_shape: Shape) -> None:
        (axis,) = normalize_axes(self.axis, len(input_shape), "GroupNormalization")
        channels = input_shape[axis]
        if channels % self.groups:
            raise LayerError(f"{self.label}: {channels} channels in {self.groups} groups", mend="choose a number of groups that divides the channels")
        super().build(input_shape)

    def call(self, x: Tensor) -> Tensor:
        (axis,), shape = self.axes(x), x.shape
        groups = shape[axis] if self.groups == -1 else self.groups
        grouped = reshape(x, (*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :]))
        together = tuple(place for place in range(1, len(shape) + 1) if place != axis)
        y = reshape(standardize(grouped, axis=together, epsilon=self.epsilon)[0], shape)
        gamma, beta = self.along(self.gamma, x), self.along(self.beta, x)
        y = y if gamma is None else y * gamma
        return y if beta is None else y + beta


class BatchNormalization(_Normalization):
    """Normalizes every channel over the batch in training, by running averages in evaluation, then scales and shifts it.

    Parameters
    ----------
    axis : int
        The channels.
    momentum : float
        Share of the running averages that stays at a step, in [0, 1]; PyTorch's momentum is 1 less this.
    epsilon : float
        Added to the variance under the root; 1e-3 as in Keras, PyTorch has 1e-5.
    center, scale : bool
        Whether a shift ``beta`` and a scale ``gamma`` are learned.
    beta_initializer, gamma_initializer, moving_mean_initializer, moving_variance_initializer : str or Initializer
    beta_regularizer, gamma_regularizer : str or Regularizer, optional
    name, dtype
        As for `Layer`.

    Attributes
    ----------
    gamma, beta : Tensor of shape (channels,), or None
    moving_mean, moving_variance : Tensor of shape (channels,)
        Buffers: running averages of the batches' means and variances.

    Notes
    -----
    ``(x - mean) / sqrt(var + epsilon) * gamma + beta``: Ioffe and Szegedy, "Batch normalization" (2015), algorithm 1. The
    variance is the biased one (divided by the number of values), in the running average too, as in Keras; PyTorch
    averages the unbiased one.

    Examples
    --------
    >>> import chainrule as cr
    >>> layer = cr.nn.BatchNormalization(momentum=0.5, epsilon=0.0)
    >>> layer([[1.0], [3.0]])
    tensor([[-1.],
            [ 1.]], from=add)
    >>> layer.moving_mean, layer.moving_variance
    (tensor([1.]), tensor([1.]))
    >>> layer.eval()([[1.0], [3.0]]).tolist()
    [[0.0], [2.0]]
    """

    moving_mean: Tensor
    moving_variance: Tensor

    def __init__(
        self,
        axis: int = -1,
        *,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Initializer | str = "zeros",
        gamma_initializer: Initializer | str = "ones",
        moving_mean_initializer: Initializer | str = "zeros",
        moving_variance_initializer: Initializer | str = "ones",
        beta_regularizer: Regularizer | str | None = None,
        gamma_regularizer: Regularizer | str | None = None,
        name: str | None = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__(
            axis,
            epsilon=epsilon,
            center=center,
            scale=scale,
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            name=name,
            dtype=dtype,
        )
        if not 0 <= momentum <= 1:
            raise ArgumentError(f"BatchNormalization: momentum={momentum}", mend="it is the share of the average that stays, from 0 to 1")
        self.momentum = momentum
        self.moving_mean_initializer = fetch(moving_mean_initializer)
        self.moving_variance_initializer = fetch(moving_variance_initializer)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        (axis,) = normalize_axes(self.axis, len(input_shape), "BatchNormalization")
        for name, initializer in (("moving_mean", self.moving_mean_initializer), ("moving_variance", self.moving_variance_initializer)):
            self.add_buffer(name, initializer((input_shape[axis],), self.dtype))

    def call(self, x: Tensor) -> Tensor:
        gamma, beta = self.along(self.gamma, x), self.along(self.beta, x)
        if self.training:
            others = tuple(axis for axis in range(len(x.shape)) if axis not in self.axes(x))
            y, batch_mean, batch_variance = batch_norm(x, gamma, beta, axis=others, epsilon=self.epsilon)
            self._average(batch_mean, batch_variance)
            return y
        # One multiplication and one addition per value: what depends on the channel alone is put together first.
        deviation = sqrt(self.along(self.moving_variance, x) + self.epsilon)
        factor = 1 / deviation if gamma is None else gamma / deviation
        shift = self.along(self.moving_mean, x) * -factor
        return x * factor + (shift if beta is None else shift + beta)

    def _average(self, batch_mean: Tensor, batch_variance: Tensor) -> None:
        with no_grad():
            for average, value in ((self.moving_mean, batch_mean), (self.moving_variance, batch_variance)):
                average.assign(average * self.momentum + value * (1 - self.momentum))


class RMSNormalization(_Normalization):
    """Scales every example to a root mean square of 1 over its features, then by what is learned.

    Parameters
    ----------
    axis : int or tuple of int
        The feature axes.
    epsilon : float
        Added to the mean square under the root.
    gamma_initializer : str or Initializer
    gamma_regularizer : str or Regularizer, optional
    name, dtype
        As for `Layer`.

    Attributes
    ----------
    gamma : Tensor of the feature axes' sizes

    Notes
    -----
    ``x / sqrt(mean(x**2) + epsilon) * gamma``: Zhang and Sennrich, "Root mean square layer normalization" (2019), equation 4.

    Examples
    --------
    >>> import chainrule as cr
    >>> cr.nn.RMSNormalization(epsilon=0.0)([[2.0, -2.0], [0.5, 0.5]]).tolist()
    [[1.0, -1.0], [1.0, 1.0]]
    """

    def __init__(
        self,
        axis: int | Sequence[int] = -1,
        *,
        epsilon: float = 1e-6,
        gamma_initializer: Initializer | str = "ones",
        gamma_regularizer: Regularizer | str | None = None,
        name: str | None = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__(
            axis, epsilon=epsilon, center=False, gamma_initializer=gamma_initializer, gamma_regularizer=gamma_regularizer, name=name, dtype=dtype
        )

    def call(self, x: Tensor) -> Tensor:
        return x / sqrt(mean(square(x), axis=self.axes(x), keepdims=True) + self.epsilon) * self.along(self.gamma, x)
