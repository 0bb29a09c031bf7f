"""Layers: when parameters are made, what state is, and how a wrong input is told."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ArgumentError, ChainruleError, LayerError
from chainrule.nn.initializers import VarianceScaling, fans_of, fetch


@pytest.fixture(autouse=True)
def seeded() -> None:
    cr.manual_seed(0)


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


class Block(nn.Layer):
    """A layer of one's own, with parameters and sublayers wherever they may be."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = cr.tensor([2.0], requires_grad=True)
        self.constant = cr.tensor([3.0])
        self.parts = [nn.Dense(4), nn.Dense(4)]
        self.named = {"last": nn.Dense(2)}
        self.shifts = [cr.tensor([0.5], requires_grad=True)]
        self.add_buffer("count", 0)

    def call(self, x: cr.Tensor) -> cr.Tensor:
        for part in self.parts:
            x = part(x)
        self.count.assign(self.count + 1)
        return self.named["last"](x) * self.scale + self.shifts[0]


# Building


def test_parameters_are_made_from_the_first_input() -> None:
    layer = nn.Dense(3)
    assert not layer.built
    assert layer(images(5, 2)).shape == (5, 3)
    assert layer.built
    assert {name: p.shape for name, p in layer.named_parameters()} == {"kernel": (2, 3), "bias": (3,)}
    assert all(p.requires_grad and p.is_leaf for p in layer.parameters())


def test_until_then_asking_for_them_says_so() -> None:
    model = nn.Sequential([nn.Dense(3), nn.Dense(2)])
    with pytest.raises(LayerError, match=r"Sequential\.layers\.0 \(Dense\) has no parameters yet"):
        list(model.parameters())
    with pytest.raises(LayerError, match="call the model once"):
        model.state_dict()


def test_initialize_makes_them_without_data_and_leaves_the_mode_as_it_was() -> None:
    model = nn.Sequential([nn.Dense(3), nn.Dropout(0.5), nn.Dense(2)])
    model.layers[1].eval()
    assert len(list(model.initialize((1, 4)).parameters())) == 4
    assert model.training
    assert not model.layers[1].training


def test_a_layer_is_built_once_even_inside_a_transform() -> None:
    layer = nn.Dense(1)
    gradient = cr.grad(lambda x: layer(x).sum())(cr.tensor([[1.0, 2.0]]))
    np.testing.assert_allclose(gradient.detach().numpy(), layer.kernel.detach().numpy().T)
    assert layer.kernel.is_leaf


def test_the_first_parameters_follow_from_the_seed() -> None:
    def made(seed: int) -> np.ndarray:
        cr.manual_seed(seed)
        return nn.Dense(3).initialize((1, 4)).kernel.detach().numpy()

    np.testing.assert_array_equal(made(1), made(1))
    assert not np.array_equal(made(1), made(2))


def test_float64_layers_compute_in_float64() -> None:
    layer = nn.Dense(3, dtype="float64")
    assert layer(images(5, 2).astype(np.float64)).dtype == np.float64


# Parameters, buffers and sublayers


def test_parameters_stand_in_attributes_lists_and_dicts() -> None:
    block = Block()
    block(images(3, 5))
    assert [name for name, _ in block.named_parameters()] == [
        "scale",
        "shifts.0",
        "parts.0.kernel",
        "parts.0.bias",
        "parts.1.kernel",
        "parts.1.bias",
        "named.last.kernel",
        "named.last.bias",
    ]
    assert [name for name, _ in block.named_buffers()] == ["count"]
    assert block.count.item() == 1


def test_a_subclass_may_forget_its_base() -> None:
    class Forgetful(nn.Layer):
        def __init__(self) -> None:
            self.w = cr.tensor([1.0], requires_grad=True)

        def call(self, x: cr.Tensor) -> cr.Tensor:
            return x * self.w

    layer = Forgetful()
    assert layer([2.0]).item() == 2
    assert [name for name, _ in layer.named_parameters()] == ["w"]


def test_shared_parameters_and_layers_are_listed_once_and_get_both_gradients() -> None:
    shared = nn.Dense(2, use_bias=False)
    model = nn.Sequential([shared, shared])
    x = images(1, 2)
    model(x).sum().backward()
    assert [name for name, _ in model.named_parameters()] == ["layers.0.kernel"]
    w = shared.kernel.detach().numpy()
    np.testing.assert_allclose(shared.kernel.grad.numpy(), x.T @ (np.ones((1, 2)) @ w.T) + (x @ w).T @ np.ones((1, 2)), rtol=1e-5)

    a, b = nn.Dense(2, use_bias=False).initialize((1, 2)), nn.Dense(2, use_bias=False).initialize((1, 2))
    b.kernel = a.kernel
    assert len(nn.Sequential([a, b]).parameters()) == 1


def test_frozen_parameters_stay_parameters_but_get_no_gradient() -> None:
    block = Block()
    block(images(1, 3))
    before = [name for name, _ in block.named_parameters()]
    block.parts[0].requires_grad_(False)
    block.requires_grad_(False)
    block.named["last"].requires_grad_()
    block(images(1, 3)).sum().backward()
    assert [name for name, _ in block.named_parameters()] == before
    assert {name for name, p in block.named_parameters() if p.grad is not None} == {"named.last.kernel", "named.last.bias"}


def test_train_and_eval_reach_every_layer() -> None:
    model = nn.Sequential([nn.Sequential([nn.Dropout(0.5)])])
    assert not model.eval().layers[0].layers[0].training
    assert model.train().layers[0].layers[0].training


# State


def test_a_state_goes_into_another_model_and_gives_the_same_outputs() -> None:
    first, second = Block(), Block()
    x = images(3, 5)
    first(x)
    second(x)
    assert not np.array_equal(first(x).detach().numpy(), second(x).detach().numpy())
    second.load_state_dict(first.state_dict())
    np.testing.assert_array_equal(first(x).detach().numpy(), second(x).detach().numpy())
    assert second.count.item() == first.count.item()


def test_a_state_is_a_snapshot() -> None:
    layer = nn.Dense(1, kernel_initializer="ones").initialize((1, 1))
    state = layer.state_dict()
    with cr.no_grad():
        layer.kernel += 1
    assert state["kernel"].item() == 1
    assert not state["kernel"].requires_grad


def test_a_state_that_does_not_fit_is_refused_with_every_difference() -> None:
    model = nn.Sequential([nn.Dense(3), nn.Dense(2)]).initialize((1, 4))
    before = model.state_dict()
    state = {name: value for name, value in before.items() if name != "layers.1.bias"} | {"layers.0.kernel": np.zeros((5, 3)), "extra": np.zeros(7)}
    with pytest.raises(LayerError) as refused:
        model.load_state_dict(state)
    for line in ("missing: layers.1.bias (2,)", "unexpected: extra (7,)", "other shape: layers.0.kernel is (4, 3) here, (5, 3) in the state"):
        assert line in str(refused.value)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name].numpy())


def test_a_part_of_a_state_can_be_taken() -> None:
    layer = nn.Dense(2).initialize((1, 3))
    differences = layer.load_state_dict({"bias": [1.0, 2.0], "other": [0.0]}, strict=False)
    assert differences == (("kernel",), ("other",))
    assert layer.bias.tolist() == [1, 2]


def test_loading_keeps_parameters_what_they_are() -> None:
    layer = nn.Dense(2).initialize((1, 3))
    kernel = layer.kernel
    layer.load_state_dict({"kernel": np.ones((3, 2)), "bias": np.zeros(2)})
    assert layer.kernel is kernel
    assert kernel.requires_grad
    assert kernel.dtype == np.float32


def test_copies_do_not_share_parameters() -> None:
    layer = nn.Dense(2).initialize((1, 3))
    twin = copy.deepcopy(layer)
    with cr.no_grad():
        twin.kernel += 1
    assert not np.array_equal(twin.kernel.detach().numpy(), layer.kernel.detach().numpy())
    assert [name for name, _ in twin.named_parameters()] == ["kernel", "bias"]


# Wrong inputs


def test_a_wrong_input_is_refused_with_path_wish_and_fact() -> None:
    model = nn.Sequential([nn.Dense(3), nn.Sequential([nn.Dense(4), nn.Dense(2, name="scores")])])
    model(images(1, 5))
    with pytest.raises(LayerError) as refused:
        model.layers[1](images(7, 2))
    text = str(refused.value)
    assert "Dense takes (..., features=3), but got float32(7, 2)" in text
    assert "in layer: Sequential.layers.0 (Dense)" in text

    model.layers[1].layers[1](images(1, 4))
    with pytest.raises(LayerError) as refused:
        nn.Sequential([model.layers[1].layers[1]], name="outer")(images(1, 9))
    assert "Dense 'scores' takes (..., features=4)" in str(refused.value)
    assert "in layer: Sequential 'outer'.layers.0 (Dense 'scores')" in str(refused.value)


def test_an_image_layer_says_which_axes_it_wants() -> None:
    layer = nn.Conv2D(4, 3)
    with pytest.raises(LayerError, match=r"Conv2D takes \(batch, height, width, channels\), but got float32\(8, 8\)"):
        layer(images(8, 8))
    layer(images(1, 8, 8, 3))
    with pytest.raises(LayerError, match=r"\(batch, height, width, channels=3\), but got float32\(1, 8, 8, 1\)"):
        layer(images(1, 8, 8, 1))


def test_errors_of_gates_get_the_path_too() -> None:
    model = nn.Sequential([nn.Sequential([nn.Conv2D(4, 5)])])
    with pytest.raises(ChainruleError, match="does not fit") as refused:
        model(images(1, 3, 3, 1))
    assert "in layer: Sequential.layers.0.layers.0 (Conv2D)" in str(refused.value)


def test_a_refused_first_input_leaves_a_layer_as_it_was() -> None:
    layer = nn.Conv2D(4, 3)
    with pytest.raises(LayerError):
        layer(images(8, 8))
    assert layer(images(1, 8, 8, 2)).shape == (1, 6, 6, 4)


# The layers


def test_dense_is_an_affine_map_along_the_last_axis() -> None:
    layer, x = nn.Dense(3), images(2, 4, 5)
    y = layer(x)
    np.testing.assert_allclose(y.detach().numpy(), x @ layer.kernel.detach().numpy() + layer.bias.detach().numpy(), rtol=1e-5)
    assert nn.Dense(3, use_bias=False).initialize((1, 2)).bias is None


@pytest.mark.parametrize("options", [{}, {"padding": "same"}, {"strides": 2, "padding": 1}, {"dilation_rate": 2}, {"groups": 2}])
def test_channels_first_is_the_same_convolution(options: dict[str, object]) -> None:
    x = images(2, 7, 8, 4)
    last, first = nn.Conv2D(6, 3, **options), nn.Conv2D(6, 3, data_format="channels_first", **options)
    y = last(x)
    first.initialize((1, 4, 7, 8)).load_state_dict(last.state_dict())
    np.testing.assert_allclose(first(x.transpose(0, 3, 1, 2)).detach().numpy().transpose(0, 2, 3, 1), y.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_max_pooling_takes_the_largest_of_each_window() -> None:
    x = images(2, 4, 6, 3)
    expected = x.reshape(2, 2, 2, 3, 2, 3).max((2, 4))
    np.testing.assert_array_equal(nn.MaxPooling2D()(x).numpy(), expected)
    first = nn.MaxPooling2D(data_format="channels_first")(x.transpose(0, 3, 1, 2)).numpy()
    np.testing.assert_array_equal(first.transpose(0, 2, 3, 1), expected)
    assert nn.MaxPooling2D(3, strides=2, padding="same")(x).shape == (2, 2, 3, 3)


def test_dropout_keeps_the_mean_in_training_and_everything_in_evaluation() -> None:
    layer, x = nn.Dropout(0.25), np.ones((200, 200), np.float32)
    y = layer(x).numpy()
    assert set(np.unique(y)) == {0, np.float32(1 / 0.75)}
    assert y.mean() == pytest.approx(1, abs=0.02)
    assert not np.array_equal(layer(x).numpy(), y)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(layer.eval()(x).numpy(), x)


def test_sequential_takes_layers_functions_and_names() -> None:
    model = nn.Sequential([nn.Flatten(), nn.Dense(3), "relu", cr.exp])
    assert (model(images(4, 2, 2)).detach().numpy() >= 1).all()
    with pytest.raises(ArgumentError, match="the class Dense, not a layer"):
        nn.Sequential([nn.Dense])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: nn.Dense(0),
        lambda: nn.Conv2D(4, 0),
        lambda: nn.Conv2D(4, (3, 3, 3)),
        lambda: nn.Conv2D(4, 3, groups=3),
        lambda: nn.Conv2D(4, 3, data_format="NCHW"),
        lambda: nn.Dropout(1.0),
        lambda: nn.Dense(3, kernel_initializer="glorot_unifrom"),
        lambda: nn.losses.fetch("crossentropy"),
    ],
)
def test_wrong_arguments_are_refused_at_once(wrong: object) -> None:
    with pytest.raises(ArgumentError, match="mend:"):
        wrong()


def test_activations_are_found_by_name() -> None:
    assert nn.get("relu") is cr.relu
    assert nn.get(None)(3) == 3
    with pytest.raises(LayerError, match="did you mean 'relu'"):
        nn.get("rleu")


# Initializers


@pytest.mark.parametrize(
    ("name", "variance"),
    [
        ("glorot_uniform", 2 / (300 + 200)),
        ("glorot_normal", 2 / (300 + 200)),
        ("he_uniform", 2 / 300),
        ("he_normal", 2 / 300),
        ("lecun_normal", 1 / 300),
    ],
)
def test_initializers_have_the_variance_of_their_papers(name: str, variance: float) -> None:
    values = fetch(name)((300, 200)).numpy()
    assert values.dtype == np.float32
    assert values.mean() == pytest.approx(0, abs=4 * np.sqrt(variance / values.size))
    assert values.var() == pytest.approx(variance, rel=0.03)


def test_fans_count_the_window() -> None:
    assert fans_of((3, 3, 16, 32)) == (144, 288)
    layer = nn.Conv2D(8, 3, groups=4, kernel_initializer=VarianceScaling(1.0, "fan_out")).initialize((1, 8, 8, 4))
    assert abs(layer.kernel.detach().numpy()).max() <= np.sqrt(3 / 18)


# Plain data


def test_a_model_becomes_json_and_back() -> None:
    model = nn.Sequential(
        [
            nn.Conv2D(4, 3, padding=((1, 1), (0, 2)), activation="relu", kernel_initializer="he_normal"),
            nn.MaxPooling2D(2),
            nn.Activation("tanh"),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Dense(3, bias_initializer=nn.initializers.Constant(0.1), dtype="float64"),
        ],
        name="net",
    )
    data = json.loads(json.dumps(nn.serialize(model)))
    again = nn.deserialize(data)
    assert nn.serialize(again) == data
    assert repr(again) == repr(model)
    x = images(2, 8, 8, 1)
    model.eval()(x)
    again.eval()(x)
    again.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(again(x).detach().numpy(), model(x).detach().numpy())


def test_unknown_names_are_refused_and_ones_own_are_passed() -> None:
    class Twice(nn.Layer):
        def call(self, x: cr.Tensor) -> cr.Tensor:
            return x * 2

    data = nn.serialize(nn.Sequential([Twice()]))
    with pytest.raises(LayerError, match="no layer class 'Twice'"):
        nn.deserialize(data)
    assert nn.deserialize(data, {"Twice": Twice})([3.0]).tolist() == [6]
    with pytest.raises(LayerError, match="did you mean 'Dense'"):
        nn.deserialize({"class": "Dens", "config": {}})
    with pytest.raises(LayerError, match="cannot be made"):
        nn.deserialize({"class": "Dense", "config": {"unit": 3}})
    with pytest.raises(LayerError, match="needs 'class'"):
        nn.deserialize({"code": "import os"})


# A network learns


def test_a_hidden_layer_learns_exclusive_or() -> None:
    cr.manual_seed(1)
    x, labels = cr.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), cr.tensor([0, 1, 1, 0])
    model = nn.Sequential([nn.Dense(8, activation="tanh"), nn.Dense(2)])
    optimizer = cr.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss = nn.losses.softmax_cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    assert model(x).argmax(axis=-1).tolist() == labels.tolist()


def test_a_layer_that_defines_no_call_says_so() -> None:
    with pytest.raises(LayerError, match="Empty does not define what it computes"):
        type("Empty", (nn.Layer,), {})()(cr.ones(2))


# Sharing, freezing, the summary


def test_a_layer_in_two_places_has_one_kernel_and_stays_one_layer_through_serialization() -> None:
    dense = nn.Dense(4)
    model = nn.Sequential([dense, nn.Sequential([dense, "relu"]), nn.Dense(2)])
    model(images(3, 4))
    assert [name for name in model.state_dict() if name.endswith("kernel")] == ["layers.0.kernel", "layers.2.kernel"]
    again = nn.deserialize(json.loads(json.dumps(nn.serialize(model))))
    assert again.layers[0] is again.layers[1].layers[0]
    assert again.layers[0] is not again.layers[2]
    again.initialize((3, 4)).load_state_dict(model.state_dict())
    assert np.array_equal(again(images(3, 4)), model(images(3, 4)))


def test_the_gradient_of_a_shared_kernel_is_the_sum_over_its_places() -> None:
    dense = nn.Dense(3, use_bias=False)
    x = images(2, 3)
    cr.sum(nn.Sequential([dense, dense])(x)).backward()
    kernel = np.asarray(dense.kernel)
    ones = np.ones((2, 3), np.float32)
    assert np.allclose(dense.kernel.grad, x.T @ (ones @ kernel.T) + (x @ kernel).T @ ones, rtol=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_frozen_parameters_stay_as_they_are(compiled: bool) -> None:
    model = nn.Sequential([nn.Dense(4), nn.Dense(2)])
    model(images(3, 4))
    optimizer = cr.optim.Adam(model.parameters(), lr=0.1)

    def step(x: cr.Tensor) -> cr.Tensor:
        optimizer.zero_grad()
        loss = cr.sum(model(x) ** 2)
        loss.backward()
        optimizer.step()
        return loss

    run = cr.compile(step) if compiled else step
    run(cr.tensor(images(3, 4)))
    model.layers[0].requires_grad_(False)
    before = {name: np.array(value) for name, value in model.state_dict().items()}
    run(cr.tensor(images(3, 4)))
    moved = {name for name, value in model.state_dict().items() if not np.array_equal(value, before[name])}
    assert moved == {"layers.1.kernel", "layers.1.bias"}
    model.layers[0].requires_grad_(True)
    run(cr.tensor(images(3, 4)))
    assert not np.array_equal(model.state_dict()["layers.0.kernel"], before["layers.0.kernel"])


@pytest.mark.parametrize(
    "data",
    [
        [],
        {"shared": 0},
        {"class": "Sequential", "config": {"layers": [{"shared": 3}]}},
        {"class": "Dense", "config": {"units": 2}, "shared": []},
        {"class": "Dense", "config": {"units": 2, "activation": {"function": "eval"}}},
        {"class": "Dense", "config": {"units": 2, "kernel_initializer": {"class": "Dropout", "config": {"rate": 0.1}}}},
        {"class": "Dense", "config": {"units": 2, "kernel_regularizer": {"class": "L2", "config": {"l2": -1.0}}}},
        {"class": "Dense", "config": {"units": 2, "dtype": "object"}},
        {"class": "os.system", "config": {"command": "true"}},
    ],
)
def test_data_that_describes_no_layer_is_refused_in_words(data: object) -> None:
    with pytest.raises(ChainruleError) as caught:
        nn.deserialize(data)  # type: ignore[arg-type]
    assert caught.value.mend


def test_the_summary_counts_parameters_and_operations_by_formula() -> None:
    model = nn.Sequential([nn.Conv2D(8, 3, activation="relu"), nn.MaxPooling2D(2), nn.Flatten(), nn.Dropout(0.5), nn.Dense(10)])
    summary = model.summary((2, 8, 8, 3))
    conv, pooling, _, dropout, dense = summary.rows[1:]
    assert (conv.parameters, conv.output, conv.parameter_bytes) == (3 * 3 * 3 * 8 + 8, "float32(2, 6, 6, 8)", 4 * 224)
    assert conv.flops == 2 * (2 * 6 * 6 * 8) * (3 * 3 * 3) + 2 * (2 * 6 * 6 * 8)
    assert (dense.parameters, dense.flops) == (72 * 10 + 10, 2 * 2 * 72 * 10 + 2 * 10)
    assert (pooling.output, pooling.output_bytes, dropout.flops) == ("float32(2, 3, 3, 8)", 4 * 144, 0)
    assert summary.parameters == sum(x.size for x in model.parameters()) == summary.trainable
    assert all(layer.training for layer in model.layers_inside())


def test_the_summary_tells_what_is_frozen_shared_or_not_called() -> None:
    class Forked(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Dense(4), nn.Dropout(0.5)

        def call(self, x: cr.Tensor) -> cr.Tensor:
            return self.used(self.used(x))

    model = Forked()
    with pytest.raises(LayerError, match="was not called yet"):
        model.summary()
    model(images(3, 4))
    model.used.requires_grad_(False)
    summary = model.summary()
    assert (summary.parameters, summary.trainable, summary.rows[1].calls) == (20, 0, 2)
    text = str(summary)
    assert "Dense x2" in text
    assert "20 frozen" in text
    assert "not called" in text


def test_the_summary_sees_layers_inside_a_scan() -> None:
    class Repeated(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.Dense(4)

        def call(self, x: cr.Tensor) -> cr.Tensor:
            return cr.scan(lambda state, _: (self.cell(state), None), x, cr.zeros((5,)))[0]

    summary = Repeated().summary((3, 4))
    assert summary.flops == 5 * (2 * 3 * 4 * 4 + 3 * 4)
    assert summary.rows[1].output == "float32(3, 4)"


# Penalties


def test_the_penalty_is_the_sum_over_all_layers_and_flows_into_gradients() -> None:
    model = nn.Sequential([nn.Dense(3, kernel_regularizer="l2"), nn.Sequential([nn.Dense(2, kernel_regularizer="l1", bias_regularizer="l1_l2")])])
    assert nn.Dense(3).penalty() == 0.0
    model(images(2, 4))
    first, second = model.layers[0].kernel, model.layers[1].layers[0].kernel
    penalty = model.penalty()
    assert penalty.item() == pytest.approx(0.01 * float(np.square(first).sum()) + 0.01 * float(np.abs(second).sum()), rel=1e-5)
    penalty.backward()
    assert np.allclose(first.grad, 0.02 * np.asarray(first))
    assert np.allclose(second.grad, 0.01 * np.sign(second))


@pytest.mark.parametrize("wrong", ["l3", -1.0])
def test_a_wrong_regularizer_is_refused(wrong: str | float) -> None:
    with pytest.raises(ArgumentError, match=r"l3|l2=-1"):
        nn.Dense(2, kernel_regularizer=wrong if isinstance(wrong, str) else nn.regularizers.L2(wrong))
