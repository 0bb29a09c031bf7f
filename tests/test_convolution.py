"""Convolution and pooling beyond what is generated from the table: the definition written out, adjoints, PyTorch's numbers."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr
from chainrule.core.errors import ArgumentError, ShapeError
from chainrule.core.primitive import functions
from chainrule.ops import pooling, windows


def numpy(x: Any) -> Any:
    return np.asarray(x.detach()) if isinstance(x, cr.Tensor) else np.asarray(x)


def close(x: Any, y: Any, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(numpy(x), numpy(y), rtol=tolerance, atol=tolerance)


def by_definition(x, w, stride, dilation, low, groups, size):
    """The sum of products, position by position and tap by tap."""
    out = np.zeros((x.shape[0], *size, w.shape[-1]))
    channels, features = w.shape[-2], w.shape[-1] // groups
    for o in np.ndindex(*size):
        for k in np.ndindex(*w.shape[:-2]):
            place = tuple(a * s + b * d - front for a, b, s, d, front in zip(o, k, stride, dilation, low, strict=True))
            if all(0 <= p < n for p, n in zip(place, x.shape[1:-1], strict=True)):
                for g in range(groups):
                    f = slice(g * features, (g + 1) * features)
                    pixels = x[(slice(None), *place, slice(g * channels, (g + 1) * channels))]
                    out[(slice(None), *o, f)] += pixels @ w[(*k, slice(None), f)]
    return out


@st.composite
def layouts(draw):
    rank = draw(st.integers(1, 3))
    axes = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(rank))
    groups, channels, features = draw(st.sampled_from([(1, 1, 1), (1, 9, 1), (1, 2, 3), (2, 1, 2), (3, 1, 1), (2, 3, 2)]))
    kernel, stride, dilation = axes(1, 3), axes(1, 3), axes(1, 3)
    pads = tuple((draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in range(rank))
    extent = windows.extents(kernel, dilation)
    spatial = tuple(max(1, draw(st.integers(1, 6)), e - sum(p)) for e, p in zip(extent, pads, strict=True))
    return groups, channels, features, kernel, stride, dilation, pads, spatial, draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([64, 1 << 20]))


@settings(max_examples=150)
@given(layouts())
def test_conv_is_its_definition_and_the_three_gates_are_each_others_adjoints(case):
    groups, channels, features, kernel, stride, dilation, pads, spatial, seed, block = case
    extent = windows.extents(kernel, dilation)
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(2, *spatial, groups * channels)), rng.normal(size=(*kernel, channels, groups * features))
    options = {"stride": stride, "padding": pads, "dilation": dilation, "groups": groups}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "BLOCK", block)
        y = numpy(cr.conv(x, w, **options))
        close(y, by_definition(x, w, stride, dilation, [front for front, _ in pads], groups, y.shape[1:-1]))
        ct = rng.normal(size=y.shape)
        _, pull = cr.vjp(lambda x, w: cr.conv(x, w, **options), x, w)
        dx, dw = map(numpy, pull(ct))
        close(np.sum(dx * x), np.sum(ct * y))
        close(np.sum(dw * w), np.sum(ct * y))
        close(dw, functions.conv_weight(x, ct, kernel, **options))
        # The sizes that conv takes to y's differ by what the last stride leaves over: output_padding chooses.
        rest = zip(spatial, pads, extent, y.shape[1:-1], stride, strict=True)
        extra = tuple(n + sum(pad) - e - (o - 1) * s for n, pad, e, o, s in rest)
        if all(0 <= more < max(s, d) for more, s, d in zip(extra, stride, dilation, strict=True)):
            close(dx, cr.conv_transpose(ct, w, output_padding=extra, **options))


def test_channels_of_a_transposed_image_need_no_copy_first():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 3, 6, 5)), rng.normal(size=(3, 3, 3, 4))
    moved = cr.permute_dims(x, (0, 2, 3, 1))
    close(cr.conv(moved, w, padding="same"), cr.conv(np.ascontiguousarray(numpy(moved)), w, padding="same"))


@pytest.mark.parametrize("size", [5, 6, 7, 8])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_same_padding_gives_the_ceiling_and_puts_the_odd_zero_behind(size, stride, kernel):
    x, w = np.arange(1.0, size + 1).reshape(1, size, 1), np.ones((kernel, 1, 1))
    y = cr.conv(x, w, stride=stride, padding="same")
    assert y.shape == (1, -(-size // stride), 1)
    total = max((y.shape[1] - 1) * stride + kernel - size, 0)
    close(y, cr.conv(x, w, stride=stride, padding=((total // 2, total - total // 2),)))
    up = cr.conv_transpose(y, w, stride=stride, padding="same")
    assert up.shape[1] == y.shape[1] * stride


def test_paddings_of_every_form():
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(1, 5, 6, 2)), rng.normal(size=(3, 3, 2, 2))
    close(cr.conv(x, w, padding=1), cr.conv(x, w, padding=(1, 1)))
    close(cr.conv(x, w, padding=1), cr.conv(x, w, padding=((1, 1), (1, 1))))
    close(cr.conv(x, w, padding=1), cr.conv(x, w, padding="same"))
    close(cr.conv(x, w), cr.conv(x, w, padding="valid"))
    close(cr.conv(x, w, padding=((2, 0), (0, 1))), cr.conv(np.pad(x, ((0, 0), (2, 0), (0, 1), (0, 0))), w))


def test_memory_of_a_convolution_is_that_of_its_operands():
    rng = np.random.default_rng(2)
    x, w = rng.normal(size=(8, 96, 96, 16)).astype(np.float32), rng.normal(size=(5, 5, 16, 16)).astype(np.float32)
    x, w = (cr.tensor(v, requires_grad=True) for v in (x, w))
    ct = cr.asarray(np.ones((8, 96, 96, 16), np.float32))
    cr.conv(x, w, padding="same").backward(ct)
    x.grad = w.grad = None
    tracemalloc.start()
    cr.conv(x, w, padding="same").backward(ct)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    image = 8 * 96 * 96 * 16 * 4
    assert peak < 2 * image + 4 * windows.BLOCK  # the output and the gradient; all columns would be 25 images


def test_misfits_name_both_operands():
    with pytest.raises(ShapeError, match=r"float32\(1, 4, 4, 3\) have 3 channels, weights float32\(2, 2, 4, 8\)"):
        cr.conv(cr.ones((1, 4, 4, 3)), cr.ones((2, 2, 4, 8)))
    with pytest.raises(ShapeError, match="does not fit into"):
        cr.conv(cr.ones((1, 4, 4, 3)), cr.ones((5, 5, 3, 8)))
    with pytest.raises(ArgumentError, match="smaller than the stride"):
        cr.conv_transpose(cr.ones((1, 4, 1)), cr.ones((2, 1, 1)), stride=2, output_padding=2)


@settings(max_examples=60)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2**32 - 1), st.sampled_from([64, 1 << 20]))
def test_pooling_is_the_maximum_and_mean_of_each_window(window, stride, front, back, seed, block):
    front, back = min(front, window - 1), min(back, window - 1)
    rng = np.random.default_rng(seed)
    size = max(window, int(rng.integers(1, 8)))
    x = rng.integers(-3, 3, (2, size, 5, 2)).astype(float)
    options = {"stride": (stride, 1), "padding": ((front, back), (0, 0))}
    padded = np.pad(x, ((0, 0), (front, back), (0, 0), (0, 0)), constant_values=np.nan)
    count = (size + front + back - window) // stride + 1
    cut = np.stack([padded[:, i * stride : i * stride + window] for i in range(count)], axis=1)
    pairs = np.stack([cut[:, :, :, j : j + 2] for j in range(4)], axis=3).transpose(0, 1, 3, 2, 4, 5).reshape(2, count, 4, -1, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pooling, "BLOCK", block)
        leaf = cr.tensor(x, requires_grad=True)
        y = cr.max_pool(leaf, (window, 2), **options)
        close(y, np.nanmax(pairs, axis=3))
        close(cr.avg_pool(x, (window, 2), count_include_pad=False, **options), np.nanmean(pairs, axis=3))
        close(cr.avg_pool(x, (window, 2), **options), np.nansum(pairs, axis=3) / (2 * window))
        ct = rng.normal(size=y.shape)
        y.backward(cr.tensor(ct))
    close(leaf.grad, shared_equally(x, numpy(y), ct, (window, 2), (stride, 1), (front, 0)))


def shared_equally(x, out, ct, window, stride, low):
    grad = np.zeros_like(x)
    for n, i, j, c in np.ndindex(*out.shape):
        rows = range(max(i * stride[0] - low[0], 0), min(i * stride[0] - low[0] + window[0], x.shape[1]))
        columns = range(j * stride[1], j * stride[1] + window[1])
        best = [(p, q) for p in rows for q in columns if x[n, p, q, c] == out[n, i, j, c]]
        for p, q in best:
            grad[n, p, q, c] += ct[n, i, j, c] / len(best)
    return grad


def test_average_of_the_whole_image_is_its_mean():
    x = np.random.default_rng(3).normal(size=(2, 4, 6, 3))
    close(cr.avg_pool(x, (4, 6))[:, 0, 0], x.mean(axis=(1, 2)))


def test_a_window_may_not_lie_in_the_padding():
    with pytest.raises(ArgumentError, match="smaller than the window"):
        cr.max_pool(cr.ones((1, 4, 1)), 2, padding=2)


def from_torch(x: Any) -> Any:
    """Channels to the back."""
    return np.moveaxis(x.detach().numpy(), 1, -1)


def to_torch(torch: Any, x: Any) -> Any:
    return torch.tensor(np.moveaxis(x, -1, 1).copy(), requires_grad=True)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": 2}, {"groups": 2}, {"groups": 4, "stride": 3, "padding": 1}],
    ids=str,
)
def test_conv_agrees_with_pytorch(rank, options):
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    rng = np.random.default_rng(4)
    x, w = rng.normal(size=(2, *(7, 6, 5)[:rank], 4)), rng.normal(size=(*(3, 2, 3)[:rank], 4 // options.get("groups", 1), 8))
    tx, tw = to_torch(torch, x), torch.tensor(np.moveaxis(w, (-1, -2), (0, 1)).copy(), requires_grad=True)
    expected = getattr(torch.nn.functional, f"conv{rank}d")(tx, tw, **options)
    ct = rng.normal(size=expected.shape)
    gx, gw = torch.autograd.grad(expected, [tx, tw], torch.tensor(ct))
    y, pull = cr.vjp(lambda x, w: cr.conv(x, w, **options), x, w)
    close(y, from_torch(expected))
    dx, dw = pull(np.moveaxis(ct, 1, -1))
    close(dx, from_torch(gx))
    close(np.moveaxis(numpy(dw), (-1, -2), (0, 1)), gw.numpy())


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2, "padding": 1, "output_padding": 1}, {"stride": 3, "dilation": 2}, {"groups": 2, "stride": 2}, {"stride": 4, "padding": 1}],
    ids=str,
)
def test_conv_transpose_agrees_with_pytorch(rank, options):
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    rng = np.random.default_rng(5)
    x, w = rng.normal(size=(2, *(4, 3, 3)[:rank], 4)), rng.normal(size=(*(3, 2, 3)[:rank], 3, 4))
    tx, tw = to_torch(torch, x), torch.tensor(np.moveaxis(w, (-1, -2), (0, 1)).copy(), requires_grad=True)
    expected = getattr(torch.nn.functional, f"conv_transpose{rank}d")(tx, tw, **options)
    ct = rng.normal(size=expected.shape)
    gx, gw = torch.autograd.grad(expected, [tx, tw], torch.tensor(ct))
    y, pull = cr.vjp(lambda x, w: cr.conv_transpose(x, w, **options), x, w)
    close(y, from_torch(expected))
    dx, dw = pull(np.moveaxis(ct, 1, -1))
    close(dx, from_torch(gx))
    close(np.moveaxis(numpy(dw), (-1, -2), (0, 1)), gw.numpy())


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("window", "stride", "padding"), [(2, None, 0), (3, 2, 1), (3, 1, 1), (2, 3, 0)])
def test_pooling_agrees_with_pytorch(rank, window, stride, padding):
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    rng = np.random.default_rng(6)
    x = rng.normal(size=(2, *(7, 6, 5)[:rank], 3))
    tx = to_torch(torch, x)
    for name, ours, options in (
        ("max_pool", cr.max_pool, {}),
        ("avg_pool", cr.avg_pool, {}),
        ("avg_pool", cr.avg_pool, {"count_include_pad": False}),
    ):
        expected = getattr(torch.nn.functional, f"{name}{rank}d")(tx, window, stride, padding, **options)
        ct = rng.normal(size=expected.shape)
        (gx,) = torch.autograd.grad(expected, [tx], torch.tensor(ct))
        y, pull = cr.vjp(lambda x, ours=ours, options=options: ours(x, window, stride=stride, padding=padding, **options), x)
        close(y, from_torch(expected))
        close(pull(np.moveaxis(ct, 1, -1))[0], from_torch(gx))
