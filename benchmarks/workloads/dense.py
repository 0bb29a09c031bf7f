"""Networks of dense layers: a support vector machine, a perceptron with two sizes of batch, a critic with its penalty, and a very deep one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import chainrule as cr
from workloads.workload import Network, Parameters, Workload, network

DEPTH, STRETCH, WIDTH = 64, 8, 256


def examples(batch: int, size: int, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(batch, size)).astype("float32"), rng.integers(0, classes, batch)


def layers(p: Parameters) -> list[tuple[Any, Any]]:
    """Weights and biases, layer by layer."""
    values = list(p.values())
    return list(zip(values[::2], values[1::2], strict=True))


def dense(*sizes: int, last: str | None = None, kernel: str = "glorot_uniform") -> cr.nn.Sequential:
    *hidden, outputs = sizes[1:]
    parts = [cr.nn.Dense(units, "relu", kernel_initializer=kernel) for units in hidden]
    return cr.nn.Sequential([*parts, cr.nn.Dense(outputs, last, kernel_initializer=kernel)]).initialize((1, sizes[0]))


def torch_scores(torch: Any, p: Parameters, x: Any) -> Any:
    *hidden, (w, b) = layers(p)
    for v, c in hidden:
        x = torch.relu(torch.nn.functional.linear(x, v, c))
    return torch.nn.functional.linear(x, w, b)


def jax_scores(jax: Any, p: Parameters, x: Any) -> Any:
    *hidden, (w, b) = layers(p)
    for v, c in hidden:
        x = jax.nn.relu(x @ v + c)
    return x @ w + b


def jax_cross_entropy(jax: Any, scores: Any, y: Any) -> Any:
    return -jax.numpy.take_along_axis(jax.nn.log_softmax(scores), y[..., None], -1).mean()


def svm() -> Workload:
    def ours(model: Any, x: Any, y: Any) -> Any:
        w = model.kernel
        return cr.nn.losses.multiclass_hinge(model(x), y) + 1e-3 * cr.sum(w * w)

    def torch(torch: Any, p: Parameters, x: Any, y: Any) -> Any:
        w, b = p.values()
        # PyTorch divides by the number of classes.
        return 10 * torch.nn.functional.multi_margin_loss(torch.nn.functional.linear(x, w, b), y) + 1e-3 * (w * w).sum()

    def jax(jax: Any, p: Parameters, x: Any, y: Any) -> Any:
        w, b = p.values()
        scores = x @ w + b
        right = jax.numpy.take_along_axis(scores, y[:, None], 1)
        return jax.nn.relu(scores - right + 1).sum(1).mean() - 1 + 1e-3 * (w * w).sum()

    make = lambda: cr.nn.Dense(10).initialize((1, 3072))
    net = Network(make, examples(256, 3072), ours, torch, jax)
    return network("SVM loss with L2, 3072-10, batch 256, loss and gradients", net, aim=3)


def mlp(batch: int) -> Workload:
    net = Network(
        lambda: dense(784, 256, 128, 10),
        examples(batch, 784),
        lambda model, x, y: cr.nn.losses.softmax_cross_entropy(model(x), y),
        lambda torch, p, x, y: torch.nn.functional.cross_entropy(torch_scores(torch, p, x), y),
        lambda jax, p, x, y: jax_cross_entropy(jax, jax_scores(jax, p, x), y),
        "SGD",
        {"lr": 0.05, "momentum": 0.9},
    )
    return network(f"MLP 784-256-128-10, SGD with momentum, batch {batch}", net)


def wgan_gp() -> Workload:
    """A critic's step, with points between real and generated ones that are the same for everyone."""
    rng = np.random.default_rng(0)
    real, fake = (rng.normal(size=(64, 784)).astype("float32") for _ in range(2))

    def ours(critic: Any, real: Any, fake: Any, t: Any) -> Any:
        slopes = cr.grad(lambda x: cr.sum(critic(x)))(fake + t * (real - fake))
        lengths = cr.sqrt(cr.sum(cr.square(slopes), axis=1) + 1e-12)
        return cr.mean(critic(fake)) - cr.mean(critic(real)) + 10 * cr.mean(cr.square(lengths - 1))

    def torch(torch: Any, p: Parameters, real: Any, fake: Any, t: Any) -> Any:
        between = (fake + t * (real - fake)).requires_grad_()
        (slopes,) = torch.autograd.grad(torch_scores(torch, p, between).sum(), between, create_graph=True)
        lengths = (slopes.square().sum(1) + 1e-12).sqrt()
        return torch_scores(torch, p, fake).mean() - torch_scores(torch, p, real).mean() + 10 * (lengths - 1).square().mean()

    def jax(jax: Any, p: Parameters, real: Any, fake: Any, t: Any) -> Any:
        slopes = jax.grad(lambda x: jax_scores(jax, p, x).sum())(fake + t * (real - fake))
        lengths = jax.numpy.sqrt((slopes**2).sum(1) + 1e-12)
        return jax_scores(jax, p, fake).mean() - jax_scores(jax, p, real).mean() + 10 * ((lengths - 1) ** 2).mean()

    data = real, fake, rng.uniform(size=(64, 1)).astype("float32")
    net = Network(lambda: dense(784, 256, 128, 1), data, ours, torch, jax, "Adam", {"lr": 1e-4, "betas": (0.5, 0.9)})
    return network("WGAN-GP, critic 784-256-128-1, Adam, batch 64", net)


def deep(recompute: bool) -> Workload:
    """Sixty-four layers; recomputing keeps only what goes from one stretch of eight to the next."""

    def stretches(parts: list[Any]) -> list[list[Any]]:
        return [parts[i : i + STRETCH] for i in range(0, DEPTH, STRETCH)]

    def all_of(parts: list[Any], apply: Callable[[Any, Any], Any], x: Any) -> Any:
        for part in parts:
            x = apply(part, x)
        return x

    def ours(model: Any, x: Any) -> Any:
        for part in stretches(list(model.layers)):
            run = lambda x, part=part: all_of(part, lambda layer, x: layer(x), x)
            x = cr.checkpoint(run)(x) if recompute else run(x)
        return cr.mean(cr.square(x))

    def torch(torch: Any, p: Parameters, x: Any) -> Any:
        for part in stretches(layers(p)):
            run = lambda x, part=part: all_of(part, lambda wb, x: torch.relu(torch.nn.functional.linear(x, *wb)), x)
            x = torch.utils.checkpoint.checkpoint(run, x, use_reentrant=False) if recompute else run(x)
        return x.square().mean()

    def jax(jax: Any, p: Parameters, x: Any) -> Any:
        def run(x: Any, part: Any) -> tuple[Any, None]:
            return all_of(part, lambda wb, x: jax.nn.relu(x @ wb[0] + wb[1]), x), None

        if recompute:
            # Unrolled, the compiler would merge what is computed again with what was computed before.
            parts = jax.tree.map(lambda *xs: jax.numpy.stack(xs), *stretches(layers(p)))
            x, _ = jax.lax.scan(jax.checkpoint(run), x, parts)
        else:
            for part in stretches(layers(p)):
                x, _ = run(x, part)
        return (x**2).mean()

    x, _ = examples(8192, WIDTH)
    make = lambda: dense(*[WIDTH] * (DEPTH + 1), last="relu", kernel="he_normal")
    net = Network(make, (x,), ours, torch, jax, "SGD", {"lr": 1e-3})
    return network(f"{DEPTH} layers of {WIDTH}, SGD, batch 8192, {'recomputing' if recompute else 'plain'}", net)


WORKLOADS = {
    "svm": svm,
    "mlp64": lambda: mlp(64),
    "mlp512": lambda: mlp(512),
    "wgan": wgan_gp,
    "deep": lambda: deep(recompute=False),
    "deep-recompute": lambda: deep(recompute=True),
}
