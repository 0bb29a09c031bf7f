"""Convolutions and pooling in machine code compute what the gates compute, whatever the shapes, and touch nothing else."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrule.compiler.native import engine
from chainrule.compiler.native.conv import write_conv
from chainrule.compiler.native.conv_shape import Target
from chainrule.compiler.native.gemm import Epilogue, Place, Written
from chainrule.compiler.native.ir import Function, Module, Value
from chainrule.compiler.native.pooling import write_pool
from chainrule.core.aval import Aval
from chainrule.core.primitive import TABLE

llvmlite = pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")

Array = Any  # NumPy's own stubs would need every dtype spelled out.
Write = Callable[[Module, Sequence[Aval], Aval, Target], Written]
TARGETS = [Target(64, 32), Target(32, 16), Target(16, 32)]
EXAMPLES = settings(max_examples=80, deadline=None, derandomize=True)


@pytest.fixture(autouse=True)
def nothing_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAINRULE_CACHE_DIR", "0")


def fenced(array: Array, *, behind: bool) -> Array:
    """A copy in memory of its own, with pages that nobody may touch on both sides: it lies close to the one behind, or in front."""
    page = mmap.PAGESIZE
    inside = max(page, -(-array.nbytes // page) * page)
    memory = mmap.mmap(-1, inside + 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None).mprotect
    for fence in (start, start + page + inside):
        assert protect(ctypes.c_void_p(fence), ctypes.c_size_t(page), 0) == 0
    offset = page + (inside - array.nbytes if behind else 0)
    copy = np.frombuffer(memory, array.dtype, array.size, offset).reshape(array.shape)
    copy[...] = array
    return copy


def computed(write: Write, inputs: Sequence[Array], out: Aval, target: Target, *, shares: int = 2, extra: Mapping[str, Array] | None = None) -> Array:
    """What the kernels make of these inputs, their units shared by so many callers."""
    module = Module()
    written = write(module, [Aval(x.shape, x.dtype) for x in inputs], out, target)
    code = engine.load(module.text())
    for behind in (True, False):
        memory = {"abdefgh"[i]: fenced(x, behind=behind) for i, x in enumerate(inputs)}
        memory |= {name: fenced(x, behind=behind) for name, x in (extra or {}).items()}
        memory["c"] = fenced(np.full(out.shape, np.nan, out.dtype), behind=behind)
        memory["scratch"] = fenced(np.full(written.scratch // out.dtype.itemsize, np.nan, out.dtype), behind=behind)
        for work in written.works:
            kinds = [*(ctypes.c_void_p for _ in work.roles), ctypes.c_int64, ctypes.c_int64]
            call = ctypes.CFUNCTYPE(None, *kinds)(code.address(work.kernel.name))
            pointers = [memory[role].ctypes.data for role in work.roles]
            for share in reversed(range(shares)):
                call(*pointers, work.kernel.units * share // shares, work.kernel.units * (share + 1) // shares)
    return memory["c"]


def close(result: Array, expected: Array) -> None:
    tolerance = 1e-10 if expected.dtype == np.float64 else 3e-4
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)


@st.composite
def convolutions(draw: st.DrawFn, gate: str) -> tuple[tuple[Array, Array], dict[str, Any]]:
    """Operands of one of the gates, and its layout: 1 to 3 axes, and anything that windows can do on them."""
    rank = draw(st.integers(1, 3))
    axes = st.lists(st.integers(1, 3), min_size=rank, max_size=rank).map(tuple)
    most = {1: 40, 2: 17, 3: 6}[rank]
    kernel, stride, dilation = (draw(axes) for _ in range(3))
    low = tuple(draw(st.integers(-1, 4)) for _ in range(rank))
    spatial, size = (tuple(draw(st.integers(1, most)) for _ in range(rank)) for _ in range(2))
    groups = draw(st.sampled_from([1, 1, 2, 3, 16, 20]))
    channels = draw(st.sampled_from([1, 2, 5, 17, 33] if groups < 4 else [1, 2]))
    features = draw(st.sampled_from([1, 3, 16, 37, 65] if groups < 4 else [1, 2, 3]))
    batch = draw(st.integers(0, 3))
    dtype = draw(st.sampled_from(["f4", "f8"]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    shapes = {"x": (batch, *spatial, groups * channels), "w": (*kernel, channels, groups * features), "y": (batch, *size, groups * features)}
    roles, asked = {"conv": ("xw", size), "conv_transpose": ("yw", spatial), "conv_weight": ("xy", kernel)}[gate]
    first, second = (rng.normal(size=shapes[role]).astype(dtype) for role in roles)
    return (first, second), {"stride": stride, "dilation": dilation, "low": low, "groups": groups, "size": asked}


def judge(gate: str, inputs: Sequence[Array], params: Mapping[str, Any], target: Target, *, shares: int = 2, general: bool = False) -> None:
    expected = TABLE[gate].evaluate(*inputs, **params)

    def write(module: Module, avals: Sequence[Aval], out: Aval, target: Target) -> Written:
        return write_conv(module, "k", gate, avals, out, params, target, general=general)

    close(computed(write, inputs, Aval(expected.shape, expected.dtype), target, shares=shares), expected)


@pytest.mark.parametrize("gate", ["conv", "conv_transpose", "conv_weight"])
@EXAMPLES
@given(data=st.data())
def test_convolutions_of_all_shapes_are_those_of_the_gates(gate: str, data: st.DataObject) -> None:
    inputs, params = data.draw(convolutions(gate))
    judge(gate, inputs, params, data.draw(st.sampled_from(TARGETS)), shares=data.draw(st.integers(1, 5)))


@pytest.mark.parametrize("gate", ["conv", "conv_transpose"])
@settings(EXAMPLES, max_examples=25)
@given(data=st.data())
def test_position_by_position_is_right_for_all_shapes_too(gate: str, data: st.DataObject) -> None:
    inputs, params = data.draw(convolutions(gate))
    judge(gate, inputs, params, TARGETS[0], general=True)


NETWORKS = {
    "few channels": ((2, 28, 28, 1), (5, 5, 1, 32), {"low": (2, 2), "size": (28, 28)}),
    "many": ((2, 14, 14, 32), (5, 5, 32, 64), {"low": (2, 2), "size": (14, 14)}),
    "more weights than images": ((1, 5, 5, 192), (3, 3, 192, 160), {"low": (1, 1), "size": (5, 5)}),
    "large steps": ((1, 59, 59, 3), (11, 11, 3, 64), {"low": (2, 2), "size": (14, 14), "stride": (4, 4)}),
    "a product": ((3, 9, 7, 40), (1, 1, 40, 70), {"size": (9, 7)}),
    "a large product": ((2, 3, 5, 260), (1, 1, 260, 520), {"size": (3, 5)}),
    "a long line": ((1, 700, 2), (64, 2, 5), {"low": (32,), "size": (700,)}),
    "depthwise": ((2, 19, 17, 40), (3, 3, 1, 40), {"low": (1, 1), "size": (19, 17), "groups": 40}),
    "depthwise, a long line": ((2, 90, 24), (31, 1, 24), {"low": (15,), "size": (90,), "groups": 24}),
    "depthwise, dilated steps": ((2, 29, 24), (5, 1, 24), {"low": (2,), "size": (10,), "groups": 24, "stride": (3,), "dilation": (2,)}),
    "a generator's last layer": ((2, 13, 11, 40), (5, 5, 40, 3), {"low": (2, 2), "size": (13, 11)}),
    "to one feature": ((1, 20, 70), (4, 70, 1), {"low": (1,), "size": (9,), "stride": (2,)}),
    "patches": ((1, 32, 32, 3), (8, 8, 3, 20), {"size": (4, 4), "stride": (8, 8)}),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.nbytes} bytes")
def test_layers_of_networks_and_their_gradients(name: str, target: Target) -> None:
    x_shape, w_shape, layout = NETWORKS[name]
    rank = len(x_shape) - 2
    params: dict[str, Any] = {"stride": (1,) * rank, "dilation": (1,) * rank, "low": (0,) * rank, "groups": 1, **layout}
    rng = np.random.default_rng(0)
    x, w, y = (rng.normal(size=shape).astype("f4") / 8 for shape in (x_shape, w_shape, (x_shape[0], *params["size"], w_shape[-1])))
    judge("conv", (x, w), params, target)
    judge("conv_transpose", (y, w), {**params, "size": x_shape[1:-1]}, target)
    judge("conv_weight", (x, y), {**params, "size": w_shape[:-2]}, target, shares=3)


@pytest.mark.parametrize("gate", ["conv", "conv_transpose", "conv_weight"])
@pytest.mark.parametrize("empty", ["batch", "image", "channels", "features", "outputs"])
def test_of_nothing_there_is_nothing_or_zeros(gate: str, empty: str) -> None:
    batch, spatial, channels, features, size = (0 if empty == name else n for name, n in [
        ("batch", 2), ("image", 5), ("channels", 20), ("features", 17), ("outputs", 5)
    ])  # fmt: skip
    x, w, y = np.ones((batch, spatial, spatial, channels)), np.ones((3, 3, channels, features)), np.ones((batch, size, size, features))
    inputs, asked = {"conv": ((x, w), (size, size)), "conv_transpose": ((y, w), (spatial, spatial)), "conv_weight": ((x, y), (3, 3))}[gate]
    params = {"stride": (1, 1), "dilation": (1, 1), "low": (1, 1), "groups": 1, "size": asked}
    judge(gate, inputs, params, TARGETS[0])
    if gate != "conv_weight":
        judge(gate, inputs, params, TARGETS[0], general=True)


@pytest.mark.parametrize("gate", ["conv", "conv_transpose", "conv_weight"])
@pytest.mark.parametrize("groups", [1, 20])
def test_an_epilogue_finishes_every_result_once_and_knows_its_place(gate: str, groups: int) -> None:
    rng = np.random.default_rng(0)
    x, w, y = rng.normal(size=(2, 9, 7, 20)), rng.normal(size=(3, 2, 20 // groups, 20)), rng.normal(size=(2, 5, 3, 20))
    params: dict[str, Any] = {"stride": (2, 2), "dilation": (1, 1), "low": (1, 0), "groups": groups}
    inputs, size = {"conv": ((x, w), (5, 3)), "conv_transpose": ((y, w), (9, 7)), "conv_weight": ((x, y), (3, 2))}[gate]
    plain = TABLE[gate].evaluate(*inputs, **params, size=size)
    bias, residual = rng.normal(size=20), rng.normal(size=plain.shape)

    def write(f: Function, x: Value, place: Place, pointers: Mapping[str, Value]) -> Value:
        at = f.add(f.mul(place.row, 20), place.column)
        for name, offset in (("bias", place.column), ("residual", at)):
            begin = f.at(pointers[name], offset, x.kind)
            term = f.load(x.kind, begin) if place.mask is None else f.load_some(x.kind, begin, place.mask)
            x = f.binary("fadd", x, term)
        return x

    for general in (False, True):
        out = Aval(plain.shape, plain.dtype)
        result = computed(
            lambda module, avals, out, target, general=general: write_conv(
                module, "k", gate, avals, out, {**params, "size": size}, target, Epilogue(("bias", "residual"), write), general=general
            ),
            inputs, out, TARGETS[0], extra={"bias": bias, "residual": residual},
        )  # fmt: skip
        close(result, plain + bias + residual)


POOLING = ["max_pool", "max_pool_spread", "max_pool_gather", "avg_pool", "avg_pool_spread"]


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """Sizes of an image, how many windows there are, and how they lie: often side by side."""
    rank, apart = draw(st.integers(1, 3)), draw(st.booleans())
    axes: list[tuple[int, ...]] = []
    for _ in range(rank):
        wide, count = draw(st.integers(1, 4)), draw(st.integers(1, {1: 12, 2: 6, 3: 3}[rank]))
        if apart:
            axes.append((wide, wide, 0, count * wide, count))
            continue
        step, low, high = draw(st.integers(1, 5)), draw(st.integers(0, wide - 1)), draw(st.integers(0, wide - 1))
        spatial = max(1, (count - 1) * step + wide - low - high)
        axes.append((wide, step, low, spatial, (spatial + low + high - wide) // step + 1))
    window, stride, low, spatial, size = zip(*axes, strict=True)
    return spatial, size, {"window": window, "stride": stride, "low": low}


@pytest.mark.parametrize("gate", POOLING)
@EXAMPLES
@given(data=st.data())
def test_pooling_of_all_shapes_is_that_of_the_gates(gate: str, data: st.DataObject) -> None:
    spatial, size, layout = data.draw(windows())
    batch, channels = data.draw(st.integers(0, 3)), data.draw(st.sampled_from([1, 3, 16, 33, 100]))
    dtype, rng = data.draw(st.sampled_from(["f4", "f8"])), np.random.default_rng(data.draw(st.integers(0, 99)))
    image, pooled = (batch, *spatial, channels), (batch, *size, channels)
    # Few different values: there are ties.
    x = rng.integers(-3, 4, size=image).astype(dtype)
    if data.draw(st.booleans()):
        x[rng.random(image) < 0.05] = np.nan
    moved = rng.normal(size=pooled if gate.endswith("spread") else image).astype(dtype)
    padded = {"include_pad": data.draw(st.booleans())} if gate.startswith("avg") else {}
    inputs: tuple[Array, ...] = (moved,) if gate.startswith("avg") else (x,)
    if gate in ("max_pool_spread", "max_pool_gather"):
        inputs = moved, x, TABLE["max_pool"].evaluate(x, size=size, **layout)
    asked = {} if gate in ("max_pool_spread", "max_pool_gather") else {"size": spatial if gate == "avg_pool_spread" else size}
    params = {**layout, **padded, **asked}
    expected = TABLE[gate].evaluate(*inputs, **params)

    def write(module: Module, avals: Sequence[Aval], out: Aval, target: Target) -> Written:
        return write_pool(module, "k", gate, avals, out, params, target)

    target, shares = data.draw(st.sampled_from(TARGETS)), data.draw(st.integers(1, 5))
    close(computed(write, inputs, Aval(expected.shape, expected.dtype), target, shares=shares), expected)


@pytest.mark.parametrize("stride", [(2, 2), (1, 2)])
@pytest.mark.parametrize("gate", POOLING)
def test_an_epilogue_finishes_pooled_results(gate: str, stride: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x, scale = rng.normal(size=(2, 8, 6, 37)), rng.normal(size=37)
    layout: dict[str, Any] = {"window": (2, 2), "stride": stride, "low": (0, 0)}
    size = (4 if stride[0] == 2 else 7, 3)
    out = TABLE["max_pool"].evaluate(x, **layout, size=size)
    padded = {"include_pad": True} if gate.startswith("avg") else {}
    asked = {} if gate in ("max_pool_spread", "max_pool_gather") else {"size": (8, 6) if gate == "avg_pool_spread" else size}
    inputs = {"max_pool_spread": (out + 1, x, out), "max_pool_gather": (x + 1, x, out), "avg_pool_spread": (out,)}.get(gate, (x,))
    params = {**layout, **padded, **asked}
    plain = TABLE[gate].evaluate(*inputs, **params)
    residual = rng.normal(size=plain.shape)

    def finish(f: Function, y: Value, place: Place, pointers: Mapping[str, Value]) -> Value:
        def read(name: str, offset: Any) -> Value:
            begin = f.at(pointers[name], offset, y.kind)
            return f.load(y.kind, begin) if place.mask is None else f.load_some(y.kind, begin, place.mask)

        at = f.add(f.mul(place.row, 37), place.column)
        return f.binary("fadd", f.binary("fmul", y, read("scale", place.column)), read("residual", at))

    def write(module: Module, avals: Sequence[Aval], out: Aval, target: Target) -> Written:
        return write_pool(module, "k", gate, avals, out, params, target, Epilogue(("scale", "residual"), finish))

    result = computed(write, inputs, Aval(plain.shape, plain.dtype), TARGETS[0], extra={"scale": scale, "residual": residual})
    close(result, plain * scale + residual)
