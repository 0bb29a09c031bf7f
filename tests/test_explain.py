"""`explain` says why a gradient is what it is, and names the gate, its numbers, the line and the mend."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ArgumentError
from chainrule.view.paths import Sweep

GOLDEN = Path(__file__).parent / "golden"


def says(found: Any, *parts: str) -> None:
    # A quoted line of the test itself would say whatever the test expects.
    text = "\n".join(line for line in str(found).splitlines() if "says(" not in line and "lambda" not in line)
    for part in parts:
        assert part in text, str(found)


def dead_relu(x: Any, w: Any, b: Any) -> Any:
    s = x @ w + b
    h = cr.relu(s)
    return (h**2).mean()


def detached_weight(w: Any, x: Any) -> Any:
    frozen = w.detach()
    y = frozen * x
    return (y + x).sum()


def log_of_a_negative(x: Any) -> Any:
    z = 2.0 * x
    y = cr.log(z)
    return y.mean()


def where_with_a_nan_branch(x: Any) -> Any:
    y = cr.where(x > 0.0, cr.log(x), 0.0)
    return y.sum()


def saturated_sigmoid(x: Any, t: Any) -> Any:
    p = cr.sigmoid(x)
    return ((p - t) ** 2).sum()


def inputs_of_dead_relu() -> tuple[Any, ...]:
    """Of 32 rows one alone gets through."""
    x = -np.ones((32, 5), np.float32)
    x[7] = 1.0
    return x, np.full((5, 4), 0.5, np.float32), np.zeros(4, np.float32)


PLANTED: dict[str, tuple[Callable[..., Any], tuple[Any, ...], str, tuple[str, ...]]] = {
    "dead_relu": (
        dead_relu,
        inputs_of_dead_relu(),
        "x",
        ("zero", "155 of 160", "h = relu", "31 of 32 rows", "s is -2.5", "h = cr.relu(s)", "leaky_relu"),
    ),
    "detached_weight": (detached_weight, (np.ones(3, np.float32),) * 2, "w", ("absent", "detach cuts", "frozen = w.detach()", "leave detach out")),
    "log_of_a_negative": (
        log_of_a_negative,
        (np.array([1.0, -0.5, 3.0], np.float32),),
        "x",
        ("NaN", "loss that is nan", "log(-1) is NaN at [1]", "z above 0", "y = cr.log(z)", "cr.clip(z, 1e-06, None)"),
    ),
    "where_with_a_nan_branch": (
        where_with_a_nan_branch,
        (np.array([1.0, -0.5, 3.0], np.float32),),
        "x",
        ("zero", "1 of 3 elements", "y = where", "does not take", "condition is False", "not finite there", "log(-0.5) is NaN at [1]"),
    ),
    "saturated_sigmoid": (
        saturated_sigmoid,
        (np.array([-20.0, -30.0, -25.0], np.float32), np.ones(3, np.float32)),
        "x",
        ("vanishing", "p = sigmoid", "saturated at all 3", "at most 2.1e-09", "x is from -30 to -20", "sigmoid_cross_entropy"),
    ),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found_and_told_in_full(fault: str) -> None:
    f, examples, of, parts = PLANTED[fault]
    found = cr.explain(f, *examples, of=of)
    says(found, *parts)
    text = re.sub(r"\S*test_explain\.py:\d+", "test_explain.py:LINE", str(found)) + "\n"
    assert text == (GOLDEN / f"explain_{fault}.txt").read_text()


# Absent.


def test_an_integer_tensor_has_no_gradient() -> None:
    found = cr.explain(lambda x, i: (x * i).sum(), cr.ones(3), cr.tensor([1, 2, 3]), of="i")
    assert (found.kind, found.causes[0].kind) == ("absent", "dtype")
    says(found, "int64", "astype")


def test_integers_on_the_way_cut_and_the_line_is_named() -> None:
    def f(x: Any) -> Any:
        count = x > 0.0
        return cr.astype(count, cr.float32).sum()

    says(cr.explain(f, cr.ones(4)), "absent", "count = greater", "bool", "count = x > 0.0", "cr.sigmoid")


def test_what_was_made_under_no_grad_is_told_from_detach() -> None:
    def f(w: Any, x: Any) -> Any:
        with cr.no_grad():
            y = w * x
        return (y + x).sum()

    found = cr.explain(f, cr.ones(3), cr.ones(3), of="w")
    assert found.causes[0].kind == "no_grad"
    says(found, "y = w * x", "outside of cr.no_grad()")


def test_numbers_read_by_numpy_are_found_by_the_line_that_reads_them() -> None:
    def f(x: Any) -> Any:
        numbers = np.asarray(x.detach())
        return cr.tensor(numbers * 2.0).sum()

    found = cr.explain(f, cr.ones(4))
    assert found.causes[0].kind == "numbers"
    says(found, "absent", "numbers = np.asarray(x.detach())", "NumPy")


def test_a_tensor_that_is_not_used_for_the_loss_is_told_with_its_last_use() -> None:
    def f(x: Any, w: Any) -> Any:
        y = w * 2.0
        return x.sum() + 0.0 if y is None else x.sum()

    says(cr.explain(f, cr.ones(2), cr.ones(2), of="w"), "not used for the loss", "y = multiply", "y = w * 2.0")


def test_a_tensor_from_outside_may_be_asked_for_by_name_or_itself() -> None:
    w = cr.ones(2)

    def f(x: Any) -> Any:
        return (w * x).sum()

    for of in ("w", w):
        says(cr.explain(f, cr.ones(2), of=of), "absent", "requires_grad")
    w.requires_grad_()
    assert cr.explain(f, cr.ones(2), of=w).kind == "ordinary"


def test_from_tensors_alone_it_says_what_the_tape_knows_and_no_more() -> None:
    y, q = cr.tensor([1.0, 2.0], requires_grad=True), cr.ones(2)
    says(cr.explain((y * 2.0).sum(), q), "absent", "requires_grad is not set, or it was detached")
    says(cr.explain((q * 2.0).sum(), y), "the loss has no history")
    says(cr.explain((q.requires_grad_() * 2.0).sum(), y), "no path of the tape", "the tape keeps none of these", "cr.explain(f, *examples, of=...)")


def test_a_freed_tape_names_retain_graph() -> None:
    x = cr.tensor([1.0, 2.0], requires_grad=True)
    loss = (x * x).sum()
    loss.backward()
    found = cr.explain(loss, x)
    assert found.causes[0].kind == "freed"
    says(found, "retain_graph=True")


# Zero.


@pytest.mark.parametrize(
    ("f", "kind", "elements", "words"),
    [
        (lambda x: (cr.take(x, cr.tensor([0, 2]), axis=0) ** 2).sum(), "not read", 2, "2 of 4"),
        (lambda x: x[1:3].sum(), "not read", 2, "getitem"),
        (lambda x: x.max(), "not chosen", 3, "3 of 4"),
        (lambda x: cr.cumulative_prod(x - 2.0).sum(), "closed", 2, "cumulative_prod"),
        (lambda x: cr.maximum(x, 2.5).sum(), "not taken", 2, "maximum"),
        (lambda x: cr.clip(x, 0.0, 1.5).sum(), "not taken", 3, "clip"),
        (lambda x: (x * cr.tensor([0.0, 1.0, 0.0, 1.0])).sum(), "times zero", 2, "its second input is 0"),
        (lambda x: ((x - 2.0) ** 2).sum(), "stationary", 1, "stands still"),
        (lambda x: (x * 3.0 - x * 3.0).sum(), "cancelled", 4, "-3 by way of"),
        (lambda x: cr.softmax(x).sum(), "cancelled", 0, "softmax"),
        (lambda x: cr.tanh(x * 100.0).sum(), "saturated", 4, "tanh"),
        (lambda x: cr.unstack(x)[0], "not used", 0, "only 1 of the 4 results"),
    ],
)
def test_every_way_to_a_zero_is_told_from_the_gates_record(f: Callable[..., Any], kind: str, elements: int, words: str) -> None:
    found = cr.explain(f, cr.tensor([1.0, 2.0, 3.0, 4.0]))
    assert (found.kind, found.causes[0].kind, found.causes[0].elements) == ("zero", kind, elements), str(found)
    says(found, words)


def test_of_gates_in_a_row_all_that_keep_an_element_closed_are_told() -> None:
    found = cr.explain(lambda x: cr.relu(cr.clip(x, -5.0, -1.0)).sum(), cr.tensor([-2.0, 3.0]))
    assert {cause.gate: cause.elements for cause in found.causes} == {"relu": 2, "clip": 1}


def test_of_gates_side_by_side_each_that_would_open_an_element_is_told() -> None:
    found = cr.explain(lambda x: (cr.relu(x) + cr.relu(2.0 * x)).sum(), cr.tensor([-1.0, 3.0]))
    assert [(cause.gate, cause.elements) for cause in found.causes] == [("relu", 1), ("relu", 1)]
    found = cr.explain(lambda x: (x * x).sum(), cr.tensor([0.0, 3.0]))
    assert [(cause.gate, cause.kind) for cause in found.causes] == [("multiply", "times zero")]


def test_a_gate_that_moves_in_steps_is_told_from_a_saturated_one() -> None:
    found = cr.explain(lambda x: cr.round(x).sum(), cr.ones(3))
    assert (found.kind, found.causes[0].kind, found.causes[0].elements) == ("zero", "in steps", 3)
    says(found, "x + (f(x) - x).detach()")


def test_a_custom_gate_whose_rule_gives_zeros_is_named() -> None:
    class Stuck(cr.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            return cr.exp(*args)

        @staticmethod
        def backward(ctx: Any, *cts: Any) -> Any:
            return cts[0] * 0.0

    found = cr.explain(lambda x: Stuck.apply(x).sum(), cr.ones(3))
    assert (found.causes[0].gate, found.causes[0].kind) == ("Stuck", "closed")


def test_a_gate_that_holds_a_whole_function_says_how_to_look_inside() -> None:
    x = cr.tensor([-1.0, 2.0], requires_grad=True)
    step = cr.compile(lambda x: cr.relu(x).sum())
    says(cr.explain(step(x), x), "1 of 2 elements", "give explain the function")
    says(cr.explain(step, x), "relu(...) passes nothing on")


def test_inside_of_loops_and_checkpoints_the_functions_own_lines_are_told() -> None:
    def f(x: Any) -> Any:
        def step(carry: Any, a: Any) -> Any:
            depth = cr.sqrt(carry * a)
            return depth, depth

        return cr.scan(step, cr.tensor(1.0), x)[0]

    says(cr.explain(f, cr.tensor([2.0, -1.0])), "depth = sqrt", "depth = cr.sqrt(carry * a)")

    @cr.checkpoint
    def block(x: Any) -> Any:
        passed = cr.relu(x - 3.0)
        return 2.0 * passed

    says(cr.explain(lambda x: block(x).sum(), cr.tensor([1.0, 5.0])), "passed = relu", "1 of 2 elements", "passed = cr.relu(x - 3.0)")


def test_sums_behind_a_normalisation_cancel_and_a_norm_is_flat_at_zero() -> None:
    normal = nn.BatchNormalization()
    found = cr.explain(lambda x: normal(x).sum(), cr.tensor(np.arange(12.0, dtype=np.float32).reshape(4, 3) ** 2))
    assert (found.causes[0].kind, found.causes[0].gate) == ("cancelled", "standardize")
    found = cr.explain(lambda x: cr.linalg.vector_norm(x), cr.zeros(3))
    assert (found.causes[0].kind, found.causes[0].gate, found.causes[0].elements) == ("closed", "vector_norm", 3)


def test_a_tensor_without_elements_has_an_ordinary_gradient() -> None:
    says(cr.explain(lambda x: (2.0 * x).sum(), cr.ones((0,))), "ordinary", "no elements")


def test_a_product_names_the_factor_that_is_zero() -> None:
    def f(w: Any, x: Any) -> Any:
        h = cr.relu(x)
        return (h @ w).sum()

    says(
        cr.explain(f, cr.ones((2, 3)), cr.tensor([[-1.0, 1.0], [-1.0, 2.0]]), of="w"), "matmul(...) multiplies by zero", ": h is 0 at 2 of 4 elements"
    )


def test_causes_of_a_loop_that_say_the_same_are_told_once() -> None:
    def f(x: Any) -> Any:
        for _ in range(9):
            x = x * 10.0
        return x.sum()

    (cause,) = cr.explain(f, cr.ones(2)).causes
    assert cause.says == "x = multiply(...) stretches the gradient to 10 times its norm (8 more like it, together 1e+09 times)"


def test_the_weights_of_a_loop_are_followed_through_its_steps() -> None:
    def f(w: Any, x: Any) -> Any:
        h = cr.zeros((1, 2))
        for i in range(30):
            h = h @ w + x[i : i + 1]
        return h.sum()

    found = cr.explain(f, 4.0 * np.eye(2), np.ones((30, 2)), of="w")
    assert found.kind == "exploding"
    says(found, "matmul(...) stretches the gradient to ", "its other factor has the norm 5.66", " more like it")
    assert len(found.path) > 50


def test_a_gate_that_passes_on_next_to_nothing_is_told_though_the_gradient_is_not_zero() -> None:
    x = np.full((32, 1), -1.0)
    x[7] = 2.0
    found = cr.explain(lambda w: cr.relu(cr.asarray(x) @ w).sum(), cr.ones((1, 1)))
    assert found.kind == "ordinary"
    says(found, "relu(...) passes nothing on at 31 of 32 elements, all of 31 of 32 rows")
    # Half of all is what a ReLU is for.
    assert not cr.explain(lambda w: cr.relu(cr.asarray(np.array([[-1.0], [1.0]])) @ w).sum(), cr.ones((1, 1))).causes


def test_numbers_that_are_too_large_are_not_taken_for_exponents() -> None:
    for number in (np.float32(1e30), np.float16(300)):
        found = str(cr.explain(lambda x: (x**2).sum(), np.array([number])))
        assert "scale the inputs down" in found
        assert "softmax" not in found


def test_a_cut_inside_of_a_branch_or_a_loop_is_found() -> None:
    def branch(x: Any) -> Any:
        return cr.cond(x.sum() > 0, lambda x: x.sum(), lambda x: x.detach().sum(), x)

    def loop(x: Any) -> Any:
        return cr.scan(lambda c, row: (c + row.detach(), None), cr.zeros(2), x)[0].sum()

    for f in (branch, loop):
        found = cr.explain(f, -np.ones((2, 2), np.float32))
        assert (found.kind, found.causes[0].kind) == ("absent", "detach"), found


def test_what_has_no_name_is_called_by_its_place_and_left_open_in_code() -> None:
    def f(x: Any, scale: Any) -> Any:
        return (x / (scale - 2.0)).sum()

    # The record calls it x2.
    says(cr.explain(f, cr.ones(2), 2.0, of="x"), "finite for its second input everywhere but at 0", "cr.where(... != 0, ..., 1.0)")


def test_pooling_and_dead_units_name_their_layers() -> None:
    model = nn.Sequential([nn.Dense(4, bias_initializer=nn.initializers.Constant(-100.0)), nn.ReLU(), nn.Dense(1)])
    found = cr.explain(lambda x: model(x).sum(), cr.ones((3, 2)))
    assert found.causes[0].layer == "layers.1"
    says(found, "all 12 elements", "layers.0")


# NaN, infinity, size.


def test_an_infinite_derivative_is_told_with_its_gate_and_element() -> None:
    def f(x: Any) -> Any:
        distance = cr.sqrt(x * x)
        return distance.sum()

    found = cr.explain(f, cr.tensor([4.0, 0.0]))
    assert found.kind == "NaN"
    says(found, "distance = sqrt", "infinite at [1]", "distance = cr.sqrt(x * x)")
    says(cr.explain(lambda x: (cr.sqrt(x) * 0.0).sum(), cr.tensor([4.0, 0.0])), "infinite at [1], and times the gradient 0 that is NaN")
    x = cr.tensor([4.0, 0.0], requires_grad=True)
    says(cr.explain(cr.sqrt(x).sum(), x), "infinite: ", "1 of 2 elements")


def test_a_tape_made_under_detect_anomaly_knows_lines_and_names() -> None:
    x = cr.tensor([4.0, -1.0], requires_grad=True)
    with cr.detect_anomaly():
        gate = cr.relu(x)
        loss = gate.sum()
    found = cr.explain(loss, x)
    says(found, "gate = relu", "gate = cr.relu(x)", "x is -1")
    assert x.grad is None
    loss.backward()


def test_a_tape_knows_what_the_callers_variables_call_its_values() -> None:
    depth, scale = cr.tensor([4.0, 0.0], requires_grad=True), cr.tensor([1.0, 0.0], requires_grad=True)
    with np.errstate(all="ignore"):
        quotient = depth / scale
    found = cr.explain(quotient.sum(), depth)
    says(found, "gradient of depth,", "quotient = divide(...): divide(0, 0) is NaN at [1]", "keep scale away from 0")
    assert [step.name for step in found.path] == ["", "quotient", "depth"]


def test_data_that_are_not_finite_are_blamed_themselves() -> None:
    data = cr.tensor([1.0, float("nan")])
    w = cr.tensor([1.0, 1.0], requires_grad=True)
    says(cr.explain((data * w).sum(), w), "an input of multiply(...) that was given", "not finite itself at [1]")
    says(cr.explain(lambda data, w: (data * w).sum(), data, w, of="w"), "data, float32(2), is not finite itself at [1]")


def test_a_network_is_explained_parameter_by_parameter_in_one_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[None] = []
    monkeypatch.setattr("chainrule.view.explain.Sweep", lambda *args: (begun.append(None), Sweep(*args))[1])
    model = nn.Sequential(
        [nn.Dense(4), nn.ReLU(), nn.Dense(4, bias_initializer=nn.initializers.Constant(-100.0)), nn.ReLU(), nn.Dense(2), nn.Dense(1)]
    )
    found = cr.explain((model(cr.ones((3, 2))) ** 2).mean(), model)
    assert [one.name for one in found] == [name for name, _ in model.named_parameters()]
    assert [one.kind for one in found][:4] == ["zero"] * 4
    assert len(begun) == 1
    # Of many a line each.
    assert len(str(found).splitlines()) == 1 + len(found)
    says(found, "layers.2.kernel", "relu(...) passes nothing on at all 12 elements")
    assert found._repr_html_().count("<tr>") == 1 + len(found)


def test_a_bound_of_the_function_is_told_from_one_of_the_dtype() -> None:
    says(cr.explain(lambda x: cr.acos(x).sum(), cr.ones(2)), "keep x below 1: subtract a small number, or cr.clip(x, None, 0.999999)")
    says(cr.explain(lambda x: cr.exp(x).sum(), cr.tensor([100.0])), "keep x below 88.72: subtract the largest first")


def test_a_vanishing_gradient_shows_its_norms_along_the_path() -> None:
    def f(x: Any) -> Any:
        for _ in range(30):
            x = cr.tanh(0.2 * x)
        return x.sum()

    found = cr.explain(f, cr.ones(8))
    assert found.kind == "vanishing"
    assert len(found.path) == 62
    assert found.path[-1].gradient < 1e-6 * found.path[0].gradient
    says(found, "... 38 more", "|gradient|", "shrinks the gradient")


def test_an_exploding_gradient_names_the_gates_that_stretch_it_most() -> None:
    def f(x: Any) -> Any:
        for _ in range(9):
            x = x * 10.0
        return x.sum()

    found = cr.explain(f, cr.ones(2))
    assert found.kind == "exploding"
    says(found, "stretches the gradient to 10 times")


def test_an_ordinary_gradient_is_called_so_and_equals_the_backward_pass() -> None:
    cr.manual_seed(0)
    model = nn.Sequential([nn.Conv2D(2, 3), nn.ReLU(), nn.MaxPooling2D(2), nn.Flatten(), nn.Dense(3)])
    loss = (model(cr.random.normal((2, 8, 8, 1))) ** 2).mean()
    parameters = list(model.parameters())
    found = cr.explain(loss, *parameters)
    assert [one.kind for one in found] == ["ordinary"] * 4
    loss.backward()
    for one, parameter in zip(found, parameters, strict=True):
        assert np.array_equal(one.gradient, np.asarray(parameter.grad))


def test_a_graph_is_explained_with_the_names_and_lines_of_its_trace() -> None:
    def f(a: Any) -> Any:
        h = cr.relu(a)
        return h.sum()

    found = cr.explain(cr.trace(f, cr.ones(3)), cr.tensor([-1.0, 1.0, 2.0]))
    says(found, "gradient of a,", "h = relu", "h = cr.relu(a)")


def test_values_inside_a_function_may_be_asked_for_by_name() -> None:
    found = cr.explain(dead_relu, *inputs_of_dead_relu(), of=["s", "h"])
    assert [one.path[-1].name for one in found] == ["s", "h"]
    with pytest.raises(ArgumentError, match="no tensor 'v'"):
        cr.explain(dead_relu, *inputs_of_dead_relu(), of="v")


def test_a_notebook_shows_tables_with_every_text_escaped() -> None:
    html = cr.explain(where_with_a_nan_branch, cr.tensor([1.0, -1.0]))._repr_html_()
    assert "<table>" in html
    assert "x &gt; 0.0" in html
    assert html.count("<tr>") == html.count("</tr>") == 5


def test_wrong_arguments_are_refused_in_words() -> None:
    x = cr.tensor([1.0], requires_grad=True)
    with pytest.raises(ArgumentError, match="no tensor is given"):
        cr.explain(x.sum())
    with pytest.raises(ArgumentError, match="of= is for functions"):
        cr.explain(x.sum(), x, of="x")
    with pytest.raises(ArgumentError, match="returns a tuple"):
        cr.explain(lambda x: (x, x), x)
    with pytest.raises(ArgumentError, match="not a str"):
        cr.explain("loss", x)  # type: ignore[arg-type] - that is the point
