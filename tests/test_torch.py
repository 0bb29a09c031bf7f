"""Values and gradients beside PyTorch's, for every gate that both have; the inputs are the gates' own samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.primitive import TABLE, functions
from gates import Case, Gate

torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
F = torch.nn.functional

# A call in our words, made with PyTorch's.
Adapter = Callable[..., Any]


def axes(x: Any, axis: Any) -> tuple[int, ...]:
    return tuple(range(x.ndim)) if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)


def one_by_one(function: Callable[..., Any]) -> Adapter:
    """A reduction that PyTorch has for a single axis only."""

    def reduce(x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
        for a in sorted((a % x.ndim for a in axes(x, axis)), reverse=True):
            x = function(x, dim=a, keepdim=keepdims)
        return x

    return reduce


def all_at_once(function: Callable[..., Any]) -> Adapter:
    def reduce(x: Any, *, axis: Any = None, keepdims: bool = False, **how: Any) -> Any:
        if x.ndim and not axes(x, axis):
            raise TypeError("no axes means all of them")
        return function(x, dim=axes(x, axis), keepdim=keepdims, **how)

    return reduce


def channels_first(x: Any) -> Any:
    return x.movedim(-1, 1)


def channels_last(x: Any) -> Any:
    return x.movedim(1, -1)


def conv(x: Any, w: Any, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Any:
    function = (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3]
    if not x.shape[-1]:
        raise TypeError("no channels")
    return channels_last(function(channels_first(x), w.movedim((-1, -2), (0, 1)).contiguous(), None, stride, padding, dilation, groups))


def conv_transpose(y: Any, w: Any, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, output_padding: Any = 0) -> Any:
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[y.ndim - 3]
    weights = w.movedim((-1, -2), (0, 1)).contiguous()
    return channels_last(function(channels_first(y), weights, None, stride, padding, output_padding, groups, dilation))


def max_pool(x: Any, window: Any, **how: Any) -> Any:
    return channels_last((F.max_pool1d, F.max_pool2d, F.max_pool3d)[x.ndim - 3](channels_first(x), window, **how))


def avg_pool(x: Any, window: Any, **how: Any) -> Any:
    return channels_last((F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[x.ndim - 3](channels_first(x), window, **how))


def cumulative(function: Callable[..., Any], first: float) -> Adapter:
    def cumulate(x: Any, *, axis: int | None = None, include_initial: bool = False) -> Any:
        axis = 0 if axis is None else axis
        out = function(x, dim=axis)
        return torch.cat([torch.full_like(out.narrow(axis, 0, 1), first), out], dim=axis) if include_initial else out

    return cumulate


def getitem(x: Any, index: Any) -> Any:
    if isinstance(index, tuple) and {int, slice, list} <= {type(part) for part in index}:
        raise TypeError("the axis of an integer and a list that a slice parts stands elsewhere than in NumPy")
    return x[index]


def softmax_cross_entropy(logits: Any, target: Any, *, axis: int = -1, **how: Any) -> Any:
    logits = logits.movedim(axis, -1)
    if target.is_floating_point():
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), target.reshape(-1, logits.shape[-1]), **how)
    out = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), target.reshape(-1), **how)
    return out.reshape(target.shape) if how.get("reduction") == "none" else out


def symmetric(function: Callable[..., Any]) -> Adapter:
    return lambda x, **how: function((x + x.mT) / 2, **how)


ADAPTED: dict[str, Adapter | None] = {
    "astype": lambda x, dtype: x.to(getattr(torch, np.dtype(dtype).name)),
    "avg_pool": avg_pool,
    "bitwise_invert": torch.bitwise_not,
    "cholesky": symmetric(lambda x, upper=False: torch.linalg.cholesky(x, upper=upper)),
    "conv": conv,
    "conv_transpose": conv_transpose,
    "cross": lambda x1, x2, axis=-1: torch.linalg.cross(x1, x2, dim=axis),
    "cumulative_prod": cumulative(torch.cumprod, 1.0),
    "cumulative_sum": cumulative(torch.cumsum, 0.0),
    "diagonal": lambda x, offset=0: torch.diagonal(x, offset, -2, -1),
    "eigh": symmetric(torch.linalg.eigh),
    "eigvalsh": symmetric(torch.linalg.eigvalsh),
    "equal": torch.eq,
    "floor_divide": lambda x1, x2: torch.floor_divide(x1.detach(), x2.detach()),
    "gather": None,
    "getitem": getitem,
    "greater_equal": torch.ge,
    "less_equal": torch.le,
    "flip": lambda x, axis=None: torch.flip(x, axes(x, axis)),
    "log_softmax": lambda x, axis=-1: torch.log_softmax(x, axis),
    "logsumexp": all_at_once(torch.logsumexp),
    "max": all_at_once(torch.amax),
    "max_pool": max_pool,
    "mean": all_at_once(torch.mean),
    "min": all_at_once(torch.amin),
    "nextafter": None,
    "not_equal": torch.ne,
    "pad": None,
    "permute_dims": torch.permute,
    "pow_constant": torch.pow,
    "prod": one_by_one(torch.prod),
    "roll": lambda x, shift, axis=None: torch.roll(x, shift, axis),
    "scatter_add": None,
    "sigmoid_cross_entropy": lambda x, target, **how: F.binary_cross_entropy_with_logits(x, target.expand(x.shape), **how),
    "soft_cross_entropy": lambda x, target: (
        F.cross_entropy(x, target, reduction="none") if x.ndim == 2 else -(torch.log_softmax(x, -1) * target).sum(-1)
    ),
    "softmax_cross_entropy": softmax_cross_entropy,
    "softmax": lambda x, axis=-1: torch.softmax(x, axis),
    "sort": lambda x, axis=-1, **how: torch.sort(x, axis, **how).values,
    "split": None,
    "std": all_at_once(lambda x, correction=0.0, **how: torch.std(x, correction=correction, **how)),
    "sum": all_at_once(torch.sum),
    "svd": None,  # the signs of the vectors are free
    "take_along_axis": lambda x, index, axis=-1: torch.take_along_dim(x, index, axis),
    "tril": lambda x, k=0: torch.tril(x, k),
    "triu": lambda x, k=0: torch.triu(x, k),
    "unstack": lambda x, axis=0: torch.unbind(x, axis),
    "var": all_at_once(lambda x, correction=0.0, **how: torch.var(x, correction=correction, **how)),
    "vector_norm": all_at_once(lambda x, ord=2, **how: torch.linalg.vector_norm(x, ord, **how)),
}
"""What has another name or other arguments there; None where only the name is the same."""
WORDS = {"axis": "dim", "keepdims": "keepdim"}


# Their samples apply traced programs to arrays, which PyTorch's functions of these names cannot.
ADAPTED |= dict.fromkeys(("cond", "while_loop", "scan"))


def counterpart(name: str) -> Adapter | None:
    if name in ADAPTED:
        return ADAPTED[name]
    found = next((getattr(place, name) for place in (torch.linalg, torch, torch.special, F) if hasattr(place, name)), None)
    return None if found is None else lambda *args, **kwargs: found(*args, **{WORDS.get(key, key): value for key, value in kwargs.items()})


SHARED = {name: function for name in sorted(TABLE) if (function := counterpart(name)) is not None}


def theirs(case: Case, function: Adapter, leaves: list[Any]) -> list[Any]:
    """PyTorch's outputs for a sample whose differentiable arrays are these tensors."""
    values = [torch.from_numpy(np.array(x)) if isinstance(x, (np.ndarray, np.generic)) else x for x in case.leaves]
    for place, leaf in zip(case.places, leaves, strict=True):
        values[place] = leaf
    args, kwargs = case.structure.rebuild(values)
    out = function(*args, **kwargs)
    return [part for part in (out if isinstance(out, (tuple, list)) else (out,)) if part.is_floating_point() or case.places == []]


@pytest.mark.parametrize("name", SHARED)
def test_value_and_gradient_agree_with_pytorch(name: str) -> None:
    compared = 0
    for case in Gate(TABLE[name], getattr(functions, name)).cases():
        with case:
            leaves = [torch.from_numpy(np.array(x)).requires_grad_() for x in case.arrays]
            try:
                expected = theirs(case, SHARED[name], leaves)
            except (TypeError, RuntimeError, ValueError, IndexError):
                continue
            compared += 1
            ours = [cr.asarray(x).requires_grad_() for x in case.arrays]
            outs = case.real(*ours) if case.places else case()
            for out, value in zip(outs, expected, strict=True):
                np.testing.assert_allclose(np.asarray(out.detach()), value.detach().resolve_conj().numpy(), rtol=1e-10, atol=1e-10)
            compare_gradients(name, outs, ours, expected, leaves)
    assert compared, "PyTorch understands no sample"


def compare_gradients(name: str, outs: list[Any], ours: list[Any], expected: list[Any], leaves: list[Any]) -> None:
    rng = np.random.default_rng(0)
    cotangents = [rng.normal(size=out.shape) for out in outs]
    roots = [(value, torch.from_numpy(np.array(ct))) for value, ct in zip(expected, cotangents, strict=True) if value.requires_grad]
    if not roots or not leaves:
        return
    wanted = torch.autograd.grad([value for value, _ in roots], leaves, [ct for _, ct in roots], allow_unused=True)
    kept = [(out, ct) for out, ct in zip(outs, cotangents, strict=True) if out.requires_grad]
    found = cr.autograd.grad([out for out, _ in kept], ours, [ct for _, ct in kept], allow_unused=True) if kept else [None] * len(ours)
    for ct, value, x in zip(found, wanted, ours, strict=True):
        ct = np.zeros(x.shape) if ct is None else np.asarray(ct)
        np.testing.assert_allclose(ct, np.zeros(x.shape) if value is None else value.numpy(), rtol=1e-10, atol=1e-10)


def test_most_gates_have_a_counterpart() -> None:
    assert len(SHARED) > 100
