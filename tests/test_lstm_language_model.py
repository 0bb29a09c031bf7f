"""The LSTM language model: PyTorch's logits and gradients with the same weights, states carried on, and texts drawn from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ArgumentError, LayerError
from chainrule.models import lstm_language_model

BATCH, STEPS, VOCABULARY = 3, 7, 11
SIZES: list[dict[str, Any]] = [
    {"embedding": 5, "units": 6},
    {"embedding": 5, "units": 6, "layers": 3},
    {"embedding": 6, "units": 6, "layers": 2, "tied": True},
]
every_size = pytest.mark.parametrize("sizes", SIZES)


@pytest.fixture(autouse=True)
def seeded() -> None:
    cr.manual_seed(0)


def tokens(steps: int = STEPS, batch: int = BATCH) -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCABULARY, (batch, steps))


def made(**sizes: Any) -> Any:
    model = lstm_language_model(VOCABULARY, dtype="float64", **sizes)
    model(tokens())
    model.load_state_dict({name: np.random.default_rng(p.size).normal(size=p.shape) / 2 for name, p in model.named_parameters()})
    return model


def count(embedding: int, units: int, layers: int = 1, tied: bool = False) -> int:
    inside = sum(4 * units * ((units if i else embedding) + units + 1) for i in range(layers))
    return VOCABULARY * embedding + inside + (VOCABULARY if tied else (units + 1) * VOCABULARY)


def values(x: Any) -> np.ndarray:
    return x.detach().numpy()


# Beside PyTorch


@every_size
def test_logits_and_gradients_are_pytorchs(sizes: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch", reason="compared with PyTorch: pip install torch==2.13.0")
    model = made(**sizes)
    layers, tied = sizes.get("layers", 1), sizes.get("tied", False)
    embed = torch.nn.Embedding(VOCABULARY, sizes["embedding"], dtype=torch.float64)
    lstm = torch.nn.LSTM(sizes["embedding"], sizes["units"], layers, batch_first=True, dtype=torch.float64)
    output = torch.nn.Linear(sizes["units"], VOCABULARY, dtype=torch.float64)
    if tied:
        output.weight = embed.weight
    # Names of ours, and what of PyTorch's they are; its second bias of each layer is redundant and stays zero.
    pairs = {"embed.embeddings": (embed.weight, False), ("output_bias" if tied else "output.bias"): (output.bias, False)}
    if not tied:
        pairs["output.kernel"] = (output.weight, True)
    for i in range(layers):
        pairs[f"recurrent.{i}.kernel"] = (getattr(lstm, f"weight_ih_l{i}"), True)
        pairs[f"recurrent.{i}.recurrent_kernel"] = (getattr(lstm, f"weight_hh_l{i}"), True)
        pairs[f"recurrent.{i}.bias"] = (getattr(lstm, f"bias_ih_l{i}"), False)
    own = dict(model.named_parameters())
    assert set(own) == set(pairs)
    with torch.no_grad():
        for name, (peer, transposed) in pairs.items():
            value = torch.tensor(values(own[name]))
            peer.copy_(value.T if transposed else value)
        for i in range(layers):
            getattr(lstm, f"bias_hh_l{i}").zero_()
    everything = {id(p): p for part in (embed, lstm, output) for p in part.parameters()}.values()
    redundant = layers * 4 * sizes["units"]
    assert sum(p.size for p in own.values()) == sum(p.numel() for p in everything) - redundant == count(**sizes)

    x, y = tokens(), tokens()[:, ::-1].copy()
    logits, peer_logits = model(x), output(lstm(embed(torch.tensor(x)))[0])
    np.testing.assert_allclose(values(logits), peer_logits.detach().numpy(), rtol=1e-12)
    loss = nn.losses.softmax_cross_entropy(logits, cr.tensor(y))
    peer_loss = torch.nn.functional.cross_entropy(peer_logits.reshape(-1, VOCABULARY), torch.tensor(y).reshape(-1))
    np.testing.assert_allclose(loss.item(), peer_loss.item(), rtol=1e-12)
    loss.backward()
    peer_loss.backward()
    for name, (peer, transposed) in pairs.items():
        wanted = peer.grad.numpy()
        np.testing.assert_allclose(own[name].grad.numpy(), wanted.T if transposed else wanted, rtol=1e-9, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("sizes", [{"embedding": 5, "units": 6, "layers": 2}, {"embedding": 6, "units": 6, "tied": True}])
def test_it_has_as_many_parameters_as_its_formula_says(sizes: dict[str, Any]) -> None:
    assert sum(p.size for p in made(**sizes).parameters()) == count(**sizes)


# State


@every_size
def test_a_text_in_parts_with_the_state_carried_on_is_the_whole(sizes: dict[str, Any]) -> None:
    model, x = made(**sizes), tokens()
    whole = values(model(x))
    first, state = model(x[:, :3], return_state=True)
    last, state = model(x[:, 3:], state=state, return_state=True)
    np.testing.assert_allclose(np.concatenate([values(first), values(last)], axis=1), whole, rtol=1e-12)
    assert [[part.shape for part in layer] for layer in state] == [[(BATCH, sizes["units"])] * 2] * sizes.get("layers", 1)


def test_what_comes_later_changes_nothing_before() -> None:
    model, x = made(**SIZES[1]), tokens()
    other = x.copy()
    other[:, 4] = (other[:, 4] + 1) % VOCABULARY
    one, two = values(model(x)), values(model(other))
    np.testing.assert_array_equal(one[:, :4], two[:, :4])
    assert np.all(np.any(one[:, 4:] != two[:, 4:], axis=-1))


@every_size
def test_a_compiled_step_with_state_equals_the_eager_one(sizes: dict[str, Any]) -> None:
    results: list[list[np.ndarray]] = []
    for compiled in (False, True):
        model = made(**sizes)
        optimizer = cr.optim.SGD(model.parameters(), lr=0.1)

        def step(x: Any, y: Any, state: Any, model: Any = model, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            logits, state = model(x, state=state, return_state=True)
            loss = nn.losses.softmax_cross_entropy(logits, y)
            loss.backward()
            cr.optim.clip_by_norm(model.parameters(), 0.1)
            optimizer.step()
            return loss, [[part.detach() for part in layer] for layer in state]

        run, x, y = cr.compile(step) if compiled else step, cr.tensor(tokens()), cr.tensor(tokens()[::-1].copy())
        _, state = run(x, y, [[cr.zeros((BATCH, sizes["units"]), dtype="float64")] * 2] * sizes.get("layers", 1))
        loss, state = run(x, y, state)
        results.append([values(loss), *(values(part) for layer in state for part in layer), *map(values, model.parameters())])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-10, atol=1e-13)


def test_dropout_hides_only_in_training_and_never_what_is_carried_on() -> None:
    model = made(embedding=5, units=6, layers=2, dropout=0.5)
    assert not np.array_equal(values(model(tokens())), values(model(tokens())))
    assert all(layer.recurrent_dropout == 0 for layer in model.recurrent)
    model.eval()
    np.testing.assert_array_equal(values(model(tokens())), values(model(tokens())))


# Texts


@every_size
def test_the_likeliest_continuation_is_that_of_the_whole_text_read_again(sizes: dict[str, Any]) -> None:
    model, text = made(**sizes), tokens(3)
    found = model.generate(text, 5, temperature=0)
    assert found.dtype == np.int64
    for i in range(5):
        wanted = np.argmax(values(model(text))[:, -1], axis=-1)
        np.testing.assert_array_equal(found.numpy()[:, i], wanted)
        text = np.concatenate([text, wanted[:, None]], axis=1)


def test_drawn_continuations_follow_from_the_seed_and_leave_the_model_as_it_is() -> None:
    model = made(embedding=5, units=6, dropout=0.5)
    first, again, other = (model.generate([1, 2], 40, seed=seed).tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 40
    assert set(first) <= set(range(VOCABULARY))
    assert model.training
    assert all(layer.training for layer in model.layers_inside())
    assert model.generate([1], 0).shape == (0,)
    assert model.generate(tokens(), 2).shape == (BATCH, 2)


def test_tokens_are_drawn_as_often_as_the_model_expects_them() -> None:
    model, draws = made(embedding=5, units=6), 20_000
    logits = values(model(np.array([[3]])))[0, 0]
    for temperature in (1.0, 0.5):
        odds = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
        found = model.generate(np.full((draws, 1), 3), 1, temperature=temperature).numpy()
        shares = np.bincount(found[:, 0], minlength=VOCABULARY) / draws
        np.testing.assert_allclose(shares, odds, atol=5 * np.sqrt(0.25 / draws))


def test_it_learns_a_text_that_repeats_itself() -> None:
    text = np.tile([1, 2, 3, 1, 2, 4], 20)
    model = lstm_language_model(VOCABULARY, embedding=8, units=32)
    optimizer = cr.optim.Adam(model.parameters(), lr=0.05)
    x, y = cr.tensor(text[None, :-1]), cr.tensor(text[None, 1:])

    @cr.compile
    def step() -> Any:
        optimizer.zero_grad()
        loss = nn.losses.softmax_cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(100):
        step()
    assert model.generate(text[:11], 9, temperature=0).tolist() == [4, 1, 2, 3, 1, 2, 4, 1, 2]


# Plain data and refusals


@every_size
def test_a_model_comes_back_from_plain_data(sizes: dict[str, Any]) -> None:
    model = made(**sizes)
    data = json.loads(json.dumps(nn.serialize(model)))
    again = nn.deserialize(data).initialize((1, 1), dtype="int64")
    again.load_state_dict(model.state_dict())
    assert nn.serialize(again) == data
    np.testing.assert_array_equal(values(again(tokens())), values(model(tokens())))


@pytest.mark.parametrize(
    ("refused", "kind", "essentials"),
    [
        (lambda: lstm_language_model(5, layers=0), ArgumentError, "layers=0"),
        (lambda: lstm_language_model(5, embedding=8, units=9, tied=True), ArgumentError, "tied, with embedding=8 and units=9"),
        (lambda: lstm_language_model(0), ArgumentError, "input_dim=0"),
        (lambda: made(**SIZES[0])(np.array([1, 2])), LayerError, r"takes integer \(batch, steps\), but got int64\(2\).*\[None\]"),
        (lambda: made(**SIZES[0])(np.ones((1, 2))), LayerError, r"takes integer \(batch, steps\), but got float64"),
        (lambda: made(**SIZES[1])(tokens(), state=[(None, None)]), LayerError, "has 3 LSTM layers, but the state is of 1"),
        (lambda: made(**SIZES[0]).generate([], 3), ArgumentError, "not float32"),
        (lambda: made(**SIZES[0]).generate([1], -1), ArgumentError, "count=-1"),
        (lambda: made(**SIZES[0]).generate([1], 1, temperature=-1.0), ArgumentError, r"temperature=-1\.0"),
    ],
)
def test_what_does_not_fit_is_refused(refused: Callable[[], Any], kind: type[Exception], essentials: str) -> None:
    with pytest.raises(kind, match=f"(?s){essentials}"):
        refused()
