"""A Wasserstein GAN with gradient penalty: a generator, its critic, and what each of them is trained to make small.

The penalty is made of the critic's gradient with respect to its inputs, so that training it takes the derivative of a
derivative. Nothing here trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from chainrule import nn
from chainrule.autodiff.reverse import grad
from chainrule.core.errors import ShapeError
from chainrule.nn.spec import counted
from chainrule.ops import random
from chainrule.ops.arithmetic import sqrt, square
from chainrule.ops.creation import asarray
from chainrule.ops.generator import Generator
from chainrule.ops.reduction import sum
from chainrule.ops.statistics import mean
from chainrule.tensor import Tensor

# The root's derivative at 0 is infinite, and the gradient of a critic whose units are all off is 0.
TINY = 1e-12


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Any, fake: Any, *, generator: Generator | None = None, key: Any = None) -> Tensor:
    """How far the critic's slope is from 1, at random points between real and generated ones.

    Parameters
    ----------
    critic : callable
        From points of shape (batch, ...) to scores, each of its own point alone: no batch normalization.
    real, fake : Tensor or array_like of shape (batch, ...)
        Pairs between which the points are drawn, one for each pair, evenly.
    generator : Generator, optional
        Of the random numbers; the library's if not given.
    key : Tensor of shape (2,), optional
        A key in place of a generator.

    Returns
    -------
    Tensor
        A scalar, to be weighted: 10 in the paper, 0.1 in its authors' code for points in the plane.

    Raises
    ------
    ShapeError
        If ``real`` and ``fake`` are not of one shape.

    Notes
    -----
    The mean of ``(|grad_x critic(x)| - 1)^2`` at ``x = t real + (1 - t) fake`` with t uniform: Gulrajani et al., "Improved training of
    Wasserstein GANs" (2017), arXiv:1704.00028, algorithm 1. Its gradient with respect to the critic's parameters goes through
    the inner gradient.

    Examples
    --------
    >>> import chainrule as cr
    >>> w = cr.tensor([3.0, 4.0], requires_grad=True)  # a linear critic: its slope is |w| = 5 everywhere
    >>> penalty = cr.models.gradient_penalty(lambda x: x @ w, cr.zeros((6, 2)), cr.ones((6, 2)))
    >>> penalty.backward()
    >>> penalty.item(), w.grad.numpy().round(3)  # (5 - 1)^2, and 2 (5 - 1) w / |w|
    (16.0, array([4.8, 6.4], dtype=float32))
    """
    real, fake = asarray(real), asarray(fake)
    if real.shape != fake.shape:
        raise ShapeError(f"gradient_penalty: real is {real.shape}, fake is {fake.shape}", mend="give as many generated points as real ones")
    t = random.uniform((real.shape[0], *(1,) * (real.ndim - 1)), dtype=real.dtype, generator=generator, key=key)
    slopes = grad(lambda x: sum(critic(x)))(fake + t * (real - fake))
    lengths = sqrt(sum(square(slopes), axis=tuple(range(1, slopes.ndim))) + TINY)
    return mean(square(lengths - 1))


class WassersteinGAN(nn.Layer):
    """What `wgan_gp` returns, and documents.

    Parameters
    ----------
    latent, outputs, hidden
        As for `wgan_gp`.
    name, dtype
        As for `Layer`.

    Attributes
    ----------
    generator : Sequential
        From noise of shape (batch, latent) to points of shape (batch, outputs).
    critic : Sequential
        From points of shape (batch, outputs) to scores of shape (batch, 1).

    Examples
    --------
    >>> import chainrule as cr
    >>> model = cr.models.wgan_gp(hidden=(8, 8))
    >>> points, scores = model(model.noise(5))
    >>> points.shape, scores.shape
    ((5, 2), (5, 1))
    """

    def __init__(
        self, latent: int = 2, outputs: int = 2, hidden: Sequence[int] = (128, 128, 128), *, name: str | None = None, dtype: Any = "float32"
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.latent = counted("wgan_gp", "latent", latent)
        self.outputs = counted("wgan_gp", "outputs", outputs)
        self.hidden = tuple(hidden)
        self.input_spec = nn.InputSpec(ndim=2, axes={1: self.latent}, names=("batch", "latent"))
        self.generator = self._network(self.outputs)
        self.critic = self._network(1)

    def _network(self, outputs: int) -> nn.Sequential:
        layers = [nn.Dense(units, "relu", kernel_initializer="he_uniform", dtype=self.dtype) for units in self.hidden]
        return nn.Sequential([*layers, nn.Dense(outputs, dtype=self.dtype)])

    def call(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        points = self.generator(noise)
        return points, self.critic(points)

    def noise(self, batch: int, *, generator: Generator | None = None) -> Tensor:
        """Standard normal numbers of shape (batch, latent), for the generator to make points of."""
        return random.normal((batch, self.latent), dtype=self.dtype, generator=generator)

    def critic_loss(self, real: Any, *, penalty: float = 10.0, generator: Generator | None = None) -> Tensor:
        """What a step of the critic makes smaller: minus the distance between real and generated points that it sees, and the penalty.

        Parameters
        ----------
        real : Tensor or array_like of shape (batch, outputs)
        penalty : float
            Weight of `gradient_penalty`: lambda.
        generator : Generator, optional
            Of noise and points between; the library's if not given.

        Notes
        -----
        ``mean(critic(fake)) - mean(critic(real)) + penalty * gradient_penalty``, with as many fakes as real points, through which no gradient reaches
        the generator.
        """
        real = asarray(real)
        fake = self.generator(self.noise(real.shape[0], generator=generator)).detach()
        price = gradient_penalty(self.critic, real, fake, generator=generator)
        return mean(self.critic(fake)) - mean(self.critic(real)) + penalty * price

    def generator_loss(self, batch: int, *, generator: Generator | None = None) -> Tensor:
        """What a step of the generator makes smaller: minus the mean score of ``batch`` of its points."""
        _, scores = self(self.noise(batch, generator=generator))
        return -mean(scores)


def wgan_gp(latent: int = 2, outputs: int = 2, hidden: Sequence[int] = (128, 128, 128)) -> WassersteinGAN:
    """A generator that learns to make points like given ones, and the critic that teaches it.

    Parameters
    ----------
    latent : int
        Numbers of noise that a point is made of.
    outputs : int
        Numbers of a point.
    hidden : sequence of int
        Sizes of the hidden layers of both.

    Returns
    -------
    WassersteinGAN
        From noise of shape (batch, latent) to a pair: points of shape (batch, outputs) and their scores of shape (batch, 1). Its attributes
        ``generator`` and ``critic`` are its halves; ``critic_loss`` and ``generator_loss`` are what their steps minimize.

    Notes
    -----
    =====================================  ================  ============================
    layer                                  output            parameters
    =====================================  ================  ============================
    generator: Dense with relu, for each   (batch, hidden)   (size before + 1) hidden
    generator: Dense                       (batch, outputs)  (last hidden + 1) outputs
    critic: Dense with relu, for each      (batch, hidden)   (size before + 1) hidden
    critic: Dense                          (batch, 1)        last hidden + 1
    =====================================  ================  ============================

    67,203 parameters for points in the plane. Gulrajani et al., "Improved training of Wasserstein GANs" (2017), arXiv:1704.00028:
    five steps of the critic for each of the generator, both by Adam with betas=(0.5, 0.9). Their networks for the plane have
    512 units a layer.

    Examples
    --------
    >>> import chainrule as cr
    >>> model = cr.models.wgan_gp().initialize((1, 2))
    >>> model.critic_loss(cr.random.normal((16, 2))).backward()
    >>> len([p for p in model.critic.parameters() if p.grad is not None]), len([p for p in model.generator.parameters() if p.grad is not None])
    (8, 0)
    """
    return WassersteinGAN(latent, outputs, hidden)
