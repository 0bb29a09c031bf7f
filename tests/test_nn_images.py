"""Layers over images: values and gradients are PyTorch's, sizes and names are Keras's, and both places of the channels give the same."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ArgumentError, ChainruleError, LayerError
from chainrule.nn import convolution, local_response, pooling, reshaping, resizing, separable, transposed

Reference = Callable[[Any, dict[str, Any], "Case"], Any]
Pairs = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Case:
    """A layer, the shape of a batch for it (channels last), and what it should be in PyTorch's functions (channels first)."""

    layer: type[nn.Layer]
    shape: tuple[int, ...]
    reference: Reference
    options: dict[str, Any] = field(default_factory=dict)
    parameters: int = 0

    @property
    def rank(self) -> int:
        return len(self.shape) - 2

    @property
    def name(self) -> str:
        return ",".join([self.layer.__name__, *(f"{name}={value}".replace(" ", "") for name, value in self.options.items())])

    def each(self, name: str, default: int = 1) -> tuple[int, ...]:
        """An option for every spatial axis."""
        value = self.options.get(name, default)
        return tuple(value) if isinstance(value, tuple) else (value,) * self.rank

    def make(self, **options: Any) -> nn.Layer:
        cr.manual_seed(0)
        wide = {"dtype": "float64", "bias_initializer": "random_normal"} if issubclass(self.layer, convolution.KernelLayer) else {}
        return self.layer(**{**wide, **self.options, **options})

    def batch(self) -> np.ndarray:
        """Values without ties."""
        size = math.prod(self.shape)
        return np.random.default_rng(1).permutation(size).reshape(self.shape) / size - 0.4

    @property
    def has_formats(self) -> bool:
        return self.layer not in (nn.Reshape, nn.Permute)


def pads_of(case: Case, taps: Sequence[int], strides: Sequence[int]) -> Pairs:
    """Keras's paddings, by its formula: so much that there are ceil(size / stride) outputs, the odd one behind."""
    padding = case.options.get("padding", "valid")
    spans = [(k - 1) * d + 1 for k, d in zip(taps, case.each("dilation_rate"), strict=True)]
    if padding == "valid":
        return [(0, 0)] * case.rank
    if padding == "causal":
        return [(span - 1, 0) for span in spans]
    if padding == "same":
        sizes = zip(case.shape[1:-1], spans, strides, strict=True)
        totals = [max((math.ceil(size / step) - 1) * step + span - size, 0) for size, span, step in sizes]
        return [(total // 2, total - total // 2) for total in totals]
    each = [padding] * case.rank if isinstance(padding, int) else padding if len(padding) == case.rank else [padding]
    return [(one, one) if isinstance(one, int) else one for one in each]


def pytorch() -> Any:
    return pytest.importorskip("torch", reason="compared with PyTorch: pip install torch==2.13.0")


def padded(x: Any, pads: Pairs, value: float = 0.0) -> Any:
    return pytorch().nn.functional.pad(x, [side for pair in reversed(pads) for side in pair], value=value)


def torch_function(name: str, rank: int) -> Any:
    return getattr(pytorch().nn.functional, name.format(rank))


def convolved(x: Any, kernel: Any, case: Case, groups: int, bias: Any = None) -> Any:
    taps, strides = kernel.shape[: case.rank], case.each("strides")
    weights = kernel.permute(case.rank + 1, case.rank, *range(case.rank))
    x = padded(x, pads_of(case, taps, strides))
    return torch_function("conv{}d", case.rank)(x, weights, bias, stride=strides, dilation=case.each("dilation_rate"), groups=groups)


def convolution_reference(x: Any, p: dict[str, Any], case: Case) -> Any:
    y = convolved(x, p["kernel"], case, case.options.get("groups", 1), p.get("bias"))
    return y.relu() if case.options.get("activation") == "relu" else y


def channelwise(kernel: Any, rank: int) -> Any:
    return kernel.reshape(*kernel.shape[:rank], 1, -1)


def depthwise_reference(x: Any, p: dict[str, Any], case: Case) -> Any:
    return convolved(x, channelwise(p["kernel"], case.rank), case, case.shape[-1], p.get("bias"))


def separable_reference(x: Any, p: dict[str, Any], case: Case) -> Any:
    inner = convolved(x, channelwise(p["depthwise_kernel"], case.rank), case, case.shape[-1])
    mixed = inner.movedim(1, -1) @ p["pointwise_kernel"].reshape(p["pointwise_kernel"].shape[-2:]) + p["bias"]
    return mixed.movedim(-1, 1)


def transposed_reference(x: Any, p: dict[str, Any], case: Case) -> Any:
    kernel, strides, gaps = p["kernel"], case.each("strides"), case.each("dilation_rate")
    weights = kernel.permute(case.rank + 1, case.rank, *range(case.rank))
    function, padding = torch_function("conv_transpose{}d", case.rank), case.options.get("padding", "valid")
    given = {"stride": strides, "dilation": gaps, "groups": case.options.get("groups", 1)}
    if isinstance(padding, int):
        return function(x, weights, p.get("bias"), padding=padding, output_padding=case.each("output_padding", 0), **given)
    whole = function(x, weights, **given)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel.shape, gaps, strict=False)]
    along = zip(case.shape[1:-1], spans, strides, whole.shape[2:], case.each("output_padding", -1), strict=True)
    for axis, (size, span, step, full, extra) in enumerate(along, 2):
        # PyTorch's whole output, cut to the size that Keras gives it; positions that no input reaches stay zero.
        if extra >= 0:
            wanted = full + extra - (2 * (span // 2) if padding == "same" else 0)
        else:
            wanted = size * step if padding == "same" else size * step + max(span - step, 0)
        front = max(full - wanted, 0) // 2
        missing = max(wanted + front - full, 0)
        whole = padded(whole, [(0, missing) if a == axis else (0, 0) for a in range(2, case.rank + 2)]).narrow(axis, front, wanted)
    return whole + p["bias"].reshape(-1, *(1,) * case.rank)


def max_reference(x: Any, p: dict[str, Any], case: Case) -> Any:
    taps = case.each("pool_size", 2)
    strides = case.each("strides") if "strides" in case.options else taps
    return torch_function("max_pool{}d", case.rank)(padded(x, pads_of(case, taps, strides), -math.inf), taps, strides)


def average_reference(x: Any, p: dict[str, Any], case: Case) -> Any:
    taps = case.each("pool_size", 2)
    strides = case.each("strides") if "strides" in case.options else taps
    pads, mean = pads_of(case, taps, strides), torch_function("avg_pool{}d", case.rank)
    return mean(padded(x, pads), taps, strides) / mean(padded(x.detach() * 0 + 1, pads), taps, strides)


def global_average_reference(x: Any, p: dict[str, Any], case: Case) -> Any:
    return x.mean(tuple(range(2, x.ndim)), keepdim=case.options.get("keepdims", False))


def global_max_reference(x: Any, p: dict[str, Any], case: Case) -> Any:
    return x.amax(tuple(range(2, x.ndim)), keepdim=case.options.get("keepdims", False))


def zero_reference(x: Any, p: dict[str, Any], case: Case) -> Any:
    return padded(x, pads_of(case, (1,) * case.rank, (1,) * case.rank))


def cropping_reference(x: Any, p: dict[str, Any], case: Case) -> Any:
    return padded(x, [(-front, -back) for front, back in case.options["cropping"]])


def nearest_reference(x: Any, p: dict[str, Any], case: Case) -> Any:
    return torch_function("interpolate", case.rank)(x, scale_factor=tuple(map(float, case.each("size", 2))), mode="nearest")


def response_reference(x: Any, p: dict[str, Any], case: Case) -> Any:
    given = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0, **case.options}
    # Theirs divides alpha by the size.
    given["alpha"] *= given["size"]
    flat = x if x.ndim > 2 else x[..., None]
    return pytorch().nn.LocalResponseNorm(**given)(flat).reshape(x.shape)


CASES = [
    Case(nn.Conv1D, (2, 8, 4), convolution_reference, {"filters": 6, "kernel_size": 3}, 3 * 4 * 6 + 6),
    Case(nn.Conv1D, (2, 9, 2), convolution_reference, {"filters": 3, "kernel_size": 3, "padding": "causal", "dilation_rate": 2}, 21),
    Case(nn.Conv1D, (2, 9, 2), convolution_reference, {"filters": 3, "kernel_size": 4, "padding": "causal", "strides": 2}, 27),
    Case(nn.Conv1D, (2, 8, 4), convolution_reference, {"filters": 6, "kernel_size": 3, "padding": (0, 2), "groups": 2}, 3 * 2 * 6 + 6),
    Case(nn.Conv2D, (2, 5, 6, 3), convolution_reference, {"filters": 4, "kernel_size": 3, "activation": "relu"}, 112),
    Case(nn.Conv2D, (2, 6, 7, 3), convolution_reference, {"filters": 2, "kernel_size": (2, 4), "padding": "same"}, 2 * 4 * 3 * 2 + 2),
    Case(nn.Conv2D, (2, 7, 8, 3), convolution_reference, {"filters": 2, "kernel_size": 3, "padding": "same", "strides": (2, 3)}, 56),
    Case(nn.Conv2D, (2, 7, 8, 4), convolution_reference, {"filters": 6, "kernel_size": 2, "padding": ((1, 0), (0, 2)), "groups": 2}, 54),
    Case(nn.Conv2D, (2, 7, 8, 2), convolution_reference, {"filters": 2, "kernel_size": 3, "dilation_rate": (2, 1), "use_bias": False}, 36),
    Case(nn.Conv3D, (2, 4, 5, 4, 2), convolution_reference, {"filters": 3, "kernel_size": (1, 2, 3), "strides": (1, 2, 1)}, 39),
    Case(nn.Conv3D, (1, 3, 4, 5, 2), convolution_reference, {"filters": 2, "kernel_size": 2, "padding": "same"}, 34),
    Case(nn.Conv1DTranspose, (2, 5, 4), transposed_reference, {"filters": 3, "kernel_size": 3, "strides": 2}, 39),
    Case(nn.Conv1DTranspose, (2, 5, 2), transposed_reference, {"filters": 3, "kernel_size": 2, "strides": 3, "padding": "same"}, 15),
    Case(nn.Conv2DTranspose, (2, 3, 4, 3), transposed_reference, {"filters": 2, "kernel_size": 3, "strides": 2, "padding": "same"}, 56),
    Case(nn.Conv2DTranspose, (2, 3, 4, 3), transposed_reference, {"filters": 2, "kernel_size": (4, 2), "strides": (2, 3)}, 50),
    Case(
        nn.Conv2DTranspose,
        (2, 3, 4, 4),
        transposed_reference,
        {"filters": 6, "kernel_size": 3, "strides": 2, "padding": 1, "output_padding": 1, "groups": 2},
        3 * 3 * 3 * 4 + 6,
    ),
    Case(
        nn.Conv2DTranspose,
        (2, 3, 4, 2),
        transposed_reference,
        {"filters": 2, "kernel_size": (3, 4), "strides": 2, "padding": "same", "output_padding": (1, 0)},
        50,
    ),
    Case(
        nn.Conv2DTranspose,
        (2, 3, 4, 2),
        transposed_reference,
        {"filters": 2, "kernel_size": 3, "strides": 2, "output_padding": (0, 1), "dilation_rate": (2, 1)},
        38,
    ),
    Case(nn.Conv3DTranspose, (2, 2, 3, 2, 3), transposed_reference, {"filters": 2, "kernel_size": (1, 2, 3), "strides": (1, 2, 2)}, 38),
    Case(nn.DepthwiseConv1D, (2, 8, 3), depthwise_reference, {"kernel_size": 3, "depth_multiplier": 2}, 3 * 3 * 2 + 6),
    Case(nn.DepthwiseConv1D, (2, 8, 3), depthwise_reference, {"kernel_size": 2, "padding": "causal", "dilation_rate": 3}, 9),
    Case(nn.DepthwiseConv2D, (2, 6, 7, 3), depthwise_reference, {"kernel_size": (3, 2), "depth_multiplier": 2, "padding": "same"}, 42),
    Case(nn.DepthwiseConv2D, (2, 6, 7, 2), depthwise_reference, {"kernel_size": 3, "strides": 2, "padding": 1, "use_bias": False}, 18),
    Case(nn.SeparableConv1D, (2, 8, 3), separable_reference, {"filters": 4, "kernel_size": 3, "strides": 2, "padding": "same"}, 3 * 3 + 3 * 4 + 4),
    Case(nn.SeparableConv2D, (2, 6, 7, 3), separable_reference, {"filters": 4, "kernel_size": 3, "depth_multiplier": 2}, 9 * 6 + 6 * 4 + 4),
    Case(nn.SeparableConv2D, (2, 6, 7, 3), separable_reference, {"filters": 4, "kernel_size": 2, "dilation_rate": 2, "padding": "same"}, 28),
    Case(nn.MaxPooling1D, (2, 7, 3), max_reference),
    Case(nn.MaxPooling1D, (2, 7, 3), max_reference, {"pool_size": 3, "strides": 2, "padding": "same"}),
    Case(nn.MaxPooling2D, (2, 5, 6, 3), max_reference, {"pool_size": (2, 3), "strides": 1}),
    Case(nn.MaxPooling2D, (2, 5, 6, 3), max_reference, {"pool_size": 3, "strides": 2, "padding": ((1, 1), (0, 2))}),
    Case(nn.MaxPooling3D, (2, 4, 5, 3, 2), max_reference, {"pool_size": 2, "strides": (1, 2, 1), "padding": "same"}),
    Case(nn.AveragePooling1D, (2, 7, 3), average_reference),
    Case(nn.AveragePooling1D, (2, 7, 3), average_reference, {"pool_size": 4, "strides": 3, "padding": "same"}),
    Case(nn.AveragePooling2D, (2, 5, 6, 3), average_reference, {"pool_size": (2, 3), "strides": 1, "padding": "same"}),
    Case(nn.AveragePooling2D, (2, 5, 6, 3), average_reference, {"pool_size": 3, "strides": 2, "padding": 1}),
    Case(nn.AveragePooling3D, (2, 4, 5, 3, 2), average_reference, {"pool_size": 2, "strides": (1, 2, 1), "padding": "same"}),
    *(
        Case(getattr(nn, f"Global{kind}Pooling{rank}D"), (*(2, 3, 4, 2)[: rank + 1], 3), reference, {"keepdims": True} if keep else {})
        for kind, reference in (("Average", global_average_reference), ("Max", global_max_reference))
        for rank in (1, 2, 3)
        for keep in (False, True)
    ),
    Case(nn.ZeroPadding1D, (2, 4, 3), zero_reference, {"padding": ((1, 2),)}),
    Case(nn.ZeroPadding2D, (2, 4, 3, 2), zero_reference, {"padding": 1}),
    Case(nn.ZeroPadding2D, (2, 4, 3, 2), zero_reference, {"padding": ((1, 0), (2, 3))}),
    Case(nn.ZeroPadding3D, (2, 4, 3, 2, 2), zero_reference, {"padding": (1, 0, 2)}),
    Case(nn.Cropping1D, (2, 5, 3), cropping_reference, {"cropping": ((1, 2),)}),
    Case(nn.Cropping2D, (2, 5, 4, 3), cropping_reference, {"cropping": ((1, 0), (0, 2))}),
    Case(nn.Cropping3D, (2, 5, 4, 3, 2), cropping_reference, {"cropping": ((1, 0), (0, 2), (1, 1))}),
    Case(nn.UpSampling1D, (2, 3, 2), nearest_reference),
    Case(nn.UpSampling2D, (2, 3, 2, 3), nearest_reference, {"size": (2, 3)}),
    Case(nn.UpSampling3D, (2, 3, 2, 2, 2), nearest_reference, {"size": (1, 2, 3)}),
    Case(nn.LocalResponseNormalization, (2, 3, 4, 7), response_reference),
    Case(nn.LocalResponseNormalization, (2, 3, 6), response_reference, {"size": 4, "alpha": 0.5, "beta": 1.5, "k": 1.0}),
    Case(nn.LocalResponseNormalization, (2, 3), response_reference, {"size": 7, "alpha": 2.0}),
    Case(nn.Flatten, (2, 3, 4, 5), lambda x, p, case: x.movedim(1, -1).flatten(1)),
    Case(nn.Reshape, (2, 3, 4, 5), lambda x, p, case: x.movedim(1, -1).reshape(2, 6, 10), {"target_shape": (6, -1)}),
    Case(nn.Permute, (2, 3, 4, 5), lambda x, p, case: x.movedim(1, -1).permute(0, 3, 1, 2), {"dims": (3, 1, 2)}),
]
by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
with_formats = pytest.mark.parametrize("case", [case for case in CASES if case.has_formats], ids=lambda case: case.name)
with_kernels = pytest.mark.parametrize("case", [case for case in CASES if case.parameters], ids=lambda case: case.name)

REARRANGED = (nn.Flatten, nn.Reshape, nn.Permute)


def first(x: np.ndarray) -> np.ndarray:
    """Channels moved first."""
    return np.moveaxis(x, -1, 1)


def last(case: Case, y: np.ndarray) -> np.ndarray:
    """An output whose channels, if it still has any of its own, are moved last."""
    return y if case.layer in REARRANGED else np.moveaxis(y, 1, -1)


def weights_like(y: Any) -> np.ndarray:
    return np.random.default_rng(2).normal(size=tuple(y.shape))


def run(layer: nn.Layer, x: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The output, and the gradients of its weighted sum with respect to the input and every parameter."""
    given = cr.tensor(x, requires_grad=True)
    y = layer(given)
    loss = (y * (weights_like(y) if weights is None else weights)).sum()
    found = cr.autograd.grad(loss, [given, *layer.parameters()])
    names = ["gradient of the input", *(f"gradient of {name}" for name, _ in layer.named_parameters())]
    return {"output": y.detach().numpy()} | {name: gradient.numpy() for name, gradient in zip(names, found, strict=True)}


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float = 1e-11) -> None:
    assert got.keys() == expected.keys()
    for name, value in got.items():
        np.testing.assert_allclose(value, expected[name], rtol=tolerance, atol=tolerance, err_msg=name)


def test_every_layer_of_these_files_is_in_the_table() -> None:
    modules = (convolution, transposed, separable, pooling, resizing, reshaping, local_response)
    public = {thing for thing in vars(nn).values() if getattr(thing, "__module__", None) in {module.__name__ for module in modules}}
    assert public == {case.layer for case in CASES}
    assert public <= set(nn.CLASSES.values())


@by_case
def test_values_and_gradients_are_pytorchs(case: Case) -> None:
    torch, layer = pytorch(), case.make()
    x = case.batch()
    got = run(layer, x)
    parameters = {name: torch.tensor(p.detach().numpy(), requires_grad=True) for name, p in layer.named_parameters()}
    given = torch.tensor(first(x).copy(), requires_grad=True)
    y = case.reference(given, parameters, case)
    laid_out = y if case.layer in REARRANGED else y.movedim(1, -1)
    (laid_out * torch.tensor(weights_like(laid_out))).sum().backward()
    expected = {"output": laid_out.detach().numpy(), "gradient of the input": np.moveaxis(given.grad.numpy(), 1, -1)}
    assert_same(got, expected | {f"gradient of {name}": p.grad.numpy() for name, p in parameters.items()})


@by_case
def test_derivatives_are_those_of_finite_differences(case: Case) -> None:
    layer, x = case.make(), case.batch()[:1]
    names = [name for name, _ in layer.initialize(x.shape).named_parameters()]

    def output(x: cr.Tensor, *parameters: cr.Tensor) -> cr.Tensor:
        for name, parameter in zip(names, parameters, strict=True):
            setattr(layer, name, parameter)
        return layer(x)

    assert cr.gradcheck(output, (cr.tensor(x, requires_grad=True), *layer.parameters()))


@with_formats
def test_channels_first_is_the_same_layer(case: Case) -> None:
    x = case.batch()
    expected = run(case.make(), x)
    weights = weights_like(expected["output"])
    got = run(case.make(data_format="channels_first"), first(x), weights if case.layer is nn.Flatten else first(weights))
    got["output"] = last(case, got["output"])
    got["gradient of the input"] = np.moveaxis(got["gradient of the input"], 1, -1)
    assert_same(got, expected)


@by_case
def test_compiled_forward_and_backward_are_the_eager_ones(case: Case) -> None:
    layer, x = case.make(), case.batch()
    expected = run(layer, x)
    weights = weights_like(expected["output"])

    @cr.compile
    def step(x: cr.Tensor) -> tuple[cr.Tensor, ...]:
        y = layer(x)
        return y, *cr.autograd.grad((y * weights).sum(), [x, *layer.parameters()])

    for _ in range(2):
        values = step(cr.tensor(x, requires_grad=True))
        assert_same(dict(zip(expected, (value.detach().numpy() for value in values), strict=True)), expected, 1e-12)


@by_case
def test_a_layer_goes_through_json_and_computes_the_same(case: Case) -> None:
    layer, x = case.make(), case.batch()
    y = layer(x).detach().numpy()
    data = nn.serialize(layer)
    twin = nn.deserialize(json.loads(json.dumps(data)))
    twin.initialize(case.shape)
    twin.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(twin(x).detach().numpy(), y)
    assert nn.serialize(twin) == data
    assert repr(twin) == repr(layer)


@by_case
def test_parameters_are_as_many_as_the_formula_says(case: Case) -> None:
    assert sum(p.size for p in case.make().initialize(case.shape).parameters()) == case.parameters


@by_case
def test_training_and_evaluation_are_the_same(case: Case) -> None:
    layer, x = case.make(), case.batch()
    np.testing.assert_array_equal(layer.train()(x).detach().numpy(), layer.eval()(x).detach().numpy())


@with_kernels
def test_regularizers_price_their_parameters_alone(case: Case) -> None:
    names = [name for name, _ in case.make().initialize(case.shape).named_parameters()]
    for name in names:
        argument = {"kernel": "depthwise" if case.layer in (nn.DepthwiseConv1D, nn.DepthwiseConv2D) else "kernel"}.get(name, name)
        layer = case.make(**{f"{argument.removesuffix('_kernel')}_regularizer": nn.regularizers.L2(0.5)}).initialize(case.shape)
        price = 0.5 * np.square(dict(layer.named_parameters())[name].detach().numpy()).sum()
        assert float(layer.penalty()) == pytest.approx(price, rel=1e-12)
        assert price > 0


# What the layers promise beyond the table


@pytest.mark.parametrize("layer", [nn.Conv1D(3, 3, padding="causal", dilation_rate=2), nn.DepthwiseConv1D(4, padding="causal")])
def test_a_causal_output_depends_on_no_later_input(layer: nn.Layer) -> None:
    x = np.random.default_rng(0).normal(size=(1, 10, 2)).astype(np.float32)
    later = x.copy()
    later[:, 6:] += 1
    before, after = layer(x).detach().numpy(), layer(later).detach().numpy()
    assert before.shape == (1, 10, before.shape[-1])
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert (before[:, 6] != after[:, 6]).all()


def test_transposed_convolution_is_the_transpose_of_the_convolution() -> None:
    rng = np.random.default_rng(0)
    there, back = nn.Conv2D(5, 3, strides=2, use_bias=False, dtype="float64"), nn.Conv2DTranspose(2, 3, strides=2, use_bias=False, dtype="float64")
    x, y = rng.normal(size=(1, 7, 9, 2)), rng.normal(size=(1, 3, 4, 5))
    there.initialize(x.shape)
    back.initialize(y.shape).load_state_dict(there.state_dict())
    assert (there(x) * y).sum().item() == pytest.approx((back(y) * x).sum().item(), rel=1e-12)


def test_a_separable_convolution_is_a_depthwise_one_and_a_pointwise_one() -> None:
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3))
    both = nn.SeparableConv2D(4, 3, depth_multiplier=2, activation="relu", dtype="float64")
    y = both(x).detach().numpy()
    parts = nn.Sequential(
        [nn.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False, dtype="float64"), nn.Conv2D(4, 1, activation="relu", dtype="float64")]
    )
    parts.initialize(x.shape)
    state = both.state_dict()
    parts.load_state_dict(
        {"layers.0.kernel": state["depthwise_kernel"], "layers.1.kernel": state["pointwise_kernel"], "layers.1.bias": state["bias"]}
    )
    np.testing.assert_allclose(parts(x).detach().numpy(), y, rtol=1e-12)


def test_a_depthwise_kernel_is_drawn_for_what_an_output_sees() -> None:
    cr.manual_seed(0)
    layer = nn.DepthwiseConv2D(8, depthwise_initializer="he_normal", dtype="float64").initialize((1, 8, 8, 100))
    assert layer.kernel.detach().numpy().std() == pytest.approx(math.sqrt(2 / 64), rel=0.05)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_same_gives_kerass_sizes(rank: int, strides: int, kernel: int) -> None:
    x = np.zeros((1, *(5, 6, 7)[:rank], 1), np.float32)
    down, up = [-(-size // strides) for size in x.shape[1:-1]], [size * strides for size in x.shape[1:-1]]
    pool = {"pool_size": kernel, "strides": strides, "padding": "same"}
    assert [*getattr(nn, f"Conv{rank}D")(1, kernel, strides, "same")(x).shape[1:-1]] == down
    assert [*getattr(nn, f"MaxPooling{rank}D")(**pool)(x).shape[1:-1]] == down
    assert [*getattr(nn, f"AveragePooling{rank}D")(**pool)(x).shape[1:-1]] == down
    assert [*getattr(nn, f"Conv{rank}DTranspose")(1, kernel, strides, "same")(x).shape[1:-1]] == up


def test_padding_does_not_count_in_the_mean() -> None:
    for padding in ("same", 1):
        np.testing.assert_array_equal(nn.AveragePooling2D(2, 1, padding)(np.ones((1, 3, 3, 1))).numpy(), 1)


def test_flatten_gives_the_same_from_both_formats() -> None:
    x = np.arange(24.0).reshape(1, 2, 3, 4)
    np.testing.assert_array_equal(nn.Flatten(data_format="channels_first")(first(x)).numpy(), x.reshape(1, 24))
    assert nn.Flatten(data_format="channels_first")(np.zeros((3, 4))).shape == (3, 4)
    assert nn.Flatten()(np.zeros(3)).shape == (3, 1)


def test_reshape_takes_a_batch_without_examples() -> None:
    assert nn.Reshape((2, -1))(np.zeros((0, 6))).shape == (0, 2, 3)
    assert nn.Reshape(())(np.zeros((4, 1))).shape == (4,)


def test_an_argument_is_refused_where_it_is_given() -> None:
    refused: list[tuple[Callable[[], Any], str]] = [
        (lambda: nn.Conv1D(0, 3), "Conv1D: filters=0"),
        (lambda: nn.Conv3D(2, (3, 3)), r"Conv3D: kernel_size=\(3, 3\)"),
        (lambda: nn.Conv2D(2, 3, padding="causal"), "Conv2D: padding='causal'"),
        (lambda: nn.Conv2D(2, 3, padding="smae"), "choose 'valid' or 'same'"),
        (lambda: nn.Conv2D(2, 3, padding=(1, 2, 3)), r"Conv2D: padding=\(1, 2, 3\)"),
        (lambda: nn.Conv1DTranspose(2, 3, padding="causal"), "Conv1DTranspose: padding='causal'"),
        (lambda: nn.Conv2DTranspose(2, 3, strides=2, output_padding=2), "output_padding=2 with strides"),
        (lambda: nn.Conv2DTranspose(3, 3, groups=2), "filters=3, groups=2"),
        (lambda: nn.DepthwiseConv2D(3, depth_multiplier=0), "DepthwiseConv2D: depth_multiplier=0"),
        (lambda: nn.MaxPooling1D(0), "MaxPooling1D: pool_size=0"),
        (lambda: nn.AveragePooling2D(2, padding=-1), "AveragePooling2D: padding=-1"),
        (lambda: nn.GlobalMaxPooling2D(data_format="NCHW"), "no data_format 'NCHW'"),
        (lambda: nn.ZeroPadding1D((1, 2, 3)), r"ZeroPadding1D: padding=\(1, 2, 3\)"),
        (lambda: nn.Cropping2D(-1), "Cropping2D: cropping=-1"),
        (lambda: nn.UpSampling2D(0), "UpSampling2D: size=0"),
        (lambda: nn.Reshape((-1, -1)), r"Reshape: target_shape=\(-1, -1\)"),
        (lambda: nn.Permute((0, 1)), r"Permute: dims=\(0, 1\)"),
        (lambda: nn.LocalResponseNormalization(0), "LocalResponseNormalization: size=0"),
        (lambda: nn.LocalResponseNormalization(k=-1.0), "k=-1.0"),
    ]
    for make, text in refused:
        with pytest.raises(ArgumentError, match=text) as error:
            make()
        assert error.value.mend


@by_case
def test_an_input_of_another_rank_is_refused_with_path_wish_and_fact(case: Case) -> None:
    kind = case.layer.__name__
    wrong = {"Flatten": (), "Reshape": (), "LocalResponseNormalization": (3,)}.get(kind, (2, 3))
    x = np.zeros(wrong, np.float32)
    with pytest.raises(LayerError) as refused:
        nn.Sequential([case.make()], name="outer")(x)
    assert f"{kind} takes (" in str(refused.value)
    assert f"but got {nn.InputSpec.got(x)}\n" in str(refused.value)
    assert f"in layer: Sequential 'outer'.layers.0 ({kind})" in str(refused.value)


@with_kernels
def test_other_channels_than_the_first_ones_are_refused(case: Case) -> None:
    layer = case.make().initialize(case.shape)
    with pytest.raises(LayerError, match=rf"{case.layer.__name__} takes \(batch, .*channels={case.shape[-1]}\), but got float64\("):
        layer(np.zeros((*case.shape[:-1], case.shape[-1] + 1)))


def test_inputs_that_do_not_fit_are_refused_in_words() -> None:
    refused: list[tuple[nn.Layer, tuple[int, ...], str]] = [
        (nn.Conv1D(4, 3, groups=2), (1, 8, 3), "Conv1D: 3 channels do not fall into 2 groups"),
        (nn.Conv2DTranspose(4, 3, groups=2), (1, 8, 8, 3), "Conv2DTranspose: 3 channels do not fall into 2 groups"),
        (nn.Cropping2D((2, 1)), (1, 4, 8, 1), r"Cropping2D takes more than 4 positions along axis 1, but got float32\(1, 4, 8, 1\)"),
        (nn.Reshape((4, 2)), (3, 9), r"Reshape to \(4, 2\) takes 8 elements per example, but got float32\(3, 9\) with 9"),
        (nn.Reshape((4, -1)), (3, 9), "takes a multiple of 4 elements per example"),
        (nn.Permute((2, 1)), (3, 9), r"Permute takes \(batch, axis 1, axis 2\), but got float32\(3, 9\)"),
    ]
    for layer, shape, text in refused:
        with pytest.raises(ChainruleError, match=text) as error:
            nn.Sequential([layer])(np.zeros(shape, np.float32))
        assert f"in layer: Sequential.layers.0 ({type(layer).__name__})" in str(error.value)
