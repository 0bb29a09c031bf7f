"""cr.checkpoint: the same values and derivatives, of every order and in every mode, with only the inputs kept in between."""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr
from chainrule import nn
from chainrule.autodiff.checkpoint import BARRIER, CHECKPOINT, opened, without_barriers
from chainrule.compiler.simplify import simplify
from chainrule.graph.ir import Graph

MIB = 2**20
X = np.linspace(-1, 1, 5)
V = np.linspace(1, 2, 5)


def wave(x: cr.Tensor) -> cr.Tensor:
    return cr.sum(cr.tanh(x * x) * cr.exp(x))


def both(x: cr.Tensor) -> cr.Tensor:
    return cr.stack([x, 2.0 * x])


Scalar = Callable[[cr.Tensor], cr.Tensor]
WAYS: dict[str, Callable[[Scalar], Callable[[Any], Any]]] = {
    "value": lambda f: f,
    "grad": cr.grad,
    "jvp": lambda f: lambda x: cr.jvp(f, (x,), (V,)),
    "grad of grad": lambda f: cr.grad(lambda x: cr.sum(cr.grad(f)(x) ** 2)),
    "grad of jvp": lambda f: cr.grad(lambda x: cr.jvp(f, (x,), (V,))[1]),
    "jvp of grad": lambda f: lambda x: cr.jvp(cr.grad(f), (x,), (V,)),
    "jvp of jvp": lambda f: lambda x: cr.jvp(lambda x: cr.jvp(f, (x,), (V,))[1], (x,), (V,)),
    "third order": lambda f: cr.grad(lambda x: cr.sum(cr.grad(lambda x: cr.sum(cr.grad(f)(x) * V))(x) * V)),
    "vmap": lambda f: lambda x: cr.vmap(f)(both(cr.asarray(x))),
    "vmap of grad": lambda f: lambda x: cr.vmap(cr.grad(f))(both(cr.asarray(x))),
    "grad of vmap": lambda f: cr.grad(lambda x: cr.sum(cr.vmap(f)(both(x)) ** 2)),
    "vmap of grad of grad": lambda f: lambda x: cr.vmap(WAYS["grad of grad"](f))(both(cr.asarray(x))),
    "traced, then grad": lambda f: lambda x: cr.trace(f, x).grad().run(x),
    "grad, then traced": lambda f: lambda x: cr.trace(cr.grad(f), x).run(x),
    "grad of grad, traced": lambda f: lambda x: cr.trace(WAYS["grad of grad"](f), x).run(x),
    "compiled grad": lambda f: lambda x: cr.compile(cr.grad(f))(x),
    "grad of compiled": lambda f: cr.grad(cr.compile(f)),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_derivative_is_that_of_the_function(way: str) -> None:
    expected, found = (leaves(WAYS[way](f)(X)) for f in (wave, cr.checkpoint(wave)))
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-12)


def leaves(out: Any) -> list[np.ndarray]:
    parts = out if isinstance(out, tuple) else (out,)
    return [np.asarray(part.detach()) for part in parts]


def test_checkpoints_may_stand_in_checkpoints() -> None:
    nested = cr.checkpoint(lambda x: wave(cr.checkpoint(cr.sin)(x) * cr.checkpoint(cr.checkpoint(cr.exp))(x)))
    plain = lambda x: wave(cr.sin(x) * cr.exp(x))
    for way in ("grad", "grad of grad", "jvp of grad", "grad of vmap", "compiled grad"):
        for a, b in zip(leaves(WAYS[way](plain)(X)), leaves(WAYS[way](nested)(X)), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-12)


@settings(max_examples=30)
@given(ops=st.lists(st.sampled_from([cr.sin, cr.cos, cr.tanh, cr.sigmoid, cr.square]), min_size=1, max_size=6), cuts=st.sets(st.integers(0, 5)))
def test_gradients_do_not_depend_on_what_is_checkpointed(ops: list[Scalar], cuts: set[int]) -> None:
    """Bit for bit, in the everyday backward pass: the same gates run on the same bits."""

    def gradient(wrap: Callable[[int, Scalar], Scalar]) -> np.ndarray:
        x = cr.tensor(X, requires_grad=True)
        y = x
        for i, f in enumerate(ops):
            y = wrap(i, f)(y)
        cr.sum(y).backward()
        return np.asarray(x.grad)

    np.testing.assert_array_equal(gradient(lambda i, f: cr.checkpoint(f) if i in cuts else f), gradient(lambda i, f: f))


# What the function takes, gives and assigns.


def test_what_the_function_takes_from_outside_is_differentiated() -> None:
    w = cr.tensor(V, requires_grad=True)
    scale = 2.0 * w
    cr.sum(cr.checkpoint(lambda x: cr.sin(x * w) * scale)(cr.tensor(X))).backward()
    found, w.grad = w.grad, None
    cr.sum(cr.sin(cr.tensor(X) * w) * (2.0 * w)).backward()
    np.testing.assert_array_equal(np.asarray(found), np.asarray(w.grad))


def test_arguments_and_results_are_nested_and_others_are_handed_through() -> None:
    @cr.checkpoint
    def f(pair: dict[str, Any], power: int, *, sign: str) -> dict[str, Any]:
        a, b = pair["ab"]
        return {"y": a**power * b if sign == "+" else -a, "n": power, "k": (cr.argmax(a), None)}

    a, b = cr.tensor(X, requires_grad=True), np.ones(5)
    out = f({"ab": (a, b)}, 2, sign="+")
    assert out["n"] == 2
    assert out["k"][1] is None
    assert out["k"][0].item() == 4
    assert not out["k"][0].requires_grad
    cr.sum(out["y"]).backward()
    np.testing.assert_array_equal(np.asarray(a.grad), 2 * X)


def test_the_name_and_signature_are_the_functions() -> None:
    def layer(x: Any, *, rate: float = 0.1) -> Any:
        """Documented."""
        return x * rate

    assert cr.checkpoint(layer).__name__ == "layer"
    assert cr.checkpoint(layer).__doc__ == "Documented."
    with pytest.raises(cr.errors.ArgumentError, match="takes a function"):
        cr.checkpoint(3)


def test_a_checkpointed_layer_trains_like_the_layer() -> None:
    """Dropout drops the same in the forward pass and where it is computed again, and the generator moves on once."""

    def train(wrap: Callable[[Any], Any], way: Callable[[Any], Any]) -> list[np.ndarray]:
        cr.manual_seed(5)
        blocks = [nn.Sequential([nn.Dense(8, activation="tanh"), nn.Dropout(0.5)]) for _ in range(3)]
        head = nn.Dense(1)
        x = cr.random.normal((16, 4))
        parameters: list[Any] = []

        def loss_of(x: cr.Tensor, checkpointed: bool = True) -> cr.Tensor:
            for block in blocks:
                x = (wrap if checkpointed else lambda f: f)(block)(x)
            return cr.sum(head(x) ** 2)

        loss_of(x, checkpointed=False)
        parameters = [p for layer in (*blocks, head) for p in layer.parameters()]

        def step(x: cr.Tensor) -> cr.Tensor:
            loss = loss_of(x)
            for p in parameters:
                p.grad = None
            loss.backward()
            with cr.no_grad():
                for p in parameters:
                    p -= p.grad * 0.1
            return loss

        run = way(step)
        losses = [run(x).detach() for _ in range(3)]
        return [np.asarray(x) for x in (*losses, *(p.detach() for p in parameters), cr.random.normal((2,)))]

    for way in (lambda f: f, cr.compile):
        for a, b in zip(train(lambda f: f, way), train(cr.checkpoint, way), strict=True):
            np.testing.assert_array_equal(a, b)


def test_dropout_of_examples_differs_under_vmap_and_is_recomputed_alike() -> None:
    def f(x: cr.Tensor) -> cr.Tensor:
        return cr.sum(cr.random.dropout(x, 0.5) * x)

    x = cr.ones((3, 64))
    found = []
    for g in (f, cr.checkpoint(f)):
        cr.manual_seed(1)
        found.append(np.asarray(cr.vmap(cr.grad(g))(x)))
        assert cr.random.default_generator.get_state().tolist() == [1, 1]
    np.testing.assert_array_equal(*found)
    assert not np.array_equal(found[0][0], found[0][1])


def test_state_is_assigned_once_and_holds_no_history() -> None:
    count = cr.tensor(0)
    mean = cr.tensor(0.0)

    def normalised(x: cr.Tensor) -> cr.Tensor:
        count.assign(count + 1)
        m = cr.mean(x)
        with cr.no_grad():
            mean.assign(0.5 * mean + 0.5 * m)
        return x - m

    w = cr.tensor([1.0, 3.0], requires_grad=True)
    for _ in range(2):
        cr.sum(cr.checkpoint(normalised)(w) ** 2).backward()
    assert count.item() == 2
    assert mean.item() == 1.5
    assert not mean.requires_grad
    assert w.grad.tolist() == [-4, 4]


def test_an_argument_that_is_assigned_to_stays_assigned() -> None:
    @cr.checkpoint
    def f(x: cr.Tensor) -> cr.Tensor:
        x += 1.0
        return x * x

    x = cr.tensor(2.0)
    assert f(x).item() == 9
    assert x.item() == 3


def test_what_is_detached_inside_stays_so() -> None:
    def f(x: cr.Tensor) -> cr.Tensor:
        with cr.no_grad():
            factor = x * 1.0
        return cr.sum(x.detach() * factor * x)

    expected = np.asarray(cr.grad(f)(X))
    traced, compiled, checkpointed = cr.trace(f, X).grad(0).run, cr.grad(cr.compile(f)), cr.grad(cr.checkpoint(f))
    for g in (traced, compiled, checkpointed, lambda x: cr.vmap(checkpointed)(x[None])[0]):
        np.testing.assert_allclose(np.asarray(g(X)), expected, rtol=1e-15)
    assert not cr.checkpoint(lambda x: x.detach() * 2.0)(cr.tensor(X, requires_grad=True)).requires_grad


def test_gradients_inside_the_function_are_its_own_business() -> None:
    def penalty(x: cr.Tensor) -> cr.Tensor:
        return cr.sum(cr.grad(wave)(x) ** 2)

    for a, b in zip(leaves(cr.grad(penalty)(X)), leaves(cr.grad(cr.checkpoint(penalty))(X)), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-12)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("way", ["grad", "grad, then traced", "grad of grad", "compiled grad", "grad of vmap"])
def test_where_masks_through_a_checkpoint(way: str) -> None:
    """0 times infinity is 0 on the way back from what was not taken, though the infinity arises inside."""

    def f(log: Scalar) -> Scalar:
        return lambda x: cr.sum(cr.where(x > 1, log(x), 0.0))

    x = np.array([0.0, 4.0])
    for a, b in zip(leaves(WAYS[way](f(cr.log))(x)), leaves(WAYS[way](f(cr.checkpoint(cr.log)))(x)), strict=True):
        np.testing.assert_array_equal(b, a)
        assert np.isfinite(b).all()


def test_an_error_inside_names_the_operation() -> None:
    with pytest.raises(cr.errors.ShapeError, match="matmul"):
        cr.checkpoint(lambda x: x @ cr.ones((3, 3)))(cr.ones((2, 2)))


def test_without_gradients_the_function_just_runs() -> None:
    seen = []

    def f(x: cr.Tensor) -> cr.Tensor:
        seen.append(float(x.sum()))
        return x * 2.0

    with cr.no_grad():
        cr.checkpoint(f)(cr.tensor(X))
    assert len(seen) == 1


# Memory.

DEPTH = 32


def peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    work()
    taken = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    return taken


def layer(x: cr.Tensor) -> cr.Tensor:
    for _ in range(DEPTH // 4):
        x = cr.sin(x)
    return x


def test_only_the_inputs_are_kept() -> None:
    """Four stretches of a chain: their four inputs are kept and one stretch at a time is recomputed."""
    x = cr.tensor(np.ones(MIB // 8), requires_grad=True)

    def work(f: Scalar) -> np.ndarray:
        y = x
        for _ in range(4):
            y = f(y)
        cr.sum(y).backward()
        found, x.grad = np.asarray(x.grad), None
        return found

    plain, saved = peak(lambda: work(layer)), peak(lambda: work(cr.checkpoint(layer)))
    assert plain > DEPTH * MIB
    assert saved < (4 + DEPTH // 4 + 5) * MIB
    np.testing.assert_array_equal(work(layer), work(cr.checkpoint(layer)))


def test_the_second_derivative_recomputes_too() -> None:
    x = cr.tensor(np.ones(MIB // 8), requires_grad=True)

    def work(f: Scalar) -> None:
        y = x
        for _ in range(4):
            y = f(y)
        (g,) = cr.autograd.grad(cr.sum(y), [x], create_graph=True)
        cr.autograd.grad(cr.sum(g * g), [x])

    plain, saved = peak(lambda: work(layer)), peak(lambda: work(cr.checkpoint(layer)))
    assert saved < plain / 2


def test_the_collector_finds_nothing_of_a_checkpoint() -> None:
    w = cr.tensor(V, requires_grad=True)

    def step() -> None:
        cr.sum(cr.checkpoint(lambda x: cr.tanh(x * w))(cr.tensor(X))).backward()
        w.grad = None

    step()
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(3):
            step()
        gc.collect()
        ours = [type(thing).__qualname__ for thing in gc.garbage if type(thing).__module__.startswith("chainrule")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert ours == []


# Graphs.


def gates(graph: Graph) -> Counter[str]:
    return Counter(node.primitive.name for node in graph.nodes)


def test_opened_graphs_compute_the_same_with_a_barrier_before_what_is_recomputed() -> None:
    f = cr.checkpoint(lambda x: cr.sum(cr.checkpoint(cr.sin)(cr.exp(x)) * x))
    graph = cr.trace(cr.grad(f), X)
    assert any(node.primitive is CHECKPOINT for node in graph.nodes)
    flat = opened(graph).verify()
    assert not any(node.primitive is CHECKPOINT for node in flat.nodes)
    # The inner one is recomputed when the outer one is, and again for its own backward.
    assert gates(flat)["barrier"] == 2
    assert gates(flat)["exp"] == 2
    np.testing.assert_array_equal(np.asarray(flat.run(X)), np.asarray(graph.run(X)))
    bare = without_barriers(flat).verify()
    assert gates(bare)["barrier"] == 0
    np.testing.assert_array_equal(np.asarray(bare.run(X)), np.asarray(graph.run(X)))


def test_the_simplifier_does_not_undo_the_recomputation() -> None:
    def f(x: cr.Tensor) -> cr.Tensor:
        for _ in range(3):
            x = cr.checkpoint(lambda x: cr.tanh(cr.exp(x) * x))(x)
        return cr.sum(x)

    graph = simplify(opened(cr.trace(cr.value_and_grad(f), X)))
    assert gates(graph)["exp"] == 6
    assert BARRIER in [node.primitive for node in graph.nodes]
    np.testing.assert_allclose(np.asarray(graph.run(X)[1]), np.asarray(cr.grad(f)(X)), rtol=1e-12)
