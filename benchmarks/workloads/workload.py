"""What a workload is: one computation, set up by every library that competes, on the same numbers.

A library is handed in, never imported here, so that a process holds only the one that it measures. A formula is written once
for all of them; a network is a model of ours, whose parameters the others take over, and a loss in each library's own words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

import chainrule as cr

# What is measured: a call without arguments. It returns what the libraries must agree about, the loss first.
Step = Callable[[], Sequence[Any]]
# What compiles a function, or leaves it as it is.
Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]
Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class Workload:
    """One line of the table.

    Attributes
    ----------
    title : str
    ours : callable
        ``ours(wrap)``: the step of this library.
    torch : callable
        ``torch(library, wrap, channels_last)``.
    jax : callable
        ``jax(library)``; always compiled.
    images : bool
        Whether the layout of images makes a difference to PyTorch.
    aim : float
        How many times as fast as the best peer it should be.
    """

    title: str
    ours: Callable[[Wrap], Step]
    torch: Callable[[Any, Wrap, bool], Step]
    jax: Callable[[Any], Step]
    images: bool = False
    aim: float = 1.0


def jax_names(jax: Any) -> Any:
    """JAX's functions under the names that the other two share."""
    return SimpleNamespace(**{**vars(jax.numpy), "sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu})


def formula(title: str, f: Callable[..., Any], arrays: Sequence[Any], aim: float = 1.0) -> Workload:
    """The value of ``f(names, *arrays)`` and its gradients; ``names`` are a library's functions."""
    wanted = tuple(range(len(arrays)))

    def ours(wrap: Wrap) -> Step:
        step = wrap(cr.value_and_grad(lambda *xs: f(cr, *xs), wanted))
        given = [cr.tensor(x) for x in arrays]
        return lambda: flat(step(*given))

    def torch_step(torch: Any, wrap: Wrap, last: bool) -> Step:
        del last

        @wrap
        def step(*xs: Any) -> Any:
            value = f(torch, *xs)
            return (value, *torch.autograd.grad(value, xs))

        given = [torch.tensor(x, requires_grad=True) for x in arrays]
        return lambda: step(*given)

    def jax_step(jax: Any) -> Step:
        names = jax_names(jax)
        step = jax.jit(jax.value_and_grad(lambda *xs: f(names, *xs), wanted))
        given = [jax.numpy.asarray(x) for x in arrays]
        return lambda: flat(jax.block_until_ready(step(*given)))

    return Workload(title, ours, torch_step, jax_step, aim=aim)


def flat(result: tuple[Any, Sequence[Any]]) -> Sequence[Any]:
    value, gradients = result
    return value, *gradients


@dataclass(frozen=True)
class Network:
    """A model and how it is trained.

    Attributes
    ----------
    model : callable
        Makes ours, with its parameters.
    data : tuple of arrays
        Images lie as (batch, height, width, channels).
    ours : callable
        ``ours(model, *data)``: the loss.
    torch : callable
        ``torch(library, parameters, *data)``; images lie as (batch, channels, height, width), matrices and kernels as PyTorch's layers keep them.
    jax : callable
        ``jax(library, parameters, *data)``; everything lies as ours.
    optimizer : str
        Its name in our library and in PyTorch; with none the step returns loss and gradients.
    settings : Mapping
        Of the optimizer.
    before_dense : tuple of int, optional
        Height, width and channels of what the first dense layer reads as one line.
    """

    model: Callable[[], cr.nn.Layer]
    data: tuple[np.ndarray, ...]
    ours: Callable[..., Any]
    torch: Callable[..., Any]
    jax: Callable[..., Any]
    optimizer: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    before_dense: tuple[int, int, int] | None = None

    def made(self) -> cr.nn.Layer:
        cr.manual_seed(0)
        return self.model()

    def numbers(self) -> dict[str, np.ndarray]:
        return {name: value.detach().numpy() for name, value in self.made().named_parameters()}


def network(title: str, net: Network, *, images: bool = False, aim: float = 1.0) -> Workload:
    """A training step, or loss and gradients, of a network."""
    return Workload(
        title,
        lambda wrap: _ours(net, wrap),
        lambda torch, wrap, last: _torch(net, torch, wrap, last),
        lambda jax: _jax(net, jax),
        images,
        aim,
    )


def _ours(net: Network, wrap: Wrap) -> Step:
    model = net.made()
    parameters = list(model.parameters())
    data = [cr.tensor(x) for x in net.data]
    if not net.optimizer:

        def gradients(*data: Any) -> Any:
            loss = net.ours(model, *data)
            return (loss, *cr.autograd.grad(loss, parameters))

        run = wrap(gradients)
        return lambda: run(*data)
    optimizer = getattr(cr.optim, net.optimizer)(parameters, **net.settings)

    def step(*data: Any) -> Any:
        optimizer.zero_grad()
        loss = net.ours(model, *data)
        loss.backward()
        optimizer.step()
        return (loss,)

    run = wrap(step)
    return lambda: run(*data)


def _torch(net: Network, torch: Any, wrap: Wrap, last: bool) -> Step:
    def laid(x: np.ndarray) -> Any:
        if last and x.ndim == 4:
            return torch.tensor(x).contiguous(memory_format=torch.channels_last)
        return torch.tensor(np.ascontiguousarray(x))

    there = {name: laid(value).requires_grad_() for name, value in pytorch_layout(net).items()}
    parameters = list(there.values())
    data = [laid(x.transpose(0, 3, 1, 2) if x.ndim == 4 else x) for x in net.data]
    if not net.optimizer:

        @wrap
        def gradients(*data: Any) -> Any:
            loss = net.torch(torch, there, *data)
            return (loss, *torch.autograd.grad(loss, parameters))

        return lambda: gradients(*data)
    optimizer = getattr(torch.optim, net.optimizer)(parameters, **net.settings, fused=True)

    @wrap
    def step(*data: Any) -> Any:
        optimizer.zero_grad()
        loss = net.torch(torch, there, *data)
        loss.backward()
        optimizer.step()
        return (loss.detach(),)

    return lambda: step(*data)


def pytorch_layout(net: Network) -> dict[str, np.ndarray]:
    """Parameters as PyTorch's layers keep them: outputs first; what is read as a line has the channels in front."""
    found: dict[str, np.ndarray] = {}
    shape = net.before_dense
    for name, value in net.numbers().items():
        if not name.endswith("kernel"):
            found[name] = value
        elif value.ndim == 4:
            found[name] = value.transpose(3, 2, 0, 1)
        elif shape:
            found[name] = value.reshape(*shape, -1).transpose(3, 2, 0, 1).reshape(value.shape[::-1])
            shape = None
        else:
            found[name] = value.T
    return found


def _jax(net: Network, jax: Any) -> Step:
    parameters = {name: jax.numpy.asarray(value) for name, value in net.numbers().items()}
    data = [jax.numpy.asarray(x) for x in net.data]
    # JAX sorts the keys of what it takes apart.
    in_order = lambda p: {name: p[name] for name in parameters}
    loss_and_gradients = jax.value_and_grad(lambda p, *data: net.jax(jax, in_order(p), *data))
    if not net.optimizer:
        run = jax.jit(loss_and_gradients)

        def gradients() -> Any:
            loss, found = jax.block_until_ready(run(parameters, *data))
            return (loss, *in_order(found).values())

        return gradients
    start, update = OPTIMIZERS[net.optimizer](jax, **net.settings)

    def step(p: Any, kept: Any, *data: Any) -> Any:
        loss, found = loss_and_gradients(p, *data)
        return (loss, *update(p, kept, found))

    run = jax.jit(step, donate_argnums=(0, 1))
    state = [parameters, start(parameters)]

    def call() -> Any:
        loss, *state[:] = run(*state, *data)
        return jax.block_until_ready((loss, *state))[:1]

    return call


def jax_sgd(jax: Any, *, lr: float, momentum: float = 0.0) -> Any:
    """JAX has no optimizers: PyTorch's rules by hand."""

    def update(p: Any, kept: Any, g: Any) -> Any:
        if not momentum:
            return jax.tree.map(lambda p, g: p - lr * g, p, g), kept
        kept = jax.tree.map(lambda v, g: momentum * v + g, kept, g)
        return jax.tree.map(lambda p, v: p - lr * v, p, kept), kept

    return lambda p: jax.tree.map(jax.numpy.zeros_like, p) if momentum else {}, update


def jax_adam(jax: Any, *, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0) -> Any:
    """Adam, and AdamW if there is a weight decay."""
    first, second = betas

    def update(p: Any, kept: Any, g: Any) -> Any:
        count, m, v = kept
        count = count + 1
        m = jax.tree.map(lambda m, g: first * m + (1 - first) * g, m, g)
        v = jax.tree.map(lambda v, g: second * v + (1 - second) * g * g, v, g)
        size, root = lr / (1 - first**count), jax.numpy.sqrt(1 - second**count)
        p = jax.tree.map(lambda p, m, v: p * (1 - lr * weight_decay) - size * m / (jax.numpy.sqrt(v) / root + eps), p, m, v)
        return p, (count, m, v)

    zeros = jax.numpy.zeros_like
    return lambda p: (jax.numpy.zeros((), "float32"), jax.tree.map(zeros, p), jax.tree.map(zeros, p)), update


OPTIMIZERS = {"SGD": jax_sgd, "Adam": jax_adam, "AdamW": lambda jax, **settings: jax_adam(jax, **{"weight_decay": 0.01, **settings})}
