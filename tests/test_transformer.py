"""The transformer beside the same network in PyTorch, what it may look at, and that it learns."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ArgumentError, LayerError

VOCABULARY, WIDTH, HEADS, LAYERS, CONTEXT = 11, 12, 3, 2, 7


@pytest.fixture(autouse=True)
def seeded() -> None:
    cr.manual_seed(0)


def tokens(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY, shape)


def made(**options: Any) -> Any:
    """A small transformer, its parameters large enough to matter."""
    model = cr.models.transformer(VOCABULARY, width=WIDTH, heads=HEADS, layers=LAYERS, context=CONTEXT, **{"dtype": "float64", **options})
    model.initialize((1, CONTEXT), dtype="int64")
    rng = np.random.default_rng(1)
    with cr.no_grad():
        for parameter in model.parameters():
            parameter.assign(parameter + 0.3 * rng.normal(size=parameter.shape))
    return model


def in_pytorch(torch: Any, tied: bool) -> Any:
    """The network of PyTorch's own layers."""

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = torch.nn.Embedding(VOCABULARY, WIDTH)
            self.positions = torch.nn.Embedding(CONTEXT, WIDTH)
            block = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
            self.blocks = torch.nn.TransformerEncoder(block, LAYERS, torch.nn.LayerNorm(WIDTH), enable_nested_tensor=False)
            self.head = torch.nn.Linear(WIDTH, VOCABULARY, bias=False)
            if tied:
                self.head.weight = self.tokens.weight

        def forward(self, x: Any) -> Any:
            steps = x.shape[1]
            mask = torch.nn.Transformer.generate_square_subsequent_mask(steps, dtype=torch.float64)
            return self.head(self.blocks(self.tokens(x) + self.positions.weight[:steps], mask, is_causal=True))

    return Decoder().double()


def pytorch_names(tied: bool) -> dict[str, list[str]]:
    """Where a parameter of PyTorch's finds its values here: several stand side by side, matrices the other way round."""
    norm = {"weight": "gamma", "bias": "beta"}
    linear = {"weight": "kernel", "bias": "bias"}
    names = {"tokens.weight": ["tokens.embeddings"], "positions.weight": ["positions.embeddings"]}
    names |= {f"blocks.norm.{theirs}": [f"norm.{ours}"] for theirs, ours in norm.items()}
    for i in range(LAYERS):
        there, here = f"blocks.layers.{i}", f"blocks.{i}"
        for theirs, ours in norm.items():
            names[f"{there}.norm1.{theirs}"] = [f"{here}.attention_norm.{ours}"]
            names[f"{there}.norm2.{theirs}"] = [f"{here}.mlp_norm.{ours}"]
        for theirs, ours in linear.items():
            names[f"{there}.self_attn.in_proj_{theirs}"] = [f"{here}.attention.{part}.{ours}" for part in ("query", "key", "value")]
            names[f"{there}.self_attn.out_proj.{theirs}"] = [f"{here}.attention.output.{ours}"]
            names[f"{there}.linear1.{theirs}"] = [f"{here}.expand.{ours}"]
            names[f"{there}.linear2.{theirs}"] = [f"{here}.contract.{ours}"]
    return names if tied else names | {"head.weight": ["head.kernel"]}


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_outputs_and_gradients_are_those_of_pytorch(tied: bool) -> None:
    torch = pytest.importorskip("torch", reason="compared with PyTorch: pip install torch==2.13.0")
    model, other = made(tied=tied), in_pytorch(torch, tied)
    ours, theirs = dict(model.named_parameters()), dict(other.named_parameters())
    names = pytorch_names(tied)
    assert sorted(name for part in names.values() for name in part) == sorted(ours)
    assert set(names) == set(theirs)
    assert sum(p.size for p in ours.values()) == sum(p.numel() for p in theirs.values())
    assert sum(p.size for p in ours.values()) == (VOCABULARY * (1 if tied else 2) + CONTEXT + 2) * WIDTH + LAYERS * (12 * WIDTH**2 + 13 * WIDTH)

    def there(name: str, parts: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([part.T if name.endswith("kernel") else part for part in parts])

    with torch.no_grad():
        for name, parts in names.items():
            theirs[name].copy_(torch.from_numpy(there(parts[0], [ours[part].detach().numpy() for part in parts])))
    x, targets = tokens(4, CONTEXT), tokens(4, CONTEXT, seed=1)
    logits, expected = model(x), other(torch.from_numpy(x))
    np.testing.assert_allclose(logits.detach().numpy(), expected.detach().numpy(), rtol=1e-9, atol=1e-11)
    nn.losses.softmax_cross_entropy(logits, cr.tensor(targets)).backward()
    torch.nn.functional.cross_entropy(expected.flatten(0, 1), torch.from_numpy(targets).flatten()).backward()
    for name, parts in names.items():
        gradient = there(parts[0], [ours[part].grad.numpy() for part in parts])
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(gradient, theirs[name].grad.numpy(), rtol=1e-9, atol=1e-9 * scale, err_msg=name)


def test_a_later_token_never_changes_an_earlier_logit() -> None:
    model, x = made(), tokens(2, CONTEXT)
    before = model(x).detach().numpy()
    for step in range(CONTEXT):
        changed = x.copy()
        changed[:, step] = (changed[:, step] + 1) % VOCABULARY
        after = model(changed).detach().numpy()
        np.testing.assert_array_equal(after[:, :step], before[:, :step])
        assert not np.array_equal(after[:, step], before[:, step])


def test_logits_do_not_depend_on_how_many_steps_follow() -> None:
    model, x = made(), tokens(2, CONTEXT)
    np.testing.assert_allclose(model(x[:, :3]).detach().numpy(), model(x).detach().numpy()[:, :3], rtol=1e-12)


def trained(compiled: bool, steps: int, dropout: float = 0.0) -> tuple[list[float], Any]:
    """Losses on a text that goes round in circles."""
    cr.manual_seed(2)
    model = cr.models.transformer(VOCABULARY, width=WIDTH, heads=HEADS, layers=LAYERS, context=CONTEXT, dropout=dropout)
    optimizer = cr.optim.AdamW(model.parameters(), lr=1e-2)

    def step(x: Any, targets: Any) -> Any:
        optimizer.zero_grad()
        loss = nn.losses.softmax_cross_entropy(model(x), targets)
        loss.backward()
        optimizer.step()
        return loss

    run = cr.compile(step) if compiled else step
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(steps):
        circle = (rng.integers(0, VOCABULARY, (8, 1)) + 3 * np.arange(CONTEXT + 1)) % VOCABULARY
        losses.append(run(circle[:, :-1], circle[:, 1:]).item())
    return losses, model


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_compiled_training_is_eager_training(dropout: float) -> None:
    eager, compiled = trained(False, 6, dropout), trained(True, 6, dropout)
    np.testing.assert_allclose(compiled[0], eager[0], rtol=1e-4)
    # A bias of all keys changes no weight of attention: its gradient is rounding alone, which Adam blows up.
    names = [name for name in eager[1].state_dict() if not name.endswith("key.bias")]
    for name in names:
        np.testing.assert_allclose(compiled[1].state_dict()[name].numpy(), eager[1].state_dict()[name].numpy(), rtol=1e-2, atol=2e-4, err_msg=name)


def test_it_learns_to_go_on() -> None:
    losses, model = trained(True, 120)
    assert losses[0] > 0.9 * np.log(VOCABULARY)
    assert losses[-1] < 0.05
    wanted = ((4 + 3 * np.arange(20)) % VOCABULARY).tolist()
    assert model.generate(wanted[:1], 19, temperature=0).tolist() == wanted[1:]
    rows = model.generate([[4, 7], [0, 3]], 18, temperature=0.1, seed=1)
    assert rows.tolist() == [wanted[2:], ((3 * np.arange(2, 20)) % VOCABULARY).tolist()]


def test_equal_seeds_write_equal_texts_and_draw_nothing_from_elsewhere() -> None:
    model = made()
    before = cr.random.default_generator.get_state()
    first, second, third = (model.generate([1, 2], 12, seed=seed).tolist() for seed in (5, 5, 6))
    assert first == second
    assert first != third
    assert len(first) == 12
    assert np.array_equal(cr.random.default_generator.get_state(), before)


def test_every_token_is_a_draw_of_its_own() -> None:
    model = made()
    with cr.no_grad():
        for parameter in model.parameters():
            parameter.assign(parameter * 0)
    assert len(set(model.generate([0], 60).tolist())) == VOCABULARY


def test_without_heat_the_likeliest_token_is_taken() -> None:
    model = made()
    coldest = model.generate([1], 15, temperature=0).tolist()
    assert model.generate([1], 15, temperature=1e-4).tolist() == coldest
    assert model.generate([1], 15, temperature=1e4).tolist() != coldest


def test_writing_leaves_the_mode_and_gradients_alone() -> None:
    model = made(dropout=0.5)
    model.blocks[0].eval()
    model.generate([1], 2)
    assert model.training
    assert not model.blocks[0].training
    assert model.blocks[1].attention.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_tied_weights_are_one_parameter() -> None:
    tied, untied = made(), made(tied=False)
    assert "head.kernel" not in tied.state_dict()
    assert untied.state_dict()["head.kernel"].shape == (WIDTH, VOCABULARY)


def test_it_is_made_anew_from_its_data() -> None:
    model = made(tied=False)
    again = nn.deserialize(json.loads(json.dumps(nn.serialize(model)))).initialize((1, 2), dtype="int64")
    again.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(again(tokens(2, 5)).detach().numpy(), model(tokens(2, 5)).detach().numpy())


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (lambda: cr.models.transformer(9, width=10, heads=3), ArgumentError, "a width of 10 in 3 heads"),
        (lambda: cr.models.transformer(0), ArgumentError, "vocabulary=0"),
        (lambda: made()(np.zeros((1, 3))), LayerError, r"takes integer \(batch, steps\), but got float64\(1, 3\)"),
        (lambda: made()(tokens(1, CONTEXT + 1)), LayerError, "looks at 7 steps, but got 8"),
        (lambda: made()(np.array([[VOCABULARY]])), LayerError, "from 0 to 10, but got 11"),
        (lambda: made().generate([], 3), ArgumentError, "not float32"),
        (lambda: made().generate(np.zeros((1, 0), int), 3), ArgumentError, "goes on with integers"),
        (lambda: made().generate([1], 3, temperature=-1), ArgumentError, "temperature=-1"),
    ],
)
def test_what_is_wrong_is_told(wrong: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as refused:
        wrong()
    assert "mend:" in str(refused.value)
