"""The line search of L-BFGS: a length along a direction at which the strong Wolfe conditions hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[Any]

_DECREASE, _FLATTEN = 1e-4, 0.9
"""The share of the first slope that the loss must fall by, and the share of it that the slope may keep."""
_NARROWEST = 1e-9
"""The search ends where no parameter changes by more within the bracket."""


@dataclass
class Point:
    """A length along the direction; the loss there, its gradient, and its slope in the direction."""

    length: Any
    loss: float
    gradient: Vector
    slope: Any


@dataclass
class Found:
    """Where a search ended, and how many evaluations it took."""

    loss: float
    gradient: Vector
    length: Any
    evaluations: int


def strong_wolfe(
    evaluate: Callable[[Any], tuple[float, Vector]],
    length: Any,
    direction: Vector,
    loss: float,
    gradient: Vector,
    slope: Any,
    *,
    most: int,
) -> Found:
    """A length that lowers the loss and flattens its slope enough.

    Parameters
    ----------
    evaluate : callable
        Loss and gradient at a length.
    length : float
        The first to try.
    direction : array
    loss, gradient, slope
        At the length 0.
    most : int
        How many further lengths may be tried.

    Returns
    -------
    Found

    Notes
    -----
    Nocedal and Wright, "Numerical optimization" (2006), algorithms 3.5 (bracket) and 3.6 (zoom), with minFunc's
    safeguards, as PyTorch has them.
    """

    def at(length: Any) -> Point:
        loss, gradient = evaluate(length)
        return Point(length, loss, gradient, gradient @ direction)

    def high(point: Point) -> bool:
        return point.loss > loss + _DECREASE * point.length * slope

    def flat(point: Point) -> bool:
        return abs(point.slope) <= -_FLATTEN * slope

    start = Point(0.0, loss, gradient, slope)
    before, point, tries = start, at(length), 0
    bracket = [start, point]
    done = False
    while tries < most:
        if high(point) or (tries > 1 and point.loss >= before.loss):
            bracket = [before, point]
            break
        if flat(point):
            bracket, done = [point], True
            break
        if point.slope >= 0:
            bracket = [before, point]
            break
        bounds = point.length + 0.01 * (point.length - before.length), point.length * 10
        before, point = point, at(_cubic_minimum(before, point, bounds))
        tries += 1
        bracket = [start, point]

    low, other = (0, -1) if bracket[0].loss <= bracket[-1].loss else (-1, 0)
    slow = False
    widest = np.abs(direction).max()
    evaluations = tries + 1
    while not done and tries < most:
        left, right = sorted(end.length for end in bracket)
        if (right - left) * widest < _NARROWEST:
            break
        length = _cubic_minimum(bracket[0], bracket[1], (left, right))
        length, slow = _away_from_ends(length, left, right, slow)
        point = at(length)
        tries += 1
        evaluations += 1
        if high(point) or point.loss >= bracket[low].loss:
            bracket[other] = point
            low, other = (0, -1) if bracket[0].loss <= bracket[-1].loss else (-1, 0)
        else:
            done = flat(point)
            if not done and point.slope * (bracket[other].length - bracket[low].length) >= 0:
                bracket[other] = bracket[low]
            bracket[low] = point
    best = bracket[low]
    return Found(best.loss, best.gradient, best.length, evaluations)


def _away_from_ends(length: Any, left: Any, right: Any, slow: bool) -> tuple[Any, bool]:
    """The length, or one a tenth of the bracket away from the end that it is too close to for the second time."""
    margin = 0.1 * (right - left)
    if min(right - length, length - left) >= margin:
        return length, False
    if not slow and left < length < right:
        return length, True
    return (right - margin if abs(length - right) < abs(length - left) else left + margin), False


def _cubic_minimum(a: Point, b: Point, bounds: tuple[Any, Any]) -> Any:
    """Where the cubic through two losses and slopes is least, within the bounds; their middle if it has no minimum."""
    if a.length > b.length:
        a, b = b, a
    least, most = bounds
    inner = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.length - b.length)
    radicand = inner * inner - a.slope * b.slope
    if not radicand >= 0:
        return (least + most) / 2
    root = np.sqrt(radicand)
    found = b.length - (b.length - a.length) * ((b.slope + root - inner) / (b.slope - a.slope + 2 * root))
    return min(max(found, least), most)
