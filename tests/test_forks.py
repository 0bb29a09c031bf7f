"""A process forks while its other threads are at work: the child, which has none of them, waits for nothing."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

from test_native_safety import in_process

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork: run on Unix")
BACKENDS = ["numpy", pytest.param("native", marks=pytest.mark.skipif(not find_spec("llvmlite"), reason="native code: pip install 'chainrule[cpu]'"))]

CHILD = """
    import os, signal, threading, time
    import numpy as np, chainrule as cr
    def child(work):
        # One that waits for ever ends by the alarm.
        number = os.fork()
        if number == 0:
            signal.alarm(30)
            os._exit(0 if work() else 1)
        return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
    def pause():
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            go.wait()
    begun, go, x = threading.Event(), threading.Event(), np.arange(4, dtype=np.float32)
    def meanwhile(work, then):
        other = threading.Thread(target=work)
        other.start()
        begun.wait()
        code = child(then)
        go.set()
        other.join()
        return code
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_child_compiles_for_itself_what_another_thread_was_compiling(backend: str) -> None:
    body = f"""{CHILD}
    @cr.compile(backend={backend!r})
    def twice(x):
        pause()
        return 2.0 * x
    def right():
        return np.array_equal(np.asarray(twice(x)), 2.0 * x)
    print(meanwhile(lambda: twice(x), right), right(), len(twice.stats().compilations), child(right))
    """
    assert in_process(body) == "0 True 1 0"


def test_a_child_builds_layers_though_another_thread_was_building_one() -> None:
    body = f"""{CHILD}
    class Paused(cr.nn.Dense):
        def build(self, *shapes):
            pause()
            super().build(*shapes)
    layer = Paused(3)
    print(meanwhile(lambda: layer(x), lambda: layer(x).shape == cr.nn.Dense(3)(x).shape == (3,)), layer(x).shape)
    """
    assert in_process(body) == "0 (3,)"


def test_a_child_differentiates_though_another_thread_began_to() -> None:
    body = f"""{CHILD}
    from chainrule.core.interp import Tag
    def hold():
        with Tag._lock.here:
            pause()
    print(meanwhile(hold, lambda: np.array_equal(cr.grad(lambda x: cr.sum(x * x))(x), 2.0 * x)))
    """
    assert in_process(body) == "0"


def test_a_fork_waits_until_machine_code_is_written_the_first_time() -> None:
    pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")
    body = f"""{CHILD}
    from chainrule.compiler.native import engine
    real = engine._compile
    def slowly(text, optimize):
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            time.sleep(0.3)
        return real(text, optimize)
    engine._compile, engine.fetch = slowly, lambda key: None
    def right():
        return np.array_equal(np.asarray(cr.compile(lambda x: 2.0 * x, backend="native")(x)), 2.0 * x)
    print(meanwhile(right, right), right())
    """
    assert in_process(body) == "0 True"
