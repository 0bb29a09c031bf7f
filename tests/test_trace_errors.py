"""What cannot be traced, and how that is told: branches and numbers that depend on values, and tensors that leave their trace."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.errors import ArgumentError, GradientError, TraceError

# What cannot be traced


def branch(x: Any) -> Any:
    if cr.sum(x) > 0:
        return x
    return -x


def repeat(x: Any) -> Any:
    while cr.sum(x) < 10:
        x = x * 2.0
    return x


ASKS: dict[str, Callable[[Any], Any]] = {
    "if": branch,
    "while": repeat,
    "conditional expression": lambda x: x if x[0] > 0 else -x,
    "and": lambda x: (x[0] > 0) and (x[1] < 3),
    "or": lambda x: (x[0] > 0) or (x[1] < 3),
    "not": lambda x: not x[0],
    "in": lambda x: 1.0 in x,
    "max": lambda x: max(x[0], 0.0),
    "any": lambda x: any(part > 0 for part in x),
    "sorted": lambda x: sorted(x),
}
READS: dict[str, Callable[[Any], Any]] = {
    "float": lambda x: float(x[0]),
    "int": lambda x: int(x[0]),
    "complex": lambda x: complex(x[0]),
    "item": lambda x: x[0].item(),
    "tolist": lambda x: x.tolist(),
    "math": lambda x: math.sin(x[0]),
    "range": lambda x: range(cr.astype(x[0], cr.int64)),
    "index": lambda x: [1, 2, 3][cr.astype(x[0], cr.int64)],
    "size": lambda x: cr.zeros(cr.astype(x[0], cr.int64)),
    "format": lambda x: f"{x[0]:.3f}",
    "np.asarray": lambda x: np.asarray(x),
    "np.array": lambda x: np.array([x[0], x[1]]),
    "np.where": lambda x: np.where(x > 0, x, 0),
    "np.linalg.norm": lambda x: np.linalg.norm(x),
    "numpy": lambda x: x.numpy(),
    "from_dlpack": lambda x: np.from_dlpack(x),
    "pickle": lambda x: pickle.dumps(x),
}


def test_an_assertion_on_values_is_a_branch() -> None:
    def f(x: Any) -> Any:
        assert x > 0, "the caller's own check"
        return x

    with pytest.raises(TraceError) as caught:
        cr.trace(f, 1.0)
    assert "assert x > 0" in caught.value.where


@pytest.mark.parametrize("way", ASKS)
def test_a_branch_on_values_is_told_with_its_line_and_the_mend(way: str) -> None:
    with pytest.raises(TraceError, match="is asked for while a function is traced, where it is not known") as caught:
        cr.trace(ASKS[way], np.ones(2))
    assert __file__ in caught.value.where
    assert "cr.where or cr.cond" in caught.value.mend


def test_the_line_that_is_quoted_is_that_of_the_branch() -> None:
    for f, line in ((branch, "if cr.sum(x) > 0:"), (repeat, "while cr.sum(x) < 10:")):
        with pytest.raises(TraceError) as caught:
            cr.trace(f, np.ones(2))
        assert caught.value.where == f"{__file__}:{f.__code__.co_firstlineno + 1}: {line}"


@pytest.mark.parametrize("way", READS)
def test_reading_numbers_is_told_with_its_line_and_the_mend(way: str) -> None:
    with pytest.raises(TraceError, match="is asked for while a function is traced, where it is not known") as caught:
        cr.trace(READS[way], np.ones(2, np.float32))
    assert __file__ in caught.value.where
    assert "compute with the tensor itself" in caught.value.mend


def test_what_is_outside_cannot_be_read_either_since_it_may_change() -> None:
    w = cr.tensor(2.0)
    with pytest.raises(TraceError, match="the value of w, float32"):
        cr.trace(lambda x: x * w * float(w), 1.0)


def test_the_name_of_what_was_asked_for_is_told() -> None:
    def f(x: Any) -> Any:
        limit = x * 2.0
        return float(limit)

    with pytest.raises(TraceError, match=r"the value of limit, float64\(\),"):
        cr.trace(f, np.float64(1.0))


@pytest.mark.parametrize(
    "f", [lambda x: cr.nonzero(x), lambda x: x[x > 0], lambda x: cr.unique_values(x), lambda x: cr.repeat(x, cr.astype(x, cr.int64))]
)
def test_shapes_that_depend_on_values_are_told(f: Callable[[Any], Any]) -> None:
    with pytest.raises((ArgumentError, TraceError)) as caught:
        cr.trace(f, np.ones(2))
    assert caught.value.mend
    assert __file__ in caught.value.where


def test_lists_of_tensors_are_to_be_stacked() -> None:
    with pytest.raises(TraceError, match="a list of tensors") as caught:
        cr.trace(lambda x: cr.asarray([x, x]), 1.0)
    assert "cr.stack" in caught.value.mend


def test_printing_a_traced_tensor_shows_its_name_shape_and_dtype(capsys: pytest.CaptureFixture[str]) -> None:
    def f(x: Any) -> Any:
        y = x * 2.0
        print(y, [x], f"{y}")  # noqa: T201, it is what is tested
        return y

    cr.trace(f, np.ones(2, np.float32))
    assert capsys.readouterr().out == "tensor(y: float32(2)) [tensor(x: float32(2))] tensor(y: float32(2))\n"


def test_an_error_of_a_gate_is_the_one_that_eager_code_gives() -> None:
    for f in (lambda x: x @ x, lambda x: cr.reshape(x, (5,)), lambda x: x + np.ones(4), lambda x: cr.sum(x, axis=4), lambda x: cr.bitwise_and(x, x)):
        x = np.ones((2, 3))
        with pytest.raises(cr.errors.ChainruleError) as eager:
            f(cr.asarray(x))
        with pytest.raises(type(eager.value)) as traced:
            cr.trace(f, x)
        assert traced.value.what == eager.value.what
        assert __file__ in traced.value.where


# What a graph cannot carry out


def test_a_backward_pass_that_reaches_an_argument_is_told() -> None:
    x = cr.tensor(2.0, requires_grad=True)
    for f in (lambda x: (x * x).backward(), lambda x: x.grad):
        with pytest.raises(TraceError, match=r"the \.grad of the argument x, float32\(\), is read or filled inside") as caught:
            cr.trace(f, x)
        assert "let the function return the gradient" in caught.value.mend
        assert __file__ in caught.value.where
    assert x.grad is None
    assert cr.trace(lambda x: cr.autograd.grad(x * x, [x])[0], x).run(3.0).item() == 6


def test_a_backward_pass_that_would_go_on_outside_is_told() -> None:
    w = cr.tensor(2.0, requires_grad=True)
    y = w * 3.0
    with pytest.raises(TraceError, match=r"reaches y, float32\(\), which was computed outside"):
        cr.trace(lambda x: (y * x).backward(), 1.0)
    assert w.grad is None


def test_freezing_a_tensor_from_outside_is_told() -> None:
    w = cr.tensor(2.0, requires_grad=True)
    with pytest.raises(TraceError, match="requires_grad of a tensor from outside, float32"):
        cr.trace(lambda x: x * w.requires_grad_(False), 1.0)
    assert w.requires_grad


def test_changing_a_leaf_in_place_is_told_as_in_eager_code() -> None:
    w = cr.tensor(2.0, requires_grad=True)
    with pytest.raises(GradientError, match="a leaf that requires a gradient is changed in place"):
        cr.trace(lambda x: w.assign(x), 1.0)
    with pytest.raises(GradientError, match="a leaf that requires a gradient is changed in place"):
        cr.trace(lambda x: x.assign(1.0), w)


# What leaves a trace


def leak() -> tuple[Any, Any]:
    kept: list[Any] = []

    def f(x: Any) -> Any:
        y = x * 2.0
        kept.extend((x, y))
        return y

    cr.trace(f, np.ones(2))
    return kept[0], kept[1]


USES: dict[str, Callable[[Any, Any], Any]] = {
    "operator": lambda x, y: y + 1.0,
    "reflected": lambda x, y: 1.0 + y,
    "of two": lambda x, y: x * y,
    "comparison": lambda x, y: y == x,
    "comparison with itself": lambda x, y: y != y,
    "comparison with a tensor": lambda x, y: cr.ones(2, dtype="float64") == y,
    "negation": lambda x, y: -y,
    "in place": lambda x, y: y.__iadd__(1.0),
    "function": lambda x, y: cr.exp(y),
    "method": lambda x, y: y.sum(),
    "product": lambda x, y: y @ y,
    "index": lambda x, y: y[0],
    "item assignment": lambda x, y: y.__setitem__(0, 1.0),
    "iteration": lambda x, y: list(y),
    "reshape": lambda x, y: y.reshape(2, 1),
    "where": lambda x, y: cr.where(y > 0, y, 0.0),
    "joining": lambda x, y: cr.concat([y, y]),
    "stacking": lambda x, y: cr.stack([cr.ones(2, dtype="float64"), y]),
    "conversion": lambda x, y: cr.astype(y, cr.float32),
    "new tensor": lambda x, y: cr.tensor(y),
    "list": lambda x, y: cr.asarray([y, y]),
    "detach": lambda x, y: y.detach() * 1.0,
    "copy": lambda x, y: copy.copy(y) * 1.0,
    "deep copy": lambda x, y: copy.deepcopy(y) * 1.0,
    "pickle": lambda x, y: pickle.dumps(y),
    "NumPy": lambda x, y: np.asarray(y),
    "NumPy's operator": lambda x, y: np.ones(2) * y,
    "DLPack": lambda x, y: np.from_dlpack(y),
    "numbers": lambda x, y: y.tolist(),
    "truth": lambda x, y: bool(y[0] > 0),
    "known values": lambda x, y: cr.nonzero(y),
    "gradient": lambda x, y: cr.grad(lambda z: cr.sum(z * y))(np.ones(2)),
    "other trace": lambda x, y: cr.trace(lambda z: z * y, 1.0).run(1.0),
    "run": lambda x, y: cr.trace(lambda z: z * 2.0, np.ones(2)).run(y),
    "assigned": lambda x, y: cr.zeros(2, dtype="float64").assign(y) + 1.0,
}


@pytest.mark.parametrize("use", USES)
def test_what_leaves_a_trace_is_named_at_its_first_use(use: str) -> None:
    x, y = leak()
    assert repr(y) == str(y) == "tensor(y: float64(2))"
    assert y.shape == (2,)
    with pytest.raises(TraceError, match=r"[xy], float64\(2\), was made while a function was traced, and has no value outside") as caught:
        USES[use](x, y)
    assert __file__ in caught.value.where
    assert "return it from the function" in caught.value.mend
