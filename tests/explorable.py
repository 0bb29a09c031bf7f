"""Programs that are explored: in test_explore.py as data, in test_explore_browser.py as pages."""

from collections.abc import Callable
from typing import Any

import numpy as np

import chainrule as cr


def product(x, y, z):
    """E1: f(x, y, z) = (x + y) z"""
    q = x + y
    return q * z


def neuron(w0, x0, w1, x1, w2):
    """E2: a sigmoid neuron"""
    s0 = w0 * x0
    s1 = w1 * x1
    s2 = s0 + s1
    s3 = s2 + w2
    n = -s3
    e = cr.exp(n)
    d = 1 + e
    return 1 / d


def branch(x, y):
    """E3: f(x, y) = (x + sigmoid(y)) / (sigmoid(x) + (x + y)^2)"""
    sigy = cr.sigmoid(y)
    num = x + sigy
    sigx = cr.sigmoid(x)
    xpy = x + y
    xpysqr = xpy**2
    den = sigx + xpysqr
    return num / den


def network(W1, b1, W2, b2, X, y):
    """A network of 4, 3 and 2 units, softmax cross-entropy"""
    h = cr.relu(X @ W1 + b1)
    z = h @ W2 + b2
    return cr.softmax_cross_entropy(z, y)


def chosen(x):
    return cr.where(x > 0, cr.log(x), x * x).sum()


def largest(x):
    return cr.max(x) * cr.maximum(x, 0.5).sum()


def spread(column, row):
    return (column[:, None] * row).mean()


def factors(A):
    q, r = cr.linalg.qr(A)
    return q.sum() + r.sum()


def cube(x):
    return (x**3).sum()


_rng = np.random.default_rng(5)
PROGRAMS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "E1": (product, (-2.0, 5.0, -4.0)),
    "E2": (neuron, (2.0, -1.0, -3.0, -2.0, -3.0)),
    "E3": (branch, (3.0, -4.0)),
    "network": (
        network,
        (_rng.normal(size=(4, 3)), np.array([0.1, 0.2, -9.0]), _rng.normal(size=(3, 2)), np.zeros(2), _rng.normal(size=(8, 4)), np.array([0, 1] * 4)),
    ),
    "where": (chosen, (np.array([1.0, -2.0, 3.0]),)),
    "max": (largest, (np.array([1.0, -2.0, 3.0]),)),
    "broadcasting": (spread, (np.array([1.0, 2.0]), np.array([3.0, 4.0, 5.0]))),
    "several outputs": (factors, (_rng.normal(size=(3, 3)),)),
    "four axes": (cube, (_rng.normal(size=(2, 3, 4, 5)),)),
}
