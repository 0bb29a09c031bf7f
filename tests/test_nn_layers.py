"""Normalization, embedding, attention, activations, residual and lambda layers, beside PyTorch's; and initializers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ArgumentError, ChainruleError, LayerError
from chainrule.nn import initializers
from chainrule.nn.activations import ACTIVATIONS

WIDE: dict[str, Any] = {"dtype": "float64"}


@pytest.fixture(autouse=True)
def seeded() -> None:
    cr.manual_seed(0)


def data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@dataclass(frozen=True)
class Case:
    """A layer, the shape of its input, the same in PyTorch's words, and an input that it refuses with the words for it."""

    make: Callable[[], nn.Layer]
    shape: tuple[int, ...]
    torch: Callable[..., Any]
    """Of PyTorch, the layer's state by name, and the inputs."""
    wrong: Any = None
    says: str = ""
    below: int | None = None
    """The input's integers are below this; normal numbers if not given."""
    inputs: int = 1
    options: Callable[[], dict[str, Any]] = dict

    def x(self, seed: int = 0) -> tuple[np.ndarray, ...]:
        if self.below is not None:
            return (np.random.default_rng(seed).integers(0, self.below, self.shape),)
        return tuple(data(*self.shape, seed=seed + i) for i in range(self.inputs))


def norm_last(axes: int) -> Callable[..., Any]:
    return lambda torch, p, x: torch.nn.functional.layer_norm(x, x.shape[-axes:], p.get("gamma"), p.get("beta"), 1e-3)


def norm_batch(torch: Any, p: Any, x: Any, *, channels: int = -1) -> Any:
    y = torch.nn.functional.batch_norm(x.movedim(channels, 1), None, None, p.get("gamma"), p.get("beta"), True, eps=1e-3)
    return y.movedim(1, channels)


def norm_groups(groups: int, channels: int = -1) -> Callable[..., Any]:
    def normalize(torch: Any, p: Any, x: Any) -> Any:
        return torch.nn.functional.group_norm(x.movedim(channels, 1), groups, p["gamma"], p["beta"], 1e-3).movedim(1, channels)

    return normalize


def attend(torch: Any, p: Any, query: Any, value: Any = None, key: Any = None, *, heads: int = 2, **options: Any) -> Any:
    """Attention with PyTorch's own gate; what may not be attended to is False in its mask."""
    value = query if value is None else value
    key = value if key is None else key

    def project(name: str, x: Any) -> Any:
        return x @ p[f"{name}.kernel"] + p.get(f"{name}.bias", 0.0)

    def split(x: Any) -> Any:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    q, k, v = (split(project(name, x)) for name, x in (("query", query), ("key", key), ("value", value)))
    mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, **options)
    return project("output", mixed.transpose(1, 2).flatten(2))


def masked(torch: Any, p: Any, x: Any) -> Any:
    return attend(torch, p, x, attn_mask=torch.from_numpy(MASK)[:, None])


MASK = np.random.default_rng(5).random((2, 5, 5)) < 0.6
MASK[0, 1] = False  # a query that may look at nothing
MASK[:, 0, 0] = True

CASES: dict[str, Case] = {
    "LayerNormalization": Case(lambda: nn.LayerNormalization(**WIDE), (3, 4, 5), norm_last(1), (3, 4, 6), r"\(\.\.\., channels=5\), but got"),
    "LayerNormalization of two axes": Case(
        lambda: nn.LayerNormalization((-1, -2), **WIDE), (3, 4, 5), norm_last(2), (3, 5, 4), r"channels=4, channels=5\), but got"
    ),
    "LayerNormalization of an inner axis": Case(
        lambda: nn.LayerNormalization(1, **WIDE), (3, 4, 5), lambda t, p, x: norm_last(1)(t, p, x.mT).mT, (3, 5, 5), r"\(\*, channels=4, \*\)"
    ),
    "LayerNormalization, plain": Case(lambda: nn.LayerNormalization(center=False, scale=False, **WIDE), (3, 5), norm_last(1)),
    "GroupNormalization": Case(lambda: nn.GroupNormalization(2, **WIDE), (3, 4, 4, 6), norm_groups(2), (3, 4, 4, 4), "channels=6"),
    "GroupNormalization, channels first": Case(
        lambda: nn.GroupNormalization(3, axis=1, **WIDE), (3, 6, 4, 4), norm_groups(3, 1), (3, 3, 4, 4), r"\(\*, channels=6, \*, \*\)"
    ),
    "GroupNormalization of each channel": Case(lambda: nn.GroupNormalization(-1, **WIDE), (2, 5, 3), norm_groups(3)),
    "BatchNormalization": Case(lambda: nn.BatchNormalization(**WIDE), (6, 4), norm_batch, (6, 5), r"\(\.\.\., channels=4\)"),
    "BatchNormalization of images": Case(lambda: nn.BatchNormalization(**WIDE), (3, 4, 4, 2), norm_batch, (3, 4, 2, 4), "channels=2"),
    "BatchNormalization, channels first": Case(
        lambda: nn.BatchNormalization(1, **WIDE), (3, 2, 4, 4), lambda t, p, x: norm_batch(t, p, x, channels=1), (3, 4, 4, 2), "channels=2"
    ),
    "BatchNormalization, plain": Case(lambda: nn.BatchNormalization(center=False, scale=False, **WIDE), (6, 4), norm_batch),
    "RMSNormalization": Case(
        lambda: nn.RMSNormalization(**WIDE), (3, 4, 5), lambda t, p, x: t.nn.functional.rms_norm(x, (5,), p["gamma"], 1e-6), (3, 4, 6), "channels=5"
    ),
    "Embedding": Case(
        lambda: nn.Embedding(7, 3, **WIDE), (2, 5), lambda t, p, x: t.nn.functional.embedding(x, p["embeddings"]), [[0.5]], "integer", 7
    ),
    "PositionEmbedding": Case(
        lambda: nn.PositionEmbedding(6, **WIDE), (2, 5, 3), lambda t, p, x: x + p["embeddings"][:5], (2, 7, 3), "up to 6 steps, but got 7"
    ),
    "MultiHeadAttention": Case(
        lambda: nn.MultiHeadAttention(2, 3, **WIDE), (2, 5, 4), attend, (2, 4), r"takes \(batch, steps, features\), but got float64\(2, 4\)"
    ),
    "MultiHeadAttention, causal": Case(
        lambda: nn.MultiHeadAttention(2, 3, **WIDE),
        (2, 5, 4),
        lambda t, p, x: attend(t, p, x, is_causal=True),
        options=lambda: {"causal": True},
    ),
    "MultiHeadAttention with a mask": Case(lambda: nn.MultiHeadAttention(2, 3, **WIDE), (2, 5, 4), masked, options=lambda: {"attention_mask": MASK}),
    "MultiHeadAttention of a causal mask": Case(
        lambda: nn.MultiHeadAttention(2, 3, **WIDE),
        (2, 5, 4),
        lambda t, p, x: attend(t, p, x, attn_mask=t.from_numpy(MASK & np.tri(5, dtype=bool))[:, None]),
        options=lambda: {"attention_mask": MASK, "causal": True},
    ),
    "MultiHeadAttention of three inputs": Case(
        lambda: nn.MultiHeadAttention(2, 3, 5, use_bias=False, **WIDE), (2, 5, 4), attend, (2, 4), "takes .batch, steps", inputs=3
    ),
    "Residual": Case(
        lambda: nn.Residual([nn.Dense(5, **WIDE), "tanh"]),
        (3, 5),
        lambda t, p, x: x + t.tanh(x @ p["layer.layers.0.kernel"] + p["layer.layers.0.bias"]),
        (3, 4),
        "features=5",
    ),
    "Residual with a shortcut": Case(
        lambda: nn.Residual(nn.Dense(2, **WIDE), nn.Dense(2, use_bias=False, **WIDE)),
        (3, 5),
        lambda t, p, x: x @ p["shortcut.kernel"] + x @ p["layer.kernel"] + p["layer.bias"],
    ),
    "Lambda": Case(lambda: nn.Lambda(cr.exp), (3, 4), lambda t, p, x: t.exp(x)),
    "LeakyReLU": Case(lambda: nn.LeakyReLU(0.2), (3, 4), lambda t, p, x: t.nn.functional.leaky_relu(x, 0.2)),
    "ELU": Case(lambda: nn.ELU(0.7), (3, 4), lambda t, p, x: t.nn.functional.elu(x, 0.7)),
    "Softmax": Case(lambda: nn.Softmax(1), (3, 4, 2), lambda t, p, x: t.softmax(x, 1)),
    **{
        f"Activation {name}": Case(lambda name=name: nn.Activation(name), (3, 4), lambda t, p, x, name=name: activation(t, name)(x))
        for name in sorted(ACTIVATIONS)
    },
}


def activation(torch: Any, name: str) -> Callable[[Any], Any]:
    functional = torch.nn.functional
    elsewhere = {
        "linear": lambda x: x,
        "softmax": lambda x: functional.softmax(x, -1),
        "log_softmax": lambda x: functional.log_softmax(x, -1),
        "log_sigmoid": functional.logsigmoid,
        # hardsigmoid's own derivative is 1 / 6 in single precision.
        "hard_sigmoid": lambda x: torch.clamp(x / 6 + 0.5, 0, 1),
        "hard_tanh": functional.hardtanh,
        "swish": functional.silu,
    }
    return elsewhere.get(name) or getattr(functional, name)


every_case = pytest.mark.parametrize("name", CASES)


def made(case: Case) -> nn.Layer:
    """The case's layer with parameters that are not the simple ones it begins with."""
    layer = case.make()
    layer(*case.x(), **case.options())
    for i, (_, parameter) in enumerate(layer.named_parameters()):
        with cr.no_grad():
            parameter.assign(parameter + data(*parameter.shape, seed=100 + i) * 0.5)
    return layer


def results(layer: nn.Layer, case: Case, x: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    """The output and all gradients of its product with a cotangent."""
    inputs = [cr.tensor(part, requires_grad=case.below is None) for part in x]
    out = layer(*inputs, **case.options())
    cr.sum(out * data(*out.shape, seed=9)).backward()
    found = {"out": out, **{f"x{i}": part.grad for i, part in enumerate(inputs)}}
    found |= {name: parameter.grad for name, parameter in layer.named_parameters()}
    return {name: value.detach().numpy() for name, value in found.items() if value is not None}


@every_case
def test_values_and_gradients_are_those_of_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch", reason="compared with PyTorch: pip install torch==2.13.0")
    case = CASES[name]
    layer, x = made(case), case.x(1)
    inputs = [torch.from_numpy(part).requires_grad_(case.below is None) for part in x]
    leaves = {key: torch.from_numpy(np.array(p.detach().numpy())).requires_grad_() for key, p in layer.named_parameters()}
    expected = case.torch(torch, leaves, *inputs)
    (expected * torch.from_numpy(data(*expected.shape, seed=9))).sum().backward()
    wanted = {"out": expected, **{f"x{i}": part.grad for i, part in enumerate(inputs)}, **{key: leaf.grad for key, leaf in leaves.items()}}
    found = results(layer, case, x)
    assert set(found) == {key for key, value in wanted.items() if value is not None}
    for key, value in found.items():
        np.testing.assert_allclose(value, wanted[key].detach().numpy(), rtol=1e-9, atol=1e-10, err_msg=key)


@every_case
def test_gradients_are_those_of_differences(name: str) -> None:
    case = CASES[name]
    layer = made(case).eval()
    parameters = [parameter for _, parameter in layer.named_parameters()]
    x = [cr.tensor(part, requires_grad=case.below is None) for part in case.x(2)]
    weights = data(*layer(*x, **case.options()).shape, seed=3)

    def loss(*values: cr.Tensor) -> cr.Tensor:
        inputs = values if case.below is None else x
        return cr.sum(layer(*inputs, **case.options()) * weights)

    # gradcheck moves the leaves that it is given; parameters are among what the function captures.
    if case.below is None:
        assert cr.gradcheck(loss, tuple(x))
    for parameter in parameters:
        parameter.grad = None
    loss(*x).backward()
    for parameter in parameters:
        step, direction = 1e-6, data(*parameter.shape, seed=4)
        with cr.no_grad():
            start = parameter.detach()
            ends = []
            for sign in (1, -1):
                parameter.assign(start + sign * step * direction)
                ends.append(loss(*x).item())
            parameter.assign(start)
        along = float(np.sum(parameter.grad.numpy() * direction))
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(along, rel=1e-5, abs=1e-7)


@every_case
@pytest.mark.parametrize("training", [True, False])
def test_a_compiled_step_is_the_eager_one(name: str, training: bool) -> None:
    case = CASES[name]
    eager, compiled = made(case).train(training), made(case).train(training)
    compiled.load_state_dict(eager.state_dict())
    step = cr.compile(lambda *x: results_of_step(compiled, case, x))
    for seed in range(3):
        x = case.x(10 + seed)
        wanted, found = results_of_step(eager, case, x), step(*x)
        for one, other in zip(wanted, found, strict=True):
            np.testing.assert_allclose(other.detach().numpy(), one.detach().numpy(), rtol=1e-12, atol=1e-13)
    for key, value in eager.state_dict().items():
        np.testing.assert_allclose(compiled.state_dict()[key].numpy(), value.numpy(), rtol=1e-12, atol=1e-14, err_msg=key)


def results_of_step(layer: nn.Layer, case: Case, x: Any) -> list[cr.Tensor]:
    parameters = [parameter for _, parameter in layer.named_parameters()]
    for parameter in parameters:
        parameter.grad = None
    out = layer(*x, **case.options())
    if parameters:
        cr.sum(out * out).backward()
    return [out, *(parameter.grad for parameter in parameters)]


@every_case
def test_a_layer_made_anew_from_its_data_computes_the_same(name: str) -> None:
    case = CASES[name]
    layer = made(case).eval()
    written = json.dumps(nn.serialize(layer))
    again = nn.deserialize(json.loads(written), {"exp": cr.exp}).eval()
    assert json.dumps(nn.serialize(again)) == written
    again(*case.x(), **case.options())
    again.load_state_dict(layer.state_dict())
    assert repr(again) == repr(layer)
    np.testing.assert_array_equal(results(again, case, case.x(3))["out"], results(layer, case, case.x(3))["out"])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.says])
def test_a_wrong_input_is_refused_with_path_wish_and_fact(name: str) -> None:
    case = CASES[name]
    model = nn.Sequential([made(case)])
    with pytest.raises(LayerError, match=case.says) as refused:
        model(data(*case.wrong) if isinstance(case.wrong, tuple) else case.wrong)
    assert "in layer: Sequential.layers.0" in str(refused.value)


# Activations


def test_every_activation_is_found_by_name_and_as_a_function() -> None:
    keras = {"elu", "hard_sigmoid", "linear", "relu", "selu", "sigmoid", "softmax", "softplus", "softsign", "tanh"}
    assert keras | {"gelu", "silu", "leaky_relu", "log_softmax", "mish"} <= set(ACTIVATIONS)
    for name, function in ACTIVATIONS.items():
        assert nn.get(name) is function
        assert getattr(nn.activations, name) is function


# Initializers


@pytest.mark.parametrize(
    ("initializer", "mean", "deviation", "bound"),
    [
        (initializers.RandomNormal(1.0, 0.5), 1.0, 0.5, math.inf),
        (initializers.RandomUniform(-1.0, 3.0), 1.0, 4 / math.sqrt(12), 2.0),
        # The variance of a standard normal distribution cut at two deviations.
        (initializers.TruncatedNormal(1.0, 0.5), 1.0, 0.5 * math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2))), 1.0),
        ("random_normal", 0.0, 0.05, math.inf),
        ("random_uniform", 0.0, 0.1 / math.sqrt(12), 0.05),
        ("truncated_normal", 0.0, 0.05 * 0.8796, 0.1),
    ],
)
def test_draws_have_the_moments_of_their_distribution(initializer: Any, mean: float, deviation: float, bound: float) -> None:
    values = initializers.fetch(initializer)((400, 500)).numpy()
    assert values.dtype == np.float32
    assert values.mean() == pytest.approx(mean, abs=4 * deviation / math.sqrt(values.size))
    assert values.std() == pytest.approx(deviation, rel=0.01)
    assert np.abs(values - mean).max() <= bound * (1 + 1e-6)


@pytest.mark.parametrize("shape", [(7, 7), (9, 4), (4, 9), (3, 3, 2, 5), (2, 2, 30)])
def test_orthogonal_matrices_are_orthogonal(shape: tuple[int, ...]) -> None:
    value = initializers.Orthogonal(2.0)(shape, "float64").numpy()
    matrix = value.reshape(-1, shape[-1]) / 2
    small = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    np.testing.assert_allclose(small, np.eye(min(matrix.shape)), atol=1e-12)


def test_no_orthogonal_matrix_is_likelier_than_another() -> None:
    corners = np.array([initializers.Orthogonal()((2, 2), "float64").numpy() for _ in range(400)])
    assert corners[:, 0, 0].mean() == pytest.approx(0, abs=0.15)
    assert np.mean(np.linalg.det(corners) > 0) == pytest.approx(0.5, abs=0.1)


def test_the_identity_is_cut_to_the_shape() -> None:
    assert initializers.Identity(2.0)((2, 3)).tolist() == [[2, 0, 0], [0, 2, 0]]


@pytest.mark.parametrize(("initializer", "shape"), [("identity", (3,)), ("identity", (3, 3, 3)), ("orthogonal", (3,))])
def test_what_needs_a_matrix_says_so(initializer: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match="no matrix of shape"):
        initializers.fetch(initializer)(shape)


@pytest.mark.parametrize("initializer", [initializers.Orthogonal(0.3), initializers.RandomNormal(0.0, 0.02), "identity", "truncated_normal"])
def test_initializers_are_plain_data(initializer: Any) -> None:
    layer = nn.Dense(3, kernel_initializer=initializer)
    again = nn.deserialize(json.loads(json.dumps(nn.serialize(layer))))
    assert again.kernel_initializer == layer.kernel_initializer
    assert isinstance(again.initialize((1, 3)).kernel, cr.Tensor)


@pytest.mark.parametrize("shape", [(3, 8), (8, 3)])
def test_parameters_lie_row_by_row_as_compiled_steps_read_them(shape: tuple[int, int]) -> None:
    layer = nn.Dense(shape[1], kernel_initializer="orthogonal").initialize((1, shape[0]))
    assert layer.kernel.detach().numpy().flags.c_contiguous
    layer.load_state_dict({"kernel": np.ones(shape[::-1], "float32").T, "bias": layer.bias})
    assert layer.kernel.detach().numpy().flags.c_contiguous


# Batch normalization


def test_evaluation_takes_the_running_averages() -> None:
    layer = nn.BatchNormalization(momentum=0.75, epsilon=0.1, **WIDE)
    mean, variance = np.zeros(3), np.ones(3)
    for seed in range(4):
        x = data(5, 3, seed=seed) * 2 + 1
        layer(x)
        mean, variance = mean * 0.75 + x.mean(0) * 0.25, variance * 0.75 + x.var(0) * 0.25
    np.testing.assert_allclose(layer.moving_mean.numpy(), mean, rtol=1e-12)
    np.testing.assert_allclose(layer.moving_variance.numpy(), variance, rtol=1e-12)
    before = layer.state_dict()
    x = data(2, 3)
    np.testing.assert_allclose(layer.eval()(x).detach().numpy(), (x - mean) / np.sqrt(variance + 0.1), rtol=1e-12)
    assert all((value.numpy() == before[name].numpy()).all() for name, value in layer.state_dict().items())


def test_running_averages_are_state_but_not_trained() -> None:
    layer = nn.BatchNormalization().initialize((2, 3))
    assert [name for name, _ in layer.named_parameters()] == ["gamma", "beta"]
    assert [name for name, _ in layer.named_buffers()] == ["moving_mean", "moving_variance"]
    assert list(layer.state_dict()) == ["gamma", "beta", "moving_mean", "moving_variance"]
    layer(data(4, 3))
    assert layer.moving_mean.is_leaf
    assert not layer.moving_mean.requires_grad


def test_a_compiled_training_step_updates_the_running_averages_as_an_eager_one() -> None:
    def trained(compiled: bool) -> dict[str, np.ndarray]:
        cr.manual_seed(3)
        model = nn.Sequential([nn.Conv2D(4, 3), nn.BatchNormalization(), nn.ReLU(), nn.Flatten(), nn.Dense(2)])
        optimizer = cr.optim.SGD(model.parameters(), lr=0.05)

        def step(x: Any, labels: Any) -> Any:
            optimizer.zero_grad()
            loss = nn.losses.softmax_cross_entropy(model(x), labels)
            loss.backward()
            optimizer.step()
            return loss

        run = cr.compile(step) if compiled else step
        for seed in range(4):
            run(data(6, 5, 5, 1, seed=seed).astype(np.float32), np.arange(6) % 2)
        return {name: value.numpy() for name, value in model.state_dict().items()}

    eager, compiled = trained(False), trained(True)
    for name, value in eager.items():
        np.testing.assert_allclose(compiled[name], value, rtol=2e-5, atol=1e-6, err_msg=name)


def test_an_empty_batch_has_no_mean() -> None:
    layer = nn.BatchNormalization()
    layer(data(2, 3))
    with pytest.raises(ChainruleError, match="no elements along axes"):
        layer(np.zeros((0, 3), np.float32))


# Embedding


@pytest.mark.parametrize("wrong", [5, -1])
def test_a_number_without_a_vector_is_refused_by_the_layers_path(wrong: int) -> None:
    model = nn.Sequential([nn.Embedding(5, 2)])
    with pytest.raises(LayerError, match=f"takes integers from 0 to 4, but got {wrong}") as refused:
        model([[0, wrong]])
    assert "in layer: Sequential.layers.0 (Embedding)" in str(refused.value)


def test_a_compiled_embedding_refuses_it_too() -> None:
    model = nn.Sequential([nn.Embedding(5, 2)])
    run = cr.compile(model)
    run(np.array([0, 4]))
    with pytest.raises(ChainruleError, match="index 5 is out of range"):
        run(np.array([0, 5]))


# Attention


def test_who_may_look_at_nothing_gets_nothing() -> None:
    layer = nn.MultiHeadAttention(2, 3, **WIDE)
    x = data(2, 5, 4)
    y = layer(x, attention_mask=MASK).detach().numpy()
    np.testing.assert_array_equal(y[0, 1], layer.output.bias.detach().numpy())
    assert np.isfinite(y).all()


def test_masks_broadcast_and_have_no_axis_too_few() -> None:
    layer, x = nn.MultiHeadAttention(2, 3, **WIDE), data(2, 5, 4)
    full = np.broadcast_to(MASK[:, None], (2, 2, 5, 5))
    expected = layer(x, attention_mask=full).detach().numpy()
    np.testing.assert_array_equal(layer(x, attention_mask=MASK).detach().numpy(), expected)
    same_for_all = layer(x, attention_mask=np.broadcast_to(MASK[1], (2, 1, 5, 5))).detach().numpy()
    np.testing.assert_array_equal(layer(x, attention_mask=MASK[1]).detach().numpy(), same_for_all)
    columns = np.array([True, True, True, False, False])
    np.testing.assert_allclose(layer(x, attention_mask=columns[None]).detach().numpy(), layer(x, x[:, :3]).detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (np.ones((5, 5)), r"booleans with 2 to 4 axes, but got float64\(5, 5\)"),
        (np.ones(5, bool), r"but got bool\(5\)"),
        (np.ones((3, 5, 5), bool), r"does not broadcast to \(batch, heads, queries, keys\) = \(2, 2, 5, 5\)"),
    ],
)
def test_a_wrong_mask_is_refused(mask: np.ndarray, says: str) -> None:
    with pytest.raises(LayerError, match=says):
        nn.MultiHeadAttention(2, 3)(data(2, 5, 4), attention_mask=mask)


def test_weights_are_dropped_in_training_only() -> None:
    layer, x = nn.MultiHeadAttention(2, 3, dropout=0.5), data(2, 5, 4)
    assert not np.array_equal(layer(x).detach().numpy(), layer(x).detach().numpy())
    layer.eval()
    np.testing.assert_array_equal(layer(x).detach().numpy(), layer(x).detach().numpy())


def test_a_mask_may_be_an_argument_of_a_compiled_function() -> None:
    layer, x = nn.MultiHeadAttention(2, 3, **WIDE), data(2, 5, 4)
    run = cr.compile(lambda x, mask: layer(x, attention_mask=mask))
    for mask in (MASK, ~MASK):
        np.testing.assert_allclose(run(x, mask).detach().numpy(), layer(x, attention_mask=mask).detach().numpy(), rtol=1e-12, atol=1e-14)


# Residual and Lambda


def test_two_ways_must_end_in_one_shape() -> None:
    with pytest.raises(LayerError, match=r"gives \(3, 1\), and the way around it \(3, 4\)"):
        nn.Residual(nn.Dense(1))(data(3, 4))


def test_a_function_comes_back_only_from_whoever_knows_it() -> None:
    data_of_it = nn.serialize(nn.Lambda(lambda x: x * 2, name="twice"))
    with pytest.raises(LayerError, match="no function '<lambda>'"):
        nn.deserialize(data_of_it)
    assert nn.deserialize(data_of_it, {"<lambda>": lambda x: x * 3})([1.0]).tolist() == [3]


# Wrong arguments


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: nn.BatchNormalization(momentum=1.5),
        lambda: nn.LayerNormalization(epsilon=-1.0),
        lambda: nn.GroupNormalization(0),
        lambda: nn.GroupNormalization(4)(data(2, 6)),
        lambda: nn.LayerNormalization(3)(data(2, 6)),
        lambda: nn.Embedding(0, 3),
        lambda: nn.PositionEmbedding(2.5),
        lambda: nn.MultiHeadAttention(2, 0),
        lambda: nn.MultiHeadAttention(2, 4, dropout=1.0),
        lambda: nn.Lambda("relu"),
    ],
)
def test_wrong_arguments_are_refused(wrong: Callable[[], Any]) -> None:
    with pytest.raises(ChainruleError, match="mend:"):
        wrong()
