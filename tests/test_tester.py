"""The tester is tested: a gate that breaks one promise fails the check of that promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.aval import Aval, broadcast
from chainrule.core.errors import ChainruleError, DtypeError, GradientCheckError, ShapeError
from chainrule.core.primitive import Primitive, Refusal, Sample
from chainrule.ops.gate import batch_elementwise, operands
from chainrule.tape import bind
from gates import (
    CHECKS,
    Gate,
    check_batch,
    check_first_order,
    check_float32,
    check_layouts,
    check_refusals,
    check_samples,
    check_second_order,
    check_shapes,
    check_values,
    check_worlds,
)


def record(**rules: Any) -> Primitive:
    """f(x, y) = x**2 y, elementwise, by hand and in full; ``rules`` replace some of it."""
    right: dict[str, Any] = {
        "name": "planted",
        "inputs": ("x", "y"),
        "aval": lambda x, y: Aval(broadcast(x.shape, y.shape), x.dtype),
        "eval": lambda x, y: x * x * y,
        "vjp": (lambda ct, x, y: ct * 2.0 * x * y, lambda ct, x: ct * x * x),
        "jvp": (lambda t, x, y: cr.multiply(t * 2.0 * x, y), lambda t, x: t * x * x),
        "batch": batch_elementwise,
        "samples": lambda rng: [Sample((rng.normal(size=(2, 3)), rng.normal(size=(3,)))), Sample((rng.normal(size=(3, 2)), rng.normal(size=(3, 1))))],
        "refuses": lambda: [Refusal((np.ones(2), np.ones(3)), ShapeError, "broadcast"), Refusal((np.array(["a"]), 1.0), DtypeError, "numbers")],
    }
    return Primitive(**{**right, **rules})


def planted(**rules: Any) -> Gate:
    primitive = record(**rules)
    return Gate(primitive, lambda x, y: bind(primitive, operands("planted", "real floating", x, y)))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_right_gate_passes(check: Callable[[Gate], None]) -> None:
    check(planted())


def in_place(x: Any, y: Any) -> Any:
    x *= x
    return x * y


def batch_forgets_to_align(primitive: Primitive, batched: Any, inputs: Any, params: Any) -> Any:
    return bind(primitive, inputs, params)


WRONG = {
    "a wrong factor in a vjp": (check_first_order, {"vjp": (lambda ct, x, y: ct * x * y, lambda ct, x: ct * x * x)}),
    "a wrong sign in a jvp": (check_first_order, {"jvp": (lambda t, x, y: cr.multiply(t * 2.0 * x, y), lambda t, x: -t * x * x)}),
    "a jvp that forgets an input": (check_first_order, {"jvp": (lambda t, x, y: cr.multiply(t * 2.0 * x, y), None)}),
    "a vjp that forgets an input": (check_first_order, {"vjp": (lambda ct, x, y: ct * 2.0 * x * y, None)}),
    "the output saved where the rule needs the input": (check_first_order, {"vjp": (lambda ct, x, y: ct * 2.0 * x * y, lambda ct, out: ct * out)}),
    "an error in one element": (check_first_order, {"eval": lambda x, y: x * x * y + (np.arange(x.size).reshape(x.shape) == 3) * x}),
    "a derivative that is cut off in second order": (
        check_second_order,
        {"vjp": (lambda ct, x, y: ct * 2.0 * detached(x) * y, lambda ct, x: ct * x * x)},
    ),
    "a wrong shape rule": (check_shapes, {"aval": lambda x, y: Aval(x.shape[::-1], x.dtype)}),
    "a wrong dtype rule": (check_shapes, {"aval": lambda x, y: Aval(broadcast(x.shape, y.shape), np.dtype("float64"))}),
    "float64 out of float32": (check_float32, {"eval": lambda x, y: np.asarray(x, "float64") * x * y}),
    "a batch rule that does not line axes up": (check_batch, {"batch": batch_forgets_to_align}),
    "a batch rule with the batch axis last": (
        check_batch,
        {"batch": lambda p, b, xs, params: cr.permute_dims(batch_elementwise(p, b, xs, params), (1, 2, 0))},
    ),
    "writing into an input": (check_layouts, {"eval": in_place}),
    "values that depend on strides": (check_layouts, {"eval": lambda x, y: x * x * y if x.flags.c_contiguous else x * x * y + 1.0}),
    "no samples": (check_samples, {"samples": lambda rng: []}),
    "a refusal that does not happen": (check_refusals, {"refuses": lambda: [Refusal((np.ones(2), np.ones(2)), ShapeError, "broadcast")]}),
    "a refusal with other words": (check_refusals, {"refuses": lambda: [Refusal((np.ones(2), np.ones(3)), ShapeError, "parsnip")]}),
    "a refusal by another error": (check_refusals, {"refuses": lambda: [Refusal((np.ones(2), np.ones(3)), DtypeError, "broadcast")]}),
    "rules that differ between the worlds": (
        check_worlds,
        {"vjp": (lambda ct, x, y: ct * 2.0 * x * y * (1.0 if isinstance(x, cr.Tensor) else 1.5), lambda ct, x: ct * x * x)},
    ),
}


def detached(x: Any) -> Any:
    return x.detach() if isinstance(x, cr.Tensor) else x


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_gate_fails(wrong: str) -> None:
    check, rules = WRONG[wrong]
    with pytest.raises((AssertionError, ChainruleError, pytest.fail.Exception)):
        check(planted(**rules))


def test_a_value_that_is_not_the_namesakes_is_caught() -> None:
    with pytest.raises(AssertionError, match="Not equal"):
        check_values(planted(name="hypot"))


def test_a_cotangent_of_the_wrong_shape_is_caught() -> None:
    gate = planted(vjp=(lambda ct, x, y: cr.sum(ct * 2.0 * x * y, axis=0), lambda ct, x: ct * x * x))
    with pytest.raises(ShapeError, match="cotangent"):
        check_first_order(gate)


def test_the_report_names_the_input_the_element_and_both_values() -> None:
    gate = planted(vjp=(lambda ct, x, y: ct * 2.0 * x * y, lambda ct, x: 3.0 * ct * x * x))
    with pytest.raises(GradientCheckError, match=r"input 1, element \(\d+,\): rule gives -?[\d.]+, central difference -?[\d.]+"):
        check_first_order(gate)


def test_a_failure_carries_its_sample() -> None:
    with pytest.raises(AssertionError) as caught:
        check_shapes(planted(aval=lambda x, y: Aval((), x.dtype)))
    assert caught.value.__notes__ == ["sample 0: planted(float64(2, 3), float64(3))"]


def test_a_gate_whose_rules_are_missing_is_caught() -> None:
    with pytest.raises(GradientCheckError, match="rule gives 0"):
        check_first_order(planted(vjp=(None, None), jvp=(None, None)))
