"""Recurrent layers: PyTorch's values and gradients with the same weights, masks as shorter sequences, states as one sequence in parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ArgumentError, LayerError

BATCH, STEPS, FEATURES, UNITS = 3, 5, 4, 2
Make = Callable[..., Any]

KINDS: dict[str, Make] = {
    "SimpleRNN": nn.SimpleRNN,
    "SimpleRNN, relu": lambda units, **how: nn.SimpleRNN(units, "relu", **how),
    "LSTM": nn.LSTM,
    "LSTM, other activations": lambda units, **how: nn.LSTM(units, "softplus", "softmax", **how),
    "GRU": nn.GRU,
    "GRU, reset before": lambda units, **how: nn.GRU(units, reset_after=False, **how),
    "GRU, reset before, no bias": lambda units, **how: nn.GRU(units, reset_after=False, use_bias=False, **how),
    "Bidirectional": lambda units, **how: nn.Bidirectional(nn.LSTM(units, **how)),
    "Bidirectional, sum": lambda units, **how: nn.Bidirectional(nn.GRU(units, **how), "sum"),
}
"""Every layer, made for a number of units with the options that all share."""

ONE_WAY = [kind for kind in KINDS if "Bidirectional" not in kind]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_one_way = pytest.mark.parametrize("kind", ONE_WAY)


@pytest.fixture(autouse=True)
def seeded() -> None:
    cr.manual_seed(0)


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def sequences(steps: int = STEPS, batch: int = BATCH) -> np.ndarray:
    return drawn(batch, steps, FEATURES)


def made(kind: str, **how: Any) -> Any:
    """A layer in double precision, with weights that are all different from zero."""
    layer = KINDS[kind](UNITS, **{"dtype": "float64", "bias_initializer": "glorot_uniform", **how})
    return layer.initialize((1, 1, FEATURES), dtype="float64")


def values(result: Any) -> list[np.ndarray]:
    return [x.detach().numpy() for x in (result if isinstance(result, tuple) else (result,))]


def same(result: Any, wanted: Any, rtol: float = 1e-12) -> None:
    for one, other in zip(values(result), values(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=1e-14)


def total(result: Any) -> Any:
    """A scalar in which every value of every output has its own weight."""
    parts = result if isinstance(result, tuple) else (result,)
    return sum(cr.sum(y * drawn(*y.shape, seed=i + 7)) for i, y in enumerate(parts))


def gradients(layer: Any, *inputs: Any, **options: Any) -> dict[str, np.ndarray]:
    """Of `total`, with respect to the inputs and all parameters."""
    leaves = [cr.tensor(x, requires_grad=True) for x in inputs]
    for parameter in layer.parameters():
        parameter.grad = None
    total(layer(*leaves, **options)).backward()
    found = {str(i): x.grad for i, x in enumerate(leaves)} | {name: p.grad for name, p in layer.named_parameters()}
    return {name: x.numpy() for name, x in found.items()}


# Beside PyTorch

GATES = {"RNN": [0], "LSTM": [0, 1, 2, 3], "GRU": [1, 0, 2]}
"""Where PyTorch has the blocks of our gates: it begins a GRU with r, not z."""


def ours(kind: str, name: str, peer: Any) -> np.ndarray:
    """A tensor of PyTorch's, or its gradient, laid out as our kernels and biases are."""
    value = peer.detach().numpy()
    blocks = np.split(value, len(GATES[kind]), axis=0)
    return np.concatenate([blocks[i] for i in GATES[kind]]).T


def weights(kind: str, peer: Any, place: str, of: Callable[[Any], Any] = lambda x: x) -> dict[str, np.ndarray]:
    """Kernels and bias of one layer and direction, by our names."""
    taken = {name: ours(kind, name, of(getattr(peer, f"{name}_{place}"))) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    bias = np.stack([taken["bias_ih"], taken["bias_hh"]]) if kind == "GRU" else taken["bias_ih"]
    return {"kernel": taken["weight_ih"], "recurrent_kernel": taken["weight_hh"], "bias": bias}


@pytest.mark.parametrize(("kind", "layers", "both_ways"), [*product(GATES, (1, 2), (False, True))])
def test_values_and_gradients_are_pytorchs(kind: str, layers: int, both_ways: bool) -> None:
    torch = pytest.importorskip("torch", reason="compared with PyTorch: pip install torch==2.13.0")
    peer = getattr(torch.nn, kind)(FEATURES, UNITS, layers, batch_first=True, bidirectional=both_ways, dtype=torch.float64)
    places = [f"l{i}{way}" for i in range(layers) for way in (["", "_reverse"] if both_ways else [""])]
    own = {"RNN": nn.SimpleRNN, "LSTM": nn.LSTM, "GRU": nn.GRU}[kind]
    stack = [own(UNITS, return_sequences=True, return_state=True, dtype="float64") for _ in range(layers)]
    stack = [nn.Bidirectional(layer) if both_ways else layer for layer in stack]
    columns = 2 * UNITS if both_ways else UNITS
    for i, layer in enumerate(stack):
        layer.initialize((1, 1, columns if i else FEATURES), dtype="float64")
    flat = [part for layer in stack for part in ((layer.layer, layer.backward_layer) if both_ways else (layer,))]
    with torch.no_grad():
        for place in places:
            if kind != "GRU":
                # Of its two biases, which only appear as a sum, ours is one.
                getattr(peer, f"bias_hh_{place}").zero_()
    for layer, place in zip(flat, places, strict=True):
        layer.load_state_dict(weights(kind, peer, place))
    redundant = 0 if kind == "GRU" else len(places) * len(GATES[kind]) * UNITS
    assert sum(p.size for layer in stack for p in layer.parameters()) == sum(p.numel() for p in peer.parameters()) - redundant

    x, carried = sequences(), 2 if kind == "LSTM" else 1
    starts = [drawn(len(flat), BATCH, UNITS, seed=i + 1) for i in range(carried)]
    peer_x, peer_starts = torch.tensor(x, requires_grad=True), [torch.tensor(h, requires_grad=True) for h in starts]
    peer_y, peer_ends = peer(peer_x, tuple(peer_starts) if kind == "LSTM" else peer_starts[0])
    peer_ends = peer_ends if kind == "LSTM" else (peer_ends,)

    own_x, own_starts = cr.tensor(x, requires_grad=True), [cr.tensor(h, requires_grad=True) for h in starts]
    y, ends, at, ways = own_x, [], 0, 2 if both_ways else 1
    for layer in stack:
        y, *state = layer(y, initial_state=[h[at + way] for way in range(ways) for h in own_starts])
        ends += state
        at += ways
    own_ends = [cr.stack(ends[i::carried]) for i in range(carried)]
    for one, other in zip((y, *own_ends), (peer_y, *peer_ends), strict=True):
        np.testing.assert_allclose(one.detach().numpy(), other.detach().numpy(), rtol=1e-12, atol=1e-14)

    total((y, *own_ends)).backward()
    factors = [torch.tensor(drawn(*out.shape, seed=i + 7)) for i, out in enumerate((peer_y, *peer_ends))]
    sum((factor * out).sum() for factor, out in zip(factors, (peer_y, *peer_ends), strict=True)).backward()
    for one, other in zip((own_x, *own_starts), (peer_x, *peer_starts), strict=True):
        np.testing.assert_allclose(one.grad.numpy(), other.grad.numpy(), rtol=1e-9, atol=1e-12)
    for layer, place in zip(flat, places, strict=True):
        for name, wanted in weights(kind, peer, place, lambda x: x.grad).items():
            np.testing.assert_allclose(getattr(layer, name).grad.numpy(), wanted, rtol=1e-9, atol=1e-12, err_msg=f"{place} {name}")


# Beside the formula


def test_a_gru_that_resets_before_the_product_follows_its_formula() -> None:
    layer, x = made("GRU, reset before", return_sequences=True), sequences()
    kernel, recurrent, bias = (p.detach().numpy() for p in (layer.kernel, layer.recurrent_kernel, layer.bias))
    sigmoid = lambda v: 1 / (1 + np.exp(-v))
    h, wanted = np.zeros((BATCH, UNITS)), []
    for t in range(STEPS):
        x_z, x_r, x_n = np.split(x[:, t] @ kernel + bias, 3, axis=1)
        r_z, r_r, r_n = np.split(recurrent, 3, axis=1)
        z, r = sigmoid(x_z + h @ r_z), sigmoid(x_r + h @ r_r)
        h = z * h + (1 - z) * np.tanh(x_n + (r * h) @ r_n)
        wanted.append(h)
    np.testing.assert_allclose(layer(x).detach().numpy(), np.stack(wanted, axis=1), rtol=1e-12)


def test_activations_are_where_they_belong() -> None:
    layer, x = nn.LSTM(UNITS, "linear", lambda v: v * 0 + 0.5, dtype="float64", return_sequences=True), sequences()
    layer.initialize((1, 1, FEATURES), dtype="float64")
    kernel, recurrent = (np.split(p.detach().numpy(), 4, axis=1)[2] for p in (layer.kernel, layer.recurrent_kernel))
    h, c, wanted = np.zeros((BATCH, UNITS)), np.zeros((BATCH, UNITS)), []
    for t in range(STEPS):
        c = 0.5 * c + 0.5 * (x[:, t] @ kernel + h @ recurrent)
        h = 0.5 * c
        wanted.append(h)
    np.testing.assert_allclose(layer(x).detach().numpy(), np.stack(wanted, axis=1), rtol=1e-12)


@pytest.mark.parametrize(
    ("mode", "merged"),
    [
        ("concat", lambda a, b: np.concatenate([a, b], axis=-1)),
        ("sum", np.add),
        ("mul", np.multiply),
        ("ave", lambda a, b: (a + b) / 2),
        (None, lambda a, b: (a, b)),
    ],
)
@pytest.mark.parametrize("every", [True, False])
def test_both_directions_are_merged_at_the_same_steps(mode: str | None, merged: Callable[..., Any], every: bool) -> None:
    layer, x = nn.Bidirectional(nn.GRU(UNITS, return_sequences=every, dtype="float64"), mode), sequences()
    result = values(layer(x))
    one, other = values(layer.layer(x))[0], values(layer.backward_layer(x))[0]
    wanted = merged(one, other[:, ::-1] if every else other)
    for got, expected in zip(result, wanted if mode is None else (wanted,), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-14)


def test_the_backward_layer_has_weights_of_its_own_and_may_be_given() -> None:
    layer = nn.Bidirectional(nn.LSTM(3, "relu", recurrent_dropout=0.25, go_backwards=True))
    layer.initialize((1, 1, FEATURES))
    assert not layer.backward_layer.go_backwards
    assert layer.backward_layer.get_config() == {**layer.layer.get_config(), "go_backwards": False}
    assert not np.array_equal(layer.layer.kernel.detach().numpy(), layer.backward_layer.kernel.detach().numpy())
    mixed = nn.Bidirectional(nn.GRU(3), backward_layer=nn.LSTM(2, go_backwards=True))
    assert mixed(sequences().astype("float32")).shape == (BATCH, 5)


@every_kind
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    layer = made(kind, return_sequences=True)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    mask = np.array([[True, True, False], [False, True, True]])

    def outputs(x: Any, *given: Any) -> Any:
        for name, value in zip(names, given, strict=True):
            *path, last = name.split(".")
            setattr(getattr(layer, path[0]) if path else layer, last, value)
        return layer(x, mask=mask)

    assert cr.gradcheck(outputs, (cr.tensor(sequences(3, 2)), *(p.detach() for p in parameters)))


# Masks


@pytest.mark.parametrize(("kind", "backwards"), [*((kind, False) for kind in KINDS), *((kind, True) for kind in ONE_WAY)])
def test_a_masked_sequence_is_a_shorter_one(kind: str, backwards: bool) -> None:
    layer, x = made(kind, return_state=True, go_backwards=backwards), sequences()
    mask = np.array([[True, True, True, False, False], [True, False, True, False, True], [False, True, True, True, True]])
    result = layer(x, mask=mask)
    for i, kept in enumerate(mask):
        same(tuple(y[i : i + 1] for y in result), layer(x[i : i + 1, kept]))
    found = gradients(layer, x, mask=mask)
    assert np.all(found["0"][~mask] == 0)
    assert np.any(found["0"][mask] != 0)


@every_one_way
def test_outputs_stand_still_where_steps_are_masked(kind: str) -> None:
    layer, x = made(kind, return_sequences=True), sequences()
    mask = np.array([[True, True, False, False, True]] * BATCH)
    y = layer(x, mask=mask).detach().numpy()
    np.testing.assert_array_equal(y[:, 2], y[:, 1])
    np.testing.assert_array_equal(y[:, 3], y[:, 1])
    np.testing.assert_allclose(y[:, [0, 1, 4]], layer(x[:, [0, 1, 4]]).detach().numpy(), rtol=1e-12)


# Direction and state


@every_one_way
def test_going_backwards_is_reading_the_flipped_input(kind: str) -> None:
    ahead, back = (made(kind, return_sequences=True, return_state=True, go_backwards=way) for way in (False, True))
    back.load_state_dict(ahead.state_dict())
    x = sequences()
    same(back(x), ahead(x[:, ::-1].copy()))


@every_one_way
def test_a_sequence_in_parts_with_the_state_carried_on_is_the_whole(kind: str) -> None:
    layer, x = made(kind, return_sequences=True, return_state=True), cr.tensor(sequences(), requires_grad=True)
    whole = layer(x)
    first, *state = layer(x[:, :2])
    last, *state = layer(x[:, 2:], initial_state=state)
    parts = (cr.concat([first, last], axis=1), *state)
    same(parts, whole)
    wanted = cr.autograd.grad(total(whole), (x, *layer.parameters()))
    same(cr.autograd.grad(total(parts), (x, *layer.parameters())), wanted, rtol=1e-9)


def test_the_state_of_both_directions_is_one_flat_tuple() -> None:
    layer = made("Bidirectional", return_state=True)
    y, *state = layer(sequences())
    assert [h.shape for h in state] == [(BATCH, UNITS)] * 4
    np.testing.assert_array_equal(y.detach().numpy(), np.concatenate([state[0].detach().numpy(), state[2].detach().numpy()], axis=1))
    again = layer(sequences(), initial_state=state)
    same(again[1:3], layer.layer(sequences(), initial_state=state[:2])[1:])
    same(again[3:], layer.backward_layer(sequences(), initial_state=state[2:])[1:])


@every_kind
@pytest.mark.parametrize(("batch", "steps"), [(2, 0), (0, 3)])
def test_no_steps_leave_the_state_as_it_is_and_no_sequences_give_none(kind: str, batch: int, steps: int) -> None:
    layer = made(kind, return_state=True, return_sequences=True)
    states = len(layer(sequences())) - 1
    start = [drawn(batch, UNITS, seed=i) for i in range(states)]
    for run in (layer, cr.compile(layer)):
        y, *state = run(sequences(steps, batch), initial_state=start)
        assert y.shape[:2] == (batch, steps)
        same(tuple(state), tuple(map(cr.tensor, start)))


# Traced and compiled


@every_kind
@pytest.mark.parametrize("masked", [False, True])
def test_compiled_forward_and_backward_equal_the_eager_ones(kind: str, masked: bool) -> None:
    layer, x = made(kind, return_sequences=True, return_state=True, dropout=0.5, recurrent_dropout=0.5).eval(), cr.tensor(sequences())
    options = {"mask": cr.tensor(np.arange(STEPS) < np.array([[3], [5], [0]]))} if masked else {}

    def step(x: Any) -> Any:
        y = layer(x, **options)
        return y, cr.autograd.grad(total(y), tuple(layer.parameters()))

    def flat(result: Any) -> tuple[Any, ...]:
        return (*result[0], *result[1])

    same(flat(cr.compile(step)(x)), flat(step(x)), rtol=1e-10)


@every_kind
def test_a_trace_holds_one_step_however_many_there_are(kind: str) -> None:
    layer = made(kind)
    loss = cr.value_and_grad(lambda x: total(layer(x)))
    short, long = (cr.trace(loss, cr.tensor(sequences(steps))) for steps in (3, 40))
    assert len(short.nodes) == len(long.nodes)


def test_a_layer_is_mapped_over_an_axis_of_its_own() -> None:
    layer, x = made("LSTM"), np.stack([sequences(), sequences() + 1])
    np.testing.assert_allclose(cr.vmap(layer)(x).detach().numpy(), np.stack([layer(part).detach().numpy() for part in x]), rtol=1e-12)


# Plain data


@every_kind
def test_a_layer_comes_back_from_plain_data(kind: str) -> None:
    layer = made(kind, kernel_regularizer="l2", recurrent_dropout=0.25, return_state=True)
    data = json.loads(json.dumps(nn.serialize(layer)))
    again = nn.deserialize(data).initialize((1, 1, FEATURES), dtype="float64")
    again.load_state_dict(layer.state_dict())
    assert nn.serialize(again) == data
    assert repr(again) == repr(layer)
    same(again.eval()(sequences()), layer.eval()(sequences()), rtol=0)
    assert again.penalty().item() == layer.penalty().item()


# Parameters and modes


@pytest.mark.parametrize(("kind", "columns", "bias"), [("SimpleRNN", 2, (2,)), ("LSTM", 8, (8,)), ("GRU", 6, (2, 6)), ("GRU, reset before", 6, (6,))])
def test_kernels_lie_as_keras_lays_them(kind: str, columns: int, bias: tuple[int, ...]) -> None:
    shapes = {name: p.shape for name, p in made(kind).named_parameters()}
    assert shapes == {"kernel": (FEATURES, columns), "recurrent_kernel": (UNITS, columns), "bias": bias}


@every_one_way
def test_without_a_bias_there_is_none(kind: str) -> None:
    layer = made(kind, **({} if "no bias" in kind else {"use_bias": False}))
    assert [name for name, _ in layer.named_parameters()] == ["kernel", "recurrent_kernel"]
    assert layer(np.zeros((1, 2, FEATURES))).shape == (1, UNITS)


def test_a_cell_keeps_at_first() -> None:
    assert nn.LSTM(2).initialize((1, 1, 3)).bias.tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
    assert nn.LSTM(2, unit_forget_bias=False).initialize((1, 1, 3)).bias.tolist() == [0] * 8


def test_recurrent_kernels_begin_orthogonal() -> None:
    kernel = nn.LSTM(5, dtype="float64").initialize((1, 1, 3), dtype="float64").recurrent_kernel.detach().numpy()
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(5), atol=1e-12)


def test_a_price_is_put_on_each_weight() -> None:
    how = {"kernel_regularizer": "l2", "recurrent_regularizer": "l1", "bias_regularizer": nn.regularizers.L2(0.5)}
    layer = made("GRU", **how)
    kernel, recurrent, bias = (p.detach().numpy() for p in (layer.kernel, layer.recurrent_kernel, layer.bias))
    wanted = 0.01 * np.sum(kernel**2) + 0.01 * np.sum(np.abs(recurrent)) + 0.5 * np.sum(bias**2)
    np.testing.assert_allclose(layer.penalty().item(), wanted)


def copying(**how: Any) -> Any:
    """A layer whose output is its input, or without input the output before."""
    return nn.SimpleRNN(50, None, return_sequences=True, dtype="float64", **how).initialize((1, 1, 50), dtype="float64")


def test_the_same_features_are_hidden_in_all_steps_of_a_sequence() -> None:
    layer = copying(dropout=0.5)
    layer.load_state_dict({"kernel": np.eye(50), "recurrent_kernel": np.zeros((50, 50)), "bias": np.zeros(50)})
    y = layer(np.ones((2, 3, 50))).detach().numpy()
    assert set(y.ravel()) == {0.0, 2.0}
    np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1], y.shape))
    assert not np.array_equal(y[0], y[1])
    assert np.all(layer.eval()(np.ones((2, 3, 50))).detach().numpy() == 1)


def test_the_same_part_of_what_is_carried_is_hidden_in_all_steps() -> None:
    layer = copying(recurrent_dropout=0.5)
    layer.load_state_dict({"kernel": np.zeros((50, 50)), "recurrent_kernel": np.eye(50), "bias": np.zeros(50)})
    x, start = np.ones((2, 3, 50)), np.ones((2, 50))
    for run in (layer, cr.compile(layer)):
        y = run(x, initial_state=start).detach().numpy()
        assert set(y[:, 0].ravel()) == {0.0, 2.0}
        np.testing.assert_array_equal(y[:, 2], y[:, 0] * 4)
    assert np.all(layer.eval()(x, initial_state=start).detach().numpy() == 1)


def test_the_state_takes_the_dtype_of_the_input() -> None:
    layer = nn.LSTM(2, return_state=True)
    single = layer(sequences().astype("float32"))
    assert {y.dtype.name for y in single} == {"float32"}
    assert {y.dtype.name for y in layer(sequences(), initial_state=single[1:])} == {"float64"}


# What is refused


@pytest.mark.parametrize(
    ("refused", "kind", "essentials"),
    [
        (lambda: made("LSTM")(np.zeros((3, FEATURES))), LayerError, r"LSTM takes \(batch, steps, features=4\), but got float64\(3, 4\).*Embedding"),
        (lambda: made("GRU")(np.zeros((3, 2, 7))), LayerError, r"GRU takes \(batch, steps, features=4\), but got float64\(3, 2, 7\)"),
        (lambda: made("Bidirectional")(np.zeros((3, 2, 7))), LayerError, r"(?s)LSTM takes .*features=4.*Bidirectional\.layer"),
        (
            lambda: made("LSTM")(sequences(), initial_state=np.zeros((3, 2))),
            LayerError,
            r"LSTM starts from 2 of \(batch=3, units=2\), but initial_state is float64\(3, 2\)",
        ),
        (
            lambda: made("GRU")(sequences(), initial_state=[np.zeros((1, 2))]),
            LayerError,
            r"GRU starts from 1 of \(batch=3, units=2\), but .* float64\(1, 2\)",
        ),
        (lambda: made("GRU")(sequences(), initial_state=()), LayerError, "initial_state is empty"),
        (lambda: made("Bidirectional")(sequences(), initial_state=[np.zeros((3, 2))] * 2), LayerError, r"starts from 2 \+ 2 arrays, .* has 2"),
        (
            lambda: made("LSTM")(sequences(), mask=np.ones((3, 4), bool)),
            LayerError,
            r"LSTM takes a mask bool\(batch=3, steps=5\), but got bool\(3, 4\)",
        ),
        (lambda: made("LSTM")(sequences(), mask=np.ones((3, 5))), LayerError, r"but got float64\(3, 5\).*tokens != 0"),
        (lambda: nn.LSTM(0), ArgumentError, "LSTM: units=0"),
        (lambda: nn.GRU(2, dropout=1.0), ArgumentError, r"GRU: dropout=1\.0"),
        (lambda: nn.SimpleRNN(2, recurrent_dropout=-0.5), ArgumentError, r"SimpleRNN: recurrent_dropout=-0\.5"),
        (lambda: nn.LSTM(2, recurrent_activation="sigmod"), LayerError, "did you mean"),
        (lambda: nn.Bidirectional(nn.Dense(2)), ArgumentError, "is not a recurrent layer"),
        (lambda: nn.Bidirectional(nn.LSTM(2), "average"), ArgumentError, "merge_mode='average'.*concat, sum, mul, ave, None"),
        (lambda: nn.Bidirectional(nn.LSTM(2), backward_layer=nn.LSTM(2)), ArgumentError, "both layers go in one direction"),
        (
            lambda: nn.Bidirectional(nn.LSTM(2), backward_layer=nn.LSTM(2, go_backwards=True, return_state=True)),
            ArgumentError,
            "one layer has return_state, the other has not",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_the_layers_words(refused: Callable[[], Any], kind: type[Exception], essentials: str) -> None:
    with pytest.raises(kind, match=f"(?s){essentials}"):
        refused()
