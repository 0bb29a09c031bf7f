"""Simplify: the same values from fewer gates, and nothing that only looks the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given

import chainrule as cr
from chainrule.autodiff.checkpoint import barrier
from chainrule.compiler import simplify as module
from chainrule.compiler.simplify import FOLDED, simplify
from chainrule.core.primitive import Primitive, functions
from chainrule.graph.ir import Graph
from chainrule.tape import bind
from chainrule.tensor import Tensor
from programs import Program, arguments, programs

X = np.linspace(-1.0, 1.0, 6).reshape(2, 3)
ROW = np.array([1.0, -2.0, 0.5])


def gates(f: Callable[..., Any], *xs: Any) -> list[str]:
    """The gates that are left of a function; checked to be a right graph."""
    return [node.primitive.name for node in simplify(cr.trace(f, *xs)).verify().nodes]


def outputs(graph: Graph, xs: list[Any]) -> list[Any]:
    with np.errstate(all="ignore"):
        return [np.asarray(x._value) for x in graph.apply([cr.asarray(x) for x in xs])]


VANISHING: dict[str, Callable[[Tensor], Tensor]] = {
    "x * 1": lambda x: x * 1.0,
    "1 * x": lambda x: 1.0 * x,
    "x * ones": lambda x: x * cr.ones((2, 3), dtype=x.dtype),
    "x / 1": lambda x: x / 1.0,
    "x - 0": lambda x: x - 0.0,
    "x + -0": lambda x: x + -0.0,
    "-(-x)": lambda x: cr.negative(-x),
    "x * -1 * -1": lambda x: x * -1.0 * -1.0,
    "x * 4 * 0.25": lambda x: x * 4.0 * 0.25,
    "x * 4 / 4": lambda x: x * 4.0 / 4.0,
    "x ** 1": lambda x: x**1,
    "+x": lambda x: +x,
    "stop_gradient": lambda x: cr.stop_gradient(x),
    "conj": lambda x: cr.conj(x),
    "same dtype": lambda x: cr.astype(x, x.dtype),
    "same shape": lambda x: cr.reshape(x, (2, 3)),
    "there and back": lambda x: cr.reshape(cr.reshape(x, (6,)), (2, 3)),
    "two transposes": lambda x: x.T.T,
    "no transpose": lambda x: cr.permute_dims(x, (0, 1)),
    "one part joined": lambda x: cr.concat([x], axis=1),
    "one part cut": lambda x: cr.split(x, 1, axis=1)[0],
    "moved all the way round": lambda x: cr.roll(x, (3, -2), axis=(1, 0)),
    "broadcast to its shape": lambda x: cr.broadcast_to(x, (2, 3)),
    "sum of no axes": lambda x: cr.sum(x, axis=()),
    "where of the same": lambda x: cr.where(x > 0, x, x),
    "where of a known condition": lambda x: cr.where(np.ones((2, 3), bool), x, 0.0),
    "masked by a nonzero": lambda x: functions.masked_multiply(cr.ones((), dtype=x.dtype), x),
    "max over one": lambda x: cr.reshape(cr.max(cr.reshape(x, (2, 1, 3)), axis=1), (2, 3)),
}


@pytest.mark.parametrize("name", VANISHING)
def test_what_changes_nothing_vanishes(name: str) -> None:
    assert gates(VANISHING[name], X) == []


SHORTER: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "a sum with a negative": (lambda x, y: x + (-y), ["subtract"]),
    "a difference with a negative": (lambda x, y: x - (-y), ["add"]),
    "two signs in a product": (lambda x, y: -((-x) * y), ["multiply"]),
    "a sign in a quotient": (lambda x, y: -((-x) / y), ["divide"]),
    "a sign in a factor": (lambda x, y: -(x * 3.0), ["multiply"]),
    "factors": (lambda x, y: (x * 3.0) * 2.0, ["multiply"]),
    "division by a power of two": (lambda x, y: x / 8.0 * 0.3, ["multiply"]),
    "three reshapes": (lambda x, y: cr.reshape(cr.reshape(cr.reshape(x, (6,)), (1, 6)), (3, 2)), ["reshape"]),
    "permutations": (lambda x, y: cr.permute_dims(cr.permute_dims(cr.reshape(x, (1, 2, 3)), (2, 0, 1)), (0, 1, 2)), ["reshape", "permute_dims"]),
    "sum over one": (lambda x, y: cr.sum(cr.reshape(x, (2, 1, 3)), axis=1) * 3.0, ["multiply"]),
    "kept axes that go": (lambda x, y: cr.reshape(cr.sum(x, axis=0, keepdims=True), (3,)), ["sum"]),
    "repeated operand": (lambda x, y: x * cr.broadcast_to(y, (2, 3)), ["multiply"]),
    "repeated number": (lambda x, y: x * cr.broadcast_to(cr.asarray(3.0, dtype=x.dtype), (2, 3)), ["multiply"]),
    "what is repeated is computed once": (lambda x, y: cr.exp(cr.broadcast_to(y, (200, 3))), ["exp", "broadcast_to"]),
    "the same twice": (lambda x, y: cr.exp(x * y) + cr.exp(y * x), ["multiply", "exp", "add"]),
    "known values": (lambda x, y: x * (cr.exp(cr.asarray(0.0)) + 1.0), ["multiply"]),
    "no fewer elements": (lambda x, y: cr.exp(cr.broadcast_to(cr.pad(y, (0, 297)), (1, 300))), ["pad", "broadcast_to", "exp"]),
    "nothing depends on it": (lambda x, y: (cr.exp(x), x + y)[1], ["add"]),
    "nested choices": (lambda x, y: cr.where(x > 0, cr.where(x > 0, x, y), y), ["greater", "where"]),
}


@pytest.mark.parametrize("name", SHORTER)
def test_what_can_be_said_in_fewer_gates_is(name: str) -> None:
    f, left = SHORTER[name]
    assert gates(f, X, ROW) == left


DIFFERENT: dict[str, Callable[..., Any]] = {
    "x + 0 turns -0 into 0": lambda x: x + 0.0,
    "0 - x is 0 where -x is -0": lambda x: 0.0 - x,
    "0 * x is NaN for infinite x": lambda x: 0.0 * x,
    "x - x is NaN for infinite x": lambda x: x - x,
    "x / x is NaN for 0": lambda x: x / x,
    "3 * (x / 3) rounds twice": lambda x: 3.0 * (x / 3.0),
    "3 * (5 * x) rounds twice": lambda x: 3.0 * (5.0 * x),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_only_looks_the_same_stays(name: str) -> None:
    graph = cr.trace(DIFFERENT[name], X)
    assert len(simplify(graph).nodes) == len(graph.nodes)


def test_a_factor_whose_square_overflows_is_not_merged() -> None:
    x = np.array(1e-30, "float32")
    big = float(np.float32(2.0**100))
    assert gates(lambda x: (x * big) * big, x) == ["multiply", "multiply"]


def test_a_mask_of_known_values_is_made_once() -> None:
    def scores(x: Any) -> Any:
        step = cr.arange(x.shape[-1])
        return x + cr.where(step[:, None] >= step, 0.0, -1e9) * cr.tril(cr.ones(x.shape, dtype=x.dtype))

    x = np.ones((100, 100))
    graph = cr.trace(scores, x)
    assert [node.primitive.name for node in simplify(graph).nodes] == ["add"]
    same(simplify(graph).run(x).numpy(), graph.run(x).numpy())


def test_known_values_are_kept_up_to_a_limit() -> None:
    big = np.ones(FOLDED // 8)
    big[0] = 2.0
    small = big[: FOLDED // 16]
    assert gates(lambda x: x + cr.sum(cr.exp(big)), X) == ["exp", "sum", "add"]
    assert gates(lambda x: x + cr.sum(cr.exp(small)), X) == ["add"]
    graph = simplify(cr.trace(lambda x: [x + cr.exp(small * i) for i in range(2, 12)], np.float64(1.0)))
    assert sum(value.nbytes for value in graph.constants.values()) < 6 * FOLDED


def test_factors_whose_product_underflows_are_not_merged() -> None:
    x = np.array(2.0**100, "float32")
    small = float(np.float32(2.0**-80))
    assert gates(lambda x: (x * small) * small, x) == ["multiply", "multiply"]
    assert gates(lambda x: (x * (small * 3.0)) * 2.0**-64, x) == ["multiply", "multiply"]


def test_a_choice_that_is_never_taken_still_counts_for_the_shape() -> None:
    column = np.arange(-1.0, 2.0)[:, None]
    for f in (
        lambda x: cr.where(x > 0, cr.where(x > 0, x, x.mT), x),
        lambda x: cr.where(x > 0, x, cr.where(x > 0, x.mT, x)),
    ):
        graph = cr.trace(f, column)
        simpler = simplify(graph).verify()
        assert simpler.outputs[0].shape == (3, 3)
        same(simpler.run(column).numpy(), graph.run(column).numpy())


def work(graph: Graph) -> int:
    """How many elements are computed."""
    return sum(node.output.size for node in graph.nodes if node.primitive.kernel != "move")


def same(out: Any, want: Any) -> None:
    """Equal, zeros of either sign and any NaN among themselves."""
    assert (out.shape, out.dtype) == (want.shape, want.dtype)
    np.testing.assert_array_equal(out, want)


@given(programs())
def test_simplify_preserves_values(program: Program) -> None:
    xs = arguments()
    graph = cr.trace(lambda *xs: program(*xs), *xs)
    simpler = simplify(graph).verify()
    assert work(simpler) <= work(graph)
    for out, want in zip(outputs(simpler, xs), outputs(graph, xs), strict=True):
        same(out, want)


@given(programs(8))
def test_simplify_preserves_gradients(program: Program) -> None:
    """Products of cotangents may round otherwise by a last bit where factors that are powers of two are merged into subnormal numbers, never else."""
    xs = arguments()

    def loss(*xs: Any) -> Any:
        return functions.sum(cr.stack([cr.sum(x) for x in program(*xs)]))

    graph = cr.trace(cr.grad(loss, argnums=(0, 1, 2, 3)), *xs)
    for out, want in zip(outputs(simplify(graph).verify(), xs), outputs(graph, xs), strict=True):
        same(out, want)


@given(programs())
def test_once_is_enough(program: Program) -> None:
    once = simplify(cr.trace(lambda *xs: program(*xs), *arguments()))
    assert len(simplify(once).nodes) == len(once.nodes)


def test_nothing_is_merged_across_a_barrier() -> None:
    def f(x: Any) -> Any:
        (y,) = barrier(x)
        return cr.exp(x) + cr.exp(y), barrier(x * 1.0)[0] - (-barrier(x)[0])

    assert gates(f, X).count("exp") == 2
    assert gates(f, X).count("barrier") == 3


def test_a_sign_inside_what_is_used_elsewhere_stays() -> None:
    def f(x: Any) -> Any:
        y = -x / 3.0
        return y, -y

    assert gates(f, X) == ["negative", "divide", "negative"]


def test_random_gates_with_one_key_are_one() -> None:
    def f(key: Any) -> Any:
        return cr.random.normal((3,), key=key) + cr.random.normal((3,), key=key)

    key = cr.random.key(0)
    assert gates(f, key).count("random_bits") == 1


def test_a_gate_of_ones_own_runs_as_often_as_it_is_called() -> None:
    calls: list[Any] = []
    logged = Primitive(
        name="logged",
        inputs=("x",),
        aval=lambda x: x,
        eval=lambda x: calls.append(x) or x * 2.0,
        batch=lambda primitive, batched, inputs, params: bind(primitive, inputs),
    )
    apply = lambda x: bind(logged, (cr.asarray(x),))
    graph = simplify(cr.trace(lambda x: apply(x) + apply(x) + apply(cr.ones(3, dtype=x.dtype)), ROW)).verify()
    assert not calls
    outputs(graph, [ROW])
    assert len(calls) == 3


def test_outputs_of_control_flow_that_nobody_needs_go() -> None:
    def f(x: Any) -> Any:
        def step(carry: Any, row: Any) -> Any:
            return (carry[0] + row, carry[1] * cr.sin(row)), cr.exp(carry[1])

        (total, _), _ = cr.scan(step, (cr.zeros((3,), dtype=x.dtype), cr.ones((3,), dtype=x.dtype)), x)
        return total

    graph = simplify(cr.trace(f, X)).verify()
    (loop,) = [node for node in graph.nodes if node.primitive.name == "scan"]
    assert len(loop.outputs) == 1
    assert [node.primitive.name for node in loop.params["body"].nodes] == ["add"]


def test_inner_graphs_are_simplified() -> None:
    def f(x: Any) -> Any:
        return cr.cond(cr.sum(x) > 0, lambda x: x * 1.0 + (-x), lambda x: cr.negative(-x), x)

    (choice,) = [node for node in simplify(cr.trace(f, X)).verify().nodes if node.primitive.name == "cond"]
    assert [node.primitive.name for node in choice.params["true"].nodes] == ["subtract"]
    assert choice.params["false"].nodes == ()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_loss_and_its_slope_are_computed_together(smoothing: float) -> None:
    def loss(scores: Any, labels: Any) -> Any:
        return cr.softmax_cross_entropy(scores, labels, label_smoothing=smoothing)

    scores, labels = np.random.default_rng(0).normal(size=(4, 3)), np.array([0, 2, 1, 1])
    graph = cr.trace(cr.value_and_grad(loss), scores, labels)
    simpler = simplify(graph).verify()
    assert [node.primitive.name for node in simpler.nodes] == ["softmax_cross_entropy_and_slope", "mean", "multiply"]
    for out, want in zip(outputs(simpler, [scores, labels]), outputs(graph, [scores, labels]), strict=True):
        same(out, want)


@pytest.mark.parametrize("f", [lambda x: cr.where(x > 0, cr.log(x), 0.0), lambda x: cr.where(x > 0, cr.sqrt(x), 0.0)])
def test_what_was_not_taken_spoils_no_gradient(f: Callable[..., Any]) -> None:
    x = np.array([0.0, 4.0, -1.0])
    graph = simplify(cr.trace(cr.grad(lambda x: cr.sum(f(x))), x)).verify()
    (gradient,) = outputs(graph, [x])
    np.testing.assert_array_equal(gradient, [0.0, 0.25, 0.0])


def test_zeros_of_both_signs_are_not_one_number() -> None:
    divisors = np.array([0.0, -0.0, 0.0])
    (quotient,) = outputs(simplify(cr.trace(lambda x: x / divisors, np.ones(3))), [np.ones(3)])
    np.testing.assert_array_equal(quotient, [np.inf, -np.inf, np.inf])


def test_a_mask_of_zeros_still_masks() -> None:
    graph = cr.trace(lambda x: functions.masked_multiply(cr.zeros(300, dtype=x.dtype), x), np.ones(300))
    (product,) = outputs(simplify(graph), [np.full(300, np.inf)])
    np.testing.assert_array_equal(product, np.zeros(300))


def test_values_keep_their_names() -> None:
    def f(x: Any) -> Any:
        loss = cr.sum(-(-x * 3.0))
        return cr.exp(loss)

    assert simplify(cr.trace(f, X)).nodes[-1].inputs[0].name == "loss"


def test_work_grows_with_the_number_of_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    written = 0
    original = module._Writer._written

    def counting(self: Any, *args: Any) -> Any:
        nonlocal written
        written += 1
        return original(self, *args)

    monkeypatch.setattr(module._Writer, "_written", counting)

    def chain(count: int) -> int:
        nonlocal written

        def f(x: Any) -> Any:
            for i in range(count):
                x = -(cr.sin(x) * 0.5 - (-x) * 1.0) * (2.0 if i % 2 else -1.0)
            return x

        graph = cr.trace(cr.grad(f), 0.3)
        written = 0
        simplify(graph)
        return written

    assert chain(400) < 11 * chain(40)
