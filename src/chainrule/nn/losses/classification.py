"""Losses of classifiers that speak of probabilities: cross-entropies, and how far a distribution is from another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chainrule.core.errors import ShapeError
from chainrule.nn.losses.common import chosen, class_numbers, class_weights_of, reduce, same_shape, scores, share
from chainrule.ops import cross_entropy
from chainrule.ops.activation import softplus
from chainrule.ops.creation import asarray, astype
from chainrule.ops.gathering import one_hot, take_along_axis
from chainrule.ops.movement import broadcast_shapes, expand_dims, squeeze
from chainrule.ops.reduction import sum
from chainrule.ops.selection import where
from chainrule.ops.transcendental import log
from chainrule.tensor import Tensor

if TYPE_CHECKING:
    import numpy.typing as npt


def softmax_cross_entropy(
    logits: Tensor | npt.ArrayLike,
    labels: Tensor | npt.ArrayLike,
    *,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    class_weights: Tensor | npt.ArrayLike | None = None,
) -> Tensor:
    """Minus the log-probability that the softmax of the logits gives to the label.

    Parameters
    ----------
    logits : Tensor of shape (..., classes)
    labels : Tensor of shape (...), or of the logits' shape
        Integers in [0, classes); or, floating point, a probability for each class.
    reduction : {"mean", "sum", "none"}
        What is returned of the losses of all examples.
    label_smoothing : float
        This share of the probability, in [0, 1], is spread evenly over all classes.
    class_weights : Tensor of shape (classes,), optional
        How much each class counts.

    Returns
    -------
    Tensor
        A scalar, or of shape (...) for ``reduction="none"``.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        If labels do not fit the logits, or are no class numbers.

    Notes
    -----
    ``-sum_c w_c p_c log softmax(x)_c`` with p the smoothed labels. With class weights the mean is by weight: the sum
    over that of the weights of the labels, for class numbers; over the number of examples for probabilities. Both
    as in PyTorch's ``cross_entropy``. Goodfellow, Bengio and Courville, "Deep learning" (2016), section 6.2.2.3.

    Examples
    --------
    >>> import chainrule as cr
    >>> logits = cr.tensor([[0.0, 0.0]], requires_grad=True)
    >>> loss = cr.nn.losses.softmax_cross_entropy(logits, cr.tensor([1]))
    >>> loss.backward()
    >>> logits.grad
    tensor([[ 0.5, -0.5]])
    """
    name = "softmax_cross_entropy"
    if class_weights is None:
        return cross_entropy.softmax_cross_entropy(logits, labels, reduction=reduction, label_smoothing=label_smoothing)
    logits, labels = scores(name, logits), asarray(labels)
    weights = class_weights_of(name, logits, class_weights)
    smoothing = share(name, label_smoothing)
    if labels.dtype.kind == "f":
        losses = _soft(logits, same_shape(name, logits, labels), weights, smoothing)
        return reduce(losses, reduction)
    labels = class_numbers(name, logits, labels)
    of_labels = chosen(weights, labels)
    if not smoothing:
        return reduce(cross_entropy.softmax_cross_entropy(logits, labels, reduction="none"), reduction, of_labels)
    losses = _soft(logits, one_hot(labels, logits.shape[-1], dtype=logits.dtype), weights, smoothing)
    return sum(losses) / sum(of_labels) if reduction == "mean" else reduce(losses, reduction)


def _soft(logits: Tensor, probabilities: Tensor, weights: Tensor, smoothing: float) -> Tensor:
    smoothed = probabilities * (1 - smoothing) + smoothing / logits.shape[-1]
    return cross_entropy.soft_cross_entropy(logits, smoothed * weights)


def sigmoid_cross_entropy(
    logits: Tensor | npt.ArrayLike,
    targets: Tensor | npt.ArrayLike,
    *,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    pos_weight: Tensor | npt.ArrayLike | None = None,
) -> Tensor:
    """Minus the log-probability that the sigmoid of the logits gives to binary targets.

    Parameters
    ----------
    logits : Tensor of any shape
    targets : Tensor of the logits' shape
        0 and 1, or probabilities between.
    reduction : {"mean", "sum", "none"}
        What is returned of all losses.
    label_smoothing : float
        This share, in [0, 1], of each target becomes one half.
    pos_weight : Tensor or float, optional
        How many times as much a target of 1 counts; of a shape that broadcasts to the logits'.

    Returns
    -------
    Tensor
        A scalar, or of the logits' shape for ``reduction="none"``.

    Raises
    ------
    ShapeError, ArgumentError
        If shapes differ, or for an unknown reduction or smoothing.

    Notes
    -----
    ``-w t log(sigmoid(x)) - (1 - t) log(1 - sigmoid(x))`` with w the pos_weight, as in PyTorch's
    ``binary_cross_entropy_with_logits``. Goodfellow, Bengio and Courville, "Deep learning" (2016), section 6.2.2.2.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([0.0, 0.0], requires_grad=True)
    >>> cr.nn.losses.sigmoid_cross_entropy(x, [0, 1], reduction="sum").backward()
    >>> x.grad
    tensor([ 0.5, -0.5])
    """
    name = "sigmoid_cross_entropy"
    logits = scores(name, logits)
    targets = same_shape(name, logits, targets)
    smoothing = share(name, label_smoothing)
    if smoothing:
        targets = targets * (1 - smoothing) + smoothing / 2
    if pos_weight is None:
        return cross_entropy.sigmoid_cross_entropy(logits, targets, reduction=reduction)
    weight = astype(asarray(pos_weight), logits.dtype, copy=False)
    if len(weight.shape) > len(logits.shape) or broadcast_shapes(weight.shape, logits.shape) != logits.shape:
        raise ShapeError(
            f"{name}: pos_weight of shape {weight.shape} for logits of shape {logits.shape}", mend="give one number, or one for each output"
        )
    losses = cross_entropy.sigmoid_cross_entropy(logits, targets, reduction="none")
    return reduce(losses + (weight - 1) * targets * softplus(-logits), reduction)


def negative_log_likelihood(
    log_probabilities: Tensor | npt.ArrayLike,
    labels: Tensor | npt.ArrayLike,
    *,
    reduction: str = "mean",
    class_weights: Tensor | npt.ArrayLike | None = None,
) -> Tensor:
    """Minus the log-probability of the label, from log-probabilities.

    Parameters
    ----------
    log_probabilities : Tensor of shape (..., classes)
        Such as those of `log_softmax`.
    labels : Tensor of int, shape (...)
    reduction : {"mean", "sum", "none"}
        What is returned of the losses of all examples.
    class_weights : Tensor of shape (classes,), optional
        How much each class counts; the mean is by weight.

    Returns
    -------
    Tensor
        A scalar, or of shape (...) for ``reduction="none"``.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        If labels do not fit, or are no class numbers.

    Notes
    -----
    ``-w_y log p_y``, in the mean over ``sum w_y``, as in PyTorch's ``nll_loss``. From logits,
    `softmax_cross_entropy` is quicker and safer.

    Examples
    --------
    >>> import chainrule as cr
    >>> log_p = cr.log(cr.tensor([[0.25, 0.75]]))
    >>> round(cr.nn.losses.negative_log_likelihood(log_p, [0]).item(), 4)
    1.3863
    """
    name = "negative_log_likelihood"
    outputs = scores(name, log_probabilities)
    numbers = class_numbers(name, outputs, labels)
    losses = -squeeze(take_along_axis(outputs, expand_dims(numbers, axis=-1), axis=-1), axis=-1)
    weights = None if class_weights is None else chosen(class_weights_of(name, outputs, class_weights), numbers)
    return reduce(losses, reduction, weights)


def kl_divergence(log_q: Tensor | npt.ArrayLike, p: Tensor | npt.ArrayLike, *, reduction: str = "mean") -> Tensor:
    """How many nats a distribution p is away from q: the Kullback-Leibler divergence KL(p || q).

    Parameters
    ----------
    log_q : Tensor of shape (..., classes)
        The outputs: log-probabilities, such as those of `log_softmax`.
    p : Tensor of shape (..., classes)
        The targets: probabilities.
    reduction : {"mean", "sum", "none"}
        What is returned of the divergences of all examples; each is a sum over the last axis.

    Returns
    -------
    Tensor
        A scalar, or of shape (...) for ``reduction="none"``.

    Raises
    ------
    ShapeError
        If the shapes differ.

    Notes
    -----
    ``sum_c p_c (log p_c - log q_c)``; where p is 0, it contributes 0. Kullback and Leibler, "On information and
    sufficiency" (1951). In PyTorch the mean is called "batchmean".

    Examples
    --------
    >>> import chainrule as cr
    >>> log_q = cr.log(cr.tensor([[0.5, 0.5]]))
    >>> round(cr.nn.losses.kl_divergence(log_q, cr.tensor([[1.0, 0.0]])).item(), 4)
    0.6931
    """
    outputs = scores("kl_divergence", log_q)
    targets = same_shape("kl_divergence", outputs, p)
    some = targets > 0
    own = where(some, targets * log(where(some, targets, 1.0)), 0.0)
    crossed = where(some, targets * where(some, outputs, 0.0), 0.0)
    return reduce(sum(own - crossed, axis=-1), reduction)
