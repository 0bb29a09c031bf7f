"""Settings of the whole suite: how Hypothesis draws; and no test may leave another interpreter in force."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from chainrule.core.interp import EVERYDAY, current

# Tests exchange functions of the library: what a graph becomes is told by more than its files.
os.environ.setdefault("CHAINRULE_CACHE_STEPS", "0")

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """``CHAINRULE_TEST_EXAMPLES``: the most that Hypothesis draws for a test, whatever the test says, where a machine is slow."""
    most = int(os.environ.get("CHAINRULE_TEST_EXAMPLES", "0"))
    tests: list[Any] = [getattr(item, "obj", None) for item in items] if most else []
    for test in tests:
        own = getattr(test, "_hypothesis_internal_use_settings", None)
        if own is not None and own.max_examples > most:
            test._hypothesis_internal_use_settings = settings(own, max_examples=most)


@pytest.fixture(autouse=True)
def everyday() -> Iterator[None]:
    """Whatever a test does, afterwards the interpreter is the everyday one."""
    yield
    assert current() is EVERYDAY
