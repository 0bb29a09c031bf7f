"""Products of float32 with operands in bfloat16: as the rounded operands' product, for any sizes, layouts and batches."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr
from chainrule.core.errors import ArgumentError

pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")

from chainrule.compiler.native import engine, gemm, halves
from chainrule.compiler.native.conv_shape import Target
from chainrule.compiler.native.gemm import write_product
from chainrule.compiler.native.host import Host
from chainrule.compiler.native.ir import Module
from test_native_gemm import Case, operands, product_of, run, with_edges

multiplies = pytest.mark.skipif(not engine.host().has("avx512bf16"), reason="products of bfloat16: run on a processor with AVX-512 BF16")

cases = st.builds(
    Case,
    m=st.integers(1, 70),
    k=st.integers(1, 60).map(lambda half: 2 * half),
    n=st.integers(1, 150),
    a=st.sampled_from(["plain", "transposed"]),
    b=st.sampled_from(["plain", "transposed"]),
    batch=st.lists(st.integers(1, 3), max_size=2).map(tuple),
    same_a=st.booleans(),
    same_b=st.booleans(),
    gap=st.sampled_from([0, 3]),
    pieces=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)


def rounded(x: np.ndarray) -> np.ndarray:
    """The nearest values with 8 bits of precision, ties to even, in float64."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + (0x7FFF + (bits >> 16 & 1))) & np.uint32(0xFFFF0000)).view(np.float32).astype("float64")


@multiplies
@settings(max_examples=80)
@given(cases, st.booleans(), st.booleans())
def test_products_are_those_of_rounded_operands(case: Case, deep: bool, conflict: bool) -> None:
    a, b = operands(case)
    c, whole = with_edges((*case.batch, case.m, case.n), case.dtype, case.gap)
    module = Module()
    bounds: dict[str, Any] = {"_SHORT": 2, "_OFTEN": 0, "_CONFLICT": 64 if conflict else 1024}
    with mock.patch.multiple(halves, **bounds), mock.patch.object(gemm, "_DEPTH", 1000 if deep else 1 << 20):
        written = write_product(module, "product", product_of(a, b, c), bits=512, registers=32, halves=True)
    assert ("b", "scratch") in [work.roles for work in written.works]
    run(written, module, {"a": a, "b": b, "c": c}, case.pieces)
    np.testing.assert_allclose(c, rounded(a) @ rounded(b), rtol=0, atol=1e-5 * case.k**0.5)
    c[...] = whole[0]
    assert (whole == whole[0]).all()


def test_small_products_and_float64_are_not_rounded() -> None:
    for size, dtype in [((8, 64, 8), "float32"), ((64, 8, 64), "float32"), ((64, 63, 64), "float32"), ((128, 128, 128), "float64")]:
        m, k, n = size
        made = [Module(), Module()]
        product = gemm.Product(m, k, n, np.dtype(dtype), (k, 1), (n, 1), n)
        for module, wanted in zip(made, (False, True), strict=True):
            write_product(module, "product", product, bits=512, registers=32, halves=wanted)
        assert made[0].text() == made[1].text()


def test_infinities_and_nan_stay_what_they_are() -> None:
    x = np.ones((128, 128), np.float32)
    x[3, 5], x[7, 9] = np.inf, np.nan
    f = cr.compile(lambda a, b: a @ b, backend="native", matmul_precision="bfloat16")
    out = f(x, np.ones((128, 128), np.float32)).numpy()
    assert np.isinf(out[3]).all()
    assert np.isnan(out[7]).all()
    assert np.isfinite(np.delete(out, [3, 7], 0)).all()


@multiplies
def test_a_network_trains_as_well_and_its_values_stay_float32() -> None:
    def trained(precision: str) -> tuple[list[float], list[np.dtype]]:
        cr.manual_seed(0)
        model = cr.nn.Sequential([cr.nn.Dense(128, activation="tanh"), cr.nn.Dense(128)])
        x = cr.random.normal((256, 64))
        y = cr.sin(x @ cr.random.normal((64, 128)) * 0.1)
        model(x)
        optimizer = cr.optim.Adam(model.parameters(), lr=0.003)

        @cr.compile(backend="native", matmul_precision=precision)
        def step(x: cr.Tensor, y: cr.Tensor) -> cr.Tensor:
            optimizer.zero_grad()
            loss = cr.mean(cr.square(model(x) - y))
            loss.backward()
            optimizer.step()
            return loss

        losses = [step(x, y).item() for _ in range(60)]
        assert step.stats().compilations[0].get("matmul_precision", "float32") == precision
        return losses, [p.dtype for p in model.parameters()]

    exact, _ = trained("float32")
    rough, dtypes = trained("bfloat16")
    assert exact != rough
    assert rough[-1] < 0.05 * rough[0]
    np.testing.assert_allclose(rough, exact, rtol=0.05)
    assert set(dtypes) == {np.dtype("float32")}


def test_where_the_processor_does_not_multiply_bfloat16_nothing_is_rounded() -> None:
    plain = Host("", "+avx,+avx512f", 512)
    assert Target.of(plain, halves=True) == Target.of(plain)
    assert Target.of(plain._replace(features="+avx,+avx512f,+avx512bf16"), halves=True).halves
    x = np.random.default_rng(0).normal(size=(128, 128)).astype("float32")
    rough, exact = (cr.compile(lambda a: a @ a, backend="numpy", matmul_precision=precision)(x) for precision in ("bfloat16", "float32"))
    np.testing.assert_array_equal(rough.numpy(), exact.numpy())


def test_other_precisions_are_refused() -> None:
    with pytest.raises(ArgumentError, match="choose 'float32' or 'bfloat16'"):
        cr.compile(lambda x: x, matmul_precision="float16")
