"""Loop nests of gates: what every target that prints or runs them can rely on."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.errors import LinAlgError
from chainrule.core.nest import affine, merged, numbered, offset, strides
from chainrule.core.primitive import TABLE

LOOPING = sorted(name for name, gate in TABLE.items() if gate.loops is not None)


@pytest.mark.parametrize("name", LOOPING)
def test_a_rule_asks_for_the_builder_the_outputs_the_inputs_and_the_parameters(name: str) -> None:
    gate = TABLE[name]
    assert gate.loops is not None
    kinds = [one.kind for one in inspect.signature(gate.loops).parameters.values()]
    variadic = inspect.Parameter.VAR_POSITIONAL in kinds
    by_place = [kind for kind in kinds if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert variadic == gate.variadic or not variadic
    assert len(by_place) >= (2 if gate.variadic else 2 + len(gate.inputs))


def test_positions_that_lie_at_even_steps_need_no_table() -> None:
    x = numbered((3, 4))
    assert affine(x.T[::-1]) == (3, [-1, 4])
    assert affine(x[[0, 2, 1]]) is None
    assert affine(x[:0]) == (0, [0, 0])


def test_neighbouring_axes_become_one_where_all_operands_lie_in_one_row() -> None:
    assert merged((2, 3, 4), [strides((2, 3, 4))]) == ([24], [[1]])
    assert merged((2, 1, 4), [strides((2, 1, 4)), (0, 0, 1)]) == ([2, 4], [[4, 1], [0, 1]])


def test_a_place_is_its_steps_times_its_indices() -> None:
    assert offset((1, 2, 3), strides((2, 3, 4))) == numbered((2, 3, 4))[1, 2, 3]


@pytest.mark.parametrize(
    ("f", "says"),
    [
        (lambda x: cr.linalg.inv(x), "singular"),
        (lambda x: cr.linalg.solve(x, x), "singular"),
        (lambda x: cr.linalg.cholesky(x), "not positive definite"),
    ],
)
def test_where_the_evaluation_raises_an_error_machine_code_does_too(f: Any, says: str) -> None:
    pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")
    step = cr.compile(lambda x: f(x) * 2.0, backend="native")
    assert np.isfinite(np.asarray(step(cr.tensor(np.eye(3))))).all()
    with pytest.raises(LinAlgError, match=says):
        step(cr.tensor(-np.ones((3, 3))))
