"""Gates that raise errors, or have better ways in NumPy, as machine code: inside of loops too, with the errors that there are without compiling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.compiler.pipeline import build
from chainrule.core import tree
from chainrule.core.errors import AxisError, LinAlgError

pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")

from chainrule.compiler.native import emit, loops

DRAWN = np.random.default_rng(0)
MATRICES = DRAWN.normal(size=(5, 3, 4, 4)) + 3 * np.eye(4)


def kalman(transition: Any, seen: Any, drift: Any, noise: Any, observed: Any) -> Any:
    """The negative log likelihood, up to a constant, of sequences under a linear model: prediction and update, step by step."""
    batch, n = observed.shape[1], transition.shape[-1]

    def step(state: Any, z: Any) -> Any:
        x, p = state
        x, p = cr.einsum("ij,bj->bi", transition, x), transition @ p @ transition.mT + drift
        spread = seen @ p @ seen.mT + noise
        gain = cr.linalg.solve(spread, seen @ p).mT
        rest = z - cr.einsum("ij,bj->bi", seen, x)
        unlikely = cr.sum(rest * cr.linalg.solve(spread, rest[..., None])[..., 0], axis=-1) + cr.linalg.slogdet(spread)[1]
        return (x + cr.einsum("bij,bj->bi", gain, rest), p - gain @ seen @ p), unlikely

    start = cr.zeros((batch, n), dtype="float64"), cr.eye(n, dtype="float64") * cr.ones((batch, 1, 1), dtype="float64")
    return cr.sum(cr.scan(step, start, observed)[1])


def test_a_kalman_filter_and_its_gradient_call_nothing_back() -> None:
    observed = DRAWN.normal(size=(20, 8, 4))
    given = [np.eye(4) + 0.1 * DRAWN.normal(size=(4, 4)), DRAWN.normal(size=(4, 4)), 0.1 * np.eye(4), 0.2 * np.eye(4), observed]
    f = cr.value_and_grad(kalman, argnums=(0, 1, 2, 3))
    executable = build(cr.trace(f, *given), backend="native")
    assert not executable.stats["called_back"]
    for got, want in zip(executable.run(*given), tree.flatten(f(*map(cr.asarray, given)))[0], strict=True):
        np.testing.assert_allclose(got, np.asarray(want), rtol=1e-9)


BODIES: dict[str, Callable[[Any], Any]] = {
    "solve": lambda x: cr.linalg.solve(x, x.mT),
    "solve a vector": lambda x: cr.linalg.solve(x, x[0, 0]),
    "inv": cr.linalg.inv,
    "det": cr.linalg.det,
    "slogdet": lambda x: cr.linalg.slogdet(x)[1],
    "cholesky": lambda x: cr.linalg.cholesky(x @ x.mT),
    "adjugate": cr.linalg.adjugate,
    "sort": lambda x: cr.sort(x, axis=-2, descending=True),
    "argsort": lambda x: cr.astype(cr.argsort(x, axis=-1), "float64"),
    "top_k": lambda x: cr.top_k(x, 2)[0],
    "isin": lambda x: cr.astype(cr.isin(x, x[0, :, 0]), "float64"),
    "pow": lambda x: x * (cr.astype(cr.abs(x) * 3, "int64") ** cr.astype(cr.abs(x) * 2, "int64")),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inside_of_a_loop_every_gate_is_machine_code(name: str, dtype: str) -> None:
    def loss(xs: Any) -> Any:
        return cr.sum(cr.scan(lambda c, x: (c, cr.astype(cr.sin(BODIES[name](x)), xs.dtype)), 0.0, xs)[1])

    f = cr.value_and_grad(loss) if name != "adjugate" else loss
    xs = MATRICES.astype(dtype)
    executable = build(cr.trace(f, xs), backend="native")
    assert not executable.stats["called_back"]
    for got, want in zip(executable.run(xs), tree.flatten(f(cr.asarray(xs)))[0], strict=True):
        np.testing.assert_allclose(got, np.asarray(want), rtol=1e-9 if dtype == "float64" else 1e-3, atol=1e-9 if dtype == "float64" else 1e-3)


@pytest.mark.parametrize("name", [*BODIES])
@pytest.mark.parametrize("inner", [True, False])
def test_loops_are_what_the_evaluation_is_and_stand_where_they_are_quicker(name: str, inner: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "_MANY", 10**9 if inner else -1)
    executable = build(cr.trace(BODIES[name], MATRICES[0]), backend="native")
    # Powers of whole numbers have no better way.
    assert bool(executable.stats["called_back"]) == (not inner and name != "pow")
    np.testing.assert_allclose(executable.run(MATRICES[0])[0], np.asarray(BODIES[name](cr.asarray(MATRICES[0]))), rtol=1e-9, atol=1e-12)


def test_large_matrices_are_called_back() -> None:
    executable = build(cr.trace(cr.linalg.inv, np.eye(200)), backend="native")
    assert executable.stats["called_back"] == {"inv": 1}


REFUSED: dict[str, tuple[Callable[[Any], Any], np.ndarray, str]] = {
    "solve": (lambda x: cr.linalg.solve(x, x), np.ones((2, 2)), r"solve\(.*singular"),
    "inv": (cr.linalg.inv, np.ones((2, 2)), r"inv\(.*singular"),
    "cholesky": (cr.linalg.cholesky, -np.eye(2), r"cholesky\(.*not positive definite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_error_inside_of_a_loop_is_told_by_the_gate(name: str) -> None:
    f, bad, says = REFUSED[name]
    step = cr.compile(lambda xs: cr.scan(lambda c, x: (c + f(x), c), cr.zeros((2, 2), dtype="float64"), xs)[0], backend="native")
    xs = np.stack([np.eye(2)] * 4)
    np.testing.assert_allclose(np.asarray(step(xs)), 4 * np.asarray(f(cr.asarray(np.eye(2)))))
    assert not step.stats().compilations[0]["called_back"]
    xs[2] = bad
    with pytest.raises(LinAlgError, match=says):
        step(xs)
    xs[2] = np.eye(2)
    assert np.isfinite(np.asarray(step(xs))).all()


def test_an_error_where_a_gradient_is_wanted_is_told_by_the_gate() -> None:
    x = cr.tensor(np.eye(3), requires_grad=True)
    step = cr.compile(lambda x: cr.sum(cr.linalg.inv(x)), backend="native")
    step(x).backward()
    np.testing.assert_allclose(np.asarray(x.grad), -np.ones((3, 3)))
    with pytest.raises(LinAlgError, match=r"inv\("):
        step(cr.tensor(np.ones((3, 3)), requires_grad=True))


def test_a_branch_that_is_not_taken_raises_nothing() -> None:
    f = cr.compile(lambda x: cr.cond(cr.sum(x) > 100, cr.linalg.inv, lambda x: x, x), backend="native")
    np.testing.assert_array_equal(np.asarray(f(np.ones((2, 2)))), np.ones((2, 2)))


@pytest.mark.parametrize("small", [-1, 10**9])
def test_a_loop_that_fails_ends(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a gate has refused, a condition that NaN never meets is asked no more."""
    monkeypatch.setattr(emit, "SMALL", small)

    def step(state: Any) -> Any:
        x, count = state
        return cr.linalg.inv(x) * 0.0 + cr.sum(x), count + 1

    f = cr.compile(lambda x: cr.while_loop(lambda s: ~(cr.max(s[0]) < -1.0) & (s[1] < 10**9), step, (x, cr.asarray(0))), backend="native")
    with pytest.raises(LinAlgError, match=r"inv\("):
        f(np.stack([np.eye(40)] * 2))
    assert not f.stats().compilations[0]["called_back"]


def test_whole_numbers_have_no_negative_powers() -> None:
    step = cr.compile(lambda x, y: x**y + 1, backend="native")
    x = np.arange(-3, 4, dtype=np.int8)
    for y in (np.arange(7, dtype=np.int8), np.int8(3), np.zeros(7, np.int8)):
        got = step(x, y)
        assert got.dtype == np.int8
        np.testing.assert_array_equal(np.asarray(got), x**y + 1)
    assert not step.stats().compilations[0]["called_back"]
    with pytest.raises(ValueError, match="negative"):
        step(x, np.arange(7, dtype=np.int8) - 1)


def test_a_position_out_of_range_inside_of_a_loop_is_told_by_the_gate() -> None:
    step = cr.compile(lambda x, at: cr.scan(lambda c, i: (c + cr.take(x, i), c), x[0], at)[0], backend="native")
    x, at = np.arange(4.0), np.array([0, 3, 1])
    assert float(step(x, at)) == 4.0
    with pytest.raises(AxisError, match="index 4 is out of range"):
        step(x, at + 1)


@pytest.mark.parametrize("gate", [cr.linalg.inv, cr.linalg.det, cr.linalg.cholesky])
def test_compiling_says_nothing_that_nobody_asked_for(gate: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAINRULE_CACHE_DIR", "0")
    # LLVM warns of loops that are to be unrolled and begin where it cannot tell.
    cr.compile(gate, backend="native")(3 * np.eye(3))
    assert capfd.readouterr() == ("", "")
