"""Convolutions of float32 with operands in bfloat16: those of the rounded operands, forward and back to the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import chainrule as cr

pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")

from chainrule.compiler.native.conv import write_conv
from chainrule.compiler.native.conv_shape import Target
from chainrule.compiler.native.gemm import Written
from chainrule.compiler.native.ir import Module
from chainrule.core.aval import Aval
from chainrule.core.primitive import TABLE
from test_native_conv import Array, close, computed
from test_native_halves import multiplies, rounded

HALVES = Target(64, 32, halves=True)
PAIRS = ("scratch", "scratch", "c")

# Of images, weights and outputs, and the layout.
LAYERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "neighbours": ((3, 9, 11, 24), (3, 3, 24, 74), {"low": (1, 1), "size": (9, 11)}),
    "steps": ((2, 20, 21, 32), (3, 5, 32, 46), {"low": (1, 2), "stride": (2, 3), "size": (10, 7)}),
    "holes": ((2, 90, 66), (5, 66, 34), {"low": (4,), "dilation": (2,), "size": (90,)}),
    "one pixel": ((4, 12, 13, 64), (1, 1, 64, 64), {"size": (12, 13)}),
    "three axes": ((1, 6, 7, 8, 20), (2, 3, 3, 20, 22), {"low": (0, 1, 1), "size": (5, 7, 8)}),
    "large weights": ((4, 5, 5, 256), (3, 3, 256, 160), {"low": (1, 1), "size": (5, 5)}),
    "half a vector": ((4, 20, 20, 24), (5, 5, 24, 40), {"size": (16, 16)}),
}


def judge(gate: str, inputs: Sequence[Array], params: dict[str, Any]) -> None:
    expected = TABLE[gate].evaluate(*map(rounded, inputs), **params).astype("f4")
    found: list[Written] = []

    def write(module: Module, avals: Sequence[Aval], out: Aval, target: Target) -> Written:
        found.append(write_conv(module, "k", gate, avals, out, params, target))
        return found[0]

    close(computed(write, inputs, Aval(expected.shape, expected.dtype), HALVES, shares=3), expected)
    assert found[0].works[-1].roles == PAIRS


@multiplies
@pytest.mark.parametrize("name", LAYERS)
def test_convolutions_are_those_of_rounded_operands(name: str) -> None:
    x_shape, w_shape, layout = LAYERS[name]
    rank = len(x_shape) - 2
    params: dict[str, Any] = {"stride": (1,) * rank, "dilation": (1,) * rank, "low": (0,) * rank, "groups": 1, **layout}
    rng = np.random.default_rng(0)
    x, w, y = (rng.normal(size=shape).astype("f4") / 8 for shape in (x_shape, w_shape, (x_shape[0], *params["size"], w_shape[-1])))
    judge("conv", (x, w), params)
    judge("conv_transpose", (y, w), {**params, "size": x_shape[1:-1]})


@pytest.mark.parametrize(
    ("x", "w", "groups"),
    [
        ((4, 20, 20, 31), (3, 3, 31, 64), 1),
        ((4, 20, 20, 64), (3, 3, 16, 64), 4),
        ((4, 20, 20, 64), (3, 3, 64, 3), 1),
        ((1, 6, 6, 16), (3, 3, 16, 16), 1),
    ],
    ids=["odd", "groups", "narrow", "small"],
)
def test_what_has_no_pairs_or_does_not_pay_is_not_rounded(x: tuple[int, ...], w: tuple[int, ...], groups: int) -> None:
    params = {"stride": (1, 1), "dilation": (1, 1), "low": (1, 1), "groups": groups, "size": x[1:-1]}
    made = [Module(), Module()]
    for module, target in zip(made, (HALVES, HALVES._replace(halves=False)), strict=True):
        write_conv(module, "k", "conv", [Aval(shape, np.dtype("f4")) for shape in (x, w)], Aval((*x[:-1], w[-1]), np.dtype("f4")), params, target)
    assert made[0].text() == made[1].text()


@multiplies
def test_a_layer_with_bias_and_activation_rounds_only_what_is_multiplied() -> None:
    rng = np.random.default_rng(1)
    x, w, b = (rng.normal(size=shape).astype("f4") / 8 for shape in ((8, 16, 16, 32), (3, 3, 32, 48), (48,)))

    def layer(x: Any, w: Any) -> Any:
        return cr.relu(cr.conv(x, w, padding=1) + b)

    exact, rough = (cr.compile(layer, backend="native", matmul_precision=precision)(x, w).numpy() for precision in ("float32", "bfloat16"))
    wanted = layer(rounded(x).astype("f4"), rounded(w).astype("f4")).numpy()
    np.testing.assert_allclose(rough, wanted, rtol=1e-5, atol=1e-5)
    assert np.abs(rough - exact).max() > 1e-4
