"""The NumPy backend: every gate compiles to what it computes eagerly, bit for bit, and so do its gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.compiler.pipeline import Executable, build
from chainrule.core.primitive import TABLE, functions
from chainrule.graph.ir import Graph
from chainrule.tensor import Tensor
from gates import Case, Gate, frozen


def gate_of(name: str) -> Gate:
    return Gate(TABLE[name], getattr(functions, name))


def traced(f: Callable[..., Any], arrays: Sequence[Any]) -> Graph:
    return cr.trace(f, *map(cr.asarray, arrays))


def built(f: Callable[..., Any], arrays: Sequence[Any]) -> Executable:
    return build(traced(f, arrays), check=True)


def values(arrays: Sequence[Any]) -> list[Any]:
    return [cr.asarray(x)._value for x in arrays]


def check_same(outs: Sequence[Any], expected: Sequence[Tensor]) -> None:
    """Equal in every bit, but for the sign of zeros."""
    assert len(outs) == len(expected)
    for out, want in zip(outs, expected, strict=True):
        want = want._value
        assert isinstance(out, np.generic if not want.shape else np.ndarray)
        assert (out.shape, out.dtype) == (want.shape, want.dtype)
        np.testing.assert_array_equal(out, want)


def forward(case: Case) -> Callable[..., list[Tensor]]:
    return lambda *arrays: case(*arrays)


@pytest.mark.parametrize("name", TABLE)
def test_every_gate_compiles_to_what_it_computes(name: str) -> None:
    for case in gate_of(name).cases():
        with case:
            for arrays in (case.arrays, [frozen(np.float32(x)) for x in case.arrays]):
                executable = built(forward(case), arrays)
                check_same(executable.run(*values(arrays)), case(*arrays))


def pullback(case: Case) -> Callable[..., list[Tensor]]:
    def gradients(*arrays: Any) -> list[Tensor]:
        def loss(*xs: Any) -> Tensor:
            outs = case.real(*xs)
            weighed = [(out * cr.asarray(np.linspace(0.5, 1.5, out.size).reshape(out.shape).astype(out.dtype))).sum() for out in outs]
            return functions.sum(cr.stack(weighed))

        return list(cr.grad(loss, argnums=tuple(range(len(arrays))))(*arrays))

    return gradients


@pytest.mark.parametrize("name", [name for name in TABLE if gate_of(name).has_rules])
def test_every_gradient_compiles_to_what_it_is(name: str) -> None:
    for case in gate_of(name).cases():
        with case:
            if not case.differentiable:
                continue
            gradients = pullback(case)
            for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-5)):
                arrays = [frozen(x.astype(dtype)) for x in case.arrays]
                outs = built(gradients, arrays).run(*values(arrays))
                for out, want in zip(outs, gradients(*arrays), strict=True):
                    assert (out.shape, out.dtype) == (want.shape, want.dtype)
                    np.testing.assert_allclose(out, np.asarray(want), rtol=tolerance, atol=tolerance * 1e-2)
