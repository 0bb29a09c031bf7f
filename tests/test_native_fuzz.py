"""Random programs as machine code: they give what they give gate by gate, write nowhere else, and say where if they do.

``CHAINRULE_FUZZ`` is how many are run; by hand, ``python tests/fuzz_native.py --count 20000`` runs many more and makes small what fails.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import chainrule as cr

pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")

from chainrule.compiler.native import backend, emit
from chainrule.compiler.native.conv_shape import Target
from chainrule.compiler.native.engine import host
from chainrule.compiler.native.scalars import Builder
from chainrule.compiler.native.space import Fenced
from chainrule.compiler.pipeline import build
from chainrule.core.aval import Aval
from chainrule.core.errors import TraceError
from chainrule.core.variable import Variable
from fuzz_moves import Step
from fuzz_native import findings, fuzz
from fuzzed import Fuzz

PROGRAMS = int(os.environ.get("CHAINRULE_FUZZ", "1500" if os.environ.get("CI") else "300"))


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that is never needed again is not kept."""
    monkeypatch.setenv("CHAINRULE_CACHE_DIR", "0")


@pytest.fixture
def canaries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAINRULE_NATIVE_DEBUG", "1")


def test_random_programs_are_what_they_are_without_compiling() -> None:
    found = list(fuzz(0, PROGRAMS, together=50, length=5))
    assert sum(number for number, _ in found) == PROGRAMS
    assert not [str(one) for _, several in found for one in several]


@pytest.mark.usefixtures("canaries")
def test_random_programs_read_and_write_their_own_values_alone() -> None:
    assert not [str(one) for _, several in fuzz(1_000_000, PROGRAMS // 4, together=50, length=5) for one in several]


def test_what_fails_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a program of many steps, those are left that matter."""
    lowered = Fuzz(3, 12)
    place = lowered.new(np.linspace(0.1, 1.0, 5))
    lowered.add(Step("tanh", (place,), cr.tanh))
    lowered.add(Step("doubled", (len(lowered.values) - 1,), lambda x: x * 2.0))
    lowered.results = [len(lowered.values) - 1, *lowered.results]
    # A gate that is wrong.
    monkeypatch.setattr(Builder, "tanh", lambda self, x: self.negative(x))
    (found,) = findings([lowered], gradients=False, threads=False)
    steps = [step.name for step in found.program.steps if step]
    assert "tanh" in steps
    assert len(steps) < 3
    assert "differs" in str(found)


@pytest.mark.usefixtures("canaries")
def test_a_step_that_writes_beside_a_value_is_told_with_its_name() -> None:
    def f(hidden: Any) -> Any:
        middle = cr.sum(cr.tanh(hidden), axis=0)
        return middle @ hidden.mT

    x = np.ones((3, 8), np.float32)
    graph = cr.trace(f, x)
    program = emit.emit(graph, Target.of(host()))
    assert program.places
    name = next(iter(program.places)).name
    shifted = program._replace(places={v: place + 64 for v, place in program.places.items()}, arena_bytes=program.arena_bytes + 64)
    np.testing.assert_array_equal(backend.caller(graph, program)(x)[0], np.asarray(f(cr.asarray(x))))
    with pytest.raises(TraceError, match=rf"(?s){name}.*mend: report it"):
        backend.caller(graph, shifted)(x)


def test_memory_is_nan_before_it_is_written_and_its_edges_and_the_inputs_are_watched() -> None:
    single, double = (Variable(Aval((3,), np.dtype(name)), name) for name in ("float32", "float64"))
    space = Fenced()
    memory = space.arena(1024, {single: 256, double: 768})
    assert np.isnan(memory.view(np.float32)).all()
    assert np.isnan(memory.view(np.float64)).all()
    x = space.given(single, np.ones(3, np.float32))
    space.made(single, single.aval)[...] = 1
    memory[256:268] = memory[768:792] = 0
    space.check()
    for place in (255, 268, 767, 792):
        memory[place] ^= 1
        with pytest.raises(TraceError, match="float32" if place < 500 else "float64"):
            space.check()
        memory[place] ^= 1
    x[0] = 2
    with pytest.raises(TraceError, match="float32"):
        space.check()


@pytest.mark.usefixtures("canaries")
def test_debug_mode_gives_the_same_results() -> None:
    def f(x: Any, w: Any) -> Any:
        return x, cr.softmax(x @ w), cr.sum(x), cr.zeros(3)

    x, w = np.random.default_rng(0).normal(size=(2, 40, 40)).astype(np.float32)
    got = build(cr.trace(f, x, w), backend="native").run(x, w)
    for one, other in zip(got, f(cr.asarray(x), cr.asarray(w)), strict=True):
        np.testing.assert_allclose(one, np.asarray(other), rtol=2e-5, atol=1e-6)
