"""Gates of one's own: Function with ctx, the lectures' modular form, and the checks on both."""

from __future__ import annotations

import gc
import math
import weakref

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.errors import FunctionError, GradientCheckError


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
