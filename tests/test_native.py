"""Machine code: every gate and its gradient, beside what runs gate by gate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chainrule.compiler.pipeline import build
from chainrule.core.primitive import TABLE
from listings import close, expected_of, samples

pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")

FLOW = {"barrier"}
GATES = sorted(set(TABLE) - FLOW)
IN_PYTHON = {"eigh", "eigvalsh", "pinv", "qr", "svd", "svdvals"}
"""Gates without loops."""


@pytest.mark.parametrize("gate", GATES)
def test_every_gate_and_its_gradient_are_what_they_are_without_compiling(gate: str) -> None:
    called_back = set[str]()
    for drawn in [*samples(gate), *samples(gate, "float32")[:2]]:
        executable = build(drawn.listing.graph, backend="native")
        with drawn.case:
            expected = expected_of(drawn.listing, drawn.values)
            got = executable.run(*drawn.values)
            for out, want in zip(got, expected, strict=True):
                assert (np.shape(out), np.asarray(out).dtype) == (want.shape, want.dtype)
            close([np.asarray(out) for out in got], expected)
            called_back |= executable.stats["called_back"].keys()
    assert called_back <= IN_PYTHON
    assert gate in called_back or gate not in IN_PYTHON


@pytest.mark.parametrize("gate", sorted(IN_PYTHON))
def test_the_page_on_machine_code_names_what_runs_in_python(gate: str) -> None:
    assert f"`{gate}`" in (Path(__file__).parents[1] / "docs" / "native.md").read_text()
