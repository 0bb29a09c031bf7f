"""Every gate of the table keeps every promise; the inputs are the record's own samples."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from gates import CHECKS, Gate

from chainrule.core.primitive import TABLE, functions


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("name", sorted(TABLE))
def test_gate(name: str, check: Callable[[Gate], None]) -> None:
    check(Gate(TABLE[name], getattr(functions, name)))
