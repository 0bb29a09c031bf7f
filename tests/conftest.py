"""Settings of the whole suite: how Hypothesis draws; and no test may leave another interpreter in force."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from chainrule.core.interp import EVERYDAY, current

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(autouse=True)
def everyday() -> Iterator[None]:
    """Whatever a test does, afterwards the interpreter is the everyday one."""
    yield
    assert current() is EVERYDAY
