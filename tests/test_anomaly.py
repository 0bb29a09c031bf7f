"""`detect_anomaly` stops at the first gate that makes NaN or infinity, and names gate, numbers, layer, line and mend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import AnomalyError, ArgumentError, ChainruleError, TraceError
from chainrule.core.interp import EVERYDAY, current
from chainrule.training import fit


def caught(f: Callable[..., Any], *args: Any, **options: Any) -> str:
    with pytest.raises(AnomalyError) as info, cr.detect_anomaly(**options):
        f(*args)
    return str(info.value)


def says(text: str, *parts: str) -> None:
    # A quoted line of the test itself would say whatever the test expects.
    told = "\n".join(line for line in text.splitlines() if "says(" not in line)
    for part in parts:
        assert part in told, text


def test_the_logarithm_of_a_negative_number_is_named_with_its_element_its_line_and_the_mend() -> None:
    def loss(x: Any) -> Any:
        heights = cr.log(x)
        return heights.sum()

    text = caught(loss, cr.tensor([[1.0, 2.0], [3.0, -0.5]]))
    says(
        text, "forward", "log(-0.5) is NaN at [1, 1]", "float32(2, 2)", "makes heights", "x above 0", "heights = cr.log(x)", "cr.clip(x, 1e-06, None)"
    )


def test_it_is_an_arithmetic_error_of_the_library() -> None:
    with pytest.raises(ArithmeticError) as info, cr.detect_anomaly():
        cr.divide(cr.tensor([0.0]), cr.tensor([0.0]))
    assert isinstance(info.value, ChainruleError)
    says(str(info.value), "divide(0, 0) is NaN", "its second input everywhere but at 0", "cr.where(... != 0")


def test_overflow_names_the_bound_of_the_dtype() -> None:
    says(caught(cr.exp, cr.tensor([1.0, 100.0])), "exp(100) is infinite at [1]", "below 88.72", "cr.softmax")
    says(caught(cr.exp, cr.tensor([800.0], dtype=cr.float64)), "below 709.8")


def test_a_product_that_overflows_names_the_bound_for_its_factor_or_both_factors_of_a_gradient() -> None:
    says(caught(cr.multiply, cr.tensor([1e38]), cr.tensor([1e30])), "multiply(1e+38, 1e+30) is infinite", "args_1 below 3.403")

    def step() -> None:
        x, y = cr.tensor(1e-30, requires_grad=True), cr.tensor(1e30)
        (x * y).backward(cr.tensor(1e38))

    says(caught(step), "the gradient 1e+38 times the derivative 1e+30 of multiply", "float64")


def test_a_product_of_matrices_that_overflows_is_told_by_its_extremes() -> None:
    text = caught(cr.matmul, cr.tensor([[1e30, -2.0]]), cr.tensor([[1e30], [1.0]]))
    says(text, "matmul made infinite at [0, 0]", "from -2 to 1e+30", "float64")


def test_backward_the_line_of_the_forward_pass_is_named() -> None:
    def step() -> None:
        x = cr.tensor([4.0, 0.0], requires_grad=True)
        root = cr.sqrt(x)
        loss = (3.0 * root).sum()
        loss.backward()

    says(caught(step), "backward", "the derivative of sqrt by x where x = 0 is infinite at [1]", "root = cr.sqrt(x)", "above 0")


def test_transforms_are_watched_too() -> None:
    x = cr.tensor([4.0, 0.0])
    says(caught(cr.grad(lambda x: cr.sqrt(x).sum()), x), "backward", "by its input where that is 0 is infinite")
    says(caught(cr.vmap(cr.log), -x), "forward", "log(-4)")
    says(caught(cr.grad(lambda x: cr.grad(lambda y: (y**1.5).sum())(x).sum()), x), "backward", "infinite at [1]")
    says(caught(lambda: cr.jvp(cr.log, (-x,), (x,))), "log(-4)")


def test_inside_layers_the_layers_path_is_named() -> None:
    class Root(nn.Layer):
        def call(self, x: Any) -> Any:
            return cr.sqrt(x)

    model = nn.Sequential([nn.Dense(2, kernel_initializer="zeros"), Root()])
    text = caught(lambda: model(cr.ones((3, 4))).sum().backward())
    says(text, "backward", "sqrt", "in layer: layers.1", "return cr.sqrt(x)")


def test_under_no_grad_it_raises_as_well() -> None:
    with cr.no_grad():
        says(caught(cr.log, cr.tensor(-1.0)), "log(-1) is NaN")


def test_a_compiled_function_runs_gate_by_gate_and_names_its_own_line() -> None:
    @cr.compile
    def step(x: Any) -> Any:
        return cr.log(x).sum()

    step(cr.tensor([1.0]))
    says(caught(step, cr.tensor([-1.0])), "log(-1)", "return cr.log(x).sum()")
    assert step(cr.tensor([1.0])).item() == 0.0


def test_a_graph_is_watched_operation_by_operation_with_the_lines_of_the_trace() -> None:
    def f(x: Any) -> Any:
        depth = cr.log(x)
        return depth.sum()

    graph = cr.trace(f, cr.ones(2))
    says(caught(graph.run, cr.tensor([1.0, -3.0])), "log(-3)", "makes depth", "depth = cr.log(x)")
    says(caught(cr.no_grad()(graph.run), cr.tensor([1.0, -3.0])), "makes depth", "depth = cr.log(x)")


def test_fit_stops_at_the_loss_that_is_not_a_number() -> None:
    class Log(nn.Layer):
        def call(self, x: Any) -> Any:
            return cr.log(x + 1.0)

    x = np.full((8, 2), -2.0, np.float32)
    model = nn.Sequential([Log(), nn.Dense(1)])
    train = cr.data.Dataset(x, np.ones((8, 1), np.float32))
    says(caught(lambda: fit(model, train, loss="mean_squared_error", epochs=1, batch_size=4, progress=False)), "log(-1)", "layers.0 (Log)")


def test_a_training_step_that_is_compiled_is_watched_as_well() -> None:
    w = cr.tensor([1.0, 0.0], requires_grad=True)
    optimizer = cr.optim.SGD([w], lr=0.1)

    @cr.compile
    def step() -> Any:
        optimizer.zero_grad()
        loss = cr.sqrt(w).sum()
        loss.backward()
        optimizer.step()
        return loss

    says(caught(step), "backward", "sqrt", "infinite at [1]", "loss = cr.sqrt(w).sum()")
    assert w.tolist() == [1.0, 0.0]


def test_a_second_derivative_and_a_custom_gate_are_watched() -> None:
    class Log(cr.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            return cr.log(*args)

        @staticmethod
        def backward(ctx: Any, *cts: Any) -> Any:
            return cts[0]

    says(caught(Log.apply, cr.tensor([-1.0])), "log(-1)", "return cr.log(*args)")
    says(caught(cr.checkpoint(cr.log), cr.tensor([-1.0], requires_grad=True)), "NaN")

    def twice(x: Any) -> None:
        (g,) = cr.autograd.grad([(x**1.5).sum()], [x], create_graph=True)
        assert g is not None
        g.sum().backward()

    says(caught(twice, cr.tensor([0.0, 1.0], requires_grad=True)), "backward", "infinite at [0]")


def test_a_gradient_that_was_not_finite_to_begin_with_is_the_callers_own() -> None:
    x = cr.tensor([1.0, 2.0], requires_grad=True)
    with cr.detect_anomaly():
        (2.0 * x).backward(cr.tensor([np.inf, 1.0]))
    assert x.grad is not None
    assert x.grad.tolist() == [np.inf, 2.0]


def test_infinities_that_were_given_and_extremes_of_nothing_pass() -> None:
    scores = cr.tensor(np.arange(9.0, dtype=np.float32).reshape(3, 3), requires_grad=True)
    mask = cr.tensor(np.triu(np.full((3, 3), -np.inf, np.float32), 1))
    with cr.detect_anomaly():
        cr.softmax(scores + mask, axis=-1).sum().backward()
        cr.where(scores > 4.0, scores, -np.inf).max(axis=-1)
        cr.full((2,), np.inf)
        cr.max(cr.where(scores > 100.0, scores, -np.inf))
    with cr.detect_anomaly():
        attended = cr.softmax(cr.where(mask < 0.0, -np.inf, scores), axis=-1)
        (attended * scores).sum().backward()
    assert scores.grad is not None
    assert bool(cr.all(cr.isfinite(scores.grad)))


def test_what_a_where_did_not_take_is_carried_back_as_zero_and_is_no_anomaly() -> None:
    x = cr.tensor([4.0, 0.0], requires_grad=True)
    with cr.detect_anomaly():
        cr.where(x > 0.0, cr.sqrt(x), 0.0).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.25, 0.0]


def test_infinities_or_nan_may_be_let_through() -> None:
    with cr.detect_anomaly(inf="ignore"):
        assert cr.log(cr.tensor(0.0)).item() == -np.inf
    with cr.detect_anomaly(nan="ignore"):
        assert np.isnan(cr.log(cr.tensor(-1.0)).item())
    with pytest.raises(ArgumentError, match="no choice"):
        cr.detect_anomaly(nan="warn")


def test_a_block_inside_of_a_traced_function_is_refused_because_it_would_see_nothing() -> None:
    @cr.detect_anomaly()
    def f(x: Any) -> Any:
        return cr.log(x)

    with pytest.raises(TraceError, match="being traced"):
        cr.trace(f, 1.0)


def test_nan_that_was_given_is_not_blamed_but_one_beside_it_is() -> None:
    with cr.detect_anomaly():
        cr.log(cr.tensor([np.nan, 1.0])).sum()
    text = caught(lambda: cr.log(cr.tensor([np.nan, 1.0, -3.0])))
    assert "log(-3) is NaN at [2]" in text.splitlines()[0]


def test_infinite_parameters_and_sums_over_nothing_make_no_anomaly() -> None:
    with cr.detect_anomaly():
        assert (cr.tensor(2.0) ** np.inf).item() == np.inf
        assert cr.logsumexp(cr.zeros((0,))).item() == -np.inf


def test_behind_a_where_the_gate_that_was_not_taken_is_not_blamed_for_another() -> None:
    def step() -> None:
        x = cr.tensor([0.0, 4.0], requires_grad=True)
        guilty = cr.sqrt(x)
        guarded = cr.where(x > 0.0, x**0.5, 0.0)
        (guilty + guarded).sum().backward()

    text = caught(step)
    assert text.startswith("backward: the derivative of sqrt by x where x = 0")
    says(text, "guilty = cr.sqrt(x)")


def test_it_decorates_functions_and_leaves_everything_as_it_was() -> None:
    @cr.detect_anomaly()
    def f(x: Any) -> Any:
        return cr.log(x)

    with pytest.raises(AnomalyError):
        f(cr.tensor(-1.0))
    assert current() is EVERYDAY
    assert f(cr.tensor(1.0)).item() == 0.0


def test_values_and_gradients_are_the_same_bits_as_without() -> None:
    def gradient() -> Any:
        cr.manual_seed(3)
        model = nn.Sequential([nn.Conv2D(3, 3, padding="same"), nn.BatchNormalization(), nn.ReLU(), nn.MaxPooling2D(2), nn.Flatten(), nn.Dense(2)])
        loss = (model(cr.random.normal((4, 8, 8, 2))) ** 2).mean()
        loss.backward()
        return [loss, *(x.grad for x in model.parameters())]

    plain = gradient()
    with cr.detect_anomaly():
        watched = gradient()
    for x, y in zip(plain, watched, strict=True):
        assert np.array_equal(np.asarray(x), np.asarray(y))
