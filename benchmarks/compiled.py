"""Time per call of compiled functions, beside hand-written NumPy, PyTorch and JAX in the same process.

Everyone gets the same numbers and computes loss and gradients, or a whole training step. The contenders take turns, round by
round, each in a process of its own, because thread pools in one process spin in each other's way.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import chainrule as cr

Call = Callable[[], Any]
HAND, OURS, JAX, TORCH, TORCH_COMPILE = "NumPy by hand", "chainrule", "JAX jit", "PyTorch eager", "torch.compile"
ORDER = (OURS, HAND, JAX, TORCH, TORCH_COMPILE)


@dataclass(frozen=True)
class Workload:
    """One thing to compute, by several contenders; ``value`` reads the loss of a result."""

    name: str
    calls: dict[str, Call]
    repeat: int


def network(sizes: tuple[int, ...], batch: int) -> tuple[list[np.ndarray], np.ndarray, np.random.Generator]:
    """Weights and biases, inputs, and the generator for the rest."""
    rng = np.random.default_rng(0)
    weights: list[np.ndarray] = []
    for inputs, outputs in pairwise(sizes):
        weights += [rng.normal(size=(inputs, outputs)).astype("float32") / np.float32(inputs**0.5), np.zeros(outputs, "float32")]
    return weights, rng.normal(size=(batch, sizes[0])).astype("float32"), rng


def tanh_network(*, peers: bool) -> Workload:
    """Loss and gradients of a 4-16-1 network with tanh, batch 8."""
    weights, x, rng = network((4, 16, 1), 8)
    y = rng.normal(size=(8, 1)).astype("float32")

    def loss(m: Any) -> Callable[..., Any]:
        return lambda w1, b1, w2, b2, x, y: (((m.tanh(x @ w1 + b1) @ w2 + b2) - y) ** 2).mean()

    def hand(w1: Any, b1: Any, w2: Any, b2: Any, x: Any, y: Any) -> tuple[Any, ...]:
        h = np.tanh(x.dot(w1) + b1)
        d = h.dot(w2) + b2 - y
        value = np.add.reduce(d * d, axis=None) / 8
        grad_d = d * 0.25
        grad_s = grad_d.dot(w2.T) * (1.0 - h * h)
        return value, x.T.dot(grad_s), np.add.reduce(grad_s, 0), h.T.dot(grad_d), np.add.reduce(grad_d, 0)

    def torch_loss(*given: Any) -> Any:
        value = loss(torch)(*given)
        return value, torch.autograd.grad(value, given[:4])

    given = [*weights, x, y]
    ours, theirs, jaxs = [cr.tensor(v) for v in given], [torch.tensor(v) for v in given], [jnp.asarray(v) for v in given]
    for w in theirs[:4]:
        w.requires_grad_()
    step = cr.compile(cr.value_and_grad(loss(cr), argnums=(0, 1, 2, 3)))
    jitted = jax.jit(jax.value_and_grad(loss(jnp), argnums=(0, 1, 2, 3)))
    calls: dict[str, Call] = {
        OURS: lambda: step(*ours),
        HAND: lambda: hand(*given),
        JAX: lambda: jax.block_until_ready(jitted(*jaxs)),
        TORCH: lambda: torch_loss(*theirs),
    }
    if peers:
        compiled = torch.compile(torch_loss)
        calls[TORCH_COMPILE] = lambda: compiled(*theirs)
    return Workload("(a) 4-16-1 tanh network, batch 8: loss and gradients", calls, 300)


def neuron(*, peers: bool) -> Workload:
    """Value and gradients of the sigmoid neuron of five scalars, written as small gates."""
    given = [2.0, -1.0, -3.0, -2.0, -3.0]

    def value(m: Any) -> Callable[..., Any]:
        return lambda w0, x0, w1, x1, w2: 1.0 / (1.0 + m.exp(-1.0 * (w0 * x0 + w1 * x1 + w2)))

    def hand(w0: Any, x0: Any, w1: Any, x1: Any, w2: Any) -> tuple[Any, ...]:
        f = 1.0 / (1.0 + np.exp(-1.0 * (w0 * x0 + w1 * x1 + w2)))
        g = f * (1.0 - f)
        return f, g * x0, g * w0, g * x1, g * w1, g

    def torch_value(*leaves: Any) -> Any:
        out = value(torch)(*leaves)
        return out, torch.autograd.grad(out, leaves)

    scalars = [np.float32(v) for v in given]
    ours, theirs, jaxs = [cr.tensor(v) for v in given], [torch.tensor(v, requires_grad=True) for v in given], [jnp.float32(v) for v in given]
    step = cr.compile(cr.value_and_grad(value(cr), argnums=(0, 1, 2, 3, 4)))
    jitted = jax.jit(jax.value_and_grad(value(jnp), argnums=(0, 1, 2, 3, 4)))
    calls: dict[str, Call] = {
        OURS: lambda: step(*ours),
        HAND: lambda: hand(*scalars),
        JAX: lambda: jax.block_until_ready(jitted(*jaxs)),
        TORCH: lambda: torch_value(*theirs),
    }
    if peers:
        compiled = torch.compile(torch_value)
        calls[TORCH_COMPILE] = lambda: compiled(*theirs)
    return Workload("(b) sigmoid neuron on scalars: value and gradients", calls, 300)


def training_step(*, peers: bool) -> Workload:
    """A training step of a 784-256-128-10 network with SGD momentum, batch 64."""
    weights, x, rng = network((784, 256, 128, 10), 64)
    labels = rng.integers(0, 10, 64)
    lr, momentum = 0.05, 0.9
    calls: dict[str, Call] = {OURS: our_step(weights, x, labels, lr, momentum), HAND: hand_step(weights, x, labels, lr, momentum)}
    calls[JAX] = jax_step(weights, x, labels, lr, momentum)
    calls[TORCH] = torch_step(weights, x, labels, lr, momentum, compiled=False)
    if peers:
        calls[TORCH_COMPILE] = torch_step(weights, x, labels, lr, momentum, compiled=True)
    return Workload("(c) 784-256-128-10, SGD momentum, batch 64: training step", calls, 30)


def our_step(weights: list[np.ndarray], x: np.ndarray, labels: np.ndarray, lr: float, momentum: float) -> Call:
    model = cr.nn.Sequential([cr.nn.Dense(256, activation="relu"), cr.nn.Dense(128, activation="relu"), cr.nn.Dense(10)]).initialize(x.shape)
    with cr.no_grad():
        for parameter, value in zip(model.parameters(), weights, strict=True):
            parameter.assign(value)
    optimizer = cr.optim.SGD(model.parameters(), lr=lr, momentum=momentum)

    @cr.compile
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = cr.nn.losses.softmax_cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    images, targets = cr.tensor(x), cr.tensor(labels)
    return lambda: step(images, targets)


def hand_step(weights: list[np.ndarray], x: np.ndarray, labels: np.ndarray, lr: float, momentum: float) -> Call:
    w1, b1, w2, b2, w3, b3 = parameters = [w.copy() for w in weights]
    velocities = [np.zeros_like(w) for w in weights]
    rows = np.arange(len(x))
    rate, keep = np.float32(lr), np.float32(momentum)

    def step() -> Any:
        s1 = x.dot(w1)
        s1 += b1
        h1 = np.maximum(s1, 0)
        s2 = h1.dot(w2)
        s2 += b2
        h2 = np.maximum(s2, 0)
        scores = h2.dot(w3)
        scores += b3
        scores -= scores.max(1, keepdims=True)
        exps = np.exp(scores)
        totals = exps.sum(1, keepdims=True)
        loss = np.mean(np.log(totals[:, 0]) - scores[rows, labels])
        exps /= totals
        exps[rows, labels] -= 1
        exps *= np.float32(1 / len(x))
        grad_h2 = exps.dot(w3.T)
        grad_h2 *= s2 > 0
        grad_h1 = grad_h2.dot(w2.T)
        grad_h1 *= s1 > 0
        gradients = [x.T.dot(grad_h1), grad_h1.sum(0), h1.T.dot(grad_h2), grad_h2.sum(0), h2.T.dot(exps), exps.sum(0)]
        for parameter, velocity, gradient in zip(parameters, velocities, gradients, strict=True):
            velocity *= keep
            velocity += gradient
            np.multiply(velocity, rate, out=gradient)
            parameter -= gradient
        return loss

    return step


def jax_step(weights: list[np.ndarray], x: np.ndarray, labels: np.ndarray, lr: float, momentum: float) -> Call:
    def loss_of(parameters: Any, x: Any, y: Any) -> Any:
        w1, b1, w2, b2, w3, b3 = parameters
        scores = jax.nn.relu(jax.nn.relu(x @ w1 + b1) @ w2 + b2) @ w3 + b3
        return -jax.nn.log_softmax(scores)[jnp.arange(len(y)), y].mean()

    def step(parameters: Any, velocities: Any, x: Any, y: Any) -> Any:
        value, gradients = jax.value_and_grad(loss_of)(parameters, x, y)
        velocities = [momentum * v + g for v, g in zip(velocities, gradients, strict=True)]
        return value, [p - lr * v for p, v in zip(parameters, velocities, strict=True)], velocities

    jitted = jax.jit(step, donate_argnums=(0, 1))
    state = [[jnp.asarray(w) for w in weights], [jnp.zeros_like(w) for w in weights]]
    images, targets = jnp.asarray(x), jnp.asarray(labels)

    def call() -> Any:
        value, *state[:] = jitted(*state, images, targets)
        return jax.block_until_ready(value)

    return call


def torch_step(weights: list[np.ndarray], x: np.ndarray, labels: np.ndarray, lr: float, momentum: float, *, compiled: bool) -> Call:
    layers = [torch.nn.Linear(784, 256), torch.nn.ReLU(), torch.nn.Linear(256, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)]
    model = torch.nn.Sequential(*layers)
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), weights, strict=True):
            parameter.copy_(torch.tensor(value.T))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    images, targets = torch.tensor(x), torch.tensor(labels)

    def step() -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images), targets)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return torch.compile(step) if compiled else step


def chain_of(count: int, m: Any) -> Callable[[Any], Any]:
    """A function of ``count`` scalar gates."""

    def f(x: Any) -> Any:
        y = x
        for i in range(count // 4):
            y = m.sin(y) * 0.5 + y * (1.0 + 0.001 * (i % 7))
        return y

    return f


def scalar_graph(*, peers: bool) -> Workload:
    """The gradient of a graph of 2,000 scalar gates."""
    del peers  # torch.compile takes minutes here
    x = 0.3
    ours, theirs, jaxs = cr.tensor(x), torch.tensor(x, requires_grad=True), jnp.float32(x)
    step, jitted = cr.compile(cr.grad(chain_of(2000, cr))), jax.jit(jax.grad(chain_of(2000, jnp)))
    calls: dict[str, Call] = {
        OURS: lambda: step(ours),
        JAX: lambda: jax.block_until_ready(jitted(jaxs)),
        TORCH: lambda: torch.autograd.grad(chain_of(2000, torch)(theirs), theirs),
    }
    return Workload("(d) gradient of 2,000 scalar gates", calls, 10)


def contend(pipe: Connection, make: Callable[..., Workload], name: str, peers: bool) -> None:
    """One contender in a process of its own: the first call, then a round whenever asked for one."""
    work = make(peers=peers)
    call = work.calls[name]
    began = perf_counter()
    call()
    pipe.send(perf_counter() - began)
    while pipe.recv():
        for _ in range(5):
            call()
        began = perf_counter()
        for _ in range(work.repeat):
            call()
        pipe.send((perf_counter() - began) / work.repeat * 1e6)


def measure(make: Callable[..., Workload], rounds: int, *, peers: bool) -> tuple[str, dict[str, tuple[float, list[float]]]]:
    """The workload's name; seconds of the first call, and microseconds per call of every round, for every contender."""
    work = make(peers=peers)
    context = get_context("spawn")
    pipes: dict[str, Connection] = {}
    found: dict[str, tuple[float, list[float]]] = {}
    for name in work.calls:
        pipes[name], end = context.Pipe()
        context.Process(target=contend, args=(end, make, name, peers), daemon=True).start()
        found[name] = (pipes[name].recv(), [])
    for _ in range(rounds):
        for name, pipe in pipes.items():
            sleep(0.02)
            pipe.send(True)
            found[name][1].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    return work.name, found


def compile_times() -> list[str]:
    """Milliseconds to compile the gradient of graphs of growing size, and what a call costs beside its work."""
    lines = ["| gates | milliseconds | per gate of the gradient's graph, us |", "|---|---|---|"]
    for count in (100, 1000, 10_000):
        best: tuple[float, int] | None = None
        for _ in range(3):
            step = cr.compile(cr.grad(chain_of(count, cr)))
            step(cr.tensor(0.3))
            one = step.stats().compilations[0]
            nodes = len(cr.trace(cr.grad(chain_of(count, cr)), 0.3).nodes) if best is None else best[1]
            best = (min(one["milliseconds"], best[0] if best else float("inf")), nodes)
        assert best is not None
        lines.append(f"| {count} | {best[0]:.1f} | {best[0] * 1e3 / best[1]:.1f} |")
    return lines


def call_overhead(rounds: int) -> list[str]:
    """Microseconds of a call that hands over, and does next to nothing."""
    ten = [cr.tensor(np.float32(i)) for i in range(10)]
    nested = ({"w": [ten[0], ten[1]], "b": (ten[2], ten[3])}, [ten[4], {"x": ten[5], "y": (ten[6], ten[7])}], ten[8], ten[9])
    flat = cr.compile(lambda *xs: None)
    deep = cr.compile(lambda *xs: None)

    def timed(call: Call) -> list[float]:
        call()
        found: list[float] = []
        for _ in range(rounds):
            began = perf_counter()
            for _ in range(2000):
                call()
            found.append((perf_counter() - began) / 2000 * 1e6)
        return found

    rows = {"ten flat arguments": timed(lambda: flat(*ten)), "ten in nested containers": timed(lambda: deep(*nested))}
    return ["| call | us, median (min) |", "|---|---|", *(f"| {name} | {median(t):.2f} ({min(t):.2f}) |" for name, t in rows.items())]


def short(microseconds: float) -> str:
    return f"{microseconds:.0f}" if microseconds >= 100 else f"{microseconds:.1f}" if microseconds >= 10 else f"{microseconds:.2f}"


def machine() -> str:
    """What this ran on."""
    cpu = subprocess.run(["grep", "-m1", "model name", "/proc/cpuinfo"], capture_output=True, text=True, check=False).stdout.partition(":")[2].strip()
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, PyTorch {torch.__version__}, JAX {jax.__version__}"
    return f"{cpu or platform.machine()}, {versions}, {datetime.now(UTC):%Y-%m-%d}"


def report(rounds: int, *, peers: bool) -> str:
    lines = [
        "# Compiled functions beside others",
        "",
        "`make bench-compiled` writes this page. A call of ours checks the signature, runs, and names the results; by hand there are bare arrays.",
        "",
        f"`{' '.join(['python', *sys.argv])}`, {rounds} interleaved rounds: {machine()}.",
        "",
        "Microseconds per call, median (minimum); in brackets the time of the first call.",
        "",
        f"| workload | {' | '.join(ORDER)} | chainrule / by hand | chainrule / JAX |",
        f"|---|{'---|' * (len(ORDER) + 2)}",
    ]
    for make in (tanh_network, neuron, training_step, scalar_graph):
        title, found = measure(make, rounds, peers=peers)
        cells = [f"{short(median(found[n][1]))} ({short(min(found[n][1]))}) [{found[n][0]:.2f} s]" if n in found else "-" for n in ORDER]
        ratios = [f"{median(found[OURS][1]) / median(found[n][1]):.2f}" if n in found else "-" for n in (HAND, JAX)]
        lines.append(f"| {title} | {' | '.join([*cells, *ratios])} |")
    return "\n".join([*lines, "", "Compiling:", "", *compile_times(), "", "Handing over:", "", *call_overhead(rounds)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--without-torch-compile", action="store_true", help="it takes most of the time")
    parser.add_argument("--output", type=Path, help="a file for the table")
    options = parser.parse_args()
    peers = shutil.which("g++") is not None and not options.without_torch_compile
    text = report(options.rounds, peers=peers)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
