"""Networks of convolutions: a small one, a stretch of three with batch normalization, and AlexNet."""

from __future__ import annotations

from typing import Any

import numpy as np

import chainrule as cr
from workloads.dense import jax_cross_entropy
from workloads.workload import Network, Parameters, Workload, network

EPSILON = 1e-5


def pictures(batch: int, size: int, channels: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(batch, size, size, channels)).astype("float32")


def labels(batch: int, classes: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, classes, batch)


def jax_conv(jax: Any, x: Any, w: Any, padding: int, stride: int = 1) -> Any:
    return jax.lax.conv_general_dilated(x, w, (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def jax_pool(jax: Any, x: Any, size: int) -> Any:
    return jax.lax.reduce_window(x, -jax.numpy.inf, jax.lax.max, (1, size, size, 1), (1, 2, 2, 1), "VALID")


def cnn() -> Workload:
    """Two convolutions with pooling, and two dense layers."""

    def make() -> cr.nn.Layer:
        parts: list[cr.nn.Layer] = []
        for features in (32, 64):
            parts += [cr.nn.Conv2D(features, 5, padding=2, activation="relu"), cr.nn.MaxPooling2D(2)]
        return cr.nn.Sequential([*parts, cr.nn.Flatten(), cr.nn.Dense(256, "relu"), cr.nn.Dense(10)]).initialize((1, 28, 28, 1))

    def torch(torch: Any, p: Parameters, x: Any, y: Any) -> Any:
        f = torch.nn.functional
        w1, b1, w2, b2, w3, b3, w4, b4 = p.values()
        x = f.max_pool2d(f.relu(f.conv2d(x, w1, b1, padding=2)), 2)
        x = f.max_pool2d(f.relu(f.conv2d(x, w2, b2, padding=2)), 2)
        return f.cross_entropy(f.linear(f.relu(f.linear(x.flatten(1), w3, b3)), w4, b4), y)

    def jax(jax: Any, p: Parameters, x: Any, y: Any) -> Any:
        w1, b1, w2, b2, w3, b3, w4, b4 = p.values()
        x = jax_pool(jax, jax.nn.relu(jax_conv(jax, x, w1, 2) + b1), 2)
        x = jax_pool(jax, jax.nn.relu(jax_conv(jax, x, w2, 2) + b2), 2)
        return jax_cross_entropy(jax, jax.nn.relu(x.reshape(len(x), -1) @ w3 + b3) @ w4 + b4, y)

    ours = lambda model, x, y: cr.nn.losses.softmax_cross_entropy(model(x), y)
    data = pictures(64, 28, 1), labels(64, 10)
    net = Network(make, data, ours, torch, jax, "Adam", {"lr": 1e-3}, before_dense=(7, 7, 64))
    return network("CNN 5x5 1-32, pool, 5x5 32-64, pool, 256, 10; Adam, batch 64", net, images=True)


def normalized() -> Workload:
    """Three times a convolution, batch normalization and ReLU. Ours keeps running averages too; the others' are left out."""

    def make() -> cr.nn.Layer:
        parts: list[cr.nn.Layer] = []
        for _ in range(3):
            parts += [cr.nn.Conv2D(64, 3, padding=1, use_bias=False), cr.nn.BatchNormalization(epsilon=EPSILON), cr.nn.ReLU()]
        return cr.nn.Sequential(parts).initialize((1, 32, 32, 64))

    def torch(torch: Any, p: Parameters, x: Any, y: Any) -> Any:
        f, values = torch.nn.functional, list(p.values())
        for w, gamma, beta in zip(values[::3], values[1::3], values[2::3], strict=True):
            x = f.relu(f.batch_norm(f.conv2d(x, w, padding=1), None, None, gamma, beta, True, 0.0, EPSILON))
        return f.mse_loss(x, y)

    def jax(jax: Any, p: Parameters, x: Any, y: Any) -> Any:
        values = list(p.values())
        for w, gamma, beta in zip(values[::3], values[1::3], values[2::3], strict=True):
            x = jax_conv(jax, x, w, 1)
            mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
            x = jax.nn.relu((x - mean) * jax.lax.rsqrt(variance + EPSILON) * gamma + beta)
        return ((x - y) ** 2).mean()

    x = pictures(16, 32, 64)
    net = Network(make, (x, np.abs(x)), lambda model, x, y: cr.mean(cr.square(model(x) - y)), torch, jax)
    return network("3 x (conv 3x3 64-64, batch norm, ReLU), 32x32, batch 16, loss and gradients", net, images=True)


# Features, size, stride, padding, and whether a pooling follows.
ALEXNET = [(64, 11, 4, 2, True), (192, 5, 1, 2, True), (384, 3, 1, 1, False), (256, 3, 1, 1, False), (256, 3, 1, 1, True)]


def alexnet() -> Workload:
    """Of one tower, without dropout: everyone's random numbers are different ones."""

    def make() -> cr.nn.Layer:
        # NumPy's own random numbers are quicker for sixty million of them.
        rng, zeros = np.random.default_rng(0), {"kernel_initializer": "zeros"}
        parts: list[cr.nn.Layer] = []
        for features, size, stride, padding, pooled in ALEXNET:
            parts.append(cr.nn.Conv2D(features, size, stride, padding=padding, activation="relu", **zeros))
            parts += [cr.nn.MaxPooling2D(3, 2)] if pooled else []
        head = [cr.nn.Flatten(), cr.nn.Dense(4096, "relu", **zeros), cr.nn.Dense(4096, "relu", **zeros), cr.nn.Dense(1000, **zeros)]
        model = cr.nn.Sequential([*parts, *head]).initialize((1, 224, 224, 3))
        with cr.no_grad():
            for p in model.parameters():
                if p.ndim > 1:
                    p.assign(rng.standard_normal(p.shape, "float32") * np.float32((2 / np.prod(p.shape[:-1])) ** 0.5))
        return model

    def torch(torch: Any, p: Parameters, x: Any, y: Any) -> Any:
        f, values = torch.nn.functional, list(p.values())
        for (_, _, stride, padding, pooled), w, b in zip(ALEXNET, values[0:10:2], values[1:10:2], strict=True):
            x = f.relu(f.conv2d(x, w, b, stride, padding))
            x = f.max_pool2d(x, 3, 2) if pooled else x
        x = x.flatten(1)
        for w, b in ((values[10], values[11]), (values[12], values[13])):
            x = f.relu(f.linear(x, w, b))
        return f.cross_entropy(f.linear(x, *values[14:]), y)

    def jax(jax: Any, p: Parameters, x: Any, y: Any) -> Any:
        values = list(p.values())
        for (_, _, stride, padding, pooled), w, b in zip(ALEXNET, values[0:10:2], values[1:10:2], strict=True):
            x = jax.nn.relu(jax_conv(jax, x, w, padding, stride) + b)
            x = jax_pool(jax, x, 3) if pooled else x
        x = x.reshape(len(x), -1)
        for w, b in ((values[10], values[11]), (values[12], values[13])):
            x = jax.nn.relu(x @ w + b)
        return jax_cross_entropy(jax, x @ values[14] + values[15], y)

    ours = lambda model, x, y: cr.nn.losses.softmax_cross_entropy(model(x), y)
    net = Network(make, (pictures(8, 224, 3), labels(8, 1000)), ours, torch, jax, before_dense=(6, 6, 256))
    return network("AlexNet, 224x224, batch 8, loss and gradients", net, images=True)


WORKLOADS = {"cnn": cnn, "batchnorm": normalized, "alexnet": alexnet}
