"""Layers as objects: damaged descriptions and states, another dtype, copies, threads, containers."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr
from chainrule import nn, optim
from chainrule.core.errors import ArgumentError, ChainruleError, LayerError, TraceError
from chainrule.nn.serial import CLASSES


def network() -> nn.Sequential:
    return nn.Sequential([nn.Dense(4, activation="tanh"), nn.BatchNormalization(), nn.Dense(2)])


def rows(dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).normal(size=(8, 3)).astype(dtype)


# Descriptions.

NAMES = st.sampled_from(["class", "config", "shared", "function", "layers", "units", "relu", "Dense", "Constant", "Sequential", "eval"])
JUNK: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@given(JUNK)
@settings(max_examples=300, deadline=None)
def test_data_that_describes_no_layer_is_refused(data: Any) -> None:
    try:
        made = nn.deserialize(data)
    except ChainruleError:
        return
    assert callable(made)


@pytest.mark.parametrize("name", sorted(CLASSES))
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_arguments_that_make_no_sense_are_refused(name: str, data: st.DataObject) -> None:
    arguments = list(inspect.signature(CLASSES[name]).parameters)
    config = data.draw(st.dictionaries(st.sampled_from([*arguments, "other"]), JUNK, max_size=4))
    try:
        made = nn.deserialize({"class": name, "config": config})
    except ChainruleError:
        return
    assert type(made).__name__ == name


FORMLESS: list[Any] = [
    None,
    3,
    [],
    "no activation",
    {"shared": []},
    {"class": [], "config": {}},
    {"class": "Dense"},
    {"class": "Dense", "config": [1]},
]


@pytest.mark.parametrize("data", FORMLESS, ids=repr)
def test_data_of_another_form_is_refused(data: Any) -> None:
    with pytest.raises(LayerError):
        nn.deserialize(data)


def test_data_nested_too_deeply_is_refused() -> None:
    data: dict[str, Any] = {"class": "Dense", "config": {"units": 2}}
    for _ in range(100_000):
        data = {"class": "Sequential", "config": {"layers": [data]}}
    with pytest.raises(LayerError, match="too deeply"):
        nn.deserialize(data)


def test_activations_are_described_by_their_names() -> None:
    assert nn.serialize(nn.activations.relu) == "relu"
    assert nn.deserialize("relu") is nn.activations.relu
    assert nn.deserialize("half", custom_objects={"half": np.negative}) is np.negative
    with pytest.raises(LayerError, match="no layer or activation"):
        nn.serialize("relu")  # pyright: ignore[reportArgumentType]


def test_numbers_of_numpy_in_a_description_become_those_of_json() -> None:
    layer = nn.Dense(1, kernel_initializer=nn.initializers.Constant(np.float32(0.5)))  # pyright: ignore[reportArgumentType]
    again = nn.deserialize(json.loads(json.dumps(nn.serialize(layer))))
    assert again.initialize((1, 1)).kernel.item() == 0.5


@pytest.mark.parametrize("name", ["ReLU", "reluu", "Swisch"])
def test_a_name_almost_right_is_answered_with_the_right_one(name: str) -> None:
    with pytest.raises(LayerError, match=r"did you mean '(relu|swish)'"):
        nn.get(name)
    with pytest.raises(LayerError, match="no activation"):
        nn.get([])  # pyright: ignore[reportArgumentType]


# What comes in.


def test_a_missing_input_is_refused_by_what_was_wanted() -> None:
    with pytest.raises(LayerError, match=r"Dense takes \(\.\.\., features\), but got nothing[\s\S]*mend: reshape"):
        nn.Dense(2)(None)
    with pytest.raises(LayerError, match="but got a tuple"):
        nn.Dense(2)((np.ones(3), np.ones(3)))
    with pytest.raises(LayerError, match=r"takes \(batch, steps, features\), but got nothing"):
        nn.MultiHeadAttention(2, 3)(None)


@pytest.mark.parametrize("kind", [nn.BatchNormalization, nn.LayerNormalization, nn.RMSNormalization, lambda: nn.GroupNormalization(1)])
def test_a_normalization_wants_the_axis_that_it_is_made_for(kind: Callable[[], nn.Layer]) -> None:
    for x, got in ((None, "nothing"), (1.0, "float32()")):
        with pytest.raises(LayerError, match=r"takes \(\.\.\.\) with at least 1 axes, but got " + re.escape(got)):
            kind()(x)


@pytest.mark.parametrize("layers", [nn.Dense(2), "relu", 3, {"a": nn.Dense(2)}], ids=["layer", "name", "number", "dict"])
def test_sequential_takes_a_list(layers: Any) -> None:
    with pytest.raises(ArgumentError, match="Sequential"):
        nn.Sequential(layers)


def test_a_layer_has_a_name_that_is_text_and_a_dtype_by_default() -> None:
    assert nn.Dense(2, dtype=None).dtype == cr.float32
    with pytest.raises(ArgumentError, match="name=3"):
        nn.Dense(2, name=3)  # pyright: ignore[reportArgumentType]


# States.

DAMAGES: dict[str, tuple[Any, str]] = {
    "nothing": (None, "no values: layers.0.bias"),
    "text": ("1.5", "no values: layers.0.bias"),
    "complex": (np.zeros(4, complex), "no values: layers.0.bias"),
    "uneven": ([[1.0], [1.0, 2.0]], "no values: layers.0.bias"),
    "one number": (0.5, r"other shape: layers.0.bias is \(4,\) here, \(\) in the state"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_state_is_refused_whole_in_words(case: str) -> None:
    model = network().initialize((1, 3))
    before = {name: tensor.tolist() for name, tensor in model.state_dict().items()}
    value, says = DAMAGES[case]
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    with pytest.raises(LayerError, match=says):
        model.load_state_dict({**state, "layers.0.bias": value})
    assert {name: tensor.tolist() for name, tensor in model.state_dict().items()} == before
    with pytest.raises(LayerError, match="unexpected: more"):
        model.load_state_dict({**state, "more": value})


@pytest.mark.parametrize("state", [None, [1], "state"], ids=repr)
def test_what_is_no_mapping_is_no_state(state: Any) -> None:
    with pytest.raises(LayerError, match="is no state of Dense"):
        nn.Dense(2).initialize((1, 2)).load_state_dict(state)


# Another dtype.


@pytest.mark.parametrize("when", ["before", "after"])
def test_astype_converts_what_there_is_and_what_is_made_later(when: str) -> None:
    model = network()
    frozen = model.layers[0]
    if when == "after":
        model.initialize((1, 3))
        assert isinstance(frozen, nn.Layer)
        frozen.requires_grad_(False)
    assert model.astype("float64") is model
    model(rows("float64"))
    assert {tensor.dtype.name for tensor in model.state_dict().values()} == {"float64"}
    assert [p.requires_grad for p in model.parameters()].count(False) == (2 if when == "after" else 0)
    assert nn.deserialize(nn.serialize(model)).layers[0].dtype == cr.float64
    model.astype("float32")
    assert model(rows()).dtype == cr.float32


def test_astype_reaches_layers_that_are_made_when_built() -> None:
    layer = nn.MultiHeadAttention(2, 3).astype("float64")
    layer(np.ones((1, 4, 5)))
    assert {p.dtype.name for p in layer.parameters()} == {"float64"}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("method", [lambda p: optim.Adam(p, lr=0.1), lambda p: optim.SGD(p, momentum=0.9)], ids=["adam", "sgd"])
def test_an_optimizer_made_before_astype_goes_on(method: Callable[[Any], optim.Optimizer], compiled: bool) -> None:
    """As a new one of the converted model would, from the state that it had."""
    model = network().initialize((1, 3))
    optimizer = method(model.parameters())

    def step(x: cr.Tensor, model: nn.Layer = model, optimizer: optim.Optimizer = optimizer) -> cr.Tensor:
        optimizer.zero_grad()
        loss = cr.sum(cr.square(model(x)))
        loss.backward()
        optimizer.step()
        return loss

    run = cr.compile(step) if compiled else step
    run(cr.tensor(rows()))
    kernels = [id(p) for p in model.parameters()]
    model.astype("float64")
    twin = copy.deepcopy(model)
    other = method(twin.parameters())
    other.load_state_dict(optimizer.state_dict())
    assert [id(p) for p in model.parameters()] == kernels
    assert all(p.grad is None for p in model.parameters())
    losses = [run(cr.tensor(rows("float64"))).item() for _ in range(3)]
    slots = optimizer.state_dict()["state"]["0"]
    assert {slot.dtype.name for name, slot in slots.items() if name != "step"} == {"float64"}
    assert losses == pytest.approx([step(cr.tensor(rows("float64")), twin, other).item() for _ in range(3)], rel=1e-9)


def test_astype_is_refused_where_it_makes_no_sense() -> None:
    model = network().initialize((1, 3))
    with pytest.raises(ChainruleError, match="floating-point"):
        model.astype("int32")
    with pytest.raises(TraceError, match="call it before"):
        cr.trace(lambda x: model.astype("float64")(x), cr.tensor(rows()))


# Copies, threads, containers.


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"])
def test_a_copy_computes_the_same_and_has_parameters_of_its_own(again: Callable[[Any], Any]) -> None:
    tied = nn.Dense(3)
    model = nn.Sequential([tied, nn.BatchNormalization(), tied])
    model(rows())
    other = again(model)
    assert [name for name, _ in other.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert other(rows()).tolist() == model(rows()).tolist()
    with cr.no_grad():
        other.layers[0].kernel.assign(other.layers[0].kernel * 0)
    assert not np.any(other.layers[2].kernel.detach().numpy())
    assert np.any(tied.kernel.detach().numpy())


def test_threads_that_call_a_new_layer_at_once_build_it_once() -> None:
    class Slow(nn.Layer):
        builds = 0

        def build(self, input_shape: Any) -> None:
            self.builds += 1
            threading.Event().wait(0.02)
            self.kernel = self.add_parameter("kernel", input_shape[-1:], "ones")

        def call(self, x: cr.Tensor) -> cr.Tensor:
            return x * self.kernel

    layer = Slow()
    threads = [threading.Thread(target=layer, args=(rows(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert layer.builds == 1


def test_layers_in_containers_of_any_kind_are_found() -> None:
    class Holder(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.named: dict[str, Any] = OrderedDict(first=nn.Dense(1), second=[nn.Dense(1)])

        def call(self, x: cr.Tensor) -> cr.Tensor:
            return self.named["second"][0](self.named["first"](x))

    model = Holder().initialize((1, 2))
    names = [name for name, _ in model.named_parameters()]
    assert names == ["named.first.kernel", "named.first.bias", "named.second.0.kernel", "named.second.0.bias"]


def test_a_layer_that_knows_its_owner_can_be_shown() -> None:
    model = network()
    model.layers[0].owner = model  # pyright: ignore[reportFunctionMemberAccess]
    assert "Dense(units=4" in repr(model)
    assert len([*model.named_layers()]) == 4
