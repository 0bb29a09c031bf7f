"""Networks that go through sequences: an LSTM, a Neural Turing Machine, and a transformer."""

from __future__ import annotations

from typing import Any

import numpy as np

import chainrule as cr
from workloads.dense import jax_cross_entropy
from workloads.workload import Network, Parameters, Workload, network


def lstm() -> Workload:
    """PyTorch has it as one operation, JAX as a scan."""
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(32, 64, 128)).astype("float32") for _ in range(2))

    def torch(torch: Any, p: Parameters, x: Any, y: Any) -> Any:
        start, no_bias = x.new_zeros(1, 32, 128), x.new_zeros(512)
        out, _, _ = torch.lstm(x, (start, start), [*p.values(), no_bias], True, 1, 0.0, True, False, True)
        return torch.nn.functional.mse_loss(out, y)

    def jax(jax: Any, p: Parameters, x: Any, y: Any) -> Any:
        kernel, recurrent, bias = p.values()

        def step(state: Any, x: Any) -> Any:
            h, c = jax_lstm_cell(jax, x + state[0] @ recurrent, state[1])
            return (h, c), h

        start = jax.numpy.zeros((32, 128))
        _, out = jax.lax.scan(step, (start, start), (x @ kernel + bias).swapaxes(0, 1))
        return ((out.swapaxes(0, 1) - y) ** 2).mean()

    make = lambda: cr.nn.LSTM(128, return_sequences=True).initialize((1, 64, 128))
    net = Network(make, (x, y), lambda model, x, y: cr.mean(cr.square(model(x) - y)), torch, jax)
    return network("LSTM 128-128, 64 steps, batch 32, loss and gradients", net)


def jax_lstm_cell(jax: Any, gates: Any, cell: Any) -> tuple[Any, Any]:
    enter, keep, proposed, leave = jax.numpy.split(gates, 4, -1)
    cell = jax.nn.sigmoid(keep) * cell + jax.nn.sigmoid(enter) * jax.numpy.tanh(proposed)
    return jax.nn.sigmoid(leave) * jax.numpy.tanh(cell), cell


BATCH, STEPS, UNITS, SLOTS, CELL = 8, 20, 100, 128, 20


def turing_machine() -> Workload:
    """One head that reads, one that writes, an LSTM of 100 as controller: Graves et al. (2014)."""
    rng = np.random.default_rng(0)
    x, y = (rng.integers(0, 2, (BATCH, STEPS, size)).astype("float32") for size in (9, 8))
    cuts = np.cumsum([2 * CELL, CELL, CELL, 2, 2, 2]).tolist()

    def torch(torch: Any, p: Parameters, x: Any, y: Any) -> Any:
        f = torch.nn.functional
        memory = torch.full((BATCH, SLOTS, CELL), 1e-6)
        weights = p["first_weights"].softmax(-1).expand(BATCH, 2, SLOTS)
        reads, hidden = p["first_reads"].tanh().expand(BATCH, CELL), torch.zeros(BATCH, UNITS)
        cell, seen = hidden, []
        into = f.linear(x, p["kernel"], p["bias"])
        for t in range(STEPS):
            gates = into[:, t] + f.linear(torch.cat([reads, hidden], -1), p["recurrent_kernel"])
            enter, keep, leave, proposed = gates.chunk(4, -1)
            cell = keep.sigmoid() * cell + enter.sigmoid() * proposed.tanh()
            hidden = leave.sigmoid() * cell.tanh()
            orders = f.linear(hidden, p["interface.kernel"], p["interface.bias"])
            keys, add, erase, gate, strength, gamma, shifts = orders.tensor_split(cuts, -1)
            alike = torch.cosine_similarity(keys.view(BATCH, 2, 1, CELL), memory.view(BATCH, 1, SLOTS, CELL), -1, 1e-16)
            focus = (f.softplus(strength).unsqueeze(-1) * alike).softmax(-1)
            weights = torch.lerp(weights, focus, gate.sigmoid().unsqueeze(-1))
            shares = shifts.view(BATCH, 2, 3).softmax(-1)
            weights = sum(torch.roll(weights, i - 1, -1) * shares[..., i : i + 1] for i in range(3))
            weights = weights ** (1 + f.softplus(gamma)).unsqueeze(-1)
            weights = weights / weights.sum(-1, keepdim=True)
            reads = (weights[:, :1] @ memory).view(BATCH, -1)
            place = weights[:, 1].unsqueeze(-1)
            memory = memory * (1 - place * erase.sigmoid().unsqueeze(1)) + place * add.unsqueeze(1)
            seen.append(torch.cat([hidden, reads], -1))
        return f.binary_cross_entropy_with_logits(f.linear(torch.stack(seen, 1), p["readout.kernel"], p["readout.bias"]), y)

    def jax(jax: Any, p: Parameters, x: Any, y: Any) -> Any:
        m, nn = jax.numpy, jax.nn

        def step(state: Any, x: Any) -> Any:
            memory, weights, reads, hidden, cell = state
            enter, keep, leave, proposed = m.split(x + m.concatenate([reads, hidden], -1) @ p["recurrent_kernel"], 4, -1)
            cell = nn.sigmoid(keep) * cell + nn.sigmoid(enter) * m.tanh(proposed)
            hidden = nn.sigmoid(leave) * m.tanh(cell)
            orders = hidden @ p["interface.kernel"] + p["interface.bias"]
            keys, add, erase, gate, strength, gamma, shifts = m.split(orders, cuts, -1)
            keys = keys.reshape(BATCH, 2, CELL)
            lengths = m.sqrt((keys**2).sum(-1, keepdims=True) + 1e-16) * m.sqrt((memory**2).sum(-1) + 1e-16)[:, None]
            focus = nn.softmax(nn.softplus(strength)[..., None] * (keys @ memory.swapaxes(1, 2)) / lengths)
            weights = weights + nn.sigmoid(gate)[..., None] * (focus - weights)
            shares = nn.softmax(shifts.reshape(BATCH, 2, 3))
            weights = sum(m.roll(weights, i - 1, -1) * shares[..., i : i + 1] for i in range(3))
            weights = nn.softmax((1 + nn.softplus(gamma))[..., None] * m.log(weights + 1e-16))
            reads = (weights[:, :1] @ memory).reshape(BATCH, CELL)
            place = weights[:, 1, :, None]
            memory = memory * (1 - place * nn.sigmoid(erase)[:, None]) + place * add[:, None]
            return (memory, weights, reads, hidden, cell), m.concatenate([hidden, reads], -1)

        zeros = m.zeros((BATCH, UNITS))
        weights = m.broadcast_to(nn.softmax(p["first_weights"]), (BATCH, 2, SLOTS))
        reads = m.broadcast_to(m.tanh(p["first_reads"]), (BATCH, CELL))
        start = m.full((BATCH, SLOTS, CELL), 1e-6), weights, reads, zeros, zeros
        _, seen = jax.lax.scan(step, start, (x @ p["kernel"] + p["bias"]).swapaxes(0, 1))
        logits = seen.swapaxes(0, 1) @ p["readout.kernel"] + p["readout.bias"]
        return (nn.softplus(logits) - logits * y).mean()

    make = lambda: cr.models.neural_turing_machine(9, 8, units=UNITS, memory=(SLOTS, CELL)).initialize((1, STEPS, 9))
    net = Network(make, (x, y), lambda model, x, y: cr.mean(cr.nn.losses.sigmoid_cross_entropy(model(x), y)), torch, jax)
    return network(f"Neural Turing Machine, {STEPS} steps, batch {BATCH}, loss and gradients", net, aim=3)


VOCABULARY, WIDTH, HEADS, LAYERS, CONTEXT = 1000, 256, 8, 4, 128


def transformer() -> Workload:
    rng = np.random.default_rng(0)
    text = rng.integers(0, VOCABULARY, (8, CONTEXT + 1))

    def make() -> cr.nn.Layer:
        model = cr.models.transformer(VOCABULARY, width=WIDTH, heads=HEADS, layers=LAYERS, context=CONTEXT)
        return model.initialize((1, CONTEXT), dtype="int64")

    def torch(torch: Any, p: Parameters, tokens: Any, targets: Any) -> Any:
        f = torch.nn.functional
        linear = lambda x, name: f.linear(x, p[f"{name}.kernel"], p[f"{name}.bias"])
        norm = lambda x, name: f.layer_norm(x, (WIDTH,), p[f"{name}.gamma"], p[f"{name}.beta"], 1e-5)
        heads = lambda x: x.view(*x.shape[:2], HEADS, -1).transpose(1, 2)
        x = f.embedding(tokens, p["tokens.embeddings"]) + p["positions.embeddings"]
        for i in range(LAYERS):
            seen = norm(x, f"blocks.{i}.attention_norm")
            parts = (heads(linear(seen, f"blocks.{i}.attention.{part}")) for part in ("query", "key", "value"))
            mixed = f.scaled_dot_product_attention(*parts, is_causal=True).transpose(1, 2).reshape(x.shape)
            x = x + linear(mixed, f"blocks.{i}.attention.output")
            x = x + linear(f.gelu(linear(norm(x, f"blocks.{i}.mlp_norm"), f"blocks.{i}.expand")), f"blocks.{i}.contract")
        logits = f.linear(norm(x, "norm"), p["tokens.embeddings"])
        return f.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def jax(jax: Any, p: Parameters, tokens: Any, targets: Any) -> Any:
        m = jax.numpy
        linear = lambda x, name: x @ p[f"{name}.kernel"] + p[f"{name}.bias"]
        heads = lambda x: x.reshape(*x.shape[:2], HEADS, -1)

        def norm(x: Any, name: str) -> Any:
            x = x - x.mean(-1, keepdims=True)
            return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) * p[f"{name}.gamma"] + p[f"{name}.beta"]

        x = p["tokens.embeddings"][tokens] + p["positions.embeddings"]
        for i in range(LAYERS):
            seen = norm(x, f"blocks.{i}.attention_norm")
            parts = (heads(linear(seen, f"blocks.{i}.attention.{part}")) for part in ("query", "key", "value"))
            x = x + linear(jax.nn.dot_product_attention(*parts, is_causal=True).reshape(x.shape), f"blocks.{i}.attention.output")
            seen = linear(norm(x, f"blocks.{i}.mlp_norm"), f"blocks.{i}.expand")
            x = x + linear(jax.nn.gelu(seen, approximate=False), f"blocks.{i}.contract")
        return jax_cross_entropy(jax, m.matmul(norm(x, "norm"), p["tokens.embeddings"].T), targets)

    ours = lambda model, tokens, targets: cr.nn.losses.softmax_cross_entropy(model(tokens), targets)
    net = Network(make, (text[:, :-1], text[:, 1:]), ours, torch, jax, "AdamW", {"lr": 1e-3})
    return network(f"transformer, {LAYERS} layers of {WIDTH}, {HEADS} heads, {CONTEXT} steps, batch 8, AdamW", net)


WORKLOADS = {"lstm": lstm, "ntm": turing_machine, "transformer": transformer}
