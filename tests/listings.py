"""What flat code is tested with: the samples of every gate, the lectures' neuron and small networks, each with its listing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import chainrule as cr
from chainrule import nn
from chainrule.core import tree
from chainrule.core.errors import GradientError
from chainrule.core.primitive import TABLE, functions
from chainrule.graph.ir import Graph
from chainrule.view.source import Listing, listed
from gates import Case, Gate

UNPRINTED = {"adjugate", "eigh", "eigvalsh", "pinv", "qr", "svd", "svdvals"}
"""Gates that have no loops, or none for their gradient: what comes of iterating until it is exact. Every other one is printed."""


def expected_of(listing: Listing, values: Sequence[Any]) -> list[Any]:
    """The outputs as the system computes them."""
    return [np.asarray(out) for out in listing.graph.run(*values)]


class Drawn:
    """A sample of a gate and its gradient as a listing, and values for its inputs.

    Masks among the arguments stay constants, unless there is nothing else: the shape of a result may depend on them.
    """

    def __init__(self, case: Case, name: str) -> None:
        self.case = case
        arrays = [i for i, leaf in enumerate(case.leaves) if isinstance(leaf, (np.ndarray, np.generic))]
        places = [i for i in arrays if case.leaves[i].dtype.kind != "b"] or arrays

        def run(*given: Any) -> Any:
            at = dict(zip(places, given, strict=True))
            args, kwargs = case.structure.rebuild(at.get(i, leaf) for i, leaf in enumerate(case.leaves))
            return tuple(functions.asarray(out) for out in tree.leaves(case.gate.function(*args, **kwargs)))

        run.__name__ = name
        values = [case.leaves[i] for i in places]
        self.listing = listing_of(cr.trace(run, *values))
        rng = np.random.default_rng(3)
        self.values = [*values, *(rng.normal(size=x.shape).astype(x.dtype) for x in self.listing.graph.inputs[len(values) :])]


def listing_of(graph: Graph) -> Listing:
    """Both passes; where there is no gradient the forward one."""
    try:
        return listed(graph)
    except GradientError:
        names = {x: x.name for x in (*graph.inputs, *(x for node in graph.nodes for x in node.outputs))}
        names |= {x: x.name for x, value in graph.constants.items() if np.ndim(value)}
        return Listing(graph, len(graph.nodes), names, graph.outputs, (), ())


def samples(gate: str, dtype: str = "float64") -> list[Drawn]:
    """A gate's samples but for complex ones, of which neither target has any."""
    cases = Gate(TABLE[gate], getattr(functions, gate)).cases()
    real = [case for case in cases if all(leaf.dtype.kind != "c" for leaf in case.leaves if isinstance(leaf, (np.ndarray, np.generic)))]
    if dtype == "float64":
        return [Drawn(case, f"{gate}_{case.index}") for case in real]
    narrow = [[leaf.astype(dtype) if i in case.places else leaf for i, leaf in enumerate(case.leaves)] for case in real]
    return [Drawn(replace(case, leaves=leaves), f"{gate}_{case.index}_{dtype}") for case, leaves in zip(real, narrow, strict=True) if case.places]


def close(got: Sequence[Any], expected: Sequence[Any]) -> None:
    """Equal but for the order in which sums are added; integers to the last bit."""
    for one, other in zip(got, expected, strict=True):
        if other.dtype.kind in "biu" and one.dtype == other.dtype:
            np.testing.assert_array_equal(one, other)
            continue
        single = other.dtype.itemsize < 8
        np.testing.assert_allclose(one, other, rtol=2e-5 if single else 1e-9, atol=2e-6 if single else 1e-11)


def neuron(w0: Any, x0: Any, w1: Any, x1: Any, w2: Any) -> Any:
    s0 = w0 * x0
    s1 = w1 * x1
    s2 = s0 + s1
    s3 = s2 + w2
    return 1.0 / (1.0 + cr.exp(-s3))


def sigmoid_neuron(w0: Any, x0: Any, w1: Any, x1: Any, w2: Any) -> Any:
    s0 = w0 * x0
    s1 = w1 * x1
    s2 = s0 + s1
    s3 = s2 + w2
    L = cr.sigmoid(s3)
    return L  # noqa: RET504 - the name is what is looked at


def perceptron() -> tuple[Any, list[Any]]:
    cr.manual_seed(0)
    model = nn.Sequential([nn.Dense(8, activation="relu"), nn.Dense(3)])
    x, labels = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32), np.array([0, 2, 1, 1, 0])
    model(x)
    return (lambda x, labels: nn.losses.softmax_cross_entropy(model(x), labels)), [x, labels]


def lenet() -> tuple[Any, list[Any]]:
    cr.manual_seed(0)
    model = cr.models.lenet()
    x, labels = np.random.default_rng(0).normal(size=(2, 28, 28, 1)).astype(np.float32), np.array([3, 7])
    model(x)
    return (lambda x, labels: nn.losses.softmax_cross_entropy(model(x), labels)), [x, labels]
