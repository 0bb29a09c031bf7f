"""Cross-entropies: how improbable a network's scores make the labels.

Scores go in unnormalised, because the logarithm and the exponentials of the softmax or sigmoid cancel:
no probability is ever formed that could underflow, and the gradient is a plain difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.core.aval import Aval, normalize_axis
from chainrule.core.errors import ArgumentError, AxisError, DtypeError, ShapeError
from chainrule.core.nest import Array, Nest
from chainrule.core.primitive import Primitive, Refusal, Sample
from chainrule.ops.activation import sigmoid
from chainrule.ops.composite import less_maximum, log_softmax, log_softmax_eval, softmax, softmax_pull
from chainrule.ops.gate import batch_elementwise, describe, elementwise_aval, gate, lift, operands
from chainrule.ops.groups import Groups
from chainrule.ops.movement import broadcast_to, permute_dims, reshape
from chainrule.ops.reduction import sum
from chainrule.ops.statistics import mean
from chainrule.ops.summation import total
from chainrule.tape import bind
from chainrule.tensor import Tensor

__all__ = ["sigmoid_cross_entropy", "softmax_cross_entropy"]

if TYPE_CHECKING:
    import numpy.typing as npt


def _labels_aval(logits: Aval | Tensor, labels: Aval | Tensor, smoothing: float) -> Aval:
    if labels.dtype.kind not in "iu":
        raise DtypeError(
            f"softmax_cross_entropy: labels {describe(labels)} are not integers",
            mend="give class numbers, or a probability for each logit",
        )
    if logits.shape[:-1] != labels.shape:
        raise ShapeError(
            f"softmax_cross_entropy: labels {describe(labels)} do not fit logits {describe(logits)}",
            mend=f"integer labels have the shape of the logits without the class axis, {logits.shape[:-1]}; probabilities have the whole shape",
        )
    return Aval(labels.shape, logits.dtype)


def _rows(logits: Any, labels: Any) -> tuple[Any, Any, Any]:
    """Logits shifted by their row's maximum as a new matrix, and the indices of the true classes in it."""
    count, classes = labels.size, logits.shape[-1]
    which = np.reshape(labels, count)
    if count and (which.min() < 0 or which.max() >= classes):
        raise ArgumentError(
            f"softmax_cross_entropy: labels from {which.min()} to {which.max()} for {classes} classes",
            mend=f"labels must lie in 0..{classes - 1}; check the class axis",
        )
    return less_maximum(np.reshape(logits, (count, classes)), -1), np.arange(count), which


def _expected(shifted: Any, rows: Any, which: Any, smoothing: float) -> Any:
    """The scores of the true classes, or what takes their place with smoothed labels."""
    expected = shifted[rows, which]
    return (1 - smoothing) * expected + smoothing * np.mean(shifted, axis=-1) if smoothing else expected


def _less_labels(e: Any, sums: Any, rows: Any, which: Any, smoothing: float) -> Any:
    """Exponentials over their sums, less the labels; in place."""
    e /= sums
    if smoothing:
        e -= smoothing / e.shape[-1]
    e[rows, which] -= 1 - smoothing
    return e


def _labels_eval(logits: Any, labels: Any, smoothing: float) -> Any:
    shifted, rows, which = _rows(logits, labels)
    expected = _expected(shifted, rows, which, smoothing)
    np.exp(shifted, out=shifted)
    return np.reshape(np.log(total(shifted, (1,), False)) - expected, labels.shape)[()]


def _minus_labels_eval(logits: Any, labels: Any, smoothing: float) -> Any:
    e, rows, which = _rows(logits, labels)
    np.exp(e, out=e)
    return np.reshape(_less_labels(e, total(e, (1,), True), rows, which, smoothing), logits.shape)


def _both_eval(logits: Any, labels: Any, smoothing: float) -> tuple[Any, Any]:
    e, rows, which = _rows(logits, labels)
    expected = _expected(e, rows, which, smoothing)
    np.exp(e, out=e)
    sums = total(e, (1,), True)
    losses = np.reshape(np.log(sums[:, 0]) - expected, labels.shape)[()]
    return losses, np.reshape(_less_labels(e, sums, rows, which, smoothing), logits.shape)


def _labels_batch(primitive: Primitive, batched: Sequence[bool], inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
    count = next(x.shape[0] for x, b in zip(inputs, batched, strict=True) if b)
    return bind(primitive, [x if b else broadcast_to(x, (count, *x.shape)) for x, b in zip(inputs, batched, strict=True)], params)


def _column(x: Any) -> Any:
    return reshape(x, (*x.shape, 1))


def _one_hot_samples(rng: np.random.Generator, *, reductions: bool) -> list[Sample]:
    shapes = ((4, 3), (2, 3, 5), (4,), (0, 3))
    options: list[dict[str, Any]] = [{"label_smoothing": 0.2}, {}]
    if reductions:
        options += [{"reduction": "sum"}, {"reduction": "none"}, {"reduction": "none", "label_smoothing": 0.1}]
    samples = [Sample((rng.normal(size=s), rng.integers(0, s[-1], s[:-1])), o) for s in shapes for o in options if 0 not in s or o.get("reduction")]
    if reductions:
        samples.append(Sample((rng.normal(size=(2, 3, 4)), rng.integers(0, 3, (2, 4))), {"axis": 1}))
        probabilities = rng.dirichlet(np.ones(3), (2, 4))
        samples.append(Sample((rng.normal(size=(2, 4, 3)), probabilities), {"label_smoothing": 0.1}))
    return samples


def _pull_logits(ct: Any, logits: Any, labels: Any, smoothing: float) -> Any:
    return _column(ct) * softmax_minus_labels(logits, labels, label_smoothing=smoothing)


def _row_groups(w: Nest, logits: Array) -> Groups:
    return Groups(w, logits, (len(logits.shape) - 1,))


def _minus_labels_loops(w: Nest, out: Array, logits: Array, labels: Array, smoothing: float) -> None:
    with _row_groups(w, logits).each() as row:
        top = row.top()
        total = row.sum(lambda e: w.k.exp(e - top))
        _less_labels_loops(w, row, out, top, total, w.within(w.index(w.at(labels, row.out)), row.count), smoothing)


def _less_labels_loops(w: Nest, row: Groups, out: Array, top: Any, total: Any, label: Any, smoothing: float) -> None:
    """A row of probabilities less its label."""
    with row.elements() as place:
        share = w.k.exp(w.at(row.x, place) - top) / total
        w.put(out, place, share - smoothing / row.count if smoothing else share)
    chosen = row.at + label
    w.put(out, chosen, w.at(out, chosen) - (1.0 - smoothing))


MINUS_LABELS = Primitive(
    name="softmax_minus_labels",
    inputs=("logits", "labels"),
    aval=lambda logits, labels, smoothing: (_labels_aval(logits, labels, smoothing), logits)[1],
    eval=_minus_labels_eval,
    vjp=(lambda ct, logits: softmax_pull(ct, softmax(logits), (len(logits.shape) - 1,)), None),
    jvp=(lambda t, logits: softmax_pull(t, softmax(logits), (len(logits.shape) - 1,)), None),
    batch=_labels_batch,
    loops=_minus_labels_loops,
    kernel="cross_entropy",
    samples=lambda rng: _one_hot_samples(rng, reductions=False),
    refuses=lambda: [Refusal((np.ones((2, 3)), np.array([0, 3])), ArgumentError, "labels from 0 to 3 for 3 classes")],
)


@gate(MINUS_LABELS)
def softmax_minus_labels(logits: Tensor | npt.ArrayLike, labels: Tensor | npt.ArrayLike, /, *, label_smoothing: float = 0.0) -> Tensor:
    """Softmax along the last axis less the one-hot labels: the gradient of the cross-entropy in one gate."""
    (scores,) = operands("softmax_minus_labels", "real floating", logits)
    return bind(MINUS_LABELS, (scores, lift(labels)), {"smoothing": label_smoothing})


def _soft_eval(logits: Any, probabilities: Any) -> Any:
    terms = np.zeros_like(logits)
    np.multiply(log_softmax_eval(logits, (logits.ndim - 1,)), probabilities, out=terms, where=probabilities != 0)
    return -np.add.reduce(terms, axis=-1)


def _soft_aval(logits: Aval, probabilities: Aval) -> Aval:
    if logits.shape != probabilities.shape:
        raise ShapeError(
            f"softmax_cross_entropy: probabilities {describe(probabilities)} do not fit logits {describe(logits)}",
            mend="give one probability for each logit, or integer labels",
        )
    return Aval(logits.shape[:-1], logits.dtype)


def _soft_difference(logits: Any, probabilities: Any) -> Any:
    return softmax(logits) * sum(probabilities, axis=-1, keepdims=True) - probabilities


def _soft_loops(w: Nest, out: Array, logits: Array, probabilities: Array) -> None:
    with _row_groups(w, logits).each() as row:
        top = row.top()
        log_total = w.let(w.k.log(row.sum(lambda e: w.k.exp(e - top))), "log_total")
        loss = w.variable(0, logits.dtype, "sum")
        with row.elements() as place:
            weight = w.at(probabilities, place)
            w.assign(loss, loss - w.k.select(weight == 0, 0.0, weight * (w.at(logits, place) - top - log_total)))
        w.put(out, row.out, loss)


SOFT_CROSS_ENTROPY = Primitive(
    name="soft_cross_entropy",
    inputs=("logits", "probabilities"),
    aval=_soft_aval,
    eval=_soft_eval,
    vjp=(
        lambda ct, logits, probabilities: _column(ct) * _soft_difference(logits, probabilities),
        lambda ct, logits: -(_column(ct) * log_softmax(logits)),
    ),
    jvp=(
        lambda t, logits, probabilities: sum(t * _soft_difference(logits, probabilities), axis=-1),
        lambda t, logits: -sum(t * log_softmax(logits), axis=-1),
    ),
    batch=_labels_batch,
    loops=_soft_loops,
    kernel="cross_entropy",
    samples=lambda rng: [Sample((rng.normal(size=s), rng.uniform(0.1, 1.0, s))) for s in ((4, 3), (2, 2, 3), (3,), (0, 3))],
    refuses=lambda: [Refusal((np.ones((2, 3)), np.ones((2, 4))), ShapeError, "do not fit")],
)


@gate(SOFT_CROSS_ENTROPY)
def soft_cross_entropy(logits: Tensor | npt.ArrayLike, probabilities: Tensor | npt.ArrayLike, /) -> Tensor:
    """``-sum(probabilities * log_softmax(logits))`` along the last axis; a probability of 0 contributes 0."""
    scores, targets = operands("softmax_cross_entropy", "real floating", logits, probabilities)
    _soft_aval(scores, targets)
    return bind(SOFT_CROSS_ENTROPY, (scores, targets), {})


def _each(losses: Tensor) -> Tensor:
    return losses


_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"mean": mean, "sum": sum, "none": _each}


def _reduce(name: str, losses: Tensor, reduction: str) -> Tensor:
    if reduction not in _REDUCTIONS:
        raise ArgumentError(f"{name}: no reduction {reduction!r}", mend=f"choose one of {', '.join(map(repr, _REDUCTIONS))}")
    return _REDUCTIONS[reduction](losses)


def _loss_of(w: Nest, row: Groups, logits: Array, label: Any, top: Any, total: Any, smoothing: float) -> Any:
    """The loss of a row whose exponentials add up to ``total``."""
    expected = w.at(logits, row.at + label) - top
    if smoothing:
        mean = row.sum(lambda e: e - top, wanted="sum") / float(row.count)
        expected = (1.0 - smoothing) * expected + smoothing * mean
    return w.k.log(total) - expected


def _labels_loops(w: Nest, out: Array, logits: Array, labels: Array, smoothing: float) -> None:
    with _row_groups(w, logits).each() as row:
        top = row.top()
        total = row.sum(lambda e: w.k.exp(e - top))
        label = w.within(w.index(w.at(labels, row.out)), row.count)
        w.put(out, row.out, _loss_of(w, row, logits, label, top, total, smoothing))


def _both_loops(w: Nest, outs: tuple[Array, Array], logits: Array, labels: Array, smoothing: float) -> None:
    losses, slope = outs
    with _row_groups(w, logits).each() as row:
        top = row.top()
        total = row.sum(lambda e: w.k.exp(e - top))
        label = w.let(w.within(w.index(w.at(labels, row.out)), row.count), "label")
        w.put(losses, row.out, _loss_of(w, row, logits, label, top, total, smoothing))
        _less_labels_loops(w, row, slope, top, total, label, smoothing)


SOFTMAX_CROSS_ENTROPY = Primitive(
    name="softmax_cross_entropy",
    inputs=("logits", "labels"),
    aval=_labels_aval,
    eval=_labels_eval,
    vjp=(_pull_logits, None),
    jvp=(lambda t, logits, labels, smoothing: sum(t * softmax_minus_labels(logits, labels, label_smoothing=smoothing), axis=-1), None),
    batch=_labels_batch,
    loops=_labels_loops,
    kernel="cross_entropy",
    onnx="SoftmaxCrossEntropyLoss",
    samples=lambda rng: _one_hot_samples(rng, reductions=True),
    refuses=lambda: [
        Refusal((np.ones((2, 3)), np.array([0, 3])), ArgumentError, "labels from 0 to 3 for 3 classes"),
        Refusal((np.ones((2, 3)), np.array([0, -1])), ArgumentError, "labels from -1 to 0"),
        Refusal((np.ones((2, 3)), np.array([0, 1, 2])), ShapeError, "do not fit"),
        Refusal((np.ones((2, 3)), np.ones((2, 2))), ShapeError, "do not fit"),
        Refusal((np.ones((2, 3)), np.array([True, False])), DtypeError, "not integers"),
        Refusal((np.ones((2, 3)), np.array([0, 1])), ArgumentError, "no reduction", {"reduction": "average"}),
        Refusal((np.ones((2, 3)), np.array([0, 1])), ArgumentError, "label_smoothing", {"label_smoothing": 1.5}),
        Refusal((np.ones(()), np.array(0)), AxisError, "out of range"),
    ],
)


CROSS_ENTROPY_AND_SLOPE = Primitive(
    name="softmax_cross_entropy_and_slope",
    inputs=("logits", "labels"),
    aval=lambda logits, labels, smoothing: (_labels_aval(logits, labels, smoothing), logits),
    eval=_both_eval,
    batch=_labels_batch,
    loops=_both_loops,
    kernel="cross_entropy",
    outputs=True,
)
"""`softmax_cross_entropy` and `softmax_minus_labels` at once, bit for bit. A compiler writes it; it is in no table."""


@gate(SOFTMAX_CROSS_ENTROPY)
def softmax_cross_entropy(
    logits: Tensor | npt.ArrayLike, labels: Tensor | npt.ArrayLike, /, *, axis: int = -1, reduction: str = "mean", label_smoothing: float = 0.0
) -> Tensor:
    """Negative log-probability of the labels under the softmax of the logits.

    Parameters
    ----------
    logits : Tensor or array_like
        Unnormalised scores; ``axis`` runs over the classes.
    labels : Tensor or array_like
        Class numbers: integers of the logits' shape without ``axis``. Or probabilities: floating
        point of the logits' shape; gradients flow to them too.
    axis : int
        The class axis of the logits.
    reduction : {"mean", "sum", "none"}
        What is returned of the losses of all examples.
    label_smoothing : float
        This share of the probability, in [0, 1], is spread evenly over all classes.

    Returns
    -------
    Tensor
        A scalar, or the losses in the shape of integer labels for ``reduction="none"``.

    Raises
    ------
    ShapeError
        If shapes do not fit.
    DtypeError
        If labels are neither integers nor floating point.
    ArgumentError
        If a label is not a class number, or for an unknown reduction or smoothing.

    Notes
    -----
    ``logsumexp(scores) - scores[label]``. The gradient is ``softmax(scores) - onehot(label)``; the
    backward pass reads the logits, which the tape shares with whatever computed them, and takes the
    exponentials again rather than keeping them.

    Examples
    --------
    >>> import chainrule as cr
    >>> scores = cr.tensor([[0.0, 0.0]], requires_grad=True)
    >>> cr.softmax_cross_entropy(scores, [1]).backward()
    >>> scores.grad
    tensor([[ 0.5, -0.5]])
    """
    (scores,) = operands("softmax_cross_entropy", "real floating", logits)
    targets = lift(labels)
    rank = len(scores.shape)
    axis = normalize_axis(axis, rank, "softmax_cross_entropy")
    if not 0 <= label_smoothing <= 1:
        raise ArgumentError(f"softmax_cross_entropy: label_smoothing={label_smoothing}", mend="it is a share of the probability, between 0 and 1")
    last = (*range(axis), *range(axis + 1, rank), axis)
    if axis != rank - 1:
        scores = permute_dims(scores, last)
    if targets.dtype.kind != "f":
        _labels_aval(scores, targets, label_smoothing)
        losses = bind(SOFTMAX_CROSS_ENTROPY, (scores, targets), {"smoothing": float(label_smoothing)})
        return _reduce("softmax_cross_entropy", losses, reduction)
    if axis != rank - 1 and len(targets.shape) == rank:
        targets = permute_dims(targets, last)
    if label_smoothing:
        targets = targets * (1 - label_smoothing) + label_smoothing / scores.shape[-1]
    return _reduce("softmax_cross_entropy", soft_cross_entropy(scores, targets), reduction)


def _sigmoid_loss_eval(logits: Any, targets: Any) -> Any:
    return np.maximum(logits, 0) - logits * targets + np.log1p(np.exp(-np.abs(logits)))


SIGMOID_CROSS_ENTROPY = Primitive(
    name="sigmoid_cross_entropy",
    inputs=("logits", "targets"),
    aval=elementwise_aval("sigmoid_cross_entropy", "real floating", "same"),
    eval=_sigmoid_loss_eval,
    partials=(lambda logits, targets: sigmoid(logits) - targets, lambda logits: -logits),
    batch=batch_elementwise,
    scalar=lambda k, x, t: k.maximum(x, 0.0) - x * t + k.log1p(k.exp(-k.abs(x))),
    samples=lambda rng: (
        [
            Sample((rng.uniform(0.2, 3.0, s) * rng.choice([-1, 1], s), rng.uniform(0, 1, r)), {"reduction": reduction})
            for s, r in (((2, 3), (2, 3)), ((2, 3), (3,)), ((), ()))
            for reduction in ("mean", "sum", "none")
        ]
        + [Sample((rng.normal(size=(0, 2)), rng.uniform(size=(0, 2))), {"reduction": "none"})]
    ),
    refuses=lambda: [
        Refusal((np.ones(2), np.ones(3)), ShapeError, "broadcast"),
        Refusal((np.ones(2), np.ones(2)), ArgumentError, "no reduction", {"reduction": None}),
        Refusal((np.ones(2) + 1j, np.ones(2)), DtypeError, "takes"),
    ],
)


@gate(SIGMOID_CROSS_ENTROPY)
def sigmoid_cross_entropy(logits: Tensor | npt.ArrayLike, targets: Tensor | npt.ArrayLike, /, *, reduction: str = "mean") -> Tensor:
    """Negative log-probability of binary targets under the sigmoid of the logits.

    Parameters
    ----------
    logits : Tensor or array_like
        Unnormalised scores of any shape.
    targets : Tensor or array_like
        0 and 1, or probabilities between, of a shape that broadcasts with the logits.
    reduction : {"mean", "sum", "none"}
        What is returned of all losses.

    Returns
    -------
    Tensor
        A scalar, or every loss for ``reduction="none"``.

    Raises
    ------
    ShapeError
        If shapes do not broadcast.
    ArgumentError
        For an unknown reduction.

    Notes
    -----
    ``-t log(sigmoid(x)) - (1 - t) log(1 - sigmoid(x))``, computed as
    ``max(x, 0) - x t + log1p(exp(-|x|))``; the gradient is ``sigmoid(x) - t``.

    Examples
    --------
    >>> import chainrule as cr
    >>> x = cr.tensor([0.0, 0.0], requires_grad=True)
    >>> cr.sigmoid_cross_entropy(x, [0.0, 1.0], reduction="sum").backward()
    >>> x.grad
    tensor([ 0.5, -0.5])
    """
    losses = bind(SIGMOID_CROSS_ENTROPY, operands("sigmoid_cross_entropy", "real floating", logits, targets))
    return _reduce("sigmoid_cross_entropy", losses, reduction)
