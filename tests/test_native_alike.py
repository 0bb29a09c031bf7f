"""Kernels that are alike are written once, and those that are nearly alike are not taken for each other."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.compiler.native import lower
from chainrule.compiler.native.ir import I64, Function, Module
from chainrule.compiler.pipeline import build

pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")


def native(f: Any, *args: Any) -> Any:
    return build(cr.trace(f, *args), backend="native")


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Compiles a function, and counts how often kernels are written."""
    times: list[str] = []
    for name in ("write_product", "write_fused", "write_conv", "write_loops"):
        own = getattr(lower, name)
        monkeypatch.setattr(lower, name, lambda *args, _own=own, _name=name, **kwargs: (times.append(_name), _own(*args, **kwargs))[1])

    def count(f: Any, *args: Any) -> Counter[str]:
        times.clear()
        native(f, *args)
        return Counter(times)

    return count


def normal(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(len(shape) + sum(shape)).normal(size=shape).astype(dtype)


def test_a_deeper_network_of_equal_layers_has_no_more_code(written: Any) -> None:
    def loss(x: Any, *weights: Any) -> Any:
        for w in weights:
            x = cr.softmax(cr.tanh(x @ w) * 2.0)
        return cr.sum(x * x)

    x, weights = normal(24, 40), [normal(40, 40) for _ in range(9)]
    gradients = [cr.value_and_grad(loss, argnums=tuple(range(1, depth + 1))) for depth in (5, 9)]
    assert written(gradients[0], x, *weights[:5]) == written(gradients[1], x, *weights)


def test_equal_convolutions_are_written_once(written: Any) -> None:
    def stack(x: Any, *kernels: Any) -> Any:
        for w in kernels:
            x = cr.relu(cr.conv(x, w, padding=1))
        return x

    x, w = normal(2, 6, 6, 4), normal(3, 3, 4, 4)
    assert written(stack, x, *[w + i for i in range(6)])["write_conv"] == 1


def test_what_is_nearly_alike_is_not_the_same() -> None:
    def f(x: Any, y: Any, w: Any) -> Any:
        parts = [x[:, :8], x[:, 8:16], x.T[:20, :8], x[::2, 4:12]]
        scaled = [cr.exp(part) * 2.0 for part in parts] + [cr.exp(parts[0]) * 3.0, cr.exp(parts[0]) / 2.0]
        signs = [cr.copysign(x, 0.0 * x), cr.copysign(x, -0.0 * x), cr.where(x > 0, x, 0.0), cr.where(x > 0, x, -0.0)]
        sums = [cr.sum(z * 2.0, axis=axis) for z in (x, y) for axis in (0, 1, (0, 1))]
        products = [cr.tanh(x @ w + 1.0), cr.tanh(x @ w + 2.0), cr.tanh(x @ w.T + 1.0), cr.relu(x @ w + 1.0), x @ w]
        return (*scaled, *signs, *sums, *products)

    x, w = normal(20, 20), normal(20, 20)
    y = normal(20, 20, dtype="float64")
    for got, expected in zip(native(f, x, y, w).run(x, y, w), f(cr.tensor(x), cr.tensor(y), cr.tensor(w)), strict=True):
        np.testing.assert_allclose(got, expected.numpy(), rtol=2e-5, atol=1e-5)
        assert (np.signbit(got) == np.signbit(expected.numpy())).all()


def test_reductions_in_parts_keep_memory_of_their_own() -> None:
    def f(*xs: Any) -> Any:
        return [cr.sum(cr.exp(x)) for x in xs]

    xs = [normal(70_000) + i for i in range(3)]
    for got, x in zip(native(f, *xs).run(*xs), xs, strict=True):
        np.testing.assert_allclose(got, np.exp(x).sum(), rtol=1e-5)


def test_gates_with_loops_of_their_own_are_written_once(written: Any) -> None:
    def f(*xs: Any) -> Any:
        return [part for x in xs for part in (cr.sort(x, axis=0), cr.cumulative_sum(x, axis=0), x[np.array([3, 1, 2])])]

    xs = [normal(6, 5) + i for i in range(4)]
    assert written(f, *xs)["write_loops"] == written(f, xs[0])["write_loops"]
    for got, expected in zip(native(f, *xs).run(*xs), f(*map(cr.tensor, xs)), strict=True):
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-6)


def test_only_what_is_called_from_outside_is_seen_outside() -> None:
    module = Module()
    for name in ("inner", "step"):
        f = Function(module, name, [("x", I64)])
        if name == "step":
            f.write("call void @again(i64 %x)")
        f.close()
    module.same["again"] = "inner"
    text = module.text("step")
    assert "define internal void @inner" in text
    assert "define void @step" in text
    assert "call void @inner(i64 %x)" in text
