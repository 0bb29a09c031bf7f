"""Custom gates in graphs: their own backward stays, through every later transform, in batches and compiled."""

from __future__ import annotations

import math

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.errors import FunctionError, TraceError
from test_function import Exp, Multiply, SinCos, broken


class Round(cr.Function):
    """Straight through: as if nothing had been rounded."""

    @staticmethod
    def forward(ctx, x):
        return cr.round(x)

    @staticmethod
    def backward(ctx, dz):
        return dz


class Scaled(cr.Function):
    """Arguments that are no tensors, intermediate results kept in several ways, two outputs of which one is an integer."""

    @staticmethod
    def forward(ctx, x, factor, names, y):
        inner = cr.exp(x)
        ctx.save_for_backward(inner, None, y)
        ctx.kept = {"square": [x * x], "factor": factor}
        ctx.names = names
        return inner * y * factor, cr.astype(x, cr.int64)

    @staticmethod
    def backward(ctx, dz, dn):
        inner, nothing, y = ctx.saved_tensors
        assert nothing is None
        assert ctx.names == ["a", {"b": 1}]
        # The second term is what no true derivative has.
        dx = dz * inner * y * ctx.kept["factor"] + 0.5 * dz * ctx.kept["square"][0]
        return dx, None, None, dz * inner * ctx.kept["factor"]


class Clipped(cr.Function):
    """With a jvp of its own."""

    @staticmethod
    def forward(ctx, x):
        y = cr.clip(x, -1.0, 1.0)
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx, dz):
        x, y = ctx.saved_tensors
        return 2 * dz + 0 * x * y

    @staticmethod
    def jvp(ctx, t):
        x, y = ctx.saved_tensors
        return 2 * t + 0 * x * y


class Steps(cr.Function):
    """Its derivative depends on its output, through which its own backward goes again."""

    @staticmethod
    def forward(ctx, x):
        y = cr.round(2 * x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dz):
        (y,) = ctx.saved_tensors
        return dz * (1 + y)


CUSTOM = {
    "straight through": lambda x: Round.apply(3 * x) * x,
    "twice": lambda x: Round.apply(Round.apply(x) * x),
    "saved input": lambda x: Multiply.apply(x, Multiply.apply(x, x)),
    "saved output": lambda x: Exp.apply(x * x),
    "saved output that is no true function": lambda x: Steps.apply(x) * x,
    "several outputs": lambda x: math.prod(SinCos.apply(x), start=cr.cos(x)),
    "one of several outputs": lambda x: SinCos.apply(x)[1],
    "a jvp of its own": lambda x: Clipped.apply(x * 2) * x,
    "inside another": lambda x: Outer.apply(x) * x,
    "an input passed on": lambda x: Passed.apply(x) * x,
}


class Outer(cr.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return Round.apply(x) + x

    @staticmethod
    def backward(ctx, dz):
        (x,) = ctx.saved_tensors
        return Exp.apply(x) * dz


class Passed(cr.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx, dz):
        (x,) = ctx.saved_tensors
        return -x * dz


@pytest.mark.parametrize("name", CUSTOM)
def test_custom_gates_keep_their_derivatives_in_graphs_and_batches(name):
    each = CUSTOM[name]
    f = lambda x: cr.sum(each(x))
    x, v = cr.tensor([0.3, -0.7, 1.6], dtype="float64"), cr.tensor([1.0, 2.0, 3.0], dtype="float64")
    first = cr.grad(f)(x).tolist()
    tangent = cr.jvp(f, (x,), (v,))[1].item()
    second = cr.grad(lambda x: cr.sum(cr.grad(f)(x) * v))(x).tolist()
    graph = cr.trace(f, x).verify()
    assert "custom" in str(graph)
    firsts = {
        "gradient of the graph": graph.grad(0).verify().run,
        "gradient of its run": cr.grad(graph.run),
        "graph of the gradient": cr.trace(cr.grad(f), x).run,
        "gradient of the graph of its graph": cr.trace(graph.run, x).grad(0).run,
        "gradient of a batch": cr.grad(lambda x: cr.sum(cr.vmap(each)(x))),
        "batch of gradients": cr.vmap(cr.grad(each)),
        "gradient of the graph of a batch": cr.trace(lambda x: cr.sum(cr.vmap(each)(x)), x).grad(0).run,
        "gradient of a batch of batches": lambda x: cr.grad(lambda x: cr.sum(cr.vmap(cr.vmap(each))(x)))(cr.reshape(x, (3, 1)))[:, 0],
    }
    for way, gradient in firsts.items():
        np.testing.assert_allclose(np.asarray(gradient(x).detach()), first, rtol=1e-12, err_msg=way)
        again = cr.grad(lambda x: cr.sum(gradient(x) * v))(x)  # noqa: B023, it is called at once
        np.testing.assert_allclose(np.asarray(again), second, rtol=1e-12, err_msg=way)
    for way, run in {"graph": graph.run, "batch": lambda x: cr.sum(cr.vmap(each)(x)), "compiled": cr.compile(f)}.items():
        assert cr.jvp(run, (x,), (v,))[1].item() == pytest.approx(tangent, rel=1e-12), way
        w = cr.tensor(x, requires_grad=True)
        run(w).backward()
        np.testing.assert_allclose(np.asarray(w.grad), first, rtol=1e-12, err_msg=way)


def test_all_that_forward_kept_is_kept_in_a_graph():
    f = lambda x, y: cr.sum(Scaled.apply(x, 3.0, ["a", {"b": 1}], y)[0] * y)
    x, y = cr.tensor([0.5, -1.0], dtype="float64"), cr.tensor([2.0, 1.5], dtype="float64")
    graph = cr.trace(f, x, y).verify()
    expected = cr.grad(f, (0, 1))(x, y)
    for found in (graph.grad().run(x, y), cr.grad(graph.run, (0, 1))(x, y), cr.grad(lambda x, y: cr.sum(cr.vmap(f)(x, y)), (0, 1))(x, y)):
        for got, value in zip(found, expected, strict=True):
            np.testing.assert_allclose(np.asarray(got), np.asarray(value), rtol=1e-14)
    integers = cr.trace(lambda x, y: Scaled.apply(x, 3.0, ["a", {"b": 1}], y)[1], x, y)
    assert integers.run(x, y).tolist() == [0, -1]


def test_in_a_graph_the_history_of_what_forward_kept_is_known():
    f = lambda x: cr.sum(Scaled.apply(x, 1.0, ["a", {"b": 1}], cr.ones(2, dtype="float64"))[0])
    x = cr.tensor([0.5, -1.0], dtype="float64")
    with pytest.raises(FunctionError, match="history is unknown"):
        cr.grad(lambda x: cr.sum(cr.grad(f)(x)))(x)
    second = cr.grad(lambda x: cr.sum(cr.grad(cr.trace(f, x).run)(x)))(x)
    np.testing.assert_allclose(np.asarray(second), np.exp(np.asarray(x)) + np.asarray(x), rtol=1e-14)


def test_a_custom_gate_of_a_shared_argument_is_batched():
    f = lambda x, w: cr.sum(cr.vmap(Multiply.apply, in_axes=(0, None))(x, w))
    x, w = cr.tensor([1.0, 2.0, 3.0]), cr.tensor(4.0)
    dx, dw = cr.grad(f, (0, 1))(x, w)
    assert (dx.tolist(), dw.item()) == ([4, 4, 4], 6)
    assert cr.jvp(f, (x, w), (x, w))[1].item() == 48
    assert cr.jvp(lambda w: f(x, w), (w,), (cr.tensor(1.0),))[1].item() == 6
    assert cr.grad(lambda w: cr.sum(cr.grad(f)(x, w)))(w).item() == 3
    table = cr.vmap(cr.vmap(Multiply.apply, in_axes=(None, 0)), in_axes=(0, None))
    assert cr.grad(lambda x: cr.sum(table(x, x)))(x).tolist() == [12, 12, 12]


def test_custom_gates_in_control_flow_keep_their_derivatives():
    def f(x):
        def body(carry, _):
            return Round.apply(carry * 3) * carry, carry

        last, _ = cr.scan(body, x, None, length=2)
        return cr.cond(last > 0, lambda y: Round.apply(y) * 1.0, lambda y: y, last)

    x = cr.tensor(0.7, dtype="float64")
    assert cr.trace(f, x).verify().grad(0).run(x).item() == pytest.approx(cr.grad(f)(x).item(), rel=1e-14)


def test_arguments_that_are_no_tensors_make_graphs_differ():
    f = lambda factor: cr.trace(lambda x: Scaled.apply(x, factor, ["a", {"b": 1}], x)[0], 1.0)
    assert f(2.0) == f(2.0)
    assert hash(f(2.0)) == hash(f(2.0))
    assert f(2.0) != f(3.0)
    assert cr.trace(Round.apply, 1.0) != cr.trace(type("Round", (Round,), {}).apply, 1.0)


def test_random_numbers_in_a_forward_are_drawn_once():
    class Noisy(cr.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.noise = cr.random.normal(x.shape, generator=generator)
            return x * ctx.noise

        @staticmethod
        def backward(ctx, dz):
            return dz * ctx.noise

    generator = cr.random.Generator(0)
    graph = cr.trace(lambda x: cr.sum(Noisy.apply(x)), cr.ones(3))
    x = cr.ones(3).requires_grad_()
    out = graph.run(x)
    out.backward()
    assert cr.sum(x.grad).item() == pytest.approx(out.item())
    assert generator.get_state().tolist() == [0, 1]


@pytest.mark.parametrize("method", ["forward", "backward", "jvp"])
def test_numpy_in_a_traced_method_is_told(method):
    def in_numpy(ctx, x):
        return cr.tensor(np.asarray(x) * 2)

    class Through(Clipped):
        pass

    setattr(Through, method, staticmethod(in_numpy))
    f = lambda x: Through.apply(x)
    use = {"forward": f, "backward": cr.grad(f), "jvp": lambda x: cr.jvp(f, (x,), (x,))}[method]
    use(cr.tensor(0.5))
    with pytest.raises(TraceError, match="where it is not known") as caught:
        cr.trace(use, 0.5)
    assert f"Through.{method} is traced too: write it in chainrule's operations" in caught.value.mend
    assert "np.asarray(x) * 2" in caught.value.where


def test_numpy_in_backward_is_free_where_only_forward_was_traced():
    class Cut(Multiply):
        @staticmethod
        def backward(ctx, dz):
            x, y = map(np.asarray, ctx.saved_tensors)
            return cr.tensor(y * np.asarray(dz)), cr.tensor(x * np.asarray(dz))

    graph = cr.trace(Cut.apply, 1.0, 1.0)
    x = cr.tensor(3.0, requires_grad=True)
    graph.run(x, 4.0).backward()
    assert x.grad.item() == 4
    with pytest.raises(FunctionError, match="reads a tensor as plain numbers"):
        cr.grad(cr.grad(graph.run))(3.0, 4.0)


def test_a_custom_gate_inside_no_grad_is_a_constant_of_the_graph():
    def f(x):
        with cr.no_grad():
            y = Round.apply(x * 3)
        return y * x

    assert cr.grad(f)(1.2).item() == cr.trace(f, 1.2).grad(0).run(1.2).item() == 4


def test_a_broken_backward_is_told_in_graphs_too():
    gate = broken(lambda ctx, dz: (cr.ones(3), dz))
    graph = cr.trace(lambda x, y: cr.sum(gate.apply(x, y)), cr.ones(2), cr.ones(2))
    with pytest.raises(FunctionError, match=r"Broken.backward returned shape \(3,\) for argument 0 of shape \(2,\)"):
        graph.grad()


def test_outputs_of_custom_gates_are_named_by_the_caller():
    def f(x):
        sine, cosine = SinCos.apply(x)
        rounded = Round.apply(sine)
        return rounded * cosine

    text = str(cr.trace(f, 1.0).grad())
    assert "sine, cosine = custom(" in text
    assert "rounded = custom(" in text
    assert "rule=Round" in text
    assert "grad_cosine" in text
