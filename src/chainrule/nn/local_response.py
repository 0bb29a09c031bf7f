"""Local response normalization: neighbouring channels compete, as in the networks of 2012."""

from __future__ import annotations

from chainrule.core.errors import ArgumentError
from chainrule.nn.images import known_format
from chainrule.nn.layer import Layer
from chainrule.nn.spec import InputSpec, counted
from chainrule.ops.arithmetic import square
from chainrule.ops.movement import moveaxis, reshape
from chainrule.ops.pooling import avg_pool
from chainrule.tensor import Tensor


class LocalResponseNormalization(Layer):
    """Every value divided by a power of what its neighbours across channels amount to.

    Parameters
    ----------
    size : int
        How many channels count, n in the paper: the channel itself, ``size // 2`` before it, and ``(size - 1) // 2`` after it.
    alpha, beta, k : float
        Factor, exponent and offset.
    data_format : {"channels_last", "channels_first"}
    name
        As for `Layer`.

    Raises
    ------
    LayerError
        If an input has no channels beside the batch.

    Notes
    -----
    ``y[c] = x[c] / (k + alpha * sum of x[j]**2 over the channels j around c)**beta``; what would lie beyond the first or last channel counts
    as zero. Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural networks"
    (2012), section 3.3, whose values are the defaults. PyTorch's LocalResponseNorm divides alpha by size: its alpha is ``size`` times
    the one here.

    Examples
    --------
    >>> import chainrule as cr
    >>> layer = cr.nn.LocalResponseNormalization(3, alpha=1.0, beta=1.0, k=0.0)
    >>> layer([[1.0, 1.0, 2.0]])
    tensor([[0.5       , 0.16666667, 0.4       ]])
    """

    def __init__(
        self,
        size: int = 5,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 2.0,
        *,
        data_format: str = "channels_last",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.size = counted("LocalResponseNormalization", "size", size)
        if min(alpha, k) < 0:
            raise ArgumentError(f"LocalResponseNormalization: alpha={alpha}, k={k}", mend="neither may be negative")
        self.alpha, self.beta, self.k = alpha, beta, k
        self.data_format = known_format(self, data_format)
        names = ("batch", "channels") if data_format == "channels_first" else ("channels",)
        self.input_spec = InputSpec(min_ndim=2, names=names, mend="give it a batch of vectors, sequences or images")

    def call(self, x: Tensor) -> Tensor:
        squares = square(x)
        if self.data_format == "channels_first":
            squares = moveaxis(squares, 1, -1)
        # The channels of each position are one sequence, whose windows are pooled; the mean times the size is the sum.
        lines = reshape(squares, (-1, squares.shape[-1], 1))
        means = reshape(avg_pool(lines, self.size, stride=1, padding=((self.size // 2, (self.size - 1) // 2),)), squares.shape)
        if self.data_format == "channels_first":
            means = moveaxis(means, -1, 1)
        return x / (self.k + self.alpha * self.size * means) ** self.beta
