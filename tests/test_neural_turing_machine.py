"""The Neural Turing Machine: its stages on numbers worked by hand, and the whole beside the paper's equations and PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.errors import ArgumentError, LayerError
from chainrule.models.neural_turing_machine import NeuralTuringMachine, content, interpolate, read, sharpen, shift, write

RANDOM = np.random.default_rng(0)


def heads(*rows: list[float]) -> cr.Tensor:
    """A batch of one, a row per head."""
    return cr.tensor([rows], dtype=cr.float64)


def found(x: Any) -> np.ndarray:
    return np.asarray(x.detach().numpy())[0]


def machine(**sizes: Any) -> NeuralTuringMachine:
    """A small one in double precision, whose parameters are nothing special."""
    cr.manual_seed(1)
    model = NeuralTuringMachine(3, 2, **{"units": 5, "memory": (6, 4), "dtype": "float64"} | sizes).initialize((1, 1, 3))
    with cr.no_grad():
        for parameter in model.parameters():
            parameter.assign(parameter + cr.random.normal(parameter.shape, std=0.3, dtype="float64"))
    return model


def sequence(batch: int = 2, steps: int = 4) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(batch, steps, 3))


SIZES: dict[str, dict[str, Any]] = {
    "lstm": {},
    "dense": {"controller": "dense"},
    "more heads that move further": {"read_heads": 2, "write_heads": 3, "shift": 2},
}
every_size = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)


# The stages, by hand


def test_content_prefers_slots_that_point_the_same_way() -> None:
    memory = heads([2.0, 0.0], [0.0, 5.0])  # columns: slots (2, 0) and (0, 5), at right angles
    weights = content(heads([3.0, 0.0], [0.0, 0.1], [1.0, 1.0]), heads([np.log(3)], [np.log(9)], [7.0]), memory)
    np.testing.assert_allclose(found(weights), [[3 / 4, 1 / 4], [1 / 10, 9 / 10], [1 / 2, 1 / 2]], rtol=1e-12)


def test_interpolate_goes_from_the_weights_before_to_those_by_content() -> None:
    weights = interpolate(heads([1.0, 0.0], [1.0, 0.0], [1.0, 0.0]), heads([0.2, 0.8], [0.2, 0.8], [0.2, 0.8]), heads([0.0], [0.25], [1.0]))
    np.testing.assert_allclose(found(weights), [[0.2, 0.8], [0.4, 0.6], [1.0, 0.0]], rtol=1e-12)


def test_shift_goes_round() -> None:
    start = [1.0, 0.0, 0.0, 0.0]
    weights = shift(heads(start, start, start, [0.5, 0.5, 0.0, 0.0]), heads([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.1, 0.2, 0.7]))
    np.testing.assert_allclose(found(weights), [[0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0], [0.15, 0.45, 0.35, 0.05]], rtol=1e-12, atol=1e-15)


def test_sharpen_raises_to_a_power() -> None:
    weights = sharpen(heads([0.5, 0.25, 0.25], [0.5, 0.25, 0.25]), heads([1.0], [2.0]))
    np.testing.assert_allclose(found(weights), [[1 / 2, 1 / 4, 1 / 4], [2 / 3, 1 / 6, 1 / 6]], rtol=1e-12)


def test_sharpen_is_sound_where_a_weight_is_zero() -> None:
    weights = cr.tensor([[[1.0, 0.0]]], requires_grad=True)
    sharp = sharpen(weights, cr.ones((1, 1, 1)))
    sharp[0, 0, 0].backward()
    np.testing.assert_allclose(sharp.detach().numpy()[0, 0], [1, 0], atol=1e-7)
    assert np.isfinite(weights.grad.numpy()).all()


def test_read_mixes_slots() -> None:
    memory = heads([1.0, 2.0, 3.0], [10.0, 20.0, 30.0])
    np.testing.assert_allclose(found(read(memory, heads([0.0, 1.0, 0.0], [0.5, 0.0, 0.5]))), [[2, 20], [2, 20]])


def test_write_erases_and_then_adds() -> None:
    memory = heads([1.0, 2.0, 3.0], [10.0, 20.0, 30.0])
    one = write(memory, heads([0.0, 1.0, 0.5]), heads([1.0, 0.0]), heads([7.0, 8.0]))
    np.testing.assert_allclose(found(one), [[1, 7, 1.5 + 3.5], [10, 28, 34]])
    both = write(memory, heads([0.0, 1.0, 0.0], [0.0, 0.5, 0.0]), heads([0.5, 0.0], [1.0, 0.0]), heads([7.0, 0.0], [2.0, 4.0]))
    np.testing.assert_allclose(found(both), [[1, 2 * 0.5 * 0.5 + 7 + 1, 3], [10, 22, 30]])


# The whole


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def by_the_paper(model: NeuralTuringMachine, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits and weights for one sequence, step by step, head by head and slot by slot."""
    p = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    (slots, width), reading, writing = model.memory, model.read_heads, model.write_heads
    count = reading + writing
    memory, weights = np.full((slots, width), 1e-6), np.array([softmax(row) for row in p["first_weights"]])
    reads, hidden, cell = np.tanh(p["first_reads"]), np.zeros(model.units), np.zeros(model.units)
    logits, places = [], []
    for now in x:
        if model.controller == "lstm":
            into = now @ p["kernel"] + np.concatenate([reads, hidden]) @ p["recurrent_kernel"] + p["bias"]
            enter, keep, leave, proposed = into.reshape(4, -1)
            cell = sigmoid(keep) * cell + sigmoid(enter) * np.tanh(proposed)
            hidden = sigmoid(leave) * np.tanh(cell)
        else:
            hidden = np.tanh(now @ p["kernel"] + reads @ p["recurrent_kernel"] + p["bias"])
        orders = hidden @ p["interface.kernel"] + p["interface.bias"]
        sizes = [count * width, writing * width, writing * width, count, count, count]
        keys, add, erase, gate, strength, gamma, shifts = np.split(orders, np.cumsum(sizes))
        new = np.empty_like(weights)
        for h in range(count):
            key = keys.reshape(count, width)[h]
            alike = np.array([key @ row / (np.linalg.norm(key) * np.linalg.norm(row)) for row in memory])
            focus = softmax(np.log1p(np.exp(strength[h])) * alike)
            focus = sigmoid(gate[h]) * focus + (1 - sigmoid(gate[h])) * weights[h]
            shares, moved = softmax(shifts.reshape(count, -1)[h]), np.zeros(slots)
            for i in range(slots):
                for j, share in enumerate(shares):
                    moved[(i + j - model.shift) % slots] += focus[i] * share
            sharp = moved ** (1 + np.log1p(np.exp(gamma[h])))
            new[h] = sharp / sharp.sum()
        weights = new
        reads = np.concatenate([weights[h] @ memory for h in range(reading)])
        for h in range(writing):
            memory = memory * (1 - np.outer(weights[reading + h], sigmoid(erase.reshape(writing, width)[h])))
        for h in range(writing):
            memory = memory + np.outer(weights[reading + h], add.reshape(writing, width)[h])
        logits.append(np.concatenate([hidden, reads]) @ p["readout.kernel"] + p["readout.bias"])
        places.append(weights)
    return np.array(logits), np.array(places)


@every_size
def test_it_computes_the_papers_equations(sizes: dict[str, Any]) -> None:
    model, x = machine(**sizes), sequence()
    logits, addressing = model(x).detach().numpy(), model.addressing(x)
    for i in range(len(x)):
        expected, places = by_the_paper(model, x[i])
        np.testing.assert_allclose(logits[i], expected, rtol=1e-6)
        np.testing.assert_allclose(addressing.read.detach().numpy()[i], places[:, : model.read_heads], rtol=1e-6)
        np.testing.assert_allclose(addressing.write.detach().numpy()[i], places[:, model.read_heads :], rtol=1e-6)


@every_size
def test_weights_sum_to_one(sizes: dict[str, Any]) -> None:
    model = machine(**sizes)
    for weights in model.addressing(10 * sequence(steps=12)):
        assert weights.detach().numpy().min() >= 0
        np.testing.assert_allclose(cr.sum(weights, axis=-1).detach().numpy(), 1, rtol=1e-12)


@every_size
def test_gradients_are_those_of_finite_differences(sizes: dict[str, Any]) -> None:
    model = machine(units=3, memory=(4, 2), **sizes)
    names, parameters = zip(*model.named_parameters(), strict=True)

    def outputs(x: Any, *given: Any) -> Any:
        for name, value in zip(names, given, strict=True):
            *path, last = name.split(".")
            setattr(getattr(model, path[0]) if path else model, last, value)
        return model(x)

    assert cr.gradcheck(outputs, (cr.asarray(sequence(1, 3)), *(p.detach() for p in parameters)))


def test_gradients_are_pytorchs() -> None:
    torch = pytest.importorskip("torch", reason="compared with PyTorch: pip install torch==2.13.0")
    model, x = machine(read_heads=2), sequence()
    p = {name: torch.tensor(value.detach().numpy(), requires_grad=True) for name, value in model.named_parameters()}
    given_x = torch.tensor(x, requires_grad=True)
    batch, (slots, width), units = len(x), model.memory, model.units
    memory = torch.full((batch, slots, width), 1e-6, dtype=torch.float64)
    weights = p["first_weights"].softmax(-1).expand(batch, 3, slots)
    reads, hidden = p["first_reads"].tanh().expand(batch, 2 * width), torch.zeros(batch, units, dtype=torch.float64)
    cell, logits = hidden, []
    for t in range(x.shape[1]):
        into = given_x[:, t] @ p["kernel"] + torch.cat([reads, hidden], -1) @ p["recurrent_kernel"] + p["bias"]
        enter, keep, leave, proposed = into.chunk(4, -1)
        cell = keep.sigmoid() * cell + enter.sigmoid() * proposed.tanh()
        hidden = leave.sigmoid() * cell.tanh()
        orders = hidden @ p["interface.kernel"] + p["interface.bias"]
        keys, add, erase, gate, strength, gamma, shifts = orders.split([3 * width, width, width, 3, 3, 3, 9], -1)
        alike = torch.cosine_similarity(keys.view(batch, 3, 1, width), memory.view(batch, 1, slots, width), -1, 1e-16)
        focus = (torch.nn.functional.softplus(strength).unsqueeze(-1) * alike).softmax(-1)
        weights = torch.lerp(weights, focus, gate.sigmoid().unsqueeze(-1))
        shares = shifts.view(batch, 3, 3).softmax(-1)
        weights = sum(torch.roll(weights, i - 1, -1) * shares[..., i : i + 1] for i in range(3))
        weights = weights ** (1 + torch.nn.functional.softplus(gamma)).unsqueeze(-1)
        weights = weights / weights.sum(-1, keepdim=True)
        reads = (weights[:, :2] @ memory).view(batch, -1)
        place = weights[:, 2].unsqueeze(-1)
        memory = memory * (1 - place * erase.sigmoid().unsqueeze(1)) + place * add.unsqueeze(1)
        logits.append(torch.cat([hidden, reads], -1) @ p["readout.kernel"] + p["readout.bias"])
    theirs = torch.stack(logits, 1)
    theirs.square().sum().backward()

    own_x = cr.tensor(x, requires_grad=True)
    ours = model(own_x)
    cr.sum(ours * ours).backward()
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(own_x.grad.numpy(), given_x.grad.numpy(), rtol=1e-5)
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.grad.numpy(), p[name].grad.numpy(), rtol=1e-5, atol=1e-9, err_msg=name)


@every_size
def test_a_compiled_step_is_an_eager_one(sizes: dict[str, Any]) -> None:
    model, x = machine(**sizes), sequence()

    def step(x: cr.Tensor) -> list[Any]:
        for parameter in model.parameters():
            parameter.grad = None
        loss = cr.sum(cr.square(model(x)))
        loss.backward()
        return [loss, *(parameter.grad for parameter in model.parameters())]

    for eager, compiled in zip(step(cr.asarray(x)), cr.compile(step)(cr.asarray(x)), strict=True):
        np.testing.assert_allclose(compiled.detach().numpy(), eager.detach().numpy(), rtol=1e-9, atol=1e-12)


def test_the_step_is_compiled_once_however_long_the_sequence_is() -> None:
    model, lines = machine(), []
    for steps in (5, 50):
        run = cr.compile(model, backend="numpy")
        run(sequence(steps=steps))
        lines.append(run.source().count(" = "))
    assert abs(lines[1] - lines[0]) < 10


def test_a_short_training_lowers_the_loss() -> None:
    cr.manual_seed(0)
    rng = np.random.default_rng(0)
    model = cr.models.neural_turing_machine(4, 3, units=20, memory=(8, 6))
    optimizer = cr.optim.Adam(model.parameters(), lr=1e-2)

    @cr.compile
    def step(sequence: cr.Tensor, bits: cr.Tensor) -> cr.Tensor:
        optimizer.zero_grad()
        loss = cr.mean(cr.sigmoid_cross_entropy(model(sequence)[:, -bits.shape[1] :], bits))
        loss.backward()
        cr.optim.clip_by_norm(model.parameters(), 1.0)
        optimizer.step()
        return loss

    losses = []
    for _ in range(150):
        bits = rng.integers(0, 2, (16, 3, 3)).astype(np.float32)
        x = np.zeros((16, 7, 4), np.float32)
        x[:, :3, :3], x[:, 3, 3] = bits, 1
        losses.append(step(x, bits).item())
    assert losses[0] > 0.6
    assert np.mean(losses[-10:]) < 0.5


# What it takes


def test_bits_may_be_whole_numbers() -> None:
    model = cr.models.neural_turing_machine(3, 2, units=5, memory=(6, 4))
    bits = RANDOM.integers(0, 2, (2, 4, 3))
    out = model(bits)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out.detach().numpy(), model(bits.astype(np.float32)).detach().numpy())


def test_what_it_cannot_be_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"no controller 'gru'[\s\S]*choose one of lstm, dense"):
        cr.models.neural_turing_machine(3, 2, controller="gru")
    with pytest.raises(ArgumentError, match=r"memory=\(128,\)[\s\S]*such as \(128, 20\)"):
        cr.models.neural_turing_machine(3, 2, memory=(128,))
    with pytest.raises(ArgumentError, match="width of the memory=0"):
        cr.models.neural_turing_machine(3, 2, memory=(128, 0))


def test_what_it_cannot_read_is_refused() -> None:
    model = machine()
    for way in (model, model.addressing):
        with pytest.raises(LayerError, match=r"NeuralTuringMachine takes \(batch, steps, inputs=3\), but got float64\(2, 4, 5\)"):
            way(np.zeros((2, 4, 5)))
    with pytest.raises(LayerError, match="has no parameters yet"):
        NeuralTuringMachine(3, 2).addressing(np.zeros((2, 4, 3)))
