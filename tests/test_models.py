"""Named networks: each learns, is saved and made again; the classic ones have the sizes that their papers give them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chainrule as cr
from chainrule import models, nn
from chainrule.core import tree
from chainrule.core.errors import ArgumentError

Make = Callable[[], Any]
RANDOM = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def tokens(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 7, shape)


CASES: dict[str, tuple[Make, tuple[np.ndarray, ...]]] = {
    "alexnet": (lambda: models.alexnet(3, small=True), (numbers(2, 8, 8, 1),)),
    "autoencoder": (lambda: models.autoencoder(2, hidden=(5,)), (numbers(3, 4, 4, 1),)),
    "lenet": (lambda: models.lenet(3), (numbers(2, 28, 28, 1),)),
    "linear_regression": (lambda: models.linear_regression(2), (numbers(3, 4),)),
    "logistic_regression": (models.logistic_regression, (numbers(3, 4),)),
    "lstm_language_model": (lambda: models.lstm_language_model(7, embedding=4, units=5), (tokens(2, 6),)),
    "mlp": (lambda: models.mlp(3, hidden=(6, 5), activation="tanh", dropout=0.5), (numbers(3, 2, 2, 1),)),
    "neural_turing_machine": (lambda: models.neural_turing_machine(3, 2, units=5, memory=(6, 4)), (numbers(2, 5, 3),)),
    "resnet": (lambda: models.resnet(3, small=True, width=2), (numbers(2, 8, 8, 3),)),
    "softmax_classifier": (lambda: models.softmax_classifier(3), (numbers(3, 2, 2, 1),)),
    "svm": (lambda: models.svm(3, l2=0.1), (numbers(3, 2, 2, 1),)),
    "transformer": (lambda: models.transformer(7, width=8, heads=2, layers=1, context=6), (tokens(2, 6),)),
    "wgan_gp": (lambda: models.wgan_gp(hidden=(5, 4)), (numbers(3, 2),)),
}
"""Of every network one that is small, and inputs for it."""

every_model = pytest.mark.parametrize("name", models.__all__)


def case(name: str) -> tuple[Make, tuple[np.ndarray, ...]]:
    assert name in CASES, f"enter small settings and inputs of {name!r} in CASES"
    return CASES[name]


def made(name: str, seed: int = 0) -> tuple[Any, tuple[cr.Tensor, ...]]:
    """The network with its parameters, and its inputs."""
    make, given_inputs = case(name)
    cr.manual_seed(seed)
    model, inputs = make(), tuple(map(cr.asarray, given_inputs))
    model(*inputs)
    return model, inputs


def values(outputs: Any) -> list[np.ndarray]:
    return [leaf.detach().numpy() for leaf in tree.leaves(outputs)]


def total(outputs: Any) -> cr.Tensor:
    return sum((cr.mean(cr.square(leaf + 1)) for leaf in tree.leaves(outputs)), cr.asarray(0.0))


def assert_same(found: list[np.ndarray], expected: list[np.ndarray], tolerance: float = 0.0) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


# Every network


@every_model
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model, inputs = made(name)
    total(model(*inputs)).backward()
    gradients = {path: parameter.grad for path, parameter in model.named_parameters()}
    assert gradients
    for path, gradient in gradients.items():
        assert gradient is not None, path
        assert np.isfinite(gradient.numpy()).all(), path
    assert any(gradient.numpy().any() for gradient in gradients.values())


@every_model
def test_a_state_makes_another_network_of_the_kind_the_same(name: str) -> None:
    (model, inputs), (other, _) = made(name), made(name, seed=1)
    with cr.no_grad():
        for parameter in model.parameters():
            parameter.assign(parameter + 0.1)
    model.eval(), other.eval()
    expected = values(model(*inputs))
    assert any((a != b).any() for a, b in zip(values(other(*inputs)), expected, strict=True))
    other.load_state_dict(model.state_dict())
    assert_same(values(other(*inputs)), expected)


@every_model
def test_a_network_is_made_again_from_plain_data(name: str) -> None:
    model, inputs = made(name)
    again = nn.deserialize(json.loads(json.dumps(nn.serialize(model))))
    again(*inputs)
    again.load_state_dict(model.state_dict())
    assert_same(values(again.eval()(*inputs)), values(model.eval()(*inputs)))


@every_model
def test_a_compiled_step_equals_an_eager_one(name: str) -> None:
    model, inputs = made(name)
    state = model.state_dict()

    def step(*inputs: cr.Tensor) -> list[cr.Tensor]:
        for parameter in model.parameters():
            parameter.grad = None
        loss = total(model(*inputs))
        loss.backward()
        return [loss, *(parameter.grad for parameter in model.parameters())]

    results = []
    for function in (step, cr.compile(step)):
        model.load_state_dict(state)
        cr.manual_seed(1)
        results.append([*values(function(*inputs)), *(buffer.numpy() for _, buffer in model.named_buffers())])
    assert_same(results[1], results[0], 2e-5)


# Sizes


COUNTS = {
    "softmax_classifier": (models.softmax_classifier, (28, 28, 1), 7_850),
    "mlp": (models.mlp, (28, 28, 1), 235_146),
    "lenet": (models.lenet, (28, 28, 1), 61_706),
    "autoencoder": (models.autoencoder, (8, 8, 1), 20_816),
    "alexnet, small": (lambda: models.alexnet(10, small=True), (32, 32, 3), 9_246_922),
    "resnet-18": (models.resnet, (64, 64, 3), 11_689_512),
    "resnet-34": (lambda: models.resnet(depth=34), (64, 64, 3), 21_797_672),
    "resnet-18, small": (lambda: models.resnet(10, small=True), (32, 32, 3), 11_173_962),
}


@pytest.mark.parametrize(("make", "image", "count"), COUNTS.values(), ids=COUNTS)
def test_as_many_parameters_as_documented(make: Make, image: tuple[int, ...], count: int) -> None:
    assert sum(parameter.size for parameter in make().initialize((1, *image)).parameters()) == count


def shapes(model: nn.Sequential, *image: int) -> list[tuple[int, ...]]:
    """Of the outputs of layers that change their input's shape."""
    x, found = cr.zeros((1, *image)), [image]
    model.eval()
    with cr.no_grad():
        for layer in model.layers:
            x = layer(x)
            if x.shape[1:] != found[-1]:
                found.append(x.shape[1:])
    return found[1:]


def test_alexnet_has_the_shapes_and_the_size_of_its_paper() -> None:
    model = models.alexnet()
    convolutions = [(55, 55, 96), (27, 27, 96), (27, 27, 256), (13, 13, 256), (13, 13, 384), (13, 13, 256), (6, 6, 256)]
    assert shapes(model, 224, 224, 3) == [*convolutions, (9216,), (4096,), (1000,)]
    assert sum(parameter.size for parameter in model.parameters()) == 60_965_224


def test_lenet_has_the_shapes_of_its_paper() -> None:
    images = [(28, 28, 6), (14, 14, 6), (10, 10, 16), (5, 5, 16)]
    assert shapes(models.lenet(), 28, 28, 1) == [*images, (400,), (120,), (84,), (10,)]


def test_resnet_has_the_shapes_of_its_paper() -> None:
    stem, stages = [(112, 112, 4), (56, 56, 4)], [(28, 28, 8), (14, 14, 16), (7, 7, 32)]
    assert shapes(models.resnet(width=4), 224, 224, 3) == [*stem, *stages, (32,), (1000,)]
    assert shapes(models.resnet(10, small=True, width=4), 32, 32, 3) == [(32, 32, 4), (16, 16, 8), (8, 8, 16), (4, 4, 32), (32,), (10,)]


def test_a_residual_network_of_an_unknown_depth_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"resnet: depth=50[\s\S]*choose 18 or 34"):
        models.resnet(depth=50)


def test_residual_blocks_begin_as_the_identity() -> None:
    model = models.resnet(3, small=True, width=2)
    x = cr.asarray(numbers(2, 8, 8, 2))
    np.testing.assert_array_equal(model.layers[3](x).detach().numpy(), x.numpy())


# What they are for


def test_svm_pays_for_its_weights_and_not_for_its_biases() -> None:
    model = models.svm(2, l2=0.5).initialize((1, 2))
    model.load_state_dict({"layers.1.kernel": [[1.0, 0.0], [0.0, 2.0]], "layers.1.bias": [7.0, 8.0]})
    assert model.penalty().item() == 2.5


def test_an_autoencoder_decodes_in_the_reverse_order() -> None:
    model = models.autoencoder(2, hidden=(6, 5)).initialize((1, 4, 4, 1))
    assert [layer.units for half in (model.encoder.layers[1:], model.decoder.layers) for layer in half] == [6, 5, 2, 5, 6, 16]


def test_an_autoencoder_passes_everything_through_its_code() -> None:
    model, (x,) = made("autoencoder")
    code = model.encoder(x)
    assert code.shape == (3, 2)
    np.testing.assert_array_equal(model.decoder(code).detach().numpy().reshape(x.shape), model(x).detach().numpy())


@pytest.mark.parametrize("make", [models.softmax_classifier, models.mlp, lambda: models.mlp(hidden=(64,), dropout=0.2)])
def test_digits_are_learned_in_two_epochs(make: Make) -> None:
    cr.manual_seed(0)
    history = cr.training.fit(make(), cr.data.digits("train"), cr.data.digits("test"), lr=0.01, epochs=2, progress=False)
    assert history.last["validation_accuracy"] > 0.85


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", ["alexnet", "lenet", "resnet"])
def test_image_networks_learn_a_few_images_by_heart(name: str, compiled: bool) -> None:
    model, (images,) = made(name)
    few = (np.concatenate([images.numpy()] * 4), np.array([0, 2] * 4))
    history = cr.training.fit(model, few, few, lr=1e-3, epochs=10, batch_size=4, progress=False, compile=compiled)
    assert history.last["validation_accuracy"] == 1
    assert history.last["loss"] < history.epochs[0]["loss"] * 0.9


# Networks with and without a hidden layer: XOR and the paw


XOR = (np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]], np.float32), np.array([[0.0], [1], [1], [0]], np.float32))
PAW = (np.array([[1.0], [0.0], [0.5]], np.float32), np.array([[1.0], [1], [0]], np.float32))
"""White and black are a paw, gray is not."""

both = pytest.mark.parametrize("data", [XOR, PAW], ids=["XOR", "paw"])


def trained(model: nn.Layer, data: tuple[np.ndarray, np.ndarray], steps: int = 300) -> np.ndarray:
    """What the network says after training: a logit of each input."""
    x, labels = map(cr.tensor, data)
    optimizer = cr.optim.Adam(model.parameters(), lr=0.05)

    @cr.compile
    def step() -> None:
        optimizer.zero_grad()
        cr.mean(cr.softplus((1 - 2 * labels) * model(x))).backward()
        optimizer.step()

    for _ in range(steps):
        step()
    return model(x).detach().numpy()


@given(weights=st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3))
def test_no_linear_model_separates_them(weights: list[float]) -> None:
    """Whatever its weights, it says as much of the one class together as of the other: no sign can divide them."""
    *w, b = weights
    model = models.linear_regression().initialize((1, 2))
    model.load_state_dict({"layers.1.kernel": [[w[0]], [w[1]]], "layers.1.bias": [b]})
    zero_zero, zero_one, one_zero, one_one = model(XOR[0]).detach().numpy().ravel().astype(float)
    np.testing.assert_allclose(zero_zero + one_one, zero_one + one_zero, atol=1e-3)

    model = models.linear_regression().initialize((1, 1))
    model.load_state_dict({"layers.1.kernel": [[w[0]]], "layers.1.bias": [b]})
    white, black, gray = model(PAW[0]).detach().numpy().ravel().astype(float)
    np.testing.assert_allclose((white + black) / 2, gray, atol=1e-3)


@both
def test_logistic_regression_learns_no_more_than_their_mean(data: tuple[np.ndarray, np.ndarray]) -> None:
    logits = trained(models.logistic_regression(), data, steps=1000)
    share = data[1].mean()
    np.testing.assert_allclose(logits, np.log(share / (1 - share)), atol=1e-3)


def test_two_layers_with_weights_set_by_hand_tell_a_paw() -> None:
    network = models.mlp(1, hidden=(2,)).initialize((1, 1))
    network.load_state_dict(
        {"layers.1.kernel": [[-1.0, 1.0]], "layers.1.bias": [0.5, -0.5], "layers.2.kernel": [[2.0], [2.0]], "layers.2.bias": [-0.5]}
    )
    assert network(PAW[0]).flatten().tolist() == [0.5, 0.5, -0.5]


@pytest.mark.parametrize("seed", range(3))
@both
def test_two_layers_learn_them_from_a_random_start(data: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    cr.manual_seed(seed)
    logits = trained(models.mlp(1, hidden=(8,), activation="tanh"), data)
    np.testing.assert_array_equal(logits > 0, data[1] > 0.5)
