"""Gates of one's own: Function with ctx, the lectures' modular form, and the checks on both."""

from __future__ import annotations

import gc
import math
import weakref

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.errors import FunctionError, GradientCheckError, TraceError


class Multiply(cr.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return x * y

    @staticmethod
    def backward(ctx, dz):
        x, y = ctx.saved_tensors
        return y * dz, x * dz


class Exp(cr.Function):
    @staticmethod
    def forward(ctx, x):
        y = cr.exp(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dz):
        (y,) = ctx.saved_tensors
        return y * dz


class SinCos(cr.Function):
    @staticmethod
    def forward(ctx, x):
        s, c = cr.sin(x), cr.cos(x)
        ctx.save_for_backward(s, c)
        return s, c

    @staticmethod
    def backward(ctx, ds, dc):
        s, c = ctx.saved_tensors
        return c * ds - s * dc


def broken(returns, name="Broken"):
    """A Function whose backward returns what ``returns(ctx, dz)`` says."""

    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        ctx.product = x * y
        return x * y

    return type(name, (cr.Function,), {"forward": staticmethod(forward), "backward": staticmethod(returns)})


def test_a_custom_gate_in_the_lectures_form():
    x, y = cr.tensor(3.0, requires_grad=True), cr.tensor(-4.0, requires_grad=True)
    z = Multiply.apply(x, y)
    z.backward()
    assert (z.item(), x.grad.item(), y.grad.item()) == (-12, -4, 3)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: Multiply.apply(x, Multiply.apply(x, x)).sum(),
        lambda x: Exp.apply(x * x).sum(),
        lambda x: cr.sum(math.prod(SinCos.apply(x), start=cr.cos(x))),
    ],
)
def test_custom_gates_pass_both_gradient_checks(f):
    x = (cr.tensor([0.3, -0.7]),)
    assert cr.gradcheck(f, x)
    assert cr.gradgradcheck(f, x)


def test_custom_gates_nest_with_every_transform():
    def cube(x):
        return Multiply.apply(x, Multiply.apply(x, x))

    assert cr.grad(cr.grad(cr.grad(cube)))(2.0).item() == 6
    assert [t.item() for t in cr.jvp(cr.grad(cube), (2.0,), (1.0,))] == [12, 12]
    assert cr.grad(lambda x: cr.jvp(cube, (x,), (1.0,))[1])(2.0).item() == 12


def test_a_jvp_of_ones_own_is_used():
    class Doubled(Multiply):
        @staticmethod
        def jvp(ctx, tx, ty):
            x, y = ctx.saved_tensors
            return 100 * ((0 if tx is None else tx * y) + (0 if ty is None else x * ty))

    assert cr.jvp(Doubled.apply, (3.0, 4.0), (1.0, 1.0))[1].item() == 700


def test_an_output_without_cotangent_is_seen_as_zeros():
    x = cr.tensor(0.3, requires_grad=True)
    SinCos.apply(x)[1].backward()
    assert x.grad.item() == pytest.approx(-np.sin(0.3))


def test_needs_input_grad_and_other_arguments():
    asked = []

    class Scale(cr.Function):
        @staticmethod
        def forward(ctx, x, factor, label):
            ctx.factor = factor
            asked.append(ctx.needs_input_grad)
            return x * factor

        @staticmethod
        def backward(ctx, dz):
            asked.append(ctx.needs_input_grad)
            return dz * ctx.factor, None, None

    x = cr.tensor([1.0, 2.0], requires_grad=True)
    Scale.apply(x, 3.0, "note").sum().backward()
    assert x.grad.tolist() == [3, 3]
    assert asked == [(True, False, False)] * 2


@pytest.mark.parametrize(
    ("returns", "says"),
    [
        (lambda ctx, dz: dz, "returned 1 values for 2 arguments"),
        (lambda ctx, dz: (dz, dz, dz), "returned 3 values for 2 arguments"),
        (lambda ctx, dz: (cr.ones(3), dz), r"shape \(3,\) for argument 0 of shape \(2,\)"),
        (lambda ctx, dz: (np.ones(2), dz), "ndarray for argument 0"),
        (lambda ctx, dz: (dz > 0, dz), "dtype bool"),
    ],
)
def test_a_backward_that_breaks_its_contract_is_told(returns, says):
    x, y = cr.ones(2).requires_grad_(), cr.ones(2).requires_grad_()
    with pytest.raises(FunctionError, match=f"Broken.backward.*{says}"):
        broken(returns).apply(x, y).sum().backward()


@pytest.mark.parametrize(
    ("returns", "says"),
    [
        (lambda ctx, dz: (dz * ctx.product, dz), "ctx.product"),
        (lambda ctx, dz: (cr.tensor(np.asarray(dz)), cr.tensor(np.asarray(dz))), "ctx.product|not computed"),
    ],
)
def test_second_order_through_unknown_history_is_an_error_not_a_number(returns, says):
    gate = broken(returns)
    assert cr.grad(gate.apply)(2.0, 3.0) is not None
    with pytest.raises(FunctionError, match=says):
        cr.grad(cr.grad(gate.apply))(2.0, 3.0)


def test_second_order_through_numpy_is_an_error():
    class Cut(cr.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, dz):
            (x,) = ctx.saved_tensors
            return cr.tensor(2 * np.asarray(x) * np.asarray(dz))

    assert cr.grad(Cut.apply)(3.0).item() == 6
    with pytest.raises(FunctionError, match="reads a tensor as plain numbers"):
        cr.grad(cr.grad(Cut.apply))(3.0)
    with pytest.raises(FunctionError, match="reads a tensor as plain numbers"):
        cr.jvp(Cut.apply, (3.0,), (1.0,))


def test_a_forward_that_returns_no_tensor_is_told():
    with pytest.raises(FunctionError, match="forward returned a str"):
        type("Wordy", (cr.Function,), {"forward": staticmethod(lambda ctx, x: "no")}).apply(cr.ones(2))


def test_saving_an_output_makes_no_cycle():
    gc.disable()
    try:
        x = cr.tensor(1.0, requires_grad=True)
        y = Exp.apply(x)
        watched = weakref.ref(y._node)
        del y
        assert watched() is None
    finally:
        gc.enable()


def test_a_wrong_rule_is_caught_by_gradcheck_with_element_and_values():
    class Wrong(Multiply):
        @staticmethod
        def backward(ctx, dz):
            x, y = ctx.saved_tensors
            return y * dz, 1.01 * x * dz

    with pytest.raises(GradientCheckError, match=r"vjp: input 1, element \(\d,\): rule gives .*, central difference"):
        cr.gradcheck(Wrong.apply, (cr.tensor([1.0, 2.0]), cr.tensor([3.0, 4.0])))


def test_a_jvp_that_disagrees_with_backward_is_caught():
    class Wrong(Multiply):
        @staticmethod
        def jvp(ctx, tx, ty):
            x, y = ctx.saved_tensors
            return tx * y - x * ty

    with pytest.raises(GradientCheckError, match="jvp: output 0"):
        cr.gradcheck(Wrong.apply, (cr.tensor([1.0, 2.0]), cr.tensor([3.0, 4.0])))


def test_a_wrong_second_derivative_is_caught_by_gradgradcheck():
    class Cube(cr.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x * x

        @staticmethod
        def backward(ctx, dz):
            (x,) = ctx.saved_tensors
            return 3 * x * x.detach() * dz

    x = (cr.tensor([1.0, 2.0]),)
    assert cr.gradcheck(Cube.apply, x)
    with pytest.raises(GradientCheckError):
        cr.gradgradcheck(Cube.apply, x)


class MultiplyGate(cr.Gate):
    def forward(self, x, y):
        self.x, self.y = x, y
        return x * y

    def backward(self, dz):
        return self.y * dz, self.x * dz


class AddGate(cr.Gate):
    def forward(self, x, y):
        return x + y

    def backward(self, dz):
        return dz, dz


def test_the_modular_graph_of_the_lectures():
    net = cr.ComputationalGraph()
    p, q = net.input("p"), net.input("q")
    net.output(net.add(MultiplyGate(), p, q))
    assert net.forward(p=3.0, q=-4.0) == -12
    assert net.backward() == {"p": -4.0, "q": 3.0}


def test_gradients_add_where_a_value_branches():
    net = cr.ComputationalGraph()
    x, y, unused = (net.input(name) for name in ("x", "y", "unused"))
    s = net.add(AddGate(), x, y)
    net.output(net.add(MultiplyGate(), net.add(MultiplyGate(), s, s), x))
    assert net.forward(x=2.0, y=1.0, unused=0.0) == 18
    assert net.backward() == {"x": 9.0 + 12.0, "y": 12.0, "unused": None}
    assert net.values[s.position] == 3
    assert net.gradients[s.position] == 12
    assert unused.name == "unused"


def test_library_functions_and_arrays_flow_through_the_modular_graph():
    net = cr.ComputationalGraph()
    x, w = net.input("x"), net.input("w")
    net.output(net.add(cr.sum, net.add(cr.matmul, x, w)))
    net.forward(x=cr.ones((2, 3)), w=cr.ones((3, 4)))
    gradients = net.backward()
    assert gradients["x"].tolist() == [[4] * 3] * 2
    assert gradients["w"].tolist() == [[2] * 4] * 3


def test_misuse_of_the_modular_graph_is_told():
    net = cr.ComputationalGraph()
    x = net.input("x")
    gate = AddGate()
    with pytest.raises(FunctionError, match="no output"):
        net.forward(x=1.0)
    net.output(net.add(gate, x, x))
    with pytest.raises(FunctionError, match="backward before forward"):
        net.backward()
    with pytest.raises(FunctionError, match="wired already"):
        net.add(gate, x, x)
    with pytest.raises(FunctionError, match="missing inputs"):
        net.forward(y=1.0)
    with pytest.raises(FunctionError, match="not a value of this graph"):
        net.add(AddGate(), x, 3.0)
    with pytest.raises(FunctionError, match="already"):
        net.input("x")


def test_a_modular_gate_with_a_wrong_backward_is_told():
    class Short(AddGate):
        def backward(self, dz):
            return dz

    class Misshapen(AddGate):
        def backward(self, dz):
            return np.ones(3), dz

    for gate, says in ((Short(), "1 gradients for 2 inputs"), (Misshapen(), r"shape \(3,\)")):
        net = cr.ComputationalGraph()
        x = net.input("x")
        net.output(net.add(gate, x, x))
        net.forward(x=1.0)
        with pytest.raises(FunctionError, match=says):
            net.backward()


def test_forward_and_backward_may_rebind_what_they_are_given():
    class Square(cr.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            x *= x
            return x

        @staticmethod
        def backward(ctx, dz):
            (x,) = ctx.saved_tensors
            dz *= 2 * x
            return dz

    x, ct = cr.tensor(3.0, requires_grad=True), cr.tensor(1.0)
    Square.apply(x).backward(ct, create_graph=True)
    assert (x.item(), x.grad.item(), ct.item()) == (3, 6, 1)
    assert cr.jvp(Square.apply, (3.0,), (1.0,))[1].item() == 6
    assert cr.grad(cr.grad(Square.apply))(3.0).item() == 2


@pytest.mark.parametrize(
    "keep",
    [
        lambda ctx, x: ctx.save_for_backward(np.asarray(x)),
        lambda ctx, x: setattr(ctx, "kept", [x * x]),
        lambda ctx, x: setattr(ctx, "kept", {"square": x * x}),
        lambda ctx, x: setattr(ctx, "kept", np.float32(x.item())),
        lambda ctx, x: setattr(ctx, "kept", x.item()),
        lambda ctx, x: setattr(ctx, "kept", float(np.asarray(x).sum())),
    ],
)
def test_floats_of_unknown_history_are_found_wherever_they_are_kept(keep):
    class Square(cr.Function):
        @staticmethod
        def forward(ctx, x):
            keep(ctx, x)
            ctx.double = 2 * int(x)
            return x * x

        @staticmethod
        def backward(ctx, dz):
            return dz * ctx.double

    assert cr.grad(Square.apply)(3.0).item() == 6
    with pytest.raises(FunctionError, match="history is unknown"):
        cr.grad(cr.grad(Square.apply))(3.0)


def test_arrays_given_as_arguments_are_constants():
    class Scale(cr.Function):
        @staticmethod
        def forward(ctx, x, factor):
            ctx.factor = factor
            return x * factor

        @staticmethod
        def backward(ctx, dz):
            return dz * ctx.factor, None

    factor = np.full(2, 3.0, "float32")
    assert cr.grad(lambda x: cr.sum(cr.grad(lambda x: cr.sum(Scale.apply(x * x, factor)))(x)))(cr.ones(2)).tolist() == [6, 6]


def test_a_backward_that_is_zero_only_here_is_not_taken_for_a_constant():
    class Square(cr.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, dz):
            (x,) = ctx.saved_tensors
            return cr.tensor(2 * x.detach().numpy() * dz.detach().numpy())

    with pytest.raises(FunctionError, match="not computed from what it was given"):
        cr.grad(cr.grad(Square.apply))(0.0)


def test_python_numbers_that_were_not_read_off_a_tensor_are_constants():
    class Power(cr.Function):
        @staticmethod
        def forward(ctx, x, power):
            ctx.save_for_backward(x)
            ctx.power = power
            ctx.scale = 0.5
            return ctx.scale * x**power

        @staticmethod
        def backward(ctx, ct):
            (x,) = ctx.saved_tensors
            return ctx.scale * ctx.power * x ** (ctx.power - 1.0) * ct, None

    assert cr.grad(cr.grad(lambda x: Power.apply(x, 3.0)))(2.0).item() == 6


# In graphs


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


CUSTOM = {
    "straight through": lambda x: Round.apply(3 * x) * x,
    "twice": lambda x: Round.apply(Round.apply(x) * x),
    "saved input": lambda x: Multiply.apply(x, Multiply.apply(x, x)),
    "saved output": lambda x: Exp.apply(x * x),
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
