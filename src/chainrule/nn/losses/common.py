"""What losses share: how they are averaged, and what their targets must look like."""

from __future__ import annotations

from typing import Any

from chainrule.core.aval import Aval, int64
from chainrule.core.errors import ArgumentError, DtypeError, ShapeError
from chainrule.core.variable import Variable
from chainrule.ops.creation import asarray, astype
from chainrule.ops.gathering import take
from chainrule.ops.reduction import sum
from chainrule.ops.selection import where
from chainrule.ops.statistics import mean
from chainrule.tensor import Tensor

_REDUCTIONS = ("mean", "sum", "none")


def reduce(losses: Tensor, reduction: str, weights: Tensor | None = None) -> Tensor:
    """Losses of all examples as the one number that was asked for; their mean is by weight."""
    if reduction not in _REDUCTIONS:
        raise ArgumentError(f"no reduction {reduction!r}", mend=f"choose one of {', '.join(map(repr, _REDUCTIONS))}")
    weighted = losses if weights is None else losses * weights
    if reduction == "none":
        return weighted
    if reduction == "sum":
        return sum(weighted)
    return mean(weighted) if weights is None else sum(weighted) / sum(weights)


def scores(name: str, outputs: Any) -> Tensor:
    """Outputs as a Tensor of floating point."""
    outputs = asarray(outputs)
    if outputs.dtype.kind != "f":
        raise DtypeError(f"{name}: outputs {_told(outputs)} are not floating-point", mend="convert them with astype(cr.float32)")
    return outputs


def same_shape(name: str, outputs: Tensor, targets: Any) -> Tensor:
    """Targets of the outputs' shape and dtype. Shapes that differ could broadcast by accident, and are refused."""
    targets = asarray(targets)
    if targets.shape != outputs.shape:
        raise ShapeError(f"{name}: outputs {_told(outputs)} and targets {_told(targets)} differ in shape", mend=_mend(outputs, targets))
    return astype(targets, outputs.dtype, copy=False)


def class_numbers(name: str, outputs: Tensor, labels: Any) -> Tensor:
    """Labels that are a class number for each row of the outputs."""
    labels = asarray(labels)
    if labels.dtype.kind not in "iu":
        raise DtypeError(f"{name}: labels {_told(labels)} are not integers", mend="give class numbers, such as labels.astype(cr.int64)")
    if not outputs.shape or labels.shape != outputs.shape[:-1]:
        wanted = f"labels have the shape of the outputs without the class axis, {outputs.shape[:-1]}"
        raise ShapeError(f"{name}: labels {_told(labels)} do not fit outputs {_told(outputs)}", mend=wanted)
    classes = outputs.shape[-1]
    value = labels._value
    if not isinstance(value, Variable) and value.size and (value.min() < 0 or value.max() >= classes):
        says = f"{name}: labels from {value.min()} to {value.max()} for {classes} classes"
        raise ArgumentError(says, mend=f"labels must lie in 0..{classes - 1}; check the class axis")
    if labels.dtype.kind == "u":
        return labels
    # In a compiled step, too, a negative number is out of range; it does not count from the end.
    labels = astype(labels, int64, copy=False)
    return where(labels < 0, classes, labels)


def class_weights_of(name: str, outputs: Tensor, weights: Any) -> Tensor:
    """One weight for each class."""
    weights = astype(asarray(weights), outputs.dtype, copy=False)
    if weights.shape != outputs.shape[-1:]:
        says = f"{name}: class_weights {_told(weights)} do not fit outputs {_told(outputs)}"
        raise ShapeError(says, mend=f"give one weight for each of the {outputs.shape[-1]} classes")
    return weights


def chosen(weights: Tensor, labels: Tensor) -> Tensor:
    """The weight of each label."""
    return take(weights, labels, axis=0)


def share(name: str, label_smoothing: float) -> float:
    """A share of the probability."""
    if not 0 <= label_smoothing <= 1:
        raise ArgumentError(f"{name}: label_smoothing={label_smoothing}", mend="it is a share of the probability, between 0 and 1")
    return label_smoothing


def _told(x: Tensor) -> str:
    return str(Aval(x.shape, x.dtype))


def _mend(outputs: Tensor, targets: Tensor) -> str:
    if outputs.shape == (*targets.shape, 1):
        return "drop the last axis of the outputs, outputs[..., 0], or give the targets one, targets[..., None]"
    if targets.shape == (*outputs.shape, 1):
        return "drop the last axis of the targets, targets[..., 0]"
    if outputs.size == targets.size:
        return f"reshape the targets to {outputs.shape} if their order is the same"
    return "give one target for each output"
